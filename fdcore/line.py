"""Requests that wait for GPUs of this server, and the quotas that they are held to.

The decisions are sched/queue.py's. Whoever does not wait is in the line for a moment
too, so that nobody is passed by who only comes at the right time. Where the pool's
servers share their quotas, a request whose turn it is has its GPUs on trial until they
are counted there.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fdcore.commons import Commons, together
from fdcore.errors import RefusedError
from fdcore.lease import Lease, LeaseBook, Owner
from fdcore.sched.queue import (
    Request,
    Usage,
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
AGAIN_SECONDS = 1.0  # after a trial that came to nothing


@dataclass(slots=True, eq=False)
class Waiting:
    request: Request
    owner: Owner
    asker: object
    lease: "asyncio.Future[Lease]"
    trial: "asyncio.Task[None] | None" = None
    why: str = ""  # the last one came to nothing
    not_before: float = 0.0


@dataclass(slots=True)
class Line:
    book: LeaseBook
    leave: Callable[[Lease, object], None]
    commons: Commons
    waiting: dict[int, Waiting] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def lease(
        self, ask: Ask, owner: Owner, asker: object, wait: float, priority: int
    ) -> Lease:
        """A lease that asker stands for; waits up to so many seconds for it."""
        request = self.request(ask, owner, priority)
        never = hopeless(self.book.gpus, request, self.commons.quotas)
        if never is not None:
            raise RefusedError(never.reason)
        if len(self.waiting) >= MOST_WAITING:
            raise RefusedError(f"{MOST_WAITING} requests wait already")
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiting = Waiting(request, owner, asker, future)
        self.waiting[request.number] = waiting
        try:
            for _ in range(2):  # what others have on trial may come to nothing
                self.serve()
                await self.trials(self.waiting.values())
            await self.trials([waiting])
            if future.done():
                return future.result()
            why = self.why_not(waiting)
            if not wait:
                raise RefusedError(why)
            log.info("%s of %s waits", ask, owner)
            try:
                return await asyncio.wait_for(asyncio.shield(future), wait)
            except (TimeoutError, asyncio.TimeoutError):
                said = duration_text(wait)
                raise RefusedError(f"{self.why_not(waiting)}; waited {said}") from None
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
        most = quota_of(owner.user, self.commons.quotas).priority
        if priority > most and owner.role != ADMIN:
            raise RefusedError(f"{owner.user} may ask for priority {most} at most")
        number = next(self.numbers)
        return Request(ask, owner.user, number, time.monotonic(), priority)

    async def trials(self, several: Iterable[Waiting]) -> None:
        """Until those that are on trial now are decided."""
        running = [each.trial for each in several if each.trial is not None]
        if running:
            await asyncio.wait(running)

    def serve(self) -> None:
        """Grants what can be granted, in the order of the line."""
        while True:
            now = time.monotonic()
            able = [
                each.request
                for each in self.waiting.values()
                if each.trial is None
                and each.not_before <= now
                and not self.commons.held_up(each.owner.user)
            ]
            granted = next_grant(
                self.book.gpus,
                self.book.free(),
                able,
                self.usages(),
                self.commons.quotas,
                now,
                self.book.kept(),
            )
            if granted is None:
                return
            request, slices = granted
            waiting = self.waiting[request.number]
            lease = self.book.grant(request.ask, waiting.owner, slices)
            self.book.stand(lease, waiting.asker)
            if self.commons.shared:
                work = self.on_trial(waiting, lease)
                waiting.trial = asyncio.get_running_loop().create_task(work)
            else:
                self.grant(waiting, lease)

    def grant(self, waiting: Waiting, lease: Lease) -> None:
        del self.waiting[waiting.request.number]
        waiting.lease.set_result(lease)

    async def on_trial(self, waiting: Waiting, lease: Lease) -> None:
        """Has the lease counted in the pool: then it is granted, else it was none."""
        loop = asyncio.get_running_loop()
        try:
            waiting.why = await self.commons.take(lease)
        except Exception as error:  # nobody's GPUs for good, otherwise
            log.exception("counting %s in the pool", lease)
            waiting.why = f"nobody can count now: {error!r}"
        waiting.trial = None
        wanted = self.waiting.get(waiting.request.number) is waiting
        if not waiting.why and wanted and not lease.over:
            self.grant(waiting, lease)
            return
        self.book.leave(lease, waiting.asker)
        if not waiting.why:
            self.commons.give(lease)
        waiting.not_before = time.monotonic() + AGAIN_SECONDS
        loop.call_later(AGAIN_SECONDS, self.serve)
        loop.call_soon(self.serve)  # others may have what it had

    def usages(self) -> dict[str, Usage]:
        """What users have, of other servers too where that is known."""
        return together(self.book.usages(), self.commons.elsewhere())

    def close(self) -> None:
        """Nobody is granted anything any more."""
        waiting, self.waiting = self.waiting, {}
        for each in waiting.values():
            each.lease.cancel()
            if each.trial is not None:
                each.trial.cancel()

    def why_not(self, waiting: Waiting) -> str:
        held_up = self.commons.held_up(waiting.owner.user)
        return (
            held_up
            or waiting.why
            or refusal(
                self.book.gpus,
                self.book.free(),
                waiting.request,
                self.usages(),
                self.commons.quotas,
                len(self.waiting) - 1,
                self.book.kept(),
            ).reason
        )
