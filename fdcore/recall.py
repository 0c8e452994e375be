"""What a restarted fdserver finds again: the leases that are out, and their workers.

A lease is written down when something first holds it. The next server takes the leases
of this boot over: whoever held one on this machine is known by pid and start time, each
worker waits at a socket in the state folder and says whose it is, and everybody else
has a grace time in which their fdhold dials again. What nobody stands for after that is
free.
"""

import logging
import os
import socket
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fdcore.lease import Lease, Owner
from fdcore.sched.slices import Gpu, Slice
from fdcore.workers import Adopted

log = logging.getLogger("fdserver")

WORKERS = "workers"
# In which an fdhold of this machine, or of another, dials again.
NEAR_SECONDS, FAR_SECONDS = 5.0, 60.0
# How often a worker is looked for that was just starting when its server ended.
LOOK_SECONDS, LOOKS = 2.0, 30


class Grace:
    """Stands for a lease that was found in the store, for a while."""


def lease_row(lease: Lease, gpus: Sequence[Gpu], boot: str) -> dict[str, Any]:
    uuids = {gpu.ordinal: gpu.uuid for gpu in gpus}
    owner = lease.owner
    return {
        "boot": boot,
        "secret": lease.secret.hex(),
        "owner": [owner.user, owner.host, owner.pid, owner.program],
        "role": owner.role,
        "serial": owner.serial,
        "slices": [[s.ordinal, uuids[s.ordinal], s.memory] for s in lease.slices],
        "idle": lease.idle,
        "since": lease.since,
        "holders": sorted(list(holder) for holder in lease.holders),
        "far": lease.far,
    }


def lease_of(key: str, row: dict[str, Any], gpus: Sequence[Gpu]) -> Lease | None:
    """The lease as it was; None where its GPUs are not there any more."""
    uuids = {gpu.ordinal: gpu.uuid for gpu in gpus}
    try:
        user, host, pid, program = row["owner"]
        lease = Lease(
            bytes.fromhex(key),
            bytes.fromhex(row["secret"]),
            Owner(user, host, pid, program, row["role"], row["serial"]),
            tuple(Slice(ordinal, memory) for ordinal, _, memory in row["slices"]),
        )
        lease.idle = row["idle"]
        lease.since = row["since"]
        lease.holders = {(pid, start) for pid, start in row["holders"]}
        lease.far = row["far"]
        same = all(uuids.get(n) == uuid for n, uuid, _ in row["slices"])
    except (KeyError, TypeError, ValueError):
        return None
    return lease if same else None


def started(pid: int) -> int:
    """When a process began, in ticks since the boot: with its pid it is known for good.
    0: there is no such process, or only what its parent has not waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def pidfd_of(pid: int, start: int) -> int:
    """A descriptor of the process that was meant; -1 where it has gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return -1
    if started(pid) != start:
        os.close(descriptor)
        return -1
    return descriptor


def socket_of(state: Path, session: bytes) -> Path:
    """Where a session's worker waits for another server."""
    return state / WORKERS / session.hex()[:16]


def find_workers(
    state: Path, known: Collection[Path]
) -> list[tuple[Adopted, dict[str, Any]]]:
    """The workers that wait for a server, each with what it says of its session.
    known: those that have one. Sockets that nobody listens at are removed."""
    found = []
    for path in sorted(set((state / WORKERS).glob("*")) - set(known)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
            said = Adopted.card(sock.recv(1 << 16))
            credentials = sock.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
            pid = struct.unpack("3i", credentials)[0]
            found.append((Adopted(sock, pid), said))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            sock.close()
        except (OSError, ValueError) as error:
            log.warning("worker at %s: not taken over: %s", path.name, error)
            sock.close()
    return found
