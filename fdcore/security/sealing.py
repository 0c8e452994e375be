"""Rows that a server keeps where others may read them: sealed with a key that does not
leave its machine."""

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, NONCE_BYTES = 32, 12


class Sealer:
    def __init__(self, key: bytes) -> None:
        self.cipher = AESGCM(key)

    def seal(self, text: str, name: str) -> str:
        """What open() turns back, with the same name only."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self.cipher.encrypt(nonce, text.encode(), name.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, name: str) -> str | None:
        """None: it was not sealed with this key, or is damaged."""
        try:
            data = base64.b64decode(sealed, validate=True)
            nonce, rest = data[:NONCE_BYTES], data[NONCE_BYTES:]
            return self.cipher.decrypt(nonce, rest, name.encode()).decode()
        except (InvalidTag, ValueError):
            return None
