"""NVML beside the driver: the slice, with CUDA's own names, directly and through fdrun."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import APPS, MEMORY_MB, ROADS, Run
from tests.e2e.test_programs import same

pytestmark = pytest.mark.cpu_device


@pytest.mark.parametrize("road", ROADS)
def test_nvml_says_what_cuda_says(road: str, direct: Run, remote: Run, python: Path) -> None:
    script = APPS / "nvml_slice.py"
    alone = direct(python, script, devices=2)
    same(alone, remote(python, script, road=road, options=("-n", "2")))
    assert alone.out.startswith(f"fdcore CPU device {MEMORY_MB} MiB\n"), alone.out
    assert "used: 32 MiB\n" in alone.out


def test_nvml_shows_the_slice_and_no_more(direct: Run, remote: Run, python: Path) -> None:
    script, half = APPS / "nvml_slice.py", MEMORY_MB // 2
    same(direct(python, script, memory=half),
         remote(python, script, options=("-m", str(half))))
