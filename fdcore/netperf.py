"""netperf: how long a call takes to a server's GPU, and how fast bytes get there.

It is an ordinary CUDA program, `python -m fdcore.netperf`, run with a small lease of
each server: what it says is what a program has, through the shim, the road and the
worker. Calls are made through ctypes, which is part of each call's time.
"""

import ctypes
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

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
LARGE = 64 * MIB
SECONDS = 120


def measure(address: Address, wish: Wish) -> Row:
    """One server's figures, with a lease of its own."""
    with lease(wish, "netperf") as trial:
        child = Child(["-m", "fdcore.netperf"], trial.environment)
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


def program() -> Mapping[str, Any]:
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            raise FdcoreError(f"{name} failed with CUDA error {code}")

    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    size = LARGE
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    host = ctypes.create_string_buffer(size)
    word = ctypes.c_uint32()

    def small() -> None:
        # A copy of four bytes back: nothing of it can be answered on this side.
        call("cuMemcpyDtoH_v2", ctypes.byref(word), memory, ctypes.c_size_t(4))

    def up() -> None:
        call("cuMemcpyHtoD_v2", memory, host, ctypes.c_size_t(size))
        call("cuCtxSynchronize")

    def down() -> None:
        call("cuMemcpyDtoH_v2", host, memory, ctypes.c_size_t(size))

    small()
    calls = sorted(timed(small) for _ in range(CALLS))
    return {
        "call_us": round(calls[CALLS // 2] * 1e6, 1),
        "call_p99_us": round(calls[CALLS * 99 // 100] * 1e6, 1),
        "up_mib_s": round(size / MIB / best(up)),
        "down_mib_s": round(size / MIB / best(down)),
    }


def timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def best(work: Callable[[], None]) -> float:
    return min(timed(work) for _ in range(ROUNDS))


if __name__ == "__main__":
    try:
        print(json.dumps(program()))
    except (FdcoreError, OSError) as error:
        sys.exit(str(error))
