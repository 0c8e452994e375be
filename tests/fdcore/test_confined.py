"""What workers are: no rights, no system calls that they never need, and, where fdserver
is root and told so, a user for each tenant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fdcore.errors import ConfigError, RefusedError
from fdcore.lease import Owner
from fdcore.tenants import Tenants
from tests.support import until


def worker_of(server):
    """The process that serves the one session there is."""
    until(lambda: ", worker " in server.log)
    return int(server.log.rpartition(", worker ")[2].split()[0])


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def session(server, demo, road="shm", env=None):
    """A program that has attached and waits."""
    code = (
        "import ctypes, sys\n"
        "cuda = ctypes.CDLL('libcuda.so.1')\n"
        "assert cuda.cuInit(0) == 0\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    program = server.start(
        sys.executable, "-c", code, road=road, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout.readline() == "up\n"
    return program


def test_worker_has_no_rights_and_a_filter(make_server, demo):
    server = make_server()
    program = session(server, demo)
    said = status(worker_of(server))
    assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0
    assert said["NoNewPrivs"] == "1"
    assert said["Seccomp"] == "2"
    limits = Path(f"/proc/{worker_of(server)}/limits").read_text()
    assert any(line.split()[4:6] == ["0", "0"] for line in limits.splitlines() if "core file" in line)
    program.communicate("")
    assert program.returncode == 0


def test_filter_can_be_left_out(make_server, demo):
    server = make_server("--no-seccomp")
    program = session(server, demo)
    assert status(worker_of(server))["Seccomp"] == "0"
    program.communicate("")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as others")
@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_tenant_has_a_user_of_its_own(make_server, demo, road):
    server = make_server("--worker-users", "30000-30099")
    program = session(server, demo, road)
    said = status(worker_of(server))
    uids = {int(word) for word in said["Uid"].split()}
    assert len(uids) == 1
    assert 30000 <= uids.pop() <= 30099
    assert said["Groups"].strip() == ""
    program.communicate("")
    assert program.returncode == 0
    done = server.run(str(demo), road=road)
    assert done.returncode == 0, done.stderr
    until(lambda: len(list(Path(server.unix.removeprefix("unix:")).parent.glob("*heir*"))) == 0)


def test_range_of_users_that_cannot_be_is_refused():
    for first, last in ((0, 10), (10, 9), (1, 1 << 31)):
        with pytest.raises(ConfigError):
            Tenants(first, last, lambda: 0)
    with pytest.raises(ConfigError, match="only root"):
        Tenants(30000, 30001, lambda: 1000)


def test_each_tenant_gets_one_user_and_keeps_it():
    tenants = Tenants(30000, 30004, lambda: 0)
    owners = [Owner(f"u{number}", "h", serial="1") for number in range(5)]
    users = [tenants.user_of(owner) for owner in owners]
    assert len(set(users)) == 5
    assert [tenants.user_of(owner) for owner in owners] == users
    with pytest.raises(RefusedError, match="no user is left"):
        tenants.user_of(Owner("one more", "h", serial="1"))


def test_local_user_is_himself_and_root_is_not():
    tenants = Tenants(30000, 30004, lambda: 0)
    assert tenants.user_of(Owner("x", "", uid=1234567))[0] == 1234567
    assert tenants.user_of(Owner("root", "", uid=0))[0] >= 30000


def test_same_name_from_a_certificate_and_without_one_are_two():
    tenants = Tenants(30000, 30099, lambda: 0)
    known = tenants.user_of(Owner("bob", "h", serial="1"))
    assert known != tenants.user_of(Owner("bob", "h"))
