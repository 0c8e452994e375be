"""Every failure that fdcore tells people about; a user's mistake is not a device's."""

__all__ = [
    "ConfigError",
    "DriverError",
    "FdcoreError",
    "ProtocolError",
    "RefusedError",
    "TransportError",
]


class FdcoreError(Exception):
    """Something that is said in one line and ends the command."""


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
