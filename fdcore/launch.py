"""fdrun: reserve, arrange the program's environment, become the program.

The lease hangs on a connection that the program inherits, so exit status, signals and
terminal are the program's own, and the server frees the lease when the last process
that has the connection is gone.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fdcore import __version__, modules, tools, ucx
from fdcore.config import (
    CPU_DEVICE,
    NVML,
    SHIM,
    Address,
    library,
    private_folder,
    runtime_folder,
)
from fdcore.errors import FdcoreError, TransportError, naming
from fdcore.keeper import aside, keep
from fdcore.progress import Progress
from fdcore.reserve import Held, Wish, reserve, same_machine, share_text

if TYPE_CHECKING:
    from fdcore.rpc.client import Grant

OWN_FAILURE, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
PRIVATE_SERVER_SECONDS = 60.0
SESSION = "session-"


class ExecError(FdcoreError):
    """The program cannot be started."""

    def __init__(self, message: str, status: int, cure: str = "") -> None:
        super().__init__(message, cure)
        self.status = status


@dataclass(frozen=True, slots=True)
class Program:
    """A program that has been found, and the words it is started with."""

    path: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return os.path.basename(self.words[0])


def find_program(
    words: Sequence[str], environment: Mapping[str, str], split: bool = False
) -> Program:
    """Finds what to run before anything is reserved. split: the only word may be a
    whole command line, as FlexDirect's users write it."""
    found = shutil.which(words[0], path=tools.search_path(environment))
    if found is None and split and len(words) == 1 and not os.path.exists(words[0]):
        try:
            parts = shlex.split(words[0])
        except ValueError:  # a quote that is not closed: it is no command line
            parts = []
        if len(parts) > 1:
            return find_program(parts, environment)
    if found is not None:
        return Program(found, tuple(words))
    raise not_found(words[0], environment, split)


def not_found(name: str, environment: Mapping[str, str], split: bool) -> ExecError:
    """Why this is no program, and what helps."""
    there = os.path.isfile(name)
    if "/" in name:
        if os.path.isdir(name):
            return ExecError(f"{name}: is a directory", NOT_EXECUTABLE)
        if os.path.exists(name):
            why = f"{name}: is not executable"
            return ExecError(why, NOT_EXECUTABLE, to_execute(name))
        cure = ""
        if " " in name and not split:
            cure = "quotes around a whole command line are for flexdirect run"
        return ExecError(f"{name}: no such file", NOT_FOUND, cure)
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isfile(os.path.join(folder, name)):
            return ExecError(f"{name}: is not executable", NOT_EXECUTABLE)
    cure = to_execute(f"./{name}") if there else ""
    if there and os.access(name, os.X_OK):
        cure = f"the one in this folder is ./{name}"
    return ExecError(f"{name}: not found", NOT_FOUND, cure)


def to_execute(name: str) -> str:
    """What helps where a file is none that can be started."""
    if name.endswith(".py"):
        return f"Python starts it: python {name}"
    return f"chmod +x {name}, or put what runs it in front of it"


def run(program: Program, wish: Wish, progress: Progress) -> NoReturn:
    """Reserves what is wished for and becomes the program."""
    start(program, reserve(wish, program.name, progress), wish.road, progress)


def run_local(
    program: Program, wish: Wish, server: Sequence[str], progress: Progress
) -> NoReturn:
    """As run, with a server of its own that ends with the program."""
    address, leash = private_server(server, wish.road)
    try:
        held = reserve(replace(wish, servers=[address]), program.name, progress)
    finally:
        os.close(leash)
    start(program, held, wish.road, progress, redial=False)


def run_direct(program: Program, devices: int = 1) -> NoReturn:
    """The CPU device in front of the program, and no server. devices: how many it
    shows, unless that is one, which leaves it to FD_CPU_DEVICES."""
    environment = own_environment()
    if devices > 1:
        environment["FD_CPU_DEVICES"] = str(devices)
    environment.pop("FD_SESSION", None)
    if environment.get("FD_STATS", "0") not in ("", "0"):
        print(
            "fdcore: --direct has no session: there is nothing to count",
            file=sys.stderr,
        )
    add_library(environment, library(CPU_DEVICE))
    for_cpu_device(environment)
    become(program, environment)


