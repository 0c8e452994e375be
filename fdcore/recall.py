"""What a restarted fdserver finds again: the leases that are out, and their workers.

A lease is written down when something first holds it. The next server takes the leases
of this boot over: whoever held one on this machine is known by pid and start time, also
the fdhold that keeps it; each worker waits at a socket in the state folder and says
whose it is. Where more may come than is known, as from other machines, there is a grace
time in which their fdhold dials again. What nobody stands for then is free.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdcore.commons import Alone, Commons
from fdcore.config import Address, private_folder
from fdcore.etcd.access import Access
from fdcore.lease import Lease, Owner, Process
from fdcore.peers import Peer, machine
from fdcore.sched.queue import Quota
from fdcore.sched.slices import Gpu, Slice
from fdcore.session import Hold, Session, session_of
from fdcore.sockets import readable
from fdcore.store import LEASE, META, QUOTA, Memory, Sqlite, StateStore, StoreError
from fdcore.workers import Adopted, Worker

if TYPE_CHECKING:
    from fdcore.server import Server

log = logging.getLogger("fdserver")

WORKERS = "workers"
SELF = "self.json"  # who this server is in etcd
# Rows of META.
DRAINED, POOL_QUOTAS = "drained", "pool quotas"
# In which an fdhold of this machine, or of another, dials again.
NEAR_SECONDS, FAR_SECONDS = 2.0, 60.0
# How often a worker is looked for that was just starting when its server ended.
LOOK_SECONDS, LOOKS = 0.5, 120
# Until what the store did not take is tried again.
WRITE_SECONDS = 1.0


class Grace:
    """Stands for a lease that was found in the store, for a while."""


def lease_row(lease: Lease, gpus: Sequence[Gpu], boot: str) -> dict[str, Any]:
    uuids = {gpu.ordinal: gpu.uuid for gpu in gpus}
    owner = lease.owner
    return {
        "boot": boot,
        "secret": lease.secret.hex(),
        "owner": [owner.user, owner.host, owner.pid, owner.program],
        "role": owner.role,
        "uid": owner.uid,
        "serial": owner.serial,
        "slices": [
            [part.ordinal, uuids[part.ordinal], part.memory, part.compute]
            for part in lease.slices
        ],
        "idle": lease.idle,
        "since": lease.since,
        "holders": sorted(list(holder) for holder in lease.holders),
        "far": lease.far,
        "strays": bool(lease.strays),
    }


def process_of(pid: int, start: int, program: int | None = None) -> Process:
    """Older servers knew only those that are the program themselves."""
    return Process(pid, start, pid if program is None else program)


def lease_of(key: str, row: dict[str, Any], gpus: Sequence[Gpu]) -> Lease | None:
    """The lease as it was; None where its GPUs are not there any more."""
    uuids = {gpu.ordinal: gpu.uuid for gpu in gpus}
    try:
        user, host, pid, program = row["owner"]
        lease = Lease(
            bytes.fromhex(key),
            bytes.fromhex(row["secret"]),
            Owner(
                user, host, pid, program, row["role"], row["serial"], row.get("uid", -1)
            ),
            tuple(Slice(n, memory, *share) for n, _, memory, *share in row["slices"]),
        )
        lease.idle = row["idle"]
        lease.since = row["since"]
        lease.holders = {process_of(*each) for each in row["holders"]}
        lease.far = row["far"]
        if row.get("strays", True):
            lease.strays.add(Grace)
        same = all(uuids.get(n) == uuid for n, uuid, *_ in row["slices"])
    except (KeyError, TypeError, ValueError):
        return None
    return lease if same else None


def started(pid: int) -> int:
    """When a process began, in ticks since the boot: with its pid it is known for good.
    0: there is no such process, or only what its parent has not waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def pidfd_of(pid: int, start: int) -> int:
    """A descriptor of the process that was meant; -1 where it has gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return -1
    if started(pid) != start:
        os.close(descriptor)
        return -1
    return descriptor


def socket_of(state: Path, session: bytes) -> Path:
    """Where a session's worker waits for another server."""
    return state / WORKERS / session.hex()[:16]


def find_workers(
    state: Path, known: Collection[Path]
) -> list[tuple[Adopted, dict[str, Any], list[int]]]:
    """The workers that wait for a server, each with what it says of its session and the
    descriptors of its board and of the server's shares. known: those that have one.
    Sockets that nobody listens at are removed."""
    found = []
    for path in sorted(set((state / WORKERS).glob("*")) - set(known)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(1.0)
        fds: list[int] = []
        try:
            sock.connect(str(path))
            data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 2)
            for fd in fds:  # a reload executes something else, which would keep them
                os.set_inheritable(fd, False)
            said = Adopted.card(data)
            credentials = sock.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
            pid = struct.unpack("3i", credentials)[0]
            found.append((Adopted(sock, pid), said, fds))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            sock.close()
        except (OSError, ValueError) as error:
            log.warning("worker at %s: not taken over: %s", path.name, error)
            sock.close()
            for fd in fds:
                os.close(fd)
    return found


