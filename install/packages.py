"""Packages of the system: python -m install.packages deb|rpm [--out DIR]

They are for systems with the Python that makes them (its minor version), glibc at least
that of the machine where the C code was built, and x86-64.
"""

import argparse
from pathlib import Path

from fdcore import __version__
from install import deb, environment, layout, rpm


def of(kind: str, made: Path, out: Path, work: Path, fast: bool = False) -> list[Path]:
    """Both packages of a kind, of an environment, into out. work: a folder for what is
    made on the way."""
    glibc = environment.needs(made)
    if kind == "deb":
        folders = layout.lay(work / "deb", made)
        return deb.build(folders, out, f"{__version__}-1", glibc, fast)
    folders = layout.lay(work / "rpm", made, zsh="site-functions")
    return rpm.build(folders, out, __version__, glibc, fast)


def main() -> None:
    reader = argparse.ArgumentParser(prog="install.packages")
    reader.add_argument("kind", choices=("deb", "rpm"))
    reader.add_argument("--out", type=Path, default=environment.ROOT / "dist")
    given = reader.parse_args()
    work = environment.ROOT / "build" / "package"
    made = environment.make(work / "root")
    for path in of(given.kind, made, given.out, work):
        print(path)


if __name__ == "__main__":
    main()
