"""The manager as a person uses it: pages in Debian's Chromium, against live servers."""

import json
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest

from fdcore.config import parse_address, protocol_hash
from fdcore.rpc import watching
from fdcore.web.logins import code_text
from tests.fdcore.web.browsing import (
    CHROMIUM,
    PATIENCE,
    Seen,
    browser,
    end,
    pool,
    start_manager,
    work,
)  # fmt: skip
from tests.support import until

pytest.importorskip("nicegui", reason="the manager's packages are not installed (fdcore[web])")
pytest.importorskip("playwright", reason="playwright is not installed (fdcore[test])")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium (apt)"),
    pytest.mark.timeout(900),  # each wait has a bound of its own
]

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    started = pool(folder)
    yield started
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def managers(servers, tmp_path_factory):
    """One on each server's host; both know both servers."""
    folder = tmp_path_factory.mktemp("managers")
    listed = ",".join(server.unix for server in servers)
    made = []
    for number, server in enumerate(servers):
        own = folder / f"m{number}"
        own.mkdir()
        made.append(start_manager(own, listed, environment=server.environment))
    yield made
    assert [manager.stop() for manager in made] == [0] * len(made)
    assert [manager.log for manager in made if "Traceback" in manager.log] == []


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_left(servers, managers):
    """Leases of one test are not seen by the next, nor shown any more."""
    yield
    until(lambda: all(server.free() == [1024, 1024] for server in servers), 60)
    for manager in managers:
        until(lambda url=manager.url: shown_leases(url) == [], 60)


