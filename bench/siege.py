"""What of a flood is the server's: p99 of live sessions while connections that say
nothing come at the same rate and, in turn, nobody comes, nobody listens where they come,
a bare acceptor in C does (floor/acceptor.c), fdserver does.

    python -m bench.siege [--rounds 5] [--a-second 1000] [--apart] [--keep FILE]

The crowd is a process of this machine, and its own work, most of it the kernel's, is in
all of them but the first. --apart: it has the last processor for itself, and everybody
else, clients too, the others. Printed are medians of the rounds and, in brackets, the
least and the most. --keep: rounds are added to that file, and all that it has are counted.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.flood import Pulse, port_of, pulse
from bench.many import OUT, ROOT, build, cpu_seconds
from tests.support import start_server

WAYS = ("nobody comes", "nobody listens", "a bare acceptor", "fdserver")
CLOSED = (1, 2)  # ports of nobody
ROUND_MS = 600
SETTLE_SECONDS = 0.3

# Of a round: median and p99 of each road and way, in ns.
Round = dict[str, tuple[int, int]]


@contextlib.contextmanager
def bare_acceptor() -> Iterator[list[int]]:
    """Its ports."""
    program = OUT / "acceptor"
    source = ROOT / "bench" / "floor" / "acceptor.c"
    compiler = os.environ.get("CC", "gcc")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield [int(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()


@contextlib.contextmanager
def crowd_at(ports: Sequence[int], a_second: float, processor: int | None) -> Iterator[None]:
    if not ports:
        yield
        return
    words = [sys.executable, "-m", "bench.flood", "--crowd", *map(str, ports)]
    words += ["--connections", "1000000", "--a-second", str(a_second)]
    if processor is not None:
        words = ["taskset", "-c", str(processor), *words]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as people:
        assert people.stdin is not None
        time.sleep(SETTLE_SECONDS + (700 / a_second if a_second else 0))
        yield
        people.stdin.close()
    time.sleep(SETTLE_SECONDS)


def besiege(
    ports: Mapping[str, Sequence[int]], pulses: Mapping[str, Pulse], a_second: float,
    processor: int | None, server: int,
) -> Round:  # fmt: skip
    found: Round = {}
    for way in WAYS:
        with crowd_at(ports[way], a_second, processor):
            for road, one in pulses.items():
                one.begin(ROUND_MS)
                found[f"{road} {way}"] = one.end()
    return found


def table(rounds: Sequence[Round]) -> Iterator[str]:
    yield f"{len(rounds)} rounds{'':14}median us  p99 us{'':24}times: quiet, of a bare one"
    p99 = {name: sorted(one[name][1] / 1000 for one in rounds) for name in rounds[0]}
    for name, highs in p99.items():
        road = name.split()[0]
        middle = statistics.median(one[name][0] / 1000 for one in rounds)
        high = statistics.median(highs)
        spread = f"({highs[0]:.0f} to {highs[-1]:.0f})"
        beside = [
            high / statistics.median(p99[f"{road} {way}"]) for way in (WAYS[0], WAYS[2])
        ]
        yield f"{name:23}{middle:9.1f}{high:8.1f} {spread:18}{beside[0]:10.2f}{beside[1]:10.2f}"


def main() -> int:
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--a-second", type=float, default=1000.0)
    reader.add_argument("--apart", action="store_true")
    reader.add_argument("--keep", type=Path, default=None)
    given = reader.parse_args()
    processor = None
    if given.apart:
        *others, processor = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others)
    rounds: list[Round] = []
    if given.keep is not None and given.keep.exists():
        rounds = [json.loads(line) for line in given.keep.read_text().splitlines()]
    program = build("pulse")
    with tempfile.TemporaryDirectory(prefix="fd") as folder, contextlib.ExitStack() as opened:
        server = start_server(Path(folder))
        opened.callback(server.stop)
        pulses = {
            road: opened.enter_context(pulse(server, program, road)) for road in ("shm", "tcp")
        }
        ports = {
            WAYS[0]: (), WAYS[1]: CLOSED, WAYS[2]: opened.enter_context(bare_acceptor()),
            WAYS[3]: list(port_of(server).values()),
        }  # fmt: skip
        spent = cpu_seconds(server.process.pid)
        for _ in range(given.rounds):
            one = besiege(ports, pulses, given.a_second, processor, server.process.pid)
            rounds.append(one)
            if given.keep is not None:
                with given.keep.open("a") as file:
                    file.write(json.dumps(one) + "\n")
        spent = cpu_seconds(server.process.pid) - spent
    print(*table(rounds), f"the server spent {spent:.2f} s of a CPU", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
