"""Who goes first while strangers crowd at a door. Threads of their own: what is changed is
the calling thread's."""

import ctypes
import struct
import threading

import pytest

from fdcore import precedence
from fdcore._core.session import time_slice
from fdcore.precedence import SLICE_NS, Precedence
from fdcore.security.limits import CROWD, Waiting

GET = 315  # sched_getattr
ATTRIBUTES = struct.Struct("IIQiIQQQ")


def slice_now():
    """Of the calling thread, by the kernel; 0: it does not say."""
    room = ctypes.create_string_buffer(ATTRIBUTES.size)
    ctypes.CDLL(None).syscall(GET, 0, room, ATTRIBUTES.size, 0)
    return ATTRIBUTES.unpack(room.raw)[5]


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_slice_is_longer_while_there_is_a_crowd_anywhere():
    if not in_a_thread(lambda: time_slice(0)):
        pytest.skip("there are no slices to set here: Linux before 6.12")

    def work():
        ours, seen = Precedence(), [slice_now()]
        for door, there in (
            ("a", True), ("b", True), ("b", True), ("a", False), ("b", False), ("a", False),
        ):  # fmt: skip
            ours.crowd(door, there)
            seen.append(slice_now())
        return seen

    usual, *during, after, later = in_a_thread(work)
    assert during == [SLICE_NS] * 4
    assert usual == after == later < SLICE_NS


def test_slice_of_a_worker_is_not_the_one_of_who_started_it():
    def work():
        before = slice_now()
        if not time_slice(SLICE_NS):
            return before, before
        child = in_a_thread(lambda: (slice_now(), time_slice(0), slice_now()))
        assert child[0] == SLICE_NS  # threads and processes alike begin with it
        return before, child[2]

    before, after = in_a_thread(work)
    assert before == after


@pytest.mark.parametrize(("usual", "steps"), [(55, [54, 55]), (1, [1, 1])])
def test_real_time_priority_is_one_less_meanwhile(monkeypatch, usual, steps):
    monkeypatch.setattr(precedence, "time_slice", lambda ns: False)
    monkeypatch.setattr(precedence.os, "sched_getscheduler", lambda pid: precedence.os.SCHED_RR)
    now = [usual]
    monkeypatch.setattr(
        precedence.os, "sched_getparam", lambda pid: precedence.os.sched_param(now[0])
    )
    monkeypatch.setattr(
        precedence.os, "sched_setscheduler",
        lambda pid, policy, param: now.__setitem__(0, param.sched_priority),
    )  # fmt: skip
    ours = Precedence()
    ours.crowd("a", True)
    assert now[0] == steps[0]
    ours.crowd("a", False)
    assert now[0] == steps[1]


def test_crowd_is_told_of_when_it_comes_and_when_it_has_gone():
    told = []
    waiting = Waiting(100, 100, lambda who, there: told.append(there))
    inside = [waiting.enter("a", lambda: None)[0] for _ in range(CROWD - 1)]
    assert told == []
    inside += [waiting.enter("b", lambda: None)[0] for _ in range(20)]
    assert told == [True]
    for number in range(20):  # it goes a little and comes again
        waiting.leave(inside.pop())
        inside.append(waiting.enter(number, lambda: None)[0])
    assert told == [True]
    while inside:
        waiting.leave(inside.pop())
    assert told == [True, False]
