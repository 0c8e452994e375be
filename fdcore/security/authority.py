"""The pool's certificate authority: a file of a key on the founding server.

It signs certificates for those who show a token, and the list of revoked ones, which is
an ordinary X.509 CRL so that any server of the pool can check where it came from.
"""

import contextlib
import datetime
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fdcore.config import CONTROL_PORT, parse_address
from fdcore.errors import ConfigError, RefusedError
from fdcore.security import files, tokens
from fdcore.security.identity import server_name
from fdcore.security.roles import NODE, ROLES

DAY = 86400
CA_DAYS = 3650
CERTIFICATE_DAYS = {NODE: 90}
OTHER_DAYS = 30
# How old the list of revoked certificates may be where a server still grants anything.
REVOKED_SECONDS = 600
CLOCK_SKEW = 300
# Of a certificate's life; holders renew later than that (identity.RENEW_AFTER).
YOUNG = 0.5
# So often a day one that was enrolled is renewed, all told: an answer may be lost, and
# be asked for again.
RENEWALS = 4
ISSUED = "issued.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
LONGEST_REQUEST = 8192


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a certificate was given to."""

    name: str
    role: str
    serial: str
    expires: float = 0.0


def fresh_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> bytes:
    """Of a certificate in PEM."""
    try:
        read = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise ConfigError("the authority's certificate is damaged") from None
    return sha256(read.public_bytes(serialization.Encoding.DER)).digest()


def certificate_in(path: Path) -> x509.Certificate:
    """The first one of a file."""
    try:
        return x509.load_pem_x509_certificates(files.read(path))[0]
    except ValueError:
        raise ConfigError(f"{path} is damaged") from None


def key_in(path: Path) -> ec.EllipticCurvePrivateKey:
    content = files.read(path)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is damaged")
    return key


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)


def request_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a certificate. What it is to say is the authority's business."""
    made = x509.CertificateSigningRequestBuilder().subject_name(named("fdcore"))
    signed = made.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


