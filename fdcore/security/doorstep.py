"""Where connections wait until they say something. One that says nothing costs a
descriptor, a few hundred bytes and, in the end, a line in the log for all of them; no
task, no transport, and nothing of who answers at that port.

Who has spoken is handed on, with its place among the strangers, which it gives back
once it is known who it is.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from fdcore.security.limits import Rate, Seldom, Stranger, Waiting
from fdcore.sockets import rest, source_name


@dataclass(slots=True, eq=False)
class Caller:
    sock: socket.socket
    source: str
    came: float
    said: bytes = b""  # by us, to begin with
    stranger: Stranger | None = field(default=None, repr=False)


class Doorstep:
    """spoken(caller) is called with the first byte there; the socket and the place are
    its own from then on. greeting(): what a caller is told first. rate: of connections
    from one source."""

    def __init__(
        self,
        waiting: Waiting,
        seconds: float,
        seldom: Seldom,
        spoken: Callable[[Caller], object],
        greeting: Callable[[], bytes] | None = None,
        rate: Rate | None = None,
    ) -> None:
        self.waiting = waiting
        self.seconds = seconds
        self.seldom = seldom
        self.spoken = spoken
        self.greeting = greeting
        self.rate = rate
        self.listeners: list[socket.socket] = []
        self.silent: dict[Caller, None] = {}  # by when they came
        self.sweeping = False
        self.loop: asyncio.AbstractEventLoop

    def listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.listeners.append(sock)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self.accept, sock)

    def accept(self, listener: socket.socket) -> None:
        """One of them, then others have the loop."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self.seldom.warn("accept", f"a connection cannot be accepted: {error}")
            rest(listener, self.accept)
            return
        local = sock.family == socket.AF_UNIX
        self.take(sock, source_name(sock) if local else str(address[0]))

    def take(self, sock: socket.socket, source: str) -> None:
        if self.rate is not None and not self.rate.take(source):
            self.warn("rate", source, "too many connections")
            sock.close()
            return
        sock.setblocking(False)
        caller = Caller(sock, source, time.monotonic())
        caller.stranger, crowded = self.waiting.enter(
            source, lambda: self.turn_out(caller)
        )
        if crowded:
            self.warn("crowd", source, "connections that say nothing are closed")
        try:
            if self.greeting is not None:
                caller.said = self.greeting()
                sock.send(caller.said)
        except OSError:  # it has gone again
            self.waiting.leave(caller.stranger)
            sock.close()
            return
        self.silent[caller] = None
        # By its number: asyncio describes a socket that it does not find, in words.
        self.loop.add_reader(sock.fileno(), self.speaks, caller)
        self.sweep_later()

    def warn(self, what: Hashable, source: str, text: str) -> None:
        self.seldom.warn((what, source), f"{source}: {text}")

    def speaks(self, caller: Caller) -> None:
        self.loop.remove_reader(caller.sock.fileno())
        self.silent.pop(caller, None)
        self.spoken(caller)

    def turn_out(self, caller: Caller) -> None:
        """Its place is another's already."""
        self.loop.remove_reader(caller.sock.fileno())
        self.silent.pop(caller, None)
        caller.stranger = None
        caller.sock.close()

    def sweep_later(self) -> None:
        if self.silent and not self.sweeping:
            first = next(iter(self.silent))
            after = max(0.05, first.came + self.seconds - time.monotonic())
            self.sweeping = True
            self.loop.call_later(after, self.sweep)

    def sweep(self) -> None:
        """Closes those who have said nothing for too long."""
        self.sweeping = False
        before = time.monotonic() - self.seconds
        for caller in list(self.silent):
            if caller.came > before:
                break
            assert caller.stranger is not None
            self.waiting.leave(caller.stranger)
            self.turn_out(caller)
            self.warn("late", caller.source, f"said nothing for {self.seconds:g} s")
        self.sweep_later()

    def close(self) -> None:
        for sock in self.listeners:
            self.loop.remove_reader(sock)
            sock.close()
        for caller in list(self.silent):
            with contextlib.suppress(OSError):
                self.turn_out(caller)
