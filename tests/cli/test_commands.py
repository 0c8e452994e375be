"""flexdirect's commands beside run and local, against a server."""

import csv
import fcntl
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from fdcore_cli.flexdirect import COMMANDS, main

from fdcore.keeper import LOCK, keeper_of
from tests.support import processes, until

FLEXDIRECT = [sys.executable, "-m", "fdcore_cli.flexdirect"]


@pytest.fixture
def flexdirect(server, tmp_path):
    """Runs a command whose configuration names the test's server, in a folder of its
    own; with= more of the environment."""
    conf = tmp_path / "config" / "flexdirect"
    conf.mkdir(parents=True)
    (conf / "servers.conf").write_text(f"# the test's\n{server.control}\n")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    env = server.environment | {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": str(tmp_path),
    }

    def run(*words, status=0, env=env, **more):
        done = subprocess.run(
            [*FLEXDIRECT, *words], env=env | more, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    run.environment = env
    return run


# ---- what there is ----


def test_bare_flexdirect_lists_every_command(flexdirect):
    said = flexdirect().stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name}\b", said, re.M), name


@pytest.mark.parametrize("command", [name for name, (file, _) in COMMANDS.items() if file])
def test_every_command_explains_itself(command, capsys):
    def ends(*words):
        with pytest.raises(SystemExit) as raised:
            main(words)
        return raised.value.code, capsys.readouterr()

    asked = ends(command, "--help")
    assert asked == ends("help", command)
    assert f"usage: flexdirect {command}" in asked[1].out
    code, said = ends(command, "--nonsense")
    assert (code, said.out, said.err.count("\n")) == (125, "", 1)


def test_list_gpus_in_flexdirects_shape(flexdirect, server):
    said = flexdirect("list_gpus").stdout.splitlines()
    assert said[0] == f" - server 0 [{server.control}]: running 0 tasks"
    assert said[1].startswith("   |- GPU 0: free memory 1024 MiB / 1024 MiB")
    assert len(said) == 3


def test_list_gpus_for_scripts(flexdirect, server):
    rows = json.loads(flexdirect("list_gpus", "--format", "json").stdout)
    assert [row["gpu"] for row in rows] == [0, 1]
    assert {row["memory_mib"] for row in rows} == {1024}
    lines = list(csv.DictReader(io.StringIO(flexdirect("list_gpus", "--format=csv").stdout)))
    assert [line["uuid"] for line in lines] == [row["uuid"] for row in rows]
    only = flexdirect("list_gpus", "--format=csv", "--filter", "device.id=1").stdout
    assert len(only.splitlines()) == 2


def test_server_that_does_not_answer_is_named_and_the_others_are_listed(flexdirect, server):
    both = f"127.0.0.1:1,{server.control}"
    done = flexdirect("list_gpus", "-l", both)
    assert "server 0 [127.0.0.1:1]: not known" in done.stdout
    assert f"server 1 [{server.control}]" in done.stdout
    assert "127.0.0.1:1: connection refused" in done.stderr
    assert flexdirect("list_gpus", "-l", "127.0.0.1:1", status=125).stderr


def test_smi_shows_what_is_granted(flexdirect, server):
    assert "|   0  fdcore CPU device" in flexdirect("smi").stdout
    assert flexdirect("smi", "-L").stdout.count("(UUID: GPU-") == 2


def test_health_says_what_fails_and_what_would_help(flexdirect, server):
    done = flexdirect("health")
    assert f"\n{server.control}\n  [PASS] name: 127.0.0.1\n" in done.stdout
    assert "\n  [PASS] server answers: " in done.stdout
    assert re.search(r"\d+ PASS, \d+ MARGINAL, 0 FAIL\n$", done.stdout)
    done = flexdirect("health", "-l", "127.0.0.1:1", status=1)
    assert "[FAIL] server answers: 127.0.0.1:1: connection refused" in done.stdout
    assert "[FAIL] port: port 1: nobody listens" in done.stdout
    assert "to do: start fdserver there" in done.stdout


def test_localhealth_needs_no_server(flexdirect):
    rows = json.loads(flexdirect("localhealth", "--format", "json", FD_SERVERS="127.0.0.1:1").stdout)
    assert {row["state"] for row in rows} <= {"PASS", "MARGINAL"}


