"""What a server remembers beyond its own life: leases, quotas, members of its pool.

A StateStore is rows of JSON by kind and key, each written at once and whole. Sqlite is
what fdserver uses; Memory is for a server that nobody starts again. What the rows mean
is their users' business. Losing the store while a server runs loses nothing of what
runs: the server says so once and goes on.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from fdcore.errors import ConfigError, FdcoreError, naming

LEASE, QUOTA, MEMBER, META = KINDS = ("lease", "quota", "member", "meta")
VERSION = 1
BUSY_SECONDS = 5.0
RUNNING_BUSY_MS = 200

Row = dict[str, Any]


class StoreError(FdcoreError):
    """The store cannot be read or written."""


class StateStore(Protocol):
    def rows(self, kind: str) -> dict[str, Row]:
        """All rows of a kind, by their keys."""

    def put(self, kind: str, key: str, row: Row) -> None:
        """Writes a row, in place of the one with this key."""

    def drop(self, kind: str, key: str) -> None:
        """Removes a row; nothing happens where there is none."""

    def close(self) -> None:
        """Twice is as once."""


class Memory:
    """A store that ends with its process."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}

    def rows(self, kind: str) -> dict[str, Row]:
        return {key: json.loads(text) for key, text in self.kinds[kind].items()}

    def put(self, kind: str, key: str, row: Row) -> None:
        self.kinds[kind][key] = json.dumps(row)

    def drop(self, kind: str, key: str) -> None:
        self.kinds[kind].pop(key, None)

    def close(self) -> None:
        pass


class Sqlite:
    """A file. With its log beside it (WAL) a write costs some 10 us, and none that was
    finished is lost when the process is killed; the last may be when the machine is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # It has secrets of leases: nobody else's to read. SQLite gives its other
            # files the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self.database: sqlite3.Connection | None = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None
            )
            self.prepare()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {error}; move it away to begin anew") from None

    def prepare(self) -> None:
        (version,) = self.ask("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise StoreError(
                f"{self.path} is of another release (form {version}, ours {VERSION}); "
                "move it away to begin anew"
            )
        self.ask("PRAGMA journal_mode=WAL")
        self.ask("PRAGMA synchronous=NORMAL")
        self.ask(
            "CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, row TEXT NOT NULL, "
            "PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self.ask(f"PRAGMA user_version={VERSION}")
        # From now on somebody's loop waits for it.
        self.ask(f"PRAGMA busy_timeout={RUNNING_BUSY_MS}")

    def ask(self, words: str, *values: str) -> sqlite3.Cursor:
        if self.database is None:
            raise StoreError(f"{self.path} is closed")
        return self.database.execute(words, values)

    def rows(self, kind: str) -> dict[str, Row]:
        found = {}
        try:
            for key, text in self.ask("SELECT key, row FROM rows WHERE kind=?", kind):
                with contextlib.suppress(ValueError):
                    found[key] = json.loads(text)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from None
        return found

    def put(self, kind: str, key: str, row: Row) -> None:
        self.change("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", kind, key,
                    json.dumps(row))  # fmt: skip

    def drop(self, kind: str, key: str) -> None:
        self.change("DELETE FROM rows WHERE kind=? AND key=?", kind, key)

    def change(self, words: str, *values: str) -> None:
        try:
            self.ask(words, *values)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from None

    def close(self) -> None:
        database, self.database = self.database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()


class StateLock:
    """One server for a state folder. The lock ends with the process, in any case."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state / "lock"

    def __enter__(self) -> "StateLock":
        self.file = open(self.path, "a+", encoding="ascii")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.seek(0)
            pid = self.file.read(32).strip() or "unknown"
            self.file.close()
            raise ConfigError(
                f"{self.state} is in use by another fdserver, pid {pid}"
            ) from None
        with naming(self.path):
            self.file.truncate(0)
            self.file.write(f"{os.getpid()}\n")
            self.file.flush()
        return self

    def clear(self, *names: str) -> None:
        """Removes these of the folder. Where it, or the lock in it, has been removed
        meanwhile, what is there now may be another server's."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
                for name in names:
                    (self.state / name).unlink(missing_ok=True)

    def __exit__(self, *error: object) -> None:
        self.file.close()
