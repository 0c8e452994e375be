"""What GPUs a driver library has.

The library is opened in a process of its own, `python -m fdcore.host.gpus PATH`: a
driver that crashes, or that must not be in a process which starts others, is then not
in the daemon.
"""

import ctypes
import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from fdcore import __version__, modules
from fdcore.config import CPU_DEVICE, LIBRARIES, NVML, SHIM, library
from fdcore.errors import ConfigError, DriverError
from fdcore.host import modes
from fdcore.host.gauges import Gauges
from fdcore.sched.slices import Gpu

log = logging.getLogger("fdserver")

ASK_SECONDS = 60.0
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CPU_DEVICE_NAME = "fdcore CPU device"

DEVICE_PCI_BUS, DEVICE_PCI_DEVICE, DEVICE_PCI_DOMAIN = 33, 34, 50


def is_cpu_device(gpus: tuple[Gpu, ...]) -> bool:
    return any(gpu.name.startswith(CPU_DEVICE_NAME) for gpu in gpus)


@dataclass(frozen=True, slots=True)
class Found:
    """What a driver library says of itself and its GPUs: all of them. refused: why some
    are not to be offered; notes: what else is to be known; by ordinal."""

    gpus: tuple[Gpu, ...]
    cuda: str = ""
    driver: str = ""
    nvml: str = ""  # the path of the NVML that lies beside a real driver
    refused: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)

    def served(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.ordinal not in self.refused)

    def lines(self) -> list[str]:
        """What a server says of them when it begins."""
        out = []
        for gpu in self.gpus:
            size, note = gpu.memory >> 20, self.notes.get(gpu.ordinal, "")
            said = f"GPU {gpu.ordinal}: {gpu.name}, {size} MiB, {gpu.uuid}"
            why = self.refused.get(gpu.ordinal, "")
            out.append(said + (f", not served: {why}" if why else note and f", {note}"))
        return out


def ask(driver: str, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    return find(driver, environment).gpus


def find(driver: str, environment: Mapping[str, str]) -> Found:
    """The GPUs of this driver library, asked in a process with this environment."""
    command = [*modules.command("fdcore.host.gpus"), driver]
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{driver} did not say within {ASK_SECONDS:g} s what GPUs it has"
        ) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit status {done.returncode}"
        raise ConfigError(f"{driver} cannot be used: {last}")
    said = json.loads(done.stdout)
    rows = tuple(Gpu(**row) for row in said["gpus"])
    refused, notes = (
        {int(ordinal): str(text) for ordinal, text in said[name].items()}
        for name in ("refused", "notes")
    )
    return Found(rows, said["cuda"], said["driver"], said["nvml"], refused, notes)


def serve(
    driver: str, cpu_devices: int, environment: Mapping[str, str]
) -> tuple[str, Found]:
    """The driver library to serve, and its GPUs: the one that is named, else the
    machine's, else the CPU device."""
    if driver:
        return driver, some(driver, find(driver, environment))
    if not cpu_devices:
        why = ""
        try:
            found = find(SHIM, environment)
        except ConfigError as error:
            why = f" ({error})"
        else:
            if found.gpus:
                return SHIM, some(SHIM, found)
        log.warning("no GPU found on this machine: serving the CPU device%s", why)
    path = str(library(CPU_DEVICE))
    return path, find(path, environment)


def some(driver: str, found: Found) -> Found:
    if not found.gpus:
        raise ConfigError(f"{driver} has no GPU")
    if not found.served():
        raise ConfigError(f"{driver} has no GPU to serve: {'; '.join(found.lines())}")
    return found


def driver_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for what opens the driver: without our own shim on its path."""
    made = dict(environment)
    made.pop("FD_SESSION", None)
    kept = [
        folder
        for folder in made.get("LD_LIBRARY_PATH", "").split(":")
        if folder and not is_ours(folder)
    ]
    made.pop("LD_LIBRARY_PATH", None)
    if kept:
        made["LD_LIBRARY_PATH"] = ":".join(kept)
    return made


def is_ours(folder: str) -> bool:
    """True where libcuda.so.1 would be found that is fdcore's."""
    real = os.path.realpath(os.path.join(folder, SHIM))
    ours = (SHIM, CPU_DEVICE)
    return real in [os.path.realpath(LIBRARIES / name) for name in ours]


