"""The board of a lease: a memory file that its workers share, a row for each session.

Workers write what their session has (csrc/include/fdc/monitor.h), for NVML to show all
of a lease. The server gives the rows out and clears them, and reads nothing there. A
server that is started again begins new boards: sessions from before are not on them.
"""

import fcntl
import os
import struct

ROWS = 256
ROW = 2048
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Board:
    def __init__(self) -> None:
        self.fd = os.memfd_create("fdboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, ROWS * ROW)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.taken: set[int] = set()

    def take(self, pid: int) -> int:
        """A row for the session of this process; -1: there is none left."""
        row = next((row for row in range(ROWS) if row not in self.taken), -1)
        if row >= 0:
            self.taken.add(row)
            os.pwrite(self.fd, struct.pack("=I", pid & 0xFFFFFFFF), row * ROW)
        return row

    def give_back(self, row: int) -> None:
        """Its worker has ended, so nobody writes there any more."""
        if row in self.taken:
            os.pwrite(self.fd, bytes(ROW), row * ROW)
            self.taken.discard(row)

    def close(self) -> None:
        os.close(self.fd)
        self.taken.clear()


class Boards:
    """Of all leases, by their ids; one is made with a lease's first session."""

    def __init__(self) -> None:
        self.boards: dict[bytes, Board] = {}

    def take(self, lease: bytes, pid: int) -> tuple[int, int]:
        """The board's descriptor, which stays ours, and a row."""
        if lease not in self.boards:
            self.boards[lease] = Board()
        board = self.boards[lease]
        return board.fd, board.take(pid)

    def give_back(self, lease: bytes, row: int) -> None:
        if lease in self.boards:
            self.boards[lease].give_back(row)

    def drop(self, lease: bytes) -> None:
        board = self.boards.pop(lease, None)
        if board is not None:
            board.close()
