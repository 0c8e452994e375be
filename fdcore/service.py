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
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from fdcore.errors import ConfigError
from fdcore.sockets import readable

if TYPE_CHECKING:
    from fdcore.server import Server

log = logging.getLogger("fdserver")

# How often what systemctl status shows is told anew.
STATUS_SECONDS = 20.0
# The children of the server before a reload, whose end somebody has to take note of.
CHILDREN = "FDSERVER_CHILDREN"
OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Service:
    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of the environment: they are no worker's."""
        self.kept = {n: environment.pop(n) for n in OURS if n in environment}
        path = self.kept.get("NOTIFY_SOCKET", "")
        self.address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watched = self.watchdog_seconds()
        self.left = [int(pid) for pid in environment.pop(CHILDREN, "").split()]

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

    async def reap(self) -> None:
        """Nobody else waits for what the server before a reload had started."""
        await asyncio.gather(*(reaped(pid) for pid in self.left))

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
        children = " ".join(str(pid) for pid in [*self.left, *children_of(os.getpid())])
        environment = {**os.environ, **self.kept, CHILDREN: children}
        os.execve(sys.executable, sys.orig_argv, environment)


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


async def reaped(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        await readable(descriptor)
        wait_for(pid)
    finally:
        os.close(descriptor)


def wait_for(pid: int) -> None:
    """It has ended already."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
