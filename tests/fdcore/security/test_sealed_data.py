"""Data connections of leases that came over TLS: sealed, and nothing else goes."""

import os
import socket
import subprocess
import sys
import time

import pytest

from fdcore import attach
from fdcore.config import protocol_hash
from fdcore.errors import RefusedError
from fdcore.rpc import client
from fdcore.sched.slices import MIB, Ask
from tests.support import until


def fdrun(pool, name, *words, **more):
    return subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "-l", pool.server.control, *words],
        env=pool.server.environment | pool.environment(name) | more,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_program_runs_over_sealed_connections(pool, demo):
    pool.join("sealer")
    done = fdrun(pool, "sealer", str(demo), FD_TRANSPORT="tcp")
    assert done.returncode == 0, done.stderr
    plain = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "--direct", str(demo)],
        env=pool.server.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[1:] == plain.stdout.splitlines()[1:]


class Tap:
    """Stands between a client and a data port, keeps and may change what passes."""

    def __init__(self, host, port, change=lambda data: data):
        import threading

        self.target = (host, port)
        self.change = change
        self.seen = bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        import threading

        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            for one, other, up in ((near, far, True), (far, near, False)):
                threading.Thread(
                    target=self.pass_on, args=(one, other, up), daemon=True
                ).start()

    def pass_on(self, one, other, up):
        passed = 0
        try:
            while data := one.recv(65536):
                self.seen += data
                other.sendall(self.change(data, passed, up) if self.change else data)
                passed += len(data)
        except OSError:
            pass
        for sock in (one, other):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def tapped(pool, name, program, change=None):
    """Runs the program in a session whose data go through a tap."""
    result = {}

    def take(grant):
        tap = Tap(grant.host, grant.port, change)
        from dataclasses import replace

        from fdcore import launch

        through = replace(grant, host="127.0.0.1", port=tap.port, unix="")
        folder = pool.folder / f"session-{name}"
        folder.write_text("".join(f"{line}\n" for line in launch.session_lines(through, "tcp")))
        folder.chmod(0o600)
        from fdcore.config import LIBRARIES

        libs = pool.folder / "libs"
        libs.mkdir(exist_ok=True)
        link = libs / "libcuda.so.1"
        if not link.exists():
            link.symlink_to(LIBRARIES / "libcuda.so.1")
        env = pool.server.environment | {
            "FD_SESSION": str(folder), "LD_LIBRARY_PATH": str(libs), "FD_LOG": "error",
            "FD_TRANSPORT": "tcp",
        }  # fmt: skip
        result["done"] = subprocess.run(
            [str(program)], env=env, capture_output=True, text=True, timeout=60
        )
        result["tap"] = tap
        tap.listener.close()
        return grant

    client.reserve(pool.address, Ask(memory=200 * MIB), protocol_hash(), "x", take)
    return result["done"], result["tap"]


def test_nothing_readable_passes(pool, demo, be):
    pool.join("quiet")
    be(pool, "quiet")
    done, tap = tapped(pool, "quiet", demo)
    assert done.returncode == 0, done.stderr
    assert len(tap.seen) > 4096
    assert b".version" not in tap.seen  # the PTX of its kernels
    assert b"fdcore CPU device" not in tap.seen  # the snapshot


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_changed_byte_is_sent_again_or_ends_the_session(pool, demo, be, up, always):
    name = f"changed-{up}-{always}"
    pool.join(name)
    be(pool, name)
    changed = []
    from fdcore.attach import ANSWER, HELLO, READY, REQUEST

    greeted = REQUEST.size if up else HELLO.size + ANSWER.size + READY.size

    def change(data, passed, goes_up):
        at = greeted + 600 - passed
        if goes_up != up or not 0 <= at < len(data) or (changed and not always):
            return data
        changed.append(at)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    before = len(pool.server.log)
    done, _ = tapped(pool, name, demo, change)
    assert (done.returncode != 0) == always, done.stderr
    assert (len(changed) > 1) == always
    if always:
        said = done.stderr + pool.server.log[before:]
        assert "nothing gets through" in said


