"""netperf: how long a call takes to a server's GPU, and how fast bytes get there.

It is an ordinary CUDA program, `python -m fdcore.netperf`, run with a small lease of
each server: what it says is what a program has, through the shim, the road and the
worker. Calls are made through ctypes, which is part of each call's time.
"""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fdcore import modules
from fdcore.config import Address
from fdcore.errors import FdcoreError
from fdcore.lists import Row
from fdcore.reserve import Wish
from fdcore.sched.slices import MIB
from fdcore.trial import Child, lease

COLUMNS = (
    "server", "road", "call_us", "call_p99_us", "up_mib_s", "down_mib_s",
)  # fmt: skip
CALLS, ROUNDS = 2000, 5
LARGE, SHORT = 64 * MIB, 16 * MIB
FEW_CALLS = 300
SECONDS = 120
# Of the long form; small enough for each that a call is most of it at first.
SIZES = tuple(4 << 2 * n for n in range(13))
FOLD = 2**0.5  # each bar of the histogram reaches so much further than the last
BAR = 40
SIZE_COLUMNS = (
    "server", "road", "bytes", "up_us", "up_mib_s", "down_us", "down_mib_s",
)  # fmt: skip


def measure(address: Address, wish: Wish, kind: str = "") -> dict[str, Any]:
    """One server's figures, with a lease of its own. kind: short or long."""
    with lease(wish, "netperf") as trial:
        words = [*modules.command("fdcore.netperf"), *([kind] * bool(kind))]
        child = Child(words, trial.environment)
        try:
            said = list(child.lines(SECONDS, time.monotonic() + SECONDS))
        finally:
            child.close()
    if child.waited_out:
        raise FdcoreError(
            f"{address}: the measuring program was not done after {SECONDS} s"
        )
    if child.process.returncode:
        raise FdcoreError(f"{address}: the measuring program failed: {child.why()}")
    return {"server": str(address), "road": trial.road, **json.loads("".join(said))}


def program(kind: str = "") -> Mapping[str, Any]:
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            raise FdcoreError(f"{name} failed with CUDA error {code}")

    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    size, count = (SHORT, FEW_CALLS) if kind == "short" else (LARGE, CALLS)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    host = ctypes.create_string_buffer(size)
    word = ctypes.c_uint32()

    def small() -> None:
        # A copy of four bytes back: nothing of it can be answered on this side.
        call("cuMemcpyDtoH_v2", ctypes.byref(word), memory, ctypes.c_size_t(4))

    def up(size: int) -> None:
        call("cuMemcpyHtoD_v2", memory, host, ctypes.c_size_t(size))
        call("cuCtxSynchronize")

    def down(size: int) -> None:
        call("cuMemcpyDtoH_v2", host, memory, ctypes.c_size_t(size))

    small()
    calls = sorted(timed(small) for _ in range(count))
    found: dict[str, Any] = {
        "call_us": round(calls[count // 2] * 1e6, 1),
        "call_p99_us": round(calls[count * 99 // 100] * 1e6, 1),
        "up_mib_s": round(size / MIB / best(lambda: up(size))),
        "down_mib_s": round(size / MIB / best(lambda: down(size))),
    }
    if kind == "long":
        found["histogram"] = histogram(calls)
        found["sizes"] = [of_size(each, up, down) for each in SIZES]
    return found


def timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def best(work: Callable[[], None]) -> float:
    return min(timed(work) for _ in range(ROUNDS))


# ---- the long form ----


def of_size(
    size: int, up: Callable[[int], None], down: Callable[[int], None]
) -> dict[str, float]:
    """Medians: what is to be expected, not what is possible."""
    rounds = 5 if size >= MIB else 50
    row: dict[str, float] = {"bytes": size}
    for name, work in (("up", up), ("down", down)):
        taken = sorted(timed(lambda w=work: w(size)) for _ in range(rounds))  # type: ignore[misc]
        middle = taken[rounds // 2]
        row[f"{name}_us"] = round(middle * 1e6, 1)
        row[f"{name}_mib_s"] = round(size / MIB / middle, 3)
    return row


def histogram(seconds: Sequence[float]) -> list[tuple[float, int]]:
    """Microseconds up to which, and how many took so long; from the first bar that has
    any to the last."""
    bars: dict[int, int] = {}
    for each in seconds:
        at = math.ceil(math.log(max(each * 1e6, 1.0), FOLD) - 1e-9)
        bars[at] = bars.get(at, 0) + 1
    return [
        (round(FOLD**at, 1), bars.get(at, 0))
        for at in range(min(bars), max(bars) + 1)
    ]  # fmt: skip


def text(row: Mapping[str, Any]) -> str:
    """The long form of a server for people."""
    lines = [f"{row['server']} over {row['road']}", "", "a call that waits"]
    most = max(count for _, count in row["histogram"])
    for upto, count in row["histogram"]:
        bar = "#" * math.ceil(count / most * BAR)
        lines.append(f"  up to {upto:>10.1f} us {count:>6} {bar}")
    lines += ["", "  bytes  to the GPU: us     MiB/s  back: us     MiB/s"]
    for each in row["sizes"]:
        lines.append(
            f"{each['bytes']:>9} {each['up_us']:>12.1f} {each['up_mib_s']:>9.2f}"
            f" {each['down_us']:>9.1f} {each['down_mib_s']:>9.2f}"
        )
    return "\n".join(lines) + "\n"


def by_size(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        {"server": row["server"], "road": row["road"], **each}
        for row in rows
        for each in row["sizes"]
    ]


if __name__ == "__main__":
    try:
        print(json.dumps(program(*sys.argv[1:2])))
    except (FdcoreError, OSError) as error:
        sys.exit(str(error))
