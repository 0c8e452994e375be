"""Every refusal, one function each: a function yields what is wrong with one call."""

from __future__ import annotations

import re
from collections.abc import Iterator

from model import Call, Spec, SpecError, Type

FIRST_ID = 0x0100
# Words whose bytes only hand-written code can put on the wire.
BY_HAND = ("opaque", "callback", "path", "hook")
# Names of the generated functions' own variables.
TAKEN = (
    "answer",
    "at",
    "call",
    "how",
    "length",
    "rep",
    "reply",
    "req",
    "request",
    "result",
)
_NAME = re.compile(r"[A-Za-z_]\w*")


def pointers_have_words(spec: Spec, call: Call) -> Iterator[str]:
    for param in call.params:
        if call.travels and param.stars and param.name not in call.words:
            yield f"pointer {param.name} has no word"


def words_name_parameters(spec: Spec, call: Call) -> Iterator[str]:
    for name, word in call.words.items():
        param = call.param(name)
        if param is None:
            yield f"ptr names {name}, which is no parameter"
        elif word.kind == "dev" and param.base not in ("CUdeviceptr", "void"):
            yield f"{name} is {word.text} but no device address"
        elif word.kind != "dev" and not param.stars:
            yield f"{name} is {word.text} but no pointer"


def names_are_free(spec: Spec, call: Call) -> Iterator[str]:
    for param in call.params:
        if call.travels and call.public and param.name in TAKEN:
            yield f"parameter {param.name}: generated code uses that name, give another"


def what_moves_follows_one_range(spec: Spec, call: Call) -> Iterator[str]:
    if not call.moves:
        return
    ranges = [word for word in call.words.values() if word.kind == "dev" and word.count]
    streams = [
        param
        for param in call.params
        if param.name not in call.words
        and spec.types.get(param.base, Type("", "host")).kind == "stream"
    ]
    if len(ranges) != 1 or len(streams) != 1:
        yield "moves, but has not one stream and one range of device memory"


def counts_are_known(spec: Spec, call: Call) -> Iterator[str]:
    known = {p.name for p in call.params if not p.stars}
    for name, word in call.words.items():
        for used in _NAME.findall(word.count):
            if used not in known:
                yield f"the size of {name} depends on {used}, which is not known"


def types_are_known(spec: Spec, call: Call) -> Iterator[str]:
    for param in call.params:
        matters = param.base != "void" if call.travels else not param.stars
        if matters and param.base not in spec.types:
            yield f"unknown type {param.base} of {param.name}"


def by_value_types_travel(spec: Spec, call: Call) -> Iterator[str]:
    if not call.travels:
        return
    for param in call.params:
        word = call.words.get(param.name)
        if param.base != "void" and param.base not in spec.types:
            continue  # said already
        if word is not None and not param.stars:
            continue
        kind = spec.types.get(param.base, Type("", "host")).kind
        if word is None:
            travels = kind != "host"
        elif word.kind == "new":
            travels = kind in ("handle", "stream") and param.stars == 1
        elif word.kind in ("in", "out", "inout") and not word.count:
            travels = kind in ("scalar", "struct") and param.stars == 1
        elif word.kind == "in":
            travels = kind in ("scalar", "struct") or param.base == "void"
        else:
            travels = True
        if not travels:
            yield f"{param.name} of type {param.base} cannot travel"


def generated_parts_can_be_generated(spec: Spec, call: Call) -> Iterator[str]:
    by_hand = call.shim_hand and "server.call" in call.hooks
    for name, word in call.words.items():
        if word.kind in BY_HAND and call.travels and not by_hand and not call.internal:
            yield f'{name} is {word.text}: needs shim = "hand" and the hook server.call'
        if word.kind in ("out", "inout") and word.count and call.travels:
            yield f"{name} is {word.text}: only one element can be answered; use a chunk"


def async_answers_nothing(spec: Spec, call: Call) -> Iterator[str]:
    if call.mode != "async":
        return
    for name, word in call.words.items():
        if word.kind in ("out", "inout"):
            yield f"async with an output: {name}"


def async_lists_its_errors(spec: Spec, call: Call) -> Iterator[str]:
    if call.mode == "async" and call.public and not call.fails:
        yield "async without its fails list"


