"""The server's end of the control plane: capabilities over a Desk.

Four rules hold here: the loop is the stock one, never uvloop; every method is wrapped,
so that it answers with a typed error and no traceback leaves the machine; who asks is
found out when the connection is accepted; and time, size and numbers are limited.
"""

import asyncio
import functools
import itertools
import logging
import os
import pwd
import socket
import struct
import time
import warnings
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import capnp

from fdcore import __version__
from fdcore.attach import differing, printable
from fdcore.check import Check
from fdcore.errors import FdcoreError, RefusedError
from fdcore.lease import Lease, Owner
from fdcore.peers import Peer
from fdcore.room import Room
from fdcore.rpc.schema import TRAVERSAL_WORDS, VERSION, control
from fdcore.sched.queue import HIGHEST, LOWEST, Quota, Request
from fdcore.sched.slices import Ask, Gpu, Pool
from fdcore.security.doorstep import Caller, Doorstep
from fdcore.security.limits import Seldom, Stranger, Waiting
from fdcore.security.roles import ADMIN, USER, less, may
from fdcore.watch import LogLine

log = logging.getLogger("fdserver")

LOGIN_SECONDS = 5.0
CALLS_AT_ONCE = 64
OTHER_ROLE = (
    "who may joined with a token for it (fdserver token --role), or is root or the "
    "server's own user on its machine"
)
CONNECTIONS_EACH = 256
STRANGERS = 256
STRANGERS_EACH = 64
LEASES_EACH = 64
MOST_GPUS = 1024

faults = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lease's data connections go."""

    unix: str
    machine: str
    host: str
    port: int
    cpu_device: bool
    rdma: bool


@dataclass(frozen=True, slots=True)
class Activity:
    """What a session has done so far."""

    id: bytes
    owner: Owner
    pid: int
    program: str
    road: str
    counters: Mapping[str, int]
    # By name: what people know it as, messages, those that were waited for.
    calls: Mapping[str, tuple[str, int, int]]
    lease: bytes = b""


class Desk(Protocol):
    """What the server does; it knows nothing of Cap'n Proto."""

    protocol: bytes

    async def reserve(
        self, ask: Ask, owner: Owner, asker: object, wait: float, priority: int
    ) -> Lease: ...

    def leave(self, lease: Lease, asker: object) -> None: ...

    def release(self, lease: Lease) -> None: ...

    def gpus(self) -> Sequence[tuple[Gpu, int]]: ...

    def pool(self) -> Pool: ...

    def leases(self, owner: Owner) -> Sequence[tuple[Lease, int]]: ...

    def end_lease(self, number: str, by: Owner) -> None: ...

    def quotas(self) -> Mapping[str, Quota]: ...

    async def set_quota(self, user: str, quota: Quota | None) -> None: ...

    def place(self) -> Place: ...

    def seals(self, lease: Lease) -> bool: ...

    async def checks(self) -> Sequence[Check]: ...

    def drain(self, on: bool, asker: Owner) -> None: ...

    def revoke(self, who: str, asker: Owner) -> None: ...

    def identity(self) -> bytes: ...

    def peers(self) -> Sequence[Peer]: ...

    def usage(self, lease: Lease) -> tuple[list[int], list[int]]: ...

    def queue(self, owner: Owner) -> Sequence[tuple[Request, Owner, float]]: ...

    def totals(self) -> Mapping[str, float]: ...

    def log_after(self, number: int) -> Sequence[LogLine]: ...

    def lend(self, hash: bytes, owner: Owner, role: str, seconds: int) -> None: ...

    def become(self, secret: bytes, next: bytes, seconds: int) -> Owner: ...

    def token(
        self, role: str, seconds: int, uses: int, name: str, by: Owner
    ) -> str: ...

    def enrolled(self) -> Sequence[Mapping[str, Any]]: ...

    async def activity(self, owner: Owner) -> Sequence[Activity]: ...


