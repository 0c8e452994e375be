"""The generator as a program: what it writes, and that it writes only what changed."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.specgen.tool import CC, CSRC, HERE, INCLUDE, generate, run, specgen

SAMPLE = HERE / "data" / "sample"
GOLDEN = HERE / "data" / "golden"


def test_sample_gives_the_golden_files(tmp_path: Path) -> None:
    made = generate(tmp_path, "--spec", SAMPLE)
    if os.environ.get("FD_GOLDEN") == "write":
        generate(GOLDEN, "--spec", SAMPLE)
    golden = {p.name for p in GOLDEN.iterdir()}
    assert {p.name for p in made.iterdir()} == golden
    for name in sorted(golden):
        assert (made / name).read_text() == (GOLDEN / name).read_text(), name


def test_second_run_writes_nothing(tmp_path: Path) -> None:
    generate(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    generate(tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_every_output_says_what_made_it(tmp_path: Path) -> None:
    for path in generate(tmp_path).iterdir():
        if path.suffix != ".hash":
            assert "csrc/specgen" in path.read_text().splitlines()[0], path.name


def test_wire_lock_is_up_to_date(tmp_path: Path) -> None:
    checked = specgen("--out", tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "wire.lock" not in checked.stderr


def test_changed_layout_is_refused_until_it_is_locked(tmp_path: Path) -> None:
    for path in SAMPLE.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    assert specgen("--spec", tmp_path, "--lock").returncode == 0
    stream = tmp_path / "stream.toml"
    stream.write_text(stream.read_text().replace("int Flags)", "int Flags, int more)"))
    refused = specgen("--spec", tmp_path)
    assert refused.returncode == 1
    assert "stream.toml: cuStreamCreate: differs from wire.lock" in refused.stderr
    assert specgen("--spec", tmp_path, "--lock").returncode == 0
    assert specgen("--spec", tmp_path).returncode == 0


@pytest.mark.parametrize("spec", [SAMPLE, CSRC / "spec"], ids=["sample", "project"])
def test_headers_and_refusals_compile_without_a_warning(
    spec: Path, tmp_path: Path
) -> None:
    generate(tmp_path, "--spec", spec)
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fsyntax-only"]
    paths = [f"-I{INCLUDE}", f"-I{tmp_path}", "-include", "stddef.h"]
    for name in ("proto.h", "cuda_calls.h", "driver_calls.h", "cpudev_calls.c"):
        said = run(CC, *flags, *paths, "-x", "c", tmp_path / name)
        assert said.stderr.replace("#pragma once in main file", "") == "", name


def test_own_toml_reader_agrees_with_the_standard_one(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(CSRC / "specgen")!r})
import pathlib, minitoml
if sys.version_info < (3, 11):
    sys.exit(77)
for path in sorted(pathlib.Path({str(CSRC / "spec")!r}).glob("*.toml")):
    text = path.read_text()
    assert minitoml.small_loads(text) == minitoml.loads(text), path
"""
    done = run(sys.executable, "-c", program)
    if done.returncode == 77:
        pytest.skip("this Python has no tomllib to compare with")
    assert done.returncode == 0, done.stderr


def test_declarations_for_cython_compile(tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    gen = generate(tmp_path / "gen")
    source = tmp_path / "count.pyx"
    source.write_text(
        "from fdc_driver cimport fdc_driver, fdc_driver_load\n"
        "def count(bytes path):\n"
        "    cdef fdc_driver driver\n"
        "    cdef int n = -1\n"
        "    if fdc_driver_load(path, &driver) == 0:\n"
        "        driver.cuDeviceGetCount(&n)\n"
        "    return n\n"
    )
    made = run(sys.executable, "-m", "cython", "-3", f"-I{gen}", source)
    assert made.returncode == 0, made.stderr
    headers = sysconfig.get_path("include")
    paths = [f"-I{path}" for path in (INCLUDE, gen, headers)]
    built = run(CC, "-fsyntax-only", *paths, source.with_suffix(".c"))
    assert built.returncode == 0, built.stderr
