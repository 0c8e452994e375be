"""NVML beside the driver: the slice, with CUDA's own names, directly and through fdrun."""

from __future__ import annotations

import json
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


def uuid_of(listed: str) -> str:
    return listed.split("UUID: ")[1].split(")")[0]


@pytest.mark.parametrize("road", ROADS)
def test_nvidia_smi_of_a_run_shows_the_slice(road: str, remote: Run) -> None:
    half = MEMORY_MB // 2

    def smi(*words: str) -> str:
        said = remote("nvidia-smi", *words, road=road, options=("-m", str(half)))
        assert said.status == 0 and said.err == "", said
        return said.out

    listed = smi("-L")
    assert listed.startswith("GPU 0: fdcore CPU device (UUID: GPU-")
    assert smi("--query-gpu=name,memory.total,memory.used,uuid", "--format=csv,noheader") == (
        f"fdcore CPU device, {half} MiB, 0 MiB, {uuid_of(listed)}\n")
    assert f"0MiB / {half:>6}MiB |" in smi()


@pytest.mark.parametrize("road", ROADS)
def test_gpustat_shows_the_slice(road: str, remote: Run, python: Path) -> None:
    pytest.importorskip("gpustat")
    said = remote(python, "-m", "gpustat", "--json", road=road, options=("-n", "2"))
    assert said.status == 0, said
    gpus = json.loads(said.out)["gpus"]
    assert [(gpu["index"], gpu["name"], gpu["memory.total"]) for gpu in gpus] == [
        (0, "fdcore CPU device", MEMORY_MB), (1, "fdcore CPU device", MEMORY_MB)]


@pytest.mark.parametrize("road", ROADS)
def test_nvitop_shows_the_slice(road: str, remote: Run, python: Path) -> None:
    pytest.importorskip("nvitop")
    half = MEMORY_MB // 2
    said = remote(python, "-m", "nvitop", "-1", road=road, options=("-m", str(half)),
                  env={"LC_ALL": "C.UTF-8"})
    assert said.status == 0 and "Traceback" not in said.out + said.err, said
    assert "fdcore CPU device" in said.out and f"/ {half}.0MiB" in said.out, said.out
