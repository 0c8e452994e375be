"""GPUs of several servers in one program: as if they were all in this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import (
    BIN,
    MEMORY_MB,
    ROADS,
    Outcome,
    Run,
    Server,
    build_c,
    build_cu,
    run,
)
from tests.support import until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two servers with two devices each, which differ in UUIDs and places on the bus."""
    state = tmp_path_factory.mktemp("pair")
    one = Server(state / "one")
    two = Server(state / "two", env={"FD_CPU_FIRST": "2"})
    yield one, two
    assert (one.stop(), two.stop()) == (0, 0), one.text() + two.text()


@pytest.fixture(autouse=True)
def all_free(pair: tuple[Server, Server]) -> None:
    """A lease ends a moment after its program."""
    until(lambda: [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2)


def command(pair: tuple[Server, Server], *words: str | Path, n: int = 4) -> list[str | Path]:
    servers = ",".join(server.address for server in pair)
    return [BIN / "fdrun", "-n", str(n), "-l", servers, "--", *words]


# The second server by tcp, whatever fdrun wrote.
MIXED = (
    "awk '$1 == \"server\" { n++ } $1 == \"road\" && n == 2 { $2 = \"tcp\" } { print }' "
    '"$FD_SESSION" > "$0" && chmod 600 "$0" && FD_SESSION="$0" exec "$@"'
)


def over(pair: tuple[Server, Server], road: str, *words: str | Path, tmp: Path, n: int = 4,
         env: dict[str, str] | None = None) -> Outcome:
    until(lambda: [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2)
    if road == "mixed":
        words = ("sh", "-c", MIXED, tmp / "session", *words)
        return run(command(pair, *words, n=n), env or {})
    return run(command(pair, *words, n=n), {"FD_TRANSPORT": road, **(env or {})})


def same(direct: Outcome, remoted: Outcome) -> None:
    assert direct.out.splitlines()[-1:] == ["PASS"], direct.out + direct.err
    assert (remoted.out, remoted.status) == (direct.out, 0), remoted.out + remoted.err


@pytest.mark.parametrize("road", (*ROADS, "mixed"))
def test_four_devices_of_two_servers_are_as_four_here(
    road: str, direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    program = build_cu("several_gpus", "-std=c++17")
    same(direct(program, devices=4), over(pair, road, program, tmp=tmp_path))


def test_three_devices_are_two_and_one(
    direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    program = build_cu("several_gpus", "-std=c++17")
    same(direct(program, devices=3), over(pair, "shm", program, tmp=tmp_path, n=3))


@pytest.mark.parametrize("road", (*ROADS, "mixed"))
def test_order_between_servers(
    road: str, direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    program = build_c("between_devices")
    same(direct(program, devices=4), over(pair, road, program, tmp=tmp_path))


@pytest.mark.parametrize("road", (*ROADS, "mixed"))
def test_crosswise_waits(
    road: str, direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    """Both drivers run host functions one by one (FD_CPU_STRICT): no gate may be one."""
    program = build_c("crosswise")
    same(direct(program, devices=4), over(pair, road, program, tmp=tmp_path))


@pytest.mark.parametrize("road", (*ROADS, "mixed"))
def test_many_threads(
    road: str, direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    program = build_c("cross_threads")
    same(direct(program, devices=4), over(pair, road, program, tmp=tmp_path))


def stats_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["sessions"]


@pytest.mark.cpu_device
@pytest.mark.parametrize("road", (*ROADS, "mixed", "encrypted"))
def test_copies_go_over_trunks_and_not_through_the_client(
    road: str, direct: Run, tmp_path: Path
) -> None:
    """The same program with servers that have no trunks sends that many bytes more."""
    program = build_c("trunks")
    here = direct(program, devices=4)
    base = {"FD_ENCRYPT": "1"} if road == "encrypted" else {}
    told = {}
    for trunks in ("1", "0"):
        env = {**base, "FD_TRUNKS": trunks}
        both = (Server(tmp_path / f"one{trunks}", env=env),
                Server(tmp_path / f"two{trunks}", env={**env, "FD_CPU_FIRST": "2"}))
        try:
            same(here, over(both, "tcp" if base else road, program, tmp=tmp_path,
                            env={**base, "FD_STATS_FILE": str(tmp_path / trunks)}))
        finally:
            assert [server.stop() for server in both] == [0, 0]
        told[trunks] = stats_of(tmp_path / trunks)
    said = re.search(r"worth a trunk: (\d+) to 0, (\d+) to 2", here.out)
    assert said is not None
    into = [int(word) for word in said.groups()]
    for number in range(2):
        direct_way, client = told["1"][number], told["0"][number]
        assert direct_way["calls"]["fdcTrunkCopy"]["messages"] > 0
        assert "fdcTrunkCopy" not in client["calls"]
        for which, worth in (("bytes_sent", into[number]),
                             ("bytes_received", into[1 - number])):
            saved = client[which] - direct_way[which]
            assert abs(saved - worth) < worth // 50, (number, which, saved, worth)


@pytest.mark.parametrize("road", ROADS)
def test_reset_of_a_context_that_waits(
    road: str, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    done = over(pair, road, build_c("reset_waiting"), tmp=tmp_path)
    assert (done.out, done.status) == ("PASS\n", 0), done.out + done.err


@pytest.mark.cpu_device
def test_drivers_without_waits_for_values(direct: Run, tmp_path: Path) -> None:
    """Gates are host functions then, which nothing of this program stands crosswise at."""
    program = build_c("between_devices")
    kind = {"FD_CPU_STRICT": "1,novalues"}
    both = Server(tmp_path / "one", env=kind), Server(tmp_path / "two", env=kind)
    try:
        same(direct(program, devices=4), over(both, "shm", program, tmp=tmp_path))
    finally:
        assert [server.stop() for server in both] == [0, 0]


@pytest.mark.cpu_device
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("order", ("", "PCI_BUS_ID", "FASTEST_FIRST"))
def test_visible_devices(
    order: str, road: str, direct: Run, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    program = build_c("list_devices")
    base = {"CUDA_DEVICE_ORDER": order} if order else {}
    everything = over(pair, road, program, tmp=tmp_path, env=base)
    here = direct(program, devices=4, env=base)
    same(here, everything)
    uuids = [line.split()[0] for line in here.out.splitlines() if line.startswith("GPU-")]
    assert len(set(uuids)) == 4
    for visible in ("0", "3,1", "2", "1,9,2", "", "-1,0", uuids[3], uuids[2][:14] + "," + uuids[0],
                    "GPU-6666", "0,x,1"):
        env = {**base, "CUDA_VISIBLE_DEVICES": visible}
        alone = direct(program, devices=4, env=env)
        remoted = over(pair, road, program, tmp=tmp_path, env=env)
        assert (remoted.out, remoted.status) == (alone.out, alone.status), visible


def test_whole_requests_stay_on_one_server(pair: tuple[Server, Server]) -> None:
    done = run(command(pair, "sh", "-c", 'grep -c "^server" "$FD_SESSION"', n=2), {})
    assert done.out == "1\n", done.err
    until(lambda: [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2)
    done = run(command(pair, "sh", "-c", 'grep "^gpus" "$FD_SESSION"', n=3), {})
    assert done.out == "gpus 2\ngpus 1\n", done.err


def free_mib(server: Server) -> int:
    from fdcore.config import parse_address, protocol_hash
    from fdcore.rpc import client

    known = client.gpus(parse_address(server.address), protocol_hash())
    return sum(left for _, left in known) >> 20


def test_more_than_all_have_is_refused_by_all_their_names(pair: tuple[Server, Server]) -> None:
    until(lambda: [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2)
    done = run(command(pair, "true", n=5), {})
    assert done.status == 125
    assert done.err == (
        "fdrun: 5 whole GPUs asked for over all servers, which is more than there is; "
        f"{pair[0].address} has room for 2, {pair[1].address} has room for 2\n"
    )
    assert [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2


def test_leases_of_all_servers_end_with_the_program(pair: tuple[Server, Server]) -> None:
    started = subprocess.Popen(
        [str(word) for word in command(pair, "sh", "-c", "echo up; exec sleep 60")],
        stdout=subprocess.PIPE, text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    assert [free_mib(server) for server in pair] == [0, 0]
    started.kill()
    started.wait()
    started.stdout.close()
    until(lambda: [free_mib(server) for server in pair] == [2 * MEMORY_MB] * 2)


def test_one_that_cannot_be_held_gives_all_back(tmp_path: Path) -> None:
    """The second server's data socket is gone between the reservation and the hold."""
    one, two = Server(tmp_path / "one"), Server(tmp_path / "two")
    try:
        for socket in (tmp_path / "two").glob("*data*"):
            socket.unlink()
        done = run(command((one, two), "true"), {"FD_TRANSPORT": "shm"})
        assert done.status == 125
        assert done.err.startswith(f"fdrun: {two.address}: "), done.err
        assert done.err.count("\n") == 1
        until(lambda: [free_mib(server) for server in (one, two)] == [2 * MEMORY_MB] * 2)
    finally:
        one.stop()
        two.stop()


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("road", ROADS)
def test_lost_worker_is_the_loss_of_its_devices_alone(road: str, tmp_path: Path) -> None:
    program = build_c("lost_server")
    one, two = Server(tmp_path / "one"), Server(tmp_path / "two")
    try:
        started = subprocess.Popen(
            [str(word) for word in command((one, two), program)],
            env={**os.environ, "FD_TRANSPORT": road, "FD_LOG": "off"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert started.stdout is not None and started.stdin is not None
        assert started.stdout.readline() == "both work\n"
        # The worker of the session, and the one that waits for the next.
        for pid in children(two.process.pid):
            os.kill(pid, signal.SIGKILL)
        out, _ = started.communicate("go\n", timeout=60)
        assert out.splitlines()[-1:] == ["PASS"], out
        assert started.returncode == 0
    finally:
        one.stop()
        two.stop()


@pytest.mark.parametrize("way", ("take", "give"))
@pytest.mark.parametrize("road", ROADS)
def test_copy_to_or_from_a_worker_that_is_lost(road: str, way: str, tmp_path: Path) -> None:
    program = build_c("lost_copy")
    one, two = Server(tmp_path / "one"), Server(tmp_path / "two")
    try:
        started = subprocess.Popen(
            [str(word) for word in command((one, two), program, way)],
            env={**os.environ, "FD_TRANSPORT": road, "FD_LOG": "off"}, text=True,
            stdout=subprocess.PIPE,
        )
        assert started.stdout is not None
        assert started.stdout.readline() == "copying\n"
        for pid in children(two.process.pid):
            os.kill(pid, signal.SIGKILL)
        out, _ = started.communicate(timeout=60)
        assert (out, started.returncode) == ("PASS\n", 0), out
    finally:
        one.stop()
        two.stop()
