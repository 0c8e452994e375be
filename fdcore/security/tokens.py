"""Enrolment tokens: one line of text that lets somebody join once, for a while.

The token has the hash of the pool's certificate authority, so that who joins knows the
right server before the secret is shown to it, and where the server is. The server keeps
only the secret's hash.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fdcore.errors import ConfigError, RefusedError
from fdcore.security import files
from fdcore.security.roles import ROLES

PREFIX = "fd1."
CHECK = 4
LONGEST = 4096
TOKENS = "tokens.json"


@dataclass(frozen=True, slots=True)
class Token:
    """What the text says."""

    pool: str
    authority: bytes  # SHA-256 of the authority's certificate
    id: str
    secret: str
    role: str
    addresses: tuple[str, ...]
    expires: int = 0

    def text(self) -> str:
        said = {
            "p": self.pool,
            "a": self.authority.hex(),
            "i": self.id,
            "s": self.secret,
            "r": self.role,
            "l": list(self.addresses),
            "e": self.expires,
        }
        payload = json.dumps(said, separators=(",", ":")).encode()
        payload += sha256(payload).digest()[:CHECK]
        return PREFIX + base64.urlsafe_b64encode(payload).decode().rstrip("=")


def parse(text: str) -> Token:
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > LONGEST:
        raise ConfigError("that is not an enrolment token (fdserver token prints one)")
    body = text[len(PREFIX) :]
    try:
        payload = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        payload, check = payload[:-CHECK], payload[-CHECK:]
        if sha256(payload).digest()[:CHECK] != check:
            raise ValueError("its check does not fit")
        said = json.loads(payload)
        token = Token(
            str(said["p"]),
            bytes.fromhex(said["a"]),
            str(said["i"]),
            str(said["s"]),
            str(said["r"]),
            tuple(str(one) for one in said["l"]),
            int(said["e"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError("the enrolment token is damaged: copy all of it") from None
    if len(token.authority) != 32 or token.role not in ROLES or not token.addresses:
        raise ConfigError("the enrolment token is damaged: copy all of it")
    return token


# ---- the founding server's list of them ----


def hashed(secret: str) -> str:
    return sha256(b"fdcore enrolment" + secret.encode()).hexdigest()


def create(
    folder: Path,
    pool: str,
    authority: bytes,
    role: str,
    addresses: Sequence[str],
    expires: int,
    uses: int = 1,
    name: str = "",
) -> Token:
    token = Token(
        pool,
        authority,
        secrets.token_hex(8),
        secrets.token_urlsafe(24),
        role,
        tuple(addresses),
        expires,
    )
    with files.locked(folder):
        kept = files.read_json(folder / TOKENS, [])
        kept.append(
            {
                "id": token.id,
                "secret": hashed(token.secret),
                "role": role,
                "expires": expires,
                "uses": uses,
                "name": name,
            }
        )
        files.write_json(folder / TOKENS, kept)
    return token


def forget(folder: Path, ids: Collection[str]) -> None:
    """Nobody joins with these any more. The lock of the folder is held."""
    kept = files.read_json(folder / TOKENS, [])
    files.write_json(folder / TOKENS, [one for one in kept if one["id"] not in ids])


def spend(folder: Path, id: str, secret: str, now: float) -> dict[str, Any]:
    """Uses the token up once; what it allows. The lock of the folder is held. A token
    that never was, has expired or is used up is refused in the same words."""
    kept = files.read_json(folder / TOKENS, [])
    found = None
    for one in kept:
        # Every secret is compared, whatever was found.
        if hmac.compare_digest(one["secret"], hashed(secret)) and one["id"] == id:
            found = one
    if found is None or found["expires"] <= now or found["uses"] < 1:
        raise RefusedError("the token is not known, has expired or is used up")
    found["uses"] -= 1
    left = [one for one in kept if one["uses"] > 0 and one["expires"] > now]
    files.write_json(folder / TOKENS, left)
    return dict(found)
