"""flexdirect: the commands that FlexDirect's users know."""

import sys
from collections.abc import Sequence

from fdcore import __version__

HELP = """\
usage: flexdirect COMMAND ...

  run      [-n N] [-m MIB | -p FRACTION] [-l HOST:PORT,...] [--] PROGRAM ARGS...
           run a program with GPUs of the pool
  local    [-n N] [-m MIB | -p FRACTION] [--] PROGRAM ARGS...
           the same with this machine's own GPUs, or with the CPU device where it has
           none: no server and no configuration needed
  version  say which version this is

flexdirect COMMAND --help says more.
"""


def run(command: str, words: Sequence[str]) -> int:
    # What only says something need not wait for this.
    from fdcore_cli import options

    made = options.Parser(
        prog=f"flexdirect {command}",
        usage="%(prog)s [-n N] [-m MIB | -p FRACTION] [--] PROGRAM ARGS...",
        allow_abbrev=False,
    )
    options.add_slice(made)
    if command == "run":
        made.add_argument(
            "-l", "--server_list", metavar="HOST:PORT,...",
            help="ask these servers, in this order, instead of those configured",
        )  # fmt: skip
    else:
        made.add_argument(
            "--cpu-devices", type=options.cpu_devices, metavar="N",
            help="use the CPU device, with this many GPUs",
        )  # fmt: skip
        made.add_argument("--driver", metavar="PATH", help="the driver library to use")
    made.add_argument("-q", "--quiet", action="store_true", help="only the program")
    own, program = options.split_program(made, words)
    given = made.parse_args(own)
    if not program:
        made.error("no program given")
    who = f"flexdirect {command}"
    return options.launch(who, given, program, not given.quiet, command)


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = words[0] if words else "help"
    if command in ("version", "--version"):
        print(f"flexdirect {__version__}")
        return 0
    if command in ("help", "-h", "--help"):
        print(HELP, end="")
        return 0
    if command in ("run", "local"):
        return run(command, words[1:])
    print(f"flexdirect: no command '{command}' (see flexdirect help)", file=sys.stderr)
    return 125


if __name__ == "__main__":
    sys.exit(main())
