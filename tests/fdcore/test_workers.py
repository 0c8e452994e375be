"""Worker processes as the server sees them."""

import asyncio
import os

from fdcore.workers import Worker, WorkerPool, status_text


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def test_spare_worker_is_taken_and_a_dead_one_is_not():
    async def work():
        pool = WorkerPool(os.environ)
        pool.warm()
        spare = pool.spare
        assert await pool.take() is spare
        assert pool.spare is None
        await spare.stop()
        pool.warm()
        dead = pool.spare
        dead.process.kill()
        dead.process.wait()
        taken = await pool.take()
        assert taken is not dead
        await taken.stop()
        await pool.close()

    run(work())


def test_worker_without_a_session_ends_with_its_control_socket():
    async def work():
        worker = Worker(os.environ)
        worker.control.close()
        assert await worker.wait(ended=True) == 0

    run(work())


def test_worker_that_cannot_open_the_driver_says_why():
    async def work():
        worker = Worker(os.environ)
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
