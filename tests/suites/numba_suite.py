"""Runs numba-cuda's own tests, one process a module, and judges what they say.

    numba_suite.py [--remote ROAD] [--direct DIR] [--jobs N] [--out DIR] [MODULE ...]

The tests are those in the installed wheel: numba.cuda.tests.cudapy and .doc_examples; a
MODULE is the last part of a name, such as test_atomics. They run on the CPU device:
directly, or with --remote shm or tcp through `flexdirect local`, a server of its own. What
may fail, and why, is in numba_cuda.known; any other failure makes the exit status 1. So
does, with --direct and the folder of a direct run, a test that is skipped only here, unless
numba_cuda.known lists it under skip:.

`numba_suite.py --child MODULE FILE` is what runs in each of the processes. It writes a
line into FILE as a test starts and one as it ends, so that a crash can be placed.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import subprocess
import sys
import unittest
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGES = ("cudapy", "doc_examples")
PREFIX = "numba.cuda.tests."
KNOWN = Path(__file__).with_name("numba_cuda.known")
SECONDS = 300  # for one module
GOOD = ("passed", "skipped")


# ---- in the process that runs one module ----


class Result(unittest.TextTestResult):
    """One outcome for each test, the worst of its subtests'."""

    file: Path
    outcome = ""

    def say(self, word: str, test: unittest.TestCase) -> None:
        with self.file.open("a") as out:
            out.write(f"{word} {test.id()}\n")

    def startTest(self, test):
        super().startTest(test)
        self.outcome = ""
        self.say("started", test)

    def note(self, word):
        self.outcome = self.outcome if self.outcome in ("failed", "error") else word

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note("passed")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note("passed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note("skipped")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note("failed")

    def addError(self, test, err):
        super().addError(test, err)
        self.note("error")
        if not isinstance(test, unittest.TestCase):  # setUpClass and the like
            self.say("error", test)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note("failed")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self.note("failed" if failed else "error")

    def stopTest(self, test):
        super().stopTest(test)
        self.say(self.outcome or "error", test)


class Function(unittest.FunctionTestCase):
    """A plain function, written to be found by pytest."""

    def __init__(self, function: Callable[[], None]):
        super().__init__(function)
        self.name = f"{function.__module__}.{function.__name__}"

    def id(self) -> str:
        return self.name


def child(module: str, file: str) -> None:
    Result.file = Path(file)
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    for name, value in vars(sys.modules.get(module, unittest)).items():
        if name.startswith("test_") and inspect.isfunction(value):
            suite.addTest(Function(value))
    unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)


# ---- in the process that runs them all ----


def modules() -> list[str]:
    """Every module of tests in the wheel."""
    import numba_cuda

    base = Path(numba_cuda.__file__).parent / "numba" / "cuda" / "tests"
    return [
        f"{PREFIX}{package}.{file.stem}"
        for package in PACKAGES
        for file in sorted((base / package).glob("test_*.py"))
    ]


def outcomes(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Test and outcome from what a child wrote; a test that never ended has "died"."""
    open_test = None
    for line in lines:
        word, test = line.rstrip("\n").split(" ", 1)
        if word == "started":
            open_test = test
        else:
            yield test, word
            open_test = None
    if open_test is not None:
        yield open_test, "died"


def run_module(module: str, launcher: list[str], out: Path) -> dict[str, str]:
    short = module.removeprefix(PREFIX)
    file, log = out / f"{short}.tests", out / f"{short}.log"
    file.unlink(missing_ok=True)
    with log.open("w") as text:
        process = subprocess.Popen(
            [*launcher, sys.executable, __file__, "--child", module, str(file)],
            stdout=text, stderr=text, stdin=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    lines = file.read_text().splitlines() if file.exists() else []
    found = dict(outcomes(lines))
    if status != 0 and "died" not in found.values():
        found[module] = "died"  # before the first test, or after the last
    counts = Counter(found.values())
    print(f"{short}:", ", ".join(f"{n} {word}" for word, n in sorted(counts.items())),
          flush=True)
    return {name.removeprefix(PREFIX): word for name, word in found.items()}


def known(names: Iterable[str], remote: bool) -> dict[str, str]:
    """Those of the tests that may fail, with the reason."""
    pairs = {}
    for line in KNOWN.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, reason = line.split(None, 1)
        if pattern.startswith("skip:") or (pattern.startswith("remote:") and not remote):
            continue
        pattern = pattern.removeprefix("remote:")
        pairs.update((name, reason) for name in names if fnmatchcase(name, pattern))
    return pairs


def skipped_here(found: dict[str, str], direct: Path) -> list[str]:
    """Tests that a direct run of theirs did not skip, and numba_cuda.known does not list."""
    frozen = [
        line.split(None, 1)[0].removeprefix("skip:")
        for line in KNOWN.read_text().splitlines() if line.startswith("skip:")
    ]
    before = {
        name.removeprefix(PREFIX): word
        for file in direct.glob("*.tests")
        for name, word in outcomes(file.read_text().splitlines())
    }
    return sorted(
        name for name, word in found.items()
        if word == "skipped" and before.get(name, "skipped") != "skipped"
        and not any(fnmatchcase(name, pattern) for pattern in frozen)
    )


def report(found: dict[str, str], may_fail: dict[str, str]) -> int:
    counts = Counter(found.values())
    bad = {name: word for name, word in found.items() if word not in GOOD}
    ran = len(found) - counts["skipped"]
    print(f"\n{len(found)} tests: {counts['passed']} passed, {counts['failed']} failed, "
          f"{counts['error']} errors, {counts['died']} died, {counts['skipped']} skipped; "
          f"{100 * counts['passed'] / max(ran, 1):.2f} % of {ran} passed")
    for name in sorted(bad.keys() & may_fail.keys()):
        print(f"known: {name} ({bad[name]}): {may_fail[name]}")
    for name in sorted(may_fail.keys() - bad.keys()):
        print(f"passes now: {name}")
    for name in sorted(bad.keys() - may_fail.keys()):
        print(f"UNEXPECTED: {name} ({bad[name]})")
    return 1 if bad.keys() - may_fail.keys() or not counts["passed"] else 0


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("--remote", choices=("shm", "tcp"), help="through a server")
    parser.add_argument("--direct", type=Path, help="what a direct run has left")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bin", type=Path, required=True, help="where fdrun is")
    parser.add_argument("--out", type=Path, required=True, help="for logs")
    parser.add_argument("modules", nargs="*")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    launcher = [str(given.bin / "fdrun"), "--direct", "--"]
    if given.remote:
        os.environ["FD_TRANSPORT"] = given.remote
        launcher = [str(given.bin / "flexdirect"), "local", "--cpu-devices", "1", "-q", "--"]
    chosen = [
        module for module in modules()
        if not given.modules or module.rpartition(".")[2] in given.modules
    ]
    with ThreadPoolExecutor(given.jobs) as pool:
        parts = pool.map(lambda m: run_module(m, launcher, given.out), chosen)
        found = {name: word for part in parts for name, word in part.items()}
    status = report(found, known(found, given.remote is not None))
    skips = skipped_here(found, given.direct) if given.direct else []
    for name in skips:
        print(f"UNEXPECTED: {name} (skipped, and not in a direct run)")
    return 1 if skips else status


if __name__ == "__main__":
    sys.exit(main())
