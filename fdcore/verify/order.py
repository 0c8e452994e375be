"""Streams side by side, and what events put in order."""

import numpy as np
from numba import cuda

from fdcore.verify import kernels, reference
from fdcore.verify.bench import Bench, Found
from fdcore.verify.kernels import THREADS, blocks

STREAMS, STEPS, WORDS = 4, 8, 20_000
TURNS = 24


def numbers(random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(1, 1 << 63, count, np.uint64) | np.uint64(1)


def streams(bench: Bench) -> Found:
    """Each stream has a chain of its own: up, steps, down. They are given work in
    turn, so what is mixed up between them is seen."""
    bench.at(0.0)
    random = np.random.default_rng(bench.seed + 3)
    lanes = [cuda.stream() for _ in range(STREAMS)]
    hosts = [cuda.pinned_array(WORDS, np.uint64) for _ in lanes]
    factors, mores = numbers(random, STEPS), numbers(random, STEPS)
    should = []
    for host in hosts:
        host[:] = numbers(random, WORDS)
        should.append(host.copy())
    there = [
        cuda.to_device(host, stream=lane)
        for host, lane in zip(hosts, lanes, strict=True)
    ]
    for n in range(STEPS):
        for lane, words in zip(lanes, there, strict=True):
            kernels.step[blocks(WORDS), THREADS, lane](words, factors[n], mores[n])
    for host, lane, words in zip(hosts, lanes, there, strict=True):
        words.copy_to_host(host, stream=lane)
    bench.at(0.5)
    wrong: list[str] = []
    for n, lane in enumerate(lanes):
        lane.synchronize()
        reference.steps(should[n], factors, mores)
        wrong += reference.unlike(f"stream {n}", hosts[n], should[n])
    return Found(f"{STREAMS} streams, {STEPS} kernels each, exact", wrong)


def events(bench: Bench) -> Found:
    """Two streams take turns at the same memory; only events keep the turns."""
    bench.at(0.0)
    random = np.random.default_rng(bench.seed + 4)
    factors, mores = numbers(random, TURNS), numbers(random, TURNS)
    should = numbers(random, WORDS)
    words = cuda.to_device(should)
    cuda.synchronize()
    lanes = [cuda.stream(), cuda.stream()]
    marks = [cuda.event() for _ in range(TURNS + 1)]
    marks[0].record(lanes[0])
    for n in range(TURNS):
        lane = lanes[n % 2]
        marks[n].wait(lane)
        kernels.step[blocks(WORDS), THREADS, lane](words, factors[n], mores[n])
        marks[n + 1].record(lane)
    bench.at(0.5)
    wrong = []
    marks[TURNS].synchronize()
    late = [n for n, mark in enumerate(marks) if not mark.query()]
    if late:
        wrong.append(f"event {late[0]} is not over, a later one is")
    back = [n for n in range(TURNS) if cuda.event_elapsed_time(*marks[n : n + 2]) < 0]
    if back:
        wrong.append(f"event {back[0] + 1} was before event {back[0]}")
    reference.steps(should, factors, mores)
    wrong += reference.unlike("words", words.copy_to_host(), should)
    return Found(f"{TURNS} turns of two streams, exact", wrong)
