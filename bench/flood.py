"""What strangers cost who is there already: thousands of connections that say nothing,
on every port, while the pulse of live sessions is taken over each road.

    python -m bench.flood [--connections 10000] [--seconds 5] [--again]

The crowd is a process of its own at lower priority, and comes from ten addresses
of this machine (127.0.0.2 to 127.0.0.11). --again: it opens another connection for each
that the server has closed. Printed are the medians of rounds of a second before
and after, and during the crowd, what the server spent and logged, and whether a newcomer got in.
"""

import argparse
import contextlib
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.many import build, cpu_seconds
from tests.support import Server
from tests.tally import descriptors, memory

ADDRESSES = [f"127.0.0.{n}" for n in range(2, 12)]
ROUND_MS = 1000
QUIET_ROUNDS = 5
IP_BIND_ADDRESS_NO_PORT = 24
LOWER = 10


# ---- the crowd ----


def crowd(ports: Sequence[int], count: int, again: bool, a_second: float = 0) -> None:
    """Opens so many connections and says "all" once; then says how many are open for
    each line that it reads. Runs until its input ends. a_second: 0, as many as it can."""
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.nice(LOWER)
    else:  # everybody else runs under chrt, in place of a quiet machine
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    watch = select.epoll()
    watch.register(sys.stdin, select.EPOLLIN)
    people: dict[int, socket.socket] = {}
    number = 0
    told = False
    began = time.monotonic()

    def come() -> None:
        nonlocal number
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((ADDRESSES[number % len(ADDRESSES)], 0))
        port = ports[number // len(ADDRESSES) % len(ports)]
        number += 1
        sock.connect_ex(("127.0.0.1", port))
        watch.register(sock, select.EPOLLIN)
        people[sock.fileno()] = sock

    def hear(sock: socket.socket) -> None:
        try:
            while sock.recv(4096):  # the server's greeting
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        watch.unregister(sock)
        del people[sock.fileno()]
        sock.close()

    while True:
        for _ in range(10):
            due = not a_second or number < (time.monotonic() - began) * a_second
            if due and (number < count or (again and len(people) < count)):
                come()
        if number >= count and not told:
            print("all", flush=True)
            told = True
        for descriptor, _ in watch.poll(0.001 if again or not told else 0.1, 32):
            if descriptor in people:
                hear(people[descriptor])
            elif sys.stdin.readline():
                print(number, len(people), flush=True)
            else:
                return


# ---- who is there already ----


@dataclass(slots=True)
class Pulse:
    """A live session."""

    process: "subprocess.Popen[str]"
    # Median and p99 of rounds: without a crowd, while it comes, while it is there.
    quiet: list[tuple[int, int]] = field(default_factory=list)
    coming: list[tuple[int, int]] = field(default_factory=list)
    there: list[tuple[int, int]] = field(default_factory=list)

    def begin(self, milliseconds: int = ROUND_MS) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{milliseconds}\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, int]:
        assert self.process.stdout is not None
        _, median, p99, _ = map(int, self.process.stdout.readline().split())
        return median, p99


