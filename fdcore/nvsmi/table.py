"""The screen that nvidia-smi shows without options; the widths are those of 550."""

import time
from collections.abc import Sequence

from fdcore.nvsmi import words
from fdcore.nvsmi.library import Gpu, Library, Process

EDGE = "+" + "-" * 89 + "+\n"
RULE = "+" + "-" * 41 + "+" + "-" * 24 + "+" + "-" * 22 + "+\n"
HEAD = """\
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
"""
PROCESSES = """\
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|        ID   ID                                                               Usage      |
"""
NONE = "|  No running processes found" + " " * 61 + "|\n"
NAME_ROOM = 27
PROCESS_ROOM = 38


def screen(library: Library, gpus: Sequence[Gpu], now: float) -> str:
    version = library.driver_version() or "N/A"
    title = (
        f"| NVIDIA-SMI {version:<22} Driver Version: {version:<14} "
        f"CUDA Version: {library.cuda_version() or 'N/A':<8} |\n"
    )
    text = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(now)) + "       \n"
    text += EDGE + title + "|" + RULE[1:] + HEAD
    text += "|" + RULE[1:-2].replace("-", "=") + "|\n"
    text += "".join(rows(gpu) + RULE for gpu in gpus)
    return text + " " * 89 + "\n" + processes(gpus)


def or_none(value: object, unit: str = "") -> str:
    return "N/A" if value is None else f"{value}{unit}"


def shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."


def rows(gpu: Gpu) -> str:
    persistence = {None: "N/A", 0: "Off"}.get(gpu.number("PersistenceMode"), "On ")
    display = {None: "N/A", 0: "Off"}.get(gpu.number("DisplayActive"), "On")
    errors = or_none(gpu.number("TotalEccErrors", 1, 0, wide=True))
    name = shortened(gpu.name(), NAME_ROOM)
    first = (
        f"|{gpu.index:>4}  {name:<27}{persistence:>7} |"
        f" {gpu.bus_id():>18} {display:>3} | {errors:>20} |\n"
    )
    draw, limit = gpu.number("PowerUsage"), gpu.number("EnforcedPowerLimit")
    power = f"{whole_watts(draw)} / {whole_watts(limit):>5}"
    memory = gpu.memory()
    used = total = "N/A"
    if memory is not None:
        total = f"{memory.total // words.MIB}MiB"
        free = memory.free + memory.reserved
        used = f"{words.used_mib(memory.total, free)}MiB"
    busy = gpu.utilization()
    share = "N/A" if busy is None else f"{busy.gpu}%"
    mode = words.compute_mode(gpu.number("ComputeMode"), short=True)
    second = (
        f"|{or_none(gpu.number('FanSpeed'), '%'):>4}"
        f"{or_none(gpu.number('Temperature', 0), 'C'):>6}"
        f"{or_none(words.pstate(gpu.number('PerformanceState'))):>6}{power:>24} |"
        f"{used:>11} / {total:>9} |{share:>8}{or_none(mode):>13} |\n"
    )
    mig = gpu.pair("MigMode")
    third = f"|{'':41}|{'':24}|"
    third += f" {or_none(None if mig is None else words.enabled(mig[0])):>20} |\n"
    return first + second + third


def whole_watts(milliwatts: int | None) -> str:
    return "N/A" if milliwatts is None else f"{milliwatts // 1000}W"


def processes(gpus: Sequence[Gpu]) -> str:
    lines = [
        process_row(gpu.index, process) for gpu in gpus for process in gpu.processes()
    ]
    rule = EDGE.replace("+", "|").replace("-", "=")
    return EDGE + PROCESSES + rule + ("".join(lines) or NONE) + EDGE


def process_row(index: int, process: Process) -> str:
    name = process.name or "[Not Found]"
    if len(name) > PROCESS_ROOM:
        name = "..." + name[-(PROCESS_ROOM - 3) :]
    used = f"{process.used // words.MIB}MiB"
    return (
        f"|{index:>5}   N/A  N/A{process.pid:>10}{process.kind:>7}   "
        f"{name:<38}{used:>14} |\n"
    )