def look(driver: str) -> Found:
    """Opens the driver here and asks it."""
    cuda = ctypes.CDLL(driver)
    try:
        check(cuda, "cuInit", ctypes.c_uint(0))
    except DriverError as error:
        why = modes.hidden(gauges_beside(cuda)) if error.code == NO_DEVICE else ""
        if not why:
            raise
        raise ConfigError(why) from None
    count, version = ctypes.c_int(), ctypes.c_int()
    check(cuda, "cuDeviceGetCount", ctypes.byref(count))
    check(cuda, "cuDriverGetVersion", ctypes.byref(version))
    found = tuple(look_at(cuda, ordinal) for ordinal in range(count.value))
    said = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if is_cpu_device(found):
        return judged(cuda, Found(found, said, __version__), None)
    there = Found(found, said, driver_version(), nvml_beside(cuda))
    return judged(cuda, there, gauges_beside(cuda))


def judged(cuda: ctypes.CDLL, found: Found, gauges: Gauges | None) -> Found:
    """With what their modes allow."""
    gpus, refused, notes = [], {}, {}
    for gpu in found.gpus:
        seen = modes.seen(cuda, gpu.ordinal, gauges, gpu.pci)
        verdict = modes.judge(seen, gpu.memory)
        if verdict.refused:
            refused[gpu.ordinal] = verdict.refused
        if verdict.note:
            notes[gpu.ordinal] = verdict.note
        if seen.mig is not None and seen.mig[0]:
            gpu = replace(gpu, uuid=instance_uuid(cuda, gpu))
        gpus.append(replace(gpu, whole=verdict.whole))
    return replace(found, gpus=tuple(gpus), refused=refused, notes=notes)


def instance_uuid(cuda: ctypes.CDLL, gpu: Gpu) -> str:
    """Of a MIG instance, by which CUDA_VISIBLE_DEVICES names it."""
    identity, device = ctypes.create_string_buffer(16), ctypes.c_int()
    ask_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None)
    if ask_uuid is None or cuda.cuDeviceGet(ctypes.byref(device), gpu.ordinal):
        return gpu.uuid
    if ask_uuid(identity, device):
        return gpu.uuid
    return f"MIG-{uuid.UUID(bytes=identity.raw)}"


def gauges_beside(cuda: ctypes.CDLL) -> Gauges | None:
    path = nvml_beside(cuda)
    return Gauges.open(path) if path else None


class Where(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("symbol", ctypes.c_void_p),
    )


def nvml_beside(cuda: ctypes.CDLL) -> str:
    """The path of the NVML in the driver's folder; empty: there is none."""
    found = Where()
    dladdr = ctypes.CDLL(None).dladdr
    if not dladdr(ctypes.cast(cuda.cuInit, ctypes.c_void_p), ctypes.byref(found)):
        return ""
    folder = os.path.dirname(os.path.realpath(os.fsdecode(found.file or b"")))
    path = os.path.join(folder, NVML)
    return path if os.path.exists(path) and not is_ours(folder) else ""


def driver_version() -> str:
    """NVIDIA's name of its driver's version, as 580.159.04; empty: not known."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode(errors="replace")
    except (OSError, AttributeError):
        pass
    return ""


def look_at(cuda: ctypes.CDLL, ordinal: int) -> Gpu:
    device = ctypes.c_int()
    check(cuda, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
    name = ctypes.create_string_buffer(256)
    check(cuda, "cuDeviceGetName", name, ctypes.c_int(256), device)
    memory = ctypes.c_size_t()
    check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    identity = ctypes.create_string_buffer(16)
    check(cuda, "cuDeviceGetUuid", identity, device)
    numbers = []
    for attribute in (DEVICE_PCI_DOMAIN, DEVICE_PCI_BUS, DEVICE_PCI_DEVICE):
        value = ctypes.c_int()
        check(
            cuda,
            "cuDeviceGetAttribute",
            ctypes.byref(value),
            ctypes.c_int(attribute),
            device,
        )
        numbers.append(value.value)
    return Gpu(
        ordinal,
        name.value.decode(errors="replace"),
        f"GPU-{uuid.UUID(bytes=identity.raw)}",
        memory.value,
        f"{numbers[0]:04x}:{numbers[1]:02x}:{numbers[2]:02x}.0",
    )


def check(cuda: ctypes.CDLL, call: str, *arguments: object) -> None:
    code = getattr(cuda, call)(*arguments)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        name = text.value.decode() if text.value else "an error without a name"
        raise DriverError(code, name, call)


def main() -> int:
    try:
        found = look(sys.argv[1])
    except (OSError, AttributeError, ConfigError, DriverError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
