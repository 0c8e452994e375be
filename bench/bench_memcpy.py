"""Copies both ways, of pageable and pinned memory, beside memcpy or a raw connection."""

from __future__ import annotations

import pytest

from bench.conftest import ROADS, Interleaved, virtual_clock

pytestmark = pytest.mark.benchmark(timer=virtual_clock)
SIZES = {"4 KiB": (4096, 500), "1 MiB": (1 << 20, 40), "64 MiB": (64 << 20, 2)}
WAYS = {"up": "pageable, to the device", "down": "pageable, to the host",
        "pinup": "pinned, to the device", "pindown": "pinned, to the host"}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_copy(way: str, size: str, road: str, interleaved: Interleaved) -> None:
    bytes_, count = SIZES[size]
    floor = "copy" if road == "shm" else "stream"
    interleaved(f"{size} {WAYS[way]}", road, f"{way} {bytes_} {{n}}", count,
                f"{floor} {bytes_} {{n}}")
