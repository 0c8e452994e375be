"""Programs, workers, fdholds and servers killed at random: nothing is lost or left over.

    python -m tests.chaos.test_chaos [--seed N] [--steps N] [--etcd]
                                              (make chaos SEED=N STEPS=N ETCD=1)

Programs compute on slices and check what they get. At each step something is started or
killed. A program may end only if it, or its worker, was killed. In the end all are told to
stop, and within the grace time the server must be as it was: all memory free, no lease in
the store, no worker, no fdhold, no session file in use. With --etcd the server's store is
there, and etcd itself is killed, stopped, and brought back.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fdcore.config import STORE
from fdcore.store import LEASE, Sqlite
from tests.etcd import Etcd, make_etcd
from tests.support import Server, start_server, until

PROGRAM = """
import ctypes, os, select, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        print(name, code, file=sys.stderr, flush=True); os._exit(4)
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
print("up", flush=True)
value = 0
while not select.select([0], [], [], 0.05)[0]:
    value = (value + 1) % 256
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(value), ctypes.c_size_t(4096))
    back = ctypes.create_string_buffer(4096)
    call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(4096))
    if back.raw != bytes([value]) * 4096:
        os._exit(3)
os._exit(0)
"""
DEVICES, MEMORY_MB, SLICE_MB = 2, 1024, 100
MOST_PROGRAMS = 6
SETTLE_SECONDS = 20.0  # a grace time of 2 s, and a busy machine


class Chaos:
    def __init__(self, folder: Path, seed: int, etcd: Etcd | None = None) -> None:
        self.etcd = etcd
        self.etcd_is_back: Callable[[], None] | None = None  # where it has gone
        self.folder = folder
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.server = self.start_server()
        self.programs: list[subprocess.Popen[str]] = []
        self.doomed: set[int] = set()  # programs that may fail

    def start_server(self) -> Server:
        options = ["--store", self.etcd.url] if self.etcd else []
        return start_server(self.folder, *options, devices=DEVICES, memory_mb=MEMORY_MB)

    @property
    def state(self) -> Path:
        return Path(self.server.unix.removeprefix("unix:")).parent

    # ---- steps ----

    def start_program(self) -> None:
        if len(self.programs) >= MOST_PROGRAMS:
            return self.stop_program()
        road = self.chance.choice(["shm", "tcp"])
        program = self.server.start(
            "--wait=30s", "-m", str(SLICE_MB), sys.executable, "-c", PROGRAM, road=road,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert program.stdout is not None
        if program.stdout.readline() != "up\n":
            raise AssertionError(f"a program did not start: {program.communicate()[1]}")
        self.programs.append(program)

    def stop_program(self) -> None:
        if self.programs:
            self.finish(self.programs.pop(self.chance.randrange(len(self.programs))))

    def finish(self, program: "subprocess.Popen[str]") -> None:
        _, said = program.communicate("\n", timeout=60)
        status = program.returncode
        if program.pid in self.doomed:
            assert status in (0, 4, -9), (status, said)
        else:
            assert status == 0, (status, said, self.server.log[-2000:])

    def kill_program(self) -> None:
        if self.programs:
            program = self.programs.pop(self.chance.randrange(len(self.programs)))
            program.kill()
            program.communicate()

    def kill_worker(self) -> None:
        if not self.programs:
            return
        victim = self.chance.choice(self.programs)
        for line in reversed(self.server.log.splitlines()):
            if f" pid {victim.pid} over " in line:
                self.doomed.add(victim.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.rpartition("worker ")[2]), signal.SIGKILL)
                return

    def kill_helper(self) -> None:
        found = helpers({program.pid for program in self.programs})
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(found), signal.SIGKILL)

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.server.process.send_signal(number)
        self.server.process.wait(20)
        if self.chance.random() < 0.3:
            self.kill_program()  # while nobody looks
        self.server = self.start_server()

    def leave(self) -> None:
        self.restart(signal.SIGUSR2)

    def disturb_etcd(self) -> None:
        assert self.etcd is not None
        etcd = self.etcd
        if self.etcd_is_back is not None:
            self.etcd_is_back()
            self.etcd_is_back = None
        elif self.chance.random() < 0.5:
            etcd.kill()
            self.etcd_is_back = etcd.start
        else:
            etcd.signal(signal.SIGSTOP)
            self.etcd_is_back = lambda: etcd.signal(signal.SIGCONT)

    def step(self) -> None:
        steps = {
            self.start_program: 5, self.stop_program: 2, self.kill_program: 2,
            self.kill_worker: 1, self.kill_helper: 1, self.restart: 2, self.leave: 1,
        }  # fmt: skip
        if self.etcd:
            steps[self.disturb_etcd] = 4
        taken = self.chance.choices(list(steps), list(steps.values()))[0]
        self.counts[taken.__name__] += 1
        taken()
        # Never more promised than there is, never less than what runs has.
        held = DEVICES * MEMORY_MB - sum(self.server.free())
        alive = sum(p.poll() is None and p.pid not in self.doomed for p in self.programs)
        assert held >= alive * SLICE_MB, (held, alive)

    # ---- the end ----

    def settle(self) -> None:
        pids = {program.pid for program in self.programs}
        for program in self.programs:
            self.finish(program)
        self.programs.clear()
        begun = time.monotonic()
        until(lambda: self.server.free() == [MEMORY_MB] * DEVICES, SETTLE_SECONDS)
        until(lambda: not list((self.state / "workers").iterdir()), SETTLE_SECONDS)
        until(lambda: not helpers(pids), SETTLE_SECONDS)
        store = Sqlite(self.state / STORE)
        until(lambda: store.rows(LEASE) == {}, SETTLE_SECONDS)
        store.close()
        if self.etcd:
            if self.etcd_is_back:
                self.disturb_etcd()
            until(lambda: not self.left_in_etcd(), 3 * SETTLE_SECONDS)
        self.counts["ms to the baseline"] = round(1000 * (time.monotonic() - begun))

    def left_in_etcd(self) -> list[str]:
        assert self.etcd is not None
        return [
            key
            for key in self.etcd.found()
            if "/lease/" in key or key.startswith("fdcore/usage/")
        ]

    def close(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate()
        self.server.stop()


def helpers(pids: set[int]) -> list[int]:
    """The fdholds of these programs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"fdhold" and words[2].isdigit() and int(words[2]) in pids:
            found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def chaos(seed: int, etcd: Etcd | None) -> Iterator[Chaos]:
    with tempfile.TemporaryDirectory(prefix="fd") as folder:
        made = Chaos(Path(folder), seed, etcd)
        try:
            yield made
        finally:
            made.close()


def run(seed: int, steps: int, etcd: Etcd | None = None) -> Counter[str]:
    with chaos(seed, etcd) as made:
        for _ in range(steps):
            made.step()
        made.settle()
        return made.counts


def test_random_kills_leave_nothing_behind() -> None:
    run(seed=6, steps=30)


def test_random_ends_of_etcd_leave_nothing_behind(own_etcd: Etcd) -> None:
    run(seed=3, steps=12, etcd=own_etcd)


def main() -> int:
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("--seed", type=int, default=int(time.time()))
    reader.add_argument("--steps", type=int, default=200)
    reader.add_argument("--etcd", action="store_true")
    given = reader.parse_args()
    print(f"seed {given.seed}, {given.steps} steps", flush=True)
    with tempfile.TemporaryDirectory(prefix="etcd") as folder:
        etcd = make_etcd(Path(folder)) if given.etcd else None
        try:
            counts = run(given.seed, given.steps, etcd)
        finally:
            if etcd:
                etcd.kill()
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
