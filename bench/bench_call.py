"""Calls: synchronous ones, small reads, launches, events; whole programs."""

from __future__ import annotations

import pytest

from bench.conftest import ROADS, Interleaved, virtual_clock

pytestmark = pytest.mark.benchmark(timer=virtual_clock)
PUSHED = {1: 136, 6: 176, 20: 288}  # bytes of a launch with so many parameters


def round_trip(road: str) -> str:
    return "shm {n}" if road == "shm" else f"tcp {{n}} {ROADS[road]}"


@pytest.mark.parametrize("road", ROADS)
def test_synchronous_call(road: str, interleaved: Interleaved) -> None:
    """A context with nothing on it is synchronised: one round trip."""
    interleaved("synchronous call", road, "context {n}", 2000, round_trip(road))


@pytest.mark.parametrize("road", ROADS)
def test_read_four_bytes(road: str, interleaved: Interleaved) -> None:
    interleaved("read 4 bytes", road, "read {n}", 1000, round_trip(road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("params", PUSHED)
def test_launch_issue(params: int, road: str, interleaved: Interleaved) -> None:
    """What the caller pays for a launch, in bursts that fit the queue. The floor is a
    ring of 1 MiB into which as many bytes are put."""
    interleaved(f"launch issue, {params} parameters", road, f"launch {{n}} {params}", 400,
                f"push {{n}} {PUSHED[params]}", issued=True)


def test_launch_issue_sustained(interleaved: Interleaved) -> None:
    """10^5 of them, many times what the ring and the stream's queue hold: as fast as the
    worker takes them, with what its driver does for each. The floor's other side reads."""
    interleaved("launch issue, 10^5, 6 parameters", "shm", "launch {n} 6", 100_000,
                f"push {{n}} {PUSHED[6]}", issued=True)


@pytest.mark.parametrize("road", ROADS)
def test_launch_completed(road: str, interleaved: Interleaved) -> None:
    interleaved("launch completed, 6 parameters", road, "launch {n} 6", 20000,
                f"push {{n}} {PUSHED[6]}")


@pytest.mark.parametrize("road", ROADS)
def test_launch_and_wait(road: str, interleaved: Interleaved) -> None:
    interleaved("launch and wait", road, "wait {n}", 1000, round_trip(road))


@pytest.mark.parametrize("road", ROADS)
def test_event(road: str, interleaved: Interleaved) -> None:
    interleaved("event: record, query, wait", road, "event {n}", 1000, round_trip(road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("us", (0, 2, 5, 10))
def test_program(us: int, road: str, interleaved: Interleaved) -> None:
    """300 kernels of so many microseconds and one wait; time for each kernel."""
    interleaved.program(f"300 kernels of {us} us and a wait", road, us)
