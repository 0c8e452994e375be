"""Strangers on each port: random, oversized and silent. They are refused, logged once a
cause, leave nothing behind, and harm no session that is there."""

import contextlib
import errno
import importlib.util
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import flood, many
from fdcore import attach
from fdcore.config import parse_address, protocol_hash
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from fdcore.security import identity
from tests.fdcore.web.browsing import Manager, start_manager
from tests.support import Server, until

SILENT = int(os.environ.get("FD_TEST_SILENT", "1000"))
NAMES = ["tls", "data", "plain", "web"]
WITHIN = ["tls within", "web within"]  # TLS that is spoken as it should be
# Kinds of warnings that a process makes in a minute, and the two lines about the rest.
CAUSES = 32


@dataclass
class Port:
    number: int
    server: Server  # whose sessions are not to be harmed
    owner: Server | Manager  # who answers there
    within: ssl.SSLContext | None = None
    began: float = field(default_factory=time.monotonic)
    logged: int = field(init=False)

    def __post_init__(self):
        self.logged = len(self.owner.log)

    @contextlib.contextmanager
    def dialled(self):
        """A connection there, which may end at any time."""
        with contextlib.ExitStack() as opened:
            address = ("127.0.0.1", self.number)
            sock = opened.enter_context(socket.create_connection(address, 10))
            if self.within is not None:
                sock = opened.enter_context(self.within.wrap_socket(sock))
            sock.settimeout(10)
            yield sock


def descriptors(owner):
    return len(list(Path(f"/proc/{owner.process.pid}/fd").iterdir()))


def warnings(owner, after=0):
    """What it has logged of strangers since then, without when and from which port."""
    for line in owner.log[after:].splitlines():
        if "127.0.0." in line or "Invalid" in line:
            told = re.sub(r"^\S+ \S+ ", "", line)
            yield re.sub(r"(127\.0\.0\.\d+):\d+| \(and \d+ times .*\)", r"\1", told)


def look_at_log(port):
    """Each cause was told of once, however often strangers have come with it."""
    told = Counter(warnings(port.owner, port.logged))
    assert max(told.values(), default=0) <= minutes(port.began), told
    assert sum(told.values()) <= CAUSES * minutes(port.began), told
    assert any(warnings(port.owner))  # perhaps before, to who shares the server with us


@pytest.fixture(scope="module")
def alive(ports):
    """A live session of each server; called, it says that each result was right."""
    servers = {id(port.server): port.server for port in ports.values()}
    program = many.build("pulse")
    with contextlib.ExitStack() as opened:
        pulses = [
            opened.enter_context(flood.pulse(server, program, "tcp"))
            for server in servers.values()
        ]

        @contextlib.contextmanager
        def computing():
            for one in pulses:
                one.begin(300)
            yield
            for one in pulses:
                one.end()

        yield computing


@pytest.fixture(scope="module")
def manager(pool, tmp_path_factory):
    """The pool's, which speaks TLS, and its port; None: its packages are not installed."""
    if importlib.util.find_spec("nicegui") is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("web")
    own = {"FD_POOL": str(pool.authority.folder), "FD_TLS": "always"}
    manager = start_manager(folder, pool.server.control, environment=pool.server.environment | own)
    yield Port(urlsplit(manager.url).port, pool.server, manager)
    assert manager.stop() == 0


@pytest.fixture
def port(request, ports, manager):
    name, _, within = request.param.partition(" ")
    if name == "web":
        if manager is None:
            pytest.skip("the manager's packages are not installed (fdcore[web])")
        found = manager
    else:
        found = ports[name]
    if within:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        found = replace(found, within=context)
    return found


@pytest.fixture(scope="module")
def ports(pool, server):
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
        "tls": Port(pool.address.port, pool.server, pool.server),
        "data": Port(
            data_port(pool.server, pool.environment("surveyor")), pool.server, pool.server
        ),
        "plain": Port(parse_address(server.control).port, server, server),
    }


def throw(port, data):
    """Sends what it can, and reads until the other side has had enough."""
    with contextlib.suppress(OSError), port.dialled() as sock:
        sock.sendall(data)
        if port.within is None:
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.settimeout(0.02)  # TLS has no other end of what one says
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
        st.binary(max_size=600).map(lambda rest: b"POST /login HTTP/1.1\r\n" + rest),
    )


@pytest.mark.parametrize("port", NAMES + WITHIN, indirect=True)
def test_random_bytes_harm_nobody(port, alive):
    before = descriptors(port.owner)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(some_bytes())
    def throws(data):
        throw(port, data)

    with alive():
        throws()
    look_at_log(port)
    assert len(port.server.free()) == 2
    until(lambda: descriptors(port.owner) <= before + 2, 40)


@pytest.mark.parametrize("port", NAMES + WITHIN, indirect=True)
def test_more_bytes_than_anybody_needs_are_not_taken(port, alive):
    """64 MiB that never make sense: the memory of the server does not grow by them."""

    def resident():
        lines = Path(f"/proc/{port.owner.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    before = resident()
    with alive():
        for begin in (b"", b"POST /login HTTP/1.1\r\nHost: ", bytes(4) + b"\xff\xff\xff\x0f"):
            with contextlib.suppress(OSError), port.dialled() as sock:
                sock.sendall(begin)
                for _ in range(64):
                    sock.sendall(b"\x7f" * (1 << 20))
    look_at_log(port)
    assert len(port.server.free()) == 2
    assert resident() < before + 32 * 1024


def test_hold_that_talks_nonsense_holds_its_lease_and_ends_nothing(server, alive):
    before = server.free()
    opened = socket.socket()  # of a process on this machine its end would count

    def take(grant):
        opened.connect((grant.host, grant.port))
        spoken = attach.Spoken(grant.lease, grant.secret, protocol_hash())
        attach.attach(opened, spoken, attach.HOLD, 0, bytes(16))
        return grant

    with opened, alive():
        client.reserve(
            parse_address(server.control), Ask(memory=MIB), protocol_hash(), "x", take
        )
        for _ in range(64):
            opened.sendall(os.urandom(1 << 16))
        assert sum(server.free()) == sum(before) - 1
    until(lambda: server.free() == before)


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


@pytest.mark.parametrize("port", NAMES, indirect=True)
def test_silent_crowd_is_logged_once_and_holds_nobody_up(port, pool, demo):
    server, owner = port.server, port.owner
    began = time.monotonic()
    before, logged = descriptors(owner), len(owner.log)
    crowd = silent_from("127.0.0.3", port.number, SILENT)
    try:
        # A whole program in the midst of it: control, hold, session.
        env = pool.environment("surveyor") if server is pool.server else {}
        done = subprocess.run(
            [sys.executable, "-m", "fdcore_cli.fdrun", "-l", server.control, str(demo)],
            env=server.environment | env | {"FD_TRANSPORT": "tcp"},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert descriptors(owner) < before + 700
        # All but a few have been closed by the server.
        until(lambda: sum(ended(sock) for sock in crowd) > SILENT - 300, 30)
    finally:
        for sock in crowd:
            sock.close()
    until(lambda: descriptors(owner) <= before + 4, 40)
    fresh = [line for line in warnings(owner, logged) if "127.0.0.3" in line]
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
        before, usual = descriptors(server), flood.slice_of(server.process.pid)
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
        until(lambda: flood.slice_of(server.process.pid) == usual, 60)
        until(lambda: descriptors(server) <= before + 4, 60)
    crowds = [line for line in found.logged if "127.0.0." in line]
    # Of each address at each port: a crowd, and silence.
    assert 1 <= len(crowds) <= 40 * minutes(began), crowds
