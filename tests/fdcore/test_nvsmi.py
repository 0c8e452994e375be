"""nvidia-smi's screens and lists, on an NVML that says what recorded ones said."""

from __future__ import annotations

import calendar
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fdcore import tools
from fdcore.nvsmi import command, fields, library, markup, monitors, report, table
from fdcore.nvsmi.library import Gpu, Library, chosen, same_bus

RECORDED = Path(__file__).parent / "data" / "nvidia-smi-550.txt"
MIB = 1 << 20
NOT_SUPPORTED = 3

T4 = {
    "Name": "Tesla T4", "UUID": "GPU-5428af19-1e82-a38c-ee42-cdd3ad745b7e",
    "pci": (0, 0, 4), "memory": (15360, 0), "PersistenceMode": 0, "DisplayActive": 0,
    "TotalEccErrors": 0, "Temperature": 39, "PerformanceState": 8, "PowerUsage": 9351,
    "EnforcedPowerLimit": 70000, "busy": (0, 0), "ComputeMode": 0, "ClockInfo": 300,
    "EccMode": (1, 1), "processes": [],
}
RTX = {
    "Name": "NVIDIA GeForce RTX 2070 with Max-Q Design",
    "UUID": "GPU-b334763a-21fa-1302-5dff-1eaecd0f5428",
    "pci": (0, 1, 0), "memory": (8192, 7094), "PersistenceMode": 1, "DisplayActive": 1,
    "Temperature": 75, "PerformanceState": 0, "PowerUsage": 80400, "FanSpeed": 0,
    "EnforcedPowerLimit": 80000, "busy": (56, 31), "ComputeMode": 0,
    "processes": [(314080, 172), (314084, 6260)],
}