class Authority:
    """Founded in a folder of its own; its files are read anew at each use, so that the
    commands and the daemon need not talk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = files.read_json(folder / files.ABOUT, {})
        if not about.get("founder"):
            raise ConfigError(
                f"{folder} is not a pool's founding server",
                "say this on the one where the first fdserver token was made",
            )
        files.check_private(folder / files.CA_KEY)
        if not about.get("pool"):
            raise ConfigError(f"{folder / files.ABOUT} is damaged")
        self.pool = str(about["pool"])
        self.certificate = certificate_in(folder / files.CA)
        self.key = key_in(folder / files.CA_KEY)

    @property
    def hash(self) -> bytes:
        return fingerprint(pem(self.certificate))

    # ---- joining ----

    def enrol(
        self, id: str, secret: str, request: bytes, wanted: str
    ) -> tuple[Holder, bytes]:
        """Spends the token; the new certificate."""
        public = requested(request)
        with files.locked(self.folder):
            allowed = tokens.spend(self.folder, id, secret, time.time())
            name = str(allowed["name"]) or wanted
            if not NAME.fullmatch(name):
                raise RefusedError("a name has letters, digits and . _ @ - only")
            name = self.unused(name)
            return self.issue(public, name, str(allowed["role"]), id)

    def renew(self, holder: Holder, request: bytes) -> tuple[Holder, bytes]:
        """What has been revoked since its holder was let in is not renewed; nor what is
        so young that nobody has a reason to, what has been renewed often today, and
        what is not known, which could not be revoked."""
        public = requested(request)
        with files.locked(self.folder):
            rows = self.issued()
            row = next((row for row in rows if row["serial"] == holder.serial), None)
            if row is None:
                raise RefusedError(
                    "the certificate is not known here: join with another token"
                )
            if row.get("revoked"):
                name = holder.name
                raise RefusedError(f"the certificate of {name} has been revoked")
            life = row["expires"] - row["issued"]
            if time.time() < row["issued"] + YOUNG * life:
                raise RefusedError("the certificate is too young to be renewed")
            if renewed_since(rows, row, time.time() - DAY) >= RENEWALS:
                raise RefusedError("it has been renewed often enough today")
            return self.issue(public, holder.name, holder.role, holder.serial)

    def unused(self, name: str) -> str:
        now = time.time()
        revoked = {row["serial"] for row in self.issued() if row.get("revoked")}
        taken = {
            row["name"]
            for row in self.issued()
            if row["expires"] > now and row["serial"] not in revoked
        }
        number, tried = 2, name
        while tried in taken:
            tried = f"{name}-{number}"
            number += 1
        return tried

    def issue(
        self, public: ec.EllipticCurvePublicKey, name: str, role: str, why: str
    ) -> tuple[Holder, bytes]:
        """Signs, and remembers. The lock of the folder is held."""
        now = time.time()
        days = CERTIFICATE_DAYS.get(role, OTHER_DAYS)
        serial = x509.random_serial_number()
        certificate = signed(self, public, name, role, serial, now, days)
        holder = Holder(name, role, f"{serial:x}", now + days * DAY)
        rows = [row for row in self.issued() if row["expires"] > now - DAY]
        rows.append(
            {
                "serial": holder.serial,
                "name": name,
                "role": role,
                "issued": int(now),
                "expires": int(holder.expires),
                "by": why,
            }
        )
        files.write_json(self.folder / ISSUED, rows)
        return holder, pem(certificate)

    def issued(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = files.read_json(self.folder / ISSUED, [])
        return rows

    def invite(
        self,
        role: str,
        seconds: int,
        uses: int,
        name: str,
        addresses: Sequence[str],
        port: int = CONTROL_PORT,
    ) -> str:
        """A token, as text. Without addresses: this host's, with the port."""
        if role not in ROLES:
            raise ConfigError(f"there is no role {role}")
        if not 1 <= seconds <= 365 * DAY or not 1 <= uses <= 10000:
            raise ConfigError("a token is good for at most a year, and 10000 times")
        if name and not NAME.fullmatch(name):
            raise ConfigError("a name has letters, digits and . _ @ - only")
        expires = int(time.time()) + seconds
        made = tokens.create(
            self.folder, self.pool, self.hash, role,
            addresses or own_addresses(port), expires, uses, name,
        )  # fmt: skip
        return made.text()

    # ---- revoking ----

    def revoke(self, who: str) -> list[dict[str, Any]]:
        """What was given to that name, or the one with that serial number and what it
        was renewed to; what is left of the tokens that it was given for is good no
        more."""
        now = time.time()
        with files.locked(self.folder):
            rows = self.issued()
            meant = descent(rows, who)
            hit = [
                row
                for row in rows
                if (who == row["name"] or row["serial"] in meant)
                and not row.get("revoked")
            ]
            if not hit:
                raise ConfigError(f"'{who}' names no certificate that is in use")
            for row in hit:
                row["revoked"] = int(now)
            files.write_json(self.folder / ISSUED, rows)
            tokens.forget(self.folder, origins(rows, hit))
            self.write_revoked()
        return hit

    def write_revoked(self) -> bytes:
        """Signs the list anew. The lock of the folder is held."""
        now = time.time()
        # Nobody takes an older one than he has: also where the clock was set back.
        number = max(int(now * 1000), number_in(self.folder / files.REVOKED) + 1)
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(at(now - CLOCK_SKEW))
            .next_update(at(now + REVOKED_SECONDS + CLOCK_SKEW))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for row in self.issued():
            if row.get("revoked"):
                made = made.add_revoked_certificate(
                    x509.RevokedCertificateBuilder()
                    .serial_number(int(row["serial"], 16))
                    .revocation_date(at(row["revoked"]))
                    .build()
                )
        content = made.sign(self.key, hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )
        files.write(self.folder / files.REVOKED, content)
        return content

    def revoked(self) -> bytes:
        """The list as other servers of the pool get it: fresh."""
        with files.locked(self.folder):
            return self.write_revoked()


def number_in(path: Path) -> int:
    """The number of the list of revoked certificates that is there; 0: none is."""
    try:
        read = x509.load_pem_x509_crl(path.read_bytes())
        number = read.extensions.get_extension_for_class(x509.CRLNumber).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return 0
    return number.crl_number


def descent(rows: Sequence[dict[str, Any]], serial: str) -> set[str]:
    """The serial numbers of what was renewed from that one, and its own."""
    found: set[str] = set()
    for row in rows:  # in the order in which they were issued
        if row["serial"] == serial or row["by"] in found:
            found.add(row["serial"])
    return found


def renewed_since(
    rows: Sequence[dict[str, Any]], row: dict[str, Any], then: float
) -> int:
    """How many were since issued to what that one goes back to, and to what came of
    it."""
    known = {other["serial"]: other for other in rows}
    first = row
    while first["by"] in known:
        first = known[first["by"]]
    line = descent(rows, first["serial"]) - {first["serial"]}
    return sum(known[serial]["issued"] > then for serial in line)


def origins(rows: Sequence[dict[str, Any]], of: Sequence[dict[str, Any]]) -> set[str]:
    """What these were issued for: a token, or a certificate that was renewed."""
    by = {str(row["serial"]): str(row["by"]) for row in rows}
    found: set[str] = set()
    for row in of:
        why = str(row["by"])
        while why not in found:
            found.add(why)
            why = by.get(why, why)
    return found


def own_addresses(port: int) -> list[str]:
    """The address that goes out to the world, and the host's name. Nothing is sent."""
    found = []
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(("192.0.2.1", 9))
        found.append(str(sock.getsockname()[0]))
    return [str(parse_address(one, port)) for one in [*found, socket.gethostname()]]


