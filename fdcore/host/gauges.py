"""What a real driver's NVML says of its GPUs at the moment. Written after NVIDIA's NVML
API reference, as csrc/driver/gauges.c is, which says the same to programs; it has not
run on a GPU yet.

Names and units are ours: percent, degrees, watts, joules, MHz, bytes, counts. What a
GPU does not tell is left out.
"""

import ctypes
from collections.abc import Mapping, Sequence

from fdcore.sched.slices import Gpu

# Name: NVML's function, its argument between device and answer, and the unit.
NUMBERS: dict[str, tuple[str, int | None, float]] = {
    "temperature": ("nvmlDeviceGetTemperature", 0, 1.0),
    "power": ("nvmlDeviceGetPowerUsage", None, 1e-3),
    "sm_clock": ("nvmlDeviceGetClockInfo", 1, 1.0),
    "memory_clock": ("nvmlDeviceGetClockInfo", 2, 1.0),
    "replays": ("nvmlDeviceGetPcieReplayCounter", None, 1.0),
}


class Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class Gauges:
    """One NVML, opened by its path: never one found by name, which may be our own."""

    def __init__(self, nvml: ctypes.CDLL) -> None:
        self.nvml = nvml

    @classmethod
    def open(cls, path: str) -> "Gauges | None":
        try:
            nvml = ctypes.CDLL(path)
            return cls(nvml) if nvml.nvmlInit_v2() == 0 else None
        except (OSError, AttributeError):
            return None

    def ask(self, call: str, *arguments: object) -> bool:
        function = getattr(self.nvml, call, None)
        return function is not None and function(*arguments) == 0

    def read(self, gpus: Sequence[Gpu]) -> Mapping[int, Mapping[str, float]]:
        return {gpu.ordinal: self.of(gpu.pci) for gpu in gpus}

    def of(self, pci: str) -> dict[str, float]:
        device = ctypes.c_void_p()
        place = pci.encode()
        if not self.ask(
            "nvmlDeviceGetHandleByPciBusId_v2", place, ctypes.byref(device)
        ):
            return {}
        found: dict[str, float] = {}
        number, wide = ctypes.c_uint(), ctypes.c_ulonglong()
        for name, (call, kind, unit) in NUMBERS.items():
            more = () if kind is None else (ctypes.c_uint(kind),)
            if self.ask(call, device, *more, ctypes.byref(number)):
                found[name] = number.value * unit
        energy = "nvmlDeviceGetTotalEnergyConsumption"
        if self.ask(energy, device, ctypes.byref(wide)):
            found["energy"] = wide.value * 1e-3
        rates, memory = Rates(), Memory()
        if self.ask("nvmlDeviceGetUtilizationRates", device, ctypes.byref(rates)):
            found |= {"use": float(rates.gpu), "memory_use": float(rates.memory)}
        if self.ask("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory)):
            found["memory_used"] = float(memory.used)
            found["memory_free"] = float(memory.free)
        for name in ("encoder", "decoder"):
            call = f"nvmlDeviceGet{name.capitalize()}Utilization"
            period = ctypes.c_uint()
            if self.ask(call, device, ctypes.byref(number), ctypes.byref(period)):
                found[name] = float(number.value)
        return found
