"""What a server says first inside TLS: come in, or why not. Then Cap'n Proto begins."""

import struct

from fdcore.errors import ProtocolError, RefusedError, TransportError

MAGIC = b"FDC1"
HEAD = struct.Struct("<4sHH")
LONGEST = 400


def pack(refusal: str = "") -> bytes:
    text = refusal.encode()[:LONGEST].decode("utf-8", "ignore").encode()
    return HEAD.pack(MAGIC, 1 if refusal else 0, len(text)) + text


def size_of(data: bytes) -> int:
    """Of the greeting that begins like this; more than there is: wait for more."""
    if len(data) < HEAD.size:
        return HEAD.size
    magic, _, length = HEAD.unpack_from(data)
    if magic != MAGIC or length > LONGEST:
        raise ProtocolError("it does not greet as an fdserver does")
    return HEAD.size + int(length)


def check(data: bytes) -> None:
    """A whole greeting: returns where one may come in."""
    if len(data) != size_of(data):
        raise TransportError("the server said more than its greeting")
    _, refused, _ = HEAD.unpack_from(data)
    if refused:
        text = data[HEAD.size :].decode("utf-8", "replace")
        raise RefusedError("".join(c if c.isprintable() else "?" for c in text))
