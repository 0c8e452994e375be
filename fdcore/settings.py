"""What is configured, and where each value came from.

Options of the command line win over the environment (FD_*), that over the user's
files, those over the system's. The files of a folder are flexdirect.toml and
servers.conf; they are read when something is asked for that they may say, and never
written.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fdcore import values
from fdcore.config import Address, own_server, parse_address, parse_addresses
from fdcore.errors import ConfigError
from fdcore.etcd.access import TTL, Access, parse_store, password_in, ttl

FILE, LIST = "flexdirect.toml", "servers.conf"
SYSTEM_FOLDERS = (Path("/etc/bitfusionio"), Path("/etc/bitfusion"))
ROADS = ("auto", "shm", "tcp", "rdma")
BUILT_IN = "built in"
TOML = "tomllib" if sys.version_info >= (3, 11) else "tomli"


def road(text: str) -> str:
    if text not in ROADS:
        raise ConfigError(
            f"'{text}' is no way for calls to travel; shm, tcp, rdma and auto are"
        )
    return text


def path(text: str) -> Path:
    return Path(text).expanduser()


@dataclass(frozen=True, slots=True)
class Known:
    """One setting that there is: its name in flexdirect.toml, and its variable."""

    name: str
    variable: str
    read: Callable[[str], Any]
    default: Any
    what: str


ADDRESSES = "servers"
KNOWN = {
    known.name: known
    for known in (
        Known(ADDRESSES, "FD_SERVERS", parse_addresses, None,
              "the servers, instead of those in servers.conf"),
        Known("transport", "FD_TRANSPORT", road, "auto", "how calls travel"),
        Known("wait", "FD_WAIT", values.duration, 0.0,
              "how long run waits for GPUs that are in use"),
        Known("connect_timeout", "FD_CONNECT_TIMEOUT", values.duration, 3.0,
              "how long a server may take to answer"),
        Known("store", "FD_STORE", parse_store, None,
              "sqlite, or the etcd that a pool's servers share: etcd://HOST,HOST"),
        Known("peers", "FD_PEERS", values.switch, True,
              "servers are asked for the others of their pool, which are asked too"),
        Known("etcd.ca", "FD_ETCD_CA", str, "",
              "who signs etcd's certificates: a file, or system; TLS is spoken then"),
        Known("etcd.cert", "FD_ETCD_CERT", str, "", "a certificate for etcd"),
        Known("etcd.key", "FD_ETCD_KEY", str, "", "its key"),
        Known("etcd.user", "FD_ETCD_USER", str, "", "a user of etcd"),
        Known("etcd.password_file", "FD_ETCD_PASSWORD_FILE", path, None,
              "a file with that user's password"),
        Known("etcd.ttl", "FD_ETCD_TTL", ttl, TTL,
              "when a server that says nothing any more is taken for dead"),
        Known("num_gpus", "FD_NUM_GPUS", values.count, 1, "how many GPUs run asks for"),
        Known("memory", "FD_MEMORY", values.memory, 0, "how much of each"),
        Known("partial", "FD_PARTIAL", values.fraction, 0.0, "or which part of each"),
        Known("server.listen", "FD_LISTEN", str, "127.0.0.1:56001",
              "where fdserver is asked for GPUs"),
        Known("server.advertise", "FD_ADVERTISE", parse_address, None,
              "what others of the pool call this server, if not so"),
        Known("server.driver", "FD_DRIVER", str, "", "the driver library it serves"),
        Known("server.cpu_devices", "", partial(values.count, most=16,
              what="CPU devices"), 0, "the CPU device instead, so many"),
        Known("server.host_memory", "FD_HOST_MEMORY", values.memory, 0,
              "pinned memory that a program may have"),
        Known("server.cache", "FD_CACHE", path, None,
              "where images of code are kept"),
        Known("server.cache_size", "FD_CACHE_SIZE", values.memory_or_none, 1 << 30,
              "how much of them for each user"),
        Known("server.warm", "FD_WARM", values.workers, 2,
              "workers that are ready before anybody asks"),
        Known("server.state", "FD_STATE", path, None, "where its sockets are"),
        Known("server.idle_release", "FD_IDLE_RELEASE", values.duration, 0.0,
              "a lease without a CUDA program for so long is freed; 0: never"),
        Known("server.trusted_network", "FD_TRUSTED_NETWORK", values.switch, False,
              "it listens beyond loopback although nothing is encrypted"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    value: Any
    origin: str
    level: int = 0  # who decides: the smallest is the command line


@dataclass(slots=True)
class Settings:
    """Reads what it is asked for, once. folders: the user's before the system's."""

    environment: Mapping[str, str]
    folders: Sequence[Path]
    tables: dict[Path, dict[str, tuple[Any, int]]] = field(default_factory=dict)

    def get(self, name: str, option: Any = None) -> Any:
        """The value of a setting. option: what the command line said of it, if not
        None."""
        return self.find(name, option).value

    def find(self, name: str, option: Any = None) -> Value:
        known = KNOWN[name]
        if option is not None:
            return Value(option, "option")
        text = self.environment.get(known.variable, "") if known.variable else ""
        if text:
            return Value(understood(known, text, known.variable), known.variable, 1)
        for level, folder in enumerate(self.folders, 2):
            file = folder / FILE
            if name in self.table(file):
                raw, line = self.table(file)[name]
                where = f"{file}:{line}"
                return Value(understood(known, raw, where), where, level)
        return Value(known.default, BUILT_IN, len(self.folders) + 2)

    def share(self, memory: int, partial: float) -> tuple[int, float]:
        """How much of each GPU: bytes, or a fraction; what the command line said of
        either leaves no room for what is configured."""
        if memory or partial:
            return memory, partial
        size, part = self.find("memory"), self.find("partial")
        if size.value and part.value and size.level == part.level:
            raise ConfigError(
                f"{size.origin} gives memory and {part.origin} partial; "
                "keep one of them"
            )
        if size.value and (not part.value or size.level < part.level):
            return int(size.value), 0.0
        return 0, float(part.value)

    def servers(self, option: Sequence[Address] | None = None) -> Value:
        """The servers in the order in which they are asked. In a folder flexdirect.toml
        wins over servers.conf; without either it is this machine's own."""
        known = KNOWN[ADDRESSES]
        if option:
            return Value(tuple(option), "option")
        if self.environment.get(known.variable):
            return self.find(ADDRESSES)
        from fdcore.serverlist import read_servers_conf

        for folder in self.folders:
            file = folder / FILE
            if ADDRESSES in self.table(file):
                raw, line = self.table(file)[ADDRESSES]
                where = f"{file}:{line}"
                return Value(understood(known, raw, where), where)
            file = folder / LIST
            if file.exists():
                found = read_servers_conf(file)
                if found:
                    return Value(found, str(file))
        return Value((own_server(self.environment),), BUILT_IN)

    def store(self, **options: Any) -> Access | None:
        """The etcd that is configured, with how it is reached. options: what the
        command line said, by the settings' names after the point."""
        text = options.get("store")
        access = self.get("store") if text is None else parse_store(text)
        if access is None:
            return None
        said = {
            name: self.get(f"etcd.{name}", options.get(name))
            for name in ("ca", "cert", "key", "user", "ttl", "password_file")
        }
        file = said.pop("password_file")
        made: Access = replace(
            access, **said, password=password_in(file) if file else ""
        )
        problem = made.problem()
        if problem:
            raise ConfigError(problem)
        return made

    def table(self, file: Path) -> dict[str, tuple[Any, int]]:
        if file not in self.tables:
            self.tables[file] = read_toml(file) if file.exists() else {}
        return self.tables[file]


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    return Settings(environment, [*user_folders(environment), *SYSTEM_FOLDERS])


