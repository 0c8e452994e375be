"""The demo program, the way README shows it."""

from pathlib import Path

import pytest

from tests.e2e.conftest import ROADS, Run


@pytest.mark.parametrize("road", ROADS)
def test_demo_says_the_same_directly_and_remoted(
    road: str, demo: Path, direct: Run, remote: Run
) -> None:
    alone = direct(demo, "54321")
    remoted = remote(demo, "54321", road=road)
    assert alone.status == 0, alone.out + alone.err
    assert "demo passed" in alone.out
    assert (remoted.out, remoted.status) == (alone.out, 0), remoted.out + remoted.err
