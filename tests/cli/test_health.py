"""health finds what is planted: a wrong clock, certificates that are over, a full disk.
A device that flips bits, and links that damage: test_verify.py."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fdcore import papers
from fdcore.check import FAIL, MARGINAL, PASS
from fdcore.config import Address
from fdcore.security import authority, files, identity
from tests.support import ROOT, environment, until

FLEXDIRECT = [sys.executable, "-m", "fdcore_cli.flexdirect"]
pytestmark = pytest.mark.timeout(300)


def library(folder: Path, name: str) -> str:
    """A fault of tests/faults, for LD_PRELOAD."""
    made = folder / f"{name}.so"
    source = ROOT / "tests" / "faults" / f"{name}.c"
    subprocess.run(
        [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-O2", "-Wall", "-Wextra",
         "-Werror", "-o", made, source], check=True)  # fmt: skip
    return str(made)


def rows(env, *words, status=0):
    done = subprocess.run(
        [*FLEXDIRECT, *words, "--format", "json"],
        env=env, capture_output=True, text=True, timeout=200)  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def named(found, name, host=""):
    (row,) = [row for row in found if row["check"] == name and row["host"].endswith(host)]
    return row


def test_a_healthy_server_says_so_from_here_and_by_itself(server):
    until(lambda: min(server.free()) > 256)  # what others have run ends a moment later
    found = rows(server.environment, "health", "-l", server.control, "--transport", "tcp")
    hosts = list(dict.fromkeys(row["host"] for row in found))
    assert hosts == [socket.gethostname(), server.control, f"{server.control} itself"]
    assert "over tcp" in named(found, "latency")["found"]
    assert "MiB/s back" in named(found, "bandwidth")["found"]
    assert named(found, "interface")["found"].endswith("the server is on this machine")
    assert named(found, "clock against ours")["state"] in (PASS, MARGINAL)  # a slow machine
    for gpu in (0, 1):
        assert named(found, f"GPU {gpu}: compute mode", "itself")["state"] == PASS
        assert named(found, f"GPU {gpu}: virtual memory calls", "itself")["state"] == PASS
    assert named(found, "disk for the server's state")["state"] in (PASS, MARGINAL)


def test_a_wrong_clock_is_found_and_named(make_server, tmp_path):
    server = make_server(LD_PRELOAD=library(tmp_path, "clock"), FD_TEST_CLOCK="-7200")
    env = {key: value for key, value in server.environment.items() if key != "LD_PRELOAD"}
    found = rows(env, "health", "-l", server.control, status=1)
    check = named(found, "clock against ours")
    assert check["state"] == FAIL and "NTP" in check["cure"]
    behind = int(check["found"].partition(" s behind")[0])
    assert 7000 < behind <= 7201
    # The server finds its own clock to be before its installation.
    failed = {row["check"] for row in found if row["state"] == FAIL}
    assert failed <= {"clock against ours", "clock"}


def test_a_full_disk_is_found_and_named(make_server, tmp_path):
    full = library(tmp_path, "disk")
    folder = tmp_path / "cache"
    server = make_server("--cache", str(folder), LD_PRELOAD=full, FD_TEST_FULL=str(tmp_path / "cache"))
    env = {key: value for key, value in server.environment.items() if key != "LD_PRELOAD"}
    folder.mkdir(mode=0o700, exist_ok=True)
    check = named(rows(env, "health", "-l", server.control, status=1), "disk for images of code")
    assert check["state"] == FAIL and check["host"] == f"{server.control} itself"
    assert check["found"] == f"{folder}: No space left on device"
    assert check["cure"] == "make room there"
    env |= {"LD_PRELOAD": full, "FD_TEST_FULL": str(folder), "XDG_CACHE_HOME": str(folder)}
    check = named(rows(env, "localhealth", status=1), "disk for caches")
    assert check["state"] == FAIL and "No space left on device" in check["found"]


# ---- certificates ----


def certified(folder: Path, issuer: authority.Authority, role: str) -> Path:
    """What flexdirect init leaves in a folder."""
    folder.mkdir(mode=0o700)
    key = authority.fresh_key()
    _, made = issuer.issue(key.public_key(), "ann", role, "test")
    files.write(folder / files.CA, authority.pem(issuer.certificate))
    files.write(folder / files.OWN, authority.key_bytes(key) + made)
    files.write_json(folder / files.ABOUT, {"pool": issuer.pool, "role": role, "name": "ann"})
    return folder


@pytest.fixture
def over(monkeypatch):
    """Certificates that are issued from now on are over at once."""
    def begin():
        monkeypatch.setattr(authority, "OTHER_DAYS", 0)
        monkeypatch.setattr(authority, "CERTIFICATE_DAYS", {})

    return begin


def test_an_expired_certificate_is_found_and_named(make_server, tmp_path, over):
    pool = authority.found(tmp_path / "pool")
    server = make_server(devices=1, FD_TLS="always", FD_POOL=str(tmp_path / "pool"))
    env = environment(tmp_path, FD_TLS="always")
    good = certified(tmp_path / "good", pool, "user")
    found = rows(env | {"FD_IDENTITY": str(good)}, "health", "-l", server.control)
    assert named(found, "own certificate")["state"] == PASS
    assert named(found, "server's certificate")["state"] == PASS
    assert named(found, "certificate", "itself")["state"] == PASS
    assert named(found, "revoked certificates", "itself")["state"] == PASS
    assert named(found, "tokens", "itself")["found"] == "0 unused"

    over()
    gone = certified(tmp_path / "gone", pool, "user")
    found = rows(env | {"FD_IDENTITY": str(gone)}, "health", "-l", server.control, status=1)
    check = named(found, "own certificate")
    assert check["state"] == FAIL and check["found"].startswith("expired on 2")
    assert "flexdirect init" in check["cure"]
    assert named(found, "server answers")["state"] == FAIL


def test_a_server_that_shows_an_expired_certificate_is_named(tmp_path, over):
    pool = authority.found(tmp_path / "pool")
    ours = certified(tmp_path / "ours", pool, "user")
    over()
    theirs = identity.context(certified(tmp_path / "theirs", pool, "node"), server=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            sock, _ = listener.accept()
            with pytest.raises(ssl.SSLError), theirs.wrap_socket(sock, server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        env = {"FD_TLS": "always", "FD_IDENTITY": str(ours), "FD_POOL": str(tmp_path / "none")}
        (check,) = papers.server(Address("127.0.0.1", listener.getsockname()[1]), env)
        thread.join()
    assert (check.state, check.name) == (FAIL, "server's certificate")
    assert check.found == "certificate has expired" and check.cure


def test_what_is_about_to_expire_is_marginal(monkeypatch):
    monkeypatch.setattr(papers.time, "time", lambda: 1_000_000.0)
    day = papers.DAY
    fresh = papers.span("it", 1_000_000 - day, 1_000_000 + 29 * day, "do")
    assert (fresh.state, fresh.cure) == (PASS, "") and "29 days more" in fresh.found
    late = papers.span("it", 1_000_000 - 25 * day, 1_000_000 + 5 * day, "do")
    assert (late.state, late.cure) == (MARGINAL, "do") and "not renewed" in late.found
    early = papers.span("it", 1_000_001, 2_000_000, "do")
    assert early.state == FAIL and "to come" in early.found


@pytest.mark.parametrize(
    "ahead, unsure, state, said",
    [(0.5, 0.01, PASS, "the same"), (-0.01, 5.0, PASS, "within 5.000 s"),
     (-10.0, 0.1, MARGINAL, "10 s behind"), (400.0, 1.0, FAIL, "399 s ahead"),
     (400.0, 399.5, PASS, "the same")])  # fmt: skip
def test_clocks_are_compared_as_well_as_can_be(ahead, unsure, state, said):
    check = papers.clocks(ahead, unsure)
    assert check.state == state and said in check.found


def test_revoked_lists_that_are_old_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "pool"
    made = authority.found(folder)
    made.write_revoked()
    state = {check.name: check.state for check in papers.of_server(folder)}
    assert state == {"certificate": PASS, "revoked certificates": PASS, "tokens": PASS}
    now = papers.time.time()
    monkeypatch.setattr(authority.time, "time", lambda: now + 3600)
    stale = authority.Revoked(folder, clock=lambda: now + 3600)
    monkeypatch.setattr(authority, "Revoked", lambda _: stale)
    found = {check.name: check for check in papers.of_server(folder)}
    assert found["revoked certificates"].state == FAIL
    assert papers.of_server(tmp_path / "nothing") == []
