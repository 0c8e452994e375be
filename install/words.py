"""What manual pages and completion need of the commands, read off their parsers."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

from fdcore_cli import flexdirect, parsers

# Commands whose line goes on with somebody else's program.
PROGRAMS = ("fdrun", "flexdirect run", "flexdirect local", "flexdirect client")
FILES = {"FILE": "@file", "PATH": "@file", "DIR": "@folder"}


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    help: str
    # "": it takes no value; @file, @folder, @any, or the values with spaces between.
    value: str = ""
    metavar: str = ""
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class Command:
    """One command line's beginning, as 'flexdirect admin quota'."""

    path: str
    what: str  # in a few words
    parser: argparse.ArgumentParser | None = None
    options: tuple[Option, ...] = ()
    # Words that may follow: commands, or the values of an argument.
    words: tuple[str, ...] = ()
    program: bool = field(default=False)


def options_of(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        help_text = " ".join((action.help or "").split()).replace("%%", "%")
        if isinstance(action, argparse._HelpAction):
            help_text = "say what there is"
        if isinstance(action, argparse._VersionAction):
            help_text = "say which version this is"
        value = ""
        if action.nargs != 0:
            value = FILES.get(str(action.metavar), "@any")
            if action.choices:
                value = " ".join(str(choice) for choice in action.choices)
        yield Option(
            tuple(action.option_strings),
            help_text,
            value,
            str(action.metavar or action.dest.upper()) if value else "",
            action.nargs == "?",
            isinstance(action, argparse._AppendAction),
        )


def below(
    path: str, what: str, parser: argparse.ArgumentParser | None
) -> Iterator[Command]:
    """The command, and those that its parser has in turn."""
    if parser is None:
        yield Command(path, what)
        return
    words: list[str] = []
    inner: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            said = {each.dest: each.help or "" for each in action._choices_actions}
            for name, each in action.choices.items():
                inner += below(f"{path} {name}", said.get(name, ""), each)
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    yield Command(
        path, what, parser, tuple(options_of(parser)), tuple(words), path in PROGRAMS
    )
    yield from inner


def commands() -> list[Command]:
    """All of fdrun, fdserver and flexdirect."""
    made = list(
        below("fdrun", "run a program with GPUs of the pool", parsers.of_fdrun())
    )
    server = parsers.of_fdserver()
    about = {name: first_words(each) for name, each in server.items()}
    top = next(below("fdserver", "serve this machine's GPUs to the pool", server[""]))
    inside = tuple(name for name in server if name)
    made.append(Command(top.path, top.what, top.parser, top.options, inside))
    for name, each in server.items():
        if name:
            made += below(f"fdserver {name}", about[name], each)
    names = tuple(flexdirect.COMMANDS)
    made.append(Command("flexdirect", "GPUs of the pool for programs", words=names))
    for name, each in parsers.of_flexdirect().items():
        what = flexdirect.COMMANDS[name][1]
        if name == "help":
            made.append(Command("flexdirect help", what, words=names))
        else:
            made += below(f"flexdirect {name}", what, each)
    return made


def first_words(parser: argparse.ArgumentParser | None) -> str:
    text = (parser.description or "") if parser else ""
    return text.split(". ")[0].rstrip(".").lower()
