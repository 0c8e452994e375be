"""run, local and fdrun: programs with GPUs."""

import argparse
import os
from collections.abc import Sequence

from fdcore_cli import options


def parser(command: str, prog: str = "") -> options.Parser:
    made = options.Parser(
        prog=prog or f"flexdirect {command}",
        usage="%(prog)s [-n N] [-m MIB | -p FRACTION] [OPTIONS] [--] PROGRAM ARGS...",
        description={
            "run": "Runs a program with GPUs of the pool, as if they were here.",
            "local": "Runs a program with this machine's own GPUs, or with the CPU "
            "device where it has none: no server and no configuration needed.",
        }[command],
        epilog="The exit status is the program's; 125: we failed, 126: the program "
        "cannot be executed, 127: it was not found.",
        allow_abbrev=False,
    )
    options.add_slice(made)
    if command == "run":
        options.add_servers(made)
        options.add_wait(made)
    else:
        made.add_argument(
            "--cpu-devices", type=options.cpu_devices, metavar="N",
            help="use the CPU device, with this many GPUs",
        )  # fmt: skip
        made.add_argument("--driver", metavar="PATH", help="the driver library to use")
    if not prog:  # fdrun is quiet unless it is told otherwise
        made.add_argument("-q", "--quiet", action="store_true", help="only the program")
    return made


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    own, program = options.split_program(made, words)
    given = made.parse_args(own)
    if not program:
        made.error("no program given")
    return launch(made.prog, given, program, command, given.quiet)


def launch(
    who: str, given: argparse.Namespace, words: Sequence[str], mode: str, quiet: bool
) -> int:
    """Runs the program in one of the ways there are: run, local, direct. Returns only
    when it could not be started."""

    def work() -> int:
        from fdcore import launch as work
        from fdcore.progress import Progress
        from fdcore.variables import check_environment

        check_environment()
        progress = Progress(quiet)
        program = work.find_program(words, os.environ, split=who != "fdrun")
        if mode == "direct":
            work.run_direct(program, options.wish_of(given, pool=False).ask.count)
        elif mode == "local":
            server = ["--driver", given.driver] if given.driver else []
            if given.cpu_devices:
                server += ["--cpu-devices", str(given.cpu_devices)]
            wish = options.wish_of(given, pool=False)
            work.run_local(program, wish, server, progress)
        else:
            work.run(program, options.wish_of(given), progress)

    return options.reported(who, work)