def test_netperf_measures_each_server(flexdirect, server):
    before = server.free_of_all()
    rows = json.loads(flexdirect("netperf", "--format", "json", "--transport", "tcp").stdout)
    assert [row["server"] for row in rows] == [server.control]
    assert rows[0]["road"] == "tcp"
    assert all(rows[0][name] > 0 for name in ("call_us", "call_p99_us", "up_mib_s", "down_mib_s"))
    until(lambda: server.free() == before)


def test_netperf_in_its_long_form_has_a_histogram_and_every_size(flexdirect, server):
    (row,) = json.loads(flexdirect("netperf", "--long", "--format", "json").stdout)
    assert sum(count for _, count in row["histogram"]) == 2000
    assert [each["bytes"] for each in row["sizes"]] == [4 << 2 * n for n in range(13)]
    assert all(each[name] > 0 for each in row["sizes"] for name in ("up_us", "down_us"))


def test_config_shows_each_value_and_where_it_is_from(flexdirect, tmp_path):
    rows = json.loads(flexdirect("config", "--show-origin", "--format=json", FD_NUM_GPUS="2").stdout)
    found = {row["name"]: row for row in rows}
    assert found["num_gpus"] == {"name": "num_gpus", "value": "2", "origin": "FD_NUM_GPUS"}
    assert found["servers"]["origin"] == str(tmp_path / "config/flexdirect/servers.conf")
    assert found["transport"]["origin"] == "built in"


# ---- run ----


def test_run_tells_its_progress_as_flexdirect_did(flexdirect, server):
    done = flexdirect("run", "-n", "1", "-p", "0.5", "echo", "hi")
    assert done.stdout == "hi\n"
    lines = [re.sub(r"^\[INFO\] \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", "", line)
             for line in done.stderr.splitlines()]  # fmt: skip
    at = server.control
    assert lines[:3] == [
        f"Query server {at} gpu availability",
        f"Choosing GPUs from server list [{at}]",
        lines[2],
    ]
    assert re.match(r"Requesting GPUs \[[01]\] with 512 MiB of memory from server 0", lines[2])
    assert lines[3:6] == ["Requested resources:", f"Server List: {at}", "Client idle timeout: 0 min"]
    assert re.match(r"Locked 1 GPUs with partial memory 0.5, configuration saved to '/", lines[6])
    assert lines[7].startswith("Running client command 'echo hi' on 1 GPUs")
    file = lines[6].rpartition(" saved to ")[2]
    assert lines[9:] == ["", *released(file)]
    assert not Path(file.strip("'")).exists()
    assert flexdirect("run", "-q", "true").stderr == ""


def released(file):
    return [f"Releasing GPUs from config file {file}",
            f"Released GPUs on 1 servers and removed generated config file {file}"]


def test_run_tells_of_the_release_however_the_program_ends(flexdirect):
    """The status is the program's, and what is said comes after what it said."""
    for words, status, said in (
        (["sh", "-c", "echo mine >&2; exit 7"], 7, "mine"),
        (["sh", "-c", "echo mine >&2; kill -KILL $$"], -9, "mine"),
        (["sh", "-c", "exec 2>/dev/null; exit 3"], 3, ""),
    ):
        lines = flexdirect("run", "-m", "64", *words, status=status).stderr.splitlines()
        file = lines[6].rpartition(" saved to ")[2]
        assert [line[line.index("Z ") + 2:] for line in lines[-2:]] == released(file)
        assert lines[-3] == said


def test_who_outlives_the_first_process_is_not_waited_for(flexdirect, server, tmp_path):
    """It keeps the GPUs, so nothing is said, and no reader of standard error waits."""
    before = server.free_of_all()
    stop = tmp_path / "stop"
    script = f"(while [ ! -e {stop} ]; do sleep 0.05; done) >/dev/null 2>&1 & exit 0"
    try:
        done = flexdirect("run", "-m", "64", "sh", "-c", script)
        assert "Releas" not in done.stderr
        assert sum(before) - sum(server.free()) == 64
    finally:
        stop.touch()
    until(lambda: server.free() == before)


