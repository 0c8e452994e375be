"""control.capnp, loaded. Imported by this folder's modules only."""

import os
from importlib import resources
from typing import Any

import capnp

capnp.remove_import_hook()


def load() -> Any:
    # Without imports=, a schema with one `-> stream` method ends the interpreter.
    above = os.path.dirname(os.path.dirname(capnp.__file__))
    path = resources.files("fdcore.rpc") / "control.capnp"
    return capnp.load(str(path), imports=[above])


control = load()
VERSION: int = control.version
# Messages on the control port stay below 8 MiB.
TRAVERSAL_WORDS = 1 << 20
