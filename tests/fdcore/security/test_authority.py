"""The authority's files: certificates, names, and the list of revoked ones."""

import ssl
import time
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fdcore.errors import ConfigError, RefusedError
from fdcore.security import authority, files, tokens


@pytest.fixture
def founded(tmp_path):
    return authority.found(tmp_path / "pool")


def token(founded, role="user", name="", uses=1):
    return tokens.create(
        founded.folder, founded.pool, founded.hash, role, ["h:1"],
        int(time.time()) + 60, uses, name,
    )  # fmt: skip


def enrol(founded, wanted, **more):
    made = token(founded, **more)
    request = authority.request_bytes(authority.fresh_key())
    return founded.enrol(made.id, made.secret, request, wanted)


def test_founding_twice_is_founding_once(founded):
    again = authority.found(founded.folder)
    assert (again.pool, again.hash) == (founded.pool, founded.hash)


def test_every_file_of_it_is_private(founded):
    token(founded)
    for path in founded.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0 or path.stat().st_size == 0, path
    (founded.folder / files.CA_KEY).chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others"):
        authority.Authority(founded.folder)


def test_certificate_says_role_and_name_of_the_token_alone(founded):
    key = authority.fresh_key()
    # The request asks for more than it may.
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(authority.named("root"))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"fd://{founded.pool}/admin/root")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
        .public_bytes(authority.serialization.Encoding.PEM)
    )
    made = token(founded, role="viewer")
    _, pem = founded.enrol(made.id, made.secret, request, "eve")
    holder = authority.holder_of(ssl.PEM_cert_to_DER_cert(pem.decode()), founded.pool)
    assert (holder.role, holder.name) == ("viewer", "eve")
    read = x509.load_pem_x509_certificate(pem)
    limits = read.extensions.get_extension_for_class(x509.BasicConstraints)
    assert not limits.value.ca
    uses = read.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH not in uses


def test_name_in_use_gets_a_number_and_a_named_token_its_name(founded):
    assert enrol(founded, "bob")[0].name == "bob"
    assert enrol(founded, "bob")[0].name == "bob-2"
    assert enrol(founded, "bob", name="alice")[0].name == "alice"
    founded.revoke("bob")
    assert enrol(founded, "bob")[0].name == "bob"


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "../x", "\x1b[2J", "a" * 64, "é"])
def test_name_that_could_harm_is_refused(founded, name):
    with pytest.raises(RefusedError):
        enrol(founded, name)


@pytest.mark.parametrize("request_pem", [b"", b"junk", b"-----BEGIN X-----\n" * 9, b"A" * 9999])
def test_request_that_is_none_spends_no_token(founded, request_pem):
    made = token(founded)
    with pytest.raises(RefusedError):
        founded.enrol(made.id, made.secret, request_pem, "bob")
    request = authority.request_bytes(authority.fresh_key())
    assert founded.enrol(made.id, made.secret, request, "bob")[0].name == "bob"


def test_only_the_one_kind_of_key_is_signed(founded):
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(RefusedError):
        authority.requested(authority.request_bytes(key))


def test_revoked_is_known_to_who_reads_the_list(founded):
    holder, _ = enrol(founded, "bob")
    other, _ = enrol(founded, "carol")
    known = authority.Revoked(founded.folder)
    assert not known.has(holder.serial)
    founded.revoke(holder.serial)
    assert known.load() and not known.load()
    assert known.has(holder.serial) and not known.has(other.serial)
    with pytest.raises(ConfigError):
        founded.revoke(holder.serial)


def test_revoked_is_known_although_the_clock_was_set_back(founded, monkeypatch):
    now = time.time()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now + 3600)
        founded.revoked()
        known = authority.Revoked(founded.folder)
    holder, _ = enrol(founded, "bob")
    founded.revoke(holder.serial)
    assert known.load() and known.has(holder.serial)


def test_token_of_who_is_revoked_is_good_no_more(founded, aged):
    shared, other = token(founded, uses=5), token(founded, uses=2)

    def joined(by, name):
        request = authority.request_bytes(authority.fresh_key())
        return founded.enrol(by.id, by.secret, request, name)[0]

    holder = joined(shared, "thief")
    joined(other, "carol")
    request = authority.request_bytes(authority.fresh_key())
    aged(founded.folder, holder.serial)
    renewed, _ = founded.renew(holder, request)
    founded.revoke(renewed.serial)  # the certificate that the first one became
    with pytest.raises(RefusedError, match="is not known"):
        joined(shared, "somebody else")
    joined(other, "dave")


