"""What the manager shows, as values: made of what servers said, for who looks.

No page, no clock, no connection: sight() is a function of what is known, and tests need
no browser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fdcore.rpc.client import Activity
from fdcore.rpc.watching import LeaseSeen, LogSeen, Snapshot, WaitSeen
from fdcore.sched.queue import Quota
from fdcore.sched.slices import MIB, Gpu
from fdcore.security.roles import ADMIN, USER

UP, DRAINING, DEAD, ASKING = "up", "draining", "dead", "asking"
HUES = 8  # colours of slices


@dataclass(frozen=True, slots=True)
class Rates:
    """Of a lease, a second; None: not known."""

    use: float | None = None  # of its GPUs' time, 0 to 1
    up: float = 0.0
    down: float = 0.0
    launches: float = 0.0
    waits: float = 0.0


@dataclass(slots=True)
class Station:
    """A server as it is known so far: cluster.py keeps it."""

    key: str  # its address, as it is configured
    name: str = ""  # what people call it; one_each() sees to it
    state: str = ASKING
    problem: str = ""
    server: bytes = b""
    role: str = ""  # what we are there
    now: Snapshot | None = None
    before: Snapshot | None = None  # the last one with figures of sessions
    log: Sequence[LogSeen] = ()


@dataclass(frozen=True, slots=True)
class Eyes:
    """Who looks. Users see programs of their own; others everybody's."""

    user: str
    host: str
    role: str

    def see(self, user: str, host: str) -> bool:
        if self.role != USER:
            return True
        return bool(self.user) and (self.user, self.host) == (user, host)


ALL = Eyes("", "", ADMIN)
NONE = Eyes("", "", USER)


def eyes_at(station: Station, eyes: Eyes | Mapping[str, Eyes]) -> Eyes:
    """By the server's key, who looks is somebody else at each, and nobody at others."""
    return eyes if isinstance(eyes, Eyes) else eyes.get(station.key, NONE)


@dataclass(frozen=True, slots=True)
class SliceView:
    """A part of a GPU, drawn from start on; both are shares of the whole."""

    lease: str
    user: str
    program: str
    memory: int
    used: int
    start: float
    part: float
    hue: int


@dataclass(frozen=True, slots=True)
class GpuView:
    server: str
    ordinal: int
    name: str
    uuid: str
    memory: int
    granted: int
    used: int
    use: float | None
    temperature: float | None
    power: float | None
    leases: int
    slices: tuple[SliceView, ...]
    hidden: float  # the share that others have, of whom the viewer is not told


@dataclass(frozen=True, slots=True)
class ServerView:
    key: str
    host: str
    state: str
    problem: str
    release: str
    driver: str
    cuda: str
    rdma: bool
    since: float
    tasks: int
    waiting: int
    memory: int
    granted: int
    used: int
    use: float | None
    leases: int
    gpus: tuple[GpuView, ...]


@dataclass(frozen=True, slots=True)
class LeaseView:
    id: str
    server: str
    host_of_server: str
    user: str
    host: str
    pid: int
    program: str
    since: float
    seconds: float
    gpus: tuple[tuple[int, int], ...]  # ordinal and bytes
    memory: int
    used: int
    sessions: int
    roads: str
    rates: Rates
    hue: int


@dataclass(frozen=True, slots=True)
class WaitView:
    server: str
    host_of_server: str
    number: int
    user: str
    host: str
    program: str
    wants: str
    priority: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ClientView:
    """A user on a machine."""

    user: str
    host: str
    leases: int
    gpus: int
    memory: int
    used: int
    sessions: int
    waiting: int
    since: float  # of the oldest lease; 0: none


@dataclass(frozen=True, slots=True)
class LogView:
    server: str
    time: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Overview:
    servers: int
    up: int
    gpus: int
    free: int  # wholly
    memory: int
    granted: int
    used: int
    use: float | None
    leases: int
    sessions: int
    waiting: int


@dataclass(frozen=True, slots=True)
class View:
    overview: Overview
    servers: tuple[ServerView, ...]
    leases: tuple[LeaseView, ...]
    queue: tuple[WaitView, ...]
    clients: tuple[ClientView, ...]
    log: tuple[LogView, ...]
    quotas: Mapping[str, Mapping[str, Quota]] = field(default_factory=dict)


