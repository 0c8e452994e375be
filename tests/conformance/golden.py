"""What a GPU gave for each form, as digests, and how another driver's results compare.

golden_h200.txt has a line a form: 16 hex digits of the SHA-256 of the result bits that the
PTX manual promises, or in its place why there are none. golden_differs.txt lists the forms
whose bits may be others on the CPU device, and those whose case was changed since.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from tests.conformance import forms
from tests.conformance.case import output_size, output_values
from tests.conformance.run import PASS, Verdict

CHANGED = "changed since"  # how the reason begins for a form whose digest is outdated
DIGITS = 16


def digest(bits: bytes) -> str:
    return hashlib.sha256(bits).hexdigest()[:DIGITS]


def word(v: Verdict) -> str:
    """A form's digest, or why it has none: it ends with an error, or did not run."""
    if v.bits:
        return digest(v.bits)
    return "none" if v.state == PASS else v.state


def is_digest(said: str) -> bool:
    return len(said) == DIGITS and not set(said) - set("0123456789abcdef")


def read(path: Path) -> dict[str, str]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return {part[0]: part[1] for part in lines if part and not part[0].startswith("#")}


def write(path: Path, verdicts: Sequence[Verdict], about: Sequence[str]) -> None:
    lines = [f"# {line}" for line in about] + [f"{v.form} {word(v)}" for v in verdicts]
    path.write_text("\n".join(lines) + "\n")


def write_bits(path: Path, verdicts: Sequence[Verdict]) -> None:
    """All result bits, for finding the lanes in which two drivers differ."""
    packed = {
        v.form: base64.b64encode(zlib.compress(v.bits)).decode() for v in verdicts if v.bits
    }
    path.write_text(json.dumps(packed, indent=0))


def compare(verdicts: Sequence[Verdict], path: Path) -> list[str]:
    """The forms that ran here and there with different bits; where, if all are stored."""
    if path.suffix == ".json":
        packed = json.loads(path.read_text())
        return [
            f"{v.form}  {where(v, then)}"
            for v in verdicts
            if v.bits and v.form in packed
            and (then := zlib.decompress(base64.b64decode(packed[v.form]))) != v.bits
        ]  # fmt: skip
    stored = read(path)
    return [
        v.form
        for v in verdicts
        if v.bits and is_digest(stored.get(v.form, "")) and word(v) != stored[v.form]
    ]


def where(v: Verdict, then: bytes) -> str:
    """The first lane that differs, with its operands."""
    case = forms.make(v.form)
    size = output_size(case)
    pairs = zip(output_values(case, then[:size]), output_values(case, v.bits[:size]), strict=True)
    for k, (old, new) in enumerate(pairs):
        for lane, (x, y) in enumerate(zip(old, new, strict=True)):
            if x != y:
                operands = " ".join(f"{values[lane]:#x}" for _, values in case.ins)
                return f"lane {lane} result {k} of ({operands}): {y:#x}, there {x:#x}"
    return "in memory"
