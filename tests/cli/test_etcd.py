"""fdservers whose state is in etcd: it may end, stop and come back, and so may they."""

import json
import os
import pwd
import signal
import subprocess
import sys

import pytest
from cryptography import x509

from fdcore import pools
from fdcore.config import STORE, Servers, parse_address, protocol_hash
from fdcore.errors import ConfigError, FdcoreError
from fdcore.rpc import client
from fdcore.security import authority, join, tokens
from fdcore.store import LEASE, Sqlite, StoreError
from tests.cli.test_restart import CUDA, holding, state_of, workers
from tests.etcd import TTL
from tests.support import until

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
SECONDS = 60
ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def in_pool(own_etcd, make_server):
    """Starts servers of one pool."""

    def make(*options, **more):
        return make_server("--store", own_etcd.url, "--warm", "0", *options, **more)

    return make


def restarted(in_pool, server, *options):
    server.process.kill()
    server.process.wait()
    return in_pool("--state", str(state_of(server)), *options)


def flexdirect(server, *words, status=0, **variables):
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.flexdirect", *words],
        env=server.environment | variables, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


def computing(server, *options):
    """A CUDA program that computes once more for each line."""
    program = server.start(*options, sys.executable, "-c", CUDA, **PIPES)
    assert program.stdout.readline() == "up\n"
    return program


def computes(program):
    program.stdin.write("\n")
    program.stdin.flush()
    return program.stdout.readline() == "again\n"


def lease_keys(etcd):
    return [key for key in etcd.found() if "/lease/" in key]


# ---- a pool of several servers ----


def known_to(server):
    """The servers that are found through this one."""
    seen = pools.look(Servers((parse_address(server.control),), True), 30)
    return {str(each.address) for each in seen}


def listed(server, **variables):
    said = flexdirect(server, "list_gpus", "--format", "json", **variables).stdout
    return {row["address"] for row in json.loads(said)}


def test_all_servers_are_found_through_any_one_and_through_etcd(own_etcd, in_pool):
    one, two = in_pool(devices=1), in_pool(devices=1, FD_ETCD_TTL="6s")
    both = {one.control, two.control}
    until(lambda: known_to(one) == both == known_to(two), SECONDS)
    assert listed(one, FD_SERVERS=two.control) == both
    assert listed(one, FD_STORE=own_etcd.url) == both
    assert listed(one, FD_SERVERS=one.control, FD_PEERS="no") == {one.control}
    health = flexdirect(one, "health", FD_SERVERS=two.control).stdout
    assert f"\n{one.control}\n" in health and f"\n{two.control}\n" in health

    code = 'grep -c ^server "$FD_SESSION"'
    said = flexdirect(one, "run", "-n", "2", "sh", "-c", code, FD_SERVERS=one.control)
    assert said.stdout == "2\n"
    assert f"Query server {two.control} gpu availability" in said.stderr

    two.process.kill()
    two.process.wait()
    until(lambda: known_to(one) == {one.control}, SECONDS)
    assert in_etcd(own_etcd) == {one.control}
    one.stop()
    with pytest.raises(ConfigError, match=f"no fdserver has announced itself in {own_etcd.url}; start one"):
        in_etcd(own_etcd)
    own_etcd.kill()
    with pytest.raises(StoreError, match="connection refused; start etcd there or correct the store"):
        in_etcd(own_etcd)


def in_etcd(etcd):
    return {str(address) for address in pools.in_etcd(etcd.access).addresses}


def test_quota_counts_what_a_user_has_of_all_servers(in_pool):
    one, two = in_pool(), in_pool()
    flexdirect(one, "admin", "quota", ME, "--gpus", "2", "-l", one.unix)
    programs = [
        server.start("-m", "10", "sh", "-c", "echo up; read x", stderr=subprocess.PIPE, **PIPES)
        for server in (one, two, one, two)
    ]
    said = [program.stdout.readline() for program in programs]
    assert sorted(said) == ["", "", "up\n", "up\n"]
    for program, first in zip(programs, said, strict=True):
        _, errors = program.communicate("\n")
        assert program.returncode == (0 if first else 125)
        assert first or f"{ME} may have 2 GPUs at once and has" in errors
    client.set_quota(parse_address(two.unix), protocol_hash(), ME, None)
    until(lambda: one.run("-n", "2", "true").returncode == 0, SECONDS)


