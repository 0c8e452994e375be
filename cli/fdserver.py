"""fdserver: serves this machine's GPUs to the pool, in the foreground."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdcore_cli import enrol, options

from fdcore import values


def parser() -> options.Parser:
    made = options.Parser(
        prog="fdserver",
        description="Serves this machine's GPUs, or the CPU device where it has none.",
        epilog="It runs in the foreground until SIGTERM or Ctrl-C. Other commands: "
        "fdserver web, fdserver token, fdserver revoke, fdserver enrolled.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--listen", metavar="HOST:PORT",
        help="where clients ask for GPUs (127.0.0.1:56001); none: this machine only",
    )  # fmt: skip
    made.add_argument(
        "--advertise", metavar="HOST:PORT", type=options.checked(an_address),
        help="what the other servers of the pool, and clients, call this one",
    )  # fmt: skip
    made.add_argument(
        "--cpu-devices", type=options.cpu_devices, metavar="N",
        help="serve the CPU device, with this many GPUs",
    )  # fmt: skip
    made.add_argument(
        "--driver", metavar="PATH",
        help="the driver library to serve (the system's libcuda.so.1)",
    )  # fmt: skip
    made.add_argument(
        "--host-memory", type=options.memory, metavar="SIZE",
        help="pinned memory of this machine that a lease may have, in MiB or as 2G "
        "(half of what there is)",
    )  # fmt: skip
    made.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="where images of code are kept, so that they travel once (below the state "
        "folder)",
    )  # fmt: skip
    made.add_argument(
        "--cache-size", type=options.checked(values.memory_or_none), metavar="SIZE",
        help="how much of them for each user, in MiB or as 2G; 0: none (1G)",
    )  # fmt: skip
    made.add_argument(
        "--warm", type=options.checked(values.workers), metavar="N",
        help="workers that are ready before a program asks: it starts the faster; "
        "each holds 18 MiB of memory (2)",
    )  # fmt: skip
    made.add_argument("--state", type=Path, metavar="DIR", help="where its sockets are")
    made.add_argument(
        "--store", type=options.checked(a_store), metavar="etcd://HOST,...",
        help="the etcd that the pool's servers share; sqlite: a file of this machine's",
    )  # fmt: skip
    for name, what in (
        ("ca", "FILE with the CA of etcd's certificates, or system; TLS is spoken"),
        ("cert", "FILE with a certificate for etcd"),
        ("key", "FILE with its key"),
        ("user", "NAME of a user of etcd"),
        ("password-file", "FILE with that user's password"),
    ):
        kind, _, said = what.partition(" ")
        reader = Path if name == "password-file" else str
        made.add_argument(f"--store-{name}", type=reader, metavar=kind, help=said)
    made.add_argument(
        "--idle-release", type=options.duration, metavar="TIME",
        help="free a lease after so long without a CUDA program, as 2h30m (never)",
    )  # fmt: skip
    made.add_argument(
        "--trusted-network", action="store_true", default=None,
        help="listen beyond loopback with no pool and no encryption",
    )  # fmt: skip
    made.add_argument(
        "--worker-users", type=users, metavar="FIRST-LAST",
        help="run the workers of each tenant as a user of its own, of these numbers; "
        "local users' as themselves (fdserver has to be root)",
    )  # fmt: skip
    made.add_argument(
        "--no-seccomp", action="store_true",
        help="let workers make any system call, if a driver needs one that is denied",
    )  # fmt: skip
    for name in ("--ready-fd", "--leash-fd"):
        made.add_argument(name, type=int, default=-1, help=argparse.SUPPRESS)
    options.add_version(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] == "web":
        from fdcore_cli import web

        return web.serve(words[1:])
    if words and words[0] in enrol.COMMANDS:
        return enrol.main(words)
    reader = parser()
    given = reader.parse_args(words)
    if given.driver and given.cpu_devices:
        reader.error("--driver and --cpu-devices exclude each other")
    from fdcore.errors import ConfigError, FdcoreError
    from fdcore.variables import check_environment

    try:
        check_environment()
    except ConfigError as error:
        reader.error(str(error))
    logging.basicConfig(
        stream=sys.stderr,
        level=levels().get(
            os.environ.get("FD_LOG", "").partition(":")[0], logging.INFO
        ),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    from fdcore_cli import can_clean_up

    from fdcore import server
    from fdcore.config import STORE, parse_address, state_folder, store_folder
    from fdcore.settings import load

    try:
        can_clean_up()
        settings = load()
        settings.get("transport")  # the workers' environment: refused while it can be

        def of(name: str) -> Any:
            return settings.get(f"server.{name}", getattr(given, name))

        listen = of("listen")
        # One of the two excludes the other, wherever it was said.
        driver = "" if given.cpu_devices else of("driver")
        devices = 0 if driver else of("cpu_devices")
        idle = of("idle_release")
        etcd = settings.store(
            store=given.store,
            ca=given.store_ca,
            cert=given.store_cert,
            key=given.store_key,
            user=given.store_user,
            password_file=given.store_password_file,
        )
        named = of("state")
        state = (named or state_folder()).absolute()
        server.serve(
            server.Options(
                state=state,
                store=(state if named else store_folder()) / STORE,
                etcd=etcd,
                advertise=of("advertise"),
                listen=None if listen == "none" else parse_address(listen),
                driver=driver,
                cpu_devices=devices,
                host_memory=of("host_memory"),
                worker_users=given.worker_users,
                confine=not given.no_seccomp,
                cache=(of("cache") or state / "modules").absolute(),
                cache_room=of("cache_size"),
                warm=of("warm"),
                trusted_network=of("trusted_network"),
                idle_release=max(1, int(idle)) if idle else 0,
                ready_fd=given.ready_fd,
                leash_fd=given.leash_fd,
            )
        )
    except (FdcoreError, OSError) as error:
        options.say_error("fdserver", error)
        return 125
    except KeyboardInterrupt:
        return 130
    return 0


def an_address(text: str) -> Any:
    from fdcore.config import parse_address

    return parse_address(text)


def a_store(text: str) -> Any:
    from fdcore.etcd.access import parse_store

    parse_store(text)
    return text


def users(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not two numbers, FIRST-LAST")
    return int(first), int(last)


def levels() -> dict[str, int]:
    return {
        "off": logging.CRITICAL + 1,
        "error": logging.ERROR,
        "warn": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
    }


if __name__ == "__main__":
    sys.exit(main())
