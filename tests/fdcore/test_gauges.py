"""Figures of a real driver's NVML, which here is a stand-in of nvml.h's signatures."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
int cuInit(unsigned flags) { return (int)flags; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
"""
NVML = r"""
#include <string.h>
typedef struct d { int n; } *dev;
static struct d one = { 1 };
static int begun;
int nvmlInit_v2(void) { begun = 1; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, dev *out)
{ if (!begun) return 1; if (strcmp(id, "0000:17:00.0") != 0) return 6; *out = &one; return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { (void)n; strcpy(out, "550.54.15"); return 0; }
int nvmlDeviceGetSerial(dev d, char *out, unsigned n) { (void)d; (void)n; strcpy(out, "1320"); return 0; }
int nvmlDeviceGetUtilizationRates(dev d, unsigned out[2]) { out[0] = 42; out[1] = 7; return d->n - 1; }
int nvmlDeviceGetTemperature(dev d, int sensor, unsigned *out) { *out = 39 + sensor; return d->n - 1; }
int nvmlDeviceGetClockInfo(dev d, int type, unsigned *out)
{ (void)d; if (type == 3) return 3; *out = 1000 + type; return 0; }
int nvmlDeviceGetPowerUsage(dev d, unsigned *out) { (void)d; *out = 9351; return 0; }
int nvmlDeviceGetFanSpeed(dev d, unsigned *out) { (void)d; *out = 99; return 3; }
int nvmlDeviceGetEccMode(dev d, unsigned *now, unsigned *then) { (void)d; *now = 1; *then = 0; return 0; }
int nvmlDeviceGetTotalEccErrors(dev d, int kind, int since, unsigned long long *out)
{ (void)d; *out = 10 * kind + since; return 0; }
int nvmlDeviceGetBAR1MemoryInfo(dev d, unsigned long long out[3])
{ (void)d; out[0] = 256; out[1] = 200; out[2] = 56; return 0; }
static int events[] = { 31, 79, 13, 48 }, next;
int nvmlEventSetCreate(void **out) { *out = events; return 0; }
int nvmlDeviceRegisterEvents(dev d, unsigned long long types, void *set)
{ return d->n - 1 + (types != 8 || set != events); }
struct event { dev device; unsigned long long type, data; unsigned id[2]; };
int nvmlEventSetWait_v2(void *set, struct event *out, unsigned ms)
{ if (set != events || ms != 0) return 2; if (next == 4) return 10;
  *out = (struct event){ &one, 8, (unsigned long long)events[next++], { 0, 0 } }; return 0; }
struct sample { unsigned pid; unsigned long long stamp; unsigned part[4]; };
int nvmlDeviceGetProcessUtilization(dev d, struct sample *out, unsigned *n, unsigned long long since)
{ (void)d; (void)since; if (out == 0 || *n < 3) { *n = 3; return 7; } *n = 3;
  out[0] = (struct sample){ 70, 1, { 10, 1, 0, 0 } }; out[1] = (struct sample){ 71, 1, { 200, 3, 5, 7 } };
  out[2] = (struct sample){ 70, 2, { 20, 2, 0, 0 } }; return 0; }
int nvmlDeviceGetEncoderUtilization(dev d, unsigned *out, unsigned *us) { (void)d; *out = 5; *us = 1; return 0; }
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };
int nvmlDeviceGetComputeRunningProcesses_v3(dev d, unsigned *n, struct process *out)
{ (void)d; if (*n < 2) return 7; *n = 2; out[0] = (struct process){ 1, 5, 0, 0 };
  out[1] = (struct process){ PID, USED, 0, 0 }; return 0; }
"""


def nvml(pid: int = 2, used: str = "9") -> str:
    """Its source; the second process that it knows has this number and so much."""
    return NVML.replace("PID", str(pid)).replace("USED", used)


def build(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.c").write_text(text, encoding="utf-8")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", folder / name, folder / f"{name}.c"], check=True)
    return folder / name


