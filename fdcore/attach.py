"""The attach handshake of csrc/include/fdc/attach.h, in Python: what a client and the
server say to each other on a fresh data connection before it belongs to a worker.

Packing, checking and proving are plain functions; hold() is the client that fdrun is.
"""

import contextlib
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from fdcore.errors import ProtocolError, RefusedError, TransportError

MAGIC = 0x31434446
VERSION = 3

COMMAND, BULK, HOLD, TRUNK, RESUME = 1, 2, 3, 4, 5
# What these bring is no message, or is for a worker of their own release: who was there
# before a server's upgrade comes again.
STAYS = (HOLD, RESUME)
ROADS = {"shm": 1, "tcp": 2, "rdma": 3}
ROAD_NAMES = {number: name for name, number in ROADS.items()}

HELLO = struct.Struct("<II32s32s")
REQUEST = struct.Struct("<IIIIII16s16s32s32s32s64s")
ANSWER = struct.Struct("<Ii32s216s")
READY = struct.Struct("<Ii248s")
LIFE = struct.Struct("<II16s")
ASKED, LIVES, GONE, KEEPS = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Request:
    kind: int
    road: int
    pid: int
    seal: bool
    more: int
    lease: bytes
    session: bytes
    protocol: bytes
    nonce: bytes
    proof: bytes
    program: str


def pack_hello(protocol: bytes, nonce: bytes) -> bytes:
    return HELLO.pack(MAGIC, VERSION, protocol, nonce)


def nonce_of(hello: bytes) -> bytes:
    return hello[-32:]


def unpack_request(data: bytes) -> Request:
    magic, kind, road, pid, seal, more, *rest = REQUEST.unpack(data)
    lease, session, protocol, nonce, proof, program = rest
    if magic != MAGIC:
        raise ProtocolError("the client does not speak fdcore's attach handshake")
    if kind not in (COMMAND, BULK, HOLD, TRUNK, RESUME):
        raise ProtocolError(f"the client asks for connection kind {kind}")
    if kind != HOLD and road not in ROAD_NAMES:
        raise ProtocolError(f"the client asks for road {road}")
    if seal not in (0, 1):
        raise ProtocolError(f"the client asks for seal {seal}")
    return Request(
        kind, road, pid, seal == 1, more, lease, session, protocol, nonce, proof,
        printable(program),
    )  # fmt: skip


