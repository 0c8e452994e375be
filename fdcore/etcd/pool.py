"""A pool whose servers share etcd: who is there, quotas, who has what.

Below the prefix are, each a row of JSON:

    member/SERVER      a server that is alive: where it is, what GPUs it has
    quota/USER         what a user may have of all servers together
    usage/USER/LEASE   what a user has of one of them
    revoked/SERVER     certificates that are good no longer, as the founder signed
    guard/USER         changes with every lease of the user's that is granted
    server/SERVER/...  what a server keeps for its own next start (store.py)

Members and usages hang on a lease of etcd's and go within the TTL when their server is
dead; guards, whose users may never come again, a week after the server that wrote them
last: by then nobody holds what was read before. A lease is granted by a transaction
that holds only if the user's guard and quota are still as they were when the usages
were read. So however many servers are asked at once, all of them together grant no more
than the quota; who comes second reads again.
A transaction whose answer was lost may be sent again: it finds its own row then.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

from fdcore.errors import RefusedError
from fdcore.etcd.access import Access
from fdcore.etcd.gateway import (
    EtcdError,
    Gateway,
    Keys,
    Refused,
    Words,
    drop,
    get,
    get_below,
    put,
    unchanged,
)
from fdcore.etcd.scribe import Scribe
from fdcore.lease import Lease
from fdcore.peers import Peer
from fdcore.sched.queue import DEFAULT, Quota, Usage, over_quota, quota_of

log = logging.getLogger("fdserver")

WATCHED = ("member", "quota", "usage", "revoked")
TAKE_SECONDS = 8.0  # a client waits for ten

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What others wrote, as it was read last."""

    members: tuple[Peer, ...] = ()
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    elsewhere: Mapping[str, Usage] = field(default_factory=dict)
    revoked: frozenset[bytes] = frozenset()


