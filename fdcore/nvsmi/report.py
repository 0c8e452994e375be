"""nvidia-smi -q: everything that is known, by section."""

import time
from collections.abc import Sequence

from fdcore.nvsmi import words
from fdcore.nvsmi.fields import CLOCKS
from fdcore.nvsmi.library import Gpu, Library

WIDTH = 42
Line = tuple[int, str, object]  # depth, name, value; a section has the value ...


def line(depth: int, name: str, value: object) -> str:
    text = "    " * depth + name
    if value is ...:
        return f"{text}\n"
    return f"{text:<{WIDTH}}: {'N/A' if value is None else value}\n"


def report(
    library: Library, gpus: Sequence[Gpu], sections: Sequence[str], now: float
) -> str:
    """sections: those of -d; none: all."""
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(now))
    text = "\n==============NVSMI LOG==============\n\n"
    text += line(0, "Timestamp", when)
    text += line(0, "Driver Version", library.driver_version())
    text += line(0, "CUDA Version", library.cuda_version()) + "\n"
    text += line(0, "Attached GPUs", len(library.gpus()))
    for gpu in gpus:
        text += f"GPU {gpu.bus_id()}\n"
        for name, lines in SECTIONS.items():
            if not sections or name in sections:
                text += "".join(line(*each) for each in lines(gpu))
        text += "\n"
    return text


def unit(value: object, name: str) -> str | None:
    return None if value is None else f"{value} {name}"


def both(gpu: Gpu, name: str) -> tuple[str | None, str | None]:
    found = gpu.pair(name)
    if found is None:
        return None, None
    return words.enabled(found[0]), words.enabled(found[1])


def about(gpu: Gpu) -> list[Line]:
    mig = both(gpu, "MigMode")
    return [
        (1, "Product Name", gpu.name()),
        (1, "Product Brand", words.brand(gpu.number("Brand"))),
        (1, "Display Mode", words.enabled(gpu.number("DisplayMode"))),
        (1, "Display Active", words.enabled(gpu.number("DisplayActive"))),
        (1, "Persistence Mode", words.enabled(gpu.number("PersistenceMode"))),
        (1, "MIG Mode", ...),
        (2, "Current", mig[0]),
        (2, "Pending", mig[1]),
        (1, "Serial Number", gpu.text("Serial")),
        (1, "GPU UUID", gpu.uuid()),
        (1, "Minor Number", gpu.number("MinorNumber")),
        (1, "VBIOS Version", gpu.text("VbiosVersion")),
    ]


def bus(gpu: Gpu) -> list[Line]:
    info = gpu.pci()
    link = [gpu.number(f"{word}PcieLinkGeneration") for word in ("Max", "Curr")]
    width = [gpu.number(f"{word}PcieLinkWidth") for word in ("Max", "Curr")]
    known = [
        (2, "Bus", f"0x{info.bus:02X}"),
        (2, "Device", f"0x{info.device:02X}"),
        (2, "Domain", f"0x{info.domain:04X}"),
    ] if info is not None else []  # fmt: skip
    return [
        (1, "PCI", ...),
        *known,
        (2, "Bus Id", gpu.bus_id()),
        (2, "GPU Link Info", ...),
        (3, "PCIe Generation", ...),
        (4, "Max", link[0]),
        (4, "Current", link[1]),
        (3, "Link Width", ...),
        (4, "Max", unit_x(width[0])),
        (4, "Current", unit_x(width[1])),
        (1, "Fan Speed", unit(gpu.number("FanSpeed"), "%")),
    ]


def unit_x(lanes: int | None) -> str | None:
    return None if lanes is None else f"{lanes}x"


def performance(gpu: Gpu) -> list[Line]:
    state = words.pstate(gpu.number("PerformanceState"))
    return [(1, "Performance State", state)]


