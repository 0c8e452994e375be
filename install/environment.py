"""The Python environment that packages carry, below /usr/lib/fdcore.

Distributions have no pycapnp, so nothing can be asked of their Python but to be there:
the environment is a virtual one of theirs, with the same minor version that makes it.
"""

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "usr/lib/fdcore"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
OF_WEB = "fdcore-web.list"
INTERPRETER = f"/usr/bin/python{MINOR}"
PACKAGES = f"lib/python{MINOR}/site-packages"
# What a system has anyhow; everything else has to be in the environment itself.
OF_THE_SYSTEM = re.compile(
    r"(libc|libm|libdl|libpthread|librt|libutil|libgcc_s|libstdc\+\+|ld-linux-x86-64)\.so\.\d+"
)
LAUNCHER = """\
#!/{prefix}/bin/python3 -I
import sys

from fdcore_cli.{name} import main

sys.exit(main())
"""


def make(top: Path, dependencies: bool = True) -> Path:
    """Makes it below top, from this tree and the package index; gives its folder. What is
    the manager's alone is listed beside it."""
    folder = top / PREFIX
    packages = folder / PACKAGES
    shutil.rmtree(folder, ignore_errors=True)
    packages.mkdir(parents=True)
    # Of another day: modules that are not there any more.
    for stale in (ROOT / "build").glob("lib.*"):
        shutil.rmtree(stale)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    command += ["--disable-pip-version-check", "--no-build-isolation"]
    command += ["--root-user-action", "ignore", "--target", str(packages)]
    command += [] if dependencies else ["--no-deps"]
    subprocess.run(
        [*command, f"{ROOT}[web]" if dependencies else str(ROOT)], check=True
    )
    apart = sorted(of_web(packages))
    folder.with_name(OF_WEB).write_text("".join(f"{name}\n" for name in apart))
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(INTERPRETER)
    (folder / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {MINOR}\n"
    )
    for name in ("fdrun", "fdserver", "flexdirect"):
        launcher = folder / "bin" / name
        launcher.write_text(LAUNCHER.format(prefix=PREFIX, name=name))
        launcher.chmod(0o755)
    clean(packages)
    return folder


def of_web(packages: Path) -> set[str]:
    """The entries of the folder that only fdcore[web] needs."""
    every = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each
        for each in distributions(path=[str(packages)])
    }
    base, found = ["fdcore"], set()
    while base:
        name = base.pop()
        if name in found or name not in every:
            continue
        found.add(name)
        for need in every[name].requires or ():
            wanted, _, marker = need.partition(";")
            if "extra" not in marker:
                word = re.match(r"[\w.-]+", wanted)
                base.append(
                    re.sub(r"[-_.]+", "-", word.group()).lower() if word else ""
                )

    def entries(names: Iterable[str]) -> set[str]:
        listed = (path for name in names for path in every[name].files or ())
        return {path.parts[0] for path in listed} - {"..", "bin", "__pycache__"}

    return entries(set(every) - found) - entries(found)


def clean(packages: Path) -> None:
    """What pip leaves of the machine that it ran on, symbols for debuggers, and the
    modules' code compiled beforehand: nothing is written after installation."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for record in packages.glob("*.dist-info"):
        for name in ("RECORD", "direct_url.json", "INSTALLER", "REQUESTED"):
            (record / name).unlink(missing_ok=True)
    for binary in binaries(packages):
        binary.chmod(0o644 if ".so" in binary.name else 0o755)
        subprocess.run(["strip", "--strip-unneeded", str(binary)], check=True)
    for path in packages.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    compileall.compile_dir(
        packages,
        quiet=1,
        stripdir=str(packages.parents[2].parent.parent.parent),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def binaries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 64:
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def needs(folder: Path) -> str:
    """The glibc that the binaries need, as 2.34. Fails where they need a library that
    neither a system has nor the environment."""
    newest = (2, 17)
    every = list(binaries(folder))
    inside = {path.name for path in every}
    for path in every:
        said = subprocess.run(
            ["readelf", "-dVW", str(path)], check=True, capture_output=True, text=True
        ).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", said):
            if not OF_THE_SYSTEM.fullmatch(name) and name not in inside:
                raise SystemExit(f"{path} needs {name}, which nobody brings")
        for major, minor in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", said):
            newest = max(newest, (int(major), int(minor)))
    return f"{newest[0]}.{newest[1]}"


def carried(folder: Path) -> list[str]:
    """The distributions in it, with their versions."""
    found = (folder / PACKAGES).glob("*.dist-info")
    return sorted(
        path.name.removesuffix(".dist-info").replace("-", " ") for path in found
    )
