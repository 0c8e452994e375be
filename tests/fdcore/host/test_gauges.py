"""What a real driver's NVML says, which here is a stand-in of nvml.h's signatures."""

import shutil

import pytest

from fdcore.host.gauges import Gauges
from fdcore.host.gpus import find
from fdcore.sched.slices import Gpu

THERE = Gpu(0, "a GPU", "GPU-0", 80 << 30, "0000:17:00.0")
ELSEWHERE = Gpu(1, "a GPU", "GPU-1", 80 << 30, "0000:18:00.0")


def test_figures_are_in_our_units_and_what_is_not_told_is_left_out(nvml):
    gauges = Gauges.open(str(nvml))
    assert gauges is not None
    assert gauges.read([THERE, ELSEWHERE]) == {
        0: {
            "use": 42.0, "memory_use": 7.0, "temperature": 39.0, "power": pytest.approx(250.5),
            "sm_clock": 1001.0, "memory_clock": 1002.0, "energy": pytest.approx(12345.678),
            "memory_used": float(30 << 30), "memory_free": float(50 << 30), "encoder": 5.0,
        },
        1: {},
    }  # fmt: skip


def test_what_is_no_nvml_is_none(tmp_path):
    assert Gauges.open(str(tmp_path / "missing.so")) is None
    assert Gauges.open("libm.so.6") is None


def test_nvml_is_found_beside_the_driver_and_nowhere_else(tmp_path, driver, nvml):
    found = find(str(driver), {})
    assert [gpu.pci for gpu in found.gpus] == ["0000:17:00.0"]
    assert found.nvml == str(nvml.resolve())
    alone = shutil.copy(driver, tmp_path)
    assert find(str(alone), {}).nvml == ""
