"""Who is next: requests that wait, their order, and what users may have at once.

The order is priority first; then who has waited for long, by arrival; then who has
least of the server now; then arrival. A request that does not fit lets smaller ones
pass, but not for ever: once it has waited for PATIENCE seconds, the GPUs that are
nearest to having room for it are kept for it. So each request that the server could
grant when empty is granted some day, if leases end and no higher priority keeps coming.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdcore.sched.placement import Refusal, place
from fdcore.sched.slices import Ask, Gpu, Slice, mib

PATIENCE = 60.0
LOWEST, HIGHEST = -100, 100


@dataclass(frozen=True, slots=True)
class Quota:
    """What one user may have of a server at once; 0: as much as there is. priority: the
    highest that they may ask for."""

    gpus: int = 0
    memory: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user has now."""

    gpus: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    ask: Ask
    user: str
    number: int  # by arrival
    since: float
    priority: int = 0


Usages = Mapping[str, Usage]
Quotas = Mapping[str, Quota]
NOTHING = Usage()
DEFAULT = "*"  # whose quota is everybody's who has none
UNLIMITED = Quota()
NO_TIME: Mapping[int, int] = {}


def quota_of(user: str, quotas: Quotas) -> Quota:
    return quotas.get(user) or quotas.get(DEFAULT) or UNLIMITED


def over_quota(
    slices: Sequence[Slice], user: str, used: Usage, quotas: Quotas
) -> Refusal | None:
    """Why these are too many for the user beside what they have."""
    quota = quota_of(user, quotas)
    gpus, memory = len(slices), sum(part.memory for part in slices)
    if quota.gpus and used.gpus + gpus > quota.gpus:
        said = f"{user} may have {quota.gpus} GPUs at once and has {used.gpus}"
        return Refusal(said, later=gpus <= quota.gpus)
    if quota.memory and used.memory + memory > quota.memory:
        said = (
            f"{user} may have {mib(quota.memory)} MiB at once and has "
            f"{mib(used.memory)}; {mib(memory)} more were asked for"
        )
        return Refusal(said, later=memory <= quota.memory)
    return None


def in_order(waiting: Sequence[Request], usages: Usages, now: float) -> list[Request]:
    def key(request: Request) -> tuple[int, int, int, int]:
        patient = now - request.since < PATIENCE
        used = usages.get(request.user, NOTHING).memory if patient else 0
        return (-request.priority, patient, used, request.number)

    return sorted(waiting, key=key)


def next_grant(
    gpus: Sequence[Gpu],
    free: Mapping[int, int],
    waiting: Sequence[Request],
    usages: Usages,
    quotas: Quotas,
    now: float,
    times: Mapping[int, int] = NO_TIME,
) -> tuple[Request, tuple[Slice, ...]] | None:
    """The request that is granted now, with its slices. times: percent of each GPU's
    time that leases have."""
    kept: set[int] = set()
    left = gpus
    none: set[Ask] = set()  # that have no room: with fewer GPUs they have none either
    for request in in_order(waiting, usages, now):
        if request.ask not in none:
            placed = place(left, free, request.ask, times)
            used = usages.get(request.user, NOTHING)
            if not isinstance(placed, Refusal):
                if over_quota(placed, request.user, used, quotas) is None:
                    return request, placed
                continue  # it waits for its own user's leases, and keeps nobody out
            none.add(request.ask)
        if now - request.since >= PATIENCE:
            kept |= nearest(left, free, request.ask, times)
            left = [gpu for gpu in gpus if gpu.ordinal not in kept]
            if not left:
                return None
    return None


def nearest(
    gpus: Sequence[Gpu],
    free: Mapping[int, int],
    ask: Ask,
    times: Mapping[int, int] = NO_TIME,
) -> set[int]:
    """The GPUs that lack least for a request: they are kept until it has them."""

    def lacks(gpu: Gpu) -> tuple[int, int, int]:
        time = max(ask.compute + times.get(gpu.ordinal, 0) - 100, 0)
        return (time, ask.share(gpu) - free[gpu.ordinal], gpu.ordinal)

    able = [gpu for gpu in gpus if ask.allows(gpu) and 0 < ask.share(gpu) <= gpu.memory]
    able.sort(key=lacks)
    if len(able) < ask.count:
        return set()
    return {gpu.ordinal for gpu in able[: ask.count]}


def refusal(
    gpus: Sequence[Gpu],
    free: Mapping[int, int],
    request: Request,
    usages: Usages,
    quotas: Quotas,
    before: int,
    times: Mapping[int, int] = NO_TIME,
) -> Refusal:
    """Why a request is not granted at once. before: how many others wait."""
    placed = place(gpus, free, request.ask, times)
    if isinstance(placed, Refusal):
        return placed
    used = usages.get(request.user, NOTHING)
    too_many = over_quota(placed, request.user, used, quotas)
    if too_many is not None:
        return too_many
    said = f"{request.ask} would fit, but {before} requests wait for these GPUs already"
    return Refusal(said, later=True)


def hopeless(gpus: Sequence[Gpu], request: Request, quotas: Quotas) -> Refusal | None:
    """Why a request could not be granted if nobody else had anything."""
    everything = {gpu.ordinal: gpu.memory for gpu in gpus}
    placed = place(gpus, everything, request.ask)
    if isinstance(placed, Refusal):
        return placed
    return over_quota(placed, request.user, NOTHING, quotas)
