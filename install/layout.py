"""Where things of the packages are: fdcore-client, which runs programs, fdcore-server,
the service, and fdcore-web, the manager. What all need is the client's."""

import gzip
import shutil
from pathlib import Path

from install import completion, manual
from install.environment import OF_WEB, PACKAGES, PREFIX, ROOT, carried

CLIENT, SERVER, WEB = "fdcore-client", "fdcore-server", "fdcore-web"
SUMMARY = {
    CLIENT: "run CUDA programs on GPUs of other machines",
    SERVER: "serve this machine's GPUs to a pool",
    WEB: "show a pool of GPUs in a browser",
}
ABOUT = {
    CLIENT: "fdrun and flexdirect run any CUDA program, unmodified, on any share of any GPU "
    "of the pool, as if the GPU were local; and on a CPU device without any.",
    SERVER: "The service fdserver owns the GPUs of its machine, grants leases on whole ones "
    "and parts, and starts a confined worker for each program.",
    WEB: "The manager shows all servers of a pool, their GPUs and who has them, at port 54000, "
    "and has metrics for Prometheus.",
}
CONFIGURATION = {
    CLIENT: ("etc/bitfusionio/servers.conf", "etc/bitfusionio/flexdirect.toml"),
    SERVER: ("etc/default/fdserver",),
    WEB: ("etc/default/fdserver-web",),
}
UNITS = {
    SERVER: "usr/lib/systemd/system/fdserver.service",
    WEB: "usr/lib/systemd/system/fdserver-web.service",
}
# Files of this folder, and where they go.
SOURCES = {
    CLIENT: {"servers.conf": "etc/bitfusionio/servers.conf",
             "flexdirect.toml": "etc/bitfusionio/flexdirect.toml"},
    SERVER: {"fdserver.service": UNITS[SERVER],
             "fdserver.sysusers": "usr/lib/sysusers.d/fdserver.conf",
             "fdserver.tmpfiles": "usr/lib/tmpfiles.d/fdserver.conf",
             "fdserver.default": "etc/default/fdserver"},
    WEB: {"fdserver-web.service": UNITS[WEB],
          "fdserver-web.default": "etc/default/fdserver-web"},
}  # fmt: skip
COMMANDS = {CLIENT: ("fdrun", "flexdirect"), SERVER: ("fdserver",), WEB: ()}
PAGES = {
    CLIENT: ("fdrun.1", "flexdirect.1", "flexdirect.toml.5", "servers.conf.5"),
    SERVER: ("fdserver.8",),
    WEB: (),
}
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: fdcore

Files: *
Copyright: the authors of fdcore
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0; in any case in
 /{prefix}, in the folder fdcore-*.dist-info.
Comment:
 /{prefix} also has the following packages of the Python package index, each with its
 licence in its folder *.dist-info:
{carried}
"""


def lay(
    top: Path, environment: Path, zsh: str = "vendor-completions"
) -> dict[str, Path]:
    """The packages' files below top, made of the environment; by package."""
    made = {name: top / name for name in (CLIENT, SERVER, WEB)}
    for name, folder in made.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source, target in SOURCES[name].items():
            put(folder / target, (ROOT / "install" / source).read_bytes())
        for command in COMMANDS[name]:
            link(folder / "usr/bin" / command, f"../lib/fdcore/bin/{command}")
        documents(name, folder, environment)
    inside = made[CLIENT] / PREFIX
    shutil.copytree(environment, inside, symlinks=True)
    launcher = made[SERVER] / PREFIX / "bin" / "fdserver"
    launcher.parent.mkdir(parents=True)
    (inside / "bin" / "fdserver").rename(launcher)
    for entry in environment.with_name(OF_WEB).read_text().split():
        target = made[WEB] / PREFIX / PACKAGES / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        (inside / PACKAGES / entry).rename(target)
    completions(made, zsh)
    return made


def documents(name: str, folder: Path, environment: Path) -> None:
    texts = manual.pages()
    for page in PAGES[name]:
        section = page.rpartition(".")[2]
        put(folder / f"usr/share/man/man{section}/{page}.gz", packed(texts[page]))
    share = folder / "usr/share/doc" / name
    lines = "\n".join(f"  {each}" for each in carried(environment))
    text = COPYRIGHT.format(prefix=PREFIX, carried=lines)
    put(share / "copyright", text.encode())
    put(share / "NEWS.gz", packed((ROOT / "CHANGELOG.md").read_text()))
    if name == CLIENT:
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
            put(share / path.name, path.read_bytes())


def completions(made: dict[str, Path], zsh: str) -> None:
    for path, text in completion.files().items():
        owner = SERVER if path.endswith("fdserver.fish") else CLIENT
        target = (
            path.replace("vendor-completions", zsh) if path.startswith("zsh") else path
        )
        put(made[owner] / "usr/share" / target, text.encode())
    # bash and its like look by the command's name.
    folder = "usr/share/bash-completion/completions"
    link(made[CLIENT] / folder / "fdrun", "flexdirect")
    link(made[SERVER] / folder / "fdserver", "flexdirect")


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), 9, mtime=0)


def size(folder: Path) -> int:
    """In KiB, as a package says it."""
    return sum(-(-path.lstat().st_size // 1024) for path in folder.rglob("*"))
