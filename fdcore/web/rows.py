"""The view as rows: of tables on pages, and of exports. No page is made here."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fdcore.check import FAIL, MARGINAL, PASS
from fdcore.lists import Row
from fdcore.rpc.watching import Member
from fdcore.sched.slices import MIB
from fdcore.web.model import (
    ASKING,
    DEAD,
    DRAINING,
    UP,
    ClientView,
    GpuView,
    LeaseView,
    LogView,
    Overview,
    ServerView,
    SliceView,
    View,
    WaitView,
    ago,
    percent,
    size,
)

Cells = dict[str, object]
TONES = {UP: "good", DRAINING: "warn", DEAD: "bad", ASKING: ""}
WORDS = {UP: "up", DRAINING: "draining", DEAD: "dead", ASKING: "asking"}
HEALTH = {PASS: "good", MARGINAL: "warn", FAIL: "bad"}
LEVELS = {"error": "bad", "critical": "bad", "warning": "warn"}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    label: str
    kind: str = ""  # chip, hue, bar; otherwise text
    right: bool = False
    mono: bool = False

    def props(self) -> Cells:
        return {
            "name": self.name, "label": self.label, "kind": self.kind,
            "right": self.right, "mono": self.mono,
        }  # fmt: skip


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def row(key: str, spoken: str, cells: Cells, order: Cells) -> Cells:
    """What a table has of something. words: what it is searched by."""
    texts = [
        str(cell.get("text", "")) if isinstance(cell, Mapping) else str(cell)
        for cell in cells.values()
    ]
    words = " ".join([key, *texts]).lower()
    return {"key": key, "spoken": spoken, "words": words, "order": order, **cells}


# ---- tiles ----


def tile(
    label: str,
    value: object,
    note: str,
    share: float | None = None,
    behind: float | None = None,
    tone: str = "",
    unit: str = "",
) -> Cells:
    return {
        "label": label, "value": str(value), "unit": unit, "note": note,
        "share": share, "behind": behind, "tone": tone,
    }  # fmt: skip


def tiles(pool: Overview) -> list[Cells]:
    dead = pool.servers - pool.up
    share = pool.granted / pool.memory if pool.memory else None
    used = pool.used / pool.memory if pool.memory else None
    return [
        tile("Servers", pool.up, f"{dead} dead" if dead else "all answer",
             tone="bad" if dead else "", unit=f"of {pool.servers}"),
        tile("GPUs", pool.gpus, f"{pool.free} wholly free"),
        tile("Memory granted", percent(share).rstrip("%"),
             f"{size(pool.granted)} of {size(pool.memory)}", used, share,
             unit="%" if share is not None else ""),
        tile("GPU use", percent(pool.use).rstrip("%"), "of all GPUs, now", pool.use,
             unit="%" if pool.use is not None else ""),
        tile("Leases", pool.leases,
             f"{pool.sessions} attached program{'s' if pool.sessions != 1 else ''}"),
        tile("Waiting", pool.waiting,
             "requests in line" if pool.waiting else "nobody has to wait",
             tone="warn" if pool.waiting else ""),
    ]  # fmt: skip


# ---- servers as they are drawn ----


def drawn(
    servers: Sequence[ServerView], now: float, can: Callable[[str], bool]
) -> list[Cells]:
    return [
        {
            "key": server.key,
            "host": server.host,
            "state": server.state,
            "tone": TONES[server.state],
            "word": WORDS[server.state],
            "about": about(server, now),
            "problem": server.problem,
            "can": server.state in (UP, DRAINING) and can(server.key),
            "gpus": [drawn_gpu(gpu, server.state) for gpu in server.gpus],
        }
        for server in servers
    ]  # fmt: skip


def about(server: ServerView, now: float) -> str:
    said = [] if server.key in server.host else [place(server.key)]
    if server.release:
        said.append(f"fdcore {server.release}")
        said.append(f"CUDA {server.cuda}")
    if server.since and server.state in (UP, DRAINING):
        said.append(f"up {ago(now - server.since)}")
    return " · ".join(said)


def drawn_gpu(gpu: GpuView, state: str) -> Cells:
    dead = state == DEAD
    granted = f"{size(gpu.granted)} of {size(gpu.memory)} granted"
    figures = [
        "" if gpu.use is None else f"{percent(gpu.use)} busy",
        "" if gpu.temperature is None else f"{gpu.temperature:.0f} °C",
        "" if gpu.power is None else f"{gpu.power:.0f} W",
    ]
    return {
        "ordinal": gpu.ordinal,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "granted": size(gpu.memory) if dead else granted,
        "used": "" if dead else f"{size(gpu.used)} in use",
        "use": " · ".join(word for word in figures if word),
        "spoken": f"GPU {gpu.ordinal}: {granted}, {len(gpu.slices)} leases",
        "hidden": gpu.hidden if gpu.hidden > 1e-6 else 0,
        "known": sum(one.part for one in gpu.slices),
        "slices": [drawn_slice(one) for one in gpu.slices],
    }


def drawn_slice(one: SliceView) -> Cells:
    return {
        "lease": one.lease,
        "start": one.start,
        "part": one.part,
        "fill": min(1.0, one.used / one.memory) if one.memory else 0.0,
        "hue": one.hue,
        "label": f"{one.program or 'reserved'} · {one.user}",
        "title": f"{one.program or 'reserved'} of {one.user}: {size(one.memory)}, "
        f"{size(one.used)} in use; lease {one.lease[:8]}",
    }


# ---- tables ----

LEASES = (
    Column("program", "Program", "hue"),
    Column("user", "User"),
    Column("where", "Server"),
    Column("gpus", "GPUs"),
    Column("memory", "Memory in use", "bar", right=True),
    Column("use", "Compute", "bar", right=True),
    Column("traffic", "Traffic", right=True),
    Column("since", "Running", right=True),
    Column("id", "Lease", mono=True),
)
QUEUE = (
    Column("program", "Program"),
    Column("user", "User"),
    Column("where", "Server"),
    Column("wants", "Wants"),
    Column("priority", "Priority", right=True),
    Column("waited", "Waiting", right=True),
)
CLIENTS = (
    Column("user", "User"),
    Column("host", "Machine"),
    Column("leases", "Leases", right=True),
    Column("gpus", "GPUs", right=True),
    Column("memory", "Memory", right=True),
    Column("used", "In use", right=True),
    Column("sessions", "Programs", right=True),
    Column("waiting", "Waiting", right=True),
    Column("since", "Since", right=True),
)
SERVERS = (
    Column("host", "Server"),
    Column("state", "State", "chip"),
    Column("address", "Address"),
    Column("gpus", "GPUs", right=True),
    Column("memory", "Memory granted", "bar", right=True),
    Column("use", "GPU use", right=True),
    Column("leases", "Leases", right=True),
    Column("waiting", "Waiting", right=True),
    Column("driver", "Driver"),
    Column("up", "Up", right=True),
)
CHECKS = (
    Column("host", "Machine"),
    Column("state", "State", "chip"),
    Column("check", "Check"),
    Column("found", "Found"),
    Column("cure", "To do"),
)
LOG = (
    Column("time", "Time", mono=True),
    Column("level", "Level", "chip"),
    Column("where", "Server"),
    Column("text", "Message"),
)
QUOTAS = (
    Column("where", "Server"),
    Column("user", "User"),
    Column("gpus", "GPUs", right=True),
    Column("memory", "Memory", right=True),
    Column("priority", "Priority", right=True),
)
MEMBERS = (
    Column("name", "Name"),
    Column("role", "Role"),
    Column("state", "State", "chip"),
    Column("until", "Until"),
    Column("serial", "Serial", mono=True),
)


def parts(gpus: Sequence[tuple[int, int]]) -> str:
    """Ordinals and what is had of each."""
    amounts = {memory for _, memory in gpus}
    if len(gpus) > 1 and len(amounts) == 1:
        numbers = ", ".join(str(ordinal) for ordinal, _ in gpus)
        return f"{numbers}: {size(amounts.pop())} each"
    return ", ".join(f"{ordinal}: {size(memory)}" for ordinal, memory in gpus)


def place(key: str) -> str:
    """An address; a socket is of this machine, wherever it lies."""
    return "this machine" if key.startswith("unix:") else key


def lease_row(lease: LeaseView, can: Callable[[str], bool]) -> Cells:
    program = lease.program or "reserved"
    share = lease.used / lease.memory if lease.memory else None
    flow = lease.rates.up + lease.rates.down
    cells: Cells = {
        "program": {"hue": lease.hue, "text": f"{program} ({lease.pid})"},
        "user": f"{lease.user}@{lease.host}" if lease.host else lease.user,
        "where": lease.host_of_server,
        "gpus": parts(lease.gpus),
        "memory": {"share": share, "text": size(lease.used)},
        "use": {"share": lease.rates.use, "text": percent(lease.rates.use)},
        "traffic": f"{size(flow)}/s",
        "since": ago(lease.seconds),
        "id": lease.id[:8],
    }
    order: Cells = {
        "program": program, "memory": lease.used, "use": lease.rates.use or 0.0,
        "traffic": flow, "since": lease.seconds,
    }  # fmt: skip
    made = row(f"{lease.server} {lease.id}", f"lease of {program}", cells, order)
    return made | {"cannot": not can(lease.server)}


def wait_row(wait: WaitView) -> Cells:
    cells: Cells = {
        "program": wait.program or "reservation",
        "user": f"{wait.user}@{wait.host}" if wait.host else wait.user,
        "where": wait.host_of_server,
        "wants": wait.wants,
        "priority": wait.priority,
        "waited": ago(wait.seconds),
    }
    key = f"{wait.server} {wait.number}"
    return row(key, wait.program, cells, {"waited": wait.seconds})


def client_row(client: ClientView, now: float) -> Cells:
    cells: Cells = {
        "user": client.user,
        "host": client.host or "this machine",
        "leases": client.leases,
        "gpus": client.gpus,
        "memory": size(client.memory),
        "used": size(client.used),
        "sessions": client.sessions,
        "waiting": client.waiting,
        "since": ago(now - client.since) if client.since else "–",
    }
    order: Cells = {
        "memory": client.memory, "used": client.used,
        "since": now - client.since if client.since else 0.0,
    }  # fmt: skip
    return row(f"{client.user}@{client.host}", client.user, cells, order)


def server_row(server: ServerView, now: float, can: Callable[[str], bool]) -> Cells:
    alive = server.state in (UP, DRAINING)
    share = server.granted / server.memory if server.memory and alive else None
    text = f"{size(server.granted)} of {size(server.memory)}" if server.memory else "–"
    cells: Cells = {
        "host": server.host,
        "state": {"text": WORDS[server.state], "tone": TONES[server.state]},
        "address": place(server.key),
        "gpus": len(server.gpus),
        "memory": {"share": share, "text": text},
        "use": percent(server.use),
        "leases": server.leases,
        "waiting": server.waiting,
        "driver": server.driver or "–",
        "up": ago(now - server.since) if server.since and alive else "–",
    }
    order: Cells = {
        "state": server.state, "memory": server.granted, "use": server.use or 0.0,
        "up": now - server.since if alive else 0.0,
    }  # fmt: skip
    made = row(server.key, server.host, cells, order)
    return made | {"cannot": not alive or not can(server.key)}


def check_row(found: Row) -> Cells:
    state = str(found["state"])
    cells: Cells = {
        "host": found["host"],
        "state": {"text": state, "tone": HEALTH.get(state, "")},
        "check": found["check"],
        "found": found["found"],
        "cure": found["cure"] if state != PASS else "",
    }
    order: Cells = {"state": list(HEALTH).index(state) if state in HEALTH else 0}
    return row(f"{found['host']} {found['check']}", str(found["check"]), cells, order)


def log_row(number: int, line: LogView) -> Cells:
    cells: Cells = {
        "time": clock(line.time),
        "level": {"text": line.level, "tone": LEVELS.get(line.level, "")},
        "where": line.server,
        "text": line.text,
    }
    return row(f"{line.server} {line.time:.6f} {number}", "", cells,
               {"level": line.level, "time": line.time})  # fmt: skip


def quota_rows(view: View, can: Callable[[str], bool]) -> list[Cells]:
    made = []
    hosts = {server.key: server.host for server in view.servers}
    for server, quotas in view.quotas.items():
        for user, quota in sorted(quotas.items()):
            cells: Cells = {
                "where": hosts.get(server, server),
                "user": "everybody else" if user == "*" else user,
                "gpus": quota.gpus or "no limit",
                "memory": size(quota.memory) if quota.memory else "no limit",
                "priority": quota.priority,
            }
            order: Cells = {"gpus": quota.gpus, "memory": quota.memory}
            one = row(f"{server}\t{user}", f"quota of {user}", cells, order)
            made.append(one | {"cannot": not can(server)})
    return made


def member_row(member: Member, now: float) -> Cells:
    state, tone = "valid", "good"
    if member.revoked:
        state, tone = "revoked", "bad"
    elif member.expires < now:
        state, tone = "expired", "warn"
    cells: Cells = {
        "name": member.name,
        "role": member.role,
        "state": {"text": state, "tone": tone},
        "until": clock(member.expires)[:16],
        "serial": member.serial[:16],
    }
    made = row(member.serial, member.name, cells, {"state": state})
    return made | {"cannot": state != "valid"}


# ---- exports ----

T = TypeVar("T")


@dataclass(frozen=True)
class Export(Generic[T]):
    """A list of what is seen, and what each column says of one."""

    of: Callable[[View], Iterable[T]]
    cells: Mapping[str, Callable[[T], object]]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.cells)

    def rows(self, view: View) -> list[Row]:
        return [
            {name: cell(one) for name, cell in self.cells.items()}
            for one in self.of(view)
        ]


def mib(count: float) -> int:
    return int(count) // MIB


def share(use: float | None) -> object:
    return "" if use is None else round(use, 3)


EXPORTS: dict[str, Export[Any]] = {
    "servers": Export[ServerView](lambda view: view.servers, {
        "server": lambda one: one.key,
        "hostname": lambda one: one.host,
        "state": lambda one: one.state,
        "problem": lambda one: one.problem,
        "release": lambda one: one.release,
        "driver": lambda one: one.driver,
        "cuda": lambda one: one.cuda,
        "gpus": lambda one: len(one.gpus),
        "memory_mib": lambda one: mib(one.memory),
        "granted_mib": lambda one: mib(one.granted),
        "used_mib": lambda one: mib(one.used),
        "leases": lambda one: one.leases,
        "sessions": lambda one: one.tasks,
        "waiting": lambda one: one.waiting,
    }),
    "gpus": Export[tuple[ServerView, GpuView]](
        lambda view: [(one, gpu) for one in view.servers for gpu in one.gpus], {
            "server": lambda one: one[0].key,
            "hostname": lambda one: one[0].host,
            "state": lambda one: one[0].state,
            "gpu": lambda one: one[1].ordinal,
            "name": lambda one: one[1].name,
            "uuid": lambda one: one[1].uuid,
            "memory_mib": lambda one: mib(one[1].memory),
            "granted_mib": lambda one: mib(one[1].granted),
            "used_mib": lambda one: mib(one[1].used),
            "use": lambda one: share(one[1].use),
            "leases": lambda one: one[1].leases,
        }),
    "leases": Export[LeaseView](lambda view: view.leases, {
        "server": lambda one: one.server,
        "lease": lambda one: one.id,
        "user": lambda one: one.user,
        "host": lambda one: one.host,
        "pid": lambda one: one.pid,
        "program": lambda one: one.program,
        "since": lambda one: clock(one.since),
        "seconds": lambda one: int(one.seconds),
        "gpus": lambda one: " ".join(f"{n}:{mib(part)}" for n, part in one.gpus),
        "memory_mib": lambda one: mib(one.memory),
        "used_mib": lambda one: mib(one.used),
        "use": lambda one: share(one.rates.use),
        "up_bytes_s": lambda one: int(one.rates.up),
        "down_bytes_s": lambda one: int(one.rates.down),
        "launches_s": lambda one: round(one.rates.launches, 1),
        "waits_s": lambda one: round(one.rates.waits, 1),
        "sessions": lambda one: one.sessions,
        "road": lambda one: one.roads,
    }),
    "queue": Export[WaitView](lambda view: view.queue, {
        "server": lambda one: one.server,
        "user": lambda one: one.user,
        "host": lambda one: one.host,
        "program": lambda one: one.program,
        "wants": lambda one: one.wants,
        "priority": lambda one: one.priority,
        "seconds": lambda one: int(one.seconds),
    }),
    "clients": Export[ClientView](lambda view: view.clients, {
        "user": lambda one: one.user,
        "host": lambda one: one.host,
        "leases": lambda one: one.leases,
        "gpus": lambda one: one.gpus,
        "memory_mib": lambda one: mib(one.memory),
        "used_mib": lambda one: mib(one.used),
        "sessions": lambda one: one.sessions,
        "waiting": lambda one: one.waiting,
    }),
    "log": Export[LogView](lambda view: view.log, {
        "time": lambda one: clock(one.time),
        "level": lambda one: one.level,
        "server": lambda one: one.server,
        "text": lambda one: one.text,
    }),
}  # fmt: skip


def safe_for_sheets(rows: Sequence[Row]) -> list[Row]:
    """What a spreadsheet would take for a formula becomes text, as people write it."""

    def safe(value: object) -> object:
        if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
            return "'" + value
        return value

    return [{key: safe(value) for key, value in one.items()} for one in rows]
