"""A stand-in of a driver and its NVML, with NVIDIA's signatures: what it says of its GPUs
is in the environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

# COUNT GPUs on the buses 0x17, 0x18 ...; MODE: a digit for each. NOVMM: no virtual memory.
DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int told(const char *name, int other) { const char *text = getenv(name); return text ? atoi(text) : other; }
static int mode(int n) { const char *text = getenv("MODE"); return text && (int)strlen(text) > n ? text[n] - '0' : 0; }
int cuInit(unsigned flags) { return told("COUNT", 1) ? (int)flags : 100; }
int cuDeviceGetCount(int *count) { *count = told("COUNT", 1); return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int n) { *device = n; return 0; }
int cuDeviceGetName(char *name, int room, int device) { (void)device; strncpy(name, "a GPU", room); return 0; }
int cuDeviceTotalMem_v2(unsigned long *size, int device) { (void)device; *size = 80ul << 30; return 0; }
int cuDeviceGetUuid(char out[16], int device) { memset(out, device, 16); return 0; }
int cuDeviceGetUuid_v2(char out[16], int device) { memset(out, device + 16, 16); return 0; }
int cuDeviceGetAttribute(int *out, int which, int device)
{ *out = which == 102 ? !told("NOVMM", 0) : which == 20 ? mode(device) : which == 33 ? 0x17 + device : 0; return 0; }
int cuGetErrorName(int code, const char **name) { (void)code; *name = "none"; return 0; }
"""
# It knows the GPU on bus 0x17. INSTANCES: how many of MIG there are.
NVML = r"""
#include <stdlib.h>
#include <string.h>
typedef struct d { int n; } *dev;
static struct d one = { 1 };
static int begun;
static unsigned told(const char *name) { const char *text = getenv(name); return text ? (unsigned)atoi(text) : 0; }
int nvmlInit_v2(void) { begun = 1; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned n, dev *out) { *out = &one; return n ? 2 : 0; }
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
int nvmlDeviceGetVirtualizationMode(dev d, unsigned *out) { *out = told("VIRTUAL"); return d->n - 1; }
int nvmlDeviceGetMigMode(dev d, unsigned *now, unsigned *then)
{ *now = told("MIG"); *then = told("MIG_THEN"); return d->n - 1; }
int nvmlDeviceGetMaxMigDeviceCount(dev d, unsigned *out) { *out = 7; return d->n - 1; }
int nvmlDeviceGetMigDeviceHandleByIndex(dev d, unsigned n, dev *out) { *out = d; return n < told("INSTANCES") ? 0 : 6; }
int nvmlDeviceGetEccMode(dev d, unsigned *now, unsigned *then) { *now = *then = !told("NOECC"); return d->n - 1; }
int nvmlDeviceGetTotalEccErrors(dev d, int kind, int since, unsigned long long *out)
{ *out = kind == 1 ? told(since ? "EVER" : "NOW") : 5; return d->n - 1; }
int nvmlDeviceGetRetiredPages(dev d, int cause, unsigned *count, unsigned long long *pages)
{ (void)d; (void)pages; *count = cause == 0 ? told("PAGES") : 0; return *count ? 7 : 0; }
int nvmlDeviceGetRetiredPagesPendingStatus(dev d, unsigned *out) { *out = told("PENDING"); return d->n - 1; }
int nvmlDeviceGetRemappedRows(dev d, unsigned *a, unsigned *b, unsigned *c, unsigned *e)
{ *a = 1; *b = told("ROWS"); *c = told("ROWS_THEN"); *e = told("NOROW"); return d->n - 1; }
int nvmlDeviceGetCurrentClocksThrottleReasons(dev d, unsigned long long *out) { *out = told("SLOW"); return d->n - 1; }
int nvmlDeviceGetCurrPcieLinkWidth(dev d, unsigned *out) { *out = 16 - told("LANES"); return d->n - 1; }
int nvmlDeviceGetMaxPcieLinkWidth(dev d, unsigned *out) { *out = 16; return d->n - 1; }
"""


def build(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.c").write_text(text, encoding="utf-8")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / name, folder / f"{name}.c"],
                   check=True)  # fmt: skip
    return folder / name


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver; its NVML lies beside it."""
    folder = tmp_path_factory.mktemp("standin")
    build(folder, "libnvidia-ml.so.1", NVML)
    return build(folder, "libcuda.so.1", DRIVER)


@pytest.fixture(scope="session")
def nvml(driver: Path) -> Path:
    return driver.parent / "libnvidia-ml.so.1"
