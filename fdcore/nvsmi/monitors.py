"""nvidia-smi dmon and pmon: a line for each GPU, or each process, again and again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from fdcore.nvsmi import words
from fdcore.nvsmi.library import Gpu, Library, Process, chosen

HEAD_AGAIN = 20  # lines after which the head is written once more
Cell = int | float | str | None

DMON_HELP = """\
    GPU statistics, a line for each GPU again and again.

    nvidia-smi dmon [options]

    -i | --id=       Only these: indices, UUIDs or bus ids, with commas.
    -d | --delay=    Seconds between two turns (1).
    -c | --count=    So many turns, then the end.
    -s | --select=   Of p: power and temperature, u: utilisation, c: clocks,
                     v: violations, m: memory, e: ECC errors, t: PCIe (puc).
    -o | --options=  D: the date, T: the time before each line.
    -f | --filename= Write there, not to standard output.
"""
PMON_HELP = """\
    Process statistics, a line for each process of this lease again and again.

    nvidia-smi pmon [options]

    -i | --id=       Only these: indices, UUIDs or bus ids, with commas.
    -d | --delay=    Seconds between two turns (1).
    -c | --count=    So many turns, then the end.
    -s | --select=   Of u: utilisation, m: memory (u).
    -o | --options=  D: the date, T: the time before each line.
    -f | --filename= Write there, not to standard output.
