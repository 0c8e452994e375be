"""GPUs without the wrapper: what a shell, a systemd unit or a Jupyter kernel needs.

env says which variables put the shim in front of a program, with a reservation or with
the CPU device and no server. A Jupyter kernel is a file that names a command, so it is
fdrun in front of the interpreter: it has its GPU while it runs.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdcore import launch, modules, reservation
from fdcore.config import CPU_DEVICE, library
from fdcore.errors import ConfigError


def variables(path: Path | None, direct: bool) -> dict[str, str]:
    """What has to be set beside what is set already."""
    now = launch.own_environment()
    if direct:
        made = dict(now)
        made.pop("FD_SESSION", None)
        launch.add_library(made, library(CPU_DEVICE))
        launch.for_cpu_device(made)
    else:
        made = reservation.environment_of(reservation.find(path))
    return {name: text for name, text in made.items() if now.get(name) != text}


def written(found: Mapping[str, str], form: str) -> str:
    if form == "json":
        return json.dumps(dict(found), indent=2) + "\n"
    if form == "systemd":
        # In a unit's [Service]; % begins a specifier there.
        return "".join(
            f'Environment="{name}={quoted(text)}"\n' for name, text in found.items()
        )
    return "".join(
        f"export {name}={shlex.quote(text)}\n" for name, text in found.items()
    )


def quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def kernels_folder(environment: Mapping[str, str], prefix: Path | None) -> Path:
    """Where Jupyter looks for kernels: an environment's, or the user's."""
    if prefix is not None:
        return prefix / "share" / "jupyter" / "kernels"
    data = environment.get("JUPYTER_DATA_DIR")
    if data:
        return Path(data) / "kernels"
    shared = environment.get("XDG_DATA_HOME")
    base = Path(shared) if shared else Path.home() / ".local" / "share"
    return base / "jupyter" / "kernels"


def install_kernel(
    name: str,
    title: str,
    options: Sequence[str],
    python: str,
    prefix: Path | None,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Writes the kernel's file. options: what fdrun is given."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"'{name}' is no name of a kernel: letters, digits, - _ .")
    kernel = {
        "argv": [
            *modules.command("fdcore_cli.fdrun"), *options, "--",
            python, "-m", "ipykernel_launcher", "-f", "{connection_file}",
        ],
        "display_name": title,
        "language": "python",
        "metadata": {"debugger": True},
    }  # fmt: skip
    folder = kernels_folder(environment, prefix) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "kernel.json"
        path.write_text(json.dumps(kernel, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from None
    return path


def lacks_ipykernel(python: str) -> bool:
    """Whether this interpreter has no ipykernel. ConfigError: it is none."""
    code = "import importlib.util; print(importlib.util.find_spec('ipykernel') is None)"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{python} does not answer within 60 s") from None
    except OSError as error:
        raise ConfigError(
            f"{python} cannot be run: {error.strerror}; --python names an interpreter"
        ) from None
    if done.stdout not in ("True\n", "False\n"):
        raise ConfigError(f"{python} is no Python 3; --python names an interpreter")
    return done.stdout == "True\n"
