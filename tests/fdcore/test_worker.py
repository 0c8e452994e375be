"""A worker process by itself: what it says to the server and to a client, and when it
ends. The sessions themselves are tested in C (tests/csrc/server) and by programs."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fdcore.config import CPU_DEVICE, library
from fdcore.worker import Users, Worker

READY = struct.Struct("<Ii248s")
MAGIC = 0x31434446


class Hand:
    """A worker, its control socket and its client's end of the command connection."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client, self.workers = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fdcore.worker", "--control-fd",
                 str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "FD_CPU_DEVICES": "1", "FD_CPU_MEMORY_MB": "256"},
            )  # fmt: skip
        self.control.settimeout(60)
        self.client.settimeout(60)

    def order(self, *sockets: socket.socket, **order: Any) -> None:
        socket.send_fds(
            self.control, [json.dumps(order).encode()], [s.fileno() for s in sockets]
        )

    def first(self, driver: str, **changes: Any) -> dict[str, Any]:
        order = {
            "op": "start",
            "session": "ab" * 16,
            "driver": driver,
            "road": "shm",
            "devices": [{"ordinal": 0, "memory": 64 << 20}],
        }
        return {**order, **changes}

    def start(self, driver: str, **changes: Any) -> None:
        self.order(self.workers, **self.first(driver, **changes))
        self.workers.close()

    def told(self) -> dict[str, Any]:
        return json.loads(self.control.recv(1 << 16) or b"{}")

    def ready(self) -> tuple[int, str]:
        """What the client is told first."""
        data = self.client.recv(READY.size, socket.MSG_WAITALL)
        magic, error, reason = READY.unpack(data)
        assert magic == MAGIC
        return error, reason.rstrip(b"\0").decode()

    def close(self) -> None:
        for sock in (self.control, self.client, self.workers):
            sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    yield made
    made.close()


def test_worker_serves_until_its_client_goes(hand: Hand) -> None:
    hand.start(str(library(CPU_DEVICE)))
    assert hand.ready() == (0, "")
    assert hand.told() == {"op": "ready"}
    hand.order(op="stats")
    stats = hand.told()
    assert stats["op"] == "stats"
    assert stats["counters"]["messages"] == 0
    assert stats["calls"] == {}
    hand.client.close()
    ended = hand.told()
    assert ended["op"] == "ended"
    assert ended["reason"] == "the client has gone"
    assert ended["counters"]["memory_used"] == 0
    assert hand.process.wait(60) == 0


def test_warm_worker_has_the_driver_open_before_its_client_comes(hand: Hand) -> None:
    hand.order(op="warm", driver=str(library(CPU_DEVICE)))
    hand.start(str(library(CPU_DEVICE)))
    assert hand.ready() == (0, "")
    assert hand.told() == {"op": "ready"}


