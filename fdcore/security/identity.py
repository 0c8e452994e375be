"""A certificate and its key as files, and the TLS that is made of them.

Both ends speak TLS 1.3 and know one authority, the pool's. The names in certificates
are not hosts' names, which change: a server shows the name that all servers of the pool
and nobody else have, a client whom it was given to.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.security import files

CONTROL, JOIN = "fdcore/1", "fdcore-join/1"
TLS = ("auto", "always", "never")
RENEW_AFTER = 0.6
NOT_YET_VALID, EXPIRED = 9, 10  # X509_V_ERR_CERT_...
LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


@dataclass(frozen=True, slots=True)
class Identity:
    folder: Path
    pool: str
    role: str
    name: str
    addresses: tuple[str, ...]  # of the founding server
    founder: bool
    issued: float
    expires: float  # 0: never, as far as this file says

    def due(self, now: float) -> bool:
        """True once most of the certificate's life is over: time for a new one."""
        if not self.expires:
            return False
        return now > self.issued + RENEW_AFTER * (self.expires - self.issued)


def load(folder: Path) -> Identity | None:
    """What is in the folder; None where nobody has joined a pool."""
    about = files.read_json(folder / files.ABOUT, {})
    if not about:
        return None
    try:
        return Identity(
            folder,
            str(about["pool"]),
            str(about["role"]),
            str(about.get("name", "")),
            tuple(str(one) for one in about.get("addresses", ())),
            bool(about.get("founder", False)),
            float(about.get("issued", 0.0)),
            float(about.get("expires", 0.0)),
        )
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{folder / files.ABOUT} is damaged") from None


def server_name(pool: str) -> str:
    return f"node.{pool}.fdcore"


def to_trust(error: ssl.SSLCertVerificationError) -> str:
    """What helps where a server's certificate does not hold."""
    if error.verify_code == NOT_YET_VALID:
        return "this machine's clock may be behind: set both by NTP"
    if error.verify_code == EXPIRED:
        return (
            "its fdserver renews it once it runs; if that is so, this machine's clock "
            "is ahead: set both by NTP"
        )
    return "correct the address, or join the pool that it is of: flexdirect init TOKEN"


def is_loopback(host: str) -> bool:
    """Names that begin like one are somebody else's."""
    return host in ("::1", "localhost") or LOOPBACK.fullmatch(host) is not None


def tls_wish(environment: Mapping[str, str] = os.environ) -> str:
    wish = environment.get("FD_TLS") or "auto"
    if wish not in TLS:
        raise ConfigError(f"FD_TLS is '{wish}'; it can be auto, always or never")
    return wish


def identity_for(
    address: Address, environment: Mapping[str, str] = os.environ
) -> Identity | None:
    """Whom to be towards that server; None: a plain connection. Who has joined a pool
    speaks TLS beyond loopback, and is not talked out of it."""
    wish = tls_wish(environment)
    if address.path or wish == "never":
        return None
    if wish == "auto" and is_loopback(address.host):
        return None
    for folder in (files.identity_folder(environment), files.pool_folder(environment)):
        if os.access(folder / files.ABOUT, os.R_OK):
            found = load(folder)
            if found is not None:
                return found
    if wish == "always":
        raise ConfigError("FD_TLS=always, but nobody has run flexdirect init here")
    return None


def context(folder: Path, server: bool) -> ssl.SSLContext:
    """TLS with the folder's certificate, towards holders of the same authority's."""
    files.check_private(folder / files.OWN)
    made = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    )
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.options |= ssl.OP_NO_COMPRESSION
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        made.load_verify_locations(cadata=files.read(folder / files.CA).decode())
        made.load_cert_chain(folder / files.OWN)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder} cannot be used: {error}") from None
    if server:
        # Without a certificate one can only ask for one: door.py.
        made.verify_mode = ssl.CERT_OPTIONAL
        made.num_tickets = 0
        made.set_alpn_protocols([CONTROL, JOIN])
    else:
        made.set_alpn_protocols([CONTROL])
    return made


def joining_context(authority: bytes | None) -> ssl.SSLContext:
    """For who has no certificate yet. authority: its certificate in PEM, verified
    against a token; None only to be told it."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols([JOIN])
    if authority is None:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_verify_locations(cadata=authority.decode())
    return made
