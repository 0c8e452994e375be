"""Real programs: the same output directly on the CPU device and through fdrun."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fdcore import ucx
from tests.e2e.conftest import APPS, ROADS, Outcome, Run, build_c, build_cu


def same(direct: Outcome, remoted: Outcome) -> None:
    """Both are right, and word for word the same."""
    assert "PASS" in direct.out.splitlines(), f"direct:\n{direct.out}\n{direct.err}"
    assert direct.status == 0, direct.err
    assert (remoted.out, remoted.status) == (direct.out, direct.status), (
        f"direct:\n{direct.out}\nremoted:\n{remoted.out}\n{remoted.err}")


SEMANTICS = ("order_threads", "blocked_stream", "capture_threads", "freed_block",
             "rerecorded_event", "wrong_arguments", "launch_mistakes",
             "contexts", "fork_child", "illegal_address", "illegal_threads",
             "illegal_alloc", "stream_rules",
             "capture_rules", "exit_ways", "fork_ways", "dlopen_close",
             "old_names", "answers", "words",
             "stream_attributes", "launch_attributes",
             "batches", "old_launch", "managed", "pinned", "green", "printing_held",
             "unwaited", "steady")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", SEMANTICS)
def test_semantics(name: str, road: str, direct: Run, remote: Run) -> None:
    program = build_c(name)
    same(direct(program), remote(program, road=road))


# What is peculiar to a road with UCX in the program: its signals, its threads and a fork, the
# order of messages that have none by themselves, bytes beside them.
OVER_RDMA = ("managed", "fork_child", "order_threads", "pinned", "illegal_address", "graph_host")


@pytest.mark.skipif("rdma" in ROADS or not ucx.is_here(),
                    reason="all is run over rdma, or there is no UCX (it is in the test extra)")
@pytest.mark.parametrize("name", OVER_RDMA)
def test_some_over_rdma(name: str, direct: Run, remote: Run) -> None:
    """The others are run by FD_TEST_ROADS=rdma."""
    program = build_c(name)
    same(direct(program), remote(program, road="rdma"))


@pytest.mark.parametrize("road", ROADS)
def test_child_goes_on_when_its_parent_has_ended(road: str, direct: Run, remote: Run) -> None:
    program = build_c("fork_ways")
    same(direct(program, "orphan"), remote(program, "orphan", road=road))


GRAPHS = ("graph_nodes", "graph_capture", "graph_memory", "graph_host")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str, road: str, direct: Run, remote: Run) -> None:
    program = build_c(name)
    same(direct(program), remote(program, road=road))


@pytest.mark.parametrize("road", ROADS)
def test_demo_with_embedded_ptx(road: str, direct: Run, remote: Run) -> None:
    program = build_c("demo_driver")
    same(direct(program), remote(program, road=road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("cudart", ("static", "shared"))
def test_vadd(cudart: str, road: str, direct: Run, remote: Run) -> None:
    program = build_cu("vadd", "-cudart", cudart, tag=f"-{cudart}")
    same(direct(program), remote(program, road=road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", ("matmul", "reduce", "printing"))
def test_nvcc_kernels(name: str, road: str, direct: Run, remote: Run) -> None:
    program = build_cu(name)
    same(direct(program), remote(program, road=road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("compress", ("none", "size", "speed", "balance"))
def test_compressed_fat_binaries(compress: str, road: str, direct: Run, remote: Run) -> None:
    program = build_cu("vadd", f"--compress-mode={compress}", tag=f"-{compress}")
    same(direct(program), remote(program, road=road))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("devices", (1, pytest.param(2, marks=pytest.mark.cpu_device)))
def test_features(devices: int, road: str, direct: Run, remote: Run) -> None:
    program = build_cu("features")
    same(direct(program, devices=devices),
         remote(program, road=road, options=("-n", str(devices))))


@pytest.mark.cpu_device
@pytest.mark.parametrize("road", ROADS)
def test_peers(road: str, direct: Run, remote: Run) -> None:
    program = build_c("peers")
    same(direct(program, devices=2), remote(program, road=road, options=("-n", "2")))


SCRIPTS = {"numba_saxpy": "numba_cuda", "nvrtc_core": "cuda.core", "cupy_raw": "cupy",
           "multiprocess": "ctypes"}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_python(name: str, road: str, direct: Run, remote: Run, python: Path,
                tmp_path: Path) -> None:
    package = SCRIPTS[name]
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"{package} is not installed (it is in the test extra)")
    script = APPS / f"{name}.py"
    env = {"CUPY_CACHE_DIR": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    same(direct(python, script, env=env), remote(python, script, road=road, env=env))


@pytest.mark.timeout(600)
def test_cupy_sweep(direct: Run, remote: Run, python: Path, tmp_path: Path) -> None:
    """A few hundred expressions; compiled once, so the later runs are the quick ones."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed (it is in the test extra)")
    env = {"CUPY_CACHE_DIR": str(tmp_path)}
    script = APPS / "cupy_sweep.py"
    alone = direct(python, script, env=env)
    for road in ROADS:
        same(alone, remote(python, script, road=road, env=env))


def test_every_program_is_run() -> None:
    """By name, in some file of this folder."""
    text = "".join(file.read_text() for file in APPS.parent.glob("test_*.py"))
    there = sorted(path.stem for path in APPS.iterdir() if path.suffix in (".c", ".cu", ".py"))
    assert [name for name in there if f'"{name}' not in text] == []
