"""Every PTX form on the CPU device, and kernels with hard control flow."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import forms, hard, run
from tests.conformance.case import Case, Untested

from fdcore.config import LIBRARIES

DRIVER = LIBRARIES / "libfdcpu.so"
# one kernel's time; long enough for a busy machine, short for what never ends
LIMIT = {"FD_CPU_KERNEL_MS": "30000"}
ENDLESS = {"FD_CPU_KERNEL_MS": "700"}
SAMPLE = 120


@pytest.fixture(scope="module")
def driver() -> str:
    if not DRIVER.exists():
        pytest.fail("fdcore is not built: make build")
    return str(DRIVER)


@pytest.mark.timeout(600)
def test_every_form_passes_or_is_known(driver: str) -> None:
    known = dict(forms.read_list("known.txt"))
    assert all(known.values()), "a known form needs a reason"
    listed = forms.forms()
    assert len(set(listed)) == len(listed)
    assert set(known) <= set(listed), sorted(set(known) - set(listed))
    said = []
    for v in run.run_forms(listed, driver, LIMIT):
        if v.state == run.PASS and v.form in known:
            said.append(f"{v.form} passes and is listed as known")
        if v.state != run.PASS and v.form not in known:
            said.append(f"{v.form}: {v.state}: {v.why}")
    assert not said, "\n".join(said)


def one(case: Case, driver: str, env: dict[str, str]) -> run.Verdict:
    runner = run.Runner(driver, env)
    try:
        (verdict,) = runner.batch([case])
    finally:
        runner.close()
    return verdict


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("make", hard.WORKING, ids=lambda f: f.__name__)
def test_hard_control_flow(
    make: Callable[[], Case], threads: int, driver: str
) -> None:
    env = {**LIMIT, "FD_CPU_THREADS": str(threads)}
    verdict = one(make(), driver, env)
    assert verdict.state == run.PASS, verdict.why


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("make", hard.FAILING, ids=lambda f: f.__name__)
def test_kernel_ends_with_its_error(
    make: Callable[[], Case], threads: int, driver: str
) -> None:
    env = {**ENDLESS, "FD_CPU_THREADS": str(threads)}
    verdict = one(make(), driver, env)
    assert verdict.state == run.PASS, verdict.why


def assembler() -> str | None:
    """ptxas, where a toolkit is installed."""
    found = shutil.which("ptxas")
    if found:
        return found
    try:
        import nvidia
    except ImportError:
        return None
    for base in nvidia.__path__:
        for path in Path(base).glob("*/bin/ptxas"):
            if os.access(path, os.X_OK):
                return str(path)
    return None


def test_sample_of_kernels_is_legal_ptx(tmp_path: Path) -> None:
    ptxas = assembler()
    if not ptxas:
        pytest.skip("no ptxas")
    known = subprocess.run([ptxas, "--help"], capture_output=True, text=True).stdout
    groups: dict[tuple[int, str, str], list[Case]] = {}
    for form in random.Random(0).sample(forms.forms(), SAMPLE):
        try:
            case = forms.make(form)
        except Untested:
            continue
        if f"sm_{case.target}{case.features}'" in known:
            groups.setdefault((case.target, case.features, case.version), []).append(case)
    for make in hard.WORKING + hard.FAILING:
        groups.setdefault((80, "", "8.0"), []).append(make())
    said = []
    for (target, features, _), cases in groups.items():
        source = tmp_path / "kernels.ptx"
        source.write_text(run.module_text(cases, [f"k{k}" for k in range(len(cases))]))
        made = subprocess.run(
            [ptxas, "-O0", f"-arch=sm_{target}{features}", "-o", "/dev/null", source],
            capture_output=True,
            text=True,
        )
        if made.returncode and "requires PTX ISA" not in made.stderr:
            said.append(made.stderr)
    assert not said, "\n".join(said)
