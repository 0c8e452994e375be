"""What bench/gpu_acceptance.sh runs once fdcore is built: the stages, and their table.

Every stage writes a log of its own into the output folder, so that a stage which fails or
runs out of time takes no other with it. Figures are taken in turn: in every round each
road is asked for the same workload, one after the other.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sysconfig.get_path("scripts"))
DISTANT_US = 50
ROADS = ("native", "shm", "tcp", f"tcp+{DISTANT_US}us")
STAGES = ("assumptions", "tests", "golden", "calls", "models")

# Workload, repetitions a round.
MODELS = (("decode_eager", 40), ("decode_graph", 200), ("gpt_train", 20), ("transfers", 20),
          ("resnet50_b1", 60), ("resnet50_b32", 20), ("resnet50_train_b64", 6))
# Name, command of bench/loop.c, calls it makes, whether the figure is the issue alone.
CALLS = (
    ("launch issue, 6 parameters", "launch 400 6", 400, True),
    ("launch completed", "launch 20000 6", 20000, False),
    ("launch and synchronise", "wait 1000", 1000, False),
    ("cuMemGetInfo", "info 1000", 1000, False),
    ("read 4 bytes", "read 1000", 1000, False),
    ("up 64 MiB pageable", f"up {64 << 20} 4", 4, False),
    ("down 64 MiB pageable", f"down {64 << 20} 4", 4, False),
    ("up 64 MiB pinned", f"pinup {64 << 20} 8", 8, False),
    ("down 64 MiB pinned", f"pindown {64 << 20} 8", 8, False),
)


# All programs of the tour at once, before several processes of pytest want them.
BUILD_TOUR = """
import os
from concurrent.futures import ThreadPoolExecutor
from tests.e2e.test_tour import NAMES, build
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    print(*filter(None, pool.map(build, NAMES)))
"""


class Ended(Exception):
    """A measured process went away, or did not answer in time."""


class Asked:
    """A process that reads commands and answers each with a line."""

    def __init__(self, command: list[str | Path], env: dict[str, str], log: Path) -> None:
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **env}, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.pending = b""

    def line(self, seconds: float) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Ended(f"no answer within {seconds:.0f} s")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Ended(f"ended with {self.process.wait()}")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode()

    def ask(self, command: str, seconds: float) -> str:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Ended(f"ended with {self.process.wait()}") from None
        return self.line(seconds)

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


class Acceptance:
    def __init__(self, out: Path, driver: str, seconds: float) -> None:
        self.out, self.driver = out, driver
        self.workloads = [name for name, _ in MODELS]
        self.deadline = time.monotonic() + seconds
        self.results: dict[str, object] = {}
        self.table: list[str] = []
        self.servers: list[subprocess.Popen[bytes]] = []

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def start(self, name: str, command: list[str | Path],
              env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        log = (self.out / f"{name}.log").open("w")
        return subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=log,
                                stderr=log, env={**os.environ, **(env or {})},
                                stdin=subprocess.DEVNULL)

    def finish(self, process: subprocess.Popen[bytes], seconds: float) -> int | None:
        """Its exit status; None: it was interrupted, so that it sums up, then killed."""
        try:
            return process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None

    def save(self) -> None:
        (self.out / "results.json").write_text(json.dumps(self.results, indent=1))
        (self.out / "table.md").write_text("\n".join(self.table) + "\n")

    # ---- correctness ----

    def assumptions(self) -> None:
        program = ROOT / "build" / "assumptions"
        subprocess.run(["cc", "-Icsrc/include", "-Ibuild/gen", "-o", program,
                        "tests/gpu/assumptions.c", "-ldl", "-lpthread"], cwd=ROOT, check=True)
        status = self.finish(self.start("assumptions", [program, self.driver]), 60)
        text = (self.out / "assumptions.log").read_text()
        print(text)
        failed = [line for line in text.splitlines() if line.startswith("FAIL")]
        self.results["assumptions"] = {"status": status, "failed": failed}
        self.finish(self.start("entry-points", [sys.executable, "tests/gpu/entry_points.py",
                                                self.driver]), 30)
        print((self.out / "entry-points.log").read_text())
        self.table.append(f"assumptions: {text.count('PASS')} hold, {len(failed)} do not")

    def correctness(self, tests: bool, golden: bool) -> None:
        """The test programs, and the conformance kernels, at the same time."""
        running = {}
        if tests:
            subprocess.run([sys.executable, "-c", BUILD_TOUR], cwd=ROOT, check=False,
                           env={**os.environ, "FD_TEST_DRIVER": self.driver})
            options = ["-n", str(min(os.cpu_count() or 1, 8)), "--timeout", "60",
                       # The sweep compiles for minutes and is about the CPU device's engine;
                       # a driver's own managed memory is not asked of other people's cards.
                       "-k", "not cupy_sweep and not numba and not managed"]
            running["tests"] = self.start(
                "tests", [sys.executable, "-m", "pytest", "-q", "-ra", *options,
                          "tests/e2e"],
                {"FD_TEST_DRIVER": self.driver,
                 "FD_TEST_FAILURES": str(self.out / "failures.log")})
        if golden:
            running["golden"] = self.start(
                "golden", [sys.executable, "-m", "tests.conformance", "--driver",
                           self.driver, "--golden", self.out / "golden.txt",
                           "--bits", self.out / "golden.json",
                           "--against", "tests/conformance/golden_h200.txt"])
        for name, process in running.items():
            status = self.finish(process, min(240.0, self.left() / 2))
            lines = (self.out / f"{name}.log").read_text(errors="replace").splitlines()
            last = lines[-1].strip("= ") if lines else "said nothing"
            shown = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
            print("\n".join([f"{name}: {status}", *shown[:60], last]))
            self.results[name] = {"status": status, "last": last, "failed": shown}
            self.table.append(f"{name}: {last}" if status is not None
                              else f"{name}: ran out of time")

    # ---- servers and roads ----

    def server(self, name: str, env: dict[str, str]) -> str:
        state = self.out / f"state-{name}"
        state.mkdir(exist_ok=True)
        ready, theirs = os.pipe()
        log = (self.out / f"server-{name}.log").open("w")
        self.servers.append(subprocess.Popen(
            [BIN / "fdserver", "--listen", "127.0.0.1:0", "--state", state, "--driver",
             self.driver, "--ready-fd", str(theirs)],
            env={**os.environ, **env}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            pass_fds=[theirs]))
        os.close(theirs)
        said = os.read(ready, 4096) if select.select([ready], [], [], 60)[0] else b""
        os.close(ready)
        if not said:
            raise Ended("fdserver did not start:\n" + Path(log.name).read_text())
        return str(json.loads(said)["control"])

    def roads(self, name: str, program: list[str | Path], memory_mb: int,
              only: tuple[str, ...] = ROADS) -> dict[str, Asked]:
        near = self.server(name, {})
        far = self.server(f"{name}-far", {"FD_EMULATE_RTT_US": str(DISTANT_US)})
        made = {}
        for road in only:
            log = self.out / f"{name}-{road}.log"
            if road == "native":
                made[road] = Asked(program, {}, log)
                continue
            address = far if road not in ("shm", "tcp") else near
            made[road] = Asked(
                [BIN / "fdrun", "-n", "1", "-m", str(memory_mb), "-l", address, "--", *program],
                {"FD_TRANSPORT": road.partition("+")[0], "FD_STATS": "1",
                 "FD_LOG": "info"}, log)
        return made

    def stop(self, roads: dict[str, Asked]) -> None:
        for asked in roads.values():
            asked.stop()
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            self.finish(server, 10)
        self.servers.clear()

    def rounds(self, roads: dict[str, Asked], name: str, command: str, rounds: int,
               figure: Callable[[str], float], warm: float,
               ) -> dict[str, list[float]]:
        """Asks every road in turn; a road that fails is left out from then on."""
        taken: dict[str, list[float]] = {road: [] for road in roads}
        for number in range(rounds + 1):
            for road in list(roads):
                if road not in taken or self.left() < 15:
                    continue
                try:
                    value = figure(roads[road].ask(command, warm if number == 0 else 60))
                except (Ended, ValueError) as error:
                    print(f"{name} over {road}: {error}")
                    del taken[road]
                    if isinstance(error, Ended):
                        roads.pop(road).stop()
                    continue
                if number:
                    taken[road].append(value)
        return {road: values for road, values in taken.items() if values}

    def row(self, name: str, taken: dict[str, list[float]], scale: float, unit: str) -> None:
        native = taken.get("native")
        cells = []
        for road in ROADS:
            values = taken.get(road)
            if not values:
                cells.append("-")
                continue
            middle = statistics.median(values)
            cell = f"{middle * scale:.2f} {unit}"
            if native and road != "native":
                cell += (f" ({middle / statistics.median(native):.3f}x,"
                         f" best {min(values) / min(native):.3f}x)")
            cells.append(cell)
        self.table.append(f"| {name} | " + " | ".join(cells) + " |")
        print(self.table[-1], flush=True)
        self.save()

    def heading(self) -> None:
        self.table += ["", "| figure | " + " | ".join(ROADS) + " |",
                       "|---|" + "---|" * len(ROADS)]

    def calls(self) -> None:
        program = ROOT / "build" / "gpu" / "loop"
        subprocess.run(["cc", "-std=gnu11", "-O2", "-Ibuild/gen", "-Icsrc/include", "-o",
                        program, "bench/loop.c", "-Lbuild/lib", "-l:libcuda.so.1",
                        "-Wl,--allow-shlib-undefined"], cwd=ROOT, check=True)
        roads = self.roads("calls", [program], 4096)
        try:
            for asked in roads.values():
                asked.line(60)
            self.heading()
            found = self.results.setdefault("calls", {})
            assert isinstance(found, dict)
            for name, command, count, issued in CALLS:
                def figure(answer: str, count: int = count, issued: bool = issued) -> float:
                    total, issue = answer.split()
                    return int(issue if issued else total) / count / 1e9
                taken = self.rounds(roads, name, command, 5, figure, 30)
                found[name] = taken
                self.row(name, taken, 1e6, "us")
        finally:
            self.stop(roads)

    def models(self) -> None:
        program: list[str | Path] = [sys.executable, "-m", "bench.gpu.models"]
        roads = self.roads("models", program, 16000)
        try:
            for road in list(roads):
                try:
                    print(road, roads[road].line(120), flush=True)
                except Ended as error:
                    print(f"{road}: {error}")
                    roads.pop(road).stop()
            self.heading()
            found = self.results.setdefault("models", {})
            assert isinstance(found, dict)
            for name, count in MODELS:
                if name not in self.workloads:
                    continue
                if self.left() < 20:
                    self.table.append(f"| {name} | no time left |")
                    continue
                sums: dict[str, list[str]] = {}

                def figure(answer: str, count: int = count,
                           sums: dict[str, list[str]] = sums) -> float:
                    word, checksum = answer.split(maxsplit=1)
                    if word == "failed":
                        raise ValueError(checksum)
                    sums.setdefault(checksum, []).append(word)
                    return float(word) / count

                taken = self.rounds(roads, name, f"{name} {count}", 5, figure, 90)
                found[name] = {"seconds": taken, "checksums": list(sums)}
                self.row(name, taken, 1e3, "ms")
                print(f"{name}: {len(sums)} checksums {list(sums)[:8]}")
        finally:
            self.stop(roads)


def system_driver() -> str:
    """The path of the system's libcuda.so.1."""
    for folder in (*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/nvidia/lib64",
                   "/usr/lib/x86_64-linux-gnu"):
        path = Path(folder) / "libcuda.so.1"
        if folder and path.exists():
            return str(path)
    return ctypes.util.find_library("cuda") or "libcuda.so.1"


