"""The way to a server and what this machine lacks: each fault is named, with its cure."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from fdcore import reach, tools, ucx
from fdcore.config import Address
from fdcore.health import FAIL, MARGINAL, PASS


def test_an_open_port_passes_and_a_closed_one_says_that_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        number = listener.getsockname()[1]
        named, port = reach.server(Address(host="127.0.0.1", port=number))
        assert (named.state, named.found) == (PASS, "127.0.0.1")
        assert port.state in (PASS, MARGINAL) and f"port {number} open" in port.found
    closed = reach.port(Address(host="127.0.0.1", port=number))
    assert closed.state == FAIL and "nobody listens" in closed.found
    assert "fdserver" in closed.cure


def test_a_name_that_does_not_exist_fails_and_ends_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    checks = reach.server(Address(host="gpu.invalid", port=1))
    assert [check.state for check in checks] == [FAIL]
    assert checks[0].found == "gpu.invalid: Name or service not known"


def test_slow_names_far_servers_and_silence_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    where = Address(host="127.0.0.1", port=9)
    ticks = iter([0.0, 5.0])
    monkeypatch.setattr(reach.time, "monotonic", lambda: next(ticks))
    assert reach.resolution(where).state == MARGINAL

    class Open:
        def close(self) -> None:
            pass

    far = iter(n * 0.04 for n in range(100))
    monkeypatch.setattr(reach.time, "monotonic", lambda: next(far))
    monkeypatch.setattr(socket, "create_connection", lambda *_: Open())
    port = reach.port(where)
    assert port.state == MARGINAL and "40.00 ms" in port.found

    def silent(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    assert "firewalls" in reach.port(where).cure


def test_a_local_socket_has_no_way_to_check() -> None:
    assert reach.server(Address(path="/run/fdserver")) == []


def test_a_full_or_forbidden_disk_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert reach.disk(tmp_path / "not" / "there").found.endswith(f"free at {tmp_path}")
    monkeypatch.setattr(reach, "DISK_ROOM", 1 << 62)
    assert reach.disk(tmp_path).state == MARGINAL

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reach.tempfile, "TemporaryFile", full)
    failed = reach.disk(tmp_path)
    assert failed.state == FAIL and "No space left" in failed.found and failed.cure

    def forbidden(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reach.tempfile, "TemporaryFile", forbidden)
    assert "XDG_CACHE_HOME" in reach.disk(tmp_path).cure


def test_little_locked_memory_matters_where_there_is_rdma(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    monkeypatch.setattr(ucx, "has_device", lambda: False)
    assert reach.locked_memory().state == PASS
    monkeypatch.setattr(ucx, "has_device", lambda: True)
    check = reach.locked_memory()
    assert (check.state, check.cure) == (MARGINAL, "ulimit -l unlimited")


def test_a_clock_before_the_installation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.clock().state == PASS
    monkeypatch.setattr(time, "time", lambda: 1e8)
    check = reach.clock()
    assert check.state == FAIL and check.found.startswith("1973-03-03")


def test_a_folder_where_nothing_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.programs().found.endswith(tools.NAME)
    real = os.statvfs(tools.folder())

    class Flags:
        f_flag = real.f_flag | os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda _: Flags())
    assert reach.programs().state == MARGINAL


def test_full_disk_below_what_runs_need_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "/here/bin")

    monkeypatch.setattr(tools, "folder", full)
    check = reach.programs()
    assert (check.state, check.found) == (FAIL, "/here/bin: No space left on device")
    assert "make room there" in check.cure
