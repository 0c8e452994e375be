"""Who may stand for whom on the control plane, for a while.

Somebody who is known to a server leaves the hash of a secret there. Whoever shows the
secret is them from then on, with the role that they allowed at most. It works once: it
is replaced by another one, whose hash only who showed it knows. The manager's login is
made of this (fdcore/web): it shows what a browser was given, and keeps what comes next.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Generic, TypeVar

from fdcore.errors import ConfigError, RefusedError

LONGEST = 12 * 3600
MOST, MOST_EACH = 1024, 16
SECRET_BYTES = 32

T = TypeVar("T")


def hashed(secret: bytes) -> bytes:
    return sha256(secret).digest()


@dataclass(frozen=True, slots=True)
class Pass(Generic[T]):
    owner: T
    who: tuple[str, str]  # user and serial
    until: float


@dataclass(slots=True)
class Passes(Generic[T]):
    clock: Callable[[], float] = time.monotonic
    kept: dict[bytes, Pass[T]] = field(default_factory=dict)

    def lend(self, hash: bytes, owner: T, who: tuple[str, str], seconds: int) -> None:
        """From now on the secret of the hash is good for being the owner."""
        self.check(hash, seconds)
        now = self.clock()
        self.kept = {key: one for key, one in self.kept.items() if one.until > now}
        own = [key for key, one in self.kept.items() if one.who == who]
        for key in own[: max(0, len(own) - MOST_EACH + 1)]:
            del self.kept[key]  # the oldest of them
        if len(self.kept) >= MOST:
            raise RefusedError(f"{MOST} logins are open already")
        self.kept[hash] = Pass(owner, who, now + seconds)

    def take(self, secret: bytes, next: bytes, seconds: int) -> T:
        """Whom the secret stands for. From now on that of next does, and it no more."""
        self.check(next, seconds)
        found = self.kept.get(hashed(secret))
        if found is None or found.until <= self.clock():
            raise RefusedError("the login is not known here, has expired or was used")
        del self.kept[hashed(secret)]
        self.lend(next, found.owner, found.who, seconds)
        return found.owner

    def forget(self, serials: Collection[str]) -> None:
        """Those of revoked certificates."""
        left = (pair for pair in self.kept.items() if pair[1].who[1] not in serials)
        self.kept = dict(left)

    def check(self, hash: bytes, seconds: int) -> None:
        if len(hash) != SECRET_BYTES:
            raise ConfigError("a hash has 32 bytes")
        if not 1 <= seconds <= LONGEST:
            raise ConfigError(f"a login lasts 1 to {LONGEST} s")
