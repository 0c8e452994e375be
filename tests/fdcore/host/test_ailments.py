"""What GPUs say of their errors and modes, told by a stand-in of NVML's signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fdcore.host import ailments
from fdcore.host.ailments import FAIL, MARGINAL, PASS
from fdcore.sched.slices import Gpu


@pytest.fixture
def ask(driver, nvml):
    there = str(nvml)

    def look(pci="0000:17:00.0", nvml=True, **told):
        path = there if nvml else ""
        gpu = Gpu(0, "NVIDIA X", "GPU-x", 1 << 30, pci)
        env = dict(os.environ) | {name: str(value) for name, value in told.items()}
        rows = ailments.ask(str(driver), path, [gpu], env)
        return {name.removeprefix("GPU 0: "): (state, found, cure) for state, name, found, cure in rows}

    return look


def test_a_healthy_gpu_passes_every_check(ask):
    found = ask()
    assert {name: state for name, (state, _, _) in found.items() if name != "Xid"} == dict.fromkeys(
        ("compute mode", "virtual memory calls", "virtualisation", "MIG", "ECC", "retired pages",
         "remapped rows", "clocks", "PCIe"), PASS)  # fmt: skip
    assert found["ECC"][1] == ("0 uncorrected since the driver's start, 0 uncorrected since ever, "
                               "5 corrected since the driver's start, 5 corrected since ever")  # fmt: skip
    assert all(cure == "" for _, _, cure in found.values())


@pytest.mark.parametrize(
    "told, name, state, said",
    [({"MODE": 2}, "compute mode", FAIL, "prohibited"),
     ({"MODE": 3}, "compute mode", MARGINAL, "exclusive"),
     ({"NOVMM": 1}, "virtual memory calls", MARGINAL, "missing, as on a vGPU"),
     ({"VIRTUAL": 2}, "virtualisation", PASS, "a vGPU"),
     ({"VIRTUAL": 3}, "virtualisation", MARGINAL, "a vGPU's host"),
     ({"MIG": 1, "MIG_THEN": 1, "INSTANCES": 3}, "MIG", MARGINAL, "one of 3 instances"),
     ({"MIG_THEN": 1}, "MIG", MARGINAL, "next reset"),
     ({"NOECC": 1}, "ECC", PASS, "off"),
     ({"NOW": 2, "EVER": 2}, "ECC", FAIL, "2 uncorrected since the driver's start"),
     ({"EVER": 3}, "ECC", MARGINAL, "3 uncorrected since ever"),
     ({"PAGES": 4}, "retired pages", MARGINAL, "4"),
     ({"PAGES": 60}, "retired pages", FAIL, "60"),
     ({"PENDING": 1}, "retired pages", FAIL, "0, more with the next reset"),
     ({"ROWS": 2}, "remapped rows", MARGINAL, "2 for uncorrected errors, 1 for corrected ones"),
     ({"ROWS_THEN": 1}, "remapped rows", FAIL, "more with the next reset"),
     ({"NOROW": 1}, "remapped rows", FAIL, "none is left"),
     ({"SLOW": 0x48}, "clocks", MARGINAL, "held back by the hardware and heat"),
     ({"LANES": 8}, "PCIe", MARGINAL, "8 of 16 lanes")])  # fmt: skip
def test_each_ailment_is_named_with_its_cure(ask, told, name, state, said):
    seen, found, cure = ask(**told)[name]
    assert seen == state and said in found
    assert bool(cure) == (state != PASS)


def test_a_gpu_that_fell_off_the_bus_fails(ask):
    state, found, _ = ask(pci="0000:99:00.0")["errors"]
    assert state == FAIL and "does not know 0000:99:00.0" in found


def test_without_nvml_errors_are_said_not_to_be_known(ask):
    state, found, cure = ask(nvml=False)["errors"]
    assert state == MARGINAL and "not known" in found and cure


def test_a_driver_that_cannot_be_asked_is_a_failure_and_not_an_exception(tmp_path):
    ((state, name, found, cure),) = ailments.ask(str(tmp_path / "nothing"), "", [], os.environ)
    assert (state, name) == (FAIL, "GPUs' state") and found and cure


LOG = [
    "6,1,2,-;NVRM: Xid (PCI:0000:17:00): 31, pid=7, name=x, MMU Fault",
    "6,1,2,-;NVRM: Xid (PCI:0000:17:00): 31, pid=8",
    "3,1,2,-;NVRM: Xid (PCI:0000:18:00.0): 79, GPU has fallen off the bus.",
    "6,1,2,-;something else",
]


@pytest.mark.parametrize(
    "pci, state, said",
    [("0000:17:00.0", PASS, "31 (2 times): faults of programs"),
     ("00000000:18:00.0", FAIL, "79 (1 times)"), ("0000:19:00.0", PASS, "none")])  # fmt: skip
def test_xids_of_the_kernels_log_belong_to_their_gpu(pci, state, said):
    ((seen, name, found, _),) = ailments.xids(LOG, pci)
    assert (seen, name) == (state, "Xid") and said in found


def test_unknown_xids_are_marginal_and_an_unreadable_log_says_nothing(tmp_path):
    line = "NVRM: Xid (PCI:0000:17:00): 999, what"
    assert next(ailments.xids([line], "0000:17:00.0"))[0] == MARGINAL
    assert list(ailments.xids(ailments.kernel_log(str(tmp_path / "none")), "0000:17:00.0")) == []
    log = Path(tmp_path / "log")
    log.write_text("\n".join(LOG))
    assert ailments.kernel_log(str(log)) == LOG


def test_the_program_answers_in_json(ask):
    done = subprocess.run([sys.executable, "-m", "fdcore.host.ailments", '["libc.so.6", "", []]'],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and "cuInit" in done.stderr  # it is no driver
