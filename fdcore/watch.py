"""What a server shows of itself: how its GPUs are used, what it has counted, its log.

Numbers only: nothing here decides anything. Boards are written by workers, so what is
read there is shown and never relied on.
"""

import asyncio
import collections
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fdcore.board import Boards
from fdcore.host.gauges import Gauges
from fdcore.host.gpus import Found
from fdcore.lease import Lease
from fdcore.lists import printable
from fdcore.sched.slices import Gpu

KEPT_LINES = 500
LONGEST_LINE = 500
LOOK_SECONDS = 2.0
# Upper bounds of the times in line that are counted, in seconds.
BOUNDS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
# Of sessions that have ended, by their worker's own words.
COUNTED = ("messages", "waited", "up_bytes", "down_bytes", "launches")


@dataclass(frozen=True, slots=True)
class LogLine:
    number: int
    time: float
    level: str
    text: str


class LogTail(logging.Handler):
    """The last lines of the log, for who may see them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: collections.deque[LogLine] = collections.deque(maxlen=KEPT_LINES)
        self.number = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.number += 1
        text = printable(record.getMessage())[:LONGEST_LINE]
        level = record.levelname.lower()
        self.lines.append(LogLine(self.number, record.created, level, text))

    def after(self, number: int) -> list[LogLine]:
        return [line for line in self.lines if line.number > number]


class Watch:
    def __init__(self, boards: Boards) -> None:
        self.boards = boards
        self.server = secrets.token_bytes(16)
        self.since = time.time()
        self.log = LogTail()
        self.counts: collections.Counter[str] = collections.Counter()
        self.queue_seconds = 0.0
        self.knows_busy = False
        # Of leases that have ended, by ordinal.
        self.busy: collections.Counter[int] = collections.Counter()
        self.gauges: Mapping[int, Mapping[str, float]] = {}

    # ---- what happens ----

    def granted(self, seconds: float) -> None:
        self.counts["leases_granted"] += 1
        self.queue_seconds += seconds
        for bound in BOUNDS:
            if seconds <= bound:
                self.counts[f"queue_le_{bound:g}"] += 1

    def refused(self) -> None:
        self.counts["requests_refused"] += 1

    def freed(self, lease: Lease) -> None:
        self.counts["leases_ended"] += 1
        _, busy = self.usage(lease)
        for part, ns in zip(lease.slices, busy, strict=False):
            self.busy[part.ordinal] += ns

    def session_begun(self) -> None:
        self.counts["sessions_begun"] += 1

    def session_lost(self) -> None:
        self.counts["sessions_lost"] += 1

    def session_ended(self, counters: Mapping[str, object]) -> None:
        for name in COUNTED:
            value = counters.get(name, 0)
            if isinstance(value, int) and value > 0:
                self.counts[name] += value

    # ---- what is shown ----

    def usage(self, lease: Lease) -> tuple[list[int], list[int]]:
        """Of each slice: the bytes that programs have, and for how many ns kernels ran;
        the latter is empty where the driver does not say."""
        used, busy = self.boards.usage(lease.id, len(lease.slices))
        parts = zip(used, lease.slices, strict=True)
        return [min(n, p.memory) for n, p in parts], busy if self.knows_busy else []

    def used(self, leases: Mapping[bytes, Lease]) -> dict[int, tuple[int, int]]:
        """Of each GPU: bytes, and ns since the server began."""
        found = {ordinal: (0, ns) for ordinal, ns in self.busy.items()}
        for lease in leases.values():
            used, busy = self.usage(lease)
            busy = busy or [0] * len(used)
            for part, size, ns in zip(lease.slices, used, busy, strict=True):
                before = found.get(part.ordinal, (0, 0))
                found[part.ordinal] = (before[0] + size, before[1] + ns)
        return found

    def figures(self, gpu: Gpu, busy_ns: int) -> dict[str, float]:
        """What is known of the moment; what is not has no entry."""
        found = dict(self.gauges.get(gpu.ordinal, {}))
        if self.knows_busy:
            found["busy_seconds"] = busy_ns / 1e9
        return found

    def totals(self) -> dict[str, float]:
        names = ("leases_granted", "leases_ended", "requests_refused",
                 "sessions_begun", "sessions_lost", *COUNTED,
                 *(f"queue_le_{bound:g}" for bound in BOUNDS))  # fmt: skip
        found = {name: float(self.counts[name]) for name in names}
        return found | {"queue_seconds": self.queue_seconds}

    async def look(self, found: Found) -> None:
        """Keeps what a real driver's NVML says, where there is one."""
        if not found.nvml:
            return
        loop = asyncio.get_running_loop()
        nvml = await loop.run_in_executor(None, Gauges.open, found.nvml)
        while nvml is not None:
            with contextlib.suppress(OSError):
                self.gauges = await loop.run_in_executor(None, nvml.read, found.gpus)
            await asyncio.sleep(LOOK_SECONDS)
