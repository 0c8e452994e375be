"""What a session waits for: the program's own waits, and nothing else. Counts, no times."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import APPS, ROADS, Run, build_c

Counts = dict[str, tuple[int, int]]


def counts(stats: str) -> Counts:
    """Messages and waits by the name of the call."""
    found = re.findall(r"^fdcore:  +(\S+) +messages (\d+) +waits (\d+)", stats, re.M)
    return {name: (int(messages), int(waits)) for name, messages, waits in found}


def a_round(remote: Run, road: str, *program: str | Path, env: dict[str, str],
            synchronised: int = 1) -> Counts:
    """What 32 more rounds cost, once the first ones are over. Each synchronises a stream
    so many times."""
    seen = []
    for rounds in (16, 48):
        outcome = remote(*program, str(rounds), road=road, env={"FD_STATS": "1", **env})
        assert outcome.out.splitlines()[-1:] == ["PASS"], outcome.out + outcome.err
        cost = counts(outcome.err)
        # A synchronise of what is known to be over does not wait; none waits twice.
        assert cost.get("cuStreamSynchronize", (0, 0))[1] <= rounds * synchronised, cost
        seen.append(cost)
    few, many = seen
    return {name: (many[name][0] - few.get(name, (0, 0))[0],
                   many[name][1] - few.get(name, (0, 0))[1]) for name in many}


@pytest.mark.parametrize("road", ROADS)
def test_calls_without_an_answer_do_not_wait(road: str, remote: Run) -> None:
    cost = a_round(remote, road, build_c("steady"), env={})
    waits = {name: waits for name, (_, waits) in cost.items() if waits > 0}
    waits.pop("cuStreamSynchronize", 0)
    assert waits.pop("fdcCopyDown") == 32
    # In all rounds together: a busy machine may be late with what was freed, or told.
    assert sum(waits.values()) <= 2, waits
    assert cost["cuGraphLaunch"] == (32, 0), "a replay is one message"


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(("name", "package", "own"), [
    ("numba_steady", "numba_cuda", 2), ("cupy_steady", "cupy", 3)])
def test_libraries_wait_as_often_as_the_program(
        name: str, package: str, own: int, road: str, remote: Run, python: Path,
        tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (it is in the test extra)")
    cost = a_round(remote, road, python, APPS / f"{name}.py",
                   env={"CUPY_CACHE_DIR": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)})
    waits = {name: waits for name, (_, waits) in cost.items() if waits > 0}
    assert 0 < sum(waits.values()) <= 32 * own, waits
