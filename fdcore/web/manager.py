"""What the pages stand on: the servers, the history, health, logins and what admins do.

It waits and knows no NiceGUI; pages call it in threads.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fdcore import health, papers, pools, reach, road, whole
from fdcore.check import FAIL, Check
from fdcore.config import Address, Servers
from fdcore.errors import ConfigError, FdcoreError, RefusedError
from fdcore.lists import Row
from fdcore.rpc.watching import Member, done, members_of
from fdcore.sched.queue import Quota
from fdcore.web.cluster import Cluster
from fdcore.web.history import History
from fdcore.web.logins import Login, Logins
from fdcore.web.model import Hues, View, answering, name_of, one_each, sight

HEALTH_SECONDS = 300.0
OURS_SECONDS, SOON_SECONDS = 60.0, 1.0
NOT_FOUNDER = "is not the pool's founding server"  # says server.py


@dataclass(slots=True)
class Health:
    at: float = 0.0  # when it was checked; 0: not yet
    rows: Sequence[Row] = ()
    running: bool = False


def unchecked(error: Exception) -> Check:
    return Check(FAIL, "checks", str(error), "correct what is said")


def checks_of(name: str, seen: pools.Seen) -> list[whole.Group]:
    """What keeps one server from being checked is told, and keeps no other from it."""
    try:
        return checked(name, seen)
    except (FdcoreError, OSError) as error:
        return [(name, [unchecked(error)])]


def checked(name: str, seen: pools.Seen) -> list[whole.Group]:
    checks = [
        *reach.server(seen.address),
        *road.server(seen.address),
        *papers.server(seen.address, os.environ),
        *health.server(seen),
    ]
    if seen.pool is None:
        return [(name, checks)]
    if seen.pool.now:
        checks.append(papers.clocks(seen.ahead, seen.unsure))
    return [(name, checks), (f"{name} itself", whole.itself(seen))]


class Manager:
    def __init__(self, cluster: Cluster, history: History) -> None:
        self.cluster = cluster
        self.history = history
        self.logins = Logins(cluster.protocol)
        self.health = Health()
        self.hues = Hues()
        self.ours: Login | None = None
        self.ours_at = 0.0
        self.lock = threading.Lock()

    # ---- seeing ----

    def view(self, login: Login) -> View:
        self.cluster.somebody_looks()
        known = self.cluster.known()
        if login.local and self.ours is not None:
            login = self.ours  # as it is now: servers come and go
        return sight(known, login.eyes(known), time.time(), self.hues)

    def places(self) -> list[tuple[str, Address]]:
        """Each server that answers, once, by its name in views."""
        found = []
        for station in answering(one_each(self.cluster.known())):
            address = self.cluster.address(station.key)
            if address is not None:
                found.append((station.key, address))
        return found

    def our_login(self) -> Login:
        """Of this process's own user. Servers come and go, so it is made anew."""
        with self.lock:
            if self.ours is None or self.ours_is_old():
                self.ours = self.logins.ours(self.places())
                self.ours_at = time.monotonic()
            return self.ours

    def ours_is_old(self) -> bool:
        """After a while, and soon where a server that answers is not in it."""
        age = time.monotonic() - self.ours_at
        if self.ours is None or age > OURS_SECONDS:
            return True
        up = {one.key for one in answering(one_each(self.cluster.known()))}
        return age > SOON_SECONDS and not up <= set(self.ours.places)

    def current(self, login: Login) -> Login:
        return self.our_login() if login.local else login

    def check_health(self) -> Health:
        """Of this machine, of the way to each server, and what servers say of
        themselves. No lease is taken to measure, as flexdirect health does."""
        with self.lock:
            if self.health.running:
                return self.health
            self.health.running = True
        try:
            groups: list[whole.Group] = [(socket.gethostname(), whole.machine())]
            known = one_each(self.cluster.known())
            found = [(name_of(one), self.cluster.address(one.key)) for one in known]
            there = [(name, address) for name, address in found if address is not None]
            try:
                looked = pools.look(Servers(tuple(at for _, at in there)), 3.0)
            except (FdcoreError, OSError) as error:
                groups += [(name, [unchecked(error)]) for name, _ in there]
            else:
                for (name, _), seen in zip(there, looked, strict=True):
                    groups += checks_of(name, seen)
            self.health = Health(time.time(), health.rows(groups))
        finally:
            self.health.running = False
        return self.health

    def health_is_old(self) -> bool:
        return time.time() - self.health.at > HEALTH_SECONDS

    # ---- doing; each is refused by the server where the login may not ----

    def act(
        self,
        login: Login,
        server: str,
        method: str,
        read: Callable[[Any], Any] = done,
        /,
        **given: Any,
    ) -> Any:
        current = self.current(login)
        try:
            return current.act(self.cluster.protocol, server, method, given, read)
        finally:
            self.cluster.nudge()

    def release(self, login: Login, server: str, lease: str) -> None:
        self.act(login, server, "release", id=lease)

    def drain(self, login: Login, server: str, on: bool) -> None:
        self.act(login, server, "drain", on=on)

    def set_quota(
        self, login: Login, server: str, user: str, quota: Quota | None
    ) -> None:
        if not user.strip():
            raise ConfigError("whose quota? name a user, or * for everybody else")
        row = asdict(quota or Quota()) | {"user": user.strip()}
        self.act(login, server, "setQuota", quota=row, drop=quota is None)

    def token(self, login: Login, role: str, seconds: int, uses: int, whom: str) -> str:
        """By the pool's founding server, whichever it is."""
        given = {"role": role, "seconds": seconds, "uses": uses, "whom": whom}
        return str(self.founder(login, "token", str, **given))

    def members(self, login: Login) -> list[Member]:
        found: list[Member] = self.founder(login, "enrolled", members_of)
        return found

    def revoke(self, login: Login, who: str) -> None:
        self.founder(login, "revoke", done, who=who)

    def founder(
        self, login: Login, method: str, read: Callable[[Any], Any], **given: Any
    ) -> Any:
        failures = []
        for server, _ in self.places():
            if not self.current(login).manages(server):
                continue
            try:
                return self.act(login, server, method, read, **given)
            except FdcoreError as error:
                failures.append(str(error))
        others = [text for text in failures if NOT_FOUNDER not in text]
        if failures and not others:
            raise RefusedError("no server that you manage is the founder of a pool")
        raise RefusedError("; ".join(others) or "you manage no server here")


def members_from(
    listed: Callable[[], Sequence[Address]], own: Address | None
) -> Callable[[], Sequence[Address]]:
    """The servers of the pool: those that are configured, and this machine's own."""

    def ask() -> Sequence[Address]:
        found = tuple(listed())
        if own is None or own in found:
            return found
        return (*found, own)

    return ask
