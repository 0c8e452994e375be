"""On the path of programs that run on the CPU device: takes nvJitLink out of reach.

cuda-core and numba-cuda link PTX into machine code with it, which no CPU can run;
without it they give the PTX to the driver. The program's own sitecustomize still runs.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import warnings


class WithoutNvJitLink(importlib.abc.MetaPathFinder):
    names = frozenset({"cuda.bindings.nvjitlink", "cuda.bindings._internal.nvjitlink"})

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(
                f"{name} is out of reach on the fdcore CPU device", name=name
            )
        return None


def run_the_programs_own() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, WithoutNvJitLink())
# They warn that they now use the driver, as they were made to.
warnings.filterwarnings("ignore", message=".*nvjitlink.*", category=RuntimeWarning)
run_the_programs_own()
