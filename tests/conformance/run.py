"""Runs cases in workers and judges what comes back."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.case import (
    Case,
    Untested,
    input_bytes,
    judge,
    lane_count,
    module_text,
    output_size,
    promised,
)
from tests.conformance.driver import Answer, Job

ROOT = Path(__file__).resolve().parents[2]
BATCH = 40
SECONDS = 60.0  # for one kernel

# by name, so that the classes that are pickled are the same on both sides
SERVE = "import sys; from tests.conformance.driver import serve; serve(sys.argv[1])"

PASS, WRONG, REFUSED, UNTESTED = "pass", "wrong", "refused", "untested"
REFUSALS = {801, 218, 222}  # not supported, invalid PTX, PTX of a later version


@dataclass
class Verdict:
    form: str
    state: str
    why: str = ""
    bits: bytes = b""  # the results as they came, as far as they are promised


class Lost(Exception):
    """The worker is gone or does not answer."""


class Worker:
    def __init__(self, driver: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, driver],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            bufsize=0,
        )
        self.device = self.answer().said

    def send(self, text: str, jobs: Sequence[Job]) -> None:
        assert self.process.stdin
        data = memoryview(pickle.dumps((text, list(jobs))))
        try:
            while data:
                data = data[self.process.stdin.write(data) :]
        except BrokenPipeError:
            raise Lost(self.ended()) from None

    def answer(self) -> Answer:
        end = time.monotonic() + SECONDS
        size = int.from_bytes(self.read(8, end), "little")
        made = pickle.loads(self.read(size, end))
        assert isinstance(made, Answer)
        return made

    def read(self, size: int, end: float) -> bytes:
        assert self.process.stdout
        data = b""
        while len(data) < size:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.process.kill()
                raise Lost(f"no answer in {SECONDS:g} s")
            more = self.process.stdout.read(size - len(data))
            if not more:
                raise Lost(self.ended())
            data += more
        return data

    def ended(self) -> str:
        code = self.process.wait()
        return f"ended by signal {-code}" if code < 0 else f"exited with {code}"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


def job(case: Case, name: str) -> Job:
    return Job(
        name,
        lane_count(case),
        case.block,
        input_bytes(case),
        output_size(case),
        case.memory,
        case.dynamic,
        case.cooperative,
        case.param,
        image=case.image,
    )


def verdict(case: Case, answer: Answer) -> Verdict:
    if answer.result != case.result:
        if answer.result in REFUSALS:
            return Verdict(case.form, REFUSED, answer.said)
        said = f"{answer.said}, wanted {case.result}" if case.result else answer.said
        return Verdict(case.form, WRONG, said)
    if case.result:
        return Verdict(case.form, PASS)
    why = judge(case, answer.output, answer.memory)
    bits = promised(case, answer.output, answer.memory)
    return Verdict(case.form, WRONG if why else PASS, why, bits)


class Runner:
    """Runs batches, with a fresh worker after each one that was lost."""

    def __init__(self, driver: str, env: dict[str, str] | None = None) -> None:
        self.driver = driver
        self.env = env
        self.worker: Worker | None = None

    def batch(self, cases: Sequence[Case]) -> Iterable[Verdict]:
        names = [f"k{k}" for k in range(len(cases))]
        at = 0
        while at < len(cases):
            part, part_names = cases[at:], names[at:]
            try:
                if not self.worker:
                    self.worker = Worker(self.driver, self.env)
                self.worker.send(
                    module_text(part, part_names),
                    [job(c, n) for c, n in zip(part, part_names, strict=True)],
                )
                loaded = self.worker.answer()
                if loaded.result:
                    if len(part) == 1:
                        yield verdict(part[0], loaded)
                    else:  # one of them is not understood: each by itself
                        for one in part:
                            yield from self.batch([one])
                    return
                for case in part:
                    answer = self.worker.answer()
                    at += 1
                    yield verdict(case, answer)
                    if answer.result not in (0, 801, 218, 500):
                        self.close()  # the context is lost
                        break
            except Lost as e:
                self.close()
                yield Verdict(cases[at].form, WRONG, str(e))
                at += 1

    def close(self) -> None:
        if self.worker:
            self.worker.stop()
            self.worker = None


def device(driver: str) -> str:
    """What a driver says of its device."""
    worker = Worker(driver)
    worker.stop()
    return worker.device


def run(
    cases: Sequence[Case], driver: str, env: dict[str, str] | None = None
) -> list[Verdict]:
    """All of them, those with the same target together."""
    groups: dict[tuple[int, str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.target, case.features, case.version), []).append(case)
    runner = Runner(driver, env)
    out: list[Verdict] = []
    try:
        for group in groups.values():
            for k in range(0, len(group), BATCH):
                out += runner.batch(group[k : k + BATCH])
    finally:
        runner.close()
    by_form = {v.form: v for v in out}
    return [by_form[c.form] for c in cases]


def run_forms(
    listed: Sequence[str], driver: str, env: dict[str, str] | None = None
) -> list[Verdict]:
    from tests.conformance.forms import make

    cases: list[Case] = []
    out: dict[str, Verdict] = {}
    for form in listed:
        try:
            cases.append(make(form))
        except Untested as e:
            out[form] = Verdict(form, UNTESTED, str(e))
    for v in run(cases, driver, env):
        out[v.form] = v
    return [out[form] for form in listed]
