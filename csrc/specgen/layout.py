"""From the model to offsets and sizes, and the protocol's hash. Every decision about the
wire ends here; the emitters only write down what this says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from model import Call, Field, Layout, Span, Spec, SpecError

FRAMING = 2  # counts changes of the heads in fdc/wire.h and of framing.md
REQUEST_HEAD = 32  # struct fdc_msg
REPLY_HEAD = 32  # struct fdc_reply
SPAN = "struct fdc_span"
BYTES = "uint8_t[]"


class _Struct:
    def __init__(self, head: int) -> None:
        self.at = head
        self.fields: list[Field] = []

    def add(self, name: str, ctype: str, size: int, align: int) -> None:
        gap = -self.at % align
        if gap:
            self.pad(gap)
        self.fields.append(Field(name, ctype, self.at, size))
        self.at += size

    def pad(self, size: int) -> None:
        number = sum(f.ctype == "pad" for f in self.fields)
        self.fields.append(Field(f"pad{number}", "pad", self.at, size))
        self.at += size

    def end(self) -> tuple[tuple[Field, ...], int]:
        if self.at % 8:
            self.pad(-self.at % 8)
        return tuple(self.fields), self.at


def layout(spec: Spec, call: Call) -> Layout:
    request, reply = _Struct(REQUEST_HEAD), _Struct(REPLY_HEAD)
    spans: list[Span] = []
    for param in call.params:
        word = call.words.get(param.name)
        known = spec.types.get(param.base)
        if word is None or (word.kind == "dev" and not param.stars):
            assert known
            request.add(param.name, known.wire, known.size, known.align)
        elif word.kind in ("dev", "new"):
            request.add(param.name, "uint64_t", 8, 8)
        elif word.kind == "cstr" or (word.kind == "in" and word.count):
            request.add(param.name, SPAN, 8, 4)
            pointer = param.stars > 1
            element = 8 if pointer else known.size if known and known.size else 1
            spans.append(Span(param, word, element))
        elif word.kind in ("in", "inout", "out"):
            assert known
            as_is = known.align <= 8  # messages are aligned to 8
            ctype, align = (known.wire, known.align) if as_is else (BYTES, 1)
            if word.kind != "out":
                if word.optional:
                    request.add(f"{param.name}_given", "uint32_t", 4, 4)
                request.add(param.name, ctype, known.size, align)
            if word.kind != "in":
                reply.add(param.name, ctype, known.size, align)
    fields, size = request.end()
    answer, reply_size = reply.end()
    return Layout(fields, size, tuple(spans), answer, reply_size)


def lay_out(spec: Spec) -> Spec:
    return replace(
        spec, layouts={c.name: layout(spec, c) for c in spec.calls if c.travels}
    )


def _fields(fields: tuple[Field, ...]) -> str:
    said = [f"{f.name} {f.ctype}@{f.offset}" for f in fields if f.ctype != "pad"]
    return ", ".join(said) or "-"


def lock_line(spec: Spec, call: Call) -> str:
    """The call's line in wire.lock: all that the other side has to agree on."""
    made = spec.layouts[call.name]
    spans = "".join(f" [{s.word.text} {s.param.name} x{s.element}]" for s in made.spans)
    return (
        f"{call.id:#06x} {call.name} {call.mode} | {made.request_size}: "
        f"{_fields(made.request)}{spans} | {made.reply_size}: {_fields(made.reply)}"
    )


def lock_text(spec: Spec) -> str:
    calls = sorted((c for c in spec.calls if c.travels), key=lambda c: c.id)
    lines = [lock_line(spec, call) for call in calls]
    head = "# The wire, one line a call: written by `make lock`, reviewed like code.\n"
    return f"{head}framing {FRAMING}\n" + "".join(f"{line}\n" for line in lines)


def structs_text(spec: Spec) -> str:
    """Sizes of the structures that travel as they are; part of the hash."""
    structs = (t for t in spec.types.values() if t.kind == "struct")
    return "".join(f"{t.name} {t.size} {t.align}\n" for t in sorted(structs, key=str))


def protocol_hash(spec: Spec) -> bytes:
    return hashlib.sha256((lock_text(spec) + structs_text(spec)).encode()).digest()


def _by_name(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if line.startswith("0x"))
    return {line.split()[1]: line for line in lines}


def against_lock(spec: Spec, locked: str) -> tuple[list[SpecError], list[str]]:
    """Refusals (a locked call has changed) and remarks (one is not locked yet)."""
    old, new = _by_name(locked), _by_name(lock_text(spec))
    ids = {line.split()[0]: name for name, line in old.items()}
    errors, remarks = [], []
    for call in spec.calls:
        if not call.travels:
            continue
        line = new[call.name]
        if call.name in old and old[call.name] != line:
            message = "differs from wire.lock; `make lock` if that is meant"
            errors.append(SpecError(call.where, call.name, message))
        elif call.name not in old and line.split()[0] in ids:
            message = f"id {line.split()[0]} is {ids[line.split()[0]]}'s in wire.lock"
            errors.append(SpecError(call.where, call.name, message))
        elif call.name not in old:
            remarks.append(
                f"{call.where}: {call.name}: not in wire.lock yet; `make lock`"
            )
    for name in sorted(set(old) - set(new)):
        remarks.append(f"wire.lock: {name}: is not described any more; `make lock`")
    return errors, remarks
