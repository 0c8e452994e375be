"""list_gpus, smi, health, localhealth, netperf: what there is and how it is."""

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fdcore_cli import options

if TYPE_CHECKING:
    from fdcore.check import Check
    from fdcore.pools import Seen

    Group = tuple[str, Sequence[Check]]

ABOUT = {
    "list_gpus": "The GPUs of all servers, and what is free of them.",
    "smi": "The GPUs of all servers in a table after nvidia-smi's: what is granted of "
    "them, and what they do at the moment where their driver tells it.",
    "health": "Checks of this machine and of every server: PASS, MARGINAL or FAIL. "
    "The exit status is 1 where one failed. --verify runs kernels on each GPU too.",
    "localhealth": "Checks of this machine alone; --verify of its own GPUs too, or of "
    "the CPU device.",
    "netperf": "Measures, with a small lease on each server, how long a CUDA call "
    "takes and how fast bytes get to the GPU and back.",
}


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}", description=ABOUT[command], allow_abbrev=False
    )
    if command == "health":
        options.add_which(made)
    elif command != "localhealth":
        options.add_servers(made)
    if command == "smi":
        made.add_argument("-L", action="store_true", dest="names", help="names only")
    else:
        options.add_format(made)
    if command.endswith("health"):
        made.add_argument(
            "--verify", type=options.duration, nargs="?", const=0, metavar="TIME",
            help="check memory, copies and arithmetic of each GPU once (in two minutes "
            "at most), or again and again for so long",
        )  # fmt: skip
        made.add_argument(
            "-m", "--memory", type=options.memory, default=0, metavar="MIB",
            help="memory of each GPU to verify (what is free, up to 1 GiB)",
        )  # fmt: skip
    if command == "netperf":
        made.add_argument(
            "--long", action="store_true",
            help="how calls are spread, and copies of every size",
        )  # fmt: skip
    if command in ("netperf", "health", "localhealth"):
        made.add_argument(
            "--transport", choices=("auto", "shm", "tcp", "rdma"), metavar="ROAD",
            help="how calls travel: shm, tcp, rdma, or auto: what there is",
        )  # fmt: skip
    return made


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    given = made.parse_args(words)
    work = {
        "list_gpus": list_gpus,
        "smi": smi,
        "health": health,
        "localhealth": health,
        "netperf": netperf,
    }[command]
    return options.reported(made.prog, lambda: work(made.prog, given))


def list_gpus(who: str, given: argparse.Namespace) -> int:
    from fdcore import lists, pools
    from fdcore.settings import load

    settings = load()
    servers = options.servers_of(given, settings)
    seen = pools.look(servers, settings.get("connect_timeout"))
    if given.format == "table":
        print(pools.tree(seen, given.filter), end="")
    else:
        rows = pools.rows(seen, given.filter)
        print(lists.written(rows, pools.COLUMNS, given.format), end="")
    return problems(who, [each.told for each in seen])


def smi(who: str, given: argparse.Namespace) -> int:
    from fdcore import pools
    from fdcore.settings import load

    settings = load()
    servers = options.servers_of(given, settings)
    seen = pools.look(servers, settings.get("connect_timeout"))
    written = pools.names if given.names else pools.smi
    print(written(seen, given.filter), end="")
    return problems(who, [each.told for each in seen])


def problems(who: str, said: Sequence[str]) -> int:
    """Says which servers did not answer; 125 where none did."""
    for problem in dict.fromkeys(said):
        if problem:
            options.say_error(who, problem)
    return options.OWN_FAILURE if said and all(said) else 0


def health(who: str, given: argparse.Namespace) -> int:
    from fdcore import health as checks
    from fdcore import lists, pools, whole
    from fdcore.settings import load

    settings = load()
    road = settings.get("transport", given.transport)
    groups: list[Group] = [(socket.gethostname(), whole.machine())]
    if who.endswith(" health"):
        servers = options.servers_of(given, settings)
        for seen in pools.look(servers, settings.get("connect_timeout")):
            groups += whole.server(seen, road, settings.get("connect_timeout"))
            groups += verified(given, seen, road)
    elif given.verify is not None:
        groups += verified_here(given, road)
    if given.format == "table":
        print(checks.text(groups), end="")
    else:
        print(lists.written(checks.rows(groups), checks.COLUMNS, given.format), end="")
    return 1 if checks.failed(groups) else 0


def verified(given: argparse.Namespace, seen: "Seen", road: str) -> "Sequence[Group]":
    """Each GPU of a server that answered, if that was asked for."""
    from fdcore import verification

    if given.verify is None or seen.pool is None:
        return []
    plan = verification.Plan()
    if given.verify:
        plan = verification.Plan(given.verify, again=True)
    terminal = sys.stderr.isatty()
    return verification.server(seen, road, plan, given.memory, terminal)


def verified_here(given: argparse.Namespace, road: str) -> "Sequence[Group]":
    """This machine's own GPUs, through a server that is there for this alone."""
    import os

    from fdcore import launch, pools
    from fdcore.config import Servers

    address, leash = launch.private_server([], road)
    try:
        (seen,) = pools.look(Servers((address,)), 10)
        return verified(given, seen, road)
    finally:
        os.close(leash)


def netperf(who: str, given: argparse.Namespace) -> int:
    import json

    from fdcore import lists
    from fdcore import netperf as measuring
    from fdcore.errors import FdcoreError
    from fdcore.reserve import Wish
    from fdcore.sched.slices import MIB, Ask
    from fdcore.settings import load

    settings = load()
    ask = Ask(memory=measuring.LARGE + 64 * MIB)
    road = settings.get("transport", given.transport)
    rows, failures = [], []
    for address in options.addresses_of(given, settings):
        wish = Wish(ask, [address], given.filter, road, settings.get("connect_timeout"))
        try:
            rows.append(measuring.measure(address, wish, "long" * given.long))
            failures.append("")
        except FdcoreError as error:
            failures.append(str(error))
    if given.long and given.format == "table":
        print("\n".join(measuring.text(row) for row in rows), end="")
    elif given.long and given.format == "json":
        print(json.dumps(rows, indent=2))
    elif given.long:
        sizes = measuring.by_size(rows)
        print(lists.written(sizes, measuring.SIZE_COLUMNS, given.format), end="")
    else:
        print(lists.written(rows, measuring.COLUMNS, given.format), end="")
    sys.stdout.flush()
    return problems(who, failures)
