"""From the list of forms to cases."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance import alu, bits, control, convert, matrix, memory, texture, warp
from tests.conformance.case import MAKERS, Case, Untested

HERE = Path(__file__).parent
SUBJECTS = (alu, bits, control, convert, matrix, memory, texture, warp)  # they fill MAKERS


def read_list(name: str) -> list[tuple[str, str]]:
    """Lines `form  # reason` of a file beside this one."""
    out = []
    for line in (HERE / name).read_text().splitlines():
        form, _, reason = line.partition("#")
        if form.strip():
            out.append((form.strip(), reason.strip()))
    return out


def forms(only: str = "") -> list[str]:
    listed = [form for form, _ in read_list("forms.txt")]
    return [f for f in listed if re.search(only, f)]


def make(form: str) -> Case:
    """The case of a form; raises Untested."""
    op, *mods = form.split(".")
    # a modifier such as shared::cta is one word
    make_one = MAKERS.get(op)
    if not make_one:
        raise Untested("no test for this opcode")
    case = make_one(form, mods)
    case.form = form
    return case
