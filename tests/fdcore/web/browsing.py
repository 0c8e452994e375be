"""A pool with its managers, and a browser that looks at them: for tests and pictures."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import START_SECONDS, Server, start_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
WORK = Path(__file__).with_name("work.py")
# What a condition may take on a machine with more to do than processors, in ms.
PATIENCE = 60_000


@dataclass
class Manager:
    """A running fdserver web."""

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_manager(folder: Path, servers: str, *options: str, environment: dict[str, str]) -> Manager:
    ready, theirs = os.pipe()
    log = folder / "web.log"
    command = [sys.executable, "-m", "fdcore_cli.fdserver", "web", "-l", servers]
    command += ["--state", str(folder / "state"), "--ready-fd", str(theirs)]
    if "--listen" not in options:
        command += ["--listen", "127.0.0.1:0"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, *options], env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, pass_fds=[theirs], start_new_session=True)
    os.close(theirs)
    try:
        can_read = select.select([ready], [], [], START_SECONDS)[0]
        said = os.read(ready, 4096) if can_read else b""
    finally:
        os.close(ready)
    if not said:
        process.kill()
        process.wait()
        raise RuntimeError(f"fdserver web did not start:\n{log.read_text(errors='replace')}")
    return Manager(process, json.loads(said)["web"], log)


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
