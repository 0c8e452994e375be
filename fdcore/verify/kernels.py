"""The kernels. Each thread takes every so-many-th element, so any grid is right."""

import math

from numba import cuda, float32, float64, int32, int64, uint64

from fdcore.verify.words import gpu_mix, gpu_pattern

THREADS = 256
MOST_BLOCKS = 1024
TILE = 16
WIDE = TILE + 1  # a row more, so that columns lie in different banks
WARP = 32


def blocks(count: int) -> int:
    return max(1, min(MOST_BLOCKS, -(-count // THREADS)))


# ---- memory ----


@cuda.jit
def fill(words, kind, first, seed):
    for i in range(cuda.grid(1), words.size, cuda.gridsize(1)):
        words[i] = gpu_pattern(kind, uint64(first) + uint64(i), seed)


@cuda.jit
def check(words, kind, first, seed, bad):
    """bad: how many words differ, the first of them, which bits do."""
    for i in range(cuda.grid(1), words.size, cuda.gridsize(1)):
        wrong = words[i] ^ gpu_pattern(kind, uint64(first) + uint64(i), seed)
        if wrong != uint64(0):
            cuda.atomic.add(bad, 0, uint64(1))
            cuda.atomic.min(bad, 1, uint64(i))
            cuda.atomic.or_(bad, 2, wrong)


@cuda.jit
def fill_bytes(data, value):
    for i in range(cuda.grid(1), data.size, cuda.gridsize(1)):
        data[i] = value


@cuda.jit
def checksum(data, out):
    """Of bytes and their places. reference.checksum is the same."""
    total = uint64(0)
    for i in range(cuda.grid(1), data.size, cuda.gridsize(1)):
        total += gpu_mix(uint64(i) * uint64(256) + uint64(data[i]))
    if total != uint64(0):
        cuda.atomic.add(out, 0, total)


# ---- atomics ----


@cuda.jit
def atomics(whole, wide, single, double, bins, seen):
    me = cuda.grid(1)
    cuda.atomic.add(whole, 0, int32(1))
    cuda.atomic.max(whole, 1, int32(me))
    cuda.atomic.min(whole, 2, int32(-me))
    old = whole[3]
    while True:  # counts by compare and swap
        found = cuda.atomic.cas(whole, 3, old, old + 1)
        if found == old:
            break
        old = found
    cuda.atomic.add(wide, 0, gpu_mix(uint64(me)))
    cuda.atomic.xor(wide, 1, gpu_mix(uint64(me)))
    cuda.atomic.or_(wide, 2, uint64(1) << uint64(me % 64))
    cuda.atomic.and_(wide, 3, ~(uint64(1) << uint64(me % 61)))
    cuda.atomic.max(wide, 4, gpu_mix(uint64(me)))
    cuda.atomic.add(single, 0, float32(1.0))
    cuda.atomic.add(double, 0, float64(0.5))
    cuda.atomic.add(bins, int64(gpu_mix(uint64(me)) % uint64(bins.size)), int32(1))
    # Everybody finds what another left there: each number but one is seen once.
    left = cuda.atomic.exch(whole, 4, int32(me + 1))
    cuda.atomic.add(seen, left, int32(1))


# ---- shared memory, barriers, warps ----


@cuda.jit
def reduce_sum(numbers, reals, total, parts):
    """Whole numbers over all blocks; floating point numbers a block, in the order in
    which reference.block_sums adds them."""
    row = cuda.shared.array(THREADS, float64)
    me = cuda.threadIdx.x
    mine = int64(0)
    for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        mine += int64(numbers[i])
    half = WARP // 2
    while half > 0:
        mine += cuda.shfl_down_sync(0xFFFFFFFF, mine, half)
        half //= 2
    if me % WARP == 0:
        cuda.atomic.add(total, 0, uint64(mine))
    at = cuda.blockIdx.x * THREADS + me
    row[me] = reals[at] if at < reals.size else 0.0
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if me < half:
            row[me] += row[me + half]
        cuda.syncthreads()
        half //= 2
    if me == 0:
        parts[cuda.blockIdx.x] = row[0]


@cuda.jit
def scan(numbers, out):
    """Sums up to each place of a block, between two rows: two barriers a step."""
    rows = cuda.shared.array((2, THREADS), uint64)
    me = cuda.threadIdx.x
    at = cuda.grid(1)
    rows[0, me] = numbers[at] if at < numbers.size else uint64(0)
    cuda.syncthreads()
    now, step = 0, 1
    while step < THREADS:
        value = rows[now, me]
        if me >= step:
            value += rows[now, me - step]
        rows[1 - now, me] = value
        cuda.syncthreads()
        now = 1 - now
        step *= 2
    if at < numbers.size:
        out[at] = rows[now, me]


@cuda.jit
def sort(numbers):
    """Each block sorts its THREADS numbers (bitonic): a barrier a step, and every
    number of shared memory meets many others."""
    row = cuda.shared.array(THREADS, uint64)
    me = cuda.threadIdx.x
    at = cuda.grid(1)
    row[me] = numbers[at]
    cuda.syncthreads()
    size = 2
    while size <= THREADS:
        step = size // 2
        while step > 0:
            other = me ^ step
            if other > me:
                a, b = row[me], row[other]
                if (a > b) == ((me & size) == 0):
                    row[me], row[other] = b, a
            cuda.syncthreads()
            step //= 2
        size *= 2
    numbers[at] = row[me]


# ---- matrix products ----


def product_of(kind):
    @cuda.jit
    def product(a, b, c):
        left = cuda.shared.array((TILE, TILE), kind)
        right = cuda.shared.array((TILE, WIDE), kind)
        x, y = cuda.grid(2)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        total = kind(0)
        for first in range(0, a.shape[1], TILE):
            left[ty, tx] = kind(0)
            right[ty, tx] = kind(0)
            if y < a.shape[0] and first + tx < a.shape[1]:
                left[ty, tx] = a[y, first + tx]
            if first + ty < b.shape[0] and x < b.shape[1]:
                right[ty, tx] = b[first + ty, x]
            cuda.syncthreads()
            for k in range(TILE):
                total = total + left[ty, k] * right[k, tx]
            cuda.syncthreads()
        if y < c.shape[0] and x < c.shape[1]:
            c[y, x] = total

    return product


product_single = product_of(float32)
product_double = product_of(float64)


def tiles(rows: int, columns: int) -> tuple[int, int]:
    return math.ceil(columns / TILE), math.ceil(rows / TILE)


# ---- order ----


@cuda.jit
def step(words, factor, more):
    """Steps in another order give another result."""
    for i in range(cuda.grid(1), words.size, cuda.gridsize(1)):
        words[i] = gpu_mix(words[i] * uint64(factor) + uint64(more))
