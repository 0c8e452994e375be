"""Shares of computing time (--compute): kept by the ledger, lent when nobody else wants the
GPU, refused when there is not so much of it. `python -m bench.shares` is the long form."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.shares import Competitors, parts
from tests.e2e.conftest import ROADS, Run, Server, build_c, run

pytestmark = pytest.mark.cpu_device


def test_two_programs_have_what_they_asked_for(tmp_path: Path) -> None:
    """By the ledger's own seconds, however busy the machine is."""
    competitors = Competitors(tmp_path, turns=30_000)
    try:
        competitors.start("--compute", "75")
        competitors.start("--compute", "25")
        competitors.ready()
        before, finished = competitors.spent(), competitors.finished()
        competitors.until(
            lambda: sum(competitors.spent()) - sum(before) > 2.0, "they compute", 120)
        after, work = competitors.spent(), competitors.finished()
        large, _ = parts(before, after)
        assert 60 <= large <= 90, (before, after)
        # Both got on: no figure of how far, which is the machine's as well.
        assert all(b > a for a, b in zip(finished, work, strict=True)), (finished, work)
    finally:
        competitors.close()


def test_whoever_is_alone_has_everything(tmp_path: Path) -> None:
    """One percent of the time, and yet more of it than fifty such parts."""
    competitors = Competitors(tmp_path, turns=30_000)
    try:
        competitors.start("--compute", "1")
        competitors.ready()
        began, before = time.monotonic(), competitors.spent()[0]
        competitors.until(lambda: competitors.spent()[0] - before > 0.5, "it computes")
        assert time.monotonic() - began < 25, "held to its share though it was alone"
    finally:
        competitors.close()


def test_processes_of_a_lease_share_its_account(server: Server, tmp_path: Path) -> None:
    """What one has spent is in the row of all, also when it has ended."""
    program = build_c("order_threads")
    script = f"{program} && {program}"
    done = run(server.command("/bin/sh", "-c", script,
                              options=("-n", "1", "-m", "64", "--compute", "40")), {})
    assert done.status == 0 and done.out.count("PASS") == 2, done.out + done.err
    deadline = time.monotonic() + 60
    while "s of its GPUs' time" not in server.text():
        assert time.monotonic() < deadline, server.text()
        time.sleep(0.05)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", [
    "order_threads", "graph_host", "blocked_stream", "capture_threads", "steady",
    "stream_rules", "contexts", "illegal_address",
])  # fmt: skip
def test_programs_do_the_same_with_a_share(
    name: str, road: str, direct: Run, remote: Run
) -> None:
    program = build_c(name)
    alone = direct(program)
    remoted = remote(program, road=road, options=("-n", "1", "--compute", "30"))
    assert (remoted.out, remoted.status) == (alone.out, alone.status), remoted.err


def test_no_more_than_there_is_is_promised(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", devices=1)
    try:
        inner = server.command("/bin/true", options=("-m", "64", "--compute", "50"))
        nested = server.command(*inner, options=("-m", "64", "--compute", "60"))
        refused = run(nested, {})
        assert refused.status == 125 and "GPU 0 40 %" in refused.err, refused.err
        fits = server.command("/bin/true", options=("-m", "64", "--compute", "40"))
        assert run(server.command(*fits, options=("-m", "64", "--compute", "60")), {}).status == 0
        wrong = run(server.command("/bin/true", options=("--compute", "101")), {})
        assert wrong.status == 125 and "percentage" in wrong.err
    finally:
        server.stop()