def private_server(options: Sequence[str], road: str) -> tuple[Address, int]:
    """Starts an fdserver for this run alone. Gives its address and its leash: it goes
    on living, without it, for as long as there is a lease."""
    import subprocess
    import tempfile

    state = Path(tempfile.mkdtemp(prefix="local-", dir=clean_runtime_folder()))
    log = state / "log"
    ready, ready_theirs = os.pipe()
    leash_theirs, leash = os.pipe()
    command = [
        *modules.command("fdcore_cli.fdserver"), "--listen", "none",
        "--state", str(state), "--ready-fd", str(ready_theirs),
        "--leash-fd", str(leash_theirs), *options,
    ]  # fmt: skip
    spawned = os.fork()
    if spawned == 0:
        # The program must not find a child that it never started: the server is an
        # orphan, adopted by init.
        try:
            with open(log, "wb") as output:
                subprocess.Popen(
                    command,
                    env=dict(os.environ, FD_TRANSPORT=road),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=None if os.environ.get("FD_LOG") else output,
                    pass_fds=[ready_theirs, leash_theirs],
                    start_new_session=True,
                )
        finally:
            os._exit(0)
    os.waitpid(spawned, 0)
    os.close(ready_theirs)
    os.close(leash_theirs)
    try:
        said = read_ready(ready)
    finally:
        os.close(ready)
    if not said:
        os.close(leash)
        why = last_line(log)
        shutil.rmtree(state, ignore_errors=True)
        raise TransportError(f"the private server did not start: {why}")
    return Address(path=json.loads(said)["unix"]), leash


def read_ready(descriptor: int) -> bytes:
    deadline = time.monotonic() + PRIVATE_SERVER_SECONDS
    os.set_blocking(descriptor, False)
    import select

    said = b""
    while not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b""
        piece = os.read(descriptor, 4096)
        if not piece:
            return b""
        said += piece
    return said


def last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it said nothing"


# ---- the program's world ----


def start(
    program: Program,
    held: Sequence[Held],
    road: str,
    progress: Progress,
    redial: bool = True,
) -> NoReturn:
    environment = own_environment()
    path, descriptor = write_session([one.grant for one in held], road)
    say_locked(held, path, progress)
    add_session(environment, path)
    holds = [one.hold for one in held]
    # A private server is not started again: nobody needs to dial it again.
    told = "" if progress.quiet else str(path)
    end = keep(holds, descriptor, os.getpid(), told) if redial else -1
    for kept in (aside(descriptor), end, *(aside(sock.detach()) for sock in holds)):
        if kept >= 0:
            os.set_inheritable(kept, True)
    say_running(program, held, progress)
    if end < 0:
        progress.info("The GPUs are released when the program ends")
    progress.plain()
    try:
        become(program, environment)
    finally:
        path.unlink(missing_ok=True)


def add_session(environment: dict[str, str], path: Path) -> None:
    """Puts the shim in front of a program, with the leases of this session file."""
    environment["FD_SESSION"] = str(path)
    add_library(environment, library(SHIM))
    said = path.read_text(encoding="ascii")
    if "\ncpu " in said:
        for_cpu_device(environment)
    if "\nroad rdma\n" in said or ("\nrdma yes\n" in said and ucx.has_device()):
        ucx.name(environment)


def say_locked(held: Sequence[Held], path: Path, progress: Progress) -> None:
    count = sum(len(one.grant.slices) for one in held)
    progress.info(
        f"Locked {count} GPUs with {share_text(held[0].grant)}, "
        f"configuration saved to '{path}'"
    )


def say_running(program: Program, held: Sequence[Held], progress: Progress) -> None:
    if progress.quiet:
        return
    import uuid

    count = sum(len(one.grant.slices) for one in held)
    progress.info(
        f"Running client command '{shlex.join(program.words)}' on {count} GPUs, "
        "with the following servers:"
    )
    for one in held:
        grant = one.grant
        where = grant.address.host or grant.address
        progress.info(
            f"{where} {grant.port} {uuid.UUID(bytes=grant.lease)} "
            f"{grant.address.port} {__version__}"
        )


