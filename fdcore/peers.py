"""Servers as others are told of them, and which machine this is."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """A server as others are told of it. server: as it says itself at login; machine:
    the boot of its kernel, where alone some addresses mean it."""

    server: bytes
    address: str
    machine: str


def machine() -> str:
    """This boot of this machine: the same text for two processes on one kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
