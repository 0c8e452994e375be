"""stats: what running programs do, and what they wait for."""

from collections.abc import Sequence

from fdcore_cli import options


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}",
        description="What your running programs send, and what they wait for most.",
        epilog="FD_STATS=1 in a program's environment says more when it has ended.",
        allow_abbrev=False,
    )
    options.add_which(made)
    options.add_format(made)
    return made


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    given = made.parse_args(words)

    def work() -> int:
        from fdcore import stats
        from fdcore.settings import load

        print(stats.report(options.addresses_of(given, load()), given.format), end="")
        return 0

    return options.reported(made.prog, work)
