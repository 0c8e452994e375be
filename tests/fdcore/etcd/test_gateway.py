"""etcd's gateway as it really answers, and what is said when it does not."""

import datetime
import http.server
import ipaddress
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.etcd import gateway as under_test
from fdcore.etcd.access import Access, parse_store
from fdcore.etcd.gateway import (
    EtcdError,
    Gateway,
    drop,
    get,
    get_below,
    put,
    unchanged,
)
from fdcore.settings import Settings
from tests.etcd import free_port, make_etcd
from tests.support import until


@pytest.fixture
def gateway(etcd):
    made = Gateway(etcd.access)
    yield made
    made.close()


def refusal(access):
    made = Gateway(access)
    try:
        with pytest.raises(EtcdError) as caught:
            made.read(get("x"))
    finally:
        made.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what it does ----


def test_keys_come_back_in_any_script_and_empty(gateway):
    gateway.transact([put("g1/ü", "ä\n" * 1000), put("g1/none", "")])
    (found,) = gateway.read(get_below("g1/"))
    assert {name: each.value for name, each in found.items()} == {"g1/ü": "ä\n" * 1000, "g1/none": ""}


def test_range_below_a_prefix_has_nothing_beside_it(gateway):
    gateway.transact([put("g2/a", ""), put("g20", ""), put("g2", ""), put("g1z", "")])
    assert list(gateway.read(get_below("g2/"))[0]) == ["g2/a"]


def test_transaction_writes_only_what_nobody_has_changed(gateway):
    (none,) = gateway.read(get("g3"))
    assert gateway.transact([put("g3", "1")], [unchanged("g3", none)])[0]
    assert not gateway.transact([put("g3", "2")], [unchanged("g3", none)])[0]
    (found,) = gateway.read(get("g3"))
    assert found["g3"].value == "1"
    assert gateway.transact([drop("g3")], [unchanged("g3", found)])[0]
    assert gateway.read(get("g3")) == [{}]


def test_keys_go_with_their_lease(gateway):
    lease = gateway.grant(60)
    gateway.transact([put("g4", "", lease)])
    assert gateway.read(get("g4"))[0]["g4"].lease == lease
    assert gateway.keep_alive(lease)
    gateway.revoke(lease)
    assert gateway.read(get("g4")) == [{}]
    assert not gateway.keep_alive(lease)


def test_closed_connection_is_opened_again(gateway):
    gateway.read(get("x"))
    gateway.connection.sock.shutdown(socket.SHUT_RDWR)
    assert gateway.read(get("x")) == [{}]


def test_next_host_is_asked_where_one_does_not_answer(etcd, monkeypatch):
    monkeypatch.setattr(under_test, "SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = (
            Address("127.0.0.1", free_port()),
            Address("127.0.0.1", silent.getsockname()[1]),
            *etcd.access.hosts,
        )
        several = Gateway(replace(etcd.access, hosts=hosts))
        until(lambda: answers(several), 60)  # on a busy machine its own may be late as well
        assert several.at == 2
        several.close()


def answers(several):
    try:
        return several.read(get("x")) == [{}]
    except EtcdError:
        return False


# ---- what is said when it does not ----


def test_nobody_there_is_told_with_cause_and_cure():
    said = refusal(Access((Address("127.0.0.1", free_port()),)))
    assert "connection refused; start etcd there or correct the store" in said


def test_unknown_name_is_told():
    assert "the name is not known" in refusal(Access((Address("no.such.invalid", 1),)))


def test_silence_ends(monkeypatch):
    monkeypatch.setattr(under_test, "SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        said = refusal(Access((Address("127.0.0.1", silent.getsockname()[1]),)))
    assert "no answer within 0.3 s" in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nnot found\n", "--enable-grpc-gateway"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n", "does not answer as etcd does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "does not answer as etcd does"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP is spoken there"),
        (b"", "it closes the connection; if it speaks TLS"),
    ],
)
def test_somebody_else_there_is_told(answer, said):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def serve():
            sock, _ = other.accept()
            sock.recv(1)
            sock.sendall(answer)
            sock.recv(1 << 16)
            sock.close()

        threading.Thread(target=serve, daemon=True).start()
        assert said in refusal(Access((Address("127.0.0.1", other.getsockname()[1]),)))


def test_gateway_that_is_switched_off_is_told(tmp_path):
    class Off(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Off) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        said = refusal(Access((Address("127.0.0.1", server.server_port),)))
    assert "it has no gateway at /v3" in said


# ---- users and TLS ----


