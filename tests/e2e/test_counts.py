"""What calls cost in things that can be counted: messages, waits, bytes, system calls and
instructions. No clock is looked at, so these hold on any machine, however busy.

The values are in bench/baselines/counts.json. FD_COUNTS=write writes what is found there;
that is a commit of its own, which says why it changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROADS, ROOT, Run, Server, build_c, run

BASELINE = ROOT / "bench" / "baselines" / "counts.json"
WRITE = os.environ.get("FD_COUNTS") == "write"
# Below 256 calls on a stream, where flow control would add a message.
FEW, MANY = 16, 80
COUNTED = ("messages", "waits", "bytes_sent", "bytes_received")
WHAT = ("launch1", "launch6", "launch20", "sync", "wait", "event", "order", "make", "alloc",
        "write", "read", "up", "down", "pinup", "set", "ask", "load", "graph")
# Whether news of an end comes first, and how many pieces one note tells of, is a matter of
# time: the baseline has the most that these cost.
AT_MOST = ("event", "up", "down")
# A road that costs what another one does.
LIKE = {"rdma": "tcp"}
# Where a thread looks for an answer: how often depends on who is quicker.
LOOKING = re.compile(
    r":(data_ready|wait_for|look_quickly|fdc_pause|spin_for|fdc_spin_\w+|"
    r"fdc_ring_(peek|quick|soon|wait\w*)|fdc_link_(peek|quick|soon|wait\w*)|wait_word|shm_\w+|"
    r"drain|take_all|try_lead|lead|lead_on|left_us|fdc_futex_wait|fdc_now_ns|syscall|"
    r"\w*clock_gettime\w*|\w*sched_yield\w*|(fdc_)?intake_until|wake_changed|"
    r"\w*pthread_mutex_(un)?lock\w*)\b")
# Start-up differs a little from run to run, and more calls than these meet flow control.
INSTRUCTION_CALLS = 224
LAUNCH_MAY_DIFFER, WAIT_MAY_DIFFER = 0.08, 0.35

pytestmark = pytest.mark.cpu_device


def baseline() -> dict[str, Any]:
    return dict(json.loads(BASELINE.read_text())) if BASELINE.exists() else {}


def agree(section: str, name: str, found: Any, within: float = 0.0) -> None:
    known = baseline()
    if WRITE:
        known.setdefault(section, {})[name] = found
        BASELINE.parent.mkdir(exist_ok=True)
        BASELINE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    wanted = known[section][name]
    if within:
        assert found <= (1 + within) * wanted, (
            f"{section} {name}: {found}, in the baseline {wanted}")
    else:
        assert found == wanted, f"{section} {name}"


def session(remote: Run, file: Path, road: str, what: str, count: int) -> dict[str, int]:
    done = remote(build_c("counted"), what, str(count), road=road,
                  env={"FD_STATS_FILE": str(file)})
    assert done.out == "PASS\n", done.out + done.err
    told = json.loads(file.read_text())["sessions"][0]
    file.unlink()
    return dict(told)


@pytest.fixture(scope="module")
def warm(server: Server) -> None:
    """Every image has been sent once: what a first run sends is not what is counted."""
    for what in WHAT[:3]:
        assert run(server.command(build_c("counted"), what, "1"), {}).out == "PASS\n"
    assert run(server.command(build_c("counted"), "load", "1"), {}).out == "PASS\n"


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("what", WHAT)
def test_counts_of_a_call(what: str, road: str, remote: Run, tmp_path: Path) -> None:
    few = session(remote, tmp_path / "stats", road, what, 1 if what in AT_MOST else FEW)
    many = session(remote, tmp_path / "stats", road, what, MANY)
    found = {}
    for name in COUNTED:
        if what in AT_MOST:
            # The one call of the short session may have been cheaper than most.
            most = baseline()[LIKE.get(road, road)][what][name] * MANY
            assert many[name] - few[name] <= most, name
            continue
        each, rest = divmod(many[name] - few[name], MANY - FEW)
        assert rest == 0, f"{name} differs from call to call: {few[name]}, {many[name]}"
        found[name] = each
    if found:
        agree(LIKE.get(road, road), what, found)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("what", ("launch6", "set", "order"))
def test_no_system_call_for_a_call_that_nobody_waits_for(
    what: str, server: Server, tmp_path: Path
) -> None:
    """Over shared memory. A worker that has gone to sleep has to be woken, so a few are
    allowed; one a call would be 200."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace here: system calls are not counted")
    made = []
    for count in (20, 220):
        best = 1 << 30
        for number in range(3):
            file = tmp_path / f"{count}-{number}"
            command = server.command(strace, "-f", "-c", "-o", file, build_c("counted"),
                                     what, str(count))
            done = run(command, {"FD_TRANSPORT": "shm"})
            if "PASS" not in done.out:
                pytest.skip(f"strace cannot trace here: {done.err.splitlines()[:1]}")
            # "100.00 seconds usecs/call calls errors total"
            total = re.search(r"^100\.00.*\btotal$", file.read_text(), re.M)
            assert total is not None
            best = min(best, int(total.group().split()[3]))
        made.append(best)
    assert made[1] - made[0] < 100


def compiler() -> str:
    said = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def instructions(server: Server, file: Path, what: str, count: int) -> int:
    done = run(server.command(
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={file}", build_c("counted"),
        what, str(count)), {"FD_TRANSPORT": "shm"})
    if "PASS" not in done.out:
        pytest.skip(f"callgrind cannot run here: {done.err.splitlines()[-1:]}")
    said = subprocess.run(["callgrind_annotate", "--threshold=100", "--auto=no", file], text=True,
                          capture_output=True, check=True).stdout
    rows = re.findall(r"^ *([\d,]+) \([ \d.]+%\)  (.+)$", said, re.M)
    return sum(int(cost.replace(",", "")) for cost, where in rows
               if "PROGRAM TOTALS" not in where and not LOOKING.search(where))


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("what", ("launch6", "launch20", "sync"))
def test_instructions_of_a_call(what: str, server: Server, tmp_path: Path) -> None:
    """The client's, without what it does until an answer is there."""
    if shutil.which("valgrind") is None or shutil.which("callgrind_annotate") is None:
        pytest.skip("no valgrind here: instructions are not counted")
    if not WRITE and baseline()["compiler"] != compiler():
        pytest.skip(f"the baseline is of another compiler: {baseline()['compiler']}")
    few, many = (
        min(instructions(server, tmp_path / f"{count}-{i}", what, count) for i in range(3))
        for count in (FEW, FEW + INSTRUCTION_CALLS))
    within = LAUNCH_MAY_DIFFER if what.startswith("launch") else WAIT_MAY_DIFFER
    agree("instructions", what, round((many - few) / INSTRUCTION_CALLS), within)
    if WRITE:
        known = baseline()
        known["compiler"] = compiler()
        BASELINE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
