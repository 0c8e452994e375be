"""What was, in a SQLite file of bounded size: the longer ago, the coarser.

Every sample goes into a bucket of each level, which keeps number, sum and greatest; so
nothing has to be thinned out later, and a level forgets what is older than its time.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdcore.errors import ConfigError
from fdcore.security.limits import Seldom

log = logging.getLogger("fdserver.web")

# Seconds of a bucket, and how many of them are kept.
LEVELS = ((5, 720), (60, 1440), (600, 1008), (3600, 2160))
MOST_SERIES = 1024
# How many samples go by between two clearings.
CLEAR_EVERY = 60


@dataclass(frozen=True, slots=True)
class Point:
    time: float  # where the bucket begins
    mean: float
    greatest: float


class History:
    """Used by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.added = 0
        self.warnings = Seldom(log)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self.database: sqlite3.Connection | None = sqlite3.connect(
                path, timeout=5.0, isolation_level=None, check_same_thread=False
            )
            for words in (
                "PRAGMA journal_mode=WAL",
                "PRAGMA synchronous=NORMAL",
                "CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, "
                "name TEXT UNIQUE NOT NULL, seen REAL NOT NULL)",
                "CREATE TABLE IF NOT EXISTS buckets (level INTEGER, series INTEGER, "
                "time INTEGER, n INTEGER NOT NULL, sum REAL NOT NULL, "
                "most REAL NOT NULL, PRIMARY KEY (level, series, time)) WITHOUT ROWID",
            ):
                self.database.execute(words)
            self.ids = known_series(self.database)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: {error}; move it away to begin anew") from None

    def add(self, now: float, sample: Mapping[str, float]) -> None:
        with self.lock, contextlib.suppress(sqlite3.Error):  # a full disk: no history
            if self.database is None:
                return
            self.database.execute("BEGIN")
            try:
                self.write(self.database, now, sample)
                self.database.execute("COMMIT")
            except sqlite3.Error:
                if self.database.in_transaction:  # SQLite ends some of them itself
                    self.database.execute("ROLLBACK")
                # Series that were begun in it are not there.
                self.ids = known_series(self.database)
                raise

    def write(
        self, database: sqlite3.Connection, now: float, sample: Mapping[str, float]
    ) -> None:
        rows = []
        for name, value in sample.items():
            number = self.number(database, name, now)
            if number:
                rows += [
                    (level, number, int(now // step) * step, value, value)
                    for level, (step, _) in enumerate(LEVELS)
                ]
        database.executemany(
            "INSERT INTO buckets VALUES (?, ?, ?, 1, ?, ?) "
            "ON CONFLICT (level, series, time) DO UPDATE SET n = n + 1, "
            "sum = sum + excluded.sum, most = max(most, excluded.most)",
            rows,
        )
        self.added += 1
        if self.added % CLEAR_EVERY == 1:
            self.clear(database, now, sample)

    def number(self, database: sqlite3.Connection, name: str, now: float) -> int:
        """Of a series; 0: there are too many of them."""
        if name not in self.ids:
            if len(self.ids) >= MOST_SERIES:
                return 0
            made = database.execute(
                "INSERT INTO series (name, seen) VALUES (?, ?)", (name, now)
            )
            self.ids[name] = made.lastrowid or 0
        return self.ids[name]

    def clear(
        self, database: sqlite3.Connection, now: float, sample: Mapping[str, float]
    ) -> None:
        """Forgets what is too old, and series that are nothing but old."""
        for level, (step, count) in enumerate(LEVELS):
            oldest = int(now // step - count) * step
            database.execute(
                "DELETE FROM buckets WHERE level = ? AND time <= ?", (level, oldest)
            )
        database.executemany(
            "UPDATE series SET seen = ? WHERE name = ?",
            [(now, name) for name in sample],
        )
        longest = max(step * count for step, count in LEVELS)
        database.execute("DELETE FROM series WHERE seen < ?", (now - longest,))
        self.ids = known_series(database)

    def read(self, name: str, begin: float, end: float, most: int) -> list[Point]:
        """At most so many points, of the finest level that goes back to begin; none
        where the file cannot be read any more."""
        with self.lock:
            number = self.ids.get(name)
            if self.database is None or number is None:
                return []
            level = level_for(end - begin, most)
            step = LEVELS[level][0]
            try:
                rows = self.database.execute(
                    "SELECT time, sum / n, most FROM buckets WHERE level = ? "
                    "AND series = ? AND time > ? AND time <= ? ORDER BY time",
                    (level, number, begin - step, end),
                ).fetchall()
            except sqlite3.Error as error:
                self.warnings.warn(str(error), f"{self.path}: {error}")
                return []
        return [Point(float(time), mean, top) for time, mean, top in rows]

    def names(self) -> list[str]:
        with self.lock:
            return sorted(self.ids)

    def close(self) -> None:
        with self.lock:
            database, self.database = self.database, None
            if database is not None:
                with contextlib.suppress(sqlite3.Error):
                    database.close()


def known_series(database: sqlite3.Connection) -> dict[str, int]:
    return dict(database.execute("SELECT name, id FROM series").fetchall())


def level_for(seconds: float, most: int) -> int:
    for level, (step, count) in enumerate(LEVELS):
        if step * count >= seconds and seconds / step <= most:
            return level
    return len(LEVELS) - 1
