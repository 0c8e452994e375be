"""Files of keys and certificates: where they are, and how they are written."""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from fdcore.config import SYSTEM_STORE, private_folder
from fdcore.errors import ConfigError, naming

# The authority's certificate; our key and certificate, in one file so that they fit.
CA, OWN, REVOKED, ABOUT = "ca.crt", "own.pem", "revoked.crl", "pool.json"
CA_KEY = "ca.key"
# A file of a key and a certificate is no longer.
LONGEST_KEPT = 4096


def identity_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """What `flexdirect init` got for this user."""
    told = environment.get("FD_IDENTITY")
    if told:
        return Path(told)
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "flexdirect" / "identity"


def pool_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """What makes this host a server of a pool; on the founding one, the authority."""
    told = environment.get("FD_POOL")
    if told:
        return Path(told)
    if os.geteuid() == 0:
        return SYSTEM_STORE / "pool"
    home = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "fdserver" / "pool"


def act_for_service(
    environment: MutableMapping[str, str] = os.environ, store: Path = SYSTEM_STORE
) -> None:
    """Root becomes the user whom the system's fdserver runs as, for good: what it
    writes of the pool is that user's. Where fdserver is root's, root it stays."""
    if os.geteuid() or environment.get("FD_POOL"):
        return
    try:
        seen = store.stat()
    except FileNotFoundError:
        return
    if seen.st_uid:
        environment["FD_POOL"] = str(store / "pool")
        os.setgroups([])
        os.setresgid(seen.st_gid, seen.st_gid, seen.st_gid)
        os.setresuid(seen.st_uid, seen.st_uid, seen.st_uid)


def write(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner alone."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(
        fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
    )
    try:
        with naming(path), open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def check_private(path: Path) -> None:
    """A key that others could read is not used."""
    try:
        seen = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} may be read by others: chmod 600 {path}")


def read_json(path: Path, empty: Any) -> Any:
    if not path.exists():
        return empty
    try:
        value = json.loads(read(path))
        if isinstance(value, type(empty)):
            return value
    except ValueError:
        pass
    raise ConfigError(f"{path} is damaged")


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=1).encode() + b"\n")


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[Path]:
    """The folder, while nobody else changes it. wait: else BlockingIOError."""
    private_folder(folder)
    with open(folder / "lock", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield folder


def check_writable(folder: Path) -> None:
    """OSError where what is to be kept in it could not be."""
    trial = folder / f".trial.{os.getpid()}"
    try:
        write(trial, bytes(LONGEST_KEPT))
    finally:
        trial.unlink(missing_ok=True)
