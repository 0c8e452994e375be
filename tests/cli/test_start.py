"""What the commands do before they do anything: Ctrl-C meanwhile, and variables of the
environment that nobody would understand later."""

import subprocess
import sys

import pytest

from tests.support import environment

# Ctrl-C at the moment when a module is looked for.
INTERRUPT = """
import importlib, os, signal, sys
wanted, sys.argv = sys.argv[1], sys.argv[2:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.exit(importlib.import_module("fdcore_cli." + sys.argv[0]).main())
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("fdrun", "fdcore_cli.options"),
        ("fdrun", "argparse"),
        ("fdrun", "fdcore.launch"),
        ("fdrun", "capnp"),
        ("fdserver", "fdcore_cli.options"),
        ("fdserver", "fdcore.server"),
        ("flexdirect", "fdcore.config"),
    ],
)
def test_interrupt_while_starting_is_silent(tmp_path, command, module):
    words = {
        "fdrun": ["-l", "127.0.0.1:1", "true"],
        "fdserver": ["--listen", "none", "--state", str(tmp_path / "state")],
        "flexdirect": ["run", "-q", "-l", "127.0.0.1:1", "true"],
    }
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, module, command, *words[command]],
        env=environment(tmp_path), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


WRONG = [
    ("FD_LOG", "loud", "off, error, warn, info, debug or LEVEL:FILE"),
    ("FD_SYNC", "perhaps", "0 or 1"),
    ("FD_CPU_DEVICES", "99", "a number from 0 to 16"),
    ("FD_CPU_MEMORY_MB", "4G", "a number from 16 to 4194304"),
    ("FD_EMULATE_RTT_US", "-1", "a number from 0 to 10000000"),
    ("FD_EMULATE_MBPS", "fast", "a number from 0 to 1000000"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_variable_that_is_wrong_is_named_by_fdrun(tmp_path, name, value, allowed):
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "--direct", "echo", "started"],
        env=environment(tmp_path, **{name: value}),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = f"fdrun: {name} is '{value}'; it can be {allowed}\n"
    assert (done.returncode, done.stdout, done.stderr) == (125, "", said)


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_variable_that_is_wrong_is_named_by_fdserver(tmp_path, name, value, allowed):
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdserver", "--listen", "none"],
        env=environment(tmp_path, **{name: value}),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = f"fdserver: {name} is '{value}'; it can be {allowed} (see fdserver --help)\n"
    assert (done.returncode, done.stdout, done.stderr) == (125, "", said)


def test_variables_that_are_right_or_empty_are_accepted(tmp_path):
    right = {
        "FD_LOG": f"warn:{tmp_path}/log", "FD_TRANSPORT": "tcp", "FD_SYNC": "1",
        "FD_CPU_DEVICES": "2", "FD_CPU_MEMORY_MB": "64", "FD_EMULATE_RTT_US": "",
        "FD_EMULATE_MBPS": "10",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "fdcore_cli.fdrun", "--direct", "echo", "started"],
        env=environment(tmp_path, **right), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")
