"""make screenshots: the manager's pages as pictures, with a small pool at work. Names of
pages and looks behind the folder: those alone, as in "leases-dark".

Servers and programs are real; only the names of the machines are made up, where that can
be done (as root, in a name space of their own).
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fdcore.web.browsing import (
    CHROMIUM,
    PATIENCE,
    WORK,
    browser,
    end,
    start_manager,
    work,
)
from tests.support import Server, start_server

PAGES = ("", "servers", "leases", "clients", "history", "health", "log", "manage")
LOOKS = {
    "light": {"viewport": {"width": 1360, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1360, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
# Program, server, options, MiB, share of the time.
PROGRAMS = (
    ("train.py", 0, ("-m", "4096"), 2900, 0.5),
    ("infer.py", 0, ("-m", "2048"), 700, 0.15),
    ("render.py", 0, ("-p", "0.75"), 3600, 0.3),
    ("notebook.py", 1, ("-n", "2", "-m", "3072"), 900, 0.1),
    ("fit.py", 1, ("-m", "2048"), 1500, 0.4),
)
HISTORY_SECONDS = 40


def servers(folder: Path) -> list[Server]:
    made = []
    for number in (1, 2):
        own = folder / f"s{number}"
        own.mkdir()
        prefix = ()
        if os.geteuid() == 0 and shutil.which("unshare"):
            naming = f'hostname gpu{number}; exec "$@"'
            prefix = ("unshare", "--uts", "sh", "-c", naming, "sh")
        made.append(start_server(own, devices=2, memory_mb=8192, prefix=prefix))
    return made


def named(folder: Path, name: str) -> Path:
    """The working program under another name."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{WORK.read_text(encoding='utf-8')}", encoding="utf-8")
    path.chmod(0o755)
    return path


def take(out: Path, url: str, wanted: list[str]) -> None:
    with browser() as opened:
        for look, options in LOOKS.items():
            context = opened.new_context(**options)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            for name in PAGES:
                title = f"{name or 'overview'}-{look}"
                if wanted and title not in wanted:
                    continue
                page.goto(url + name)
                page.locator(".fd-chip.fd-good", has_text="servers up").first.wait_for()
                page.wait_for_timeout(2500)  # for what is measured between two looks
                page.screenshot(path=out / f"{title}.png", full_page=True)
            context.close()
        context = opened.new_context(extra_http_headers={"X-Forwarded-For": "192.0.2.7"})
        page = context.new_page()
        page.goto(url)
        page.screenshot(path=out / "login.png")


def main() -> int:
    if not CHROMIUM:
        print("there is no chromium: .ci/tools test", file=sys.stderr)
        return 1
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fd") as name:
        folder = Path(name)
        pool = servers(folder)
        listed = ",".join(server.unix for server in pool)
        manager = start_manager(folder, listed, environment=pool[0].environment)
        programs = []
        try:
            for program, server, options, mib, share in PROGRAMS:
                script = named(folder, program)
                programs.append(work(pool[server], *options, mib=mib, share=share, program=script))
            waits = ("--wait=30m", "-n", "2", "-p", "0.9")
            script = named(folder, "evaluate.py")
            programs.append(pool[0].start(*waits, str(script), "10", "0.1"))
            time.sleep(HISTORY_SECONDS)
            take(out, manager.url, sys.argv[2:])
        finally:
            end(*programs)
            manager.stop()
            for server in pool:
                server.stop()
    print(f"the pages are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
