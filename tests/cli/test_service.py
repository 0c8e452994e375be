"""fdserver as a service: what systemd is told, and what a reload leaves alone.

There is no systemd here: the test is who listens, and sends the signals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fdcore.security import files
from fdcore.service import Service
from tests.support import environment, until

CUDA = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
print("up", flush=True)
for line in sys.stdin:
    call("cuMemsetD8_v2", memory, ctypes.c_ubyte(7), ctypes.c_size_t(4096))
    back = ctypes.create_string_buffer(4096)
    call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(4096))
    print(back.raw == bytes([7]) * 4096, flush=True)
"""


class Manager:
    """Who is told, and an fdserver that tells."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(folder / "notify"))
        self.sock.settimeout(60)
        self.env = environment(folder, **more)
        self.log = folder / "log"
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fdcore_cli.fdserver", "--listen", "none",
                 "--cpu-devices", "2", "--state", str(folder / "state")],
                env=self.env | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "3000000"},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def told(self, word: str) -> list[str]:
        """The next message that says this."""
        while True:
            said = self.sock.recv(4096).decode().splitlines()
            if word in said:
                return said

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.sock.close()

    def command(self, module: str, *words: str) -> list[str]:
        at = f"unix:{self.folder}/state/control.sock"
        return [sys.executable, "-m", f"fdcore_cli.{module}", *words[:1], "-l", at, *words[1:]]


@pytest.fixture
def manager(tmp_path_factory):
    made = Manager(tmp_path_factory.mktemp("fd"))
    yield made
    made.stop()


def test_systemd_is_told_when_it_is_ready_alive_and_stops(manager):
    said = manager.told("READY=1")
    assert "STATUS=2 GPUs: 0 leases, 0 programs" in said
    # Which is true by then: a program needs no second try.
    done = subprocess.run(
        manager.command("fdrun", "-q", "true"), env=manager.env, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    manager.told("WATCHDOG=1")
    manager.process.terminate()
    manager.told("STOPPING=1")
    assert manager.process.wait(60) == 0


def test_reload_is_a_restart_that_no_program_notices(manager):
    manager.told("READY=1")
    program = subprocess.Popen(
        manager.command("fdrun", "-q", sys.executable, "-c", CUDA),
        env=manager.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout.readline() == "up\n"
    for _ in range(2):
        manager.process.send_signal(signal.SIGHUP)
        manager.told("RELOADING=1")
        # The fresh one; on a busy machine a worker is found a moment later.
        manager.told("STATUS=2 GPUs: 1 leases, 1 programs")
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "True\n"
        assert boards(manager.process.pid) == 1
    program.communicate("", timeout=60)
    assert program.returncode == 0
    assert manager.process.poll() is None
    until(lambda: zombies(manager.process.pid) == [], 60)


def boards(pid: int) -> int:
    """Descriptors of boards that the process has."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "fdboard" in os.readlink(link)
    return found


def zombies(parent: int) -> list[int]:
    """What has ended and was not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def test_reload_of_a_mistake_is_refused_and_nothing_ends(manager):
    manager.told("READY=1")
    folder = Path(manager.env["XDG_CONFIG_HOME"]) / "flexdirect"
    folder.mkdir(parents=True)
    (folder / "flexdirect.toml").write_text("[server]\nwarm = 'many'\n")
    manager.process.send_signal(signal.SIGHUP)
    manager.told("RELOADING=1")
    manager.told("READY=1")
    manager.told("WATCHDOG=1")
    assert "not reloaded: " in manager.log.read_text()
    assert manager.process.poll() is None


def test_reload_without_what_is_to_be_executed_is_refused(tmp_path, monkeypatch, caplog):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(60)
        service = Service({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        monkeypatch.setattr("fdcore.service.check_settings", lambda: None)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        service.reload()
        assert [told.recv(99) for _ in range(2)] == [b"RELOADING=1", b"READY=1"]
    assert f"not reloaded: {tmp_path}/python: no such file or directory" in caplog.text


def test_variables_of_the_manager_are_taken_out_of_the_environment():
    told = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1", "A": "b"}
    service = Service(told)
    assert told == {"A": "b"}
    assert service.address == "\0x"
    assert service.watched == 0.0  # it is another process that is watched
    assert not Service({}).here


ACT = """
import os, sys
from pathlib import Path
from fdcore.security import files
store, told = Path(sys.argv[1]), {}
files.act_for_service(told, store)
(store / "pool").mkdir()
print(os.getresuid(), os.getresgid(), told == {"FD_POOL": str(store / "pool")})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_root_acts_for_the_user_of_the_service():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        store = Path(folder) / "store"
        store.mkdir()
        os.chown(store, 4321, 4322)
        done = subprocess.run(
            [sys.executable, "-c", ACT, str(store)], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == f"{(4321,) * 3} {(4322,) * 3} True\n", done.stderr
        assert (store / "pool").stat().st_uid == 4321


def test_root_stays_root_where_fdserver_is_its_own(tmp_path):
    told: dict[str, str] = {}
    files.act_for_service(told, tmp_path)
    files.act_for_service(told, tmp_path / "nothing")
    assert told == {}
