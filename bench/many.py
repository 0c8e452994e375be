"""Many sessions at once on one server, and what each costs while it does nothing.

    python -m bench.many [--sessions 200] [--road shm|tcp] [--at-once 16] [--idle 3]

Starts so many programs (idle.c), each through fdrun with a slice of its own, waits until
all have computed, reads what they have, tells all to compute again, and compares what
the server has in the end with what it had at first. Memory is proportional (PSS): what
several processes share is divided among them.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import ROOT, Server, start_server
from tests.tally import Tally, below, descriptors, mapped, memory, tally

OUT = ROOT / "build" / "bench"
SLICE_MB, DEVICES, MEMORY_MB = 16, 2, 4096
START_SECONDS, END_SECONDS = 600.0, 120.0


@dataclass(slots=True)
class Cost:
    """Of processes of one kind: how many, and what they have together."""

    count: int = 0
    pss: int = 0  # KiB
    rss: int = 0
    private: int = 0
    descriptors: int = 0
    mapped: int = 0  # bytes that are shared with clients
    threads: int = 0
    cpu: float = 0.0  # seconds so far

    def add(self, pid: int) -> None:
        read = memory(pid)
        self.count += 1
        self.pss += read.get("Pss", 0)
        self.rss += read.get("Rss", 0)
        self.private += read.get("Private_Dirty", 0) + read.get("Private_Clean", 0)
        self.descriptors += descriptors(pid)
        self.mapped += mapped(pid)
        self.threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
        self.cpu += cpu_seconds(pid)


@dataclass(slots=True)
class Outcome:
    started: float = 0.0  # seconds until all had computed
    ended: float = 0.0
    costs: dict[str, Cost] = field(default_factory=dict)
    busy: float = 0.0  # CPU seconds a second of all workers, while nothing is asked
    failures: list[str] = field(default_factory=list)
    before: Tally | None = None
    after: Tally | None = None


def cpu_seconds(pid: int) -> float:
    """Nothing of who has gone meanwhile: the nurse forks workers by a process that ends."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def build(name: str = "idle") -> Path:
    target = OUT / name
    OUT.mkdir(parents=True, exist_ok=True)
    command = [
        os.environ.get("CC", "gcc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", target,
        ROOT / "bench" / f"{name}.c", f"-I{ROOT / 'build/gen'}",
        f"-I{ROOT / 'csrc/include'}", f"-L{ROOT / 'build/lib'}", "-l:libcuda.so.1",
        "-Wl,--allow-shlib-undefined",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return target


def many(server: Server, program: Path, sessions: int, road: str, at_once: int,
         idle: float = 0.0) -> Outcome:
    """Runs so many programs side by side; at_once: how many start at the same time."""
    found = Outcome(before=settled(server))
    begun = time.monotonic()

    def start(_: int) -> "subprocess.Popen[str]":
        one = server.start(
            "-m", str(SLICE_MB), str(program), road=road, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert one.stdout is not None
        if one.stdout.readline() != "up\n":
            _, said = one.communicate()
            found.failures.append(said.strip() or f"status {one.returncode}")
        return one

    with ThreadPoolExecutor(at_once) as threads:
        programs = list(threads.map(start, range(sessions)))
    found.started = time.monotonic() - begun
    measure(server, [one.pid for one in programs if one.poll() is None], found, idle)

    begun = time.monotonic()
    for one in programs:
        if one.poll() is None and one.stdin is not None:
            one.stdin.write("\n")
            one.stdin.flush()
    for one in programs:
        if one.returncode is None:
            said, errors = one.communicate(timeout=START_SECONDS)
            if one.returncode or said != "done\n":
                found.failures.append(errors.strip() or f"status {one.returncode}")
    found.ended = time.monotonic() - begun
    found.after = settled(server, found.before)
    return found


def settled(server: Server, base: Tally | None = None) -> Tally:
    """What the server has once its spare workers are there and everybody has gone."""
    seen: list[Tally] = []

    def quiet() -> bool:
        now = tally(server.process.pid, len(server.leases()), server.free())
        seen.append(now)
        if base is not None:
            return not now.over(base)
        # The nurse, and the spare ones that have the driver and the memory of a link.
        return len(seen) > 1 and seen[-2] == now and now.processes > 2 and now.mapped > 0

    deadline = time.monotonic() + END_SECONDS
    while not quiet() and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen[-1]


def measure(server: Server, programs: Sequence[int], found: Outcome, idle: float) -> None:
    workers = sorted(set(below(server.process.pid)))
    spent = sum(map(cpu_seconds, workers))
    time.sleep(idle)
    if idle:
        found.busy = (sum(map(cpu_seconds, workers)) - spent) / idle
    cost = found.costs = {name: Cost() for name in ("fdserver", "worker", "program")}
    cost["fdserver"].add(server.process.pid)
    serving = server.workers()
    for pid in workers:
        if pid in serving:
            cost["worker"].add(pid)
        else:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                cost.setdefault("nurse, spare", Cost()).add(pid)
    for pid in programs:
        cost["program"].add(pid)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"fdhold" and words[2].isdigit() and int(words[2]) in programs:
            cost.setdefault("fdhold", Cost()).add(int(path.parent.name))


def table(found: Outcome) -> str:
    lines = [
        f"{'':14}{'':>6}{'PSS':>9}{'private':>9}{'RSS':>9}{'shared':>9}"
        f"{'descr.':>8}{'threads':>9}",
    ]
    for name, cost in found.costs.items():
        n = max(cost.count, 1)
        lines.append(
            f"{name:14}{cost.count:6}{cost.pss / n:9.0f}{cost.private / n:9.0f}"
            f"{cost.rss / n:9.0f}{cost.mapped / 1024 / n:9.0f}"
            f"{cost.descriptors / n:8.1f}{cost.threads / n:9.1f}"
        )
    every = sum(cost.pss for cost in found.costs.values())
    lines.append(f"KiB each; all together {every / 1024:.0f} MiB")
    lines.append(f"all had computed after {found.started:.1f} s")
    lines.append(f"idle, all workers together use {100 * found.busy:.1f} % of a CPU")
    lines.append(f"all have ended {found.ended:.1f} s after they were told")
    assert found.before is not None and found.after is not None
    over = found.after.over(found.before)
    lines.append(f"left over: {over or 'nothing'} ({found.after})")
    lines += [f"FAILED: {why}" for why in sorted(set(found.failures))]
    return "\n".join(lines)


def main() -> int:
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("--sessions", type=int, default=200)
    reader.add_argument("--road", default="shm", choices=["shm", "tcp"])
    reader.add_argument("--at-once", type=int, default=16)
    reader.add_argument("--idle", type=float, default=3.0)
    given = reader.parse_args()
    program = build()
    with tempfile.TemporaryDirectory(prefix="fd") as folder:
        server = start_server(Path(folder), devices=DEVICES, memory_mb=MEMORY_MB)
        try:
            found = many(
                server, program, given.sessions, given.road, given.at_once, given.idle
            )
        finally:
            server.stop()
    print(f"{given.sessions} sessions over {given.road}, {given.at_once} started at a time")
    print(table(found))
    return 1 if found.failures or found.after.over(found.before) else 0


if __name__ == "__main__":
    sys.exit(main())
