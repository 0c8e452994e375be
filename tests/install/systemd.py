"""fdserver's unit under a real systemd, as the first process of a system of its own: this
one's files with a layer above them (make test-packages). Needs root and systemd."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_restart import CUDA
from tests.support import ROOT

pytestmark = pytest.mark.timeout(600)
SYSTEMD = Path("/lib/systemd/systemd")
# The service may not look into homes, so what it runs is found below /opt.
MOUNTS = """
set -ex
mount -t tmpfs none {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay none -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root
cd {top}/root
mount -t proc none proc
mount -t tmpfs none run
mount -t tmpfs none tmp
mount --rbind /sys sys
mount --rbind /dev dev
mount -t cgroup2 none sys/fs/cgroup
mount --bind {shared} mnt
mkdir -p opt/python opt/fdcore opt/cli
mount --bind {python} opt/python
mount --bind {source} opt/fdcore
ln -s /opt/fdcore/cli opt/cli/fdcore_cli
{sites}
rm -rf etc/systemd/system/*.wants var/lib/fdserver
cp -r mnt/files/. .
systemd-sysusers --root=. fdserver.conf
export container=other
exec chroot . sh -c 'exec /lib/systemd/systemd --unit=test.service >/mnt/systemd 2>&1'
"""
COMMAND = """#!/bin/sh
export PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/{python} -m fdcore_cli.{name} "$@"
"""
TEST = """
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/script
StandardOutput=file:/mnt/said
StandardError=file:/mnt/errors
"""
SCRIPT = r"""
until_true() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; echo "not: $*"; exit 1; }
main() { systemctl show -P MainPID fdserver; }
active() { [ "$(systemctl is-active fdserver)" = active ]; }
say() { echo "== $1"; }
say first; cat /proc/1/comm
systemctl daemon-reload
say started; systemctl start fdserver; systemctl is-active fdserver
pid=$(main); stat -c %U /proc/$pid
export XDG_RUNTIME_DIR=/run
mkfifo /tmp/in
fdrun -l unix:/run/fdserver/control.sock -m 100 /opt/python/bin/PYTHON -c "$(cat /mnt/cuda)" </tmp/in >/tmp/out 2>&1 &
exec 7>/tmp/in
lines() { [ "$(wc -l </tmp/out)" = "$1" ]; }
until_true lines 1
echo >&7; until_true lines 2
say reloaded; systemctl reload fdserver
again() { [ "$(journal | grep -c 'out since before')" = "$1" ]; }
journal() { cat /mnt/log; }
until_true again 1; until_true active
[ "$(main)" = $pid ] && echo the same process
echo >&7; until_true lines 3
say killed; kill -9 $pid
another() { [ "$(main)" != $pid ] && [ "$(main)" != 0 ] && active; }
until_true another; until_true again 2
systemctl show -P NRestarts fdserver
echo >&7; until_true lines 4
say program; cat /tmp/out
exec 7>&-; wait $!; echo $?
say stopped; systemctl stop fdserver; systemctl is-active fdserver
pgrep -lu fdserver
say end
"""


@pytest.mark.skipif(os.geteuid() != 0 or not SYSTEMD.exists(), reason="needs root and systemd")
def test_unit_under_a_real_systemd(tmp_path):
    files = tmp_path / "shared" / "files"
    shared = files.parent
    sites = [p for p in map(Path, sys.path) if p.is_dir() and p.name == "site-packages"]
    mounts = [f"mkdir -p opt/site{n}; mount --bind {p} opt/site{n}" for n, p in enumerate(sites)]
    path = ":".join(["/opt/fdcore", "/opt/cli", *(f"/opt/site{n}" for n in range(len(sites)))])
    real = Path(sys.executable).resolve()
    for name in ("fdserver", "fdrun"):
        command = files / "usr" / "bin" / name
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(COMMAND.format(path=path, python=real.name, name=name))
        command.chmod(0o755)
    units = files / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    unit = (ROOT / "install" / "fdserver.service").read_text()
    (units / "fdserver.service").write_text(unit)
    log = units / "fdserver.service.d"
    log.mkdir()
    (log / "log.conf").write_text("[Service]\nStandardError=append:/mnt/log\n")
    (units / "test.service").write_text(TEST)
    defaults = files / "etc" / "default"
    defaults.mkdir(parents=True)
    (defaults / "fdserver").write_text("FD_CPU_DEVICES=1\nFD_TRANSPORT=tcp\n")
    sysusers = files / "usr" / "lib" / "sysusers.d"
    sysusers.mkdir(parents=True)
    shutil.copy(ROOT / "install" / "fdserver.sysusers", sysusers / "fdserver.conf")
    (shared / "cuda").write_text(CUDA)
    (shared / "script").write_text(SCRIPT.replace("PYTHON", real.name))
    top = tmp_path / "top"
    top.mkdir()
    script = MOUNTS.format(
        top=top, shared=shared, python=real.parent.parent, source=ROOT, sites="\n".join(mounts)
    )
    done = subprocess.run(
        ["unshare", "-m", "-p", "-n", "-u", "-i", "-C", "-f", "--propagation", "private", "sh", "-c", script],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    texts = {
        name: (shared / name).read_text(errors="replace") if (shared / name).exists() else ""
        for name in ("said", "errors", "log", "systemd")
    }
    assert "== end" in texts["said"], (texts, done.stderr[-2000:])
    said = dict(part.split("\n", 1) for part in texts["said"].split("== ")[1:])
    assert said["first"] == "systemd\n"
    assert said["started"] == "active\nfdserver\n"
    assert said["reloaded"] == "the same process\n"
    assert said["killed"] == "1\n"
    assert said["program"] == "up\nagain\nagain\nagain\n0\n"
    assert said["stopped"] == "inactive\n"
