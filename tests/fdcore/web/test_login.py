"""Logging in with a pool's certificates: as whom, over TLS, and what is seen then."""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from fdcore.security import authority
from fdcore.security.tokens import parse
from fdcore.sockets import in_table, uid_of_peer
from fdcore.web import app
from fdcore.web.guard import own_names, refusal
from fdcore.web.logins import Logins, code_of, code_text
from tests.fdcore.web.browsing import (
    CHROMIUM,
    PATIENCE,
    Seen,
    browser,
    end,
    start_manager,
)
from tests.support import environment, start_server, until

FAR = {"X-Forwarded-For": "192.0.2.7"}  # not this process's own user, then


def command(module, *words, env):
    return subprocess.run(
        [sys.executable, "-m", f"fdcore_cli.{module}", *words], env=env, text=True,
        capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


class Browser:
    """As much of one as a login needs. The pool's certificates are none of the web's."""

    def __init__(self, url):
        self.url = url
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor())

    def open(self, path, form=None, headers=FAR):
        body = None if form is None else urllib.parse.urlencode(form).encode()
        asked = urllib.request.Request(self.url + path, body, headers)
        with self.opener.open(asked, timeout=60) as answer:
            return answer.read().decode()

    def log_in(self, code):
        self.open("login", {"code": code})

    def leases(self):
        return json.loads(self.open("export/leases.json"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A founding server with its manager, which speaks TLS; ann and bob are users."""
    pytest.importorskip("nicegui", reason="the manager's packages are not installed (fdcore[web])")
    folder = tmp_path_factory.mktemp("pool")
    authority.found(folder / "founder")
    more = {"FD_TLS": "always", "FD_POOL": str(folder / "founder")}
    server = start_server(tmp_path_factory.mktemp("fd"), **more)
    people = {}
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer"), ("boss", "admin")):
        own = folder / name
        own.mkdir()
        people[name] = environment(own, FD_TLS="always", FD_IDENTITY=str(own / "identity"))
        made = authority.Authority(folder / "founder").invite(role, 600, 1, name, [server.control])
        done = command("flexdirect", "init", "--accept-terms", made, env=people[name])
        assert done.returncode == 0, done.stderr
    manager = start_manager(folder, server.control, environment=server.environment)
    yield server, manager, people
    assert manager.stop() == 0
    server.stop()


def code_of_somebody(pool, name, *options):
    server, _, people = pool
    done = command("flexdirect", "web", "-l", server.control, *options, env=people[name])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_manager_of_a_pool_speaks_tls(pool):
    assert pool[1].url.startswith("https://127.0.0.1:")
    assert "Login code" in Browser(pool[1].url).open("")


@pytest.fixture
def running(pool):
    """ann has a lease."""
    server, _, people = pool
    program = subprocess.Popen(
        [sys.executable, "-m", "fdcore_cli.fdrun", "-l", server.control, "-m", "128",
         "sleep", "1000"], env=people["ann"])
    yield program
    end(program)


def test_users_see_their_own_and_others_everybodys(pool, running):
    shown = {}
    for name in ("boss", "ann", "bob", "eve"):
        shown[name] = Browser(pool[1].url)
        shown[name].log_in(code_of_somebody(pool, name))
    until(lambda: shown["boss"].leases(), 60)
    assert [row["user"] for row in shown["ann"].leases()] == ["ann"]
    assert [row["user"] for row in shown["eve"].leases()] == ["ann"]
    assert shown["bob"].leases() == []
    (gpu, _) = json.loads(shown["bob"].open("export/gpus.json"))
    assert (gpu["granted_mib"], gpu["leases"]) == (128, 1)


def test_admin_may_let_somebody_in_as_viewer(pool):
    browser = Browser(pool[1].url)
    browser.log_in(code_of_somebody(pool, "boss", "--role", "viewer"))
    assert 'data-role=""' not in browser.open("login")  # it goes on to the pages
    assert browser.leases() is not None
    refused = command("flexdirect", "web", "-l", pool[0].control, "--role", "admin", env=pool[2]["ann"])
    assert refused.returncode == 125
    assert "a user cannot let others in as admin" in refused.stderr


@pytest.mark.parametrize("code", ["", "hello", code_text(bytes(32)), "a" * 9000])
def test_wrong_code_is_refused(pool, code):
    with pytest.raises(urllib.error.HTTPError) as caught:
        Browser(pool[1].url).log_in(code)
    assert caught.value.code in (400, 403)


def test_strangers_are_told_no_addresses_and_may_not_try_for_ever(pool):
    folder = pool[1].log_path.parent / "tries"
    folder.mkdir()
    manager = start_manager(folder, pool[0].control, environment=pool[0].environment)
    answers = []
    try:
        while 429 not in [code for code, _ in answers] and len(answers) < 100:
            with pytest.raises(urllib.error.HTTPError) as caught:
                Browser(manager.url).log_in(code_text(bytes(32)))
            answers.append((caught.value.code, caught.value.read().decode()))
        assert "Login code" in Browser(manager.url).open("")  # only trying is refused
    finally:
        assert manager.stop() == 0
    assert answers[0][0] == 403
    assert answers[-1][0] == 429
    assert [text for _, text in answers if pool[0].control in text] == []
    assert pool[0].control in manager.log


@pytest.mark.parametrize("path", ["export/leases.csv", "", "servers", "logout"])
def test_who_has_not_logged_in_is_shown_nothing(pool, path):
    assert "Login code" in Browser(pool[1].url).open(path)


def test_metrics_are_for_this_machine(pool):
    assert 'fd_up{server=' in Browser(pool[1].url).open("metrics", headers={})
    with pytest.raises(urllib.error.HTTPError) as caught:  # of a proxy on this machine
        Browser(pool[1].url).open("metrics")
    assert caught.value.code == 403


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium (apt)")
@pytest.mark.timeout(900)
def test_admin_makes_tokens_and_revokes(pool):
    pytest.importorskip("playwright", reason="playwright is not installed (fdcore[test])")
    server, manager, _ = pool
    code = code_of_somebody(pool, "boss")
    seen = Seen((manager.url,))
    with browser() as opened:
        context = opened.new_context(ignore_https_errors=True, extra_http_headers=FAR)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        seen.watch(page)
        page.goto(f"{manager.url}login#{code}")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Manage").click()
        members = page.get_by_role("table", name="Members").locator("tbody tr")
        members.filter(has_text="bob").wait_for()
        assert members.count() == 5  # with the server itself
        page.get_by_label("For whom").fill("carol")
        page.get_by_role("button", name="Make a token").click()
        page.get_by_role("dialog").get_by_role("button", name="Make it").click()
        token = page.get_by_role("dialog").locator(".fd-mono").inner_text()
        page.get_by_role("button", name="Close").click()
        joined = parse(token)
        assert (joined.role, joined.addresses) == ("user", (server.control,))
        members.filter(has_text="bob").get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        members.filter(has_text="bob").locator(".fd-chip", has_text="revoked").wait_for()
    assert seen.outside == []
    assert seen.errors == []
    refused = command("flexdirect", "web", "-l", server.control, env=pool[2]["bob"])
    assert refused.returncode == 125
    assert "revoked" in refused.stderr


# ---- the parts ----


def test_code_is_read_as_people_paste_it():
    code = bytes(range(32))
    for text in (code_text(code), f" {code_text(code)}\n", f"http://gpu1:54000/login#{code_text(code)}"):
        assert code_of(text) == code


def certificate_of(context):
    """What a server with that context shows."""
    theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = ssl.create_default_context()
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    client = asking.wrap_bio(theirs, ours)
    server = context.wrap_bio(ours, theirs, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return client.getpeercert(binary_form=True)


def test_renewed_certificate_is_shown(tmp_path, caplog):
    founder = authority.found(tmp_path / "founder")
    own = founder.folder / "own.pem"
    shown, context = app.Shown(own, own), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    first = certificate_of(context)
    shown.renew(context)
    assert certificate_of(context) == first
    authority.renew_own(founder)
    assert certificate_of(context) == first
    shown.renew(context)
    second = certificate_of(context)
    assert second not in (None, first)
    own.write_text("half of it")
    shown.renew(context)
    assert "own.pem" in caplog.text
    assert certificate_of(context) == second


def test_cookie_of_other_letters_is_nobodys():
    logins = Logins(b"")
    name = logins.keep({})
    assert logins.find(name) is not None
    assert logins.find("\xe4" * len(name)) is None


NAMES = own_names(["gpu1.example"])


@pytest.mark.parametrize(("method", "host", "origin", "site", "refused"), [
    ("GET", "gpu1.example:54000", None, "", False),
    ("GET", "GPU1.example", None, "", False),
    ("GET", "127.0.0.1:54000", None, "", False),
    ("GET", "[::1]:54000", None, "", False),
    ("GET", "10.0.0.5", "http://evil.example", "cross-site", False),  # a link to us
    ("GET", "evil.example", None, "", True),
    ("GET", "gpu1.example.evil.example", None, "", True),
    ("GET", "", None, "", True),
    ("GET", "[::1", None, "", True),
    ("POST", "10.0.0.5:54000", "http://10.0.0.5:54000", "same-origin", False),
    ("POST", "10.0.0.5:54000", "http://10.0.0.5:54001", "", True),
    ("POST", "10.0.0.5:54000", "null", "", True),
    ("POST", "10.0.0.5:54000", None, "same-site", True),
    ("WEBSOCKET", "10.0.0.5:54000", "https://evil.example", "", True),
    ("WEBSOCKET", "10.0.0.5:54000", "https://10.0.0.5:54000", "", False),
])
def test_host_and_origin_are_ours(method, host, origin, site, refused):
    assert bool(refusal(method, host, origin, site, NAMES)) == refused


def test_kernel_says_whose_a_connection_is():
    import os
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
        with here:
            ends = here.getsockname(), here.getpeername()
            assert uid_of_peer(*ends) == os.geteuid()
            there.close()  # a socket without a process has no owner, and is not root's
            assert uid_of_peer(*ends) == -1
    assert uid_of_peer(("10.0.0.1", 1), ("10.0.0.2", 2)) == -1


def test_addresses_are_written_as_the_kernel_does():
    import socket

    assert in_table(socket.AF_INET, "127.0.0.1", 80) == "0100007F:0050"
    assert in_table(socket.AF_INET6, "::1", 65535) == "00000000000000000000000001000000:FFFF"
