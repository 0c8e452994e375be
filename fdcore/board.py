"""The board of a lease: a memory file that its workers share, a row for each session.

Workers write what their session has (csrc/include/fdc/monitor.h), for NVML to show all
of a lease. The server gives the rows out, clears them, and shows the sums. A
server that is started again begins new boards: sessions from before are not on them.

What workers write is only shown. A row that nobody has any more counts on with the time
that its kernels ran.
"""

import fcntl
import os
import struct
import time

ROWS = 256
ROW = 2048
DEVICES = 64
# pid; bytes by device; of each device how long kernels ran, and since when one runs.
LAYOUT = struct.Struct(f"=II{DEVICES}Q{2 * DEVICES}Q")
# Behind it: the failure that a device has had in this session, 0: none.
FAULTS = struct.Struct(f"={DEVICES}I")
LAST = ROWS - 1  # the row of sessions that have ended: how often devices failed them
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Board:
    def __init__(self) -> None:
        self.fd = os.memfd_create("fdboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, ROWS * ROW)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.taken: set[int] = set()
        self.busy = [0] * DEVICES  # of sessions that have ended

    def take(self, pid: int) -> int:
        """A row for the session of this process; -1: there is none left."""
        row = next((row for row in range(LAST) if row not in self.taken), -1)
        if row >= 0:
            self.taken.add(row)
            os.pwrite(self.fd, struct.pack("=I", pid & 0xFFFFFFFF), row * ROW)
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
            for device, xid in enumerate(faults):
                if xid:
                    self.failed(device, xid)

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
        times = numbers[DEVICES:]
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
