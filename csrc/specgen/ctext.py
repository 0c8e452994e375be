"""Small helpers for writing C: wrapped argument lists, banners, indentation."""

from __future__ import annotations

from model import Call, Param

WIDTH = 88


def banner(kind: str = "c") -> str:
    said = "made by csrc/specgen from csrc/spec/; do not edit"
    return {"c": f"/* {said} */\n", "hash": f"# {said}\n", "md": f"<!-- {said} -->\n"}[
        kind
    ]


def wrap(head: str, parts: list[str], tail: str, indent: int = 0) -> str:
    """head(part, part)tail, broken at the width and aligned behind the parenthesis.

    indent: the columns before the head, which the caller writes himself.
    """
    pad = " " * (indent + min(len(head), 40))
    lines, line, room = [], head, WIDTH - indent
    for number, part in enumerate(parts):
        part += tail if number == len(parts) - 1 else ","
        space = "" if line.endswith("(") or not line.strip() else " "
        if len(line) + len(space) + len(part) > room and line.strip() != head.strip():
            lines.append(line)
            line, space, room = pad, "", WIDTH
        line += space + part
    return "\n".join([*lines, line])


def prototype(call: Call, symbol: str = "", prefix: str = "CUresult ") -> str:
    params = [p.decl for p in call.params] or ["void"]
    return wrap(f"{prefix}{symbol or call.name}(", params, ")")


def arguments(call: Call) -> list[str]:
    return [p.name for p in call.params]


def pointee(param: Param) -> str:
    """What a pointer parameter points at, without const."""
    return f"{param.base} " + "*" * (param.stars - 1) if param.stars > 1 else param.base
