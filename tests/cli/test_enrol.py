"""fdserver token, enrolled and revoke, and flexdirect init, as people type them."""

import os
import pty
import subprocess
import sys

import pytest

from tests.support import environment


def command(module, *words, env, **more):
    return subprocess.run(
        [sys.executable, "-m", f"fdcore_cli.{module}", *words],
        env=env, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, **more,
    )  # fmt: skip


def token(env, *options):
    done = command("fdserver", "token", *options, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_first_token_founds_the_pool_and_says_so(tmp_path):
    env = environment(tmp_path)
    done = command("fdserver", "token", env=env)
    assert done.returncode == 0
    assert done.stdout.startswith("fd1.") and done.stdout.count("\n") == 1
    assert "Founded pool" in done.stderr
    assert command("fdserver", "token", env=env).stderr == ""
    listed = command("fdserver", "enrolled", env=env).stdout
    assert "  node  valid  " in listed


@pytest.mark.parametrize(
    "words",
    [("--ttl", "0"), ("--ttl", "x"), ("--ttl", "999d"), ("--uses", "0"), ("--role", "king"),
     ("--name", "a b"), ("--address", "a:b")],
)  # fmt: skip
def test_token_with_nonsense_is_refused_in_a_line(tmp_path, words):
    done = command("fdserver", "token", *words, env=environment(tmp_path))
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("fdserver token: ")


def test_revoke_and_enrolled_without_a_pool_say_so(tmp_path):
    for words in (("revoke", "x"), ("enrolled",)):
        done = command("fdserver", *words, env=environment(tmp_path))
        assert done.returncode == 125
        assert "is not a pool's founding server" in done.stderr


def test_init_in_a_script_accepts_the_terms_by_option(make_server, tmp_path):
    pool = str(tmp_path / "founder")
    token(environment(tmp_path, FD_POOL=pool))
    server = make_server(FD_TLS="always", FD_POOL=pool)
    text = token(environment(tmp_path, FD_POOL=pool), "--address", server.control,
                 "--name", "alice", "--ttl", "1h30m")  # fmt: skip
    client = environment(tmp_path)
    refused = command("flexdirect", "init", text, env=client)
    assert refused.returncode == 125
    assert "--accept-terms" in refused.stderr
    done = command("flexdirect", "init", "--accept-terms", text, env=client)
    assert done.returncode == 0
    assert "Apache License" in done.stdout
    assert "Joined as user alice" in done.stdout
    listed = command("fdserver", "enrolled", env=environment(tmp_path, FD_POOL=pool))
    assert "alice  user  valid" in listed.stdout
    revoked = command("fdserver", "revoke", "alice", env=environment(tmp_path, FD_POOL=pool))
    assert revoked.stdout.startswith("Revoked user alice, serial ")


def test_init_asks_as_its_users_knew_it(make_server, tmp_path):
    pool = str(tmp_path / "founder")
    token(environment(tmp_path, FD_POOL=pool))
    server = make_server(FD_TLS="always", FD_POOL=pool)
    text = token(environment(tmp_path, FD_POOL=pool), "--address", server.control)
    for answers, expected in ((["n"], 125), (["y", text], 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "fdcore_cli.flexdirect", "init"],
            env=environment(tmp_path), stdin=theirs, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, "".join(answer + "\n" for answer in answers).encode())
        said, _ = process.communicate(timeout=60)
        os.close(ours)
        assert process.returncode == expected, said
        assert "Do you accept these terms?" in said
    assert "enrolled and ready for use" in said


def test_init_with_what_is_no_token_says_so(tmp_path):
    done = command("flexdirect", "init", "--accept-terms", "hello", env=environment(tmp_path))
    assert done.returncode == 125
    assert done.stderr.splitlines()[-1] == (
        "flexdirect init: that is not an enrolment token (fdserver token prints one)"
    )
