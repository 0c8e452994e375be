"""Programs, workers, fdholds, servers, connections and stores killed at random: nothing is
lost or left over.

    python -m tests.chaos.test_chaos [--seed N] [--runs N] [--steps N]
    make chaos SEED=N RUNS=N STEPS=N ETCD=1

Programs compute on slices and check what they get, over shm, over tcp, and over tcp
through a proxy that delays, cuts and changes bytes (sealed connections, that is, since
others trust the wire). At each step something is started, killed, cut or locked. A program
may end only if it, its worker or the only record of its lease was hurt; a result is never
wrong, and a changed byte of a sealed connection is never noticed. After
each run all are told to stop, and then the server has to be as it was: all memory free,
no lease, in the store neither, no worker, no fdhold, no more descriptors, processes and
shared memory than at first. What it took to get there is printed; more than 2 s of it, not
counted for what there was no processor, fail the command, and not the tests. With --etcd the
server's store is there too, and etcd itself is killed, stopped, and brought back.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fdcore.config import STORE, parse_address, protocol_hash
from fdcore.recall import started
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from fdcore.store import LEASE, Sqlite
from tests.chaos.proxy import Proxy
from tests.etcd import Etcd, make_etcd
from tests.support import Server, processes, start_server, until
from tests.tally import Tally, Waits, below, kinds, tally

PROGRAM = """
import ctypes, os, select, sys
if os.environ.get("CHAOS_PORT"):
    # Its data go through the proxy. The file stays the same: fdhold looks at its locks.
    lines = [line for line in open(os.environ["FD_SESSION"]) if not line.startswith("unix ")]
    lines = [f"tcp 127.0.0.1 {os.environ['CHAOS_PORT']}\\n" if line.startswith("tcp ") else line
             for line in lines]
    with open(os.environ["FD_SESSION"], "r+") as file:
        file.truncate(file.write("".join(lines)))
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        print(name, code, file=sys.stderr, flush=True); os._exit(4)
SIZE = 100000
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(SIZE))
print("up", flush=True)
value = 0
while not select.select([0], [], [], 0.05)[0]:
    value = (value + 1) % 256
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(value), ctypes.c_size_t(SIZE))
    some = os.urandom(5000)
    call("cuMemcpyHtoD_v2", ctypes.c_uint64(memory.value + 50000), some, ctypes.c_size_t(5000))
    back = ctypes.create_string_buffer(SIZE)
    call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(SIZE))
    want = bytes([value]) * 50000 + some + bytes([value]) * (SIZE - 55000)
    if back.raw != want:
        os._exit(3)
