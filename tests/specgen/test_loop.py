"""Generated stubs and generated dispatch, run against each other under sanitizers: every
word of the grammar, good arguments and bad, and messages that lie."""

from pathlib import Path

from tests.specgen.tool import CC, CSRC, HERE, INCLUDE, generate, run

LOOP = HERE / "data" / "loop"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE=", "-g", "-O1", "-Wall", "-Wextra", "-Wshadow"]
SAN = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def test_calls_cross_the_loop(tmp_path: Path) -> None:
    gen = generate(tmp_path / "gen", "--spec", LOOP)
    paths = [f"-I{INCLUDE}", f"-I{CSRC}", f"-I{gen}"]
    objects = []
    sources = [LOOP / "shim.c", LOOP / "server.c"]
    for source in [*sources, gen / "shim_calls.c", gen / "server_calls.c"]:
        objects.append(tmp_path / f"{source.stem}.o")
        made = run(CC, *FLAGS, "-Werror", *SAN, *paths, "-c", source, "-o", objects[-1])
        assert made.returncode == 0, made.stderr
    program = tmp_path / "loop"
    linked = run(CC, *SAN, "-o", program, *objects)
    assert linked.returncode == 0, linked.stderr
    done = run(program)
    assert done.returncode == 0, done.stdout + done.stderr
