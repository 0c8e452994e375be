"""Debian packages, made without debhelper: what they need is little and stands here."""

import hashlib
import os
import subprocess
import textwrap
from email.utils import formatdate
from pathlib import Path

from install import layout
from install.environment import MINOR, ROOT
from install.layout import CLIENT, SERVER, WEB

CONTROL = """\
Package: {name}
Version: {version}
Architecture: amd64
Maintainer: fdcore <fdcore@localhost>
Installed-Size: {size}
Depends: {depends}
Section: science
Priority: optional
Description: {summary}
{about}
"""
SUGGESTS = {
    CLIENT: "Suggests: libucx0, bash-completion\n",
    SERVER: "Suggests: fdcore-web\n",
    WEB: "",
}
# An upgrade reloads the service: the new one takes over what runs. The manager is begun
# anew. Whether services may be touched at all is asked of policy-rc.d, as invoke-rc.d does.
POSTINST = """\
#!/bin/sh
set -e
unit=@UNIT@
if [ "$1" = configure ]; then
    @BEFORE@
fi
case $1 in
configure | abort-upgrade | abort-deconfigure | abort-remove)
    deb-systemd-helper unmask $unit >/dev/null || true
    if deb-systemd-helper --quiet was-enabled $unit; then
        deb-systemd-helper enable $unit >/dev/null || true
    else
        deb-systemd-helper update-state $unit >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ] && systemctl --quiet is-active $unit; then
            allowed=0
            if [ -x /usr/sbin/policy-rc.d ]; then
                /usr/sbin/policy-rc.d ${unit%.service} @AGAIN@ || allowed=$?
            fi
            [ "$allowed" = 101 ] || systemctl @AGAIN@ $unit || true
        elif [ -z "$2" ]; then
            deb-systemd-invoke start $unit >/dev/null || true
        fi
    fi
    ;;
esac
"""
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop @UNIT@ >/dev/null || true
fi
"""
POSTRM = """\
#!/bin/sh
set -e
unit=@UNIT@
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
case $1 in
remove)
    if [ -x /usr/bin/deb-systemd-helper ]; then
        deb-systemd-helper mask $unit >/dev/null || true
    fi
    ;;
purge)
    if [ -x /usr/bin/deb-systemd-helper ]; then
        deb-systemd-helper purge $unit >/dev/null || true
        deb-systemd-helper unmask $unit >/dev/null || true
    fi
    @GONE@
    ;;
esac
"""
# What is different: before the service's start (its folder may be root's by then, where
# fdserver is), in an upgrade, and after a purge. A
# founding server that is purged ends its pool; the account stays, as what it may own
# elsewhere does.
SERVICES = {
    SERVER: {
        "UNIT": "fdserver.service",
        "BEFORE": "systemd-sysusers fdserver.conf\n"
        "    [ -d /var/lib/fdserver ] || systemd-tmpfiles --create fdserver.conf",
        "AGAIN": "reload",
        "GONE": "rm -rf /var/lib/fdserver /var/cache/fdserver /run/fdserver",
    },
    WEB: {
        "UNIT": "fdserver-web.service",
        "BEFORE": ":",
        "AGAIN": "restart",
        "GONE": "rm -rf /var/lib/fdserver/web",
    },
}


def scripts(name: str) -> dict[str, str]:
    made = {}
    if name in SERVICES:
        made = {"postinst": POSTINST, "prerm": PRERM, "postrm": POSTRM}
        for key, value in SERVICES[name].items():
            made = {s: body.replace(f"@{key}@", value) for s, body in made.items()}
    return made


def depends(name: str, version: str, glibc: str) -> str:
    if name == CLIENT:
        return f"python{MINOR}, libc6 (>= {glibc}), libgcc-s1, libstdc++6"
    if name == WEB:
        return f"{SERVER} (= {version}), init-system-helpers (>= 1.54)"
    return (
        f"{CLIENT} (= {version}), init-system-helpers (>= 1.54), "
        "systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles"
    )


def build(
    folders: dict[str, Path], out: Path, version: str, glibc: str, fast: bool = False
) -> list[Path]:
    """fast: hardly compressed."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, folder in folders.items():
        control = folder / "DEBIAN"
        control.mkdir()
        text = CONTROL.format(
            name=name, version=version, size=layout.size(folder),
            depends=depends(name, version, glibc), summary=layout.SUMMARY[name],
            about=wrapped(layout.ABOUT[name]),
        )  # fmt: skip
        text = text.replace("Section:", f"{SUGGESTS[name]}Section:")
        (control / "control").write_text(text)
        share = folder / "usr/share/doc" / name
        layout.put(share / "changelog.Debian.gz", layout.packed(changelog(version)))
        listed = "".join(f"/{path}\n" for path in layout.CONFIGURATION[name])
        (control / "conffiles").write_text(listed)
        (control / "md5sums").write_text(sums(folder))
        for script, body in scripts(name).items():
            (control / script).write_text(body)
            (control / script).chmod(0o755)
        modes(folder)
        target = out / f"{name}_{version}_amd64.deb"
        command = [
            "dpkg-deb",
            "--root-owner-group",
            *(["-Zgzip", "-z1"] if fast else ["-Zxz"]),
        ]
        subprocess.run([*command, "--build", str(folder), str(target)], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        made.append(target)
    return made


CHANGELOG = """\
fdcore ({version}) unstable; urgency=medium

  * NEWS.gz says what is new.

 -- fdcore <fdcore@localhost>  {date}
"""


def changelog(version: str) -> str:
    """The date is the changelog's own, so that the same tree makes the same package."""
    written = (ROOT / "CHANGELOG.md").stat().st_mtime
    date = formatdate(float(os.environ.get("SOURCE_DATE_EPOCH", written)))
    return CHANGELOG.format(version=version, date=date)


def wrapped(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, 76), " ")


def sums(folder: Path) -> str:
    lines = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and inside.parts[0] != "DEBIAN":
            lines.append(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {inside}\n")
    return "".join(lines)


def modes(folder: Path) -> None:
    """Whatever the umask of who makes it."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(
                0o755
                if os.access(path, os.X_OK) and path.stat().st_mode & 0o100
                else 0o644
            )
