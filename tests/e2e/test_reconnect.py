"""Data connections that break while programs run: the same results, everything once."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Outcome, Run, Server, build_c, run
from tests.e2e.wires import Wires

WIRES = Path(__file__).parent / "wires.py"
PATIENCE = 60.0
ROUNDS = "4"

pytestmark = pytest.mark.cpu_device


@pytest.fixture(scope="module", params=("plain", "encrypted"))
def rough_server(request: pytest.FixtureRequest,
                 tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"FD_ENCRYPT": "1"} if request.param == "encrypted" else {}
    server = Server(tmp_path_factory.mktemp("rough"), env=env)
    server.sealed = request.param == "encrypted"  # type: ignore[attr-defined]
    yield server
    assert server.stop() == 0, server.text()


def is_sealed(server: Server) -> bool:
    return bool(getattr(server, "sealed", False))


def over(server: Server, wires: Wires, *program: str | Path,
         env: dict[str, str] | None = None) -> Outcome:
    """The program, with its data connections through the wires."""
    try:
        return run(command(server, wires, *program), environment(server, wires, env))
    finally:
        wires.close()


def command(server: Server, wires: Wires, *program: str | Path) -> list[str | Path]:
    return server.command(sys.executable, WIRES, str(wires.port), *program)


def environment(server: Server, wires: Wires,
                env: dict[str, str] | None = None) -> dict[str, str]:
    sealed = {"FD_ENCRYPT": "1"} if is_sealed(server) else {}
    return {"FD_TRANSPORT": "tcp", "WIRES_MEANT": str(wires.meant), **sealed, **(env or {})}


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture
def expected(direct: Run) -> Outcome:
    found = direct(build_c("rough_road"), ROUNDS)
    assert found.out.endswith("PASS\n"), found.out
    return found


def agree(found: Outcome, expected: Outcome) -> None:
    assert (found.status, found.out) == (expected.status, expected.out), found.err


# Few cuts in the middle of large copies; many, some before a message is over.
@pytest.mark.parametrize(("life", "streams"), (((1_000_000, 6_000_000), "1"),
                                                ((1, 1_500_000), "3")))
def test_a_program_whose_connections_are_cut(life: tuple[int, int], streams: str,
                                             rough_server: Server, expected: Outcome,
                                             tmp_path: Path) -> None:
    wires = Wires(tmp_path / "meant", life[0], life)
    found = over(rough_server, wires, build_c("rough_road"), ROUNDS,
                 env={"FD_TCP_STREAMS": streams})
    agree(found, expected)
    assert wires.cuts >= 4


def test_bytes_that_were_changed(rough_server: Server, expected: Outcome,
                                 tmp_path: Path) -> None:
    if not is_sealed(rough_server):
        pytest.skip("a plain connection does not notice: README, Limits")
    wires = Wires(tmp_path / "meant", 7, (1, 3_000_000), corrupt=True)
    agree(over(rough_server, wires, build_c("rough_road"), ROUNDS), expected)
    assert wires.cuts >= 4


def begun(server: Server, wires: Wires, seconds: str,
          env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The program when it asks for nothing, for so long."""
    process = subprocess.Popen(
        command(server, wires, build_c("rough_road"), ROUNDS, seconds), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**dict_of_os(), **environment(server, wires, env)})
    assert process.stdout is not None
    assert process.stdout.readline() == "asks for nothing\n"
    return process


def test_a_program_that_asks_for_nothing_meanwhile(rough_server: Server, expected: Outcome,
                                                   tmp_path: Path) -> None:
    wires = Wires(tmp_path / "meant")
    process = begun(rough_server, wires, "2")
    try:
        for _ in range(4):
            wires.cut_all()
            time.sleep(0.3)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, expected.out), err
    finally:
        wires.close()
    assert wires.cuts >= 2


def test_answers_pass_a_copy_whose_bytes_are_held_up(rough_server: Server, direct: Run,
                                                     tmp_path: Path) -> None:
    """Of a copy that its caller waits for, its own answer alone waits for the bytes."""
    program = build_c("passing")
    expected = direct(program)
    assert expected.out.endswith("PASS\n"), expected.out
    wires = Wires(tmp_path / "meant")
    wires.brings = 1 << 18  # small things never come to that
    process = subprocess.Popen(
        command(rough_server, wires, program), text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**dict_of_os(), **environment(rough_server, wires)})
    assert process.stdout is not None and process.stdin is not None
    try:
        assert wires.held.wait(PATIENCE)
        process.stdin.write("\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], PATIENCE)[0], "it has to wait"
        wires.go_on.set()
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (expected.status, expected.out), err
    finally:
        wires.close()
        if process.poll() is None:
            process.kill()


def test_a_client_that_does_not_come_again(tmp_path: Path) -> None:
    """Its program gets errors, its session is over after the time."""
    server = Server(tmp_path / "state", env={"FD_RECONNECT": "1"})
    wires = Wires(tmp_path / "meant")
    try:
        process = begun(server, wires, "3", {"FD_RECONNECT": "1"})
        wires.close()
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1 and out.endswith("FAIL\n"), out + err
        until(lambda: ": freed" in server.text(), server.text())
    finally:
        assert server.stop() == 0, server.text()


def dict_of_os() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "FD_SESSION"}


@pytest.mark.parametrize("ways", ("exit 0", "kill -9 $$"))
def test_a_process_that_ends_while_others_hold_the_lease(ways: str, server: Server,
                                                         tmp_path: Path) -> None:
    """fdhold knows it from a break: its memory is free again, long before the time that a
    client may be away."""
    script = (f"{build_c('list_devices')} >/dev/null; "
              f"bash -c '{build_c('rough_road')} 1 >/dev/null; {ways}'; "
              f"read line; echo over")
    wires = Wires(tmp_path / "meant")
    before = len(server.text())
    process = subprocess.Popen(
        command(server, wires, "/bin/bash", "-c", script), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**dict_of_os(), **environment(server, wires)})
    try:
        def ended() -> bool:
            return len(re.findall(r"session \w+ of lease \w+: ended",
                                  server.text()[before:])) == 2

        until(ended, "sessions end with their programs: " + server.text()[before:])
        assert process.poll() is None
        out, err = process.communicate("\n", timeout=PATIENCE)
        assert out == "over\n", err
    finally:
        wires.close()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
