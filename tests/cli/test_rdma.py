"""The rdma road as people meet it: with UCX, without it, and where it is refused."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fdcore import attach, ucx
from fdcore.config import protocol_hash

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
