"""What is wrong with the GPUs of a driver: errors that they have counted, and modes in
which little works. `python -m fdcore.host.ailments JSON`, since the driver is opened.

Of a real GPU it is NVML that tells, by its path; written after NVIDIA's API reference,
and not run on a GPU yet. What a GPU does not tell is left out. Rows are state, name,
found, cure.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fdcore import modules
from fdcore.host.gauges import Gauges
from fdcore.host.gpus import CPU_DEVICE_NAME
from fdcore.host.modes import (
    EXCLUSIVE,
    PROHIBITED,
    VGPU,
    VIRTUAL,
    device_of,
    seen,
    two,
)
from fdcore.sched.slices import Gpu

PASS, MARGINAL, FAIL = "PASS", "MARGINAL", "FAIL"
ASK_SECONDS = 60.0
Row = tuple[str, str, str, str]

INSUFFICIENT_SIZE = 7
MOST_RETIRED = 60  # from there on NVIDIA takes a GPU back
SLOW = {0x08: "the hardware", 0x20: "heat", 0x40: "heat", 0x80: "the power supply"}
REPLACE = "take it out of use, and have it replaced"
# Of the numbers that NVIDIA's catalogue has: faults of programs, and of the machine.
PROGRAMS = {13, 31, 43, 45}
BROKEN = {46, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 121, 140}
XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-f:]+)(?:\.\d)?\): (\d+)", re.I)
KERNEL_LOG = "/dev/kmsg"
MOST_LINES = 20_000


def ask(
    driver: str, nvml: str, gpus: Sequence[Gpu], environment: Mapping[str, str]
) -> list[Row]:
    """In a process of its own."""
    spec = json.dumps([driver, nvml, [[g.ordinal, g.name, g.pci] for g in gpus]])
    try:
        done = subprocess.run(
            [*modules.command("fdcore.host.ailments"), spec],
            env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=ASK_SECONDS, check=True,
        )  # fmt: skip
        return [(row[0], row[1], row[2], row[3]) for row in json.loads(done.stdout)]
    except (subprocess.SubprocessError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        return [(FAIL, "GPUs' state", why, "look at the driver, and at the kernel log")]


def look(driver: str, nvml: str, gpus: Sequence[tuple[int, str, str]]) -> list[Row]:
    """Opens the driver here. gpus: ordinal, name, address on the bus."""
    cuda = ctypes.CDLL(driver)
    cuda.cuInit(0)
    gauges = Gauges.open(nvml) if nvml else None
    logged = kernel_log() if gauges is not None else []
    rows: list[Row] = []
    for ordinal, name, pci in gpus:
        found = list(modes(cuda, ordinal, gauges, pci))
        if gauges is not None:
            found += list(errors(gauges, pci)) + list(xids(logged, pci))
        elif not name.startswith(CPU_DEVICE_NAME):
            found.append(
                (MARGINAL, "errors", "not known: there is no NVML beside the driver",
                 "install the whole of NVIDIA's driver"))  # fmt: skip
        rows += [(s, f"GPU {ordinal}: {n}", f, cure) for s, n, f, cure in found]
    return rows


# ---- modes ----


def modes(
    cuda: ctypes.CDLL, ordinal: int, gauges: Gauges | None, pci: str
) -> Iterator[Row]:
    found = seen(cuda, ordinal, gauges, pci)
    name = "compute mode"
    if found.compute == 0:
        yield PASS, name, "default: several programs may share it", ""
    elif found.compute == PROHIBITED:
        yield FAIL, name, "prohibited: it is not offered", "nvidia-smi -c DEFAULT"
    elif found.compute == EXCLUSIVE:
        said = "exclusive: given whole, to one program at a time"
        yield MARGINAL, name, said, "nvidia-smi -c DEFAULT"
    name = "virtual memory calls"
    if found.vmm == 1:
        yield PASS, name, "there", ""
    elif found.vmm == 0:
        yield (
            MARGINAL, name,
            "missing, as on a vGPU: allocation is a round trip, and nothing is managed",
            "give the virtual machine a profile with unified memory",
        )  # fmt: skip
    if gauges is None or device_of(gauges, pci) is None:
        return
    if found.virtual >= 0:
        state = MARGINAL if found.virtual > VGPU else PASS
        yield (
            state,
            "virtualisation",
            VIRTUAL.get(found.virtual, "none"),
            "serve it from its guests" * (state != PASS),
        )
    if found.mig is not None:
        now, then = found.mig
        if now != then:
            yield MARGINAL, "MIG", "changes with the next reset", "reset the GPU"
        elif now:
            yield (
                MARGINAL,
                "MIG",
                f"on: the server has one of {found.instances} instances",
                "nvidia-smi -mig 0, unless that is what is wanted",
            )
        else:
            yield PASS, "MIG", "off", ""


# ---- errors ----


def errors(gauges: Gauges, pci: str) -> Iterator[Row]:
    device = device_of(gauges, pci)
    if device is None:
        yield FAIL, "errors", f"NVML does not know {pci} any more", REPLACE
        return
    yield from ecc(gauges, device)
    yield from retired(gauges, device)
    yield from remapped(gauges, device)
    yield from slowed(gauges, device)
    now = ctypes.c_uint()
    most = ctypes.c_uint()
    if (
        gauges.ask("nvmlDeviceGetCurrPcieLinkWidth", device, ctypes.byref(now))
        and gauges.ask("nvmlDeviceGetMaxPcieLinkWidth", device, ctypes.byref(most))
        and most.value
    ):
        good = now.value >= most.value
        said = f"{now.value} of {most.value} lanes"
        cure = "" if good else "look at its slot and at risers"
        yield PASS if good else MARGINAL, "PCIe", said, cure


def ecc(gauges: Gauges, device: object) -> Iterator[Row]:
    """Corrected and not, since the driver was loaded and since ever."""
    mode = two(gauges, "nvmlDeviceGetEccMode", device)
    if mode is None:
        return
    if not mode[0]:
        yield PASS, "ECC", "off", ""
        return
    count = ctypes.c_ulonglong()
    seen = {}
    for kind in (0, 1):
        for since in (0, 1):
            where = ctypes.byref(count)
            if gauges.ask("nvmlDeviceGetTotalEccErrors", device, kind, since, where):
                seen[kind, since] = count.value
    said = ", ".join(
        f"{seen[kind, since]} {what} since {when}"
        for kind, what in ((1, "uncorrected"), (0, "corrected"))
        for since, when in ((0, "the driver's start"), (1, "ever"))
        if (kind, since) in seen
    )
    if seen.get((1, 0)):
        yield FAIL, "ECC", said, "reset the GPU; " + REPLACE + " if they come again"
    elif seen.get((1, 1)):
        yield MARGINAL, "ECC", said, "watch it: health --verify=1h"
    else:
        yield PASS, "ECC", said or "on", ""


def retired(gauges: Gauges, device: object) -> Iterator[Row]:
    pages, known = 0, False
    for cause in (0, 1):
        count = ctypes.c_uint(0)
        function = getattr(gauges.nvml, "nvmlDeviceGetRetiredPages", None)
        if function is None:
            return
        result = function(device, cause, ctypes.byref(count), None)
        if result in (0, INSUFFICIENT_SIZE):
            pages, known = pages + count.value, True
    if not known:
        return
    pending = ctypes.c_uint()
    call = "nvmlDeviceGetRetiredPagesPendingStatus"
    waits = gauges.ask(call, device, ctypes.byref(pending)) and bool(pending.value)
    said = f"{pages}" + (", more with the next reset" if waits else "")
    if waits:
        yield FAIL, "retired pages", said, "reset the GPU, or start the machine anew"
    elif pages >= MOST_RETIRED:
        yield FAIL, "retired pages", said, REPLACE
    elif pages:
        yield MARGINAL, "retired pages", said, "watch it: health --verify=1h"
    else:
        yield PASS, "retired pages", said, ""


def remapped(gauges: Gauges, device: object) -> Iterator[Row]:
    seen = [ctypes.c_uint() for _ in range(4)]
    call = "nvmlDeviceGetRemappedRows"
    if not gauges.ask(call, device, *(ctypes.byref(each) for each in seen)):
        return
    corrected, uncorrected, pending, failed = (each.value for each in seen)
    said = f"{uncorrected} for uncorrected errors, {corrected} for corrected ones"
    if failed:
        yield FAIL, "remapped rows", f"{said}; none is left to map to", REPLACE
    elif pending:
        cure = "reset the GPU, or start the machine anew"
        yield FAIL, "remapped rows", f"{said}; more with the next reset", cure
    elif uncorrected:
        yield MARGINAL, "remapped rows", said, "watch it: health --verify=1h"
    else:
        yield PASS, "remapped rows", said, ""


def slowed(gauges: Gauges, device: object) -> Iterator[Row]:
    why = ctypes.c_ulonglong()
    call = "nvmlDeviceGetCurrentClocksThrottleReasons"
    if not gauges.ask(call, device, ctypes.byref(why)):
        return
    by = dict.fromkeys(name for bit, name in SLOW.items() if why.value & bit)
    if by:
        said = f"held back by {' and '.join(by)}"
        yield MARGINAL, "clocks", said, "look at cooling and power"
    else:
        yield PASS, "clocks", "not held back by heat or power", ""


# ---- Xid: what the driver wrote into the kernel's log ----


def kernel_log(path: str = KERNEL_LOG) -> list[str] | None:
    """Its lines since the machine started, as far as they are kept; None where we may
    not read it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    lines: list[str] = []
    try:
        while len(lines) < MOST_LINES:
            piece = os.read(file, 1 << 14)
            if not piece:
                break
            lines += piece.decode(errors="replace").splitlines()
    except BrokenPipeError:
        pass  # overwritten while it was read
    except OSError:
        pass  # all has been read
    finally:
        os.close(file)
    return lines


