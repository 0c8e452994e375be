"""Trunks as the server sees them: another server's worker has dialled, and its
connection goes to the worker of a session here (csrc/include/fdc/trunk.h)."""

import logging
import socket
from dataclasses import dataclass, field

from fdcore import attach
from fdcore.errors import RefusedError
from fdcore.lease import Lease
from fdcore.session import Session

log = logging.getLogger("fdserver")

# To one session, over its life: it has one from each server beside it.
TRUNKS_EACH = 64


@dataclass(frozen=True, slots=True)
class Trunk:
    session: Session
    number: int
    key: bytes = field(repr=False)  # if it is sealed, else nothing

    @property
    def lease(self) -> Lease:
        return self.session.lease

    def hand_over(self, sock: socket.socket) -> None:
        """The socket is the worker's from here on."""
        try:
            if self.session.worker is not None:
                self.session.worker.trunk(self.number, self.key, sock)
        except OSError as error:
            log.warning("%s: its worker takes no trunk: %s", self.session, error)
        finally:
            sock.close()


def admit_trunk(
    request: attach.Request, session: Session | None, lease: Lease, nonce: bytes
) -> Trunk:
    """For a request that has proved its key, which is good once. What the connection
    may do, the client says to the worker."""
    if session is None or session.lease is not lease or session.worker is None:
        raise RefusedError("that session has no worker for a trunk")
    if request.nonce in session.trunks:
        raise RefusedError("that trunk was opened before")
    if len(session.trunks) >= TRUNKS_EACH:
        raise RefusedError(f"that session has had {TRUNKS_EACH} trunks already")
    session.trunks.add(request.nonce)
    key = attach.seal_key(request, attach.proof_key(request, lease.secret), nonce)
    number = int.from_bytes(request.nonce[:8], "little")
    return Trunk(session, number, key if request.seal else b"")
