"""What the kernels should have computed, on the processor."""

import numpy as np
from numba import njit, uint64

from fdcore.verify.words import cpu_mix, cpu_pattern

THREADS = 256  # of kernels.py


@njit
def pattern(count, kind, first, seed):
    out = np.empty(count, np.uint64)
    for i in range(count):
        out[i] = cpu_pattern(kind, uint64(first) + uint64(i), seed)
    return out


@njit
def checksum(data):
    total = uint64(0)
    for i in range(data.size):
        total += cpu_mix(uint64(i) * uint64(256) + uint64(data[i]))
    return total


@njit
def differing(a, b):
    """How many elements differ, and the first."""
    count, first = 0, -1
    for i in range(a.size):
        if a[i] != b[i]:
            count += 1
            if first < 0:
                first = i
    return count, first


def unlike(name: str, got: np.ndarray, should: np.ndarray) -> list[str]:
    """What a check says of values that are not as they should be."""
    count, first = differing(got, should)
    if not count:
        return []
    return [f"{name}: {count} of {should.size} differ, the first is {first}"]


@njit
def atomics(threads, whole, wide, bins):
    whole[0] = threads
    whole[1] = threads - 1
    whole[2] = -(threads - 1)
    whole[3] = threads
    for me in range(threads):
        mixed = cpu_mix(uint64(me))
        wide[0] += mixed
        wide[1] ^= mixed
        wide[2] |= uint64(1) << uint64(me % 64)
        wide[3] &= ~(uint64(1) << uint64(me % 61))
        wide[4] = max(wide[4], mixed)
        bins[int(mixed % uint64(bins.size))] += 1


@njit
def block_sums(reals):
    """The same additions in the same order as kernels.reduce_sum: the same bits."""
    count = (reals.size + THREADS - 1) // THREADS
    out = np.empty(count, np.float64)
    row = np.empty(THREADS, np.float64)
    for block in range(count):
        for i in range(THREADS):
            at = block * THREADS + i
            row[i] = reals[at] if at < reals.size else 0.0
        half = THREADS // 2
        while half > 0:
            for i in range(half):
                row[i] += row[i + half]
            half //= 2
        out[block] = row[0]
    return out


@njit
def sum_of(numbers):
    total = uint64(0)
    for i in range(numbers.size):
        total += numbers[i]
    return total


@njit
def scan(numbers):
    out = np.empty_like(numbers)
    total = uint64(0)
    for i in range(numbers.size):
        if i % THREADS == 0:
            total = uint64(0)
        total += numbers[i]
        out[i] = total
    return out


@njit
def sort(numbers):
    for at in range(numbers.size):
        value, to = numbers[at], at
        while to % THREADS > 0 and numbers[to - 1] > value:
            numbers[to] = numbers[to - 1]
            to -= 1
        numbers[to] = value


@njit
def two_product(x, y):
    """x times y without an error: the product, and what was rounded off it."""
    split = 134217729.0  # 2**27 + 1
    p = x * y
    a, b = split * x, split * y
    xh, yh = a - (a - x), b - (b - y)
    xl, yl = x - xh, y - yh
    return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl


@njit
def worst_ulps(a, b, c, ulp):
    """How far c is from a times b, in ulps of the sum of |a||b|; ulp: of 1. Reference
    sums are kept in twice the precision."""
    worst = 0.0
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total, rest, size = 0.0, 0.0, 0.0
            for k in range(a.shape[1]):
                p, lost = two_product(float(a[i, k]), float(b[k, j]))
                grown = total + p
                back = grown - total
                rest += ((total - (grown - back)) + (p - back)) + lost
                total = grown
                size += abs(p)
            off = abs((float(c[i, j]) - total) - rest)
            if size == 0.0:
                size = 1.0
            here = off / (size * ulp)
            if here != here:  # not a number
                return np.inf
            worst = max(worst, here)
    return worst


@njit
def steps(words, factors, mores):
    for n in range(factors.size):
        for i in range(words.size):
            words[i] = cpu_mix(words[i] * factors[n] + mores[n])