class EtcdPool:
    """known: quotas of an earlier start, for as long as etcd has not answered.
    changed() is called in the loop when others wrote something, or etcd is lost or
    back."""

    shared = True

    def __init__(
        self,
        access: Access,
        me: str,
        known: Mapping[str, Any],
        changed: Callable[[], None],
    ) -> None:
        self.me = me
        self.at = f"{access.prefix}/"
        self.changed = changed
        self.loop = asyncio.get_running_loop()
        self.snapshot = Snapshot(quotas=quotas_of(known))
        self.gateway = Gateway(access)
        self.thread = ThreadPoolExecutor(1, "etcd-grants")
        self.scribe = Scribe(
            access,
            f"{self.at}server/{me}/",
            [f"{self.at}{each}/" for each in WATCHED],
            self.mine,
            self.seen,
            settled=False,
        )

    # ---- what others wrote ----

    def mine(self, key: str, value: str) -> bool:
        if key.startswith(f"{self.at}usage/"):
            return row_of(value).get("server") == self.me
        return key in (self.key("member", self.me), self.key("revoked", self.me))

    def key(self, *names: str) -> str:
        return self.at + "/".join(quote(name, safe="") for name in names)

    def seen(self, found: Sequence[Keys]) -> None:
        """In the scribe's thread."""
        if found:
            members, quotas, usages, revoked = found
            self.snapshot = Snapshot(
                members_of(members),
                quotas_of({last_of(k): row_of(v.value) for k, v in quotas.items()}),
                self.usages_of(usages),
                frozenset(each.value.encode() for each in revoked.values()),
            )
        with contextlib.suppress(RuntimeError):  # the loop is over
            self.loop.call_soon_threadsafe(self.changed)

    def usages_of(self, found: Keys) -> dict[str, Usage]:
        """By user, of other servers."""
        made: dict[str, Usage] = {}
        for key, each in found.items():
            user = unquote(key.split("/")[-2])
            row = row_of(each.value)
            if row.get("server") != self.me:
                made[user] = added(made.get(user, Usage()), row)
        return made

    @property
    def quotas(self) -> Mapping[str, Quota]:
        return self.snapshot.quotas

    def elsewhere(self) -> Mapping[str, Usage]:
        return self.snapshot.elsewhere

    def peers(self) -> Sequence[Peer]:
        return self.snapshot.members

    # ---- what this server does ----

    def held_up(self, user: str) -> str:
        """Who has no quota is not held up by an etcd that does not answer."""
        return self.uncounted(user, self.scribe.trouble)

    def uncounted(self, user: str, trouble: str) -> str:
        """Why that keeps the user from having more."""
        quota = quota_of(user, self.quotas)
        if not trouble or not (quota.gpus or quota.memory):
            return ""
        return f"{user} has a quota of the pool, and nobody can count now: {trouble}"

    async def take(self, lease: Lease) -> str:
        trouble = self.scribe.trouble
        if not trouble:
            take = self.take_now
            why, trouble = await self.loop.run_in_executor(self.thread, take, lease)
            if not trouble:
                return why
        # Not what is the trouble by now: etcd may be back, and this was not counted.
        why = self.uncounted(lease.owner.user, trouble)
        if not why:
            self.note(lease)
        return why

    def take_now(self, lease: Lease) -> tuple[str, str]:
        """In a thread. Why it may not be granted, and why nobody could count it."""
        key, value = self.usage(lease)
        trouble = self.scribe.trouble
        if trouble:  # found out by who was before us
            return "", trouble
        with self.scribe.lock:
            self.scribe.pending.add(key)
        try:
            why = self.transact(lease, key, value)
            if not why:
                self.scribe.has_written(key, value)
            return why, ""
        except EtcdError as error:
            trouble = str(error) or "etcd does not answer"
            self.scribe.doubt(trouble)
            return "", trouble
        finally:
            with self.scribe.lock:
                self.scribe.pending.discard(key)

    def transact(self, lease: Lease, key: str, value: str) -> str:
        user = lease.owner.user
        guard = self.key("guard", user)
        quotas = [self.key("quota", user), self.key("quota", DEFAULT)]
        deadline = time.monotonic() + TAKE_SECONDS
        while True:
            asked = [get(guard), *map(get, quotas), self.usages(user)]
            *seen, rows = self.gateway.read(*asked)
            if key in rows:  # of an answer that was lost
                return ""
            why = self.too_many(lease, seen[1:], rows)
            if why:
                return why
            known = {name: each for keys in seen for name, each in keys.items()}
            done, _ = self.gateway.transact(
                [
                    put(guard, self.me, self.scribe.kept.id),
                    put(key, value, self.scribe.alive.id),
                ],
                [unchanged(name, known) for name in (guard, *quotas)],
            )
            if done:
                return ""
            if time.monotonic() > deadline:
                return "too many servers grant GPUs to the same user at this moment"
            time.sleep(random.uniform(0.0, 0.005))

    def usages(self, user: str) -> Words:
        return get_below(self.key("usage", user) + "/")

    def here(self, user: str) -> Usage:
        """What the user has of this server, whether that is written yet or not."""
        found = Usage()
        prefix = self.key("usage", user) + "/"
        with self.scribe.lock:
            for key, wanted in self.scribe.wanted.items():
                if key.startswith(prefix):
                    found = added(found, row_of(wanted.value))
        return found

    def too_many(self, lease: Lease, quotas: Sequence[Keys], rows: Keys) -> str:
        """Why the user may not have the lease; what was read of them is known from now
        on."""
        user = lease.owner.user
        read = {
            last_of(name): row_of(each.value)
            for keys in quotas
            for name, each in keys.items()
        }
        now = quotas_of(read)
        elsewhere = self.usages_of(rows).get(user, Usage())
        self.learn(user, now, elsewhere)
        here = self.here(user)
        had = Usage(here.gpus + elsewhere.gpus, here.memory + elsewhere.memory)
        refused = over_quota(lease.slices, user, had, now)
        return refused.reason if refused else ""

    def learn(self, user: str, quotas: Mapping[str, Quota], elsewhere: Usage) -> None:
        old = self.snapshot
        others = {k: v for k, v in old.quotas.items() if k not in (user, DEFAULT)}
        self.snapshot = replace(
            old,
            quotas=others | dict(quotas),
            elsewhere={**old.elsewhere, user: elsewhere},
        )

    def usage(self, lease: Lease) -> tuple[str, str]:
        key = self.key("usage", lease.owner.user, lease.id.hex())
        row = {
            "server": self.me,
            "gpus": len(lease.slices),
            "memory": sum(part.memory for part in lease.slices),
            "since": int(lease.since),
        }
        return key, json.dumps(row)

    def note(self, lease: Lease) -> None:
        self.scribe.put(*self.usage(lease))

    def give(self, lease: Lease) -> None:
        self.scribe.drop(self.usage(lease)[0])

    async def set_quota(self, user: str, quota: Quota | None) -> None:
        key = self.key("quota", user)
        word = drop(key) if quota is None else put(key, json.dumps(asdict(quota)))
        try:
            await self.loop.run_in_executor(self.thread, self.gateway.transact, [word])
        except Refused as error:
            raise RefusedError(str(error)) from None
        except EtcdError as error:
            self.scribe.doubt(str(error))
            raise RefusedError(f"the quota was not written: {error}") from None
        quotas = {k: v for k, v in self.quotas.items() if k != user}
        if quota is not None:
            quotas[user] = quota
        self.snapshot = replace(self.snapshot, quotas=quotas)
        self.changed()

    def post_revoked(self, content: bytes) -> None:
        self.scribe.put(self.key("revoked", self.me), content.decode(), kept=True)

    def posted_revoked(self) -> Collection[bytes]:
        return self.snapshot.revoked

    def settle(self) -> None:
        self.scribe.settle()

    def announce(self, member: Peer, about: Mapping[str, Any]) -> None:
        row = {
            "server": member.server.hex(),
            "address": member.address,
            "machine": member.machine,
            **about,
        }
        self.scribe.put(self.key("member", self.me), json.dumps(row))

    def close(self) -> None:
        """After the store, which is the scribe's."""
        self.thread.shutdown(wait=False, cancel_futures=True)
        self.gateway.close()


def members_of(found: Keys) -> tuple[Peer, ...]:
    made = []
    for each in found.values():
        row = row_of(each.value)
        with contextlib.suppress(KeyError, TypeError, ValueError):
            server = bytes.fromhex(row["server"])
            made.append(Peer(server, str(row["address"]), str(row["machine"])))
    return tuple(made)


def peers(access: Access) -> tuple[Peer, ...]:
    """As a client sees them that may read etcd itself."""
    gateway = Gateway(access)
    try:
        (found,) = gateway.read(get_below(f"{access.prefix}/member/"))
        return members_of(found)
    finally:
        gateway.close()


def last_of(key: str) -> str:
    return unquote(key.rpartition("/")[2])


def row_of(text: str) -> Row:
    """Nothing for what somebody else wrote there."""
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def quotas_of(rows: Mapping[str, Any]) -> dict[str, Quota]:
    made = {}
    for user, row in rows.items():
        try:
            made[user] = Quota(
                int(row["gpus"]), int(row["memory"]), int(row["priority"])
            )
        except (KeyError, TypeError, ValueError):
            log.error("the quota of %s in etcd is not understood: %r", user, row)
    return made


def added(used: Usage, row: Row) -> Usage:
    try:
        return Usage(used.gpus + int(row["gpus"]), used.memory + int(row["memory"]))
    except (KeyError, TypeError, ValueError):
        return used
