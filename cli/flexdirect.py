"""flexdirect: the commands that FlexDirect's users know."""

import importlib
import sys
from collections.abc import Sequence

from fdcore import __version__

# Command: the file of cli/ that reads its arguments, and what it does. Only the file of
# the command that is called is loaded.
COMMANDS = {
    "run": ("run", "run a program with GPUs of the pool"),
    "local": ("run", "the same with this machine's own GPUs, or with the CPU device"),
    "list_gpus": ("pool", "the GPUs of all servers, and what is free of them"),
    "request_gpus": ("leases", "reserve GPUs for several programs"),
    "client": ("leases", "run a program on reserved GPUs"),
    "release_gpus": ("leases", "end a reservation"),
    "health": ("pool", "check this machine and every server"),
    "localhealth": ("pool", "check this machine"),
    "smi": ("pool", "what is granted of each server's GPUs, in a table"),
    "stats": ("stats", "what your running programs do, and what they wait for"),
    "netperf": ("pool", "measure calls and copies to each server"),
    "web": ("web", "a code to log in at the manager with (fdserver web)"),
    "init": ("init", "join this host to a pool, with a token of fdserver token"),
    "admin": ("admin", "leases of everybody, their end, and what users may have"),
    "config": ("setup", "what is configured, and where"),
    "env": ("setup", "variables that give a program GPUs without fdrun"),
    "kernel": ("setup", "install a Jupyter kernel that has GPUs"),
    "version": ("", "say which version this is"),
    "help": ("", "say what a command does: help COMMAND"),
}


def overview() -> str:
    lines = [f"  {name:<13} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: flexdirect COMMAND ...",
            "",
            *lines,
            "",
            "flexdirect COMMAND --help says more.",
        ]
    )


def unknown(command: str) -> str:
    import difflib

    near = difflib.get_close_matches(command, COMMANDS, 1)
    meant = f"; was {near[0]} meant?" if near else ""
    return f"no command '{command}'{meant} (see flexdirect help)"


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = words[0] if words else "help"
    if command in ("version", "--version"):
        print(f"flexdirect {__version__}")
        return 0
    if command in ("help", "-h", "--help"):
        if len(words) < 2:
            print(overview())
            return 0
        command, words = words[1], [words[1], "--help"]
    if command not in COMMANDS:
        print(f"flexdirect: {unknown(command)}", file=sys.stderr)
        return 125
    file = COMMANDS[command][0]
    if not file:
        print(overview())
        return 0
    return int(importlib.import_module(f"fdcore_cli.{file}").main(command, words[1:]))


if __name__ == "__main__":
    sys.exit(main())
