"""A real etcd for tests: one host, on free ports of loopback, in a folder of the test's."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fdcore.config import Address
from fdcore.etcd.access import Access
from fdcore.etcd.gateway import EtcdError, Gateway
from tests.support import until

BINARY = shutil.which("etcd")
TTL = 2.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Etcd:
    folder: Path
    options: Sequence[str] = ()
    scheme: str = "http"
    more: dict[str, str] = field(default_factory=dict)  # of its Access
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def access(self) -> Access:
        return Access((Address("127.0.0.1", self.port),), ttl=TTL, **self.more)

    @property
    def url(self) -> str:
        return f"etcd://127.0.0.1:{self.port}"

    def start(self) -> None:
        """With its data of before, at the port of before."""
        tries = 1 if self.port else 5
        for left in reversed(range(tries)):
            try:
                return self.start_once()
            except AssertionError:  # somebody was quicker with the port
                if not left:
                    raise
                self.kill()
                self.port = 0

    def start_once(self) -> None:
        self.port = self.port or free_port()
        at = f"{self.scheme}://127.0.0.1:{self.port}"
        peers = "http://127.0.0.1:0"
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BINARY or "etcd", "--name", "one", "--data-dir", str(self.folder / "data"),
                 "--listen-client-urls", at, "--advertise-client-urls", at,
                 "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                 "--initial-cluster", f"one={peers}", "--log-level", "error",
                 "--logger", "zap", "--unsafe-no-fsync", *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        until(self.answers, 60)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        gateway = Gateway(self.access)
        try:
            gateway.ask("maintenance/status", {})
        except EtcdError:
            return False
        finally:
            gateway.close()
        return True

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()  # also one that has been stopped
            self.process.wait()

    def found(self, prefix: str = "") -> dict[str, str]:
        """All that is below it."""
        gateway = Gateway(self.access)
        try:
            from fdcore.etcd.gateway import get_below

            (found,) = gateway.read(get_below(f"fdcore/{prefix}"))
        finally:
            gateway.close()
        return {key: each.value for key, each in found.items()}


def make_etcd(folder: Path, *options: str, **more: str) -> Etcd:
    if BINARY is None:
        pytest.skip("etcd is not installed (Debian's etcd-server)")
    made = Etcd(folder, options, **more)  # type: ignore[arg-type]
    made.start()
    return made


__all__ = ["TTL", "Etcd", "make_etcd", "signal"]
