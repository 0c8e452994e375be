"""What a server and its programs have at a moment, counted: to be compared before and
after. Read from /proc and asked of the server, so it needs nothing of the server's."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
OURS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(?:/memfd:|/dev/shm/)fdcore")


@dataclass(frozen=True, slots=True)
class Tally:
    """free: MiB of each GPU. The rest is of the server and all processes below it."""

    leases: int
    free: tuple[int, ...]
    processes: int
    descriptors: int
    mapped: int  # bytes of memory that is shared with clients

    def __str__(self) -> str:
        free = " + ".join(map(str, self.free))
        return (f"{self.leases} leases, {free} MiB free, {self.processes} processes, "
                f"{self.descriptors} descriptors, {self.mapped >> 10} KiB mapped")  # fmt: skip

    def over(self, base: "Tally") -> str:
        """What there is more of than at first; nothing: it is back where it was."""
        words = []
        if self.leases > base.leases:
            words.append(f"{self.leases - base.leases} leases")
        if self.free != base.free:
            words.append(f"MiB free {list(self.free)}, were {list(base.free)}")
        for name in ("processes", "descriptors", "mapped"):
            more = getattr(self, name) - getattr(base, name)
            if more > 0:
                words.append(f"{more} more {name}")
        return ", ".join(words)


def below(pid: int) -> Iterator[int]:
    """The processes that this one started, and theirs."""
    for task in tasks(pid):
        try:
            found = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, found):
            yield child
            yield from below(child)


def tasks(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(PROC / str(pid) / "fd"))
    except OSError:
        return 0


class Waits:
    """How long processes have waited for a processor, which is the machine's fault and not
    theirs. Of those that wait at the same time one counts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.looked = time.monotonic()
        self.last: dict[int, float] = {}

    def look(self, pids: Iterable[int]) -> None:
        now, more = time.monotonic(), 0.0
        for pid in pids:
            waited = waited_for_processor(pid)
            more += max(0.0, waited - self.last.get(pid, waited))  # less: it has ended
            self.last[pid] = waited
        self.seconds += min(more, now - self.looked)
        self.looked = now


def waited_for_processor(pid: int) -> float:
    """Seconds of its life, of its first thread; 0 where the kernel does not say."""
    try:
        return int((PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def kinds(pid: int) -> Counter[str]:
    """The descriptors of a process by what they are, to say which are too many."""
    found: Counter[str] = Counter()
    try:
        numbers = os.listdir(PROC / str(pid) / "fd")
    except OSError:
        return found
    for number in numbers:
        try:
            found[os.readlink(PROC / str(pid) / "fd" / number).partition(":[")[0]] += 1
        except OSError:
            pass
    return found


def mapped(pid: int) -> int:
    """Bytes of memory files of ours that it has mapped."""
    try:
        lines = (PROC / str(pid) / "maps").read_text().splitlines()
    except OSError:
        return 0
    ranges = [found.groups() for found in map(OURS.match, lines) if found]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ranges)


def memory(pid: int) -> dict[str, int]:
    """KiB by the names of smaps_rollup; empty where that may not be read."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def tally(server: int, leases: int, free: list[int]) -> Tally:
    pids = [server, *below(server)]
    return Tally(
        leases,
        tuple(free),
        len(pids),
        sum(descriptors(pid) for pid in pids),
        sum(mapped(pid) for pid in pids),
    )
