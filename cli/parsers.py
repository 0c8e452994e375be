"""Every command with its parser: what manual pages and completion are made from, and
what tests compare documents with."""

import importlib

from fdcore_cli import enrol, fdrun, fdserver, flexdirect, options, web


def of_flexdirect() -> dict[str, options.Parser | None]:
    """By command; None: it has no options."""
    found: dict[str, options.Parser | None] = {}
    for command, (file, _) in flexdirect.COMMANDS.items():
        found[command] = None
        if file:
            module = importlib.import_module(f"fdcore_cli.{file}")
            found[command] = module.parser(command)
    return found


def of_fdserver() -> dict[str, options.Parser | None]:
    """The server itself is ''."""
    return {
        "": fdserver.parser(),
        "web": web.server_parser(),
        **{name: made() for name, made in enrol.PARSERS.items()},
    }


def of_fdrun() -> options.Parser:
    return fdrun.parser()
