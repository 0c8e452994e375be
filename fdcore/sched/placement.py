"""Which GPUs a request is given.

Best fit: of the GPUs with room the fullest first, so that whole ones stay free. A lease
gets each GPU once, and no GPU's memory or time is ever promised twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdcore.sched.slices import Ask, Gpu, Slice, mib

NOTHING: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not placed. later: it could be, once others have ended."""

    reason: str
    later: bool


def place(
    gpus: Sequence[Gpu],
    free: Mapping[int, int],
    ask: Ask,
    kept: Mapping[int, int] = NOTHING,
) -> tuple[Slice, ...] | Refusal:
    """kept: percent of each GPU's time that leases have as their share; none: 0."""
    problem = ask.problem()
    if problem:
        return Refusal(problem, later=False)
    chosen = [gpu for gpu in gpus if ask.chooses(gpu)]
    gpus = [gpu for gpu in chosen if ask.allows(gpu)]
    if len(gpus) < ask.count <= len(chosen):
        names = ", ".join(f"GPU {gpu.ordinal}" for gpu in chosen if gpu not in gpus)
        return Refusal(
            f"{ask} asked for; in exclusive-process mode, and given as a whole only: "
            f"{names}",
            later=False,
        )
    if any(ask.share(gpu) == 0 for gpu in gpus):
        return Refusal(f"{ask}: less than one MiB of a GPU", later=False)
    if ask.count > len(gpus):
        return refusal(chosen, free, ask, later=False)
    if ask.count > sum(ask.share(gpu) <= gpu.memory for gpu in gpus):
        return refusal(gpus, free, ask, later=False)
    fitting = [gpu for gpu in gpus if ask.share(gpu) <= free[gpu.ordinal]]
    if ask.count > len(fitting):
        return refusal(gpus, free, ask, later=True)
    fitting = [gpu for gpu in fitting if has_time(gpu, ask, kept)]
    if ask.count > len(fitting):
        return too_little_time(gpus, ask, kept)
    fitting.sort(key=lambda gpu: (free[gpu.ordinal] - ask.share(gpu), gpu.ordinal))
    taken = sorted(fitting[: ask.count], key=lambda gpu: gpu.ordinal)
    return tuple(Slice(gpu.ordinal, ask.share(gpu), ask.compute) for gpu in taken)


def has_time(gpu: Gpu, ask: Ask, kept: Mapping[int, int]) -> bool:
    return ask.compute + kept.get(gpu.ordinal, 0) <= 100


def too_little_time(gpus: Sequence[Gpu], ask: Ask, kept: Mapping[int, int]) -> Refusal:
    each = ", ".join(
        f"GPU {gpu.ordinal} {100 - kept.get(gpu.ordinal, 0)} %" for gpu in gpus
    )
    return Refusal(f"{ask} asked for; time that nobody has: {each}", later=True)


def refusal(
    gpus: Sequence[Gpu], free: Mapping[int, int], ask: Ask, later: bool
) -> Refusal:
    """Says what was asked for and what is free, GPU by GPU."""
    if not gpus:
        return Refusal(
            f"{ask} asked for; the server has no GPU that passes the filters",
            later=False,
        )
    each = ", ".join(
        f"GPU {gpu.ordinal} {mib(free[gpu.ordinal])} of {mib(gpu.memory)} MiB"
        for gpu in gpus
    )
    more = "" if later else ", which is more than there is"
    return Refusal(f"{ask} asked for{more}; free: {each}", later)
