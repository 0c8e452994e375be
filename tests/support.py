"""What the tests share: servers, and the commands as people run them."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fdcore.config import LIBRARIES

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment with nothing of fdcore, and sockets below folder."""
    made = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FD_") and name != "LD_LIBRARY_PATH"
    }
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    made.update(XDG_RUNTIME_DIR=str(runtime), XDG_CONFIG_HOME=str(folder / "config"))
    made.update(FD_POOL=str(folder / "pool"))
    made.update(more)
    return made


def processes() -> Iterator[tuple[int, list[bytes]]]:
    """What runs on this machine: process ids and command lines."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes().split(b"\0")


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for what is about to happen; a test fails where it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class Daemon:
    """A running program, and what it has logged."""

    process: "subprocess.Popen[bytes]"
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


@dataclass
class Server(Daemon):
    """A running fdserver, with its control addresses."""

    unix: str
    control: str
    environment: dict[str, str]

    def free(self) -> list[int]:
        """MiB free on each GPU, as the server says."""
        return [free >> 20 for _, free in self.ask("gpus")]

    def free_of_all(self) -> list[int]:
        """The same once nobody has any: a lease ends a moment after its program."""
        until(lambda: not self.leases())
        return self.free()

    def leases(self) -> list[str]:
        """The ids of all leases, as the server says."""
        return [str(row["lease"]) for row in self.ask("leases")]

    def ask(self, what: str) -> Any:
        from fdcore.config import parse_address, protocol_hash
        from fdcore.rpc import client

        # In a thread: the caller may be in a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(
                getattr(client, what), parse_address(self.unix), protocol_hash()
            )
            return asked.result()

    def workers(self) -> dict[int, int]:
        """The workers that ever had a session of this server, with the pid of the
        program that it was, as the log says."""
        found = re.findall(r" pid (\d+) over \w+, worker (\d+)$", self.log, re.M)
        return {int(worker): int(program) for program, worker in found}

    def run(
        self,
        *arguments: str,
        road: str = "",
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """fdrun against this server, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.client_environment(road) | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(
        self, *arguments: str, road: str = "", **options: object
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            env=self.client_environment(road),
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "fdcore_cli.fdrun", "-l", self.unix, *arguments]

    def client_environment(self, road: str) -> dict[str, str]:
        return self.environment | ({"FD_TRANSPORT": road} if road else {})


def start_daemon(
    words: Sequence[str], log: Path, env: dict[str, str]
) -> tuple["subprocess.Popen[bytes]", Any]:
    """fdserver with these words, once it has said that it is ready, and what it said."""
    ready, theirs = os.pipe()
    log.write_bytes(b"")
    # Appended: workers of the server before write there as well, each at its own place.
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [*words, "--ready-fd", str(theirs)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs],
            start_new_session=True,
        )
    os.close(theirs)
    try:
        can_read = select.select([ready], [], [], START_SECONDS)[0]
        said = os.read(ready, 4096) if can_read else b""
    finally:
        os.close(ready)
    if not said:
        process.kill()
        process.wait()
        pytest.fail(f"fdserver did not start:\n{log.read_text(errors='replace')}")
    return process, json.loads(said)


def start_server(
    folder: Path,
    *options: str,
    devices: int = 2,
    memory_mb: int = 1024,
    prefix: Sequence[str] = (),
    **more: str,
) -> Server:
    if not (LIBRARIES / "libfdcpu.so").exists():
        pytest.fail("fdcore is not built: make build")
    env = environment(folder, FD_CPU_MEMORY_MB=str(memory_mb), **more)
    log = folder / "server.log"
    command = [*prefix, sys.executable, "-m", "fdcore_cli.fdserver"]
    command += ["--listen", "127.0.0.1:0", "--state", str(folder / "state")]
    if "--driver" not in options:
        command += ["--cpu-devices", str(devices)]
    process, told = start_daemon([*command, *options], log, env)
    return Server(process, log, f"unix:{told['unix']}", told["control"], env)


def compile_c(name: str, folder: Path, flags: Sequence[str] = ("-ldl",)) -> Path:
    source = ROOT / "tests" / "e2e" / "apps" / name
    made = folder / source.stem
    cc = os.environ.get("CC", "gcc")
    subprocess.run(
        [cc, "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, source, *flags],
        check=True,
    )
    return made
