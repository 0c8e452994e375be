"""What a server shares with the others of its pool: who they are, quotas, what users
have elsewhere.

Alone is a server that shares nothing; fdcore/etcd/pool.py is one that does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from fdcore.lease import Lease
from fdcore.peers import Peer
from fdcore.sched.queue import Quota, Usage
from fdcore.store import QUOTA, Row


class Commons(Protocol):
    # Whether a lease has to be taken from others' sight before it is granted.
    shared: bool

    @property
    def quotas(self) -> Mapping[str, Quota]: ...

    async def set_quota(self, user: str, quota: Quota | None) -> None:
        """None: none of their own any more. Raises where that cannot be written."""

    def elsewhere(self) -> Mapping[str, Usage]:
        """What users have of other servers."""

    def held_up(self, user: str) -> str:
        """Why nobody can say whether the user may have more; empty: somebody can."""

    async def take(self, lease: Lease) -> str:
        """Counts a lease that is about to be granted; else why it may not be."""

    def note(self, lease: Lease) -> None:
        """Counts a lease that is out, whatever it comes to."""

    def give(self, lease: Lease) -> None:
        """Counts it no longer."""

    def settle(self) -> None:
        """Whatever an earlier server of this state folder left has been noted again."""

    def announce(self, member: Peer, about: Mapping[str, Any]) -> None:
        """Says where this server is, and what it has."""

    def post_revoked(self, content: bytes) -> None:
        """Gives the others the list of revoked certificates."""

    def posted_revoked(self) -> Collection[bytes]: ...

    def peers(self) -> Sequence[Peer]:
        """The servers that are alive; none: nobody else is known."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Alone:
    """Quotas are the server's own, in its store."""

    # A row, or none; what happens if it cannot be written.
    write: Callable[[str, str, Row | None], None]
    quotas: dict[str, Quota] = field(default_factory=dict)
    shared: bool = False

    async def set_quota(self, user: str, quota: Quota | None) -> None:
        if quota is None:
            self.quotas.pop(user, None)
            self.write(QUOTA, user, None)
        else:
            self.quotas[user] = quota
            self.write(QUOTA, user, asdict(quota))

    def elsewhere(self) -> Mapping[str, Usage]:
        return {}

    def held_up(self, user: str) -> str:
        return ""

    async def take(self, lease: Lease) -> str:
        return ""

    def note(self, lease: Lease) -> None:
        pass

    def give(self, lease: Lease) -> None:
        pass

    def settle(self) -> None:
        pass

    def announce(self, member: Peer, about: Mapping[str, Any]) -> None:
        pass

    def post_revoked(self, content: bytes) -> None:
        pass

    def posted_revoked(self) -> Collection[bytes]:
        return ()

    def peers(self) -> Sequence[Peer]:
        return ()

    def close(self) -> None:
        pass


def together(*several: Mapping[str, Usage]) -> dict[str, Usage]:
    """What users have of all of them."""
    found: dict[str, Usage] = {}
    for usages in several:
        for user, used in usages.items():
            had = found.get(user, Usage())
            found[user] = Usage(had.gpus + used.gpus, had.memory + used.memory)
    return found
