"""On the path of programs that run on the CPU device: takes nvJitLink out of reach.

cuda-core and numba-cuda link PTX into machine code with it, which the CPU device
cannot run; where the library is not found they give the PTX to the driver's own linker.
They find it through cuda.pathfinder, which is told here that there is none. The
program's own sitecustomize still runs.
"""

# Every start of a Python program pays for this; importlib.abc and .util are dear.
import importlib.machinery
import os
import sys
import warnings

FINDER = "cuda.pathfinder"
HIDDEN = "nvJitLink"


class HidingLoader:
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        if not hasattr(module, "load_nvidia_dynamic_lib"):
            return
        load = module.load_nvidia_dynamic_lib

        def load_nvidia_dynamic_lib(libname):
            if libname == HIDDEN:
                raise module.DynamicLibNotFoundError(
                    f"{libname} is out of reach on the fdcore CPU device"
                )
            return load(libname)

        module.load_nvidia_dynamic_lib = load_nvidia_dynamic_lib


class HidingFinder:
    def find_spec(self, name, path=None, target=None):
        if name != FINDER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = HidingLoader(spec.loader)
        return spec


def run_the_programs_own() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, HidingFinder())
# They warn that they now use the driver, as they were made to.
warnings.filterwarnings("ignore", message=".*nvjitlink.*", category=RuntimeWarning)
run_the_programs_own()