def certificates(folder):
    """A CA, and one certificate for etcd and its clients alike."""
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)

    def builder(subject, key):
        return (
            x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("ca"))
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )  # fmt: skip

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = builder("ca", ca_key).add_extension(x509.BasicConstraints(True, 0), True)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    own = builder("etcd", key).add_extension(x509.SubjectAlternativeName(names), False)
    own = own.add_extension(x509.ExtendedKeyUsage(uses), False)
    made = {
        "ca.crt": ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "own.crt": own.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "own.key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    }
    for file, content in made.items():
        (folder / file).write_bytes(content)
    return {file.replace(".", "_"): str(folder / file) for file in made}


def test_tls_with_certificates_on_both_sides(tmp_path, tmp_path_factory):
    at = certificates(tmp_path)
    running = make_etcd(
        tmp_path_factory.mktemp("etcd"),
        "--cert-file", at["own_crt"], "--key-file", at["own_key"],
        "--client-cert-auth", "--trusted-ca-file", at["ca_crt"],
        scheme="https",
        more={"ca": at["ca_crt"], "cert": at["own_crt"], "key": at["own_key"]},
    )  # fmt: skip
    try:
        access = running.access
        made = Gateway(access)
        assert made.read(get("x")) == [{}]
        made.close()
        plain = replace(access, ca="", cert="", key="")
        assert "if it speaks TLS, give the file of its CA" in refusal(plain)
        unknown = refusal(replace(access, cert="", key=""))
        assert "give etcd.cert and etcd.key" in unknown
        other = tmp_path / "other"
        other.mkdir()
        strange = replace(access, ca=certificates(other)["ca_crt"])
        assert "its certificate is not good" in refusal(strange)
        with pytest.raises(EtcdError, match="no such file"):
            Gateway(replace(access, ca=str(tmp_path / "none")))
    finally:
        running.kill()


def test_users_of_etcd(own_etcd):
    admin = Gateway(own_etcd.access)
    for name in ("root", "fdcore", "poor"):
        admin.ask("auth/user/add", {"name": name, "password": "secret"})
    for name in ("root", "pool"):
        admin.ask("auth/role/add", {"name": name})
    prefix = get_below("fdcore/")["requestRange"]
    perm = {"permType": "READWRITE"} | prefix
    admin.ask("auth/role/grant", {"name": "pool", "perm": perm})
    admin.ask("auth/user/grant", {"user": "root", "role": "root"})
    admin.ask("auth/user/grant", {"user": "fdcore", "role": "pool"})
    admin.ask("auth/enable", {})
    admin.close()

    assert "it wants a user and a password" in refusal(own_etcd.access)
    wrong = replace(own_etcd.access, user="fdcore", password="no")
    assert "does not take the password of user 'fdcore'" in refusal(wrong)
    poor = replace(wrong, user="poor", password="secret")
    assert "user 'poor' may not do that: grant a role" in refusal(poor)

    made = Gateway(replace(wrong, password="secret"))
    made.transact([put("fdcore/x", "1", made.grant(60))])
    made.token = "nonsense.1"  # as one that is too old
    assert made.read(get("fdcore/x"))[0]["fdcore/x"].value == "1"
    made.close()


# ---- configuration ----


def test_store_is_read_from_its_address():
    assert parse_store("sqlite") is None
    access = parse_store("etcd://a,b:1234/team/one/")
    assert access.hosts == (Address("a", 2379), Address("b", 1234))
    assert access.prefix == "team/one"
    assert str(access) == "etcd://a:2379,b:1234/team/one"
    assert "secret" not in repr(replace(access, password="secret"))


@pytest.mark.parametrize("text", ["http://a", "etcd://", "etcd:///x", "etcd://a:x", "etcd://u:p@a"])
def test_address_that_is_none_is_refused(text):
    with pytest.raises(ConfigError):
        parse_store(text)


def test_configuration_says_how_etcd_is_reached(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    (tmp_path / "flexdirect.toml").write_text(
        'store = "etcd://a"\n[etcd]\nca = "/ca"\nuser = "me"\nttl = "5s"\n'
        f'password_file = "{secret}"\n'
    )
    found = Settings({"FD_ETCD_CERT": "/c", "FD_ETCD_KEY": "/k"}, [tmp_path]).store()
    assert found == Access((Address("a", 2379),), "fdcore", "/ca", "/c", "/k", "me", "s3cret", 5.0)
    assert Settings({}, [tmp_path]).store(store="sqlite") is None
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Settings({}, [tmp_path]).store()
    with pytest.raises(ConfigError, match="give both"):
        Settings({"FD_ETCD_CERT": "/c", "FD_STORE": "etcd://a"}, []).store()
    assert Settings({}, []).store() is None


def test_fdserver_that_cannot_reach_its_etcd_says_so_and_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdserver", "--listen", "none", "--cpu-devices", "1",
         "--state", str(tmp_path / "s"), "--store", f"etcd://127.0.0.1:{free_port()}"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 125
    assert "connection refused; start etcd there" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
