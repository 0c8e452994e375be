"""Starting: attach to the first call, cold and from the pool; modules, first and again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from bench.conftest import (
    BIN,
    KERNELS,
    ROADS,
    Interleaved,
    Measured,
    Server,
    build_cuda,
    virtual_clock,
)

pytestmark = pytest.mark.benchmark(timer=virtual_clock)
SPAWNS = 5
TEXT_KB = 1024
# Until the pool is full again, and nothing else runs.
PAUSE = 1.0


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("cold"), {}, "--warm", "0")
    yield server
    server.stop()


def first(command: list[object], road: str) -> float:
    time.sleep(PAUSE)
    done = subprocess.run([str(word) for word in command], check=True, text=True,
                          stdout=subprocess.PIPE,
                          env={**os.environ, **KERNELS, "FD_TRANSPORT": road})
    return float(done.stdout)


@pytest.mark.parametrize("road", ("shm", "tcp"))
@pytest.mark.parametrize("how", ("pooled", "cold"))
def test_attach(how: str, road: str, interleaved: Interleaved, floor: Measured, cold: Server,
                servers: Callable[[int], Server]) -> None:
    """From before cuInit to after the first call. The floor is a process that starts and
    ends at once."""
    program = build_cuda("first")
    server = cold if how == "cold" else servers(0)
    interleaved.turns(f"attach to first call, {how}", road, {
        "floor": lambda: floor.ask(f"spawn {SPAWNS}")[0] / SPAWNS,
        "direct": lambda: first([BIN / "fdrun", "--direct", "--", program], ""),
        "road": lambda: first([*server.command(program, "0.1")], road),
    })


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("how", ("load", "again"))
def test_module(how: str, road: str, interleaved: Interleaved) -> None:
    """A module of 1 MiB of text: one that was never seen, and one that was."""
    name = "first" if how == "load" else "second"
    interleaved(f"module of 1 MiB, {name} time", road, f"{how} {{n}} {TEXT_KB}", 8,
                f"copy {TEXT_KB << 10} {{n}}")
