"""Every PTX form on the CPU device, and kernels with hard control flow."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fdcore.config import LIBRARIES
from tests.conformance import forms, golden, hard, run
from tests.conformance.case import Case, Untested

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


@pytest.fixture(scope="module")
def verdicts(driver: str) -> list[run.Verdict]:
    return run.run_forms(forms.forms(), driver, LIMIT)


@pytest.mark.timeout(600)
def test_every_form_passes_or_is_known(verdicts: list[run.Verdict]) -> None:
    known = dict(forms.read_list("known.txt"))
    assert all(known.values()), "a known form needs a reason"
    listed = forms.forms()
    assert len(set(listed)) == len(listed)
    assert set(known) <= set(listed), sorted(set(known) - set(listed))
    said = []
    for v in verdicts:
        if v.state == run.PASS and v.form in known:
            said.append(f"{v.form} passes and is listed as known")
        if v.state != run.PASS and v.form not in known:
            said.append(f"{v.form}: {v.state}: {v.why}")
    assert not said, "\n".join(said)


@pytest.mark.timeout(600)
def test_every_form_has_the_bits_of_a_gpu_or_is_listed(verdicts: list[run.Verdict]) -> None:
    there = golden.read(forms.HERE / "golden_h200.txt")
    listed = dict(forms.read_list("golden_differs.txt"))
    assert all(listed.values()), "a form that differs needs a reason"
    changed = {f for f, why in listed.items() if why.startswith(golden.CHANGED)}
    assert not changed & set(there), "a changed case has no digest"
    assert changed | set(there) == set(forms.forms())
    differs = set(golden.compare(verdicts, forms.HERE / "golden_h200.txt"))
    said = [f"{form} has other bits than the GPU" for form in differs - set(listed)]
    said += [
        f"{form} has the GPU's bits and is listed as different"
        for form in set(listed) - changed - differs
    ]
    assert not said, "\n".join(sorted(said))


def test_digests_tell_results_apart(tmp_path: Path) -> None:
    """Stored, read back and compared; what has no bits on one side is not compared."""
    before = [
        run.Verdict("add.f32", run.PASS, bits=b"one"),
        run.Verdict("add.f64", run.PASS, bits=b"two"),
        run.Verdict("trap", run.PASS),
        run.Verdict("ld.global.v8.b32", run.REFUSED),
    ]
    after = [
        run.Verdict("add.f32", run.PASS, bits=b"one"),
        run.Verdict("add.f64", run.PASS, bits=b"TWO"),
        run.Verdict("trap", run.PASS, bits=b"new"),
        run.Verdict("ld.global.v8.b32", run.PASS, bits=b"new"),
    ]
    path = tmp_path / "golden.txt"
    golden.write(path, before, ["a device"])
    assert golden.read(path)["trap"] == "none"
    assert golden.read(path)["ld.global.v8.b32"] == run.REFUSED
    assert golden.compare(before, path) == []
    assert golden.compare(after, path) == ["add.f64"]


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
