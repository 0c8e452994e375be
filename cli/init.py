"""flexdirect init: accept the terms and join a pool with a token."""

import sys
from collections.abc import Sequence

from fdcore_cli import options

TERMS = """\
fdcore is free software under the Apache License, version 2.0, and comes without any
warranty. There is no licence to buy and none to renew; this host talks to the servers
of your own pool and to nobody else.

By joining you let the pool's servers know your user name and this host's name. Programs
that you run through the pool send their code and data to its servers.
"""


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}",
        description="Joins this host to a pool. The token comes from 'fdserver token' "
        "on the pool's founding server.",
        allow_abbrev=False,
    )
    made.add_argument("token", nargs="?", default="", metavar="TOKEN")
    made.add_argument(
        "--accept-terms", action="store_true", help="for scripts: do not ask"
    )
    made.add_argument("--name", default="", metavar="NAME", help="instead of user@host")
    return made


def main(command: str, words: Sequence[str]) -> int:
    given = parser(command).parse_args(words)
    try:
        return init(given.token, given.accept_terms, given.name)
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        options.say_error("flexdirect init", "not joined")
        return 125


def init(text: str, accepted: bool, name: str) -> int:
    from fdcore.errors import FdcoreError
    from fdcore.security import files, join, tokens
    from fdcore.security.roles import NODE

    print(TERMS)
    if not accepted:
        if not sys.stdin.isatty():
            options.say_error(
                "flexdirect init", "nobody is there to accept the terms: --accept-terms"
            )
            return 125
        answer = input("Do you accept these terms? [y/N] ").strip().lower()
        if answer not in ("y", "yes"):
            options.say_error("flexdirect init", "the terms were not accepted")
            return 125
    if not text:
        if not sys.stdin.isatty():
            options.say_error("flexdirect init", "a token is needed")
            return 125
        text = input("Enter the key (a token of 'fdserver token'): ")
    try:
        token = tokens.parse(text)
        print(f"Key read. Attempting to join pool {token.pool} ...", flush=True)
        if token.role == NODE:
            files.act_for_service()
        who = join.join(token, name)
    except (FdcoreError, OSError) as error:
        options.say_error("flexdirect init", error)
        return 125
    print(f"Joined as {who.role} {who.name}. The key is ready.")
    print("FlexDirect is enrolled and ready for use.")
    if who.role == NODE:
        print("fdserver --listen 0.0.0.0 serves this host's GPUs to the pool.")
    return 0
