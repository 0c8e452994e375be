"""The board of a lease: a memory file that its workers share, a row for each session.

Workers write what their session has (csrc/include/fdc/monitor.h): quotas hold for the
sum of all rows, and NVML shows all of a lease. The server gives the rows out, clears
them when a worker has ended, shows the sums, and counts the sessions in the head behind
the rows. Workers that outlive a server give the board to the next one. A row that
nobody has any more counts on with the time that its kernels ran.
"""

import fcntl
import os
import struct
import time
from collections.abc import Collection

ROWS = 256
ROW = 2048
DEVICES = 64
# pid and the worker's; bytes by device, and of this machine's pinned memory; of each
# device how long kernels ran, and since when one runs.
LAYOUT = struct.Struct(f"=II{DEVICES + 1}Q{2 * DEVICES}Q")
# Behind it: the failure that a device has had in this session, 0: none.
FAULTS = struct.Struct(f"={DEVICES}I")
LAST = ROWS - 1  # the row of sessions that have ended: how often devices failed them
HEAD = ROWS * ROW
SIZE = HEAD + 4096
ALIVE = 0x200000  # a worker has a lock here, for its row
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
FLOCK = struct.Struct("hhqqi4x")


class Board:
    def __init__(self, fd: int = -1) -> None:
        """fd: one that workers have already; it is the board's from now on."""
        self.taken: set[int] = set()
        self.busy = [0] * DEVICES  # of sessions that have ended
        self.fd = fd
        if fd >= 0:
            for row in range(LAST):
                self.look_at(row)
        else:
            self.fd = os.memfd_create("fdboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.count()

    def look_at(self, row: int) -> None:
        """Who had the row may have died while nobody looked."""
        if self.is_alive(row):
            self.taken.add(row)
        else:
            os.pwrite(self.fd, bytes(ROW), row * ROW)

    def is_alive(self, row: int) -> bool:
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, ALIVE + row, 1, 0)
        found = fcntl.fcntl(self.fd, fcntl.F_GETLK, asked)
        return bool(FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def count(self) -> None:
        os.pwrite(self.fd, struct.pack("=I", len(self.taken)), HEAD)

    def take(self, pid: int) -> int:
        """A row for the session of this process; -1: there is none left."""
        row = next((row for row in range(LAST) if row not in self.taken), -1)
        if row >= 0:
            self.taken.add(row)
            os.pwrite(self.fd, struct.pack("=I", pid & 0xFFFFFFFF), row * ROW)
            self.count()
        return row

    def give_back(self, row: int) -> None:
        """Its worker has ended, so nobody writes there any more."""
        if row in self.taken:
            _, busy = self.read(row)
            self.busy = [a + b for a, b in zip(self.busy, busy, strict=True)]
            faults = FAULTS.unpack(
                os.pread(self.fd, FAULTS.size, row * ROW + LAYOUT.size)
            )
            os.pwrite(self.fd, bytes(ROW), row * ROW)
            self.taken.discard(row)
            self.count()
            for device, xid in enumerate(faults):
                if xid:
                    self.failed(device, xid)

    def look_again(self, known: Collection[int]) -> None:
        """known: the rows of sessions, which give them back themselves. Others had one
        when the board was found, and nobody says when they end."""
        for row in self.taken - set(known):
            if not self.is_alive(row):
                self.give_back(row)

    def failed(self, device: int, xid: int) -> None:
        """Keeps the failure for those of the lease who go on."""
        count = LAST * ROW + 8 + 8 * device
        (before,) = struct.unpack("=Q", os.pread(self.fd, 8, count))
        at = LAST * ROW + LAYOUT.size + 4 * device
        os.pwrite(self.fd, struct.pack("=I", xid), at)
        os.pwrite(self.fd, struct.pack("=Q", before + 1), count)

    def read(self, row: int) -> tuple[list[int], list[int]]:
        """By device: bytes, and ns with a kernel running. Workers write meanwhile."""
        data = os.pread(self.fd, LAYOUT.size, row * ROW)
        _, _, *numbers = LAYOUT.unpack(data)
        times = numbers[DEVICES + 1 :]
        now = time.monotonic_ns()
        busy = [
            total + (now - since if 0 < since < now else 0)
            for total, since in zip(times[::2], times[1::2], strict=True)
        ]
        return numbers[:DEVICES], busy

    def usage(self) -> tuple[list[int], list[int]]:
        """The same of all sessions, those that have ended included."""
        used, busy = [0] * DEVICES, list(self.busy)
        for row in self.taken:
            for sums, numbers in zip((used, busy), self.read(row), strict=True):
                sums[:] = [a + b for a, b in zip(sums, numbers, strict=True)]
        return used, busy

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

    def adopt(self, lease: bytes, fd: int) -> bool:
        """A board that a worker of the lease has had, from before this server. False:
        the lease has another one by now."""
        if lease not in self.boards:
            self.boards[lease] = Board(fd)
            return True
        same = os.path.sameopenfile(fd, self.boards[lease].fd)
        os.close(fd)
        return same

    def look_again(self, lease: bytes, known: Collection[int]) -> None:
        if lease in self.boards:
            self.boards[lease].look_again(known)

    def give_back(self, lease: bytes, row: int) -> None:
        if lease in self.boards:
            self.boards[lease].give_back(row)

    def usage(self, lease: bytes, devices: int) -> tuple[list[int], list[int]]:
        """Of each of its devices: bytes, and ns with a kernel running."""
        if lease not in self.boards:
            return [0] * devices, [0] * devices
        used, busy = self.boards[lease].usage()
        return used[:devices], busy[:devices]

    def drop(self, lease: bytes) -> None:
        board = self.boards.pop(lease, None)
        if board is not None:
            board.close()
