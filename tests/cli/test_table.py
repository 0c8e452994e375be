"""docs/commands.md against the parsers, and against what FlexDirect had."""

import re

from fdcore_cli import flexdirect, parsers

from install.words import commands
from tests.support import ROOT

TEXT = (ROOT / "docs" / "commands.md").read_text()
# Of FlexDirect and vSphere Bitfusion, as far as somebody has written it down.
COMMANDS = ["init", "list_gpus", "run", "local", "health", "localhealth", "smi", "request_gpus", "client", "release_gpus", "resource_scheduler", "server", "version", "help", "stats", "netperf", "net_perf", "crashreport", "tls-certs", "user", "token", "register", "upgrade", "uninstall", "license", "dispatcher"]
OPTIONS = ["-n", "--num_gpus", "-p", "-m", "-l", "--server_list", "-s", "--servers", "--filter", "--timeout", "-t", "-f", "-h", "--"]
FILTERS = ["server.addr", "server.hostname", "server.has-rdma", "server.cuda-version", "server.driver-version", "device.id", "device.name", "device.phy-memory"]


def rows():
    """Of the tables: what is named, and what is said of it."""
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) >= 2:
            yield " ".join(re.findall(r"`([^`]*)`", cells[0])), cells[1]


def words(text):
    return set(re.findall(r"(?<![\w-])(?:--?[A-Za-z][\w-]*|--(?=\s|$)|[a-z_-]+)", text))


def named():
    """Each word of the tables, with what is said of it; the first row wins."""
    found = {}
    for text, said in rows():
        for word in words(text):
            found.setdefault(word, said)
    return found


def test_whatever_flexdirect_had_is_in_the_tables():
    found = named()
    assert [each for each in (*COMMANDS, *OPTIONS) if each not in found] == []
    assert [each for each in FILTERS if each not in TEXT] == []


def test_every_command_and_option_of_ours_is_in_the_tables():
    found = named()
    missing = [
        f"{command.path}: {'/'.join(option.names)}"
        for command in commands()
        for option in command.options
        if not set(option.names) & set(found)
    ]
    missing += [name for name in flexdirect.COMMANDS if name not in found]
    assert missing == []


def test_what_the_tables_say_is_there_is_there():
    """And what they say is not, is not."""
    options = {name for command in commands() for each in command.options for name in each.names}
    wrong = []
    for text, said in rows():
        first = text.split()[0]
        there = said in ("yes", "in part", "new", "refused")
        if first.startswith("-") and first != "--" and said in ("yes", "new", "refused", "no"):
            for word in words(text):
                if word.startswith("-") and (word in options) != there:
                    wrong.append(f"{word}: {said}")
        elif said in ("yes", "in part", "no", "new") and not first.startswith("-"):
            for name in {each for each in COMMANDS if each in words(text)}:
                if (name in flexdirect.COMMANDS) != there:
                    wrong.append(f"{name}: {said}")
    assert wrong == []


def test_filters_that_are_listed_are_understood():
    run = parsers.of_flexdirect()["run"]
    for key in FILTERS:
        value = "true" if key.endswith("has-rdma") else "16160" if "memory" in key else "1"
        given = run.parse_args(["--filter", f"{key}={value}"])
        assert len(given.filter) == 1
