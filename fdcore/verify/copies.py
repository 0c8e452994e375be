"""Copies to the GPU, back, and on it: every class of size that travels its own way, at
odd addresses, with what lies before and behind."""

from collections.abc import Iterator

import numpy as np
from numba import cuda

from fdcore.verify import kernels, reference
from fdcore.verify.bench import Bench, Found
from fdcore.verify.kernels import THREADS, blocks

KIB, MIB = 1 << 10, 1 << 20
# Around words, pages, what travels in a message, pieces of a copy, and all of a region.
SIZES = (
    1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257,
    4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1,
    64 * KIB, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 512 * KIB + 1,
    MIB - 1, MIB, MIB + 1, 8 * MIB + 1,
)  # fmt: skip
ALIGNMENTS = ((0, 0), (1, 0), (0, 1), (3, 5), (8, 4), (15, 15))
LARGE = 256 * KIB
AROUND = 32
OUTSIDE = 0xE5


def to_device(bench: Bench) -> Found:
    return every(bench, "to the GPU", to_one)


def to_host(bench: Bench) -> Found:
    return every(bench, "from the GPU", from_one)


def on_device(bench: Bench) -> Found:
    return every(bench, "on the GPU", on_one)


def cases(room: int) -> Iterator[tuple[int, int, int, bool]]:
    """Size, offset on the GPU, offset in the program, from pinned memory."""
    for size in SIZES:
        if size + 2 * AROUND > room:
            break
        for number, (there, here) in enumerate(ALIGNMENTS):
            if size < LARGE or number % 3 == 0:
                yield size, there, here, number % 2 == 1


def every(bench: Bench, way: str, one) -> Found:  # type: ignore[no-untyped-def]
    free = cuda.current_context().get_memory_info().free
    tests = list(cases(free // 4))
    random = np.random.default_rng(bench.seed)
    most, total = tests[-1][0] // KIB, sum(case[0] for case in tests) // MIB
    found = Found(f"{len(tests)} of 1 B to {most} KiB, {total} MiB, the same bytes")
    for number, (size, there, here, pinned) in enumerate(tests):
        bench.at(number / len(tests), f"{size} bytes")
        made = cuda.pinned_array if pinned else np.empty
        host = made(size + 2 * AROUND, np.uint8)
        host[:] = random.integers(0, 256, host.size, np.uint8)
        device = cuda.device_array(size + 2 * AROUND, np.uint8)
        kernels.fill_bytes[blocks(device.size), THREADS](device, np.uint8(OUTSIDE))
        wrong = one(host, device, size, there, here)
        if wrong:
            kind = "pinned" if pinned else "pageable"
            found.wrong.append(
                f"{size} bytes {way}, {kind}, offsets {there} and {here}: {wrong}"
            )
    return found


def sum_on_device(data) -> int:  # type: ignore[no-untyped-def]
    out = cuda.to_device(np.zeros(1, np.uint64))
    kernels.checksum[blocks(data.size), THREADS](data, out)
    return int(out.copy_to_host()[0])


def framed(data: np.ndarray, at: int, size: int) -> np.ndarray:
    """What the other side should be: the bytes, and around them what was there."""
    whole = np.full(size + 2 * AROUND, OUTSIDE, np.uint8)
    whole[at : at + size] = data
    return whole


def unlike(device, should: np.ndarray) -> str:  # type: ignore[no-untyped-def]
    if sum_on_device(device) == int(reference.checksum(should)):
        return ""
    count, first = reference.differing(device.copy_to_host(), should)
    if not count:
        return "the checksum is wrong, the bytes come back right"
    return f"the checksum is wrong, {count} bytes differ, the first is {first}"


def to_one(host, device, size, there, here) -> str:  # type: ignore[no-untyped-def]
    device[there : there + size].copy_to_device(host[here : here + size])
    return unlike(device, framed(host[here : here + size], there, size))


def from_one(host, device, size, there, here) -> str:  # type: ignore[no-untyped-def]
    random = host.copy()
    device.copy_to_device(random)
    host[:] = OUTSIDE
    device[there : there + size].copy_to_host(host[here : here + size])
    should = framed(random[there : there + size], here, size)
    count, first = reference.differing(host, should)
    if not count:
        return ""
    return f"{count} bytes differ, the first is {first}"


def on_one(host, device, size, there, here) -> str:  # type: ignore[no-untyped-def]
    other = cuda.to_device(host)
    device[there : there + size].copy_to_device(other[here : here + size])
    return unlike(device, framed(host[here : here + size], there, size))
