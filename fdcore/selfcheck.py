"""What a server says of itself to health: its machine, its folders, its GPUs.

`python -m fdcore.selfcheck JSON` looks, in a process of its own, since drivers are
opened there; SelfCheck runs it for fdserver, and keeps the answer for a moment.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Protocol

from fdcore import modules
from fdcore.check import FAIL, MARGINAL, PASS, Check
from fdcore.config import Address
from fdcore.host.gpus import Found
from fdcore.security.identity import is_loopback

FRESH_SECONDS = 10.0
MOST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Spec:
    """What there is to look at."""

    driver: str
    nvml: str
    gpus: tuple[tuple[int, str, str], ...]
    state: str
    cache: str = ""  # empty: none is kept
    listens: bool = False  # beyond loopback


class Told(Protocol):
    """Of fdserver's options."""

    @property
    def state(self) -> Path: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def cache_room(self) -> int: ...
    @property
    def listen(self) -> Address | None: ...


def spec_of(driver: str, found: Found, told: Told) -> Spec:
    keeps = told.cache is not None and bool(told.cache_room)
    return Spec(
        driver,
        found.nvml,
        tuple((gpu.ordinal, gpu.name, gpu.pci) for gpu in found.gpus),
        str(told.state),
        str(told.cache) if keeps else "",
        told.listen is not None and not is_loopback(told.listen.host),
    )


class SelfCheck:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.lock = asyncio.Lock()
        self.known: tuple[Check, ...] = ()
        self.at = 0.0

    async def checks(self, spec: Spec) -> Sequence[Check]:
        async with self.lock:  # who comes meanwhile has the same answer
            if not self.known or time.monotonic() - self.at > FRESH_SECONDS:
                self.known = tuple(await self.look(spec))
                self.at = time.monotonic()
            return self.known

    async def look(self, spec: Spec) -> list[Check]:
        child = await asyncio.create_subprocess_exec(
            *modules.command("fdcore.selfcheck"), json.dumps(asdict(spec)),
            env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, errors = await asyncio.wait_for(child.communicate(), MOST_SECONDS)
            return [Check(*row) for row in json.loads(out)]
        except (TimeoutError, asyncio.TimeoutError):
            why = f"no answer within {MOST_SECONDS:g} s"
        except (ValueError, TypeError):
            lines = errors.decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"status {child.returncode}"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        cure = "look at the server's driver: opening it may hang"
        return [Check(FAIL, "the server's own checks", why, cure)]


def look(spec: Spec, environment: Mapping[str, str]) -> list[Check]:
    # fdserver itself needs none of these.
    from fdcore import health, papers, reach, road
    from fdcore.host import ailments
    from fdcore.security import files

    checks = [
        reach.disk(Path(spec.state), "disk for the server's state"),
        health.shared_memory(),
        health.descriptors(),
        reach.locked_memory(),
        reach.clock(),
        road.rdma(environment),
    ]
    if spec.cache:
        checks.append(reach.disk(Path(spec.cache), "disk for images of code"))
    if spec.listens:
        checks.append(interfaces())
    checks += papers.of_server(files.pool_folder(environment))
    rows = ailments.look(spec.driver, spec.nvml, spec.gpus)
    return checks + [Check(*row) for row in rows]


def interfaces() -> Check:
    """Of a server that others reach by network."""
    from fdcore import road
    from fdcore.host import network

    name = "interfaces"
    known = [each for each in network.interfaces() if not each.local]
    if not known:
        return Check(FAIL, name, "none is up but the loopback", "look at the network")
    found = "; ".join(dict.fromkeys(str(each) for each in known))
    fastest = max(each.speed for each in known)
    if 0 < fastest < road.FAST:
        cure = f"{network.rate_text(road.FAST)} or more make copies bearable"
        return Check(MARGINAL, name, found, cure)
    return Check(PASS, name, found)


def main(words: Sequence[str]) -> int:
    given = json.loads(words[0])
    given["gpus"] = tuple((int(n), str(a), str(b)) for n, a, b in given["gpus"])
    print(json.dumps([astuple(check) for check in look(Spec(**given), os.environ)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
