"""Makes a server's part of etcd what it should be, as soon as that can be done.

Whoever changes something says what it is to be (put, drop) and goes on; a thread writes
it. While etcd does not answer nothing is lost: what should be there is known here, and
when it is back all of it is compared. So a server that serves never waits for etcd.

A key hangs on one of two leases of etcd's: what the pool counts on (this server, what
its users have) goes within the TTL when the server is dead; what only its next start
wants is kept for a week.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fdcore.etcd.access import Access
from fdcore.etcd.gateway import EtcdError, Gateway, Keys, Words, drop, get_below, put

log = logging.getLogger("fdserver")

KEPT_SECONDS = 7 * 86400.0
AGAIN_SECONDS = 1.0
LOOK_SECONDS = 2.0
BATCH, BATCH_BYTES = 100, 512 << 10  # of etcd's 128 operations, 1.5 MB


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a key should be. kept: beyond the life of this server."""

    value: str
    kept: bool


class Tenure:
    """A lease of etcd's that is kept alive."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.id = 0
        self.due = 0.0

    def keep(self, gateway: Gateway) -> bool:
        """Twice in its time; True: it is a new one, and nothing hangs on it yet."""
        now = time.monotonic()
        if self.id and now < self.due:
            return False
        self.due = now + self.seconds / 3
        if self.id and gateway.keep_alive(self.id):
            return False
        self.id = gateway.grant(self.seconds)
        return True


@dataclass
class Scribe:
    """own: what this server's kept keys begin with. watched: beginnings of keys that
    are read as often as anything may have changed, and given to seen(); mine(key,
    value): of those, whether it is this server's. settled: what of those is not wanted
    goes; until then it may be what an earlier life of this server has counted. trouble:
    why etcd cannot be asked; empty: it can be. seen() is called in the scribe's thread,
    also when trouble begins."""

    access: Access
    own: str
    watched: Sequence[str] = ()
    mine: Callable[[str, str], bool] = lambda key, value: False
    seen: Callable[[Sequence[Keys]], None] = lambda found: None
    settled: bool = True
    trouble: str = "etcd has not been asked yet"
    wanted: dict[str, Wanted] = field(default_factory=dict)
    # What is in etcd of it, as far as is known; None: it has to be looked at.
    written: dict[str, Wanted] | None = None
    # Keys that a transaction is about to write: left alone.
    pending: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.access)
        self.lock = threading.Lock()
        self.wake = threading.Condition(self.lock)
        self.stopping = False
        self.asked = False  # to have a turn now
        self.alive = Tenure(self.access.ttl)
        self.kept = Tenure(KEPT_SECONDS)
        self.look_due = 0.0
        self.told = ""  # the trouble that has been logged
        self.thread = threading.Thread(target=self.work, name="etcd", daemon=True)

    # ---- for everybody ----

    def put(self, key: str, value: str, kept: bool = False) -> None:
        with self.lock:
            self.wanted[key] = Wanted(value, kept)
            self.call()

    def drop(self, key: str) -> None:
        with self.lock:
            if self.wanted.pop(key, None) is not None:
                self.call()

    def settle(self) -> None:
        self.settled = True
        self.doubt()

    def has_written(self, key: str, value: str) -> None:
        """Somebody else did, in a transaction; it is ours to keep from now on."""
        with self.lock:
            self.pending.discard(key)
            self.wanted[key] = Wanted(value, False)
            if self.written is not None:
                self.written[key] = self.wanted[key]

    def call(self) -> None:
        """The lock is held."""
        self.asked = True
        self.wake.notify_all()

    def doubt(self, trouble: str = "") -> None:
        """Nobody knows what is in etcd: all of it is looked at. trouble: why it seems
        not to answer."""
        with self.lock:
            self.trouble = trouble or self.trouble
            self.look_again()
            self.call()

    def look_again(self) -> None:
        """The lock is held."""
        self.written = None
        self.alive.due = self.kept.due = 0.0

    def flush(self, seconds: float, patient: bool = True) -> bool:
        """Waits until all that has been said is written; False: it could not be.
        patient: also for an etcd that does not answer."""
        deadline = time.monotonic() + seconds
        with self.lock:
            while not self.done():
                self.call()
                left = deadline - time.monotonic()
                lost = bool(self.trouble) and not patient
                if left <= 0 or lost or not self.thread.is_alive():
                    return False
                self.wake.wait(min(left, 0.2))
        return True

    def done(self) -> bool:
        return not self.trouble and self.written == self.wanted

    # ---- the thread ----

    def start(self) -> None:
        self.thread.start()

    def first(self) -> None:
        """Before start(): has it answer once, or raises why it does not."""
        self.turn()

    def work(self) -> None:
        while True:
            with self.lock:
                if self.stopping:
                    return
            began = time.monotonic()
            try:
                self.turn()
            except EtcdError as error:
                self.lost(str(error))
            except Exception as error:  # an answer that nobody thought of
                log.exception("etcd")
                self.lost(f"etcd: {error!r}")
            self.rest(began)

    def rest(self, began: float) -> None:
        """Until something is to be done; not busily where etcd is in trouble."""
        with self.lock:
            if self.trouble:
                self.wake.wait_for(lambda: self.stopping, AGAIN_SECONDS)
                return
            due = min(self.alive.due, self.look_due) - time.monotonic()
            self.wake.wait_for(lambda: self.asked or self.stopping, max(0.0, due))

    def lost(self, why: str) -> None:
        with self.lock:
            self.look_again()
            self.trouble = why
            self.wake.notify_all()
        if why != self.told:
            log.error("the store: %s; what runs goes on", why)
        self.told = why
        self.seen(())

    def turn(self) -> None:
        """Writes what has changed; looks at all that is ours when it has to be, and at
        what others wrote when it is time."""
        new = [self.alive.keep(self.gateway), self.kept.keep(self.gateway)]
        with self.lock:
            self.asked = False
            if any(new):
                self.written = None
            whole = self.written is None
        found: Sequence[Keys] = ()
        if whole or self.trouble or time.monotonic() >= self.look_due:
            # Own keys come last and only where they are compared.
            ranges = [get_below(each) for each in self.watched]
            if whole:
                ranges.append(get_below(self.own))
            found = self.gateway.read(*ranges) if ranges else ()
            self.look_due = time.monotonic() + min(LOOK_SECONDS, self.access.ttl / 3)
        if whole:
            self.compare(found)
        self.write()
        with self.lock:
            was = self.trouble
            if self.written is not None:  # else doubted meanwhile
                self.trouble = ""
            answers = not self.trouble
            self.wake.notify_all()
        if self.told and answers:
            log.warning("the store: etcd answers again")
            self.told = ""
        if found or was:
            self.seen(found[: len(self.watched)])

    def compare(self, found: Sequence[Keys]) -> None:
        """What of ours is in etcd, hanging on a lease of ours."""
        there: dict[str, Wanted] = {}
        strange = Wanted("", False)
        for number, keys in enumerate(found):
            own = number == len(self.watched)
            for key, each in keys.items():
                if own or (self.settled and self.mine(key, each.value)):
                    kept = each.lease == self.kept.id
                    good = kept or each.lease == self.alive.id
                    there[key] = Wanted(each.value, kept) if good else strange
        with self.lock:
            for key in self.pending:
                there.pop(key, None)
            self.written = there

    def write(self) -> None:
        while True:
            with self.lock:
                if self.written is None:  # doubted meanwhile
                    return
                changed = {
                    key: self.wanted.get(key)
                    for key in self.wanted.keys() | self.written.keys()
                    if self.wanted.get(key) != self.written.get(key)
                }
                batch = first_of(changed)
            if not batch:
                return
            self.gateway.transact([self.operation(*each) for each in batch.items()])
            with self.lock:
                if self.written is None:
                    return
                for key, wanted in batch.items():
                    if wanted is None:
                        self.written.pop(key, None)
                    else:
                        self.written[key] = wanted

    def operation(self, key: str, wanted: Wanted | None) -> Words:
        if wanted is None:
            return drop(key)
        return put(key, wanted.value, (self.kept if wanted.kept else self.alive).id)

    def close(self, seconds: float, leave: bool = True) -> None:
        """leave: at once, not when the TTL is over, is this server known to be gone."""
        if self.thread.is_alive():
            self.flush(seconds, patient=False)
        with self.lock:
            self.stopping = True
            self.wake.notify_all()
        if self.thread.ident is not None:
            self.thread.join(seconds)
        if self.thread.is_alive():
            return  # it waits for etcd; it ends with the process
        try:
            if leave and self.alive.id and not self.trouble:
                self.gateway.revoke(self.alive.id)
        except EtcdError:
            pass  # then within the TTL
        self.gateway.close()


def first_of(changed: Mapping[str, Wanted | None]) -> dict[str, Wanted | None]:
    """As many as one transaction may have."""
    batch: dict[str, Wanted | None] = {}
    size = 0
    for key, wanted in changed.items():
        size += len(key) + (len(wanted.value) if wanted else 0)
        if batch and (len(batch) >= BATCH or size > BATCH_BYTES):
            break
        batch[key] = wanted
    return batch
