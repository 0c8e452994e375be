"""Builds the test programs and runs each of them directly and through fdrun.

`direct` puts the CPU device in front of the program; `shm` and `tcp` go through a
server that serves the same CPU device. The outputs, exit codes included, must agree.

With FD_TEST_DRIVER=PATH, a real driver's library, the same programs run on that driver
instead: `direct` is the program by itself, and the servers serve the machine's GPUs.
FD_TEST_ROADS=rdma (any of shm, tcp, rdma, with commas) takes other roads; UCX_TLS=tcp or
sysv,self then says over which of UCX's transports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parallel import building
from tests.support import start_daemon

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).parent / "apps"
OUT = ROOT / "build" / "e2e"
BIN = Path(sysconfig.get_path("scripts"))
ROADS = tuple(os.environ.get("FD_TEST_ROADS", "shm,tcp").split(","))
# The CPU device is as unkind as a driver here: what remoting must not rely on.
STRICT = {"FD_CPU_STRICT": "1"}
# ... and of a server it hands out memory that is full of what others have left.
DIRTY = {"FD_CPU_STRICT": "1,dirty"}
DRIVER = os.environ.get("FD_TEST_DRIVER", "")
DEVICES = 2
MEMORY_MB = 1024


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DRIVER:
        for item in items:
            if item.get_closest_marker("cpu_device"):
                item.add_marker(pytest.mark.skip(reason="is about the CPU device"))


def compile_into(target: Path, command: Sequence[str | Path]) -> None:
    """Runs a compiler whose output appears whole: what it replaces may be running."""
    OUT.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run([*command, "-o", made], check=True)
    made.replace(target)


def nvcc() -> Path | None:
    """The CUDA compiler: the one of the wheels first, then whatever is on the path."""
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return wheel if wheel.exists() else Path(found) if found else None


def newer(target: Path, *sources: Path) -> bool:
    return target.exists() and all(
        target.stat().st_mtime >= source.stat().st_mtime for source in sources
    )


def build_cu(name: str, *flags: str, tag: str = "") -> Path:
    """Builds apps/NAME.cu, with PTX only unless the flags say otherwise."""
    compiler = nvcc()
    if compiler is None:
        pytest.skip("no nvcc: neither in the wheels of the test extra nor on the path")
    source, target = APPS / f"{name}.cu", OUT / (name + tag)
    with building(target.name):
        if newer(target, source):
            return target
        OUT.mkdir(parents=True, exist_ok=True)
        library = compiler.parent.parent / "lib"
        # The wheels have no plain libcudart.so, which -cudart shared links with.
        for runtime in library.glob("libcudart.so.*"):
            link = OUT / f"libcudart.so.{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(runtime)
            link.replace(OUT / "libcudart.so")
        compile_into(target, [
            compiler, "-arch=compute_80", *flags, source,
            f"-L{library}", f"-L{OUT}", "-Xlinker", "-rpath", "-Xlinker", library])
    return target


def build_c(name: str) -> Path:
    """Builds apps/NAME.c against our own headers and libcuda.so.1 (looked up at run time)."""
    source, target = APPS / f"{name}.c", OUT / name
    with building(target.name):
        if newer(target, source, APPS / "app.h"):
            return target
        compile_into(target, [
            "gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wno-unused-function",
            f"-I{ROOT / 'build' / 'gen'}", f"-I{ROOT / 'csrc' / 'include'}",
            source, f"-L{ROOT / 'build' / 'lib'}", "-Wl,--as-needed", "-l:libcuda.so.1",
            "-lpthread", "-Wl,--allow-shlib-undefined"])
    return target


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


def run(command: list[str | Path], env: dict[str, str], timeout: float = 300,
        feed: str = "") -> Outcome:
    full = {**os.environ, **env}
    full.pop("FD_SESSION", None)
    process = subprocess.Popen(
        [str(word) for word in command], env=full, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(feed, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{command} hangs\nstdout:\n{out}\nstderr:\n{err}")
    return Outcome(process.returncode, out, err)


class Server:
    """One fdserver with CPU devices, on loopback ports of its own."""

    def __init__(self, state: Path, devices: int = DEVICES, env: dict[str, str] | None = None):
        self.state = state
        self.log = state / "log"
        state.mkdir(parents=True, exist_ok=True)
        gpus = ["--driver", DRIVER] if DRIVER else ["--cpu-devices", str(devices)]
        command = [BIN / "fdserver", "--listen", "127.0.0.1:0", *gpus, "--state", state]
        self.process, told = start_daemon(
            [str(word) for word in command], self.log,
            {**os.environ, **DIRTY, "FD_CPU_MEMORY_MB": str(MEMORY_MB), **(env or {})})
        self.address = str(told["control"])

    def text(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def command(self, *program: str | Path, options: tuple[str, ...] = ("-n", "1")) -> list:
        return [BIN / "fdrun", *options, "-l", self.address, "--", *program]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    status = server.stop()
    assert status == 0, f"fdserver ended with {status}:\n{server.text()}"


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def found_directly() -> dict[str, Outcome]:
    return {}


@pytest.fixture
def direct(found_directly: dict[str, Outcome]) -> Run:
    """What a program says directly is the same for each road, and so found once; anew:
    because it leaves more than its words."""
    def go(*program: str | Path, devices: int = 1, env: dict[str, str] | None = None,
           memory: int = MEMORY_MB, feed: str = "", anew: bool = False) -> Outcome:
        if DRIVER:
            return run([*program], env or {}, feed=feed)
        asked = repr((program, devices, env, memory, feed))
        if anew or asked not in found_directly:
            found_directly[asked] = run(
                [BIN / "fdrun", "--direct", "--", *program],
                {**STRICT, "FD_CPU_DEVICES": str(devices), "FD_CPU_MEMORY_MB": str(memory),
                 **(env or {})}, feed=feed)
        return found_directly[asked]
    return go


@pytest.fixture
def remote(server: Server) -> Run:
    def go(*program: str | Path, road: str = ROADS[0], options: tuple[str, ...] = ("-n", "1"),
           env: dict[str, str] | None = None, feed: str = "") -> Outcome:
        return run(server.command(*program, options=options),
                   {"FD_TRANSPORT": road, **(env or {})}, feed=feed)
    return go


@pytest.fixture
def python() -> Path:
    return Path(sys.executable)