def test_certificate_that_is_revoked_or_young_is_not_renewed(founded, aged):
    holder, _ = enrol(founded, "bob")
    request = authority.request_bytes(authority.fresh_key())
    with pytest.raises(RefusedError, match="too young"):
        founded.renew(holder, request)
    aged(founded.folder, holder.serial)
    renewed, _ = founded.renew(holder, request)
    with pytest.raises(RefusedError, match="too young"):
        founded.renew(renewed, request)
    founded.revoke(holder.serial)  # after whoever lets in has looked
    before = founded.issued()
    with pytest.raises(RefusedError, match="the certificate of bob has been revoked"):
        founded.renew(holder, request)
    assert founded.issued() == before


def test_certificate_is_renewed_only_where_it_is_known(founded, aged):
    holder, _ = enrol(founded, "carla")
    request = authority.request_bytes(authority.fresh_key())
    before = founded.issued()
    with pytest.raises(RefusedError, match="not known"):
        founded.renew(replace(holder, serial="abc"), request)
    assert founded.issued() == before


def test_certificate_is_renewed_a_few_times_a_day_with_all_that_came_of_it(founded, aged):
    first, _ = enrol(founded, "carla")
    other, _ = enrol(founded, "dora")
    request = authority.request_bytes(authority.fresh_key())
    aged(founded.folder, first.serial)
    today = [founded.renew(first, request)[0] for _ in range(authority.RENEWALS)]
    before = founded.issued()
    with pytest.raises(RefusedError, match="often enough today"):
        founded.renew(first, request)
    assert founded.issued() == before
    aged(founded.folder, other.serial)
    founded.renew(other, request)  # it is another's

    aged(founded.folder, today[0].serial)  # that was another day
    last, _ = founded.renew(today[0], request)
    aged(founded.folder, today[1].serial)
    founded.renew(first, request)
    for holder in (first, today[0], today[1]):
        with pytest.raises(RefusedError, match="often enough today"):
            founded.renew(holder, request)
    assert last.serial in {row["serial"] for row in founded.revoke(first.serial)}


def test_answers_that_were_lost_lock_nobody_out(founded, aged):
    holder, _ = enrol(founded, "carla")
    request = authority.request_bytes(authority.fresh_key())
    aged(founded.folder, holder.serial)
    for _ in range(3):  # days
        lost = [founded.renew(holder, request)[0] for _ in range(authority.RENEWALS)]
        for one in lost:
            aged(founded.folder, one.serial)
    founded.renew(holder, request)


def test_serial_number_is_revoked_with_what_was_renewed_from_it(founded, aged):
    first, _ = enrol(founded, "bob")
    other, _ = enrol(founded, "bob")
    request = authority.request_bytes(authority.fresh_key())
    line = [first]
    for _ in range(3):
        aged(founded.folder, line[-1].serial)
        line.append(founded.renew(line[-1], request)[0])
    assert [row["serial"] for row in founded.revoke(line[1].serial)] == [one.serial for one in line[1:]]
    known = authority.Revoked(founded.folder)
    assert known.serials == {one.serial for one in line[1:]}
    founded.revoke(first.serial)
    known.load()
    assert known.has(first.serial) and not known.has(other.serial)


def test_list_of_another_authority_and_an_old_one_are_not_taken(founded, tmp_path):
    holder, _ = enrol(founded, "bob")
    known = authority.Revoked(founded.folder)
    old = founded.revoked()
    time.sleep(0.01)
    founded.revoke("bob")
    known.load()
    for content in (old, authority.found(tmp_path / "other").revoked(), b"", b"junk"):
        with pytest.raises(ConfigError):
            known.take(content)
        assert known.has(holder.serial)


def test_list_that_nobody_renews_gets_stale(founded):
    now = [time.time()]
    known = authority.Revoked(founded.folder, lambda: now[0])
    assert not known.stale
    now[0] += authority.REVOKED_SECONDS + authority.CLOCK_SKEW + 1
    assert known.stale


def test_own_certificate_is_renewed_under_its_name(founded):
    before = (founded.folder / files.OWN).read_bytes()
    authority.renew_own(founded)
    after = (founded.folder / files.OWN).read_bytes()
    assert before != after
    first, last = (x509.load_pem_x509_certificates(one)[0].subject for one in (before, after))
    assert first == last


def test_certificate_of_another_pool_is_nobodys(founded, tmp_path):
    other = authority.found(tmp_path / "other")
    _, pem = enrol(other, "bob")
    with pytest.raises(RefusedError):
        authority.holder_of(ssl.PEM_cert_to_DER_cert(pem.decode()), founded.pool)


@pytest.mark.parametrize("name", ["ca.key", "ca.crt", "pool.json"])
@pytest.mark.parametrize("content", [b"", b"junk", b"[1]", b"\xff\xfe"])
def test_damaged_file_is_named(founded, name, content):
    (founded.folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        authority.Authority(founded.folder)
