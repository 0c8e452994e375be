"""fdserver web: the manager. flexdirect web: a code to log in there with."""

import argparse
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdcore_cli import options

PORT = 54000


def server_parser() -> options.Parser:
    made = options.Parser(
        prog="fdserver web",
        description="Shows the pool in a browser: servers, GPUs, who has them, "
        "history, health, logs; and has a page of metrics for Prometheus.",
        epilog="Who runs it, and root, are let in from this machine; others with a "
        "code that 'flexdirect web' prints.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--listen", default=f"127.0.0.1:{PORT}", metavar="HOST:PORT",
        help=f"where browsers come to (127.0.0.1:{PORT})",
    )  # fmt: skip
    made.add_argument(
        "--state", type=Path, metavar="DIR",
        help="the state folder of this machine's fdserver; history is in DIR/web",
    )  # fmt: skip
    made.add_argument(
        "--name", action="append", default=[], metavar="HOST",
        help="another name by which browsers know this host; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--certificate", type=Path, metavar="FILE",
        help="what browsers are shown, with what it hangs on (the pool's, beyond "
        "loopback)",
    )  # fmt: skip
    made.add_argument("--key", type=Path, metavar="FILE", help="its key")
    made.add_argument(
        "--trusted-network", action="store_true",
        help="listen beyond loopback without TLS",
    )  # fmt: skip
    made.add_argument(
        "--open-metrics", action="store_true",
        help="let anybody who gets here read /metrics (from this machine only)",
    )  # fmt: skip
    options.add_which(made)
    made.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    return made


def serve(words: Sequence[str]) -> int:
    given = server_parser().parse_args(words)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return options.reported("fdserver web", lambda: run(given))


def run(given: argparse.Namespace) -> int:
    from fdcore.config import (
        CONTROL_SOCKET,
        Address,
        parse_address,
        state_folder,
        store_folder,
    )
    from fdcore.settings import load
    from fdcore.web import app

    settings = load()
    named = given.state or settings.get("server.state")
    socket = (named or state_folder()).absolute() / CONTROL_SOCKET

    def servers() -> Any:
        return options.addresses_of(given, load())

    app.serve(
        app.Options(
            listen=parse_address(given.listen, PORT),
            state=(named or store_folder()).absolute() / "web",
            servers=servers,
            own=Address(path=str(socket)) if socket.exists() else None,
            names=tuple(given.name),
            certificate=given.certificate,
            key=given.key,
            trusted_network=given.trusted_network,
            open_metrics=given.open_metrics,
            ready_fd=given.ready_fd,
        )
    )
    return 0


# ---- flexdirect web ----


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}",
        description="Prints a code with which a browser logs in at the manager of any "
        "server (fdserver web), as you. It is good once, for five minutes.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--role", choices=("viewer", "user", "admin"), metavar="ROLE",
        help="be no more than viewer, user or admin there (what you are)",
    )  # fmt: skip
    options.add_which(made)
    return made


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    given = made.parse_args(words)
    return options.reported(made.prog, lambda: code(made.prog, given))


def code(who: str, given: argparse.Namespace) -> int:
    """The same code is left at every server, each of which knows us by itself."""
    from fdcore.config import Address, protocol_hash
    from fdcore.errors import FdcoreError
    from fdcore.reserve import joined
    from fdcore.rpc import watching
    from fdcore.security.identity import identity_for
    from fdcore.settings import load
    from fdcore.web.logins import code_text

    secret, protocol = secrets.token_bytes(32), protocol_hash()
    settings, places, failures = load(), [], []
    for address in options.addresses_of(given, settings):
        try:
            seconds = settings.get("connect_timeout")
            role = given.role or watching.ourselves(address, protocol, seconds).role
            watching.lend(address, protocol, secret, role)
            places.append(address)
        except FdcoreError as error:
            failures.append(error)
    if not places:
        raise joined(failures)
    for failure in failures:
        options.say_error(who, failure)
    text = code_text(secret)
    print(text)
    if sys.stderr.isatty():
        host = next((one.host for one in places if one.host), "127.0.0.1")
        there = Address(host, PORT)
        # A manager speaks TLS where its server does.
        scheme = "http" if identity_for(there) is None else "https"
        print(f"as at {scheme}://{there}/login#{text}", file=sys.stderr)
    return 0
