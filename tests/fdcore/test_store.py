"""What every StateStore promises: store.py."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from fdcore.config import Address
from fdcore.etcd.scribe import Scribe
from fdcore.etcd.store import MARK, EtcdStore, Self, self_in
from fdcore.store import KINDS, LEASE, QUOTA, Memory, Sqlite, StoreError
from tests.etcd import free_port


class Kept:
    """A store, and what somebody else finds where it is kept."""

    def __init__(self, kind, path, request):
        self.kind, self.path = kind, path
        if kind == "etcd":
            etcd = request.getfixturevalue("etcd")
            self.access = replace(etcd.access, prefix=f"fdcore/{path.name}")
        self.store = self.open()

    def open(self):
        if self.kind == "memory":
            return Memory()
        if self.kind == "sqlite":
            return Sqlite(self.path / "store.db")
        scribe = Scribe(self.access, f"{self.access.prefix}/server/me/")
        return EtcdStore(Memory(), scribe, Self("me", bytes(32)))

    def rows(self, kind):
        """As its own reader, and as one that has nothing but what was kept."""
        here = self.store.rows(kind)
        if self.kind == "memory":
            return here
        if self.kind == "etcd":
            assert self.store.scribe.flush(60)
        again = self.open()
        assert again.rows(kind) == here
        again.close()
        return here


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def kept(request, tmp_path):
    made = Kept(request.param, tmp_path, request)
    yield made
    made.store.close()


@pytest.fixture
def store(kept):
    return kept.store


# ---- of all ----


def test_fresh_store_is_empty(kept):
    assert [own(kept.rows(kind)) for kind in KINDS] == [{}] * len(KINDS)


def own(rows):
    """Without what an EtcdStore notes for itself."""
    return {key: row for key, row in rows.items() if key != MARK}


def test_rows_come_back_as_they_were_put(kept, store):
    row = {"a": [1, 2.5, None, True], "b": {"ü\n'\"": "x" * 10000}}
    store.put(LEASE, "k'1/ü", row)
    store.put(LEASE, "k2", {})
    assert kept.rows(LEASE) == {"k'1/ü": row, "k2": {}}


def test_kinds_do_not_mix_and_rows_are_replaced(kept, store):
    store.put(LEASE, "k", {"n": 1})
    store.put(QUOTA, "k", {"n": 2})
    store.put(LEASE, "k", {"n": 3})
    assert kept.rows(LEASE) == {"k": {"n": 3}}
    assert kept.rows(QUOTA) == {"k": {"n": 2}}


def test_dropped_rows_are_gone_and_dropping_nothing_is_nothing(kept, store):
    store.put(LEASE, "k", {})
    store.put(LEASE, "other", {})
    assert len(kept.rows(LEASE)) == 2
    store.drop(LEASE, "k")
    store.drop(LEASE, "k")
    assert kept.rows(LEASE) == {"other": {}}


def test_what_was_read_is_the_readers_own(store):
    store.put(LEASE, "k", {"list": [1]})
    store.rows(LEASE)["k"]["list"].append(2)
    assert store.rows(LEASE) == {"k": {"list": [1]}}


def test_many_rows_are_kept(kept, store):
    rows = {f"k{number}": {"text": "x" * 20000} for number in range(250)}
    for key, row in rows.items():
        store.put(LEASE, key, row)
    assert kept.rows(LEASE) == rows


def test_closing_twice_is_as_once(store):
    store.close()
    store.close()


# ---- of etcd ----


def test_first_start_needs_an_etcd_that_answers_and_later_ones_do_not(etcd):
    access = replace(etcd.access, prefix="first-start")
    gone = replace(access, hosts=(Address("127.0.0.1", free_port()),))
    local = Memory()

    def opened(access):
        return EtcdStore(local, Scribe(access, f"{access.prefix}/server/me/"), Self("me", bytes(32)))

    with pytest.raises(StoreError, match="connection refused; start etcd there"):
        opened(gone)
    opened(access).close()
    with pytest.raises(StoreError):  # another one than it was
        opened(gone)
    known = Scribe(access, f"{access.prefix}/server/me/")
    known.gateway.access = gone  # the same etcd, but nobody answers
    again = EtcdStore(local, known, Self("me", bytes(32)))
    assert "connection refused" in known.trouble
    again.put(LEASE, "k", {})
    known.gateway.access = access
    assert known.flush(60)
    again.close()


def test_rows_that_were_sealed_with_another_key_are_nobodys(etcd):
    access = replace(etcd.access, prefix="other-key")
    for key in (bytes(32), b"1" * 32):
        store = EtcdStore(Memory(), Scribe(access, "other-key/server/me/"), Self("me", key))
        assert store.rows(LEASE) == {}
        store.put(LEASE, "k", {})
        assert store.scribe.flush(60)
        store.close()


def test_server_stays_who_it_was_though_its_state_folder_is_emptied(tmp_path):
    kept, old = tmp_path / "lib" / "self.json", tmp_path / "run" / "self.json"
    kept.parent.mkdir()
    old.parent.mkdir()
    before = self_in(old, old)  # as older releases did
    assert self_in(kept, old) == before
    assert not old.exists()
    self_in(old, old)  # somebody else
    assert self_in(kept, old) == before


# ---- of the file ----


def test_file_outlives_its_process_even_if_that_is_killed(tmp_path):
    path = tmp_path / "store.db"
    code = (
        "import os, sys; from pathlib import Path; from fdcore.store import *\n"
        "store = Sqlite(Path(sys.argv[1]))\n"
        "store.put(LEASE, 'k', {'n': 1}); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    again = Sqlite(path)
    assert again.rows(LEASE) == {"k": {"n": 1}}
    again.close()


def test_files_are_nobody_elses_to_read(tmp_path):
    old = os.umask(0)
    try:
        store = Sqlite(tmp_path / "store.db")
        store.put(LEASE, "k", {})
    finally:
        os.umask(old)
    files = list(tmp_path.iterdir())
    assert len(files) > 1  # with its log
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    store.close()


def test_damaged_file_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="move it away to begin anew"):
        Sqlite(path)


def test_file_of_another_release_is_refused(tmp_path):
    path = tmp_path / "store.db"
    sqlite3.connect(path).execute("PRAGMA user_version=9").connection.close()
    with pytest.raises(StoreError, match="another release"):
        Sqlite(path)


def test_lost_file_is_an_error_of_its_own(tmp_path):
    store = Sqlite(tmp_path / "store.db")
    store.close()
    with pytest.raises(StoreError):
        store.put(LEASE, "k", {})
