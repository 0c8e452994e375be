"""A StateStore in etcd.

What a server remembers is written to a store of its own machine at once, and to etcd as
soon as that can be done (scribe.py), sealed, since leases have secrets. A restart reads
the machine's own, which is never behind; where that was lost, what etcd has.
"""

import contextlib
import json
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from fdcore.errors import ConfigError
from fdcore.etcd.gateway import EtcdError, get_below
from fdcore.etcd.scribe import Scribe
from fdcore.security import files
from fdcore.security.sealing import KEY_BYTES, Sealer
from fdcore.store import KINDS, META, Row, StateStore

MARK = "etcd"  # the row that says of which etcd a store's rows are
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Self:
    """What makes a server the same one after a restart."""

    id: str
    key: bytes


def self_in(path: Path, before: Path) -> Self:
    """Reads it, or makes a new one. before: where older releases had it."""
    try:
        if not path.exists() and before.exists():
            files.write(path, files.read(before))
            before.unlink()
        said = files.read_json(path, {})
        if said:
            return Self(str(said["id"]), bytes.fromhex(said["key"]))
        host = "".join(c if c.isalnum() or c in "-." else "-" for c in hostname())
        made = Self(f"{host}-{secrets.token_hex(4)}", secrets.token_bytes(KEY_BYTES))
        files.write_json(path, {"id": made.id, "key": made.key.hex()})
        return made
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{path} is damaged; move it away to begin anew") from None


def hostname() -> str:
    return socket.gethostname()[:64]


class EtcdStore:
    """local: the machine's own. The scribe has been made and not been started."""

    def __init__(self, local: StateStore, scribe: Scribe, me: Self) -> None:
        self.local = local
        self.scribe = scribe
        self.sealer = Sealer(me.key)
        self.open(f"{me.id} at {scribe.access}")

    def open(self, mark: str) -> None:
        """Has etcd answer. Where it does not, and all is here that a former start has
        written, that is enough."""
        known = self.local.rows(META).get(MARK, {}).get("of") == mark
        try:
            if not known:
                self.fetch()
            self.say_all()
            self.scribe.first()
        except EtcdError as error:
            if not known:
                raise
            self.scribe.lost(str(error))
        if not known:
            self.local.put(META, MARK, {"of": mark})
        self.scribe.start()

    def fetch(self) -> None:
        """Takes what etcd has and the machine has not."""
        (found,) = self.scribe.gateway.read(get_below(self.scribe.own))
        for key, each in found.items():
            kind, _, name = key.removeprefix(self.scribe.own).partition("/")
            text = self.sealer.open(each.value, key)
            if kind not in KINDS or text is None or unquote(name) == MARK:
                continue
            if unquote(name) not in self.local.rows(kind):
                with contextlib.suppress(ValueError):
                    self.local.put(kind, unquote(name), json.loads(text))

    def say_all(self) -> None:
        for kind in KINDS:
            for key, row in self.local.rows(kind).items():
                self.say(kind, key, row)

    def say(self, kind: str, key: str, row: Row) -> None:
        name = self.name(kind, key)
        sealed = self.sealer.seal(json.dumps(row), name)
        self.scribe.put(name, sealed, kept=True)

    def name(self, kind: str, key: str) -> str:
        return f"{self.scribe.own}{kind}/{quote(key, safe='')}"

    def rows(self, kind: str) -> dict[str, Row]:
        return self.local.rows(kind)

    def put(self, kind: str, key: str, row: Row) -> None:
        self.say(kind, key, row)
        self.local.put(kind, key, row)

    def drop(self, kind: str, key: str) -> None:
        self.scribe.drop(self.name(kind, key))
        self.local.drop(kind, key)

    def close(self) -> None:
        self.scribe.close(CLOSE_SECONDS)
        self.local.close()