def card() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "no nvidia-smi here"
    return said.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu_acceptance.sh")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--driver", default=system_driver())
    parser.add_argument("--workloads", default=",".join(name for name, _ in MODELS))
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    given = parser.parse_args()
    wanted = given.stages or list(STAGES)
    if unknown := [stage for stage in wanted if stage not in STAGES]:
        parser.error(f"no stage is called {unknown[0]}: {', '.join(STAGES)}")
    accept = Acceptance(given.out.absolute(), given.driver, given.seconds)
    accept.workloads = given.workloads.split(",")
    accept.table.append(f"{card()}; driver library {given.driver}")
    print(accept.table[0], flush=True)
    stages: list[tuple[str, Callable[[], None]]] = [
        ("assumptions", accept.assumptions),
        ("correctness", lambda: accept.correctness("tests" in wanted, "golden" in wanted)),
        ("calls", accept.calls),
        ("models", accept.models),
    ]
    for name, stage in stages:
        if name in wanted or (name == "correctness" and {"tests", "golden"} & set(wanted)):
            start = time.monotonic()
            try:
                stage()
            except (Ended, OSError, subprocess.CalledProcessError) as error:
                accept.table.append(f"{name}: {error}")
            print(f"{name} took {time.monotonic() - start:.0f} s, {accept.left():.0f} s left",
                  flush=True)
            accept.save()
    print("\n".join(accept.table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