@dataclass(slots=True)
class Hues:
    """Colours of leases: kept while they last, and each on few of them."""

    given: dict[bytes, int] = field(default_factory=dict)

    def keep(self, stations: Sequence["Station"]) -> None:
        """What is there now, in the order in which it came."""
        leases = [
            lease for one in answering(stations) for lease in snapshot_of(one).leases
        ]
        leases.sort(key=lambda lease: (lease.since, lease.id))
        self.given = {
            lease.id: self.given[lease.id] for lease in leases if lease.id in self.given
        }
        for lease in leases:
            if lease.id not in self.given:
                taken = list(self.given.values())
                self.given[lease.id] = min(range(HUES), key=taken.count)

    def of(self, lease: bytes) -> int:
        return self.given.get(lease, 0)


# ---- rates ----


def gpu_use(now: Snapshot, before: Snapshot | None, ordinal: int) -> float | None:
    """How busy a GPU is, 0 to 1: what NVML says, or the time of kernels."""
    figures = now.pool.figures.get(ordinal, {})
    if "use" in figures:
        return min(1.0, figures["use"] / 100)
    if before is None or "busy_seconds" not in figures:
        return None
    then = before.pool.figures.get(ordinal, {}).get("busy_seconds")
    seconds = now.at - before.at
    if then is None or seconds <= 0:
        return None
    return min(1.0, max(0.0, (figures["busy_seconds"] - then) / seconds))


def counters_by_lease(sessions: Sequence[Activity]) -> dict[bytes, dict[str, int]]:
    found: dict[bytes, dict[str, int]] = {}
    for one in sessions:
        sums = found.setdefault(one.lease, {})
        for name, value in one.counters.items():
            sums[name] = sums.get(name, 0) + value
    return found


def lease_rates(now: Snapshot, before: Snapshot | None) -> dict[bytes, Rates]:
    """A session that has ended between the two looks makes no rate negative."""
    if before is None or now.at <= before.at:
        return {}
    seconds = now.at - before.at
    counts, past = counters_by_lease(now.sessions), counters_by_lease(before.sessions)
    old = {lease.id: lease for lease in before.leases}
    found = {}
    for lease in now.leases:

        def rate(name: str, lease: LeaseSeen = lease) -> float:
            new = counts.get(lease.id, {}).get(name, 0)
            return max(0.0, (new - past.get(lease.id, {}).get(name, 0)) / seconds)

        use = None
        then = old.get(lease.id)
        if lease.busy and then is not None and then.busy:
            spent = sum(lease.busy) - sum(then.busy)
            use = min(1.0, max(0.0, spent / 1e9 / seconds / len(lease.busy)))
        found[lease.id] = Rates(
            use, rate("up_bytes"), rate("down_bytes"), rate("launches"), rate("waited")
        )
    return found


# ---- the view ----


def sight(
    stations: Sequence[Station],
    eyes: Eyes | Mapping[str, Eyes],
    now: float,
    hues: Hues | None = None,
) -> View:
    stations = one_each(stations)
    hues = hues or Hues()
    hues.keep(stations)
    servers = tuple(
        server_view(station, eyes_at(station, eyes), hues) for station in stations
    )
    leases = tuple(
        sorted(
            (
                each
                for station in stations
                for each in lease_views(station, eyes_at(station, eyes), now, hues)
            ),
            key=lambda lease: (lease.since, lease.id),
        )
    )
    queue = tuple(
        wait_view(station, wait)
        for station in answering(stations)
        for wait in snapshot_of(station).queue
        if eyes_at(station, eyes).see(wait.user, wait.host)
    )
    log = sorted(
        (
            LogView(name_of(station), line.time, line.level, line.text)
            for station in stations
            for line in station.log
            if eyes_at(station, eyes).role != USER
        ),
        key=lambda line: line.time,
    )
    return View(
        overview(servers, leases, stations),
        servers,
        leases,
        queue,
        clients(leases, queue),
        tuple(log),
        {each.key: snapshot_of(each).quotas for each in answering(stations)},
    )


def one_each(stations: Sequence[Station]) -> list[Station]:
    """A server that is in the list by two addresses is one; where we are more of
    somebody is the better of them. Several of one host are told apart by address."""
    found: dict[bytes, Station] = {}
    kept: list[Station] = []
    for station in stations:
        known = found.get(station.server) if station.server else None
        if known is None:
            kept.append(station)
            if station.server:
                found[station.server] = station
        elif better(station, known):
            kept[kept.index(known)] = found[station.server] = station
    hosts = [hostname(station) for station in kept]
    return [
        replace(one, name=host if hosts.count(host) == 1 else f"{host} ({one.key})")
        for one, host in zip(kept, hosts, strict=True)
    ]


def hostname(station: Station) -> str:
    return station.now.pool.hostname if station.now else station.key


def better(one: Station, other: Station) -> bool:
    def worth(station: Station) -> tuple[bool, bool]:
        return station.state in (UP, DRAINING), station.role != USER

    return worth(one) > worth(other)


