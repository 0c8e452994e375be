"""Shares of computing time: a memory file for all workers of a server, a row for each
part of a GPU that a lease has (csrc/include/fdc/share.h).

Leases with a share have rows as long as they live, so that what one of their processes
owed is owed by the next; their workers keep account there. Other leases have rows while
they have sessions, so that it is known that somebody uses the GPU whom nobody counts.
Workers that outlive a server give the file to the next one.
"""

import contextlib
import fcntl
import logging
import os
import struct
from collections.abc import Sequence

from fdcore.lease import Lease
from fdcore.sched.slices import Slice
from fdcore.session import Session

log = logging.getLogger("fdserver")

ROWS = 512
ROW = 64
SPENT = 32  # where the time is in a row
WHOLE = 100
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def has_share(slices: Sequence[Slice]) -> bool:
    """Whether anybody keeps account: all of the time is nobody else's business."""
    return any(0 < part.compute < WHOLE for part in slices)


class Shares:
    def __init__(self) -> None:
        self.fd = os.memfd_create("fdshares", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, ROWS * ROW)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.ours = True  # nobody before us had it
        self.rows: dict[tuple[bytes, int], int] = {}
        self.sessions: dict[bytes, int] = {}

    def adopt(self, lease: Lease, fd: int, rows: Sequence[int]) -> bool:
        """The file that a worker of before has, and its lease's rows there. False:
        there is another one by now."""
        if self.ours and not self.rows:
            os.close(self.fd)
            self.fd, self.ours = fd, False
        else:
            same = os.path.sameopenfile(fd, self.fd)
            os.close(fd)
            if not same:
                return False
        for part, row in zip(lease.slices, rows, strict=False):
            if 0 < row <= ROWS:
                self.rows[lease.id, part.ordinal] = row - 1
        return True

    def settle(self) -> None:
        """All that were left from before are here: other rows are nobody's."""
        for row in set(range(ROWS)) - set(self.rows.values()):
            os.pwrite(self.fd, bytes(ROW), row * ROW)

    def take(self, session: Session) -> tuple[int, list[int]]:
        """For a session that begins: the file, and 1 + the row of each part; none where
        nobody keeps account. OSError: there are no rows any more."""
        self.begin(session)
        slices = session.lease.slices
        if not has_share(slices):
            return self.fd, []
        return self.fd, [self.row(session.lease.id, part) + 1 for part in slices]

    def begin(self, session: Session) -> None:
        """Somebody uses the lease's GPUs."""
        lease = session.lease
        session.counted = True
        self.sessions[lease.id] = self.sessions.get(lease.id, 0) + 1
        for part in lease.slices:
            with contextlib.suppress(OSError):
                self.row(lease.id, part)

    def row(self, lease: bytes, part: Slice) -> int:
        """Whose it is is written last: until then nobody looks at it."""
        key = lease, part.ordinal
        if key not in self.rows:
            taken = set(self.rows.values())
            row = next((row for row in range(ROWS) if row not in taken), -1)
            if row < 0:
                raise OSError("there are too many leases to keep account of")
            percent = part.compute if part.compute < WHOLE else 0
            fresh = struct.pack("=II", 0, percent).ljust(ROW, b"\0")
            os.pwrite(self.fd, fresh, row * ROW)
            os.pwrite(self.fd, struct.pack("=I", part.ordinal + 1), row * ROW)
            self.rows[key] = row
        return self.rows[key]

    def leave(self, session: Session) -> None:
        """A session has ended."""
        lease = session.lease
        if not session.counted or lease.id not in self.sessions:
            return
        self.sessions[lease.id] -= 1
        if self.sessions[lease.id] <= 0:
            del self.sessions[lease.id]
            if lease.over or not has_share(lease.slices):
                self.drop(lease)

    def over(self, lease: Lease) -> None:
        """Its rows are nobody else's before its last worker has ended, which still
        writes there."""
        if has_share(lease.slices):
            spent = self.spent_ns(lease) / 1e9
            log.info("lease %s: %.3f s of its GPUs' time", lease.name, spent)
        if lease.id not in self.sessions:
            self.drop(lease)

    def drop(self, lease: Lease) -> None:
        """Nobody uses its GPUs by it."""
        for part in lease.slices:
            row = self.rows.pop((lease.id, part.ordinal), -1)
            if row >= 0:
                os.pwrite(self.fd, bytes(ROW), row * ROW)

    def spent_ns(self, lease: Lease) -> int:
        """Device time that was charged to the lease."""
        total = 0
        for part in lease.slices:
            row = self.rows.get((lease.id, part.ordinal), -1)
            if row >= 0:
                total += struct.unpack("=Q", os.pread(self.fd, 8, row * ROW + SPENT))[0]
        return total

    def close(self) -> None:
        os.close(self.fd)
