"""--query-gpu and --query-compute-apps: fields by name, written as CSV."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fdcore.nvsmi import words
from fdcore.nvsmi.library import Gpu, PciInfo, Process

Value = int | float | str | None
UNKNOWN = "[N/A]"


class BadField(Exception):
    pass


@dataclass(frozen=True)
class Field:
    name: str  # as the head of the column has it
    unit: str
    value: Callable[[Gpu], Value]
    about: str = ""

    @property
    def head(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def written(self, value: Value, units: bool) -> str:
        if value is None:
            return UNKNOWN
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        return f"{text} {self.unit}" if self.unit and units else text


def now(_: object = None) -> str:
    seconds = time.time()
    part = int(seconds * 1000) % 1000
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(seconds)) + f".{part:03}"


# ---- what a field's value is ----


def number(name: str, *arguments: int) -> Callable[[Gpu], Value]:
    return lambda gpu: gpu.number(name, *arguments)


def words_of(name: str, say: Callable[[int | None], Value]) -> Callable[[Gpu], Value]:
    return lambda gpu: say(gpu.number(name))


def text(name: str) -> Callable[[Gpu], Value]:
    return lambda gpu: gpu.text(name)


def either(name: str, which: int) -> Callable[[Gpu], Value]:
    def value(gpu: Gpu) -> Value:
        found = gpu.pair(name)
        return None if found is None else words.enabled(found[which])

    return value


def bus(say: Callable[[PciInfo], Value]) -> Callable[[Gpu], Value]:
    def value(gpu: Gpu) -> Value:
        info = gpu.pci()
        return None if info is None else say(info)

    return value


def memory_part(name: str) -> Callable[[Gpu], Value]:
    def value(gpu: Gpu) -> Value:
        info = gpu.memory()
        if info is None:
            return None
        if name == "used":
            return words.used_mib(info.total, info.free + info.reserved)
        return words.mib(int(getattr(info, name)))

    return value


def busy(name: str) -> Callable[[Gpu], Value]:
    def value(gpu: Gpu) -> Value:
        info = gpu.utilization()
        return None if info is None else int(getattr(info, name))

    return value


def share(name: str) -> Callable[[Gpu], Value]:
    return lambda gpu: gpu.share(name)


def ecc(kind: int, counter: int) -> Callable[[Gpu], Value]:
    return lambda gpu: gpu.number("TotalEccErrors", kind, counter, wide=True)


def capability(gpu: Gpu) -> Value:
    found = gpu.compute_capability()
    return None if found is None else f"{found[0]}.{found[1]}"


def reasons(gpu: Gpu) -> Value:
    found = gpu.number("CurrentClocksEventReasons", wide=True)
    return None if found is None else f"0x{found:016X}"


CLOCKS = {"graphics": 0, "sm": 1, "memory": 2, "video": 3}

GPU_FIELDS = [
    Field("timestamp", "", now, "When the values were asked for."),
    Field("driver_version", "", lambda gpu: gpu.library.driver_version(),
          "The version of the driver."),
    Field("count", "", lambda gpu: len(gpu.library.gpus()), "How many GPUs there are."),
    Field("name", "", lambda gpu: gpu.name(), "What the GPU is called."),
    Field("serial", "", text("Serial"), "The number on the board."),
    Field("uuid", "", lambda gpu: gpu.uuid(), "The GPU's unique id."),
    Field("pci.bus_id", "", bus(lambda info: info.id.decode()),
          "domain:bus:device.function, in hex."),
    Field("pci.domain", "", bus(lambda info: f"0x{info.domain:04X}"), "In hex."),
    Field("pci.bus", "", bus(lambda info: f"0x{info.bus:02X}"), "In hex."),
    Field("pci.device", "", bus(lambda info: f"0x{info.device:02X}"), "In hex."),
    Field("pci.device_id", "", bus(lambda info: f"0x{info.device_id:08X}"), "In hex."),
    Field("pci.sub_device_id", "", bus(lambda info: f"0x{info.subsystem_id:08X}"),
          "In hex."),
    Field("pcie.link.gen.current", "", number("CurrPcieLinkGeneration"),
          "The link's generation now."),
    Field("pcie.link.gen.max", "", number("MaxPcieLinkGeneration"),
          "The best that GPU and system can do."),
    Field("pcie.link.width.current", "", number("CurrPcieLinkWidth"), "Lanes now."),
    Field("pcie.link.width.max", "", number("MaxPcieLinkWidth"), "Lanes at best."),
    Field("index", "", lambda gpu: gpu.index, "From 0, in CUDA's order."),
    Field("display_mode", "", words_of("DisplayMode", words.enabled),
          "Whether a display is connected."),
    Field("display_active", "", words_of("DisplayActive", words.enabled),
          "Whether there is a display on it."),
    Field("persistence_mode", "", words_of("PersistenceMode", words.enabled),
          "Whether the driver stays loaded."),
    Field("vbios_version", "", text("VbiosVersion"), "The version of its BIOS."),
    Field("fan.speed", "%", number("FanSpeed"), "What the fan is told to do."),
    Field("pstate", "", words_of("PerformanceState", words.pstate),
          "From P0 (most) to P12."),
    Field("clocks_event_reasons.active", "", reasons,
          "Why clocks are what they are: bits."),
    Field("memory.total", "MiB", memory_part("total"), "Memory of the slice."),
    Field("memory.reserved", "MiB", memory_part("reserved"),
          "Of it, what the driver keeps."),
    Field("memory.used", "MiB", memory_part("used"), "Of it, used by this lease."),
    Field("memory.free", "MiB", memory_part("free"), "Of it, free."),
    Field("compute_mode", "", words_of("ComputeMode", words.compute_mode),
          "Who may run there."),
    Field("compute_cap", "", capability, "The compute capability."),
    Field("utilization.gpu", "%", busy("gpu"), "How long a kernel was running."),
    Field("utilization.memory", "%", busy("memory"), "How long memory was accessed."),
    Field("utilization.encoder", "%", share("EncoderUtilization"), "Of the encoder."),
    Field("utilization.decoder", "%", share("DecoderUtilization"), "Of the decoder."),
    Field("ecc.mode.current", "", either("EccMode", 0), "Whether ECC is on."),
    Field("ecc.mode.pending", "", either("EccMode", 1), "After the next restart."),
    Field("ecc.errors.corrected.volatile.total", "", ecc(0, 0),
          "Since the driver was loaded."),
    Field("ecc.errors.corrected.aggregate.total", "", ecc(0, 1), "Since it was made."),
    Field("ecc.errors.uncorrected.volatile.total", "", ecc(1, 0),
          "Since the driver was loaded."),
    Field("ecc.errors.uncorrected.aggregate.total", "", ecc(1, 1),
          "Since it was made."),
    Field("temperature.gpu", "", number("Temperature", 0), "In degrees C."),
    Field("temperature.memory", "", lambda gpu: None, "In degrees C."),
    Field("power.management", "", words_of("PowerManagementMode", words.enabled),
          "Whether power is managed."),
    Field("power.draw", "W", words_of("PowerUsage", words.watts), "Power now."),
    Field("power.limit", "W", words_of("PowerManagementLimit", words.watts),
          "The limit that was set."),
    Field("enforced.power.limit", "W", words_of("EnforcedPowerLimit", words.watts),
          "The limit that holds."),
    Field("power.default_limit", "W",
          words_of("PowerManagementDefaultLimit", words.watts), "The usual limit."),
    *(Field(f"clocks.current.{name}", "MHz", number("ClockInfo", at), "Now.")
      for name, at in CLOCKS.items()),
    *(Field(f"clocks.max.{name}", "MHz", number("MaxClockInfo", at), "At most.")
      for name, at in CLOCKS.items() if name != "video"),
    Field("mig.mode.current", "", either("MigMode", 0), "Whether it is divided."),
    Field("mig.mode.pending", "", either("MigMode", 1), "After the next reset."),
]  # fmt: skip

OTHER_NAMES = {
    "gpu_name": "name",
    "gpu_uuid": "uuid",
    "gpu_serial": "serial",
    "gpu_bus_id": "pci.bus_id",
    "clocks.gr": "clocks.current.graphics",
    "clocks.sm": "clocks.current.sm",
    "clocks.mem": "clocks.current.memory",
    "clocks.video": "clocks.current.video",
    "clocks.max.gr": "clocks.max.graphics",
    "clocks.max.mem": "clocks.max.memory",
    "clocks_throttle_reasons.active": "clocks_event_reasons.active",
    "power.draw.instant": "power.draw",
}

APP_FIELDS = ("timestamp", "gpu_name", "gpu_bus_id", "gpu_serial", "gpu_uuid", "pid",
              "process_name", "used_gpu_memory")  # fmt: skip
OTHER_APP_NAMES = {"name": "process_name", "used_memory": "used_gpu_memory"}


def gpu_fields(wanted: str) -> list[Field]:
    known = {field.name: field for field in GPU_FIELDS}
    found = []
    for word in (each.strip() for each in wanted.split(",")):
        field = known.get(OTHER_NAMES.get(word, word))
        if field is None:
            raise BadField(word)
        found.append(field)
    return found


def app_fields(wanted: str) -> list[str]:
    found = []
    for word in (each.strip() for each in wanted.split(",")):
        name = OTHER_APP_NAMES.get(word, word)
        if name not in APP_FIELDS:
            raise BadField(word)
        found.append(name)
    return found


def gpu_lines(
    gpus: Sequence[Gpu], fields: Sequence[Field], header: bool, units: bool
) -> list[str]:
    heads = [", ".join(field.head for field in fields)] if header else []
    return heads + [
        ", ".join(field.written(field.value(gpu), units) for field in fields)
        for gpu in gpus
    ]


def app_lines(
    gpus: Sequence[Gpu], fields: Sequence[str], header: bool, units: bool
) -> list[str]:
    heads = {"used_gpu_memory": "used_gpu_memory [MiB]"}
    lines = [", ".join(heads.get(name, name) for name in fields)] if header else []
    return lines + [
        ", ".join(app_value(gpu, process, name, units) for name in fields)
        for gpu in gpus
        for process in gpu.processes()
    ]


def app_value(gpu: Gpu, process: Process, name: str, units: bool) -> str:
    used = process.used // words.MIB
    values: dict[str, Callable[[], str]] = {
        "timestamp": now,
        "gpu_name": gpu.name,
        "gpu_bus_id": gpu.bus_id,
        "gpu_serial": lambda: gpu.text("Serial") or UNKNOWN,
        "gpu_uuid": gpu.uuid,
        "pid": lambda: str(process.pid),
        "process_name": lambda: process.name or "[Not Found]",
        "used_gpu_memory": lambda: f"{used} MiB" if units else str(used),
    }
    return values[name]()
