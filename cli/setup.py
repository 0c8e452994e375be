"""config, env, kernel: what is configured, and what is needed to do without us."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fdcore_cli import options

ABOUT = {
    "config": "What is configured.",
    "env": "Variables that put GPUs in front of a program without fdrun: of a "
    'reservation, or the CPU device. Use: eval "$(flexdirect env)".',
    "kernel": "Installs a Jupyter kernel that has GPUs while it runs.",
}


def parser(command: str) -> options.Parser:
    made = options.Parser(
        prog=f"flexdirect {command}", description=ABOUT[command], allow_abbrev=False
    )
    if command == "config":
        made.add_argument(
            "--show-origin", action="store_true", help="also where each value is from"
        )
        options.add_format(made)
    elif command == "env":
        made.add_argument(
            "-f", "--file", type=Path, metavar="FILE",
            help="the reservation of request_gpus (the only one there is)",
        )  # fmt: skip
        made.add_argument(
            "--direct", action="store_true", help="the CPU device and no server"
        )
        made.add_argument(
            "--format", choices=("sh", "systemd", "json"), default="sh",
            help="for a shell, a unit's [Service], or a kernel's \"env\" (sh)",
        )  # fmt: skip
    else:
        add_kernel(made)
    return made


def add_kernel(made: options.Parser) -> None:
    made.usage = "%(prog)s install [OPTIONS]"
    made.add_argument(
        "what", choices=("install",), metavar="install", help="the kernel"
    )
    made.add_argument("--name", default="fdcore", help="its folder's name (fdcore)")
    made.add_argument("--display-name", metavar="TITLE", help="its title in the menu")
    made.add_argument(
        "--python", default=sys.executable, metavar="PATH",
        help="the interpreter, which has ipykernel (this one)",
    )  # fmt: skip
    made.add_argument(
        "--prefix", type=Path, metavar="DIR",
        help="of an environment, instead of the user's folder",
    )  # fmt: skip
    made.add_argument(
        "--direct", action="store_true", help="the CPU device and no server"
    )
    options.add_slice(made)
    options.add_servers(made)


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    given = made.parse_args(words)
    work = {"config": config, "env": env, "kernel": kernel}[command]
    return options.reported(made.prog, lambda: work(made.prog, given))


def config(who: str, given: argparse.Namespace) -> int:
    from fdcore import lists
    from fdcore.settings import ADDRESSES, KNOWN, load

    settings = load()
    rows = []
    for name in KNOWN:
        found = settings.servers() if name == ADDRESSES else settings.find(name)
        value = found.value
        if name == ADDRESSES:
            value = ", ".join(str(address) for address in value)
        rows.append(
            {"name": name, "value": "" if value is None else str(value),
             "origin": found.origin}
        )  # fmt: skip
    columns = ("name", "value", "origin") if given.show_origin else ("name", "value")
    print(lists.written(rows, columns, given.format), end="")
    return 0


def env(who: str, given: argparse.Namespace) -> int:
    from fdcore import activate

    found = activate.variables(given.file, given.direct)
    print(activate.written(found, given.format), end="")
    return 0


def kernel(who: str, given: argparse.Namespace) -> int:
    from fdcore import activate

    words = ["--direct"] if given.direct else []
    if given.num_gpus:
        words += ["-n", str(given.num_gpus)]
    if given.memory:
        words += ["-m", str(given.memory >> 20)]
    if given.partial:
        words += ["-p", f"{given.partial:g}"]
    if given.compute:
        words += ["--compute", str(given.compute)]
    if given.server_list:
        words += ["-l", given.server_list]
    if given.servers:
        words += ["-s", str(given.servers.absolute())]
    for each in given.filter:
        words += ["--filter", str(each)]
    if given.transport:
        words += ["--transport", given.transport]
    gpus = given.num_gpus or 1
    kind = "the CPU device" if given.direct else f"{gpus} GPU" + "s" * (gpus > 1)
    title = given.display_name or f"Python 3 with {kind} (fdcore)"
    lacks = activate.lacks_ipykernel(given.python)
    path = activate.install_kernel(given.name, title, words, given.python, given.prefix)
    print(path)
    if lacks:
        options.say_error(
            who,
            f"{given.python} has no ipykernel, and the kernel does not start without: "
            "install it there, or name another interpreter (--python PATH)",
        )
    return 0
