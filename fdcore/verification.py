"""health --verify: the checks of fdcore/verify, run on each GPU of a server with a
lease of its own, the way any program is run there."""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from fdcore import modules
from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.errors import FdcoreError
from fdcore.pools import Seen
from fdcore.reserve import Wish
from fdcore.sched.filters import Filter, parse_filter
from fdcore.sched.slices import MIB, Ask
from fdcore.trial import Child, lease
from fdcore.verify.bench import NAMES

SECONDS = 120.0  # where no time is given, which is one turn
STALL_SECONDS = 90.0  # a server waits for a minute for a connection that broke
MOST, LEAST = 1024 * MIB, 64 * MIB
BAR, WIDTH = 24, 79
CURES = {
    "memory patterns": "take the GPU out of use; nvidia-smi -q on the server says "
    "what errors ECC has seen",
    "copies to the GPU": "look at the network and the memory of both machines; "
    "nvidia-smi -q on the server says what PCIe had to repeat",
    "copies from the GPU": "the same as for copies to the GPU",
}
NO_NUMBA = "pip install '.[verify]' in fdcore's sources"


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float = SECONDS
    again: bool = False  # until the time is over
    memory: int = 0  # bytes to look at; 0: all of the lease
    stall: float = STALL_SECONDS
    seed: int = 0
    only: str = ""  # this check; all of them


Tell = Callable[[str, float, str], None]


def missing() -> Check | None:
    """What there is to be said where it cannot be done at all."""
    for name in ("numpy", "numba"):
        if importlib.util.find_spec(name) is None:
            return Check(FAIL, "verification", f"{name} is not installed", NO_NUMBA)
    return None


def verify(wish: Wish, plan: Plan, tell: Tell = lambda *_: None) -> list[Check]:
    """Of the one GPU that the wish gets."""
    lacking = missing()
    if lacking is not None:
        return [lacking]
    try:
        with lease(wish, "health --verify") as trial:
            # What breaks is not to be mended before anybody has seen it.
            environment = trial.environment | {"FD_RECONNECT": "0"}
            found = run(environment, plan, tell)
    except FdcoreError as error:
        cure = "wait until it is free, or ask for less with -m"
        return [Check(MARGINAL, "verification", f"no lease: {error}", cure)]
    return [Check(PASS, "verification", f"over {trial.road}"), *found]


def server(
    seen: Seen, road: str, plan: Plan, memory: int, terminal: bool
) -> list[tuple[str, list[Check]]]:
    """Each GPU of a server, one after the other. memory: of each; 0: what is free."""
    assert seen.pool is not None
    found = []
    for gpu in seen.pool.gpus:
        free = seen.pool.free[gpu.ordinal]
        where = f"{seen.address} GPU {gpu.ordinal}"
        if not memory and free < LEAST:
            said = f"{free // MIB} MiB are free, {LEAST // MIB} MiB are needed"
            checks = [Check(MARGINAL, "verification", said, "wait until it is free")]
        else:
            wanted = parse_filter(f"device.id = {gpu.ordinal}")
            assert isinstance(wanted, Filter)
            ask = Ask(memory=memory or min(free, MOST))
            wish = Wish(ask, [seen.address], [wanted], road)
            checks = verify(wish, plan, teller(where, terminal))
        found.append((where, checks))
    if terminal:
        print("\r" + " " * WIDTH + "\r", end="", file=sys.stderr, flush=True)
    return found


def run(environment: dict[str, str], plan: Plan, tell: Tell) -> list[Check]:
    """The program, with an environment in which CUDA has one device."""
    words = [*modules.command("fdcore.verify"), "--seconds", f"{plan.seconds:g}"]
    words += ["--memory", str(plan.memory), "--seed", str(plan.seed)]
    words += ["--only", plan.only] if plan.only else []
    words += ["--again"] if plan.again else []
    child = Child(words, environment)
    heard = Heard(tell)
    try:
        until = time.monotonic() + plan.seconds + plan.stall
        for line in child.lines(plan.stall, until):
            heard.take(line)
        return heard.checks(child, plan)
    finally:
        child.close()


class Heard:
    """What the program has said so far."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.at, self.what = "start", ""
        self.found: dict[str, Check] = {}
        self.turns = 0
        self.missing = ""

    def take(self, line: str) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            return  # something that a library prints
        if "at" in row:
            self.at, self.what = str(row["at"]), str(row["what"])
            self.tell(self.at, float(row["share"]), self.what)
        elif "check" in row:
            self.result(row)
        elif "turns" in row:
            self.turns = int(row["turns"])
        elif "missing" in row:
            self.missing = str(row["missing"])

    def result(self, row: dict[str, str]) -> None:
        name, state = str(row["check"]), str(row["state"])
        before = self.found.get(name)
        # Of several turns the worst is kept.
        if before is None or (state == FAIL and before.state != FAIL):
            turn = int(row["turn"])
            found = str(row["found"]) + (f" (turn {turn})" if turn > 1 else "")
            self.found[name] = Check(state, name, found, cure(name, state))

    def checks(self, child: Child, plan: Plan) -> list[Check]:
        found = list(self.found.values())
        if self.missing:
            said = f"Numba's CUDA cannot be used: {self.missing}"
            return [*found, Check(FAIL, "verification", said, NO_NUMBA)]
        if child.waited_out:
            where = f"{self.at} ({self.what})" if self.what else self.at
            said = f"stuck there: nothing was heard for {plan.stall:g} s, at {where}"
            look = "look at the network and the server's log; the GPU may hang"
            return [*found, Check(FAIL, self.at, said, look)]
        if not self.turns:
            said = f"the program broke off: {child.why()}"
            look = "the server's log may say more"
            return [*found, Check(FAIL, self.at, said, look)]
        if self.turns > 1:
            found.append(Check(PASS, "turns", f"{self.turns} with other numbers each"))
        return found


def cure(name: str, state: str) -> str:
    if state == FAIL:
        return CURES.get(name, "take the GPU out of use, and verify it once more")
    return "give it more time: --verify=10m" if state == MARGINAL else ""


def bar(where: str, share: float, what: str, width: int = WIDTH) -> str:
    """One line of progress, to be written over the last."""
    full = round(min(max(share, 0), 1) * BAR)
    line = f"{where} [{'#' * full}{'.' * (BAR - full)}] {what}"
    return line[:width].ljust(width)


def teller(where: str, terminal: bool) -> Tell:
    """Draws the bar on standard error, where that is a terminal."""
    if not terminal:
        return lambda *_: None

    def tell(check: str, share: float, what: str) -> None:
        at = NAMES.index(check) if check in NAMES else 0
        said = f"{check}: {what}" if what else check
        line = bar(where, (at + share) / len(NAMES), said)
        print(f"\r{line}", end="", file=sys.stderr, flush=True)

    return tell
