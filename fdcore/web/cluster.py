"""Watches the servers of the pool, in a thread with a loop of its own.

Cap'n Proto lives in that loop and nowhere else in this process. What is known of each
server is a Station, replaced as a whole at every look, so that others may read it at
any time. Watching is done with the least that shows everything: as a viewer, where the
server lets us be one.
"""

import asyncio
import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fdcore.config import Address, protocol_hash
from fdcore.errors import FdcoreError, RefusedError
from fdcore.rpc import client
from fdcore.rpc.watching import LogSeen, Watched, watch
from fdcore.security.roles import VIEWER
from fdcore.web.history import History
from fdcore.web.model import ASKING, DEAD, DRAINING, UP, Station, series

log = logging.getLogger("fdserver.web")

# How often servers are looked at while somebody looks here, and otherwise.
SEEN_SECONDS, UNSEEN_SECONDS = 1.0, 5.0
SAMPLE_SECONDS = 5.0
LOOKED_SECONDS = 15.0  # for so long after the last look somebody counts as looking
MEMBERS_SECONDS = 10.0
AGAIN_SECONDS = 2.0
CONNECT_SECONDS = 3.0
KEPT_LINES = 500

# Who the servers are: asked again and again, so that a pool may grow.
Members = Callable[[], Sequence[Address]]


class Cluster:
    def __init__(self, members: Members, history: History | None = None) -> None:
        self.members = members
        self.history = history
        self.protocol = protocol_hash()
        self.stations: dict[Address, Station] = {}
        self.order: Sequence[Address] = ()
        self.problem = ""  # why it is not known who the servers are
        self.looked = -LOOKED_SECONDS
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stopping: asyncio.Event | None = None
        self.nudged: asyncio.Event | None = None
        self.thread = threading.Thread(target=self.run, name="cluster", daemon=True)

    # ---- for other threads ----

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        if self.loop is not None and self.stopping is not None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.stopping.set)
        if self.thread.is_alive():
            self.thread.join(5.0)

    def known(self) -> list[Station]:
        """In the order of the list."""
        return [self.stations[one] for one in self.order if one in self.stations]

    def address(self, key: str) -> Address | None:
        """Where a server of a view is."""
        for address, station in list(self.stations.items()):
            if station.key == key:
                return address
        return None

    def somebody_looks(self) -> None:
        """Who comes after a while is not shown what was seconds ago for longer than a
        look takes."""
        before, self.looked = self.looked, time.monotonic()
        if self.looked - before > LOOKED_SECONDS:
            self.nudge()

    def nudge(self) -> None:
        """Something has been changed: look soon."""
        self.looked = time.monotonic()
        if self.loop is not None and self.nudged is not None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.nudged.set)

    # ---- in its own ----

    def run(self) -> None:
        try:
            client.run(self.work())
        except BaseException:
            log.exception("the servers are watched no longer")
            raise

    async def work(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopping, self.nudged = asyncio.Event(), asyncio.Event()
        watchers: dict[Address, asyncio.Task[None]] = {}
        sampler = asyncio.create_task(self.sample())
        try:
            while not self.stopping.is_set():
                await self.follow(watchers)
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), MEMBERS_SECONDS)
        finally:
            tasks = [sampler, *watchers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def follow(self, watchers: dict[Address, "asyncio.Task[None]"]) -> None:
        """Has one watcher for each server that there is now."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, self.members)
            self.problem = ""
        except (FdcoreError, OSError) as error:
            self.problem = str(error)  # who was known stays
            return
        for address in list(watchers):
            if address not in found:
                watchers.pop(address).cancel()
                self.stations.pop(address, None)
        for address in found:
            if address not in watchers:
                self.stations[address] = Station(str(address))
                watchers[address] = asyncio.create_task(self.keep(address))
        self.order = tuple(found)

    async def keep(self, address: Address) -> None:
        """Watches one server for good."""
        role = VIEWER
        while True:
            try:
                await self.follow_one(address, role)
            except RefusedError as error:
                if role:  # a user is told of less, and cannot be a viewer
                    role = ""
                    continue
                self.dead(address, str(error))
            except FdcoreError as error:
                self.dead(address, str(error))
            except Exception as error:  # whatever comes, the others are shown
                log.exception("%s", address)
                self.dead(address, repr(error))
            role = VIEWER
            await asyncio.sleep(AGAIN_SECONDS)

    def dead(self, address: Address, why: str) -> None:
        station = self.stations.get(address)
        if station is not None:
            text = why.removeprefix(f"{address}: ")
            gone = replace(station, state=DEAD, problem=text, before=None)
            self.stations[address] = gone

    async def follow_one(self, address: Address, role: str) -> None:
        async with watch(address, self.protocol, role, CONNECT_SECONDS) as watched:
            lines: collections.deque[LogSeen] = collections.deque(maxlen=KEPT_LINES)
            while True:
                await self.look(address, watched, lines)
                await self.pause()

    async def look(
        self,
        address: Address,
        watched: Watched,
        lines: "collections.deque[LogSeen]",
    ) -> None:
        now = await watched.look(sessions=True)
        lines.extend(now.log)
        old = self.stations.get(address)
        if old is None:
            return
        self.stations[address] = replace(
            old,
            state=DRAINING if now.pool.draining else UP,
            problem="",
            server=watched.server,
            role=watched.who.role,
            now=now,
            before=old.now if old.state in (UP, DRAINING) else None,
            log=tuple(lines),
        )

    async def pause(self) -> None:
        seen = time.monotonic() - self.looked < LOOKED_SECONDS
        nudged = self.nudged
        assert nudged is not None
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            seconds = SEEN_SECONDS if seen else UNSEEN_SECONDS
            await asyncio.wait_for(nudged.wait(), seconds)
            await asyncio.sleep(0)  # every watcher has woken
            nudged.clear()

    async def sample(self) -> None:
        loop = asyncio.get_running_loop()
        while self.history is not None:
            await asyncio.sleep(SAMPLE_SECONDS)
            sample = series(self.known())
            if sample:
                add = self.history.add
                await loop.run_in_executor(None, add, time.time(), sample)


def answered(stations: Sequence[Station]) -> bool:
    """Whether all have been asked at least once."""
    return all(station.state != ASKING for station in stations)
