"""fdrun: runs a program with GPUs of the pool."""

import sys
from collections.abc import Sequence

from fdcore_cli import options, run


def parser() -> options.Parser:
    made = run.parser("run", "fdrun")
    made.add_argument(
        "--direct", action="store_true",
        help="no server: put the CPU device in front of the program",
    )  # fmt: skip
    made.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    made.add_argument("-q", "--quiet", action="store_true", help="do not (as it is)")
    options.add_version(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    reader = parser()
    own, program = options.split_program(reader, words)
    given = reader.parse_args(own)
    if not program:
        reader.error("no program given")
    mode = "direct" if given.direct else "run"
    return run.launch("fdrun", given, program, mode, not given.verbose)


if __name__ == "__main__":
    sys.exit(main())
