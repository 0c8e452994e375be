"""A request over several servers: the fewest that have it, in their order."""

import re

from fdcore.sched.placement import Refusal
from fdcore.sched.slices import MIB, Ask, Gpu
from fdcore.sched.spread import MOST_SERVERS, Part, Room, spread
from tests.support import ROOT


def room(name: str, *free: int, size: int = 1000) -> Room:
    """A server whose GPUs of size MiB have so many MiB free."""
    gpus = tuple(Gpu(i, "gpu", f"GPU-{i}", size * MIB) for i in range(len(free)))
    return Room(name, gpus, {i: left * MIB for i, left in enumerate(free)})


def counts(*free: int) -> list[Room]:
    """Servers with so many whole GPUs free."""
    return [room(f"s{i}", *[1000] * count) for i, count in enumerate(free)]


def test_three_of_two_and_two_are_two_and_one():
    assert spread(counts(2, 2), Ask(3)) == (Part(0, 2), Part(1, 1))


def test_fewest_servers_are_taken_and_stay_in_their_order():
    assert spread(counts(1, 1, 1, 3, 2), Ask(5)) == (Part(3, 3), Part(4, 2))
    assert spread(counts(1, 4, 1, 4), Ask(8)) == (Part(1, 4), Part(3, 4))


def test_what_is_left_goes_to_the_smallest_that_has_it():
    assert spread(counts(4, 3, 1), Ask(5)) == (Part(0, 4), Part(2, 1))


def test_one_server_is_enough_where_it_is():
    assert spread(counts(1, 2), Ask(2)) == (Part(1, 2),)


def test_only_gpus_with_room_for_the_slice_count():
    rooms = [room("a", 400, 1000), room("b", 499, 500)]
    assert spread(rooms, Ask(2, memory=500 * MIB)) == (Part(0, 1), Part(1, 1))
    assert spread(rooms, Ask(3, fraction=0.4)) == (Part(0, 2), Part(1, 1))


def test_full_servers_are_left_out():
    rooms = [room("a", 0, 0), room("b", 1000), room("c", 1000)]
    assert spread(rooms, Ask(2)) == (Part(1, 1), Part(2, 1))


def test_refusal_says_what_each_has():
    refused = spread([room("a:1", 0, 1000), room("b:2", 1000)], Ask(3))
    assert isinstance(refused, Refusal)
    assert refused.reason == (
        "3 whole GPUs asked for over all servers; a:1 has room for 1, b:2 has room for 1"
    )


def test_refusal_knows_what_could_never_be_from_what_is_in_use():
    rooms = [room("a", 0, 1000), room("b", 0)]
    in_use, never = spread(rooms, Ask(3)), spread(rooms, Ask(4))
    assert isinstance(in_use, Refusal) and in_use.later
    assert isinstance(never, Refusal) and not never.later
    assert "which is more than there is; a has room for 1" in never.reason


def test_no_memory_of_a_gpu_is_no_room():
    assert isinstance(spread([room("a", 1000, size=1000)] * 2, Ask(2, fraction=1e-9)), Refusal)


def test_no_more_servers_are_taken_than_a_program_can_use():
    most = re.search(r"define FDC_SESSIONS (\d+)", (ROOT / "csrc/shim/shim.h").read_text())
    assert int(most.group(1)) == MOST_SERVERS
    assert len(spread(counts(*[1] * 20), Ask(16))) == 16
    refused = spread(counts(*[1] * 20), Ask(17))
    assert isinstance(refused, Refusal) and not refused.later
    assert "GPUs of 16 servers, and the 16 that have most have room for 16" in refused.reason
    assert len(spread(counts(2, *[1] * 20), Ask(17))) == 16
    rooms = [room(f"s{i}", 1000, 0) for i in range(20)]
    assert spread(rooms, Ask(17)).later
