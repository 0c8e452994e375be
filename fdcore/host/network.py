"""This machine's network interfaces, as psutil knows them; and RDMA ports, as the
kernel does."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import psutil

RDMA = Path("/sys/class/infiniband")


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    address: str
    mask: str
    mtu: int
    speed: int = 0  # Mb/s; 0: it does not say

    def reaches(self, address: str) -> bool:
        """Without a router in between."""
        try:
            own = ipaddress.ip_network(f"{self.address}/{self.mask}", strict=False)
            return ipaddress.ip_address(address) in own
        except ValueError:
            return False

    @property
    def local(self) -> bool:
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        rate = f", {rate_text(self.speed)}" if self.speed else ""
        return f"{self.name} ({self.address}{rate}, MTU {self.mtu})"


def rate_text(speed: int) -> str:
    return f"{speed / 1000:g} Gb/s" if speed >= 1000 else f"{speed} Mb/s"


def interfaces() -> list[Interface]:
    """Those that are up, one row for each of their addresses."""
    states = psutil.net_if_stats()
    found = []
    for name, rows in psutil.net_if_addrs().items():
        state = states.get(name)
        if state is None or not state.isup:
            continue
        for row in rows:
            address = str(row.address).partition("%")[0]
            try:
                ipaddress.ip_address(address)
            except ValueError:
                continue  # a hardware address
            mask = str(row.netmask or "")
            if ":" in mask:
                mask = str(bin(int(ipaddress.IPv6Address(mask))).count("1"))
            speed = 0 if state.speed in (65535, -1) else int(state.speed)
            found.append(Interface(name, address, mask, int(state.mtu), speed))
    return found


def interface_of(address: str) -> Interface | None:
    """The one that has this address of ours; all of 127/8 is the loopback's."""
    known = interfaces()
    for each in known:
        if each.address == address:
            return each
    for each in known:
        if each.local and each.reaches(address):
            return each
    return None


@dataclass(frozen=True, slots=True)
class Port:
    """Of an RDMA device."""

    name: str
    state: str  # ACTIVE, DOWN, ...
    rate: str


def rdma_ports() -> list[Port]:
    found = []
    for port in sorted(RDMA.glob("*/ports/*")):
        state = read(port / "state").partition(":")[2].strip()
        name = f"{port.parent.parent.name} port {port.name}"
        found.append(Port(name, state or "unknown", read(port / "rate")))
    return found


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
