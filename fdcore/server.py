"""fdserver: owns this machine's GPUs, grants leases on them, starts the workers.

One asyncio loop does it all. Control connections are rpc/server.py's; data connections
are accepted here, do the attach handshake, and go to a worker process as soon as they
are known to be a lease's. Nothing of a session passes through this process after that.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdcore import __version__, attach, ucx
from fdcore.alone import turn
from fdcore.board import Boards
from fdcore.check import Check
from fdcore.config import (
    CONTROL_PORT,
    CONTROL_SOCKET,
    DATA_PORT,
    DATA_SOCKET,
    SYSTEM_STATE,
    Address,
    private_folder,
    protocol_hash,
)
from fdcore.errors import ConfigError, FdcoreError, ProtocolError, RefusedError
from fdcore.etcd.access import Access
from fdcore.holding import Holding
from fdcore.host import gpus as host_gpus
from fdcore.lease import Lease, LeaseBook, Owner
from fdcore.line import Line
from fdcore.peers import Peer, machine
from fdcore.recall import Heirloom, socket_of
from fdcore.resume import Away, admit_resume
from fdcore.room import raised
from fdcore.rpc.server import Activity, ControlListener, Place, run_loop
from fdcore.sched.queue import Quota, Request
from fdcore.sched.slices import Ask, Gpu, Pool
from fdcore.security.doorstep import Caller, Doorstep
from fdcore.security.identity import is_loopback, tls_wish
from fdcore.security.limits import Seldom, Stranger, Waiting
from fdcore.security.passes import Passes
from fdcore.security.roles import WATCH, less
from fdcore.selfcheck import SelfCheck, spec_of
from fdcore.service import Service
from fdcore.session import (
    BULK_MOST,
    Arrival,
    Bulk,
    Hold,
    Session,
    calls_of,
    card_of,
    counters_of,
    did,
)
from fdcore.shares import Shares
from fdcore.sockets import (
    check_name,
    comes_from_afar,
    is_own_user,
    keep_alive,
    pass_credentials,
    peer_name,
    readable,
    receive,
    tcp_listener,
    unix_listener,
)
from fdcore.store import LEASE, META, StateLock
from fdcore.tenants import Tenants, give
from fdcore.trunks import admit_trunk
from fdcore.watch import LogLine, Watch
from fdcore.workers import (
    REFILL_SECONDS,
    START_SECONDS,
    Adopted,
    Worker,
    WorkerPool,
    status_text,
)

if TYPE_CHECKING:
    from fdcore.security.authority import Holder
    from fdcore.security.door import Door

log = logging.getLogger("fdserver")

HANDSHAKE_SECONDS = 5.0
STRANGERS = 512
STRANGERS_EACH = 128
SESSIONS_EACH = 256
HOLDS_EACH = 64
LONGEST_SOCKET = 107  # the bytes of a Unix socket's path
OWN_FAILURE = 125


@dataclass(frozen=True, slots=True)
class Options:
    """What fdserver was told on its command line."""

    state: Path
    store: Path = Path()  # the file of what a restart needs
    etcd: Access | None = None  # where the pool's servers share it, if they do
    advertise: Address | None = None  # what others of the pool call this server
    listen: Address | None = None
    driver: str = ""
    cpu_devices: int = 0
    host_memory: int = 0
    # Where images of code are kept, for each tenant, and how much of them; 0: none.
    cache: Path | None = None
    cache_room: int = 0
    # Workers that are ready before anybody asks.
    warm: int = 2
    trusted_network: bool = False
    # The first and last user that workers of tenants may become; root's server only.
    worker_users: tuple[int, int] | None = None
    confine: bool = True
    # Seconds without a session after which any lease is freed; 0: what was asked for.
    idle_release: int = 0
    # A line of JSON goes there when connections are answered.
    ready_fd: int = -1
    # flexdirect local: for one run only. The server ends once the other end of this
    # pipe is closed and no lease is left.
    leash_fd: int = -1


class Server:
    def __init__(
        self, options: Options, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.options = options
        self.service = Service()
        self.environment = host_gpus.driver_environment(environment)
        if options.cpu_devices:
            self.environment["FD_CPU_DEVICES"] = str(options.cpu_devices)
        self.tenants: Tenants | None = None
        if options.worker_users is not None:
            self.tenants = Tenants(*options.worker_users)
            self.environment["FD_WORKER_USERS"] = "1"
        self.protocol = protocol_hash()
        self.driver = ""
        self.cpu_device = False
        ucx.name(self.environment)
        self.rdma = (
            options.trusted_network
            and ucx.has_device()
            and ucx.is_here(self.environment)
        )
        self.found = host_gpus.Found(())
        self.book = LeaseBook(())
        self.heirloom = Heirloom(self)
        self.line = Line(self.book, self.leave, self.heirloom.commons)
        self.workers = WorkerPool(self.environment, options.warm)
        self.sessions: dict[bytes, Session] = {}
        self.holds: dict[Hold, socket.socket] = {}
        self.boards = Boards()
        self.figures = Watch(self.boards)
        self.passes: Passes[Owner] = Passes()
        self.selfcheck = SelfCheck(self.environment)
        self.away = Away(self)
        self.holding = Holding(self)
        self.shares = Shares()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listeners: list[socket.socket] = []
        self.control: socket.socket | None = None  # until somebody is answered there
        self.room = raised()
        self.waiting = Waiting(self.room.strangers(STRANGERS), STRANGERS_EACH)
        self.seldom = Seldom(log)
        self.step = Doorstep(
            self.waiting, HANDSHAKE_SECONDS, self.seldom, self.spoken, self.hello
        )
        self.data_host = ""
        self.port = self.data_port = 0
        self.stopping = asyncio.Event()
        self.unleashed = False
        self.draining = False
        self.door: Door | None = None  # where TLS is spoken
        self.cacheless = False

    # ---- the desk: what rpc/server.py asks for ----

    async def reserve(
        self, ask: Ask, owner: Owner, asker: object, wait: float = 0, priority: int = 0
    ) -> Lease:
        if self.draining:
            raise RefusedError("the server is being drained and grants nothing new")
        idle = self.options.idle_release
        if idle and (not ask.idle or ask.idle > idle):
            ask = replace(ask, idle=idle)
        begun = time.monotonic()
        try:
            lease = await self.line.lease(ask, owner, asker, wait, priority)
        except RefusedError:
            self.figures.refused()
            raise
        self.figures.granted(time.monotonic() - begun)
        log.info("lease %s: %s to %s", lease.name, ask, owner)
        self.watch_idle(lease)
        return lease

    def watch_idle(self, lease: Lease) -> None:
        """From now on no program has a session: after a time the lease is free."""
        if lease.idle and not lease.over:
            lease.sessions += 1
            loop = asyncio.get_running_loop()
            loop.call_later(lease.idle, self.idle_over, lease, lease.sessions)

    def idle_over(self, lease: Lease, sessions: int) -> None:
        used = any(each.lease is lease for each in self.sessions.values())
        if lease.over or used or lease.sessions != sessions:
            return
        log.info("lease %s: no CUDA program for %d s", lease.name, lease.idle)
        self.release(lease)

    def leave(self, lease: Lease, asker: object) -> None:
        if self.book.leave(lease, asker):
            self.freed(lease)
        else:
            self.away.reap(lease)

    def release(self, lease: Lease) -> None:
        if not lease.over:
            self.book.end(lease)
            self.freed(lease)

    def freed(self, lease: Lease) -> None:
        log.info("lease %s: freed", lease.name)
        self.heirloom.graces.pop(lease.id, None)
        self.figures.freed(lease)
        self.boards.drop(lease.id)
        self.shares.over(lease)
        self.heirloom.drop(LEASE, lease.id.hex())
        self.line.commons.give(lease)
        self.line.serve()
        for session in self.sessions.values():
            if session.lease is lease and session.worker is not None:
                session.worker.terminate()
        # Who holds it by a connection learns that there is nothing to hold any more.
        for hold, sock in self.holds.items():
            if hold.lease is lease:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.end_unleashed()

    def end_unleashed(self) -> None:
        if self.unleashed and not self.book.leases:
            self.stopping.set()

    def gpus(self) -> Sequence[tuple[Gpu, int]]:
        free = self.book.free()
        return [(gpu, free[gpu.ordinal]) for gpu in self.book.gpus]

    def ending(self) -> int:
        """Leases that only what is just ending stands for: holds of processes that are
        over, and sessions that are left."""
        now = time.monotonic()
        return sum(
            all(
                isinstance(thing, Session)
                or (isinstance(thing, Hold) and thing.is_ending(now))
                for thing in lease.standing
            )
            and any(isinstance(thing, (Hold, Session)) for thing in lease.standing)
            for lease in self.book.leases.values()
        )

    def pool(self) -> Pool:
        used = self.figures.used(self.book.leases)
        return Pool(
            socket.gethostname(), __version__, self.found.cuda, self.found.driver,
            ucx.has_device(), len(self.sessions), len(self.line.waiting),
            self.book.gpus, self.book.free(), self.book.sharing(),
            {ordinal: size for ordinal, (size, _) in used.items()},
            {
                gpu.ordinal: self.figures.figures(gpu, used.get(gpu.ordinal, (0, 0))[1])
                for gpu in self.book.gpus
            },
            self.draining, self.figures.since, ending=self.ending(),
            kept=self.book.kept(),
        )  # fmt: skip

    # ---- what is shown of it, and to whom ----

    async def checks(self) -> Sequence[Check]:
        return await self.selfcheck.checks(
            spec_of(self.driver, self.found, self.options)
        )

    def identity(self) -> bytes:
        return self.figures.server

    def usage(self, lease: Lease) -> tuple[list[int], list[int]]:
        return self.figures.usage(lease)

    def queue(self, owner: Owner) -> Sequence[tuple[Request, Owner, float]]:
        """Who waits, and for how long already."""
        now = time.monotonic()
        return [
            (each.request, each.owner, now - each.request.since)
            for each in self.line.waiting.values()
            if may_see(owner, each.owner)
        ]

    def totals(self) -> Mapping[str, float]:
        return self.figures.totals()

    def log_after(self, number: int) -> Sequence[LogLine]:
        return self.figures.log.after(number)

    def lend(self, hash: bytes, owner: Owner, role: str, seconds: int) -> None:
        allowed = less(owner.role, role)
        if not allowed:
            raise RefusedError(f"a {owner.role} cannot let others in as {role}")
        lent = replace(owner, role=allowed)
        self.passes.lend(hash, lent, (owner.user, owner.serial), seconds)
        log.info("%s lets somebody in as %s for %d s", owner, role, seconds)

    def become(self, secret: bytes, next: bytes, seconds: int) -> Owner:
        return self.passes.take(secret, next, seconds)

    # ---- what administrators ask for ----

    def leases(self, owner: Owner) -> Sequence[tuple[Lease, int]]:
        """Those that the owner may see, each with its number of sessions."""
        return [
            (lease, sum(s.lease is lease for s in self.sessions.values()))
            for lease in self.book.leases.values()
            if may_see(owner, lease.owner)
        ]

    def end_lease(self, number: str, by: Owner) -> None:
        """Ends the lease whose id begins so, whoever has it."""
        found = [
            lease
            for lease in self.book.leases.values()
            if number and lease.id.hex().startswith(number.replace("-", ""))
        ]
        if len(found) != 1:
            many = "no lease" if not found else f"{len(found)} leases"
            raise ConfigError(f"{many} with an id that begins with '{number}'")
        log.warning("lease %s: ended by %s", found[0].name, by)
        self.release(found[0])

    def quotas(self) -> Mapping[str, Quota]:
        return self.line.commons.quotas

    async def set_quota(self, user: str, quota: Quota | None) -> None:
        """None: the user has none of their own any more."""
        await self.line.commons.set_quota(user, quota)
        log.warning("quota of %s: %s", user, quota or "none")
        self.line.serve()

    def drain(self, on: bool, asker: Owner) -> None:
        """Until it ends, or is told otherwise. What has been granted stays."""
        if on != self.draining:
            log.warning("%s by %s", "drained" if on else "drained no longer", asker)
            self.heirloom.drain(on, asker)
        self.draining = on

    def peers(self) -> Sequence[Peer]:
        return self.line.commons.peers()

    def revoke(self, who: str, asker: Owner) -> None:
        if self.door is None or self.door.authority is None:
            raise RefusedError("this is not the pool's founding server")
        for row in self.door.authority.revoke(who):
            log.warning("%s, %s: revoked by %s", row["name"], row["serial"], asker)

    def token(self, role: str, seconds: int, uses: int, name: str, by: Owner) -> str:
        if self.door is None or self.door.authority is None or not self.options.listen:
            raise RefusedError("this is not the pool's founding server")
        own = self.options.advertise or replace(self.options.listen, port=self.port)
        addresses = [] if own.host in ("0.0.0.0", "::") else [str(own)]
        invite = self.door.authority.invite
        made = invite(role, seconds, uses, name, addresses, self.port)
        log.warning("a token to join as %s, good %d times, by %s", role, uses, by)
        return made

    def enrolled(self) -> Sequence[Mapping[str, Any]]:
        if self.door is None or self.door.authority is None:
            raise RefusedError("this is not the pool's founding server")
        return self.door.authority.issued()

    def place(self) -> Place:
        return Place(
            unix=str(self.options.state / DATA_SOCKET),
            machine=machine(),
            host=self.data_host,
            port=self.data_port,
            cpu_device=self.cpu_device,
            rdma=self.rdma,
        )

    async def activity(self, owner: Owner) -> Sequence[Activity]:
        """What the sessions that the owner may see have done so far."""
        asked = [
            session
            for session in self.sessions.values()
            if session.worker is not None and may_see(owner, session.lease.owner)
        ]
        said = await asyncio.gather(*(s.worker.stats() for s in asked if s.worker))
        return [
            Activity(
                session.id, session.lease.owner, session.pid, session.program,
                session.road, counters_of(told), calls_of(told), session.lease.id,
            )
            for session, told in zip(asked, said, strict=True)
        ]  # fmt: skip

    def cache_of(self, owner: Owner) -> Path | None:
        """The folder of the owner's module cache: local users and those with a
        certificate have one each, all others share one, since nobody knows them."""
        if self.options.cache is None or not self.options.cache_room:
            return None
        if owner.uid >= 0:
            name = str(owner.uid)
        elif owner.serial:
            name = f"user-{sha256(owner.user.encode()).hexdigest()[:16]}"
        else:
            name = "remote"
        try:
            above = private_folder(self.options.cache)
            if self.tenants is not None:
                return give(above / f"{name}-own", self.tenants.user_of(owner))
            return private_folder(above / name)
        except (FdcoreError, OSError) as error:
            if not self.cacheless:
                log.warning("the module cache: %s", error)
            self.cacheless = True
            return None

    def user_of(self, owner: Owner) -> tuple[int, int] | None:
        return None if self.tenants is None else self.tenants.user_of(owner)

    # ---- data connections ----

    def spoken(self, caller: Caller) -> None:
        assert caller.stranger is not None
        caller.stranger.end = self.spawn(self.greet(caller, caller.stranger)).cancel

    def hello(self) -> bytes:
        return attach.pack_hello(self.protocol, secrets.token_bytes(32))

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def greet(self, caller: Caller, stranger: Stranger) -> None:
        """Does the handshake; then the socket belongs to a session or a hold."""
        sock, source = caller.sock, caller.source
        peer = peer_name(sock)
        try:
            work = self.handshake(sock, stranger, attach.nonce_of(caller.said))
            admitted = await asyncio.wait_for(work, HANDSHAKE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            why = f"no attach request within {HANDSHAKE_SECONDS:g} s"
            self.seldom.warn((why, source), f"{peer}: {why}")
            sock.close()
            return
        except (FdcoreError, OSError) as error:
            self.seldom.warn((str(error), source), f"{peer}: not attached: {error}")
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()  # a newcomer needed the place, or the server stops
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self.waiting.leave(stranger)
        if isinstance(admitted, Hold):
            await self.holding.serve(admitted, sock)
        elif isinstance(admitted, Arrival):
            keep_alive(sock)
            admitted.hand_over(sock)
        elif isinstance(admitted, Bulk):
            admitted.come(sock)
        else:
            admitted.command = sock
            await self.serve(admitted)

    async def handshake(
        self, sock: socket.socket, stranger: Stranger, nonce: bytes
    ) -> "Session | Bulk | Hold | Arrival":
        """nonce: of the greeting, which it has been sent."""
        loop = asyncio.get_running_loop()
        request = attach.unpack_request(await receive(sock, attach.REQUEST.size))
        try:
            admitted = self.admit(request, nonce, sock)
            if request.seal and isinstance(admitted, Session | Bulk):
                secret = admitted.lease.secret
                admitted.keys.append(attach.seal_key(request, secret, nonce))
        except (ProtocolError, RefusedError) as error:
            answer = attach.pack_answer(errno.EACCES, bytes(32), str(error))
            await loop.sock_sendall(sock, answer)
            raise
        self.waiting.leave(stranger)
        key = attach.proof_key(request, admitted.lease.secret)
        proof = attach.server_proof(key, request.nonce, nonce)
        try:
            await loop.sock_sendall(sock, attach.pack_answer(0, proof, ""))
        except BaseException:
            if isinstance(admitted, Session | Hold):
                self.ended(admitted)
            raise
        return admitted

    def seals(self, lease: Lease) -> bool:
        """Whether what travels over tcp has to be encrypted: where control was."""
        return bool(lease.owner.serial) or bool(self.environment.get("FD_ENCRYPT"))

    def check_road(
        self, request: attach.Request, lease: Lease, sock: socket.socket
    ) -> None:
        known = lease.owner.serial or self.options.trusted_network
        if comes_from_afar(sock) and not known:
            raise RefusedError("the lease was granted on this machine, for use here")
        if request.kind == attach.HOLD:
            return
        over_tcp = attach.ROAD_NAMES[request.road] == "tcp"
        if over_tcp and self.seals(lease) and not request.seal:
            raise RefusedError("what travels with this lease has to be encrypted")
        if not over_tcp and request.seal:
            raise ProtocolError("the client wants to seal what is no tcp connection")
        if attach.ROAD_NAMES[request.road] == "rdma":
            self.check_rdma(lease, sock)

    def check_rdma(self, lease: Lease, sock: socket.socket) -> None:
        """UCX encrypts nothing, and writes where its peer says, but for what network
        cards forbid."""
        if self.seals(lease):
            raise RefusedError("what travels with this lease has to be encrypted")
        if not (is_own_user(sock) or self.options.trusted_network):
            raise RefusedError("rdma is for trusted networks (--trusted-network)")

    def admit(
        self, request: attach.Request, nonce: bytes, sock: socket.socket
    ) -> "Session | Bulk | Hold | Arrival":
        """What the connection will belong to, standing for its lease already; or
        raises what is wrong with the request."""
        if request.protocol != self.protocol and request.kind not in attach.STAYS:
            raise ProtocolError(
                attach.differing(self.protocol, request.protocol, "server", "client")
            )
        lease = self.book.find(request.lease)
        # The same words for both: who guesses learns nothing.
        if lease is None or not attach.proves(request, lease.secret, nonce):
            raise RefusedError(
                f"lease {request.lease.hex()[:8]} is over, or its secret is wrong"
            )
        self.check_road(request, lease, sock)
        if request.kind == attach.HOLD:
            if sum(isinstance(each, Hold) for each in lease.standing) >= HOLDS_EACH:
                raise RefusedError(f"the lease is held {HOLDS_EACH} times already")
            self.check_room(0, 1)
            hold = Hold(lease, request.pid)
            self.book.stand(lease, hold)
            pass_credentials(sock)
            return hold
        if request.kind == attach.TRUNK:
            if self.environment.get("FD_TRUNKS") == "0":
                raise RefusedError("this server takes no trunks (FD_TRUNKS=0)")
            session = self.sessions.get(request.session)
            return admit_trunk(request, session, lease, nonce)
        known = self.sessions.get(request.session)
        if request.kind == attach.RESUME:
            return admit_resume(request, known, lease, nonce)
        if request.kind == attach.BULK:
            if known is None or known.lease is not lease or not known.bulk:
                raise RefusedError("that session waits for no bulk connection")
            if known.bulk_admitted == len(known.bulk):
                raise RefusedError("that session has its bulk connection already")
            if known.bulk_admitted != request.more:
                raise ProtocolError(f"bulk connection {request.more} is not the next")
            if request.seal != bool(known.keys):
                raise ProtocolError("one of two connections is sealed")
            known.bulk_admitted += 1
            return Bulk(known, request.more)
        if known is not None:
            raise RefusedError("that session is attached already")
        if sum(s.lease is lease for s in self.sessions.values()) >= SESSIONS_EACH:
            raise RefusedError(f"the lease has {SESSIONS_EACH} sessions already")
        self.check_room(1, 0)
        road = attach.ROAD_NAMES[request.road]
        session = Session(request.session, lease, request.pid, request.program, road)
        session.lock = bool(request.more & 1)
        if road == "tcp":
            streams = 1 + (request.more >> 4)
            if streams > BULK_MOST:
                raise ProtocolError(f"{streams} bulk connections")
            loop = asyncio.get_running_loop()
            session.bulk = [loop.create_future() for _ in range(streams)]
        self.sessions[session.id] = session
        lease.sessions += 1
        self.book.stand(lease, session)
        return session

    def check_room(self, sessions: int, holds: int) -> None:
        """For so many more."""
        now, held = len(self.sessions), len(self.holds)
        if not self.room.has(now + sessions, held + holds):
            raise RefusedError(
                f"the server has {now} sessions and {held} leases, and descriptors for "
                f"no more (its limit, 'ulimit -Hn', is {self.room.limit})"
            )

    def ended(self, thing: "Session | Hold") -> None:
        if isinstance(thing, Session):
            self.sessions.pop(thing.id, None)
            heir = self.heir_of(thing)
            if heir is not None:  # a worker that is somebody else cannot do it
                heir.unlink(missing_ok=True)
            self.boards.give_back(thing.lease.id, thing.row)
            self.shares.leave(thing)
        self.leave(thing.lease, thing)
        if isinstance(thing, Session):
            self.watch_idle(thing.lease)

    # ---- sessions ----

    async def serve(self, session: Session) -> None:
        """One session from its worker's start to its end."""
        assert session.command is not None
        sockets = [session.command]
        how = "the server stopped"
        try:
            for coming in session.bulk:
                sockets.append(await bulk_of(coming))
            await turn(session, self.sessions.values(), self.book.gpus)
            worker = await self.workers.take()
            if session.lease.over:  # freed() has not ended what had no worker yet
                await worker.stop()
                raise RefusedError("the lease is over")
            session.worker = worker
            parts = [(part.ordinal, part.memory) for part in session.lease.slices]
            try:
                worker.start(
                    session.id, self.driver, session.road, parts, sockets,
                    self.options.host_memory, self.cache_of(session.lease.owner),
                    self.options.cache_room,
                    self.heir_of(session), card_of(session), session.keys,
                    self.user_of(session.lease.owner), self.options.confine,
                    self.board_of(session), self.shares.take(session),
                )  # fmt: skip
            except (FdcoreError, OSError):
                await worker.stop()
                raise
            how = await self.watch(session, worker)
        except (FdcoreError, OSError) as error:
            how = str(error)
            with contextlib.suppress(OSError):  # or it is the worker's, which tells
                session.command.send(attach.pack_ready(errno.EAGAIN, how))
        finally:
            for sock in sockets:
                sock.close()
            log.info("%s: ended: %s", session, how)
            self.ended(session)

    def board_of(self, session: Session) -> tuple[int, int]:
        """The lease's board and the session's row there: without them nobody would know
        how much the lease has."""
        board, session.row = self.boards.take(session.lease.id, session.pid)
        if session.row < 0:
            raise RefusedError("the lease's board is full")
        for other in self.sessions.values():
            if other.lease is session.lease and other is not session and other.worker:
                other.worker.company()
        return board, session.row

    async def watch(self, session: Session, worker: Worker) -> str:
        """Waits for the worker's end; says how it came."""
        how = ""
        try:
            first = await self.first_word(worker)
            if first.get("op") == "ready":
                log.info(
                    "%s: %s pid %d over %s, worker %d",
                    session, session.program, session.pid, session.road, worker.pid,
                )  # fmt: skip
                self.figures.session_begun()
                self.workers.warm(REFILL_SECONDS)
                last = await worker.told()
                while last.get("op") in ("away", "back"):
                    self.away.note(session, last["op"] == "away")
                    last = await worker.told()
            else:
                last = first
            if last:
                how = attach.printable(str(last.get("reason", "")).encode()) or "done"
                if last.get("op") == "failed":
                    log.error("%s: could not be served: %s", session, how)
                how += did(counters_of(last))
                self.figures.session_ended(counters_of(last))
        finally:
            status = await worker.wait(ended=bool(how))
            worker.control.close()
        if not how:
            how = f"the worker was lost, {status_text(status)}"
            log.error("%s: worker %d: %s", session, worker.pid, how)
            self.figures.session_lost()
            self.lost(session)
        self.workers.warm()
        return how

    async def first_word(self, worker: Worker) -> dict[str, Any]:
        if isinstance(worker, Adopted):
            return {"op": "ready"}
        try:
            return await asyncio.wait_for(worker.told(), START_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            return {"op": "failed", "reason": "the worker did not become ready"}

    def heir_of(self, session: Session) -> Path | None:
        """Where its worker waits should this server go. A private one has no heir."""
        if self.options.leash_fd >= 0:
            return None
        return socket_of(self.options.state, session.id)

    def lost(self, session: Session) -> None:
        """Frees the lease of a program that can do nothing with it any more: what fdrun
        became has lost its worker, and no other process has a session."""
        lease = session.lease
        holders = [thing for thing in lease.standing if isinstance(thing, Hold)]
        if len(lease.standing) == len(holders) + 1 and all(
            hold.pid == session.pid for hold in holders
        ):
            self.release(lease)

    # ---- life ----

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, or until the one lease is over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGUSR2, self.leave_all)
        if self.service.here:
            loop.add_signal_handler(signal.SIGHUP, self.service.reload)
        # Other users may reach a system's server, nobody another user's.
        system = os.geteuid() == 0 or self.options.state == SYSTEM_STATE
        mode = 0o755 if system else 0o700
        self.check_state()
        state = private_folder(self.options.state, mode)
        log.addHandler(self.figures.log)
        with StateLock(state) as lock:
            await self.find_gpus()
            control = ControlListener(self, self.room)
            try:
                self.heirloom.open()
                self.bind(control)
                await self.begin(control)
                self.workers.warm()
                self.spawn(self.figures.look(self.found))
                if self.options.leash_fd >= 0:
                    self.spawn(self.leash())
                if self.book.leases:
                    self.spawn(self.heirloom.late_workers())
                self.spawn(self.service.run(self))
                await self.stopping.wait()
                log.info("stopping")
                self.service.tell("STOPPING=1")
            finally:
                control.close()
                await self.close()
                lock.clear(CONTROL_SOCKET, DATA_SOCKET)
        if self.options.leash_fd >= 0:
            shutil.rmtree(state, ignore_errors=True)

    async def begin(self, control: ControlListener) -> None:
        """Takes over what runs, and answers. Where that fails, what runs goes on."""
        try:
            await self.heirloom.take_over()
            await self.listen(control)
        except BaseException as error:
            if not self.book.leases:
                raise
            log.error("not started: %s", error)
            self.leave_all(OWN_FAILURE)
        self.heirloom.begin_graces()

    def leave_all(self, status: int = 0) -> None:
        """SIGUSR2: ends at once, as if it had crashed. What runs goes on, and the next
        fdserver of this state folder takes it over."""
        log.info("leaving %d leases to the next fdserver", len(self.book.leases))
        logging.shutdown()
        os._exit(status)

    def check_state(self) -> None:
        """Addresses of sockets are short."""
        state = self.options.state
        private = self.options.leash_fd >= 0
        longest = state / CONTROL_SOCKET if private else socket_of(state, bytes(16))
        room = LONGEST_SOCKET - len(os.fsencode(longest))
        if room < 0:
            most = len(os.fsencode(state)) + room
            raise ConfigError(
                f"{state} is too long for the state folder of sockets: "
                f"its path may have {most} bytes"
            )

    async def leash(self) -> None:
        await readable(self.options.leash_fd)
        self.unleashed = True
        self.end_unleashed()

    async def find_gpus(self) -> None:
        self.driver, self.found = await asyncio.get_running_loop().run_in_executor(
            None, host_gpus.serve, self.options.driver, self.options.cpu_devices,
            self.environment,
        )  # fmt: skip
        self.workers.driver = self.driver
        found = self.found.served()
        self.cpu_device = self.figures.knows_busy = host_gpus.is_cpu_device(found)
        self.workers.pinned = not self.cpu_device
        self.book = LeaseBook(found)
        self.line = Line(self.book, self.leave, self.heirloom.commons)
        for line in self.found.lines():
            log.info("%s", line)

    def bind(self, control: ControlListener) -> None:
        """Has every port, before anything is taken over. Who dials is answered by
        listen()."""
        state, listen = self.options.state, self.options.listen
        self.listeners.append(unix_listener(state / DATA_SOCKET))
        host = listen.host if listen else "127.0.0.1"
        check_name(host)
        if listen and self.speaks_tls(host):
            self.door = open_door(self.environment, control)
            self.door.board = self.line.commons
        if listen or self.environment.get("FD_TRANSPORT") == "tcp":
            # After a restart at the same port, for those who dial it again.
            before = self.heirloom.store.rows(META).get("data", {}).get("port", 0)
            usual = DATA_PORT if listen and listen.port == CONTROL_PORT else 0
            data = tcp_listener(host, before or usual, fall_back=True)
            self.data_port = data.getsockname()[1]
            row = {"port": self.data_port}
            self.heirloom.put(META, "data", row)
            # What listens everywhere has the address that the client used.
            self.data_host = "" if host in ("0.0.0.0", "::") else host
            self.listeners.append(data)
        if listen:
            self.control = tcp_listener(listen.host, listen.port)

    async def listen(self, control: ControlListener) -> None:
        state, listen = self.options.state, self.options.listen
        ready = {"pid": os.getpid(), "unix": str(state / CONTROL_SOCKET)}
        for each in self.listeners:
            self.step.listen(each)
        control.listen(unix_listener(state / CONTROL_SOCKET))
        if listen:
            sock = self.control
            assert sock is not None
            self.control = None
            if self.door is not None:
                self.door.listen(sock)
                self.spawn(self.door.keep_watch(lambda: self.forget_revoked(control)))
            else:
                control.listen(sock)
            self.port = port = sock.getsockname()[1]
            ready["control"] = str(Address(listen.host, port))
            log.info("control at %s, data at port %d", ready["control"], self.data_port)
            self.heirloom.announce(Address(listen.host, port))
        else:
            self.heirloom.announce(Address(path=str(state / CONTROL_SOCKET)))
        log.info("fdserver %s is ready, state in %s", __version__, state)
        if self.options.ready_fd >= 0:
            os.write(self.options.ready_fd, json.dumps(ready).encode() + b"\n")
            os.close(self.options.ready_fd)

    def speaks_tls(self, host: str) -> bool:
        wish = tls_wish(self.environment)
        if is_loopback(host):
            return wish == "always"
        return not self.options.trusted_network

    def forget_revoked(self, control: ControlListener) -> None:
        """Whose certificate has been revoked loses what was granted to it."""
        assert self.door is not None
        gone = self.door.revoked.serials
        control.end(gone)
        self.passes.forget(gone)
        for lease in list(self.book.leases.values()):
            if lease.owner.serial in gone:
                log.warning("lease %s: %s was revoked", lease.name, lease.owner)
                self.release(lease)

    async def close(self) -> None:
        self.step.close()
        for sock in self.listeners:  # also those at which nobody has listened yet
            sock.close()
        if self.control is not None:
            self.control.close()
        if self.door is not None:
            self.door.close()
        self.line.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.workers.close()
        for lease in list(self.book.leases.values()):
            self.release(lease)
        self.heirloom.write()
        self.heirloom.close()


