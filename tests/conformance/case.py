"""What one form's test is made of: a kernel, its operands and what has to come out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.conformance import floats
from tests.conformance.driver import Image

BLOCK = 128

# bits and register class of every type
SIZES = {
    "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "tf32": 32, "f16x2": 32, "bf16x2": 32,
    "u16x2": 32, "s16x2": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64, "b128": 128,
    "pred": 1, "e4m3x2": 16, "e5m2x2": 16, "e2m1x2": 8, "e2m3x2": 16, "e3m2x2": 16,
    "ue8m0x2": 16, "f32x2": 64,
}  # fmt: skip


class Untested(Exception):
    """No test is written for this form, and why."""


@dataclass
class Out:
    """One result of every lane: bits wanted, or a check of its own."""

    bits: int
    want: list[int] | None = None
    # got, lane -> None or what was wanted
    check: Callable[[int, int], str | None] | None = None
    show: Callable[[int], str] | None = None
    care: int = -1  # the bits that are promised


@dataclass
class Case:
    form: str
    body: str  # PTX between loading the operands and storing the results
    ins: list[tuple[int, list[int]]]  # bits and value a lane
    outs: list[Out]
    decl: str = ""  # before the kernel
    regs: str = ""
    lanes: int = 0
    memory: bytes = b""  # a buffer that %mem points to
    memory_want: bytes | Callable[[bytes], str | None] | None = None
    settled: int | None = None  # bytes of it that do not hang on the order of lanes
    target: int = 80
    version: str = "8.0"
    features: str = ""  # a for sm_90a
    block: int = BLOCK
    dynamic: int = 0  # shared memory
    cooperative: bool = False
    param: bytes = b""  # a fourth parameter, passed by value
    param_decl: str = ""
    image: Image | None = None  # its object's number is the fourth parameter
    result: int = 0  # CUresult that the launch has to end with
    note: str = ""
    name: str = ""
    operands: list[str] = field(default_factory=list)


Maker = Callable[[str, list[str]], Case]
MAKERS: dict[str, Maker] = {}  # by opcode


def maker(*ops: str) -> Callable[[Maker], Maker]:
    """The function makes the cases of these opcodes."""

    def keep(f: Maker) -> Maker:
        for op in ops:
            assert op not in MAKERS, op
            MAKERS[op] = f
        return f

    return keep


# ---- operands ----


def edges(t: str) -> list[int]:
    """Bit patterns of a type that are likely to go wrong."""
    bits = SIZES[t]
    if t == "pred":
        return [0, 1]
    base = t[:-2] if t.endswith("x2") else t
    if base in floats.FORMATS and base != "tf32" and not t.endswith("x2"):
        return float_edges(floats.FORMATS[base])
    if t == "tf32":
        return float_edges(floats.F32)
    if t.endswith("x2") and bits == 32:
        half = edges({"u16": "u16", "s16": "s16"}.get(base, base))
        rng = random.Random(t)
        return [
            rng.choice(half) | rng.choice(half) << 16 for _ in range(len(half) * 3)
        ]
    top = 1 << (bits - 1)
    mask = (1 << bits) - 1
    out = [0, 1, 2, 3, 7, 10, mask, mask - 1, top, top - 1, top + 1, top - 2]
    out += [0x5555555555555555 & mask, 0xAAAAAAAAAAAAAAAA & mask, mask - 9, 100 & mask]
    k = bits // 2
    out += [1 << k, (1 << k) - 1, mask ^ ((1 << k) - 1), mask >> 1 ^ 0x123]
    return list(dict.fromkeys(out))


def float_edges(f: floats.Format) -> list[int]:
    one = floats.one(f)
    ulp = 1 << f.low
    least = 1 << f.mant + f.low
    top = f.maximum
    half = one - least
    two = one + least
    out = [
        0, ulp, least - ulp, least, least + ulp, half - ulp, half, half + ulp,
        one - ulp, one, one + ulp, one | least >> 1, two, two + (least >> 2),
        two | least >> 1, two + least - ulp, top, top - ulp, one + 3 * least + 5 * ulp,
    ]  # fmt: skip
    if f.inf:
        infinity = top + ulp
        out += [infinity, infinity | least >> 1, infinity | ulp, f.nan]
    if f in (floats.F32, floats.F64):
        for e in (7, 8, 10, 15, 16, 23, 24, 31, 32, 52, 53, 63, 64, 100, 126):
            out.append(one + e * least)
            out.append(one + e * least - ulp)
        pi = floats.from_fraction(floats.Fraction(355, 113))[0]
        out.append(floats.pack(f, pi))
    else:
        out += [one + k * least + (least >> 1) for k in range(4, min(14, f.bias))]
    out = list(dict.fromkeys(out))
    return out + [v | f.sign for v in out]


def noise(rng: random.Random, t: str) -> int:
    """Any value, most of them of ordinary size."""
    bits = SIZES[t]
    if t.endswith("x2") and bits == 32:
        base = t[:-2]
        return noise(rng, base) | noise(rng, base) << 16
    if t in floats.FORMATS and rng.random() < 0.7:
        f = floats.FORMATS[t] if t != "tf32" else floats.F32
        e = f.bias + rng.randint(-min(6, f.bias - 1), 6)
        return (
            rng.getrandbits(1) << (f.bits - 1)
            | e << (f.mant + f.low)
            | rng.getrandbits(f.mant) << f.low
        )
    if rng.random() < 0.4:
        return rng.getrandbits(bits) >> rng.randrange(bits)
    return rng.getrandbits(bits)


def tuples(
    form: str, types: Sequence[str], count: int = 0, only: dict[int, list[int]] | None = None
) -> list[list[int]]:
    """Lists of operand values, one list an operand, a multiple of 128 lanes long."""
    rng = random.Random(form)
    lists = [
        (only or {}).get(k) or edges(t) for k, t in enumerate(types)
    ]
    rows: list[tuple[int, ...]] = []
    if not count:
        count = {1: 256, 2: 1024}.get(len(types), 768)
        if len(types) == 2 and len(lists[0]) * len(lists[1]) < 400:
            count = 512
    if len(types) == 1:
        rows = [(v,) for v in lists[0]]
    elif len(types) == 2:
        rows = [(a, b) for a in lists[0] for b in lists[1]]
        if len(rows) > count * 3 // 4:
            rows = rng.sample(rows, count * 3 // 4)
    else:
        rows = [tuple(rng.choice(v) for v in lists) for _ in range(count * 2 // 3)]
    rows = rows[:count]
    while len(rows) < count or len(rows) % BLOCK:
        row = []
        for k, t in enumerate(types):
            fixed = (only or {}).get(k)
            if fixed:
                row.append(rng.choice(fixed))
            else:
                row.append(noise(rng, t) if rng.random() < 0.8 else rng.choice(lists[k]))
        rows.append(tuple(row))
    return [list(column) for column in zip(*rows, strict=True)]


def signed(v: int, bits: int) -> int:
    v &= (1 << bits) - 1
    return v - (1 << bits) if v >> (bits - 1) else v


# ---- the text ----


def load(reg: str, bits: int, at: str) -> str:
    if bits == 8:
        return f"ld.global.b8 {reg}, [{at}];"
    return f"ld.global.b{bits} {reg}, [{at}];"


def stride(widths: Sequence[int]) -> int:
    return 16 * len(widths) if 128 in widths else 8 * len(widths)


def module_text(cases: Sequence[Case], names: Sequence[str]) -> str:
    """A module with one kernel a case; all have the same target."""
    version = max((c.version for c in cases), key=lambda v: tuple(map(int, v.split("."))))
    target = max(c.target for c in cases)
    features = "".join(sorted({c.features for c in cases}))
    head = f".version {version}\n.target sm_{target}{features}\n.address_size 64\n"
    parts = [head]
    for case, name in zip(cases, names, strict=True):
        parts.append(kernel_text(case, name))
    return "\n".join(parts)


def kernel_text(case: Case, name: str) -> str:
    """The kernel: %in, %out point to this lane's record, %mem to the common buffer."""
    extra = f",\n    {case.param_decl}" if case.param_decl else ""
    lines = []
    if case.decl:
        lines.append(case.decl.replace("$K", name))
    lines.append(
        f".visible .entry {name}(.param .u64 p_in, .param .u64 p_out, "
        f".param .u64 p_mem{extra})\n{{"
    )
    lines.append("    .reg .b64 %in, %out, %mem;")
    lines.append("    .reg .b32 %idx, %lane, %thr, %t0, %t1;")
    step_in = stride([w for w, _ in case.ins])
    step_out = stride([o.bits for o in case.outs])
    for k, (bits, _) in enumerate(case.ins):
        lines.append(f"    .reg .{'pred' if bits == 1 else f'b{max(bits, 16)}'} %a{k};")
        if bits == 1:
            lines.append(f"    .reg .b32 %ap{k};")
    for k, out in enumerate(case.outs):
        lines.append(
            f"    .reg .{'pred' if out.bits == 1 else f'b{max(out.bits, 16)}'} %d{k};"
        )
        if out.bits == 1:
            lines.append(f"    .reg .b32 %dp{k};")
    if case.regs:
        lines.append("    " + case.regs.replace("$K", name))
    lines.append(
        f"""    mov.u32 %t0, %ctaid.x;
    mov.u32 %thr, %tid.x;
    mad.lo.s32 %idx, %t0, {case.block}, %thr;
    mov.u32 %lane, %laneid;
    ld.param.u64 %in, [p_in];
    ld.param.u64 %out, [p_out];
    ld.param.u64 %mem, [p_mem];
    mad.wide.u32 %in, %idx, {step_in}, %in;
    mad.wide.u32 %out, %idx, {step_out}, %out;"""
    )
    at = 16 if 128 in [w for w, _ in case.ins] else 8
    for k, (bits, _) in enumerate(case.ins):
        if bits == 1:
            lines.append(f"    {load(f'%ap{k}', 32, f'%in+{at * k}')}")
            lines.append(f"    setp.ne.u32 %a{k}, %ap{k}, 0;")
        else:
            lines.append(f"    {load(f'%a{k}', bits, f'%in+{at * k}')}")
    for line in case.body.replace("$K", name).splitlines():
        lines.append("    " + line.strip())
    at = 16 if 128 in [o.bits for o in case.outs] else 8
    for k, out in enumerate(case.outs):
        reg = f"%d{k}"
        bits = out.bits
        if bits == 1:
            lines.append(f"    selp.u32 %dp{k}, 1, 0, %d{k};")
            reg, bits = f"%dp{k}", 32
        lines.append(f"    st.global.b{bits} [%out+{at * k}], {reg};")
    lines.append("    ret;\n}")
    return "\n".join(lines)


