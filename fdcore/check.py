"""A check of health: what was looked at, what was seen, and what would help."""

from dataclasses import dataclass

PASS, MARGINAL, FAIL = "PASS", "MARGINAL", "FAIL"
STATES = (PASS, MARGINAL, FAIL)


@dataclass(frozen=True, slots=True)
class Check:
    state: str
    name: str
    found: str
    cure: str = ""
