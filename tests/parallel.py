"""What tests in several processes must not do at once."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build"


@contextlib.contextmanager
def building(what: str = "make") -> Iterator[None]:
    """One worker at a time makes it; the next one finds it made."""
    locks = BUILD / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / what, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
