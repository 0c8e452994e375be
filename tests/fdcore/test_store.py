"""What every StateStore promises: store.py."""

import os
import sqlite3
import subprocess
import sys

import pytest

from fdcore.store import KINDS, LEASE, QUOTA, Memory, Sqlite, StoreError


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = Memory() if request.param == "memory" else Sqlite(tmp_path / "store.db")
    yield made
    made.close()


# ---- of all ----


def test_fresh_store_is_empty(store):
    assert [store.rows(kind) for kind in KINDS] == [{}] * len(KINDS)


def test_rows_come_back_as_they_were_put(store):
    row = {"a": [1, 2.5, None, True], "b": {"ü\n'\"": "x" * 10000}}
    store.put(LEASE, "k'1", row)
    store.put(LEASE, "k2", {})
    assert store.rows(LEASE) == {"k'1": row, "k2": {}}


def test_kinds_do_not_mix_and_rows_are_replaced(store):
    store.put(LEASE, "k", {"n": 1})
    store.put(QUOTA, "k", {"n": 2})
    store.put(LEASE, "k", {"n": 3})
    assert store.rows(LEASE) == {"k": {"n": 3}}
    assert store.rows(QUOTA) == {"k": {"n": 2}}


def test_dropped_rows_are_gone_and_dropping_nothing_is_nothing(store):
    store.put(LEASE, "k", {})
    store.drop(LEASE, "k")
    store.drop(LEASE, "k")
    assert store.rows(LEASE) == {}


def test_what_was_read_is_the_readers_own(store):
    store.put(LEASE, "k", {"list": [1]})
    store.rows(LEASE)["k"]["list"].append(2)
    assert store.rows(LEASE) == {"k": {"list": [1]}}


def test_closing_twice_is_as_once(store):
    store.close()
    store.close()


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
