"""GPUs in exclusive-process mode: the driver lets one process have contexts there, so a
session's worker begins when those before it have ended.

A program that has just ended leaves a worker for a moment, which on a GPU of its own
the next one would not notice. While another program still runs there the wait is in
vain, and the driver tells the second what it tells any second process.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from fdcore.sched.slices import Gpu
from fdcore.session import ENDING_SECONDS, Session

log = logging.getLogger("fdserver")

LOOK_SECONDS = 0.02


async def turn(
    session: Session, sessions: Iterable[Session], gpus: Sequence[Gpu]
) -> None:
    """Waits until those that came before have left the GPUs that one at a time can
    have, or for as long as a program's end takes. sessions: in the order they came, as
    they are at each look."""
    whole = {gpu.ordinal for gpu in gpus if gpu.whole} & ordinals(session)
    if not whole:
        return
    until = time.monotonic() + ENDING_SECONDS
    while (other := before(session, sessions, whole)) is not None:
        if time.monotonic() > until:
            log.warning(
                "%s: %s has a GPU in exclusive-process mode, which refuses the second",
                session, other,
            )  # fmt: skip
            return
        await asyncio.sleep(LOOK_SECONDS)


def before(
    session: Session, sessions: Iterable[Session], whole: set[int]
) -> Session | None:
    """One that came earlier and has one of these GPUs."""
    for other in sessions:
        if other is session:
            return None
        if ordinals(other) & whole:
            return other
    return None


def ordinals(session: Session) -> set[int]:
    return {part.ordinal for part in session.lease.slices}
