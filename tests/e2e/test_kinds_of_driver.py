"""The same programs where the server's driver is of another kind.

`hints` follows no address hint, so the session's addresses are where the driver put
them; `novmm` has no virtual memory calls, so that each allocation is the driver's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import MEMORY_MB, ROADS, Outcome, Run, Server, build_c, run
from tests.e2e.test_programs import SEMANTICS, same
from tests.e2e.test_zeroed import findings

pytestmark = pytest.mark.cpu_device

KINDS = ("hints", "novmm")


@pytest.fixture(scope="module", params=KINDS)
def other(request: pytest.FixtureRequest,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp(request.param),
                    env={"FD_CPU_STRICT": f"1,dirty,{request.param}"})
    yield server
    status = server.stop()
    assert status == 0, f"fdserver ended with {status}:\n{server.text()}"


def through(server: Server, *program: object, road: str,
            options: tuple[str, ...] = ("-n", "1")) -> Outcome:
    return run(server.command(*program, options=options), {"FD_TRANSPORT": road})


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", (*SEMANTICS, "demo_driver"))
def test_semantics(name: str, road: str, direct: Run, other: Server,
                   request: pytest.FixtureRequest) -> None:
    needs_vmm = name in ("managed", "printing_held")
    if needs_vmm and request.node.callspec.params["other"] == "novmm":
        pytest.skip("managed memory needs virtual memory calls")
    program = build_c(name)
    same(direct(program), through(other, program, road=road))


@pytest.mark.parametrize("road", ROADS)
def test_slice_is_the_limit(road: str, direct: Run, other: Server) -> None:
    program, half = build_c("out_of_memory"), MEMORY_MB // 2
    same(direct(program, str(half), memory=half),
         through(other, program, str(half), road=road, options=("-m", str(half))))


def test_new_memory_is_zero(other: Server, request: pytest.FixtureRequest) -> None:
    found = findings(through(other, build_c("zeroed"), road=ROADS[0]))
    missing = {"managed", "managed, in the program", "created and mapped"}
    without = request.node.callspec.params["other"] == "novmm"
    assert {kind for kind, held in found.items() if held != "zero"} == (
        missing if without else set()), found
