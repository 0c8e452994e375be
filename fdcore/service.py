"""fdserver under systemd: what it tells of itself (sd_notify), and reloading.

Where nobody listens (NOTIFY_SOCKET is not set) nothing is told. A reload is a restart
under the same pid: what runs goes on, and the fresh fdserver takes it over.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Collection, Iterable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from fdcore.errors import ConfigError

if TYPE_CHECKING:
    from fdcore.server import Server

log = logging.getLogger("fdserver")

# How often what systemctl status shows is told anew.
STATUS_SECONDS = 20.0
# Set by a reload: there are children that another program has started.
RELOADED = "FDSERVER_RELOADED"
OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Service:
    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of the environment: they are no worker's."""
        self.kept = {n: environment.pop(n) for n in OURS if n in environment}
        path = self.kept.get("NOTIFY_SOCKET", "")
        self.address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watched = self.watchdog_seconds()
        self.reloaded = bool(environment.pop(RELOADED, ""))
        self.ended: set[int] = set()

    @property
    def here(self) -> bool:
        return bool(self.address)

    def watchdog_seconds(self) -> float:
        """How long it may be silent; 0: as long as it likes."""
        if self.kept.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0.0
        text = self.kept.get("WATCHDOG_USEC", "")
        return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0

    def tell(self, *said: str) -> None:
        """Lines such as READY=1; who does not listen is not waited for."""
        if not self.here:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(self.address)
                sock.send("\n".join(said).encode())
        except OSError as error:
            log.debug("%s: %s", self.address, error)

    async def run(self, server: "Server") -> None:
        """Says that everything is up, and goes on saying it while the loop turns."""
        self.tell("READY=1", f"STATUS={status(server)}")
        seconds = min(STATUS_SECONDS, self.watched / 3 or STATUS_SECONDS)
        while self.here:
            await asyncio.sleep(seconds)
            self.tell("WATCHDOG=1", f"STATUS={status(server)}")
            if self.reloaded:
                self.reap(own_of(server))

    def reap(self, own: Collection[int]) -> None:
        """Nobody else waits for what the server before a reload had started. own: who
        has somebody; others get the time of a round."""
        ended = {pid for pid in children_of(os.getpid()) if has_ended(pid)} - set(own)
        for pid in ended & self.ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self.ended = ended

    def reload(self) -> None:
        """SIGHUP: starts this program again in its own place, unless what is configured
        now would keep it from starting. What runs is left as it is after SIGUSR2."""
        log.info("reloading")
        self.tell("RELOADING=1")
        try:
            check_settings()
        except ConfigError as error:
            log.error("not reloaded: %s", error)
            self.tell("READY=1")
            return
        logging.shutdown()
        environment = {**os.environ, **self.kept, RELOADED: "1"}
        try:
            os.execve(sys.executable, sys.orig_argv, environment)
        except OSError as error:  # what is installed now may be elsewhere
            why = (error.strerror or str(error)).lower()
            log.error("not reloaded: %s: %s; restart it", sys.executable, why)
            self.tell("READY=1")


def status(server: "Server") -> str:
    """For people."""
    gpus, leases = len(server.book.gpus), len(server.book.leases)
    where = f" at {server.options.listen}" if server.options.listen else ""
    drained = ", drained" if server.draining else ""
    programs = len(server.sessions)
    return f"{gpus} GPUs{where}: {leases} leases, {programs} programs{drained}"


def check_settings() -> None:
    from fdcore.settings import KNOWN, load

    settings = load()
    for name in KNOWN:
        settings.find(name)


def children_of(pid: int) -> Iterable[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found.update(int(word) for word in path.read_text().split())
    return sorted(found)


def has_ended(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "Z"


def own_of(server: "Server") -> Collection[int]:
    """The processes that this server has started and looks after."""
    pool = server.workers
    workers = [*pool.spare, *(session.worker for session in server.sessions.values())]
    found = {worker.pid for worker in workers if worker is not None}
    return found | ({pool.nurse.process.pid} if pool.nurse is not None else set())