def test_filters_choose_the_gpu_or_refuse(flexdirect, server):
    show = 'grep -c . "$FD_SESSION"'
    done = flexdirect("run", "-m", "64", "--filter", "device.id > 0", "sh", "-c", show)
    assert "Requesting GPUs [1] with 64 MiB" in done.stderr
    done = flexdirect("run", "-q", "--filter", "device.name=Tesla", "true", status=125)
    assert "the server has no GPU that passes the filters\n" in done.stderr
    done = flexdirect("run", "-q", "--filter", "device.size=1", "true", status=125)
    assert "no key of a filter" in done.stderr


def test_compute_share_is_a_percentage(flexdirect):
    done = flexdirect("run", "-m", "64", "--compute", "50", "sh", "-c", "echo hi")
    assert done.stdout == "hi\n"
    for wrong in ("0", "101", "half"):
        said = flexdirect("run", "--compute", wrong, "true", status=125).stderr
        assert f"'{wrong}' is not a percentage from 1 to 100" in said


def test_servers_file_and_transport_of_the_command_line_win(flexdirect, server, tmp_path):
    conf = tmp_path / "other.conf"
    conf.write_text(f"servers:\n- reachable: {server.control}\n")
    words = ["-q", "-s", str(conf), "--transport", "tcp", "sh", "-c", 'grep ^road "$FD_SESSION"']
    assert flexdirect("run", *words, FD_SERVERS="127.0.0.1:1").stdout == "road tcp\n"


# ---- reservations ----


def test_reservation_is_used_by_programs_until_it_is_released(flexdirect, server, demo):
    before = [1024, 1024]
    until(lambda: server.free() == before)  # the last test's run ends a moment after it
    path = Path(flexdirect("request_gpus", "-n", "1", "-m", "300").stdout.strip())
    assert path.stat().st_mode & 0o777 == 0o600
    assert sum(before) - sum(server.free()) == 300
    for _ in range(2):
        done = flexdirect("client", "-f", str(path), str(demo))
        assert done.stdout.endswith("PASS\n")
    flexdirect("run", "-q", "-m", "10", "true")  # cleaning up leaves it alone
    assert path.exists()
    done = flexdirect("release_gpus")
    assert "Released GPUs on 1 servers" in done.stderr
    assert not path.exists()
    until(lambda: server.free() == before)
    assert "nothing is reserved" in flexdirect("release_gpus", status=125).stderr


