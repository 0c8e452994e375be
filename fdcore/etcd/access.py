"""Which etcd, and how it is reached: etcd://HOST:PORT,HOST:PORT/PREFIX. Values only."""

from dataclasses import dataclass, field
from pathlib import Path

from fdcore.config import Address, parse_addresses
from fdcore.errors import ConfigError

SCHEME = "etcd://"
PORT = 2379
PREFIX = "fdcore"
SYSTEM = "system"  # in place of a CA's file: those that the machine trusts
TTL = 10.0
SHORTEST, LONGEST = 2.0, 3600.0


@dataclass(frozen=True, slots=True)
class Access:
    """hosts: each of them knows everything; one that answers is enough. ttl: seconds
    in which a server that says nothing any more is taken for dead."""

    hosts: tuple[Address, ...]
    prefix: str = PREFIX
    ca: str = ""  # TLS is spoken where it is given
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    ttl: float = TTL

    def __str__(self) -> str:
        at = ",".join(str(host) for host in self.hosts)
        return f"{SCHEME}{at}" + (f"/{self.prefix}" if self.prefix != PREFIX else "")

    def problem(self) -> str:
        """What is wrong with it as a whole; empty when nothing is."""
        if bool(self.cert) != bool(self.key):
            return "a client certificate for etcd has a file and its key's: give both"
        if self.cert and not self.ca:
            return "a client certificate is for TLS: give the file of etcd's CA too"
        if bool(self.user) != bool(self.password):
            return "a user of etcd has a name and a file with the password: give both"
        return ""


def parse_store(text: str) -> Access | None:
    """None: no etcd, but a file of this machine ("sqlite")."""
    if text in ("", "sqlite"):
        return None
    if not text.startswith(SCHEME):
        raise ConfigError(
            f"'{text}' is no store: sqlite is, or etcd://HOST:PORT,HOST:PORT"
        )
    hosts, _, prefix = text.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    if "@" in hosts:
        raise ConfigError(
            "a user of etcd is not part of its address, which everybody may see: "
            "give the name and a file with the password (etcd.user, etcd.password_file)"
        )
    if not hosts or any(not part.isprintable() for part in prefix):
        raise ConfigError(f"'{text}' is not etcd://HOST:PORT,HOST:PORT")
    return Access(parse_addresses(hosts, PORT), prefix or PREFIX)


def password_in(path: Path) -> str:
    """The first line of a file that others cannot read."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or "it is not text in UTF-8"
        raise ConfigError(f"{path} with etcd's password: {why.lower()}") from None
    if not lines or not lines[0]:
        raise ConfigError(f"{path} with etcd's password is empty")
    return lines[0]


def ttl(text: str) -> float:
    from fdcore.values import duration

    seconds = duration(text)
    if not SHORTEST <= seconds <= LONGEST:
        raise ConfigError(f"'{text}' is not a time from 2s to 1h")
    return seconds
