"""Who may come again to a session, and what fdhold's answers mean."""

import contextlib
import os
import signal
import socket
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdcore import attach
from fdcore.config import parse_address, protocol_hash
from fdcore.errors import RefusedError
from fdcore.holding import Words
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from fdcore.server import HOLDS_EACH
from tests.fdcore.test_attach import attached, connection, leased, spoken
from tests.support import ROOT, until


def refused(grant, key, session, kind=attach.RESUME, road=2):
    with connection(grant) as sock, pytest.raises(RefusedError) as hit:
        attach.attach(sock, spoken(grant, secret=key), kind, road, session)
    return str(hit.value)


def test_only_the_key_of_a_session_resumes_it(server):
    session = os.urandom(16)
    with leased(server) as grant:
        key = attach.resume_key(grant.secret, session)
        for wrong in (grant.secret, attach.resume_key(grant.secret, os.urandom(16))):
            assert "its secret is wrong" in refused(grant, wrong, session)
        assert "that session is over" in refused(grant, key, session)
        for kind, road in ((attach.HOLD, 0), (attach.COMMAND, 1), (attach.BULK, 2)):
            assert "its secret is wrong" in refused(grant, key, session, kind, road)


def test_a_session_without_tcp_is_not_resumed(server):
    with leased(server) as grant, attached(grant) as session:
        key = attach.resume_key(grant.secret, session)
        assert "no connections that could come again" in refused(grant, key, session)


def test_turn_is_under_the_proof():
    proofs = {
        attach.client_proof(
            bytes(32), bytes(32), bytes(32), bytes(16), bytes(16), attach.RESUME, 2, False, more
        )
        for more in (16, 17, 32)
    }  # fmt: skip
    assert len(proofs) == 3


def test_keys_and_locks_are_the_same_in_c(tmp_path):
    source = tmp_path / "key.c"
    source.write_text(
        '#include <stdio.h>\n#include "fdc/attach.h"\nint main(void) {\n'
        "uint8_t secret[32], session[16], key[32];\n"
        "for (int i = 0; i < 32; i++) { secret[i] = i; session[i % 16] = 100 + i % 16; }\n"
        "fdc_attach_resume_key(secret, session, key);\n"
        'for (int i = 0; i < 32; i++) printf("%02x", key[i]);\n'
        'printf(" %zu", sizeof(struct fdc_attach_life)); }\n'
    )
    made = tmp_path / "key"
    subprocess.run(
        [os.environ.get("CC", "gcc"), f"-I{ROOT / 'csrc' / 'include'}", "-o", made, source,
         ROOT / "build" / "lib" / "libfdc.a", "-lpthread", "-ldl"], check=True,
    )  # fmt: skip
    key, life = subprocess.check_output([made], text=True).split()
    assert bytes.fromhex(key) == attach.resume_key(bytes(range(32)), bytes(range(100, 116)))
    assert int(life) == attach.LIFE.size


def test_answers_may_come_in_pieces():
    one, two = os.urandom(16), os.urandom(16)
    said = b"".join(
        attach.LIFE.pack(magic, life, session)
        for magic, life, session in (
            (attach.MAGIC, attach.GONE, one),
            (attach.MAGIC, attach.LIVES, two),
            (7, attach.GONE, two),
            (attach.MAGIC, attach.GONE, two),
        )
    )
    for cut in range(len(said)):
        words = Words()
        assert words.take(said[:cut]) + words.take(said[cut:]) == [
            (attach.GONE, one), (attach.LIVES, two), (attach.GONE, two),
        ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=20))
def test_only_what_was_said_comes_of_any_bytes_on_a_hold_and_little_is_kept(pieces):
    words, said = Words(), b"".join(pieces)
    for piece in pieces:
        for life, session in words.take(piece):
            assert attach.LIFE.pack(attach.MAGIC, life, session) in said
        assert len(words.held) < attach.LIFE.size


def asked(grant, kind, session, more):
    """Why such a request is refused."""
    with connection(grant) as sock:
        hello = attach.read(sock, attach.HELLO.size)
        _, _, protocol, server_nonce = attach.HELLO.unpack(hello)
        nonce = os.urandom(32)
        proof = attach.client_proof(
            grant.secret, server_nonce, nonce, grant.lease, session, kind, 2, False
        )
        sock.sendall(attach.REQUEST.pack(
            attach.MAGIC, kind, 2, os.getpid(), 0, more, grant.lease, session, protocol,
            nonce, proof, b"a test",
        ))  # fmt: skip
        _, error, _, reason = attach.ANSWER.unpack(attach.read(sock, attach.ANSWER.size))
        return attach.printable(reason) if error else ""