def requested(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request, which its sender has. Nothing else of it counts."""
    if len(request) > LONGEST_REQUEST:
        raise RefusedError("the request for a certificate is too long")
    try:
        read = x509.load_pem_x509_csr(request)
        valid = read.is_signature_valid
        public = read.public_key()
    except Exception:  # whatever a parser says to a stranger's bytes
        raise RefusedError("the request for a certificate makes no sense") from None
    if (
        not valid
        or not isinstance(public, ec.EllipticCurvePublicKey)
        or public.curve.name != "secp256r1"
    ):
        raise RefusedError("the request for a certificate makes no sense")
    return public


def signed(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    name: str,
    role: str,
    serial: int,
    now: float,
    days: int,
) -> x509.Certificate:
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"fd://{authority.pool}/{role}/{name}")
    ]
    if role == NODE:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names.append(x509.DNSName(server_name(authority.pool)))
    ca_public = authority.key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(at(now - CLOCK_SKEW))
        .not_valid_after(at(now + days * DAY))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_public),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .sign(authority.key, hashes.SHA256())
    )


def usage(**said: bool) -> x509.KeyUsage:
    none = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment",
            "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
            "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**(none | said))


def found(folder: Path, name: str = "") -> Authority:
    """Makes this host a pool's founding server, with a certificate of its own; or gives
    the authority that is there."""
    if (folder / files.ABOUT).exists():
        return Authority(folder)
    now = time.time()
    pool = secrets.token_hex(6)
    key = fresh_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named(f"fdcore pool {pool}"))
        .issuer_name(named(f"fdcore pool {pool}"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at(now - CLOCK_SKEW))
        .not_valid_after(at(now + CA_DAYS * DAY))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        )
        .sign(key, hashes.SHA256())
    )
    with files.locked(folder):
        if not (folder / files.ABOUT).exists():
            files.write(folder / files.CA_KEY, key_bytes(key))
            files.write(folder / files.CA, pem(certificate))
            own = fresh_key()
            # pool.json last: with it the pool is there.
            about = {"pool": pool, "founder": True, "role": NODE}
            files.write_json(folder / files.ABOUT, about)
            made = Authority(folder)
            host = name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
            _, ours = made.issue(own.public_key(), host or "founder", NODE, "founder")
            files.write(folder / files.OWN, key_bytes(own) + ours)
            made.write_revoked()
    return Authority(folder)


def renew_own(authority: Authority) -> None:
    """The founding server's own certificate, from itself."""
    key = fresh_key()
    ours = certificate_in(authority.folder / files.OWN)
    name = ours.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    with files.locked(authority.folder):
        _, made = authority.issue(key.public_key(), str(name), NODE, "founder")
        files.write(authority.folder / files.OWN, key_bytes(key) + made)


# ---- what every server checks ----


def holder_of(certificate: bytes, pool: str) -> Holder:
    """Whom a certificate in DER, whose chain has been verified, was given to."""
    read = x509.load_der_x509_certificate(certificate)
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    for text in names.value.get_values_for_type(x509.UniformResourceIdentifier):
        head, _, rest = text.partition("://")
        parts = rest.split("/")
        if head == "fd" and len(parts) == 3 and parts[0] == pool and parts[1] in ROLES:
            expires = read.not_valid_after_utc.timestamp()
            return Holder(parts[2], parts[1], f"{read.serial_number:x}", expires)
    raise RefusedError("the certificate is not one of this pool")


def own_life(folder: Path) -> tuple[float, float]:
    """From when to when our own certificate is valid."""
    read = certificate_in(folder / files.OWN)
    return read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()


class Revoked:
    """The list of revoked certificates as this server knows it."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / files.REVOKED
        self.authority = certificate_in(folder / files.CA)
        self.clock = clock
        self.seen: tuple[int, int] = (0, 0)
        self.number = 0
        self.fresh_until = 0.0
        self.serials: frozenset[str] = frozenset()
        self.load()

    def load(self) -> bool:
        """Reads the file if it has changed since; True: it has."""
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
        except OSError:
            return False
        if seen == self.seen:
            return False
        self.seen = seen
        self.take(files.read(self.path))
        return True

    def take(self, content: bytes) -> None:
        """A list that somebody sent: only if the authority signed it, and no older one
        than the one that is known."""
        try:
            read = x509.load_pem_x509_crl(content)
            public = self.authority.public_key()
            number = read.extensions.get_extension_for_class(x509.CRLNumber).value
            until = read.next_update_utc
            if not isinstance(public, ec.EllipticCurvePublicKey) or until is None:
                raise ValueError
            if not read.is_signature_valid(public):
                raise InvalidSignature
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            raise ConfigError(
                "the list of revoked certificates is not genuine"
            ) from None
        if number.crl_number < self.number:
            raise ConfigError("the list of revoked certificates is an old one")
        self.number = number.crl_number
        self.fresh_until = until.timestamp()
        self.serials = frozenset(f"{one.serial_number:x}" for one in read)

    def has(self, serial: str) -> bool:
        return serial in self.serials

    @property
    def stale(self) -> bool:
        return self.clock() > self.fresh_until