class CallError(FdcoreError):
    """What a method answers instead of its result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


Method = Callable[..., Coroutine[Any, Any, None]]


def answered(method: Method) -> Method:
    """Makes a method of this: method(self, result, ...) fills the result's ok."""

    @functools.wraps(method)
    async def call(self: Any, _context: Any, **arguments: Any) -> None:
        result = _context.results.result
        connection: Connection = self.connection
        connection.calls += 1
        try:
            if connection.calls > CALLS_AT_ONCE:
                connection.close()
                raise CallError("limit", f"more than {CALLS_AT_ONCE} calls at once")
            role = connection.owner.role
            if not may(role, method.__qualname__):
                raise CallError("denied", f"a {role} may not do that; {OTHER_ROLE}")
            await method(self, result, **arguments)
        except asyncio.CancelledError:
            raise
        except CallError as error:
            answer(result, error.code, str(error))
        except RefusedError as error:
            answer(result, "full", str(error))
        except FdcoreError as error:
            answer(result, "invalid", str(error))
        except BaseException:
            number = next(faults)
            log.exception("fault %d in %s", number, method.__qualname__)
            answer(result, "fault", f"the server failed; fault {number} in its log")
        finally:
            connection.calls -= 1

    del call.__wrapped__
    return call


def answer(result: Any, code: str, message: str) -> None:
    error = result.init("error")
    error.code = code
    error.message = message


class Connection:
    """One client's connection and everything that ends with it."""

    def __init__(
        self, desk: Desk, owner: Owner, source: str, close: Callable[[], None]
    ) -> None:
        self.desk = desk
        self.owner = owner
        self.source = source  # what the limits of strangers and connections go by
        self.close = close
        self.calls = 0
        self.session = False
        self.gone = False
        self.certain = False  # who it is, from login on
        # Called at login: the first before somebody is let in, the other when he is.
        self.check_room: Callable[[str], None] = lambda source: None
        self.known: Callable[[], None] = lambda: None
        self.leases: dict[object, Lease] = {}
        self.lent = False  # the owner is who let somebody in

    def closed(self) -> None:
        self.gone = True
        for asker in list(self.leases):
            self.drop(asker)

    def late(self, asker: object) -> None:
        """The time in which somebody else had to stand for the lease is over."""
        lease = self.leases.get(asker)
        if lease is not None and lease.standing == {asker}:
            log.warning("lease %s: nobody took it up in time", lease.name)
            self.drop(asker)

    def drop(self, asker: object) -> None:
        lease = self.leases.pop(asker, None)
        if lease is not None:
            self.desk.leave(lease, asker)


class GateServer(control.Gate.Server):  # type: ignore[misc]
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @answered
    async def login(self, result: Any, hello: Any) -> None:
        desk = self.connection.desk
        if hello.version != VERSION:
            raise CallError(
                "version",
                f"fdserver {__version__} speaks control version {VERSION}, "
                f"the client {hello.version}",
            )
        if bytes(hello.protocol) != desk.protocol:
            raise CallError(
                "version",
                differing(desk.protocol, bytes(hello.protocol), "server", "client"),
            )
        owner = self.connection.owner
        if not owner.user:
            owner = replace(owner, user=f"{said(hello.user)}?", host=said(hello.host))
        self.connection.check_room(self.connection.source)
        role = less(owner.role, str(hello.role)) if hello.role else owner.role
        if not role:
            raise CallError("denied", f"a {owner.role} cannot be a {said(hello.role)}")
        self.connection.owner = owner = replace(
            owner, pid=owner.pid or hello.pid, program=said(hello.program), role=role
        )
        self.connection.session = self.connection.certain = True
        self.connection.known()
        ok = result.init("ok")
        ok.session = SessionServer(self.connection)
        ok.release = __version__
        ok.protocol = desk.protocol
        ok.server = desk.identity()
        ok.user = owner.user
        ok.role = owner.role


