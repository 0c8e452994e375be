"""Programs of ours that are run with a lease of one server, to see how it is there:
each is an ordinary CUDA program, through the shim, the road and the worker."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence

from fdcore import attach, launch
from fdcore.progress import Progress
from fdcore.reserve import Wish, reserve, same_machine


class Trial:
    """A lease, and the environment of programs that use it."""

    def __init__(self, environment: dict[str, str], road: str) -> None:
        self.environment = environment
        self.road = road


@contextlib.contextmanager
def lease(wish: Wish, name: str) -> Iterator[Trial]:
    held = reserve(wish, name, Progress(quiet=True))
    try:
        path, descriptor = launch.write_session([one.grant for one in held], wish.road)
        try:
            environment = launch.own_environment()
            launch.add_session(environment, path)
            environment.setdefault("FD_LOG", "error")
            here = "shm" if same_machine(held[0].grant) else "tcp"
            yield Trial(environment, here if wish.road == "auto" else wish.road)
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for one in held:
            attach.let_go(one.hold)


class Child:
    """A process, and its lines as they come. What it says on standard
    error is kept."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            list(words),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.errors = b""
        self.waited_out = False

    def lines(self, stall: float, until: float) -> Iterator[str]:
        """Ends with the program, or where it says nothing for so long (seconds), or at
        that time (monotonic): then the program is killed, and waited_out is set."""
        assert self.process.stdout is not None and self.process.stderr is not None
        streams = {self.process.stdout.fileno(): b"", self.process.stderr.fileno(): b""}
        out = self.process.stdout.fileno()
        heard = time.monotonic()
        while streams:
            left = min(heard + stall, until) - time.monotonic()
            ready = select.select(list(streams), [], [], max(left, 0))[0]
            if not ready and left <= 0:
                self.waited_out = True
                self.process.kill()
                break
            for each in ready:
                piece = os.read(each, 1 << 16)
                if not piece:
                    del streams[each]
                elif each != out:
                    self.errors = (self.errors + piece)[-(1 << 14) :]
                else:
                    heard = time.monotonic()
                    *whole, streams[out] = (streams[out] + piece).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def why(self) -> str:
        """The last thing that it complained about, or how it ended."""
        lines = self.errors.decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        ended = f"signal {-code}" if code < 0 else f"status {code}"
        return lines[-1].strip() if lines else f"it ended with {ended}"
