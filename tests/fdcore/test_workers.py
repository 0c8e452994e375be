"""Worker processes as the server sees them."""

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fdcore.recall import WORKERS, find_workers
from fdcore.workers import Child, WorkerPool, spawn, status_text


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def filled(pool, count):
    pool.warm()
    await pool.filling
    assert len(pool.spare) == count
    return list(pool.spare)


def test_spare_worker_is_taken_and_a_dead_one_is_not():
    async def work():
        pool = WorkerPool(os.environ, 2)
        first, second = await filled(pool, 2)
        assert await pool.take() is first
        await first.stop()
        second.process.kill()
        second.process.wait()
        taken = await pool.take()
        assert taken not in (first, second)
        assert not pool.spare
        await taken.stop()
        await pool.close()

    run(work())


def stat_of(pid):
    return Path(f"/proc/{pid}/stat").read_text()


def test_forked_workers_are_our_children_and_end_with_their_status():
    async def work():
        pool = WorkerPool(os.environ)
        (worker,) = await filled(pool, 1)
        name, rest = stat_of(worker.pid).rsplit(")", 1)
        assert name.endswith(("(fdworker", "(fdnurse"))
        assert int(rest.split()[1]) == os.getpid()
        worker.process.kill()
        assert await worker.wait(ended=True) == -9
        await pool.close()

    run(work())


def test_pool_goes_on_without_its_nurse():
    async def work():
        pool = WorkerPool(os.environ)
        await filled(pool, 1)
        pool.nurse.process.kill()
        pool.nurse.process.wait()
        first, second = await pool.take(), await pool.take()
        assert first.alive
        assert second.alive
        third = await pool.take()
        assert isinstance(third.process, Child)
        for worker in (first, second, third):
            await worker.stop()
        await pool.close()

    run(work())


def test_pool_of_none_makes_workers_when_they_are_asked_for():
    async def work():
        pool = WorkerPool(os.environ, 0)
        await filled(pool, 0)
        worker = await pool.take()
        assert worker.alive
        await worker.stop()
        await pool.close()

    run(work())


def test_worker_without_a_session_ends_with_its_control_socket():
    async def work():
        worker = spawn(os.environ)
        worker.control.close()
        assert await worker.wait(ended=True) == 0

    run(work())


def test_worker_that_cannot_open_the_driver_says_why():
    async def work():
        worker = spawn(os.environ)
        worker.warm("/nonexistent/driver")
        told = await worker.told()
        assert told["op"] == "failed"
        assert "/nonexistent/driver" in told["reason"]
        assert await worker.told() == {}
        await worker.wait(ended=True)
        worker.control.close()

    run(work())


def test_ends_of_processes_have_names():
    assert status_text(3) == "exit status 3"
    assert status_text(-9) == "SIGKILL"


def test_worker_that_is_not_taken_over_leaves_no_descriptor_here(tmp_path):
    (tmp_path / WORKERS).mkdir()
    board = tmp_path / "board"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / WORKERS / "one"))
        listener.listen()

        def answer():
            with listener.accept()[0] as heir, open(board, "w") as file:
                socket.send_fds(heir, [b'{"op": "nothing"}'], [file.fileno()] * 2)

        with ThreadPoolExecutor(1) as other:
            answered = other.submit(answer)
            assert find_workers(tmp_path, ()) == []
            answered.result(60)
    held = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert str(board.resolve()) not in held
