"""Who comes to the manager's port, until they have logged in: in front of uvicorn,
which would keep everybody for as long as they like.

A connection that says nothing waits as at every port (security/doorstep.py). One that
has spoken keeps its place among the strangers until a request of it is somebody's; the
one that came first goes when all places are taken.
"""

import asyncio
import logging
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any

from fdcore.security.doorstep import Caller, Doorstep
from fdcore.security.limits import Seldom, Stranger, Waiting

log = logging.getLogger("fdserver.web")

STRANGERS = 512
STRANGERS_EACH = 128
# Until the first byte; from then on for TLS, and for a whole request.
SECONDS = 10.0
SWEEP_SECONDS = 2.0

Ends = tuple[str, int]  # the visitor's, as ASGI has it


@dataclass(slots=True)
class Visitor:
    stranger: Stranger
    transport: asyncio.Transport
    came: float
    asked: bool = False


class Said(logging.Filter):
    """What uvicorn says of strangers' requests, once."""

    def __init__(self, seldom: Seldom) -> None:
        super().__init__()
        self.seldom = seldom

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        self.seldom.warn(text, text)
        return False


class Porch:
    """In front of a server of uvicorn's, which listens nowhere itself."""

    def __init__(self) -> None:
        self.server: Any = None
        self.waiting = Waiting(STRANGERS, STRANGERS_EACH)
        self.seldom = Seldom(log)
        self.step = Doorstep(self.waiting, SECONDS, self.seldom, self.spoken)
        self.visitors: dict[Ends, Visitor] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.said = Said(self.seldom)

    def listen(self, sock: socket.socket, server: Any) -> None:
        self.server = server
        logging.getLogger("uvicorn.error").addFilter(self.said)
        self.step.listen(sock)
        self.start(self.sweep())

    def start(self, work: Any) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def spoken(self, caller: Caller) -> None:
        assert caller.stranger is not None
        caller.stranger.end = self.start(self.connect(caller, caller.stranger)).cancel

    def protocol(self) -> asyncio.Protocol:
        config = self.server.config
        made: asyncio.Protocol = config.http_protocol_class(
            config=config,
            server_state=self.server.server_state,
            app_state=self.server.lifespan.state,
        )
        return made

    async def connect(self, caller: Caller, stranger: Stranger) -> None:
        context = self.server.config.ssl
        try:
            ends = caller.sock.getpeername()[:2]
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self.protocol,
                caller.sock,
                ssl=context,
                ssl_handshake_timeout=SECONDS if context else None,
            )
        except ssl.SSLError as error:
            why = (error.reason or "unknown").lower().replace("_", " ")
            self.step.warn(("tls", why), caller.source, f"no TLS: {why}")
        except OSError as error:
            self.step.warn(("tls", str(error)), caller.source, f"not served: {error}")
        except asyncio.CancelledError:
            pass  # a newcomer needed the place, or the manager stops
        else:
            if ends in self.visitors:  # of one that has gone
                self.forget(ends)
            stranger.end = transport.abort
            self.visitors[ends] = Visitor(stranger, transport, time.monotonic())
            return
        self.waiting.leave(stranger)
        caller.sock.close()

    def asks(self, ends: Ends, known: bool) -> None:
        """A whole request has come from there; known: somebody's who has logged in."""
        visitor = self.visitors.get(ends)
        if visitor is None:
            return
        visitor.asked = True
        if known:
            self.forget(ends)

    def forget(self, ends: Ends) -> None:
        self.waiting.leave(self.visitors.pop(ends).stranger)

    async def sweep(self) -> None:
        """Forgets who has gone, and ends what is no request after that time."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            late = time.monotonic() - SECONDS
            for ends, visitor in list(self.visitors.items()):
                if not visitor.transport.is_closing():
                    if visitor.asked or visitor.came > late:
                        continue
                    visitor.transport.abort()
                    self.step.warn("late", ends[0], f"no request within {SECONDS:g} s")
                self.forget(ends)

    async def close(self) -> None:
        logging.getLogger("uvicorn.error").removeFilter(self.said)
        if self.server is not None:
            self.step.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
