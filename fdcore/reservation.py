"""request_gpus, client and release_gpus: GPUs that are kept for any number of programs.

A reservation is a session file that an fdhold keeps, in place of a program.
"""

import fcntl
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from fdcore import launch
from fdcore.config import runtime_folder
from fdcore.errors import ConfigError, FdcoreError
from fdcore.keeper import keep, keeper_of
from fdcore.progress import Progress
from fdcore.reserve import Wish, reserve

PREFIX = "reserved-"
BEGINNING = b"server "
RELEASE_SECONDS = 5.0


def request(wish: Wish, progress: Progress) -> Path:
    """Reserves, and leaves the leases with an fdhold. Gives the session file."""
    held = reserve(wish, "request_gpus", progress)
    grants = [one.grant for one in held]
    path, descriptor = launch.write_session(grants, wish.road, PREFIX)
    keep([one.hold for one in held], descriptor, 0)
    deadline = time.monotonic() + RELEASE_SECONDS

    while not keeper_of(descriptor):
        if time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            raise FdcoreError("the reservation cannot be kept: fdhold did not start")
        time.sleep(0.005)
    launch.say_locked(held, path, progress)
    return path


def find(path: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The reservation that is meant: the one that is named, else the only one."""
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such reservation")
        if not is_reservation(path):
            raise ConfigError(
                f"{path} is no reservation's file: request_gpus prints the name of one"
            )
        return path
    found = reservations(environment)
    if not found:
        raise ConfigError("nothing is reserved (flexdirect request_gpus does that)")
    if len(found) > 1:
        named = ", ".join(str(each) for each in found)
        raise ConfigError(f"several reservations: say which one with -f: {named}")
    return found[0]


def reservations(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """This user's, that are kept."""
    folder = runtime_folder(environment)
    return sorted(path for path in folder.glob(PREFIX + "*") if kept(path))


def is_reservation(path: Path) -> bool:
    """Whether it is such a file, kept or not: release() removes it, and ends who has a
    lock on it."""
    if not path.name.startswith(PREFIX):
        return False
    with open(path, "rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


def kept(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return keeper_of(file.fileno()) != 0
    except OSError:
        return False


def environment_of(path: Path) -> dict[str, str]:
    """What a program needs to use the reservation, beside its own environment."""
    if not kept(path):
        raise ConfigError(f"{path}: the reservation is over")
    environment = launch.own_environment()
    launch.add_session(environment, path)
    return environment


def client(path: Path, program: launch.Program, progress: Progress) -> NoReturn:
    """Becomes the program, on the reservation's GPUs."""
    environment = environment_of(path)
    progress.info(f"Running client command on the GPUs of '{path}'")
    launch.become(program, environment)


def release(path: Path, progress: Progress) -> None:
    """Ends a reservation. Programs that use it keep their GPUs until they end."""
    progress.info(f"Releasing GPUs from config file '{path}'")
    with open(path, "rb") as file:
        servers = file.read().count(b"\nlease ")
        pid = keeper_of(file.fileno())
        if pid:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + RELEASE_SECONDS
        while not free(file.fileno()):
            if time.monotonic() > deadline:
                raise FdcoreError(f"{path}: fdhold, process {pid}, does not end")
            time.sleep(0.01)
    path.unlink(missing_ok=True)
    progress.info(
        f"Released GPUs on {servers} servers and removed generated config file '{path}'"
    )


def free(descriptor: int) -> bool:
    """True once nobody keeps the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
