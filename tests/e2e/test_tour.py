"""The tour: nvcc-built programs that verify themselves, directly and through fdrun."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import APPS, DRIVER, OUT, ROADS, Run, newer, nvcc
from tests.parallel import building

TOUR = APPS / "tour"
NAMES = sorted(path.stem for path in TOUR.glob("*.cu"))
# Programs that ask for several devices.
DEVICES = {"peers": 2}
EXTRA = {"separate": ["-rdc=true", "-x", "cu", TOUR / "separate_unit.inc"]}


def build(name: str) -> str:
    """What the compiler said, empty where all went well."""
    compiler, source, target = nvcc(), TOUR / f"{name}.cu", OUT / f"tour-{name}"
    if compiler is None:
        pytest.skip("no nvcc: neither in the wheels of the test extra nor on the path")
    with building(target.name):
        if newer(target, source, TOUR / "tour.h"):
            return ""
        OUT.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f"{target.name}.{os.getpid()}")
        done = subprocess.run(
            [compiler, "-std=c++17", "-arch=compute_80", "-o", made, source,
             *EXTRA.get(name, [])],
            capture_output=True, text=True,
        )
        if done.returncode == 0:
            made.replace(target)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", NAMES)
def test_tour(name: str, road: str, direct: Run, remote: Run) -> None:
    assert build(name) == ""
    program: Path = OUT / f"tour-{name}"
    devices = 1 if DRIVER else DEVICES.get(name, 1)
    alone = direct(program, devices=devices)
    assert alone.out.splitlines()[-1:] == ["PASS"], f"direct:\n{alone.out}\n{alone.err}"
    assert alone.status == 0
    remoted = remote(program, road=road, options=("-n", str(devices)))
    assert (remoted.out, remoted.status) == (alone.out, 0), (
        f"direct:\n{alone.out}\nremoted:\n{remoted.out}\n{remoted.err}")


@pytest.mark.timeout(600)
def test_failed_assertion_is_told_on_standard_error(direct: Run, remote: Run) -> None:
    assert build("assertion") == ""
    for run in (direct, remote):
        done = run(OUT / "tour-assertion")
        told = [line for line in done.err.splitlines() if "Assertion `" in line]
        assert told, done.err
        assert "assertion.cu:6: " in told[0]
        assert "Assertion `" not in done.out
