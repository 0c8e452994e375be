"""The control plane over real sockets: leases that end with their connection, typed
errors, limits, and strangers on the port."""

import asyncio
import inspect
import os
import secrets
import signal
import socket
import subprocess
import sys

import pytest

from fdcore.config import parse_address, protocol_hash
from fdcore.errors import ProtocolError, RefusedError, TransportError
from fdcore.rpc import client, schema
from fdcore.rpc import server as rpc_server
from fdcore.sched.slices import MIB, Ask
from tests.support import until

SERVERS = {
    "Gate": rpc_server.GateServer,
    "Session": rpc_server.SessionServer,
    "Lease": rpc_server.LeaseServer,
}


def reserve(server, ask, take=lambda grant: grant):
    return client.reserve(
        parse_address(server.unix), ask, protocol_hash(), "a test", take
    )


@pytest.mark.parametrize("interface", sorted(SERVERS))
def test_every_method_is_there_async_and_wrapped(interface):
    methods = getattr(schema.control, interface).schema.methods
    assert methods
    for name in methods:
        method = getattr(SERVERS[interface], name)
        assert inspect.iscoroutinefunction(method), name
        assert method.__code__ is rpc_server.answered(method).__code__, name


def test_schema_loads_in_a_fresh_interpreter():
    # A schema that cannot be loaded ends the interpreter without an exception.
    command = [sys.executable, "-c", "import fdcore.rpc.schema"]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_granted_slice_is_what_was_asked_for(server):
    grant = reserve(server, Ask(memory=300 * MIB))
    assert [part.memory for part in grant.slices] == [300 * MIB]
    assert len(grant.lease) == 16
    assert len(grant.secret) == 32
    assert grant.cpu_device
    assert grant.names[0].startswith("fdcore CPU device")


def test_lease_without_a_hold_ends_with_its_connection(server):
    before = server.free()
    seen = []
    reserve(server, Ask(memory=300 * MIB), lambda grant: seen.append(server.free()))
    assert sum(before) - sum(seen[0]) == 300
    until(lambda: server.free() == before)


def test_killed_client_frees_its_lease(server):
    before = server.free()
    code = (
        "import sys, time\n"
        "from fdcore.config import *\n"
        "from fdcore.rpc import client\n"
        "from fdcore.sched.slices import Ask\n"
        "client.reserve(parse_address(sys.argv[1]), Ask(), protocol_hash(), 'x',\n"
        "    lambda grant: (print('granted', flush=True), time.sleep(60)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.unix], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "granted\n"
    assert server.free() != before
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: server.free() == before)


def test_more_than_is_free_is_refused_with_what_is(server):
    with pytest.raises(RefusedError, match="free: GPU 0 1024 of 1024 MiB"):
        reserve(server, Ask(memory=5000 * MIB))


def test_control_is_answered_on_tcp_too(server):
    rows = client.gpus(parse_address(server.control), protocol_hash())
    assert [gpu.ordinal for gpu, _ in rows] == [0, 1]
    assert all(gpu.uuid.startswith("GPU-") for gpu, _ in rows)


def test_client_of_another_build_is_told_both_hashes(server):
    other = bytes(32)
    with pytest.raises(ProtocolError) as raised:
        client.gpus(parse_address(server.unix), other)
    assert other.hex() in str(raised.value)
    assert protocol_hash().hex() in str(raised.value)
    assert raised.value.cure == "install the same version of fdcore on both machines"


def test_newer_control_version_is_refused(server, monkeypatch):
    monkeypatch.setattr(client, "VERSION", 99)
    with pytest.raises(ProtocolError, match="speaks control version 1, the client 99"):
        client.gpus(parse_address(server.unix), protocol_hash())


def test_fault_shows_a_number_and_no_traceback():
    class Result:
        def init(self, name):
            assert name == "error"
            return self

    class Context:
        class results:
            result = Result()

    class Broken:
        connection = rpc_server.Connection(None, None, "a test", lambda: None)

        @rpc_server.answered
        async def method(self, result):
            raise ZeroDivisionError("a private detail")

    asyncio.run(Broken().method(_context=Context()))
    assert Context.results.result.code == "fault"
    assert "detail" not in Context.results.result.message
    assert Broken.connection.calls == 0


def test_flood_of_calls_is_cut_off_and_others_go_on(server):
    import capnp

    async def flood():
        address = parse_address(server.unix)
        async with client.session(address, protocol_hash(), "flood") as session:
            calls = [session.gpus() for _ in range(20000)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        return results

    asyncio.run(capnp.run(flood()))
    assert len(server.free()) == 2


def test_stranger_on_the_port_harms_nobody(server):
    address = parse_address(server.control)
    for nonsense in (
        b"GET / HTTP/1.0\r\n\r\n",
        secrets.token_bytes(4096),
        b"\xff" * 64,
    ):
        with socket.create_connection((address.host, address.port), 10) as sock:
            sock.sendall(nonsense)
    assert len(server.free()) == 2


def test_something_else_that_listens_there_is_named_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        child = os.fork()
        if child == 0:
            sock, _ = listener.accept()
            sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            sock.recv(1)
            os._exit(0)
        try:
            with pytest.raises(TransportError) as raised:
                client.gpus(parse_address(address), protocol_hash())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert address in str(raised.value)
    assert "\n" not in str(raised.value)
