"""Kernels on the CPU device against the same kernels as scalar C with checks.

Both run in one process on one thread (ptxloop.c), in turn; what is filed is CPU time.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from bench import conftest
from bench.conftest import OUT, ROOT, Measured

KERNELS = ("saxpy", "reduce", "matmul_tiled", "matmul_naive", "fma_chains", "collatz")
ROUNDS = 15


@pytest.fixture(scope="module")
def loop() -> Iterator[Measured]:
    lib = ROOT / "build" / "lib" / "libfdcengine.a"
    subprocess.run(["make", "-s", "-C", ROOT / "csrc", lib], check=True)
    OUT.mkdir(parents=True, exist_ok=True)
    fma = ["-march=x86-64-v3"] if platform.machine() == "x86_64" else []
    floor = OUT / "ptx_scalar.o"
    common = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra"]
    subprocess.run(
        [*common, *fma, "-ffp-contract=off", "-c", "-o", floor,
         ROOT / "bench/floor/ptx_scalar.c"], check=True)
    program = OUT / "ptxloop"
    subprocess.run(
        [*common, "-g", f"-I{ROOT / 'bench'}", f"-I{ROOT / 'csrc/cpudev'}",
         f"-I{ROOT / 'csrc/include'}", "-o", program, ROOT / "bench/ptxloop.c", floor, lib,
         "-lm", "-lpthread", "-ldl"], check=True)
    measured = Measured([program, ROOT / "bench/kernels/cpudev.ptx"], {})
    yield measured
    measured.stop()


def measure(benchmark: Any, loop: Measured, device: str, floor: str | None) -> None:
    """Files what `device` takes; with a floor, asked in turn, the ratio to that."""
    figures: dict[str, list[float]] = {"device": [], "floor": []}
    benchmark._timer = conftest.virtual_clock

    def one() -> None:
        if floor:
            figures["floor"].append(loop.ask(floor)[0])
        figures["device"].append(loop.ask(device)[0])
        conftest._clock += figures["device"][-1] * 1e-9

    benchmark.pedantic(one, rounds=ROUNDS, warmup_rounds=1, iterations=1)
    for values in figures.values():
        del values[:1]
    us = {name: {"median": round(statistics.median(values) / 1e3, 1),
                 "min": round(min(values) / 1e3, 1)}
          for name, values in figures.items() if values}
    benchmark.extra_info["cpu_us"] = us
    if floor:
        benchmark.extra_info.update(
            ratio_to_floor=round(us["device"]["median"] / us["floor"]["median"], 2),
            best_ratio_to_floor=round(us["device"]["min"] / us["floor"]["min"], 2))
    print(f"\n  {benchmark.name}: {dict(benchmark.extra_info)}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(benchmark: Any, loop: Measured, kernel: str) -> None:
    assert loop.ask(f"same {kernel}")[0] == 0, "the device's result differs from scalar C's"
    measure(benchmark, loop, f"device {kernel}", f"floor {kernel}")


def test_load(benchmark: Any, loop: Measured) -> None:
    """From the text of six kernels to one that is ready to run."""
    measure(benchmark, loop, "load saxpy", None)
