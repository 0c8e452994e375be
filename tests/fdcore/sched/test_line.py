"""Requests on trial: line.py, with others that count badly."""

import asyncio

import pytest

from fdcore.commons import Alone
from fdcore.errors import RefusedError
from fdcore.lease import LeaseBook, Owner
from fdcore.line import Line
from fdcore.sched.slices import MIB, Ask, Gpu


class Broken(Alone):
    """Shares, and has a bug once."""

    def __init__(self):
        super().__init__(lambda *row: None, shared=True)
        self.left = 1

    async def take(self, lease):
        self.left -= 1
        if self.left >= 0:
            raise KeyError("an answer that nobody thought of")
        return ""


def test_gpus_of_a_trial_that_fails_unexpectedly_are_given_back():
    async def work():
        book = LeaseBook((Gpu(0, "gpu", "GPU-0", 1024 * MIB),))
        line = Line(book, book.leave, Broken())
        owner = Owner("ann", "")
        with pytest.raises(RefusedError, match="nobody thought of"):
            await line.lease(Ask(), owner, object(), 0.0, 0)
        assert not book.leases and not line.waiting
        assert await line.lease(Ask(), owner, object(), 60.0, 0)
        assert len(book.leases) == 1

    asyncio.run(work())


def test_who_waits_is_tried_again_after_a_trial_that_fails_unexpectedly():
    async def work():
        book = LeaseBook((Gpu(0, "gpu", "GPU-0", 1024 * MIB),))
        line = Line(book, book.leave, Broken())
        assert await line.lease(Ask(), Owner("ann", ""), object(), 60.0, 0)

    asyncio.run(work())
