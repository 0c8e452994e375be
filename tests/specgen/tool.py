"""Runs of the generator, and where a real cuda.h may be found."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
INCLUDE = CSRC / "include"
CC = os.environ.get("CC", "cc")


def run(*command: object, **more: object) -> subprocess.CompletedProcess[str]:
    line = [str(word) for word in command]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=110, check=False, **more
    )


def specgen(*args: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, CSRC / "specgen", *args)


def generate(out: Path, *args: object) -> Path:
    made = specgen("--out", out, *args)
    assert made.returncode == 0, made.stderr
    return out


def cuda_includes() -> list[Path]:
    """Folders with a real cuda.h: toolkits, and the wheels of this Python.

    FD_CUDA_INCLUDE may name more, separated by colons.
    """
    found = [Path(p) for p in os.environ.get("FD_CUDA_INCLUDE", "").split(":") if p]
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        homes.append(str(Path(nvcc).resolve().parent.parent))
    found += [Path(home) / "include" for home in homes if home]
    found += sorted(Path("/usr/local").glob("cuda*/include"))
    site = Path(sysconfig.get_path("purelib"))
    found += sorted(site.glob("nvidia/*/include"))
    there = [p.resolve() for p in found if (p / "cuda.h").exists()]
    return list(dict.fromkeys(there))
