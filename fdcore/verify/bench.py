"""What checks have at hand: time, random numbers, and where their findings go."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PASS, MARGINAL, FAIL = "PASS", "MARGINAL", "FAIL"
NAMES = (
    "memory patterns", "copies to the GPU", "copies from the GPU", "copies on the GPU",
    "atomics", "reductions", "shared memory and barriers", "matrix products",
    "concurrent streams", "order of events",
)  # fmt: skip
TELL_SECONDS = 0.1


class TimeOver(Exception):
    """The time that there was for all checks is over."""


def write(row: dict[str, object]) -> None:
    """To whoever started this program; one line each."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


@dataclass
class Bench:
    deadline: float
    seed: int
    # Of the slice's memory, in bytes, at most so much is looked at; 0: all there is.
    most: int = 0
    say: Callable[[dict[str, object]], None] = write
    clock: Callable[[], float] = time.monotonic
    told: float = field(default=0.0, init=False)
    check: str = field(default="", init=False)

    def at(self, share: float, what: str = "") -> None:
        """Tells how much of the check is done, and ends it where the time is over."""
        now = self.clock()
        if now >= self.deadline:
            raise TimeOver
        if now - self.told >= TELL_SECONDS or share == 0:
            self.told = now
            self.say({"at": self.check, "share": round(share, 3), "what": what})


@dataclass
class Found:
    """What a check has seen, and what is wrong; wrong is empty where all is well."""

    seen: str
    wrong: list[str] = field(default_factory=list)
    # How much of its work a check could do when the time was over.
    cut: str = ""

    @property
    def state(self) -> str:
        if self.wrong:
            return FAIL
        return MARGINAL if self.cut else PASS

    def text(self) -> str:
        if self.wrong:
            more = len(self.wrong) - 3
            said = "; ".join(self.wrong[:3])
            return f"{said}; and {more} more" if more > 0 else said
        return f"{self.seen}; {self.cut}" if self.cut else self.seen
