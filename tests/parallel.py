"""Files of tests side by side: `make test` has two workers of pytest-xdist take one file
after the other (--dist loadfile).

What the tests of a file share is shared with no other file's, the server of a session
included: each worker has its own. Servers take free ports and say which; folders, sockets,
networks and etcds are each test's. What is left to share is the machine, which others may
keep busy too, and build/: see building().
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parent.parent / "build"
# Of these files a worker had better not begin one when the other is about to end: those
# that take longest come first. Nothing but the order depends on it.
LONG = (
    "tests/e2e/test_programs.py",
    "tests/e2e/test_submissions.py",
    "tests/e2e/test_tour.py",
    "tests/e2e/test_several_servers.py",
    "tests/e2e/test_kinds_of_driver.py",
    "tests/e2e/test_counts.py",
    "tests/e2e/test_numba_suite.py",
    "tests/conformance/test_forms.py",
    "tests/csrc/test_programs.py",
    "tests/cli/test_etcd.py",
    "tests/chaos/test_chaos.py",
    "tests/fdcore/web/test_browser.py",
    "tests/cli/test_verify.py",
    "tests/cli/test_restart.py",
    "tests/e2e/test_compute.py",
    "tests/cli/test_health.py",
    "tests/install/test_guides.py",
    "tests/install/test_packages.py",
    "tests/e2e/test_module_cache.py",
    "tests/e2e/test_reconnect.py",
    "tests/cli/test_queue.py",
    "tests/fuzz/test_replay.py",
    "tests/cli/test_fdrun.py",
    "tests/cli/test_commands.py",
    "tests/fdcore/test_resume.py",
    "tests/e2e/test_nvml.py",
    "tests/e2e/test_slices.py",
)


def longest_first(items: list[pytest.Item]) -> None:
    """By the name of the file, below tests/; the order inside a file stays as it is."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))


def scheduler(config: pytest.Config, log: object) -> object:
    """That of --dist loadfile, for a run that goes on when a test's process ends with it."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def remove_node(self, node):
            """The test that it ended with has failed, and is not begun once more; what it
            had not begun is for others."""
            left = [
                (file, name)
                for file, tests in self.assigned_work.pop(node).items()
                for name, over in tests.items()
                if not over
            ]
            if not left:
                return None
            for file, name in left[1:]:
                self.workqueue.setdefault(file, {})[name] = False
            for other in self.assigned_work:
                self._reschedule(other)
            return left[0][1]

        def _reschedule(self, node):
            """Nothing for one that does not know the tests yet, and two at least for one
            that does: it begins a test when it knows the next."""
            if node not in self.registered_collections:
                return
            super()._reschedule(node)
            while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)

    return Files(config, log)


@contextlib.contextmanager
def building(what: str = "make") -> Iterator[None]:
    """One worker at a time makes it; the next one finds it made."""
    locks = BUILD / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / what, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
