"""NVML beside the driver: the slice, with CUDA's own names, directly and through fdrun."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import APPS, MEMORY_MB, ROADS, Run, Server, run
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


def watched(remote: Run, python: Path, road: str, *command: str | Path) -> tuple[int, str]:
    """Another program of the lease has 64 MiB and runs kernels: its pid, and what the
    command says."""
    said = remote(python, APPS / "busy_watched.py", *command, road=road)
    assert said.status == 0, said
    pid, text = said.out.split("\n", 1)
    return int(pid), text


@pytest.mark.parametrize("road", ROADS)
def test_nvidia_smi_shows_other_programs_of_the_lease(
    road: str, remote: Run, python: Path
) -> None:
    pid, text = watched(
        remote, python, road, "sh", "-c",
        "nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv,noheader;"
        "nvidia-smi --query-gpu=memory.used,memory.free,utilization.gpu,temperature.gpu"
        " --format=csv,noheader,nounits; nvidia-smi")
    first, second, screen = text.split("\n", 2)
    assert first == f"{pid}, {python}, 64 MiB"
    used, free, busy, warm = second.split(", ")
    assert (int(used), int(free), warm) == (64, MEMORY_MB - 64, "[N/A]")
    assert 1 <= int(busy) <= 100
    assert f"N/A{pid:>10}      C   " in screen and "   64MiB |" in screen


def test_gpustat_and_nvitop_show_other_programs(remote: Run, python: Path) -> None:
    pytest.importorskip("gpustat")
    pid, text = watched(remote, python, ROADS[0], python, "-m", "gpustat", "--json")
    gpu = json.loads(text)["gpus"][0]
    assert gpu["memory.used"] == 64 and gpu["utilization.gpu"] >= 1
    assert [(one["pid"], one["gpu_memory_usage"]) for one in gpu["processes"]] == [(pid, 64)]
    pytest.importorskip("nvitop")
    pid, text = watched(remote, python, ROADS[0], python, "-m", "nvitop", "-1")
    assert f" {pid} C " in text and "64.00MiB" in text, text


@pytest.mark.parametrize("road", ROADS)
def test_events_tell_of_programs_that_break_their_device(
    road: str, remote: Run, python: Path
) -> None:
    pytest.importorskip("pynvml")
    said = remote(python, APPS / "nvml_events.py", road=road)
    assert said.status == 0, said
    event = "type 8, Xid 31, device 0"
    assert said.out.splitlines() == [
        "types 8", "ECC is not told", "nothing yet", event, event, "nothing of what was before",
        "freed once"]


def test_pmon_and_xml_show_the_programs_of_the_lease(remote: Run, python: Path) -> None:
    pid, text = watched(
        remote, python, ROADS[0], "sh", "-c",
        "nvidia-smi pmon -c 1 -s um; nvidia-smi dmon -c 1 -s um; nvidia-smi -q -x")
    lines = text.splitlines()
    gpu, whose, kind, busy, *rest = lines[2].split()
    assert (gpu, whose, kind) == ("0", str(pid), "C") and 1 <= int(busy) <= 100
    assert rest == ["0", "0", "0", "-", "-", "64", Path(python).name[:14]]
    device = lines[5].split()
    assert device[0] == "0" and 0 <= int(device[1]) <= 100 and device[7:] == ["64", "-"]
    root = ElementTree.fromstring("\n".join(lines[6:]))
    assert root.findtext("gpu/processes/process_info/pid") == str(pid)
    assert root.findtext("gpu/processes/process_info/used_memory") == "64 MiB"
    assert root.findtext("gpu/fb_memory_usage/total") == f"{MEMORY_MB} MiB"


def test_a_lease_shows_nothing_of_another(server: Server, python: Path) -> None:
    """Two leases on one GPU, one of them busy."""
    holder = subprocess.Popen(
        server.command(python, APPS / "busy_watched.py", "cat", options=("-m", "256")),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline().strip().isdigit()
    seen = run(server.command(
        "nvidia-smi", "--query-gpu=memory.total,memory.used,utilization.gpu",
        "--format=csv,noheader", options=("-m", "256")), {})
    holder.stdin.close()
    assert holder.wait(60) == 0
    assert seen.out == "256 MiB, 0 MiB, 0 %\n", seen
