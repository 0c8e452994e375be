"""Every C test program is one item here: it passes, fails, or skips with a reason."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from fdcore import ucx
from tests.parallel import building

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 77
PROGRAMS = sorted(path.relative_to(HERE) for path in HERE.glob("*/*.c"))


def make(*options: str, programs: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    jobs = os.environ.get("FD_BUILD_JOBS", "2")
    command = ["make", "-s", "-C", str(ROOT / "csrc"), f"-j{jobs}", f"BUILD={ROOT / 'build'}"]
    with building():
        return subprocess.run(
            [*command, *options, *map(str, programs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def program_of(source: Path) -> Path:
    return ROOT / "build" / "test" / source.with_suffix("")


@pytest.fixture(scope="module")
def all_are_built(request: pytest.FixtureRequest) -> bool:
    """Those that are asked for, at once. Which of them cannot be built is then found one
    by one."""
    asked = [
        program_of(item.callspec.params["source"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_program
    ]
    return make("-k", programs=asked).returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: str(path.with_suffix("")))
def test_program(source: Path, all_are_built: bool) -> None:
    program = program_of(source)
    if not all_are_built:
        built = make(programs=[program])
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
