"""Rows of the account of computing time: whose they are, and for how long."""

from __future__ import annotations

import os
import struct

import pytest

from fdcore.lease import Lease, Owner
from fdcore.sched.slices import Slice
from fdcore.session import Session
from fdcore.shares import ROW, ROWS, Shares

OWNER = Owner("somebody", "")


def lease_of(number: int, compute: int) -> Lease:
    return Lease(bytes([number]) * 16, bytes(32), OWNER, (Slice(3, 1 << 20, compute),))


def begun(shares: Shares, lease: Lease) -> tuple[Session, int]:
    """A session and its row."""
    session = Session(os.urandom(16), lease, 1, "a test", "shm")
    shares.take(session)
    return session, shares.rows[lease.id, 3]


def words(shares: Shares, row: int) -> tuple[int, ...]:
    return struct.unpack(f"={ROW // 4}I", os.pread(shares.fd, ROW, row * ROW))


@pytest.mark.parametrize("compute", (0, 25))
def test_a_row_is_kept_until_the_last_worker_of_a_lease_has_ended(compute: int) -> None:
    shares = Shares()
    ending, next_one = lease_of(1, compute), lease_of(2, compute)
    first, row = begun(shares, ending)
    second, same = begun(shares, ending)
    assert row == same
    ending.over = True
    shares.over(ending)
    assert begun(shares, next_one)[1] != row
    shares.leave(first)
    os.pwrite(shares.fd, b"\1" * 8, row * ROW + 8)  # what the worker still had to charge
    assert words(shares, row)[0] == 4
    shares.leave(second)
    assert words(shares, row) == (0,) * (ROW // 4)
    assert begun(shares, lease_of(3, compute))[1] == row
    shares.close()


def test_a_lease_that_ends_with_its_last_session_leaves_nothing() -> None:
    shares = Shares()
    lease = lease_of(1, 25)
    session, row = begun(shares, lease)
    shares.leave(session)
    assert words(shares, row)[:2] == (4, 25), "what it owes the next process owes"
    lease.over = True
    shares.over(lease)
    assert words(shares, row) == (0,) * (ROW // 4)
    shares.close()


def test_a_row_begins_without_what_somebody_wrote_there() -> None:
    shares = Shares()
    os.pwrite(shares.fd, b"\1" * (ROWS * ROW), 0)
    _, row = begun(shares, lease_of(1, 25))
    assert words(shares, row) == (4, 25) + (0,) * (ROW // 4 - 2)
    shares.close()
