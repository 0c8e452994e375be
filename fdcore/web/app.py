"""fdserver web: the pages, the exports and the metrics on one port, in this process.

NiceGUI brings uvloop along, which crashes Cap'n Proto: the loop is asyncio's own.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fdcore.config import Address, private_folder
from fdcore.errors import ConfigError, FdcoreError
from fdcore.lists import written
from fdcore.security import files
from fdcore.security.identity import is_loopback, tls_wish
from fdcore.security.limits import Rate
from fdcore.sockets import tcp_listener, uid_of_peer
from fdcore.web import metrics
from fdcore.web.cluster import Cluster
from fdcore.web.guard import Guard, own_names, passed_on
from fdcore.web.history import History
from fdcore.web.logins import Login, code_of
from fdcore.web.manager import Manager, members_from
from fdcore.web.porch import Porch
from fdcore.web.rows import EXPORTS, safe_for_sheets

log = logging.getLogger("fdserver.web")

HERE = Path(__file__).parent
LONGEST_FORM = 8192
COOKIE_SECONDS = 12 * 3600
CLOSE_SECONDS = 1
RENEW_SECONDS = 60.0  # between two looks for another certificate
# Of login codes from one address: each is shown to every server.
TRIES_A_SECOND, TRIES_AT_ONCE = 0.2, 20
LOGIN_THREADS = 2


@dataclass(frozen=True, slots=True)
class Options:
    """What fdserver web was told on its command line."""

    listen: Address
    state: Path  # where history is
    servers: Callable[[], Sequence[Address]]
    own: Address | None = None  # this machine's server
    names: tuple[str, ...] = ()  # more names of this host
    certificate: Path | None = None
    key: Path | None = None
    trusted_network: bool = False
    open_metrics: bool = False
    ready_fd: int = -1


def tls_files(options: Options) -> tuple[Path, Path] | None:
    """The certificate that browsers are shown, and its key; None: no TLS. Beyond
    loopback it is the pool's unless another one is given."""
    if options.certificate is not None:
        return options.certificate, options.key or options.certificate
    if is_loopback(options.listen.host) and tls_wish() != "always":
        return None
    if options.trusted_network:
        return None
    own = files.pool_folder() / files.OWN
    if not own.exists():
        raise ConfigError(
            "nothing listens beyond loopback before this host belongs to a pool: "
            "'fdserver token' founds one, 'flexdirect init TOKEN' joins one; or give "
            "--certificate and --key (--trusted-network goes without TLS)"
        )
    return own, own


