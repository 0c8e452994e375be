"""control.capnp, loaded. Imported by this folder's modules only."""

import os
from pathlib import Path
from typing import Any

import capnp

capnp.remove_import_hook()


def load() -> Any:
    # Without imports=, a schema with one `-> stream` method ends the interpreter.
    above = os.path.dirname(os.path.dirname(capnp.__file__))
    # Not importlib.resources: that alone takes as long as the schema.
    path = Path(__file__).with_name("control.capnp")
    return capnp.load(str(path), imports=[above])


control = load()
VERSION: int = control.version
# Messages on the control port stay below 8 MiB.
TRAVERSAL_WORDS = 1 << 20
