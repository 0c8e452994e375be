"""Requests that wait for GPUs of this server, and the quotas that they are held to.

The decisions are sched/queue.py's. Whoever does not wait is in the line for a moment
too, so that nobody is passed by who only comes at the right time.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fdcore.errors import RefusedError
from fdcore.lease import Lease, LeaseBook, Owner
from fdcore.sched.queue import (
    Quota,
    Request,
    hopeless,
    next_grant,
    quota_of,
    refusal,
)
from fdcore.sched.slices import Ask
from fdcore.security.roles import ADMIN
from fdcore.values import duration_text

log = logging.getLogger("fdserver")

MOST_WAITING = 4096


@dataclass(slots=True, eq=False)
class Waiting:
    request: Request
    owner: Owner
    asker: object
    lease: "asyncio.Future[Lease]"


@dataclass(slots=True)
class Line:
    book: LeaseBook
    leave: Callable[[Lease, object], None]
    quotas: dict[str, Quota] = field(default_factory=dict)
    waiting: dict[int, Waiting] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def lease(
        self, ask: Ask, owner: Owner, asker: object, wait: float, priority: int
    ) -> Lease:
        """A lease that asker stands for; waits up to so many seconds for it."""
        request = self.request(ask, owner, priority)
        never = hopeless(self.book.gpus, request, self.quotas)
        if never is not None:
            raise RefusedError(never.reason)
        if len(self.waiting) >= MOST_WAITING:
            raise RefusedError(f"{MOST_WAITING} requests wait already")
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.waiting[request.number] = Waiting(request, owner, asker, future)
        try:
            self.serve()
            if future.done():
                return future.result()
            why = self.why_not(request)
            if not wait:
                raise RefusedError(why)
            log.info("%s of %s waits", ask, owner)
            try:
                return await asyncio.wait_for(asyncio.shield(future), wait)
            except (TimeoutError, asyncio.TimeoutError):
                said = duration_text(wait)
                raise RefusedError(f"{self.why_not(request)}; waited {said}") from None
        except BaseException:
            if future.done() and not future.cancelled():
                self.leave(future.result(), asker)  # it came too late
            raise
        finally:
            future.cancel()
            if self.waiting.pop(request.number, None) is not None:
                # What was kept for it may be somebody else's now.
                asyncio.get_running_loop().call_soon(self.serve)

    def request(self, ask: Ask, owner: Owner, priority: int) -> Request:
        most = quota_of(owner.user, self.quotas).priority
        if priority > most and owner.role != ADMIN:
            raise RefusedError(f"{owner.user} may ask for priority {most} at most")
        number = next(self.numbers)
        return Request(ask, owner.user, number, time.monotonic(), priority)

    def serve(self) -> None:
        """Grants what can be granted, in the order of the line."""
        while self.waiting:
            granted = next_grant(
                self.book.gpus,
                self.book.free(),
                [each.request for each in self.waiting.values()],
                self.book.usages(),
                self.quotas,
                time.monotonic(),
            )
            if granted is None:
                return
            request, slices = granted
            waiting = self.waiting.pop(request.number)
            lease = self.book.grant(request.ask, waiting.owner, slices)
            self.book.stand(lease, waiting.asker)
            waiting.lease.set_result(lease)

    def close(self) -> None:
        """Nobody is granted anything any more."""
        waiting, self.waiting = self.waiting, {}
        for each in waiting.values():
            each.lease.cancel()

    def why_not(self, request: Request) -> str:
        return refusal(
            self.book.gpus,
            self.book.free(),
            request,
            self.book.usages(),
            self.quotas,
            len(self.waiting) - 1,
        ).reason
