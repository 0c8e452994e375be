"""nvidia-smi -q -x: the report as XML, with the tags that its readers look for."""

import time
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from fdcore.nvsmi.library import Gpu, Library
from fdcore.nvsmi.report import SECTIONS, Line

HEAD = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
"""
# Of a section and a line of it: those that are not the line's name in lower case.
TAGS = {
    ("", "Serial Number"): "serial",
    ("", "GPU UUID"): "uuid",
    ("", "FB Memory Usage"): "fb_memory_usage",
    ("", "BAR1 Memory Usage"): "bar1_memory_usage",
    ("MIG Mode", "Current"): "current_mig",
    ("MIG Mode", "Pending"): "pending_mig",
    ("PCI", "Bus"): "pci_bus",
    ("PCI", "Device"): "pci_device",
    ("PCI", "Domain"): "pci_domain",
    ("PCI", "Bus Id"): "pci_bus_id",
    ("PCI", "GPU Link Info"): "pci_gpu_link_info",
    ("GPU Link Info", "PCIe Generation"): "pcie_gen",
    ("GPU Link Info", "Link Width"): "link_widths",
    ("PCIe Generation", "Max"): "max_link_gen",
    ("PCIe Generation", "Current"): "current_link_gen",
    ("Link Width", "Max"): "max_link_width",
    ("Link Width", "Current"): "current_link_width",
    ("Utilization", "Gpu"): "gpu_util",
    ("Utilization", "Memory"): "memory_util",
    ("Utilization", "Encoder"): "encoder_util",
    ("Utilization", "Decoder"): "decoder_util",
    ("ECC Mode", "Current"): "current_ecc",
    ("ECC Mode", "Pending"): "pending_ecc",
    ("Temperature", "GPU Current Temp"): "gpu_temp",
    ("Temperature", "GPU Shutdown Temp"): "gpu_temp_max_threshold",
    ("Temperature", "GPU Slowdown Temp"): "gpu_temp_slow_threshold",
    ("Clocks", "Graphics"): "graphics_clock",
    ("Clocks", "SM"): "sm_clock",
    ("Clocks", "Memory"): "mem_clock",
    ("Clocks", "Video"): "video_clock",
    ("Max Clocks", "Graphics"): "graphics_clock",
    ("Max Clocks", "SM"): "sm_clock",
    ("Max Clocks", "Memory"): "mem_clock",
    ("Max Clocks", "Video"): "video_clock",
}


def document(
    library: Library, gpus: Sequence[Gpu], sections: Sequence[str], now: float
) -> str:
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(now))
    text = HEAD + "<nvidia_smi_log>\n"
    for tag, value in (
        ("timestamp", when),
        ("driver_version", library.driver_version()),
        ("cuda_version", library.cuda_version()),
        ("attached_gpus", len(library.gpus())),
    ):
        text += element(1, tag, value)
    for gpu in gpus:
        text += f"\t<gpu id={quoteattr(gpu.bus_id())}>\n"
        for name, lines in SECTIONS.items():
            if name != "PIDS" and (not sections or name in sections):
                text += "".join(nested(lines(gpu)))
        if not sections or "PIDS" in sections:
            text += "".join(processes(gpu))
        text += "\t</gpu>\n\n"
    return text + "</nvidia_smi_log>\n"


def element(depth: int, tag: str, value: object) -> str:
    said = "N/A" if value is None else escape(str(value))
    return "\t" * depth + f"<{tag}>{said}</{tag}>\n"


def tag_of(above: str, name: str) -> str:
    return TAGS.get((above, name)) or name.lower().replace(" ", "_")


def nested(lines: Sequence[Line]) -> Iterator[str]:
    """A line whose value is ... holds those below it that are deeper."""
    opened: list[tuple[int, str, str]] = []  # depth, name, tag

    def closed(depth: int) -> Iterator[str]:
        while opened and opened[-1][0] >= depth:
            at, _, tag = opened.pop()
            yield "\t" * (at + 1) + f"</{tag}>\n"

    for depth, name, value in lines:
        yield from closed(depth)
        tag = tag_of(opened[-1][1] if opened else "", name)
        if value is ...:
            yield "\t" * (depth + 1) + f"<{tag}>\n"
            opened.append((depth, name, tag))
        else:
            yield element(depth + 1, tag, value)
    yield from closed(0)


def processes(gpu: Gpu) -> Iterator[str]:
    yield "\t\t<processes>\n"
    for one in gpu.processes():
        yield "\t\t\t<process_info>\n"
        for tag, value in (
            ("gpu_instance_id", None),
            ("compute_instance_id", None),
            ("pid", one.pid),
            ("type", one.kind),
            ("process_name", one.name or "[Not Found]"),
            ("used_memory", f"{one.used >> 20} MiB"),
        ):
            yield element(4, tag, value)
        yield "\t\t\t</process_info>\n"
    yield "\t\t</processes>\n"
