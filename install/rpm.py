"""RPM packages of the same files, by rpmbuild."""

import subprocess
from pathlib import Path

from install import layout
from install.deb import modes
from install.environment import INTERPRETER
from install.layout import CLIENT, SERVER, WEB

# Nothing is found out from the files: our libcuda.so.1 is nobody's but a program's of
# fdrun, and what is needed stands here.
HEAD = """\
%global __os_install_post %{nil}
%global debug_package %{nil}
%global _build_id_links none
Name: fdcore
Version: @VERSION@
Release: 1
Summary: CUDA programs on GPUs of other machines
License: Apache-2.0
AutoReqProv: no

%description
Any CUDA program on any share of any GPU in the pool, as if the GPU were local.

%install
cp -a @FILES@/. %{buildroot}/
"""
PACKAGE = """
%package -n @NAME@
Summary: @SUMMARY@
AutoReqProv: no
@REQUIRES@

%description -n @NAME@
@ABOUT@

%files -n @NAME@ -f @LIST@
"""
SCRIPTS = r"""
%post -n @NAME@
@BEFORE@
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # $1 is 2 in an upgrade: the new fdserver takes over what runs.
    if [ "$1" -ge 2 ]; then
        if systemctl --quiet is-active @UNIT@; then
            systemctl @AGAIN@ @UNIT@ || :
        fi
    fi
fi
if [ "$1" -eq 1 ]; then
    systemctl preset @UNIT@ >/dev/null 2>&1 || :
fi

%preun -n @NAME@
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now @UNIT@ || :
    else
        systemctl --no-reload disable @UNIT@ >/dev/null 2>&1 || :
    fi
fi

%postun -n @NAME@
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 0 ]; then
    @GONE@
fi
"""
SERVICES = {
    SERVER: {
        "UNIT": "fdserver.service",
        "BEFORE": "systemd-sysusers fdserver.conf || :\n"
        "[ -d /var/lib/fdserver ] || systemd-tmpfiles --create fdserver.conf || :",
        "AGAIN": "reload",
        "GONE": "rm -rf /var/cache/fdserver /run/fdserver",
    },
    WEB: {
        "UNIT": "fdserver-web.service",
        "BEFORE": "",
        "AGAIN": "restart",
        "GONE": ":",
    },
}


def requires(name: str, version: str, glibc: str) -> list[str]:
    if name == CLIENT:
        return [INTERPRETER, f"libc.so.6(GLIBC_{glibc})(64bit)", "libgcc", "libstdc++"]
    if name == WEB:
        return [f"{SERVER} = {version}-1"]
    return [
        f"{CLIENT} = {version}-1",
        "/usr/bin/systemd-sysusers",
        "/usr/bin/systemd-tmpfiles",
    ]


def build(
    folders: dict[str, Path], out: Path, version: str, glibc: str, fast: bool = False
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    top = out.absolute() / "rpmbuild"
    files = top / "files"
    subprocess.run(["rm", "-rf", str(top)], check=True)
    files.mkdir(parents=True)
    spec = HEAD.replace("@VERSION@", version).replace("@FILES@", str(files))
    for name, folder in folders.items():
        modes(folder)
        listed = top / f"{name}.files"
        listed.write_text(
            "%defattr(-,root,root)\n" + "\n".join(entries(name, folder)) + "\n"
        )
        subprocess.run(["cp", "-a", f"{folder}/.", str(files)], check=True)
        needed = "\n".join(
            f"Requires: {each}" for each in requires(name, version, glibc)
        )
        told = {"NAME": name, "SUMMARY": layout.SUMMARY[name], "REQUIRES": needed,
                "ABOUT": layout.ABOUT[name], "LIST": str(listed)}  # fmt: skip
        text = PACKAGE
        for key, value in told.items():
            text = text.replace(f"@{key}@", value)
        spec += text
    for name, told in SERVICES.items():
        text = SCRIPTS.replace("@NAME@", name)
        for key, value in told.items():
            text = text.replace(f"@{key}@", value)
        spec += text
    (top / "fdcore.spec").write_text(spec)
    command = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}"]
    command += ["--define", f"_rpmdir {out.absolute()}", "--target", "x86_64-linux"]
    command += [
        "--define",
        "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    ]
    command += ["--define", f"_binary_payload {'w1' if fast else 'w9'}.gzdio"]
    command += ["--define", "_dbpath " + str(top / "db")]
    done = subprocess.run(
        [*command, str(top / "fdcore.spec")], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return [out / f"{name}-{version}-1.x86_64.rpm" for name in folders]


def entries(name: str, folder: Path) -> list[str]:
    """Each file, and the folders that are nobody else's."""
    own = ("usr/lib/fdcore", f"usr/share/doc/{name}", "etc/bitfusionio")
    found = []
    for path in sorted(folder.rglob("*")):
        inside = str(path.relative_to(folder))
        if path.is_dir() and not path.is_symlink():
            if any(inside == each or inside.startswith(each + "/") for each in own):
                found.append(f"%dir /{inside}")
        elif inside in layout.CONFIGURATION[name]:
            found.append(f"%config(noreplace) /{inside}")
        elif inside.startswith(("usr/share/doc", "usr/share/man")):
            found.append(f"%doc /{inside}")
        else:
            found.append(f"/{inside}")
    return found
