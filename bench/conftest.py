"""What the benchmarks share: one process a road, asked in turn, and a clock they set.

The time that counts is measured inside the measured process (loop.c, floor/pingpong.c)
and handed to pytest-benchmark through a virtual clock. In every round the floor, the
direct run and the road are asked one after the other, so a busy moment hits all three.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
BIN = Path(sysconfig.get_path("scripts"))
ROADS = ("shm", "tcp")

_clock = 0.0


def virtual_clock() -> float:
    """Seconds that the measured processes have reported so far."""
    return _clock


class Measured:
    """A process that answers `command` with nanoseconds."""

    def __init__(self, command: list[str | Path], env: dict[str, str]):
        self.process = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **env}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert self.ask_line() == "ready", f"{command} did not start"

    def ask_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> tuple[int, int]:
        """(nanoseconds in all, nanoseconds until the last call was issued)"""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        total, issued = self.ask_line().split()
        return int(total), int(issued)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


def build(name: str, *flags: str) -> Path:
    source, target = ROOT / "bench" / f"{name}.c", OUT / Path(name).name
    OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-o", target, source,
                    *flags], check=True)
    return target


@pytest.fixture(scope="session")
def floor() -> Iterator[Measured]:
    measured = Measured([build("floor/pingpong")], {})
    yield measured
    measured.stop()


@pytest.fixture(scope="session")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Measured]]:
    """`direct` and one process a road, all on CPU devices that skip kernels."""
    program = build("loop", f"-I{ROOT / 'build/gen'}", f"-I{ROOT / 'csrc/include'}",
                    f"-L{ROOT / 'build/lib'}", "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined")
    state = tmp_path_factory.mktemp("bench")
    kernels = {"FD_CPU_KERNELS": "skip"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (state / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "fdserver", "--listen", address, "--cpu-devices", "1", "--state", state],
            env={**os.environ, **kernels}, stdout=log, stderr=log)
    host, port = address.rsplit(":", 1)
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    asked = {"direct": Measured([BIN / "fdrun", "--direct", "--", program], kernels)}
    try:
        for road in ROADS:
            asked[road] = Measured([BIN / "fdrun", "-n", "1", "-p", "0.3", "-l", address, "--",
                                    program], {"FD_TRANSPORT": road})
        yield asked
    finally:
        for measured in asked.values():
            measured.stop()
        server.terminate()
        server.wait(15)


class Interleaved:
    """Runs the three in turn and files the road's figure under pytest-benchmark."""

    def __init__(self, benchmark: Any, floor: Measured, roads: dict[str, Measured]):
        self.benchmark, self.floor, self.roads = benchmark, floor, roads

    def __call__(self, road: str, command: str, count: int, floor_command: str,
                 rounds: int = 9, issued: bool = False) -> None:
        figures: dict[str, list[float]] = {"floor": [], "direct": [], road: []}
        busy: list[float] = []

        def one() -> None:
            global _clock
            psutil.cpu_percent(None)
            for name in figures:
                source = self.floor if name == "floor" else self.roads[name]
                total, issue = source.ask(floor_command if name == "floor" else command)
                figures[name].append((issue if issued and name != "floor" else total) / count)
            busy.append(psutil.cpu_percent(None))
            _clock += figures[road][-1] * 1e-9

        self.benchmark.pedantic(one, rounds=rounds, warmup_rounds=1, iterations=1)
        for values in figures.values():
            del values[0]
        ns = {name: {"median": round(statistics.median(values), 1),
                     "min": round(min(values), 1), "max": round(max(values), 1)}
              for name, values in figures.items()}
        self.benchmark.extra_info.update(
            ns_per_call=ns,
            ratio_to_floor=round(ns[road]["median"] / ns["floor"]["median"], 2),
            ratio_to_direct=round(ns[road]["median"] / ns["direct"]["median"], 2),
            best_ratio_to_floor=round(ns[road]["min"] / ns["floor"]["min"], 2),
            best_ratio_to_direct=round(ns[road]["min"] / ns["direct"]["min"], 2),
            cpu_percent_busy=round(statistics.median(busy), 1),
        )
        print(f"\n  {self.benchmark.name}: {ns}\n  x floor "
              f"{self.benchmark.extra_info['ratio_to_floor']} (best "
              f"{self.benchmark.extra_info['best_ratio_to_floor']}), x direct "
              f"{self.benchmark.extra_info['ratio_to_direct']} (best "
              f"{self.benchmark.extra_info['best_ratio_to_direct']})")


@pytest.fixture
def interleaved(benchmark: Any, floor: Measured, roads: dict[str, Measured]) -> Interleaved:
    benchmark._timer = virtual_clock
    return Interleaved(benchmark, floor, roads)