def answering(stations: Sequence[Station]) -> list[Station]:
    return [one for one in stations if one.state in (UP, DRAINING) and one.now]


def snapshot_of(station: Station) -> Snapshot:
    assert station.now is not None
    return station.now


def name_of(station: Station) -> str:
    return station.name or hostname(station)


def server_view(station: Station, eyes: Eyes, hues: Hues) -> ServerView:
    now = station.now
    if now is None:
        return ServerView(
            station.key, name_of(station), station.state, station.problem,
            "", "", "", False, 0.0, 0, 0, 0, 0, 0, None, 0, (),
        )  # fmt: skip
    alive = station.state in (UP, DRAINING)
    gpus = tuple(gpu_view(station, now, gpu, eyes, hues) for gpu in now.pool.gpus)
    uses = [gpu.use for gpu in gpus if gpu.use is not None]
    pool = now.pool
    return ServerView(
        station.key,
        name_of(station),
        station.state,
        station.problem,
        pool.release,
        pool.driver,
        pool.cuda,
        pool.rdma,
        pool.since,
        pool.tasks if alive else 0,
        pool.waiting if alive else 0,
        sum(gpu.memory for gpu in gpus),
        sum(gpu.granted for gpu in gpus),
        sum(gpu.used for gpu in gpus),
        sum(uses) / len(uses) if uses else None,
        leases_of(pool.leases, now) if alive else 0,
        gpus,
    )


def leases_of(sharing: Mapping[int, int], now: Snapshot) -> int:
    """How many there are: for who is not told of all, at least so many."""
    return max(len(now.leases), max(sharing.values(), default=0))


def gpu_view(
    station: Station, now: Snapshot, gpu: Gpu, eyes: Eyes, hues: Hues
) -> GpuView:
    """A dead server's GPUs are drawn empty: nobody knows what they have now."""
    alive = station.state in (UP, DRAINING)
    figures = now.pool.figures.get(gpu.ordinal, {}) if alive else {}
    granted = gpu.memory - now.pool.free[gpu.ordinal] if alive else 0
    slices: list[SliceView] = []
    start = 0.0
    for lease in sorted(now.leases, key=lambda one: (one.since, one.id)):
        if not alive or not eyes.see(lease.user, lease.host):
            continue
        for place, part in enumerate(lease.slices):
            if part.ordinal != gpu.ordinal or not gpu.memory:
                continue
            share = part.memory / gpu.memory
            used = lease.used[place] if place < len(lease.used) else 0
            slices.append(
                SliceView(
                    lease.id.hex(), lease.user, lease.program, part.memory, used,
                    start, share, hues.of(lease.id),
                )
            )  # fmt: skip
            start += share
    use = gpu_use(now, station.before, gpu.ordinal) if alive else None
    return GpuView(
        station.key,
        gpu.ordinal,
        gpu.name,
        gpu.uuid,
        gpu.memory,
        granted,
        int(figures.get("memory_used", now.pool.used.get(gpu.ordinal, 0)))
        if alive
        else 0,
        use,
        figures.get("temperature"),
        figures.get("power"),
        now.pool.leases.get(gpu.ordinal, 0) if alive else 0,
        tuple(slices),
        max(0.0, granted / gpu.memory - start) if gpu.memory else 0.0,
    )


def lease_views(
    station: Station, eyes: Eyes, now: float, hues: Hues
) -> list[LeaseView]:
    if station not in answering([station]):
        return []
    snapshot = snapshot_of(station)
    rates = lease_rates(snapshot, station.before)
    roads: dict[bytes, set[str]] = {}
    for one in snapshot.sessions:
        roads.setdefault(one.lease, set()).add(one.road)
    return [
        LeaseView(
            lease.id.hex(),
            station.key,
            name_of(station),
            lease.user,
            lease.host,
            lease.pid,
            lease.program,
            lease.since,
            max(0.0, now - lease.since),
            tuple((part.ordinal, part.memory) for part in lease.slices),
            sum(part.memory for part in lease.slices),
            sum(lease.used),
            lease.sessions,
            ", ".join(sorted(roads.get(lease.id, ()))),
            rates.get(lease.id, Rates()),
            hues.of(lease.id),
        )
        for lease in snapshot.leases
        if eyes.see(lease.user, lease.host)
    ]


def wait_view(station: Station, wait: WaitSeen) -> WaitView:
    return WaitView(
        station.key, name_of(station), wait.number, wait.user, wait.host, wait.program,
        wants(wait), wait.priority, wait.seconds,
    )  # fmt: skip


