"""Whom to be towards which server."""

import ssl
import time

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


def why_not_trusted(founded, asked=None):
    """What a client of one pool sees in the certificate of a server of a pool."""
    asked = asked or founded
    theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
    called = identity.server_name(asked.pool)
    client = identity.context(asked.folder, server=False).wrap_bio(theirs, ours, False, called)
    server = identity.context(founded.folder, server=True).wrap_bio(ours, theirs, True)
    with pytest.raises(ssl.SSLCertVerificationError) as raised:
        for end in (client, server, client):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return raised.value


def test_certificate_that_does_not_hold_is_told_with_what_helps(tmp_path, monkeypatch):
    now, day = time.time(), 86400.0
    monkeypatch.setattr(authority.time, "time", lambda: now + 30 * day)
    early = why_not_trusted(authority.found(tmp_path / "early"))
    monkeypatch.setattr(authority.time, "time", lambda: now - (authority.CA_DAYS + 1) * day)
    late = why_not_trusted(authority.found(tmp_path / "late"))
    monkeypatch.undo()
    mine, other = authority.found(tmp_path / "mine"), authority.found(tmp_path / "other")
    foreign = why_not_trusted(other, mine)
    assert early.verify_message == "certificate is not yet valid"
    assert "clock may be behind" in identity.to_trust(early)
    assert late.verify_message == "certificate has expired"
    assert "its fdserver renews it" in identity.to_trust(late)
    assert "flexdirect init TOKEN" in identity.to_trust(foreign)
