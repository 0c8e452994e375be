"""Every failure that fdcore tells people about; a user's mistake is not a device's."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

__all__ = [
    "ConfigError",
    "DriverError",
    "FdcoreError",
    "ProtocolError",
    "RefusedError",
    "TransportError",
    "naming",
]


class FdcoreError(Exception):
    """Something that is said in one line and ends the command. cure: what would help,
    where that is known; said behind it at the end."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class ConfigError(FdcoreError):
    """The user asked for something that cannot be: an option, a file, a name."""


class TransportError(FdcoreError):
    """A server or client cannot be reached, or has gone."""


class ProtocolError(FdcoreError):
    """The other side speaks differently, or lies."""


class RefusedError(FdcoreError):
    """A server answered, and said no."""


class DriverError(FdcoreError):
    """A driver call failed."""

    def __init__(self, code: int, name: str, call: str) -> None:
        super().__init__(f"{call}: {name} ({code})")
        self.code = code
        self.name = name
        self.call = call


@contextmanager
def naming(path: "str | PathLike[str]") -> Iterator[None]:
    """An error of writing says where: what write() raises on a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