def numbers() -> dict[str, int]:
    """The figures' names and places, out of the header."""
    text = '#include "fdc/monitor.h"\n'
    made = subprocess.run(
        ["gcc", "-E", "-P", f"-I{ROOT}/csrc/include", "-"], input=text, text=True,
        capture_output=True, check=True).stdout
    body = made.split("enum fdc_figure {")[1].split("}")[0]
    found: dict[str, int] = {}
    at = 0
    for word in body.replace("\n", " ").split(","):
        name, _, value = (part.strip() for part in word.partition("="))
        if value:
            base, _, more = value.partition("+")
            at = found[base.strip().removeprefix("FDC_FIGURE_")] + int(more)
        if name:
            found[name.removeprefix("FDC_FIGURE_")] = at
        at += 1
    return found


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Opens a driver with what lies beside it; gives a function that reads one device."""
    fdc = ctypes.CDLL(str(ROOT / "build" / "lib" / "libfdc.so"))
    fdc.fdc_gauges_new.restype = ctypes.c_void_p
    table = ctypes.create_string_buffer(1 << 16)  # struct fdc_driver, and room
    figures = numbers()
    count = figures["FDC_FIGURES"]

    class Gpu(ctypes.Structure):
        _fields_ = [
            ("known", ctypes.c_uint64), ("figure", ctypes.c_uint64 * count),
            ("busy_ns", ctypes.c_uint64), ("now_ns", ctypes.c_uint64),
            ("own_busy_ns", ctypes.c_uint64), ("faults", ctypes.c_uint64),
            ("xid", ctypes.c_uint32), ("own_shares", ctypes.c_uint32),
            ("beside", ctypes.c_uint64),
            ("driver", ctypes.c_char * 80), ("serial", ctypes.c_char * 32),
            ("vbios", ctypes.c_char * 32), ("others", ctypes.c_uint32),
            ("unused", ctypes.c_uint32)]

    def look(pci: str) -> tuple[dict[str, int], Gpu]:
        driver = build(tmp_path, "libcuda.so.1", DRIVER)
        assert fdc.fdc_driver_load(str(driver).encode(), table) == 0
        gauges = ctypes.c_void_p(fdc.fdc_gauges_new(table))
        gpu = Gpu()
        fdc.fdc_gauges_read(gauges, pci.encode(), ctypes.byref(gpu))
        shares = (ctypes.c_uint32 * 8)()
        count = fdc.fdc_gauges_processes(gauges, pci.encode(), shares, 4)
        look.shares = {shares[2 * n]: shares[2 * n + 1] for n in range(count)}
        fdc.fdc_gauges_free(gauges)
        known = {name: gpu.figure[at] for name, at in figures.items()
                 if name != "FDC_FIGURES" and gpu.known >> at & 1}
        return known, gpu

    return look


def test_figures_come_from_the_nvml_beside_the_driver(read, tmp_path: Path) -> None:
    build(tmp_path, "libnvidia-ml.so.1", nvml())
    known, gpu = read("0000:17:00.0")
    at = numbers()
    assert {at["CLOCK"] + 1, at["CLOCK"] + 2} < {n for n in range(64) if gpu.known >> n & 1}
    assert known == {
        "GPU_USE": 42, "MEMORY_USE": 7, "TEMPERATURE": 39, "POWER": 9351, "CLOCK": 1000,
        "ECC": 1, "ECC_PENDING": 0, "ECC_ERRORS": 0, "ENCODER": 5, "BAR1": 256, "BAR1_USED": 56}
    # What programs did wrong (31, 13) is not the GPU's; the other two were failures of its own.
    assert (gpu.faults, gpu.xid) == (2, 48)
    errors = [gpu.figure[at["ECC_ERRORS"] + n] for n in range(4)]
    assert errors == [0, 1, 10, 11]
    assert (gpu.driver, gpu.serial, gpu.vbios) == (b"550.54.15", b"1320", b"")
    assert not gpu.known >> (at["CLOCK"] + 3) & 1 and gpu.now_ns == 0


def test_shares_of_processes_are_their_last_and_at_most_all(read, tmp_path: Path) -> None:
    build(tmp_path, "libnvidia-ml.so.1", nvml())
    read("0000:17:00.0")
    assert read.shares == {70: 20 | 2 << 8, 71: 100 | 3 << 8 | 5 << 16 | 7 << 24}
    read("0000:18:00.0")
    assert read.shares == {}


def test_a_device_that_nvml_does_not_have_has_no_figures(read, tmp_path: Path) -> None:
    build(tmp_path, "libnvidia-ml.so.1", nvml())
    assert read("0000:18:00.0")[0] == {}


def test_without_nvml_beside_it_nothing_is_known(read, tmp_path: Path) -> None:
    assert read("0000:17:00.0")[0] == {}


@pytest.mark.parametrize(("pid", "used", "found"), [
    (os.getpid(), "777ull << 20", 777 << 20),
    (os.getpid(), "~0ull", None),  # it says that it does not know
    (2, "777", None),  # we have another number there, as in a container
], ids=("known", "not said", "another number"))  # fmt: skip
def test_what_a_process_has_is_asked_of_nvml(
    pid: int, used: str, found: int | None, tmp_path: Path
) -> None:
    driver = build(tmp_path, "libcuda.so.1", DRIVER)
    build(tmp_path, "libnvidia-ml.so.1", nvml(pid, used))
    fdc = ctypes.CDLL(str(ROOT / "build" / "lib" / "libfdc.so"))
    fdc.fdc_gauges_new.restype = ctypes.c_void_p
    fdc.fdc_gauges_taken.restype = ctypes.c_bool
    table = ctypes.create_string_buffer(1 << 16)
    assert fdc.fdc_driver_load(str(driver).encode(), table) == 0
    gauges = ctypes.c_void_p(fdc.fdc_gauges_new(table))
    taken, slow = ctypes.c_uint64(), ctypes.c_bool()
    said = fdc.fdc_gauges_taken(
        gauges, 0, b"0000:17:00.0", ctypes.byref(taken), ctypes.byref(slow)
    )
    fdc.fdc_gauges_free(gauges)
    assert (taken.value if said else None) == found and slow.value
