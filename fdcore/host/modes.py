"""What kind of GPU a driver's is: whether a server may offer it, whole or in parts.

Of a real GPU NVML says most of it; written after NVIDIA's API reference, and not run on
a GPU in such a mode yet. `seen` looks, `judge` decides, over values.
"""

import ctypes
from dataclasses import dataclass

from fdcore.host.gauges import Gauges

COMPUTE_MODE, VIRTUAL_MEMORY = 20, 102  # attributes of a device
PROHIBITED, EXCLUSIVE = 2, 3  # compute modes
VGPU = 2
VIRTUAL = {1: "passed through to a virtual machine", VGPU: "a vGPU", 3: "a vGPU's host",
           4: "a vGPU's host"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """compute, vmm: -1 where the driver does not know it; virtual: NVML's number, or
    -1. mig: now and after the next reset, or None; instances: that it is cut into."""

    compute: int = 0
    vmm: int = 1
    virtual: int = -1
    mig: tuple[int, int] | None = None
    instances: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """refused: why it is not offered; empty: it is. whole: one process at a time can
    have it. note: what an administrator should know."""

    refused: str = ""
    whole: bool = False
    note: str = ""


def judge(seen: Seen, memory: int) -> Verdict:
    if seen.compute == PROHIBITED:
        return Verdict("its compute mode is prohibited (nvidia-smi -c DEFAULT)")
    notes = []
    if seen.compute == EXCLUSIVE:
        notes.append(
            "exclusive-process mode: given whole, to one program at a time"
            " (nvidia-smi -c DEFAULT)"
        )
    if seen.virtual == VGPU:
        notes.append(f"a vGPU with {memory >> 20} MiB of framebuffer")
    elif seen.virtual > VGPU:
        notes.append("a vGPU's host: virtual machines have it as well")
    if seen.vmm == 0:
        notes.append("without virtual memory calls: allocation is a round trip")
    if seen.mig is not None and seen.mig[0]:
        notes.append(
            f"one of {seen.instances} MIG instances; a process sees no more, so another"
            " takes an fdserver of its own with CUDA_VISIBLE_DEVICES=MIG-UUID"
        )
    return Verdict("", seen.compute == EXCLUSIVE, "; ".join(notes))


def seen(cuda: ctypes.CDLL, ordinal: int, gauges: Gauges | None, pci: str) -> Seen:
    device = device_of(gauges, pci) if gauges is not None else None
    compute = attribute(cuda, ordinal, COMPUTE_MODE)
    vmm = attribute(cuda, ordinal, VIRTUAL_MEMORY)
    if gauges is None or device is None:
        return Seen(compute, vmm)
    kind = ctypes.c_uint()
    known = gauges.ask("nvmlDeviceGetVirtualizationMode", device, ctypes.byref(kind))
    mig = two(gauges, "nvmlDeviceGetMigMode", device)
    virtual = kind.value if known else -1
    return Seen(compute, vmm, virtual, mig, instances(gauges, device))


def attribute(cuda: ctypes.CDLL, ordinal: int, which: int) -> int:
    """-1: the driver does not know it."""
    value, device = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGet(ctypes.byref(device), ordinal):
        return -1
    answer = cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return -1 if answer else value.value


def device_of(gauges: Gauges, pci: str) -> ctypes.c_void_p | None:
    device = ctypes.c_void_p()
    call = "nvmlDeviceGetHandleByPciBusId_v2"
    return device if gauges.ask(call, pci.encode(), ctypes.byref(device)) else None


def two(gauges: Gauges, call: str, device: object) -> tuple[int, int] | None:
    one, other = ctypes.c_uint(), ctypes.c_uint()
    asked = gauges.ask(call, device, ctypes.byref(one), ctypes.byref(other))
    return (one.value, other.value) if asked else None


def instances(gauges: Gauges, device: object) -> int:
    """How many MIG instances a GPU has now."""
    most = ctypes.c_uint()
    gauges.ask("nvmlDeviceGetMaxMigDeviceCount", device, ctypes.byref(most))
    part = ctypes.c_void_p()
    call = "nvmlDeviceGetMigDeviceHandleByIndex"
    return sum(
        gauges.ask(call, device, ctypes.c_uint(index), ctypes.byref(part))
        for index in range(min(most.value, 64))
    )


def hidden(gauges: Gauges | None) -> str:
    """Why a driver shows no GPU though there is one, as far as NVML can tell."""
    count = ctypes.c_uint()
    if gauges is None or not gauges.ask("nvmlDeviceGetCount_v2", ctypes.byref(count)):
        return ""
    for index in range(count.value):
        device = ctypes.c_void_p()
        if not gauges.ask("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device)):
            continue
        mig = two(gauges, "nvmlDeviceGetMigMode", device)
        if mig is not None and mig[0] and not instances(gauges, device):
            return "MIG is on, and there are no instances (nvidia-smi mig -cgi ... -C)"
    return ""
