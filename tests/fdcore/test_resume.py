"""Who may come again to a session, and what fdhold's answers mean."""

import os
import subprocess

import pytest

from fdcore import attach
from fdcore.errors import RefusedError
from fdcore.resume import Answers
from tests.fdcore.test_attach import attached, connection, leased, spoken
from tests.support import ROOT


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
        answers = Answers()
        assert answers.take(said[:cut]) + answers.take(said[cut:]) == [one, two]


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
