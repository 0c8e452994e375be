"""What a manager asks of servers again and again, and what it has them do.

Values come back, no capabilities. watch() keeps one connection; everything that changes
something has a connection of its own, as whoever logged in.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fdcore.config import Address
from fdcore.rpc import client
from fdcore.rpc.client import ANSWER_SECONDS, Activity, ok, pool_of, told, welcome_of
from fdcore.sched.queue import Quota
from fdcore.sched.slices import Pool, Slice
from fdcore.security.passes import hashed
from fdcore.security.roles import USER

T = TypeVar("T")
PROGRAM = "fdserver web"
CODE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    id: bytes
    user: str
    host: str
    pid: int
    program: str
    since: float
    sessions: int
    slices: tuple[Slice, ...]
    used: tuple[int, ...]
    busy: tuple[int, ...]  # ns; empty: not known


@dataclass(frozen=True, slots=True)
class WaitSeen:
    number: int
    user: str
    host: str
    pid: int
    program: str
    count: int
    memory: int
    fraction: float
    priority: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LogSeen:
    number: int
    time: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    role: str
    serial: str
    expires: float
    revoked: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one server said, all within a moment."""

    at: float
    pool: Pool
    leases: tuple[LeaseSeen, ...]
    queue: tuple[WaitSeen, ...]
    totals: Mapping[str, float]
    sessions: tuple[Activity, ...]
    log: tuple[LogSeen, ...]  # what is new of it
    quotas: Mapping[str, Quota]


@dataclass(frozen=True, slots=True)
class Who:
    user: str
    host: str
    role: str


@dataclass(slots=True)
class Watched:
    """An open connection to one server."""

    address: Address
    server: bytes
    who: Who
    session: Any
    lines: int = 0

    async def look(self, sessions: bool) -> Snapshot:
        """sessions: ask the workers, too, which costs each a moment."""
        with told(self.address):
            return await asyncio.wait_for(self.ask(sessions), ANSWER_SECONDS)

    async def ask(self, sessions: bool) -> Snapshot:
        address, session = self.address, self.session
        pool, leases, queue, totals, quotas = await asyncio.gather(
            pool_of(address, session),
            session.leases(),
            session.queue(),
            session.totals(),
            session.quotas(),
        )
        active = await client.sessions_of(address, session) if sessions else []
        return Snapshot(
            time.time(),
            pool,
            tuple(lease_of(row) for row in ok(address, leases)),
            tuple(waiting_of(row) for row in ok(address, queue)),
            client.figures_of(ok(address, totals)),
            tuple(active),
            await self.news(),
            {
                str(row.user): Quota(row.gpus, row.memory, row.priority)
                for row in ok(address, quotas)
            },
        )

    async def news(self) -> tuple[LogSeen, ...]:
        if self.who.role == USER:
            return ()
        rows = ok(self.address, await self.session.log(after=self.lines))
        lines = tuple(
            LogSeen(int(row.number), float(row.time), str(row.level), str(row.text))
            for row in rows
        )
        self.lines = lines[-1].number if lines else self.lines
        return lines


@asynccontextmanager
async def watch(
    address: Address, protocol: bytes, role: str, seconds: float
) -> AsyncIterator[Watched]:
    """role: to be no more than that, where the server allows it."""
    with told(address):
        opening = welcome_of(address, protocol, PROGRAM, seconds, role)
        async with opening as (way, welcome):
            who = Who(str(welcome.user), "", str(welcome.role))
            yield Watched(way, bytes(welcome.server), who, welcome.session)


def lease_of(row: Any) -> LeaseSeen:
    return LeaseSeen(
        bytes(row.id),
        str(row.user),
        str(row.host),
        int(row.pid),
        str(row.program),
        float(row.since),
        int(row.sessions),
        tuple(Slice(int(each.ordinal), int(each.memory)) for each in row.slices),
        tuple(int(size) for size in row.used),
        tuple(int(ns) for ns in row.busy),
    )


def waiting_of(row: Any) -> WaitSeen:
    return WaitSeen(
        int(row.number),
        str(row.user),
        str(row.host),
        int(row.pid),
        str(row.program),
        int(row.count),
        int(row.memory),
        float(row.fraction),
        int(row.priority),
        float(row.seconds),
    )


# ---- as whoever logged in ----


@dataclass(frozen=True, slots=True)
class Key:
    """What stands for somebody at servers; empty: ourselves."""

    secret: bytes = b""


def enter(
    address: Address, protocol: bytes, code: bytes, seconds: int
) -> tuple[Who, Key]:
    """Spends a login code; the key that is good from now on."""
    secret = secrets.token_bytes(32)

    async def work(session: Any) -> Who:
        response = await session.become(
            secret=code, next=hashed(secret), seconds=seconds
        )
        found = ok(address, response)
        return Who(str(found.user), str(found.host), str(found.role))

    return client.talk(address, protocol, PROGRAM, work), Key(secret)


def ourselves(address: Address, protocol: bytes, seconds: float) -> Who:
    """Whom a server takes this process for."""

    async def work() -> Who:
        async with watch(address, protocol, "", seconds) as watched:
            return watched.who

    return client.run(work())


def lend(address: Address, protocol: bytes, code: bytes, role: str) -> None:
    """Lets who shows the code in, once and within some minutes."""

    async def work(session: Any) -> None:
        response = await session.lend(
            hash=hashed(code), role=role, seconds=CODE_SECONDS
        )
        ok(address, response)

    client.talk(address, protocol, PROGRAM, work)


def act(
    address: Address,
    protocol: bytes,
    key: Key,
    seconds: int,
    method: str,
    given: Mapping[str, Any],
    read: Callable[[Any], T],
) -> T:
    """Calls a method of the session as whom the key stands for; reads its answer."""

    async def work(session: Any) -> T:
        if key.secret:
            kept = hashed(key.secret)
            ok(
                address,
                await session.become(secret=key.secret, next=kept, seconds=seconds),
            )
        return read(ok(address, await getattr(session, method)(**given)))

    return client.talk(address, protocol, PROGRAM, work)


def done(result: Any) -> None:
    """An answer that says nothing more."""


def members_of(rows: Any) -> list[Member]:
    return [
        Member(
            str(row.name),
            str(row.role),
            str(row.serial),
            float(row.expires),
            bool(row.revoked),
        )
        for row in rows
    ]
