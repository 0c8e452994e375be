"""fdrun as its users see it: the program's own exit status, words, signals and
environment; one line for each thing that goes wrong; and a lease that ends with it."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fdcore import __version__
from fdcore.config import parse_address
from fdcore.errors import RefusedError
from fdcore.progress import Progress
from fdcore.reserve import Wish, reserve
from fdcore.sched.slices import Ask
from tests.support import ROOT, environment, until

FDRUN = [sys.executable, "-m", "fdcore_cli.fdrun"]


def fdrun(*arguments, env=None, **options):
    return subprocess.run(
        [*FDRUN, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


# ---- the program's own ----


def test_exit_status_is_the_programs(server):
    assert server.run("sh", "-c", "exit 37").returncode == 37


def test_state_folder_may_have_a_space_in_its_name(make_server, tmp_path):
    server = make_server("--state", str(tmp_path / "my state"))
    code = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    done = server.run("-m", "64", sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("kind", ["another server's", "nobody's"])
def test_socket_that_is_not_the_servers_is_gone_past(make_server, kind):
    """As where server and client are containers with a folder of this name each."""
    server, other = make_server(), make_server()
    ours, theirs = (Path(each.unix.removeprefix("unix:")).parent / "data.sock"
                    for each in (server, other))  # fmt: skip
    ours.unlink()
    if kind == "nobody's":
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(ours))
    else:
        theirs.rename(ours)
    code = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    done = server.run("-l", server.control, "-m", "64", sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_program_killed_by_a_signal_is_seen_as_such(server):
    done = server.run("sh", "-c", "kill -SEGV $$")
    assert done.returncode == -signal.SIGSEGV


def test_words_of_the_program_are_left_alone(server):
    words = ["--help", "-n", "9", "--", "-m", "a=b", "", "a b", "-p"]
    code = "import sys; print(sys.argv[1:])"
    done = server.run("-n", "1", sys.executable, "-c", code, *words)
    assert done.stdout == f"{words}\n"
    assert done.stderr == ""


def test_two_dashes_end_our_options(server):
    done = server.run("-m", "64", "--", "sh", "-c", 'printf "%s\\n" "$0"', "-n")
    assert done.stdout == "-n\n"


def test_standard_streams_are_the_programs(server):
    done = server.run("sh", "-c", "cat; echo oops >&2", env={})
    assert done.stdout == ""
    assert done.stderr == "oops\n"


def test_program_is_the_same_process(server):
    started = server.start("sh", "-c", "echo $$", stdout=subprocess.PIPE)
    assert int(started.communicate(timeout=60)[0]) == started.pid


def test_signals_reach_the_program(server):
    code = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"
    started = server.start("sh", "-c", code, stdout=subprocess.PIPE)
    assert started.stdout.readline() == "up\n"
    started.terminate()
    assert started.wait(20) == 5


def test_environment_differs_only_in_what_fdrun_says(server):
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    base = dict(server.environment)
    base.pop("LC_CTYPE", None)
    command = [sys.executable, "-S", "-c", code]
    plain = subprocess.check_output(command, env=base, text=True)
    done = subprocess.check_output(server.command(*command), env=base, text=True)
    import json

    before, after = json.loads(plain), json.loads(done)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {
        "FD_SESSION", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "CUPY_COMPILE_WITH_PTX",
    }  # fmt: skip


def test_signals_that_python_ignores_are_back_to_normal(server):
    # SIGPIPE is number 13: bit 12 of the ignored signals.
    done = server.run("grep", "SigIgn", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) & (1 << 12) == 0


def test_our_library_is_in_front_under_both_names(server):
    code = "import ctypes; ctypes.CDLL('libcuda.so.1'); ctypes.CDLL('libcuda.so'); "
    code += (
        "print(len({l.split()[-1] for l in open('/proc/self/maps') if 'cuda' in l}))"
    )
    done = server.run(sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("1\n", "")


# ---- the session file ----


def test_session_file_is_private_and_says_where_to_attach(server):
    done = server.run("sh", "-c", 'stat -c %a "$FD_SESSION"; cat "$FD_SESSION"')
    mode, *lines = done.stdout.splitlines()
    said = dict(line.split(" ", 1) for line in lines)
    assert mode == "600"
    assert set(said) == {
        "server", "gpus", "lease", "secret", "road", "unix", "tcp", "cpu",
    }  # fmt: skip
    assert len(bytes.fromhex(said["lease"])) == 16
    assert len(bytes.fromhex(said["secret"])) == 32
    assert said["road"] == "auto"
    assert stat.S_ISSOCK(os.stat(said["unix"]).st_mode)
    host, port = said["tcp"].split()
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_secret_is_in_no_environment_and_no_argument(server):
    code = 'tr "\\0" "\\n" < /proc/self/environ; sed -n "s/^secret //p" "$FD_SESSION"'
    *environment_lines, secret = server.run("sh", "-c", code).stdout.splitlines()
    assert len(secret) == 64
    assert not any(secret in line for line in environment_lines)


@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_transport_is_handed_on(server, road):
    done = server.run("sh", "-c", 'grep road "$FD_SESSION"', road=road)
    assert done.stdout == f"road {road}\n"


def test_files_of_programs_that_have_gone_are_removed(server):
    show = 'echo "$FD_SESSION"'
    first = Path(server.run("sh", "-c", show).stdout.strip())
    holder = server.start("sh", "-c", f"{show}; read x", stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE)  # fmt: skip
    held = Path(holder.stdout.readline().strip())
    assert not first.exists()
    server.run("true")
    assert held.exists()
    holder.communicate("\n")


# ---- the lease ----


def test_lease_ends_with_the_program(server):
    before = server.free_of_all()
    server.run("-n", "2", "-m", "100", "true")
    until(lambda: server.free() == before)


def test_killed_program_frees_its_lease(server):
    before = server.free_of_all()
    started = server.start("-m", "100", "sh", "-c", "echo up; read x",
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    started.stdout.readline()
    assert sum(before) - sum(server.free()) == 100
    started.kill()
    started.communicate()
    until(lambda: server.free() == before)


def test_descendant_keeps_the_lease(server):
    before = server.free_of_all()
    code = "setsid sh -c 'echo up; read x' <&3 3<&- & exec 0<&-"
    ours, theirs = os.pipe()
    started = server.start("-m", "100", "sh", "-c", f"exec 3<&0; {code}",
                           stdin=ours, stdout=subprocess.PIPE)  # fmt: skip
    os.close(ours)
    started.stdout.readline()
    started.wait(20)
    assert sum(before) - sum(server.free()) == 100
    os.close(theirs)
    until(lambda: server.free() == before)


def test_program_that_closes_what_it_does_not_know_keeps_its_lease(server):
    before = server.free_of_all()
    code = "import os, sys; os.closerange(3, 4096); print('up', flush=True); input()"
    started = server.start("-m", "100", sys.executable, "-c", code,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    started.stdout.readline()
    assert sum(before) - sum(server.free()) == 100
    started.communicate("\n")
    until(lambda: server.free() == before)


def test_two_halves_share_a_gpu_and_a_third_is_refused(make_server):
    server = make_server(devices=1)
    half = ["-p", "0.5", "sh", "-c", "echo up; read x"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holders = [server.start(*half, **pipes) for _ in range(2)]
    for holder in holders:
        assert holder.stdout.readline() == "up\n"
    third = server.run("-p", "0.5", "touch", "/nonexistent/never")
    assert third.returncode == 125
    assert third.stdout == ""
    assert third.stderr.count("\n") == 1
    assert "free: GPU 0 0 of 1024 MiB; --wait waits for it, and" in third.stderr
    for holder in holders:
        holder.communicate("\n")
    until(lambda: server.free() == [1024])


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["-n", "3"],
            "3 whole GPUs asked for, which is more than there is; free: GPU 0",
        ),
        (["-m", "2048"], "1 GPU with 2048 MiB asked for, which is more than there is"),
        (["-m", "2G"], "1 GPU with 2048 MiB asked for, which is more than there is"),
    ],
)
def test_more_than_there_is_is_refused_before_the_program_starts(server, options, said):
    done = server.run(*options, "sh", "-c", "echo started")
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr and "--wait" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: connection refused, no fdserver listens there; start it"),
        ("no-such-host.invalid:5", "no-such-host.invalid:5: the name is not known"),
        ("unix:/nonexistent", "unix:/nonexistent: no such socket"),
        ("127.0.0.1:x", "'127.0.0.1:x' has no port number"),
        ("gpu1:70000", "'gpu1:70000' has no port number after ':': 70000 is not one up to"),
        ("gpu1,gpu2,gpu1:56001", "gpu1:56001 is twice in the list of servers"),
        ("127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1: connection refused, no fdserver listens there; 127"),
        ("127.0.0.1:1,127.0.0.1:2", "no fdserver listens there; start it (fdserver), or name"),
    ],
)
def test_server_that_does_not_answer_is_named_with_the_cause(tmp_path, address, why):
    done = fdrun("-l", address, "true", env=environment(tmp_path))
    assert done.returncode == 125
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_server_of_several_addresses_is_asked_once(server):
    address = replace(
        parse_address("127.0.0.1:1"),
        others=(parse_address(server.unix), parse_address(server.control)),
    )
    with pytest.raises(RefusedError, match="9 whole GPUs") as raised:
        reserve(Wish(Ask(9), [address]), "a test", Progress(quiet=True))
    assert str(raised.value).count("9 whole GPUs") == 1
    assert str(raised.value).startswith(server.unix)


def test_missing_program_is_127_and_needs_no_server(tmp_path):
    env = environment(tmp_path)
    for name in ("no-such-program-at-all", "./no-such-file", "/nonexistent/x"):
        done = fdrun("-l", "127.0.0.1:1", name, env=env)
        assert done.returncode == 127
        assert name in done.stderr


def test_program_that_cannot_be_executed_is_126(tmp_path):
    env = environment(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("x")
    for name in (str(plain), str(tmp_path)):
        assert fdrun("-l", "127.0.0.1:1", name, env=env).returncode == 126


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["tool"], "tool: not found; the one in this folder is ./tool"),
        (["train.py"], "train.py: not found; Python starts it: python ./train.py"),
        (["plain"], "plain: not found; chmod +x ./plain, or put what runs it in front"),
        (["./plain"], "./plain: is not executable; chmod +x ./plain"),
        (["./tool --help"], "no such file; quotes around a whole command line are for flexdirect run"),
        (["no-such-program-at-all"], "no-such-program-at-all: not found\n"),
    ],
)
def test_program_that_is_not_found_is_told_with_what_helps(tmp_path, words, cure):
    for name in ("tool", "train.py", "plain"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    done = fdrun("-l", "127.0.0.1:1", *words, env=environment(tmp_path), cwd=tmp_path)
    assert done.returncode in (126, 127)
    assert cure in done.stderr


def test_program_without_a_format_is_126(server, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01\x02")
    broken.chmod(0o755)
    before = server.free_of_all()
    done = server.run(broken)
    assert done.returncode == 126
    assert "exec format error; a script begins with #!" in done.stderr
    until(lambda: server.free() == before)


def test_missing_interpreter_is_127(server, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    done = server.run(script)
    assert done.returncode == 127
    assert "interpreter" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "0", "true"],
        ["-n", "x", "true"],
        ["-m", "0", "true"],
        ["-m", "lots", "true"],
        ["-p", "1.5", "true"],
        ["-p", "0", "true"],
        ["-p", "nan", "true"],
        ["-p", "0.5", "-m", "100", "true"],
        ["-l", "", "true"],
        ["--nonsense", "true"],
        ["-n", "1"],
        [],
    ],
)
def test_options_that_make_no_sense_are_125_and_one_line(tmp_path, words):
    done = fdrun(*words, env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.count("\n") == 1


def test_unknown_transport_is_refused(server):
    done = server.run("true", road="pigeon")
    assert done.returncode == 125
    assert "pigeon" in done.stderr


def test_help_and_version_need_nothing(tmp_path):
    assert "PROGRAM ARGS..." in fdrun("--help", env=environment(tmp_path)).stdout
    done = fdrun("--version", env=environment(tmp_path))
    assert done.stdout == f"fdrun {__version__}\n"


def test_version_loads_neither_capnp_nor_asyncio(tmp_path):
    code = (
        "import sys\n"
        "from fdcore_cli import fdrun, flexdirect, fdserver\n"
        "try:\n    fdrun.main(['--version'])\nexcept SystemExit:\n    pass\n"
        "dear = ('capnp', 'asyncio', 'numba', 'psutil')\n"
        "print([name for name in dear if name in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.splitlines()[-1] == "[]"


def test_verbose_talks_on_standard_error_only(server):
    done = server.run("-v", "-m", "64", "echo", "hello")
    assert done.stdout == "hello\n"
    assert re.search(r"^\[INFO\] \S+Z Locked 1 GPUs with partial memory 0.0625, ",
                     done.stderr, re.M)  # fmt: skip


# ---- without a server ----


def test_direct_needs_no_server_and_shows_the_cpu_device(tmp_path, demo):
    env = environment(tmp_path, FD_CPU_DEVICES="3")
    done = fdrun("--direct", demo, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fdcore CPU device" in done.stdout
    assert "1 of 3" in done.stdout
    assert done.stdout.endswith("PASS\n")


def test_direct_shows_as_many_devices_as_are_asked_for(tmp_path, demo):
    done = fdrun("--direct", "-n", "2", demo, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2" in done.stdout


def test_paths_of_this_tree_are_not_in_the_sources():
    for path in (ROOT / "cli").glob("*.py"):
        assert str(ROOT) not in path.read_text()