def printable(name: bytes) -> str:
    """A name that a client gave, safe to write into a log or a table."""
    text = name.partition(b"\0")[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def trunk_key(secret: bytes, nonce: bytes) -> bytes:
    """What the lease's client gives to another server's worker: good for one trunk."""
    return hmac.digest(hmac.digest(secret, b"fdcore trunk", sha256), nonce, sha256)


def resume_key(secret: bytes, session: bytes) -> bytes:
    """What the client of a session keeps, to come again when a connection broke."""
    return hmac.digest(hmac.digest(secret, b"fdcore resume", sha256), session, sha256)


def proof_key(request: Request, secret: bytes) -> bytes:
    """What both proofs of such a connection are made with."""
    if request.kind == TRUNK:
        return trunk_key(secret, request.nonce)
    if request.kind == RESUME:
        return resume_key(secret, request.session)
    return secret


def client_proof(
    secret: bytes, server_nonce: bytes, nonce: bytes, lease: bytes, session: bytes,
    kind: int, road: int, seal: bool, more: int = 0,
) -> bytes:  # fmt: skip
    said = b"fdcore attach" + server_nonce + nonce + lease + session
    said += struct.pack("<III", kind, road, seal)
    if kind == RESUME:
        said += struct.pack("<I", more)
    return hmac.digest(secret, said, sha256)


def server_proof(secret: bytes, nonce: bytes, server_nonce: bytes) -> bytes:
    return hmac.digest(secret, b"fdcore server" + nonce + server_nonce, sha256)


def proves(request: Request, secret: bytes, server_nonce: bytes) -> bool:
    wanted = client_proof(
        proof_key(request, secret), server_nonce, request.nonce, request.lease,
        request.session, request.kind, request.road, request.seal, request.more,
    )  # fmt: skip
    return hmac.compare_digest(wanted, request.proof)


def seal_key(request: Request, secret: bytes, server_nonce: bytes) -> bytes:
    """The key of a connection whose bytes are sealed: HKDF-SHA256, RFC 5869."""
    extracted = hmac.digest(server_nonce + request.nonce, secret, sha256)
    about = b"fdcore seal" + request.lease + request.session
    about += struct.pack("<II", request.kind, request.road)
    return hmac.digest(extracted, about + b"\x01", sha256)


def pack_answer(error: int, proof: bytes, reason: str) -> bytes:
    return ANSWER.pack(MAGIC, error, proof, clipped(reason, 215))


def pack_ready(error: int, reason: str) -> bytes:
    return READY.pack(MAGIC, error, clipped(reason, 247))


def clipped(text: str, room: int) -> bytes:
    return text.encode("utf-8")[:room].decode("utf-8", "ignore").encode("utf-8")


def differing(ours: bytes, theirs: bytes, our_name: str, their_name: str) -> str:
    """Says with both hashes that the two builds do not speak the same messages."""
    return (
        f"protocol hashes differ: {our_name} {ours.hex()}, {their_name} {theirs.hex()}"
    )


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a client has to know to attach: the lease, its secret, its own build."""

    lease: bytes
    secret: bytes
    protocol: bytes


def attach(
    sock: socket.socket, spoken: Spoken, kind: int, road: int, session: bytes
) -> None:
    """The client's side on a connected socket; returns once the server accepted."""
    magic, version, protocol, server_nonce = HELLO.unpack(read(sock, HELLO.size))
    if magic != MAGIC:
        raise ProtocolError("what answers there is not an fdserver's data port")
    if version != VERSION:
        raise ProtocolError(f"the server speaks attach version {version}, we {VERSION}")
    nonce = secrets.token_bytes(32)
    proof = client_proof(
        spoken.secret,
        server_nonce,
        nonce,
        spoken.lease,
        session,
        kind,
        road,
        seal=False,
    )
    said = (
        MAGIC,
        kind,
        road,
        os.getpid(),
        0,
        0,
        spoken.lease,
        session,
        spoken.protocol,
    )
    sock.sendall(REQUEST.pack(*said, nonce, proof, b"fdrun"))
    magic, error, proof, reason = ANSWER.unpack(read(sock, ANSWER.size))
    if magic != MAGIC:
        raise ProtocolError("the server's answer is not one")
    if error:
        raise RefusedError(printable(reason))
    if protocol != spoken.protocol:
        raise ProtocolError(differing(spoken.protocol, protocol, "client", "server"))
    if not hmac.compare_digest(proof, server_proof(spoken.secret, nonce, server_nonce)):
        raise ProtocolError("the server does not know the lease's secret")


def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except TimeoutError:
            raise TransportError("the server's data port does not answer") from None
        except OSError as error:
            raise TransportError(f"the data connection broke: {error}") from error
        if not piece:
            raise TransportError("the server closed the data connection")
        data += piece
    return bytes(data)


def let_go(hold: socket.socket) -> None:
    """Ends a hold in order. Closing alone would reset it where a question of the
    server's is unread, and a lease whose hold breaks is kept for a while."""
    with contextlib.suppress(OSError):  # it may have ended
        hold.shutdown(socket.SHUT_WR)
    hold.close()


def hold(
    connect: Callable[[], socket.socket], spoken: Spoken, timeout: float
) -> socket.socket:
    """Opens the connection that keeps the lease. The program inherits it by exec."""
    try:
        sock = connect()
    except OSError as error:
        raise TransportError(
            f"the server's data port cannot be reached: {error}"
        ) from error
    try:
        sock.settimeout(timeout)
        attach(sock, spoken, HOLD, 0, bytes(16))
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock
