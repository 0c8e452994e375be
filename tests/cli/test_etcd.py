"""fdservers whose state is in etcd: it may end, stop and come back, and so may they."""

import subprocess
import sys

from fdcore.config import STORE
from tests.cli.test_restart import CUDA, state_of, workers
from tests.support import until

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
SECONDS = 60


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
    return [key for key in etcd.keys() if "/lease/" in key]


# ---- restarts ----


def test_server_that_lost_its_file_takes_over_what_etcd_has(make_server, own_etcd):
    server = make_server("--store", own_etcd.url)
    program = computing(server, "-m", "600")
    until(lambda: workers(server) and lease_keys(own_etcd), SECONDS)
    server.process.kill()
    server.process.wait()
    for file in state_of(server).glob(f"{STORE}*"):
        file.unlink()
    again = make_server("--store", own_etcd.url, "--state", str(state_of(server)))
    assert sum(again.free()) == 2 * 1024 - 600
    assert computes(program)
    program.communicate("")
    until(lambda: again.free() == [1024, 1024], SECONDS)
    until(lambda: lease_keys(own_etcd) == [], SECONDS)


def test_etcd_has_no_secret_in_the_clear(make_server, own_etcd):
    server = make_server("--store", own_etcd.url)
    code = "sed -n 's/^secret //p' $FD_SESSION; read x"
    program = server.start("sh", "-c", code, **PIPES)
    secret = program.stdout.readline().strip()
    assert len(secret) == 64
    until(lambda: lease_keys(own_etcd), SECONDS)
    assert not any(secret in value for value in own_etcd.keys().values())
    program.communicate("\n")
