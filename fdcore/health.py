"""health and localhealth: checks that say PASS, MARGINAL or FAIL, and what would help.

A check is a function of no arguments that gives a Check. What it cannot find out it
does not claim.
"""

import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdcore.check import FAIL, MARGINAL, PASS, STATES, Check
from fdcore.config import (
    CPU_DEVICE,
    NVML,
    SHIM,
    library,
    private_folder,
    protocol_hash,
    runtime_folder,
)
from fdcore.errors import ConfigError
from fdcore.host import ailments
from fdcore.host import gpus as host_gpus
from fdcore.keeper import HELPER
from fdcore.lists import Row, printable
from fdcore.pools import Seen
from fdcore.sched.slices import MIB

SHM_ROOM = 256 * MIB
DESCRIPTORS = 1024
FAR_SECONDS = 0.25
COLUMNS = ("host", "state", "check", "found", "cure")


def local(environment: Mapping[str, str] = os.environ) -> list[Check]:
    """This machine, as a client and as a server."""
    return [
        libraries(),
        folder(environment),
        shared_memory(),
        descriptors(),
        *gpus(environment),
    ]


def libraries() -> Check:
    name = "fdcore's libraries"
    try:
        for one in (SHIM, NVML, CPU_DEVICE, HELPER):
            library(one)
        return Check(PASS, name, f"protocol {protocol_hash().hex()[:16]}")
    except ConfigError as error:
        return Check(FAIL, name, str(error), "build or install fdcore again")


def folder(environment: Mapping[str, str]) -> Check:
    name = "folder for session files"
    try:
        return Check(PASS, name, str(private_folder(runtime_folder(environment))))
    except ConfigError as error:
        return Check(FAIL, name, str(error), "set XDG_RUNTIME_DIR to a folder of yours")


def shared_memory() -> Check:
    name = "shared memory"
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Check(MARGINAL, name, "/dev/shm is not there", "mount a tmpfs there")
    found = f"{free // MIB} MiB free in /dev/shm"
    if free >= SHM_ROOM:
        return Check(PASS, name, found)
    return Check(MARGINAL, name, found, "give /dev/shm more room")


def descriptors() -> Check:
    name = "open files"
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}"
    if limit == resource.RLIM_INFINITY or limit >= DESCRIPTORS:
        return Check(PASS, name, found)
    return Check(MARGINAL, name, found, f"ulimit -n {DESCRIPTORS}")


def gpus(environment: Mapping[str, str]) -> list[Check]:
    """A client needs none: what is found here is what local and fdserver use."""
    name = "GPUs of this machine"
    clean = host_gpus.driver_environment(environment)
    try:
        found = host_gpus.find(SHIM, clean)
        if found.gpus:
            version = found.driver or f"CUDA {found.cuda}"
            first = found.gpus[0].name
            said = f"{len(found.gpus)}, the first a {first}, driver {version}"
            rows = ailments.ask(SHIM, found.nvml, found.gpus, clean)
            return [Check(PASS, name, said), *(Check(*row) for row in rows)]
        why = "the driver has no GPU"
    except ConfigError as error:
        why = str(error)
    if Path("/dev/nvidiactl").exists():
        return [Check(FAIL, name, why, "install or repair NVIDIA's driver")]
    return [Check(PASS, name, "none: a client, or a server of the CPU device")]


def server(seen: Seen) -> list[Check]:
    """One server, as this client sees it."""
    name = "server answers"
    if seen.pool is None:
        cure = seen.cure or "start fdserver there, or correct the list of servers"
        return [Check(FAIL, name, seen.problem, cure)]
    pool = seen.pool
    answer = f"fdcore {pool.release}, the same protocol"
    checks = [Check(PASS, name, answer)]
    slow = seen.seconds > FAR_SECONDS
    checks.append(
        Check(
            MARGINAL if slow else PASS,
            "time to answer",
            f"{seen.seconds * 1000:.0f} ms for all servers, connecting included",
            "look at the network between here and there" if slow else "",
        )
    )
    if not pool.gpus:
        checks.append(Check(FAIL, "GPUs", "none", "look at the server's log"))
        return checks
    free = sum(pool.free[gpu.ordinal] == gpu.memory for gpu in pool.gpus)
    said = f"{len(pool.gpus)}, of which {free} wholly free"
    checks.append(Check(PASS, "GPUs", said))
    if host_gpus.is_cpu_device(pool.gpus):
        checks.append(
            Check(MARGINAL, "kind of GPU", "the CPU device: slow, and no GPU",
                  "for tests this is right; else install NVIDIA's driver there")
        )  # fmt: skip
    return checks


def text(groups: Sequence[tuple[str, Sequence[Check]]]) -> str:
    """One line a check, by host, then the totals; FlexDirect's shape."""
    lines = []
    for host, checks in groups:
        lines.append(host)
        for check in checks:
            # Some of it comes from other machines: nothing of it moves the cursor.
            said = printable(f"{check.name}: {check.found}")
            lines.append(f"  [{check.state}] {said}")
            if check.cure and check.state != PASS:
                lines.append(f"      to do: {printable(check.cure)}")
    every = [check.state for _, checks in groups for check in checks]
    total = ", ".join(f"{every.count(state)} {state}" for state in STATES)
    return "\n".join([*lines, total]) + "\n"


def rows(groups: Sequence[tuple[str, Sequence[Check]]]) -> list[Row]:
    return [
        {
            "host": host,
            "state": check.state,
            "check": check.name,
            "found": check.found,
            "cure": check.cure,
        }
        for host, checks in groups
        for check in checks
    ]


def failed(groups: Sequence[tuple[str, Sequence[Check]]]) -> bool:
    return any(check.state == FAIL for _, checks in groups for check in checks)
