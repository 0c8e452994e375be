"""Calls: a synchronous one, a small read, launches; each beside its floor and a direct run."""

from __future__ import annotations

import pytest

from bench.conftest import ROADS, Interleaved, virtual_clock

pytestmark = pytest.mark.benchmark(timer=virtual_clock)


@pytest.mark.parametrize("road", ROADS)
def test_synchronous_call(road: str, interleaved: Interleaved) -> None:
    """A stream with nothing on it is synchronised: one round trip."""
    interleaved(road, "sync 2000", 2000, f"{road} 2000")


@pytest.mark.parametrize("road", ROADS)
def test_read_four_bytes(road: str, interleaved: Interleaved) -> None:
    interleaved(road, "read 1000", 1000, f"{road} 1000")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("params", (1, 6, 20))
def test_launch_issue(params: int, road: str, interleaved: Interleaved) -> None:
    """What the caller pays for a launch, in bursts that fit the queue."""
    interleaved(road, f"launch 400 {params}", 400, "local 400", issued=True)


@pytest.mark.parametrize("road", ROADS)
def test_launch_completed(road: str, interleaved: Interleaved) -> None:
    interleaved(road, "launch 20000 6", 20000, "local 20000")


@pytest.mark.parametrize("road", ROADS)
def test_launch_and_wait(road: str, interleaved: Interleaved) -> None:
    interleaved(road, "wait 1000", 1000, f"{road} 1000")