def memory(gpu: Gpu) -> list[Line]:
    info, window = gpu.memory(), gpu.bar1()
    total = reserved = used = free = None
    if info is not None:
        total, reserved = info.total // words.MIB, info.reserved // words.MIB
        free = info.free // words.MIB
        used = words.used_mib(info.total, info.free + info.reserved)
    return [
        (1, "FB Memory Usage", ...),
        (2, "Total", unit(total, "MiB")),
        (2, "Reserved", unit(reserved, "MiB")),
        (2, "Used", unit(used, "MiB")),
        (2, "Free", unit(free, "MiB")),
        (1, "BAR1 Memory Usage", ...),
        (2, "Total", unit(words.mib(window.total) if window else None, "MiB")),
        (2, "Used", unit(words.mib(window.used) if window else None, "MiB")),
        (2, "Free", unit(words.mib(window.free) if window else None, "MiB")),
    ]


def compute(gpu: Gpu) -> list[Line]:
    return [(1, "Compute Mode", words.compute_mode(gpu.number("ComputeMode")))]


def utilization(gpu: Gpu) -> list[Line]:
    busy = gpu.utilization()
    return [
        (1, "Utilization", ...),
        (2, "Gpu", unit(busy.gpu, "%") if busy else None),
        (2, "Memory", unit(busy.memory, "%") if busy else None),
        (2, "Encoder", unit(gpu.share("EncoderUtilization"), "%")),
        (2, "Decoder", unit(gpu.share("DecoderUtilization"), "%")),
    ]


def errors(gpu: Gpu) -> list[Line]:
    mode = both(gpu, "EccMode")

    def count(kind: int, since: int) -> int | None:
        return gpu.number("TotalEccErrors", kind, since, wide=True)

    return [
        (1, "ECC Mode", ...),
        (2, "Current", mode[0]),
        (2, "Pending", mode[1]),
        (1, "ECC Errors", ...),
        (2, "Volatile", ...),
        (3, "Corrected", count(0, 0)),
        (3, "Uncorrected", count(1, 0)),
        (2, "Aggregate", ...),
        (3, "Corrected", count(0, 1)),
        (3, "Uncorrected", count(1, 1)),
    ]


def temperature(gpu: Gpu) -> list[Line]:
    return [
        (1, "Temperature", ...),
        (2, "GPU Current Temp", unit(gpu.number("Temperature", 0), "C")),
        (2, "GPU Shutdown Temp", unit(gpu.number("TemperatureThreshold", 0), "C")),
        (2, "GPU Slowdown Temp", unit(gpu.number("TemperatureThreshold", 1), "C")),
    ]


def power(gpu: Gpu) -> list[Line]:
    def watts(name: str) -> str | None:
        value = words.watts(gpu.number(name))
        return None if value is None else f"{value:.2f} W"

    return [
        (1, "GPU Power Readings", ...),
        (2, "Power Draw", watts("PowerUsage")),
        (2, "Current Power Limit", watts("EnforcedPowerLimit")),
        (2, "Requested Power Limit", watts("PowerManagementLimit")),
        (2, "Default Power Limit", watts("PowerManagementDefaultLimit")),
    ]


def clock(gpu: Gpu) -> list[Line]:
    lines: list[Line] = []
    for head, name in (("Clocks", "ClockInfo"), ("Max Clocks", "MaxClockInfo")):
        lines.append((1, head, ...))
        for word, at in CLOCKS.items():
            shown = "SM" if word == "sm" else word.capitalize()
            lines.append((2, shown, unit(gpu.number(name, at), "MHz")))
    return lines


def processes(gpu: Gpu) -> list[Line]:
    found = gpu.processes()
    if not found:
        return [(1, "Processes", "None")]
    lines: list[Line] = [(1, "Processes", ...)]
    for one in found:
        lines += [
            (2, "GPU instance ID", None),
            (2, "Compute instance ID", None),
            (2, "Process ID", one.pid),
            (3, "Type", one.kind),
            (3, "Name", one.name or "[Not Found]"),
            (3, "Used GPU Memory", f"{one.used // words.MIB} MiB"),
        ]
    return lines


# By the word of -d; those that it cannot name are in lower case.
SECTIONS = {
    "about": about,
    "bus": bus,
    "PERFORMANCE": performance,
    "MEMORY": memory,
    "COMPUTE": compute,
    "UTILIZATION": utilization,
    "ECC": errors,
    "TEMPERATURE": temperature,
    "POWER": power,
    "CLOCK": clock,
    "PIDS": processes,
}
