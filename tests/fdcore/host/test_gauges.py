"""What a real driver's NVML says, which here is a stand-in of nvml.h's signatures."""

import subprocess
from pathlib import Path

import pytest

from fdcore.host.gauges import Gauges
from fdcore.host.gpus import find
from fdcore.sched.slices import Gpu

NVML = r"""
#include <string.h>
typedef struct d { int n; } *dev;
static struct d one = { 1 };
static int begun;
int nvmlInit_v2(void) { begun = 1; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, dev *out)
{ if (!begun) return 1; if (strcmp(id, "0000:17:00.0") != 0) return 6; *out = &one; return 0; }
int nvmlDeviceGetUtilizationRates(dev d, unsigned out[2]) { out[0] = 42; out[1] = 7; return d->n - 1; }
int nvmlDeviceGetMemoryInfo(dev d, unsigned long long out[3])
{ out[0] = 80ull << 30; out[1] = 50ull << 30; out[2] = 30ull << 30; return d->n - 1; }
int nvmlDeviceGetTemperature(dev d, int sensor, unsigned *out) { *out = 39 + sensor; return d->n - 1; }
int nvmlDeviceGetClockInfo(dev d, int type, unsigned *out) { (void)d; *out = 1000 + type; return 0; }
int nvmlDeviceGetPowerUsage(dev d, unsigned *out) { (void)d; *out = 250500; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(dev d, unsigned long long *out) { (void)d; *out = 12345678; return 0; }
int nvmlDeviceGetPcieReplayCounter(dev d, unsigned *out) { (void)d; *out = 99; return 3; }
int nvmlDeviceGetEncoderUtilization(dev d, unsigned *out, unsigned *us) { (void)d; *out = 5; *us = 1; return 0; }
"""
# As much of a driver as is asked for its GPUs.
DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int n) { *device = n; return 0; }
int cuDeviceGetName(char *name, int room, int device) { (void)device; strncpy(name, "a GPU", room); return 0; }
int cuDeviceTotalMem_v2(unsigned long *size, int device) { (void)device; *size = 80ul << 30; return 0; }
int cuDeviceGetUuid(char out[16], int device) { memset(out, device, 16); return 0; }
int cuDeviceGetAttribute(int *out, int which, int device) { (void)device; *out = which == 33 ? 0x17 : 0; return 0; }
int cuGetErrorName(int code, const char **name) { (void)code; *name = "none"; return 0; }
"""
THERE = Gpu(0, "a GPU", "GPU-0", 80 << 30, "0000:17:00.0")
ELSEWHERE = Gpu(1, "a GPU", "GPU-1", 80 << 30, "0000:18:00.0")


def build(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.c").write_text(text, encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", "-o", folder / name, folder / f"{name}.c"]
    subprocess.run(command, check=True)
    return folder / name


@pytest.fixture
def nvml(tmp_path):
    return build(tmp_path, "libnvidia-ml.so.1", NVML)


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
    assert Gauges.open(str(build(tmp_path, "other.so", "int other;"))) is None


def test_nvml_is_found_beside_the_driver_and_nowhere_else(tmp_path, nvml):
    driver = build(tmp_path, "libcuda.so.1", DRIVER)
    found = find(str(driver), {})
    assert [gpu.pci for gpu in found.gpus] == ["0000:17:00.0"]
    assert found.nvml == str(nvml.resolve())
    nvml.unlink()
    assert find(str(driver), {}).nvml == ""
