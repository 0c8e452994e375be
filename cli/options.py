"""What the commands' arguments have in common."""

import argparse
import sys
from collections.abc import Sequence

from fdcore import __version__
from fdcore.sched.slices import MIB, Ask

UNITS = {"": 1, "M": 1, "MB": 1, "MIB": 1, "G": 1024, "GB": 1024, "GIB": 1024}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and ends with 125: 1 and 2 are the program's."""

    def error(self, message: str) -> None:  # type: ignore[override]
        say_error(self.prog, f"{message} (see {self.prog} --help)")
        sys.exit(125)


def say_error(who: str, message: object) -> None:
    text = " ".join(str(message).split("\n"))
    print(f"{who}: {text}", file=sys.stderr, flush=True)


def split_program(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Our options, and the program with its own, which are none of our business: they
    start at the first word that is neither an option nor an option's value."""
    takes_value = {
        name
        for action in parser._actions
        if action.option_strings and action.nargs != 0
        for name in action.option_strings
    }
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            return list(arguments[:position]), list(arguments[position + 1 :])
        if not word.startswith("-") or word == "-":
            break
        position += 2 if word in takes_value else 1
    return list(arguments[:position]), list(arguments[position:])


def add_slice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--num_gpus", "--gpus", type=count, default=1, metavar="N",
        help="how many GPUs (1)",
    )  # fmt: skip
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "-m", "--memory", type=memory, default=0, metavar="MIB",
        help="memory of each GPU, in MiB or as 2G; all of it unless -m or -p is given",
    )  # fmt: skip
    part.add_argument(
        "-p", "--partial", type=fraction, default=0.0, metavar="FRACTION",
        help="share of each GPU's memory, above 0 and at most 1",
    )  # fmt: skip


def ask_of(given: argparse.Namespace) -> Ask:
    return Ask(given.num_gpus, given.memory, given.partial)


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", action="version", version=f"{parser.prog} {__version__}"
    )


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of GPUs, 1 to 64")
    return int(text)


def cpu_devices(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of CPU devices, 1 to 16"
        )
    return int(text)


def memory(text: str) -> int:
    """Bytes of a number of MiB."""
    digits = text.rstrip("BGIMbgim")
    unit = UNITS.get(text[len(digits) :].upper())
    try:
        size = int(float(digits) * (unit or 0) * MIB)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0 or size >= 1 << 63:
        raise argparse.ArgumentTypeError(f"'{text}' is not an amount of memory in MiB")
    return size


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a fraction above 0 and at most 1"
        )
    return value


def launch(
    who: str,
    given: argparse.Namespace,
    words: Sequence[str],
    verbose: bool,
    mode: str,
) -> int:
    """Runs the program in one of the ways there are: run, local, direct. Returns only
    when it could not be started."""
    import os

    from fdcore import launch as work
    from fdcore.config import parse_addresses
    from fdcore.errors import FdcoreError

    def say(text: str) -> None:
        if verbose:
            print(f"[INFO] {text}", file=sys.stderr, flush=True)

    try:
        program = work.find_program(words, os.environ, split=who != "fdrun")
        if mode == "direct":
            work.run_direct(program, ask_of(given).count)
        elif mode == "local":
            server = ["--driver", given.driver] if given.driver else []
            if given.cpu_devices:
                server += ["--cpu-devices", str(given.cpu_devices)]
            work.run_local(program, ask_of(given), server, say)
        else:
            listed = given.server_list
            addresses = () if listed is None else parse_addresses(listed)
            work.run(program, ask_of(given), addresses, say)
    except work.ExecError as error:
        say_error(who, error)
        return error.status
    except FdcoreError as error:
        say_error(who, error)
        return work.OWN_FAILURE
    except KeyboardInterrupt:
        return 130
