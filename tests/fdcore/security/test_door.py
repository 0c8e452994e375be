"""Mutual TLS on the control port, on loopback because it is told so: who is let in."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fdcore import attach
from fdcore.config import protocol_hash
from fdcore.errors import ConfigError, ProtocolError, RefusedError, TransportError
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from fdcore.security import authority, files, greeting, identity, join, tokens
from tests.support import until


def gpus(pool):
    return client.gpus(pool.address, protocol_hash())


def test_who_has_joined_is_let_in_by_the_certificates_name(pool, be):
    pool.join("alice")
    be(pool, "alice")
    assert len(gpus(pool)) == 2
    client.reserve(pool.address, Ask(memory=100 * MIB), protocol_hash(), "x", lambda g: g)
    until(lambda: "100 MiB to alice@127.0.0.1" in pool.server.log)


def test_key_and_certificate_are_private(pool):
    who = pool.join("private")
    assert who.folder.stat().st_mode & 0o777 == 0o700
    assert (who.folder / files.OWN).stat().st_mode & 0o777 == 0o600
    (who.folder / files.OWN).chmod(0o640)
    with pytest.raises(ConfigError, match="may be read by others"):
        identity.context(who.folder, server=False)


def test_fdrun_works_over_it(pool):
    pool.join("runner")
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "-l", pool.server.control, "echo", "hi"],
        env=pool.server.environment | pool.environment("runner"),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("hi\n", "")


def test_who_has_not_joined_is_told_how(pool, be):
    be(pool, "nobody")
    with pytest.raises(ConfigError, match="flexdirect init"):
        gpus(pool)


def test_plain_connection_is_refused_and_told_of_init(pool, be, monkeypatch):
    be(pool, "nobody")
    monkeypatch.setenv("FD_TLS", "never")
    with pytest.raises(TransportError, match="flexdirect init"):
        gpus(pool)


def control_context(ca=None):
    made = identity.joining_context(ca)
    made.set_alpn_protocols([identity.CONTROL])
    return made


def secure(pool, context, server_name):
    raw = socket.create_connection((pool.address.host, pool.address.port), 10)
    return context.wrap_socket(raw, server_hostname=server_name)


def test_no_certificate_gets_no_further_than_the_greeting(pool):
    with secure(pool, control_context(), None) as sock:
        data = sock.recv(1000)
        with pytest.raises(RefusedError, match="flexdirect init TOKEN"):
            greeting.check(data)
        sock.settimeout(10)
        assert sock.recv(10) == b""


def test_certificate_of_another_authority_is_refused(pool, tmp_path):
    other = authority.found(tmp_path / "other")
    context = control_context()
    context.load_cert_chain(other.folder / files.OWN)
    with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: SIM117
        with secure(pool, context, None) as sock:
            if sock.recv(1000) == b"":
                raise ConnectionError


def test_server_of_another_pool_is_not_talked_to(pool, be, tmp_path, make_server):
    authority.found(tmp_path / "other")
    other = make_server(FD_TLS="always", FD_POOL=str(tmp_path / "other"))
    pool.join("careful")
    be(pool, "careful")
    from fdcore.config import parse_address

    with pytest.raises(ProtocolError, match="not a server of pool"):
        client.gpus(parse_address(other.control), protocol_hash())


def test_users_certificate_makes_no_server(pool, tmp_path):
    who = pool.join("impostor")
    context = identity.context(who.folder, server=True)
    careful = pool.join("careful2")
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        try:
            sock, _ = listener.accept()
            context.wrap_socket(sock, server_side=True).recv(1)
        finally:
            os._exit(0)
    try:
        mine = identity.context(careful.folder, server=False)
        name = identity.server_name(pool.authority.pool)
        with (
            socket.create_connection(listener.getsockname(), 10) as raw,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            mine.wrap_socket(raw, server_hostname=name)
    finally:
        os.waitpid(child, 0)
        listener.close()


def test_old_tls_is_not_spoken(pool):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        secure(pool, context, None)


# ---- joining ----


def test_token_is_good_once(pool):
    token = pool.token()
    join.join(token, "once", pool.environment("once"))
    with pytest.raises(RefusedError, match="used up"):
        join.join(token, "twice", pool.environment("twice"))


def test_expired_token_is_refused_by_both_ends(pool):
    token = pool.token(seconds=-5)
    with pytest.raises(RefusedError, match="has expired"):
        join.join(token, "late", pool.environment("late"))
    import dataclasses

    unaware = dataclasses.replace(token, expires=0)
    with pytest.raises(RefusedError, match="has expired or is used up"):
        join.join(unaware, "late", pool.environment("late"))


def test_secret_is_not_shown_to_another_authority(pool, make_server, tmp_path):
    other_pool = authority.found(tmp_path / "other")
    other = make_server(FD_TLS="always", FD_POOL=str(other_pool.folder))
    token = pool.token(addresses=[other.control])
    with pytest.raises(ProtocolError, match="nothing was told to it"):
        join.join(token, "x", pool.environment("x"))
    assert token.id in (pool.authority.folder / tokens.TOKENS).read_text()


def test_first_address_that_answers_is_taken(pool):
    token = pool.token(addresses=["127.0.0.1:1", pool.server.control])
    assert join.join(token, "far", pool.environment("far")).name == "far"


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"[]\n", b"{}\n", b'{"op":"join"}\n', b'{"op":"join","id":1,"secret":2,"request":3,"name":4}\n',
        b'{"op":"revoked"}\n', b'{"op":"renew","request":""}\n', b'{"op":"\xff"}\n', b"[" * 9000 + b"\n",
        b'{"op":"join","id":"a","secret":"b","request":"' + b"A" * 12000 + b'","name":"x"}\n',
    ],
)  # fmt: skip
def test_nonsense_to_the_joining_side_is_answered_with_an_error(pool, line):
    with secure(pool, identity.joining_context(None), None) as sock:
        sock.settimeout(10)
        sock.sendall(line)
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert set(json.loads(data)) == {"error"}


def test_line_without_end_is_cut_off(pool):
    with secure(pool, identity.joining_context(None), None) as sock:
        sock.settimeout(10)
        with pytest.raises((OSError, ssl.SSLError)):
            for _ in range(1000):
                sock.sendall(b"A" * 4096)
                time.sleep(0.01)


# ---- roles ----


def test_viewer_sees_and_does_not_reserve(pool, be):
    pool.join("viewer", role="viewer")
    be(pool, "viewer")
    assert len(gpus(pool)) == 2
    with pytest.raises(RefusedError, match="a viewer may not do that"):
        client.reserve(pool.address, Ask(memory=MIB), protocol_hash(), "x", lambda g: g)


def test_call_that_no_list_names_is_an_administrators():
    from fdcore.security import roles

    assert not roles.may("user", "SessionServer.unheard_of")
    assert roles.may("admin", "SessionServer.unheard_of")
    assert not roles.may("", "SessionServer.gpus")


def test_every_call_has_been_thought_about():
    from fdcore.rpc import schema
    from fdcore.security import roles

    calls = {
        f"{interface}Server.{method}"
        for interface in ("Gate", "Session", "Lease")
        for method in getattr(schema.control, interface).schema.methods
    }
    assert calls == set(roles.NEEDS)


# ---- revoking ----


def test_revoked_loses_connection_lease_and_the_way_back(pool, be):
    who = pool.join("thief")
    be(pool, "thief")
    before, began = pool.server.free(), time.monotonic()
    seen = []

    def take(grant):
        seen.append(pool.server.free())
        pool.authority.revoke("thief")
        until(lambda: pool.server.free() == before)
        # What was granted is worth nothing at the data port either.
        spoken = attach.Spoken(grant.lease, grant.secret, protocol_hash())
        for kind in (attach.HOLD, attach.COMMAND):
            with (
                socket.create_connection((grant.host, grant.port), 10) as sock,
                pytest.raises(RefusedError, match="is over, or its secret is wrong"),
            ):
                attach.attach(sock, spoken, kind, 2, bytes(16))
        return grant

    client.reserve(pool.address, Ask(memory=300 * MIB), protocol_hash(), "x", take)
    assert sum(before) - sum(seen[0]) == 300
    for _ in range(4):
        with pytest.raises(
            RefusedError, match="the certificate of thief has been revoked"
        ):
            gpus(pool)
    told = pool.server.log.count("the certificate of thief has been revoked")
    assert 1 <= told <= 1 + (time.monotonic() - began) // 60
    with pytest.raises(RefusedError, match="has been revoked"):
        join.renew(who)
    assert pool.server.log.count("lease") > 0
    assert "thief@127.0.0.1" in pool.server.log


def test_renewed_certificate_has_the_same_name(pool, be, aged):
    who = pool.join("renewer")
    before = (who.folder / files.OWN).read_bytes()
    with pytest.raises(RefusedError, match="too young"):
        join.renew(who)
    assert (who.folder / files.OWN).read_bytes() == before
    serial = f"{authority.certificate_in(who.folder / files.OWN).serial_number:x}"
    aged(pool.authority.folder, serial)
    again = join.renew(who)
    assert (again.name, again.role) == (who.name, who.role)
    assert (who.folder / files.OWN).read_bytes() != before
    be(pool, "renewer")
    assert len(gpus(pool)) == 2


def due(pool, who, aged):
    """Time for a new certificate, as both ends see it."""
    serial = f"{authority.certificate_in(who.folder / files.OWN).serial_number:x}"
    aged(pool.authority.folder, serial)
    about = json.loads((who.folder / files.ABOUT).read_text())
    about["issued"] -= 2 * (about["expires"] - about["issued"])
    (who.folder / files.ABOUT).write_text(json.dumps(about))
    old = identity.load(who.folder)
    assert old.due(time.time())
    return old, serial


def renewed_from(pool, serial):
    return [row for row in pool.authority.issued() if row["by"] == serial]


def test_nothing_is_asked_for_that_a_read_only_folder_could_not_keep(pool, aged):
    who, serial = due(pool, pool.join("sealed"), aged)
    run = [sys.executable, "-m", "fdcore_cli.fdrun", "-l", pool.server.control, "echo", "hi"]
    if os.geteuid() == 0:  # whom only a mount keeps from writing
        mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        run = ["unshare", "-m", "sh", "-c", mount, str(who.folder), *run]
    who.folder.chmod(0o500)
    try:
        done = subprocess.run(
            run, env=pool.server.environment | pool.environment("sealed"),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        who.folder.chmod(0o700)
    assert (done.stdout, done.stderr) == ("hi\n", "")
    assert renewed_from(pool, serial) == []


def test_certificate_is_renewed_once_whoever_finds_it_due(pool, aged):
    who, serial = due(pool, pool.join("crowd"), aged)
    with ThreadPoolExecutor(4) as several:
        made = list(several.map(join.renew, [who] * 4))
    assert len(renewed_from(pool, serial)) == 1
    assert set(made) == {identity.load(who.folder)}


def test_renewal_that_is_refused_is_told(pool, aged, caplog):
    who, serial = due(pool, pool.join("refused"), aged)
    with files.locked(pool.authority.folder):
        rows = [row for row in pool.authority.issued() if row["serial"] != serial]
        files.write_json(pool.authority.folder / authority.ISSUED, rows)
    join.renew_if_due(who)
    assert "the certificate of refused was not renewed" in caplog.text
    assert "not known here" in caplog.text


# ---- a second server ----


def test_second_server_joins_and_hears_of_revocations(pool, be, make_server):
    node = pool.join("node2", role="node")
    assert node.folder.name == "pool"
    second = make_server(FD_TLS="always", FD_POOL=str(node.folder))
    pool.join("wanderer")
    be(pool, "wanderer")
    from fdcore.config import parse_address

    address = parse_address(second.control)
    until(lambda: (node.folder / files.REVOKED).exists())
    assert len(client.gpus(address, protocol_hash())) == 2
    pool.authority.revoke("wanderer")
    (node.folder / files.REVOKED).write_bytes(pool.authority.revoked())
    with pytest.raises(RefusedError, match="has been revoked"):
        client.gpus(address, protocol_hash())


def test_server_that_does_not_hear_of_revocations_lets_nobody_in(pool, be, make_server):
    node = pool.join("node3", role="node")
    about = json.loads((node.folder / files.ABOUT).read_text())
    about["addresses"] = ["127.0.0.1:1"]
    (node.folder / files.ABOUT).write_text(json.dumps(about))
    lonely = make_server(FD_TLS="always", FD_POOL=str(node.folder))
    pool.join("visitor")
    be(pool, "visitor")
    from fdcore.config import parse_address

    with pytest.raises(RefusedError, match="does not reach the pool's founding server"):
        client.gpus(parse_address(lonely.control), protocol_hash())
    assert "list of revoked certificates: 127.0.0.1:1" in lonely.log


# ---- what administrators do from elsewhere ----


def admin(pool, name, *words):
    return subprocess.run(
        [sys.executable, "-m", "fdcore_cli.flexdirect", "admin", *words, "-l",
         pool.server.control],
        env=pool.server.environment | pool.environment(name),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_administrator_drains_and_revokes_and_a_user_does_not(pool, be):
    pool.join("boss", role="admin")
    pool.join("worker")
    victim = pool.join("victim")
    for words in (("drain",), ("revoke", "boss"), ("quota", "x", "--gpus", "1")):
        done = admin(pool, "worker", *words)
        assert done.returncode == 125
        assert "a user may not do that" in done.stderr
    be(pool, "worker")
    ask = Ask(memory=MIB)
    assert admin(pool, "boss", "drain").returncode == 0
    with pytest.raises(RefusedError, match="is being drained"):
        client.reserve(pool.address, ask, protocol_hash(), "x", lambda g: g)
    assert admin(pool, "boss", "drain", "--off").returncode == 0
    client.reserve(pool.address, ask, protocol_hash(), "x", lambda g: g)
    done = admin(pool, "boss", "revoke", "victim")
    assert (done.returncode, done.stdout) == (0, "Revoked victim\n"), done.stderr
    be(pool, "victim")
    with pytest.raises(RefusedError, match="has been revoked"):
        gpus(pool)
    assert victim.name in pool.server.log
    assert admin(pool, "boss", "revoke", "victim").returncode == 125


def test_administrator_ends_somebody_elses_lease(pool, be):
    pool.join("boss2", role="admin")
    pool.join("squatter")
    be(pool, "squatter")
    before = pool.server.free()

    def take(grant):
        assert pool.server.free() != before
        done = admin(pool, "squatter", "release", grant.lease.hex()[:8])
        assert "a user may not do that" in done.stderr
        done = admin(pool, "boss2", "release", grant.lease.hex()[:8])
        assert done.returncode == 0, done.stderr
        until(lambda: pool.server.free() == before)
        return grant

    client.reserve(pool.address, Ask(memory=MIB * 64), protocol_hash(), "x", take)
