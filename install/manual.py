"""Manual pages, made from the parsers and the settings: python -m install.manual DIR"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fdcore import __version__
from fdcore.settings import KNOWN
from install.words import Command, Option, commands

SEE = {
    "fdrun.1": "flexdirect(1), flexdirect.toml(5), servers.conf(5), fdserver(8)",
    "flexdirect.1": "fdrun(1), flexdirect.toml(5), servers.conf(5), fdserver(8)",
    "fdserver.8": "flexdirect(1), flexdirect.toml(5)",
    "flexdirect.toml.5": "servers.conf(5), flexdirect(1), fdserver(8)",
    "servers.conf.5": "flexdirect.toml(5), flexdirect(1)",
}
ENVIRONMENT = """\
Every setting of flexdirect.toml(5) has a variable, which goes before the files. Others:"""
VARIABLES = {
    "FD_LOG": "off, error, warn, info or debug: what the library in front of a program and "
    "fdserver say; warn:FILE writes the library's lines to a file.",
    "FD_IDENTITY": "where 'flexdirect init' keeps a user's certificate.",
    "FD_POOL": "where a server keeps what makes it one of a pool.",
    "FD_TLS": "auto, always or never: TLS on control connections; auto: beyond this "
    "machine, for who has joined a pool.",
    "FD_SYNC": "1: every call waits for its result, so that an error comes from the call "
    "that made it.",
    "FD_STATS": "1 or json: what the program's calls cost, on standard error at its end.",
}
STATUS = {
    "fdrun.1": "The program's. 125: fdrun itself failed, and says why in one line; 126: the "
    "program cannot be executed; 127: it was not found.",
    "flexdirect.1": "Of run, local and client the program's, or 125, 126 and 127 as of "
    "fdrun(1). Of the others 0, or 125 with one line that says why; health and localhealth "
    "give 1 where a check failed.",
    "fdserver.8": "0 after SIGTERM; 125 where it could not start, with one line that says "
    "why; 130 after Ctrl-C.",
}
SIGNALS = """\
SIGTERM and SIGINT end it, and what runs on its GPUs. After SIGUSR2 it ends as if it had
crashed: programs go on, and the next fdserver of the same state folder takes them over. As
a service of systemd it does that by itself upon SIGHUP ('systemctl reload fdserver'),
with what is installed and configured by then."""
SERVERS = """\
One server a line, asked in this order; '#' begins a comment. The port is 56001 unless it
is said. IPv6 addresses stand in brackets, and unix:PATH is a server's socket.
.PP
.RS
.nf
### V100
10.0.0.1:56001
gpu2
[fe80::7]:56001
.fi
.RE
.PP
vSphere Bitfusion's form is read as well, and recognised by its 'servers:'. A server of
several addresses is one server; the next address is tried where nobody answers at the
first.
.PP
.RS
.nf
servers:
- reachable: 10.0.0.5:56001
  addresses:
  - 10.0.0.5:56001
  - 192.168.7.5:56001
.fi
.RE
.PP
It is looked for in ~/.config/flexdirect, ~/.bitfusion, /etc/bitfusionio and
/etc/bitfusion, in this order, beside flexdirect.toml(5), which wins where it names
servers. It is never written."""
TOML = """\
Looked for in ~/.config/flexdirect, ~/.bitfusion, /etc/bitfusionio and /etc/bitfusion, in
this order. A value is taken from the command line, else from the variable, else from the
first of these files that gives it. A line is NAME = VALUE, text stands in quotes; names
with 'server.' before them are fdserver's and stand below a line [server], without it."""


