"""Clients that are away: a tcp connection of a session broke, or its program has ended
and could not say so. The worker keeps the session a while; a client that comes again
goes to it, and who holds the lease is asked whether the client lives."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fdcore import attach
from fdcore.errors import RefusedError
from fdcore.lease import Lease
from fdcore.session import Arrival, Session

if TYPE_CHECKING:
    from fdcore.server import Server

log = logging.getLogger("fdserver")

# Between two questions: a process that ends closes its connections before its lock.
ASK_FIRST, ASK_MOST = 0.02, 5.0


@dataclass(frozen=True, slots=True)
class Resume(Arrival):
    """A connection in place of one that broke; the worker refuses what is no newer
    try."""

    which: int
    turn: int
    key: bytes = field(repr=False)  # if it is sealed, else nothing

    def order(self) -> dict[str, object]:
        key = self.key.hex()
        return {"op": "resume", "which": self.which, "turn": self.turn, "key": key}


def admit_resume(
    request: attach.Request, session: Session | None, lease: Lease, nonce: bytes
) -> Resume:
    """For a request that has proved the session's key."""
    if session is None or session.lease is not lease or session.worker is None:
        raise RefusedError("that session is over")
    if session.road != "tcp":
        raise RefusedError("that session has no connections that could come again")
    key = attach.seal_key(request, attach.proof_key(request, lease.secret), nonce)
    return Resume(
        session, request.more & 15, request.more >> 4, key if request.seal else b""
    )


def ask_life(session: Session, holds: Iterable[socket.socket]) -> None:
    """Asks fdhold. Where there is none, or an older one, nobody answers."""
    question = attach.LIFE.pack(attach.MAGIC, attach.ASKED, session.id)
    for sock in holds:
        with contextlib.suppress(OSError):
            sock.send(question)


class Away:
    """The server's part: what it knows of clients that are away."""

    def __init__(self, server: "Server") -> None:
        self.server = server

    def note(self, session: Session, away: bool) -> None:
        log.info("%s: its client is %s", session, "away" if away else "back")
        session.away = away
        if not away:
            return
        self.reap(session.lease)
        if session.lock:
            self.server.spawn(self.look_for(session))

    async def look_for(self, session: Session) -> None:
        """Asks who holds the lease whether the client lives, as long as it is away."""
        pause = ASK_FIRST
        while session.away and self.server.sessions.get(session.id) is session:
            holds = [
                s
                for hold, s in self.server.holds.items()
                if hold.lease is session.lease
            ]
            ask_life(session, holds)
            await asyncio.sleep(pause)
            pause = min(2 * pause, ASK_MOST)

    def reap(self, lease: Lease) -> None:
        """Ends sessions of clients that are away where nobody else holds the lease."""
        last = [thing for thing in lease.standing if isinstance(thing, Session)]
        if len(last) == len(lease.standing) and all(one.away for one in last):
            for one in last:
                self.end(one, "nobody holds its lease")

    def end(self, session: Session, why: str) -> None:
        if session.away and session.worker is not None:
            log.info("%s: %s", session, why)
            session.worker.gone()