def input_bytes(case: Case) -> bytes:
    wide = 128 in [w for w, _ in case.ins]
    size = 16 if wide else 8
    lanes = lane_count(case)
    columns = []
    for _, values in case.ins:
        columns.append([v.to_bytes(size, "little") for v in values])
    out = bytearray()
    for lane in range(lanes):
        for column in columns:
            out += column[lane]
    return bytes(out)


def lane_count(case: Case) -> int:
    return len(case.ins[0][1]) if case.ins else case.lanes or BLOCK


def output_size(case: Case) -> int:
    return stride([o.bits for o in case.outs]) * lane_count(case)


def output_values(case: Case, data: bytes) -> list[list[int]]:
    size = 16 if 128 in [o.bits for o in case.outs] else 8
    step = size * len(case.outs)
    out = []
    for k, o in enumerate(case.outs):
        n = max(o.bits, 8) // 8
        out.append(
            [
                int.from_bytes(data[lane * step + k * size :][:n], "little")
                for lane in range(lane_count(case))
            ]
        )
    return out


def promised(case: Case, data: bytes, memory: bytes) -> bytes:
    """Results and memory as they came, without what nobody promises."""
    kept = bytearray(data)
    size = 16 if 128 in [o.bits for o in case.outs] else 8
    step = size * len(case.outs)
    for k, out in enumerate(case.outs):
        if out.care == -1:
            continue
        for at in range(k * size, len(kept), step):
            n = max(out.bits, 8) // 8
            value = int.from_bytes(kept[at : at + n], "little") & out.care
            kept[at : at + n] = value.to_bytes(n, "little")
    return bytes(kept) + memory[: case.settled]


