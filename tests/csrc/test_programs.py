"""Every C test program is one item here: it passes, fails, or skips with a reason."""

import os
import subprocess
from pathlib import Path

import pytest

from fdcore import ucx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 77
PROGRAMS = sorted(path.relative_to(HERE) for path in HERE.glob("*/*.c"))


def make(*targets: str) -> subprocess.CompletedProcess[str]:
    jobs = os.environ.get("FD_BUILD_JOBS", "2")
    command = ["make", "-s", "-C", str(ROOT / "csrc"), f"-j{jobs}", *targets]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: str(path.with_suffix("")))
def test_program(source: Path) -> None:
    program = ROOT / "build" / "test" / source.with_suffix("")
    built = make(f"BUILD={ROOT / 'build'}", str(program))
    assert built.returncode == 0, built.stdout
    environment = dict(os.environ)
    ucx.name(environment)
    ran = subprocess.run(
        [str(program)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=110,
        check=False,
    )
    if ran.returncode == SKIPPED:
        pytest.skip(ran.stdout.strip().rpartition("\n")[2])
    assert ran.returncode == 0, ran.stdout
