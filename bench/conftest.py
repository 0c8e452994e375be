"""What the benchmarks share: one process a road, asked in turn, and a clock they set.

The time that counts is measured inside the measured process (loop.c, floor/pingpong.c)
and handed to pytest-benchmark through a virtual clock. In every round the floor, the
direct run and the road are asked one after the other, so a busy moment hits all three.
What was found is written at the end by report.py.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import report
from bench.report import Figure

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
BIN = Path(sysconfig.get_path("scripts"))
# Round trip in microseconds that is added by the server's emulation, and how a round has
# to shrink so that it takes no longer than a second or so.
ROADS = {"shm": 0, "tcp": 0, "tcp+50us": 50, "tcp+1ms": 1000, "tcp+30ms": 30000}
FEWER = {"shm": 1, "tcp": 1, "tcp+50us": 4, "tcp+1ms": 40, "tcp+30ms": 400}
KERNELS = {"FD_CPU_KERNELS": "skip"}
ROUNDS = int(os.environ.get("FD_BENCH_ROUNDS", "7"))

_clock = 0.0
figures: list[Figure] = []


def virtual_clock() -> float:
    """Seconds that the measured processes have reported so far."""
    return _clock


class Spent:
    """Processor time so far: everybody's, and that of this process and all below it."""

    def __init__(self) -> None:
        self.when = time.monotonic()
        times = psutil.cpu_times()
        self.all = sum(times) - times.idle - times.iowait - times.guest
        self.ours = 0.0
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                self.ours += sum(process.cpu_times()[:4])
            except psutil.Error:
                pass  # it has ended

    def others_since(self, before: Spent) -> float:
        """Percent of the processors that others used."""
        others = (self.all - before.all) - (self.ours - before.ours)
        room = (self.when - before.when) * (psutil.cpu_count() or 1)
        return max(0.0, min(100.0, 100 * others / room)) if room > 0 else 0.0


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


def build_cuda(name: str) -> Path:
    return build(name, f"-I{ROOT / 'build/gen'}", f"-I{ROOT / 'csrc/include'}",
                 f"-L{ROOT / 'build/lib'}", "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined")


class Server:
    """An fdserver with one CPU device that skips kernels, on a port of its own."""

    def __init__(self, state: Path, env: dict[str, str], *options: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        state.mkdir(parents=True, exist_ok=True)
        with (state / "log").open("w") as log:
            self.process = subprocess.Popen(
                [BIN / "fdserver", "--listen", self.address, "--cpu-devices", "1",
                 "--state", state, *options],
                env={**os.environ, **KERNELS, **env}, stdout=log, stderr=log)
        host, port = self.address.rsplit(":", 1)
        for _ in range(400):
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("fdserver did not start:\n" + (state / "log").read_text())

    def command(self, program: Path, part: str = "0.2") -> list[str | Path]:
        return [BIN / "fdrun", "-n", "1", "-p", part, "-l", self.address, "--", program]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)


@pytest.fixture(scope="session")
def floor() -> Iterator[Measured]:
    measured = Measured([build("floor/pingpong")], {})
    yield measured
    measured.stop()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Server]]:
    """The server whose road is so many microseconds longer, started when it is asked for."""
    running: dict[int, Server] = {}
    folder = tmp_path_factory.mktemp("bench")

    def server(rtt_us: int) -> Server:
        if rtt_us not in running:
            env = {"FD_EMULATE_RTT_US": str(rtt_us)} if rtt_us else {}
            running[rtt_us] = Server(folder / f"s{rtt_us}", env)
        return running[rtt_us]

    yield server
    for one in running.values():
        one.stop()


@pytest.fixture(scope="session")
def asked(servers: Callable[[int], Server]) -> Iterator[Callable[[str], Measured]]:
    """`direct`, or one process a road, started when it is asked for."""
    program = build_cuda("loop")
    running: dict[str, Measured] = {}

    def one(road: str) -> Measured:
        if road not in running:
            if road == "direct":
                command, env = [BIN / "fdrun", "--direct", "--", program], KERNELS
            else:
                command = servers(ROADS[road]).command(program)
                env = {"FD_TRANSPORT": road.partition("+")[0]}
            running[road] = Measured(command, env)
        return running[road]

    yield one
    for measured in running.values():
        measured.stop()


class Interleaved:
    """Runs the three in turn and files the road's figure under pytest-benchmark."""

    def __init__(self, benchmark: Any, floor: Measured, asked: Callable[[str], Measured]):
        self.benchmark, self.floor, self.asked = benchmark, floor, asked

    def __call__(self, name: str, road: str, command: str, count: int, floor_command: str,
                 issued: bool = False) -> None:
        """In the commands {n} is the number of calls: `count`, fewer on long roads."""
        n = max(2, count // FEWER[road])
        direct, there = self.asked("direct"), self.asked(road)

        def of(source: Measured, text: str, number: int, issue: bool) -> float:
            total, until = source.ask(text.format(n=number))
            return (until if issue else total) / number

        self.turns(name, road, {
            "floor": lambda: of(self.floor, floor_command, n, False),
            "direct": lambda: of(direct, command, count, issued),
            "road": lambda: of(there, command, n, issued),
        })

    def program(self, name: str, road: str, us: int) -> None:
        """300 stand-in kernels and a wait; nanoseconds of it all, a kernel."""
        command, kernels = f"app 300 {us}", 300
        direct, there = self.asked("direct"), self.asked(road)
        self.turns(name, road, {
            "floor": lambda: float(us * 1000),
            "direct": lambda: direct.ask(command)[0] / kernels,
            "road": lambda: there.ask(command)[0] / kernels,
        })

    def turns(self, name: str, road: str, sources: dict[str, Callable[[], float]]) -> None:
        figure = Figure(name, road, {source: [] for source in sources}, [])

        def one() -> None:
            global _clock
            before = Spent()
            for source, ask in sources.items():
                figure.taken[source].append(ask())
            figure.busy.append(Spent().others_since(before))
            _clock += figure.taken["road"][-1] * 1e-9

        self.benchmark.pedantic(one, rounds=ROUNDS, warmup_rounds=1, iterations=1)
        for values in (*figure.taken.values(), figure.busy):
            del values[0]
        figures.append(figure)
        self.benchmark.extra_info.update(
            ns=figure.summary(), ratio_to_floor=figure.ratio("floor"),
            ratio_to_direct=figure.ratio("direct"),
            best_ratio_to_floor=figure.ratio("floor", min),
            best_ratio_to_direct=figure.ratio("direct", min),
            others_percent=round(statistics.median(figure.busy), 1))
        print(f"\n  {figure.line()}")


@pytest.fixture
def interleaved(
    benchmark: Any, floor: Measured, asked: Callable[[str], Measured]
) -> Interleaved:
    benchmark._timer = virtual_clock
    return Interleaved(benchmark, floor, asked)


def pytest_sessionfinish() -> None:
    if figures:
        report.write(figures, OUT)
