"""Runs numba-cuda's own tests, one process a module, and judges what they say.

    numba_suite.py [--remote ROAD] [--direct DIR] [--jobs N] [--out DIR] [MODULE ...]

The tests are those in the installed wheel: numba.cuda.tests.cudapy and .doc_examples; a
MODULE is the last part of a name, such as test_atomics. They run on the CPU device:
directly, or with --remote shm or tcp through `flexdirect local`, a server of its own. What
may fail, and why, is in numba_cuda.known, what may be skipped in numba_cuda.skips; any other
failure or skip makes the exit status 1. So does, with --direct and the folder of a direct
run, a test that passed there and does not here, whatever the lists say.

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
from pathlib import Path

PACKAGES = ("cudapy", "doc_examples")
PREFIX = "numba.cuda.tests."
KNOWN = Path(__file__).with_name("numba_cuda.known")
SKIPS = Path(__file__).with_name("numba_cuda.skips")
# Modules that want several devices, or later ones than the CPU device claims to be.
DEVICES = {"cudapy.test_multigpu": 2}
CAPABILITY = {"cudapy.test_dispatcher": "9.0", "cudapy.test_fp8_bindings": "9.0"}
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


def launcher(bin: Path, remote: bool, devices: int) -> list[str]:
    if not remote:
        return [str(bin / "fdrun"), "--direct", "--"]
    return [str(bin / "flexdirect"), "local", "--cpu-devices", str(devices),
            "-n", str(devices), "-q", "--"]


def run_module(module: str, bin: Path, remote: bool, out: Path) -> dict[str, str]:
    short = module.removeprefix(PREFIX)
    devices = DEVICES.get(short, 1)
    env = {**os.environ, "FD_CPU_DEVICES": str(devices)}
    if short in CAPABILITY:
        env["FD_CPU_CC"] = CAPABILITY[short]
    file, log = out / f"{short}.tests", out / f"{short}.log"
    file.unlink(missing_ok=True)
    with log.open("w") as text:
        process = subprocess.Popen(
            [*launcher(bin, remote, devices), sys.executable, __file__, "--child", module,
             str(file)],
            env=env, stdout=text, stderr=text, stdin=subprocess.DEVNULL, start_new_session=True,
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


def listed(file: Path) -> dict[str, str]:
    """Names of tests, each with the reason why it is on the list."""
    lines = file.read_text().splitlines()
    pairs = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def judge(found: dict[str, str], before: dict[str, str], may_fail: dict[str, str],
          may_skip: dict[str, str]) -> dict[str, str]:
    """What is not as it should be, with what is wrong. before: of a direct run, or nothing."""
    wrong = {}
    for name, word in found.items():
        if word != "passed" and before.get(name) == "passed":
            wrong[name] = f"{word}, and passes directly"
        elif word == "skipped" and name not in may_skip:
            wrong[name] = "skipped, and not in numba_cuda.skips"
        elif word not in GOOD and name not in may_fail:
            wrong[name] = f"{word}, and not in numba_cuda.known"
    wrong.update((name, "missing, and there in a direct run") for name in before.keys() - found)
    return wrong


def report(found: dict[str, str], before: dict[str, str]) -> int:
    may_fail, may_skip = listed(KNOWN), listed(SKIPS)
    counts = Counter(found.values())
    ran = len(found) - counts["skipped"]
    print(f"\n{len(found)} tests: {counts['passed']} passed, {counts['failed']} failed, "
          f"{counts['error']} errors, {counts['died']} died, {counts['skipped']} skipped; "
          f"{100 * counts['passed'] / max(ran, 1):.2f} % of {ran} passed")
    wrong = judge(found, before, may_fail, may_skip)
    for name, word in sorted(found.items()):
        if word not in GOOD and name not in wrong:
            print(f"known: {name} ({word}): {may_fail[name]}")
        if word == "passed" and (name in may_fail or name in may_skip):
            print(f"passes now: {name}")
    for name, what in sorted(wrong.items()):
        print(f"UNEXPECTED: {name} ({what})")
    return 1 if wrong or not counts["passed"] else 0


def read(folder: Path, chosen: Iterable[str]) -> dict[str, str]:
    """What a run has left of these modules."""
    files = (folder / f"{module.removeprefix(PREFIX)}.tests" for module in chosen)
    return {
        name.removeprefix(PREFIX): word
        for file in files if file.exists()
        for name, word in outcomes(file.read_text().splitlines())
    }


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
    if given.remote:
        os.environ["FD_TRANSPORT"] = given.remote
    chosen = [
        module for module in modules()
        if not given.modules or module.rpartition(".")[2] in given.modules
    ]
    with ThreadPoolExecutor(given.jobs) as pool:
        parts = pool.map(lambda m: run_module(m, given.bin, bool(given.remote), given.out),
                         chosen)
        found = {name: word for part in parts for name, word in part.items()}
    return report(found, read(given.direct, chosen) if given.direct else {})


if __name__ == "__main__":
    sys.exit(main())
