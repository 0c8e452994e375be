"""Sockets as the server uses them: listeners, who is at the other end, exact reads."""

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from fdcore.config import Address
from fdcore.errors import ConfigError, ProtocolError
from fdcore.security.identity import is_loopback

# Connections that wait to be accepted: a crowd does not shut others out.
BACKLOG = 1024
REST_SECONDS = 0.5
ESTABLISHED = "01"  # in the kernel's tables
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def unix_listener(path: Path) -> socket.socket:
    """In the place of the one before, if there is one: somebody who connects meanwhile
    is refused and comes again, and does not find nothing."""
    fresh = path.with_name(f".{path.stem}")  # no longer: there is a limit
    fresh.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(fresh))
        fresh.chmod(0o666)
        sock.listen(BACKLOG)
        fresh.rename(path)
    except BaseException:
        sock.close()
        fresh.unlink(missing_ok=True)
        raise
    sock.setblocking(False)
    return sock


def tcp_listener(host: str, port: int, fall_back: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    # What is accepted has this from here. Cap'n Proto writes a message's length and its
    # body, and without it the body waits for the other side's acknowledgement, 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            sock.bind((host, port))
        except OSError:
            if not fall_back or not port:
                raise
            sock.bind((host, 0))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot listen at {Address(host, port)}: {why}") from None
    sock.setblocking(False)
    return sock


def rest(listener: socket.socket, accept: Callable[[socket.socket], None]) -> None:
    """Looks away from a listener for a moment: what it has for us cannot be accepted
    now, and would be told of again at once."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(listener)

    def again() -> None:
        if listener.fileno() >= 0:
            loop.add_reader(listener, accept, listener)

    loop.call_later(REST_SECONDS, again)


def check_name(host: str) -> None:
    """Before anything else is said of a name that is none."""
    if is_loopback(host):
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}: no machine is known by this name "
            f"({error.strerror}); --listen takes HOST:PORT of this one, as "
            "127.0.0.1:56001, or none"
        ) from None


def comes_from_afar(sock: socket.socket) -> bool:
    """True where others could read or change what travels on the connection."""
    return sock.family != socket.AF_UNIX and not is_loopback(
        str(sock.getpeername()[0]).removeprefix("::ffff:")
    )


def peer_name(sock: socket.socket) -> str:
    try:
        if sock.family == socket.AF_UNIX:
            pid, uid, _ = peer_credentials(sock)
            return f"pid {pid} of uid {uid}"
        host, port = sock.getpeername()[:2]
        return str(Address(host, port))
    except OSError:
        return "a client that has gone"


def source_name(sock: socket.socket) -> str:
    """As peer_name, for what all connections from there have in common."""
    try:
        if sock.family == socket.AF_UNIX:
            return f"uid {peer_credentials(sock)[1]}"
        return str(sock.getpeername()[0])
    except OSError:
        return "a client that has gone"


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, gid = CREDENTIALS.unpack(raw)
    return pid, uid, gid


def uid_of_peer(ours: tuple[str, int], theirs: tuple[str, int]) -> int:
    """Which user of this machine has the other end of a TCP connection over loopback;
    -1: not known. The kernel says so of each socket that a process has: of one that was
    closed it would say root's."""
    if not is_loopback(theirs[0]):
        return -1
    family = socket.AF_INET6 if ":" in theirs[0] else socket.AF_INET
    table = "tcp6" if family == socket.AF_INET6 else "tcp"
    try:
        wanted = [in_table(family, *theirs), in_table(family, *ours)]
        with open(f"/proc/net/{table}", encoding="ascii") as lines:
            for line in lines:
                words = line.split()
                if words[1:3] == wanted:
                    owned = words[3] == ESTABLISHED and words[9] != "0"
                    return int(words[7]) if owned else -1
    except (OSError, ValueError, IndexError):
        pass
    return -1


def in_table(family: int, host: str, port: int) -> str:
    """An address as the kernel's tables have it: words of 32 bits, as they lie in
    memory."""
    raw = socket.inet_pton(family, host)
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def pass_credentials(sock: socket.socket) -> None:
    """From now on the kernel says who sent what comes; see receive_from()."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


async def receive_from(sock: socket.socket, size: int) -> tuple[bytes, int]:
    """What has come, and the process that sent it; 0: that is not known."""
    room = socket.CMSG_SPACE(CREDENTIALS.size) if sock.family == socket.AF_UNIX else 0
    while True:
        await readable(sock.fileno())
        try:
            data, beside, _, _ = sock.recvmsg(size, room)
        except BlockingIOError:
            continue
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return data, CREDENTIALS.unpack(content)[0]
        return data, 0


def is_own_user(sock: socket.socket) -> bool:
    """True where a process of this one's user has connected, as far as can be known."""
    return sock.family == socket.AF_UNIX and peer_credentials(sock)[1] == os.geteuid()


def pidfd_of_peer(sock: socket.socket) -> int:
    """A descriptor of the process that connected; -1 where it cannot be known."""
    if sock.family != socket.AF_UNIX:
        return -1
    try:
        return os.pidfd_open(peer_credentials(sock)[0])
    except OSError:
        return -1


def keep_alive(sock: socket.socket) -> None:
    """A machine at the other end that vanished is noticed within half a minute."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 4),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes: what follows is not ours to read."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ProtocolError("the client closed the connection while attaching")
        data += piece
    return bytes(data)


def has_come(descriptor: int) -> bool:
    """Whether there is something to read: of a pidfd, that its process has ended. Not
    by select(), which knows no more than 1,024 descriptors."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)
