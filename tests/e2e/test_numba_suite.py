"""A quick part of numba-cuda's own tests; tests/suites/numba_cuda.sh runs all of them."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.suites.numba_suite import judge

pytest.importorskip("numba_cuda", reason="numba-cuda is in the `cuda` extra")

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "tests" / "suites" / "numba_suite.py"

# Module and how many tests it has at least.
MODULES = {
    "cudapy.test_alignment": 2,
    "cudapy.test_constmem": 8,
    "cudapy.test_cooperative_groups": 8,
    "cudapy.test_datetime": 7,
    "cudapy.test_exception": 6,
    "cudapy.test_flow_control": 64,
    "cudapy.test_multithreads": 4,
    "cudapy.test_powi": 8,
    "cudapy.test_recursion": 8,
    "cudapy.test_sm": 18,
    "cudapy.test_sync": 19,
    "cudapy.test_warp_ops": 20,
}
REMOTE = ("cudapy.test_multithreads", "cudapy.test_sm", "cudapy.test_sync")


def outcomes(run, module, place, **how):
    file = place / "tests"
    file.unlink(missing_ok=True)
    end = run(sys.executable, RUNNER, "--child", "numba.cuda.tests." + module, file,
              env={"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}, **how)
    assert end.status == 0, end.err
    lines = file.read_text().splitlines()
    found = Counter(line.split()[0] for line in lines)
    assert set(found) <= {"started", "passed", "skipped"}, end.err
    assert found["started"] == found["passed"] + found["skipped"], end.err
    assert found["passed"] + found["skipped"] >= MODULES[module]
    assert found["passed"] > 0
    return sorted(line for line in lines if not line.startswith("started"))


def test_judgement_knows_what_is_on_no_list() -> None:
    may_fail, may_skip = {"known": "why"}, {"idle": "why"}

    def wrong(found: dict[str, str], before: dict[str, str] | None = None) -> set[str]:
        return set(judge(found, before or {}, may_fail, may_skip))

    assert wrong({"a": "passed", "known": "failed", "idle": "skipped"}) == set()
    assert wrong({"a": "failed", "b": "skipped", "c": "died", "d": "error"}) == set("abcd")
    assert wrong({"idle": "failed", "known": "skipped"}) == {"idle", "known"}
    assert wrong({"known": "failed"}, {"known": "failed"}) == set()
    assert wrong({"known": "failed"}, {"known": "passed"}) == {"known"}
    assert wrong({"idle": "skipped"}, {"idle": "passed"}) == {"idle"}
    assert wrong({"a": "passed"}, {"a": "passed", "lost": "skipped"}) == {"lost"}


# What was found directly, so that it need not be found again.
found_directly = {}


@pytest.mark.parametrize("module", MODULES)
def test_direct(direct, tmp_path, module):
    found_directly[module] = outcomes(direct, module, tmp_path)


@pytest.mark.parametrize("module", REMOTE)
def test_remote_is_the_same(direct, remote, tmp_path, module):
    found = outcomes(remote, module, tmp_path)
    if module not in found_directly:
        test_direct(direct, tmp_path, module)
    assert found == found_directly[module]
