"""Inputs that once crashed, hung or were let pass, and the seeds: once more each."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.parallel import building

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build"
SHARED = {"ptx_read": "ptx"}  # whose inputs a target takes
TARGETS = [
    "ptx", "ptx_read", "cubin", "image", "shim_image", "client", "server", "ring", "tcp",
    "resume", "seal", "rdma", "trunk",
]


@pytest.fixture(scope="module")
def programs() -> Path:
    jobs = os.environ.get("FD_BUILD_JOBS", "2")
    with building():
        made = subprocess.run(
            ["make", "-s", "-C", str(HERE), f"-j{jobs}", f"BUILD={BUILD}", "replay"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert made.returncode == 0, made.stdout
    return BUILD / "fuzz-replay"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.timeout(300)
def test_inputs_that_once_crashed(programs: Path, target: str) -> None:
    inputs = sorted(
        path
        for folder in ("crashes", "seeds")
        for path in (HERE / folder / SHARED.get(target, target)).glob("*")
    )
    assert inputs
    ran = subprocess.run(
        [str(programs / target), *map(str, inputs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