def safe(text: str) -> str:
    """As roff takes it: nothing of it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\n".join(
        "\\&" + line if line.startswith(".") else line for line in text.split("\n")
    )


def head(page: str, title: str) -> Iterator[str]:
    name, _, section = page.rpartition(".")
    yield f'.TH "{name.upper()}" {section} "" "fdcore {__version__}" "fdcore"'
    yield ".nh"
    yield ".SH NAME"
    yield f"{safe(name)} \\- {safe(title)}"


def option(each: Option) -> Iterator[str]:
    yield ".TP"
    value = each.value if each.value[:1] not in ("", "@") else ""
    shown = safe("|".join(value.split()) or each.metavar)
    names = []
    for name in each.names:
        text = f"\\fB{safe(name)}\\fR"
        if each.value and each.optional:
            text += f"[=\\fI{shown}\\fR]"
        elif each.value:
            text += f" \\fI{shown}\\fR"
        names.append(text)
    yield ", ".join(names)
    yield safe(each.help) + (". Can be given several times." if each.repeated else "")


def usage(command: Command) -> str:
    """The parser's own, on one line and without the word usage."""
    if command.parser is None:
        return command.path + (" COMMAND ..." if command.words else "")
    return " ".join(command.parser.format_usage().removeprefix("usage: ").split())


def body(command: Command) -> Iterator[str]:
    yield ".PP"
    yield f"\\fB{safe(usage(command))}\\fR"
    if command.parser is None:
        return
    for text in (command.parser.description, command.parser.epilog):
        if text:
            yield ".PP"
            yield safe(" ".join((text % {"prog": command.path}).split()))
    for action in command.parser._actions:
        if not action.option_strings and action.help and not action.choices:
            yield ".TP"
            yield f"\\fI{safe(str(action.metavar or action.dest))}\\fR"
            yield safe(action.help)
    for each in command.options:
        yield from option(each)


def variables() -> Iterator[str]:
    yield ".SH ENVIRONMENT"
    yield safe(ENVIRONMENT)
    for name, what in VARIABLES.items():
        yield from (".TP", f"\\fB{name}\\fR", safe(what))


def ends(page: str) -> Iterator[str]:
    if page in STATUS:
        yield from (".SH EXIT STATUS", safe(STATUS[page]))
    yield from (".SH SEE ALSO", safe(SEE[page]))


def page_of(page: str, every: Iterable[Command]) -> str:
    """One command's page, and what begins with it."""
    name = page.rpartition(".")[0]
    own = [each for each in every if each.path.split()[0] == name]
    top, inner = own[0], own[1:]
    lines = [*head(page, top.what), ".SH SYNOPSIS", safe(usage(top))]
    lines += [".SH DESCRIPTION", *list(body(top))[2:]] if top.parser else []
    if inner:
        lines.append(".SH COMMANDS")
    for each in inner:
        lines += [
            f".SS {safe(each.path.partition(' ')[2])}",
            safe(each.what[:1].upper() + each.what[1:] + "."),
        ]
        lines += body(each)
    if page == "fdserver.8":
        lines += [".SH SIGNALS", safe(SIGNALS)]
    return "\n".join([*lines, *variables(), *ends(page)]) + "\n"


def settings_page() -> str:
    page = "flexdirect.toml.5"
    lines = [
        *head(page, "what fdrun, flexdirect and fdserver do unless told otherwise")
    ]
    lines += [".SH DESCRIPTION", safe(TOML), ".SH SETTINGS"]
    for known in KNOWN.values():
        name = f"\\fB{safe(known.name)}\\fR"
        lines += [
            ".TP",
            name + (f" (\\fB{known.variable}\\fR)" if known.variable else ""),
        ]
        default = known.default
        said = (
            f" (unless it is said: {default})"
            if default not in (None, "", False, 0)
            else ""
        )
        lines.append(safe(f"{known.what}{said}"))
    return "\n".join([*lines, *ends(page)]) + "\n"


def servers_page() -> str:
    page = "servers.conf.5"
    lines = [*head(page, "the servers of the pool"), ".SH DESCRIPTION"]
    lines += [line if line[:1] == "." else safe(line) for line in SERVERS.split("\n")]
    return "\n".join([*lines, *ends(page)]) + "\n"


def pages() -> dict[str, str]:
    every = commands()
    made = {
        page: page_of(page, every) for page in ("fdrun.1", "flexdirect.1", "fdserver.8")
    }
    return made | {
        "flexdirect.toml.5": settings_page(),
        "servers.conf.5": servers_page(),
    }


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
