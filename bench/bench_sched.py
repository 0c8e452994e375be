"""Placement at the size of a large pool: 10,000 GPUs, 100,000 requests.

    python -m bench.bench_sched [--gpus 10000] [--requests 100000] [--load 0.9] [--seed 1]

Requests come at random times and stay for random times; a request that does not fit is
turned away. The same ones are placed by best fit (what fdcore does) and by the first GPUs
with room, each on a pool of its own. What is told: how long a decision takes, what of the
requests for whole GPUs was turned away though there was memory for them, and how many GPUs
were wholly free on average.
"""

import argparse
import heapq
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fdcore.sched.index import FreeIndex
from fdcore.sched.slices import MIB, Ask, Gpu, Slice

MEMORY = 80 * 1024 * MIB
# Shares of what is asked for: a slice of one GPU, one, several.
KINDS = (
    (0.35, Ask(fraction=0.25)),
    (0.25, Ask(fraction=0.5)),
    (0.10, Ask(memory=10 * 1024 * MIB)),
    (0.20, Ask()),
    (0.07, Ask(count=2)),
    (0.03, Ask(count=8)),
)


class FirstFit:
    """The first GPUs with room, found by a tree of what is free at most."""

    def __init__(self, gpus: list[Gpu]) -> None:
        self.gpus = gpus
        self.size = 1 << (len(gpus) - 1).bit_length()
        self.most = [0] * (2 * self.size)
        for gpu in gpus:
            self.most[self.size + gpu.ordinal] = gpu.memory
        for node in range(self.size - 1, 0, -1):
            self.most[node] = max(self.most[2 * node], self.most[2 * node + 1])

    def find(self, ask: Ask) -> tuple[Slice, ...] | None:
        share = ask.share(self.gpus[0])
        found: list[int] = []
        self.look(1, share, ask.count, found)
        if len(found) < ask.count:
            return None
        return tuple(Slice(ordinal, share) for ordinal in found)

    def look(self, node: int, share: int, count: int, found: list[int]) -> None:
        if len(found) == count or self.most[node] < share:
            return
        if node >= self.size:
            found.append(node - self.size)
            return
        self.look(2 * node, share, count, found)
        self.look(2 * node + 1, share, count, found)

    def take(self, slices: tuple[Slice, ...]) -> None:
        for part in slices:
            self.change(part.ordinal, -part.memory)

    def give(self, slices: tuple[Slice, ...]) -> None:
        for part in slices:
            self.change(part.ordinal, part.memory)

    def change(self, ordinal: int, by: int) -> None:
        node = self.size + ordinal
        self.most[node] += by
        while node > 1:
            node //= 2
            self.most[node] = max(self.most[2 * node], self.most[2 * node + 1])


@dataclass
class Result:
    decisions: list[int] = field(default_factory=list)  # ns
    asked: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    whole: list[int] = field(default_factory=list)
    used: list[float] = field(default_factory=list)


def kind_of(ask: Ask) -> str:
    if ask.count > 1:
        return f"{ask.count} GPUs"
    return "whole GPU" if not ask.memory and not ask.fraction else "slice"


def requests(
    count: int, gpus: int, load: float, seed: int
) -> list[tuple[float, float, Ask]]:
    """When each comes, how long it stays, and what it asks for."""
    chance = random.Random(seed)
    mean = sum(
        share * ask.count * ask.share(Gpu(0, "", "", MEMORY)) / MEMORY
        for share, ask in KINDS
    )
    rate = load * gpus / mean  # for stays of one unit of time
    now, made = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        ask = chance.choices([ask for _, ask in KINDS], [share for share, _ in KINDS])[
            0
        ]
        # Most are short, some stay for long.
        made.append((now, chance.lognormvariate(-0.72, 1.2), ask))
    return made


def run(
    make: Callable[[list[Gpu]], FreeIndex | FirstFit],
    gpus: list[Gpu],
    asks: list[tuple[float, float, Ask]],
) -> Result:
    pool, result = make(gpus), Result()
    free = {gpu.ordinal: gpu.memory for gpu in gpus}
    whole, used, total = len(gpus), 0, len(gpus) * MEMORY
    ends: list[tuple[float, int, tuple[Slice, ...]]] = []
    for number, (now, stay, ask) in enumerate(asks):
        while ends and ends[0][0] <= now:
            _, _, slices = heapq.heappop(ends)
            pool.give(slices)
            for part in slices:
                free[part.ordinal] += part.memory
                whole += free[part.ordinal] == MEMORY
                used -= part.memory
        begun = time.perf_counter_ns()
        slices = pool.find(ask)
        if slices:
            pool.take(slices)
        result.decisions.append(time.perf_counter_ns() - begun)
        kind = kind_of(ask)
        result.asked[kind] = result.asked.get(kind, 0) + 1
        if slices is None:
            result.refused[kind] = result.refused.get(kind, 0) + 1
            continue
        for part in slices:
            whole -= free[part.ordinal] == MEMORY
            free[part.ordinal] -= part.memory
            assert free[part.ordinal] >= 0
            used += part.memory
        heapq.heappush(ends, (now + stay, number, slices))
        if number > len(asks) // 2:  # once it is as full as it gets
            result.whole.append(whole)
            result.used.append(used / total)
    return result


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--gpus", type=int, default=10_000)
    reader.add_argument("--requests", type=int, default=100_000)
    reader.add_argument("--load", type=float, default=0.9)
    reader.add_argument("--seed", type=int, default=1)
    given = reader.parse_args()
    gpus = [Gpu(n, "a GPU", f"GPU-{n}", MEMORY) for n in range(given.gpus)]
    asks = requests(given.requests, given.gpus, given.load, given.seed)
    print(
        f"{given.gpus} GPUs, {given.requests} requests, load {given.load}, seed {given.seed}"
    )
    for name, make in (("best fit", FreeIndex), ("first fit", FirstFit)):
        result = run(make, gpus, asks)
        times = sorted(result.decisions)
        print(
            f"{name}: decision median {times[len(times) // 2] / 1000:.1f} us, "
            f"p99 {times[len(times) * 99 // 100] / 1000:.1f} us; "
            f"memory in use {statistics.mean(result.used):.1%}; "
            f"GPUs wholly free {statistics.mean(result.whole) / given.gpus:.1%}"
        )
        for kind, count in sorted(result.asked.items()):
            part = result.refused.get(kind, 0) / count
            print(f"    {kind}: {count} asked for, {part:.2%} turned away")
    return 0


if __name__ == "__main__":
    sys.exit(main())
