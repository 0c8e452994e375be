"""fdhold, from Python: the small process that keeps leases where no process of ours is.

It is started before fdrun becomes the program. It is nobody's child and has none of the
program's descriptors, so the program does not know of it; csrc/hold/hold.c says what it
does. What is inherited by the program is moved out of the way of shells' own numbers.
"""

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from fdcore.config import LIBRARIES

HELPER = "fdhold"
# Scripts use the descriptors 3 to 9 as their own.
OUT_OF_THE_WAY = 100
LOCK = "hhqqi4x"  # struct flock


def aside(descriptor: int) -> int:
    """The same open file at a high number, closed on exec; the old one is closed."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)
    except OSError:  # the limit of descriptors is lower
        return descriptor
    os.close(descriptor)
    return moved


def keep(
    sockets: Sequence[socket.socket], session: int, pid: int, path: str = ""
) -> int:
    """Starts fdhold for these hold connections. pid: the program's, 0: a reservation.
    path: the session file, where standard error is to be told of the program's end.

    Gives what the program has to inherit so that fdhold knows when the last process of
    it is gone; -1 for a reservation, or where there is no fdhold: then the leases end
    as well, but do not survive their server's restart.
    """
    helper = LIBRARIES / HELPER
    if not os.access(helper, os.X_OK):
        return -1
    reading, writing = os.pipe() if pid else (-1, -1)
    numbers = [session, reading, *(sock.fileno() for sock in sockets)]
    words = [
        HELPER, str(session), str(pid), str(reading),
        *(str(sock.fileno()) for sock in sockets), *([path] if path else []),
    ]  # fmt: skip
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                become_helper(str(helper), words, numbers, 2 if path else 3)
        finally:
            os._exit(127)
    os.waitpid(child, 0)
    if reading >= 0:
        os.close(reading)
    return aside(writing) if writing >= 0 else -1


def become_helper(
    path: str, words: Sequence[str], numbers: Sequence[int], closed: int
) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(closed):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in numbers:
            with contextlib.suppress(OSError):
                os.close(number)
    for number in numbers:
        if number >= 0:
            os.set_inheritable(number, True)
    os.chdir("/")
    os.execve(path, list(words), {})


def keeper_of(descriptor: int) -> int:
    """The pid of the fdhold that keeps this session file; 0: none does."""
    asked = struct.pack(LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
    kind, _, _, _, pid = struct.unpack(LOCK, answer)
    # A lock of an open file is no process's, which is -1 here: everybody's to kill().
    return 0 if kind == fcntl.F_UNLCK else max(0, int(pid))
