"""Where silent connections wait, over real sockets in a loop of the test's."""

import asyncio
import contextlib
import logging
import socket
import time

import pytest

from fdcore.security.doorstep import Doorstep
from fdcore.security.limits import Rate, Seldom, Waiting

LONG = 60.0


class Place:
    """A doorstep at a port, and who has spoken."""

    def __init__(self, most=100, each=100, seconds=LONG, **more):
        self.spoken = []
        # Nobody is told of a crowd: what is started later would begin with its slice.
        self.waiting = Waiting(most, each, lambda waiting, there: None)
        seldom = Seldom(logging.getLogger("doorstep"))
        self.step = Doorstep(self.waiting, seconds, seldom, self.spoken.append, **more)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.step.listen(self.listener)

    def dial(self, source="127.0.0.2"):
        return socket.create_connection(self.listener.getsockname(), 10, (source, 0))


@contextlib.contextmanager
def place(**more):
    made = Place(**more)
    try:
        yield made
    finally:
        made.step.close()
        for caller in made.spoken:
            caller.sock.close()


async def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(100) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_who_speaks_is_handed_on_with_a_place(caplog):
    async def work():
        with place(greeting=lambda: b"hello") as here:
            silent, one = here.dial(), here.dial("127.0.0.3")
            assert await asyncio.to_thread(one.recv, 5) == b"hello"
            one.sendall(b"hi")
            await until(lambda: here.spoken)
            (caller,) = here.spoken
            assert (caller.source, caller.said) == ("127.0.0.3", b"hello")
            assert caller.sock.recv(10) == b"hi"
            await until(lambda: here.waiting.count == 2)
            here.waiting.leave(caller.stranger)
            assert not closed(silent)
            silent.close()
            one.close()

    asyncio.run(work())
    assert not caplog.records


def test_newcomer_takes_the_place_of_the_longest_silent_one():
    async def work():
        with place(most=4, each=2) as here:
            crowd = []
            for _ in range(4):
                crowd.append(here.dial())
                await until(lambda: here.waiting.count == min(len(crowd), 2))
            await until(lambda: closed(crowd[0]) and closed(crowd[1]))
            assert not closed(crowd[2])
            other = here.dial("127.0.0.3")
            other.sendall(b"x")
            await until(lambda: here.spoken)
            for sock in (*crowd, other):
                sock.close()

    asyncio.run(work())


def test_silence_ends_and_is_told_once(caplog):
    async def work():
        with place(seconds=0.2) as here:
            crowd = [here.dial() for _ in range(20)]
            await until(lambda: all(map(closed, crowd)))
            assert here.waiting.count == 0
            for sock in crowd:
                sock.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert [record.getMessage() for record in caplog.records] == [
        "127.0.0.2: said nothing for 0.2 s"
    ]


def test_hanging_up_gives_the_place_to_who_is_handed_it():
    async def work():
        with place() as here:
            here.dial().close()
            await until(lambda: here.spoken)
            assert here.spoken[0].sock.recv(10) == b""

    asyncio.run(work())


def test_too_many_from_one_source_are_closed_unheard():
    async def work():
        with place(rate=Rate(0.001, 2)) as here:
            crowd = [here.dial() for _ in range(4)]
            await until(lambda: sum(map(closed, crowd)) == 2)
            assert here.waiting.count == 2
            for sock in crowd:
                sock.close()

    asyncio.run(work())


@pytest.mark.parametrize("count", [1, 200])
def test_close_leaves_nobody_waiting(count):
    async def work():
        with place(most=500, each=500) as here:
            crowd = [here.dial() for _ in range(count)]
            await until(lambda: here.waiting.count == count)
        assert all([await told(sock) for sock in crowd])

    async def told(sock):
        await until(lambda: closed(sock))
        sock.close()
        return True

    asyncio.run(work())