def shown_leases(url):
    with urllib.request.urlopen(f"{url}export/leases.json", timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def open_page(chromium, managers):
    """Opens a page in a context of its own; the page must have done nothing wrong."""
    opened, watched = [], Seen()

    def make(path="", *, manager=managers[0], headers=None, **more):
        watched.own += (manager.url,)
        context = chromium.new_context(extra_http_headers=headers or {}, **more)
        context.set_default_timeout(PATIENCE)
        opened.append(context)
        page = context.new_page()
        watched.watch(page)
        page.goto(manager.url + path)
        return page

    make.seen = watched
    yield make
    for context in opened:
        context.close()
    assert watched.outside == []
    assert [text for text in watched.errors if text not in watched.expected] == []


# With it nobody is let in as this process's own user: they come from somewhere else.
FAR = {"X-Forwarded-For": "192.0.2.7"}
# What Chromium writes of a wrong login, whose page has the status 403.
REFUSED = (
    "error: Failed to load resource: the server responded with a status of 403 (Forbidden)"
)


def code_for(servers, role):
    code = secrets.token_bytes(32)
    for server in servers:
        in_a_thread(watching.lend, parse_address(server.unix), protocol_hash(), code, role)
    return code_text(code)


def in_a_thread(function, *arguments):
    """Playwright has a loop in this one."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


def row(page, program):
    return page.get_by_role("table", name="Leases").locator("tr", has_text=program)


def test_lease_appears_while_it_runs_and_can_be_ended(open_page, servers):
    page = open_page()
    page.wait_for_selector(".fd-empty")
    # What the page itself measures: from the lease's own start to its row.
    page.evaluate("""() => { window.appeared = new Promise((done) => {
        const look = () => document.querySelector("table td.fd-mono")
            ? done(Date.now() / 1000) : setTimeout(look, 10); look(); }) }""")
    begun = time.time()
    program = servers[0].start("-m", "256", "sleep", "1000")
    try:
        appeared = page.evaluate("() => window.appeared")
        print(f"a lease appears {appeared - begun:.2f} s after fdrun was started")
        # Looked at every second and shown every second, so at most two from its grant.
        from fdcore.web import cluster, pages

        assert cluster.SEEN_SECONDS + pages.REFRESH_SECONDS <= 2.0
        lease = row(page, "sleep")
        lease.wait_for()
        slice = page.locator(".fd-slice")
        slice.wait_for()
        assert slice.evaluate("(e) => e.style.width") == "25%"
        assert slice.get_attribute("aria-label").startswith("sleep of ")
        lease.get_by_role("button", name="End").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("End the lease of sleep?").wait_for()
        dialog.get_by_role("button", name="Cancel").click()
        dialog.wait_for(state="detached")
        assert lease.count() == 1
        lease.get_by_role("button", name="End").click()
        page.get_by_role("dialog").get_by_role("button", name="End lease").click()
        lease.wait_for(state="detached")
        slice.wait_for(state="detached")
        until(lambda: servers[0].free() == [1024, 1024], 60)
    finally:
        end(program)


def test_what_a_program_does_is_shown(open_page, servers):
    program = work(servers[0], "-m", "512", mib=128)
    try:
        page = open_page("leases")
        lease = row(page, "python")
        lease.locator("td[data-label='Memory in use']", has_text="128 MiB").wait_for()
        lease.locator("td[data-label='Compute']", has_text=re.compile(r"[1-9]\d*%")).wait_for()
        lease.locator("td[data-label='Traffic']", has_text=re.compile("MiB/s|KiB/s")).wait_for()
        page.goto(page.url.replace("/leases", "/clients"))
        client = page.get_by_role("table", name="Clients").locator("tbody tr")
        client.locator("td[data-label='Memory']", has_text="512 MiB").wait_for()
    finally:
        end(program)


def test_roles_hold(open_page, servers):
    program = servers[0].start("-m", "256", "sleep", "1000")
    try:
        viewer = open_page(headers=FAR)
        assert viewer.url.endswith("/login")
        code = code_for(servers, "viewer")
        viewer.get_by_label("Login code").fill(code)
        viewer.get_by_role("button", name="Log in").click()
        lease = row(viewer, "sleep")
        lease.wait_for()
        assert viewer.locator("[data-role]").inner_text() == "viewer"
        assert viewer.get_by_role("button", name="End").count() == 0
        assert viewer.get_by_role("button", name="Drain").count() == 0
        assert viewer.get_by_role("link", name="Manage").count() == 0
        # The code is good once.
        open_page.seen.expected.append(REFUSED)
        again = open_page(headers=FAR)
        again.get_by_label("Login code").fill(code)
        with again.expect_response(lambda answer: answer.request.method == "POST") as answer:
            again.get_by_role("button", name="Log in").click()
        assert answer.value.status == 403
        again.get_by_role("alert").get_by_text("was used").first.wait_for()
        viewer.get_by_role("button", name="Log out").click()
        viewer.get_by_label("Login code").wait_for()
        viewer.goto(viewer.url.replace("/login", "/leases"))
        assert viewer.url.endswith("/login")
    finally:
        end(program)


def test_both_managers_show_the_same_pool(open_page, servers, managers):
    program = servers[1].start("-m", "512", "sleep", "1000")
    try:
        shown = []
        for manager in managers:
            page = open_page(manager=manager)
            row(page, "sleep").wait_for()
            page.locator(f"[data-server='{servers[1].unix}'] .fd-slice").wait_for()
            cards = page.locator("[data-server]")
            shown.append([
                (card.get_attribute("data-server"), card.get_attribute("data-state"),
                 card.locator(".fd-slice").count())
                for card in cards.all()])
        assert shown[0] == shown[1] == [(servers[0].unix, "up", 0), (servers[1].unix, "up", 1)]
    finally:
        end(program)


def test_names_of_others_are_text(open_page, servers, tmp_path):
    program = tmp_path / NASTY
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    started = servers[0].start("-m", "64", str(program))
    try:
        page = open_page()
        page.get_by_role("table", name="Leases").get_by_text("onerror").first.wait_for()
        assert page.locator("img[src='x']").count() == 0
    finally:
        end(started)


def test_drained_server_says_so_and_is_resumed(open_page, servers):
    page = open_page("servers")
    card = page.locator(f"[data-server='{servers[1].unix}']")
    for button, state in (("Drain", "draining"), ("Resume", "up")):
        card.get_by_role("button", name=button).click()
        page.get_by_role("dialog").get_by_role("button", name=button).click()
        page.locator(f"[data-server='{servers[1].unix}'][data-state='{state}']").wait_for()


def test_quota_is_set_and_removed(open_page, servers):
    page = open_page("manage")
    page.get_by_label("User, or * for the rest").fill("ann")
    page.get_by_label("GPUs", exact=True).fill("2")
    page.get_by_label("Memory", exact=True).fill("8G")
    page.get_by_role("button", name="Set quota").click()
    page.get_by_role("dialog").get_by_role("button", name="Set quota").click()
    quota = page.get_by_role("table", name="Quotas").locator("tbody tr")
    quota.wait_for()
    assert quota.locator("td").all_inner_texts()[1:4] == ["ann", "2", "8 GiB"]
    quota.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    quota.wait_for(state="detached")


def test_every_page_is_there_at_phone_width_and_by_keyboard(open_page):
    page = open_page(viewport={"width": 390, "height": 844})
    for name in ("Servers", "Leases", "Clients", "History", "Health", "Log", "Manage", "Overview"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", level=1, name=name).wait_for()
        page.locator(".fd-chip.fd-good", has_text="2 of 2 servers up").wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{name} is {wide} wide"


def test_health_is_checked(open_page):
    page = open_page("health")
    checks = page.get_by_role("table", name="Health").locator("tbody tr")
    checks.first.wait_for()
    assert checks.filter(has_text="server answers").count() == 2


def test_history_is_drawn(open_page):
    page = open_page("history")
    page.locator(".fd-chart canvas").first.wait_for()
    page.get_by_role("button", name="7 d").click()
    page.locator("button[aria-pressed='true']", has_text="7 d").wait_for()


def test_dead_server_is_shown_dead(open_page, servers, managers, tmp_path, make_server):
    third = make_server()
    manager = start_manager(
        tmp_path, f"{servers[0].unix},{third.unix}", environment=servers[0].environment)
    try:
        page = open_page(manager=manager)
    except BaseException:
        manager.stop()
        raise
    try:
        card = page.locator(f"[data-server='{third.unix}']")
        page.locator(f"[data-server='{third.unix}'][data-state='up']").wait_for()
        third.process.kill()
        page.locator(f"[data-server='{third.unix}'][data-state='dead']").wait_for()
        card.get_by_text("dead", exact=True).wait_for()
        page.locator(".fd-chip", has_text="1 of 2 servers up").wait_for()
        assert page.locator(f"[data-server='{servers[0].unix}'][data-state='up']").count() == 1
        page.context.close()
    finally:
        manager.stop()


def request(manager, head, path="/"):
    """The status line of an answer to a request of our own making."""
    host, port = manager.url.split("//")[1].strip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        method, more = head
        text = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{more}\r\n"
        sock.sendall(text.replace("PORT", port).encode())
        answer = b""
        with suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
    return int(answer.split(b" ", 2)[1])


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.mark.parametrize(("head", "path", "status"), [
    (("GET", "Host: 127.0.0.1:PORT\r\n"), "/", 200),
    (("GET", "Host: localhost:PORT\r\n"), "/", 200),
    (("GET", "Host: evil.example\r\n"), "/", 403),
    (("GET", "Host: evil.example:PORT\r\n"), "/metrics", 403),
    (("GET", "Host: 127.0.0.1:PORT\r\nX-Forwarded-For: 192.0.2.7\r\n"), "/", 303),
    (("POST", "Host: 127.0.0.1:PORT\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n"), "/logout", 403),
    (("POST", "Host: 127.0.0.1:PORT\r\nOrigin: null\r\nContent-Length: 0\r\n"), "/logout", 403),
    (("POST", "Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n"), "/login", 403),
    (("POST", "Host: 127.0.0.1:PORT\r\nOrigin: http://127.0.0.1:PORT\r\nContent-Length: 0\r\n"), "/login", 403),
    (("GET", f"Host: 127.0.0.1:PORT\r\nOrigin: http://evil.example\r\n{UPGRADE}"), SOCKET, 403),
    (("GET", f"Host: evil.example\r\nOrigin: http://evil.example\r\n{UPGRADE}"), SOCKET, 403),
    (("GET", f"Host: 127.0.0.1:PORT\r\nVia: 1.1 proxy\r\nOrigin: http://127.0.0.1:PORT\r\n{UPGRADE}"), SOCKET, 403),
], ids=lambda value: "" if isinstance(value, int) else str(value)[:30])
def test_foreign_host_and_origin_are_refused(managers, head, path, status):
    assert request(managers[0], head, path) == status


def test_lists_are_exported(open_page, servers):
    program = servers[0].start("-m", "256", "sleep", "1000")
    try:
        page = open_page()
        row(page, "sleep").wait_for()
        own = page.context.request
        (lease,) = own.get(page.url + "export/leases.json").json()
        assert (lease["program"], lease["memory_mib"]) == ("sleep", 256)
        answer = own.get(page.url + "export/gpus.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="gpus.csv"'
        assert len(answer.text().splitlines()) == 5
        assert own.get(page.url + "export/secrets.csv").status == 404
    finally:
        end(program)


def test_manager_beyond_loopback_wants_a_pool(tmp_path, servers):
    command = [sys.executable, "-m", "fdcore_cli.fdserver", "web", "--listen", "0.0.0.0:0"]
    done = subprocess.run(
        [*command, "--state", str(tmp_path)], env=servers[0].environment, text=True,
        capture_output=True, timeout=120)
    assert done.returncode == 125
    assert "before this host belongs to a pool" in done.stderr
