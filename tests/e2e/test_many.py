"""Many sessions on one server: all finish, and nothing of them is left. bench/many.py
has more of them, and what they cost."""

import subprocess

import pytest

from bench import many
from tests.support import until

SESSIONS = 24


@pytest.fixture(scope="module")
def idle():
    return many.build()


@pytest.mark.parametrize("road", ["shm", "tcp"])
def test_many_sessions_side_by_side_all_finish(road, idle, make_server):
    server = make_server(memory_mb=1024)
    found = many.many(server, idle, SESSIONS // 2 if road == "tcp" else SESSIONS, road, 6)
    assert found.failures == []
    assert not found.after.over(found.before), server.log[-2000:]
    workers = found.costs["worker"]
    assert workers.count == len(set(server.workers()))
    # In the server: a socket and a pidfd for each worker, the same for each hold, a board.
    assert found.costs["fdserver"].descriptors <= 64 + 6 * workers.count


def test_more_than_there_are_descriptors_for_is_refused_in_words(idle, make_server):
    server = make_server(prefix=["prlimit", "--nofile=64"])
    running = []
    for _ in range(2):
        one = server.start("-m", "16", str(idle), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert one.stdout.readline() == "up\n"
        running.append(one)
    refused = server.run("-m", "16", str(idle))
    assert refused.returncode == 125
    assert "descriptors for no more (its limit, 'ulimit -Hn', is 64)" in refused.stderr
    for one in running:
        assert one.communicate("\n")[0] == "done\n"
    # And then there is room again.
    until(lambda: server.free() == [1024, 1024], 60)
    assert server.run("-m", "16", "true").returncode == 0
