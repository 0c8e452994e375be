"""Shares of one device, and what happens when a side of the road dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, MEMORY_MB, ROADS, Run, Server, build_c, run


@pytest.mark.cpu_device
@pytest.mark.parametrize("road", ROADS)
def test_slice_is_the_limit(road: str, direct: Run, remote: Run) -> None:
    program = build_c("out_of_memory")
    half = MEMORY_MB // 2
    alone = direct(program, str(half), memory=half)
    remoted = remote(program, str(half), road=road, options=("-n", "1", "-m", str(half)))
    assert alone.out.splitlines()[-1] == "PASS", alone.out + alone.err
    assert (remoted.out, remoted.status) == (alone.out, 0), remoted.out + remoted.err


def start(server: Server, *program: str | Path, options: tuple[str, ...], road: str):
    return subprocess.Popen(
        [str(word) for word in server.command(*program, options=options)],
        env={**os.environ, "FD_TRANSPORT": road}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("road", ROADS)
def test_two_programs_share_one_device(road: str, tmp_path: Path) -> None:
    program = build_c("hold_memory")
    server = Server(tmp_path / "server", devices=1)
    mib = MEMORY_MB // 2 - 64
    half = ("-n", "1", "-p", "0.5")
    try:
        one = start(server, program, str(mib), "111", options=half, road=road)
        two = start(server, program, str(mib), "222", options=half, road=road)
        assert first_line(one) == "holding", one.communicate("")
        assert first_line(two) == "holding", two.communicate("")
        third = run(server.command("/bin/true", options=half), {})
        assert third.status == 125, third
        assert "0 MiB free" in third.err or "free" in third.err, third.err
        for process in (one, two):
            out, err = process.communicate("go\n", timeout=60)
            assert process.returncode == 0 and out.strip() == "PASS", out + err
        after = run(server.command("/bin/true", options=half), {})
        assert after.status == 0, after.err
    finally:
        server.stop()


@pytest.mark.parametrize("road", ROADS)
def test_killed_program_frees_its_lease(road: str, tmp_path: Path) -> None:
    program = build_c("hold_memory")
    server = Server(tmp_path / "server", devices=1)
    try:
        holder = start(server, program, "900", "5", options=("-n", "1"), road=road)
        assert first_line(holder) == "holding", holder.communicate("")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 20.0
        while True:
            again = run(server.command("/bin/true"), {})
            if again.status == 0 or time.monotonic() > deadline:
                break
        assert again.status == 0, again.err + server.text()
        taker = start(server, program, "900", "6", options=("-n", "1"), road=road)
        assert first_line(taker) == "holding", taker.communicate("")
        out, err = taker.communicate("go\n", timeout=60)
        assert taker.returncode == 0, out + err
    finally:
        server.stop()


def workers(server: Server) -> list[int]:
    """The worker processes of this server."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status[1]) == server.process.pid and b"fdcore.worker" in words:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("road", ROADS)
def test_killed_worker_is_an_error_and_not_a_hang(road: str, tmp_path: Path) -> None:
    program = build_c("hold_memory")
    server = Server(tmp_path / "server", devices=1)
    try:
        before = set(workers(server))
        holder = start(server, program, "64", "5", options=("-n", "1"), road=road)
        assert first_line(holder) == "holding", holder.communicate("")
        assert workers(server)
        for pid in set(workers(server)) | before:
            os.kill(pid, signal.SIGKILL)
        out, err = holder.communicate("go\n", timeout=30)
        assert holder.returncode == 1, out + err
        assert "CUDA_ERROR" in out, out + err
        after = run(server.command(program, "64", "5"), {"FD_TRANSPORT": road}, feed="go\n")
        assert after.status == 0, after.out + after.err + server.text()
    finally:
        server.stop()


def test_without_a_server_the_program_sees_no_device() -> None:
    program = build_c("hold_memory")
    library = Path(__file__).resolve().parents[2] / "build" / "lib"
    outcome = run([program], {"LD_LIBRARY_PATH": str(library)})
    assert outcome.status == 3, outcome
    assert outcome.out == "cuInit: CUDA_ERROR_NO_DEVICE\n"


def test_nobody_answers() -> None:
    outcome = run([BIN / "fdrun", "-n", "1", "-l", "127.0.0.1:9", "--", "/bin/true"], {})
    assert outcome.status == 125
    lines = [line for line in outcome.err.splitlines() if "127.0.0.1:9" in line]
    assert len(lines) == 1 and "refused" in lines[0].lower(), outcome.err
    assert outcome.out == ""


def test_lost_device_is_reported_with_its_error(remote: Run) -> None:
    program = build_c("illegal_address")
    outcome = remote(program, env={"FD_LOG": "warn"})
    assert outcome.status == 0, outcome.out + outcome.err
    assert "device 0 is lost to this process: CUDA_ERROR_ILLEGAL_ADDRESS" in outcome.err
