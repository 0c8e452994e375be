"""What is free of many GPUs, kept in order, so that the best fit is found by halving.

It answers as placement.place() does, of which it is the fast form; a test holds the two
together.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from fdcore.sched.placement import Refusal, place
from fdcore.sched.slices import Ask, Gpu, Slice


class FreeIndex:
    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self.gpus = {gpu.ordinal: gpu for gpu in gpus}
        self.free = {gpu.ordinal: gpu.memory for gpu in gpus}
        self.whole = any(gpu.whole for gpu in gpus)
        # Percent of their time that is somebody's share.
        self.kept = dict.fromkeys(self.gpus, 0)
        # GPUs of one size compare by what is free of them: (free, ordinal), sorted.
        self.sizes: dict[int, list[tuple[int, int]]] = {}
        for gpu in gpus:
            self.sizes.setdefault(gpu.memory, []).append((gpu.memory, gpu.ordinal))
        for rows in self.sizes.values():
            rows.sort()

    def find(self, ask: Ask) -> tuple[Slice, ...] | None:
        """What place() gives; None where it refuses."""
        if ask.only or ask.compute or self.whole:
            placed = place(tuple(self.gpus.values()), self.free, ask, self.kept)
            return None if isinstance(placed, Refusal) else placed
        if ask.problem():
            return None
        fitting: list[tuple[int, int, int]] = []
        for rows in self.sizes.values():
            share = ask.share(self.gpus[rows[0][1]])
            if share == 0:
                return None
            at = bisect_left(rows, (share, -1))
            fitting += [
                (free - share, ordinal, share)
                for free, ordinal in rows[at : at + ask.count]
            ]
        if len(fitting) < ask.count:
            return None
        fitting.sort()
        taken = sorted((ordinal, share) for _, ordinal, share in fitting[: ask.count])
        return tuple(Slice(ordinal, share) for ordinal, share in taken)

    def take(self, slices: Iterable[Slice]) -> None:
        for part in slices:
            self.change(part.ordinal, -part.memory)
            self.kept[part.ordinal] += part.compute

    def give(self, slices: Iterable[Slice]) -> None:
        for part in slices:
            self.change(part.ordinal, part.memory)
            self.kept[part.ordinal] -= part.compute

    def change(self, ordinal: int, by: int) -> None:
        rows = self.sizes[self.gpus[ordinal].memory]
        free = self.free[ordinal]
        del rows[bisect_left(rows, (free, ordinal))]
        self.free[ordinal] = free + by
        insort(rows, (free + by, ordinal))
