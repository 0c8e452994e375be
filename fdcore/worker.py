"""A worker: one process that serves one session, then ends.

fdserver starts it with one end of a SOCK_SEQPACKET pair (--control-fd N) and later
sends the session's sockets over it: messages are JSON objects, see workers.py. The main
thread is the session's executor, in C, without the interpreter; a small thread here
listens to the server. If the server dies, the session goes on until its client has
gone.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from _thread import start_new_thread
from typing import Any, NoReturn

from fdcore._core.driver import Driver
from fdcore._core.session import (
    LinkMemory,
    Session,
    confine_calls,
    confine_rights,
    confine_user,
    rdma_missing,
    settle,
    tell_ready,
)
from fdcore.away import away_seconds
from fdcore.errors import FdcoreError

MESSAGE_ROOM = 1 << 16
DESCRIPTORS = 8
# What cleaning up may take once the client has gone. The process's end frees whatever
# the driver still holds.
GRACE_MS = 700
# Until memory that was made for another road is given back: that takes a processor for
# 4 ms, and a session that begins wants it.
UNUSED_MS = 1000
# Of each region that an shm session shares with its client: what small copies use, and
# what a driver pins.
FIRST_BYTES, EVERYTHING = 1 << 20, (1 << 64) - 1


class Control:
    """The server's end of this process; every word of it may come too late."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.lock = threading.Lock()

    def say(self, **message: Any) -> None:
        with self.lock:
            try:
                self.sock.send(json.dumps(message).encode())
            except OSError:
                pass  # the server has gone

    def become(self, sock: socket.socket) -> None:
        """Another server's end, in place of the one that has gone."""
        with self.lock:
            self.sock.close()
            self.sock = sock

    def introduce(self, card: dict[str, Any], fds: list[int]) -> None:
        with self.lock, contextlib.suppress(OSError):
            socket.send_fds(self.sock, [json.dumps(card).encode()], fds)

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """The next order, with descriptors; an empty one: the server has gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, MESSAGE_ROOM, DESCRIPTORS)
        except OSError:
            return {}, []
        if not data:
            return {}, []
        order = json.loads(data)
        return order if isinstance(order, dict) else {}, fds


class Users:
    """Those who use the session, each in a with: close() waits until there are none,
    and nobody becomes one any more."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.count = 0
        self.closed = False

    def __enter__(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self.closed)
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.count -= 1
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.wait_for(lambda: not self.count)


def open_folder(path: str) -> int:
    """A descriptor of the folder; 0: there is none."""
    if not path:
        return 0
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return 0


def confine(order: dict[str, Any]) -> None:
    """Before the client's first byte: another user where the server says so, and no
    system calls that only somebody who has broken in would make."""
    user = order.get("user")
    if user:
        confine_user(*(int(number) for number in user))
    if not order.get("confine", True):
        return
    try:
        confine_calls()
    except OSError as error:
        # A kernel without it. Nothing that is promised hangs on it alone.
        print(f"worker: system calls are not confined: {error}", file=sys.stderr)


