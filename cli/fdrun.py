"""fdrun: runs a program with GPUs of the pool."""

import sys
from collections.abc import Sequence

from fdcore_cli import options

USAGE = "fdrun [-n N] [-m MIB | -p FRACTION] [-l HOST:PORT,...] [--] PROGRAM ARGS..."
END = """\
The exit status is the program's; 125: fdrun itself failed, 126: the program cannot be
executed, 127: it was not found. FD_TRANSPORT=shm|tcp chooses how calls travel.
"""


def parser() -> options.Parser:
    made = options.Parser(
        prog="fdrun",
        usage=USAGE,
        description="Runs a CUDA program on GPUs of the pool, as if they were here.",
        epilog=END,
        allow_abbrev=False,
    )
    options.add_slice(made)
    made.add_argument(
        "-l", "--server_list", metavar="HOST:PORT,...",
        help="ask these servers, in this order, instead of those configured",
    )  # fmt: skip
    made.add_argument(
        "--direct", action="store_true",
        help="no server: put the CPU device in front of the program",
    )  # fmt: skip
    made.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    options.add_version(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    reader = parser()
    own, program = options.split_program(reader, words)
    given = reader.parse_args(own)
    if not program:
        reader.error("no program given")
    return options.launch("fdrun", given, program, given.verbose, mode(given))


def mode(given: object) -> str:
    return "direct" if getattr(given, "direct", False) else "run"


if __name__ == "__main__":
    sys.exit(main())