def shared(pid: int) -> set[str]:
    """What memory a worker has mapped that a client can map too."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if "memfd:fdcore-" in line}


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(os.geteuid() != 0, reason="workers show nobody else their memory")
def test_warm_worker_has_shared_memory_and_frees_what_its_road_does_not_take(
    hand: Hand,
) -> None:
    hand.order(op="warm", driver=str(library(CPU_DEVICE)))
    until(lambda: len(shared(hand.process.pid)) == 5)
    client, bulk = socket.socketpair()
    with client, bulk:
        order = hand.first(str(library(CPU_DEVICE)), road="tcp")
        hand.order(hand.workers, bulk, **order)
        hand.workers.close()
        bulk.close()
        assert hand.ready() == (0, "")
        assert hand.told() == {"op": "ready"}
        until(lambda: not shared(hand.process.pid))


@pytest.mark.skipif(os.geteuid() != 0, reason="workers show nobody else their memory")
def test_warm_worker_serves_with_the_memory_that_it_has(hand: Hand) -> None:
    hand.order(op="warm", driver=str(library(CPU_DEVICE)))
    until(lambda: len(shared(hand.process.pid)) == 5)
    maps = Path(f"/proc/{hand.process.pid}/maps")
    before = [line for line in maps.read_text().splitlines() if "memfd:" in line]
    hand.start(str(library(CPU_DEVICE)))
    assert hand.ready() == (0, "")
    assert hand.told() == {"op": "ready"}
    assert [x for x in maps.read_text().splitlines() if "memfd:fdcore" in x] == before


def test_worker_that_cannot_serve_tells_both(hand: Hand) -> None:
    hand.start("/nonexistent/libcuda.so.1")
    error, reason = hand.ready()
    assert error != 0
    assert "/nonexistent/libcuda.so.1" in reason
    failed = hand.told()
    assert failed["op"] == "failed"
    assert "/nonexistent/libcuda.so.1" in failed["reason"]
    assert hand.process.wait(60) == 1


def test_worker_ends_at_sigterm(hand: Hand) -> None:
    hand.start(str(library(CPU_DEVICE)))
    assert hand.told() == {"op": "ready"}
    hand.process.send_signal(signal.SIGTERM)
    assert hand.told()["reason"] == "told to end"
    assert hand.process.wait(60) == 0


def test_worker_outlives_its_server(hand: Hand) -> None:
    hand.start(str(library(CPU_DEVICE)))
    assert hand.told() == {"op": "ready"}
    hand.control.close()
    with pytest.raises(subprocess.TimeoutExpired):
        hand.process.wait(0.5)
    hand.client.close()
    assert hand.process.wait(60) == 0


def test_spare_worker_ends_with_its_server(hand: Hand) -> None:
    hand.control.close()
    assert hand.process.wait(60) == 0


class Guarded:
    """A session that may be freed by another thread."""

    def __init__(self, guard: Users) -> None:
        self.guard = guard
        self.used: list[str] = []

    def use(self, name: str) -> dict[str, Any]:
        self.used.append(name if self.guard.count else f"{name} unguarded")
        return {}

    def __getattr__(self, name: str) -> Callable[[], dict[str, Any]]:
        return lambda: self.use(name)


def test_session_is_not_looked_at_while_it_is_freed() -> None:
    """The server may ask what a session did, or end it, as the session ends by itself."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(theirs.detach())
    worker.session = session = Guarded(worker.using)
    control.send(json.dumps({"op": "stats"}).encode())
    control.send(json.dumps({"op": "stop"}).encode())
    worker.listen()
    assert session.used == ["counters", "calls", "stop"]
    control.close()
    worker.control.sock.close()
    for fd in (worker.wake, worker.woken, worker.news):
        os.close(fd)


class Waiting:
    """A session whose resume waits for another order."""

    def __init__(self) -> None:
        self.company_came = threading.Event()
        self.resumed = threading.Event()
        self.in_time = False

    def resume(self, which: int, turn: int, fd: int, key: bytes) -> None:
        self.in_time = self.company_came.wait(60)
        os.close(fd)
        self.resumed.set()

    def company(self) -> None:
        self.company_came.set()

    def stop(self) -> None:
        pass


def test_resume_that_waits_for_its_client_holds_no_order_up() -> None:
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(theirs.detach())
    worker.session = session = Waiting()
    order = {"op": "resume", "which": 0, "turn": 1, "key": ""}
    socket.send_fds(control, [json.dumps(order).encode()], [control.fileno()])
    for op in ("company", "stop"):
        control.send(json.dumps({"op": op}).encode())
    worker.listen()
    assert session.resumed.wait(60)
    assert session.in_time
    worker.using.close()
    assert worker.using.count == 0
    control.close()
    worker.control.sock.close()
    for fd in (worker.wake, worker.woken, worker.news):
        os.close(fd)


def test_worker_starts_with_few_modules() -> None:
    heavy = {"asyncio", "capnp", "ctypes", "logging", "ssl", "subprocess", "psutil"}
    code = "import sys, fdcore.worker; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not heavy & set(run.stdout.split())
