"""--filter KEY OP VALUE: which servers and GPUs may be chosen.

The keys are vSphere Bitfusion's. '=' with device.name means that the value is part of
the name, in any case of letters (Tesla is in 'Tesla V100'); addresses, hosts and
has-rdma are compared whole. '<' and its like compare numbers, versions piece by piece.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fdcore.sched.slices import MIB, Gpu, Pool

SERVER_KEYS = (
    "server.addr",
    "server.hostname",
    "server.has-rdma",
    "server.cuda-version",
    "server.driver-version",
)
DEVICE_KEYS = ("device.id", "device.name", "device.phy-memory")
KEYS = SERVER_KEYS + DEVICE_KEYS
OPERATORS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
ORDERED = (
    "server.cuda-version",
    "server.driver-version",
    "device.id",
    "device.phy-memory",
)
WORDS = re.compile(r"\s*([\w.-]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Filter:
    key: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.value}"


def parse_filter(text: str) -> Filter | str:
    """The filter, or what is wrong with it."""
    found = WORDS.fullmatch(text)
    if not found:
        return f"'{text}' is not KEY OP VALUE with one of = != < <= > >="
    made = Filter(found[1].lower(), found[2].replace("==", "="), found[3])
    if made.key not in KEYS:
        return f"'{made.key}' is no key of a filter; there are {', '.join(KEYS)}"
    if not made.value:
        return f"'{text}' has no value after {made.operator}"
    if made.operator not in ("=", "!=") and made.key not in ORDERED:
        return f"{made.key} has no order: only = and != make sense with it"
    if made.key in ORDERED and not numbers(made.value):
        return f"'{made.value}' is no number, as {made.key} is"
    if made.key == "server.has-rdma" and made.value.lower() not in TRUE + FALSE:
        return f"{made.key} is true or false, not '{made.value}'"
    return made


def numbers(text: str) -> tuple[int, ...]:
    """12.4 is (12, 4); empty where it is none. Memory may be written with a unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)\s*(mib|mb|m|gib|gb|g)?", text.lower())
    if not found:
        return ()
    pieces = tuple(int(piece) for piece in found[1].split("."))
    return (pieces[0] * 1024,) if (found[2] or "m").startswith("g") else pieces


def passes_server(each: Filter, address: str, pool: Pool) -> bool:
    if each.key == "server.addr":
        host = address.rpartition(":")[0].strip("[]")
        return wanted(each, each.value in (address, host, f"[{host}]"))
    if each.key == "server.hostname":
        here = pool.hostname.lower()
        named = each.value.lower()
        return wanted(each, named in (here, here.partition(".")[0]))
    if each.key == "server.has-rdma":
        return wanted(each, pool.rdma == (each.value.lower() in TRUE))
    have = pool.cuda if each.key == "server.cuda-version" else pool.driver
    return in_order(each, have)


def passes_device(each: Filter, gpu: Gpu) -> bool:
    if each.key == "device.name":
        return wanted(each, each.value.lower() in gpu.name.lower())
    have = gpu.ordinal if each.key == "device.id" else gpu.memory // MIB
    return in_order(each, str(have))


def wanted(each: Filter, same: bool) -> bool:
    return same if each.operator == "=" else not same


def in_order(each: Filter, text: str) -> bool:
    """A shorter version stands for all that begin with it: 12.4 = 12, not 12.4 > 12.
    What is not known passes no filter."""
    have, value = numbers(text), numbers(each.value)
    if not have:
        return False
    return OPERATORS[each.operator](have[: len(value)], value)


def chosen(filters: Sequence[Filter], address: str, pool: Pool) -> frozenset[int]:
    """The GPUs of this server that pass all of them, by ordinal."""
    for each in filters:
        if each.key in SERVER_KEYS and not passes_server(each, address, pool):
            return frozenset()
    return frozenset(
        gpu.ordinal
        for gpu in pool.gpus
        if all(passes_device(each, gpu) for each in filters if each.key in DEVICE_KEYS)
    )