class Shown:
    """What browsers are shown, which is renewed on disk beside us: the pool's every
    some weeks. Connections that are open keep what they have seen."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key
        self.state = self.on_disk()

    def on_disk(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in (self.certificate, self.key)]
        return [(one.st_mtime_ns, one.st_ino) for one in found]

    def renew(self, context: ssl.SSLContext) -> None:
        """Loads it where it is another one; what cannot be is tried again."""
        try:
            now = self.on_disk()
            if now != self.state:
                context.load_cert_chain(self.certificate, self.key)
                self.state = now
                log.info("browsers are shown a new certificate")
        except (OSError, ssl.SSLError) as error:
            log.warning("%s: %s", self.certificate, error)

    async def keep(self, config: Any) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if config.ssl is not None:
                self.renew(config.ssl)


def serve(options: Options) -> None:
    """Runs the manager in this process until it is told to stop."""
    state = private_folder(options.state)
    # Before NiceGUI is imported, which makes the folder where it is told then.
    os.environ["NICEGUI_STORAGE_PATH"] = str(state / "nicegui")
    try:
        import uvicorn
    except ImportError:
        raise ConfigError(
            "the manager's packages are missing: "
            "pip install '.[web]' in fdcore's sources, or the package fdcore-web"
        ) from None
    tls = tls_files(options)
    shown = None if tls is None else Shown(*tls)
    sock = tcp_listener(options.listen.host, options.listen.port)
    port = sock.getsockname()[1]
    history = History(state / "history.db")
    cluster = Cluster(members_from(options.servers, options.own), history)
    manager = Manager(cluster, history)
    porch = Porch()
    app = application(manager, options, port, tls is not None, porch)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else tls[1],
    )
    cluster.start()
    scheme = "http" if tls is None else "https"
    where = f"{scheme}://{Address(options.listen.host, port)}/"
    log.info("the manager is at %s", where)
    server = uvicorn.Server(config)
    try:
        # uvicorn would end the process by the signal again once all is closed.
        server.capture_signals = contextlib.nullcontext
        asyncio.run(answer(server, porch, sock, where, options.ready_fd, shown))
    finally:
        cluster.stop()
        history.close()


async def answer(
    server: Any, porch: Porch, sock: socket.socket, where: str, ready_fd: int,
    shown: Shown | None,
) -> None:  # fmt: skip
    loop = asyncio.get_running_loop()
    kind = type(loop).__module__
    assert kind.startswith("asyncio."), f"the loop is one of {kind}"
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    serving = asyncio.create_task(server.serve(sockets=[]))
    while not server.started and not serving.done():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if server.started:
        porch.listen(sock, server)
    if server.started and ready_fd >= 0:
        said = {"pid": os.getpid(), "web": where}
        os.write(ready_fd, json.dumps(said).encode() + b"\n")
        os.close(ready_fd)
    renewing = shown and asyncio.create_task(shown.keep(server.config))
    try:
        await serving
    finally:
        if renewing:
            renewing.cancel()
        await porch.close()


def application(
    manager: Manager, options: Options, port: int, tls: bool, porch: Porch
) -> Guard:
    from fastapi import FastAPI
    from nicegui import ui

    from fdcore.web import pages

    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    cookie = f"fdlogin{port}"
    install_routes(inner, manager, options, cookie, tls)
    pages.install(manager)
    ui.run_with(
        inner, title="fdcore", language="en-US", favicon=HERE / "mark.svg",
        tailwind=False, show_welcome_message=False, reconnect_timeout=10.0,
    )  # fmt: skip

    async def ours(own: tuple[str, int], peer: tuple[str, int]) -> Login | None:
        uid = await asyncio.to_thread(uid_of_peer, own, peer)
        if uid < 0 or uid not in (0, os.geteuid()):
            return None
        return await asyncio.to_thread(manager.our_login)

    names = own_names([options.listen.host, *options.names])
    return Guard(inner, names, cookie, manager.logins.find, ours, porch.asks)


def install_routes(
    inner: Any, manager: Manager, options: Options, cookie: str, tls: bool
) -> None:
    """What is no page of NiceGUI's."""
    from fastapi import Request
    from fastapi.responses import FileResponse, RedirectResponse, Response

    page = (HERE / "login.html").read_text(encoding="utf-8")
    metrics_text = metrics.text(manager.cluster.known)
    # Whatever strangers try, others' requests have threads, and servers some peace.
    entering = ThreadPoolExecutor(LOGIN_THREADS, "login")
    tries = Rate(TRIES_A_SECOND, TRIES_AT_ONCE)

    def login_page(problem: str = "", status: int = 200) -> Response:
        text = page.replace("{problem}", escape(problem))
        return Response(text, status, media_type="text/html; charset=utf-8")

    async def style() -> Response:
        return FileResponse(HERE / "style.css", media_type="text/css")

    async def show_login(request: Request) -> Response:
        if request.state.login is not None:
            return RedirectResponse("/", 303)
        return login_page()

    async def log_in(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST_FORM:
                return login_page("that is no login code", 400)
        code = parse_qs(body.decode("utf-8", "replace")).get("code", [""])[0]
        try:
            code_of(code)
            if not tries.take(request.client.host if request.client else ""):
                return login_page("too many tries: wait a little", 429)
            enter, places = manager.logins.enter, manager.places()
            loop = asyncio.get_running_loop()
            name = await loop.run_in_executor(entering, enter, code, places)
        except FdcoreError as error:
            return login_page(str(error), 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            cookie, name, max_age=COOKIE_SECONDS, httponly=True, samesite="strict",
            secure=tls,
        )  # fmt: skip
        return answer

    async def leave(request: Request) -> Response:
        login: Login = request.state.login
        manager.logins.leave(login.name)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie)
        return answer

    async def export(request: Request, what: str, form: str) -> Response:
        if what not in EXPORTS or form not in ("csv", "json"):
            return Response("there is no such list\n", 404, media_type="text/plain")
        login: Login = request.state.login
        chosen = EXPORTS[what]
        found = chosen.rows(manager.view(login))
        if form == "csv":
            found = safe_for_sheets(found)
        kind = "text/csv" if form == "csv" else "application/json"
        return Response(
            written(found, chosen.columns, form),
            media_type=f"{kind}; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="{what}.{form}"'},
        )

    async def measured(request: Request) -> Response:
        client = request.client.host if request.client else ""
        near = is_loopback(client) and not passed_on(request.scope["headers"])
        known = near or request.state.login is not None
        if not known and not options.open_metrics:
            text = "from this machine, or with --open-metrics\n"
            return Response(text, 403, media_type="text/plain")
        measures = await asyncio.to_thread(metrics_text)
        return Response(measures, media_type=metrics.CONTENT_TYPE)

    inner.add_api_route("/fd/style.css", style)
    inner.add_api_route("/login", show_login)
    inner.add_api_route("/login", log_in, methods=["POST"])
    inner.add_api_route("/logout", leave, methods=["POST"])
    inner.add_api_route("/export/{what}.{form}", export)
    inner.add_api_route("/metrics", measured)
