"""python -m fdcore.verify: all checks on CUDA's first device, told in lines of JSON.

A line is where it is ({"at": ..., "share": ...}) or what a check has found ({"check":
..., "state": ..., "found": ..., "seconds": ...}). Whether something is wrong is in
these lines; another status than 0 means that nothing could be checked.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable

from fdcore.verify.bench import FAIL, MARGINAL, NAMES, Bench, Found, TimeOver, write

# What Numba and cuda.pathfinder raise where a library of the compiler's is not found.
MISSING = ("NvvmSupportError", "DynamicLibNotFoundError")
DEEP = 16  # reasons of reasons that are looked at


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m fdcore.verify", description=__doc__)
    made.add_argument("--seconds", type=float, default=120, help="for all checks")
    made.add_argument("--again", action="store_true", help="until the time is over")
    made.add_argument("--seed", type=int, default=0, help="of random numbers (0: any)")
    made.add_argument("--only", choices=NAMES, help="this check alone")
    made.add_argument("--memory", type=int, default=0, help="bytes to look at (all)")
    return made


def checks() -> dict[str, Callable[[Bench], Found]]:
    """Compiling them opens no device."""
    from fdcore.verify import copies, memory, order, sums

    return dict(
        zip(
            NAMES,
            (
                memory.memory, copies.to_device, copies.to_host, copies.on_device,
                sums.atomics, sums.reductions, sums.barriers, sums.products,
                order.streams, order.events,
            ),
            strict=True,
        )
    )  # fmt: skip


def main() -> int:
    given = parser().parse_args()
    warnings.filterwarnings("ignore", message=".*under-utilization.*")
    began = time.monotonic()
    seed = given.seed or int.from_bytes(os.urandom(4), "little") | 1
    write({"at": "start", "share": 0.0, "what": "Numba"})
    try:
        work = checks()
    except ImportError as error:
        write({"missing": str(error)})
        return 1
    if given.only:
        work = {given.only: work[given.only]}
    turn = 0
    over = False
    while not over and (turn == 0 or given.again):
        bench = Bench(began + given.seconds, seed + turn, given.memory)
        try:
            over = one_turn(bench, work, turn)
        except Exception as error:
            if not lacks(error):
                raise
            write({"missing": reason(error)})
            return 1
        turn += 1
    write({"turns": turn, "seed": seed})
    return 0


def one_turn(
    bench: Bench, work: dict[str, Callable[[Bench], Found]], turn: int
) -> bool:
    """True where there is no use in another."""
    over = False
    for name, check in work.items():
        bench.check = name
        began = time.monotonic()
        try:
            if over:
                raise TimeOver
            found = check(bench)
            state, said = found.state, found.text()
            over = state == FAIL and over
        except TimeOver:
            over = True
            if turn:  # an earlier turn has done it
                continue
            state, said = MARGINAL, "not done: the time was over"
        except Exception as error:  # a device that fails, in whatever way Numba says so
            if lacks(error):
                raise
            state, said = FAIL, reason(error)
        write({"check": name, "state": state, "found": said, "turn": turn + 1,
               "seconds": round(time.monotonic() - began, 3)})  # fmt: skip
        if state == FAIL and lost():
            return True
    return over


def lacks(error: BaseException | None) -> bool:
    """Whether it is Numba that lacks something, and no fault of the device."""
    for _ in range(DEEP):
        if isinstance(error, ImportError) or type(error).__name__ in MISSING:
            return True
        error = error and (error.__cause__ or error.__context__)
    return False


def reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:400]


def lost() -> bool:
    """Whether the device can do nothing any more, so that what follows must fail."""
    from numba import cuda

    try:
        cuda.synchronize()
        return False
    except Exception:
        return True


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # A session that is broken need not be tidied up, and must not hang here.
    os._exit(status)
