"""Shares of a GPU's computing time: two programs that want all of it, and one alone.

    python -m bench.shares [--seconds 30] [--compute 70,30] [--devices cpu]

starts a server with one CPU device and two programs with these shares of it, each of which
launches kernels as fast as it can, and says what part of the time each had: by the account
that the workers keep (the ledger) and by the kernels that finished. Exit status 1: one of
them is more than 5 points from what was asked for. Then one program alone, whose share is
the smaller one: it has everything. tests/e2e/test_compute.py does a short form of it.
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BIN = Path(sysconfig.get_path("scripts"))
POINTS = 5.0
# A kernel of one thread: some 100,000 turns of a loop. Rounds of 32 launches and a
# synchronise, one after the other, until standard input ends; then how many finished.
PROGRAM = """
import ctypes, select, sys
cuda = ctypes.CDLL("libcuda.so.1")
PTX = b'''.version 7.0
.target sm_52
.address_size 64
.visible .entry spin(.param .u32 turns)
{
 .reg .pred %q; .reg .b32 %r<4>;
 ld.param.u32 %r1, [turns]; mov.u32 %r2, 0;
again: add.u32 %r2, %r2, 1; setp.lt.u32 %q, %r2, %r1; @%q bra again;
 ret;
}
'''
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)
context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuModuleLoadData", ctypes.byref(module), PTX)
call("cuModuleGetFunction", ctypes.byref(kernel), module, b"spin")
turns = ctypes.c_uint32(int(sys.argv[1]))
params = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(turns), ctypes.c_void_p))
finished = 0
def a_round():
    global finished
    for _ in range(32):
        call("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None, params, None)
    call("cuCtxSynchronize")
    finished += 32
a_round()
print("up", flush=True)
while True:
    if select.select([sys.stdin], [], [], 0)[0]:
        if not sys.stdin.readline():
            break
        print(finished, flush=True)
    a_round()
"""


class Competitors:
    """A server with one CPU device, and programs with shares of it."""

    def __init__(self, folder: Path, turns: int = 100_000) -> None:
        self.folder, self.turns = folder, turns
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [BIN / "fdserver", "--listen", "127.0.0.1:0", "--cpu-devices", "1",
                 "--state", folder / "state"],
                stdout=log, stderr=log, env={**os.environ, "FD_CPU_MEMORY_MB": "256"},
            )  # fmt: skip
        told: list[str] = []
        self.until(
            lambda: told.extend(re.findall(r"control at (\S+),", self.log.read_text())) or told,
            "the server starts",
        )
        self.address = told[0]
        self.programs: list[subprocess.Popen[str]] = []

    def until(self, true: Callable[[], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise RuntimeError(f"not so: {what}\n{self.log.read_text()}")
            time.sleep(0.02)

    def start(self, *options: str) -> None:
        command = [BIN / "fdrun", "-m", "64", *options, "-l", self.address, "--",
                   sys.executable, "-c", PROGRAM, str(self.turns)]  # fmt: skip
        self.programs.append(
            subprocess.Popen(
                [str(word) for word in command], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip

    def ready(self) -> None:
        for program in self.programs:
            assert program.stdout is not None
            if program.stdout.readline() != "up\n":
                raise RuntimeError(f"a program did not start\n{self.log.read_text()}")

    def finished(self) -> list[int]:
        """The kernels of each program so far."""
        for program in self.programs:
            assert program.stdin is not None
            program.stdin.write("?\n")
            program.stdin.flush()
        return [int(program.stdout.readline()) for program in self.programs]  # type: ignore[union-attr]

    def spent(self) -> list[float]:
        """Seconds of the GPU's time of each program's lease, by the ledger."""
        from fdcore.config import parse_address, protocol_hash
        from fdcore.rpc import client

        rows = client.sessions(parse_address(self.address), protocol_hash())
        by_pid = {row.pid: row.counters.get("device_ns", 0) / 1e9 for row in rows}
        return [by_pid.get(program.pid, 0.0) for program in self.programs]

    def stop(self) -> None:
        for program in self.programs:
            program.communicate("", timeout=60)
        self.programs.clear()

    def close(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate()
        self.server.terminate()
        self.server.wait(20)


def parts(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Of what has come since, the part of each, in percent."""
    grown = [b - a for a, b in zip(before, after, strict=True)]
    return [100 * one / (sum(grown) or 1) for one in grown]


def compete(folder: Path, asked: Sequence[int], seconds: float) -> Mapping[str, list[float]]:
    competitors = Competitors(folder)
    try:
        for share in asked:
            competitors.start("--compute", str(share))
        competitors.ready()
        time.sleep(0.5)  # what the first ones had before the others came
        spent, finished = competitors.spent(), competitors.finished()
        time.sleep(seconds)
        ledger = parts(spent, competitors.spent())
        work = parts([float(n) for n in finished], [float(n) for n in competitors.finished()])
        competitors.stop()
        return {"ledger": ledger, "work": work}
    finally:
        competitors.close()


def alone(folder: Path, share: int, seconds: float) -> list[float]:
    """Kernels a second: with nobody's share, and with this one."""
    rates = []
    for options in ((), ("--compute", str(share))):
        competitors = Competitors(Path(tempfile.mkdtemp(dir=folder)))
        try:
            competitors.start(*options)
            competitors.ready()
            before = competitors.finished()[0]
            time.sleep(seconds)
            rates.append((competitors.finished()[0] - before) / seconds)
            competitors.stop()
        finally:
            competitors.close()
    return rates


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m bench.shares", description=__doc__)
    made.add_argument("--seconds", type=float, default=30.0)
    made.add_argument("--compute", default="70,30")
    given = made.parse_args()
    asked = [int(word) for word in given.compute.split(",")]
    total = sum(asked)
    with tempfile.TemporaryDirectory() as folder:
        found = compete(Path(folder), asked, given.seconds)
        whole, shared = alone(Path(folder), min(asked), max(given.seconds / 6, 1))
    worst = 0.0
    for name, row in found.items():
        print(f"{name:7}", *(f"{one:6.1f} %" for one in row))
        worst = max(worst, *(abs(one - 100 * want / total) for one, want in
                             zip(row, asked, strict=True)))  # fmt: skip
    print(f"asked   {'':0}", *(f"{want:5} %" for want in asked), f" worst {worst:.1f} points")
    print(f"alone with {min(asked)} %: {shared:.0f} kernels/s, with no share {whole:.0f}")
    return 1 if worst > POINTS else 0


if __name__ == "__main__":
    sys.exit(main())