class Nvml:
    """Stands for the library: what the dictionaries have, and NOT_SUPPORTED."""

    def __init__(self, *gpus: dict[str, Any]) -> None:
        self.gpus = gpus

    def nvmlShutdown(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.answer(name, *arguments)

    def answer(self, name: str, *given: Any) -> int:
        if name == "nvmlDeviceGetCount_v2":
            given[0]._obj.value = len(self.gpus)
        elif name == "nvmlDeviceGetHandleByIndex_v2":
            given[1]._obj.value = given[0] + 1
        elif name == "nvmlSystemGetDriverVersion":
            given[0].value = b"550.54.15"
        elif name == "nvmlSystemGetCudaDriverVersion_v2":
            given[0]._obj.value = 12040
        elif name == "nvmlSystemGetProcessName":
            given[1].value = b"/usr/bin/python3"
        elif name.startswith("nvmlDeviceGet"):
            return self.device(name[13:], self.gpus[given[0].value - 1], *given[1:])
        else:
            return NOT_SUPPORTED
        return 0

    def device(self, name: str, gpu: dict[str, Any], *given: Any) -> int:
        out = getattr(given[-1], "_obj", None)
        if name == "PciInfo_v3":
            out.domain, out.bus, out.device = gpu["pci"]
            out.id = b"%08X:%02X:%02X.0" % gpu["pci"]
        elif name == "MemoryInfo_v2":
            total, used = gpu["memory"]
            assert out.version == ctypes.sizeof(out) | 2 << 24
            out.total, out.used, out.free = total * MIB, used * MIB, (total - used) * MIB
        elif name == "UtilizationRates":
            out.gpu, out.memory = gpu["busy"]
        elif name == "ComputeRunningProcesses_v3":
            return self.processes(gpu["processes"], *given)
        elif name not in gpu:
            return NOT_SUPPORTED
        elif isinstance(gpu[name], str):
            given[0].value = gpu[name].encode()
        elif isinstance(gpu[name], tuple):
            given[-2]._obj.value, out.value = gpu[name]
        else:
            out.value = gpu[name]
        return 0

    def processes(self, found: list[tuple[int, int]], count: Any, infos: Any) -> int:
        room, count._obj.value = count._obj.value, len(found)
        if room < len(found):
            return library.INSUFFICIENT_SIZE
        for info, (pid, used) in zip(infos, found, strict=False):
            info.pid, info.used = pid, used * MIB
        return 0


def opened(*gpus: dict[str, Any]) -> Library:
    made = Library.__new__(Library)
    made.nvml = Nvml(*gpus)
    return made


@pytest.fixture
def two() -> Library:
    return opened(T4, RTX)


@pytest.fixture
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def test_the_screen_has_the_recorded_columns(two: Library, utc: None) -> None:
    when = calendar.timegm((2024, 5, 11, 9, 41, 7))
    assert table.screen(two, two.gpus(), when) == RECORDED.read_text(encoding="utf-8")


def test_without_processes_the_screen_says_so() -> None:
    alone = opened(T4)
    lines = table.screen(alone, alone.gpus(), 0).splitlines()
    assert lines[-2] == "|  No running processes found" + " " * 61 + "|"
    assert {len(line) for line in lines[1:12]} == {91}


def asked(found: Library, query: str, header: bool = True, units: bool = True) -> list[str]:
    return fields.gpu_lines(found.gpus(), fields.gpu_fields(query), header, units)


def test_csv_has_the_recorded_heads_and_units(two: Library) -> None:
    wanted = ("index,pstate,power.draw,clocks.sm,memory.used,memory.total,utilization.gpu,"
              "temperature.gpu,fan.speed,gpu_uuid,pci.bus_id")
    assert asked(two, wanted) == [
        "index, pstate, power.draw [W], clocks.current.sm [MHz], memory.used [MiB], "
        "memory.total [MiB], utilization.gpu [%], temperature.gpu, fan.speed [%], uuid, "
        "pci.bus_id",
        "0, P8, 9.35 W, 300 MHz, 0 MiB, 15360 MiB, 0 %, 39, [N/A], "
        "GPU-5428af19-1e82-a38c-ee42-cdd3ad745b7e, 00000000:00:04.0",
        "1, P0, 80.40 W, [N/A], 7094 MiB, 8192 MiB, 56 %, 75, 0 %, "
        "GPU-b334763a-21fa-1302-5dff-1eaecd0f5428, 00000000:01:00.0",
    ]
    assert asked(two, "power.draw, memory.free", header=False, units=False) == [
        "9.35, 15360", "80.40, 1098"]


def test_every_field_can_be_asked_for(two: Library) -> None:
    every = ",".join(field.name for field in fields.GPU_FIELDS)
    head, first, second = asked(two, every)
    assert head.count(", ") == first.count(", ") == second.count(", ")
    assert len(set(fields.OTHER_NAMES.values()) - set(every.split(","))) == 0


def test_processes_as_csv(two: Library) -> None:
    wanted = fields.app_fields("pid,name,used_memory")
    assert fields.app_lines(two.gpus(), wanted, True, True) == [
        "pid, process_name, used_gpu_memory [MiB]",
        "314080, /usr/bin/python3, 172 MiB", "314084, /usr/bin/python3, 6260 MiB"]
    assert fields.app_lines(two.gpus(), wanted[:1], False, False) == ["314080", "314084"]


def test_many_processes_are_all_listed() -> None:
    busy = opened({**T4, "processes": [(n, 1) for n in range(1, 100)]})
    assert [process.pid for process in busy.gpus()[0].processes()] == list(range(1, 100))


def test_the_report_has_sections_that_can_be_chosen(two: Library) -> None:
    text = report.report(two, two.gpus()[:1], ["MEMORY", "POWER"], 0)
    assert text.startswith("\n==============NVSMI LOG==============\n\nTimestamp        ")
    assert text.endswith("""
Attached GPUs                             : 2
GPU 00000000:00:04.0
    FB Memory Usage
        Total                             : 15360 MiB
        Reserved                          : 0 MiB
        Used                              : 0 MiB
        Free                              : 15360 MiB
    BAR1 Memory Usage
        Total                             : N/A
        Used                              : N/A
        Free                              : N/A
    GPU Power Readings
        Power Draw                        : 9.35 W
        Current Power Limit               : 70.00 W
        Requested Power Limit             : N/A
        Default Power Limit               : N/A

""")
    whole = report.report(two, two.gpus(), [], 0)
    assert "        Corrected" not in whole.split("ECC Errors")[0]
    assert "        Process ID                        : 314084\n" in whole
    assert "    ECC Mode\n        Current                           : Enabled\n" in whole


def test_gpus_are_chosen_by_index_uuid_and_bus(two: Library) -> None:
    def which(wanted: str) -> list[int]:
        return [gpu.index for gpu in chosen(two.gpus(), wanted)]

    assert which("1") == [1] and which("1,0") == [1, 0] and which("7") == []
    assert which(RTX["UUID"]) == [1] and which("01:00.0") == [1]
    assert same_bus("00000000:01:00.0", "0000:01:00.0")
    assert not same_bus("00000000:01:00.0", "0001:01:00.0")


@pytest.mark.parametrize(("words", "status", "said"), [
    (["--bar"], 1, "ERROR: Option --bar is not recognized. Please run 'nvidia-smi -h'"),
    (["--query-gpu=foo", "--format=csv"], 2, 'Field "foo" is not a valid field to query.'),
    (["--query-gpu=name"], 1, '"--format=" option is missing'),
    (["-L", "-q"], 1, "Invalid combination of input arguments"),
    (["-i"], 1, "requires a value"),
    (["-l", "x"], 1, "Option x is not recognized"),
    (["--loop=x"], 1, "is not valid"),
    (["-q", "-d", "FOO"], 1, 'Section "FOO" is not known'),
    (["-i", "7"], 6, "No devices were found"),
    (["-x"], 1, "Invalid combination of input arguments"),
    (["dmon", "-c", "x"], 1, 'Value "x" of option -c is not valid'),
    (["dmon", "-s", "q"], 1, "Option q is not recognized"),
    (["pmon", "-s", "p"], 1, "Option p is not recognized"),
    (["pmon", "-c"], 1, "Option -c requires a value"),
    (["pmon", "--bar"], 1, "Option --bar is not recognized"),
])
def test_mistakes_have_the_vendors_words(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "Library", lambda: opened(T4))
    assert command.main(words) == status
    assert said in capsys.readouterr().out


def test_lists_and_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "Library", lambda: opened(T4, RTX))
    assert command.main(["-L", "-f", str(tmp_path / "out")]) == 0
    first = (tmp_path / "out").read_text(encoding="utf-8").splitlines()[0]
    assert first == "GPU 0: Tesla T4 (UUID: GPU-5428af19-1e82-a38c-ee42-cdd3ad745b7e)"
    assert command.main(["--help"]) == 0 and command.main(["--help-query-gpu"]) == 0
    text = capsys.readouterr().out
    assert "--query-compute-apps=" in text and '"memory.total"' in text


