"""What the servers say of themselves: list_gpus and smi."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fdcore.config import Address, Servers, parse_address, protocol_hash
from fdcore.errors import ConfigError, FdcoreError, RefusedError
from fdcore.etcd.access import Access
from fdcore.lists import Row, printable
from fdcore.sched.filters import Filter, chosen
from fdcore.sched.slices import MIB, Pool

COLUMNS = (
    "server", "address", "hostname", "gpu", "name", "uuid",
    "memory_mib", "free_mib", "leases",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """One server of the list: what it has, or why it is not known."""

    address: Address
    pool: Pool | None
    problem: str = ""
    seconds: float = 0.0  # until the answer, with the connection
    ahead: float = 0.0  # its clock before ours, within unsure
    unsure: float = 0.0
    cure: str = ""  # of the problem

    @property
    def told(self) -> str:
        return f"{self.problem}; {self.cure}" if self.cure else self.problem


def look(servers: Servers, seconds: float) -> list[Seen]:
    """Asks all of them at once."""
    from fdcore.rpc import client

    protocol = protocol_hash()

    async def work() -> list[Seen]:
        async with AsyncExitStack() as opened:
            begun = time.monotonic()
            answers = await client.survey_all(opened, servers, protocol, "", seconds)
            took = time.monotonic() - begun
            return [
                Seen(address, None, str(each), took, cure=cure_of(each))
                if isinstance(each, FdcoreError)
                else Seen(each.address, each.pool, "", took, each.ahead, each.unsure)
                for address, each in answers
            ]

    return client.run(work())


def cure_of(error: FdcoreError) -> str:
    if error.cure or not isinstance(error, RefusedError):
        return error.cure
    return "who administers the pool can help"


def addresses(servers: Servers, seconds: float) -> tuple[Address, ...]:
    """Where all of them are, for who asks one after the other."""
    if not servers.beyond:
        return servers.addresses
    from fdcore.rpc import client

    protocol = protocol_hash()

    async def work() -> tuple[Address, ...]:
        async with AsyncExitStack() as opened:
            found = await client.survey_all(opened, servers, protocol, "", seconds)
            return tuple(address for address, _ in found)

    return client.run(work())


def in_etcd(access: Access) -> Servers:
    """Those that have announced themselves there."""
    from fdcore.etcd.pool import peers
    from fdcore.rpc.client import is_for_us

    found = {peer.address for peer in peers(access) if is_for_us(peer)}
    if not found:
        raise ConfigError(
            f"no fdserver has announced itself in {access}; start one there with "
            f"--store {access}"
        )
    return Servers(tuple(parse_address(each) for each in sorted(found)))


def rows(seen: Sequence[Seen], filters: Sequence[Filter]) -> list[Row]:
    found: list[Row] = []
    for number, each in enumerate(seen):
        if each.pool is None:
            continue
        passing = chosen(filters, str(each.address), each.pool)
        found += [
            {
                "server": number,
                "address": str(each.address),
                "hostname": each.pool.hostname,
                "gpu": gpu.ordinal,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "memory_mib": gpu.memory // MIB,
                "free_mib": each.pool.free[gpu.ordinal] // MIB,
                "leases": each.pool.leases[gpu.ordinal],
            }
            for gpu in each.pool.gpus
            if gpu.ordinal in passing
        ]
    return found


def tree(seen: Sequence[Seen], filters: Sequence[Filter]) -> str:
    """FlexDirect's shape of the list."""
    lines = []
    for number, each in enumerate(seen):
        pool = each.pool
        if pool is None:
            lines.append(f" - server {number} [{each.address}]: not known")
            continue
        tasks = f"running {pool.tasks} task{'s' if pool.tasks != 1 else ''}"
        waiting = f", {pool.waiting} requests waiting" if pool.waiting else ""
        drained = ", grants nothing new (it is being drained)" if pool.draining else ""
        lines.append(f" - server {number} [{each.address}]: {tasks}{waiting}{drained}")
        passing = chosen(filters, str(each.address), pool)
        lines += [
            f"   |- GPU {gpu.ordinal}: free memory {pool.free[gpu.ordinal] // MIB} MiB "
            f"/ {gpu.memory // MIB} MiB  {printable(gpu.name)}"
            for gpu in pool.gpus
            if gpu.ordinal in passing
        ]
    return "".join(line + "\n" for line in lines)


# ---- smi ----

WIDE = 83


def smi(seen: Sequence[Seen], filters: Sequence[Filter] = ()) -> str:
    """A concise table after nvidia-smi's: what is granted of which GPU; and its
    temperature, power and use, where the server's driver tells them."""
    edge = "+" + "-" * WIDE + "+\n"
    text = ""
    for each in seen:
        if each.pool is None:
            continue
        pool = each.pool
        head = (
            f" {printable(pool.hostname)} ({each.address})   fdcore {pool.release}   "
            f"driver {printable(pool.driver) or 'not known'}   CUDA {pool.cuda}"
        )
        text += edge + boxed(head) + edge
        text += boxed(" GPU  Name                             Bus-Id            "
                      "  Granted / MiB   Leases")  # fmt: skip
        text += edge.replace("-", "=")
        passing = chosen(filters, str(each.address), pool)
        for gpu in (gpu for gpu in pool.gpus if gpu.ordinal in passing):
            granted = (gpu.memory - pool.free[gpu.ordinal]) // MIB
            text += boxed(
                f" {gpu.ordinal:>3}  {printable(gpu.name)[:32]:<32} {gpu.pci[:16]:<16}"
                f" {granted:>7} /{gpu.memory // MIB:>7} {pool.leases[gpu.ordinal]:>7}"
            )
            said = at_the_moment(pool.figures.get(gpu.ordinal, {}))
            text += boxed(f"      {said}") if said else ""
        text += edge
    return text


def at_the_moment(figures: Mapping[str, float]) -> str:
    units = {"temperature": "C", "power": "W", "use": "% busy"}
    known = [f"{figures[name]:.0f} {units[name]}" for name in units if name in figures]
    return "   ".join(known)


def boxed(line: str) -> str:
    return f"|{line[:WIDE]:<{WIDE}}|\n"


def names(seen: Sequence[Seen], filters: Sequence[Filter] = ()) -> str:
    """smi -L, as nvidia-smi -L."""
    return "".join(
        f"GPU {gpu.ordinal}: {printable(gpu.name)} (UUID: {gpu.uuid}) "
        f"of {each.address}\n"
        for each in seen
        if each.pool is not None
        for gpu in each.pool.gpus
        if gpu.ordinal in chosen(filters, str(each.address), each.pool)
    )
