"""Worker processes: one a session, never used twice, the next ones started beforehand.

A worker whose server has gone waits at the socket "heir" for the next one, and begins
there with {"op": "heir", "session", "row", "shares", ...}, what the card says, and the
lease's board beside it, with the file of shares if it has one.

The server speaks with a worker over a SOCK_SEQPACKET pair: one JSON object a message,
with descriptors beside it.

    server to worker  {"op": "warm", "driver", "pinned"}: open it already; pinned: it
                      will pin the memory that a session shares with its client
                      {"op": "start", "session", "driver", "road", "devices",
                      "host_memory", "cache", "cache_room", "heir", "card", "keys",
                      "board", "shares"} and
                      the session's sockets: command[, bulk], the lease's board
                      where "board", the session's row there, is not -1, and the shares
                      of computing time where there are rows in "shares"
                      {"op": "trunk", "number", "key"} and a socket: another server's
                      worker; its key if it is sealed
                      {"op": "resume", "which", "turn", "key"} and a socket: the client
                      again, in place of a connection that broke
                      {"op": "gone"}: the client that is away will not come again
                      {"op": "company"}: other processes of the lease have come
                      {"op": "stats"}
    worker to server  {"op": "ready"}, {"op": "failed", "reason"},
                      {"op": "stats", "counters", "calls"},
                      {"op": "away"}, {"op": "back"}: the client, by its connections
                      {"op": "ended", "reason", "counters"}
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdcore import modules
from fdcore._core.session import adopt
from fdcore.sockets import has_come, readable

log = logging.getLogger("fdserver")

MESSAGE_ROOM = 1 << 16
START_SECONDS = 60.0
STOP_SECONDS = 2.0
STATS_SECONDS = 2.0
REFILL_SECONDS = 0.25


class Child:
    """A child that somebody else forked for us: as much of Popen as is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.reap(os.WNOHANG)
        return self.returncode

    def wait(self) -> int:
        self.reap(0)
        assert self.returncode is not None
        return self.returncode

    def reap(self, options: int) -> None:
        if self.returncode is not None:
            return
        pid, status = os.waitpid(self.pid, options)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


Process = Child | subprocess.Popen[bytes]