# ---- restarts ----


def test_server_that_lost_its_file_takes_over_what_etcd_has(own_etcd, in_pool):
    server = in_pool()
    program = computing(server, "-m", "600")
    until(lambda: workers(server) and lease_keys(own_etcd), SECONDS)
    server.process.kill()
    server.process.wait()
    store = Sqlite(state_of(server) / STORE)
    (row,) = store.rows(LEASE).values()
    store.close()
    assert not any(row["secret"] in value for value in own_etcd.found().values())
    for file in state_of(server).glob(f"{STORE}*"):
        file.unlink()
    again = in_pool("--state", str(state_of(server)))
    assert sum(again.free()) == 2 * 1024 - 600
    assert computes(program)
    program.communicate("")
    until(lambda: again.free() == [1024, 1024], SECONDS)
    until(lambda: lease_keys(own_etcd) == [], SECONDS)


def test_restart_finds_leases_and_quotas_though_etcd_is_down(own_etcd, in_pool):
    server = in_pool()
    flexdirect(server, "admin", "quota", ME, "--gpus", "1", "-l", server.unix)
    program = computing(server, "-m", "600")
    until(lambda: workers(server) and lease_keys(own_etcd), SECONDS)
    own_etcd.kill()
    again = restarted(in_pool, server)
    assert "connection refused" in again.log
    assert sum(again.free()) == 2 * 1024 - 600
    assert computes(program)
    assert f"{ME} has a quota of the pool, and nobody can count now" in again.run("true").stderr
    program.communicate("")
    until(lambda: again.free() == [1024, 1024], SECONDS)
    own_etcd.start()
    until(lambda: lease_keys(own_etcd) == [] == list(own_etcd.found("usage/")), SECONDS)
    until(lambda: again.run("true").returncode == 0, SECONDS)
    assert again.run("-n", "2", "true").returncode == 125


@pytest.mark.parametrize("store", ["sqlite", "etcd"])
def test_drained_server_stays_drained(request, store):
    options = []
    if store == "etcd":
        options = ["--store", request.getfixturevalue("own_etcd").url]
    make_server = request.getfixturevalue("make_server")
    server = make_server(*options)
    client.drain(parse_address(server.unix), protocol_hash(), True)
    server.process.kill()
    server.process.wait()
    server = make_server("--state", str(state_of(server)), *options)
    assert "drained and grants nothing new" in server.run("true").stderr
    client.drain(parse_address(server.unix), protocol_hash(), False)
    assert server.stop() == 0
    server = make_server("--state", str(state_of(server)), *options)
    assert server.run("true").returncode == 0


def test_drained_server_is_passed_over(in_pool):
    one, two = in_pool(devices=1), in_pool(devices=1)
    client.drain(parse_address(one.unix), protocol_hash(), True)
    done = flexdirect(one, "run", "-l", f"{one.control},{two.control}", "true")
    assert f"{one.control}: it is being drained" in done.stderr
    assert f"Server List: {two.control}\n" in done.stderr


