"""The leases that one server has granted, and what is left of its GPUs.

The book knows no sockets and starts nothing: the server tells it what happened, and
it says when a lease is over. A lease lives while something stands for it: the control
connection that asked for it, a connection that holds it, or a session.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fdcore.errors import RefusedError
from fdcore.sched.index import FreeIndex
from fdcore.sched.placement import Refusal, place
from fdcore.sched.queue import Usage
from fdcore.sched.slices import Ask, Gpu, Slice


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asked: known by the socket where it is a local one, else as they say."""

    user: str
    host: str
    pid: int = 0
    program: str = ""
    role: str = "user"
    serial: str = ""  # of the certificate that was shown, if one was
    uid: int = -1  # of local users

    def __str__(self) -> str:
        where = f"{self.user}@{self.host}" if self.host else self.user
        return f"{where} pid {self.pid}" if self.pid else where


class Process(NamedTuple):
    """A process that holds a lease, known for good by its start; program: for whom."""

    pid: int
    start: int
    program: int


@dataclass(slots=True, eq=False)
class Lease:
    id: bytes
    secret: bytes = field(repr=False)
    owner: Owner
    slices: tuple[Slice, ...]
    since: float = field(default_factory=time.time)
    standing: set[object] = field(default_factory=set)
    over: bool = False
    # Seconds without a session after which it ends, 0: never; and how often that time
    # has begun anew.
    idle: int = 0
    sessions: int = 0
    # Processes of this machine that opened a hold or keep it; whether one of another
    # machine did.
    holders: set[Process] = field(default_factory=set)
    far: bool = False
    # What holds it on this machine and has not said which process keeps it (fdhold).
    strays: set[object] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Enough of the id for logs."""
        return self.id.hex()[:8]


class LeaseBook:
    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self.gpus = tuple(gpus)
        self.index = FreeIndex(gpus)
        self.leases: dict[bytes, Lease] = {}

    def free(self) -> dict[int, int]:
        """Bytes free on each GPU, by ordinal."""
        return dict(self.index.free)

    def kept(self) -> dict[int, int]:
        """Percent of each GPU's time that leases have as their share, by ordinal."""
        return dict(self.index.kept)

    def sharing(self) -> dict[int, int]:
        """How many leases have a part of each GPU, by ordinal."""
        count = dict.fromkeys((gpu.ordinal for gpu in self.gpus), 0)
        for lease in self.leases.values():
            for part in lease.slices:
                count[part.ordinal] += 1
        return count

    def usages(self) -> dict[str, Usage]:
        """What each user has."""
        found: dict[str, Usage] = {}
        for lease in self.leases.values():
            had = found.get(lease.owner.user, Usage())
            found[lease.owner.user] = Usage(
                had.gpus + len(lease.slices),
                had.memory + sum(part.memory for part in lease.slices),
            )
        return found

    def reserve(self, ask: Ask, owner: Owner) -> Lease:
        """The best fit, whoever waits."""
        placed = self.index.find(ask)
        if placed is None:
            refused = place(self.gpus, self.index.free, ask, self.index.kept)
            assert isinstance(refused, Refusal)
            raise RefusedError(refused.reason)
        return self.grant(ask, owner, placed)

    def grant(self, ask: Ask, owner: Owner, slices: tuple[Slice, ...]) -> Lease:
        lease = Lease(secrets.token_bytes(16), secrets.token_bytes(32), owner, slices)
        lease.idle = ask.idle
        self.index.take(slices)
        self.leases[lease.id] = lease
        return lease

    def adopt(self, lease: Lease) -> bool:
        """Takes over a lease that an earlier server granted; False: it does not fit."""
        free = self.free()
        if any(free.get(part.ordinal, 0) < part.memory for part in lease.slices):
            return False
        if any(
            part.compute + self.index.kept[part.ordinal] > 100 for part in lease.slices
        ):
            return False
        self.index.take(lease.slices)
        self.leases[lease.id] = lease
        return True

    def find(self, lease: bytes) -> Lease | None:
        return self.leases.get(lease)

    def stand(self, lease: Lease, thing: object) -> None:
        """thing keeps the lease alive from now on."""
        if lease.over:
            raise RefusedError(f"lease {lease.name} is over")
        lease.standing.add(thing)

    def leave(self, lease: Lease, thing: object) -> bool:
        """thing has gone. True: it was the last one, and the lease is over now."""
        lease.standing.discard(thing)
        if lease.standing or lease.over:
            return False
        self.end(lease)
        return True

    def end(self, lease: Lease) -> None:
        """Frees the slices, whatever still stands for the lease."""
        lease.over = True
        lease.standing.clear()
        if self.leases.pop(lease.id, None) is not None:
            self.index.give(lease.slices)
