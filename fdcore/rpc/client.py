"""The client's end of the control plane, as plain functions that wait.

Whatever goes wrong on the way is told by the address and the cause.
"""

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import capnp

from fdcore import __version__
from fdcore.config import Address
from fdcore.errors import ConfigError, ProtocolError, RefusedError, TransportError
from fdcore.rpc.schema import TRAVERSAL_WORDS, VERSION, control
from fdcore.sched.slices import Ask, Gpu, Slice

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
# In which a lease of several must be held: reserving all of them, and the holds.
TAKE_SECONDS = 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as its client knows it."""

    address: Address
    lease: bytes
    secret: bytes
    slices: tuple[Slice, ...]
    names: tuple[str, ...]
    unix: str
    machine: str
    host: str
    port: int
    cpu_device: bool
    # The capability: the lease is given back once nobody has it.
    kept: object = field(default=None, repr=False, compare=False)


def reserve(
    address: Address,
    ask: Ask,
    protocol: bytes,
    program: str,
    take: Callable[[Grant], T],
) -> T:
    """Reserves, and frees again on return unless take() has made the lease stand."""

    async def work(session: Any) -> T:
        return take(await granted(address, session, ask, 0))

    return talk(address, protocol, program, work)


def reserve_each(
    parts: Sequence[tuple[Address, Ask]],
    protocol: bytes,
    program: str,
    take: Callable[[list[Grant]], T],
) -> T:
    """Reserves on every one of several servers or on none. All leases are free again on
    return unless take() has made them stand; a server frees its own if that takes
    longer than a client may need."""

    async def all_of_it() -> T:
        async with AsyncExitStack() as opened:
            grants = []
            for address, ask in parts:
                with told(address):
                    link = await opened.enter_async_context(
                        session(address, protocol, program)
                    )
                    work = granted(address, link, ask, TAKE_SECONDS)
                    grants.append(await asyncio.wait_for(work, ANSWER_SECONDS))
            return take(grants)

    result: T = asyncio.run(capnp.run(all_of_it()))
    return result


async def granted(address: Address, session: Any, ask: Ask, within: int) -> Grant:
    """A lease that ends with the session unless something else stands for it."""
    response = await session.reserve(
        ask={
            "count": ask.count,
            "memory": ask.memory,
            "fraction": ask.fraction,
            "within": within,
        }
    )
    given = ok(address, response)
    return Grant(
        address,
        bytes(given.id),
        bytes(given.secret),
        tuple(Slice(row.ordinal, row.memory) for row in given.slices),
        tuple(str(row.name) for row in given.slices),
        str(given.unix),
        str(given.machine),
        str(given.host) or address.host,
        int(given.port),
        bool(given.cpuDevice),
        given.lease,
    )


def gpus(address: Address, protocol: bytes) -> list[tuple[Gpu, int]]:
    """The server's GPUs and the bytes free on each."""

    async def work(session: Any) -> list[tuple[Gpu, int]]:
        return [
            (Gpu(row.ordinal, str(row.name), str(row.uuid), row.memory), int(row.free))
            for row in ok(address, await session.gpus())
        ]

    return talk(address, protocol, "", work)


def ok(address: Address, response: Any) -> Any:
    result = response.result
    if result.which() == "ok":
        return result.ok
    code, message = str(result.error.code), str(result.error.message)
    kind = {"version": ProtocolError, "invalid": ConfigError}.get(code, RefusedError)
    raise kind(f"{address}: {message}")


def talk(
    address: Address,
    protocol: bytes,
    program: str,
    work: Callable[[Any], Awaitable[T]],
) -> T:
    async def all_of_it() -> T:
        async with session(address, protocol, program) as opened:
            return await asyncio.wait_for(work(opened), ANSWER_SECONDS)

    with told(address):
        result: T = asyncio.run(capnp.run(all_of_it()))
        return result


@contextmanager
def told(address: Address) -> Iterator[None]:
    """What went wrong with the server is told by its address."""
    try:
        yield
    except (TimeoutError, asyncio.TimeoutError):
        raise TransportError(f"{address}: the server did not answer in time") from None
    except capnp.KjException as error:
        raise TransportError(f"{address}: {broken(error)}") from None


@asynccontextmanager
async def session(
    address: Address, protocol: bytes, program: str
) -> AsyncIterator[Any]:
    stream = await connect(address)
    try:
        client = capnp.TwoPartyClient(stream, traversal_limit_in_words=TRAVERSAL_WORDS)
        gate = client.bootstrap().cast_as(control.Gate)
        hello = {
            "version": VERSION,
            "release": __version__,
            "protocol": protocol,
            "user": user(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "program": program,
        }
        try:
            response = await asyncio.wait_for(gate.login(hello=hello), CONNECT_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            raise TransportError(
                f"{address}: something listens there, but does not answer "
                "as an fdserver does"
            ) from None
        yield ok(address, response).session
    finally:
        stream.close()


async def connect(address: Address) -> Any:
    kind = capnp.AsyncIoStream
    try:
        if address.path:
            opening = kind.create_unix_connection(address.path)
        else:
            opening = kind.create_connection(address.host, address.port)
        return await asyncio.wait_for(opening, CONNECT_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        why = f"no answer within {CONNECT_SECONDS:g} s"
    except socket.gaierror as error:
        why = f"the name is not known ({error.strerror})"
    except ConnectionRefusedError:
        why = "connection refused, no fdserver listens there"
    except FileNotFoundError:
        why = "no such socket, no fdserver listens there"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
    raise TransportError(f"{address}: {why}")


def broken(error: Exception) -> str:
    if getattr(error, "type", "") == "DISCONNECTED":
        return "the connection closed; is it an fdserver that listens there?"
    text = str(error).splitlines()
    return f"the server's answer makes no sense ({text[0] if text else 'empty'})"


def user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
