"""The client's end of TLS: a control connection of somebody who has joined a pool.

After TLS the server greets (security/greeting.py); only then Cap'n Proto begins.
"""

import asyncio
import ssl
import time
from typing import Any

import capnp

from fdcore.config import Address
from fdcore.errors import FdcoreError, ProtocolError, RefusedError, TransportError
from fdcore.security import greeting, identity


class Greeted(asyncio.Protocol):
    """Waits for the greeting and nothing more."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.done.done():
            return
        try:
            if len(self.data) >= greeting.size_of(bytes(self.data)):
                greeting.check(bytes(self.data))
                self.done.set_result(None)
        except FdcoreError as error:
            self.done.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            why = "the server closed the connection"
            if isinstance(error, ssl.SSLError):
                why = f"the server does not take this certificate ({error.reason})"
            self.done.set_exception(TransportError(why))
            self.done.exception()  # told, whoever waits for it or not


async def connect(address: Address, who: identity.Identity) -> Any:
    """The stream, once the server has let us in."""
    loop = asyncio.get_running_loop()
    if who.due(time.time()):
        from fdcore.security import join

        await loop.run_in_executor(None, join.renew_if_due, who)
    context = identity.context(who.folder, server=False)
    try:
        transport, greeted = await loop.create_connection(
            Greeted,
            address.host,
            address.port,
            ssl=context,
            server_hostname=identity.server_name(who.pool),
        )
    except ssl.SSLCertVerificationError as error:
        raise ProtocolError(
            f"{address}: not a server of pool {who.pool}: {error.verify_message}",
            identity.to_trust(error),
        ) from None
    except ssl.SSLError as error:
        raise ProtocolError(
            f"{address}: does not speak TLS as the pool's servers do ({error.reason})",
            "is that its control port (56001)? FD_TLS=never where the network is yours "
            "alone",
        ) from None
    try:
        await greeted.done
    except FdcoreError as error:
        transport.abort()
        kind = RefusedError if isinstance(error, RefusedError) else TransportError
        raise kind(f"{address}: {error}") from None
    except BaseException:
        transport.abort()
        raise
    opened: list[Any] = []
    made = capnp.AsyncIoStream._connect(opened.append)
    transport.set_protocol(made)
    made.connection_made(transport)
    return opened[0]
