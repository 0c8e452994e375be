"""The joining end: from a token to a key and a certificate in a folder."""

import getpass
import json
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdcore.config import Address, parse_address
from fdcore.errors import (
    ConfigError,
    FdcoreError,
    ProtocolError,
    RefusedError,
    TransportError,
)
from fdcore.security import files, identity
from fdcore.security.roles import NODE
from fdcore.security.tokens import Token

log = logging.getLogger("fdserver")

CONNECT_SECONDS = 5.0
LONGEST_ANSWER = 1 << 22


def own_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    text = re.sub(r"[^A-Za-z0-9._-]", "-", f"{user}-at-{socket.gethostname()}")
    return text.replace("-at-", "@", 1).lstrip("._-@")[:63] or "somebody"


def ask(
    address: Address, context: ssl.SSLContext, server: str, **said: Any
) -> dict[str, Any]:
    """One question on the joining side of a server's control port."""
    try:
        with (
            socket.create_connection(
                (address.host, address.port), CONNECT_SECONDS
            ) as raw,
            context.wrap_socket(raw, server_hostname=server or None) as sock,
        ):
            if sock.selected_alpn_protocol() != identity.JOIN:
                raise ProtocolError(f"{address}: no fdserver that one can join by")
            sock.sendall(json.dumps(said).encode() + b"\n")
            answer = read_line(sock)
    except TimeoutError:
        raise TransportError(
            f"{address}: no answer within {CONNECT_SECONDS:g} s"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise ProtocolError(
            f"{address}: not a server of that pool: {error.verify_message}",
            identity.to_trust(error),
        ) from None
    except ssl.SSLError as error:
        raise ProtocolError(
            f"{address}: does not speak TLS as a pool's server does ({error.reason})"
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise TransportError(f"{address}: {why}") from None
    try:
        found = json.loads(answer)
        if not isinstance(found, dict):
            raise ValueError
    except ValueError:
        raise ProtocolError(f"{address}: the answer makes no sense") from None
    if "error" in found:
        text = "".join(c if c.isprintable() else "?" for c in str(found["error"]))
        raise RefusedError(f"{address}: {text}")
    return found


def read_line(sock: ssl.SSLSocket) -> bytes:
    data = bytearray()
    while b"\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ProtocolError("the server closed the connection")
        data += piece
        if len(data) > LONGEST_ANSWER:
            raise ProtocolError("the server's answer does not end")
    return bytes(data.partition(b"\n")[0])


def join(
    token: Token, name: str = "", environment: Mapping[str, str] = os.environ
) -> identity.Identity:
    """Spends the token. The first address of the server that answers is taken; the
    secret goes to nobody whose authority is not the token's."""
    if token.expires and token.expires < time.time():
        raise RefusedError("the token has expired: ask for a new one")
    from fdcore.security import authority

    folder = (
        files.pool_folder(environment)
        if token.role == NODE
        else files.identity_folder(environment)
    )
    known = identity.load(folder)
    if known is not None and known.founder:
        raise ConfigError(f"this host is the founding server of pool {known.pool}")
    address, ca = find_authority(token)
    key = authority.fresh_key()
    with files.locked(folder):
        files.check_writable(folder)
        found = ask(
            address,
            identity.joining_context(ca),
            identity.server_name(token.pool),
            op="join",
            id=token.id,
            secret=token.secret,
            request=authority.request_bytes(key).decode(),
            name=name or own_name(),
        )
        return keep(
            folder, token.pool, token.addresses, found, ca, authority.key_bytes(key)
        )


def find_authority(token: Token) -> tuple[Address, bytes]:
    from fdcore.security import authority

    failures = []
    for text in token.addresses:
        address = parse_address(text)
        try:
            found = ask(address, identity.joining_context(None), "", op="authority")
        except (TransportError, ProtocolError) as error:
            failures.append(str(error))
            continue
        ca = str(found.get("authority", "")).encode()
        if authority.fingerprint(ca) != token.authority:
            raise ProtocolError(
                f"{address}: not the pool that the token is for; nothing was told to it"
            )
        return address, ca
    raise TransportError("; ".join(failures))


def keep(
    folder: Path,
    pool: str,
    addresses: tuple[str, ...],
    found: dict[str, Any],
    ca: bytes,
    key: bytes,
) -> identity.Identity:
    """The lock of the folder is held."""
    try:
        certificate = str(found["certificate"]).encode()
        about = {
            "pool": pool,
            "role": str(found["role"]),
            "name": str(found["name"]),
            "addresses": list(addresses),
            "issued": int(time.time()),
            "expires": int(found["expires"]),
        }
    except (KeyError, TypeError, ValueError):
        raise ProtocolError("the server's answer makes no sense") from None
    files.write(folder / files.CA, ca)
    files.write(folder / files.OWN, key + certificate)
    files.write_json(folder / files.ABOUT, about)
    kept = identity.load(folder)
    assert kept is not None
    return kept


def ask_founder(who: identity.Identity, **said: Any) -> dict[str, Any]:
    """As a member: a question to the founding server, where it answers."""
    context = identity.context(who.folder, server=False)
    context.set_alpn_protocols([identity.JOIN])
    failures = []
    for text in who.addresses:
        try:
            name = identity.server_name(who.pool)
            return ask(parse_address(text), context, name, **said)
        except (TransportError, ProtocolError) as error:
            failures.append(str(error))
    raise TransportError("; ".join(failures) or "its address is not known")


def fetch_revoked(who: identity.Identity) -> bytes:
    return str(ask_founder(who, op="revoked").get("revoked", "")).encode()


def renew_if_due(who: identity.Identity) -> None:
    """Best effort: the certificate that there is still holds for a while."""
    if not who.due(time.time()):
        return
    try:
        renew(who, wait=False)
    except BlockingIOError:
        pass  # somebody else is at it
    except RefusedError as error:
        log.warning("the certificate of %s was not renewed: %s", who.name, error)
    except (FdcoreError, OSError) as error:
        log.info("the certificate of %s was not renewed: %s", who.name, error)


def renew(who: identity.Identity, wait: bool = True) -> identity.Identity:
    """A new key and certificate for the same name; or what somebody else has had made
    since. Nothing is asked for that could not be kept."""
    from fdcore.security import authority

    with files.locked(who.folder, wait):
        there = identity.load(who.folder)
        if there is not None and there != who and not there.due(time.time()):
            return there
        files.check_writable(who.folder)
        key = authority.fresh_key()
        request = authority.request_bytes(key).decode()
        found = ask_founder(who, op="renew", request=request)
        ca = files.read(who.folder / files.CA)
        made = authority.key_bytes(key)
        return keep(who.folder, who.pool, who.addresses, found, ca, made)
