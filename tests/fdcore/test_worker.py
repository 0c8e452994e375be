"""A worker process by itself: what it says to the server and to a client, and when it
ends. The sessions themselves are tested in C (tests/csrc/server) and by programs."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fdcore.config import CPU_DEVICE, library

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

    def start(self, driver: str, **changes: Any) -> None:
        order = {
            "op": "start",
            "session": "ab" * 16,
            "driver": driver,
            "road": "shm",
            "devices": [{"ordinal": 0, "memory": 64 << 20}],
        }
        self.order(self.workers, **{**order, **changes})
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


def test_worker_starts_with_few_modules() -> None:
    heavy = {"asyncio", "capnp", "ctypes", "logging", "ssl", "subprocess", "psutil"}
    code = "import sys, fdcore.worker; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not heavy & set(run.stdout.split())
