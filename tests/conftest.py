"""Fixtures of every test below."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import parallel
from tests.etcd import Etcd, make_etcd
from tests.support import Server, compile_c, start_server


def pytest_configure() -> None:
    """Ctrl-C works in the programs under test even where it was switched off for us; and
    no example of a property says how soon: others may have the processor."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile(
        "busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("busy")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Failures into the file of FD_TEST_FAILURES as they come: a run may be cut off."""
    file = os.environ.get("FD_TEST_FAILURES")
    # Each worker writes its own; of one that has crashed the controller says it.
    if file and report.failed and (report.when == "???" or not hasattr(report, "node")):
        with open(file, "a") as out:
            out.write(f"==== {report.nodeid} ({report.when})\n{report.longreprtext}\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        parallel.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return parallel.scheduler(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def make_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """Starts servers with options of their own; they are stopped after the test."""
    started: list[Server] = []

    def make(*options: str, **more: object) -> Server:
        # Socket paths are short: the test's name is not in them.
        folder = tmp_path_factory.mktemp("fd")
        started.append(start_server(folder, *options, **more))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two CPU devices of 1 GiB, for all tests that leave it as it was."""
    running = start_server(tmp_path_factory.mktemp("fd"))
    yield running
    running.stop()


@pytest.fixture(scope="session", params=["shm", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo program, compiled: the driver API with its kernels as PTX."""
    return compile_c("demo_driver.c", tmp_path_factory.mktemp("apps"))


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd for all tests that leave it running and use keys of their own."""
    running = make_etcd(tmp_path_factory.mktemp("etcd"))
    yield running
    running.kill()


@pytest.fixture
def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd to stop, kill and start again."""
    running = make_etcd(tmp_path_factory.mktemp("etcd"))
    yield running
    running.kill()
