"""flexdirect: the commands that FlexDirect's users know."""

import os
import subprocess
import sys

import pytest

from fdcore import __version__, modules
from tests.support import environment, processes, until

FLEXDIRECT = [sys.executable, "-m", "fdcore_cli.flexdirect"]


@pytest.fixture
def tmp_path(tmp_path_factory):
    """With a short name: sockets lie below it."""
    return tmp_path_factory.mktemp("t")


def flexdirect(*arguments, env=None):
    return subprocess.run(
        [*FLEXDIRECT, *arguments], env=env, capture_output=True, text=True, timeout=60
    )


def local(folder, *arguments, **more):
    return flexdirect("local", "--cpu-devices", "2", *arguments,
                      env=environment(folder, **more))  # fmt: skip


def test_version_and_help():
    assert flexdirect("version").stdout == f"flexdirect {__version__}\n"
    assert "local" in flexdirect("help").stdout
    assert flexdirect().returncode == 0


def test_unknown_command_is_125():
    done = flexdirect("conquer")
    assert done.returncode == 125
    assert "no command 'conquer' (see" in done.stderr
    done = flexdirect("list_gpu")
    assert done.returncode == 125
    assert "no command 'list_gpu'; was list_gpus meant?" in done.stderr
    assert flexdirect("help", "conquer").returncode == 125


def test_local_needs_no_configuration_and_leaves_nothing(tmp_path):
    done = local(tmp_path, "-n", "1", "sh", "-c", "echo $PPID; exit 4")
    assert done.returncode == 4
    assert int(done.stdout) == os.getpid()
    runtime = tmp_path / "runtime" / "fdcore"
    until(lambda: not running_servers(runtime))
    assert not list(runtime.glob("local-*"))


def running_servers(runtime):
    """Processes that were started with a state folder below runtime."""
    return [pid for pid, words in processes()
            if any(word.startswith(bytes(runtime)) for word in words)]


def test_program_has_no_child_that_it_did_not_start(tmp_path):
    code = "cat /proc/$$/task/$$/children"
    assert local(tmp_path, "sh", "-c", f"exec {code}").stdout.split() == []
    done = local(tmp_path, "sh", "-c", code)
    assert len(done.stdout.split()) <= 1  # cat itself


def test_output_of_the_program_alone_is_on_standard_output(tmp_path):
    done = local(tmp_path, "echo", "hello")
    assert done.stdout == "hello\n"
    assert "Running client command 'echo hello' on 1 GPUs" in done.stderr
    assert local(tmp_path, "-q", "echo", "hello").stderr == ""


def test_pipe_from_local_ends_with_the_program(tmp_path):
    # Nothing that lives longer keeps the program's streams open.
    done = subprocess.run(
        [*FLEXDIRECT, "local", "--cpu-devices", "1", "sh", "-c", "sleep 0.1"],
        env=environment(tmp_path),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0


def test_one_quoted_string_is_a_command_line(tmp_path):
    assert local(tmp_path, "echo 'a  b' c").stdout == "a  b c\n"


def test_slices_are_refused_as_by_a_server(tmp_path):
    done = local(tmp_path, "-q", "-n", "3", "true")
    assert done.returncode == 125
    assert "more than there is" in done.stderr
    until(lambda: not running_servers(tmp_path / "runtime" / "fdcore"))


def test_private_server_that_cannot_start_says_why(tmp_path):
    done = flexdirect("local", "-q", "--driver", "/nonexistent", "true",
                      env=environment(tmp_path))  # fmt: skip
    assert done.returncode == 125
    assert "/nonexistent cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_local_runs_the_demo_as_if_directly(tmp_path, demo, road):
    done = local(tmp_path, "-q", demo, FD_TRANSPORT=road)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("PASS\n")


@pytest.mark.parametrize("words", (["version"], ["--version"], ["help"]))
def test_what_only_says_something_loads_no_network(words):
    code = (
        "import sys; from fdcore_cli import flexdirect; flexdirect.main(sys.argv[1:]); "
        "print(sorted({'capnp', 'asyncio', 'ssl', 'fdcore.launch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["netperf"], ["localhealth"], ["local", "-m", "64", "sh", "-c", "echo ran"]])
def test_names_in_the_current_folder_are_none_of_ours(tmp_path, server, command):
    """As in the folder that fdcore was cloned in, and beside somebody's random.py."""
    folder = tmp_path / "work"
    (folder / "fdcore").mkdir(parents=True)
    (folder / "fdcore_cli").mkdir()
    for name in ("random", "json", "socket", "ctypes", "logging"):
        (folder / f"{name}.py").write_text("raise SystemExit('somebody else\\'s')\n")
    done = subprocess.run(
        [*modules.command("fdcore_cli.flexdirect"), *command],
        env={**server.environment, "FD_SERVERS": server.unix}, cwd=folder,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "somebody else" not in done.stdout + done.stderr
    if command == ["localhealth"]:
        assert "[PASS] GPUs of this machine" in done.stdout
    else:
        assert done.returncode == 0, done.stderr
