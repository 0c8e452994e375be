"""NVML through ctypes, as much of it as nvidia-smi shows."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
INSUFFICIENT_SIZE = 7
SOME_MORE = 8


class NoDriver(Exception):
    """There is no NVML, or it has no driver."""


class Failure(Exception):
    """NVML refused what nothing can be shown without."""


class PciInfo(ctypes.Structure):
    _fields_ = [
        ("old_id", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("id", ctypes.c_char * 32),
    ]


class MemoryInfo(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Bar1(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Sample(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("stamp", ctypes.c_ulonglong),
        ("sm", ctypes.c_uint),
        ("memory", ctypes.c_uint),
        ("encoder", ctypes.c_uint),
        ("decoder", ctypes.c_uint),
    ]


class ProcessInfo(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


@dataclass(frozen=True)
class Process:
    pid: int
    name: str  # empty: not found
    used: int
    kind: str = "C"


class Library:
    """Opened and initialised; close() ends NVML."""

    def __init__(self) -> None:
        try:
            self.nvml = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NoDriver from error
        if self.nvml.nvmlInit_v2() != 0:
            raise NoDriver
        self.nvml.nvmlErrorString.restype = ctypes.c_char_p

    def close(self) -> None:
        self.nvml.nvmlShutdown()

    def ask(self, name: str, *arguments: Any) -> int:
        return int(getattr(self.nvml, name)(*arguments))

    def must(self, name: str, *arguments: Any) -> None:
        result = self.ask(name, *arguments)
        if result != 0:
            why = self.nvml.nvmlErrorString(result).decode()
            raise Failure(f"{name}: {why}")

    def text(self, name: str, *arguments: Any) -> str | None:
        out = ctypes.create_string_buffer(96)
        if self.ask(name, *arguments, out, 96) != 0:
            return None
        return out.value.decode(errors="replace")

    def number(self, name: str, *arguments: Any, wide: bool = False) -> int | None:
        out = ctypes.c_ulonglong() if wide else ctypes.c_uint()
        if self.ask(name, *arguments, ctypes.byref(out)) != 0:
            return None
        return int(out.value)

    def driver_version(self) -> str | None:
        return self.text("nvmlSystemGetDriverVersion")

    def cuda_version(self) -> str | None:
        number = self.number("nvmlSystemGetCudaDriverVersion_v2")
        return f"{number // 1000}.{number % 1000 // 10}" if number else None

    def gpus(self) -> "list[Gpu]":
        count = ctypes.c_uint()
        self.must("nvmlDeviceGetCount_v2", ctypes.byref(count))
        found = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            self.must("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            found.append(Gpu(self, index, handle))
        return found


class Gpu:
    """One device. None is what NVML does not know of it."""

    def __init__(self, library: Library, index: int, handle: ctypes.c_void_p) -> None:
        self.library = library
        self.index = index
        self.handle = handle

    def number(self, name: str, *arguments: int, wide: bool = False) -> int | None:
        name = f"nvmlDeviceGet{name}"
        return self.library.number(name, self.handle, *arguments, wide=wide)

    def text(self, name: str) -> str | None:
        return self.library.text(f"nvmlDeviceGet{name}", self.handle)

    def name(self) -> str:
        return self.text("Name") or "Unknown"

    def uuid(self) -> str:
        return self.text("UUID") or "Unknown"

    def pci(self) -> PciInfo | None:
        info = PciInfo()
        asked = self.library.ask
        result = asked("nvmlDeviceGetPciInfo_v3", self.handle, ctypes.byref(info))
        return info if result == 0 else None

    def bus_id(self) -> str:
        info = self.pci()
        return info.id.decode() if info is not None else "N/A"

    def memory(self) -> MemoryInfo | None:
        info = MemoryInfo(version=ctypes.sizeof(MemoryInfo) | 2 << 24)
        asked = self.library.ask
        result = asked("nvmlDeviceGetMemoryInfo_v2", self.handle, ctypes.byref(info))
        return info if result == 0 else None

    def utilization(self) -> Utilization | None:
        info = Utilization()
        asked = self.library.ask
        result = asked("nvmlDeviceGetUtilizationRates", self.handle, ctypes.byref(info))
        return info if result == 0 else None

    def share(self, name: str) -> int | None:
        """Encoder and decoder: a percentage beside its sampling period."""
        busy, period = ctypes.c_uint(), ctypes.c_uint()
        result = self.library.ask(
            f"nvmlDeviceGet{name}", self.handle, ctypes.byref(busy),
            ctypes.byref(period),
        )  # fmt: skip
        return int(busy.value) if result == 0 else None

    def pair(self, name: str) -> tuple[int, int] | None:
        """Two numbers, of which one is asked for now and one comes with a restart."""
        now, then = ctypes.c_uint(), ctypes.c_uint()
        result = self.library.ask(
            f"nvmlDeviceGet{name}", self.handle, ctypes.byref(now), ctypes.byref(then)
        )
        return (int(now.value), int(then.value)) if result == 0 else None

    def compute_capability(self) -> tuple[int, int] | None:
        return self.pair("CudaComputeCapability")

    def bar1(self) -> Bar1 | None:
        info = Bar1()
        asked = self.library.ask
        result = asked("nvmlDeviceGetBAR1MemoryInfo", self.handle, ctypes.byref(info))
        return info if result == 0 else None

    def shares(self) -> dict[int, tuple[int, int, int, int]]:
        """Of processes, as far as they are known: percent of the multiprocessors, of
        memory, of the encoder and the decoder."""
        room = SOME_MORE
        while True:
            count = ctypes.c_uint(room)
            samples = (Sample * room)()
            result = self.library.ask(
                "nvmlDeviceGetProcessUtilization", self.handle, samples,
                ctypes.byref(count), ctypes.c_ulonglong(0),
            )  # fmt: skip
            if result != INSUFFICIENT_SIZE:
                break
            room = count.value + SOME_MORE
        if result != 0:
            return {}
        return {
            int(one.pid): (one.sm, one.memory, one.encoder, one.decoder)
            for one in samples[: count.value]
        }

    def processes(self) -> list[Process]:
        room = SOME_MORE
        while True:
            count = ctypes.c_uint(room)
            infos = (ProcessInfo * room)()
            result = self.library.ask(
                "nvmlDeviceGetComputeRunningProcesses_v3", self.handle,
                ctypes.byref(count), infos,
            )  # fmt: skip
            if result != INSUFFICIENT_SIZE:
                break
            room = count.value + SOME_MORE
        if result != 0:
            return []
        return [
            Process(int(one.pid), self.process_name(one.pid), int(one.used))
            for one in infos[: count.value]
        ]

    def process_name(self, pid: int) -> str:
        out = ctypes.create_string_buffer(1024)
        result = self.library.ask("nvmlSystemGetProcessName", pid, out, len(out))
        return out.value.decode(errors="replace") if result == 0 else ""


def chosen(gpus: list[Gpu], wanted: str) -> list[Gpu]:
    """What -i asks for: indices, UUIDs, addresses on the bus, with commas."""
    tests: list[Callable[[Gpu, str], bool]] = [
        lambda gpu, word: str(gpu.index) == word,
        lambda gpu, word: gpu.uuid().lower() == word.lower(),
        lambda gpu, word: same_bus(gpu.bus_id(), word),
    ]
    found = []
    for word in wanted.split(","):
        found += [gpu for gpu in gpus if any(test(gpu, word) for test in tests)][:1]
    return found


def same_bus(own: str, word: str) -> bool:
    """Domains are written with four digits or eight, or not at all."""
    parts = word.lower().split(":")
    return (
        len(parts) in (2, 3)
        and own.lower().endswith(":".join(parts[-2:]))
        and (len(parts) == 2 or own.split(":")[0].lower().endswith(parts[0]))
    )
