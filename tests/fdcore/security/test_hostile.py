"""Strangers on each port: random, oversized and silent. They are refused, logged once a
cause, leave nothing behind, and hold nobody up."""

import contextlib
import errno
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import flood, many
from fdcore import attach
from fdcore.config import parse_address
from fdcore.security import identity
from tests.support import until

SILENT = int(os.environ.get("FD_TEST_SILENT", "1000"))


def descriptors(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def ports(pool, server, tmp_path_factory):
    """Every port there is, of a server of a pool and of one on loopback."""

    def data_port(one, environment):
        code = (
            "import sys\n"
            "from fdcore.config import *\n"
            "from fdcore.rpc import client\n"
            "from fdcore.sched.slices import Ask\n"
            "client.reserve(parse_address(sys.argv[1]), Ask(memory=1 << 20),\n"
            "    protocol_hash(), 'x', lambda grant: print(grant.port))\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, one.control],
            env=one.environment | environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        return int(said.stdout)

    pool.join("surveyor")
    return {
        "tls": (pool.server, pool.address.port),
        "data": (pool.server, data_port(pool.server, pool.environment("surveyor"))),
        "plain": (server, parse_address(server.control).port),
    }


def throw(port, data):
    """Sends what it can, and reads until the other side has had enough."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 10) as sock,
    ):
        sock.settimeout(10)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


def some_bytes():
    greeting = attach.REQUEST.pack(
        attach.MAGIC, 1, 2, 1, 1, 0, bytes(16), bytes(16), bytes(32), bytes(32), bytes(32), b"x"
    )  # fmt: skip
    client_hello = bytes.fromhex("160301") + (512).to_bytes(2, "big") + bytes.fromhex("010001fc0303")
    capnp = bytes.fromhex("00000000 02000000 00000000 01000100")
    return st.one_of(
        st.binary(max_size=2000),
        st.binary(max_size=600).map(lambda rest: greeting[:64] + rest),
        st.binary(max_size=600).map(lambda rest: client_hello + rest),
        st.binary(max_size=600).map(lambda rest: capnp + rest),
        st.integers(1, 1 << 31).map(lambda n: (n).to_bytes(4, "little") * 8),
    )


@pytest.mark.parametrize("name", ["tls", "data", "plain"])
def test_random_bytes_harm_nobody(ports, name):
    server, port = ports[name]
    before = descriptors(server)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(some_bytes())
    def throws(data):
        throw(port, data)

    throws()
    assert len(server.free()) == 2
    until(lambda: descriptors(server) <= before + 2, 40)


@pytest.mark.parametrize("name", ["tls", "data", "plain"])
def test_more_bytes_than_anybody_needs_are_not_taken(ports, name):
    """64 MiB that never make sense: the memory of the server does not grow by them."""
    server, port = ports[name]

    def resident():
        lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    before = resident()
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 10) as sock,
    ):
        sock.settimeout(10)
        for _ in range(64):
            sock.sendall(b"\x7f" * (1 << 20))
    assert len(server.free()) == 2
    assert resident() < before + 32 * 1024


def minutes(began):
    """So many that have begun since then: who goes on is told of once in each."""
    return 1 + int((time.monotonic() - began) / 60)


def silent_from(host, port, count):
    """So many connections that are opened and say nothing."""
    opened = []
    for _ in range(count):
        sock = socket.socket()
        sock.bind((host, 0))
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        opened.append(sock)
        if len(opened) % 100 == 0:
            time.sleep(0.01)
    return opened


@pytest.mark.parametrize("name", ["tls", "data", "plain"])
def test_silent_crowd_is_logged_once_and_holds_nobody_up(ports, name, pool, demo):
    server, port = ports[name]
    began = time.monotonic()
    before, logged = descriptors(server), len(server.log.splitlines())
    crowd = silent_from("127.0.0.3", port, SILENT)
    try:
        # A whole program in the midst of it: control, hold, session.
        env = pool.environment("surveyor") if server is pool.server else {}
        done = subprocess.run(
            [sys.executable, "-m", "fdcore_cli.fdrun", "-l", server.control, str(demo)],
            env=server.environment | env | {"FD_TRANSPORT": "tcp"},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert descriptors(server) < before + 700
        # All but a few have been closed by the server.
        until(lambda: sum(ended(sock) for sock in crowd) > SILENT - 300, 30)
    finally:
        for sock in crowd:
            sock.close()
    until(lambda: descriptors(server) <= before + 4, 40)
    fresh = [line for line in server.log.splitlines()[logged:] if "127.0.0.3" in line]
    assert 1 <= len(fresh) <= 6 * minutes(began), fresh


def ended(sock):
    try:
        while sock.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno != errno.ENOTCONN


def test_half_a_tls_handshake_is_not_waited_for(pool):
    context = identity.joining_context(None)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=None)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(("127.0.0.1", pool.address.port), 10) as sock:
        sock.settimeout(20)
        sock.sendall(outgoing.read()[:100])
        assert sock.recv(1) == b""


def test_one_user_does_not_take_every_connection(server):
    opened = []
    path = server.unix.removeprefix("unix:")
    while len(opened) < 400:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        try:
            sock.connect(path)
            opened.append(sock)
        except BlockingIOError:  # the queue is full
            time.sleep(0.01)
    assert len(server.free()) == 2
    for sock in opened:
        sock.close()
    del sock, opened
    assert len(server.free()) == 2  # while they all go


def test_ten_thousand_that_say_nothing_cost_little_and_hold_nobody_up(make_server, demo):
    """From ten addresses, at the control and the data port. What runs computes on, who
    comes is served, and in the end the server has what it had."""
    server = make_server()
    began = time.monotonic()
    program = many.build("pulse")
    with contextlib.ExitStack() as opened:
        pulses = {
            road: opened.enter_context(flood.pulse(server, program, road))
            for road in ("shm", "tcp")
        }
        ports = list(flood.port_of(server).values())
        before, usual = descriptors(server), flood.time_slice(server.process.pid)
        found = flood.flood(server, ports, 10000, 2.0, pulses, newcomer=[str(demo)])
        assert found.connections == 10000
        # In every round both sessions have checked each of their results.
        for one in pulses.values():
            assert len(one.coming) + len(one.there) == len(found.newcomers)
        assert found.refused == []
        assert found.most_descriptors < before + 512 + 256 + 100
        assert found.kib < 32 * 1024
        # Whoever else wanted its processor went first, as long as they were there.
        assert found.most_slice > usual or not usual
        until(lambda: flood.time_slice(server.process.pid) == usual, 60)
        until(lambda: descriptors(server) <= before + 4, 60)
    crowds = [line for line in found.logged if "127.0.0." in line]
    # Of each address at each port: a crowd, and silence.
    assert 1 <= len(crowds) <= 40 * minutes(began), crowds
