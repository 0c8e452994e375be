"""The attach handshake on the server's data sockets: who may attach, and that whoever
may not is told why, is logged once, and harms nobody."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fdcore import attach
from fdcore.config import parse_address, protocol_hash
from fdcore.errors import ProtocolError, RefusedError, TransportError
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from tests.support import ROOT, until


@contextmanager
def leased(server):
    """A lease of 100 MiB, held by its control connection for the time of the test."""
    import queue
    import threading

    given: queue.Queue = queue.Queue()
    done = threading.Event()

    def take(grant):
        given.put(grant)
        done.wait(60)

    def ask():
        address = parse_address(server.unix)
        try:
            client.reserve(address, Ask(memory=100 * MIB), protocol_hash(), "", take)
        except Exception as error:
            given.put(error)

    before = server.free()
    thread = threading.Thread(target=ask)
    thread.start()
    grant = given.get(timeout=60)
    try:
        if isinstance(grant, Exception):
            raise grant
        yield grant
    finally:
        done.set()
        thread.join()
        until(lambda: server.free() == before)


def connection(grant):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(grant.unix)
    return sock


def spoken(grant, **changed):
    values = {
        "lease": grant.lease,
        "secret": grant.secret,
        "protocol": protocol_hash(),
    }
    return attach.Spoken(**(values | changed))


def refused(grant, spoken_as, kind=attach.HOLD, road=0):
    with connection(grant) as sock, pytest.raises((RefusedError, ProtocolError)) as hit:
        attach.attach(sock, spoken_as, kind, road, os.urandom(16))
    return str(hit.value)


def test_structures_have_the_sizes_of_the_header(tmp_path):
    source = tmp_path / "sizes.c"
    source.write_text(
        '#include <stdio.h>\n#include "fdc/attach.h"\nint main(void) { printf('
        '"%zu %zu %zu %zu %u %d", sizeof(struct fdc_attach_hello),'
        "sizeof(struct fdc_attach_request), sizeof(struct fdc_attach_answer),"
        "sizeof(struct fdc_attach_ready), FDC_ATTACH_MAGIC, FDC_ATTACH_HOLD); }\n"
    )
    made = tmp_path / "sizes"
    cc = os.environ.get("CC", "gcc")
    include = ROOT / "csrc" / "include"
    subprocess.run([cc, f"-I{include}", "-o", made, source], check=True)
    said = subprocess.check_output([made], text=True).split()
    ours = [attach.HELLO, attach.REQUEST, attach.ANSWER, attach.READY]
    assert [int(word) for word in said] == [
        *(structure.size for structure in ours),
        attach.MAGIC,
        attach.HOLD,
    ]


def test_hold_outlives_the_control_connection_and_its_end_frees(server):
    # In a process of its own: the lease also lives while its opener does.
    code = (
        "import sys\n"
        "from fdcore.config import *\n"
        "from fdcore.progress import Progress\n"
        "from fdcore.reserve import Wish, reserve\n"
        "from fdcore.sched.slices import Ask\n"
        "wish = Wish(Ask(), [parse_address(sys.argv[1])])\n"
        "held = reserve(wish, 'a test', Progress(quiet=True))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = server.free()
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.unix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline() != "held\n":
        pass
    assert sum(server.free()) == sum(before) - 1024
    process.communicate("")
    until(lambda: server.free() == before)


def test_wrong_secret_is_refused_without_saying_what_was_wrong(server):
    with leased(server) as grant:
        wrong = refused(grant, spoken(grant, secret=bytes(32)))
        unknown = refused(grant, spoken(grant, lease=bytes(16)))
    assert "is over, or its secret is wrong" in wrong
    assert wrong.split()[2:] == unknown.split()[2:]
    until(lambda: wrong in server.log)


def test_other_protocol_is_refused_and_logged_with_both_hashes(server):
    other = bytes(range(32))
    with leased(server) as grant:
        said = refused(grant, spoken(grant, protocol=other), attach.COMMAND, 1)
    assert other.hex() in said
    assert protocol_hash().hex() in said
    until(lambda: other.hex() in server.log)
    lines = [line for line in server.log.splitlines() if other.hex() in line]
    assert len(lines) == 1
    assert protocol_hash().hex() in lines[0]
    assert server.process.poll() is None


def test_strangers_on_the_data_port_harm_nobody(server):
    with leased(server) as grant:
        for nonsense in (
            b"",
            b"GET / HTTP/1.0\r\n\r\n",
            os.urandom(attach.REQUEST.size),
            struct.pack("<I", attach.MAGIC),
            attach.REQUEST.pack(
                attach.MAGIC, 77, 1, 0, 0, 0, bytes(16), bytes(16), bytes(32), bytes(32),
                bytes(32), b"",
            ),
            attach.REQUEST.pack(
                attach.MAGIC, 1, 77, 0, 0, 0, bytes(16), bytes(16), bytes(32), bytes(32),
                bytes(32), b"",
            ),
        ):  # fmt: skip
            # It may reset the connection before all is sent, or read.
            with connection(grant) as sock, contextlib.suppress(OSError):
                sock.sendall(nonsense)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
        assert "waits for no bulk" in refused(grant, spoken(grant), attach.BULK, 2)


def test_names_of_clients_cannot_forge_log_lines():
    assert attach.printable(b"a\nb\x1b[31m\0junk") == "a?b?[31m"
    assert attach.printable(b"\xff") == "\N{REPLACEMENT CHARACTER}"


def test_bulk_connection_without_its_session_is_refused(server):
    with leased(server) as grant:
        said = refused(grant, spoken(grant), attach.BULK, 2)
    assert "waits for no bulk connection" in said


def test_silent_server_is_a_transport_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        with pytest.raises(TransportError, match="does not answer"):
            attach.attach(
                ours, attach.Spoken(bytes(16), bytes(32), bytes(32)), 1, 1, bytes(16)
            )


def test_server_that_does_not_know_the_secret_is_found_out():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(attach.pack_hello(bytes(32), bytes(32)))
        theirs.sendall(attach.pack_answer(0, bytes(32), ""))
        said = attach.Spoken(bytes(16), b"s" * 32, bytes(32))
        with pytest.raises(ProtocolError, match="does not know the lease's secret"):
            attach.attach(ours, said, attach.HOLD, 0, bytes(16))


# ---- trunks: another server's worker comes to a session ----


@contextmanager
def attached(grant):
    """A session whose worker is ready: its number."""
    session = os.urandom(16)
    with connection(grant) as sock:
        attach.attach(sock, spoken(grant), attach.COMMAND, 1, session)
        magic, error, _ = attach.READY.unpack(attach.read(sock, attach.READY.size))
        assert (magic, error) == (attach.MAGIC, 0)
        yield session


def come(grant, session, nonce, key, sock):
    """What a worker says that has this key. Returns why it is refused, or ''."""
    hello = attach.read(sock, attach.HELLO.size)
    magic, _, protocol, server_nonce = attach.HELLO.unpack(hello)
    assert magic == attach.MAGIC
    proof = attach.client_proof(
        key, server_nonce, nonce, grant.lease, session, attach.TRUNK, 1, False
    )
    sock.sendall(attach.REQUEST.pack(
        attach.MAGIC, attach.TRUNK, 1, os.getpid(), 0, 0, grant.lease, session, protocol,
        nonce, proof, b"another worker",
    ))  # fmt: skip
    magic, error, proof, reason = attach.ANSWER.unpack(
        attach.read(sock, attach.ANSWER.size)
    )
    assert magic == attach.MAGIC
    if error:
        return attach.printable(reason)
    assert proof == attach.server_proof(key, nonce, server_nonce)
    return ""


def test_trunk_comes_to_the_worker_of_the_session(server):
    with leased(server) as grant, attached(grant) as session:
        nonce = os.urandom(32)
        key = attach.trunk_key(grant.secret, nonce)
        with connection(grant) as sock:
            assert come(grant, session, nonce, key, sock) == ""
            ready = attach.READY.unpack(attach.read(sock, attach.READY.size))
            assert ready[:2] == (attach.MAGIC, 0)
            with connection(grant) as again:
                said = come(grant, session, nonce, key, again)
                assert said == "that trunk was opened before"


def test_trunk_needs_its_own_key_and_its_session(server):
    with leased(server) as grant, attached(grant) as session:
        nonce, other = os.urandom(32), os.urandom(32)
        key = attach.trunk_key(grant.secret, nonce)
        wrong = "is over, or its secret is wrong"
        for their_session, their_nonce, their_key, why in (
            (session, nonce, bytes(32), wrong),
            (session, nonce, grant.secret, wrong),
            (session, other, key, wrong),
            (os.urandom(16), nonce, key, "has no worker for a trunk"),
        ):
            with connection(grant) as sock:
                said = come(grant, their_session, their_nonce, their_key, sock)
            assert why in said
        # None of these has used the nonce up.
        with connection(grant) as sock:
            assert come(grant, session, nonce, key, sock) == ""


def test_trunk_key_is_no_secret_of_another_connection(server):
    """Neither to hold the lease nor to have a session."""
    with leased(server) as grant, attached(grant):
        key = attach.trunk_key(grant.secret, os.urandom(32))
        for kind, road in ((attach.HOLD, 0), (attach.COMMAND, 1)):
            said = refused(grant, spoken(grant, secret=key), kind, road)
            assert "is over, or its secret is wrong" in said


def test_trunk_key_is_the_same_in_c(tmp_path):
    source = tmp_path / "key.c"
    source.write_text(
        '#include <stdio.h>\n#include "fdc/attach.h"\nint main(void) {\n'
        "uint8_t secret[32], nonce[32], trunks[32], key[32];\n"
        "for (int i = 0; i < 32; i++) { secret[i] = i; nonce[i] = 100 + i; }\n"
        "fdc_attach_trunks(secret, trunks); fdc_attach_trunk_key(trunks, nonce, key);\n"
        'for (int i = 0; i < 32; i++) printf("%02x", key[i]); }\n'
    )
    made = tmp_path / "key"
    library = ROOT / "build" / "lib"
    subprocess.run(
        [os.environ.get("CC", "gcc"), f"-I{ROOT / 'csrc' / 'include'}", "-o", made, source,
         library / "libfdc.a", "-lpthread", "-ldl"], check=True,
    )  # fmt: skip
    said = subprocess.check_output([made], text=True)
    key = attach.trunk_key(bytes(range(32)), bytes(range(100, 132)))
    assert bytes.fromhex(said) == key


def test_connections_that_come_late_belong_to_nobody(server):
    """A bulk connection after its session was given up, and one of a lease that ended in
    the middle of attaching."""
    tcp, workers = attach.ROADS["tcp"], len(server.workers())

    def begun(grant):
        sock, number = connection(grant), os.urandom(16)
        attach.attach(sock, spoken(grant), attach.COMMAND, tcp, number)
        return sock, number

    def bulk(grant, number):
        with connection(grant) as sock, pytest.raises(RefusedError) as hit:
            attach.attach(sock, spoken(grant), attach.BULK, tcp, number)
        return str(hit.value)

    with leased(server) as grant:
        with leased(server) as other:
            late, late_number = begun(grant)
            ended, ended_number = begun(other)
            client.end_lease(parse_address(server.unix), protocol_hash(), other.lease.hex())
            assert "is over" in bulk(other, ended_number)
        for sock in (late, ended):
            # Nobody waits for its other half any more, and it is told so.
            sock.settimeout(60)
            error, why = attach.READY.unpack(sock.recv(attach.READY.size, socket.MSG_WAITALL))[1:]
            assert error != 0 and b"no bulk connection came" in why, why
            assert sock.recv(1) == b""
            sock.close()
        assert "waits for no bulk connection" in bulk(grant, late_number)
    assert server.log.count("no bulk connection came") >= 2
    assert len(server.workers()) == workers
