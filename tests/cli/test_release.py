"""The end of `flexdirect run`: what fdhold says of it when the server was started again
meanwhile."""

import subprocess
import sys
from pathlib import Path

from tests.cli.test_restart import PIPES, restarted, state_of
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


def connected(server):
    """True where somebody is connected to one of the server's Unix sockets."""
    state = f"{state_of(server)}/"
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(line[5] == "03" and line[-1].startswith(state) for line in lines)


def test_release_is_told_when_the_server_was_started_again(make_server):
    server = make_server()
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
