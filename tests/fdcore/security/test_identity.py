"""Whom to be towards which server."""

import pytest

from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.security import authority, identity


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_known(host):
    assert identity.is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["127.evil.example", "localhost.evil.example", "::1234", "10.0.0.1", "127.0.0.1.evil", ""],
)
def test_what_only_begins_like_loopback_is_none(host):
    assert not identity.is_loopback(host)


def test_who_has_joined_speaks_tls_beyond_loopback_and_is_not_talked_out_of_it(tmp_path):
    joined = {
        "FD_IDENTITY": str(authority.found(tmp_path / "pool").folder),
        "FD_POOL": str(tmp_path / "none"),
    }
    nobody = {"FD_IDENTITY": str(tmp_path / "no"), "FD_POOL": str(tmp_path / "none")}
    far, near, local = Address("10.0.0.1", 1), Address("127.0.0.1", 1), Address(path="/x")
    assert identity.identity_for(far, joined) is not None
    assert identity.identity_for(near, joined) is None
    assert identity.identity_for(near, joined | {"FD_TLS": "always"}) is not None
    assert identity.identity_for(local, joined | {"FD_TLS": "always"}) is None
    assert identity.identity_for(far, joined | {"FD_TLS": "never"}) is None
    assert identity.identity_for(far, nobody) is None
    with pytest.raises(ConfigError, match="flexdirect init"):
        identity.identity_for(far, nobody | {"FD_TLS": "always"})
    with pytest.raises(ConfigError, match="FD_TLS is 'maybe'"):
        identity.identity_for(far, joined | {"FD_TLS": "maybe"})