def piped(descriptor: int) -> int:
    """The reading end of a pipe that the descriptor becomes the other end of."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.dup2(writing, descriptor)
    os.close(writing)
    os.set_blocking(reading, False)
    return reading


class Worker:
    def __init__(self, control_fd: int) -> None:
        self.control = Control(control_fd)
        self.driver: Driver | None = None
        self.memory: LinkMemory | None = None
        self.session: Session | None = None
        # A signal only wakes the thread that listens: the executor never looks up.
        self.wake, self.woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stopped = "the client has gone"
        self.greeted = threading.Event()
        self.heirs: socket.socket | None = None
        self.card: dict[str, Any] = {}
        # Kept open: closing any descriptor of the file gives up the process's locks.
        self.board = self.shares = 0
        self.using = Users()  # of the session, which close() frees
        self.news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.away = False

    def open(self, path: str) -> Driver:
        if self.driver is None or self.driver.path != path:
            self.driver = Driver(path)
            self.driver.init()
        return self.driver

    def warm(self, driver: str, pinned: bool) -> None:
        """All that takes long and that any session needs: the driver, and the memory
        that an shm session shares with its client. pinned: the driver has all of it in
        memory with the first context, so it is there at once."""
        self.open(driver)
        if self.memory is None:
            with contextlib.suppress(OSError):  # it is logged; the session tries again
                self.memory = LinkMemory(EVERYTHING if pinned else FIRST_BYTES)

    def await_start(self) -> tuple[dict[str, Any], list[int]]:
        """The order to start; an empty one if there is nothing to do any more."""
        while True:
            order, fds = self.control.hear()
            if order.get("op") == "warm":
                try:
                    pinned = bool(order.get("pinned", True))
                    self.warm(str(order["driver"]), pinned)
                except FdcoreError as error:
                    self.control.say(op="failed", reason=str(error))
                    return {}, []
            elif order.get("op") == "start" or not order:
                return order, fds

    def begin(self, order: dict[str, Any], fds: list[int]) -> Session:
        """Makes the driver ready, tells the client, and makes the link with it."""
        devices = [(int(d["ordinal"]), int(d["memory"])) for d in order["devices"]]
        row = int(order.get("board", -1))
        shares = [int(n) for n in order.get("shares", ())]
        self.shares = fds.pop() if shares else 0
        self.board = fds.pop() if row >= 0 else 0
        road = str(order["road"])
        try:
            driver = self.open(str(order["driver"]))
        except FdcoreError as error:
            tell_ready(fds[0], errno.ENODEV, str(error))
            raise
        if road == "rdma" and (why := rdma_missing()):
            tell_ready(fds[0], errno.ELIBACC, f"on the server: {why}")
            raise FdcoreError(why)
        if road == "tcp" and len(fds) == 1:
            more, bulk = self.control.hear()
            if more.get("op") != "bulk" or len(bulk) != 1:
                raise FdcoreError("the bulk connection did not come")
            fds += bulk
        cache = open_folder(str(order.get("cache", "")))
        confine(order)
        tell_ready(fds[0])
        number = bytes.fromhex(order["session"])
        host_memory = int(order.get("host_memory", 0))
        keys = [bytes.fromhex(key) for key in order.get("keys", ())]
        session = Session(
            driver, road, fds, devices, number, host_memory,
            cache, int(order.get("cache_room", 0)), keys, self.board, max(row, 0),
            self.memory, self.shares, shares,
        )  # fmt: skip
        session.keep(away_seconds(), self.news)
        if cache:
            os.close(cache)
        # The driver writes what kernels print to standard output, failed assertions to
        # standard error: the client's, then. The worker's own words go where they went.
        log_fd = os.dup(2)
        sys.stderr = os.fdopen(log_fd, "w", buffering=1)
        session.print_from(piped(1), piped(2), log_fd)
        return session

    def expect_heirs(self, order: dict[str, Any]) -> None:
        """Where another server finds us should ours go; it is told what we serve."""
        path = str(order.get("heir", ""))
        if not path:
            return
        self.card = {"op": "heir", "session": order["session"], **order["card"]}
        self.card["row"] = order.get("board", -1)
        self.card["shares"] = order.get("shares", [])
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.bind(path)
            os.chmod(path, 0o600)
            sock.listen(1)
        except OSError as error:
            print(f"worker: no restart is survived: {path}: {error}", file=sys.stderr)
            sock.close()
            return
        self.heirs = sock

    def expect_no_heirs(self) -> None:
        """Whoever comes now is too late. Another user's folder the server cleans."""
        if self.heirs is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.heirs.getsockname())

    def meet_heir(self) -> bool:
        """A server has come. Nobody but its own user and root is one."""
        assert self.heirs is not None
        sock, _ = self.heirs.accept()
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", raw)[1] not in (0, os.geteuid()):
            sock.close()
            return False
        self.control.become(sock)
        kept = [fd for fd in (self.board, self.shares) if fd]
        self.control.introduce(self.card, kept)
        if self.away:
            self.control.say(op="away")
        return True

    def look_for_client(self) -> None:
        """Tells the server whether the client is away."""
        assert self.session is not None
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.news)
        with self.using:
            away = self.session.away()
        if away != self.away:
            self.away = away
            self.control.say(op="away" if away else "back")

    def listen(self) -> None:
        """The thread beside the executor."""
        assert self.session is not None
        self.control.say(op="ready")
        self.greeted.set()
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        poll.register(self.control.sock, select.POLLIN)
        poll.register(self.news, select.POLLIN)
        if self.heirs is not None:
            poll.register(self.heirs, select.POLLIN)
        heard = self.control.sock.fileno()
        patience = UNUSED_MS if self.memory is not None else None
        while True:
            ready = {fd for fd, _ in poll.poll(patience)}
            if not ready and self.memory is not None:
                self.memory.close()  # what the session's road does not go by
                patience = None
                continue
            if self.heirs is not None and self.heirs.fileno() in ready:
                if heard >= 0:
                    poll.unregister(heard)
                if self.meet_heir():
                    heard = self.control.sock.fileno()
                if heard >= 0:
                    poll.register(heard, select.POLLIN)
                continue
            if self.wake in ready:
                self.end()
                return
            if self.news in ready:
                self.look_for_client()
                continue
            order, fds = self.control.hear()
            if order.get("op") == "resume" and len(fds) == 1:
                key = bytes.fromhex(str(order.get("key", "")))
                which, turn = int(order["which"]), int(order["turn"])
                # It may have to wait for its client's words, and other orders not.
                start_new_thread(self.resume, (which, turn, fds.pop(), key))
            elif order.get("op") == "gone" and self.away:
                with self.using:
                    self.session.give_up()
            if order.get("op") == "trunk" and len(fds) == 1:
                key = bytes.fromhex(str(order.get("key", "")))
                self.trunk(int(order["number"]), fds.pop(), key)
            for fd in fds:
                os.close(fd)
            if not order:
                poll.unregister(heard)
                heard = -1
            elif order.get("op") == "company":
                with self.using:
                    self.session.company()
            elif order.get("op") == "stats":
                with self.using:
                    counters, calls = self.session.counters(), self.session.calls()
                self.control.say(op="stats", counters=counters, calls=calls)
            elif order.get("op") == "stop":
                self.end()
                return

    def end(self) -> None:
        assert self.session is not None
        self.stopped = "told to end"
        with self.using:
            self.session.stop()

    def resume(self, which: int, turn: int, fd: int, key: bytes) -> None:
        assert self.session is not None
        with self.using:
            try:
                self.session.resume(which, turn, fd, key)
            except (FdcoreError, OSError, ValueError) as error:
                print(f"worker: not resumed: {error}", file=sys.stderr)

    def trunk(self, number: int, fd: int, key: bytes) -> None:
        assert self.session is not None
        with self.using:
            try:
                self.session.trunk(number, fd, key)
            except (FdcoreError, OSError, ValueError) as error:
                print(f"worker: a trunk is closed again: {error}", file=sys.stderr)

    def serve(self) -> int:
        order, fds = self.await_start()
        if not order:
            return 0
        self.expect_heirs(order)
        try:
            self.session = self.begin(order, fds)
        except (FdcoreError, OSError, KeyError, ValueError) as error:
            self.control.say(op="failed", reason=str(error) or repr(error))
            self.expect_no_heirs()
            return 1
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # The client waits for the executor, and nobody for the thread: threading's own
        # would have the executor wait until it runs.
        start_new_thread(self.listen, ())
        status = 0
        try:
            self.session.run(GRACE_MS)
        except (FdcoreError, OSError) as error:
            if self.stopped == "the client has gone":
                self.stopped = str(error)
                status = 1
        self.greeted.wait()
        self.control.say(
            op="ended", reason=self.stopped, counters=self.session.counters()
        )
        self.expect_no_heirs()
        self.using.close()
        self.session.close()
        return status


