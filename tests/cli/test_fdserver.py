"""fdserver's own life: start, refusals, a clean end."""

import contextlib
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fdcore.config import parse_address, protocol_hash
from fdcore.errors import FdcoreError
from fdcore.rpc import client
from tests.support import environment, until


def fdserver(folder, *options, **more):
    return subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdserver", *options],
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def state_of(server):
    return Path(server.unix.removeprefix("unix:")).parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(make_server, number):
    server = make_server()
    server.process.send_signal(number)
    assert server.process.wait(20) == 0
    assert not list(state_of(server).glob("*.sock"))
    assert server.log.splitlines()[-1].endswith("stopping")


def test_it_ends_while_programs_hold_leases(make_server):
    server = make_server()
    holder = server.start("sh", "-c", "echo up; read x", stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE)  # fmt: skip
    assert holder.stdout.readline() == "up\n"
    assert server.stop() == 0
    assert holder.poll() is None
    holder.communicate("\n")
    assert holder.returncode == 0


def test_name_that_is_not_known_is_not_listened_at(tmp_path):
    done = fdserver(tmp_path, "--listen", "no-such-host.invalid", "--cpu-devices", "1")
    assert done.returncode == 125
    assert "no machine is known by this name" in done.stderr
    assert "as 127.0.0.1:56001, or none" in done.stderr


def test_no_worker_is_left_behind(make_server):
    server = make_server()
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    until(lambda: children.read_text().split())
    workers = children.read_text().split()
    server.stop()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_killed_server_can_be_started_again(make_server, tmp_path):
    server = make_server()
    server.process.kill()
    server.process.wait()
    again = make_server("--state", str(state_of(server)))
    assert len(again.free()) == 2


NO_WORKERS = """
import fdcore.workers
async def take(self):
    raise OSError(11, "no process can be made")
fdcore.workers.WorkerPool.take = take
"""


def test_program_is_told_why_there_is_no_worker_for_it(make_server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_WORKERS)
    server = make_server("--warm", "0", PYTHONPATH=str(tmp_path))
    code = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    done = server.run("-m", "64", sys.executable, "-c", code, env={"FD_LOG": "error"})
    assert done.stdout == "100\n"
    assert done.stderr.endswith("[Errno 11] no process can be made\n")
    assert server.log.count("no process can be made") == 1


SLOW_NAMES = """
import os, pwd, time
look_up = pwd.getpwuid
def getpwuid(uid):
    while os.path.exists("FILE"):
        time.sleep(0.02)
    return look_up(uid)
pwd.getpwuid = getpwuid
"""


def test_directory_of_users_that_does_not_answer_holds_nobody_else_up(make_server, tmp_path):
    slow = tmp_path / "slow"
    (tmp_path / "sitecustomize.py").write_text(SLOW_NAMES.replace("FILE", str(slow)))
    server = make_server(PYTHONPATH=str(tmp_path))
    slow.touch()
    with ThreadPoolExecutor(1) as other:
        local = other.submit(server.free)  # over the socket, by which a user is known
        until(lambda: connected(server))
        assert len(client.gpus(parse_address(server.control), protocol_hash())) == 2
        slow.unlink()
        with contextlib.suppress(FdcoreError):  # where it took five seconds
            assert len(local.result(60)) == 2


def connected(server):
    """True where somebody is at the server's control socket."""
    lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(line[5] == "03" and line[-1] == f"{state_of(server)}/.control" for line in lines)


def test_second_server_of_a_state_folder_is_refused(make_server, tmp_path):
    server = make_server()
    state = str(state_of(server))
    done = fdserver(
        tmp_path, "--cpu-devices", "1", "--listen", "none", "--state", state
    )
    assert done.returncode == 125
    assert f"in use by another fdserver, pid {server.process.pid}" in done.stderr
    assert len(server.free()) == 2


def test_end_of_a_server_whose_folder_was_removed_leaves_the_next_ones_sockets(make_server):
    before = make_server()
    shutil.rmtree(state_of(before))
    server = make_server("--state", str(state_of(before)))
    assert before.stop() == 0
    assert len(server.free()) == 2


def test_port_in_use_is_named(make_server, tmp_path):
    server = make_server()
    done = fdserver(tmp_path, "--cpu-devices", "1", "--listen", server.control,
                    "--state", str(tmp_path / "state"))  # fmt: skip
    assert done.returncode == 125
    assert f"cannot listen at {server.control}" in done.stderr


def test_it_does_not_listen_beyond_loopback_unasked(tmp_path):
    done = fdserver(tmp_path, "--cpu-devices", "1", "--listen", "0.0.0.0:0",
                    "--state", str(tmp_path / "state"))  # fmt: skip
    assert done.returncode == 125
    assert "nothing listens beyond loopback before this host belongs to a pool" in done.stderr
    assert "fdserver token" in done.stderr
    assert "--trusted-network" in done.stderr


def test_driver_that_is_none_is_named_with_the_cause(tmp_path):
    for path in ("/nonexistent/libcuda.so", "/etc/passwd", "libm.so.6"):
        done = fdserver(tmp_path, "--driver", path, "--state", str(tmp_path / "state"))
        assert done.returncode == 125
        last = done.stderr.splitlines()[-1]
        assert f"{path} cannot be used: " in last


def test_number_of_cpu_devices_is_what_was_said(make_server):
    assert len(make_server(devices=5).free()) == 5
    assert make_server(devices=1, memory_mb=300).free() == [300]


def test_more_cpu_devices_than_there_can_be_are_refused(tmp_path):
    for number in ("0", "17", "x"):
        done = fdserver(tmp_path, "--cpu-devices", number)
        assert done.returncode == 125
        assert f"'{number}' is not a number of CPU devices" in done.stderr
    assert fdserver(tmp_path, "--cpu-devices", "16", "--listen", "256.0.0.1:1",
                    "--state", str(tmp_path / "s")).stderr.count("GPU ") == 16  # fmt: skip


def test_ipv6_loopback_works(make_server):
    server = make_server("--listen", "[::1]:0")
    assert server.control.startswith("[::1]:")
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "-l", server.control, "echo", "hi"],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("hi\n", "")