class Worker:
    """One worker process and the server's end of its control socket."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        control.setblocking(False)
        self.process = process
        self.control = control
        self.pid = process.pid
        self.curious: list[asyncio.Future[dict[str, Any]]] = []

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def warm(self, driver: str, pinned: bool = True) -> None:
        order = {"op": "warm", "driver": driver, "pinned": pinned}
        self.control.send(json.dumps(order).encode())

    def start(
        self,
        session: bytes,
        driver: str,
        road: str,
        devices: Sequence[tuple[int, int]],
        sockets: Sequence[socket.socket],
        host_memory: int = 0,
        cache: Path | None = None,
        cache_room: int = 0,
        heir: Path | None = None,
        card: Mapping[str, Any] | None = None,
        keys: Sequence[bytes] = (),
        user: tuple[int, int] | None = None,
        confine: bool = True,
        board: tuple[int, int] | None = None,
        shares: tuple[int, Sequence[int]] = (-1, ()),
    ) -> None:
        """Gives it its session. The sockets are the worker's from then on. heir: where
        it waits for another server should this one go; card: what it tells that one.
        user: whom it becomes; confine: whether it gives up system calls. board: the
        lease's, a descriptor that stays the caller's, and the session's row. shares: of
        computing time, likewise, with a row for each device, or none."""
        order = {
            "op": "start",
            "session": session.hex(),
            "driver": driver,
            "road": road,
            "devices": [{"ordinal": n, "memory": size} for n, size in devices],
            "host_memory": host_memory,
            "cache": str(cache or ""),
            "cache_room": cache_room,
            "heir": str(heir or ""),
            "card": dict(card or {}),
            "keys": [key.hex() for key in keys],
            "user": user,
            "confine": confine,
            "board": -1 if board is None else board[1],
            "shares": list(shares[1]),
        }
        for sock in sockets:
            sock.setblocking(True)
        descriptors = [sock.fileno() for sock in sockets]
        if board is not None:
            descriptors.append(board[0])
        if shares[1]:
            descriptors.append(shares[0])
        socket.send_fds(self.control, [json.dumps(order).encode()], descriptors)
        for sock in sockets:
            sock.close()

    def hand_over(self, order: Mapping[str, object], sock: socket.socket) -> None:
        """What the order is about is the worker's from then on."""
        with sock:
            sock.setblocking(True)
            socket.send_fds(self.control, [json.dumps(order).encode()], [sock.fileno()])

    def gone(self) -> None:
        with contextlib.suppress(OSError):
            self.control.send(json.dumps({"op": "gone"}).encode())

    def company(self) -> None:
        """Others of its lease have come."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps({"op": "company"}).encode())

    async def stats(self) -> dict[str, Any]:
        """What its session has done so far; empty if it does not say."""
        asked = asyncio.get_running_loop().create_future()
        self.curious.append(asked)
        try:
            self.control.send(json.dumps({"op": "stats"}).encode())
            return await asyncio.wait_for(asked, STATS_SECONDS)
        except (OSError, TimeoutError, asyncio.TimeoutError):
            return {}
        finally:
            self.curious.remove(asked)

    async def told(self) -> dict[str, Any]:
        """The worker's next message but statistics, which go to who asked; empty once
        it has gone."""
        while True:
            message = await self.message()
            if message.get("op") != "stats":
                return message
            for asked in self.curious:
                if not asked.done():
                    asked.set_result(message)

    async def message(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self.control, MESSAGE_ROOM)
        except OSError:
            return {}
        if not data:
            return {}
        try:
            message = json.loads(data)
        except ValueError:
            log.warning("worker %d sent something that is not JSON", self.pid)
            return {}
        return message if isinstance(message, dict) else {}

    def terminate(self) -> None:
        self.process.terminate()

    async def stop(self) -> int | None:
        """Ends the process, by force if it must be; gives its exit status."""
        self.control.close()
        return await self.wait(ended=False)

    async def wait(self, ended: bool) -> int | None:
        """Waits for the process. ended: it said that it ends by itself."""
        loop = asyncio.get_running_loop()
        if not ended and self.alive:
            self.process.terminate()
        try:
            await asyncio.wait_for(exited(self.process), STOP_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            log.warning("worker %d does not end: killed", self.pid)
            self.process.kill()
            await loop.run_in_executor(None, self.process.wait)
        return self.process.wait()


class Adopted(Worker):
    """The worker of a server that has gone, met at the socket where it waits. It is
    nobody's child: how it ends is not known."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.descriptor = os.pidfd_open(pid)
        control.setblocking(False)
        self.control = control
        self.pid = pid
        self.curious = []

    @staticmethod
    def card(data: bytes) -> dict[str, Any]:
        """What it says first: its session, as its server had described it."""
        said = json.loads(data)
        if not isinstance(said, dict) or said.get("op") != "heir":
            raise ValueError("it does not say what it serves")
        return said

    @property
    def alive(self) -> bool:
        return not has_come(self.descriptor)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.descriptor, number)
        except ProcessLookupError:
            pass

    async def wait(self, ended: bool) -> int | None:
        if not ended and self.alive:
            self.terminate()
        try:
            await asyncio.wait_for(readable(self.descriptor), STOP_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            log.warning("worker %d does not end: killed", self.pid)
            self.send(signal.SIGKILL)
            await readable(self.descriptor)
        os.close(self.descriptor)
        return None


async def exited(process: Process) -> None:
    """Returns once the process has ended; it is still to be waited for."""
    if process.poll() is not None:
        return
    descriptor = os.pidfd_open(process.pid)
    try:
        await readable(descriptor)
    finally:
        os.close(descriptor)


def status_text(status: int | None) -> str:
    if status is None:
        return "it is not known how"
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def started(mode: str, environment: Mapping[str, str]) -> tuple[Process, socket.socket]:
    """A fresh Python in this mode of worker.py, and our end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        process = subprocess.Popen(
            [*modules.command("fdcore.worker"), mode, str(theirs.fileno())],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def spawn(environment: Mapping[str, str]) -> Worker:
    return Worker(*started("--control-fd", environment))


class Nurse:
    """A process that forks workers: Python's start is most of an attach."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        adopt()
        self.process, self.socket = started("--nurse", environment)
        self.socket.setblocking(False)
        self.turn = asyncio.Lock()

    async def worker(self) -> Worker:
        """OSError: it does not answer."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                async with self.turn:
                    socket.send_fds(self.socket, [b"one"], [theirs.fileno()])
                    answer = loop.sock_recv(self.socket, 64)
                    said = await asyncio.wait_for(answer, START_SECONDS)
            if not said:
                raise ConnectionResetError("it has ended")
        except (TimeoutError, asyncio.TimeoutError):
            ours.close()
            raise TimeoutError("it does not answer") from None
        except BaseException:
            ours.close()
            raise
        return Worker(Child(int(said)), ours)

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


class WorkerPool:
    """Workers, some of which are ready before anybody asks, with the driver open.
    None of them serves twice."""

    def __init__(self, environment: Mapping[str, str], room: int = 1) -> None:
        self.environment = environment
        self.room = room
        self.driver = ""
        self.pinned = True  # the driver keeps what it copies from and to in memory
        self.nurse: Nurse | None = None
        self.spare: list[Worker] = []
        self.filling: asyncio.Task[None] | None = None

    def warm(self, after: float = 0.0) -> None:
        """Sees to it, in the background, that there are spare ones again; after so many
        seconds, so that a program which has just begun has the processors."""
        if self.filling is None or self.filling.done():
            self.filling = asyncio.get_running_loop().create_task(self.fill(after))

    async def fill(self, after: float) -> None:
        await asyncio.sleep(after)
        while len(self.spare) < self.room:
            worker = await self.make()
            if self.driver:
                worker.warm(self.driver, self.pinned)
            self.spare.append(worker)

    async def make(self) -> Worker:
        try:
            if self.nurse is None:
                self.nurse = Nurse(self.environment)
            return await self.nurse.worker()
        except OSError as error:
            log.warning("the process that forks workers: %s", error)
            if self.nurse is not None:
                self.nurse.close()
                self.nurse = None
        return spawn(self.environment)

    async def take(self) -> Worker:
        while self.spare:
            worker = self.spare.pop(0)
            if worker.alive:
                return worker
            status = await worker.stop()
            log.warning("the spare worker had ended: %s", status_text(status))
        return await self.make()

    async def close(self) -> None:
        if self.filling is not None:
            self.filling.cancel()
            await asyncio.gather(self.filling, return_exceptions=True)
        spare, self.spare = self.spare, []
        await asyncio.gather(*(worker.stop() for worker in spare))
        if self.nurse is not None:
            self.nurse.close()
