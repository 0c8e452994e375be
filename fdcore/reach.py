"""More checks of health: what programs of a run need of this machine, and the way to a
server, from its name to its port."""

import errno
import os
import resource
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from fdcore import tools, ucx
from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.config import SHIM, Address, library
from fdcore.errors import ConfigError
from fdcore.sched.slices import MIB

DISK_ROOM = 1024 * MIB
SLOW_NAME_SECONDS = 1.0
FAR_SECONDS = 0.005
CONNECTS = 5
CONNECT_SECONDS = 3.0


def machine(environment: Mapping[str, str] = os.environ) -> list[Check]:
    return [locked_memory(), disk(cache_folder(environment)), programs(), clock()]


def locked_memory() -> Check:
    """Only RDMA locks memory: what network cards read and write must stay."""
    name = "locked memory"
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return Check(PASS, name, "no limit")
    found = f"at most {limit // MIB} MiB"
    if not ucx.has_device():
        return Check(PASS, name, f"{found}; there is no RDMA device that needs it")
    return Check(MARGINAL, name, f"{found}, and an RDMA device", "ulimit -l unlimited")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where programs keep compiled code (CuPy, Numba, ...), and a server images."""
    given = environment.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(environment.get("HOME", "/")) / ".cache"


def disk(folder: Path, name: str = "disk for caches") -> Check:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"fdcore")
        free = shutil.disk_usage(there).free
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Check(FAIL, name, f"{there}: {why}", "make room there")
        cure = "let it be written, or name another folder (XDG_CACHE_HOME, --state)"
        return Check(MARGINAL, name, f"{there}: {why}", cure)
    found = f"{free // MIB} MiB free at {there}"
    if free >= DISK_ROOM:
        return Check(PASS, name, found)
    return Check(MARGINAL, name, found, "make room there")


def programs() -> Check:
    name = "nvidia-smi of runs"
    try:
        folder = tools.folder()
        flags = os.statvfs(folder).f_flag
    except ConfigError as error:
        return Check(FAIL, name, str(error), "set XDG_RUNTIME_DIR to a folder of yours")
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
        return Check(FAIL, name, found, "make room there, or set XDG_RUNTIME_DIR")
    if flags & os.ST_NOEXEC:
        cure = "set XDG_RUNTIME_DIR to a folder that programs can be run from"
        return Check(MARGINAL, name, f"nothing can be executed in {folder}", cure)
    return Check(PASS, name, str(folder / tools.NAME))


def clock() -> Check:
    """Certificates and tokens have dates; a clock that was never set stands out."""
    name = "clock"
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    try:
        installed = library(SHIM).stat().st_mtime
    except (ConfigError, OSError):
        installed = 0.0
    if now >= installed:
        return Check(PASS, name, found)
    found += ", which is before fdcore was installed"
    return Check(FAIL, name, found, "set it, best by NTP")


# ---- the way to a server ----


def server(address: Address) -> list[Check]:
    """Its name and its port, as sockets see them; nothing for a local socket."""
    if not address.host:
        return []
    named = resolution(address)
    return [named] if named.state == FAIL else [named, port(address)]


def resolution(address: Address) -> Check:
    name = "name"
    began = time.monotonic()
    try:
        rows = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        why = error.strerror or str(error)
        cure = "correct the list of servers, or DNS, or /etc/hosts"
        return Check(FAIL, name, f"{address.host}: {why}", cure)
    took = time.monotonic() - began
    places = ", ".join(dict.fromkeys(str(row[4][0]) for row in rows))
    if took > SLOW_NAME_SECONDS:
        cure = "look at the name servers, or put it into /etc/hosts"
        return Check(MARGINAL, name, f"{places}, after {took:.1f} s", cure)
    return Check(PASS, name, places)


def port(address: Address) -> Check:
    """Connects a few times: a connection is one way there and back."""
    name = "port"
    what = f"port {address.port}"
    times = []
    for _ in range(CONNECTS):
        began = time.monotonic()
        try:
            where = (address.host, address.port)
            socket.create_connection(where, CONNECT_SECONDS).close()
        except ConnectionRefusedError:
            cure = "start fdserver there, or correct the port"
            return Check(FAIL, name, f"{what}: nobody listens", cure)
        except TimeoutError:
            cure = "look at firewalls between here and there"
            seen = f"{what}: no answer in {CONNECT_SECONDS:g} s"
            return Check(FAIL, name, seen, cure)
        except OSError as error:
            why = error.strerror or str(error)
            cure = "look at routes and interfaces"
            return Check(FAIL, name, f"{what}: {why}", cure)
        times.append(time.monotonic() - began)
    middle = statistics.median(times)
    found = f"{what} open, a connection takes {middle * 1e3:.2f} ms"
    if middle <= FAR_SECONDS:
        return Check(PASS, name, found)
    cure = "calls that wait take at least as long: use a server that is nearer"
    return Check(MARGINAL, name, found, cure)
