"""Who goes first on a machine with few processors: while strangers crowd at a door,
everybody before the thread that answers it.

A connection that says nothing costs that thread little, but whoever wants its
processor meanwhile waits until it sleeps: the scheduler lets a thread finish its slice
of time. With a longer slice than everybody else's it has as much time as before, and
gives way at once.
"""

import contextlib
import os
from collections.abc import Hashable

from fdcore._core.session import time_slice

SLICE_NS = 20_000_000  # several of the usual ones
REAL_TIME = (os.SCHED_FIFO, os.SCHED_RR)


class Precedence:
    """Of the thread that calls it, the only one that may."""

    def __init__(self) -> None:
        self.crowds: set[Hashable] = set()
        # The priority to go back to, where an administrator gave it one.
        self.real_time = 0

    def crowd(self, door: Hashable, there: bool) -> None:
        """There is one at that door, or none any more."""
        before = bool(self.crowds)
        (self.crowds.add if there else self.crowds.discard)(door)
        if bool(self.crowds) != before:
            self.give_way() if self.crowds else self.go_on()

    def give_way(self) -> None:
        if time_slice(SLICE_NS) or os.sched_getscheduler(0) not in REAL_TIME:
            return
        self.real_time = os.sched_getparam(0).sched_priority
        self.set_real_time(max(1, self.real_time - 1))

    def go_on(self) -> None:
        if self.real_time:
            self.set_real_time(self.real_time)
            self.real_time = 0
        else:
            time_slice(0)

    def set_real_time(self, priority: int) -> None:
        with contextlib.suppress(OSError):  # it may have become nobody's right
            os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_param(priority))


ours = Precedence()
