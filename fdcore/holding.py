"""Who holds a lease: connections of kind HOLD, which fdrun opens, its program inherits
and an fdhold keeps. What comes on them are fdhold's answers."""

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

from fdcore import attach
from fdcore.away import away_seconds
from fdcore.lease import Process
from fdcore.recall import Grace, started
from fdcore.session import Hold
from fdcore.sockets import (
    keep_alive,
    peer_credentials,
    pidfd_of_peer,
    readable,
    receive_from,
)

if TYPE_CHECKING:
    from fdcore.server import Server

log = logging.getLogger("fdserver")

# How often a hold may say who keeps it: each time is looked up, and what is new is
# written down. An fdhold says it once.
KEEPS_MOST = 8


class Words:
    """What fdhold says on a hold connection."""

    def __init__(self) -> None:
        self.held = b""

    def take(self, data: bytes) -> list[tuple[int, bytes]]:
        """Each word, with the session that it is about."""
        self.held += data
        words = []
        while len(self.held) >= attach.LIFE.size:
            magic, life, session = attach.LIFE.unpack(self.held[: attach.LIFE.size])
            self.held = self.held[attach.LIFE.size :]
            if magic == attach.MAGIC:
                words.append((life, session))
        return words


class Holding:
    """The server's part: what it knows of those who hold its leases."""

    def __init__(self, server: "Server") -> None:
        self.server = server

    async def serve(self, hold: Hold, sock: socket.socket) -> None:
        """Keeps the lease until the other end's last holder is gone.

        A program may close descriptors that it does not know (daemons do), so on one
        machine the lease also lives while the process that opened the connection does.
        An fdhold that has dialled again opened it itself: it knows what it closes, and
        waits for our end of it.
        """
        lease, heirloom = hold.lease, self.server.heirloom
        self.server.holds[hold] = sock
        keep_alive(sock)
        pidfd = hold.pidfd = pidfd_of_peer(sock)
        if pidfd < 0:
            lease.far = True
        else:
            opener = peer_credentials(sock)[0]
            hold.opener = Process(opener, started(opener), hold.pid)
            lease.holders.add(hold.opener)
            lease.strays.add(hold)
        heirloom.end_grace(lease, heirloom.graces.get(lease.id))
        heirloom.keep(lease)
        try:
            broke = await self.hear(hold, sock)
            if pidfd < 0 and broke:
                self.broke(hold)
            elif pidfd >= 0 and (broke or hold.keeper != hold.opener):
                await readable(pidfd)
            elif hold.keeper is not None:
                heirloom.forget(lease, hold.keeper)
        finally:
            self.server.holds.pop(hold)
            sock.close()
            hold.pidfd = -1
            if pidfd >= 0:
                os.close(pidfd)
            lease.strays.discard(hold)
            lease.holders -= {hold.opener, hold.keeper}
            self.server.ended(hold)

    async def hear(self, hold: Hold, sock: socket.socket) -> bool:
        """What comes on a hold, until its end. True: it broke, nobody has closed it."""
        words = Words()
        try:
            while True:
                data, pid = await receive_from(sock, 4096)
                if not data:
                    return False
                for life, session in words.take(data):
                    if life == attach.GONE:
                        self.gone(hold, session)
                    elif life == attach.KEEPS:
                        self.kept(hold, pid)
        except OSError:
            return True

    def gone(self, hold: Hold, number: bytes) -> None:
        session = self.server.sessions.get(number)
        if session is not None and session.lease is hold.lease:
            self.server.away.end(session, "its program has ended")

    def kept(self, hold: Hold, pid: int) -> None:
        """The next server has to wait for nobody: it can see who is there."""
        lease = hold.lease
        if hold.opener is None or lease.over or hold.said > KEEPS_MOST:
            return
        hold.said += 1
        if hold.said > KEEPS_MOST:
            log.warning("lease %s: who keeps it is said too often", lease.name)
            return
        start = started(pid) if pid else 0
        keeper = Process(pid, start, hold.pid)
        if not start or keeper == hold.keeper:
            return
        if hold.keeper != hold.opener:
            lease.holders -= {hold.keeper}
        hold.keeper = keeper
        lease.holders.add(hold.keeper)
        lease.strays.discard(hold)
        self.server.heirloom.keep(lease)

    def broke(self, hold: Hold) -> None:
        """What cuts a hold from another machine may have cut all of its connections at
        once: the lease stands for a while, in which fdhold dials again."""
        server, lease = self.server, hold.lease
        others = any(other.lease is lease for other in server.holds if other != hold)
        seconds = away_seconds(server.environment)
        if lease.over or others or not seconds:
            return
        log.info("lease %s: its hold broke: kept for %d s", lease.name, seconds)
        grace, before = Grace(), server.heirloom.graces.get(lease.id)
        server.book.stand(lease, grace)
        server.heirloom.graces[lease.id] = grace
        server.book.leave(lease, before)
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, server.heirloom.end_grace, lease, grace)
