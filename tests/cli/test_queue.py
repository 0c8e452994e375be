"""--wait, priorities, quotas, and what administrators do, against servers."""

import json
import os
import pwd
import signal
import subprocess
import sys
import time

import pytest
from fdcore_cli.flexdirect import main

from fdcore.rpc import client
from tests.chaos.test_chaos import helpers
from tests.cli.test_restart import CUDA, restarted
from tests.support import until

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
ME = pwd.getpwuid(os.geteuid()).pw_name


def flexdirect(server, *words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.flexdirect", *words, "-l", server.unix],
        env=server.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


def holding(server, *options):
    started = server.start(*options, "sh", "-c", "echo up; read x", **PIPES)
    assert started.stdout.readline() == "up\n"
    return started


def waiting(server):
    said = flexdirect(server, "list_gpus").stdout
    return int(said.split(" requests waiting")[0].rpartition(" ")[2]) if "waiting" in said else 0


# ---- the line ----


def test_waiting_program_starts_when_the_gpu_is_free(make_server):
    server = make_server(devices=1)
    holder = holding(server)
    waiter = server.start("--wait", "sh", "-c", "echo mine", **PIPES)
    until(lambda: waiting(server) == 1)
    assert waiter.poll() is None
    holder.communicate("\n")
    assert waiter.communicate(timeout=60)[0] == "mine\n"
    until(lambda: server.free() == [1024])


ENDING = "Waiting for GPUs of programs that are just ending"


def test_lease_that_is_just_ending_is_waited_for_unasked(make_server):
    """Whose program is over, while fdhold has the lease yet: here because it is stopped."""
    server = make_server(devices=1)
    holder = holding(server)
    until(lambda: len(helpers({holder.pid})) == 1)  # it may not have its own name yet
    (helper,) = helpers({holder.pid})
    os.kill(helper, signal.SIGSTOP)
    try:
        holder.kill()
        holder.communicate()
        behind = server.start("-v", "sh", "-c", "echo mine", stderr=subprocess.PIPE, **PIPES)
        said = ""
        while ENDING not in said:
            line = behind.stderr.readline()
            assert line, said
            said += line
    finally:
        os.kill(helper, signal.SIGCONT)
    assert behind.communicate(timeout=60)[0] == "mine\n"


def test_lease_that_is_not_ending_is_not_waited_for(make_server):
    server = make_server(devices=1)
    holder = holding(server)
    refused = server.run("-v", "true")
    assert refused.returncode == 125
    assert ENDING not in refused.stderr
    holder.communicate("\n")
    until(lambda: server.free() == [1024])
    # A reservation, which no process of its own has: once it is taken for one that ends.
    flexdirect(server, "request_gpus", "-n", "1")
    server.run("true")
    until(lambda: ENDING not in server.run("-v", "true").stderr, 60)
    subprocess.run(
        [sys.executable, "-m", "fdcore_cli.flexdirect", "release_gpus"],
        env=server.environment, check=True, timeout=60,
    )  # fmt: skip


def test_wait_ends_after_its_time_and_says_why(make_server):
    server = make_server(devices=1)
    holder = holding(server)
    done = server.run("--wait=1s", "true")
    assert done.returncode == 125
    assert "free: GPU 0 0 of 1024 MiB; waited 1s" in done.stderr
    assert waiting(server) == 0
    holder.communicate("\n")


def test_what_never_fits_is_refused_though_it_would_wait(make_server):
    server = make_server(devices=1)
    begun = time.monotonic()
    done = server.run("--wait", "-n", "2", "true")
    assert done.returncode == 125
    assert "more than there is" in done.stderr
    assert time.monotonic() - begun < 30


def test_killed_waiter_leaves_the_line(make_server):
    server = make_server(devices=1)
    holder = holding(server)
    waiter = server.start("--wait", "true", **PIPES)
    until(lambda: waiting(server) == 1)
    waiter.send_signal(signal.SIGKILL)
    waiter.communicate()
    until(lambda: waiting(server) == 0)
    holder.communicate("\n")
    until(lambda: server.free() == [1024])


def test_first_of_several_servers_that_has_room_is_taken(make_server):
    one, two = make_server(devices=1), make_server(devices=1)
    holders = [holding(one), holding(two)]
    command = [sys.executable, "-m", "fdcore_cli.fdrun", "-l", f"{one.unix},{two.unix}"]
    waiter = subprocess.Popen(
        [*command, "--wait", "sh", "-c", 'grep ^server "$FD_SESSION"; read x'],
        env=one.environment, text=True, **PIPES,
    )  # fmt: skip
    until(lambda: waiting(one) == 1 and waiting(two) == 1)
    holders[1].communicate("\n")
    assert waiter.stdout.readline() == f"server {two.unix}\n"
    until(lambda: waiting(one) == 0)
    holders[0].communicate("\n")
    until(lambda: one.free() == [1024])
    assert two.free() == [0]
    waiter.communicate("\n")
    until(lambda: two.free() == [1024])


def test_gpus_of_several_servers_are_waited_for_together(make_server):
    one, two = make_server(devices=1), make_server(devices=1)
    holder = holding(two)
    command = [sys.executable, "-m", "fdcore_cli.fdrun", "-l", f"{one.unix},{two.unix}"]
    waiter = subprocess.Popen(
        [*command, "-n", "2", "--wait=60s", "sh", "-c", 'grep -c ^server "$FD_SESSION"'],
        env=one.environment, text=True, **PIPES,
    )  # fmt: skip
    time.sleep(1)
    assert waiter.poll() is None
    assert one.free() == [1024]  # nothing is held while it waits
    holder.communicate("\n")
    assert waiter.communicate(timeout=60)[0] == "2\n"


# ---- quotas and priorities ----


def test_quota_bounds_what_a_user_has_at_once_and_outlives_a_restart(make_server):
    server = make_server()
    said = flexdirect(server, "admin", "quota", ME, "--gpus", "1", "--memory", "2G")
    assert said.stdout.splitlines()[1].split()[1:] == [ME, "1", "2048", "0"]
    assert f"{ME} may have 1 GPUs at once" in server.run("-n", "2", "true").stderr
    holder = holding(server, "-m", "10")
    assert server.run("-m", "10", "true").returncode == 125
    waiter = server.start("--wait", "-m", "10", "echo", "mine", **PIPES)
    until(lambda: waiting(server) == 1)
    holder.communicate("\n")
    assert waiter.communicate(timeout=60)[0] == "mine\n"
    again = restarted(make_server, server)
    assert again.run("-n", "2", "true").returncode == 125
    flexdirect(again, "admin", "quota", ME, "--clear")
    until(lambda: again.free() == [1024, 1024])
    assert again.run("-n", "2", "true").returncode == 0


def test_priority_of_the_administrator_passes_the_line(make_server):
    server = make_server(devices=1)
    holder = holding(server)
    low = server.start("--wait", "sh", "-c", "echo low; read x", **PIPES)
    until(lambda: waiting(server) == 1)
    high = server.start("--wait", "--priority", "5", "sh", "-c", "echo high; read x", **PIPES)
    until(lambda: waiting(server) == 2)
    holder.communicate("\n")
    assert high.stdout.readline() == "high\n"
    assert low.poll() is None
    high.communicate("\n")
    assert low.communicate("\n", timeout=60)[0] == "low\n"
    assert "priorities are -100 to 100" in server.run("--priority", "101", "true").stderr


# ---- administrators ----


@pytest.mark.parametrize("cuda", [False, True])
def test_administrator_ends_a_lease(make_server, cuda):
    server = make_server()
    if cuda:
        program = server.start("-m", "500", sys.executable, "-c", CUDA, **PIPES)
        assert program.stdout.readline() == "up\n"
    else:
        program = holding(server, "-m", "500")
    rows = json.loads(flexdirect(server, "admin", "leases", "--format", "json").stdout)
    assert [(row["user"], row["pid"], row["sessions"]) for row in rows] == [(ME, program.pid, int(cuda))]
    assert flexdirect(server, "admin", "release", "nonsense", status=125)
    lease = rows[0]["lease"]
    assert flexdirect(server, "admin", "release", lease[:13]).stdout == f"Ended lease {lease}\n"
    until(lambda: server.free() == [1024, 1024])
    out, _ = program.communicate("\n")
    if cuda:  # its next call failed
        assert program.returncode == 1
        assert "again" not in out


def test_one_lease_of_all_servers_is_ended_or_none(monkeypatch, capsys):
    leases = {"a:56001": ["12ab-1"], "b:56001": ["12ab-2", "34cd-3"]}
    ended = []

    def of(address, protocol):
        return [{"lease": lease} for lease in leases[str(address)]]

    monkeypatch.setattr(client, "leases", of)
    monkeypatch.setattr(client, "end_lease", lambda at, _, lease: ended.append((str(at), lease)))
    assert main(["admin", "release", "12ab", "-l", "a,b"]) == 125
    assert ended == [] and "2 leases have an id" in capsys.readouterr().err
    assert main(["admin", "release", "34", "-l", "a,b"]) == 0
    assert main(["admin", "release", "12ab1", "-l", "a,b"]) == 0
    assert ended == [("b:56001", "34cd-3"), ("a:56001", "12ab-1")]


def test_server_frees_what_nobody_uses(make_server):
    server = make_server("--idle-release", "1s")
    holder = holding(server)
    until(lambda: server.free() == [1024, 1024])
    assert "no CUDA program for 1 s" in server.log
    holder.communicate("\n")
