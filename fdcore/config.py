"""Where things are: addresses, ports, state folders, the installed libraries.

Values only; nothing here opens a connection or starts anything.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdcore.errors import ConfigError

CONTROL_PORT = 56001
DATA_PORT = 55001

LIBRARIES = Path(__file__).resolve().parent / "lib"
SHIM = "libcuda.so.1"
CPU_DEVICE = "libfdcpu.so"
NVML = "libnvidia-ml.so.1"

# Names below a server's state folder.
CONTROL_SOCKET = "control.sock"
DATA_SOCKET = "data.sock"
# And below the one that outlives a boot, or the same where that was named.
STORE = "store.db"

# A system's fdserver has these, whether it is root or its service's user.
SYSTEM_STATE = Path("/run/fdserver")
SYSTEM_STORE = Path("/var/lib/fdserver")


@dataclass(frozen=True, slots=True)
class Address:
    """One server's control plane: a host and port, or a Unix socket's path. others:
    more ways to the same server, for where nobody answers at this one."""

    host: str = ""
    port: int = 0
    path: str = ""
    others: tuple["Address", ...] = ()

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Servers:
    """Which servers are asked. beyond: also those of their pool that they know of."""

    addresses: tuple[Address, ...]
    beyond: bool = False


def parse_address(text: str, port: int = CONTROL_PORT) -> Address:
    """HOST, HOST:PORT, [IPV6]:PORT or unix:PATH."""
    text = text.strip()
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ConfigError("unix: needs the path of a socket after it")
        return Address(path=text[len("unix:") :])
    host, digits = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ConfigError(f"'{text}' is not HOST:PORT: a ']' is missing")
        digits = rest[1:]
        if rest == ":":
            raise ConfigError(f"'{text}' has no port after ':'")
    elif text.count(":") == 1:
        host, digits = text.split(":")
        if not digits:
            raise ConfigError(f"'{text}' has no port after ':'")
    if not host or any(c.isspace() or c in "/," for c in host):
        raise ConfigError(f"'{text}' is not HOST:PORT: no host name in it")
    if not is_host_name(host):
        raise ConfigError(f"'{text}' is not HOST:PORT: '{host}' is no host name")
    if digits:
        if not (digits.isascii() and digits.isdigit() and int(digits) < 65536):
            raise ConfigError(
                f"'{text}' has no port number after ':': "
                f"{digits} is not one up to 65535"
            )
        port = int(digits)
    return Address(host=host, port=port)


def is_host_name(host: str) -> bool:
    """Whether a resolver takes it at all: labels of 1 to 63 bytes."""
    if not host.isascii():
        try:
            return bool(host.encode("idna"))
        except UnicodeError:
            return False
    return all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))


def parse_addresses(text: str, port: int = CONTROL_PORT) -> tuple[Address, ...]:
    """The -l option: addresses with ',' or ';' between them."""
    parts = [part for part in text.replace(";", ",").split(",") if part.strip()]
    if not parts:
        raise ConfigError("the list of servers is empty")
    found = tuple(parse_address(part, port) for part in parts)
    for address in found:
        if found.count(address) > 1:
            raise ConfigError(f"{address} is twice in the list of servers")
    return found


def own_server(environment: Mapping[str, str] = os.environ) -> Address:
    """This machine's, the user's own before the system's: over its socket, and by its
    port should nobody answer there."""
    port = Address("127.0.0.1", CONTROL_PORT)
    for state in (state_folder(environment), SYSTEM_STATE):
        socket = state / CONTROL_SOCKET
        if socket.exists():
            return Address(path=str(socket), others=(port,))
    return port


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where an fdserver of this user keeps its sockets unless it is told."""
    if os.geteuid() == 0:
        return SYSTEM_STATE
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        return Path(runtime) / "fdserver"
    return temporary(environment) / f"fdserver-{os.geteuid()}"


def store_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where an fdserver of this user keeps what it has to remember."""
    if os.geteuid() == 0:
        return SYSTEM_STORE
    home = environment.get("XDG_STATE_HOME")
    base = Path(home) if home else Path.home() / ".local" / "state"
    return base / "fdserver"


def runtime_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's session files are."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    # A program may go elsewhere, and what it inherits names files there.
    if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        return Path(runtime) / "fdcore"
    return temporary(environment) / f"fdcore-{os.geteuid()}"


def temporary(environment: Mapping[str, str] = os.environ) -> Path:
    folder = environment.get("TMPDIR", "")
    return Path(folder if os.path.isabs(folder) else "/tmp")


def private_folder(path: Path, mode: int = 0o700) -> Path:
    """Makes the folder, or makes sure that it is ours and nobody else writes there."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        seen = path.lstat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to somebody else")
    if seen.st_mode & 0o777 & ~mode:
        path.chmod(mode)
    return path


def library(name: str) -> Path:
    path = LIBRARIES / name
    if not path.exists():
        raise ConfigError(f"{path} is missing: fdcore is not built (make build)")
    return path


def protocol_hash() -> bytes:
    """What both ends of the data plane compare: the hash of the build's messages."""
    text = library("protocol.hash").read_text(encoding="ascii").strip()
    if len(text) != 64:
        raise ConfigError(f"{LIBRARIES / 'protocol.hash'} is damaged")
    return bytes.fromhex(text)
