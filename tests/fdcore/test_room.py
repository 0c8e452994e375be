"""How many sessions a server takes, by its limit of descriptors."""

from hypothesis import given
from hypothesis import strategies as st

from fdcore.room import HOLD, OWN, SESSION, Room


@given(st.integers(256, 1 << 20))
def test_shares_are_no_more_than_all(limit):
    room = Room(limit)
    strangers = 2 * room.strangers(256) + room.strangers(512)
    assert room.connections + strangers + room.granted + OWN <= limit
    most = room.granted // (SESSION + HOLD)
    assert room.has(most, most)
    assert not room.has(most + 1, most + 1)


def test_usual_limits_are_enough_for_200_sessions():
    # What systemd gives a service, what most machines give anybody, an old one.
    for limit in (1 << 19, 1 << 20, 4096):
        assert Room(limit).has(200, 200)


def test_few_descriptors_are_a_few_sessions():
    assert Room(1024).has(50, 50)
    assert not Room(1024).has(100, 100)
    assert Room(64).has(2, 2)
