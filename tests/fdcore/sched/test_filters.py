"""--filter: which servers and GPUs pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fdcore.sched.filters import KEYS, OPERATORS, Filter, chosen, parse_filter
from fdcore.sched.slices import MIB, Gpu, Pool

V100 = Gpu(0, "Tesla V100-PCIE-16GB", "GPU-0", 16160 * MIB)
A100 = Gpu(1, "NVIDIA A100-SXM4-80GB", "GPU-1", 81920 * MIB)
POOL = Pool("gpu1.example.org", "0.1", "12.4", "550.54.14", True, gpus=(V100, A100))


def passing(*texts):
    filters = [parse_filter(text) for text in texts]
    assert all(isinstance(each, Filter) for each in filters), filters
    return sorted(chosen(filters, "10.0.0.5:56001", POOL))


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("device.name=Tesla", [0]),
        ("device.name = a100", [1]),
        ("device.name != Tesla", [1]),
        ("device.phy-memory=16160", [0]),
        ("device.phy-memory > 16160", [1]),
        ("device.phy-memory >= 16160", [0, 1]),
        ("device.phy-memory<80G", [0]),
        ("device.id=1", [1]),
        ("device.id <= 0", [0]),
        ("server.addr=10.0.0.5", [0, 1]),
        ("server.addr=10.0.0.5:56001", [0, 1]),
        ("server.addr=10.0.0", []),
        ("server.addr != 10.0.0.5", []),
        ("server.hostname=GPU1", [0, 1]),
        ("server.hostname=gpu1.example.org", [0, 1]),
        ("server.hostname=gpu", []),
        ("server.has-rdma=true", [0, 1]),
        ("server.has-rdma=false", []),
        ("server.has-rdma!=false", [0, 1]),
        ("server.cuda-version >= 12.4", [0, 1]),
        ("server.cuda-version = 12", [0, 1]),
        ("server.cuda-version > 12", []),
        ("server.cuda-version < 12.10", [0, 1]),
        ("server.driver-version >= 550.54", [0, 1]),
        ("server.driver-version<535", []),
    ],
)
def test_each_key_and_operator(text, gpus):
    assert passing(text) == gpus


def test_all_filters_have_to_pass():
    assert passing("device.name=A100", "device.phy-memory>100000") == []
    assert passing("server.has-rdma=true", "device.id=0") == [0]


def test_what_is_not_known_passes_nothing():
    unknown = Pool("x", "0.1", "13.0", "", gpus=(V100,))
    for operator in OPERATORS:
        each = Filter("server.driver-version", operator, "500")
        assert chosen([each], "x:1", unknown) == frozenset()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device.name", "is not KEY OP VALUE"),
        ("device.colour=red", "no key of a filter; there are server.addr, "),
        ("device.name<x", "has no order"),
        ("device.phy-memory=big", "is no number"),
        ("server.has-rdma=maybe", "true or false"),
        ("device.name=", "has no value"),
    ],
)
def test_wrong_ones_are_explained(text, said):
    assert said in parse_filter(text)


@given(some.text())
def test_any_text_is_a_filter_or_a_reason(text):
    made = parse_filter(text)
    assert isinstance(made, (str, Filter))


@given(some.sampled_from(["device.phy-memory", "device.id"]), some.integers(0, 10**6))
def test_orders_are_orders(key, value):
    """Each GPU passes exactly one of < = >, and the others are made of these."""
    sets = {op: set(passing(f"{key}{op}{value}")) for op in OPERATORS}
    assert sets["<"] | sets["="] | sets[">"] == {0, 1}
    assert sets["<="] == sets["<"] | sets["="]
    assert sets[">="] == sets[">"] | sets["="]
    assert sets["!="] == {0, 1} - sets["="]


def test_there_are_the_eight_keys():
    assert len(KEYS) == 8