async def end_worker(worker: Worker) -> None:
    await worker.stop()


class Heirloom:
    """What a server leaves to the next one, and what it found of the one before."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.graces: dict[bytes, Grace] = {}
        # Who is known from before to hold a lease, and what waits for their end.
        self.known: dict[tuple[bytes, Process], asyncio.Task[None]] = {}
        self.store: StateStore = Memory()
        self.commons: Commons = Alone(self.change)
        self.lost = False
        self.remembered: dict[str, Any] = {}
        # What could not be written yet: rows, or None for one that has to go.
        self.pending: dict[tuple[str, str], dict[str, Any] | None] = {}

    async def take_over(self) -> None:
        """Before anybody is answered: nothing that is out is promised again."""
        if isinstance(self.commons, Alone):
            self.quotas(self.commons)
        self.server.draining = DRAINED in self.store.rows(META)
        if self.server.draining:
            log.warning("drained since before: nothing new is granted")
        self.leases()
        self.commons.settle()
        await self.workers()
        self.server.shares.settle()

    def open(self) -> None:
        options = self.server.options
        if options.leash_fd >= 0:
            return
        private_folder(options.state / WORKERS)
        if options.store.parent != options.state:
            private_folder(options.store.parent)
        local = Sqlite(options.store)
        self.store = local
        if options.etcd is not None:
            self.share(options.etcd, local)

    def share(self, access: Access, local: StateStore) -> None:
        """With the other servers of a pool."""
        from fdcore.etcd.pool import EtcdPool
        from fdcore.etcd.store import EtcdStore, self_in

        server = self.server
        options = server.options
        me = self_in(options.store.parent / SELF, options.state / SELF)
        known = self.remembered = local.rows(META).get(POOL_QUOTAS, {})

        def changed() -> None:
            self.remember(pool.quotas)
            server.line.serve()

        pool = EtcdPool(access, me.id, known, changed)
        self.store = EtcdStore(local, pool.scribe, me)
        self.commons = server.line.commons = pool

    def announce(self, address: Address) -> None:
        """Where the others of the pool, and their clients, find this server."""
        server = self.server
        pool = server.pool()
        about = {
            "hostname": pool.hostname,
            "release": pool.release,
            "cuda": pool.cuda,
            "driver": pool.driver,
            "gpus": [asdict(gpu) for gpu in pool.gpus],
        }
        shown = server.options.advertise or address
        if shown.host in ("0.0.0.0", "::"):
            shown = replace(shown, host=pool.hostname)
        if self.commons.shared:
            log.info("announced to the pool as %s", shown)
        member = Peer(server.identity(), str(shown), machine())
        self.commons.announce(member, about)

    def drain(self, on: bool, by: Owner) -> None:
        """Remembered until it is told otherwise."""
        if on:
            self.put(META, DRAINED, {"by": str(by)})
        else:
            self.drop(META, DRAINED)

    def close(self) -> None:
        self.store.close()
        self.commons.close()

    def remember(self, quotas: Mapping[str, Quota]) -> None:
        """The pool's, for a start at which etcd does not answer."""
        rows = {user: asdict(quota) for user, quota in quotas.items()}
        if rows != self.remembered:
            self.remembered = rows
            self.put(META, POOL_QUOTAS, rows)

    def keep(self, lease: Lease) -> None:
        """Writes the lease down, as it is now."""
        if not lease.over:
            row = lease_row(lease, self.server.book.gpus, machine())
            self.put(LEASE, lease.id.hex(), row)

    def put(self, kind: str, key: str, row: dict[str, Any]) -> None:
        self.change(kind, key, row)

    def drop(self, kind: str, key: str) -> None:
        self.change(kind, key, None)

    def change(self, kind: str, key: str, row: dict[str, Any] | None) -> None:
        """What runs does not depend on whether the store can be written now: it is
        tried again."""
        self.pending[kind, key] = row
        if not self.lost:
            self.write()

    def write(self) -> None:
        try:
            for (kind, key), row in list(self.pending.items()):
                if row is None:
                    self.store.drop(kind, key)
                else:
                    self.store.put(kind, key, row)
                del self.pending[kind, key]
        except StoreError as error:
            if not self.lost:
                log.error("the store: %s; a restart would know nothing of now", error)
            self.lost = True
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)
            return
        if self.lost:
            log.info("the store is written again")
        self.lost = False

    def quotas(self, commons: Alone) -> None:
        for user, row in self.store.rows(QUOTA).items():
            try:
                commons.quotas[user] = Quota(**row)
            except TypeError:
                log.error("the quota of %s is not understood: %s", user, row)

    def leases(self) -> None:
        for key, row in self.store.rows(LEASE).items():
            lease = lease_of(key, row, self.server.book.gpus)
            now = row.get("boot") == machine()
            if not now or not lease or not self.server.book.adopt(lease):
                if now:
                    log.warning("lease %s: its GPUs are not there any more", key[:8])
                self.store.drop(LEASE, key)
                continue
            log.info("lease %s: out since before, to %s", lease.name, lease.owner)
            self.commons.note(lease)
            self.stand_again(lease)

    def stand_again(self, lease: Lease) -> None:
        """What stands for a lease that was found: who held it, if alive, and a time in
        which others come again."""
        grace = Grace()
        self.server.book.stand(lease, grace)
        self.graces[lease.id] = grace
        for holder in list(lease.holders):
            descriptor = pidfd_of(holder.pid, holder.start)
            if descriptor < 0:
                lease.holders.discard(holder)
                continue
            hold = Hold(lease, holder.program)
            self.server.book.stand(lease, hold)
            waits = self.server.spawn(self.outlive(hold, holder, descriptor))
            self.known[lease.id, holder] = waits
        self.server.watch_idle(lease)

    def begin_graces(self) -> None:
        """From now on an fdhold that dials is answered. Where all that may come are
        known and none is there any more, nobody is waited for."""
        loop = asyncio.get_running_loop()
        for number, grace in list(self.graces.items()):
            lease = self.server.book.leases[number]
            if lease.far or lease.strays:
                seconds = FAR_SECONDS if lease.far else NEAR_SECONDS
                loop.call_later(seconds, self.end_grace, lease, grace)
            else:
                self.end_grace(lease, grace)

    def end_grace(self, lease: Lease, grace: Grace | None) -> None:
        """Somebody holds it again, or nobody has come in time."""
        lease.strays.discard(Grace)
        if self.graces.get(lease.id) is grace:
            self.graces.pop(lease.id, None)
        self.server.leave(lease, grace)

    async def outlive(self, hold: Hold, holder: Process, descriptor: int) -> None:
        """Keeps a lease while a process lives that opened a hold of it or keeps it."""
        hold.lease.holders.add(holder)
        self.keep(hold.lease)
        try:
            await readable(descriptor)
        finally:
            os.close(descriptor)
            self.known.pop((hold.lease.id, holder), None)
            hold.lease.holders.discard(holder)
            self.server.leave(hold.lease, hold)

    def forget(self, lease: Lease, holder: Process) -> None:
        """It says itself that it holds the lease no more."""
        waits = self.known.get((lease.id, holder))
        if waits is not None:
            waits.cancel()

    async def workers(self) -> None:
        """Takes over the workers that wait for a server, with their sessions."""
        known = [
            socket_of(self.server.options.state, session)
            for session in self.server.sessions
        ]
        found = await asyncio.get_running_loop().run_in_executor(
            None, find_workers, self.server.options.state, known
        )
        sessions = [session_of(card, self.server.book) for _, card, _ in found]
        for session, (_, card, fds) in zip(sessions, found, strict=True):
            if session is not None:
                self.shares(session, card, fds)
        for session, (worker, card, fds) in zip(sessions, found, strict=True):
            if session is None:
                for fd in fds:
                    os.close(fd)
                log.warning("worker %d: its lease is over: it is ended", worker.pid)
                self.server.spawn(end_worker(worker))
                continue
            session.worker = worker
            self.board(session, card, fds)
            self.server.sessions[session.id] = session
            session.lease.sessions += 1
            self.server.book.stand(session.lease, session)
            self.server.spawn(self.serve_adopted(session, worker))

    def board(self, session: Session, card: dict[str, Any], fds: list[int]) -> None:
        """The lease's board as its workers have it, so that it has what it had."""
        row = card.get("row", -1)
        lease, boards = session.lease, self.server.boards
        self.server.shares.begin(session)
        if fds and boards.adopt(lease.id, fds[0]):
            session.row = int(row)
            return
        log.warning("%s: its memory is counted apart from others'", session)

    def shares(self, session: Session, card: dict[str, Any], fds: list[int]) -> None:
        """The account of computing time, before anybody is noted in a new one."""
        rows = card.get("shares")
        if len(fds) < 2 or not isinstance(rows, list):
            return
        if not self.server.shares.adopt(session.lease, fds[1], rows):
            log.warning("%s: its time is counted apart from others'", session)

    async def serve_adopted(self, session: Session, worker: Worker) -> None:
        how = "the server stopped"
        try:
            how = await self.server.watch(session, worker)
        finally:
            log.info("%s: ended: %s", session, how)
            self.server.ended(session)

    async def late_workers(self) -> None:
        """Some were only starting when their server ended."""
        for _ in range(LOOKS):
            await asyncio.sleep(LOOK_SECONDS)
            await self.workers()
            self.look_again()

    def look_again(self) -> None:
        """A worker that was not taken over gives its row back to nobody."""
        sessions = self.server.sessions.values()
        for lease in self.server.book.leases.values():
            rows = [each.row for each in sessions if each.lease is lease]
            self.server.boards.look_again(lease.id, rows)
