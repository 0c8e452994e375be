"""proto.h, which shim and server share, and wire.md for people."""

from __future__ import annotations

from ctext import WIDTH, banner, prototype
from layout import BYTES, SPAN, protocol_hash
from model import Call, Field, Spec


def _member(field: Field) -> str:
    if field.ctype == "pad":
        return f"    uint8_t {field.name}[{field.size}];\n"
    if field.ctype == BYTES:
        return f"    uint8_t {field.name}[{field.size}];\n"
    return f"    {field.ctype} {field.name};\n"


def _struct(
    kind: str, head: str, call: Call, fields: tuple[Field, ...], size: int
) -> str:
    name = f"struct fdc_{kind}_{call.name}"
    out = f"{name} {{\n    struct {head} head;\n"
    out += "".join(map(_member, fields)) + "};\n"
    out += f'_Static_assert(sizeof({name}) == {size}, "{call.name}");\n'
    for field in fields:
        if field.ctype != "pad":
            where = f"offsetof({name}, {field.name}) == {field.offset}"
            line = f'_Static_assert({where}, "{call.name}");\n'
            out += (
                line
                if len(line) <= WIDTH
                else line.replace(", ", ",\n               ", 2)
            )
    return out


def proto_h(spec: Spec) -> str:
    calls = sorted((c for c in spec.calls if c.travels), key=lambda c: c.id)
    digest = ", ".join(f"0x{byte:02x}" for byte in protocol_hash(spec))
    out = [banner()]
    out.append(
        "/* Ids, and one request and one reply a call. The head comes first; spans say\n"
        " * where further bytes are in the message. FDC_PROTO_HASH is SHA-256 over all of\n"
        " * it: both ends must have the same. */\n"
        "#ifndef FDC_PROTO_H\n#define FDC_PROTO_H\n\n"
        '#include "fdc/copy.h"\n#include "fdc/cuda_abi.h"\n#include "fdc/wire.h"\n\n'
    )
    out.append("#define FDC_PROTO_HASH { \\\n")
    bytes_ = digest.split(", ")
    for at in range(0, 32, 8):
        comma = "," if at < 24 else ""
        out.append("    " + ", ".join(bytes_[at : at + 8]) + f"{comma} \\\n")
    out.append("}\n\n")
    out.append("enum fdc_id {\n")
    out += [f"    FDC_ID_{c.name} = {c.id:#06x},\n" for c in calls]
    out.append("};\n\n")
    for call in calls:
        made = spec.layouts[call.name]
        out.append(f"/* {call.mode}{', slow' if call.slow else ''} */\n")
        out.append(_struct("req", "fdc_msg", call, made.request, made.request_size))
        if call.mode == "sync":
            out.append(_struct("rep", "fdc_reply", call, made.reply, made.reply_size))
        out.append("\n")
    structs = [t for t in spec.types.values() if t.kind == "struct"]
    for t in structs:
        out.append(
            f"_Static_assert(sizeof({t.name}) == {t.size} &&\n"
            f'               _Alignof({t.name}) == {t.align}, "{t.name}");\n'
        )
    out.append("\n#endif\n")
    return "".join(out)


def _table(fields: tuple[Field, ...], call: Call) -> str:
    rows = ""
    for field in fields:
        if field.ctype == "pad":
            continue
        word = call.words.get(field.name)
        said = f"`{word.text}`" if word else ""
        ctype = "span" if field.ctype == SPAN else field.ctype
        rows += f"| {field.offset} | {field.name} | {ctype} | {said} |\n"
    return (
        rows and "| offset | field | type | word |\n|---|---|---|---|\n" + rows + "\n"
    )


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[0].upper() + text[1:]


def refused_md(spec: Spec) -> str:
    """What is refused, by reason; and what has one answer only."""
    out = [banner("md"), "# Calls that are refused\n\n"]
    out.append(
        "They are exported, answer `CUDA_ERROR_NOT_SUPPORTED` and log their name once.\n\n"
    )
    out.append("| why | calls |\n|---|---|\n")
    refused = sorted((c for c in spec.calls if c.why), key=lambda c: c.name)
    for reason in spec.reasons:
        names = " ".join(f"`{c.name}`" for c in refused if c.why == reason.name)
        if names:
            out.append(f"| {_sentence(reason.text)} | {names} |\n")
    out.append("\n# Calls that have one answer\n\nIt is the driver's own.\n\n")
    given = sorted((c for c in spec.calls if c.gives), key=lambda c: c.name)
    out.append("| answer | calls |\n|---|---|\n")
    for answer in sorted({c.gives for c in given}):
        names = " ".join(f"`{c.name}`" for c in given if c.gives == answer)
        out.append(f"| `CUDA_ERROR_{answer}` | {names} |\n")
    return "".join(out)


def wire_md(spec: Spec, framing: str) -> str:
    out = [banner("md"), framing.rstrip() + "\n\n## The calls\n\n"]
    for call in sorted((c for c in spec.calls if c.travels), key=lambda c: c.id):
        made = spec.layouts[call.name]
        how = call.mode + (", slow" if call.slow else "")
        out.append(f"### {call.name}\n\n`{call.id:#06x}`, {how}.")
        if call.note:
            out.append(f" {call.note}")
        out.append(f"\n\n```c\n{prototype(call)};\n```\n\n")
        out.append(f"Request, {made.request_size} bytes and its spans.\n\n")
        out.append(_table(made.request, call))
        if call.mode == "sync":
            out.append(
                f"Reply, {made.reply_size} bytes.\n\n" + _table(made.reply, call)
            )
        for line in call.fails:
            out.append(f"* fails at once: {line}\n")
        if call.fails:
            out.append("\n")
    return "".join(out)
