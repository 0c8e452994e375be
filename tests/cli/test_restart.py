"""fdserver killed and started again: no GPU is promised twice, no lease is lost or left
over, and programs do not notice."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fdcore.config import STORE
from fdcore.lease import Lease, Owner, Process
from fdcore.recall import lease_of, lease_row, started
from fdcore.sched.slices import Gpu, Slice
from fdcore.store import LEASE, Sqlite
from tests.e2e import wires as wires_module
from tests.e2e.wires import Wires
from tests.support import until

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

# A CUDA program that computes before and after the restart: y = a memset's bytes.
CUDA = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        print(name, code, flush=True); sys.exit(1)
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
def check(value):
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(value), ctypes.c_size_t(4096))
    back = ctypes.create_string_buffer(4096)
    call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(4096))
    assert back.raw == bytes([value]) * 4096
check(1)
print("up", flush=True)
for line in sys.stdin:
    check(7)
    print("again", flush=True)
"""


def state_of(server):
    return Path(server.unix.removeprefix("unix:")).parent


def connected(server):
    """True where somebody holds a lease over the server's Unix socket, which the kernel
    knows by the name that it had first."""
    name = f"{state_of(server)}/.data"
    lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(line[5] == "03" and line[-1] == name for line in lines)


def restarted(make_server, server, number=signal.SIGKILL):
    server.process.send_signal(number)
    server.process.wait(20)
    return make_server("--state", str(state_of(server)))


def holding(server, *options, code="echo up; read x"):
    started = server.start(*options, "sh", "-c", code, **PIPES)
    assert started.stdout.readline() == "up\n"
    return started


