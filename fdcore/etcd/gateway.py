"""etcd's gateway: JSON over HTTP/1.1, keys and values in base64, numbers as text.

A Gateway waits for its answers and is for one thread at a time: a lock sees to that.
Which of etcd's hosts it asks is the one that answered last; when that does not answer,
the next. Every failure is one line with its cause and its cure.
"""

import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdcore.config import Address
from fdcore.etcd.access import SYSTEM, Access
from fdcore.store import StoreError

SECONDS = 3.0  # for an answer of one host
LONGEST_ANSWER = 64 << 20
UNAUTHENTICATED = 16


class EtcdError(StoreError):
    """etcd cannot be asked, or refuses."""


class Refused(EtcdError):
    """A host answered, and said no: another one would say the same. code: gRPC's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Found:
    """A key, as it is in etcd."""

    value: str
    lease: int
    revision: int  # of its last change


Keys = dict[str, Found]
Words = dict[str, Any]  # one operation of a transaction, as etcd has it


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def unpacked(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "replace")


def below(prefix: str) -> Words:
    """The range of all keys that begin so."""
    last = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": packed(prefix), "range_end": packed(last)}


def get(key: str) -> Words:
    return {"requestRange": {"key": packed(key)}}


def get_below(prefix: str) -> Words:
    return {"requestRange": below(prefix)}


def put(key: str, value: str, lease: int = 0) -> Words:
    said = {"key": packed(key), "value": packed(value), "lease": str(lease)}
    return {"requestPut": said}


def drop(key: str) -> Words:
    return {"requestDeleteRange": {"key": packed(key)}}


def unchanged(key: str, found: Keys) -> Words:
    """That the key is as it was when it was read; it may not have been there."""
    revision = found[key].revision if key in found else 0
    return {"target": "MOD", "key": packed(key), "mod_revision": str(revision)}


class Gateway:
    def __init__(self, access: Access) -> None:
        self.access = access
        self.lock = threading.Lock()
        self.at = 0  # which of the hosts is asked
        self.connection: http.client.HTTPConnection | None = None
        self.token = ""
        self.context = tls_context(access) if access.ca else None

    def close(self) -> None:
        with self.lock:
            self.hang_up()

    # ---- what is asked ----

    def transact(
        self, operations: Sequence[Words], compare: Sequence[Words] = ()
    ) -> tuple[bool, list[Keys]]:
        """All of the operations at one moment, if what is compared holds: whether it
        did, and what each of those that read has found."""
        asked = {"compare": list(compare), "success": list(operations)}
        said = self.ask("kv/txn", asked)
        read = [
            keys_of(each["response_range"])
            for each in said.get("responses", [])
            if "response_range" in each
        ]
        return bool(said.get("succeeded")), read

    def read(self, *ranges: Words) -> list[Keys]:
        return self.transact(ranges)[1]

    def grant(self, seconds: float) -> int:
        """A lease of etcd's: keys that hang on it go with it."""
        return int(self.ask("lease/grant", {"TTL": str(max(1, round(seconds)))})["ID"])

    def keep_alive(self, lease: int) -> bool:
        """For its whole time once more; False: it is over already."""
        said = self.ask("lease/keepalive", {"ID": str(lease)}).get("result", {})
        return int(said.get("TTL", 0)) > 0

    def revoke(self, lease: int) -> None:
        self.ask("lease/revoke", {"ID": str(lease)})

    # ---- how ----

    def ask(self, what: str, body: Mapping[str, Any]) -> Words:
        with self.lock:
            try:
                return self.ask_as_user(what, body)
            except Refused as error:
                if error.code != UNAUTHENTICATED or not self.token:
                    raise
            self.token = ""  # it is good for some minutes only
            return self.ask_as_user(what, body)

    def ask_as_user(self, what: str, body: Mapping[str, Any]) -> Words:
        if self.access.user and not self.token:
            name = {"name": self.access.user, "password": self.access.password}
            self.token = str(self.ask_any("auth/authenticate", name)["token"])
        return self.ask_any(what, body)

    def ask_any(self, what: str, body: Mapping[str, Any]) -> Words:
        failures = []
        for _ in self.access.hosts:
            try:
                return self.ask_one(what, body)
            except Refused:
                raise
            except EtcdError as error:
                self.hang_up()
                failures.append(str(error))
                self.at = (self.at + 1) % len(self.access.hosts)
        raise EtcdError("; ".join(failures))

    def ask_one(self, what: str, body: Mapping[str, Any]) -> Words:
        host = self.access.hosts[self.at]
        kept = self.connection is not None
        try:
            return self.exchange(host, what, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            # One that is kept open may have been closed meanwhile. All that is asked
            # may be asked twice: see pool.py on transactions.
            self.hang_up()
            if not kept:
                raise EtcdError(
                    f"etcd at {host}: it closes the connection; {self.closed_why()}"
                ) from None
        try:
            return self.exchange(host, what, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            raise EtcdError(f"etcd at {host}: it closes the connection") from None

    def closed_why(self) -> str:
        if self.context is None:
            return "if it speaks TLS, give the file of its CA (etcd.ca)"
        return self.tls_cure()

    def exchange(self, host: Address, what: str, body: Mapping[str, Any]) -> Words:
        """One question and its answer, with the connection that is open, or a new one.
        A connection that broke is for the caller."""
        text = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = self.token
        try:
            connection = self.connection or self.connect(host)
            connection.request("POST", f"/v3/{what}", text, headers)
            answer = connection.getresponse()
            content = answer.read(LONGEST_ANSWER)
        except http.client.RemoteDisconnected:
            raise
        except TimeoutError:
            raise EtcdError(
                f"etcd at {host}: no answer within {SECONDS:g} s; it, its disk or the "
                "network may be stuck, or most of its hosts are down"
            ) from None
        except http.client.HTTPException:
            raise EtcdError(f"etcd at {host}: no HTTP is spoken there") from None
        except ssl.SSLError as error:  # also what comes of it after the handshake
            raise EtcdError(
                f"etcd at {host}: no TLS: {reason_of(error)}; {self.tls_cure()}"
            ) from None
        except ConnectionError:
            raise
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise EtcdError(f"etcd at {host}: {why}") from None
        return self.understood(host, answer.status, content)

    def connect(self, host: Address) -> http.client.HTTPConnection:
        made = (
            http.client.HTTPSConnection(
                host.host, host.port, timeout=SECONDS, context=self.context
            )
            if self.context
            else http.client.HTTPConnection(host.host, host.port, timeout=SECONDS)
        )
        try:
            made.connect()
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise EtcdError(
                f"etcd at {host}: its certificate is not good: "
                f"{error.verify_message.lower()} (etcd.ca names who is to sign it)"
            ) from None
        except ssl.SSLError:
            raise
        except socket.gaierror as error:
            raise EtcdError(
                f"etcd at {host}: the name is not known ({error.strerror})"
            ) from None
        except ConnectionRefusedError:
            raise EtcdError(
                f"etcd at {host}: connection refused; start etcd there or correct the "
                "store (--store, FD_STORE)"
            ) from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise EtcdError(f"etcd at {host}: {why}") from None
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = made
        return made

    def tls_cure(self) -> str:
        if self.access.cert:
            return "look at etcd.ca, etcd.cert and etcd.key"
        return "if it wants a client certificate, give etcd.cert and etcd.key"

    def hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def understood(self, host: Address, status: int, content: bytes) -> Words:
        try:
            said = json.loads(content)
            if not isinstance(said, dict):
                raise ValueError
        except ValueError:
            raise EtcdError(f"etcd at {host}: {self.no_gateway(status)}") from None
        if status == 200 and "error" not in said:
            return said
        code = said.get("code", 0)
        text = str(said.get("message") or said.get("error", f"HTTP {status}"))
        text = text.removeprefix("etcdserver: ")
        if code in (4, 14):  # deadline exceeded, unavailable: another may do
            raise EtcdError(f"etcd at {host}: {text}")
        raise Refused(f"etcd at {host}: {self.refusal(text)}", int(code))

    def no_gateway(self, status: int) -> str:
        if status == 404:
            return (
                "it has no gateway at /v3; is it 3.4 or younger, and its gateway "
                "switched on (--enable-grpc-gateway)?"
            )
        return f"what listens there does not answer as etcd does (HTTP {status})"

    def refusal(self, text: str) -> str:
        who = self.access.user
        if text == "user name is empty":
            return "it wants a user and a password (etcd.user, etcd.password_file)"
        if text.startswith("authentication failed"):
            return f"it does not take the password of user '{who}'"
        if text == "authentication is not enabled":
            return f"it knows no users: leave out etcd.user ('{who}')"
        if text == "permission denied":
            prefix = self.access.prefix
            return (
                f"user '{who}' may not do that: grant a role that reads and writes "
                f"all keys below '{prefix}/' to them"
            )
        return text


def tls_context(access: Access) -> ssl.SSLContext:
    try:
        ca = None if access.ca == SYSTEM else access.ca
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise EtcdError(f"{access.ca}, etcd's CA: {reason_of(error)}") from None
    try:
        if access.cert:
            made.load_cert_chain(access.cert, access.key)
    except (OSError, ssl.SSLError) as error:
        raise EtcdError(
            f"{access.cert} and {access.key}, the certificate for etcd: "
            f"{reason_of(error)}"
        ) from None
    return made


def reason_of(error: OSError) -> str:
    reason = getattr(error, "reason", "") or error.strerror or str(error)
    return str(reason).lower().replace("_", " ")


def keys_of(said: Words) -> Keys:
    return {
        unpacked(row["key"]): Found(
            unpacked(row.get("value", "")),
            int(row.get("lease", 0)),
            int(row["mod_revision"]),
        )
        for row in said.get("kvs", [])
    }