def may_see(asker: Owner, owner: Owner) -> bool:
    """Whose sessions somebody is told of: users of their own, others of everybody's."""
    if asker.role in WATCH:
        return True
    return (asker.user, asker.host) == (owner.user, owner.host)


async def bulk_of(coming: "asyncio.Future[socket.socket]") -> socket.socket:
    try:
        return await asyncio.wait_for(coming, HANDSHAKE_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise ProtocolError("no bulk connection came") from None


def open_door(environment: Mapping[str, str], control: ControlListener) -> "Door":
    """TLS on the control port, for hosts that belong to a pool."""
    from fdcore._core.session import no_cipher
    from fdcore.security import files
    from fdcore.security.door import Door

    folder = files.pool_folder(environment)
    if not (folder / files.ABOUT).exists():
        raise ConfigError(
            "nothing listens beyond loopback before this host belongs to a pool: "
            "'fdserver token' founds one here, 'flexdirect init TOKEN' joins one "
            "(--trusted-network goes without, on a network that is yours alone)"
        )

    missing = no_cipher()
    if missing:
        raise ConfigError(f"data connections cannot be encrypted: {missing}")

    def admitted(transport: Any, holder: "Holder") -> None:
        host = str(transport.get_extra_info("peername")[0])
        control.adopt(
            transport,
            Owner(holder.name, host, role=holder.role, serial=holder.serial),
        )

    forced = tls_wish(environment) == "always"
    return Door(folder, admitted, None if forced else control.protocol)


def serve(options: Options) -> None:
    """Runs a server in this process until it is told to stop."""
    run_loop(lambda: Server(options).run())
