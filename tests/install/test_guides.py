"""The guides are true: what they tell to type works, in that order, on machines that have
nothing yet; what they quote is what is said."""

import re
import shlex
import subprocess
import sys

import pytest
from fdcore_cli import options, parsers

from tests.hosts import Host, network
from tests.support import ROOT, until

GUIDES = ("README.md", "docs/admin.md", "docs/user.md", "docs/commands.md", "docs/configuration.md")
TERMS = "Do you accept these terms? [y/N]"


def blocks(text):
    """Fenced blocks for a shell, and lines that are indented as code is."""
    yield from re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    yield from re.findall(r"(?:^    .*\n)+", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)


def steps():
    """Where and what: the administrators' guide, line by line."""
    text = (ROOT / "docs" / "admin.md").read_text()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
        first, *lines = block.splitlines()
        where = re.fullmatch(r"# on (\w+)", first)
        assert where, f"a block does not say where it is typed: {first}"
        for line in lines:
            yield where.group(1), line


class Administrator:
    """Types what the guide says, and copies tokens from one screen to the other."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self.token = ""
        self.said: dict[str, str] = {}

    def type(self, where: str, line: str) -> None:
        host = self.hosts[where]
        if "TOKEN" in line:
            line = line.replace("TOKEN", self.token)
            self.said[line.split()[1]] = host.typed(line, [(TERMS, "y")])
            return
        # health ends with 1 where something fails; whether it does is the machine's.
        status = None if line.endswith(" health") else 0
        said = host.sh(line, status)
        self.said[line] = said
        token = re.search(r"^fd1\.\S+$", said, re.M)
        if token:
            self.token = token.group()


@pytest.mark.timeout(900)
def test_administrator_gets_a_pool_of_two_servers_and_a_client(tmp_path):
    with network(tmp_path, ("client", "gpu1", "gpu2")) as hosts:
        admin = Administrator(hosts)
        for where, line in steps():
            admin.type(where, line)
        said = admin.said
        assert said["flexdirect list_gpus"].count("GPU 0") >= 1
        assert said["flexdirect health"].count("[PASS] server answers") == 2
        smi = said["flexdirect run -n 1 -p 0.5 nvidia-smi"]
        assert "Locked 1 GPUs with partial memory 0.5" in smi and "fdcore CPU device" in smi
        assert re.search(r"^ann +user +valid", said["fdserver enrolled"], re.M)
        assert re.search(r"node +valid.*\n.*node +valid", said["fdserver enrolled"])
        assert said["fdserver revoke ann"].startswith("Revoked user ann")
        assert "active (running)" in said["systemctl status fdserver"]
        # Who was revoked is out, on the server that has come back from its backup, too.
        refused = hosts["client"].sh("flexdirect run -n 1 -l gpu1 true", status=125)
        assert "revoked" in refused


def typed_commands():
    """Guide, and the words of each line that calls one of ours."""
    for guide in GUIDES:
        for block in blocks((ROOT / guide).read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"\s*(?:\S*/|)(fdrun|fdserver|flexdirect)(\s.*|)$", line)
                if found:
                    yield guide, found.group(1) + found.group(2)


def words_of(line):
    """As a shell splits it, to the first pipe or the like."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|;<>&")
    reader.whitespace_split = True
    words = list(reader)
    ends = [n for n, word in enumerate(words) if set(word) <= set("|;<>&")]
    return words[: ends[0]] if ends else words


def parse(words, flexdirect, fdserver):
    name, *words = words
    if name == "fdrun":
        reader, program = parsers.of_fdrun(), True
    elif name == "fdserver":
        inner = words[0] if words and words[0] in fdserver else ""
        reader, program, words = fdserver[inner], False, words[1:] if inner else words
    else:
        assert not words or words[0] in flexdirect, words
        if not words or flexdirect[words[0]] is None or words[0] == "help":
            return
        reader, program = flexdirect[words[0]], words[0] in ("run", "local", "client")
        words = words[1:]
    if program:
        words, rest = options.split_program(reader, words)
        assert rest, "no program"
    reader.parse_args(words)


def test_every_command_line_of_the_guides_is_understood(capsys):
    flexdirect, fdserver = parsers.of_flexdirect(), parsers.of_fdserver()
    wrong = []
    for guide, line in (every := list(typed_commands())):
        try:
            parse(words_of(line), flexdirect, fdserver)
        except (SystemExit, AssertionError, ValueError) as error:
            wrong.append(f"{guide}: {line}: {error} {capsys.readouterr().err}")
    assert wrong == []
    assert len(every) > 60


def sources():
    """All that anybody could be told, with the pieces of a text put together."""
    text = "\n".join(
        path.read_text(errors="replace")
        for folder in ("fdcore", "cli", "csrc")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".pyx", ".c", ".h", ".toml")
    )
    return re.sub(r'"\s*\n\s*f?"', "", text).replace('\\"', '"')


def test_every_quoted_message_is_said_somewhere():
    said = sources()
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^### `(.+)`$", text, re.M)
    others = re.findall(r"^### `.+`, says (?:CUDA|the system)$", text, re.M)
    assert len(messages) + len(others) == text.count("\n### ") > 30
    assert len(messages) > 60 > 10 > len(others)
    missing = [
        part
        for message in messages
        for part in message.split("...")
        if len(part.strip(" :;,()")) > 4 and part.strip() not in said
    ]
    assert missing == []


def test_prolog_of_slurm_gives_the_task_a_gpu_and_the_epilog_takes_it(server, demo, tmp_path):
    text = (ROOT / "docs" / "user.md").read_text()
    prolog, epilog = re.findall(r"^```sh\n(#!/bin/sh\n# Task.*?)^```$", text, re.M | re.S)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "flexdirect").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m fdcore_cli.flexdirect "$@"\n'
    )
    (commands / "flexdirect").chmod(0o755)
    env = {**server.environment, "FD_SERVERS": server.unix, "FD_MEMORY": "128"}
    env["PATH"] = f"{commands}:{env['PATH']}"

    def script(body, more):
        return subprocess.run(
            ["sh", "-c", body], env={**env, **more}, capture_output=True, text=True, timeout=120
        )

    before = server.free()
    done = script(prolog, {})
    assert done.returncode == 0, done.stderr
    # As Slurm reads it: NAME=value, to the line's end.
    task = dict(re.findall(r"^export (\w+)=(.*)$", done.stdout, re.M))
    assert "LD_LIBRARY_PATH" in task and "FD_SESSION" in task
    out = subprocess.run([str(demo)], env={**env, **task}, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0 and "128 MiB" in out.stdout, out.stdout + out.stderr
    assert server.free() != before
    done = script(epilog, task)
    assert done.returncode == 0, done.stderr
    until(lambda: server.free() == before, 60)
