"""The road to a server: interfaces, subnets, packets and RDMA, each fault with its cure."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from fdcore import netperf, road, ucx
from fdcore.check import MARGINAL, PASS
from fdcore.config import Address
from fdcore.host import network
from fdcore.host.network import Interface, Port
from tests.support import until

SLOW = Interface("eth0", "10.0.0.3", "255.255.255.0", 1500, 1000)
FAST = Interface("eth1", "10.0.1.3", "255.255.255.0", 9000, 100_000)
QUIET = Interface("veth", "10.0.2.3", "255.255.255.0", 1500)  # does not say its speed


def test_a_server_of_this_machine_has_no_network_to_check():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (check,) = road.server(Address("127.0.0.1", listener.getsockname()[1]))
    assert check.state == PASS and check.found.endswith("on this machine")
    assert road.server(Address(path="/run/x")) == []
    assert road.server(Address("127.0.0.1", 1)) == []  # the port's check says so


@pytest.mark.parametrize(
    "own, there, path, known, states, said, cure",
    [(FAST, "10.0.1.9", 9000, [FAST], [PASS, PASS], "the same subnet", ""),
     (FAST, "10.7.0.1", 9000, [FAST], [PASS, PASS], "through a router", ""),
     (SLOW, "10.0.0.9", 1500, [SLOW], [MARGINAL, PASS], "1 Gb/s, MTU 1500", "10 Gb/s"),
     (SLOW, "10.0.0.9", 1500, [SLOW, FAST], [MARGINAL, PASS], "eth0", "eth1 (10.0.1.3"),
     (QUIET, "10.0.2.9", 1500, [QUIET, FAST], [PASS, PASS], "veth (10.0.2.3, MTU 1500)", "")],
)  # fmt: skip
def test_interfaces_are_compared(own, there, path, known, states, said, cure):
    checks = road.way(own, there, path, known)
    assert [check.name for check in checks] == ["interface", "MTU"]
    assert [check.state for check in checks] == states
    assert said in checks[0].found and cure in checks[0].cure


@pytest.mark.parametrize(
    "own, path, state, said",
    [(FAST, 9000, PASS, ""), (FAST, 1500, MARGINAL, "the same MTU"),
     (Interface("e", "10.0.0.1", "255.0.0.0", 1500, 25_000), 1500, MARGINAL, "4096 to 9000"),
     (Interface("e", "10.0.0.1", "255.0.0.0", 1400), 1400, MARGINAL, "1500 or more"),
     (SLOW, 1500, PASS, "")])  # fmt: skip
def test_packets_are_as_large_as_the_way_allows(own, path, state, said):
    check = road.packets(own, path)
    assert check.state == state and said in check.cure and str(path) in check.found


def test_own_interfaces_are_found():
    assert any(each.local for each in network.interfaces())
    lo = network.interface_of("127.0.0.7")
    assert lo is not None and lo.local and lo.mtu > 0
    assert network.interface_of("192.0.2.200") is None
    six = Interface("e", "fd00::1", "64", 1500)
    assert six.reaches("fd00::2") and not six.reaches("fd01::2") and not six.reaches("10.0.0.1")


def test_rdma_is_told_with_what_is_missing(monkeypatch, tmp_path):
    port = tmp_path / "mlx5_0" / "ports" / "1"
    monkeypatch.setattr(network, "RDMA", tmp_path)
    assert road.rdma({}).found.startswith("no device")
    port.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "rate").write_text("100 Gb/sec (4X EDR)\n")
    assert network.rdma_ports() == [Port("mlx5_0 port 1", "ACTIVE", "100 Gb/sec (4X EDR)")]
    monkeypatch.setattr(ucx, "is_here", lambda _: False)
    assert "libucx" in road.rdma({}).cure
    monkeypatch.setattr(ucx, "is_here", lambda _: True)
    assert road.rdma({}).state == PASS
    (port / "state").write_text("1: DOWN\n")
    check = road.rdma({})
    assert check.state == MARGINAL and "DOWN" in check.found and "cables" in check.cure


# ---- netperf's long form ----


def test_the_histogram_has_every_call_once_and_no_gaps():
    bars = netperf.histogram([2e-6, 2e-6, 3.9e-6, 64e-6, 0.0])
    assert sum(count for _, count in bars) == 5
    assert bars[0] == (1.0, 1) and (2.0, 2) in bars and (4.0, 1) in bars and bars[-1] == (64.0, 1)
    assert [upto for upto, _ in bars] == [round(netperf.FOLD**n, 1) for n in range(13)]


def test_the_long_form_is_written_for_people_and_by_size():
    row = {"server": "a:1", "road": "tcp", "histogram": [(64.0, 3), (90.5, 1)],
           "sizes": [{"bytes": 4, "up_us": 50.0, "up_mib_s": 0.08, "down_us": 40.0, "down_mib_s": 0.1}]}  # fmt: skip
    text = netperf.text(row)
    assert "a:1 over tcp" in text and f"      3 {'#' * 40}\n" in text
    assert f"      1 {'#' * 14}\n" in text
    (flat,) = netperf.by_size([row])
    assert tuple(flat) == netperf.SIZE_COLUMNS


HANGS = """
import sys
from fdcore import netperf, trial
from fdcore.config import parse_address
from fdcore.errors import FdcoreError
from fdcore.reserve import Wish
from fdcore.sched.slices import MIB, Ask
netperf.SECONDS = 1
netperf.Child = lambda _, env: trial.Child([sys.executable, "-c", "import time; time.sleep(600)"], env)
address = parse_address(sys.argv[1])
try:
    netperf.measure(address, Wish(Ask(memory=96 * MIB), [address]))
except FdcoreError as error:
    print(error)
"""


def test_measuring_ends_after_its_time_and_its_lease_with_it(server):
    """The program hangs: netperf says so, kills it and gives the GPU back."""
    before = server.free()
    done = subprocess.run(
        [sys.executable, "-c", HANGS, server.unix], env=server.environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "was not done after 1 s" in done.stdout, done.stdout + done.stderr
    until(lambda: server.free() == before, 60)
