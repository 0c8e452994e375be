"""What comes on a hold, over a Unix socket and without a server around it."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

from fdcore import attach
from fdcore.holding import Holding
from fdcore.lease import LeaseBook, Owner, Process
from fdcore.recall import Heirloom, started
from fdcore.sched.slices import MIB, Ask, Gpu
from fdcore.session import Hold
from fdcore.sockets import pass_credentials
from fdcore.store import LEASE, Memory

KEEPS = attach.LIFE.pack(attach.MAGIC, attach.KEEPS, bytes(16))
SECONDS = 60


class Counted(Memory):
    """A store, and how often it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def put(self, kind: str, key: str, row: dict) -> None:
        self.writes += 1
        super().put(kind, key, row)


class Held:
    """A lease with one hold, which this process has opened."""

    def __init__(self) -> None:
        self.server = SimpleNamespace(book=LeaseBook([Gpu(0, "name", "GPU-1", 1 << 30)]), holds={})
        self.server.heirloom = Heirloom(self.server)
        self.server.ended = lambda hold: self.server.book.leave(hold.lease, hold)
        self.server.leave = self.server.book.leave
        self.server.spawn = asyncio.ensure_future
        self.server.watch_idle = lambda lease: None
        self.store = self.server.heirloom.store = Counted()
        lease = self.server.book.reserve(Ask(1, 64 * MIB), Owner("bob", "here"))
        self.hold = Hold(lease, 1)
        self.server.book.stand(lease, self.hold)
        self.ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        pass_credentials(theirs)
        self.holding = Holding(self.server)
        self.words = asyncio.Semaphore(0)
        self.holding.kept = self.counted(self.holding.kept)
        self.task = asyncio.ensure_future(self.holding.serve(self.hold, theirs))

    def counted(self, kept):
        def count(hold, pid):
            kept(hold, pid)
            self.words.release()

        return count

    async def hears(self, words: int = 1) -> None:
        """So many more."""
        for _ in range(words):
            await asyncio.wait_for(self.words.acquire(), SECONDS)

    async def close(self) -> None:
        self.ours.close()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def keepers(self) -> list[int]:
        ((row,),) = [self.store.rows(LEASE).values()]
        return sorted(pid for pid, *_ in row["holders"])


@contextlib.contextmanager
def speakers(sock: socket.socket, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that say on the socket what they are told."""
    found = [
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=sock, bufsize=0)
        for _ in range(count)
    ]
    try:
        yield found
    finally:
        for each in found:
            each.communicate()


def test_word_that_changes_nothing_is_not_written_down():
    async def run() -> None:
        held = Held()
        held.ours.sendall(KEEPS)
        await held.hears()
        before = held.store.writes
        held.ours.sendall(KEEPS * 500)
        await held.hears(500)
        assert held.store.writes == before
        assert not held.hold.lease.strays
        await held.close()

    asyncio.run(run())


def test_hold_may_change_its_keeper_a_few_times():
    async def run() -> None:
        held = Held()
        with speakers(held.ours, 2) as (one, other):
            for n in range(1, 41):
                (one if n % 2 else other).stdin.write(KEEPS)
                await held.hears()
                if n == 2:  # the first is forgotten
                    assert other.pid in held.keepers() and one.pid not in held.keepers()
            assert 3 <= held.store.writes <= 10
        await held.close()

    asyncio.run(run())


def test_hold_ends_with_its_connection_where_its_keeper_has_opened_it():
    """An fdhold that has dialled again waits for that, and does not end before."""

    async def run() -> None:
        held = Held()
        lease, pid = held.hold.lease, os.getpid()
        lease.holders = {Process(pid, started(pid), held.hold.pid)}  # from before
        held.server.heirloom.stand_again(lease)
        held.ours.sendall(KEEPS)
        await held.hears()
        held.ours.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(held.task, SECONDS)
        await asyncio.sleep(0)
        assert lease.over
        assert held.ours.recv(1) == b""
        await held.close()

    asyncio.run(run())


def test_hold_outlives_its_connection_where_somebody_else_keeps_it():
    async def run() -> None:
        held = Held()
        with speakers(held.ours, 1) as (keeper,):
            keeper.stdin.write(KEEPS)
            await held.hears()
        held.ours.shutdown(socket.SHUT_WR)
        # This process has opened it, and lives.
        done, _ = await asyncio.wait([held.task], timeout=0.5)
        assert not done and not held.hold.lease.over
        await held.close()

    asyncio.run(run())
