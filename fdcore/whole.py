"""All of health's checks put together, by who is looked at."""

import os
from collections.abc import Mapping, Sequence

from fdcore import health, papers, reach, road
from fdcore.check import FAIL, Check
from fdcore.config import protocol_hash
from fdcore.errors import FdcoreError
from fdcore.pools import Seen

Group = tuple[str, Sequence[Check]]


def machine(environment: Mapping[str, str] = os.environ) -> list[Check]:
    """This one, as a client and as a server."""
    return [
        *health.local(environment),
        *reach.machine(environment),
        road.rdma(environment),
        *papers.here(environment),
    ]


def server(
    seen: Seen, wanted: str, seconds: float, environment: Mapping[str, str] = os.environ
) -> list[Group]:
    """A server as seen from here, and as it sees itself. wanted: the road."""
    checks = [
        *reach.server(seen.address),
        *road.server(seen.address),
        *papers.server(seen.address, environment),
        *health.server(seen),
    ]
    groups: list[Group] = [(str(seen.address), checks)]
    if seen.pool is None:
        return groups
    if seen.pool.now:
        checks.append(papers.clocks(seen.ahead, seen.unsure))
    if seen.pool.gpus:
        checks += road.measured(seen.address, wanted, seconds)
    return [*groups, (f"{seen.address} itself", itself(seen))]


def itself(seen: Seen) -> list[Check]:
    from fdcore.rpc import client

    try:
        return client.checks(seen.address, protocol_hash())
    except FdcoreError as error:
        cure = "see whether it is of the same version, and its log"
        return [Check(FAIL, "the server's own checks", str(error), cure)]
