"""What a manager is told over the control plane, and as whom it acts."""

import os
import secrets
import signal
import subprocess

import pytest

from fdcore.config import parse_address, protocol_hash
from fdcore.errors import RefusedError
from fdcore.rpc import client, watching
from fdcore.rpc.watching import Key, act, done, enter, lend
from fdcore.sched.slices import MIB, Ask
from tests.support import until

OURS = Key()


def snapshot(server, role="viewer", after=0, sessions=True):
    async def work():
        opening = watching.watch(parse_address(server.unix), protocol_hash(), role, 5)
        async with opening as watched:
            watched.lines = after
            return watched, await watched.look(sessions)

    return client.run(work())


def call(server, method, given, key=OURS, read=done):
    where = parse_address(server.unix)
    return act(where, protocol_hash(), key, 60, method, given, read)


def login(server, role):
    code = secrets.token_bytes(32)
    lend(parse_address(server.unix), protocol_hash(), code, role)
    return enter(parse_address(server.unix), protocol_hash(), code, 60)


@pytest.fixture
def holding(server, demo):
    """A program that has a slice, memory on it, and kernels that run on it for ever."""
    program = server.start("-m", "300", "sleep", "1000", stderr=subprocess.DEVNULL)
    until(lambda: len(snapshot(server)[1].leases) == 1)
    yield program
    program.send_signal(signal.SIGKILL)
    program.wait()
    until(lambda: not snapshot(server)[1].leases)


def test_lease_is_told_with_its_program_and_slices(server, holding):
    watched, seen = snapshot(server)
    (lease,) = seen.leases
    assert watched.who.role == "viewer"
    assert len(watched.server) == 16
    assert lease.program == "sleep"
    assert lease.pid == holding.pid
    assert [part.memory for part in lease.slices] == [300 * MIB]
    assert lease.used == (0,)
    assert seen.pool.since <= lease.since <= seen.at
    assert seen.totals["leases_granted"] >= 1
    assert not seen.pool.draining


def test_memory_and_time_of_kernels_are_told(server, demo):
    before = snapshot(server)[1]
    assert server.run(str(demo)).returncode == 0
    until(lambda: not snapshot(server)[1].leases)
    after = snapshot(server)[1]

    def busy(seen):
        return sum(figures["busy_seconds"] for figures in seen.pool.figures.values())

    assert busy(after) > busy(before)
    assert after.totals["sessions_begun"] == before.totals["sessions_begun"] + 1
    assert after.totals["launches"] > before.totals["launches"]
    assert set(after.pool.used.values()) <= {0}


def test_who_waits_is_told(make_server):
    server = make_server(devices=1)
    first = server.start("sleep", "1000")
    until(lambda: snapshot(server)[1].leases)
    second = server.start("--wait", "-m", "100", "--priority", "7", "sleep", "1000")
    try:
        until(lambda: snapshot(server)[1].queue)
        (waiting,) = snapshot(server)[1].queue
        assert (waiting.program, waiting.memory, waiting.priority) == ("sleep", 100 * MIB, 7)
        assert waiting.seconds >= 0
    finally:
        for process in (second, first):
            process.kill()
            process.wait()


def test_log_is_told_once(server, holding):
    watched, seen = snapshot(server)
    text = "\n".join(line.text for line in seen.log)
    assert "is ready, state in" in text
    assert ": 1 GPU with 300 MiB to" in text
    assert snapshot(server, after=watched.lines)[1].log == ()


def test_viewer_who_was_let_in_sees_and_does_nothing(server, holding):
    who, key = login(server, "viewer")
    assert who.role == "viewer"
    for method, given in (
        ("release", {"id": ""}),
        ("drain", {"on": True}),
        ("setQuota", {"quota": {"user": "ann"}, "drop": False}),
        ("revoke", {"who": "ann"}),
        ("token", {"role": "admin", "seconds": 60, "uses": 1, "whom": ""}),
        ("enrolled", {}),
    ):
        with pytest.raises(RefusedError, match="a viewer may not do that"):
            call(server, method, given, key)
    assert len(call(server, "leases", {}, key, read=list)) == 1


def test_admin_who_was_let_in_ends_a_lease_and_drains(server, holding):
    _, key = login(server, "admin")
    call(server, "drain", {"on": True}, key)
    assert snapshot(server)[1].pool.draining
    call(server, "drain", {"on": False}, key)
    assert not snapshot(server)[1].pool.draining
    (lease,) = snapshot(server)[1].leases
    call(server, "release", {"id": lease.id.hex()}, key)
    assert not snapshot(server)[1].leases


def test_who_was_let_in_reserves_nothing_and_lets_nobody_in(server):
    _, key = login(server, "admin")
    with pytest.raises(RefusedError, match="cannot reserve"):
        call(server, "reserve", {"ask": {"count": 1}}, key)
    with pytest.raises(RefusedError, match="lets nobody in"):
        call(server, "lend", {"hash": bytes(32), "role": "viewer", "seconds": 9}, key)


def test_code_works_once(server):
    code, where = secrets.token_bytes(32), parse_address(server.unix)
    lend(where, protocol_hash(), code, "viewer")
    enter(where, protocol_hash(), code, 60)
    with pytest.raises(RefusedError, match="was used"):
        enter(where, protocol_hash(), code, 60)


def test_user_over_tcp_is_told_of_own_programs_and_no_log(server, holding):
    async def work():
        where = parse_address(server.control)
        async with watching.watch(where, protocol_hash(), "", 5) as watched:
            return watched, await watched.look(False)

    watched, seen = client.run(work())
    assert watched.who.role == "user"
    assert seen.leases == seen.log == ()
    assert seen.pool.gpus


def test_user_over_tcp_is_not_made_a_viewer(server):
    with pytest.raises(RefusedError, match="a user cannot be a viewer"):
        client.run(_watch_as(parse_address(server.control), "viewer"))


async def _watch_as(where, role):
    async with watching.watch(where, protocol_hash(), role, 5):
        pass


def test_reserved_lease_that_ends_is_counted(server):
    before = snapshot(server)[1].totals
    where = parse_address(server.unix)
    client.reserve(where, Ask(memory=MIB), protocol_hash(), f"test {os.getpid()}", id)
    until(lambda: snapshot(server)[1].totals["leases_ended"] > before["leases_ended"])
    after = snapshot(server)[1].totals
    assert after["queue_le_7200"] == before["queue_le_7200"] + 1
