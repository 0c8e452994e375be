"""csrc/nvml/nvml.toml against an nvml.h, where one is installed, and against the library."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "build" / "lib" / "libnvidia-ml.so.1"


def named() -> tuple[set[str], set[str]]:
    text = (ROOT / "csrc" / "nvml" / "nvml.toml").read_text(encoding="utf-8")
    lists = [set(re.findall(r'"(nvml\w+)"', part)) for part in text.split("refused = [")]
    return lists[0], lists[1]


def headers() -> list[Path]:
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    places = [Path("/usr/local/cuda/include"), *wheels.glob("*/include")]
    return [place / "nvml.h" for place in places if (place / "nvml.h").exists()]


def test_library_exports_what_the_description_names() -> None:
    if not LIBRARY.exists():
        pytest.skip("not built")
    lines = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], check=True,
                           capture_output=True, text=True).stdout.splitlines()
    answered, refused = named()
    assert {line.split()[-1] for line in lines} == answered | refused


def test_every_function_of_the_header_is_named() -> None:
    found = headers()
    if not found:
        pytest.skip("no nvml.h here (package nvidia-nvml-dev)")
    for header in found:
        text = header.read_text(encoding="utf-8", errors="replace")
        declared = set(re.findall(r"DECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(", text))
        answered, refused = named()
        assert len(declared) > 300
        assert declared - answered - refused == set(), header
