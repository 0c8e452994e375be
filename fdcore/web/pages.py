"""The pages. What they show is model.py's and rows.py's; what is done, manager.py's."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import run, ui

from fdcore import values
from fdcore.errors import ConfigError, FdcoreError
from fdcore.sched.queue import Quota
from fdcore.security.roles import ROLES, USER
from fdcore.web import charts, rows
from fdcore.web.logins import Login
from fdcore.web.manager import Manager
from fdcore.web.model import DRAINING, View, size
from fdcore.web.parts import PoolMap, Rows, Tiles

REFRESH_SECONDS = 1.0
CHART_SECONDS = 5.0
LINKS = (
    ("/", "Overview", "dashboard"),
    ("/servers", "Servers", "dns"),
    ("/leases", "Leases", "play_circle"),
    ("/clients", "Clients", "group"),
    ("/history", "History", "timeline"),
    ("/health", "Health", "favorite_border"),
    ("/log", "Log", "subject"),
    ("/manage", "Manage", "tune"),
)
THEMES = ("auto", "light", "dark")
THEME_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}


class Page:
    """One open page: its frame, and what is refreshed on it."""

    def __init__(self, manager: Manager, login: Login, theme: str, path: str) -> None:
        self.manager = manager
        self.login = login
        self.theme = theme if theme in THEMES else "auto"
        self.path = path
        self.fillers: list[Callable[[View], None]] = []
        self.dark = ui.dark_mode({"light": False, "dark": True}.get(self.theme))

    # ---- frame ----

    def frame(self, title: str) -> ui.element:
        """Everything around the contents; they go into what is returned."""
        ui.add_css("@import url('/fd/style.css');")
        ui.page_title(f"{title} · fdcore")
        tag("a", "fd-skip", "To the contents").props('href="#contents"')
        with ui.element("div").classes("fd-page"):
            self.side()
            with (
                ui.element("main").classes("fd-main").props('id="contents" tabindex=-1')
            ):
                self.head(title)
                self.notice = tag("div", "fd-note-bar", "").props('role="status"')
                self.notice.visible = False
                inside = ui.element("div")
        return inside

    def side(self) -> None:
        with ui.element("nav").classes("fd-side").props('aria-label="Pages"'):
            with ui.element("div").classes("fd-brand"):
                ui.element("span").classes("fd-mark")
                tag("span", "", "fdcore")
            for path, label, icon in LINKS:
                if path == "/log" and self.login.who.role == USER:
                    continue
                link = ui.element("a").classes("fd-link").props(f'href="{path}"')
                if path == self.path:
                    link.classes("fd-here").props('aria-current="page"')
                with link:
                    ui.icon(icon).props('aria-hidden="true"')
                    tag("span", "", label)
            self.last_link = link  # to Manage
            self.foot = tag("div", "fd-foot", "")

    def head(self, title: str) -> None:
        with ui.element("header").classes("fd-head"):
            tag("h1", "", title)
            self.chip = tag("span", "fd-chip", "asking …")
            ui.element("span").classes("fd-push")
            with ui.element("div").classes("fd-who"):
                self.who = tag("span", "fd-soft", "")
                self.role = tag("span", "fd-chip", "").props('data-role=""')
                button = (
                    ui.element("button")
                    .classes("fd-icon")
                    .props('type="button" aria-label="Change colours"')
                )
                with button:
                    self.theme_icon = ui.icon(THEME_ICONS[self.theme])
                button.on("click", self.change_theme)
                if not self.login.local:
                    with ui.element("form").props('method="post" action="/logout"'):
                        leave = ui.element("button").classes("fd-button")
                        leave.props('type="submit"')
                        with leave:
                            tag("span", "", "Log out")

    def change_theme(self) -> None:
        self.theme = THEMES[(THEMES.index(self.theme) + 1) % len(THEMES)]
        self.dark.value = {"light": False, "dark": True}.get(self.theme)
        self.theme_icon.set_name(THEME_ICONS[self.theme])
        year = 365 * 86400
        ui.run_javascript(
            f"document.cookie='fdtheme={self.theme}; path=/; max-age={year}; "
            "samesite=strict'"
        )

    def section(self, title: str, export: str = "") -> ui.element:
        """A heading, its exports; more may be put beside them."""
        with ui.element("div").classes("fd-section-head") as head:
            tag("h2", "", title)
            ui.element("span").classes("fd-push")
            for form in ("csv", "json") if export else ():
                link = tag("a", "fd-button", form.upper())
                link.props(f'href="/export/{export}.{form}" download')
                link.props(f'aria-label="{title} as {form.upper()}"')
        return head

    # ---- what is refreshed ----

    def begin(self) -> None:
        self.refresh()
        ui.timer(REFRESH_SECONDS, self.refresh)
        if self.login.local:
            ui.timer(REFRESH_SECONDS, self.know_ourselves)

    async def know_ourselves(self) -> None:
        if self.manager.ours_is_old():
            await run.io_bound(self.manager.our_login)

    def refresh(self) -> None:
        if not self.login.valid():
            ui.navigate.to("/login")
            return
        view = self.manager.view(self.login)
        pool = view.overview
        tone = "good" if pool.up == pool.servers else "bad" if not pool.up else "warn"
        self.chip.text = f"{pool.up} of {pool.servers} servers up"
        self.chip.classes(replace=f"fd-chip fd-{tone}")
        who = self.current().who
        self.who.text, self.role.text = who.user or "nobody", who.role
        self.last_link.visible = self.current().manages_any()
        self.foot.text = f"as of {time.strftime('%H:%M:%S')}"
        self.notice.text = self.manager.cluster.problem
        self.notice.visible = bool(self.manager.cluster.problem)
        for fill in self.fillers:
            fill(view)

    def current(self) -> Login:
        """The login as it is now: that of our own user changes with the servers."""
        ours = self.manager.ours
        return ours if self.login.local and ours is not None else self.login

    def can(self, server: str) -> bool:
        return self.current().manages(server)

    # ---- what is done ----

    async def confirmed(self, question: str, more: str, yes: str) -> bool:
        with ui.dialog() as dialog, ui.card().classes("fd-dialog"):
            tag("h2", "", question)
            tag("p", "fd-soft", more)
            with ui.element("div").classes("fd-buttons"):
                push("Cancel", lambda: dialog.submit(False)).props("autofocus")
                push(yes, lambda: dialog.submit(True), "fd-danger")
        answer = await dialog
        dialog.delete()
        return bool(answer)

    async def do(self, work: Callable[[], Any], said: str) -> Any:
        """In a thread; what goes wrong is told, whatever the server says."""
        try:
            result = await run.io_bound(work)
        except (FdcoreError, OSError) as error:
            ui.notify(str(error), type="negative", multi_line=True, timeout=8000)
            return None
        ui.notify(said, type="positive")
        self.refresh()
        return result if result is not None else True

    async def drain(self, key: str) -> None:
        view = self.manager.view(self.login)
        server = next((one for one in view.servers if one.key == key), None)
        if server is None:
            return
        on = server.state != DRAINING
        if not await self.confirmed(
            f"{'Drain' if on else 'Resume'} {server.host}?",
            "Nothing new will be granted there until it is resumed. What runs goes on."
            if on
            else "It will grant leases again.",
            "Drain" if on else "Resume",
        ):
            return
        done = f"{server.host} {'grants nothing new' if on else 'grants again'}"
        await self.do(lambda: self.manager.drain(self.login, key, on), done)

    async def release(self, action: str, key: str) -> None:
        server, _, lease = key.rpartition(" ")
        view = self.manager.view(self.login)
        found = next(
            (one for one in view.leases if (one.server, one.id) == (server, lease)),
            None,
        )
        if found is None or action != "release":
            return
        program = found.program or "this reservation"
        if not await self.confirmed(
            f"End the lease of {program}?",
            f"{program} of {found.user} loses its GPUs at once, with what it had "
            f"there. Lease {lease[:8]} of {found.host_of_server}.",
            "End lease",
        ):
            return
        work = lambda: self.manager.release(self.login, server, lease)  # noqa: E731
        await self.do(work, f"Lease {lease[:8]} has ended")


def tag(name: str, classes: str, text: str) -> "Text":
    return Text(name, classes, text)


class Text(ui.label):  # type: ignore[misc]
    """A label that is another element of HTML. Its text is text, whatever is in it."""

    def __init__(self, name: str, classes: str, text: str) -> None:
        super().__init__(text)
        self.tag = name
        if classes:
            self.classes(classes)


def push(label: str, act: Callable[[], Any], classes: str = "") -> ui.element:
    button = tag("button", f"fd-button {classes}", label).props('type="button"')
    button.on("click", act)
    return button


def field(label: str, value: str = "", width: int = 12, hint: str = "") -> ui.input:
    """A plain input with its label above."""
    made = ui.input(label, value=value, placeholder=hint)
    return made.props("dense outlined stack-label").style(f"width: {width}em")


# ---- the pages ----


def lease_table(page: Page) -> Rows:
    actions = [("release", "End", "danger")]
    empty = "Nothing runs"
    return Rows("Leases", rows.LEASES, empty, actions, page.release, search=True)


def fill_leases(page: Page, table: Rows) -> Callable[[View], None]:
    return lambda view: table.fill(
        [rows.lease_row(one, page.can) for one in view.leases]
    )


def fill_queue(table: Rows) -> Callable[[View], None]:
    return lambda view: table.fill([rows.wait_row(one) for one in view.queue])


def fill_map(page: Page, map: PoolMap) -> Callable[[View], None]:
    return lambda view: map.show(
        "servers", rows.drawn(view.servers, time.time(), page.can)
    )


def overview(page: Page) -> None:
    with page.frame("Overview"):
        tiles = Tiles()
        with ui.element("section").classes("fd-section"):
            page.section("GPUs", "gpus")
            map = PoolMap(page.drain)
        with ui.element("section").classes("fd-section"):
            page.section("Running leases", "leases")
            leases = lease_table(page)
        with ui.element("section").classes("fd-section"):
            page.section("Queue", "queue")
            queue = Rows("Queue", rows.QUEUE, "Nobody waits for GPUs")
    page.fillers += [
        lambda view: tiles.show("items", rows.tiles(view.overview)),
        fill_map(page, map),
        fill_leases(page, leases),
        fill_queue(queue),
    ]


def servers(page: Page) -> None:
    async def act(action: str, key: str) -> None:
        await page.drain(key)

    with page.frame("Servers"):
        page.section("All servers", "servers")
        actions = [("drain", "Drain or resume", "")]
        table = Rows("Servers", rows.SERVERS, "No server is configured", actions, act)
        with ui.element("section").classes("fd-section"):
            page.section("GPUs and who has them", "gpus")
            map = PoolMap(page.drain)

    def fill(view: View) -> None:
        now = time.time()
        table.fill([rows.server_row(one, now, page.can) for one in view.servers])

    page.fillers += [fill, fill_map(page, map)]


def leases(page: Page) -> None:
    with page.frame("Leases"):
        page.section("Running", "leases")
        table = lease_table(page)
        with ui.element("section").classes("fd-section"):
            page.section("Queue", "queue")
            queue = Rows("Queue", rows.QUEUE, "Nobody waits for GPUs")
    page.fillers += [fill_leases(page, table), fill_queue(queue)]


def clients(page: Page) -> None:
    with page.frame("Clients"):
        page.section("Who uses the pool now", "clients")
        table = Rows("Clients", rows.CLIENTS, "Nobody uses the pool", search=True)

    def fill(view: View) -> None:
        now = time.time()
        table.fill([rows.client_row(one, now) for one in view.clients])

    page.fillers.append(fill)


def log(page: Page) -> None:
    with page.frame("Log"):
        page.section("The servers' last lines", "log")
        table = Rows("Log", rows.LOG, "Nothing has been logged", search=True)

    def fill(view: View) -> None:
        lines = list(enumerate(view.log))[-300:]
        table.fill([rows.log_row(number, line) for number, line in reversed(lines)])

    page.fillers.append(fill)


def health(page: Page) -> None:
    manager = page.manager
    with page.frame("Health"):
        with page.section("Checks of this machine and of the way to each server"):
            said = tag("span", "fd-soft", "")
            push("Check now", lambda: check(page, True))
        table = Rows("Health", rows.CHECKS, "Being checked …", search=True)

    def fill(_: View) -> None:
        at = manager.health.at
        running = manager.health.running
        said.text = (
            "checking …" if running else f"checked {rows.clock(at)}" if at else ""
        )
        table.fill([rows.check_row(one) for one in manager.health.rows])

    page.fillers.append(fill)
    ui.timer(0.1, lambda: check(page, False), once=True)


async def check(page: Page, now: bool) -> None:
    if now or page.manager.health_is_old():
        await run.io_bound(page.manager.check_health)


def history(page: Page) -> None:
    manager = page.manager
    chosen = {"seconds": 900}

    async def choose(seconds: int) -> None:
        chosen["seconds"] = seconds
        await draw()

    with page.frame("History"):
        with page.section("Utilisation, memory, waits and queue"):
            where = ui.select({"pool": "The whole pool"}, value="pool", label="Of")
            where.props("dense outlined options-dense").style("min-width: 14em")
            with (
                ui.element("div")
                .props('role="group" aria-label="Time"')
                .style("display: flex; gap: 6px; flex-wrap: wrap")
            ):
                buttons = {
                    seconds: push(label, partial(choose, seconds))
                    for label, seconds in charts.WINDOWS
                }
        grid = ui.element("div").classes("fd-charts")
        nothing = tag(
            "p", "fd-soft", "Nothing has been recorded yet; it takes some seconds."
        )
        nothing.visible = False  # until we know

    drawn: dict[str, tuple[ui.element, ui.echart]] = {}

    async def draw() -> None:
        wish = str(where.value), chosen["seconds"]
        for seconds, button in buttons.items():
            here = seconds == chosen["seconds"]
            button.classes(**{"add" if here else "remove": "fd-chosen"})
            button.props(f'aria-pressed="{str(here).lower()}"')
        read = await run.io_bound(charts.drawings, manager.history, *wish, time.time())
        # None: the process ends. Who has wished for something else meanwhile gets that.
        if read is None or wish != (str(where.value), chosen["seconds"]):
            return
        if not grid.is_deleted:
            show(read)

    def show(read: Sequence[charts.Drawing]) -> None:
        any_seen = False
        for chart, made, seen in read:
            any_seen = any_seen or seen
            if chart.title not in drawn and seen:
                drawn[chart.title] = new_chart(grid, chart, made)
            if chart.title in drawn:
                card, plot = drawn[chart.title]
                card.visible = seen
                plot.options.clear()
                plot.options.update(made)
                plot.update()
        kept = {chart.title for chart, _, _ in read}
        for title, (card, _) in drawn.items():
            card.visible = card.visible and title in kept
        nothing.visible = not any_seen

    def fill(view: View) -> None:
        options = {"pool": "The whole pool"}
        for server in view.servers:
            options[f"server {server.host}"] = server.host
            for gpu in server.gpus:
                where_gpu = f"gpu {gpu.ordinal} of {server.host}"
                options[where_gpu] = f"{server.host}, GPU {gpu.ordinal}"
        if options != where.options:
            where.set_options(options)

    where.on_value_change(draw)
    page.fillers.append(fill)
    ui.timer(CHART_SECONDS, draw)  # and at once


def new_chart(
    grid: ui.element, chart: charts.Chart, made: rows.Cells
) -> tuple[ui.element, ui.echart]:
    with grid, ui.element("div").classes("fd-card fd-chart") as card:
        unit = f" ({chart.unit})" if chart.unit else ""
        tag("h2", "", f"{chart.title}{unit}")
        return card, ui.echart(dict(made))


def manage(page: Page) -> None:
    with page.frame("Manage"):
        quotas(page)
        with ui.element("section").classes("fd-section"):
            members(page)


def quotas(page: Page) -> None:
    async def act(action: str, key: str) -> None:
        server, _, user = key.partition("\t")
        question = f"Remove the quota of {user}?"
        if await page.confirmed(
            question, "They may have what everybody may.", "Remove"
        ):
            work = lambda: page.manager.set_quota(page.login, server, user, None)  # noqa: E731
            await page.do(work, f"{user} has no quota of their own any more")

    page.section("Quotas: what users may have of a server at once")
    table = Rows(
        "Quotas", rows.QUOTAS, "Nobody is limited", [("drop", "Remove", "danger")], act
    )
    page.fillers.append(lambda view: table.fill(rows.quota_rows(view, page.can)))
    with ui.element("div").classes("fd-form").style("margin-top: 12px"):
        server = ui.select([], label="Server").props("dense outlined stack-label")
        server.style("min-width: 14em")
        user = field("User, or * for the rest", width=14)
        gpus = field("GPUs", "0", 6)
        memory = field("Memory", "0", 8, "8G")
        priority = field("Priority", "0", 6)
        push("Set quota", lambda: set_quota(), "fd-primary")

    def fill(view: View) -> None:
        able = {one.key: one.host for one in view.servers if page.can(one.key)}
        if able != server.options:
            server.set_options(able, value=server.value or next(iter(able), None))

    async def set_quota() -> None:
        try:
            quota = quota_of(gpus.value, memory.value, priority.value)
        except ConfigError as error:
            ui.notify(str(error), type="negative")
            return
        name, where = str(user.value or ""), str(server.value or "")
        more = (
            f"{quota.gpus or 'any number of'} GPUs, "
            f"{size(quota.memory) if quota.memory else 'any amount of'} memory, "
            f"priority up to {quota.priority}. What they have now stays."
        )
        if await page.confirmed(f"Limit {name or 'whom'}?", more, "Set quota"):
            work = lambda: page.manager.set_quota(page.login, where, name, quota)  # noqa: E731
            await page.do(work, f"The quota of {name} is set")

    page.fillers.append(fill)


def quota_of(gpus: str, memory: str, priority: str) -> Quota:
    text = (memory or "0").strip()
    amount = 0 if text == "0" else values.memory(text)
    try:
        number, rank = int(gpus or 0), int(priority or 0)
    except ValueError:
        raise ConfigError("GPUs and priority are numbers") from None
    if not 0 <= number < 1 << 31 or not -100 <= rank <= 100:
        raise ConfigError("GPUs are 0 or more, priorities -100 to 100")
    return Quota(number, amount, rank)


def members(page: Page) -> None:
    async def act(action: str, key: str) -> None:
        question = "Revoke this certificate?"
        more = (
            "Whoever has it loses connections and leases. To join again takes a token."
        )
        if await page.confirmed(question, more, "Revoke"):
            work = lambda: page.manager.revoke(page.login, key)  # noqa: E731
            await page.do(work, "It is revoked")
            await look()

    page.section("Members: who has joined the pool")
    said = tag("p", "fd-soft", "")
    table = Rows(
        "Members", rows.MEMBERS, "Nobody has joined", [("revoke", "Revoke", "danger")],
        act, search=True,
    )  # fmt: skip
    with ui.element("div").classes("fd-form").style("margin-top: 12px") as form:
        role = ui.select(list(ROLES), value="user", label="Role")
        role.props("dense outlined stack-label").style("min-width: 8em")
        lasts = field("Good for", "1h", 7)
        uses = field("Times", "1", 6)
        whom = field("For whom (may stay empty)", width=16)
        push("Make a token", lambda: make(), "fd-primary")

    async def look() -> None:
        try:
            found = await run.io_bound(page.manager.members, page.login)
        except FdcoreError as error:
            said.text, table.visible, form.visible = str(error), False, False
            return
        now = time.time()
        table.fill([rows.member_row(one, now) for one in found])

    async def make() -> None:
        try:
            seconds, times = int(values.duration(lasts.value)), int(uses.value)
        except (ConfigError, ValueError) as error:
            ui.notify(str(error), type="negative")
            return
        as_whom = str(role.value)
        question = f"Make a token to join as {as_whom}?"
        more = f"Whoever has it joins the pool: {times} times, within {lasts.value}."
        if not await page.confirmed(question, more, "Make it"):
            return
        name = str(whom.value or "")
        work = lambda: page.manager.token(page.login, as_whom, seconds, times, name)  # noqa: E731
        made = await page.do(work, "The token is made")
        if isinstance(made, str):
            await show_token(made)

    ui.timer(0.1, look, once=True)


async def show_token(text: str) -> None:
    with ui.dialog() as dialog, ui.card().classes("fd-dialog"):
        tag("h2", "", "The token")
        tag(
            "p",
            "fd-soft",
            "It is shown only now. To join with it: flexdirect init TOKEN",
        )
        tag("p", "fd-mono", text)
        with ui.element("div").classes("fd-buttons"):
            push("Close", dialog.close, "fd-primary")
    await dialog
    dialog.delete()


BUILDERS: dict[str, Callable[[Page], None]] = {
    "/": overview, "/servers": servers, "/leases": leases, "/clients": clients,
    "/history": history, "/health": health, "/log": log, "/manage": manage,
}  # fmt: skip


def install(manager: Manager) -> None:
    """Makes every page known to NiceGUI. Who comes here has passed the guard."""
    for path, build in BUILDERS.items():
        ui.page(path)(builder(manager, path, build))


def builder(
    manager: Manager, path: str, build: Callable[[Page], None]
) -> Callable[[Request], Awaitable[None]]:
    async def show(request: Request) -> None:
        login: Login = request.state.login
        if login.local:
            login = await asyncio.to_thread(manager.our_login)
        page = Page(manager, login, request.cookies.get("fdtheme", ""), path)
        build(page)
        page.begin()

    return show