def xids(lines: Iterable[str] | None, pci: str) -> Iterator[Row]:
    if lines is None:
        return
    seen: dict[int, int] = {}
    for line in lines:
        found = XID.search(line)
        if found and same_place(found[1], pci):
            seen[int(found[2])] = seen.get(int(found[2]), 0) + 1
    said = ", ".join(f"{number} ({n} times)" for number, n in sorted(seen.items()))
    if not seen:
        yield PASS, "Xid", "none since the machine started", ""
    elif BROKEN & seen.keys():
        yield FAIL, "Xid", said, "look them up in NVIDIA's catalogue; reset the GPU"
    elif seen.keys() <= PROGRAMS:
        yield PASS, "Xid", f"{said}: faults of programs", ""
    else:
        yield MARGINAL, "Xid", said, "look them up in NVIDIA's catalogue"


def same_place(one: str, other: str) -> bool:
    """0000:3b:00 and 00000000:3B:00.0."""
    places = [
        [int(part, 16) for part in text.partition(".")[0].split(":")]
        for text in (one, other)
    ]
    return places[0] == places[1]


def main(words: Sequence[str]) -> int:
    spec: list[Any] = json.loads(words[0])
    rows = look(spec[0], spec[1], [(int(n), str(a), str(b)) for n, a, b in spec[2]])
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
