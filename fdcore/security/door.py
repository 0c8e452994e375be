"""The server's end of TLS: who comes in on the control port beyond loopback.

Nothing but this module reads what a stranger sends: TLS, then either one line of JSON
to join the pool with a token, or a certificate of the pool. Only then does anybody else
see the connection. What all of this may cost is limited.
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, Protocol

from fdcore.attach import printable
from fdcore.errors import FdcoreError, RefusedError
from fdcore.security import authority, files, greeting, identity, join
from fdcore.security.doorstep import Caller, Doorstep
from fdcore.security.limits import Rate, Seldom, Stranger, Waiting

log = logging.getLogger("fdserver")

HANDSHAKE_SECONDS = 5.0
STRANGERS = 256
STRANGERS_EACH = 64
A_SECOND = 100.0
BURST = 300.0
LONGEST_LINE = 16384
TLS_FIRST = b"\x16"  # a handshake record; Cap'n Proto begins with a small number
CLOSE_SECONDS = 2.0
LOOK_SECONDS = 1.0
REFRESH_SECONDS = 60.0

Admitted = Callable[[Any, authority.Holder], None]


class Line(asyncio.Protocol):
    """The first bytes of a connection, held back until they are one line."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = bytearray()
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.done.done():
            return
        if b"\n" in self.data:
            self.done.set_result(bytes(self.data.partition(b"\n")[0]))
        elif len(self.data) > LONGEST_LINE:
            self.done.set_exception(RefusedError("a line that does not end"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RefusedError("closed the connection"))
        with contextlib.suppress(BaseException):
            self.done.exception()  # told, whoever waits for it or not


class Board(Protocol):
    """Where servers of a pool leave what all of them are to know."""

    def post_revoked(self, content: bytes) -> None: ...

    def posted_revoked(self) -> Collection[bytes]: ...


class Door:
    """folder: this server's identity. admitted(transport, holder) is called for each
    connection of a holder of a certificate, which has been told to come in. plain: the
    protocol of those on this machine who speak no TLS; None: everybody has to."""

    def __init__(
        self,
        folder: Path,
        admitted: Admitted,
        plain: Callable[[], asyncio.BaseProtocol] | None = None,
    ) -> None:
        who = identity.load(folder)
        if who is None or who.role != "node":
            raise RefusedError(f"{folder} does not make this host a server of a pool")
        self.folder = folder
        self.who = who
        self.admitted = admitted
        self.plain = plain
        self.context = identity.context(folder, server=True)
        self.revoked = authority.Revoked(folder)
        self.authority = authority.Authority(folder) if who.founder else None
        self.waiting = Waiting(STRANGERS, STRANGERS_EACH)
        self.seldom = Seldom(log)
        self.step = Doorstep(
            self.waiting,
            HANDSHAKE_SECONDS,
            self.seldom,
            self.spoken,
            rate=Rate(A_SECOND, BURST),
        )
        self.tasks: set[asyncio.Task[None]] = set()
        self.board: Board | None = None  # where it shares something with others
        self.posted = 0  # the number of the list that we have left there
        self.heard: Collection[bytes] = ()

    # ---- accepting ----

    def listen(self, sock: socket.socket) -> None:
        self.step.listen(sock)

    def spoken(self, caller: Caller) -> None:
        assert caller.stranger is not None
        task = self.spawn(self.take(caller.sock, caller.source, caller.stranger))
        caller.stranger.end = task.cancel

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def take(self, sock: socket.socket, source: str, stranger: Stranger) -> None:
        """A connection with something to read, until it is somebody's or over."""
        line: Line | None = None
        try:
            if self.is_plain(sock, source):
                assert self.plain is not None
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(self.plain, sock)
                return
            line = await asyncio.wait_for(self.handshake(sock), HANDSHAKE_SECONDS)
            await asyncio.wait_for(self.meet(line, source), HANDSHAKE_SECONDS)
            line = None
        except (TimeoutError, asyncio.TimeoutError):
            self.seldom.warn(("late", source), f"{source}: says nothing")
        except ssl.SSLError as error:
            why = (error.reason or "unknown").lower().replace("_", " ")
            self.seldom.warn(("tls", source, why), f"{source}: no TLS: {why}")
        except (FdcoreError, OSError) as error:
            why = printable((str(error) or "closed the connection").encode())
            self.seldom.warn(("refused", source, why), f"{source}: {why}")
        except asyncio.CancelledError:
            pass  # a newcomer needed the place, or the server stops
        finally:
            self.waiting.leave(stranger)
            if line is not None:
                line.transport.abort()

    def is_plain(self, sock: socket.socket, source: str) -> bool:
        """Somebody on this machine, whose first byte is not that of TLS."""
        if self.plain is None or not identity.is_loopback(source):
            return False
        try:
            return sock.recv(1, socket.MSG_PEEK) not in (b"", TLS_FIRST)
        except OSError:
            return False

    async def handshake(self, sock: socket.socket) -> Line:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.connect_accepted_socket(
                Line, sock, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except BaseException:
            loop.call_soon(sock.close)  # after the transport, if there was one
            raise
        return line

    async def meet(self, line: Line, source: str) -> None:
        secure = line.transport.get_extra_info("ssl_object")
        wanted = secure.selected_alpn_protocol()
        if wanted == identity.JOIN:
            request = await line.done
            reply = self.answer(request, secure.getpeercert(True), source)
            say_last(line.transport, json.dumps(reply).encode() + b"\n")
            return
        if wanted != identity.CONTROL:
            raise RefusedError("does not say what it wants")
        try:
            holder = self.check(secure.getpeercert(True))
        except RefusedError as error:
            say_last(line.transport, greeting.pack(str(error)))
            raise
        if line.data:
            raise RefusedError("spoke before it was greeted")
        line.transport.write(greeting.pack())
        self.admitted(line.transport, holder)

    def check(self, certificate: bytes | None) -> authority.Holder:
        """Whose connection it is, or why it is nobody's."""
        if certificate is None:
            raise RefusedError("no certificate of this pool: flexdirect init TOKEN")
        holder = authority.holder_of(certificate, self.who.pool)
        self.revoked.load()
        if self.revoked.has(holder.serial):
            raise RefusedError(
                f"the certificate of {holder.name} has been revoked; "
                "ask for a new token"
            )
        if self.revoked.stale:
            raise RefusedError(
                "this server does not know what certificates have been revoked lately "
                "and lets nobody in: it does not reach the pool's founding server"
            )
        return holder

    # ---- joining ----

    def answer(
        self, request: bytes, certificate: bytes | None, source: str
    ) -> dict[str, Any]:
        try:
            said = json.loads(request)
            if not isinstance(said, dict):
                raise ValueError
            what = said.get("op")
            if what == "authority":
                return {"authority": files.read(self.folder / files.CA).decode()}
            if self.authority is None:
                raise RefusedError("this is not the pool's founding server")
            if what == "join":
                return self.joined(said, source)
            holder = self.check(certificate)
            if what == "renew":
                request_pem = str(said["request"]).encode()
                holder, made = self.authority.renew(holder, request_pem)
                log.info("certificate of %s renewed: %s", holder.name, holder.serial)
                return described(holder, made)
            if what == "revoked":
                return {"revoked": self.authority.revoked().decode()}
            raise ValueError
        except FdcoreError as error:
            why = printable(str(error).encode())
            self.seldom.warn(("join", source, why), f"{source}: not enrolled: {why}")
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.seldom.warn(("join", source), f"{source}: a request that is none")
            return {"error": "the request makes no sense"}

    def joined(self, said: dict[str, Any], source: str) -> dict[str, Any]:
        assert self.authority is not None
        holder, made = self.authority.enrol(
            str(said["id"]),
            str(said["secret"]),
            str(said["request"]).encode(),
            str(said["name"])[:64],
        )
        log.info(
            "%s: enrolled as %s %s, serial %s",
            source, holder.role, holder.name, holder.serial,
        )  # fmt: skip
        return described(holder, made)

    # ---- revoking ----

    async def keep_watch(self, lost: Callable[[], None]) -> None:
        """Looks at the list of revoked certificates, and keeps it fresh; lost() is
        called when it has changed."""
        refreshed = 0.0
        # What a restart has taken over may be a revoked one's: called at first, too.
        told: frozenset[str] | None = None
        while True:
            try:
                with contextlib.suppress(FdcoreError):
                    self.revoked.load()
                self.look_at_board()
                # Not whether the file has changed: check() reads it as well, and what
                # refresh() took it may not have been able to write.
                if self.revoked.serials != told:
                    lost()
                    told = self.revoked.serials
                if time.monotonic() - refreshed >= REFRESH_SECONDS or refreshed == 0.0:
                    refreshed = time.monotonic()
                    await self.refresh()
            except Exception as error:  # the watch goes on, whatever it was
                self.seldom.warn("watch", f"list of revoked certificates: {error!r}")
            await asyncio.sleep(LOOK_SECONDS)

    async def refresh(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self.renew)
            if self.authority is not None:
                await loop.run_in_executor(None, self.authority.revoked)
                return
            content = await loop.run_in_executor(None, join.fetch_revoked, self.who)
            self.hear(content)
        except (FdcoreError, OSError) as error:
            self.seldom.warn("revoked", f"list of revoked certificates: {error}")

    def hear(self, content: bytes) -> None:
        """Somebody's list, kept if it is the authority's and newer than ours."""
        before = self.revoked.number
        self.revoked.take(content)
        if self.revoked.number > before:
            files.write(self.folder / files.REVOKED, content)

    def look_at_board(self) -> None:
        """There everybody has the founding server's list at once, and also from servers
        that do not reach it."""
        if self.board is None:
            return
        if self.authority is not None:
            if self.revoked.number != self.posted:
                self.board.post_revoked(files.read(self.folder / files.REVOKED))
                self.posted = self.revoked.number
            return
        posted = self.board.posted_revoked()
        for content in posted:
            if content not in self.heard:
                with contextlib.suppress(FdcoreError):  # of another pool, or an old one
                    self.hear(content)
        self.heard = posted

    def renew(self) -> None:
        """Our own certificate, in time. Connections that are open keep theirs."""
        issued, expires = authority.own_life(self.folder)
        if time.time() < issued + identity.RENEW_AFTER * (expires - issued):
            return
        if self.authority is not None:
            authority.renew_own(self.authority)
        else:
            self.who = join.renew(self.who)
        self.context.load_cert_chain(self.folder / files.OWN)
        log.info("this server's certificate is a new one")

    def close(self) -> None:
        self.step.close()
        for task in list(self.tasks):
            task.cancel()


def described(holder: authority.Holder, certificate: bytes) -> dict[str, Any]:
    return {
        "certificate": certificate.decode(),
        "name": holder.name,
        "role": holder.role,
        "expires": int(holder.expires),
    }


def say_last(transport: Any, data: bytes) -> None:
    """Says it and closes; a peer that does not take it is not waited for."""
    transport.write(data)
    transport.close()
    asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)