def wants(wait: WaitSeen) -> str:
    gpus = f"{wait.count} GPU{'s' if wait.count != 1 else ''}"
    if wait.memory:
        return f"{gpus}, {size(wait.memory)} of each"
    if 0 < wait.fraction < 1:
        return f"{gpus}, {wait.fraction:.0%} of each"
    return f"{wait.count} whole GPU{'s' if wait.count != 1 else ''}"


def clients(
    leases: Sequence[LeaseView], queue: Sequence[WaitView]
) -> tuple[ClientView, ...]:
    who = {(one.user, one.host) for one in leases}
    who |= {(one.user, one.host) for one in queue}
    found = []
    for user, host in sorted(who):
        own = [one for one in leases if (one.user, one.host) == (user, host)]
        found.append(
            ClientView(
                user,
                host,
                len(own),
                sum(len(one.gpus) for one in own),
                sum(one.memory for one in own),
                sum(one.used for one in own),
                sum(one.sessions for one in own),
                sum((one.user, one.host) == (user, host) for one in queue),
                min((one.since for one in own), default=0.0),
            )
        )
    return tuple(found)


def overview(
    servers: Sequence[ServerView],
    leases: Sequence[LeaseView],
    stations: Sequence[Station],
) -> Overview:
    up = [server for server in servers if server.state in (UP, DRAINING)]
    gpus = [gpu for server in up for gpu in server.gpus]
    uses = [gpu.use for gpu in gpus if gpu.use is not None]
    return Overview(
        len(servers),
        len(up),
        len(gpus),
        sum(gpu.granted == 0 for gpu in gpus),
        sum(gpu.memory for gpu in gpus),
        sum(gpu.granted for gpu in gpus),
        sum(gpu.used for gpu in gpus),
        sum(uses) / len(uses) if uses else None,
        max(len(leases), sum(server.leases for server in up)),
        sum(server.tasks for server in up),
        sum(server.waiting for server in up),
    )


# ---- history ----


def series(stations: Sequence[Station]) -> dict[str, float]:
    """What is kept of a moment, by name: of the pool, of servers and of GPUs."""
    found: dict[str, float] = {}
    stations = one_each(stations)
    servers = [server_view(station, ALL, Hues()) for station in stations]
    pool = overview(servers, (), stations)
    if not pool.up:
        return found

    def keep(
        where: str, granted: int, used: int, memory: int, use: float | None
    ) -> None:
        if memory:
            found[f"{where}/granted"] = granted / memory
            found[f"{where}/used"] = used / memory
        if use is not None:
            found[f"{where}/use"] = use

    keep("pool", pool.granted, pool.used, pool.memory, pool.use)
    found["pool/waiting"] = pool.waiting
    for server in servers:
        if server.state in (UP, DRAINING):
            where = f"server {server.host}"
            found[f"{where}/waiting"] = server.waiting
            keep(where, server.granted, server.used, server.memory, server.use)
            for gpu in server.gpus:
                where = f"gpu {gpu.ordinal} of {server.host}"
                keep(where, gpu.granted, gpu.used, gpu.memory, gpu.use)
    for station in answering(stations):
        for name, value in flows(station).items():
            where = f"server {name_of(station)}"
            found[f"{where}/{name}"] = found.get(f"{where}/{name}", 0.0) + value
            if name != "queue_seconds":
                found[f"pool/{name}"] = found.get(f"pool/{name}", 0.0) + value
    queued = [flows(one).get("queue_seconds") for one in answering(stations)]
    known = [value for value in queued if value is not None]
    if known:
        found["pool/queue_seconds"] = max(known)
    return found


def flows(station: Station) -> dict[str, float]:
    """A second: messages that programs waited for, bytes; and how long those who were
    granted something since the last look had been in line."""
    now, before = snapshot_of(station), station.before
    if before is None or now.at <= before.at or now.pool.since != before.pool.since:
        return {}
    rates = lease_rates(now, before).values()
    found = {
        "waits": sum(rate.waits for rate in rates),
        "traffic": sum(rate.up + rate.down for rate in rates),
    }
    granted = total(now, before, "leases_granted")
    if granted > 0:
        found["queue_seconds"] = total(now, before, "queue_seconds") / granted
    return found


def total(now: Snapshot, before: Snapshot, name: str) -> float:
    return now.totals.get(name, 0.0) - before.totals.get(name, 0.0)


# ---- words ----


def size(count: float) -> str:
    """Bytes as people read them, three digits."""
    if count < MIB:
        return f"{count / 1024:.0f} KiB" if count >= 1024 else f"{count:.0f} B"
    value = count / MIB
    for unit in ("MiB", "GiB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def ago(seconds: float) -> str:
    """A time that has passed, with its two greatest units."""
    seconds = max(0, int(seconds))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
