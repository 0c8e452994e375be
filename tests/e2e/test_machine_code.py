"""FD_CPU_KERNELS=skip: programs that bring machine code alone, and nothing that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import (
    APPS,
    OUT,
    ROADS,
    Run,
    Server,
    build_c,
    compile_into,
    newer,
    nvcc,
    run,
)
from tests.e2e.test_programs import same
from tests.parallel import building

pytestmark = pytest.mark.cpu_device

SKIP = {"FD_CPU_KERNELS": "skip", "FD_CPU_CC": "9.0"}
# What nvcc is asked for, by the kind of file that comes out.
KINDS = {
    "cubin": ["-arch=sm_90", "-cubin"],
    "fatbin": ["-gencode", "arch=compute_90,code=[sm_90,compute_90]",
               "-gencode", "arch=compute_100,code=sm_100", "-fatbin"],
    "small.fatbin": ["-gencode", "arch=compute_90,code=sm_90", "-fatbin",
                     "--compress-mode=size"],
}
# As nvcc and its tools say: parameters, threads, shared, constant, local bytes, target,
# cluster.
KERNELS = """\
bounded: 0+32 32+4 128 0 64 256 90 0
clustered: 0+4 1024 0 64 0 90 2
large: 0+20000 20000+4 1024 0 64 0 90 0
several: 0+8 8+4 16+32 1024 400 64 0 90 0
"""


def compiled(kind: str) -> Path:
    compiler, source, target = nvcc(), APPS / "machine_code.cu", OUT / f"machine_code.{kind}"
    if compiler is None:
        pytest.skip("no nvcc: neither in the wheels of the test extra nor on the path")
    with building(target.name):
        if not newer(target, source):
            compile_into(target, [compiler, *KINDS[kind], source])
    return target


@pytest.fixture(scope="module")
def skipping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("skip"), env=SKIP)
    yield server
    assert server.stop() == 0, server.text()


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", KINDS)
def test_machine_code_is_known_and_skipped(
    kind: str, road: str, direct: Run, skipping: Server
) -> None:
    program, code = build_c("machine_code"), compiled(kind)
    alone = direct(program, code, env=SKIP)
    same(alone, run(skipping.command(program, code), {"FD_TRANSPORT": road}))
    assert KERNELS in alone.out
    assert "on fdcore CPU device (kernels skipped)\n" in alone.out
    assert alone.err.count("FD_CPU_KERNELS=skip") == 1, alone.err


def test_machine_code_is_refused_where_kernels_are_to_run(direct: Run, remote: Run) -> None:
    program, code = build_c("machine_code"), compiled("cubin")
    same(direct(program, "refused", code), remote(program, "refused", code))


def test_machine_code_of_another_architecture_is_refused(direct: Run) -> None:
    program, code = build_c("machine_code"), compiled("small.fatbin")
    other = direct(program, "refused", code, env={**SKIP, "FD_CPU_CC": "8.0"})
    assert "PASS" in other.out, other.out
    assert "code for sm_90 only: set FD_CPU_CC" in other.err
