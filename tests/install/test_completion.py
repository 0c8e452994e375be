"""Completion in the shells themselves: what is typed, and what is offered."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from install import completion

CASES = [
    # What is typed; what has to be offered; what must not.
    ("flexdirect re", ["request_gpus", "release_gpus"], ["run"]),
    ("flexdirect run --tr", ["--transport"], ["--filter"]),
    ("flexdirect run --transport ", ["auto", "shm", "tcp", "rdma"], ["run"]),
    ("flexdirect admin ", ["quota", "drain", "leases"], ["run"]),
    ("flexdirect admin quota --", ["--gpus", "--clear", "--priority"], ["--show-origin"]),
    ("flexdirect help req", ["request_gpus"], ["run"]),
    ("fdserver tok", ["token"], ["revoke"]),
    ("fdserver token --role ", ["viewer", "user", "node", "admin"], ["token"]),
    ("fdserver --cpu", ["--cpu-devices"], ["--listen"]),
    ("fdrun --dir", ["--direct"], ["--servers"]),
    # The program behind our options, whatever they take.
    ("flexdirect run -n 1 --filter a=b fdtestprog", ["fdtestprogram"], []),
    ("fdrun -m 2G fdtestprog", ["fdtestprogram"], []),
]
IDS = [line for line, _, _ in CASES]


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """As below /usr/share; and a program that is on the path."""
    made = tmp_path_factory.mktemp("share")
    completion.write(made)
    program = made / "bin" / "fdtestprogram"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return made


def environment(share):
    return {
        "PATH": f"{share}/bin:{os.environ['PATH']}", "HOME": str(share), "TERM": "dumb",
        "LC_ALL": "C.UTF-8", "PS1": "% ", "COLUMNS": "200", "LINES": "100",
    }  # fmt: skip


def check(offered, wanted, unwanted):
    words = set(re.split(r"[\s=]+", offered))
    assert set(wanted) <= words, offered
    assert not set(unwanted) & words, offered


BASH = """
. bash-completion/completions/flexdirect
compopt() { :; }
line=$1; read -ra COMP_WORDS <<<"$line"
case $line in *" ") COMP_WORDS+=("") ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_fdcore "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "wanted", "unwanted"), CASES, ids=IDS)
def test_bash(share, line, wanted, unwanted):
    done = subprocess.run(
        ["bash", "-uc", BASH, "bash", line], cwd=share, env=environment(share),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    check(done.stdout, wanted, unwanted)


def test_bash_takes_the_value_behind_an_equals_sign(share):
    # Which is a word of its own there.
    test_bash(share, "flexdirect run --transport = t", ["tcp"], ["shm"])


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(share):
    asked = "; ".join(f"echo '== {line}'; complete -C '{line}'" for line in IDS)
    load = f"for file in {share}/fish/vendor_completions.d/*.fish; source $file; end"
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{load}; {asked}"],
        env=environment(share), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    answers = done.stdout.split("== ")[1:]
    assert len(answers) == len(CASES)
    for answer, (_, wanted, unwanted) in zip(answers, CASES, strict=True):
        rows = answer.splitlines()[1:]
        check("\n".join(row.split("\t")[0] for row in rows), wanted, unwanted)


# What is offered goes into a file, and END behind it. Key by key: a tab that is typed
# ahead would be an ordinary sign.
ZSH = """
fpath=(zsh/vendor-completions $fpath); autoload -Uz compinit; compinit -u -D
compadd() {
    local -a hits
    if (( ! $@[(I)-[OAD]*] )); then
        builtin compadd -O hits "$@"
        print -rl -- $hits >>offered
    fi
    builtin compadd "$@"
}
offer() { _main_complete; print END >>offered }
zle -C offer complete-word offer; bindkey '^G' offer
"""


class Zsh:
    """A terminal with zsh in it, which works in the folder."""

    def __init__(self, folder):
        self.offered = folder / "offered"
        (folder / "zshrc").write_text(ZSH)
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execvpe("zsh", ["zsh", "-f", "-i"], environment(folder))
        os.write(self.terminal, b". ./zshrc\n")

    def complete(self, line):
        self.offered.unlink(missing_ok=True)
        os.write(self.terminal, f"{line}\x07".encode())
        deadline, said = time.monotonic() + 60, b""
        while not self.offered.exists() or "END\n" not in self.offered.read_text():
            assert time.monotonic() < deadline, said
            if select.select([self.terminal], [], [], 0.02)[0]:
                said += os.read(self.terminal, 65536)
        os.write(self.terminal, b"\x15")
        return self.offered.read_text()

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(share):
    zsh = Zsh(share)
    try:
        for line, wanted, unwanted in CASES:
            check(zsh.complete(line), wanted, unwanted)
    finally:
        zsh.close()