def work(control_fd: int) -> NoReturn:
    settle("fdworker")
    confine_rights(bool(os.environ.get("FD_WORKER_USERS")))
    os.closerange(3, control_fd)
    os.closerange(control_fd + 1, 1 << 16)
    os.set_inheritable(control_fd, False)
    status = 1
    try:
        status = Worker(control_fd).serve()
    finally:
        sys.stderr.flush()
        # The driver's threads may be in the middle of anything.
        os._exit(status)


def nurse(fd: int) -> NoReturn:
    """Forks a worker for each control socket that comes, and answers its process id.

    All that takes long when Python starts is done here once. No driver is opened here:
    it would not survive a fork. The workers are the server's children, not ours: a
    process between, that ends at once, forks each, and the server adopts it.
    """
    settle("fdnurse")
    asked = socket.socket(fileno=fd)
    while True:
        data, fds, _, _ = socket.recv_fds(asked, 64, 1)
        if not data or len(fds) != 1:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                os.setsid()
                work(fds[0])
            os.write(writing, str(child).encode())
            os._exit(0)
        os.close(writing)
        os.close(fds[0])
        os.waitpid(between, 0)
        try:
            asked.send(os.read(reading, 64))
        except OSError:  # the server has gone meanwhile; so does its worker
            os._exit(0)
        os.close(reading)


def main() -> NoReturn:
    modes = {"--control-fd": work, "--nurse": nurse}
    words = sys.argv[1:]
    if len(words) != 2 or words[0] not in modes or not words[1].isdigit():
        sys.exit("usage: python -m fdcore.worker --control-fd N (fdserver starts it)")
    modes[words[0]](int(words[1]))


if __name__ == "__main__":
    main()
