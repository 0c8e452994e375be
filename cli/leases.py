"""request_gpus, client, release_gpus: GPUs that are kept for several programs."""

import os
from collections.abc import Sequence
from pathlib import Path

from fdcore_cli import options

ABOUT = {
    "request_gpus": "Reserves GPUs until release_gpus, and prints the file that stands "
    "for them. Programs get them with: flexdirect client -f FILE PROGRAM.",
    "client": "Runs a program on GPUs that request_gpus reserved.",
    "release_gpus": "Ends a reservation. Programs that run on it keep their GPUs until "
    "they end.",
}


def parser(command: str) -> options.Parser:
    program = " [--] PROGRAM ARGS..." if command == "client" else ""
    made = options.Parser(
        prog=f"flexdirect {command}",
        usage=f"%(prog)s [OPTIONS]{program}",
        description=ABOUT[command],
        allow_abbrev=False,
    )
    made.add_argument("-q", "--quiet", action="store_true", help="no progress lines")
    if command == "request_gpus":
        options.add_slice(made)
        options.add_servers(made)
        options.add_wait(made)
        made.add_argument(
            "--idle", type=options.duration, default=0, metavar="TIME",
            help="free them after so long without a CUDA program, as 2m30s (never)",
        )  # fmt: skip
    else:
        made.add_argument(
            "-f", "--file", type=Path, metavar="FILE",
            help="the reservation (the only one there is)",
        )  # fmt: skip
    return made


def main(command: str, words: Sequence[str]) -> int:
    made = parser(command)
    program: list[str] = []
    if command == "client":
        words, program = options.split_program(made, words)
    elif command == "request_gpus" and words and words[0].isdigit():
        words = ["-n", *words]  # as FlexDirect's users also wrote it
    given = made.parse_args(words)

    def work() -> int:
        from dataclasses import replace

        from fdcore import launch, reservation
        from fdcore.progress import Progress

        progress = Progress(given.quiet)
        if command == "request_gpus":
            wish = options.wish_of(given)
            idle = max(1, int(given.idle)) if given.idle else 0
            wish = replace(wish, ask=replace(wish.ask, idle=idle))
            print(reservation.request(wish, progress))
            return 0
        path = reservation.find(given.file)
        if command == "release_gpus":
            reservation.release(path, progress)
            return 0
        if not program:
            made.error("no program given")
        found = launch.find_program(program, os.environ, split=True)
        reservation.client(path, found, progress)

    return options.reported(made.prog, work)
