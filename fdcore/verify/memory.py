"""Patterns over all memory of the slice: cells that do not keep what they are given,
and addresses that mean the same cell."""

import numpy as np
from numba import cuda

from fdcore.verify import kernels, reference
from fdcore.verify.bench import Bench, Found, TimeOver
from fdcore.verify.kernels import THREADS, blocks
from fdcore.verify.words import KINDS

MIB = 1 << 20
PIECE = 64 * MIB
SMALLEST = 1 * MIB
LEFT_OVER = 16 * MIB  # for contexts, code and the other checks
SAMPLE = 4096  # words of each piece that the processor computes too
NOWHERE = np.uint64((1 << 64) - 1)


def memory(bench: Bench) -> Found:
    pieces = all_there_is(bench.most)
    size = sum(piece.nbytes for piece in pieces)
    found = Found(f"{size // MIB} MiB, {len(KINDS)} patterns")
    if not pieces:
        return Found("", ["no memory could be allocated"])
    done = 0
    try:
        for kind, name in enumerate(KINDS):
            bench.at(kind / len(KINDS), name)
            found.wrong += wrong_with(bench, pieces, kind)
            done += 1
    except TimeOver:
        found.cut = f"{done} of {len(KINDS)} patterns when the time was over"
        if not done:
            raise
    return found


def all_there_is(most: int) -> list[cuda.devicearray.DeviceNDArray]:
    free = cuda.current_context().get_memory_info().free
    left = max(free - LEFT_OVER, free // 2)
    left = min(left, most) if most else left
    pieces, size = [], PIECE
    while left >= SMALLEST and size >= SMALLEST:
        size = min(size, left // SMALLEST * SMALLEST)
        try:
            pieces.append(cuda.device_array(size // 8, np.uint64))
            left -= size
        except Exception as error:  # which class it is depends on Numba's version
            if "MEMORY" not in str(error).upper():
                raise
            size //= 2  # no piece so large is left
    return pieces


def wrong_with(bench: Bench, pieces: list, kind: int) -> list[str]:
    """First everything is filled, then everything is looked at."""
    seed, wrong, first = np.uint64(bench.seed), [], 0
    for piece in pieces:
        kernels.fill[blocks(piece.size), THREADS](piece, kind, np.uint64(first), seed)
        first += piece.size
    first = 0
    for number, piece in enumerate(pieces):
        bench.at((kind + number / len(pieces)) / len(KINDS), KINDS[kind])
        bad = cuda.to_device(np.array([0, NOWHERE, 0], np.uint64))
        kernels.check[blocks(piece.size), THREADS](
            piece, kind, np.uint64(first), seed, bad
        )
        count, at, bits = (int(each) for each in bad.copy_to_host())
        if count:
            wrong.append(place(KINDS[kind], first + at, count, bits))
        part = min(SAMPLE, piece.size)
        seen = piece[:part].copy_to_host()
        should = reference.pattern(part, kind, np.uint64(first), seed)
        unlike, at = reference.differing(seen, should)
        if unlike and not count:
            wrong.append(f"the processor finds {unlike} words that the GPU does not, "
                         f"the first at {(first + at) * 8:#x}")  # fmt: skip
        first += piece.size
    return wrong


def place(kind: str, word: int, count: int, bits: int) -> str:
    which = [str(bit) for bit in range(64) if bits >> bit & 1]
    named = f"bit {which[0]}" if len(which) == 1 else f"{len(which)} bits"
    words = "1 word differs" if count == 1 else f"{count} words differ"
    return f"pattern {kind}: {named} of {words}, the first at {word * 8:#x}"
