"""admin: the leases of everybody, their end, and what users may have at once."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from fdcore_cli import options

COLUMNS = (
    "server", "lease", "user", "host", "pid", "program", "since", "sessions", "gpus",
)  # fmt: skip
QUOTA_COLUMNS = ("server", "user", "gpus", "memory_mib", "priority")


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}",
        description="Looks after the servers. Ending leases and setting quotas is for "
        "administrators: root and fdserver's own user on its machine, and who joined "
        "as admin.",
        allow_abbrev=False,
    )
    what = made.add_subparsers(dest="what", required=True, metavar="WHAT")
    leases = what.add_parser("leases", help="who has what; GPUs as ORDINAL:MIB")
    release = what.add_parser("release", help="end a lease, whoever has it")
    release.add_argument("lease", metavar="LEASE", help="its id, or how that begins")
    quota = what.add_parser("quota", help="what users may have of a server at once")
    quota.add_argument(
        "user", nargs="?", metavar="USER", help="of whom; * is everybody without one"
    )
    quota.add_argument("--gpus", type=limit, metavar="N", help="slices; 0: no limit")
    quota.add_argument(
        "--memory", type=options.checked(memory), metavar="SIZE",
        help="in all, in MiB or as 2G; 0: no limit",
    )  # fmt: skip
    quota.add_argument(
        "--priority", type=options.priority, metavar="N",
        help="the highest they may ask for",
    )  # fmt: skip
    quota.add_argument("--clear", action="store_true", help="remove the user's quota")
    drain = what.add_parser("drain", help="let servers grant nothing new")
    drain.add_argument("--off", action="store_true", help="let them grant again")
    revoke = what.add_parser("revoke", help="take back what a name has joined with")
    revoke.add_argument("who", metavar="NAME|SERIAL", help="as fdserver enrolled says")
    for each in (leases, release, quota, drain, revoke):
        options.add_which(each)
    for each in (leases, quota):
        options.add_format(each)
    return made


def memory(text: str) -> int:
    from fdcore import values

    return 0 if text == "0" else values.memory(text)


def limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of GPUs")
    return int(text)


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    given = made.parse_args(words)
    work = {
        "leases": leases,
        "release": release,
        "quota": quota,
        "drain": drain,
        "revoke": revoke,
    }[given.what]
    return options.reported(made.prog, lambda: work(given))


def each_server(given: argparse.Namespace, work: Callable[[Any, bytes], None]) -> None:
    """Does it with every server, whatever happens with the others."""
    from fdcore.reserve import joined

    failures = failures_of(given, work)
    if failures:
        raise joined(failures)


def failures_of(
    given: argparse.Namespace, work: Callable[[Any, bytes], None]
) -> list[Any]:
    from fdcore.config import protocol_hash
    from fdcore.errors import FdcoreError
    from fdcore.settings import load

    failures = []
    for address in options.addresses_of(given, load()):
        try:
            work(address, protocol_hash())
        except FdcoreError as error:
            failures.append(error)
    return failures


def leases(given: argparse.Namespace) -> int:
    from fdcore import lists
    from fdcore.rpc import client

    rows: list[lists.Row] = []
    each_server(given, lambda at, protocol: rows.extend(client.leases(at, protocol)))
    print(lists.written(rows, COLUMNS, given.format), end="")
    return 0


def release(given: argparse.Namespace) -> int:
    """One lease: whose beginning it is of all servers' is known before any is ended."""
    from fdcore.config import protocol_hash
    from fdcore.errors import ConfigError
    from fdcore.reserve import joined
    from fdcore.rpc import client

    wanted = given.lease.replace("-", "").lower()
    found: dict[str, Any] = {}  # a server may have two names

    def work(address: Any, protocol: bytes) -> None:
        for row in client.leases(address, protocol):
            lease = str(row["lease"])
            if wanted and lease.replace("-", "").startswith(wanted):
                found[lease] = address

    failures = failures_of(given, work)
    # A server that does not answer may have another one that begins so.
    if failures and not (found and len(wanted) == 32):
        raise joined(failures)
    if len(found) != 1:
        many = f"{len(found)} leases have" if found else "no lease has"
        raise ConfigError(f"{many} an id that begins with '{given.lease}'")
    ((lease, address),) = found.items()
    client.end_lease(address, protocol_hash(), lease)
    print(f"Ended lease {lease}")
    return 0


def drain(given: argparse.Namespace) -> int:
    from fdcore.rpc import client

    def work(address: Any, protocol: bytes) -> None:
        client.drain(address, protocol, not given.off)
        print(f"{address} {'grants again' if given.off else 'grants nothing new'}")

    each_server(given, work)
    return 0


def revoke(given: argparse.Namespace) -> int:
    """One server of a pool can do it; which one is not for people to know."""
    from fdcore.errors import FdcoreError
    from fdcore.rpc import client

    done: list[Any] = []
    failures: list[FdcoreError] = []

    def work(address: Any, protocol: bytes) -> None:
        try:
            client.revoke(address, protocol, given.who)
            done.append(address)
        except FdcoreError as error:
            failures.append(error)

    each_server(given, work)
    if not done:
        from fdcore.reserve import joined

        raise joined(failures)
    print(f"Revoked {given.who}")
    return 0


def quota(given: argparse.Namespace) -> int:
    from fdcore import lists
    from fdcore.errors import ConfigError
    from fdcore.rpc import client
    from fdcore.sched.queue import Quota

    said = (given.gpus, given.memory, given.priority)
    change = given.clear or any(value is not None for value in said)
    if change and not given.user:
        raise ConfigError("whose quota? name a user, or '*'")
    rows: list[lists.Row] = []

    def work(address: Any, protocol: bytes) -> None:
        known = client.quotas(address, protocol)
        if change:
            old = known.get(given.user, Quota())
            new = Quota(
                old.gpus if given.gpus is None else given.gpus,
                old.memory if given.memory is None else given.memory,
                old.priority if given.priority is None else given.priority,
            )
            client.set_quota(
                address, protocol, given.user, None if given.clear else new
            )
            known = client.quotas(address, protocol)
        rows.extend(
            {
                "server": str(address),
                "user": user,
                "gpus": each.gpus,
                "memory_mib": each.memory >> 20,
                "priority": each.priority,
            }
            for user, each in known.items()
            if given.user in (None, user)
        )

    each_server(given, work)
    print(lists.written(rows, QUOTA_COLUMNS, given.format), end="")
    return 0