# ---- etcd that ends or stops ----


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_runs_goes_on_without_etcd(own_etcd, in_pool, number):
    server = in_pool()
    going, ending = computing(server, "-m", "300"), computing(server, "-m", "200")
    until(lambda: len(lease_keys(own_etcd)) == 2, SECONDS)
    own_etcd.signal(number)
    until(lambda: "what runs goes on" in server.log, SECONDS)
    assert computes(going)
    ending.communicate("")
    until(lambda: sum(server.free()) == 2048 - 300, SECONDS)
    late = computing(server, "-m", "100")  # new ones too: there is no quota
    assert computes(going)
    if number == signal.SIGSTOP:
        own_etcd.signal(signal.SIGCONT)
    else:
        own_etcd.kill()
        own_etcd.start()
    until(lambda: "etcd answers again" in server.log, SECONDS)
    until(lambda: len(lease_keys(own_etcd)) == 2 == len(own_etcd.found("usage/")), SECONDS)
    for program in (going, late):
        assert computes(program)
        program.communicate("")
        assert program.returncode == 0
    until(lambda: server.free() == [1024, 1024], SECONDS)
    until(lambda: lease_keys(own_etcd) == [] == list(own_etcd.found("usage/")), SECONDS)


def test_server_that_was_stopped_is_a_member_again(own_etcd, in_pool):
    server = in_pool(FD_ETCD_TTL=f"{TTL:g}s")
    program = holding(server, "-m", "100")
    until(lambda: own_etcd.found("member/") and own_etcd.found("usage/"), SECONDS)
    server.process.send_signal(signal.SIGSTOP)
    until(lambda: not own_etcd.found("member/") and not own_etcd.found("usage/"), SECONDS)
    server.process.send_signal(signal.SIGCONT)
    until(lambda: own_etcd.found("member/") and own_etcd.found("usage/"), SECONDS)
    program.communicate("\n")
    until(lambda: not own_etcd.found("usage/"), SECONDS)


def test_server_and_etcd_killed_together_lose_and_leak_nothing(own_etcd, in_pool):
    server = in_pool()
    programs = [computing(server, "-m", "100") for _ in range(2)]
    until(lambda: len(lease_keys(own_etcd)) == 2, SECONDS)
    own_etcd.kill()
    programs.append(computing(server, "-m", "100"))  # which etcd has never heard of
    until(lambda: len(workers(server)) == 3, SECONDS)
    server.process.kill()
    programs.pop(0).kill()
    own_etcd.start()
    again = restarted(in_pool, server)
    until(lambda: sum(again.free()) == 2048 - 200, SECONDS)
    assert all(computes(program) for program in programs)
    until(lambda: len(lease_keys(own_etcd)) == 2 == len(own_etcd.found("usage/")), SECONDS)
    for program in programs:
        program.communicate("")
    until(lambda: again.free() == [1024, 1024], SECONDS)
    until(lambda: lease_keys(own_etcd) == [] == list(own_etcd.found("usage/")), SECONDS)
    until(lambda: workers(again) == [], SECONDS)


def revoked_in(etcd):
    lists = [x509.load_pem_x509_crl(each.encode()) for each in etcd.found("revoked/").values()]
    return {f"{row.serial_number:x}" for each in lists for row in each}


def test_revoked_user_is_refused_by_servers_that_do_not_reach_the_founder(
    own_etcd, make_server, tmp_path, monkeypatch
):
    founded = authority.found(tmp_path / "founder")
    options = ["--store", own_etcd.url]
    founder = make_server(*options, FD_TLS="always", FD_POOL=str(tmp_path / "founder"))

    def joined(name, role):
        token = founded.invite(role, 600, 1, name, [founder.control])
        where = {"FD_IDENTITY": str(tmp_path / name), "FD_POOL": str(tmp_path / name), "FD_TLS": "always"}
        join.join(tokens.parse(token), name, where)
        return where

    node, user = joined("node", "node"), joined("bob", "user")
    (row,) = founded.revoke("bob")
    until(lambda: row["serial"] in revoked_in(own_etcd), SECONDS)
    founder.process.kill()
    founder.process.wait()

    server = make_server(*options, FD_TLS="always", FD_POOL=node["FD_POOL"])
    for name, value in user.items():
        monkeypatch.setenv(name, value)

    def refused():
        try:
            client.gpus(parse_address(server.control), protocol_hash())
            return False
        except FdcoreError as error:
            return "has been revoked" in str(error)

    until(refused, SECONDS)
