"""What another tenant left in a GPU's memory is nobody's to read: the worker zeroes each
piece before a client's first use. The CPU device of the servers hands out dirt
(`FD_CPU_STRICT=dirty`), so that a path which forgets to is seen."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import DIRTY, ROADS, Outcome, Run, build_c
from tests.e2e.test_programs import same

pytestmark = pytest.mark.cpu_device


def findings(outcome: Outcome) -> dict[str, str]:
    """What each kind of memory held."""
    assert outcome.status == 0, outcome.out + outcome.err
    *lines, last = outcome.out.splitlines()
    assert last == "PASS"
    return dict(line.split(": ") for line in lines)


def test_the_device_hands_out_dirt(direct: Run) -> None:
    """Else the next test shows nothing."""
    found = findings(direct(build_c("zeroed"), env=DIRTY))
    # A driver itself sees to it that variables without a value begin as zero.
    assert found.pop("variables") == "zero"
    assert len(found) > 20
    assert set(found.values()) == {"dirt"}, found


@pytest.mark.parametrize("road", ROADS)
def test_new_memory_is_zero(road: str, direct: Run, remote: Run) -> None:
    program = build_c("zeroed")
    through = remote(program, road=road)
    same(direct(program), through)
    assert set(findings(through).values()) == {"zero"}
