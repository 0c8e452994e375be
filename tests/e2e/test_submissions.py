"""What reaches each stream of the device is the same with and without a server.

The CPU device writes down what its streams do (FD_CPU_LOG); tests/submissions.py says what
is brought to one form before the two are compared. This is the proof of order and
completeness for all programs of these tests.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import submissions
from tests.e2e.conftest import (
    APPS,
    MEMORY_MB,
    OUT,
    ROADS,
    Run,
    Server,
    build_c,
    build_cu,
    run,
)
from tests.e2e.test_programs import GRAPHS, SCRIPTS, SEMANTICS
from tests.e2e.test_tour import DEVICES, NAMES, build


def build_several(name: str) -> Path:
    return build_cu(name, "-std=c++17")


# What is not compared, and why. Every other program is in one of the lists below.
LEFT_OUT = {
    **dict.fromkeys(("managed", "pinned", "printing_held", "managed_memory", "zeroed"),
                    "blocks of memory that a driver shares with the program are copied"),
    **dict.fromkeys(("illegal_threads", "illegal_alloc", "exit_ways",
                     "fork_ways"),
                    "threads call until something happens: how often depends on time"),
    **dict.fromkeys(("contexts", "dlopen_close"),
                    "threads copy on one stream at once, in any order"),
    **dict.fromkeys(("crosswise", "cross_threads", "reset_waiting", "trunks"),
                    "about several servers, which wait for each other by functions of the shim's"),
    "multiprocess": "which process of a pool takes which work is a race",
    "fatbin": "loads and launches what it is told to, a cache's test",
    **dict.fromkeys(("numba_steady", "cupy_steady"),
                    "rounds of the same, for whoever counts waits"),
    "hold_memory": "two programs at once, a server's test",
    "busy_watched": "launches until another program has ended: how often depends on time",
    **dict.fromkeys(("lost_server", "lost_copy"), "a worker is killed, a server's test"),
    "passing": "copies, and gives nothing to a stream, a test of its own",
    "rough_road": "its connections are cut, a test of its own",
    "list_devices": "asks, and gives nothing to a stream",
    "nvml_slice": "asks, and gives nothing to a stream",
    "nvml_events": "other programs break their contexts, NVML's test",
    "machine_code": "kernels are skipped",
    "cupy_sweep": "takes minutes; cupy_raw is the short one",
}
PYTHON = tuple(name for name in SCRIPTS if name not in LEFT_OUT)
C_PROGRAMS = (*(name for name in (*SEMANTICS, *GRAPHS) if name not in LEFT_OUT), "demo_driver",
              "out_of_memory", "counted")
CUDA_PROGRAMS = ("vadd", "matmul", "reduce", "printing", "features")
# Programs about several devices.
SEVERAL = {"peers": (2, build_c), "between_devices": (4, build_c),
           "several_gpus": (4, build_several)}
# They free memory and allocate again: see submissions.py.
LOOSE = {"freed_block", "demo_driver", "steady", "features", "eigenvalues", "imaging",
         "merging", "pools", "stream_order", "textures", "transforms", "graph_memory",
         "peers", "several_gpus", *PYTHON}
# Nothing of theirs reaches a stream.
NOTHING = {"old_names", "answers", "stream_attributes"}
# Blocks run one after the other: what a kernel leaves then does not depend on which of them
# came to an atomic first.
IN_ORDER = {"FD_CPU_THREADS": "1"}
# What their kernels leave depends on time all the same, also directly.
VARY = {"clocks"}
# Structures that their kernels are given have gaps.
GAPS = {"cupy_raw"}
# A server launches their graphs between functions of its own: see submissions.py.
FUNCTIONS = {"graph_host"}
SECONDS = 60.0
ARGUMENTS = {"out_of_memory": (str(MEMORY_MB),), "counted": ("read", "30")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submissions")


@pytest.fixture(scope="module")
def logging(folder: Path) -> Iterator[Server]:
    server = Server(folder / "state", devices=4,
                    env={"FD_CPU_LOG": str(folder / "remote"), **IN_ORDER})
    yield server
    assert server.stop() == 0, server.text()


def compare(name: str, program: Sequence[str | Path], road: str, direct: Run,
            logging: Server, folder: Path, devices: int = 1,
            env: dict[str, str] | None = None) -> None:
    for old in folder.glob("*.[0-9]*"):
        old.unlink()
    alone = direct(*program, devices=devices, anew=True,
                   env={"FD_CPU_LOG": str(folder / "direct"), **IN_ORDER, **(env or {})})
    there = run(logging.command(*program, options=("-n", str(devices))),
                {"FD_TRANSPORT": road, **(env or {})})
    assert (there.status, there.out) == (alone.status, alone.out), there.err
    deadline = time.monotonic() + SECONDS
    while True:  # the worker may still be at what nobody waited for
        told = submissions.difference(folder / "direct", folder / "remote", name in LOOSE,
                                      name not in VARY, name in NOTHING,
                                      parameters=name not in GAPS,
                                      functions=name not in FUNCTIONS)
        if not told or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not told, told


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", C_PROGRAMS)
def test_programs_of_the_driver_api(name: str, road: str, direct: Run, logging: Server,
                                    folder: Path) -> None:
    compare(name, (build_c(name), *ARGUMENTS.get(name, ())), road, direct, logging, folder)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", CUDA_PROGRAMS)
def test_programs_of_the_runtime(name: str, road: str, direct: Run, logging: Server,
                                 folder: Path) -> None:
    compare(name, (build_cu(name),), road, direct, logging, folder)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", SEVERAL)
def test_programs_of_several_devices(name: str, road: str, direct: Run, logging: Server,
                                     folder: Path) -> None:
    devices, build = SEVERAL[name]
    compare(name, (build(name),), road, direct, logging, folder, devices)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", PYTHON)
def test_programs_in_python(name: str, road: str, direct: Run, logging: Server, folder: Path,
                            python: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec(SCRIPTS[name].split(".")[0]) is None:
        pytest.skip(f"{SCRIPTS[name]} is not installed (it is in the test extra)")
    env = {"CUPY_CACHE_DIR": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    compare(name, (python, APPS / f"{name}.py"), road, direct, logging, folder, env=env)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEFT_OUT])
def test_tour(name: str, direct: Run, logging: Server, folder: Path) -> None:
    assert build(name) == ""
    compare(name, (OUT / f"tour-{name}",), "shm", direct, logging, folder, DEVICES.get(name, 1))


def test_every_program_is_compared_or_left_out_for_a_reason() -> None:
    there = {path.stem for path in APPS.iterdir() if path.suffix in (".c", ".cu", ".py")}
    compared = {*C_PROGRAMS, *CUDA_PROGRAMS, *SEVERAL, *PYTHON}
    assert there == compared | (set(LEFT_OUT) - {"managed_memory"})
    assert not compared & set(LEFT_OUT)


def test_a_lost_copy_would_be_seen(tmp_path: Path) -> None:
    kernel = "1 kernel k 1,1,1 1,1,1 1,1,1 0 0 @10 5"
    (tmp_path / "direct.1").write_text(f"1 copy @10 host 8 11\n{kernel}\n1 record\n")
    (tmp_path / "remote.1").write_text(
        "3 set @2000000 1 0 2097152 1\n"
        f"1 copy @20 host 4 0\n1 copy @24 host 4 11\n{kernel.replace('@10', '@20')}\n")
    direct, remote = tmp_path / "direct", tmp_path / "remote"
    assert submissions.difference(direct, remote) == ""
    for wrong in (f"1 copy @20 host 4 11\n{kernel}\n", f"{kernel}\n1 copy @10 host 8 11\n",
                  f"1 copy @10 host 8 12\n{kernel}\n", f"1 copy @18 host 8 11\n{kernel}\n"):
        (tmp_path / "remote.1").write_text(wrong)
        assert submissions.difference(direct, remote), wrong
