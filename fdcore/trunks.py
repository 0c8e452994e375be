"""Trunks as the server sees them: another server's worker has dialled, and its
connection goes to the worker of a session here (csrc/include/fdc/trunk.h)."""

from dataclasses import dataclass, field

from fdcore import attach
from fdcore.errors import RefusedError
from fdcore.lease import Lease
from fdcore.session import Arrival, Session

# To one session, over its life: it has one from each server beside it.
TRUNKS_EACH = 64


@dataclass(frozen=True, slots=True)
class Trunk(Arrival):
    """Another server's worker has come."""

    number: int
    key: bytes = field(repr=False)  # if it is sealed, else nothing

    def order(self) -> dict[str, object]:
        return {"op": "trunk", "number": self.number, "key": self.key.hex()}


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
