"""From the TOML files of csrc/spec/ to the model. Says what is malformed; what is well
formed but wrong is check.py's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import minitoml
from model import (
    HOOKS,
    MODES,
    NEEDS,
    Call,
    Param,
    Reason,
    Spec,
    SpecError,
    Type,
    Word,
)  # fmt: skip

KEYS = {
    "id", "mode", "c", "since", "twin", "ptr", "shim", "like", "hooks", "needs", "slow",
    "work", "unsafe", "moves", "internal", "makes", "drops", "fails", "note", "why",
    "gives", "seen",
}  # fmt: skip

SIZES = {
    "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4,
    "int64_t": 8, "uint64_t": 8, "float": 4, "double": 8,
}  # fmt: skip

_PROTOTYPE = re.compile(r"CUresult (\w+)\((.*)\)")
_PARAM = re.compile(
    r"(const )?((?:unsigned |long |struct )*\w+)( \*| )((?:const \*|\*)*)(\w+)((?:\[\d*\])*)"
)
_WORD = re.compile(
    r"(new|inout|in|out|dev|opaque|callback|path|null|hook)(?:\[([^\]<]+?)(?: <= (\d+))?\])?(\?)?"
)


def read_types(path: Path) -> dict[str, Type]:
    where = path.name
    types: dict[str, Type] = {}
    for section, members in load(path).items():
        for name, says in members.items():
            if name in types:
                raise SpecError(where, name, "described twice")
            types[name] = make_type(where, section, name, says)
    return types


def make_type(where: str, section: str, name: str, says: Any) -> Type:
    if section == "scalar":
        if says not in SIZES:
            raise SpecError(where, name, f"unknown wire type {says}")
        return Type(name, "scalar", says, SIZES[says], SIZES[says])
    if section == "enum":
        return Type(name, "scalar", says, 4, 4)
    if section == "handle":
        kind = says.get("how", "handle")
        size, wire = (
            (16, "struct fdc_wire_func") if kind == "function" else (8, "uint64_t")
        )
        return Type(
            name, kind, wire, size, 8, says["kind"], says.get("object", "fdc_object")
        )
    if section == "device":
        return Type(name, "device", "int32_t", 4, 4)
    if section == "struct":
        size, align = says
        return Type(name, "struct", name, size, align)
    if section == "host":
        return Type(name, "host")
    raise SpecError(where, section, "unknown section")


def load(path: Path) -> dict[str, Any]:
    try:
        return minitoml.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(path.name, "", str(error)) from None


def read_param(where: str, entry: str, text: str) -> Param:
    found = _PARAM.fullmatch(text)
    if not found:
        raise SpecError(where, entry, f"parameter '{text}' is not understood")
    const, base, star, more, name, suffix = found.groups()
    stars = (star + more).count("*") + suffix.count("[")
    return Param(name, text, base, stars, bool(const), suffix)


def read_word(where: str, entry: str, name: str, text: str) -> Word:
    parts = text.split()
    if parts and parts[-1] == "bulk":
        text = " ".join(parts[:-1])
    found = _WORD.fullmatch(text)
    if not found:
        raise SpecError(where, entry, f"word '{text}' of {name} is not understood")
    kind, count, limit, optional = found.groups()
    if count == "cstr":
        kind, count = "cstr", ""
    return Word(text, kind, count or "", int(limit or 0), bool(optional))


def read_call(where: str, name: str, says: dict[str, Any]) -> Call:
    def fail(message: str) -> SpecError:
        return SpecError(where, name, message)

    unknown = sorted(set(says) - KEYS)
    if unknown:
        raise fail(f"unknown key {unknown[0]}")
    if says.get("mode") not in MODES:
        raise fail(f"mode is one of {', '.join(MODES)}")
    found = _PROTOTYPE.fullmatch(" ".join(str(says.get("c", "")).split()))
    if not found:
        raise fail("c is not a prototype that returns CUresult")
    if found.group(1) != name:
        raise fail(f"the prototype names {found.group(1)}")
    inside = found.group(2)
    params: tuple[Param, ...] = ()
    if inside != "void":
        params = tuple(read_param(where, name, p.strip()) for p in inside.split(","))
    twin, twin_since = next(iter(says.get("twin", {}).items()), ("", 0))
    if twin not in ("", "ptsz", "ptds") or len(says.get("twin", {})) > 1:
        raise fail("twin is ptsz or ptds")
    hooks = says.get("hooks", [])
    for hook in hooks:
        if hook not in HOOKS:
            raise fail(f"unknown hook {hook}")
    if says.get("needs", "context") not in NEEDS:
        raise fail(f"needs is one of {', '.join(NEEDS)}")
    if says.get("shim", "hand") != "hand":
        raise fail('shim is "hand" or left out')
    words = {
        param: read_word(where, name, param, text)
        for param, text in says.get("ptr", {}).items()
    }
    made = [param for param, word in words.items() if word.kind == "new"]
    if "makes" in says and [says["makes"]] != made:
        raise fail(f"makes names {says['makes']}, which is not its new handle")
    fails = says.get("fails", ())
    return Call(
        name=name, where=where, mode=says["mode"], params=params, words=words,
        id=says.get("id", 0), since=says.get("since", 0), twin=twin, twin_since=twin_since,
        shim_hand="shim" in says, like=says.get("like", ""), hooks=frozenset(hooks),
        needs=says.get("needs", "context"), slow=says.get("slow", False),
        work=says.get("work", False), unsafe=says.get("unsafe", False),
        moves=says.get("moves", False),
        internal=says.get("internal", False), drops=says.get("drops", ""),
        fails=(fails,) if isinstance(fails, str) else tuple(fails), note=says.get("note", ""),
        why=says.get("why", ""), gives=says.get("gives", ""), seen=says.get("seen", ""),
    )  # fmt: skip


def read_reasons(path: Path) -> tuple[Reason, ...]:
    if not path.exists():
        return ()
    found = []
    for name, says in load(path).items():
        if set(says) != {"text", "listed"}:
            raise SpecError(path.name, name, "a reason has text and listed")
        found.append(Reason(name, says["text"], says["listed"]))
    return tuple(found)


def read_spec(folder: Path) -> Spec:
    types = read_types(folder / "types.toml")
    calls: list[Call] = []
    seen: dict[str, str] = {}
    others = ("types.toml", "reasons.toml")
    files = sorted(p for p in folder.glob("*.toml") if p.name not in others)
    for path in files:
        for name, says in load(path).items():
            if name in seen:
                raise SpecError(path.name, name, f"is in {seen[name]} already")
            seen[name] = path.name
            calls.append(read_call(path.name, name, says))
    reasons = read_reasons(folder / "reasons.toml")
    return Spec(types, tuple(calls), tuple(p.name for p in files), reasons=reasons)
