"""Variables of the environment that only libraries read (csrc/), which can but log what
is wrong with them: the commands look at them before anything is started."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fdcore.errors import ConfigError

LEVELS = ("off", "error", "warn", "info", "debug")


@dataclass(frozen=True, slots=True)
class Variable:
    """What a variable may be; empty is as if it were not there."""

    allowed: str
    fits: Callable[[str], bool]


def number(least: int, most: int) -> Variable:
    def fits(text: str) -> bool:
        digits = text.isascii() and text.isdigit() and len(text) < 20
        return digits and least <= int(text) <= most

    return Variable(f"a number from {least} to {most}", fits)


def is_level(text: str) -> bool:
    """LEVEL or LEVEL:FILE, as csrc/base/log.c reads it."""
    return text.partition(":")[0] in LEVELS


VARIABLES = {
    "FD_LOG": Variable(f"{', '.join(LEVELS)} or LEVEL:FILE", is_level),
    "FD_SYNC": Variable("0 or 1", ("0", "1").__contains__),
    "FD_CPU_DEVICES": number(0, 16),
    "FD_CPU_MEMORY_MB": number(16, 1 << 22),
    "FD_TCP_STREAMS": number(1, 4),
    "FD_RECONNECT": number(0, 86400),
    "FD_EMULATE_RTT_US": number(0, 10_000_000),
    "FD_EMULATE_MBPS": number(0, 1_000_000),
}


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    for name, variable in VARIABLES.items():
        value = environment.get(name)
        if value and not variable.fits(value):
            raise ConfigError(f"{name} is '{value}'; it can be {variable.allowed}")