class SessionServer(control.Session.Server):  # type: ignore[misc]
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @answered
    async def reserve(self, result: Any, ask: Any) -> None:
        connection = self.connection
        if connection.lent:
            raise CallError("denied", "who was let in by somebody cannot reserve")
        if len(connection.leases) >= LEASES_EACH:
            raise CallError("limit", f"more than {LEASES_EACH} leases at once")
        if len(ask.only) > MOST_GPUS:
            raise CallError("invalid", f"more than {MOST_GPUS} GPUs are named")
        wanted = Ask(
            ask.count, ask.memory, ask.fraction, frozenset(ask.only), ask.idle,
            compute=ask.compute,
        )  # fmt: skip
        problem = wanted.problem()
        if problem:
            raise CallError("invalid", problem)
        asker = object()
        if not LOWEST <= ask.priority <= HIGHEST:
            raise CallError("invalid", f"priorities are {LOWEST} to {HIGHEST}")
        lease = await connection.desk.reserve(
            wanted, connection.owner, asker, ask.wait, ask.priority
        )
        connection.leases[asker] = lease
        if connection.gone:
            connection.drop(asker)
            raise CallError("over", "the connection has gone")
        if ask.within:
            loop = asyncio.get_running_loop()
            loop.call_later(ask.within, connection.late, asker)
        known = {gpu.ordinal: gpu for gpu, _ in connection.desk.gpus()}
        place = connection.desk.place()
        ok = result.init("ok")
        ok.lease = LeaseServer(connection, lease, asker)
        ok.id = lease.id
        ok.secret = lease.secret
        slices = ok.init("slices", len(lease.slices))
        for row, part in zip(slices, lease.slices, strict=True):
            row.ordinal = part.ordinal
            row.memory = part.memory
            row.name = known[part.ordinal].name
            row.size = known[part.ordinal].memory
        ok.unix = place.unix
        ok.machine = place.machine
        ok.host = place.host
        ok.port = place.port
        ok.cpuDevice = place.cpu_device
        ok.seal = connection.desk.seals(lease)
        ok.rdma = place.rdma

    @answered
    async def gpus(self, result: Any) -> None:
        known = self.connection.desk.gpus()
        for row, (gpu, free) in zip(result.init("ok", len(known)), known, strict=True):
            fill_gpu(row, gpu, free)

    @answered
    async def pool(self, result: Any) -> None:
        pool = self.connection.desk.pool()
        ok = result.init("ok")
        ok.hostname = pool.hostname
        ok.release = pool.release
        ok.cuda = pool.cuda
        ok.driver = pool.driver
        ok.rdma = pool.rdma
        ok.tasks = pool.tasks
        ok.waiting = pool.waiting
        rows = ok.init("gpus", len(pool.gpus))
        for row, gpu in zip(rows, pool.gpus, strict=True):
            fill_gpu(row, gpu, pool.free[gpu.ordinal])
            row.leases = pool.leases[gpu.ordinal]
            row.used = pool.used.get(gpu.ordinal, 0)
            row.kept = pool.kept.get(gpu.ordinal, 0)
            fill_figures(row, "figures", pool.figures.get(gpu.ordinal, {}))
        ok.draining = pool.draining
        ok.since = pool.since
        ok.now = time.time()
        ok.ending = pool.ending

    @answered
    async def sessions(self, result: Any) -> None:
        known = await self.connection.desk.activity(self.connection.owner)
        for row, one in zip(result.init("ok", len(known)), known, strict=True):
            row.id = one.id
            row.user = one.owner.user
            row.host = one.owner.host
            row.pid = one.pid
            row.program = one.program
            row.road = one.road
            row.lease = one.lease
            counters = row.init("counters", len(one.counters))
            for counter, (name, value) in zip(
                counters, one.counters.items(), strict=True
            ):
                counter.name = name
                counter.value = value
            calls = row.init("calls", len(one.calls))
            for call, (name, (seen, messages, waits)) in zip(
                calls, one.calls.items(), strict=True
            ):
                call.name = name
                call.seen = seen
                call.messages = messages
                call.waits = waits

    @answered
    async def leases(self, result: Any) -> None:
        known = self.connection.desk.leases(self.connection.owner)
        for row, (lease, sessions) in zip(
            result.init("ok", len(known)), known, strict=True
        ):
            row.id = lease.id
            row.user = lease.owner.user
            row.host = lease.owner.host
            row.pid = lease.owner.pid
            row.program = lease.owner.program
            row.since = lease.since
            row.sessions = sessions
            slices = row.init("slices", len(lease.slices))
            for cell, part in zip(slices, lease.slices, strict=True):
                cell.ordinal = part.ordinal
                cell.memory = part.memory
            row.used, row.busy = self.connection.desk.usage(lease)

    @answered
    async def queue(self, result: Any) -> None:
        known = self.connection.desk.queue(self.connection.owner)
        for row, (request, owner, seconds) in zip(
            result.init("ok", len(known)), known, strict=True
        ):
            row.number = request.number & 0xFFFFFFFF
            row.user = owner.user
            row.host = owner.host
            row.pid = owner.pid
            row.program = owner.program
            row.count = request.ask.count
            row.memory = request.ask.memory
            row.fraction = request.ask.fraction
            row.priority = request.priority
            row.seconds = seconds

    @answered
    async def checks(self, result: Any) -> None:
        known = await self.connection.desk.checks()
        for row, one in zip(result.init("ok", len(known)), known, strict=True):
            row.state = one.state
            row.name = one.name
            row.found = one.found
            row.cure = one.cure

    @answered
    async def totals(self, result: Any) -> None:
        fill_figures(result, "ok", self.connection.desk.totals())

    @answered
    async def log(self, result: Any, after: int) -> None:
        known = self.connection.desk.log_after(after)
        for row, line in zip(result.init("ok", len(known)), known, strict=True):
            row.number = line.number
            row.time = line.time
            row.level = line.level
            row.text = line.text

    @answered
    async def lend(self, result: Any, hash: bytes, role: str, seconds: int) -> None:
        connection = self.connection
        if connection.lent:
            raise CallError("denied", "who was let in by somebody lets nobody in")
        connection.desk.lend(bytes(hash), connection.owner, said(role), seconds)
        result.ok = None

    @answered
    async def become(
        self, result: Any, secret: bytes, next: bytes, seconds: int
    ) -> None:
        connection = self.connection
        if connection.leases or connection.lent:
            raise CallError("denied", "this connection is somebody's already")
        owner = connection.desk.become(bytes(secret), bytes(next), seconds)
        connection.owner, connection.lent = owner, True
        ok = result.init("ok")
        ok.user = owner.user
        ok.host = owner.host
        ok.role = owner.role

    @answered
    async def token(
        self, result: Any, role: str, seconds: int, uses: int, whom: str
    ) -> None:
        owner = self.connection.owner
        made = self.connection.desk.token(said(role), seconds, uses, said(whom), owner)
        result.ok = made

    @answered
    async def enrolled(self, result: Any) -> None:
        known = self.connection.desk.enrolled()
        for row, one in zip(result.init("ok", len(known)), known, strict=True):
            row.name = str(one["name"])
            row.role = str(one["role"])
            row.serial = str(one["serial"])
            row.expires = float(one["expires"])
            row.revoked = bool(one.get("revoked"))

    @answered
    async def release(self, result: Any, id: str) -> None:
        self.connection.desk.end_lease(said(id), self.connection.owner)
        result.ok = None

    @answered
    async def quotas(self, result: Any) -> None:
        known = self.connection.desk.quotas()
        for row, (user, quota) in zip(
            result.init("ok", len(known)), sorted(known.items()), strict=True
        ):
            row.user = user
            row.gpus = quota.gpus
            row.memory = quota.memory
            row.priority = quota.priority

    @answered
    async def setQuota(self, result: Any, quota: Any, drop: bool) -> None:
        made = Quota(quota.gpus, quota.memory, quota.priority)
        await self.connection.desk.set_quota(said(quota.user), None if drop else made)
        result.ok = None

    @answered
    async def drain(self, result: Any, on: bool) -> None:
        self.connection.desk.drain(on, self.connection.owner)
        result.ok = None

    @answered
    async def peers(self, result: Any) -> None:
        known = self.connection.desk.peers()
        for row, one in zip(result.init("ok", len(known)), known, strict=True):
            row.server = one.server
            row.address = one.address
            row.machine = one.machine

    @answered
    async def revoke(self, result: Any, who: str) -> None:
        self.connection.desk.revoke(said(who), self.connection.owner)
        result.ok = None


