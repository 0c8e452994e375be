"""Bytes from strangers that Python reads: the attach handshake and the control port.
FD_TEST_SEED chooses other ones, FD_TEST_ROUNDS more."""

import os
import random
import socket
import threading

import pytest

from fdcore import attach
from fdcore.config import parse_address, protocol_hash
from fdcore.errors import ProtocolError
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from tests.support import until

SEED = int(os.environ.get("FD_TEST_SEED", "1"))
ROUNDS = int(os.environ.get("FD_TEST_ROUNDS", "150"))

GOOD = attach.REQUEST.pack(
    attach.MAGIC, attach.HOLD, 0, 1, 0, 0, bytes(16), bytes(16), bytes(32), bytes(32),
    bytes(32), b"program",
)  # fmt: skip


def mutated(dice: random.Random, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(dice.randint(0, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = dice.randbytes(1)
            case 1:
                data[at : at + 4] = dice.choice(
                    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0"]
                )
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 64))
            case 3:
                del data[at : at + dice.randint(1, 64)]
            case _:
                del data[at:]
    return bytes(data)


def send(sock: socket.socket, data: bytes) -> None:
    """Sends and takes what comes back, until the other side has had enough."""
    sock.settimeout(10)
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    except OSError:  # it has reset the connection, maybe before all was sent
        pass


def test_requests_are_taken_or_refused():
    dice = random.Random(SEED)
    for _ in range(100 * ROUNDS):
        data = mutated(dice, GOOD).ljust(attach.REQUEST.size, b"\0")
        try:
            request = attach.unpack_request(data[: attach.REQUEST.size])
        except ProtocolError:
            continue
        assert request.kind in (
            attach.COMMAND, attach.BULK, attach.HOLD, attach.TRUNK,
        )  # fmt: skip
        assert request.program.isprintable()
        assert not attach.proves(request, bytes(32), bytes(32))


@pytest.mark.timeout(300)
def test_nonsense_on_the_data_socket_harms_nobody(server):
    dice = random.Random(SEED)
    before = server.free()
    sockets: list[str] = []
    client.reserve(
        parse_address(server.unix), Ask(memory=MIB), protocol_hash(), "",
        lambda grant: sockets.append(grant.unix),
    )  # fmt: skip
    for _ in range(ROUNDS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(sockets[0])
            send(sock, mutated(dice, GOOD))
    until(lambda: server.free() == before)


def conversation(server) -> bytes:
    """What a client says on the control port, seen by a relay."""
    address = parse_address(server.control)
    said = bytearray()

    def relay(listener: socket.socket) -> None:
        near, _ = listener.accept()
        far = socket.create_connection((address.host, address.port), 10)

        def down() -> None:
            while data := far.recv(65536):
                near.sendall(data)

        thread = threading.Thread(target=down)
        thread.start()
        while data := near.recv(65536):
            said.extend(data)
            far.sendall(data)
        far.shutdown(socket.SHUT_RDWR)
        thread.join()
        near.close()
        far.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        client.gpus(parse_address(f"127.0.0.1:{port}"), protocol_hash())
        thread.join(20)
    assert len(said) > 64
    return bytes(said)


@pytest.mark.timeout(300)
def test_nonsense_on_the_control_port_harms_nobody(server):
    dice = random.Random(SEED)
    address = parse_address(server.control)
    before = server.free()
    good = conversation(server)
    for _ in range(ROUNDS):
        with socket.create_connection((address.host, address.port), 10) as sock:
            send(sock, mutated(dice, good))
    until(lambda: server.free() == before)
