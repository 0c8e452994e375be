"""Each refusal of the generator: a bad entry in data/bad/, whose first line is what it
must say."""

import shutil
from pathlib import Path

import pytest

from tests.specgen.tool import HERE, specgen

BAD = sorted((HERE / "data" / "bad").glob("*.toml"))
TYPES = HERE / "data" / "sample" / "types.toml"


@pytest.mark.parametrize("bad", BAD, ids=lambda path: path.stem)
def test_bad_entry_is_refused_with_its_message(bad: Path, tmp_path: Path) -> None:
    said = bad.read_text().splitlines()[0].removeprefix("# ")
    shutil.copy(TYPES, tmp_path / "types.toml")
    shutil.copy(bad, tmp_path / "bad.toml")
    done = specgen("--spec", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"bad.toml: {said}"]
    assert not (tmp_path / "out").exists()


def test_bad_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "types.toml").write_text('[scalar]\nint = "int33_t"\n')
    done = specgen("--spec", tmp_path)
    assert done.stderr == "types.toml: int: unknown wire type int33_t\n"


def test_call_described_in_two_files_is_refused(tmp_path: Path) -> None:
    shutil.copy(TYPES, tmp_path / "types.toml")
    entry = '[cuInit]\nmode = "local"\nsince = 2000\nc = "CUresult cuInit(void)"\n'
    (tmp_path / "a.toml").write_text(entry)
    (tmp_path / "b.toml").write_text(entry)
    done = specgen("--spec", tmp_path)
    assert done.stderr == "b.toml: cuInit: is in a.toml already\n"


def test_sync_call_without_an_answer_is_suggested_as_async(tmp_path: Path) -> None:
    shutil.copy(TYPES, tmp_path / "types.toml")
    (tmp_path / "a.toml").write_text(
        '[cuOne]\nid = 0x0200\nmode = "sync"\nsince = 2000\n'
        'c = "CUresult cuOne(unsigned int Flags)"\n'
    )
    done = specgen("--spec", tmp_path, "--suggest")
    assert (done.returncode, done.stderr) == (0, "a.toml: cuOne: could be async\n")


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    shutil.copy(TYPES, tmp_path / "types.toml")
    (tmp_path / "a.toml").write_text("[cuOne]\nmode = ?\n")
    done = specgen("--spec", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("a.toml: ") and "line 2" in done.stderr
