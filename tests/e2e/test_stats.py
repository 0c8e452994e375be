"""FD_STATS and `flexdirect stats`: what is counted, on both sides the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BIN, ROADS, Run, Server, build_c
from tests.support import until

# Copies to the host are waited for by their completion, all else by a reply.
WITHOUT_REPLY = ("fdcCopyDown", "fdcCopy3DDown")
ENDED = re.compile(r"\((\d+) messages, (\d+) waits, (\d+) replies\)")


def counted(remote: Run, file: Path, road: str, what: str, count: int) -> dict[str, Any]:
    done = remote(build_c("counted"), what, str(count), road=road,
                  env={"FD_STATS_FILE": str(file)})
    assert done.out == "PASS\n", done.err
    assert done.err == ""
    (line,) = file.read_text().splitlines()
    file.unlink()
    told = json.loads(line)
    assert told["program"] == "counted"
    return told


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("what", ("launch6", "read", "event", "down", "load"))
def test_client_counts_what_the_worker_counts(
    what: str, road: str, remote: Run, server: Server, tmp_path: Path
) -> None:
    before = len(ENDED.findall(server.text()))
    (session,) = counted(remote, tmp_path / "stats", road, what, 40)["sessions"]
    calls = session["calls"]
    assert session["road"] == road
    assert session["messages"] == sum(call["messages"] for call in calls.values())
    assert session["waits"] == sum(call["waits"] for call in calls.values())
    heard: list[int] = []

    def is_told() -> bool:  # lines of sessions before may come late
        for messages, waits, replies in ENDED.findall(server.text())[before:]:
            if (int(messages), int(waits)) == (session["messages"], session["waits"]):
                heard.append(int(replies))
        return bool(heard)

    until(is_told, 60)
    (replies,) = set(heard)
    done = sum(calls[name]["waits"] for name in WITHOUT_REPLY if name in calls)
    assert session["waits"] - done == replies
    assert session["bytes_sent"] > 32 * session["messages"]
    assert session["bytes_received"] > 40 * replies


def test_calls_without_a_message_are_answered_here(remote: Run, tmp_path: Path) -> None:
    few, many = (counted(remote, tmp_path / "stats", "shm", "ask", n) for n in (10, 110))
    assert many["calls"] - few["calls"] == 200
    assert many["answered_here"] - few["answered_here"] == 200
    assert many["sessions"][0]["messages"] == few["sessions"][0]["messages"]


def test_report_for_people_names_what_waits_most(remote: Run) -> None:
    done = remote(build_c("counted"), "read", "30", env={"FD_STATS": "1"})
    assert done.out == "PASS\n"
    lines = done.err.splitlines()
    assert all(line.startswith("fdcore: ") for line in lines)
    assert re.search(r"most waits: 30 of \d+ by cuMemcpyDtoH", lines[-1])
    assert any("fdcAttach " in line for line in lines)


def test_json_goes_to_standard_error(remote: Run) -> None:
    done = remote(build_c("counted"), "sync", "1", env={"FD_STATS": "json"})
    assert json.loads(done.err)["sessions"][0]["waits"] > 0


@pytest.mark.parametrize("off", ("", "0"))
def test_nothing_is_said_where_it_is_off(off: str, remote: Run) -> None:
    assert remote(build_c("counted"), "sync", "1", env={"FD_STATS": off}).err == ""


@pytest.mark.cpu_device
def test_direct_says_that_there_is_no_session(direct: Run) -> None:
    done = direct(build_c("counted"), "sync", "1", env={"FD_STATS": "1"})
    assert done.out == "PASS\n"
    assert "--direct has no session" in done.err


@pytest.mark.parametrize("road", ROADS)
def test_running_sessions_are_shown(road: str, server: Server) -> None:
    stats = [BIN / "flexdirect", "stats", "-l", server.address]
    environment = {"PATH": "/usr/bin:/bin", "FD_TRANSPORT": road,
                   **{name: os.environ[name] for name in os.environ if name.startswith("UCX_")}}
    until(lambda: "no program" in subprocess.run(stats, check=True, text=True,
                                                 stdout=subprocess.PIPE).stdout)
    command = [str(word) for word in server.command(build_c("counted"), "rest", "1")]
    program = subprocess.Popen(command, env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "rests\n"
        said = subprocess.run([*stats, "--format", "json"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        (session,) = json.loads(said)
        assert (session["program"], session["pid"], session["road"]) == (
            "counted", program.pid, road)
        assert session["calls"]["cuCtxSynchronize"]["waits"] == 2
        assert session["calls"]["fdcAttach"]["seen"] == "attaching"
        waits = sum(call["waits"] for call in session["calls"].values())
        assert session["counters"]["waited"] == waits
        table = subprocess.run(stats, check=True, text=True, stdout=subprocess.PIPE).stdout
        assert table.startswith("SERVER ")
        assert re.search(rf"\d of {waits} waits by ", table)
        rows = subprocess.run([*stats, "--format", "csv"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.splitlines()
        assert len(rows) == 2
        assert rows[0].startswith("server,session,program")
    finally:
        program.communicate("\n", timeout=60)
    assert program.returncode == 0


def test_without_sessions_it_says_so(server: Server) -> None:
    stats = [BIN / "flexdirect", "stats", "-l", server.address]

    def said() -> str:
        return subprocess.run(stats, check=True, text=True, stdout=subprocess.PIPE).stdout

    until(lambda: said() == "no program of yours has a session\n")  # the last one may be ending
