"""Several machines on this one: each has a network, a name, /etc, /run and /var/lib of its
own, as the packages lay them, and shares the rest. Needs root.

There is no systemd in them. What `systemctl` is there reads the unit that is installed and
does by hand what of it matters (below); only that it runs as the service's user does not
happen, because these tests' Python may be out of that user's reach. tests/install/debian.py
has that.
"""

import os
import pty
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from install import layout
from tests.support import ROOT

ADDRESS = "198.18.9."
SECONDS = 120
# In a mount namespace of the host's: what packages put somewhere, and what is written.
MOUNTS = """
set -e
mount --make-rprivate /
mount -t tmpfs none {top}
mkdir -p {top}/etc {top}/work {top}/home
mount -t overlay none -o lowerdir=/etc,upperdir={top}/etc,workdir={top}/work /etc
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mkdir -p /run/user/0 /var/lib/fdserver /etc/bitfusionio /etc/default /run/units
chmod 700 /run/user/0
hostname {name}
{files}
echo ready
exec sleep infinity
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    name: str
    address: str
    space: str  # its network's name
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    def boot(self, hosts: Sequence["Host"]) -> None:
        files = "\n".join(
            f"install -D -m 644 {ROOT}/install/{source} /{target}"
            for files in layout.SOURCES.values()
            for source, target in files.items()
            if target.startswith("etc/")
        )
        names = "".join(f"{each.address} {each.name}\\n" for each in hosts)
        files += f"\nprintf '127.0.0.1 localhost\\n{names}' > /etc/hosts"
        top = self.folder / self.name
        top.mkdir()
        script = MOUNTS.format(top=top, name=self.name, files=files)
        started = subprocess.Popen(
            ["ip", "netns", "exec", self.space, "unshare", "-m", "-u", "sh", "-c", script],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert started.stdout is not None and started.stderr is not None
        self.pid = started.pid
        self.process = started
        if started.stdout.readline() != "ready\n":
            why = started.stderr.read().strip()
            started.wait()
            pytest.skip(f"a host with mounts of its own cannot be made: {why}")
        self.environment = {
            "PATH": f"{commands(self.folder)}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": f"{top}/home", "USER": "root", "XDG_RUNTIME_DIR": "/run/user/0",
            "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    def inside(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", *words]

    def sh(self, line: str, status: int | None = 0) -> str:
        """What a line of a shell prints; fails where it ends otherwise than so."""
        done = subprocess.run(
            self.inside(["sh", "-ec", line]), env=self.environment, cwd="/", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{line}\n{done.stdout}{self.log()}"
        return done.stdout

    def typed(self, line: str, answers: Sequence[tuple[str, str]]) -> str:
        """What is on the terminal where somebody answers the questions as they come."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self.inside(["sh", "-ec", line]), env=self.environment, cwd="/",
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        said, left = "", list(answers)
        deadline = time.monotonic() + SECONDS
        try:
            while True:
                assert time.monotonic() < deadline, said
                if not select.select([ours], [], [], 1)[0]:
                    continue
                try:
                    said += os.read(ours, 65536).decode(errors="replace")
                except OSError:  # nobody has the terminal any more
                    break
                if left and said.rstrip().endswith(left[0][0]):
                    os.write(ours, left.pop(0)[1].encode() + b"\n")
        finally:
            os.close(ours)
        assert process.wait(SECONDS) == 0, said
        assert left == [], said
        return said.replace("\r\n", "\n")

    def log(self) -> str:
        folder = Path(f"/proc/{self.pid}/root/run/units")
        return "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))

    def halt(self) -> None:
        for unit in ("fdserver-web", "fdserver"):
            subprocess.run(
                self.inside(["systemctl", "stop", unit]), env=self.environment,
                capture_output=True, timeout=SECONDS,
            )  # fmt: skip
        self.process.kill()
        self.process.wait()


def commands(folder: Path) -> Path:
    """Ours, as they are in /usr/bin of an installed system."""
    made = folder / "bin"
    if made.exists():
        return made
    made.mkdir()
    modules = {name: f"fdcore_cli.{name}" for name in ("fdrun", "fdserver", "flexdirect")}
    for name, module in {**modules, "systemctl": "tests.hosts"}.items():
        path = made / name
        path.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT}:$PYTHONPATH exec {sys.executable} -m {module} "$@"\n'
            if name == "systemctl"
            else f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n'
        )
        path.chmod(0o755)
    return made


@contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Hosts, each with a wire to each."""
    if os.geteuid() != 0:
        pytest.skip("hosts with networks of their own need root")
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"hosts with networks of their own need {tool}")
    tag = secrets.token_hex(2)
    hosts = [
        Host(name, f"{ADDRESS}{number}", f"fd{tag}{number}", folder)
        for number, name in enumerate(names, 1)
    ]
    booted: list[Host] = []
    try:
        try:
            wire(hosts, tag)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made: {error.stderr.strip()}")
        for host in hosts:
            host.boot(hosts)
            booted.append(host)
        yield {host.name: host for host in hosts}
    finally:
        for host in booted:
            host.halt()
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.space], capture_output=True)


def wire(hosts: Sequence[Host], tag: str) -> None:
    for host in hosts:
        ip("netns", "add", host.space)
        ip("-n", host.space, "link", "set", "lo", "up")
    for number, one in enumerate(hosts):
        for other in hosts[number + 1 :]:
            a = f"f{tag}{one.address[-1]}{other.address[-1]}"
            b = f"f{tag}{other.address[-1]}{one.address[-1]}"
            ip("link", "add", a, "netns", one.space, "type", "veth",
               "peer", "name", b, "netns", other.space)  # fmt: skip
            for link, near, far in ((a, one, other), (b, other, one)):
                ip("-n", near.space, "addr", "add", f"{near.address}/32",
                   "peer", f"{far.address}/32", "dev", link)  # fmt: skip
                ip("-n", near.space, "link", "set", link, "up")


# ---- systemctl of these hosts ----

UNITS = Path("/run/units")
SAID, NOTIFY = UNITS / "said", UNITS / "notify"


def read_unit(name: str) -> list[tuple[str, str]]:
    lines = (ROOT / "install" / f"{name}.service").read_text().splitlines()
    return [(k, v) for k, eq, v in (line.partition("=") for line in lines) if eq and k.isalpha()]


def start(name: str) -> None:
    unit = read_unit(name)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    told = dict(unit)["Type"] == "notify"
    if told:
        environment["NOTIFY_SOCKET"] = str(NOTIFY)
    for key, value in unit:
        if key == "Environment":
            environment.update(word.split("=", 1) for word in value.split())
        if key == "EnvironmentFile":
            text = Path(value.lstrip("-")).read_text()
            environment.update(re.findall(r'^(\w+)="?(.*?)"?$', text, re.M))
        if key in ("RuntimeDirectory", "StateDirectory", "CacheDirectory"):
            top = {"R": "/run", "S": "/var/lib", "C": "/run/cache"}[key[0]]
            Path(top, value).mkdir(parents=True, exist_ok=True)
    environment["FD_CACHE"] = "/run/cache/fdserver"
    command: list[str] = []
    for word in dict(unit)["ExecStart"].replace("/usr/bin/", "").split():
        command += environment.get(word[1:], "").split() if word[0] == "$" else [word]
    with listening() as sock, open(UNITS / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd="/", start_new_session=True,
        )  # fmt: skip
        (UNITS / name).write_text(str(process.pid))
        if told:
            wait_until_ready(sock, process)


@contextmanager
def listening() -> Iterator[socket.socket]:
    NOTIFY.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(NOTIFY))
        sock.settimeout(0.2)
        yield sock


def wait_until_ready(
    sock: socket.socket, process: "subprocess.Popen[bytes] | None" = None
) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            sys.exit(f"fdserver.service: failed, status={process.returncode}")
        try:
            said = sock.recv(4096).decode()
        except TimeoutError:
            continue
        SAID.write_text(said)
        if "READY=1" in said.splitlines():
            return
    sys.exit("fdserver.service: it does not say that it is ready")


def main_pid(name: str) -> int:
    path = UNITS / name
    pid = int(path.read_text()) if path.exists() else 0
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return 0
    return 0 if state == "Z" else pid  # not every init takes its dead away at once


def stop(name: str) -> None:
    pid = main_pid(name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while main_pid(name) and time.monotonic() < deadline:
            time.sleep(0.05)
    (UNITS / name).unlink(missing_ok=True)


def systemctl(words: Sequence[str]) -> int:
    options = [word for word in words if word.startswith("-")]
    verb, name = (word for word in words if not word.startswith("-"))
    name = {"flexdirect": "fdserver"}.get(name.removesuffix(".service"), name)  # its alias
    if verb == "enable":
        verb = "start" if "--now" in options else "none"
    if verb in ("stop", "restart"):
        stop(name)
    if verb in ("start", "restart") and not main_pid(name):
        start(name)
    if verb == "reload":
        with listening() as sock:
            os.kill(main_pid(name), signal.SIGHUP)
            wait_until_ready(sock)
    if verb == "status":
        pid = main_pid(name)
        print(f"{name}.service - {dict(read_unit(name))['Description']}")
        print(f"     Active: {'active (running)' if pid else 'inactive (dead)'}")
        if pid:
            told = SAID.read_text().partition("STATUS=")[2].splitlines()[0]
            print(f'   Main PID: {pid}\n     Status: "{told}"')
        return 0 if pid else 3
    return 0


if __name__ == "__main__":
    sys.exit(systemctl(sys.argv[1:]))
