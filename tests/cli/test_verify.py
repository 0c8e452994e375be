"""health --verify: passes on the CPU device over each road, and finds planted faults."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from fdcore_cli import pool

from fdcore import launch, verification
from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.config import Servers, parse_address
from fdcore.pools import look
from fdcore.reserve import Wish
from fdcore.sched.slices import MIB, Ask
from fdcore.trial import Child
from fdcore.verification import NO_NUMBA, Heard, Plan, bar, verify
from fdcore.verify.__main__ import lacks
from fdcore.verify.bench import NAMES, Bench, TimeOver
from tests.support import start_server, until

FLEXDIRECT = [sys.executable, "-m", "fdcore_cli.flexdirect"]
FLIP_AT = 0x100008
# Nothing here is about time: machines of tests are slow.
PATIENT = Plan(seconds=300, stall=240, memory=8 * MIB, seed=7)
NAME = "copies to the GPU"

pytestmark = pytest.mark.timeout(400)
numba = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numpy", "numba")),
    reason="numba is not installed (the extra verify)")  # fmt: skip


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A server of one CPU device."""
    running = start_server(tmp_path_factory.mktemp("fd"), devices=1)
    yield running
    running.stop()


@pytest.fixture
def verified(monkeypatch):
    """verify() of a part of a server's GPU over tcp, in its environment."""

    def run(server, plan):
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wish = Wish(Ask(memory=96 * MIB), [parse_address(server.control)], road="tcp")
        return {check.name: check for check in verify(wish, plan)}

    return run


@numba
def test_everything_passes_on_the_cpu_device(single, transport):
    before = single.free()
    done = subprocess.run(
        [*FLEXDIRECT, "health", "--verify", "-m", "64", "-l", single.control,
         "--transport", transport, "--format", "json"],
        env=single.environment, capture_output=True, text=True, timeout=300)  # fmt: skip
    rows = [row for row in json.loads(done.stdout) if row["host"].endswith(" GPU 0")]
    found = {row["check"]: row for row in rows}
    assert found.keys() == {"verification", *NAMES}
    assert found["verification"]["found"] == f"over {transport}"
    # Where there was not time enough it says so.
    assert {row["state"] for row in rows} <= {PASS, MARGINAL}, rows
    assert found["memory patterns"]["state"] == PASS, rows
    assert done.returncode == 0
    until(lambda: single.free() == before)


# ---- faults that are planted ----


@numba
def test_a_device_that_flips_one_bit_is_found_and_the_bit_named(make_server, verified):
    server = make_server(devices=1, FD_CPU_FAULT=str(FLIP_AT))
    found = verified(server, replace(PATIENT, only="memory patterns"))
    check = found["memory patterns"]
    assert check.state == FAIL and check.cure
    assert f"bit 3 of 1 word differs, the first at {FLIP_AT:#x}" in check.found
    assert f"and {7 - 3} more" in check.found  # in all patterns


class BadLink:
    """A proxy in front of a data port. What is damaged is damaged once: a byte of what a
    client sends, where it has sent so many."""

    def __init__(self, port, damage, where=3_500_000):
        self.target, self.damage, self.where = ("127.0.0.1", port), damage, where
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.done = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
                for one, other, up in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self.pump, args=(one, other, up), daemon=True).start()

    def pump(self, one, other, up):
        seen = 0
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 16):
                at = self.where - seen
                seen += len(piece)
                if up and not self.done and 0 <= at < len(piece):
                    self.done = True
                    piece = self.damage(piece, at)
                other.sendall(piece)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def changed(piece, at):
    return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]


def lost(piece, at):
    return piece[:at] + piece[at + 100 :]


@pytest.fixture
def over_bad_link(monkeypatch):
    """Data connections of what is leased from now on go through a bad link."""
    links = []

    def make(damage):
        lines = launch.session_lines

        def bad(grant, wanted):
            links.append(BadLink(grant.port, damage))
            return lines(replace(grant, port=links[-1].port), wanted)

        monkeypatch.setattr(launch, "session_lines", bad)
        return links

    yield make
    for link in links:
        link.listener.close()


@numba
def test_a_link_that_changes_a_byte_is_found_by_the_checksum(single, verified, over_bad_link):
    links = over_bad_link(changed)
    check = verified(single, replace(PATIENT, only=NAME))[NAME]
    assert links[0].done
    assert check.state == FAIL and "look at the network" in check.cure
    assert "the checksum is wrong, 1 bytes differ, the first is" in check.found


@numba
def test_a_link_that_loses_bytes_is_found(make_server, verified, over_bad_link):
    """Sealed, the loss itself is noticed. In the open what was lost is waited for, which
    is a check that hangs, below."""
    server = make_server(devices=1, FD_ENCRYPT="1", FD_RECONNECT="0")
    links = over_bad_link(lost)
    check = verified(server, replace(PATIENT, only=NAME))[NAME]
    assert links[0].done
    assert check.state == FAIL and "look at the network" in check.cure, check


# ---- what stands in the way ----