def test_environment_of_a_reservation_is_enough_for_a_program(flexdirect, demo):
    path = flexdirect("request_gpus", "1").stdout.strip()
    script = f'eval "$({" ".join(FLEXDIRECT)} env)"; exec "$0"'
    done = subprocess.run(
        ["sh", "-c", script, str(demo)], env=flexdirect.environment,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.endswith("PASS\n"), done.stderr
    unit = flexdirect("env", "--format", "systemd").stdout
    assert f'Environment="FD_SESSION={path}"' in unit
    assert json.loads(flexdirect("env", "--format=json").stdout)["FD_SESSION"] == path
    flexdirect("release_gpus", "-f", path)
    assert "no such reservation" in flexdirect("env", "-f", path, status=125).stderr


def test_a_file_that_is_no_reservations_is_neither_released_nor_removed(flexdirect, tmp_path):
    for name in ("data.csv", "reserved-data.csv"):
        path = tmp_path / name
        path.write_text("lease,secret\n")
        for command in ("env", "release_gpus"):
            said = flexdirect(command, "-f", str(path), status=125).stderr
            assert f"{path} is no reservation's file" in said
        assert path.read_text() == "lease,secret\n"


def test_lock_of_no_process_is_nobody_who_keeps_a_reservation(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with open(path, "r+b") as mine, open(path, "rb") as other:
        lock = struct.pack(LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(mine, fcntl.F_OFD_SETLK, lock)
        assert keeper_of(other.fileno()) == 0  # and not -1: all that may be ended


def test_unused_reservation_is_released_after_its_time(flexdirect, server):
    before = server.free_of_all()
    path = Path(flexdirect("request_gpus", "-m", "50", "--idle", "1s").stdout.strip())
    until(lambda: server.free() == before)
    # The fdhold of it has learned that there is nothing to hold, and ended.
    until(lambda: "nothing is reserved" in flexdirect("client", "true", status=125).stderr)
    flexdirect("run", "-q", "-m", "10", "true")
    assert not path.exists()


# ---- without the wrapper ----


def test_direct_environment_needs_no_server(flexdirect, demo):
    found = json.loads(flexdirect("env", "--direct", "--format=json", FD_SERVERS="x:1").stdout)
    done = subprocess.run([demo], env=flexdirect.environment | found, capture_output=True, text=True)
    assert done.stdout.endswith("PASS\n")


def test_jupyter_kernel_has_gpus_and_the_interpreter_as_program(flexdirect, tmp_path):
    path = flexdirect(
        "kernel", "install", "-m", "200", "--filter", "device.id=0", "--prefix", str(tmp_path / "env")
    ).stdout.strip()
    assert path == str(tmp_path / "env/share/jupyter/kernels/fdcore/kernel.json")
    kernel = json.loads(Path(path).read_text())
    words = kernel["argv"]
    assert words[-2:] == ["-f", "{connection_file}"]
    # Run as Jupyter would, with something else for the interpreter's module.
    words = [w.replace("ipykernel_launcher", "this") for w in words[:-2]]
    done = subprocess.run(words, env=flexdirect.environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Beautiful")) == (0, 0), done.stderr
    assert "Beautiful is better than ugly" in done.stdout
    assert "no name of a kernel" in flexdirect("kernel", "install", "--name", "../x", status=125).stderr


def test_interpreter_of_a_kernel_is_looked_at(flexdirect, tmp_path):
    def install(name, text, status=0):
        python = tmp_path / name
        python.write_text(f"#!/bin/sh\n{text}\n")
        python.chmod(0o755)
        return flexdirect("kernel", "install", "--prefix", str(tmp_path), "--python", str(python),
                          status=status).stderr  # fmt: skip

    assert install("with", "echo False") == ""
    said = install("without", "echo True")
    assert "without has no ipykernel" in said and "--python PATH" in said
    assert "other is no Python 3" in install("other", "exit 3", status=125)
    missing = flexdirect("kernel", "install", "--python", str(tmp_path / "none"), status=125).stderr
    assert "none cannot be run: No such file or directory" in missing


# ---- fdhold ----


def helpers(pid):
    """The fdholds that were started for the program with this pid."""
    return [one for one, words in processes()
            if words[0] == b"fdhold" and words[2] == str(pid).encode()]


def test_helper_is_nobodys_child_and_ends_with_the_program(server):
    code = "echo up; read x; cat /proc/$$/task/$$/children"
    started = server.start("-m", "50", "bash", "-c", code, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)  # fmt: skip
    assert started.stdout.readline() == "up\n"
    until(lambda: len(helpers(started.pid)) == 1)
    said, _ = started.communicate("\n")
    assert len(said.split()) <= 1  # cat itself
    until(lambda: helpers(started.pid) == [])


def test_lease_ends_without_its_helper_too(server):
    before = server.free_of_all()
    started = server.start("-m", "50", "sh", "-c", "echo up; read x", stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)  # fmt: skip
    started.stdout.readline()
    until(lambda: len(helpers(started.pid)) == 1)
    os.kill(helpers(started.pid)[0], signal.SIGKILL)
    until(lambda: helpers(started.pid) == [])
    assert sum(before) - sum(server.free()) == 50
    started.communicate("\n")
    until(lambda: server.free() == before)


def test_inherited_descriptors_leave_the_shells_alone(server):
    done = server.run("sh", "-c", "ls /proc/$$/fd")
    numbers = sorted(int(word) for word in done.stdout.split())
    assert [n for n in numbers if 2 < n < 10] == []


def failed(*words):
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60
    )
    assert len(done.stderr.splitlines()) == 1, done
    return done.returncode, done.stderr


def test_what_goes_wrong_is_one_line(tmp_path):
    status, said = failed("fdcore_cli.flexdirect", "run", "it's")
    assert (status, "it's: not found" in said) == (127, True), said
    state = tmp_path / ("a" * 100)
    status, said = failed("fdcore_cli.fdserver", "--listen", "none", "--state", str(state))
    assert status == 125 and str(state) in said and "bytes" in said, said
    status, said = failed("fdcore_cli.fdrun", "--priority", "101", "-l", "a:1", "true")
    assert status == 125 and "-100 to 100" in said, said
    status, said = failed("fdcore_cli.fdrun", "-l", "a..b", "true")
    assert status == 125 and "is no host name" in said, said
