"""What a start does not wait for."""

import socket
import subprocess
import sys

from fdcore import ucx
from fdcore.sockets import tcp_listener, unix_listener


def test_accepted_connections_send_at_once():
    """Else a control call waits 40 ms for an acknowledgement."""
    with tcp_listener("127.0.0.1", 0) as listener:
        listener.settimeout(60)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_who_connects_while_a_server_starts_again_finds_a_socket(tmp_path, monkeypatch):
    """A client waits where it is refused, and not where there is nothing."""
    path, steps = tmp_path / "data.sock", []

    class Watched(socket.socket):
        def bind(self, address):
            steps.append(path.exists())
            super().bind(address)

        def listen(self, backlog):
            steps.append(path.exists())
            super().listen(backlog)

    unix_listener(path).close()  # as of a server that was killed
    monkeypatch.setattr(socket, "socket", Watched)
    with unix_listener(path) as listener, socket.socket(socket.AF_UNIX) as client:
        assert steps == [True, True]
        client.connect(str(path))
        listener.accept()[0].close()
    assert list(tmp_path.iterdir()) == [path]


def test_ucx_is_looked_for_in_files(tmp_path, monkeypatch):
    """By name, where the loader looks: in the folders of the environment, then in its
    cache, where the name may be the end of a path. No compiler is asked."""
    monkeypatch.setattr(ucx, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert not ucx.is_installed({})
    for known, text in (
        (True, b"\0libucp.so.0\0"), (True, b"/usr/lib/libucp.so.0\0"),
        (False, b"/usr/lib/libucp.so.0.1\0"), (False, b"/usr/lib/mylibucp.so.0\0"),
    ):  # fmt: skip
        ucx.CACHE.write_bytes(b"glibc-ld.so.cache1.1" + text)
        assert ucx.is_installed({}) == known
    (tmp_path / "lib").mkdir()
    environment = {"LD_LIBRARY_PATH": f"/nowhere::{tmp_path / 'lib'}"}
    ucx.CACHE.write_bytes(b"")
    assert not ucx.is_installed(environment)
    (tmp_path / "lib" / "libucp.so.0").touch()
    assert ucx.is_installed(environment)


def test_fdrun_imports_nothing_of_what_only_servers_need():
    code = (
        "import sys\n"
        "from fdcore import launch, settings\n"
        "from fdcore.rpc import client\n"
        "dear = ('sqlite3', 'difflib', 'fdcore.lease', 'fdcore.store', 'ctypes.util')\n"
        "print([name for name in dear if name in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-S", "-c", code], text=True,
                                   env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert said.splitlines()[-1] == "[]"
