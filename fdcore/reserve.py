"""Getting GPUs: who is asked, what is chosen, and the leases that come of it.

All servers are asked at once what they have; the first in the list that has all of what
is wanted grants it, else the fewest that have it together. A lease that is held is a
connection that the program inherits.
"""

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fdcore import __version__, attach
from fdcore.config import Address, Servers, protocol_hash
from fdcore.errors import FdcoreError, RefusedError, TransportError
from fdcore.peers import machine
from fdcore.progress import Progress
from fdcore.sched.filters import Filter, chosen
from fdcore.sched.placement import Refusal, place
from fdcore.sched.slices import MIB, Ask, mib
from fdcore.sched.spread import Part, Room, spread
from fdcore.sockets import keep_alive
from fdcore.values import duration_text

if TYPE_CHECKING:
    from fdcore.rpc.client import Grant, Link

HOLD_SECONDS = 5.0
AGAIN_SECONDS = 1.0
ENDING_SECONDS, ENDING_LOOK_SECONDS = 3.0, 0.05
TO_WAIT = "--wait waits for it, and flexdirect admin leases says who has what"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted, and of whom."""

    ask: Ask
    servers: Sequence[Address]
    filters: Sequence[Filter] = ()
    road: str = "auto"
    seconds: float = 3.0  # for a server's answer
    wait: float = 0.0  # for GPUs that are in use
    beyond: bool = False  # also of other servers of the pool


@dataclass(frozen=True, slots=True)
class Held:
    """A lease, and the connection that keeps it: what is inherited by exec."""

    grant: "Grant"
    hold: socket.socket


def reserve(wish: Wish, name: str, progress: Progress) -> list[Held]:
    """Leases for all of the wish, held. name: the program's, for the servers' lists."""
    from fdcore.rpc import client

    return client.run(Reserving(wish, name, progress).all_of_it())


class Reserving:
    """One run of the above. Connections live as long as it does."""

    def __init__(self, wish: Wish, name: str, progress: Progress) -> None:
        self.wish = wish
        self.name = name
        self.progress = progress
        self.protocol = protocol_hash()

    async def all_of_it(self) -> list[Held]:
        from fdcore.rpc import client

        wish = self.wish
        async with AsyncExitStack() as opened:
            servers = Servers(tuple(wish.servers), wish.beyond)
            answers = await client.survey_all(
                opened, servers, self.protocol, self.name, wish.seconds, self.query
            )
            links, failures = [], []
            for _, each in answers:
                if isinstance(each, FdcoreError):
                    failures.append(each)
                elif each.pool.draining:
                    why = "it is being drained and grants nothing new"
                    failures.append(RefusedError(f"{each.address}: {why}"))
                else:
                    links.append(each)
            if not links:
                raise joined(failures)
            for failure in failures:
                self.progress.warn(str(failure))
            return await self.choose(links, failures)

    def query(self, address: Address) -> None:
        self.progress.info(f"Query server {address} gpu availability")

    async def choose(
        self, links: Sequence["Link"], failures: Sequence[FdcoreError]
    ) -> list[Held]:
        from fdcore.rpc import client

        listed = ";".join(str(link.address) for link in links)
        self.progress.info(f"Choosing GPUs from server list [{listed}]")
        for last in (False, True):
            parts = choose([self.room(link) for link in links], self.wish.ask)
            if isinstance(parts, Refusal) and parts.later and not self.wish.wait:
                parts = await self.see_out(links, parts)
            if isinstance(parts, Refusal):
                if parts.later and self.wish.wait:
                    return await self.wait(links, parts.reason)
                cure = TO_WAIT if parts.later else ""
                raise joined([*failures, RefusedError(parts.reason, cure)])
            asks = [(links[p.server], self.part(links[p.server], p)) for p in parts]
            self.announce(asks, parts)
            try:
                return await client.reserve_each(asks, self.hold_all)
            except RefusedError as error:
                if last and self.wish.wait:
                    return await self.wait(links, str(error))
                if last:
                    raise
                # Somebody was quicker, or the server knows more than we: once more
                # with what is free now.
                for link in links:
                    link.pool = await client.pool_of(link.address, link.session)
        raise AssertionError

    async def see_out(
        self, links: Sequence["Link"], refused: Refusal
    ) -> tuple[Part, ...] | Refusal:
        """Programs that are over have their GPUs for a moment yet."""
        from fdcore.rpc import client

        until = time.monotonic() + ENDING_SECONDS
        parts: tuple[Part, ...] | Refusal = refused
        told = False
        while any(link.pool.ending for link in links) and time.monotonic() < until:
            if not told:
                self.progress.info("Waiting for GPUs of programs that are just ending")
            told = True
            await asyncio.sleep(ENDING_LOOK_SECONDS)
            for link in links:
                link.pool = await client.pool_of(link.address, link.session)
            parts = choose([self.room(link) for link in links], self.wish.ask)
            if not isinstance(parts, Refusal):
                break
        return parts

    async def wait(self, links: Sequence["Link"], why: str) -> list[Held]:
        """Stands in the line of every server that could grant all of it alone; where
        none could, looks again and again whether several can together."""
        said = duration_text(self.wish.wait)
        self.progress.info(f"Waiting for GPUs, at most {said}: {why}")
        alone = [link for link in links if self.could(link)]
        if alone:
            return await self.stand_in_line(alone)
        return await self.look_again(links, why)

    def could(self, link: "Link") -> bool:
        gpus = self.room(link).gpus
        everything = {gpu.ordinal: gpu.memory for gpu in gpus}
        return not isinstance(place(gpus, everything, self.wish.ask), Refusal)

    async def stand_in_line(self, links: Sequence["Link"]) -> list[Held]:
        """The first server whose turn it is; the others are told no more."""
        from fdcore.rpc import client

        seconds = max(1, math.ceil(self.wish.wait))
        lines = [
            asyncio.ensure_future(
                client.waited(
                    link, self.part(link, Part(0, self.wish.ask.count)), seconds
                )
            )
            for link in links
        ]
        refusals: list[FdcoreError] = []
        won: Grant | None = None
        try:
            for line in asyncio.as_completed(lines):
                try:
                    won = await line
                    break
                except FdcoreError as error:
                    refusals.append(error)
            if won is None:
                raise joined(refusals)
            return self.hold_all([won])
        finally:
            await client.leave_lines(lines, won)

    async def look_again(self, links: Sequence["Link"], why: str) -> list[Held]:
        from fdcore.rpc import client

        until = time.monotonic() + self.wish.wait
        while time.monotonic() < until:
            await asyncio.sleep(AGAIN_SECONDS)
            for link in links:
                link.pool = await client.pool_of(link.address, link.session)
            parts = choose([self.room(link) for link in links], self.wish.ask)
            if isinstance(parts, Refusal):
                why = parts.reason
                continue
            asks = [(links[p.server], self.part(links[p.server], p)) for p in parts]
            try:
                return await client.reserve_each(asks, self.hold_all)
            except RefusedError as error:
                why = str(error)
        raise RefusedError(f"{why}; waited {duration_text(self.wish.wait)}")

    def room(self, link: "Link") -> Room:
        gpus = link.pool.gpus
        if self.wish.filters:
            passing = chosen(self.wish.filters, str(link.address), link.pool)
            gpus = tuple(gpu for gpu in gpus if gpu.ordinal in passing)
        return Room(str(link.address), gpus, link.pool.free, link.pool.kept)

    def part(self, link: "Link", part: Part) -> Ask:
        ask = replace(self.wish.ask, count=part.count)
        if not self.wish.filters:
            return ask
        gpus = self.room(link).gpus
        return replace(ask, only=frozenset(gpu.ordinal for gpu in gpus))

    def announce(
        self, asks: Sequence[tuple["Link", Ask]], parts: Sequence[Part]
    ) -> None:
        for (link, ask), part in zip(asks, parts, strict=True):
            taken = place(self.room(link).gpus, link.pool.free, ask, link.pool.kept)
            if isinstance(taken, Refusal):
                continue
            gpus = ",".join(str(slice.ordinal) for slice in taken)
            self.progress.info(
                f"Requesting GPUs [{gpus}] with {mib(taken[0].memory)} MiB of memory "
                f"from server {part.server}, with version {__version__}..."
            )
        self.progress.plain("Requested resources:")
        servers = ";".join(str(link.address) for link, _ in asks)
        self.progress.plain(f"Server List: {servers}")
        self.progress.plain(f"Client idle timeout: {self.wish.ask.idle // 60} min")

    def hold_all(self, grants: list["Grant"]) -> list[Held]:
        """Holds each of several leases, or none."""
        held: list[Held] = []
        for grant in grants:
            try:
                held.append(self.hold(grant))
            except FdcoreError as error:
                for one in held:
                    attach.let_go(one.hold)
                raise type(error)(f"{grant.address}: {error}", error.cure) from None
        return held

    def hold(self, grant: "Grant") -> Held:
        try:
            return self.hold_by(grant)
        except FdcoreError as error:
            if not same_machine(grant) or not grant.port or self.wish.road == "shm":
                raise
            # What has that name here need not be its socket: containers share a kernel
            # and no folders, and a folder may be another server's by now.
            self.progress.warn(f"{grant.unix} is not {grant.address}'s: {error}")
            with contextlib.suppress(FdcoreError):
                return self.hold_by(replace(grant, unix=""))
            raise

    def hold_by(self, grant: "Grant") -> Held:
        spoken = attach.Spoken(grant.lease, grant.secret, self.protocol)
        connect = data_connection(grant, self.wish.road)
        return Held(grant, attach.hold(connect, spoken, HOLD_SECONDS))


def choose(rooms: Sequence[Room], ask: Ask) -> tuple[Part, ...] | Refusal:
    """The first server that has all of it, else the fewest that have it together. The
    reason of a refusal names every server."""
    reasons, later = [], False
    for number, room in enumerate(rooms):
        taken = place(room.gpus, room.free, ask, room.kept)
        if not isinstance(taken, Refusal):
            return (Part(number, ask.count),)
        reasons.append(f"{room.name}: {taken.reason}")
        later = later or taken.later
    if ask.count > 1 and len(rooms) > 1 and not ask.problem():
        return spread(rooms, ask)
    return Refusal("; ".join(reasons), later)


def joined(failures: Sequence[FdcoreError]) -> FdcoreError:
    """One error of several. What would help them all is said at the end, else each has
    its own behind it."""
    said = {str(error): error.cure for error in failures}
    if len(said) == 1:
        return failures[0]
    if len(set(said.values())) == 1:
        return type(failures[-1])("; ".join(said), failures[0].cure)
    each = (f"{why} ({cure})" if cure else why for why, cure in said.items())
    return type(failures[-1])("; ".join(each))


def data_connection(grant: "Grant", wanted: str) -> Callable[[], socket.socket]:
    """How the data port is reached: the Unix socket where it is this machine's."""
    here = same_machine(grant)
    if wanted == "shm" and not here:
        raise TransportError(
            "shared memory was asked for, but the server is on another machine"
        )
    if wanted == "rdma" and grant.seal:
        raise TransportError(
            "rdma was asked for, but what travels in this pool has to be encrypted, "
            "which rdma is not",
            "leave FD_TRANSPORT and --transport out",
        )
    if wanted == "tcp" and not grant.port:
        raise TransportError("the server has no TCP data port")
    if here:

        def connect() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(HOLD_SECONDS)
            sock.connect(grant.unix)
            return sock

        return connect

    def dial() -> socket.socket:
        sock = socket.create_connection((grant.host, grant.port), HOLD_SECONDS)
        keep_alive(sock)
        return sock

    return dial


def same_machine(grant: "Grant") -> bool:
    here = bool(grant.machine) and machine() == grant.machine
    return here and bool(grant.unix) and os.path.exists(grant.unix)


def share_text(grant: "Grant") -> str:
    """How much of its GPUs a lease has, as FlexDirect says it."""
    first = grant.slices[0].memory
    whole = grant.sizes[0]
    if first == whole:
        return f"{first // MIB} MiB of memory"
    return f"partial memory {first / whole:.4g}"
