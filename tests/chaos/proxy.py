"""A road that does what roads do: delays, cuts and, where asked to, changes bytes."""

import contextlib
import random
import socket
import struct
import threading
import time

RESET = struct.pack("2i", 1, 0)  # struct linger: closing resets


class Proxy:
    """Between clients and a port of this machine, which may change (a restarted server
    has another). Whatever is set holds for connections that are open, too."""

    def __init__(self, port: int, seed: int) -> None:
        self.target = port
        self.chance = random.Random(seed)
        self.delay = 0.0  # seconds, of each piece that passes
        self.corrupt = 0  # so many pieces have a byte changed
        self.spared = 0  # first bytes of a connection that are never changed
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.spawn(self.serve)

    def spawn(self, work, *arguments) -> None:  # type: ignore[no-untyped-def]
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (near, far)
            with self.lock:
                self.pairs.add(pair)
            ended = threading.Event()
            self.spawn(self.carry, near, far, pair, ended)
            self.spawn(self.carry, far, near, pair, ended)

    def carry(self, one: socket.socket, other: socket.socket,
              pair: tuple[socket.socket, socket.socket], ended: threading.Event) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if self.delay:
                    time.sleep(self.delay * self.chance.random())
                other.sendall(self.changed(data, passed))
                passed += len(data)
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if ended.is_set():  # the other direction has ended as well
            with self.lock:
                self.pairs.discard(pair)
            for sock in pair:
                sock.close()
        ended.set()

    def changed(self, data: bytes, passed: int) -> bytes:
        if self.corrupt <= 0 or passed < self.spared:
            return data
        self.corrupt -= 1
        at = self.chance.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.chance.randrange(8))]) + data[at + 1 :]

    def cut(self) -> int:
        """Ends all connections, some with a reset; how many there were."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    if self.chance.random() < 0.5:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        self.listener.close()
        self.cut()
