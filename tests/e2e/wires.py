"""Connections that are cut: somebody in between who forwards a number of bytes, and a way to
send the data connections of a program of fdrun's through that.

    python wires.py PORT PROGRAM ...    as PROGRAM, whose data connections go to PORT
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import selectors
import socket
import sys
import threading
from pathlib import Path

PIECE = 1 << 16


class Wires:
    """Listens at 127.0.0.1:port and forwards."""

    def __init__(self, meant: Path, seed: int = 1, life: tuple[int, int] | None = None,
                 corrupt: bool = False) -> None:
        """meant: a file that says where to, there before the first connection. life: how
        many bytes a connection lives, at least and at most, its handshake not counted;
        None: for good. corrupt: then a byte is changed in place of a cut."""
        self.random = random.Random(seed)
        self.life, self.corrupt = life, corrupt
        self.cuts = 0
        self.brings = -1  # a connection is held up once it brought so much; -1: none is
        self.held, self.go_on = threading.Event(), threading.Event()
        self.accepting = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.meant = meant
        self.wires: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                if not self.accepting:
                    near.close()
                    continue
                threading.Thread(target=self.forward, args=(near,), daemon=True).start()

    def forward(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            far = socket.create_connection(("127.0.0.1", int(self.meant.read_text())))
            self.wires.append((near, far))
            left = 1000 + self.random.randint(*self.life) if self.life else -1
            try:
                self.carry(near, far, left)
            finally:
                self.cut(near, far)

    def carry(self, near: socket.socket, far: socket.socket, left: int) -> None:
        brought = 0
        with selectors.DefaultSelector() as ready:
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in ready.select():
                    room = min(PIECE, left) if left > 0 else PIECE
                    data = key.fileobj.recv(room)  # type: ignore[union-attr]
                    if not data:
                        return
                    brought += len(data) if key.fileobj is far else 0
                    if 0 <= self.brings < brought:
                        self.held.set()
                        self.go_on.wait()
                    if left > 0:
                        left -= len(data)
                        if left == 0 and self.corrupt:
                            self.cuts += 1
                            data = data[:-1] + bytes([data[-1] ^ 1])
                    key.data.sendall(data)
                    if left == 0 and not self.corrupt:
                        self.cuts += 1
                        return

    def cut(self, near: socket.socket, far: socket.socket) -> None:
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def cut_all(self) -> None:
        for near, far in self.wires:
            self.cuts += near.fileno() >= 0
            self.cut(near, far)

    def close(self) -> None:
        self.accepting = False
        self.go_on.set()
        self.listener.close()
        self.cut_all()


def through(port: int, program: list[str]) -> None:
    """The session file names our port from now on; it stays the same file."""
    path = Path(os.environ["FD_SESSION"])
    text = path.read_text()
    meant = re.search(r"^tcp (\S+) (\d+)$", text, re.M)
    assert meant is not None, text
    with open(path, "r+") as file:
        file.write(text.replace(meant.group(0), f"tcp 127.0.0.1 {port}"))
        file.truncate()
    Path(os.environ["WIRES_MEANT"]).write_text(meant.group(2))
    os.execv(program[0], program)


if __name__ == "__main__":
    through(int(sys.argv[1]), sys.argv[2:])