def judge(case: Case, data: bytes, memory: bytes) -> str:
    """Empty where the results are right, else the first operands that went wrong."""
    wrong = []
    for k, (out, got) in enumerate(zip(case.outs, output_values(case, data), strict=True)):
        bad = 0
        for lane, value in enumerate(got):
            if out.check:
                wanted = out.check(value, lane)
                if wanted is None:
                    continue
            else:
                assert out.want is not None
                if not (value ^ out.want[lane]) & out.care:
                    continue
                wanted = f"{out.want[lane]:#x}"
            bad += 1
            if bad <= 2:
                operands = " ".join(f"{v[lane]:#x}" for _, v in case.ins)
                wrong.append(
                    f"lane {lane} result {k} of ({operands}): got {value:#x}, "
                    f"wanted {wanted}"
                )
        if bad > 2:
            wrong.append(f"and {bad - 2} lanes more of result {k}")
    if callable(case.memory_want):
        said = case.memory_want(memory)
        if said:
            wrong.append(said)
    elif case.memory_want is not None and memory != case.memory_want:
        at = next(
            i
            for i, (x, y) in enumerate(zip(memory, case.memory_want, strict=True))
            if x != y
        )
        wrong.append(
            f"memory at {at}: got {memory[at : at + 16].hex()}, "
            f"wanted {case.memory_want[at : at + 16].hex()}"
        )
    return "; ".join(wrong)
