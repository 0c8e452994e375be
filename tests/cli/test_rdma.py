"""The rdma road as people meet it: with UCX, without it, and where it is refused."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdcore import attach, ucx
from fdcore.config import protocol_hash
from tests.support import Server, start_server

needs_ucx = pytest.mark.skipif(
    not ucx.is_here(), reason="there is no UCX (libucx-cu13 is in the test extra)"
)
NOWHERE = "/nowhere/libucp.so.0"


@needs_ucx
def test_program_runs_over_rdma(server, demo):
    done = server.run(str(demo), road="rdma")
    assert "PASS" in done.stdout.splitlines(), done.stderr
    assert done.stderr == ""
    assert "over rdma" in server.log


def test_missing_library_is_named_with_where_to_get_it(server, demo):
    env = {ucx.VARIABLE: NOWHERE, "FD_LOG": "error"}
    done = server.run(str(demo), road="rdma", env=env)
    assert done.returncode != 0
    assert NOWHERE in done.stderr
    assert "libucx0" in done.stderr
    assert done.stderr.count("fdcore[") == 1  # said once


@needs_ucx
def test_library_that_the_server_misses_is_named_to_the_client(make_server, demo):
    server = make_server(**{ucx.VARIABLE: NOWHERE})
    env = {ucx.VARIABLE: "", "FD_LOG": "error"}
    done = server.run(str(demo), road="rdma", env=env)
    assert done.returncode != 0
    assert "on the server: " in done.stderr
    assert NOWHERE in done.stderr
    # Nothing else is lost with it.
    assert "PASS" in server.run(str(demo), road="tcp").stdout


# ---- where nobody has asked for it ----

# As on another machine than the server's, where both have a device.
AFAR = """
text=$(grep -v '^unix ' "$FD_SESSION")
printf '%s\\nrdma yes\\n' "$text" > "$FD_SESSION"
LD_PRELOAD=$DEVICE exec "$0"
"""
DEVICE = """
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <string.h>