@contextlib.contextmanager
def pulse(server: Server, program: Path, road: str) -> Iterator[Pulse]:
    process = server.start(
        "-m", "64", str(program), road=road, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    try:
        yield Pulse(process)
    finally:
        process.communicate("")


@dataclass(slots=True)
class Outcome:
    connections: int = 0
    left: int = 0  # when it was over
    opened_after: float = 0.0
    spent: float = 0.0  # CPU seconds of the server
    kib: int = 0
    most_descriptors: int = 0
    most_slice: int = 0  # slice_of() the server
    logged: list[str] = field(default_factory=list)
    newcomers: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def slice_of(pid: int) -> int:
    """In ns, of the process's main thread; 0: the kernel has none to set, or does not
    say it."""
    from fdcore._core.session import time_slice

    if not time_slice(0):
        return 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/sched").read_text().splitlines():
            if line.startswith("se.slice"):
                return int(line.split()[-1])
    return 0


def flood(server: Server, ports: Sequence[int], count: int, seconds: float,
          pulses: dict[str, Pulse], again: bool = False,
          newcomer: Sequence[str] = ("true",), quiet: int = 0) -> Outcome:
    """The crowd comes and stays so long; newcomer: what fdrun is to run meanwhile.
    quiet: rounds before it and after."""
    found = Outcome()
    words = [sys.executable, "-m", "bench.flood", "--crowd", *map(str, ports)]
    words += ["--connections", str(count), *(["--again"] if again else [])]
    take_pulses(pulses, quiet)
    pid = server.process.pid
    spent, kib, logged = cpu_seconds(pid), memory(pid).get("Pss", 0), len(server.log.splitlines())
    begun = time.monotonic()
    people = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert people.stdin is not None and people.stdout is not None
    os.set_blocking(people.stdout.fileno(), False)
    said, until = "", begun + seconds
    while time.monotonic() < until or "all" not in said:
        for one in pulses.values():
            one.begin()
            (one.there if found.opened_after else one.coming).append(one.end())
        if not pulses:
            time.sleep(0.2)
        found.most_descriptors = max(found.most_descriptors, descriptors(pid))
        found.most_slice = max(found.most_slice, slice_of(pid))
        with contextlib.suppress(TypeError):
            said += people.stdout.read() or ""
        if "all" in said and not found.opened_after:
            found.opened_after = time.monotonic() - begun
            until = max(until, time.monotonic() + seconds)
        came = time.monotonic()
        done = server.run("-m", "64", *newcomer, road="tcp")
        found.newcomers.append(time.monotonic() - came)
        if done.returncode:
            found.refused.append(done.stderr)
    found.spent = cpu_seconds(pid) - spent
    found.kib = memory(pid).get("Pss", 0) - kib
    os.set_blocking(people.stdout.fileno(), True)
    people.stdin.write("how many\n")
    people.stdin.flush()
    found.connections, found.left = map(int, people.stdout.readline().split())
    people.stdin.close()
    people.wait(60)
    found.logged = server.log.splitlines()[logged:]
    take_pulses(pulses, quiet)
    return found


def take_pulses(pulses: dict[str, Pulse], rounds: int) -> None:
    for _ in range(rounds):
        for one in pulses.values():
            one.begin()
            one.quiet.append(one.end())


def table(pulses: dict[str, Pulse], found: Outcome) -> str:
    lines = [f"{'':6}{'':26}median us   p99 us   times"]
    for road, one in pulses.items():
        usual = 0.0
        for name, rounds in (
            ("without them", one.quiet), ("while they come", one.coming),
            ("while they are there", one.there),
        ):  # fmt: skip
            if rounds:
                median, p99 = (
                    statistics.median(column) / 1000 for column in zip(*rounds, strict=True)
                )
                usual = usual or p99
                lines.append(f"{road:6}{name:24}{median:11.1f}{p99:9.1f}{p99 / usual:8.2f}")
    crowds = [line for line in found.logged if "127.0.0." in line]
    lines += [
        f"{found.connections} connections, opened in {found.opened_after:.1f} s; "
        f"{found.left} of them are left",
        f"the server spent {found.spent:.2f} s of a CPU and {found.kib} KiB, and had "
        f"{found.most_descriptors} descriptors at most",
        f"{len(crowds)} lines in the log; {len(found.newcomers)} newcomers, "
        f"{len(found.refused)} not let in, {max(found.newcomers):.2f} s at most",
    ]
    return "\n".join(lines + sorted(set(found.refused)))


def port_of(server: Server) -> dict[str, int]:
    from fdcore.config import parse_address, protocol_hash
    from fdcore.rpc import client
    from fdcore.sched.slices import MIB, Ask

    control = parse_address(server.control)
    data = client.reserve(
        control, Ask(memory=MIB), protocol_hash(), "flood", lambda grant: grant.port
    )
    return {"control": control.port, "data": data}


def main() -> int:
    reader = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    reader.add_argument("--connections", type=int, default=10000)
    reader.add_argument("--seconds", type=float, default=5.0)
    reader.add_argument("--again", action="store_true")
    reader.add_argument("--a-second", type=float, default=0.0, help=argparse.SUPPRESS)
    reader.add_argument("--crowd", nargs="+", type=int, help=argparse.SUPPRESS)
    given = reader.parse_args()
    if given.crowd:
        crowd(given.crowd, given.connections, given.again, given.a_second)
        return 0
    from tests.support import start_server

    program = build("pulse")
    with tempfile.TemporaryDirectory(prefix="fd") as folder, contextlib.ExitStack() as opened:
        server = start_server(Path(folder))
        opened.callback(server.stop)
        pulses = {
            road: opened.enter_context(pulse(server, program, road)) for road in ("shm", "tcp")
        }
        ports = port_of(server)
        found = flood(
            server, list(ports.values()), given.connections, given.seconds, pulses,
            given.again, quiet=QUIET_ROUNDS,
        )  # fmt: skip
        print(table(pulses, found))
    return 1 if found.refused else 0


if __name__ == "__main__":
    sys.exit(main())
