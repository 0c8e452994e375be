"""What reaches each stream of the device is the same with and without a server.

The CPU device writes down what its streams do (FD_CPU_LOG); tests/submissions.py says what
is brought to one form before the two are compared. This is the proof of order and
completeness for all programs of these tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import submissions
from tests.e2e.conftest import OUT, ROADS, Run, Server, build_c, build_cu, run
from tests.e2e.test_programs import SEMANTICS
from tests.e2e.test_tour import DEVICES, NAMES, build

# Through a server, managed memory and mirrors of pinned memory are copies of blocks, which
# a driver that shares memory with the program does not make.
SHARED = {"managed", "pinned", "managed_memory"}
C_PROGRAMS = (*(name for name in SEMANTICS if name not in SHARED), "demo_driver")
CUDA_PROGRAMS = ("matmul", "reduce", "printing", "features")
# They free memory and allocate again: see submissions.py.
LOOSE = {"freed_block", "demo_driver", "features", "eigenvalues", "imaging", "merging",
         "pools", "stream_order", "textures", "transforms"}
# Nothing of theirs reaches a stream.
NOTHING = {"old_names", "answers", "stream_attributes"}
# What their kernels leave depends on time, also directly: clocks, the order of atomics.
VARY = {"atomics", "clocks", "compaction", "monte_carlo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submissions")


@pytest.fixture(scope="module")
def logging(folder: Path) -> Iterator[Server]:
    server = Server(folder / "state", env={"FD_CPU_LOG": str(folder / "remote")})
    yield server
    assert server.stop() == 0, server.text()


def compare(name: str, program: Path, road: str, direct: Run, logging: Server, folder: Path,
            devices: int = 1) -> None:
    for old in folder.glob("*.[0-9]*"):
        old.unlink()
    alone = direct(program, devices=devices, env={"FD_CPU_LOG": str(folder / "direct")})
    there = run(logging.command(program, options=("-n", str(devices))), {"FD_TRANSPORT": road})
    assert (there.status, there.out) == (alone.status, alone.out)
    for _ in range(100):  # the worker may still be at what nobody waited for
        told = submissions.difference(folder / "direct", folder / "remote", name in LOOSE,
                                      name not in VARY, name in NOTHING)
        if not told:
            break
        time.sleep(0.02)
    assert not told, told


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", C_PROGRAMS)
def test_programs_of_the_driver_api(name: str, road: str, direct: Run, logging: Server,
                                    folder: Path) -> None:
    compare(name, build_c(name), road, direct, logging, folder)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", CUDA_PROGRAMS)
def test_programs_of_the_runtime(name: str, road: str, direct: Run, logging: Server,
                                 folder: Path) -> None:
    compare(name, build_cu(name), road, direct, logging, folder)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SHARED])
def test_tour(name: str, direct: Run, logging: Server, folder: Path) -> None:
    assert build(name) == ""
    compare(name, OUT / f"tour-{name}", "shm", direct, logging, folder, DEVICES.get(name, 1))


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
