"""Copies of pageable memory, both ways, beside memcpy and the direct run."""

from __future__ import annotations

import pytest

from bench.conftest import ROADS, Interleaved, virtual_clock

pytestmark = pytest.mark.benchmark(timer=virtual_clock)
SIZES = {"4KiB": (4096, 500), "1MiB": (1 << 20, 40), "64MiB": (64 << 20, 2)}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ("up", "down"))
def test_copy(way: str, size: str, road: str, interleaved: Interleaved) -> None:
    bytes_, count = SIZES[size]
    interleaved(road, f"{way} {bytes_} {count}", count, f"copy {bytes_} {count}")
