"""A program in a network of its own, as on another machine, whose hold alone is cut: it
does not notice, and its lease is held again."""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fdcore import attach
from tests.cli.test_restart import CUDA, PIPES, state_of
from tests.support import Server, until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="networks and mounts of one's own need root"
)

LIBC = ctypes.CDLL(None)
NOBODY = bytes(16)  # an address of AF_UNSPEC: to connect to it resets
GREETED = attach.REQUEST.size
# Makes loopback work in a new network, listens there in the server's place (the listeners
# are given away), hides the server's sockets, and becomes the client.
NEAR = """
import fcntl, os, socket, struct, subprocess, sys
given, state, *ports = sys.argv[1:5]
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, up
away = socket.socket(fileno=int(given))
for port in ports:
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        socket.send_fds(away, [b"one"], [listener.fileno()])
away.close()
subprocess.run(["mount", "-t", "tmpfs", "none", state], check=True)
os.execvp(sys.argv[5], sys.argv[5:])
"""


class Road:
    """From a network of its own to a port here. It knows the connections' kinds."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self.listener, self.port = listener, port
        self.open = True
        self.held: list[tuple[socket.socket, socket.socket]] = []  # kind HOLD, in order
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                if not self.open:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.port))
                threading.Thread(target=self.carry, args=(far, near), daemon=True).start()
                threading.Thread(
                    target=self.carry, args=(near, far, True), daemon=True
                ).start()

    def carry(self, one: socket.socket, other: socket.socket, asks: bool = False) -> None:
        begun = b""
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
                if asks and len(begun) < GREETED:
                    begun += data
                    if len(begun) >= GREETED and struct.unpack_from("<II", begun) == (
                        attach.MAGIC, attach.HOLD,
                    ):  # fmt: skip
                        self.held.append((one, other))
        for sock in (one, other):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self, reset: bool) -> None:
        """The hold, and nothing else: the server's side first, which is to see it break
        and not end."""
        for sock in reversed(self.held[-1]):
            if reset:  # not by closing: a thread reads from it
                assert LIBC.connect(sock.fileno(), NOBODY, len(NOBODY)) == 0
            else:
                with contextlib.suppress(OSError):  # the end has been passed on already
                    sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def far(server: Server, *program: str) -> Iterator[tuple["subprocess.Popen[str]", Road]]:
    """fdrun and its program far from the server, and the road of its data."""
    ours, theirs = socket.socketpair()
    control = int(server.control.rpartition(":")[2])
    data = int(server.log.rpartition("data at port ")[2].split()[0])
    command = server.command(*program)
    command[command.index(server.unix)] = server.control
    process = subprocess.Popen(
        ["unshare", "-n", "-m", sys.executable, "-c", NEAR, str(theirs.fileno()),
         str(state_of(server)), str(control), str(data), *command],
        env=server.environment, pass_fds=[theirs.fileno()], text=True, **PIPES,
    )  # fmt: skip
    theirs.close()
    roads = []
    for port in (control, data):
        _, fds, _, _ = socket.recv_fds(ours, 8, 1)
        roads.append(Road(socket.socket(fileno=fds[0]), port))
    ours.close()
    try:
        yield process, roads[1]
    finally:
        for road in roads:
            road.listener.close()
        process.kill()
        process.communicate()


def goes_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "again\n"


def test_hold_that_is_cut_alone_comes_again(make_server):
    server = make_server()
    before = server.free()
    with far(server, "-m", "600", sys.executable, "-c", CUDA) as (program, road):
        assert program.stdout.readline() == "up\n"
        leases = server.leases()
        assert len(leases) == 1 and len(road.held) == 1
        assert "over tcp, worker" in server.log

        for reset in (True, False):
            holds = len(road.held)
            road.cut(reset)
            until(lambda: len(road.held) > holds, 60)  # noqa: B023
            goes_on(program)
        assert server.log.count("its hold broke") == 1  # what ends in order is no break

        road.open = False  # nobody gets through for a while
        road.cut(reset=True)
        until(lambda: server.log.count("its hold broke") == 2, 60)
        goes_on(program)
        road.open = True
        until(lambda: len(road.held) == 4, 60)
        goes_on(program)
        assert server.leases() == leases
        for word in ("freed", "is away", "ended"):
            assert word not in server.log

        program.communicate("", timeout=60)
        assert program.returncode == 0
        # At once, where the lease of a hold that broke has a minute.
        until(lambda: server.free() == before, 40)
