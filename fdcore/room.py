"""How much a server has room for. What runs out first is descriptors: who has been
granted something takes some for long, strangers some for a moment."""

import resource
from dataclasses import dataclass

# Of the server itself: listeners, the store, spare workers, what is open for a moment.
OWN = 64
# The control socket of the worker, its pidfd, the lease's board, what is being set up.
SESSION = 4
# The connection, and a pidfd of who opened it.
HOLD = 2


@dataclass(frozen=True, slots=True)
class Room:
    """Shares of so many descriptors."""

    limit: int

    def at_most(self, wanted: int, part: int) -> int:
        """So many, if they are no more than that part of all."""
        return max(8, min(wanted, self.limit // part))

    @property
    def connections(self) -> int:
        """Control connections of who has said who they are."""
        return self.at_most(1024, 4)

    def strangers(self, wanted: int) -> int:
        """Connections at one port of who has not."""
        return self.at_most(wanted, 16)

    @property
    def granted(self) -> int:
        """Descriptors for sessions and holds."""
        others = self.connections + 4 * self.strangers(512) + OWN
        return max(2 * (SESSION + HOLD), self.limit - others)

    def has(self, sessions: int, holds: int) -> bool:
        """Whether there may be so many."""
        return sessions * SESSION + holds * HOLD <= self.granted


def raised() -> Room:
    """The room of this process, once it has asked for as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Room(hard if hard != resource.RLIM_INFINITY else 1 << 20)