def ids_are_given(spec: Spec, call: Call) -> Iterator[str]:
    if call.travels and not FIRST_ID <= call.id <= 0xFFFF:
        yield "a call that travels needs an id from 0x0100 on"
    if not call.travels and call.id:
        yield f"mode {call.mode} with an id"


def only_internal_calls_are_seen_as_others(spec: Spec, call: Call) -> Iterator[str]:
    if call.seen and not call.internal:
        yield "seen is for internal calls: the program knows this one by its name"


def hooks_have_a_place(spec: Spec, call: Call) -> Iterator[str]:
    if call.hooks and not call.travels:
        yield f"a hook on a {call.mode} call"
    if call.shim_hand and call.hooks & {"shim.before", "shim.after"}:
        yield 'shim = "hand" with a hook in the shim'


def internal_is_internal(spec: Spec, call: Call) -> Iterator[str]:
    if call.internal != call.name.startswith("fdc"):
        yield "internal calls, and only those, are named fdc..."
    if call.internal and not call.travels:
        yield f"an internal call in mode {call.mode}"
    if call.public and not call.since:
        yield "since is missing: the CUDA version that brought this revision"
    if call.twin and not call.twin_since:
        yield "the twin needs the CUDA version that brought it"


def drops_a_handle(spec: Spec, call: Call) -> Iterator[str]:
    if call.drops:
        param = call.param(call.drops)
        if param is None or spec.types.get(param.base, Type("", "")).kind not in (
            "handle",
            "stream",
        ):
            yield f"drops {call.drops}, which is no handle of this call"


def likeness_exists(spec: Spec, call: Call) -> Iterator[str]:
    if not call.like:
        return
    other = spec.find(call.like)
    if call.mode != "local":
        yield "like goes with mode local"
    if other is None or not other.travels or other.shim_hand:
        yield f"like {call.like}, which has no generated stub"
        return
    mine = {p.name for p in call.params}
    theirs = {p.name: p for p in other.params}
    for name in sorted(mine - set(theirs)):
        yield f"like {call.like}, which has no parameter {name}"
    for name, param in theirs.items():
        if name not in mine and param.base != "CUstream":
            yield f"like {call.like}, whose {name} is not given"


def refusals_have_reasons(spec: Spec, call: Call) -> Iterator[str]:
    if call.public and call.mode == "refused" and not call.why:
        yield "refused without a why"
    if call.mode != "refused" and call.why:
        yield f"mode {call.mode} with a why"
    if call.why and call.why not in {reason.name for reason in spec.reasons}:
        yield f"why is {call.why}, which reasons.toml does not have"


def one_answer_is_local(spec: Spec, call: Call) -> Iterator[str]:
    if call.gives and (call.mode != "local" or call.like):
        yield "gives goes with mode local, alone"


EACH = (
    pointers_have_words, words_name_parameters, names_are_free, counts_are_known,
    what_moves_follows_one_range, types_are_known, by_value_types_travel,
    generated_parts_can_be_generated, async_answers_nothing, async_lists_its_errors,
    ids_are_given, only_internal_calls_are_seen_as_others, hooks_have_a_place, internal_is_internal, drops_a_handle,
    likeness_exists, refusals_have_reasons, one_answer_is_local,
)  # fmt: skip


def ids_are_unique(spec: Spec) -> Iterator[SpecError]:
    seen: dict[int, str] = {}
    for call in spec.calls:
        if call.travels and call.id in seen:
            message = f"id {call.id:#06x} is {seen[call.id]}'s"
            yield SpecError(call.where, call.name, message)
        seen.setdefault(call.id, call.name)


def check(spec: Spec) -> list[SpecError]:
    found = [
        SpecError(call.where, call.name, message)
        for call in spec.calls
        for refusal in EACH
        for message in refusal(spec, call)
    ]
    return found + list(ids_are_unique(spec))


def suggestions(spec: Spec) -> list[str]:
    """What the description could do better; nothing is refused for it."""
    found = []
    for call in spec.calls:
        kinds = {word.kind for word in call.words.values()}
        answers = bool(kinds & {"new", "out", "inout"})
        waits = call.slow or "server.call" in call.hooks
        if call.mode == "sync" and call.public and not answers and not waits:
            found.append(f"{call.where}: {call.name}: could be async")
    return found
