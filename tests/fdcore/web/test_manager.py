"""What the manager finds out of servers, without any."""

import pytest

from fdcore import health, papers, reach, road
from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.pools import Seen
from fdcore.web.cluster import Cluster
from fdcore.web.manager import Manager
from fdcore.web.model import Station

ONE, OTHER = Address("gpu1", 56001), Address("gpu2", 56001)


@pytest.fixture
def manager():
    """Of two servers, as its cluster would know them."""
    cluster = Cluster(lambda: (ONE, OTHER), None)
    cluster.order = (ONE, OTHER)
    cluster.stations = {each: Station(str(each)) for each in cluster.order}
    return Manager(cluster, None)


def test_server_that_cannot_be_checked_hides_no_other(manager, monkeypatch):
    def certificate(address, environment):
        if address == ONE:
            raise ConfigError("own.pem: nobody can read it")
        return []

    monkeypatch.setattr(papers, "server", certificate)
    monkeypatch.setattr(reach, "server", lambda address: [])
    monkeypatch.setattr(road, "server", lambda address: [])
    monkeypatch.setattr("fdcore.whole.machine", list)
    monkeypatch.setattr(
        "fdcore.pools.look",
        lambda servers, seconds: [Seen(each, None, "is off", 0.0) for each in servers.addresses])
    rows = manager.check_health().rows
    assert [(row["host"], row["state"]) for row in rows] == [
        (str(ONE), health.FAIL), (str(OTHER), health.FAIL)]
    assert "nobody can read it" in str(rows[0])
    assert "is off" in str(rows[1])