DIR *opendir(const char *name)
{
    DIR *(*next)(const char *) = dlsym(RTLD_NEXT, "opendir");

    return next(strcmp(name, "/sys/class/infiniband") == 0 ? "/proc/self" : name);
}
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    source, made = folder / "device.c", folder / "device.so"
    source.write_text(DEVICE)
    cc = os.environ.get("CC", "gcc")
    subprocess.run([cc, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fd")
    running = start_server(folder, "--trusted-network", UCX_TLS="tcp")
    yield running
    running.stop()


def from_afar(
    server: Server, demo: Path, device: Path, **more: str
) -> "subprocess.CompletedProcess[str]":
    env = {ucx.VARIABLE: ucx.in_wheel(), "DEVICE": str(device), "FD_LOG": "warn"}
    done = server.run("sh", "-c", AFAR, str(demo), env=env | {"UCX_TLS": "tcp"} | more)
    assert "PASS" in done.stdout.splitlines(), done.stderr
    return done


@needs_ucx
def test_machines_with_devices_take_rdma(trusting, demo, device):
    done = from_afar(trusting, demo, device)
    assert done.stderr == ""
    assert "over rdma" in trusting.log


@needs_ucx
@pytest.mark.parametrize(
    "more, cause",
    [({ucx.VARIABLE: NOWHERE}, NOWHERE),
     ({"UCX_TLS": "none_such"}, "does not start"),
     ({"UCX_TLS": "sysv,self"}, "cannot reach the other side's UCX")],
)  # fmt: skip
def test_what_nobody_asked_for_may_fail(trusting, demo, device, more, cause):
    before = trusting.log.count("over tcp")
    done = from_afar(trusting, demo, device, **more)
    assert "tcp instead of rdma" in done.stderr and cause in done.stderr
    assert done.stderr.count("fdcore[") == 1  # said once
    assert trusting.log.count("over tcp") == before + 1


@needs_ucx
def test_server_that_refuses_is_reached_over_tcp(server, demo, device):
    done = from_afar(server, demo, device)
    assert "tcp instead of rdma" in done.stderr
    assert "--trusted-network" in done.stderr
    assert done.stderr.count("fdcore[") == 1


@needs_ucx
def test_worker_says_why_it_makes_no_link(make_server, demo, device):
    server = make_server("--trusted-network", UCX_TLS="none_such")
    done = from_afar(server, demo, device)
    assert "tcp instead of rdma" in done.stderr
    assert "on the server: UCX" in done.stderr and "UCX_TLS" in done.stderr
    assert done.stderr.count("fdcore[") == 1
    # Asked for, it is an error, with a way out.
    env = {"UCX_TLS": "tcp", "FD_LOG": "error"}
    done = server.run(str(demo), road="rdma", env=env)
    assert done.returncode != 0
    assert "over rdma: on the server: UCX" in done.stderr
    assert "FD_TRANSPORT=auto" in done.stderr
    assert done.stderr.count("fdcore[") == 1


def test_library_is_not_loaded_on_other_roads(server):
    code = "import ctypes; ctypes.CDLL('libcuda.so.1').cuInit(0); "
    code += "print('libucp' in open('/proc/self/maps').read())"
    done = server.run(sys.executable, "-c", code)
    assert done.stdout == "False\n", done.stderr


@needs_ucx
def test_signals_stay_the_programs_own(server):
    """UCX takes SIGSEGV and others as it is loaded; the mask of caught ones shows it.
    (Above 31 the threads' library has its own.)"""
    code = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); "
    code += "line = lambda: [l for l in open('/proc/self/status') if 'SigCgt' in l][0]; "
    code += "caught = lambda: int(line().split()[1], 16) & 0x7fffffff; "
    code += "before = caught(); c.cuInit(0); "
    code += "print(before == caught(), 'libucp' in open('/proc/self/maps').read())"
    done = server.run(sys.executable, "-c", code, road="rdma")
    assert done.stdout == "True True\n", done.stderr


@needs_ucx
def test_child_of_a_process_that_used_ucx_takes_another_road(server):
    """Asking for the version attaches; a child then attaches by itself, without the
    threads that UCX has in its parent."""
    code = "import ctypes, os; c = ctypes.CDLL('libcuda.so.1'); n = ctypes.c_int(); "
    code += "c.cuDriverGetVersion(ctypes.byref(n)); "
    code += "used = lambda: 'libucp' in open('/proc/self/maps').read(); "
    code += "say = lambda who: print(who, used(), c.cuInit(0), flush=True); "
    code += "os.fork() == 0 and (say('child'), os._exit(0)); os.wait(); say('parent')"
    done = server.run(sys.executable, "-c", code, road="rdma", env={"FD_LOG": "warn"})
    assert done.stdout == "child True 0\nparent True 0\n", done.stderr
    assert "shared memory instead of rdma" in done.stderr


def test_strangers_cannot_take_the_road(server):
    """UCX trusts its peers: only the server's own user may be one, who is known by the
    Unix socket."""
    show = 'cat "$FD_SESSION"; read x'
    holder = server.start(
        "sh", "-c", show, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    said = {}
    while len(said) < 7:
        key, value = holder.stdout.readline().split(" ", 1)
        said[key] = value.strip()
    spoken = attach.Spoken(
        bytes.fromhex(said["lease"]), bytes.fromhex(said["secret"]), protocol_hash()
    )
    host, port = said["tcp"].split()
    road = attach.ROADS["rdma"]
    with (
        socket.create_connection((host, int(port))) as sock,
        pytest.raises(attach.RefusedError, match="trusted networks"),
    ):
        attach.attach(sock, spoken, attach.COMMAND, road, os.urandom(16))
    holder.communicate("\n")


def test_named_library_goes_before_the_packages(tmp_path: Path):
    environment = {ucx.VARIABLE: str(tmp_path)}
    ucx.name(environment)
    assert environment == {ucx.VARIABLE: str(tmp_path)}
    assert ucx.is_here(environment)
    assert not ucx.is_here({ucx.VARIABLE: NOWHERE})