def session_lines(grant: "Grant", wanted: str) -> list[str]:
    """One server's part of the session file."""
    lines = [
        f"server {grant.address}",
        f"gpus {len(grant.slices)}",
        f"lease {grant.lease.hex()}",
        f"secret {grant.secret.hex()}",
        f"road {wanted}",
    ]
    if same_machine(grant):
        lines.append(f"unix {grant.unix}")
    if grant.port:
        lines.append(f"tcp {grant.host} {grant.port}")
    if grant.seal:
        lines.append("seal 1")
    if grant.cpu_device:
        lines.append("cpu device")
    if grant.rdma:
        lines.append("rdma yes")
    return lines


def write_session(
    grants: Sequence["Grant"], wanted: str, prefix: str = SESSION
) -> tuple[Path, int]:
    """The file that FD_SESSION names, for the shim; and a locked descriptor of it. Who
    can lock the file for itself knows that every process of the program has gone."""
    lines = [line for grant in grants for line in session_lines(grant, wanted)]
    folder = clean_runtime_folder()
    path = folder / f"{prefix}{secrets.token_hex(8)}"
    fresh = folder / f"new-{path.name}"
    descriptor = os.open(
        fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with naming(folder):
            os.write(descriptor, "".join(line + "\n" for line in lines).encode())
        fresh.rename(path)
    except BaseException:
        os.close(descriptor)
        fresh.unlink(missing_ok=True)
        raise
    return path, descriptor


def clean_runtime_folder() -> Path:
    """This user's folder for session files, rid of those that nobody uses any more."""
    folder = private_folder(runtime_folder())
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.startswith((SESSION, "reserved-")):
                with open(entry, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    entry.unlink()
            elif entry.name.startswith("local-"):
                # A private server's state: its lock is free once it has ended.
                with open(entry / "lock", "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry)
    return folder


def add_library(environment: dict[str, str], real: Path) -> None:
    """Puts this library in front of the program, under both names of the driver.

    NVML's comes with it: programs that look for GPUs ask the two together. So does
    nvidia-smi.
    """
    key = sha256(str(real).encode()).hexdigest()[:16]
    folder = private_folder(runtime_folder() / f"lib-{key}")
    nvml = real.parent / NVML
    links = {SHIM: real, "libcuda.so": real, NVML: nvml, "libnvidia-ml.so": nvml}
    for name, target in links.items():
        link = folder / name
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(target):
                continue
        fresh = folder / f"{name}.{secrets.token_hex(4)}"
        fresh.symlink_to(target)
        fresh.rename(link)
    put_first(environment, "LD_LIBRARY_PATH", folder)
    environment["PATH"] = tools.search_path(environment)


def for_cpu_device(environment: dict[str, str]) -> None:
    """Makes libraries hand PTX to the driver: machine code is nothing to a CPU device.

    CuPy asks NVRTC for a cubin unless it is told; cuda-core, and numba-cuda through it,
    link with nvJitLink where Python finds it, and with the driver's linker else.
    """
    environment.setdefault("CUPY_COMPILE_WITH_PTX", "1")
    put_first(environment, "PYTHONPATH", Path(__file__).resolve().parent / "ptx")


def put_first(environment: dict[str, str], name: str, folder: Path) -> None:
    old = environment.get(name)
    environment[name] = f"{folder}{os.pathsep}{old}" if old else str(folder)


def own_environment() -> dict[str, str]:
    """The environment as we were given it: Python itself may have set LC_CTYPE."""
    environment = dict(os.environ)
    with contextlib.suppress(OSError):
        given = Path("/proc/self/environ").read_bytes()
        if not any(entry.startswith(b"LC_CTYPE=") for entry in given.split(b"\0")):
            environment.pop("LC_CTYPE", None)
    return environment


def become(program: Program, environment: Mapping[str, str]) -> NoReturn:
    # Python ignores these; the program is to start as if it had been started directly.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program.path, list(program.words), environment)
    except OSError as error:
        if error.errno == errno.ENOENT:
            # It was there a moment ago: what is missing is its interpreter.
            raise ExecError(
                f"{program.path}: its interpreter is missing", NOT_FOUND
            ) from None
        why = (error.strerror or str(error)).lower()
        cure = ""
        if error.errno == errno.ENOEXEC:
            cure = "a script begins with #! and what runs it, a program is for x86-64"
        raise ExecError(f"{program.path}: {why}", NOT_EXECUTABLE, cure) from None
