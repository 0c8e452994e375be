"""The native part of the build; everything else is in pyproject.toml.

csrc/Makefile builds the C libraries and what the description generates, Cython makes
the modules of fdcore/_core, and the libraries come to lie in fdcore/lib: copied into a
wheel, as links to the build folder in a working tree, so that `make` is enough there
after a change of C code.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
# What is installed beside the Python code. libcuda.so is left out: a wheel has no
# links, and a copy would be a second shim in one process; fdrun makes the link.
LIBRARIES = ("libfdc.so", "libcuda.so.1", "libfdcpu.so", "libnvidia-ml.so.1")


class Native(build_ext):
    def run(self):
        jobs = os.environ.get("FD_BUILD_JOBS", str(os.cpu_count() or 1))
        command = ["make", "-C", str(ROOT / "csrc"), f"-j{jobs}", "lib"]
        subprocess.check_call([*command, f"BUILD={BUILD}", f"PYTHON={sys.executable}"])
        in_tree = self.inplace or getattr(self, "editable_mode", False)
        self.lay_libraries(ROOT if in_tree else Path(self.build_lib), link=in_tree)
        self.extensions = self.cythonized()
        for extension in self.extensions:
            extension._needs_stub = False
        super().run()

    def lay_libraries(self, top: Path, link: bool) -> None:
        folder = top / "fdcore" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        found = [BUILD / "lib" / name for name in LIBRARIES]
        helper = BUILD / "lib" / "fdhold"
        found += [helper] if helper.exists() else []
        for source in [*found, BUILD / "gen" / "protocol.hash"]:
            target = folder / source.name
            target.unlink(missing_ok=True)
            if link:
                target.symlink_to(os.path.relpath(source, folder))
            else:
                shutil.copy2(source, target)

    def cythonized(self):
        from Cython.Build import cythonize

        headers = [*ROOT.glob("csrc/**/*.h"), *(BUILD / "gen").glob("*.h")]
        modules = [
            Extension(
                "fdcore._core." + source.stem,
                [os.path.relpath(source, ROOT)],
                include_dirs=["csrc/include", "csrc", "build/gen"],
                library_dirs=["build/lib"],
                libraries=["fdc"],
                runtime_library_dirs=["$ORIGIN/../lib"],
                extra_compile_args=["-std=gnu11", "-O2", "-g"],
                depends=[os.path.relpath(header, ROOT) for header in headers],
            )
            for source in sorted((ROOT / "fdcore" / "_core").glob("*.pyx"))
        ]
        made = cythonize(
            modules,
            build_dir="build/cython",
            include_path=["build/gen", "."],
            language_level=3,
            compiler_directives={
                "binding": True,
                "boundscheck": False,
                "wraparound": False,
                "freethreading_compatible": True,
            },
        )
        return list(made)


class NativeDistribution(Distribution):
    """Its modules are known only once the C build has run, but there are some."""

    def has_ext_modules(self):
        return True


setup(cmdclass={"build_ext": Native}, distclass=NativeDistribution)
