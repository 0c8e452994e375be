"""Who is let to the pages: in front of all of them, requests and websockets alike.

A page of somebody else's site must not speak with us through a visitor's browser: the
Host has to be a name of this machine or an address, which no foreign name resolves to
by trickery, and the Origin has to be our own. Who has not logged in sees the login.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from fdcore.security.identity import is_loopback
from fdcore.web.logins import Login

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/login", "/fd/", "/_nicegui/", "/favicon.ico", "/metrics")
SAFE = ("GET", "HEAD")
# Of proxies: then whoever is at the other end of the connection is not who asks.
PASSED_ON = (b"forwarded", b"x-forwarded-for", b"via", b"x-real-ip")
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
        b"connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
)


def own_names(more: Iterable[str] = ()) -> frozenset[str]:
    own = {"localhost", socket.gethostname(), socket.getfqdn(), *more}
    return frozenset(name.lower().rstrip(".") for name in own if name)


def host_of(netloc: str) -> str:
    """The name or address of host:port, in small letters; empty: it is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_known(host: str, names: frozenset[str]) -> bool:
    if host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refusal(
    method: str, host: str, origin: str | None, site: str, names: frozenset[str]
) -> str:
    """Why a request is not ours to answer; empty: it is. Of a websocket the method is
    WEBSOCKET."""
    if not is_known(host_of(host), names):
        return "this is not a name of this server"
    if method in SAFE:
        return ""
    if origin is not None:
        return "" if urlsplit(origin).netloc == host else "this came from another site"
    return "this came from another site" if site not in ("", "same-origin") else ""


def cookie_of(headers: Iterable[tuple[bytes, bytes]], name: str) -> str:
    for key, value in headers:
        if key == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(name)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return ""


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(key in PASSED_ON for key, _ in headers)


class Guard:
    """find: the login of a cookie. ours: that of this process's own user, for who is
    them; it is given both ends of the connection. asks: told of every request, by the
    other end, and whether it is somebody's."""

    def __init__(
        self,
        app: App,
        names: frozenset[str],
        cookie: str,
        find: Callable[[str], Login | None],
        ours: Callable[[tuple[str, int], tuple[str, int]], Awaitable[Login | None]],
        asks: Callable[[tuple[str, int], bool], object],
    ) -> None:
        self.app = app
        self.names = names
        self.cookie = cookie
        self.find = find
        self.ours = ours
        self.asks = asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = list(scope["headers"])
        said = {key: value.decode("latin-1") for key, value in headers}
        method = scope.get("method", "WEBSOCKET")
        why = refusal(
            method,
            said.get(b"host", ""),
            said.get(b"origin"),
            said.get(b"sec-fetch-site", ""),
            self.names,
        )
        if why:
            await refuse(scope, send, 403, why)
            return
        login = self.find(cookie_of(headers, self.cookie))
        if login is None and not passed_on(headers):
            login = await self.own(scope)
        scope.setdefault("state", {})["login"] = login
        if scope.get("client"):
            self.asks((scope["client"][0], scope["client"][1]), login is not None)
        open_to_all = scope["path"].startswith(OPEN)
        if login is None and not open_to_all:
            if scope["type"] == "http" and method in SAFE:
                await redirect(send, "/login")
            else:
                await refuse(scope, send, 403, "log in first")
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, answer)

    async def own(self, scope: Scope) -> Login | None:
        client, server = scope.get("client"), scope.get("server")
        if not client or not server or not is_loopback(client[0]):
            return None
        return await self.ours((server[0], server[1]), (client[0], client[1]))


async def refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    await respond(send, status, [(b"content-type", b"text/plain")], f"{why}\n")


async def redirect(send: Send, where: str) -> None:
    await respond(send, 303, [(b"location", where.encode())], "")


async def respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], text: str
) -> None:
    start = {"type": "http.response.start", "status": status}
    await send(start | {"headers": [*headers, *HEADERS]})
    await send({"type": "http.response.body", "body": text.encode()})