def fill_figures(parent: Any, field: str, figures: Mapping[str, float]) -> None:
    cells = parent.init(field, len(figures))
    for cell, (name, value) in zip(cells, figures.items(), strict=True):
        cell.name = name
        cell.value = value


def fill_gpu(row: Any, gpu: Gpu, free: int) -> None:
    row.ordinal = gpu.ordinal
    row.name = gpu.name
    row.uuid = gpu.uuid
    row.memory = gpu.memory
    row.free = free
    row.pci = gpu.pci
    row.whole = gpu.whole


class LeaseServer(control.Lease.Server):  # type: ignore[misc]
    def __init__(self, connection: Connection, lease: Lease, asker: object) -> None:
        self.connection = connection
        self.lease = lease
        self.asker = asker

    @answered
    async def release(self, result: Any) -> None:
        if self.lease.over:
            raise CallError("over", f"lease {self.lease.name} is over")
        self.connection.desk.release(self.lease)
        result.ok = None

    def __del__(self) -> None:
        # The client dropped its reference. closed() has done it if the connection went.
        self.connection.drop(self.asker)


def said(text: str) -> str:
    """A name that a client gave for itself: short, and safe to print."""
    return printable(text[:64].encode())


def identify(sock: Any) -> Owner:
    """Who is there: known for a local socket, unknown (no user name) for TCP. A local
    user's name may come from a directory, which takes its time."""
    if sock.family == socket.AF_UNIX:
        size = struct.calcsize("3i")
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("3i", raw)
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        role = ADMIN if uid in (0, os.geteuid()) else USER
        return Owner(user, "", pid, role=role, uid=uid)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    return Owner("", str(sock.getpeername()[0]))