def user_folders(environment: Mapping[str, str]) -> list[Path]:
    """Where a user's own files are; the second is vSphere Bitfusion's place."""
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    own = environment.get("XDG_CONFIG_HOME")
    base = Path(own) if own and os.path.isabs(own) else home / ".config"
    return [base / "flexdirect", home / ".bitfusion"]


def understood(known: Known, raw: object, where: str) -> Any:
    """The value of what was written; an error says where, what and what would do."""
    try:
        if known.name == ADDRESSES and isinstance(raw, list):
            if not raw:
                raise ConfigError("the list of servers is empty")
            return tuple(parse_address(str(entry)) for entry in raw)
        text = str(raw).lower() if isinstance(raw, bool) else str(raw)
        return known.read(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {known.name}: {error}") from None


def read_toml(file: Path) -> dict[str, tuple[Any, int]]:
    """Every setting that a file gives, with its line."""
    tomllib = importlib.import_module(TOML)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not text in UTF-8") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"{file} cannot be read: {why}") from None
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        found = re.search(r"(.*) \(at line (\d+)", str(error))
        what, line = (found[1], found[2]) if found else (str(error), "1")
        what = what[0].lower() + what[1:]
        raise ConfigError(
            f"{file}:{line}: {what}; a line is NAME = VALUE, text stands in quotes"
        ) from None
    given: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            given.update({f"{name}.{inner}": each for inner, each in value.items()})
        else:
            given[name] = value
    lines = {name: line_of(text, name) for name in given}
    for name in given:
        if name not in KNOWN:
            import difflib

            near = difflib.get_close_matches(name, KNOWN, 1, 0.5)
            meant = f"; was {near[0]} meant?" if near else ""
            raise ConfigError(
                f"{file}:{lines[name]}: there is no setting {name}{meant}"
            )
    return {name: (value, lines[name]) for name, value in given.items()}


def line_of(text: str, name: str) -> int:
    """The line where a table's key is written: for messages only."""
    table, _, key = name.rpartition(".")
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([^\]]+)\]", line)
        if header:
            inside = header[1].strip()
        written = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
        if written and (inside, written[1]) in ((table, key), ("", name)):
            return number
    return 1
