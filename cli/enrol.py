"""fdserver token, revoke and enrolled: who may join this host's pool."""

import argparse
import re
import sys
import time
from collections.abc import Sequence

from fdcore_cli import options

ROLES = ("viewer", "user", "node", "admin")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COMMANDS = ("token", "revoke", "enrolled")


def main(words: Sequence[str]) -> int:
    command, rest = words[0], words[1:]
    given = PARSERS[command]().parse_args(rest)
    work = {"token": token, "revoke": revoke, "enrolled": enrolled}[command]

    def done() -> int:
        from fdcore.security import files

        files.act_for_service()
        return work(given)

    return options.reported(f"fdserver {command}", done)


def token_parser() -> options.Parser:
    made = options.Parser(
        prog="fdserver token",
        description="Prints a token with which somebody joins this pool: "
        "flexdirect init TOKEN. The first one founds the pool.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--role", choices=ROLES, default="user",
        help="viewer sees, user runs programs, node is another server, admin manages",
    )  # fmt: skip
    made.add_argument(
        "--ttl", type=duration, default=3600, metavar="TIME",
        help="how long it can be used, as 30m or 2h30m (1h)",
    )  # fmt: skip
    made.add_argument("--uses", type=uses, default=1, metavar="N", help="how often (1)")
    made.add_argument(
        "--name", default="", metavar="NAME",
        help="whom it is for; otherwise who joins says user@host",
    )  # fmt: skip
    made.add_argument(
        "--address", action="append", default=[], metavar="HOST[:PORT]",
        help="where this server is reached; can be given several times",
    )  # fmt: skip
    return made


def revoke_parser() -> options.Parser:
    made = options.Parser(
        prog="fdserver revoke",
        description="Takes back what was given to a name, or one certificate.",
        allow_abbrev=False,
    )
    made.add_argument("who", metavar="NAME|SERIAL")
    return made


def list_parser() -> options.Parser:
    return options.Parser(
        prog="fdserver enrolled",
        description="Lists the certificates that this pool has given out.",
        allow_abbrev=False,
    )


PARSERS = {"token": token_parser, "revoke": revoke_parser, "enrolled": list_parser}


def duration(text: str) -> int:
    if not re.fullmatch(r"(\d{1,9}[smhd]?)+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 30m or 2h30m")
    found = re.findall(r"(\d+)([smhd]?)", text)
    seconds = sum(int(number) * UNITS[unit or "s"] for number, unit in found)
    if not 1 <= seconds <= 365 * 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 1s and 365d")
    return seconds


def uses(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 10000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 10000")
    return int(text)


def token(given: argparse.Namespace) -> int:
    from fdcore.config import parse_address
    from fdcore.errors import ConfigError
    from fdcore.security import authority, files

    if given.name and not authority.NAME.fullmatch(given.name):
        raise ConfigError("a name has letters, digits and . _ @ - only")
    addresses = [str(parse_address(text)) for text in given.address]
    folder = files.pool_folder()
    fresh = not (folder / files.ABOUT).exists()
    pool = authority.found(folder)
    if fresh:
        print(f"Founded pool {pool.pool}: {folder}", file=sys.stderr)
    print(pool.invite(given.role, given.ttl, given.uses, given.name, addresses))
    return 0


def revoke(given: argparse.Namespace) -> int:
    from fdcore.security import authority, files

    for row in authority.Authority(files.pool_folder()).revoke(given.who):
        print(f"Revoked {row['role']} {row['name']}, serial {row['serial']}")
    return 0


def enrolled(given: argparse.Namespace) -> int:
    from fdcore.security import authority, files

    now = time.time()
    for row in authority.Authority(files.pool_folder()).issued():
        state = "valid"
        if row.get("revoked"):
            state = "revoked"
        elif row["expires"] < now:
            state = "expired"
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["expires"]))
        print(f"{row['name']}  {row['role']}  {state}  until {until}  {row['serial']}")
    return 0
