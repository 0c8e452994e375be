"""Secrets that stand for somebody: once, for a while, and with no more than they allow."""

import secrets

import pytest

from fdcore.errors import ConfigError, RefusedError
from fdcore.security.passes import LONGEST, MOST_EACH, Passes, hashed
from fdcore.security.roles import ADMIN, NODE, ROLES, USER, VIEWER, less


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def fresh():
    return secrets.token_bytes(32)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def passes(clock):
    return Passes(clock)


def test_secret_is_good_once_and_the_next_one_after_it(passes):
    first, second, third = fresh(), fresh(), fresh()
    passes.lend(hashed(first), "ann", ("ann", ""), 60)
    assert passes.take(first, hashed(second), 60) == "ann"
    with pytest.raises(RefusedError):
        passes.take(first, hashed(third), 60)
    assert passes.take(second, hashed(second), 60) == "ann"
    assert passes.take(second, hashed(second), 60) == "ann"


def test_secret_ends_with_its_time(passes, clock):
    secret = fresh()
    passes.lend(hashed(secret), "ann", ("ann", ""), 60)
    clock.now += 60
    with pytest.raises(RefusedError):
        passes.take(secret, hashed(fresh()), 60)


def test_revoked_certificates_secrets_are_forgotten(passes):
    hers, his = fresh(), fresh()
    passes.lend(hashed(hers), "ann", ("ann", "a1"), 60)
    passes.lend(hashed(his), "bob", ("bob", "b2"), 60)
    passes.forget({"a1"})
    with pytest.raises(RefusedError):
        passes.take(hers, hashed(fresh()), 60)
    assert passes.take(his, hashed(fresh()), 60) == "bob"


def test_one_user_cannot_fill_the_room_of_all(passes):
    mine = [fresh() for _ in range(MOST_EACH + 3)]
    hers = fresh()
    passes.lend(hashed(hers), "ann", ("ann", ""), 60)
    for secret in mine:
        passes.lend(hashed(secret), "bob", ("bob", ""), 60)
    assert len(passes.kept) == MOST_EACH + 1
    assert passes.take(hers, hashed(fresh()), 60) == "ann"
    assert passes.take(mine[-1], hashed(fresh()), 60) == "bob"


@pytest.mark.parametrize(("hash", "seconds"), [(b"", 60), (bytes(31), 60), (bytes(32), 0), (bytes(32), LONGEST + 1)])
def test_what_makes_no_sense_is_refused(passes, hash, seconds):
    with pytest.raises(ConfigError):
        passes.lend(hash, "ann", ("ann", ""), seconds)


def test_nobody_becomes_more_than_they_are():
    assert [less(ADMIN, role) for role in ROLES] == list(ROLES)
    assert [less(USER, role) for role in ROLES] == ["", USER, "", ""]
    assert [less(VIEWER, role) for role in ROLES] == [VIEWER, "", "", ""]
    assert [less(NODE, role) for role in ROLES] == [VIEWER, "", NODE, ""]
    assert less(ADMIN, "somebody") == ""
