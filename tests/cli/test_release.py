"""The end of `flexdirect run`: what fdhold says of it when the server was started again
meanwhile, or does not answer."""

import signal
import subprocess
import sys

from tests.cli.test_restart import PIPES, connected, restarted
from tests.support import until


def running(server):
    """A program of `flexdirect run` that ends when it is told."""
    program = subprocess.Popen(
        [sys.executable, "-m", "fdcore_cli.flexdirect", "run", "-l", server.unix, "-m", "64",
         "sh", "-c", "echo up; read x"],
        env=server.environment, stderr=subprocess.PIPE, text=True, **PIPES,
    )  # fmt: skip
    assert program.stdout.readline() == "up\n"
    return program


def test_release_is_told_when_the_server_was_started_again(make_server, tmp_path):
    server = make_server("--state", str(tmp_path / "my state"))
    program = running(server)
    again = restarted(make_server, server)
    until(lambda: connected(again))  # fdhold has dialled
    program.stdin.write("\n")
    program.stdin.flush()
    said = [line for line in program.stderr if "Releas" in line]
    left = again.leases()
    assert len(said) == 2 and "Releasing GPUs from" in said[0], said
    assert "Released GPUs on 1 servers" in said[1]
    assert left == [] and again.free() == [1024, 1024]
    program.communicate()
    assert program.returncode == 0


def test_standard_error_does_not_wait_long_for_a_server_that_hangs(make_server):
    server = make_server()
    program = running(server)
    server.process.send_signal(signal.SIGSTOP)
    try:
        _, said = program.communicate("\n", timeout=20)  # fdhold waits 3 s
    finally:
        server.process.send_signal(signal.SIGCONT)
        program.kill()
    assert "Releasing GPUs from" in said
    assert "Released" not in said  # which it does not know
    until(lambda: server.free() == [1024, 1024])
