"""Programs that every run has first on its path: nvidia-smi, the lease's own."""

import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fdcore.config import private_folder, runtime_folder
from fdcore.errors import naming

NAME = "nvidia-smi"


def folder() -> Path:
    """A folder of this user with them in it. The script names this Python and this
    package, whatever the program's own environment is like."""
    text = script()
    key = sha256(text.encode()).hexdigest()[:16]
    made = private_folder(runtime_folder() / f"bin-{key}")
    tool = made / NAME
    if not tool.exists():
        fresh = made / f"{NAME}.{secrets.token_hex(4)}"
        try:
            with naming(made):
                fresh.write_text(text, encoding="utf-8")
            fresh.chmod(0o700)
            fresh.rename(tool)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    return made


def script() -> str:
    root = Path(__file__).resolve().parent.parent
    start = (
        f"import sys; sys.path.insert(0, {str(root)!r}); "
        "from runpy import run_module; "
        "run_module('fdcore.nvsmi.command', run_name='__main__')"
    )
    # -I -S: neither the user's modules nor what site would load.
    words = [sys.executable, "-ISc", start]
    return f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'


def search_path(environment: Mapping[str, str]) -> str:
    """Where a program of a run is looked for."""
    return f"{folder()}{os.pathsep}{environment.get('PATH', os.defpath)}"
