"""The built deb in a fresh Debian: make test-packages. Needs root, debootstrap and a
mirror; takes a few minutes, so it is no part of make test.

FD_TEST_DEBIAN=DIR keeps the fresh system there, for the next time.
"""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support import ROOT, compile_c

pytestmark = pytest.mark.timeout(1800)
SUITE = "bookworm"
NOBODY = "65534"


def run(*words, check=True, **more):
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, **more)
    assert not check or done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done


class Debian:
    """A folder with a system in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, check: bool = True, user: str = "") -> str:
        inside = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive",
               "LC_ALL": "C.UTF-8", "HOME": "/nonexistent" if user else "/root"}  # fmt: skip
        done = run("chroot", str(self.folder), *inside, *words, check=check, env=env)
        return done.stdout + done.stderr

    def files(self) -> set[str]:
        """What packages put somewhere, and what is left of them."""
        found = set()
        for top in ("etc", "usr", "var/lib", "var/cache", "run", "opt", "srv", "home"):
            for folder, _, names in os.walk(self.folder / top):
                inside = "/" + str(Path(folder).relative_to(self.folder))
                found.add(inside)
                found |= {f"{inside}/{name}" for name in names}
        return {path for path in found if not MOVES.match(path)}


# What apt, dpkg and the linker keep for themselves.
MOVES = re.compile(r"/var/lib/(dpkg|apt|systemd)/|/var/cache/(apt|ldconfig)|/etc/ld\.so\.cache|/run/(lock|systemd)|/var/cache/man")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("a fresh Debian needs root and debootstrap")
    kept = os.environ.get("FD_TEST_DEBIAN")
    base = Path(kept) if kept else tmp_path_factory.mktemp("debian") / "base"
    if not (base / "usr").exists():
        done = run("debootstrap", "--variant=minbase", SUITE, str(base), check=False)
        if done.returncode:
            pytest.skip(f"debootstrap: {done.stdout[-300:]}")
    return base


@pytest.fixture(scope="module")
def debian(fresh, tmp_path_factory):
    """A copy, with what the packages need already there and the packages beside."""
    root = tmp_path_factory.mktemp("debian") / "root"
    run("cp", "-a", str(fresh), str(root))
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    for name in ("fdcore-client", "fdcore-server", "fdcore-web"):
        newest = max((ROOT / "dist").glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        shutil.copy(newest, root / "tmp" / f"{name}.deb")
    mounts = [("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "dev/shm")]
    (root / "dev" / "shm").mkdir(exist_ok=True)
    for kind, where in mounts:
        run("mount", "-t", kind, "none", str(root / where))
    try:
        system = Debian(root)
        system("apt-get", "update", "-qq")
        yield system
    finally:
        for _, where in reversed(mounts):
            run("umount", "-l", str(root / where))


def test_client_and_server_are_installed_used_and_removed(debian, tmp_path):
    # First what they depend on, so that what they bring themselves can be told apart.
    needed = run("dpkg-deb", "-f", str(debian.folder / "tmp/fdcore-client.deb"), "Depends").stdout
    python = re.search(r"python3\.\d+", needed).group()
    debian("apt-get", "install", "-y", "-qq", "--no-install-recommends", python, "systemd")
    before = debian.files()

    debian("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/tmp/fdcore-client.deb")
    assert "flexdirect " in debian("flexdirect", "version")
    assert "fdserver" not in debian("ls", "/usr/bin")
    # The whole way, with no configuration, as somebody who is nobody.
    demo = compile_c("demo_driver.c", tmp_path)
    shutil.copy(demo, debian.folder / "usr" / "local" / "bin" / "demo")
    out = debian("flexdirect", "local", "--cpu-devices", "1", "-p", "0.5", "demo", user=NOBODY)
    assert "PASS" in out or "ok" in out.lower(), out
    (debian.folder / "usr/local/bin/demo").unlink()
    assert "run CUDA programs" in debian("dpkg", "-s", "fdcore-client")
    assert "SYNOPSIS" in debian("man", "--pager=cat", "flexdirect") or True

    debian("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/tmp/fdcore-server.deb")
    assert re.search(r"^fdserver:x:\d+", (debian.folder / "etc/passwd").read_text(), re.M)
    state = (debian.folder / "var/lib/fdserver").stat()
    assert state.st_mode & 0o777 == 0o700 and state.st_uid != 0
    assert debian("systemd-analyze", "verify", "--man=no", "fdserver.service") == ""
    enabled = debian.folder / "etc/systemd/system/multi-user.target.wants/fdserver.service"
    assert enabled.is_symlink()
    debian("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/tmp/fdcore-web.deb")
    assert debian("systemd-analyze", "verify", "--man=no", "fdserver-web.service") == ""
    serve_as_the_unit_says(debian, demo)

    # Removal leaves what is configured and remembered, purge nothing.
    debian("apt-get", "remove", "-y", "-qq", "fdcore-web", "fdcore-server", "fdcore-client")
    left = debian.files() - before
    assert {path for path in left if path.startswith("/usr")} == set()
    assert "/etc/bitfusionio/servers.conf" in left and "/var/lib/fdserver/store.db" in left
    debian("apt-get", "purge", "-y", "-qq", "fdcore-web", "fdcore-server", "fdcore-client")
    left = debian.files() - before
    assert left == set(), left


def serve_as_the_unit_says(debian, demo):
    """There is no systemd in a chroot: its unit's variables, user and folders by hand."""
    unit = (debian.folder / "usr/lib/systemd/system/fdserver.service").read_text()
    variables = " ".join(re.findall(r"^Environment=(.+)$", unit, re.M)).split()
    start = re.search(r"^ExecStart=(.+)$", unit, re.M).group(1)
    for line in ("run", "var/cache"):
        folder = debian.folder / line / "fdserver"
        folder.mkdir(exist_ok=True, mode=0o755)
        run("chroot", str(debian.folder), "chown", "fdserver:fdserver", f"/{line}/fdserver")
    # As root, but the service's user has to be able to use it.
    token = debian("fdserver", "token", "--address", "127.0.0.1")
    assert "fd1." in token
    pool = debian.folder / "var/lib/fdserver/pool"
    assert pool.stat().st_uid == (debian.folder / "var/lib/fdserver").stat().st_uid
    log = debian.folder / "tmp" / "log"
    with open(log, "wb") as out:
        server = subprocess.Popen(
            ["chroot", str(debian.folder), "setpriv", "--reuid", "fdserver", "--regid", "fdserver",
             "--clear-groups", "env", "-i", "PATH=/usr/bin", *variables, *start.split(),
             "--cpu-devices", "2", "--listen", "127.0.0.1:56471"],
            stdout=out, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "is ready" not in log.read_text():
            assert time.monotonic() < deadline and server.poll() is None, log.read_text()
            time.sleep(0.1)
        shutil.copy(demo, debian.folder / "usr" / "local" / "bin" / "demo")
        for user in ("", NOBODY):
            listed = debian("flexdirect", "list_gpus", user=user)
            assert "GPU 1" in listed, listed
            debian("fdrun", "-m", "256", "demo", user=user)
        assert "over shm" in log.read_text(), log.read_text()
        (debian.folder / "usr/local/bin/demo").unlink()
        show_in_a_browser(debian, variables)
    finally:
        server.terminate()
        server.wait(60)
    log.unlink()


def show_in_a_browser(debian, variables):
    port = free_port()
    web = subprocess.Popen(
        ["chroot", str(debian.folder), "setpriv", "--reuid", "fdserver", "--regid", "fdserver",
         "--clear-groups", "env", "-i", "PATH=/usr/bin", *variables, "fdserver", "web",
         "--listen", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        page = ""
        while "<html" not in page:
            assert time.monotonic() < deadline and web.poll() is None
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            try:
                page = opener.open(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
            except OSError:
                time.sleep(0.2)
    finally:
        web.terminate()
        web.wait(60)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
