"""smi's table and list_gpus' tree, of servers that are made up here."""

import dataclasses

from fdcore.config import Address
from fdcore.errors import RefusedError, TransportError
from fdcore.pools import Seen, cure_of, smi, tree
from fdcore.sched.slices import MIB, Gpu, Pool

GPU = Gpu(0, "a GPU", "GPU-0", 1024 * MIB, "0000:17:00.0")
POOL = Pool("gpu1", "0.1", "13.0", "580", gpus=(GPU,), free={0: 256 * MIB}, leases={0: 2})


def table(pool):
    return smi([Seen(Address("gpu1", 56001), pool)])


def test_what_a_driver_tells_of_the_moment_is_shown():
    figures = {0: {"temperature": 61.0, "power": 250.4, "use": 42.0, "sm_clock": 1410.0}}
    shown = table(dataclasses.replace(POOL, figures=figures))
    assert "768 /   1024       2" in shown
    assert "61 C   250 W   42 % busy" in shown
    assert len({len(line) for line in shown.splitlines()}) == 1


def test_what_it_does_not_tell_is_not():
    shown = table(dataclasses.replace(POOL, figures={0: {"busy_seconds": 5.0}}))
    assert shown == table(POOL)
    assert "busy" not in shown


def test_server_that_grants_nothing_new_says_so():
    open_, drained = POOL, dataclasses.replace(POOL, draining=True)
    shown = tree([Seen(Address(each.hostname, 1), each) for each in (open_, drained)], [])
    first, second = (line for line in shown.splitlines() if "server" in line)
    assert first.endswith(": running 0 tasks")
    assert second.endswith(": running 0 tasks, grants nothing new (it is being drained)")


def test_who_is_refused_is_told_who_can_help():
    assert cure_of(RefusedError("no")) == "who administers the pool can help"
    assert cure_of(RefusedError("no", "say please")) == "say please"
    assert cure_of(TransportError("gone")) == ""
    assert Seen(Address("a", 1), None, "no", cure="say please").told == "no; say please"