def test_bulk_connections_come_in_order_and_are_few(server):
    session = os.urandom(16)
    with leased(server) as grant:
        assert "5 bulk connections" in asked(grant, attach.COMMAND, session, 4 << 4)
        with connection(grant) as sock:
            attach.attach(sock, spoken(grant), attach.COMMAND, 2, session)
            assert "1 is not the next" in asked(grant, attach.BULK, session, 1)
            assert asked(grant, attach.BULK, session, 0) == ""
            assert "bulk connection already" in asked(grant, attach.BULK, session, 0)


def far(server):
    """A connection as from another machine, which is known by no pid."""
    port = server.log.rpartition("data at port ")[2].split()[0]
    return socket.create_connection(("127.0.0.1", int(port)), timeout=60)


def held_from_afar(server, grant):
    sock = far(server)
    attach.attach(sock, spoken(grant), attach.HOLD, 0, bytes(16))
    return sock


def lease_held_from_afar(server):
    """A lease for which only that stands, and the connection."""
    made = []

    def take(grant):
        made.append((grant, held_from_afar(server, grant)))

    ask = Ask(memory=100 * MIB)
    client.reserve(parse_address(server.unix), ask, protocol_hash(), "", take)
    return made[0]


def cut(*connections):
    """As what lies between does it: a reset, where who ends in order says so."""
    for sock in connections:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def test_one_lease_does_not_take_the_places_of_all_holds(server):
    with leased(server) as grant, contextlib.ExitStack() as holds:
        for _ in range(HOLDS_EACH):
            holds.enter_context(held_from_afar(server, grant))
        with pytest.raises(RefusedError, match=f"is held {HOLDS_EACH} times already"):
            held_from_afar(server, grant)


def logged(server, said, lease):
    return any(said in line and lease in line for line in server.log.splitlines())


def test_a_hold_that_broke_may_come_again(make_server):
    server = make_server()
    before = server.free()
    grant, hold = lease_held_from_afar(server)
    cut(hold)
    until(lambda: logged(server, "its hold broke", grant.lease.hex()[:8]))
    assert server.free() != before
    # An orderly end is one at once, long before the minute is over.
    held_from_afar(server, grant).close()
    until(lambda: server.free() == before, 40)


@pytest.mark.parametrize(("seconds", "kept"), (("1", True), ("0", False)))
def test_a_hold_that_broke_is_not_waited_for_longer_than_that(make_server, seconds, kept):
    server = make_server(FD_RECONNECT=seconds)
    before = server.free()
    grant, hold = lease_held_from_afar(server)
    cut(hold)
    until(lambda: server.free() == before, 40)
    assert logged(server, "its hold broke", grant.lease.hex()[:8]) == kept


def test_data_and_hold_that_broke_at_once(make_server):
    server = make_server()
    before = server.free()
    grant, hold = lease_held_from_afar(server)
    session = os.urandom(16)
    command, bulk = far(server), far(server)
    attach.attach(command, spoken(grant), attach.COMMAND, 2, session)
    attach.attach(bulk, spoken(grant), attach.BULK, 2, session)
    _, error, _ = attach.READY.unpack(attach.read(command, attach.READY.size))
    assert error == 0
    name = session.hex()[:8]
    until(lambda: logged(server, "over tcp, worker", name), 40)  # its link is made
    cut(hold, command, bulk)
    until(lambda: logged(server, "its client is away", name), 40)
    until(lambda: logged(server, "its hold broke", grant.lease.hex()[:8]), 40)
    hold = held_from_afar(server, grant)
    assert not logged(server, "nobody holds its lease", name)
    assert server.free() != before
    hold.close()
    until(lambda: logged(server, "nobody holds its lease", name), 40)
    until(lambda: server.free() == before, 40)


def test_fdhold_ends_a_hold_in_order(tmp_path):
    """Also where it has not read what it was asked: that alone would be a reset."""
    session = tmp_path / "session"
    session.write_text(f"server a\nlease {bytes(16).hex()}\nsecret {bytes(32).hex()}\n")
    program = subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours = listener.accept()[0]
    ours.settimeout(60)
    try:
        with open(session) as file, theirs:
            ends = [file.fileno(), theirs.fileno()]
            words = [ends[0], program.pid, -1, ends[1]]
            hold = subprocess.Popen(
                [ROOT / "build" / "lib" / "fdhold", *map(str, words)], pass_fds=ends
            )
        question = attach.LIFE.pack(attach.MAGIC, attach.ASKED, bytes(16))
        ours.sendall(question)
        assert len(attach.read(ours, attach.LIFE.size)) == attach.LIFE.size
        hold.send_signal(signal.SIGSTOP)
        ours.sendall(2 * question)  # it reads one more
    finally:
        program.kill()
        program.wait()
    hold.send_signal(signal.SIGCONT)
    assert hold.wait(60) == 0
    while ours.recv(4096):
        pass
    ours.close()
