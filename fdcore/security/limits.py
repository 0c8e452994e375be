"""What strangers may cost: connections that have not said who they are.

A newcomer is never turned away for those who say nothing: it takes the place of the
one that has said nothing for longest. So a flood of silent connections ends silent
ones, and who speaks at once gets through.
"""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from fdcore.precedence import ours

SOURCES = 4096
CROWD = 32


@dataclass(slots=True, eq=False)
class Stranger:
    source: Hashable
    end: Callable[[], object] = field(repr=False)


class Waiting:
    """Those who have not said yet who they are: most in all, each from one source.
    crowd(self, there) is told when they have become one, and when they no more are."""

    def __init__(
        self,
        most: int,
        each: int,
        crowd: Callable[["Waiting", bool], object] = ours.crowd,
    ) -> None:
        self.most = most
        self.each = each
        self.crowd = crowd
        self.crowded = False
        self.by_source: dict[Hashable, dict[Stranger, None]] = {}
        self.count = 0

    def enter(
        self, source: Hashable, end: Callable[[], object]
    ) -> tuple[Stranger, bool]:
        """end() is called should a newcomer need the place. True: one has lost it."""
        own = self.by_source.get(source, {})
        ended = None
        if len(own) >= self.each:
            ended = next(iter(own))
        elif self.count >= self.most:
            crowd = max(self.by_source.values(), key=len)
            ended = next(iter(crowd))
        if ended is not None:
            self.leave(ended)
            ended.end()
        stranger = Stranger(source, end)
        self.by_source.setdefault(source, {})[stranger] = None
        self.count += 1
        self.look_round()
        return stranger, ended is not None

    def look_round(self) -> None:
        there = self.count >= (CROWD // 2 if self.crowded else CROWD)
        if there != self.crowded:
            self.crowded = there
            self.crowd(self, there)

    def leave(self, stranger: Stranger) -> None:
        own = self.by_source.get(stranger.source)
        if own is None or stranger not in own:
            return
        del own[stranger]
        self.count -= 1
        if not own:
            del self.by_source[stranger.source]
        self.look_round()


class Rate:
    """So many a second from one source, and more at once after a quiet time."""

    def __init__(
        self, a_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.a_second = a_second
        self.burst = burst
        self.clock = clock
        self.left: dict[Hashable, tuple[float, float]] = {}

    def take(self, source: Hashable) -> bool:
        now = self.clock()
        # The one that came last is last: the first are those to forget.
        left, then = self.left.pop(source, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.a_second)
        granted = left >= 1.0
        self.left[source] = (left - 1.0 if granted else left, now)
        if len(self.left) > SOURCES:
            del self.left[next(iter(self.left))]
        return granted


class Seldom:
    """Logs each cause once, and now and then how often it came since; of many causes
    the first ones, and how many more there were."""

    def __init__(
        self,
        log: logging.Logger,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        most: int = 30,
    ) -> None:
        self.log = log
        self.every = every
        self.clock = clock
        self.most = most
        self.said: dict[Hashable, tuple[float, int]] = {}
        self.since = clock()  # when that many were begun to be counted
        self.lines = 0

    def warn(self, cause: Hashable, text: str) -> None:
        now = self.clock()
        then, more = self.said.get(cause, (now - self.every, -1))
        if now - then < self.every:
            self.said[cause] = (then, more + 1)
            return
        self.said.pop(cause, None)
        while len(self.said) >= SOURCES:
            del self.said[next(iter(self.said))]
        self.said[cause] = (now, 0)
        if more > 0:
            text += f" (and {more} times since it was last said)"
        self.say(text, now)

    def say(self, text: str, now: float) -> None:
        if now - self.since >= self.every:
            if self.lines > self.most:
                left = self.lines - self.most
                self.log.warning("%d more warnings were left out", left)
            self.since, self.lines = now, 0
        self.lines += 1
        if self.lines <= self.most:
            self.log.warning("%s", text)
        if self.lines == self.most:
            self.log.warning("more than that is left out for %g s", self.every)
