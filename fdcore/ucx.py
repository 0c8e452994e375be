"""Where UCX is, the library under the rdma road. Nothing here loads it."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

VARIABLE = "FD_UCX_LIB"
DEVICES = Path("/sys/class/infiniband")
CACHE = Path("/etc/ld.so.cache")
LIBRARY = "libucp.so.0"
IN_WHEEL = Path("lib", LIBRARY)  # of PyPI's libucx-cu12 and libucx-cu13


def has_device() -> bool:
    """True where the kernel has an InfiniBand or RoCE device."""
    try:
        return any(DEVICES.iterdir())
    except OSError:
        return False


def is_installed(environment: Mapping[str, str]) -> bool:
    """True where the loader knows the library by name. ctypes.util.find_library() would
    ask a compiler and two linkers, a tenth of a second for an answer from files."""
    folders = environment.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if any(
        folder and os.path.exists(os.path.join(folder, LIBRARY)) for folder in folders
    ):
        return True
    try:
        # A name may be the end of a path there.
        cache = CACHE.read_bytes()
        return any(f"{before}{LIBRARY}\0".encode() in cache for before in "\0/")
    except OSError:
        return False


def in_wheel() -> str:
    """The library of the Python package, where it is installed here; or nothing."""
    import importlib.util

    found = importlib.util.find_spec("libucx")
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder) / IN_WHEEL).exists():
            return str(path)
    return ""


def name(environment: MutableMapping[str, str]) -> None:
    """Names the Python package's library to what is started with this environment; the
    machine's own goes before it."""
    if environment.get(VARIABLE) or is_installed(environment):
        return
    if path := in_wheel():
        environment[VARIABLE] = path


def is_here(environment: Mapping[str, str] = os.environ) -> bool:
    """True where there is a library that the loader would probably take."""
    if named := environment.get(VARIABLE):
        return os.path.exists(named)
    return is_installed(environment) or bool(in_wheel())
