"""What the commands' arguments have in common."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdcore_cli import can_clean_up

from fdcore import __version__, values
from fdcore.errors import FdcoreError

if TYPE_CHECKING:
    from fdcore.config import Servers
    from fdcore.reserve import Wish
    from fdcore.settings import Settings

OWN_FAILURE = 125
FOREVER = 30 * 86400.0  # as long as anybody waits


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and ends with 125: 1 and 2 are the program's."""

    def error(self, message: str) -> None:  # type: ignore[override]
        say_error(self.prog, f"{message} (see {self.prog} --help)")
        sys.exit(OWN_FAILURE)


def say_error(who: str, message: object) -> None:
    if isinstance(message, OSError) and message.strerror:
        where = f"{message.filename}: " if message.filename else ""
        message = f"{where}{message.strerror}"
    cure = getattr(message, "cure", "")
    if cure:
        message = f"{message}; {cure}"
    text = " ".join(str(message).split("\n"))
    print(f"{who}: {text}", file=sys.stderr, flush=True)


def reported(who: str, work: Callable[[], int]) -> int:
    """What the work returns; what goes wrong is said in one line and is 125."""
    try:
        can_clean_up()
        return work()
    except FdcoreError as error:
        say_error(who, error)
        return int(getattr(error, "status", OWN_FAILURE))
    except BrokenPipeError:  # the reader of a list has had enough
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a disk that is full, no more files
        say_error(who, error)
        return OWN_FAILURE


def split_program(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Our options, and the program with its own, which are none of our business: they
    start at the first word that is neither an option nor an option's value."""
    takes_value = {
        name
        for action in parser._actions
        if action.option_strings and action.nargs not in (0, "?")
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


def checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of fdcore.values as argparse wants it."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except FdcoreError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def count(text: str) -> Any:
    return checked(values.count)(text)


def cpu_devices(text: str) -> Any:
    return checked(lambda word: values.count(word, 16, "CPU devices"))(text)


memory = checked(values.memory)
fraction = checked(values.fraction)
duration = checked(values.duration)


compute = checked(values.percent)


def priority(text: str) -> int:
    from fdcore.sched.queue import HIGHEST, LOWEST

    if not re.fullmatch(r"-?[0-9]{1,9}", text) or not LOWEST <= int(text) <= HIGHEST:
        raise argparse.ArgumentTypeError(
            f"priorities are {LOWEST} to {HIGHEST}, not '{text}'"
        )
    return int(text)


def a_filter(text: str) -> Any:
    from fdcore.sched.filters import parse_filter

    made = parse_filter(text)
    if isinstance(made, str):
        raise argparse.ArgumentTypeError(made)
    return made


def add_slice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--num_gpus", "--gpus", type=count, metavar="N",
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
    parser.add_argument(
        "--compute", type=compute, default=0, metavar="PCT",
        help="share of each GPU's computing time, in percent; more while nobody else "
        "wants it",
    )  # fmt: skip
    parser.add_argument(
        "--transport", choices=("auto", "shm", "tcp", "rdma"), metavar="ROAD",
        help="how calls travel: shm, tcp, rdma, or auto: what there is",
    )  # fmt: skip


def add_which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "-l", "--server_list", metavar="HOST:PORT,...",
        help="these servers, in this order, instead of those configured",
    )  # fmt: skip
    which.add_argument(
        "-s", "--servers", type=Path, metavar="FILE",
        help="the servers of this servers.conf",
    )  # fmt: skip


def add_servers(parser: argparse.ArgumentParser) -> None:
    add_which(parser)
    parser.add_argument(
        "--filter", type=a_filter, action="append", default=[],
        metavar="'KEY OP VALUE'",
        help="only such servers and GPUs, as 'device.name=V100'; may be repeated",
    )  # fmt: skip


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", "--timeout", type=duration, nargs="?", const=FOREVER,
        metavar="TIME",
        help="wait for GPUs that are in use, for so long (--wait=2m30s) or until "
        "there are some (--wait)",
    )  # fmt: skip
    parser.add_argument(
        "--priority", type=priority, default=0, metavar="N",
        help="who is more important waits less; above 0 as the server allows (0)",
    )  # fmt: skip


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table",
        help="how the list is written (table)",
    )  # fmt: skip


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", action="version", version=f"{parser.prog} {__version__}"
    )


def servers_of(given: argparse.Namespace, settings: "Settings") -> "Servers":
    """The servers that the command line names; else those that are configured, with
    what they know of their pool; else those that are in its etcd."""
    from fdcore.config import Servers, parse_addresses
    from fdcore.errors import ConfigError
    from fdcore.serverlist import read_servers_conf
    from fdcore.settings import BUILT_IN

    if given.server_list is not None:
        return Servers(parse_addresses(given.server_list))
    if given.servers is not None:
        found = read_servers_conf(given.servers)
        if not found:
            raise ConfigError(f"{given.servers} names no server; write one a line")
        return Servers(found)
    known = settings.servers()
    if known.origin == BUILT_IN and not known.value[0].path:  # none is running here
        etcd = settings.store()
        if etcd is not None:
            from fdcore import pools

            return pools.in_etcd(etcd)
    return Servers(known.value, settings.get("peers"))


def addresses_of(given: argparse.Namespace, settings: "Settings") -> Any:
    """The same, where one after the other is asked."""
    from fdcore import pools

    servers = servers_of(given, settings)
    return pools.addresses(servers, settings.get("connect_timeout"))


def wish_of(given: argparse.Namespace, pool: bool = True) -> "Wish":
    """What the options and the configuration want. pool: of servers that they name."""
    from dataclasses import replace

    from fdcore.reserve import Wish
    from fdcore.sched.slices import Ask
    from fdcore.settings import load

    settings = load()
    memory, partial = settings.share(given.memory, given.partial)
    ask = Ask(settings.get("num_gpus", given.num_gpus), memory, partial,
              compute=given.compute)  # fmt: skip
    road = settings.get("transport", given.transport)
    seconds = settings.get("connect_timeout")
    if not pool:
        return Wish(ask, (), road=road, seconds=seconds)
    servers = servers_of(given, settings)
    wish = Wish(
        ask, servers.addresses, given.filter, road, seconds, beyond=servers.beyond
    )
    if not hasattr(given, "wait"):
        return wish
    ask = replace(ask, priority=given.priority)
    return replace(wish, ask=ask, wait=settings.get("wait", given.wait))
