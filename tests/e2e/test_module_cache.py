"""Images of code travel once: the worker keeps them on its disk, by their hash."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BIN, ROADS, Server, build_c, run
from tests.support import until

pytestmark = pytest.mark.cpu_device


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(**env: str) -> Server:
        folder = tmp_path / f"s{len(started)}"
        started.append(Server(folder, env={"FD_CACHE": str(tmp_path / "cache"), **env}))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def sent(server: Server, tmp_path: Path, program: str = "fatbin", *words: str,
         road: str = "shm") -> dict[str, Any]:
    """Runs the program; what its session told of itself."""
    file = tmp_path / "stats"
    done = run(server.command(build_c(program), *words),
               {"FD_TRANSPORT": road, "FD_STATS_FILE": str(file)})
    assert done.out == "PASS\n", done.err
    told = json.loads(file.read_text())
    file.unlink()
    return dict(told["sessions"][0])


def kept(tmp_path: Path, count: int) -> list[Path]:
    """The files of the cache, once there are so many: they are written after the answer."""
    def found() -> list[Path]:
        return [path for path in tmp_path.glob("cache/*/*") if len(path.name) == 64]

    until(lambda: len(found()) == count)
    return found()


@pytest.mark.parametrize("road", ROADS)
def test_second_run_sends_no_image(
    road: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve()
    first = sent(server, tmp_path, road=road)
    (file,) = kept(tmp_path, 1)
    second = sent(server, tmp_path, road=road)
    # Module and library are the same bytes.
    assert first["image_bytes"] == 2 * file.stat().st_size
    assert first["image_bytes_sent"] == file.stat().st_size
    assert second["image_bytes"] == first["image_bytes"]
    assert second["image_bytes_sent"] == 0
    assert second["waits"] == first["waits"] - 1
    assert second["calls"]["fdcModuleLoad"]["messages"] == 1
    assert first["calls"]["fdcModuleLoad"]["messages"] == 2


def test_code_for_other_gpus_stays_here(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    assert sent(serve(), tmp_path)["image_bytes"] < 2 * 10_000


def test_cache_is_this_users_alone(serve: Callable[..., Server], tmp_path: Path) -> None:
    sent(serve(), tmp_path)
    (file,) = kept(tmp_path, 1)
    # The address is a port: who asks there is not known.
    assert file.parent.name == "remote"
    assert [stat.S_IMODE(path.stat().st_mode) for path in
            (tmp_path / "cache", file.parent, file)] == [0o700, 0o700, 0o600]


def test_local_users_have_folders_of_their_own(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve()
    command = [BIN / "fdrun", "-n", "1", "-l", f"unix:{server.state}/control.sock", "--",
               build_c("fatbin")]
    assert run(command, {}).out == "PASS\n"
    assert kept(tmp_path, 1)[0].parent.name == str(os.geteuid())


@pytest.mark.parametrize("how", ("changed", "cut", "grown", "a link"))
def test_damaged_file_is_removed_and_the_image_sent_again(
    how: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve()
    first = sent(server, tmp_path)
    (file,) = kept(tmp_path, 1)
    good = file.read_bytes()
    if how == "changed":
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif how == "cut":
        file.write_bytes(good[:-1])
    elif how == "grown":
        file.write_bytes(good + b"\0")
    else:
        other = tmp_path / "elsewhere"
        other.write_bytes(good)
        file.unlink()
        file.symlink_to(other)
    again = sent(server, tmp_path)
    assert again["image_bytes_sent"] == first["image_bytes_sent"]
    assert "is damaged and goes" in server.text()
    assert kept(tmp_path, 1)[0].read_bytes() == good
    assert sent(server, tmp_path)["image_bytes_sent"] == 0


def test_least_recently_used_images_go(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    # Room for four images: each takes 4 KiB, or 8.
    server = serve(FD_CACHE_SIZE="0.03125")
    for params in range(6):
        sent(server, tmp_path, "counted", f"launch{params}", "1")
        kept(tmp_path, params + 1)
    sent(server, tmp_path, "counted", "launch0", "1")
    room = 0.03125 * (1 << 20)
    for params in range(6, 14):
        sent(server, tmp_path, "counted", f"launch{params}", "1")
        sizes = [-(-path.stat().st_size // 4096) * 4096
                 for path in tmp_path.glob("cache/*/*")]
        assert sum(sizes) <= room
    assert sent(server, tmp_path, "counted", "launch13", "1")["image_bytes_sent"] == 0
    assert sent(server, tmp_path, "counted", "launch1", "1")["image_bytes_sent"] > 0


def test_without_a_cache_images_are_sent_unasked(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(FD_CACHE_SIZE="0")
    told = sent(server, tmp_path)
    assert told["image_bytes_sent"] == told["image_bytes"]
    # Asked once, for the first image.
    assert told["calls"]["fdcModuleLoad"]["messages"] == 2
    assert told["calls"]["fdcLibraryLoad"]["messages"] == 1
    assert not (tmp_path / "cache").exists()


def test_cache_that_cannot_be_made_is_said_once(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")
    server = serve()
    for _ in range(2):
        assert sent(server, tmp_path)["image_bytes_sent"] > 0
    assert server.text().count("the module cache: ") == 1


def test_workers_at_once_keep_one_whole_file(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve()
    program = build_c("fatbin")
    both = run([BIN / "fdrun", "-n", "1", "-l", server.address, "--", "sh", "-c",
                f"for i in 1 2 3 4; do {program} & done; wait"], {})
    assert both.out == "PASS\n" * 4
    kept(tmp_path, 1)
    assert sent(server, tmp_path)["image_bytes_sent"] == 0
    assert not list(tmp_path.glob("cache/*/new-*"))