class ControlListener:
    """Accepts control connections on a Unix socket and a TCP port."""

    def __init__(self, desk: Desk, room: Room) -> None:
        self.desk = desk
        self.most = room.connections
        self.connections: dict[Any, Connection] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.waiting = Waiting(room.strangers(STRANGERS), STRANGERS_EACH)
        self.seldom = Seldom(log)
        self.step = Doorstep(self.waiting, LOGIN_SECONDS, self.seldom, self.spoken)

    def listen(self, sock: socket.socket) -> None:
        """sock: of either kind, bound."""
        self.step.listen(sock)

    def spoken(self, caller: Caller) -> None:
        task = asyncio.get_running_loop().create_task(self.connect(caller))
        assert caller.stranger is not None
        caller.stranger.end = task.cancel
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self, caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        try:
            if not caller.sock.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
            owner = await self.look_up(caller.sock)
            await loop.connect_accepted_socket(
                lambda: self.protocol(caller.stranger, owner), caller.sock
            )
            return
        except (TimeoutError, asyncio.TimeoutError):
            text = f"{caller.source}: its name is not found within {LOGIN_SECONDS:g} s"
            self.seldom.warn(("name", caller.source), text)
        except OSError:  # it has gone again, and had nothing to say
            pass
        except asyncio.CancelledError:  # a newcomer needed the place
            caller.sock.close()
            raise
        assert caller.stranger is not None
        self.waiting.leave(caller.stranger)
        caller.sock.close()

    async def look_up(self, sock: socket.socket) -> Owner:
        if sock.family != socket.AF_UNIX:
            return identify(sock)
        loop = asyncio.get_running_loop()
        found = loop.run_in_executor(None, identify, sock)
        return await asyncio.wait_for(found, LOGIN_SECONDS)

    def protocol(
        self, stranger: Stranger | None = None, seen: Owner | None = None
    ) -> asyncio.BaseProtocol:
        """seen: who is there, where that has been looked up."""

        # AsyncIoStream's own create_server hides the transport, and with it the peer.
        async def connected(stream: Any) -> None:
            who = seen or identify(made.transport.get_extra_info("socket"))
            await self.serve(stream, who, stranger)

        made = capnp.AsyncIoStream._connect(connected)
        return made  # type: ignore[no-any-return]

    def check_room(self, source: str) -> None:
        """For one more who logs in, in all and from there."""
        known = [one.source for one in self.connections.values() if one.certain]
        if len(known) >= self.most:
            text = f"the server has {self.most} control connections already"
            self.seldom.warn("full", text)
            raise CallError("limit", text)
        if known.count(source) >= CONNECTIONS_EACH:
            text = f"{source} has {CONNECTIONS_EACH} control connections already"
            self.seldom.warn(("each", source), text)
            raise CallError("limit", text)

    def adopt(self, transport: Any, owner: Owner) -> None:
        """A connection that somebody else has accepted and knows the owner of."""

        async def connected(stream: Any) -> None:
            await self.serve(stream, owner, known=True)

        made = capnp.AsyncIoStream._connect(connected)
        transport.set_protocol(made)
        made.connection_made(transport)

    def end(self, serials: Collection[str]) -> None:
        """Closes the connections of those certificates."""
        for stream, connection in list(self.connections.items()):
            if connection.owner.serial in serials:
                stream.close()

    async def serve(
        self,
        stream: Any,
        owner: Owner,
        stranger: Stranger | None = None,
        known: bool = False,
    ) -> None:
        """stranger: its place, where it has one already. known: by a certificate."""
        source = owner.host or f"uid {owner.uid}"
        if owner.serial:
            source = str(owner)
        connection = Connection(self.desk, owner, source, stream.close)
        connection.check_room = self.check_room
        if stranger is None:
            stranger, _ = self.waiting.enter(source, stream.close)
        stranger.end = stream.close
        place = stranger
        connection.known = lambda: self.waiting.leave(place)
        self.connections[stream] = connection
        loop = asyncio.get_running_loop()

        def late() -> None:
            if not connection.session:
                stream.close()

        timer = loop.call_later(LOGIN_SECONDS, late)
        try:
            gate = capnp.TwoPartyServer(
                stream,
                bootstrap=GateServer(connection),
                traversal_limit_in_words=TRAVERSAL_WORDS,
            )
            await gate.on_disconnect()
        except capnp.KjException as error:
            why = (str(error).splitlines() or [""])[0]
            self.seldom.warn(
                (why, source), f"{source}: control connection broke: {why}"
            )
        finally:
            timer.cancel()
            connection.known()
            if not (known or connection.certain):
                text = f"{source}: what was said is no login"
                self.seldom.warn(("login", source), text)
            self.connections.pop(stream, None)
            connection.closed()

    def close(self) -> None:
        self.step.close()
        # Without it the clients' calls would wait for ever.
        for stream in list(self.connections):
            stream.close()


def run_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs the daemon's loop: the stock one, whatever else is installed. With uvloop
    in the same process pycapnp's server crashes."""

    async def all_of_it() -> None:
        loop = type(asyncio.get_running_loop()).__module__
        assert loop.startswith("asyncio."), f"the loop is one of {loop}"
        await work()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    asyncio.run(capnp.run(all_of_it()))