def test_word_that_says_seal_cannot_be_taken_out(pool, demo, be):
    pool.join("stripped")
    be(pool, "stripped")

    def change(data, passed, up):
        # The word stands behind magic, kind, road and pid.
        if not up or passed or len(data) < attach.REQUEST.size:
            return data
        assert data[16:20] == b"\1\0\0\0"
        return data[:16] + bytes(4) + data[20:]

    done, _ = tapped(pool, "stripped", demo, change)
    assert done.returncode != 0
    assert "its secret is wrong" in done.stderr


def test_who_does_not_seal_is_refused(pool, be):
    pool.join("bare")
    be(pool, "bare")

    def take(grant):
        spoken = attach.Spoken(grant.lease, grant.secret, protocol_hash())
        with (
            socket.create_connection((grant.host, grant.port), 10) as sock,
            pytest.raises(RefusedError, match="has to be encrypted"),
        ):
            attach.attach(sock, spoken, attach.COMMAND, 2, os.urandom(16))
        return grant

    client.reserve(pool.address, Ask(memory=MIB), protocol_hash(), "x", take)


def test_rdma_is_refused_before_the_program_starts(pool):
    pool.join("far")
    done = fdrun(pool, "far", "--transport", "rdma", "sh", "-c", "echo started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "has to be encrypted, which rdma is not; leave FD_TRANSPORT" in done.stderr


def test_proof_of_one_connection_is_none_for_the_next(pool, be):
    pool.join("replayer")
    be(pool, "replayer")

    def take(grant):
        said = []

        class Recorder:
            def __init__(self, sock):
                self.sock = sock

            def recv(self, size):
                return self.sock.recv(size)

            def sendall(self, data):
                said.append(data)
                self.sock.sendall(data)

        spoken = attach.Spoken(grant.lease, grant.secret, protocol_hash())
        address = (grant.host, grant.port)
        with socket.create_connection(address, 10) as sock:
            attach.attach(Recorder(sock), spoken, attach.HOLD, 0, bytes(16))
        for _ in range(4):
            with socket.create_connection(address, 10) as sock:
                attach.read(sock, attach.HELLO.size)
                sock.sendall(said[0])
                answer = attach.read(sock, attach.ANSWER.size)
            _, error, _, reason = attach.ANSWER.unpack(answer)
            assert error
            assert b"its secret is wrong" in reason
        return grant

    began = time.monotonic()
    grant = client.reserve(pool.address, Ask(memory=MIB), protocol_hash(), "x", take)
    told = f"lease {grant.lease.hex()[:8]} is over, or its secret is wrong"
    until(lambda: told in pool.server.log)
    assert pool.server.log.count(told) <= 1 + (time.monotonic() - began) // 60


def test_fd_encrypt_seals_on_loopback_too(make_server, demo):
    server = make_server(FD_ENCRYPT="1")
    done = server.run(str(demo), road="tcp")
    assert done.returncode == 0, done.stderr
    done = server.run(str(demo), road="shm")
    assert done.returncode == 0, done.stderr


def test_one_program_has_gpus_of_two_servers_of_the_pool(pool, make_server, tmp_path):
    """A second server that has joined; everything sealed, each session with its own keys."""
    node = pool.join("pair", role="node")
    second = make_server(FD_TLS="always", FD_POOL=str(node.folder))
    pool.join("spread")
    code = (
        "import ctypes\n"
        "cuda = ctypes.CDLL('libcuda.so.1')\n"
        "count = ctypes.c_int()\n"
        "assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0\n"
        "for ordinal in range(count.value):\n"
        "    context, pointer = ctypes.c_void_p(), ctypes.c_uint64()\n"
        "    said, back = (ctypes.c_char * 70000)(*b'sealed' * 10), (ctypes.c_char * 70000)()\n"
        "    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0\n"
        "    assert cuda.cuCtxSetCurrent(context) == 0\n"
        "    assert cuda.cuMemAlloc_v2(ctypes.byref(pointer), 70000) == 0\n"
        "    assert cuda.cuMemcpyHtoD_v2(pointer, said, 70000) == 0\n"
        "    assert cuda.cuMemcpyDtoH_v2(back, pointer, 70000) == 0\n"
        "    assert bytes(said) == bytes(back)\n"
        "print(count.value)\n"
    )
    listed = f"{pool.server.control},{second.control}"
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "-n", "4", "-l", listed,
         sys.executable, "-c", code],
        env=pool.server.environment | pool.environment("spread") | {"FD_TRANSPORT": "tcp"},
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