"""


@dataclass(frozen=True)
class Column:
    name: str
    unit: str
    value: Callable[[Gpu], Cell]
    width: int = 6


def number(name: str, *arguments: int, wide: bool = False) -> Callable[[Gpu], Cell]:
    return lambda gpu: gpu.number(name, *arguments, wide=wide)


def unknown(_: object) -> Cell:
    return None


def watts(gpu: Gpu) -> Cell:
    value = words.watts(gpu.number("PowerUsage"))
    return None if value is None else round(value)


def busy(which: str) -> Callable[[Gpu], Cell]:
    def value(gpu: Gpu) -> Cell:
        found = gpu.utilization()
        return None if found is None else int(getattr(found, which))

    return value


def used(gpu: Gpu) -> Cell:
    info = gpu.memory()
    if info is None:
        return None
    return words.used_mib(info.total, info.free + info.reserved)


def bar1(gpu: Gpu) -> Cell:
    found = gpu.bar1()
    return None if found is None else int(found.used) // words.MIB


GPU_COLUMNS = {
    "p": [
        Column("pwr", "W", watts),
        Column("gtemp", "C", number("Temperature", 0)),
        Column("mtemp", "C", unknown),
    ],
    "u": [
        Column("sm", "%", busy("gpu")),
        Column("mem", "%", busy("memory")),
        Column("enc", "%", lambda gpu: gpu.share("EncoderUtilization")),
        Column("dec", "%", lambda gpu: gpu.share("DecoderUtilization")),
        Column("jpg", "%", unknown),
        Column("ofa", "%", unknown),
    ],
    "c": [
        Column("mclk", "MHz", number("ClockInfo", 2)),
        Column("pclk", "MHz", number("ClockInfo", 0)),
    ],
    "v": [Column("pviol", "%", unknown), Column("tviol", "bool", unknown)],
    "m": [Column("fb", "MB", used), Column("bar1", "MB", bar1)],
    "e": [
        Column("sbecc", "errs", number("TotalEccErrors", 0, 0, wide=True)),
        Column("dbecc", "errs", number("TotalEccErrors", 1, 0, wide=True)),
        Column("pci", "errs", number("PcieReplayCounter")),
    ],
    "t": [Column("rxpci", "MB/s", unknown), Column("txpci", "MB/s", unknown)],
}
KINDS = {"dmon": "pucvmet", "pmon": "um"}
USUAL = {"dmon": "puc", "pmon": "u"}


@dataclass
class Wanted:
    """What the command line asks for."""

    command: str
    ids: str = ""
    delay: float = 1.0
    count: int = 0  # 0: until Ctrl-C
    select: str = ""
    options: str = ""
    file: str = ""


def cell(value: Cell, width: int = 6) -> str:
    return ("-" if value is None else str(value)).rjust(width)


def stamps(wanted: Wanted, now: float) -> tuple[str, str, str]:
    """What stands before a line, and in the two lines of the head."""
    local = time.localtime(now)
    line, first, second = "", "", ""
    for letter, form, name, shape in (
        ("D", "%Y%m%d", "Date", "YYYYMMDD"),
        ("T", "%H:%M:%S", "Time", "HH:MM:SS"),
    ):
        if letter in wanted.options:
            line += f" {time.strftime(form, local)} "
            first += f"{name:<9} "
            second += f"{shape:<9} "
    return line, first, second


def gpu_turn(gpus: Sequence[Gpu], wanted: Wanted, now: float) -> tuple[str, list[str]]:
    columns = [one for kind in KINDS["dmon"] if kind in wanted.select
               for one in GPU_COLUMNS[kind]]  # fmt: skip
    before, first, second = stamps(wanted, now)
    head = f"#{first}" + "gpu".rjust(4) + "".join(
        f" {each.name:>{each.width}}" for each in columns)  # fmt: skip
    units = f"#{second}" + "Idx".rjust(4) + "".join(
        f" {each.unit:>{each.width}}" for each in columns)  # fmt: skip
    lines = [
        before + f"{gpu.index:>5}"
        + "".join(f" {cell(each.value(gpu), each.width)}" for each in columns)
        for gpu in gpus
    ]  # fmt: skip
    return f"{head} \n{units} \n", [f"{line} \n" for line in lines]


def process_turn(
    gpus: Sequence[Gpu], wanted: Wanted, now: float
) -> tuple[str, list[str]]:
    names: list[tuple[str, str]] = []
    if "u" in wanted.select:
        names += [(each, "%") for each in ("sm", "mem", "enc", "dec", "jpg", "ofa")]
    if "m" in wanted.select:
        names += [("fb", "MB")]
    before, first, second = stamps(wanted, now)
    head = f"#{first}" + "gpu".rjust(4) + "pid".rjust(12) + "type".rjust(7)
    units = f"#{second}" + "Idx".rjust(4) + "#".rjust(12) + "C/G".rjust(7)
    head += "".join(f" {name:>6}" for name, _ in names) + "    command \n"
    units += "".join(f" {unit:>6}" for _, unit in names) + "    name \n"
    lines = []
    for gpu in gpus:
        found = gpu.processes()
        shares = gpu.shares() if found and "u" in wanted.select else {}
        for one in found:
            cells = process_cells(one, shares.get(one.pid), wanted)
            lines.append(before + f"{gpu.index:>5}{one.pid:>12}{one.kind:>7}{cells}")
        if not found:
            nothing = "".join(f" {cell(None)}" for _ in names)
            lines.append(before + f"{gpu.index:>5}{'-':>12}{'-':>7}{nothing}    -")
    return head + units, [f"{line.rstrip()} \n" for line in lines]


def process_cells(
    one: Process, share: tuple[int, int, int, int] | None, wanted: Wanted
) -> str:
    text = ""
    if "u" in wanted.select:
        known: tuple[Cell, ...] = share or (None,) * 4
        text += "".join(f" {cell(each)}" for each in (*known, None, None))
    if "m" in wanted.select:
        text += f" {cell(one.used // words.MIB)}"
    name = (one.name or "-").split(" ")[0].rsplit("/", 1)[-1]
    return f"{text}    {name[:14]}"


TURNS = {"dmon": gpu_turn, "pmon": process_turn}


def watch(wanted: Wanted, out: TextIO) -> None:
    library = Library()
    since_head, turns = HEAD_AGAIN, 0
    try:
        while True:
            gpus = library.gpus()
            if wanted.ids:
                gpus = chosen(gpus, wanted.ids)
            head, lines = TURNS[wanted.command](gpus, wanted, time.time())
            if since_head >= HEAD_AGAIN:
                out.write(head)
                since_head = 0
            out.write("".join(lines))
            out.flush()
            since_head += len(lines)
            turns += 1
            if wanted.count and turns >= wanted.count:
                return
            time.sleep(wanted.delay)
    finally:
        library.close()
