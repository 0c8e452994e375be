"""Which servers share a request that none of them can grant alone: as few as possible.

Each server goes on placing its own part; here it is only decided how many GPUs are
asked of whom. What was free may be gone when the servers are asked: then all is
cancelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fdcore.sched.placement import Refusal, has_time
from fdcore.sched.slices import Ask, Gpu

# As many sessions as a program's library has: FDC_SESSIONS of csrc/shim/shim.h.
MOST_SERVERS = 16


@dataclass(frozen=True, slots=True)
class Room:
    """What one server has: its GPUs, and the bytes free on each by ordinal."""

    name: str
    gpus: tuple[Gpu, ...]
    free: Mapping[int, int]
    kept: Mapping[int, int] = field(default_factory=dict)  # percent of their time

    def fits(self, ask: Ask) -> int:
        """How many of its GPUs have this much."""
        return sum(
            0 < ask.share(gpu) <= self.free[gpu.ordinal]
            and has_time(gpu, ask, self.kept)
            for gpu in self.gpus
            if ask.allows(gpu)
        )

    def holds(self, ask: Ask) -> int:
        """How many would have it if nobody else had any of them."""
        return sum(
            0 < ask.share(gpu) <= gpu.memory for gpu in self.gpus if ask.allows(gpu)
        )


@dataclass(frozen=True, slots=True)
class Part:
    """How many GPUs are asked of the server at this place of the list."""

    server: int
    count: int


def spread(rooms: Sequence[Room], ask: Ask) -> tuple[Part, ...] | Refusal:
    """The parts of the fewest servers that have ask.count together, in their order.

    The largest come first; the last is the smallest that has what is left, so that
    large ones stay free for requests that want one server.
    """
    fits = [room.fits(ask) for room in rooms]
    if sum(fits) < ask.count:
        later = sum(room.holds(ask) for room in rooms) >= ask.count
        each = ", ".join(
            f"{room.name} has room for {count}"
            for room, count in zip(rooms, fits, strict=True)
        )
        more = "" if later else ", which is more than there is"
        return Refusal(f"{ask} asked for over all servers{more}; {each}", later)
    left = ask.count
    taken: list[Part] = []
    servers = sorted(range(len(rooms)), key=lambda place: (-fits[place], place))
    while left > 0:
        enough = [place for place in servers if fits[place] >= left]
        place = min(enough, key=lambda p: (fits[p], p)) if enough else servers[0]
        taken.append(Part(place, min(fits[place], left)))
        left -= taken[-1].count
        servers.remove(place)
    if len(taken) > MOST_SERVERS:
        return too_many(rooms, ask, fits)
    return tuple(sorted(taken, key=lambda part: part.server))


def too_many(rooms: Sequence[Room], ask: Ask, fits: Sequence[int]) -> Refusal:
    """Those that have most do not have it together."""
    have = sum(sorted(fits)[-MOST_SERVERS:])
    could = sum(sorted(room.holds(ask) for room in rooms)[-MOST_SERVERS:])
    return Refusal(
        f"{ask} asked for; a program can have GPUs of {MOST_SERVERS} servers, "
        f"and the {MOST_SERVERS} that have most have room for {have}",
        later=could >= ask.count,
    )