def heard_from(code, stall=60.0):
    told = []
    child = Child([sys.executable, "-c", code], {})
    heard = Heard(lambda *what: told.append(what))
    try:
        for line in child.lines(stall, time.monotonic() + 200):
            heard.take(line)
        return heard.checks(child, Plan(stall=stall)), told
    finally:
        child.close()


def test_a_check_that_hangs_is_named():
    said = '{"at": "atomics", "share": 0.5, "what": ""}'
    checks, told = heard_from(f"import time; print('{said}', flush=True); time.sleep(600)", 3.0)
    # Where Python's own start took longer than that, it is the start that is named.
    assert [check.state for check in checks] == [FAIL]
    assert checks[0].name == (told[-1][0] if told else "start")
    assert "nothing was heard for 3 s" in checks[0].found


def test_a_program_that_breaks_off_is_told_with_its_last_words():
    checks, _ = heard_from("""if 1:
        import sys
        print('{"check": "atomics", "state": "PASS", "found": "all", "turn": 1}')
        print('no JSON, from some library')
        print('{"at": "reductions", "share": 0, "what": ""}')
        sys.exit("the device is on fire")
        """)
    assert [(check.state, check.name) for check in checks] == [
        (PASS, "atomics"), (FAIL, "reductions")]  # fmt: skip
    assert checks[1].found == "the program broke off: the device is on fire"


def test_the_worst_of_several_turns_is_kept():
    row = '{"check": "atomics", "state": "%s", "found": "%s", "turn": %d}'
    rows = [row % (PASS, "all", 1), row % (FAIL, "half", 2), row % (PASS, "all", 3),
            '{"turns": 3, "seed": 1}']  # fmt: skip
    checks, _ = heard_from("\n".join(f"print('{line}')" for line in rows))
    assert [(check.state, check.found) for check in checks] == [
        (FAIL, "half (turn 2)"), (PASS, "3 with other numbers each")]  # fmt: skip


def test_a_missing_extra_is_one_line_with_the_cure(single, verified, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        verification.importlib.util, "find_spec",
        lambda name: None if name == "numba" else real(name))  # fmt: skip
    (check,) = verified(single, PATIENT).values()
    assert (check.state, check.found, check.cure) == (FAIL, "numba is not installed", NO_NUMBA)
    checks, _ = heard_from('print(\'{"missing": "no NVVM"}\')')
    assert checks[0].state == FAIL and "no NVVM" in checks[0].found and checks[0].cure == NO_NUMBA


def test_a_library_that_numba_lacks_is_no_fault_of_the_gpu():
    class NvvmSupportError(Exception):
        pass

    def raised(first, then=None):
        try:
            try:
                raise first
            except Exception as error:
                raise (then or error) from error
        except Exception as error:
            return error

    assert lacks(raised(NvvmSupportError("libNVVM cannot be found")))
    assert lacks(raised(ImportError("no module"), RuntimeError("while compiling")))
    assert not lacks(raised(RuntimeError("CUDA_ERROR_LAUNCH_FAILED")))


def test_localhealth_verifies_through_a_server_of_its_own(single, monkeypatch, capsys):
    for name, value in single.environment.items():
        monkeypatch.setenv(name, value)
    asked = []

    def server(seen, road, plan, memory, terminal):
        asked.append((seen.pool.gpus[0].name, plan, memory))
        return [("here GPU 0", [Check(PASS, "atomics", "exact")])]

    monkeypatch.setattr(verification, "server", server)
    assert pool.main("localhealth", ["--verify=5m", "-m", "64", "--format", "csv"]) == 0
    assert "here GPU 0,PASS,atomics,exact," in capsys.readouterr().out
    assert asked == [("fdcore CPU device", Plan(300.0, again=True), 64 * MIB)]


def test_a_gpu_in_use_is_left_alone_and_said(single, verified):
    (seen,) = look(Servers((parse_address(single.control),)), 30)
    plenty = replace(seen, pool=replace(seen.pool, free={0: 2 * MIB}))
    ((where, (check,)),) = verification.server(plenty, "tcp", PATIENT, 0, False)
    assert where == f"{single.control} GPU 0"
    assert check.state == MARGINAL and check.found == "2 MiB are free, 64 MiB are needed"
    ((_, (check,)),) = verification.server(plenty, "tcp", PATIENT, 4096 * MIB, False)
    assert check.state == MARGINAL and "no lease" in check.found


def test_time_that_is_over_ends_a_check():
    said = []
    bench = Bench(10.0, 1, say=said.append, clock=iter([1.0, 1.01, 2.0, 10.0]).__next__)
    bench.at(0.0)
    bench.at(0.1)  # too soon after the last to be told
    bench.at(0.5)
    with pytest.raises(TimeOver):
        bench.at(0.6)
    assert [row["share"] for row in said] == [0.0, 0.5]


def test_the_bar_fills_a_line():
    assert bar("here GPU 0", 0.5, "atomics", 60) == (
        "here GPU 0 [############............] atomics".ljust(60))  # fmt: skip
    assert len(bar("x" * 200, 2.0, "")) == 79