def workers(server):
    return list((state_of(server) / "workers").iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
def test_what_a_program_holds_is_not_promised_again(make_server, number):
    server = make_server(devices=1)
    program = holding(server, "-m", "600")
    again = restarted(make_server, server, number)
    assert again.free() == [424, 1024]  # the next one has two
    refused = again.run("-n", "2", "-m", "600", "true")
    assert refused.returncode == 125
    program.communicate("\n")
    until(lambda: again.free() == [1024, 1024])


@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_cuda_program_goes_on_and_its_worker_is_taken_over(make_server, road):
    server = make_server()
    program = server.start("-m", "600", sys.executable, "-c", CUDA, road=road, **PIPES)
    assert program.stdout.readline() == "up\n"
    until(lambda: workers(server))
    again = restarted(make_server, server)
    assert sum(again.free()) == 2 * 1024 - 600
    assert f"over {road}, worker" in again.log
    for _ in range(2):
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "again\n"
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.flexdirect", "stats", "--format", "json", "-l", again.unix],
        env=again.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f'"pid": {program.pid}' in done.stdout, done
    # And a second time.
    third = restarted(make_server, again)
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "again\n"
    assert sum(third.free()) == 2 * 1024 - 600
    program.communicate("")
    assert program.returncode == 0
    until(lambda: third.free() == [1024, 1024])
    until(lambda: workers(third) == [])


@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_program_that_begins_while_there_is_no_server_waits_for_the_next(make_server, road):
    server = make_server()
    program = server.start(
        "-m", "600", "sh", "-c", 'echo up; read x; export FD_RECONNECT=120; exec "$@"', "sh",
        sys.executable, "-c", f"print('begins', flush=True)\n{CUDA}", road=road, **PIPES,
    )  # fmt: skip
    assert program.stdout.readline() == "up\n"
    server.process.kill()
    server.process.wait(20)
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "begins\n"
    again = make_server("--state", str(state_of(server)))
    assert program.stdout.readline() == "up\n"
    program.communicate("")
    assert program.returncode == 0
    until(lambda: again.free() == [1024, 1024])


def test_restart_that_fails_ends_nothing(make_server):
    server = make_server()
    state = state_of(server)
    program = server.start("-m", "600", sys.executable, "-c", CUDA, **PIPES)
    assert program.stdout.readline() == "up\n"
    until(lambda: workers(server))
    server.process.kill()
    server.process.wait(20)

    def failing(listen):
        done = subprocess.run(
            [sys.executable, "-m", "fdcore_cli.fdserver", "--listen", listen,
             "--cpu-devices", "2", "--state", str(state)],
            env=server.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 125, done
        return done.stderr

    with socket.socket() as taken:  # before anything is taken over
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen at" in failing(f"127.0.0.1:{taken.getsockname()[1]}")
    (state / "control.sock").unlink(missing_ok=True)
    (state / "control.sock").mkdir()  # and after it
    assert "leaving 1 leases" in failing("none")
    (state / "control.sock").rmdir()
    again = make_server("--state", str(state))
    assert sum(again.free()) == 2 * 1024 - 600
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "again\n"
    program.communicate("")
    assert program.returncode == 0


def test_owner_is_the_same_after_a_restart():
    gpus = (Gpu(0, "name", "GPU-1", 1 << 30),)
    owner = Owner("bob", "here", 12, "true", "admin", "ab", 1000)
    lease = Lease(bytes(16), bytes(32), owner, (Slice(0, 1 << 20),))
    lease.holders = {Process(12, 34, 56)}
    row = lease_row(lease, gpus, "boot")
    found = lease_of(bytes(16).hex(), row, gpus)
    assert (found.owner, found.holders, found.strays) == (owner, lease.holders, set())
    # An older server's.
    del row["uid"], row["strays"]
    row["holders"] = [[12, 34]]
    found = lease_of(bytes(16).hex(), row, gpus)
    assert (found.owner.uid, found.holders) == (-1, {Process(12, 34, 12)})
    assert found.strays


def test_program_that_died_meanwhile_holds_nothing(make_server):
    server = make_server()
    program = server.start("-m", "600", sys.executable, "-c", CUDA, **PIPES)
    assert program.stdout.readline() == "up\n"
    server.process.kill()
    server.process.wait()
    program.kill()
    program.communicate()
    again = make_server("--state", str(state_of(server)))
    until(lambda: again.free() == [1024, 1024])
    until(lambda: workers(again) == [])


def test_nobody_is_waited_for_who_is_known_to_have_gone(make_server):
    server = make_server()
    program = holding(server, "-m", "600")
    store = Sqlite(state_of(server) / STORE)
    until(lambda: [row["strays"] for row in store.rows(LEASE).values()] == [False])
    ((row,),) = [store.rows(LEASE).values()]
    store.close()
    assert len(row["holders"]) == 2  # the program and its fdhold
    server.process.kill()
    server.process.wait()
    program.kill()
    program.communicate()
    until(lambda: not any(started(pid) for pid, *_ in row["holders"]))
    again = make_server("--state", str(state_of(server)))
    assert again.free() == [1024, 1024]  # with its first answer


def test_descendant_keeps_the_lease_over_a_restart(make_server):
    # Known to nobody but to the fdhold of its program, which dials again.
    server = make_server()
    ours, theirs = os.pipe()
    code = "exec 3<&0; setsid sh -c 'echo up; read x' <&3 3<&- & exec 0<&-"
    program = server.start("-m", "600", "sh", "-c", code, stdin=ours, stdout=subprocess.PIPE)
    os.close(ours)
    assert program.stdout.readline() == "up\n"
    program.wait(20)
    again = restarted(make_server, server)
    until(lambda: "out since before" in again.log)
    # Longer than the grace time of this machine's.
    with pytest.raises(AssertionError):
        until(lambda: again.free() == [1024, 1024], 7)
    os.close(theirs)
    until(lambda: again.free() == [1024, 1024])


def test_reservation_outlives_a_restart(make_server, demo):
    server = make_server()

    def flexdirect(*words, server=server):
        done = subprocess.run(
            [sys.executable, "-m", "fdcore_cli.flexdirect", *words],
            env=server.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = flexdirect("request_gpus", "-m", "600", "-l", server.unix).strip()
    again = restarted(make_server, server)
    with pytest.raises(AssertionError):
        until(lambda: again.free() == [1024, 1024], 7)
    assert flexdirect("client", "-q", "-f", path, str(demo)).endswith("PASS\n")
    flexdirect("release_gpus", "-f", path)
    until(lambda: again.free() == [1024, 1024])


def test_who_was_there_before_an_upgrade_comes_again(make_server, tmp_path):
    """The next server speaks another protocol; the worker, the shim and fdhold do not."""
    (tmp_path / "sitecustomize.py").write_text(
        "import fdcore.config; fdcore.config.protocol_hash = lambda: bytes(32)\n"
    )
    server = make_server()
    server.environment["WIRES_MEANT"] = str(tmp_path / "meant")
    wires = Wires(tmp_path / "meant")
    words = ["-m", "600", sys.executable, wires_module.__file__, str(wires.port)]
    program = server.start(*words, sys.executable, "-c", CUDA, road="tcp", **PIPES)
    try:
        assert program.stdout.readline() == "up\n"
        server.process.kill()
        server.process.wait()
        state = str(state_of(server))
        again = make_server("--state", state, PYTHONPATH=str(tmp_path))
        wires.cut_all()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "again\n", again.log
        assert wires.cuts
        until(lambda: connected(again))  # fdhold
    finally:
        program.kill()
        program.communicate()
        wires.close()
    until(lambda: ": freed" in again.log)


def test_many_leases_are_taken_over_and_none_is_left(make_server):
    server = make_server()
    programs = [holding(server, "-m", "100") for _ in range(8)]
    before = server.free()
    again = restarted(make_server, server)
    assert again.free() == before
    for program in programs:
        program.kill()
        program.communicate()
    until(lambda: again.free() == [1024, 1024])
    store = Sqlite(state_of(again) / STORE)
    until(lambda: store.rows(LEASE) == {})
    store.close()


def test_clean_end_leaves_no_lease_behind(make_server):
    server = make_server()
    program = holding(server, "-m", "600")
    assert server.stop() == 0
    store = Sqlite(state_of(server) / STORE)
    assert store.rows(LEASE) == {}
    store.close()
    program.communicate("\n")


def test_leases_of_another_boot_and_of_other_gpus_are_forgotten(make_server):
    server = make_server()
    program = holding(server, "-m", "600")
    server.process.kill()
    server.process.wait()
    store = Sqlite(state_of(server) / STORE)
    ((key, row),) = store.rows(LEASE).items()
    store.put(LEASE, key, row | {"boot": "another"})
    store.put(LEASE, "00" * 16, row | {"slices": [[0, "GPU-another", 1]]})
    store.put(LEASE, "11" * 16, {"boot": row["boot"]})
    store.close()
    again = make_server("--state", str(state_of(server)))
    assert again.free() == [1024, 1024]
    assert again.log.count("its GPUs are not there any more") == 2
    program.communicate("\n")


def test_server_serves_without_its_store(make_server):
    server = make_server()
    path = state_of(server) / STORE
    path.unlink()
    path.mkdir()
    before = server.free()
    assert server.run("-m", "100", "true").returncode == 0
    until(lambda: server.free() == before)


def test_what_a_locked_store_did_not_take_is_written_later(make_server):
    server = make_server(devices=1)
    locked = sqlite3.connect(state_of(server) / STORE, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    program = holding(server, "-m", "600")
    until(lambda: "a restart would know nothing of now" in server.log)
    locked.execute("ROLLBACK")
    locked.close()
    until(lambda: "the store is written again" in server.log)
    again = restarted(make_server, server)
    assert again.free() == [424, 1024]  # the next one has two
    program.communicate("\n")
    until(lambda: again.free() == [1024, 1024])


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of one's own needs root")
def test_lease_over_tcp_is_dialled_again(make_server):
    # Without the server's sockets in sight a client is one from elsewhere.
    server = make_server()
    state = state_of(server)
    script = f'mount -t tmpfs none {state}; exec "$@"'
    command = server.command("-m", "600", "sh", "-c", "grep -c ^unix $FD_SESSION; read x")
    command[command.index(server.unix)] = server.control
    program = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        env=server.environment, text=True, **PIPES,
    )  # fmt: skip
    assert program.stdout.readline() == "0\n"
    again = restarted(make_server, server)
    until(lambda: "out since before" in again.log)
    store = Sqlite(state / STORE)
    until(lambda: [row["far"] for row in store.rows(LEASE).values()] == [True])
    store.close()
    # Its program's end is known at once, not after the grace time: somebody holds it.
    until(lambda: dialled(again))
    program.communicate("\n")
    until(lambda: again.free() == [1024, 1024], 20)


def dialled(server):
    """True where something is connected to the server's data port."""
    port = f":{int(server.log.rpartition('data at port ')[2].split()[0]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)
