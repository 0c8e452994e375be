"""The client's end of the control plane, as plain functions that wait.

Whatever goes wrong on the way is told by the address and the cause.
"""

import asyncio
import os
import pwd
import socket
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import capnp

from fdcore import __version__
from fdcore.check import MARGINAL, STATES, Check
from fdcore.config import Address, Servers, parse_address
from fdcore.errors import (
    ConfigError,
    FdcoreError,
    ProtocolError,
    RefusedError,
    TransportError,
)
from fdcore.lists import Row
from fdcore.peers import Peer, machine
from fdcore.rpc import secure
from fdcore.rpc.schema import TRAVERSAL_WORDS, VERSION, control
from fdcore.sched.queue import Quota
from fdcore.sched.slices import Ask, Gpu, Pool, Slice
from fdcore.security.identity import identity_for, is_loopback

CONNECT_SECONDS = 3.0
LOCAL_SECONDS = 30.0
ANSWER_SECONDS = 10.0
CHECKS_SECONDS = 90.0  # a server opens its driver for them
# In which a lease of several must be held: reserving all of them, and the holds.
TAKE_SECONDS = 60
SAME_VERSION = "install the same version of fdcore on both machines"
LATE = (
    "is that machine up, and does no firewall hold back its port? "
    "FD_CONNECT_TIMEOUT=10s waits longer"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as its client knows it."""

    address: Address
    lease: bytes
    secret: bytes
    slices: tuple[Slice, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # of the whole GPUs
    unix: str
    machine: str
    host: str
    port: int
    cpu_device: bool
    seal: bool
    rdma: bool
    # The capability: the lease is given back once nobody has it.
    kept: Any = field(default=None, repr=False, compare=False)


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


@dataclass(slots=True)
class Link:
    """A server that answered: its session, and what it last said of itself."""

    address: Address  # that answered, of the server's several
    session: Any
    pool: Pool
    server: bytes
    # By how much its clock is ahead of ours, as far as that can be known.
    ahead: float = 0.0
    unsure: float = 0.0


Answer = Link | FdcoreError


async def survey_all(
    opened: AsyncExitStack,
    servers: Servers,
    protocol: bytes,
    program: str,
    seconds: float,
    tell: Callable[[Address], None] = lambda address: None,
) -> list[tuple[Address, Answer]]:
    """As survey(), of all that are meant; tell() is called for each before it is
    asked."""

    async def ask(addresses: Sequence[Address]) -> list[tuple[Address, Answer]]:
        for address in addresses:
            tell(address)
        answers = await survey(opened, addresses, protocol, program, seconds)
        return list(zip(addresses, answers, strict=True))

    found = await ask(servers.addresses)
    if servers.beyond:
        links = [each for _, each in found if isinstance(each, Link)]
        found += await ask(await others_of(links, servers.addresses))
    return found


async def others_of(
    links: Sequence[Link], known: Sequence[Address]
) -> tuple[Address, ...]:
    """The servers of the pool that were not asked, as those that were know them."""
    told_of = await asyncio.gather(*(peers_of(link) for link in links))
    met = {link.server for link in links}
    asked = {str(way) for each in known for way in (each, *each.others)}
    found = {
        peer.server: peer.address
        for peers in told_of
        for peer in peers
        if peer.server not in met and peer.address not in asked and is_for_us(peer)
    }
    return tuple(parse_address(each) for each in sorted(set(found.values())))


async def peers_of(link: Link) -> list[Peer]:
    """None of who cannot say: the others are asked without them."""
    try:
        with told(link.address):
            rows = await asyncio.wait_for(link.session.peers(), ANSWER_SECONDS)
            return [
                Peer(bytes(row.server), str(row.address), str(row.machine))
                for row in ok(link.address, rows)
            ]
    except (FdcoreError, TimeoutError, asyncio.TimeoutError):
        return []


def is_for_us(peer: Peer) -> bool:
    """Whether its address means the same server here as there."""
    try:
        address = parse_address(peer.address)
    except ConfigError:
        return False
    local = bool(address.path) or is_loopback(address.host)
    return not local or peer.machine == machine()


async def survey(
    opened: AsyncExitStack,
    addresses: Sequence[Address],
    protocol: bytes,
    program: str,
    seconds: float,
) -> list[Answer]:
    """Asks all servers at once what they have. The sessions stay open until the stack
    is closed; who did not answer has an error in its place."""

    async def one(address: Address) -> Link:
        with told(address):
            way, welcome = await opened.enter_async_context(
                welcome_of(address, protocol, program, seconds)
            )
            asked = time.time()
            pool = await pool_of(way, welcome.session)
            half = (time.time() - asked) / 2
            ahead = pool.now - asked - half
            server = bytes(welcome.server)
            return Link(way, welcome.session, pool, server, ahead, half)

    found = await asyncio.gather(
        *(one(address) for address in addresses), return_exceptions=True
    )
    answers: list[Answer] = []
    for each in found:
        if isinstance(each, (Link, FdcoreError)):
            answers.append(each)
        else:
            raise each
    return answers


async def pool_of(address: Address, session: Any) -> Pool:
    given = ok(address, await asyncio.wait_for(session.pool(), ANSWER_SECONDS))
    return Pool(
        str(given.hostname),
        str(given.release),
        str(given.cuda),
        str(given.driver),
        bool(given.rdma),
        int(given.tasks),
        int(given.waiting),
        tuple(gpu_of(row) for row in given.gpus),
        {int(row.ordinal): int(row.free) for row in given.gpus},
        {int(row.ordinal): int(row.leases) for row in given.gpus},
        {int(row.ordinal): int(row.used) for row in given.gpus},
        {int(row.ordinal): figures_of(row.figures) for row in given.gpus},
        bool(given.draining),
        float(given.since),
        float(given.now),
        int(given.ending),
        {int(row.ordinal): int(row.kept) for row in given.gpus},
    )


def figures_of(rows: Any) -> dict[str, float]:
    return {str(row.name): float(row.value) for row in rows}


def gpu_of(row: Any) -> Gpu:
    return Gpu(
        row.ordinal, str(row.name), str(row.uuid), row.memory, str(row.pci),
        bool(row.whole),
    )  # fmt: skip


async def reserve_each(
    parts: Sequence[tuple[Link, Ask]], take: Callable[[list[Grant]], T]
) -> T:
    """Reserves on every one of several servers or on none. All leases are free again on
    return unless take() has made them stand; a server frees its own if that takes
    longer than a client may need."""
    grants: list[Grant] = []
    within = TAKE_SECONDS if len(parts) > 1 else 0
    try:
        for link, ask in parts:
            with told(link.address):
                work = granted(link.address, link.session, ask, within)
                grants.append(await asyncio.wait_for(work, ANSWER_SECONDS))
        return take(grants)
    except BaseException:
        await give_back(grants)
        raise


async def waited(link: Link, ask: Ask, seconds: int) -> Grant:
    """A lease of a server in whose line we stand for so long."""
    with told(link.address):
        work = granted(link.address, link.session, ask, 0, seconds)
        return await asyncio.wait_for(work, seconds + ANSWER_SECONDS)


async def leave_lines(
    lines: Sequence["asyncio.Future[Grant]"], won: Grant | None
) -> None:
    """Leaves the lines of all servers; gives back what more than one has granted."""
    for line in lines:
        line.cancel()
    for each in await asyncio.gather(*lines, return_exceptions=True):
        if isinstance(each, Grant) and each is not won:
            await give_back([each])


async def give_back(grants: Sequence[Grant]) -> None:
    """Ends leases that were reserved for nothing."""
    for grant in grants:
        with suppress(capnp.KjException, asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(grant.kept.release(), CONNECT_SECONDS)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs something that talks to servers, in a loop of its own."""
    result: T = asyncio.run(capnp.run(work))
    return result


async def granted(
    address: Address, session: Any, ask: Ask, within: int, wait: int = 0
) -> Grant:
    """A lease that ends with the session unless something else stands for it."""
    response = await session.reserve(
        ask={
            "count": ask.count,
            "memory": ask.memory,
            "fraction": ask.fraction,
            "within": within,
            "only": sorted(ask.only),
            "idle": ask.idle,
            "wait": wait,
            "priority": ask.priority,
            "compute": ask.compute,
        }
    )
    given = ok(address, response)
    return Grant(
        address,
        bytes(given.id),
        bytes(given.secret),
        tuple(Slice(row.ordinal, row.memory) for row in given.slices),
        tuple(str(row.name) for row in given.slices),
        tuple(int(row.size) for row in given.slices),
        str(given.unix),
        str(given.machine),
        # Empty of a server that listens everywhere: as it was asked.
        str(given.host) or address.host or "127.0.0.1",
        int(given.port),
        bool(given.cpuDevice),
        bool(given.seal),
        bool(given.rdma),
        given.lease,
    )


def gpus(address: Address, protocol: bytes) -> list[tuple[Gpu, int]]:
    """The server's GPUs and the bytes free on each."""

    async def work(session: Any) -> list[tuple[Gpu, int]]:
        rows = ok(address, await session.gpus())
        return [(gpu_of(row), int(row.free)) for row in rows]

    return talk(address, protocol, "", work)


def checks(address: Address, protocol: bytes) -> list[Check]:
    """What the server finds with itself."""

    async def work(session: Any) -> list[Check]:
        return [
            Check(
                str(row.state) if row.state in STATES else MARGINAL,
                str(row.name),
                str(row.found),
                str(row.cure),
            )
            for row in ok(address, await session.checks())
        ]

    return talk(address, protocol, "", work, CHECKS_SECONDS)


@dataclass(frozen=True, slots=True)
class Tally:
    """One call of a session's: what people know it as, messages, and waits."""

    name: str
    seen: str
    messages: int
    waits: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a session has done so far; no counters: its worker did not say."""

    address: Address
    session: str
    user: str
    host: str
    pid: int
    program: str
    road: str
    counters: dict[str, int]
    calls: tuple[Tally, ...]
    lease: bytes = b""


def sessions(address: Address, protocol: bytes) -> list[Activity]:
    """What the sessions of this user do on the server."""

    async def work(session: Any) -> list[Activity]:
        return await sessions_of(address, session)

    return talk(address, protocol, "", work)


async def sessions_of(address: Address, session: Any) -> list[Activity]:
    return [
        Activity(
            address,
            bytes(row.id).hex()[:8],
            str(row.user),
            str(row.host),
            int(row.pid),
            str(row.program),
            str(row.road),
            {str(one.name): int(one.value) for one in row.counters},
            tuple(
                Tally(str(one.name), str(one.seen), one.messages, one.waits)
                for one in row.calls
            ),
            bytes(row.lease),
        )
        for row in ok(address, await session.sessions())
    ]


def leases(address: Address, protocol: bytes) -> list[Row]:
    """This user's leases on the server; everybody's for an administrator."""
    import uuid

    async def work(session: Any) -> list[Row]:
        return [
            {
                "server": str(address),
                "lease": str(uuid.UUID(bytes=bytes(row.id))),
                "user": str(row.user),
                "host": str(row.host),
                "pid": int(row.pid),
                "program": str(row.program),
                "since": time.strftime("%Y-%m-%d %H:%M", time.localtime(row.since)),
                "sessions": int(row.sessions),
                "gpus": " ".join(f"{s.ordinal}:{s.memory >> 20}" for s in row.slices),
            }
            for row in ok(address, await session.leases())
        ]

    return talk(address, protocol, "", work)


def end_lease(address: Address, protocol: bytes, number: str) -> None:
    """Ends the lease whose id begins so; for administrators."""

    async def work(session: Any) -> None:
        ok(address, await session.release(id=number))

    talk(address, protocol, "", work)


def quotas(address: Address, protocol: bytes) -> dict[str, Quota]:
    async def work(session: Any) -> dict[str, Quota]:
        return {
            str(row.user): Quota(int(row.gpus), int(row.memory), int(row.priority))
            for row in ok(address, await session.quotas())
        }

    return talk(address, protocol, "", work)


def drain(address: Address, protocol: bytes, on: bool) -> None:
    """While it is on, the server grants nothing new. For administrators."""

    async def work(session: Any) -> None:
        ok(address, await session.drain(on=on))

    talk(address, protocol, "", work)


def revoke(address: Address, protocol: bytes, who: str) -> None:
    """A name or a serial number; of the founding server, by administrators."""

    async def work(session: Any) -> None:
        ok(address, await session.revoke(who=who))

    talk(address, protocol, "", work)


def set_quota(
    address: Address, protocol: bytes, user: str, quota: Quota | None
) -> None:
    """None: the user has none of their own any more. For administrators."""
    row = asdict(quota or Quota()) | {"user": user}

    async def work(session: Any) -> None:
        ok(address, await session.setQuota(quota=row, drop=quota is None))

    talk(address, protocol, "", work)


def ok(address: Address, response: Any) -> Any:
    result = response.result
    if result.which() == "ok":
        return result.ok
    code, message = str(result.error.code), str(result.error.message)
    kind = {"version": ProtocolError, "invalid": ConfigError}.get(code, RefusedError)
    raise kind(f"{address}: {message}", SAME_VERSION if code == "version" else "")


def talk(
    address: Address,
    protocol: bytes,
    program: str,
    work: Callable[[Any], Awaitable[T]],
    seconds: float = ANSWER_SECONDS,
) -> T:
    async def all_of_it() -> T:
        async with session_of(address, protocol, program) as (_, opened):
            return await asyncio.wait_for(work(opened), seconds)

    with told(address):
        return run(all_of_it())


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
    address: Address, protocol: bytes, program: str, seconds: float = CONNECT_SECONDS
) -> AsyncIterator[Any]:
    async with session_of(address, protocol, program, seconds) as (_, opened):
        yield opened


@asynccontextmanager
async def session_of(
    address: Address, protocol: bytes, program: str, seconds: float = CONNECT_SECONDS
) -> AsyncIterator[tuple[Address, Any]]:
    """A session, and the one of the server's addresses that answered."""
    async with welcome_of(address, protocol, program, seconds) as (way, welcome):
        yield way, welcome.session


@asynccontextmanager
async def welcome_of(
    address: Address,
    protocol: bytes,
    program: str,
    seconds: float = CONNECT_SECONDS,
    role: str = "",
) -> AsyncIterator[tuple[Address, Any]]:
    """What the server says to who logs in; role: to be no more than that."""
    way, stream = await connect(address, seconds)
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
            "role": role,
        }
        if way.path:  # only an fdserver listens there, however busy its machine is
            seconds = max(seconds, LOCAL_SECONDS)
        try:
            response = await asyncio.wait_for(gate.login(hello=hello), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            raise TransportError(
                f"{way}: something listens there, but does not answer "
                "as an fdserver does"
            ) from None
        yield way, ok(way, response)
    finally:
        stream.close()


async def connect(address: Address, seconds: float) -> tuple[Address, Any]:
    """The first of the server's addresses where somebody answers, and the stream."""
    failures, cure = [], ""
    for way in (replace(address, others=()), *address.others):
        try:
            return way, await connect_one(way, seconds)
        except TransportError as error:
            failures.append(str(error))
            cure = error.cure
    raise TransportError("; ".join(failures), cure)


async def unix_connection(path: str) -> Any:
    """A full queue of the server is EAGAIN here, which asyncio takes for a connection
    that is about to be there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:
                await asyncio.sleep(0.005)
        return await capnp.AsyncIoStream.create_unix_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


async def connect_one(address: Address, seconds: float) -> Any:
    kind = capnp.AsyncIoStream
    try:
        who = identity_for(address)
        if address.path:
            opening = unix_connection(address.path)
        elif who is not None:
            opening = secure.connect(address, who)
        else:
            opening = kind.create_connection(address.host, address.port)
        return await asyncio.wait_for(opening, seconds)
    except (TimeoutError, asyncio.TimeoutError):
        why, cure = f"no answer within {seconds:g} s", LATE
    except socket.gaierror as error:
        why, cure = f"the name is not known ({error.strerror})", ""
    except ConnectionRefusedError:
        why, cure = "connection refused, no fdserver listens there", to_start(address)
    except FileNotFoundError:
        why, cure = "no such socket, no fdserver listens there", to_start(address)
    except OSError as error:
        why, cure = (error.strerror or str(error)).lower(), ""
    raise TransportError(f"{address}: {why}", cure)


def to_start(address: Address) -> str:
    """What helps where nobody listens."""
    if address.path or is_loopback(address.host):
        return "start it (fdserver), or name another server (-l HOST, or servers.conf)"
    return (
        "start it there (other machines reach it with --listen 0.0.0.0), or correct "
        "the address"
    )


def broken(error: Exception) -> str:
    if getattr(error, "type", "") == "DISCONNECTED":
        return (
            "the connection closed; is it an fdserver that listens there, "
            "and has flexdirect init been run here if it wants that?"
        )
    text = str(error).splitlines()
    return f"the server's answer makes no sense ({text[0] if text else 'empty'})"


def user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
