"""Rows of a lease's board: given out, cleared, never two of one."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from fdcore import board
from fdcore.board import Boards

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "include" / "fdc" / "monitor.h"


def test_the_sizes_are_those_of_the_header() -> None:
    text = HEADER.read_text(encoding="utf-8")
    for name, value in (
        ("ROWS", board.ROWS), ("ROW", board.ROW), ("ALIVE", f"{board.ALIVE:#x}"),
    ):  # fmt: skip
        assert re.search(rf"#define FDC_BOARD_{name} {value}\n", text)


def test_rows_are_cleared_and_used_again() -> None:
    boards = Boards()
    fd, first = boards.take(b"lease", 70)
    again, second = boards.take(b"lease", 71)
    other, third = boards.take(b"other", 72)
    assert (first, second, third) == (0, 1, 0) and fd == again != other

    def pid(row: int) -> int:
        return int(struct.unpack("=I", os.pread(fd, 4, row * board.ROW))[0])

    assert (pid(0), pid(1)) == (70, 71)
    os.pwrite(fd, b"\1" * 100, 8)
    boards.give_back(b"lease", 0)
    boards.give_back(b"lease", 0)
    assert os.pread(fd, board.ROW, 0) == bytes(board.ROW) and pid(1) == 71
    assert boards.take(b"lease", 73) == (fd, 0)
    for _ in range(board.ROWS - 3):
        boards.take(b"lease", 74)
    assert boards.take(b"lease", 75)[1] == -1
    boards.drop(b"lease")
    boards.give_back(b"lease", 3)
    boards.drop(b"other")
    assert not boards.boards


def test_failures_outlive_their_sessions_in_the_last_row() -> None:
    boards = Boards()
    fd, row = boards.take(b"lease", 70)
    last = (board.ROWS - 1) * board.ROW
    at = board.LAYOUT.size + 4 * 5  # device 5
    for times in (1, 2):
        os.pwrite(fd, struct.pack("=I", 31), row * board.ROW + at)
        boards.give_back(b"lease", row)
        assert struct.unpack("=Q", os.pread(fd, 8, last + 8 + 8 * 5)) == (times,)
        assert struct.unpack("=I", os.pread(fd, 4, last + at)) == (31,)
        assert boards.take(b"lease", 71) == (fd, row)
    assert os.pread(fd, 8, last + 8) == bytes(8)  # the other devices did nothing
    assert boards.usage(b"lease", 6)[0] == [0] * 6  # it is nobody's memory
    boards.drop(b"lease")


HOLDER = """
import fcntl, sys
fd, row, alive = map(int, sys.argv[1:])
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, alive + row)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_server_keeps_the_rows_of_who_lives() -> None:
    boards = Boards()
    fd = boards.take(b"lease", 70)[0]
    row = boards.take(b"lease", 71)[1]
    given = os.dup(fd)
    for n in (0, row):
        os.pwrite(fd, struct.pack("=Q", 5 << 20), n * board.ROW + 8)
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(fd), str(row), str(board.ALIVE)],
        pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None and worker.stdout.readline() == b"held\n"
    try:
        again = Boards()
        assert again.adopt(b"lease", given)
        assert again.boards[b"lease"].taken == {row}
        assert os.pread(given, board.ROW, 0) == bytes(board.ROW)
        assert os.pread(given, 4, row * board.ROW) == struct.pack("=I", 71)
        assert os.pread(given, 4, board.HEAD) == struct.pack("=I", 1)
        # A second worker brings the same board; one with another comes too late.
        assert again.adopt(b"lease", os.dup(fd))
        assert not again.adopt(b"lease", os.dup(boards.take(b"other", 72)[0]))
        again.look_again(b"lease", [])
        assert again.boards[b"lease"].taken == {row}, "its worker lives"
    finally:
        worker.communicate(b"")
    again.look_again(b"lease", [row])
    assert again.boards[b"lease"].taken == {row}, "its session gives it back"
    again.look_again(b"lease", [])
    assert not again.boards[b"lease"].taken
    assert os.pread(given, board.ROW, row * board.ROW) == bytes(board.ROW)


def test_its_size_is_for_good() -> None:
    made = board.Board()
    for size in (0, board.ROWS * board.ROW * 2):
        try:
            os.ftruncate(made.fd, size)
            raise AssertionError("it could be resized")
        except PermissionError:
            pass
    made.close()