def test_without_a_driver_it_says_so_and_a_loop_ends_with_a_signal(tmp_path: Path) -> None:
    tool = tools.folder() / tools.NAME
    bare = {"PATH": os.defpath}
    failed = subprocess.run([tool, "-L"], env=bare, capture_output=True, text=True)
    assert failed.returncode == 9
    assert failed.stdout.startswith("NVIDIA-SMI has failed because it couldn't communicate")
    # Its own CPU device instead: lines come until Ctrl-C.
    from fdcore import activate

    looped = subprocess.Popen(
        [tool, "--query-gpu=index", "--format=csv", "-lms", "20"], text=True,
        env={**bare, **activate.variables(None, direct=True)}, stdout=subprocess.PIPE)
    assert looped.stdout is not None
    assert [looped.stdout.readline() for _ in range(4)] == ["index\n", "0\n", "0\n", "0\n"]
    looped.send_signal(signal.SIGINT)
    assert looped.wait(60) == -signal.SIGINT
    looped.stdout.close()


def test_xml_nests_as_its_readers_expect(two: Library) -> None:
    text = markup.document(two, two.gpus(), [], 0)
    assert text.startswith('<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_')
    root = ElementTree.fromstring(text)
    first, second = root.findall("gpu")
    assert root.findtext("attached_gpus") == "2" and root.findtext("driver_version") == "550.54.15"
    assert first.get("id") == "00000000:00:04.0" and first.findtext("uuid") == T4["UUID"]
    assert first.findtext("temperature/gpu_temp") == "39 C"
    assert first.findtext("gpu_power_readings/power_draw") == "9.35 W"
    assert first.findtext("ecc_errors/volatile/uncorrected") == "0"
    assert first.findtext("clocks/sm_clock") == "300 MHz"
    assert first.findtext("pci/pci_gpu_link_info/pcie_gen/max_link_gen") == "N/A"
    assert second.findtext("utilization/gpu_util") == "56 %"
    assert [one.findtext("pid") for one in second.findall("processes/process_info")] == [
        "314080", "314084"]  # fmt: skip
    some = ElementTree.fromstring(markup.document(two, two.gpus(), ["MEMORY"], 0))
    assert [child.tag for child in some.find("gpu") or ()] == ["fb_memory_usage", "bar1_memory_usage"]


def test_names_in_xml_are_escaped() -> None:
    odd = opened({**T4, "Name": "a<b & c"})
    text = markup.document(odd, odd.gpus(), [], 0)
    assert ElementTree.fromstring(text).findtext("gpu/product_name") == "a<b & c"


DMON = """\
# gpu    pwr  gtemp  mtemp     sm    mem    enc    dec    jpg    ofa   mclk   pclk 
# Idx      W      C      C      %      %      %      %      %      %    MHz    MHz 
    0      9     39      -      0      0      -      -      -      -    300    300 
    1     80     75      -     56     31      -      -      -      -      -      - 
"""
PMON = """\
# gpu         pid   type     sm    mem    enc    dec    jpg    ofa     fb    command 
# Idx           #    C/G      %      %      %      %      %      %     MB    name 
    0           -      -      -      -      -      -      -      -      -    - 
    1      314080      C     12      3      0      1      -      -    172    python3 
    1      314084      C      -      -      -      -      -      -   6260    python3 
"""


def test_dmon_and_pmon_have_the_vendors_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "Library", lambda: opened(T4, RTX))
    monkeypatch.setattr(
        Gpu, "shares", lambda gpu: {314080: (12, 3, 0, 1)} if gpu.index else {})
    assert command.main(["dmon", "-c", "1"]) == 0
    assert capsys.readouterr().out == DMON
    assert command.main(["pmon", "-c", "1", "-s", "um"]) == 0
    assert capsys.readouterr().out == PMON
    assert command.main(["dmon", "-c", "25", "-d", "0.001", "-i", "1", "-s", "m", "-o", "DT"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 25 + 2 * 2 and lines[0] == lines[22]  # the head again after 20
    assert lines[0].startswith("#Date      Time       gpu     fb   bar1")
    assert lines[2].split()[2:] == ["1", "7094", "-"]
    assert command.main(["pmon", "--help"]) == 0 and "--select=" in capsys.readouterr().out


def test_values_that_are_not_there_are_none() -> None:
    gpu: Gpu = opened({"Name": "x", "processes": []}).gpus()[0]
    assert gpu.number("Temperature", 0) is None and gpu.pair("MigMode") is None
