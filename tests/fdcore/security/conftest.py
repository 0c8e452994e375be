"""A pool on loopback whose server speaks TLS there all the same."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fdcore.config import parse_address
from fdcore.security import authority, files, identity, join, tokens
from tests.support import Server, start_server


@dataclass
class Pool:
    authority: authority.Authority
    server: Server
    folder: Path

    @property
    def address(self):
        return parse_address(self.server.control)

    def token(self, role="user", seconds=600, uses=1, name="", addresses=()):
        return tokens.create(
            self.authority.folder,
            self.authority.pool,
            self.authority.hash,
            role,
            addresses or [self.server.control],
            int(time.time()) + seconds,
            uses,
            name,
        )

    def environment(self, name):
        """Of somebody on another machine."""
        folder = self.folder / name
        return {
            "FD_IDENTITY": str(folder / "identity"),
            "FD_POOL": str(folder / "pool"),
            "FD_TLS": "always",
        }

    def join(self, name, role="user", **more) -> identity.Identity:
        return join.join(self.token(role, **more), name, self.environment(name))


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    founded = authority.found(folder / "founder")
    server = start_server(
        tmp_path_factory.mktemp("fd"), FD_TLS="always", FD_POOL=str(folder / "founder")
    )
    yield Pool(founded, server, folder)
    server.stop()


@pytest.fixture
def be(monkeypatch):
    """Makes this process somebody: be(pool, name)."""

    def become(pool, name):
        for key, value in pool.environment(name).items():
            monkeypatch.setenv(key, value)

    return become


@pytest.fixture
def aged():
    """Has a certificate been issued long ago: aged(folder, serial)."""

    def age(folder, serial):
        with files.locked(folder):
            rows = files.read_json(folder / authority.ISSUED, [])
            (row,) = (row for row in rows if row["serial"] == serial)
            row["issued"] -= row["expires"] - row["issued"]
            files.write_json(folder / authority.ISSUED, rows)

    return age
