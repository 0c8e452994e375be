"""Put first on PYTHONPATH for programs on the CPU device: lets PTX reach the driver.

cuda-core and numba-cuda link with libnvJitLink where it is installed, and hand machine
code to the driver. Here they do not find that library and fall back to the driver's own
linker, which gets their PTX. Nothing else is changed, and a sitecustomize of the
installation that this one stands before is run too.
"""

import importlib.abc
import importlib.machinery
import os
import sys

_HIDDEN = "nvJitLink"


def _hide(pathfinder):
    """Makes cuda.pathfinder refuse the one library, as if it were not installed."""
    load = getattr(pathfinder, "load_nvidia_dynamic_lib", None)
    missing = getattr(pathfinder, "DynamicLibNotFoundError", RuntimeError)
    if load is None:
        return

    def load_nvidia_dynamic_lib(libname):
        if libname == _HIDDEN:
            raise missing(f"lib{_HIDDEN} is hidden: the CPU device links PTX itself")
        return load(libname)

    load_nvidia_dynamic_lib.__doc__ = load.__doc__
    pathfinder.load_nvidia_dynamic_lib = load_nvidia_dynamic_lib


class _Loader(importlib.abc.Loader):
    """The loader found by others, with _hide() after it."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        _hide(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "cuda.pathfinder":
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


def _run_next():
    """Runs the sitecustomize that would have been found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [p for p in sys.path if os.path.abspath(p or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        spec.loader.exec_module(module_from_spec(spec))


sys.meta_path.insert(0, _Finder())
_run_next()
