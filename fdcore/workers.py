"""Worker processes: one a session, never used twice, the next one started beforehand.

The server speaks with a worker over a SOCK_SEQPACKET pair: one JSON object a message,
with descriptors beside it.

    server to worker  {"op": "warm", "driver"}: open it already
                      {"op": "start", "session", "driver", "road", "devices",
                      "host_memory", "cache", "cache_room"} and the session's
                      sockets: command[, bulk]
                      {"op": "stats"}
    worker to server  {"op": "ready"}, {"op": "failed", "reason"},
                      {"op": "stats", "counters", "calls"},
                      {"op": "ended", "reason", "counters"}
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger("fdserver")

MESSAGE_ROOM = 1 << 16
START_SECONDS = 60.0
STOP_SECONDS = 2.0
STATS_SECONDS = 2.0


class Worker:
    """One worker process and the server's end of its control socket."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fdcore.worker", "--control-fd",
                 str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.control = ours
        self.pid = self.process.pid
        self.curious: list[asyncio.Future[dict[str, Any]]] = []

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def warm(self, driver: str) -> None:
        self.control.send(json.dumps({"op": "warm", "driver": driver}).encode())

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
    ) -> None:
        """Gives it its session. The sockets are the worker's from then on."""
        order = {
            "op": "start",
            "session": session.hex(),
            "driver": driver,
            "road": road,
            "devices": [{"ordinal": n, "memory": size} for n, size in devices],
            "host_memory": host_memory,
            "cache": str(cache or ""),
            "cache_room": cache_room,
        }
        for sock in sockets:
            sock.setblocking(True)
        descriptors = [sock.fileno() for sock in sockets]
        socket.send_fds(self.control, [json.dumps(order).encode()], descriptors)
        for sock in sockets:
            sock.close()

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

    async def stop(self) -> int:
        """Ends the process, by force if it must be; gives its exit status."""
        self.control.close()
        return await self.wait(ended=False)

    async def wait(self, ended: bool) -> int:
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


async def exited(process: "subprocess.Popen[bytes]") -> None:
    """Returns once the process has ended; it is still to be waited for."""
    if process.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    done = asyncio.Event()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def status_text(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


class WorkerPool:
    """Starts workers, and keeps one ready: Python's start is most of an attach."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.driver = ""
        self.spare: Worker | None = None

    def warm(self) -> None:
        if self.spare is None:
            self.spare = Worker(self.environment)
            self.spare.warm(self.driver)

    async def take(self) -> Worker:
        worker, self.spare = self.spare, None
        if worker is not None and not worker.alive:
            status = await worker.stop()
            log.warning("the spare worker had ended: %s", status_text(status))
            worker = None
        return worker or Worker(self.environment)

    async def close(self) -> None:
        worker, self.spare = self.spare, None
        if worker is not None:
            await worker.stop()
