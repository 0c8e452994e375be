"""A GPU in exclusive-process mode (`nvidia-smi -c EXCLUSIVE_PROCESS`): programs one after the
other, whole, and a second one at the same time is told what the driver tells it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import ROADS, Server, build_c, run

pytestmark = pytest.mark.cpu_device


@pytest.fixture(scope="module")
def exclusive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("exclusive")
    server = Server(folder, devices=1, env={"FD_CPU_EXCLUSIVE": str(folder / "held")})
    yield server
    assert server.stop() == 0, server.text()


def test_programs_follow_each_other(exclusive: Server) -> None:
    """The last one's worker has gone before the next begins, and workers that are ready
    in advance have no context."""
    program = build_c("hold_memory")
    for road in ROADS:
        done = run(exclusive.command("sh", "-c", 'for i in 1 2 3; do echo | "$0" 4 7; done',
                                     program), {"FD_TRANSPORT": road})
        assert done.out.splitlines() == ["holding", "PASS"] * 3, done.out + exclusive.text()


# The first holds what it has until the second has ended.
TWO = """
mkfifo there; "$0" 4 1 < there > one & exec 4> there
while ! grep -q holding one; do kill -0 $! || exit; sleep 0.05; done
echo | "$0" 4 2; echo "second: $?"
echo >&4; wait $!; echo "first: $?"
"""


def test_a_second_program_at_the_same_time_has_no_context(
        exclusive: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("two")
    script = f"cd {folder}; {TWO}"
    done = run(exclusive.command("sh", "-c", script, build_c("hold_memory")), {})
    *told, second, first = done.out.splitlines()
    assert (second, first) == ("second: 1", "first: 0"), done.out + exclusive.text()
    assert any("CUDA_ERROR_DEVICE_UNAVAILABLE" in line for line in told), told
    assert "in exclusive-process mode, which refuses the second" in exclusive.text()


def test_parts_of_it_are_refused_with_the_reason(exclusive: Server) -> None:
    done = run(exclusive.command("true", options=("-p", "0.5")), {})
    assert done.status == 125
    assert "in exclusive-process mode, and given as a whole only: GPU 0" in done.err
