"""What deb and rpm consist of. tests/install/debian.py installs them (make test-packages)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from install import environment, layout, packages
from install.words import commands
from tests.parallel import building
from tests.support import ROOT

pytestmark = pytest.mark.timeout(600)
MADE = {"deb": "dpkg-deb", "rpm": "rpmbuild"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The environment without what comes from the index: the rest is the same."""
    work = tmp_path_factory.mktemp("package")
    with building():
        return work, environment.make(work / "root", dependencies=False)


def packed(kind, made):
    """The packages of a kind, by name."""
    if shutil.which(MADE[kind]) is None:
        pytest.skip(f"{MADE[kind]} is not installed")
    work, inside = made
    paths = packages.of(kind, inside, work, work, fast=True)
    return {re.match("[a-z-]+[a-z]", path.name)[0]: path for path in paths}


@pytest.fixture(scope="module")
def debs(made):
    return packed("deb", made)


@pytest.fixture(scope="module")
def rpms(made):
    return packed("rpm", made)


def said(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout


def files_of(path):
    """Each file's path, and how ls would show it."""
    if path.suffix == ".rpm":
        rows = said("rpm", "-qlvp", str(path)).splitlines()
        return {row.split(" -> ")[0].split()[-1]: row for row in rows}
    rows = said("dpkg-deb", "-c", str(path)).splitlines()
    return {row.split(" -> ")[0].split()[-1].lstrip("."): row for row in rows}


@pytest.mark.parametrize("kind", sorted(MADE))
def test_each_role_has_its_files_and_no_others(kind, request):
    found = request.getfixturevalue(f"{kind}s")
    assert set(found) == {"fdcore-client", "fdcore-server", "fdcore-web"}
    client, server, web = (files_of(found[f"fdcore-{name}"]) for name in ("client", "server", "web"))
    assert "/usr/lib/systemd/system/fdserver-web.service" in web
    assert "/etc/default/fdserver-web" in web
    for path in ("/usr/bin/fdrun", "/usr/bin/flexdirect", "/etc/bitfusionio/servers.conf",
                 "/usr/share/man/man1/flexdirect.1.gz", "/usr/share/man/man5/servers.conf.5.gz",
                 "/usr/share/bash-completion/completions/flexdirect",
                 "/usr/share/fish/vendor_completions.d/fdrun.fish",
                 "/usr/share/doc/fdcore-client/copyright"):  # fmt: skip
        assert path in client
    for path in ("/usr/bin/fdserver", "/usr/lib/systemd/system/fdserver.service",
                 "/usr/lib/sysusers.d/fdserver.conf", "/usr/lib/tmpfiles.d/fdserver.conf",
                 "/etc/default/fdserver", "/usr/share/man/man8/fdserver.8.gz"):  # fmt: skip
        assert path in server and path not in client
    libraries = [path for path in client if path.endswith("/libcuda.so.1")]
    # Not where the system's linker would find it in front of a real driver.
    assert len(libraries) == 1 and libraries[0].startswith("/usr/lib/fdcore/")
    rows = {**client, **server, **web}
    every = [path for each in (client, server, web) for path in each if rows[path][0] != "d"]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("kind", sorted(MADE))
def test_files_are_roots_and_nobody_else_can_write_them(kind, request):
    for path in request.getfixturevalue(f"{kind}s").values():
        for name, row in files_of(path).items():
            assert re.search(r"\sroot[ /]+root\s", row), row
            mode = row.split()[0]
            assert mode[0] == "l" or (mode[5] == "-" and mode[8] == "-"), row
            assert "s" not in mode.lower(), row
            assert not name.startswith(("/usr/local", "/root", "/home", "/tmp")), name


def test_deb_says_what_it_needs_and_what_is_configured(debs):
    field = "Depends"
    client = said("dpkg-deb", "-f", str(debs["fdcore-client"]), field)
    assert f"python{environment.MINOR}" in client and "libc6 (>= 2." in client
    server = said("dpkg-deb", "-f", str(debs["fdcore-server"]), field)
    assert "fdcore-client (= " in server and "sysusers" in server
    told = said("dpkg-deb", "-I", str(debs["fdcore-server"]), "conffiles")
    assert told == "/etc/default/fdserver\n"
    for name in ("fdcore-server", "fdcore-web"):
        for script in ("postinst", "prerm", "postrm"):
            body = said("dpkg-deb", "-I", str(debs[name]), script)
            assert not re.search(r"@[A-Z]+@", body)
            subprocess.run(["sh", "-n"], input=body, text=True, check=True)


def test_rpm_provides_no_library_and_says_what_it_needs(rpms):
    provided = said("rpm", "-qp", "--provides", *map(str, rpms.values()))
    assert ".so" not in provided
    needed = said("rpm", "-qp", "--requires", str(rpms["fdcore-client"]))
    assert environment.INTERPRETER in needed and "GLIBC_2." in needed
    needed = said("rpm", "-qp", "--requires", str(rpms["fdcore-server"]))
    assert "fdcore-client = " in needed
    configured = said("rpm", "-qcp", *map(str, rpms.values())).split()
    assert sorted(configured) == sorted("/" + p for ps in layout.CONFIGURATION.values() for p in ps)
    for name in ("fdcore-server", "fdcore-web"):
        scripts = said("rpm", "-qp", "--scripts", str(rpms[name]))
        for part in re.split(r"^\w+ scriptlet.*:$", scripts, flags=re.M)[1:]:
            assert not re.search(r"@[A-Z]+@", part)
            subprocess.run(["sh", "-n"], input=part, text=True, check=True)
        assert scripts.count(" scriptlet ") == 3


# In a mount namespace: this system with a layer above it, into which rpm installs, and
# where its scripts run. What the packages need is by Debian's names here.
LAYERED = """
set -e
mount -t tmpfs none {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay none -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root || exit 77
mount -t proc none {top}/root/proc
mount -t tmpfs none {top}/root/run
mkdir {top}/packages
cp {packages} {top}/packages
mkdir {top}/root/packages
mount --bind {top}/packages {top}/root/packages
exec chroot {top}/root sh -c '
set -e
rm -rf /var/lib/rpm /var/lib/fdserver
debian=; [ ! -e /etc/debian_version ] || debian=--force-debian
rpm() {{ command rpm $debian "$@" 2>&1; }}
say() {{ echo "== $1"; }}
say installed; rpm -i --nodeps /packages/*.rpm
say verified; rpm -V --nodeps fdcore-client fdcore-server fdcore-web
say user; getent passwd fdserver; stat -c "%U %a" /var/lib/fdserver
echo FD_MINE=1 >>/etc/default/fdserver
chown root: /var/lib/fdserver
say upgraded; rpm -U --force --nodeps /packages/*.rpm
say owner; stat -c "%U" /var/lib/fdserver
say kept; tail -n 1 /etc/default/fdserver
rpm -ql fdcore-client fdcore-server fdcore-web >/files
there() {{ while read -r file; do [ ! -e "$file" ] || echo "$file"; done </files; }}
say files; there
say erased; rpm -e fdcore-web fdcore-server fdcore-client
say gone; there
say left; ls -d /etc/default/fdserver* /var/lib/fdserver'
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a root folder of one's own needs root")
def test_rpm_installs_upgrades_and_goes(rpms, tmp_path):
    script = LAYERED.format(top=tmp_path, packages=" ".join(map(str, rpms.values())))
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no layer above this system: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
    assert said["verified"] == said["upgraded"] == ""
    assert "/usr/bin/fdserver" in said["files"]
    assert said["gone"] == ""
    name, _, _, _, _, home, shell = said["user"].splitlines()[0].split(":")
    assert (name, home, shell) == ("fdserver", "/var/lib/fdserver", "/usr/sbin/nologin")
    assert said["user"].splitlines()[1].startswith("fdserver ")
    assert said["owner"] == "root\n"  # as docs/admin.md has it where fdserver is root
    assert said["kept"] == "FD_MINE=1\n"
    assert said["left"].split() == ["/etc/default/fdserver.rpmsave", "/var/lib/fdserver"]


def test_installed_commands_work_from_the_package_alone(debs, tmp_path):
    """Unpacked somewhere else, with the packages of this environment in place of those
    that were left out."""
    for path in debs.values():
        said("dpkg-deb", "-x", str(path), str(tmp_path))
    inside = tmp_path / environment.PREFIX
    python = inside / "bin" / "python3"
    python.unlink()
    real = Path(sys.executable).resolve()
    python.symlink_to(real)
    (inside / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    for name in ("fdrun", "fdserver", "flexdirect"):
        launcher = tmp_path / "usr/bin" / name
        assert launcher.read_text().startswith("#!/usr/lib/fdcore/bin/python3 -I\n")
        out = said(str(python), "-I", str(launcher), "--version")
        assert out.startswith(f"{name} ")
    for compiled in inside.rglob("*.pyc"):
        assert str(tmp_path.parent).encode() not in compiled.read_bytes()


@pytest.mark.parametrize("name", ["fdserver", "fdserver-web"])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path, name):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / f"{name}.service"
    text = (ROOT / "install" / unit.name).read_text()
    unit.write_text(text.replace("/usr/bin/fdserver", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    # 0 is closed, 10 open; a service without a word of hardening has 9.6.
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-200:]


def test_unit_names_pages_that_there_are():
    text = (ROOT / "install" / "fdserver.service").read_text()
    pages = {f"{p.rpartition('.')[0]}({p.rpartition('.')[2]})" for ps in layout.PAGES.values() for p in ps}
    for name in re.findall(r"man:(\S+)", text):
        assert name in pages


def test_every_command_of_the_packages_has_a_page():
    named = {page.rpartition(".")[0] for pages in layout.PAGES.values() for page in pages}
    assert {command.path.split()[0] for command in commands()} <= named
