"""Where UCX is, the library under the rdma road. Nothing here loads it."""

import ctypes.util
import importlib.util
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

VARIABLE = "FD_UCX_LIB"
DEVICES = Path("/sys/class/infiniband")
IN_WHEEL = Path("lib", "libucp.so.0")  # of PyPI's libucx-cu12 and libucx-cu13


def has_device() -> bool:
    """True where the kernel has an InfiniBand or RoCE device."""
    try:
        return any(DEVICES.iterdir())
    except OSError:
        return False


def in_wheel() -> str:
    """The library of the Python package, where it is installed here; or nothing."""
    found = importlib.util.find_spec("libucx")
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder) / IN_WHEEL).exists():
            return str(path)
    return ""


def name(environment: MutableMapping[str, str]) -> None:
    """Names the Python package's library to what is started with this environment; the
    machine's own goes before it."""
    if environment.get(VARIABLE) or ctypes.util.find_library("ucp"):
        return
    if path := in_wheel():
        environment[VARIABLE] = path


def is_here(environment: Mapping[str, str] = os.environ) -> bool:
    """True where there is a library that the loader would probably take."""
    if named := environment.get(VARIABLE):
        return os.path.exists(named)
    return ctypes.util.find_library("ucp") is not None or bool(in_wheel())
