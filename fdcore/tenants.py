"""Which user of the machine the workers of each tenant are, where fdserver is root and
was given users for them. Local users are themselves; others get one of the range each.
"""

import os
import pwd
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from fdcore.errors import ConfigError, RefusedError
from fdcore.lease import Owner

User = tuple[int, int]


class Tenants:
    def __init__(
        self, first: int, last: int, geteuid: Callable[[], int] = os.geteuid
    ) -> None:
        if not 0 < first <= last < 1 << 31:
            raise ConfigError(f"{first}-{last} is no range of users")
        if geteuid() != 0:
            raise ConfigError("only root can run workers as other users")
        self.first = first
        self.count = last - first + 1
        self.given: dict[int, str] = {}  # offset in the range: tenant

    def user_of(self, owner: Owner) -> User:
        """Its uid and gid: the same each time, and nobody else's."""
        if owner.uid > 0:
            try:
                return owner.uid, pwd.getpwuid(owner.uid).pw_gid
            except KeyError:
                return owner.uid, owner.uid
        if owner.uid == 0:
            name = "local root"
        elif owner.serial:
            name = f"certificate {owner.user}"
        else:
            name = f"unknown {owner.user} {owner.host}"
        start = int.from_bytes(sha256(name.encode()).digest()[:8], "big") % self.count
        for step in range(self.count):
            offset = (start + step) % self.count
            if self.given.setdefault(offset, name) == name:
                return self.first + offset, self.first + offset
        raise RefusedError("no user is left for another tenant (--worker-users)")


def give(folder: Path, user: User) -> Path:
    """Makes a folder that is this user's alone; the one above it is ours."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, *user)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return folder
