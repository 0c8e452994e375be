"""A pool in network namespaces: nothing here is loopback. Needs root and `ip netns`."""

import os
import secrets
import shutil
import subprocess
import sys
import time

import pytest

from fdcore.security import authority, tokens
from tests.support import environment, start_server, until


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def spaces():
    """Two namespaces with a wire between them: names and addresses."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    tag = secrets.token_hex(2)
    server, client = f"fds{tag}", f"fdc{tag}"
    try:
        ip("netns", "add", server)
        ip("netns", "add", client)
        ip("link", "add", f"s{tag}", "netns", server, "type", "veth",
           "peer", "name", f"c{tag}", "netns", client)  # fmt: skip
    except subprocess.CalledProcessError as error:
        for name in (server, client):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"network namespaces cannot be made: {error.stderr.strip()}")
    for name, link, address in (
        (server, f"s{tag}", "198.18.7.1"),
        (client, f"c{tag}", "198.18.7.2"),
    ):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield server, client
    for name in (server, client):
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def remote(spaces, tmp_path_factory):
    """The server of a pool, at an address of the wire."""
    pool = authority.found(tmp_path_factory.mktemp("pool") / "founder")
    server = start_server(
        tmp_path_factory.mktemp("fd"), "--listen", "198.18.7.1:0",
        prefix=["ip", "netns", "exec", spaces[0]], FD_POOL=str(pool.folder),
    )  # fmt: skip
    yield pool, server
    server.stop()


class Client:
    """Somebody in the other namespace, who does not see the server's sockets."""

    def __init__(self, space, server, folder):
        self.space = space
        self.server = server
        self.env = environment(folder)

    def run(self, module, *words, **more):
        state = os.path.dirname(self.server.unix.removeprefix("unix:"))
        hide = f'mount -t tmpfs none {state} && exec "$@"'
        return subprocess.run(
            ["ip", "netns", "exec", self.space, "unshare", "-m", "sh", "-c", hide, "sh",
             sys.executable, "-m", f"fdcore_cli.{module}", *words],
            env=self.env | more, capture_output=True, text=True, timeout=90,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def token(remote, role="user"):
    pool, server = remote
    return tokens.create(
        pool.folder, pool.pool, pool.hash, role, [server.control], int(time.time()) + 600
    ).text()


@pytest.fixture
def client(spaces, remote, tmp_path):
    return Client(spaces[1], remote[1], tmp_path)


def test_who_has_joined_runs_programs_there(client, remote, demo):
    joined = client.run("flexdirect", "init", "--accept-terms", token(remote))
    assert joined.returncode == 0, joined.stderr
    done = client.run("fdrun", "-l", remote[1].control, str(demo))
    assert done.returncode == 0, done.stderr
    assert " over tcp, " in remote[1].log
    assert "@198.18.7.2 pid" in remote[1].log
    seen = client.run("flexdirect", "list_gpus", "-l", remote[1].control)
    assert "2 GPU" in seen.stdout or "GPU 1" in seen.stdout, seen.stdout + seen.stderr


def test_who_has_not_joined_gets_nothing(client, remote):
    done = client.run("fdrun", "-l", remote[1].control, "true")
    assert done.returncode == 125
    assert "flexdirect init" in done.stderr
    seen = client.run("fdrun", "-l", remote[1].control, "true", FD_TLS="always")
    assert seen.returncode == 125
    assert "nobody has run flexdirect init here" in seen.stderr


def test_lease_that_was_granted_over_the_socket_is_good_there_only(
    client, remote, spaces, demo
):
    """A session file that is carried away: the server tells where it comes from."""
    _, server = remote
    holder = server.start(
        "sh", "-c", "cat $FD_SESSION; read x", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    lines = []
    while not lines or not lines[-1].startswith("tcp "):
        lines.append(holder.stdout.readline())
    path = os.path.join(client.env["XDG_RUNTIME_DIR"], "stolen")
    with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.writelines(line for line in lines if not line.startswith("unix "))
    from fdcore.config import LIBRARIES

    libs = os.path.join(client.env["XDG_RUNTIME_DIR"], "libs")
    os.mkdir(libs)
    os.symlink(LIBRARIES / "libcuda.so.1", os.path.join(libs, "libcuda.so.1"))
    done = subprocess.run(
        ["ip", "netns", "exec", spaces[1], str(demo)],
        env=client.env | {"FD_SESSION": path, "FD_LOG": "error", "FD_TRANSPORT": "tcp",
                          "LD_LIBRARY_PATH": libs},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    holder.communicate("\n")
    assert done.returncode != 0
    assert "was granted on this machine" in done.stderr


def test_on_its_own_machine_everything_is_as_ever(spaces, tmp_path, demo, make_server):
    """A server that listens everywhere: over loopback nobody needs a certificate."""
    pool = authority.found(tmp_path / "founder")
    server = make_server(
        "--listen", "0.0.0.0:0", prefix=["ip", "netns", "exec", spaces[0]],
        FD_POOL=str(pool.folder),
    )  # fmt: skip
    port = server.control.rpartition(":")[2]
    near = Client(spaces[0], server, tmp_path)
    done = near.run("fdrun", "-l", f"127.0.0.1:{port}", str(demo), FD_TRANSPORT="tcp")
    assert done.returncode == 0, done.stderr
    far = Client(spaces[1], server, tmp_path)
    done = far.run("fdrun", "-l", f"198.18.7.1:{port}", "true")
    assert done.returncode == 125


def test_trusted_network_is_still_there(spaces, tmp_path, demo, make_server):
    server = make_server(
        "--listen", "198.18.7.1:0", "--trusted-network",
        prefix=["ip", "netns", "exec", spaces[0]],
    )  # fmt: skip
    client = Client(spaces[1], server, tmp_path)
    done = client.run("fdrun", "-l", server.control, str(demo))
    assert done.returncode == 0, done.stderr


def test_program_of_somebody_who_is_revoked_ends(client, remote, spaces):
    joined = client.run("flexdirect", "init", "--accept-terms", "--name", "shortlived", token(remote))
    assert joined.returncode == 0, joined.stderr
    pool, server = remote
    before = server.free()
    state = os.path.dirname(server.unix.removeprefix("unix:"))
    hide = f'mount -t tmpfs none {state} && exec "$@"'
    program = subprocess.Popen(
        ["ip", "netns", "exec", spaces[1], "unshare", "-m", "sh", "-c", hide, "sh",
         sys.executable, "-m", "fdcore_cli.fdrun", "-l", server.control, "sh", "-c",
         "echo up; read x"],
        env=client.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert program.stdout.readline() == "up\n"
    assert server.free() != before
    pool.revoke("shortlived")
    until(lambda: server.free() == before)
    program.communicate("\n")
    again = client.run("fdrun", "-l", server.control, "true")
    assert again.returncode == 125
    assert "has been revoked" in again.stderr
