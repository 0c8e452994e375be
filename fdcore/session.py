"""What belongs to a lease on its server: attached programs, and who only holds it."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fdcore.lease import Lease, LeaseBook, Process
from fdcore.sockets import has_come
from fdcore.workers import Worker

log = logging.getLogger("fdserver")

# What a lease needs at most to be free once its program is over.
ENDING_SECONDS = 3.0


@dataclass(slots=True, eq=False)
class Session:
    """One client process attached: what stands for its lease, and can be listed."""

    id: bytes
    lease: Lease
    pid: int
    program: str
    road: str
    command: socket.socket | None = None
    # Of tcp sessions: those that are to come, and how many have been admitted.
    bulk: "list[asyncio.Future[socket.socket]]" = field(default_factory=list)
    bulk_admitted: int = 0
    row: int = -1  # on the lease's board
    counted: bool = False  # among the users of its GPUs
    keys: list[bytes] = field(default_factory=list, repr=False)  # of sealed sockets
    worker: Worker | None = None
    lock: bool = False  # fdhold can tell whether the client lives
    away: bool = False  # a connection of the client's is gone
    trunks: set[bytes] = field(default_factory=set, repr=False)  # nonces that were used

    def __str__(self) -> str:
        return f"session {self.id.hex()[:8]} of lease {self.lease.name}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that comes to the worker of a session which is under way."""

    session: Session

    @property
    def lease(self) -> Lease:
        return self.session.lease

    def order(self) -> dict[str, object]:
        raise NotImplementedError

    def hand_over(self, sock: socket.socket) -> None:
        """The socket is the worker's from here on."""
        order = self.order()
        try:
            if self.session.worker is not None:
                self.session.worker.hand_over(order, sock)
        except OSError as error:
            log.warning("%s: no %s: %s", self.session, order["op"], error)
        finally:
            sock.close()


BULK_MOST = 4


@dataclass(frozen=True, slots=True)
class Bulk:
    """A tcp session's connection for bulk data, one of several."""

    session: Session
    number: int

    @property
    def lease(self) -> Lease:
        return self.session.lease

    @property
    def keys(self) -> list[bytes]:
        return self.session.keys

    def come(self, sock: socket.socket) -> None:
        coming = self.session.bulk[self.number]
        if coming.done():  # nobody waits for it any more
            sock.close()
        else:
            coming.set_result(sock)


@dataclass(slots=True, eq=False)
class Hold:
    """A connection that only keeps a lease, and the process that opened it."""

    lease: Lease
    pid: int
    pidfd: int = -1  # of a process of this machine
    opener: Process | None = None  # that process
    keeper: Process | None = None  # its fdhold, on this machine
    said: int = 0  # how often somebody said to be that
    over: float = 0.0  # when the opener was first found to have ended

    def is_ending(self, now: float) -> bool:
        """The process has ended, and not long ago: what it was for may go on, as a
        reservation does, or a program's children."""
        if self.pidfd < 0 or not has_come(self.pidfd):
            return False
        self.over = self.over or now
        return now - self.over < ENDING_SECONDS


def card_of(session: Session) -> dict[str, Any]:
    """What its worker tells the next server of a session."""
    return {
        "lease": session.lease.id.hex(),
        "pid": session.pid,
        "program": session.program,
        "road": session.road,
        "lock": session.lock,
    }


def session_of(card: Mapping[str, Any], book: LeaseBook) -> Session | None:
    """The session that a card is of; None where its lease is over."""
    try:
        lease = book.find(bytes.fromhex(card["lease"]))
        number = bytes.fromhex(card["session"])
        pid, program, road = int(card["pid"]), str(card["program"]), str(card["road"])
    except (KeyError, TypeError, ValueError):
        return None
    lock = card.get("lock") is True
    return Session(number, lease, pid, program, road, lock=lock) if lease else None


def counters_of(told: Mapping[str, Any]) -> Mapping[str, int]:
    counters = told.get("counters")
    return counters if isinstance(counters, dict) else {}


def calls_of(told: Mapping[str, Any]) -> Mapping[str, tuple[str, int, int]]:
    calls = told.get("calls")
    return calls if isinstance(calls, dict) else {}


def did(counters: Mapping[str, int]) -> str:
    """The end of a session in a few words."""
    if not counters:
        return ""
    return (
        f" ({counters['messages']} messages, {counters['waited']} waits, "
        f"{counters['replies']} replies)"
    )
