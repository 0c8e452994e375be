"""Who is logged in, and as whom they act at each server.

A login is made of a code that `flexdirect web` prints, or of being on this machine as
the user whose process this is. What a browser keeps is a random name of it.
"""

import base64
import contextlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fdcore.config import Address
from fdcore.errors import FdcoreError, RefusedError
from fdcore.rpc import watching
from fdcore.rpc.watching import Key, Who
from fdcore.security.limits import Seldom
from fdcore.security.passes import LONGEST, SECRET_BYTES
from fdcore.security.roles import ADMIN, NODE, USER, VIEWER
from fdcore.web.model import Eyes, Station

log = logging.getLogger("fdserver.web")

T = TypeVar("T")
MOST_LOGINS = 256
CONNECT_SECONDS = 3.0
# The more of them, the more one sees and does.
RANKS = (USER, VIEWER, NODE, ADMIN)


def code_text(code: bytes) -> str:
    return base64.urlsafe_b64encode(code).decode().rstrip("=")


def code_of(text: str) -> bytes:
    """What was pasted: a code, or the address that has it behind #."""
    word = "".join(text.split()).rpartition("#")[2]
    try:
        code = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
    except ValueError:
        code = b""
    if len(code) != SECRET_BYTES:
        raise RefusedError("that is no login code: 'flexdirect web' prints one")
    return code


@dataclass(slots=True)
class Login:
    name: str
    places: Mapping[str, tuple[Address, Who, Key]]  # by the server's name in views
    until: float
    local: bool = False
    # A key is replaced as it is used, so by one at a time.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def who(self) -> Who:
        """With the most that they are anywhere."""
        found = [who for _, who, _ in self.places.values()]
        return max(found, key=lambda who: RANKS.index(who.role)) if found else NOBODY

    def eyes(self, stations: Sequence[Station]) -> dict[str, Eyes]:
        """How they see each server where they have logged in, by its key; a server of
        two addresses is the same by either."""
        by_server = {
            one.server: self.places[one.key][1]
            for one in stations
            if one.key in self.places and one.server
        }
        found = {name: who for name, (_, who, _) in self.places.items()}
        for one in stations:
            if one.key not in found and one.server in by_server:
                found[one.key] = by_server[one.server]
        return {key: Eyes(who.user, who.host, who.role) for key, who in found.items()}

    def manages(self, server: str) -> bool:
        place = self.places.get(server)
        return place is not None and place[1].role == ADMIN and self.valid()

    def manages_any(self) -> bool:
        return any(self.manages(server) for server in self.places)

    def valid(self) -> bool:
        return time.monotonic() < self.until

    def act(
        self,
        protocol: bytes,
        server: str,
        method: str,
        given: Mapping[str, Any],
        read: Callable[[Any], T],
    ) -> T:
        """A call at a server, as whom we are there; it decides whether we may."""
        place = self.places.get(server)
        if place is None or not self.valid():
            raise RefusedError(f"{server}: not logged in there: log in again")
        with self.lock:
            left = max(1, min(LONGEST, int(self.until - time.monotonic())))
            return watching.act(place[0], protocol, place[2], left, method, given, read)


NOBODY = Who("", "", VIEWER)


class Logins:
    def __init__(self, protocol: bytes) -> None:
        self.protocol = protocol
        self.lock = threading.Lock()
        self.open: dict[str, Login] = {}
        self.warnings = Seldom(log)

    def enter(self, text: str, servers: Sequence[tuple[str, Address]]) -> str:
        """Spends a code at every server that knows it; the browser's name of it."""
        code, places, failures = code_of(text), {}, []
        for name, address in servers:
            try:
                who, key = watching.enter(address, self.protocol, code, LONGEST)
                places[name] = (address, who, key)
            except FdcoreError as error:
                failures.append(str(error))
        if not places:
            # Strangers are not told which servers there are.
            self.warnings.warn(
                "login",
                "a login code is no server's: "
                + ("; ".join(failures) or "no server is known"),
            )
            raise RefusedError(
                "this code was used, or is too old: 'flexdirect web' prints another"
            )
        return self.keep(places)

    def keep(self, places: Mapping[str, tuple[Address, Who, Key]]) -> str:
        login = Login(secrets.token_urlsafe(32), places, time.monotonic() + LONGEST)
        with self.lock:
            self.open = {k: one for k, one in self.open.items() if one.valid()}
            while len(self.open) >= MOST_LOGINS:
                self.open.pop(next(iter(self.open)))
            self.open[login.name] = login
        return login.name

    def find(self, name: str) -> Login | None:
        said = name.encode()
        with self.lock:
            for known, login in self.open.items():
                if hmac.compare_digest(known.encode(), said) and login.valid():
                    return login
        return None

    def leave(self, name: str) -> None:
        with self.lock, contextlib.suppress(KeyError):
            login = self.open.pop(name)
            login.until = 0.0

    def ours(self, servers: Sequence[tuple[str, Address]]) -> Login:
        """For who is this process's own user, on this machine."""
        places = {}
        for name, address in servers:
            try:
                who = watching.ourselves(address, self.protocol, CONNECT_SECONDS)
                places[name] = (address, who, Key())
            except FdcoreError:
                continue  # it is shown as dead
        return Login("", places, time.monotonic() + LONGEST, local=True)
