"""Checks of the road to a server: the interface, the subnet, the size of packets, RDMA,
and what a small lease measures over it."""

import socket
from collections.abc import Mapping

from fdcore import netperf, ucx
from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.config import Address
from fdcore.errors import FdcoreError
from fdcore.host import network
from fdcore.host.network import Interface, rate_text
from fdcore.reserve import Wish
from fdcore.sched.slices import MIB, Ask

CONNECT_SECONDS = 3.0
FAST = 10_000  # Mb/s
IP_MTU, IPV6_MTU = 14, 24  # of linux/in.h
JUMBO, USUAL = 4096, 1500
FAR_US, NARROW_MIB_S = 1000.0, 900.0


def server(address: Address) -> list[Check]:
    """Nothing for a local socket, and where nobody answers."""
    if not address.host:
        return []
    try:
        where = (address.host, address.port)
        with socket.create_connection(where, CONNECT_SECONDS) as sock:
            here, there = sock.getsockname()[0], sock.getpeername()[0]
            six = sock.family == socket.AF_INET6
            level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
            path = sock.getsockopt(level, IPV6_MTU if six else IP_MTU)
    except OSError:
        return []
    known = network.interfaces()
    return way(network.interface_of(here), there, path, known)


def way(
    own: Interface | None, there: str, path: int, known: list[Interface]
) -> list[Check]:
    if own is None:
        return []
    if own.local:
        return [Check(PASS, "interface", f"{own.name}: the server is on this machine")]
    return [interface(own, there, known), packets(own, path)]


def interface(own: Interface, there: str, known: list[Interface]) -> Check:
    name = "interface"
    subnet = "the same subnet" if own.reaches(there) else "through a router"
    found = f"{own}, {subnet}"
    faster = [each for each in known if each.speed > max(own.speed, 1) and own.speed]
    if faster:
        best = max(faster, key=lambda each: each.speed)
        cure = f"name the server by its address in the network of {best}"
        return Check(MARGINAL, name, found, cure)
    if 0 < own.speed < FAST:
        cure = f"{rate_text(FAST)} or more make copies bearable"
        return Check(MARGINAL, name, found, cure)
    return Check(PASS, name, found)


def packets(own: Interface, path: int) -> Check:
    name = "MTU"
    found = f"{path} on the way, {own.mtu} at {own.name}"
    if path < own.mtu:
        cure = "set the same MTU at both ends and at every switch between"
        return Check(MARGINAL, name, found, cure)
    if own.speed >= FAST and path < JUMBO:
        cure = f"{JUMBO} to 9000 at both ends and switches: fewer, larger packets"
        return Check(MARGINAL, name, found, cure)
    if path < USUAL:
        return Check(MARGINAL, name, found, f"{USUAL} or more, if the network has it")
    return Check(PASS, name, found)


def rdma(environment: Mapping[str, str]) -> Check:
    """Of this machine."""
    name = "RDMA"
    ports = network.rdma_ports()
    if not ports:
        return Check(PASS, name, "no device: tcp is used between machines")
    found = "; ".join(f"{p.name} {p.state} {p.rate}".strip() for p in ports)
    if not ucx.is_here(environment):
        cure = "install UCX (libucx0), or pip install libucx-cu13"
        return Check(MARGINAL, name, f"{found}, and no UCX", cure)
    if not any(port.state == "ACTIVE" for port in ports):
        cure = "look at cables, and at opensm for InfiniBand"
        return Check(MARGINAL, name, found, cure)
    return Check(PASS, name, found)


def measured(address: Address, road: str, seconds: float) -> list[Check]:
    """How long a call takes, and how fast bytes go, with a small lease."""
    ask = Ask(memory=netperf.SHORT + 48 * MIB)
    try:
        row = netperf.measure(address, Wish(ask, [address], (), road, seconds), "short")
    except FdcoreError as error:
        cure = "try again when a GPU is free, with a role that may use one"
        return [Check(MARGINAL, "latency", f"not measured: {error}", cure)]
    road = str(row["road"])
    took, p99 = float(row["call_us"]), float(row["call_p99_us"])
    found = f"{took:.0f} us a call over {road}, 99 of 100 within {p99:.0f} us"
    near = took <= FAR_US or road == "shm"
    far = "programs that wait often are slow there: use a server that is nearer"
    checks = [Check(PASS if near else MARGINAL, "latency", found, "" if near else far)]
    up, down = float(row["up_mib_s"]), float(row["down_mib_s"])
    found = f"{up:.0f} MiB/s to the GPU, {down:.0f} MiB/s back"
    wide = min(up, down) >= NARROW_MIB_S
    narrow = f"{rate_text(FAST)} carry {NARROW_MIB_S:.0f} MiB/s: look at the network"
    if road == "shm":
        narrow = "look at what else uses the server's processors and memory"
    state = PASS if wide else MARGINAL
    checks.append(Check(state, "bandwidth", found, "" if wide else narrow))
    if min(up, down) <= 0:
        checks.append(Check(FAIL, "bandwidth", found, narrow))
    return checks
