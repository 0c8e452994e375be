"""A pool with its managers, and a browser that looks at them: for tests and pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import Daemon, Server, start_daemon, start_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
WORK = Path(__file__).with_name("work.py")
# What a condition may take on a machine with more to do than processors, in ms.
PATIENCE = 60_000


@dataclass
class Manager(Daemon):
    """A running fdserver web."""

    url: str


def start_manager(folder: Path, servers: str, *options: str, environment: dict[str, str]) -> Manager:
    log = folder / "web.log"
    command = [sys.executable, "-m", "fdcore_cli.fdserver", "web", "-l", servers]
    command += ["--state", str(folder / "state")]
    if "--listen" not in options:
        command += ["--listen", "127.0.0.1:0"]
    process, told = start_daemon([*command, *options], log, environment)
    return Manager(process, log, told["web"])


@dataclass
class Seen:
    """What a page did that it must not."""

    own: tuple[str, ...] = ()
    expected: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, page) -> None:
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.console)

    def console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    @property
    def outside(self) -> list[str]:
        """Requests that left for somewhere else."""
        own = tuple(url.replace("http", "ws", 1) for url in self.own) + self.own
        return [url for url in self.asked if not url.startswith((*own, "data:", "blob:"))]


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        try:
            yield opened
        finally:
            opened.close()


def pool(folder: Path, count: int = 2, **more: str) -> list[Server]:
    servers = []
    for number in range(count):
        own = folder / f"s{number}"
        own.mkdir()
        servers.append(start_server(own, **more))
    return servers


def work(server: Server, *options: str, mib: int = 64, share: float = 0.2,
         program: Path = WORK) -> subprocess.Popen[str]:
    """A program that goes on until it is killed; returns once its kernels run."""
    run = [str(program), str(mib), str(share)]
    words = run if program != WORK else [sys.executable, *run]
    started = server.start(*options, *words, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline().strip() == "working"
    return started


def end(*programs: subprocess.Popen) -> None:
    for program in programs:
        program.kill()
        program.wait()