os._exit(0)
"""
DEVICES, MEMORY_MB, SLICE_MB = 2, 1024, 100
MOST_PROGRAMS = 6
START_SECONDS = 120.0
# The control connection is plain on loopback: where a length grows on its way, both sides
# wait for what does not come, until one of them ends.
STUCK_SECONDS, STUCK = 10.0, "programs that waited for the rest of a changed message"
BASELINE_SECONDS = 2.0  # to the baseline, if there is a processor for who wants one
SETTLE_SECONDS = 60.0  # there may be none for long
GREETED = 700  # bytes of an attach, which are not changed: they would be a refusal
# The store's file; etcd has words of its own.
LOST, AGAIN = "a restart would know nothing of now", "the store is written again"
WRONG_RESULT, CALL_FAILED, REFUSED = 3, 4, 125


class Program:
    """One that runs; road: shm, tcp, or proxy: tcp through ours, sealed."""

    def __init__(self, process: "subprocess.Popen[str]", road: str) -> None:
        self.process = process
        self.road = road
        self.hurt = False  # it may fail

    @property
    def pid(self) -> int:
        return self.process.pid


class Chaos:
    def __init__(self, folder: Path, seed: int, etcd: Etcd | None = None) -> None:
        self.etcd = etcd
        self.etcd_is_back: Callable[[], None] | None = None  # where it has gone
        self.folder = folder
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.took: list[float] = []  # seconds to the baseline, of each run
        self.busy: list[float] = []  # of those, waiting for a processor
        self.over: list[str] = []  # where something was left
        self.steps: list[str] = []  # of this run
        self.late: list[str] = []  # runs that took too long, and what they waited for
        self.programs: list[Program] = []
        # Of this run: every process of every server, by pid and start, since pids come
        # again; the pids of programs; workers that a server's log has told of.
        self.seen: set[tuple[int, int]] = set()
        self.served: set[int] = set()
        self.logged: dict[int, int] = {}
        self.locked: sqlite3.Connection | None = None
        self.storeless = False  # until the next server makes a new store
        self.server = self.start_server()
        self.proxies = {"data": Proxy(0, seed), "control": Proxy(0, seed + 1)}
        self.proxies["data"].spared = GREETED
        self.aim()
        self.base = self.now = self.settled()

    def start_server(self) -> Server:
        options = ["--store", self.etcd.url] if self.etcd else []
        return start_server(self.folder, *options, devices=DEVICES, memory_mb=MEMORY_MB)

    def aim(self) -> None:
        """The proxies at the server's ports, which a restart may change."""
        control = parse_address(self.server.control)
        self.proxies["control"].target = control.port
        self.proxies["data"].target = client.reserve(
            parse_address(self.server.unix), Ask(memory=MIB), protocol_hash(), "chaos",
            lambda grant: grant.port,
        )  # fmt: skip

    @property
    def state(self) -> Path:
        return Path(self.server.unix.removeprefix("unix:")).parent

    # ---- programs ----

    def start_program(self) -> None:
        if len(self.programs) >= MOST_PROGRAMS:
            return self.stop_program()
        road = self.chance.choice(["shm", "tcp", "proxy"])
        more = {}
        command = self.server.command(
            "--wait=60s", "-m", str(SLICE_MB), sys.executable, "-c", PROGRAM
        )
        if road == "proxy":
            more = {"CHAOS_PORT": str(self.proxies["data"].port), "FD_ENCRYPT": "1",
                    "FD_TRANSPORT": "tcp"}  # fmt: skip
            at = command.index(self.server.unix)
            command[at] = f"127.0.0.1:{self.proxies['control'].port}"
        else:
            more = {"FD_TRANSPORT": road}
        bad = any(one.delay or one.corrupt for one in self.proxies.values())
        may_stick = road == "proxy" and self.proxies["control"].corrupt > 0
        process = subprocess.Popen(
            command, env=self.server.environment | more, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.served.add(process.pid)
        if not came_up(process, STUCK_SECONDS if may_stick else START_SECONDS):
            hangs = process.poll() is None
            if hangs:
                process.kill()
                self.counts[STUCK] += 1
            said = process.communicate()[1]
            assert may_stick or not hangs, f"a program over {road} does not start"
            assert road == "proxy" and bad and process.returncode != WRONG_RESULT, (
                road, process.returncode, said, self.server.log[-2000:],
            )  # fmt: skip
            self.counts["programs that a bad road kept from starting"] += 1
            return
        self.programs.append(Program(process, road))

    def one(self) -> Program | None:
        if not self.programs:
            return None
        return self.programs.pop(self.chance.randrange(len(self.programs)))

    def stop_program(self) -> None:
        if (program := self.one()) is not None:
            self.finish(program)

    def finish(self, program: Program) -> None:
        try:
            _, said = program.process.communicate("\n", timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            program.process.kill()
            program.process.communicate()
            raise AssertionError(f"a program over {program.road} hangs") from None
        status = program.process.returncode
        self.counts[f"programs that ended with {status}"] += 1
        allowed = (0, CALL_FAILED, -signal.SIGKILL) if program.hurt else (0,)
        assert status in allowed, (program.road, status, said, self.server.log[-2000:])

    def kill_program(self) -> None:
        if (program := self.one()) is not None:
            program.process.kill()
            program.process.communicate()

    def kill_worker(self) -> None:
        if not self.programs:
            return
        victim = self.chance.choice(self.programs)
        for worker, pid in self.server.workers().items():
            if pid == victim.pid and started(worker) == self.logged.get(worker):
                victim.hurt = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)

    def kill_helper(self) -> None:
        if found := helpers({program.pid for program in self.programs}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(found), signal.SIGKILL)

    # ---- servers and stores ----

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.look()
        if self.locked is not None or self.storeless:
            for program in self.programs:  # the next server may not know of them
                program.hurt = True
        if self.storeless and self.etcd_is_back:
            self.disturb_etcd()  # without the one and the other no server starts
        self.server.process.send_signal(number)
        self.server.process.wait(60)
        if self.chance.random() < 0.3:
            self.kill_program()  # while nobody looks
        self.unlock_store(dead=True)
        self.storeless = False
        self.server = self.start_server()
        self.logged.clear()
        self.aim()

    def leave(self) -> None:
        self.restart(signal.SIGUSR2)

    def lock_store(self) -> None:
        """Somebody else has the store for themselves, until the next step."""
        self.unlock_store()
        self.locked = sqlite3.connect(self.state / STORE, timeout=30, isolation_level=None)
        self.locked.execute("BEGIN EXCLUSIVE")

    def unlock_store(self, dead: bool = False) -> None:
        locked, self.locked = self.locked, None
        if locked is not None:
            locked.execute("ROLLBACK")
            locked.close()
        if locked is not None and not dead and not self.storeless:
            # What could not be written is written now.
            until(lambda: self.server.log.count(AGAIN) == self.server.log.count(LOST), 60)

    def remove_store(self) -> None:
        """The files are gone: what runs goes on, and a restart would not know of it."""
        for path in self.state.glob(f"{STORE}*"):
            path.unlink(missing_ok=True)
        self.storeless = True

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

    def left_in_etcd(self) -> list[str]:
        assert self.etcd is not None
        return [
            key
            for key in self.etcd.found()
            if "/lease/" in key or key.startswith("fdcore/usage/")
        ]

    # ---- roads ----

    def cut(self) -> None:
        self.proxies["data"].cut()  # it is survived

    def cut_control(self) -> None:
        self.proxies["control"].cut()

    def corrupt(self) -> None:
        self.proxies["data"].corrupt += 1  # it is noticed, and sent again

    def corrupt_control(self) -> None:
        self.proxies["control"].corrupt += 1

    def delay(self) -> None:
        """Until the next one: of each piece up to so long."""
        for proxy in self.proxies.values():
            proxy.delay = self.chance.choice([0.0, 0.0, 0.002, 0.02])

    def step(self) -> None:
        steps = {
            self.start_program: 7, self.stop_program: 2, self.kill_program: 2,
            self.kill_worker: 1, self.kill_helper: 1, self.restart: 2, self.leave: 1,
            self.lock_store: 1, self.remove_store: 0.5, self.delay: 1, self.cut: 1,
            self.cut_control: 0.5, self.corrupt: 1, self.corrupt_control: 0.5,
        }  # fmt: skip
        if self.etcd:
            steps[self.disturb_etcd] = 4
        taken = self.chance.choices(list(steps), list(steps.values()))[0]
        self.counts[taken.__name__] += 1
        self.steps.append(taken.__name__)
        before = self.locked
        taken()
        if before is not None and before is self.locked:
            self.unlock_store()
        self.look()
        # Never more promised than there is, never less than what runs has.
        held = DEVICES * MEMORY_MB - sum(self.server.free())
        alive = sum(p.process.poll() is None and not p.hurt for p in self.programs)
        assert held >= alive * SLICE_MB, (held, alive)

    # ---- the end of a run ----

    def look(self) -> None:
        for worker in self.server.workers():
            if worker not in self.logged:
                self.logged[worker] = started(worker)
        ours = {(pid, started(pid)) for pid in below(self.server.process.pid)}
        self.seen |= ours | set(self.logged.items())

    def orphans(self) -> int:
        """Processes of servers that are not there any more. A zombie is nobody: when it
        goes is up to the machine's first process."""
        ours = set(below(self.server.process.pid))
        return sum(
            pid not in ours and started(pid) == start for pid, start in self.seen if start
        )

    def settled(self) -> Tally:
        """The server when it has been quiet for a moment, its spare workers ready."""
        last: list[Tally] = []

        def quiet() -> bool:
            now = tally(self.server.process.pid, len(self.server.leases()), self.server.free())
            last.append(now)
            return len(last) > 2 and last[-2] == now == last[-3] and now.processes > 2

        until(quiet, SETTLE_SECONDS)
        return last[-1]

    def left(self) -> str:
        """What is more than it was at first; nothing, in the end. The server is asked
        last: who asks has a connection there, and for a moment longer than the answer."""
        now = tally(self.server.process.pid, 0, list(self.base.free))
        words = [now.over(self.base)] if now.over(self.base) else []
        if sockets := list((self.state / "workers").iterdir()):
            words.append(f"{len(sockets)} sockets of workers")
        if held := helpers(self.served):
            words.append(f"{len(held)} fdholds")
        if orphans := self.orphans():
            words.append(f"{orphans} processes of servers that have gone")
        if (self.state / STORE).exists():
            store = Sqlite(self.state / STORE)
            if rows := store.rows(LEASE):
                words.append(f"{len(rows)} leases in the store")
            store.close()
        if not words:
            leases, free = self.server.leases(), self.server.free()
            self.now = replace(now, leases=len(leases), free=tuple(free))
            words.append(self.now.over(self.base))
            if self.etcd and (rows := self.left_in_etcd()):
                words.append(f"{len(rows)} rows in etcd")
        return ", ".join(filter(None, words))

    def settle(self) -> None:
        self.unlock_store()
        for proxy in self.proxies.values():
            proxy.delay, proxy.corrupt = 0.0, 0
        programs, self.programs = self.programs, []
        for program in programs:
            self.finish(program)
        self.look()
        if self.etcd_is_back:
            self.disturb_etcd()
        self.await_baseline()
        self.steps.clear()
        self.seen.clear()
        self.served.clear()

    def await_baseline(self) -> None:
        begun = time.monotonic()
        waits = Waits()
        said, seen = "not looked", []
        while said and time.monotonic() < begun + SETTLE_SECONDS:
            alive = [pid for pid, start in self.seen if started(pid) == start]
            waits.look([os.getpid(), self.server.process.pid, *alive])
            time.sleep(0.02)
            was, said = said, self.left()
            if was != said:
                seen.append(f"{time.monotonic() - begun:.2f} s: {said or 'nothing'}")
        took = time.monotonic() - begun
        self.took.append(took)
        self.busy.append(waits.seconds)
        if said:
            self.over.append(f"{said}; {dict(kinds(self.server.process.pid))}")
        if took - waits.seconds > BASELINE_SECONDS:
            self.late.append("\n    ".join([" ".join(self.steps), *seen]))

    def close(self) -> None:
        self.unlock_store()
        for program in self.programs:
            program.process.kill()
            program.process.communicate()
        self.server.stop()
        for proxy in self.proxies.values():
            proxy.close()


def came_up(process: "subprocess.Popen[str]", seconds: float) -> bool:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return False
    return process.stdout.readline() == "up\n"


def helpers(pids: set[int]) -> list[int]:
    """The fdholds of these programs."""
    return [
        pid for pid, words in processes()
        if words[0] == b"fdhold" and words[2].isdigit() and int(words[2]) in pids
    ]  # fmt: skip


@contextlib.contextmanager
def chaos(seed: int, etcd: Etcd | None) -> Iterator[Chaos]:
    with tempfile.TemporaryDirectory(prefix="fd") as folder:
        made = Chaos(Path(folder), seed, etcd)
        try:
            yield made
        finally:
            made.close()


def run(
    seed: int, runs: int, steps: int, told: bool = False, etcd: Etcd | None = None
) -> Chaos:
    with chaos(seed, etcd) as made:
        try:
            for number in range(runs):
                for _ in range(steps):
                    made.step()
                made.settle()
                if told:
                    took = took_text(made.took[-1], made.busy[-1])
                    print(f"run {number + 1}: {took} to the baseline: {made.now}", flush=True)
                assert not made.over, (made.over, made.server.log[-3000:])
        finally:
            if told:
                print(report(made), flush=True)
        return made


def test_random_kills_leave_nothing_behind() -> None:
    run(seed=6, runs=2, steps=15)


def test_random_ends_of_etcd_leave_nothing_behind(own_etcd: Etcd) -> None:
    run(seed=3, runs=1, steps=12, etcd=own_etcd)


def report(made: Chaos) -> str:
    lines = [f"  {name}: {count}" for name, count in sorted(made.counts.items())]
    if not made.took:
        return "\n".join([*lines, "  no run came to its end"])
    slow = sum(took > BASELINE_SECONDS for took in made.took)
    lines += [
        f"  to the baseline: {statistics.median(made.took):.2f} s, "
        f"{max(made.took):.2f} at most; {histogram(made.took)}",
        f"  over {BASELINE_SECONDS:g} s: {slow} of {len(made.took)} runs; {len(made.late)} "
        "also without what they waited for a processor",
        *(f"    {each}" for each in made.late),
        f"  baseline: {made.base}",
        f"  left over: {'; '.join(made.over) or 'nothing'}",
    ]
    return "\n".join(lines)


def took_text(took: float, busy: float) -> str:
    waiting = f" ({busy:.2f} waiting for a processor)" if took > BASELINE_SECONDS else ""
    return f"{took:.2f} s{waiting}"


def histogram(took: Sequence[float]) -> str:
    words, last = [], 0.0
    for bound in (0.25, 0.5, 1.0, 2.0, 4.0, SETTLE_SECONDS + 10):
        count = sum(last < each <= bound for each in took)
        if count:
            words.append(f"{count} in {last:g} to {bound:g} s")
        last = bound
    return ", ".join(words)


def main() -> int:
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("--seed", type=int, default=int(time.time()))
    reader.add_argument("--runs", type=int, default=10)
    reader.add_argument("--steps", type=int, default=15)
    reader.add_argument("--etcd", action="store_true")
    given = reader.parse_args()
    print(f"seed {given.seed}, {given.runs} runs of {given.steps} steps", flush=True)
    with tempfile.TemporaryDirectory(prefix="etcd") as folder:
        etcd = make_etcd(Path(folder)) if given.etcd else None
        try:
            made = run(given.seed, given.runs, given.steps, told=True, etcd=etcd)
        finally:
            if etcd:
                etcd.kill()
    return 1 if made.late else 0


if __name__ == "__main__":
    sys.exit(main())
