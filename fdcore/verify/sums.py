"""Arithmetic that threads do together: atomics, reductions, shared memory and barriers,
and products of matrices."""

import numpy as np
from numba import cuda

from fdcore.verify import kernels, reference
from fdcore.verify.bench import Bench, Found
from fdcore.verify.kernels import THREADS, TILE, tiles

ATOMIC_BLOCKS = 16
BINS = 61
NUMBERS = 100_003
SHAPE = (77, 83, 69)


def atomics(bench: Bench) -> Found:
    bench.at(0.0)
    threads = ATOMIC_BLOCKS * THREADS
    whole, wide = np.zeros(5, np.int32), np.zeros(5, np.uint64)
    wide[3] = ~np.uint64(0)
    bins = np.zeros(BINS, np.int32)
    given = [each.copy() for each in (whole, wide, bins)]
    single, double = np.zeros(1, np.float32), np.zeros(1, np.float64)
    seen = np.zeros(threads + 1, np.int32)
    there = [
        cuda.to_device(each) for each in (*given[:2], single, double, given[2], seen)
    ]
    kernels.atomics[ATOMIC_BLOCKS, THREADS](*there)
    bench.at(0.5)
    reference.atomics(threads, whole, wide, bins)
    back = [each.copy_to_host() for each in there]
    wrong = [
        f"{name}: {int(got)}, not {int(want)}"
        for names, gots, wants in (
            (("add", "max", "min", "compare and swap"), back[0], whole[:4]),
            (("64-bit add", "xor", "or", "and", "64-bit max"), back[1], wide),
        )
        for name, got, want in zip(names, gots, wants, strict=False)
        if got != want
    ]
    if back[2][0] != threads:
        wrong.append(f"float32 add: {back[2][0]}, not {threads}")
    if back[3][0] != threads / 2:
        wrong.append(f"float64 add: {back[3][0]}, not {threads / 2}")
    if (back[4] != bins).any():
        wrong.append(f"histogram: {np.count_nonzero(back[4] != bins)} of {BINS} differ")
    back[5][back[0][4]] += 1  # the last one is still there
    if (back[5] != 1).any():
        wrong.append("exchange: a number was seen twice, or never")
    return Found(f"{threads} threads, 12 operations, exact", wrong)


def reductions(bench: Bench) -> Found:
    bench.at(0.0)
    random = np.random.default_rng(bench.seed)
    numbers = random.integers(0, 1 << 63, NUMBERS, np.uint64)
    reals = random.standard_normal(NUMBERS)
    count = -(-NUMBERS // THREADS)
    total = cuda.to_device(np.zeros(1, np.uint64))
    parts = cuda.device_array(count, np.float64)
    kernels.reduce_sum[count, THREADS](
        cuda.to_device(numbers), cuda.to_device(reals), total, parts
    )
    bench.at(0.5)
    got, want = int(total.copy_to_host()[0]), int(reference.sum_of(numbers))
    wrong = [] if got == want else [f"sum by warps: {got}, not {want}"]
    blocked = reference.block_sums(reals)
    wrong += reference.unlike("sums by blocks", parts.copy_to_host(), blocked)
    return Found(f"{NUMBERS} numbers, by warps and by blocks, exact", wrong)


def barriers(bench: Bench) -> Found:
    bench.at(0.0)
    random = np.random.default_rng(bench.seed + 1)
    numbers = random.integers(0, 1 << 63, NUMBERS // THREADS * THREADS, np.uint64)
    count = numbers.size // THREADS
    there = cuda.to_device(numbers)
    sums = cuda.device_array_like(numbers)
    kernels.scan[count, THREADS](there, sums)
    bench.at(0.4)
    kernels.sort[count, THREADS](there)
    wrong: list[str] = []
    should = reference.scan(numbers)
    wrong += reference.unlike("scan", sums.copy_to_host(), should)
    bench.at(0.8)
    reference.sort(numbers)
    wrong += reference.unlike("sort", there.copy_to_host(), numbers)
    return Found(f"scan and sort of {count} blocks of {THREADS}, exact", wrong)


def products(bench: Bench) -> Found:
    """An inner product of n terms is off by n/2 ulps of the sum of |a||b| at most,
    in whichever order it is added up, with fused operations or without."""
    random = np.random.default_rng(bench.seed + 2)
    rows, inner, columns = SHAPE
    limit = inner / 2 + 1
    seen, wrong = [], []
    for share, kind, kernel in (
        (0.0, np.float32, kernels.product_single),
        (0.5, np.float64, kernels.product_double),
    ):
        bench.at(share, kind.__name__)
        a = random.standard_normal((rows, inner)).astype(kind)
        b = random.standard_normal((inner, columns)).astype(kind)
        c = cuda.device_array((rows, columns), kind)
        kernel[tiles(rows, columns), (TILE, TILE)](
            cuda.to_device(a), cuda.to_device(b), c
        )
        ulp = float(np.finfo(kind).eps)
        worst = reference.worst_ulps(a, b, c.copy_to_host(), ulp)
        said = f"{kind.__name__} {worst:.2f} ulp"
        seen.append(said)
        if not worst <= limit:
            wrong.append(f"{said}, {limit:g} are allowed")
    size = "x".join(str(each) for each in SHAPE)
    return Found(f"{size}: {', '.join(seen)} at most, of {limit:g} allowed", wrong)
