"""Loads, stores, atomics, copies: each with the ways in which lanes spread addresses."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.conformance import floats
from tests.conformance.alu import fmt, is_float, mask, packed, types_of, value
from tests.conformance.case import SIZES, Case, Out, Untested, maker, signed, tuples

SPACES = ("global", "shared", "local", "const", "param")
TABLE = 2048  # bytes that loads read from
LANES = 256


def table(seed: str, size: int = TABLE) -> bytes:
    return random.Random(seed).randbytes(size)


def vector(mods: list[str]) -> int:
    return next((int(m[1:]) for m in mods if m in ("v2", "v4", "v8")), 1)


def space_of(mods: list[str]) -> str:
    for m in mods:
        if m.split("::")[0] in SPACES:
            return m.split("::")[0]
    return ""


def offsets(seed: str, size: int, limit: int, lanes: int = LANES) -> list[int]:
    """Offsets a lane: in a row, the same, backwards, with gaps, anyhow, in halves."""
    rng = random.Random(seed)
    count = limit // size
    out = []
    for lane in range(lanes):
        warp, k = divmod(lane, 32)
        out.append(
            size
            * [
                k + 3 * warp,
                warp * 5,
                40 - k,
                2 * k,
                rng.randrange(count),
                k // 16 * 8 + k % 16,
                k // 4,
                k ^ 5,
            ][warp % 8]
            % (count * size)
        )
    return out


def element(data: bytes, at: int, t: str, width: int) -> int:
    """What a load of t at an offset leaves in a register of some width."""
    n = SIZES[t] // 8
    v = int.from_bytes(data[at : at + n], "little")
    return signed(v, SIZES[t]) & mask(width) if t[0] == "s" else v


def braces(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "{" + ", ".join(names) + "}"


def need_vector(t: str, n: int, form: str = "") -> dict[str, object]:
    if "cluster" in form:
        return {"target": 90}
    if "mmio" in form:
        return {"version": "8.2"}
    if "volatile.local" in form:  # older assemblers took it without asking
        return {"version": "9.1"}
    if n * SIZES[t] > 128:
        return {"target": 100, "version": "8.8"}
    return {}


# ---- ld ----


@maker("ld", "ldu")
def make_ld(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = vector(mods)
    space = space_of(mods)
    size = SIZES[t] // 8 * n
    if space == "param":
        return param_load(form, t, n)
    data = table(form)
    where = offsets(form, size, 256 if space == "local" else TABLE)
    narrow = max(SIZES[t], 16)
    # integers may be read into wider registers
    widths = [narrow]
    if not is_float(t) and SIZES[t] < 64 and n < 8:
        widths.append(64)
        if SIZES[t] < 32:
            widths.append(32)
    outs: list[Out] = []
    body = ""
    regs = ".reg .b64 %at, %p, %q; .reg .b32 %c, %n, %o; .reg .pred %more; .reg .b64 %v;"
    decl = ""
    at = "%at"
    prepare = ""
    if space == "const":
        words = ", ".join(str(b) for b in data)
        decl = f".const .align 32 .b8 $K_c[{TABLE}] = {{{words}}};"
        prepare = "mov.u64 %at, $K_c; cvt.u64.u32 %p, %a0; add.u64 %at, %at, %p;"
    elif space in ("shared", "local"):
        # copy the table there first, 8 bytes a step, all by every thread
        length = TABLE if space == "shared" else 512
        regs += f" .{space} .align 32 .b8 $K_s[{length}];"
        prepare = f"""mov.u64 %p, %mem; mov.u64 %q, $K_s; mov.u32 %n, 0;
            $copy: ld.global.u64 %v, [%p]; st.{space}.u64 [%q], %v;
            add.u64 %p, %p, 8; add.u64 %q, %q, 8; add.u32 %n, %n, 8;
            setp.lt.u32 %more, %n, {length}; @%more bra $copy;
            bar.sync 0;
            mov.u64 %at, $K_s; cvt.u64.u32 %p, %a0; add.u64 %at, %at, %p;"""
    else:
        prepare = "cvt.u64.u32 %p, %a0; add.u64 %at, %mem, %p;"
    body = prepare
    for w in widths:
        names = []
        for k in range(n):
            names.append(f"%d{len(outs)}")
            if w == 128:
                outs += quarter(data, where, k)
                continue
            outs.append(
                Out(w, [element(data, o + k * SIZES[t] // 8, t, w) for o in where])
            )
        body += f"\n{form} {braces(names)}, [{at}];"
    extra: dict[str, object] = need_vector(t, n, form)
    if t == "b128":
        extra = {"target": 80, "version": "8.3"}
    if not space:
        # a generic address of shared memory too
        regs += " .shared .align 16 .b8 $K_g[64]; .reg .b64 %w;"
        regs += " " + " ".join(f".reg .b{narrow} %e{k};" for k in range(n))
        first = data[:32]
        body += "\nmov.u64 %q, $K_g;"
        for k in range(0, 32, 8):
            body += f"\nld.global.u64 %w, [%mem+{k}]; st.shared.u64 [%q+{k}], %w;"
        body += "\nbar.sync 0; cvta.shared.u64 %w, %q;"
        names = []
        for k in range(n):
            names.append(f"%d{len(outs)}")
            outs.append(
                Out(narrow, [element(first, k * SIZES[t] // 8, t, narrow)] * LANES)
            )
        body += f"\n{form} {braces(names)}, [%w];"
    return Case(
        form, body.replace("$copy", "$K_copy"), [(32, where)], outs, decl=decl, regs=regs,
        memory=data, memory_want=data, **extra,  # type: ignore[arg-type]
    )  # fmt: skip


def quarter(data: bytes, where: list[int], k: int) -> list[Out]:
    return [Out(128, [int.from_bytes(data[o : o + 16], "little") for o in where])]


def param_load(form: str, t: str, n: int) -> Case:
    """Kernel parameters are the same for every lane; their offsets stand in the text."""
    data = table(form, 128)
    size = SIZES[t] // 8 * n
    narrow = max(SIZES[t], 16)
    outs: list[Out] = []
    body = ""
    for at in (0, size, 3 * size, 128 - size):
        names = []
        for k in range(n):
            names.append(f"%d{len(outs)}")
            outs.append(
                Out(narrow, [element(data, at + k * SIZES[t] // 8, t, narrow)] * 128)
            )
        body += f"\n{form} {braces(names)}, [p_data+{at}];"
    if not is_float(t) and SIZES[t] < 64 and n == 1:
        body += f"\n{form} %d{len(outs)}, [p_data+{size}];"
        outs.append(Out(64, [element(data, size, t, 64)] * 128))
    # a call's result: read with the same instruction
    more = ".reg .b64 %x;"
    decl = f""".func (.param .align 16 .b8 r[{max(16, size)}]) $K_f(.param .align 16 .b8 a[{max(16, size)}])
{{
    .reg .b8 %u; .reg .b64 %x;
    .reg .b{narrow} {", ".join(f"%e{k}" for k in range(n))};
    {form} {braces([f"%e{k}" for k in range(n)])}, [a];
    st.param.{vec(n)}b{SIZES[t]} [r], {braces([f"%e{k}" for k in range(n)])};
    ret;
}}"""
    names = [f"%d{len(outs) + k}" for k in range(n)]
    values = [(0x0123456789ABCDEF * (k + 3)) & mask(SIZES[t]) for k in range(n)]
    regs = more + f" .reg .b{narrow} " + ", ".join(f"%v{k}" for k in range(n)) + ";"
    for k, v in enumerate(values):
        body += f"\nmov.b{narrow} %v{k}, {v};"
        w = signed(v, SIZES[t]) & mask(narrow) if t[0] == "s" else v
        outs.append(Out(narrow, [w] * 128))
    body += f"""
        {{ .param .align 16 .b8 $pa[{max(16, size)}]; .param .align 16 .b8 $pr[{max(16, size)}];
        st.param.{vec(n)}b{SIZES[t]} [$pa], {braces([f"%v{k}" for k in range(n)])};
        call.uni ($pr), $K_f, ($pa);
        {form} {braces(names)}, [$pr]; }}"""
    return Case(
        form, body.replace("$pa", "pa").replace("$pr", "pr"), [], outs, lanes=128,
        decl=decl.replace(".reg .b8 %u; ", ""), regs=regs, param=data,
        param_decl=".param .align 16 .b8 p_data[128]", **need_vector(t, n, form),  # type: ignore[arg-type]
    )  # fmt: skip


def vec(n: int) -> str:
    return "" if n == 1 else f"v{n}."


# ---- st ----


@maker("st")
def make_st(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = vector(mods)
    space = space_of(mods)
    size = SIZES[t] // 8 * n
    if space == "param":
        return param_store(form, t, n)
    rng = random.Random(form)
    narrow = max(SIZES[t], 16)
    values = [[rng.getrandbits(narrow) for _ in range(LANES)] for _ in range(n)]
    ins = [(narrow, v) for v in values]
    wide = not is_float(t) and SIZES[t] < 64 and n == 1
    if wide:  # from a register wider than the store
        ins.append((64, [rng.getrandbits(64) for _ in range(LANES)]))
    names = [f"%a{k}" for k in range(n)]
    regs = ".reg .b64 %at, %p, %q; .reg .b32 %o;"
    extra = need_vector(t, n, form)
    if t == "b128":
        extra = {"target": 80, "version": "8.3"}
    stored = [
        b"".join(
            (values[k][lane] & mask(SIZES[t])).to_bytes(SIZES[t] // 8, "little")
            for k in range(n)
        )
        for lane in range(LANES)
    ]
    if wide:
        stored = [
            s + (ins[-1][1][lane] & mask(SIZES[t])).to_bytes(size, "little")
            for lane, s in enumerate(stored)
        ]
    step = size * (2 if wide else 1)
    if space == "local":
        # back out byte by byte, with what lies around it
        regs += " .local .align 32 .b8 $K_l[96];"
        body = """mov.u64 %at, $K_l;
            mov.u64 %q, 0xeeeeeeeeeeeeeeee;"""
        for k in range(0, 96, 8):
            body += f"\nst.local.u64 [%at+{k}], %q;"
        body += f"\n{form} [%at+32], {braces(names)};"
        if wide:
            body += f"\n{form} [%at+{32 + size}], %a{n};"
        outs = []
        for k in range(12):
            body += f"\nld.local.u64 %d{k}, [%at+{8 * k}];"
            want = []
            for s in stored:
                image = b"\xee" * 32 + s
                image += b"\xee" * (96 - len(image))
                want.append(int.from_bytes(image[8 * k : 8 * k + 8], "little"))
            outs.append(Out(64, want))
        return Case(form, body, ins, outs, regs=regs, **extra)  # type: ignore[arg-type]
    # each lane has a place of its own; warps order them differently
    place = []
    for lane in range(LANES):
        warp, k = divmod(lane, 32)
        k = [k, 31 - k, k ^ 5, (k * 7) % 32, (k + 16) % 32, k, k ^ 1, (k * 9) % 32][warp]
        place.append((warp * 32 + k) * step)
    total = LANES * step
    image = bytearray(b"\xee" * total)
    for lane, at in enumerate(place):
        image[at : at + step] = stored[lane]
    if space == "shared":
        # a block's part of the picture, copied out after a barrier
        part = 128 * step
        regs += f" .shared .align 32 .b8 $K_s[{part}]; .reg .b64 %x;"
        body = f"""mov.u64 %at, $K_s; cvt.u64.u32 %p, %a{len(ins)}; add.u64 %at, %at, %p;
            {form} [%at], {braces(names)};"""
        if wide:
            body += f"\n{form} [%at+{size}], %a{n};"
        body += "\nbar.sync 0; mov.u64 %at, $K_s;"
        body += f"\nmad.wide.u32 %at, %thr, {step}, %at;"
        body += f"\nmad.wide.u32 %q, %idx, {step}, %mem;"
        for k in range(step):
            body += f"\nld.shared.u8 %o, [%at+{k}]; st.global.u8 [%q+{k}], %o;"
        place = [p % part for p in place]
    else:
        body = f"""cvt.u64.u32 %p, %a{len(ins)}; add.u64 %at, %mem, %p;
            {form} [%at], {braces(names)};"""
        if wide:
            body += f"\n{form} [%at+{size}], %a{n};"
    ins.append((32, place))
    if not space:  # a generic address of shared memory
        regs += f" .shared .align 32 .b8 $K_g[{128 * size}]; .reg .b64 %x;"
        regs += " .reg .b32 %y;"
        body += f"""
            mov.u64 %x, $K_g; cvta.shared.u64 %x, %x; mad.wide.u32 %x, %thr, {size}, %x;
            {form} [%x], {braces(names)};
            bar.sync 0;
            mov.u64 %x, $K_g; mad.wide.u32 %x, %thr, {size}, %x;
            mov.u32 %t0, 0;"""
        for k in range(size):  # a sum over the bytes, each with its own weight
            body += f"""
                ld.shared.u8 %y, [%x+{k}]; mad.lo.u32 %t0, %t0, 31, %y;"""
        body += "\nmov.u32 %d0, %t0;"
        want = []
        for lane in range(LANES):
            h = 0
            for b in stored[lane][:size]:
                h = (h * 31 + b) & mask(32)
            want.append(h)
        outs = [Out(32, want)]
    else:
        outs = []
    return Case(
        form, body, ins, outs, regs=regs, memory=b"\xee" * total,
        memory_want=bytes(image), **extra,  # type: ignore[arg-type]
    )  # fmt: skip


def param_store(form: str, t: str, n: int) -> Case:
    """Arguments of a call: the function hands them back byte by byte."""
    size = max(16, SIZES[t] // 8 * n)
    narrow = max(SIZES[t], 16)
    rng = random.Random(form)
    values = [[rng.getrandbits(narrow) for _ in range(128)] for _ in range(n)]
    names = [f"%a{k}" for k in range(n)]
    decl = f""".func (.param .align 16 .b8 r[{size}]) $K_f(.param .align 16 .b8 a[{size}])
{{
    .reg .b64 %x;
"""
    for k in range(0, size, 8):
        decl += f"    ld.param.u64 %x, [a+{k}]; st.param.u64 [r+{k}], %x;\n"
    decl += "    ret;\n}"
    body = f"""{{ .param .align 16 .b8 pa[{size}]; .param .align 16 .b8 pr[{size}];
        st.param.b64 [pa], %z; st.param.b64 [pa+8], %z;"""
    if size > 16:
        body += " st.param.b64 [pa+16], %z; st.param.b64 [pa+24], %z;"
    body += f"""
        {form} [pa], {braces(names)};
        call.uni (pr), $K_f, (pa);"""
    outs = []
    for k in range(0, size, 8):
        body += f"\nld.param.u64 %d{k // 8}, [pr+{k}];"
        want = []
        for lane in range(128):
            image = b"".join(
                (v[lane] & mask(SIZES[t])).to_bytes(SIZES[t] // 8, "little")
                for v in values
            )
            image += b"\xee" * (size - len(image))
            want.append(int.from_bytes(image[k : k + 8], "little"))
        care = mask(64)
        if k == 0:  # what is narrower than a register may take its other bytes along
            care &= ~sum(0xFF << 8 * b for b in range(SIZES[t] // 8 * n, 4))
        outs.append(Out(64, want, care=care))
    return Case(
        form, "mov.b64 %z, 0xeeeeeeeeeeeeeeee;\n" + body + " }",
        [(narrow, v) for v in values], outs, decl=decl, regs=".reg .b64 %z;",
    )  # fmt: skip


# ---- atom, red ----


def atomic(op: str, t: str, old: int, b: int, c: int) -> int:
    base, n = packed(t)
    bits = SIZES[base]
    if n == 2:
        return atomic(op, base, old & mask(bits), b & mask(bits), 0) | (
            atomic(op, base, old >> bits, b >> bits, 0) << bits
        )
    if op in ("exch", "and", "or", "xor"):
        return {"exch": b, "and": old & b, "or": old | b, "xor": old ^ b}[op]
    if op == "cas":
        return c if old == b else old
    if op == "inc":
        return 0 if old >= b else old + 1
    if op == "dec":
        return b if old == 0 or old > b else old - 1
    if is_float(t):
        f = fmt(base)
        ftz = base == "f32"  # atom.add.f32 in global memory flushes; shared does not
        x, y = floats.unpack(f, old), floats.unpack(f, b)
        del ftz
        if op == "add":
            return floats.pack(f, floats.add(x, y))
        raise Untested(f"atomic {op} of {t}")
    x, y = value(old, t), value(b, t)
    r = {"add": x + y, "min": min(x, y), "max": max(x, y)}[op]
    return r & mask(bits)


OPS = ("add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas")


def plain(t: str, v: int) -> int:
    """A float without NaN and subnormals, on which atomics differ by space."""
    base, n = packed(t)
    f = fmt(base)
    if n == 2:
        return plain(base, v & mask(f.bits)) | plain(base, v >> f.bits) << f.bits
    u = floats.unpack(f, v)
    if u[1] in (floats.NAN, floats.INF) or (u[1] and u[1] < 1 << f.mant):  # type: ignore[operator]
        return floats.one(f)
    if (v & (f.sign - 1)) >> f.mant > 1.5 * f.bias:
        return floats.one(f) + (1 << f.mant)
    return v


@maker("atom", "red")
def make_atom(form: str, mods: list[str]) -> Case:
    red = form.startswith("red")
    op = next(m for m in mods if m in OPS)
    t = types_of(mods)[-1]
    space = space_of(mods)
    bits = SIZES[t]
    vectors = vector(mods)
    if vectors > 1:
        raise Untested("vector atomics")
    size = bits // 8
    types = [t, t, t] if op == "cas" else [t, t]
    columns = tuples(form, types, 512)
    if is_float(t):
        columns = [[plain(t, v) for v in c] for c in columns]
    if op == "cas":  # every second one compares equal
        columns[1] = [
            o if k & 1 else v
            for k, (o, v) in enumerate(zip(columns[0], columns[1], strict=True))
        ]
    rows = list(zip(*columns, strict=True))
    lanes = len(rows)
    # no two operands that the order of two float additions would tell apart
    new = [atomic(op, t, r[0], r[1], r[2] if len(r) > 2 else 0) for r in rows]
    sources = ", ".join(f"%a{k}" for k in range(1, len(types)))
    outs = []
    regs = ".reg .b64 %at, %x, %y; .reg .b32 %w;"
    narrow = max(bits, 16)
    regs += f" .reg .b{narrow} %z; .reg .b64 %zl, %zh;"
    places: list[tuple[str, str]] = []
    shared = f"""mov.u64 %x, $K_s; mad.wide.u32 %x, %thr, {max(8, size)}, %x;"""
    in_space = {"global": "global", "shared": "shared"}.get(space, "")
    if space != "shared":
        places.append((f"mad.wide.u32 %x, %idx, {max(8, size)}, %mem;", "global"))
    if space != "global":
        regs += f" .shared .align 16 .b8 $K_s[{128 * max(8, size)}];"
        places.append((shared, "shared"))
    body = ""
    for address, where in places:
        body += f"\n{address}\nst.{where}.b{bits} [%x], %a0;"
        if not in_space and where == "shared":
            body += "\ncvta.shared.u64 %x, %x;"
            where = ""
        if red:
            body += f"\n{form} [%x], {sources};"
        else:
            body += f"\n{form} %d{len(outs)}, [%x], {sources};"
            outs.append(Out(bits, columns[0]))
        dot = f".{where}" if where else ""
        body += f"\nld{dot}.b{bits} %d{len(outs)}, [%x];"
        outs.append(Out(bits, new))
    memory_want: Callable[[bytes], str | None] | None = None
    settled = None
    memory = bytes(8 * max(1, size // 8) * lanes)
    memory += contended(op, t)
    address = "add.u64 %x, %mem, %y;"
    if space != "shared":
        # four lanes at a time on one place, to the right end whatever their order
        start = 8 * max(1, size // 8) * lanes
        memory_want = contended_want(form, op, t, start)
        if op == "exch":
            settled = start  # which lane comes last is nobody's promise
        body += f"""
            shr.u32 %w, %idx, 2; and.b32 %w, %w, 15; mul.wide.u32 %y, %w, {max(4, size)};
            add.u64 %y, %y, {start};
            {address}
            {amount(op, t, narrow)}"""
        z = ", ".join(["%z"] * (len(types) - 1))
        if op == "cas":
            z = "%a2, %a2"
        body += f"\n{form} [%x], {z};" if red else f"\n{form} %z, [%x], {z};"
    else:
        memory_want = lambda got: None  # noqa: E731
    return Case(
        form, body, [(bits, c) for c in columns], outs, regs=regs, memory=memory,
        memory_want=memory_want, settled=settled, **atom_needs(mods, t),  # type: ignore[arg-type]
    )  # fmt: skip


def atom_needs(mods: list[str], t: str) -> dict[str, object]:
    if "bf16" in t:
        return {"target": 90, "version": "7.8"}
    if t == "b128":
        return {"target": 90, "version": "8.3"}
    return {"target": 80}


def amount(op: str, t: str, narrow: int) -> str:
    """%z: what each lane brings to the shared place."""
    if is_float(t):
        base, n = packed(t)
        one = floats.one(fmt(base))
        return f"mov.b{narrow} %z, {one | one << 16 if n == 2 else one};"
    if op in ("inc", "dec"):
        return f"mov.b{narrow} %z, 1000;"
    if narrow == 128:
        return "cvt.u64.u32 %zl, %idx; mov.u64 %zh, 0; mov.b128 %z, {%zl, %zh};"
    convert_up = {16: "cvt.u16.u32", 32: "mov.b32", 64: "cvt.u64.u32"}[narrow]
    if op in ("min", "max"):
        return f"mul.lo.u32 %t0, %idx, 77; {convert_up} %z, %t0;"
    if op in ("and", "or", "xor"):
        return f"and.b32 %t0, %idx, 15; shl.b32 %t0, 1, %t0; {convert_up} %z, %t0;"
    return f"{convert_up} %z, %idx;"


def contended(op: str, t: str) -> bytes:
    size = max(4, SIZES[t] // 8)
    start = mask(SIZES[t]) >> 1 if op == "min" else 0
    if op == "and":
        start = mask(SIZES[t])
    return start.to_bytes(size, "little") * 16


def contended_want(
    form: str, op: str, t: str, start: int
) -> Callable[[bytes], str | None]:
    size = max(4, SIZES[t] // 8)

    def check(memory: bytes) -> str | None:
        for place in range(16):
            lanes = [k for k in range(512) if k >> 2 & 15 == place]
            at = start + place * size
            got = int.from_bytes(memory[at : at + SIZES[t] // 8], "little")
            want = mask(SIZES[t]) >> 1 if op == "min" else 0
            if is_float(t):
                base, n = packed(t)
                one = floats.pack(fmt(base), (0, len(lanes), 0))
                want = one | one << 16 if n == 2 else one
            elif op in ("add",):
                want = sum(lanes) & mask(SIZES[t])
            elif op == "inc":
                want = len(lanes)
            elif op == "dec":
                want = 1000 - len(lanes) + 1
            elif op in ("min", "max"):
                brought = [signed(77 * k, SIZES[t]) if t[0] == "s" else 77 * k for k in lanes]
                want = min([want, *brought]) if op == "min" else max([want, *brought])
            elif op in ("and", "or", "xor"):
                want = mask(SIZES[t]) if op == "and" else 0
                for k in lanes:
                    want = atomic(op, t, want, 1 << (k & 15), 0)
            elif op == "exch":
                if got not in [k & mask(SIZES[t]) for k in lanes]:
                    return f"exchanged to {got:#x}, which no lane brought"
                continue
            else:
                continue
            if got != want:
                return f"place {place} shared by lanes: got {got:#x}, wanted {want:#x}"
        return None

    return check


# ---- asynchronous copies ----

CP_PLAIN = ".reg .b64 %g, %q; .reg .b32 %s, %n;"


@maker("cp")
def make_cp(form: str, mods: list[str]) -> Case:
    if "mbarrier" in mods:
        return copy_mbarrier(form, mods)
    if mods[:2] == ["async", "bulk"]:
        raise Untested("bulk copies")
    data = table(form, 4096)
    transfer = form if "global" in form else "cp.async.ca.shared.global"
    size = 16 if "cg" in mods else 8
    done = "cp.async.commit_group;\ncp.async.wait_group 0;"
    if form == "cp.async.wait_all":
        done = "cp.async.wait_all;"
    body = f"""mov.u32 %s, $K_s; mad.lo.u32 %s, %thr, 32, %s;
        mad.wide.u32 %g, %thr, 32, %mem;
        mov.u64 %q, -1;
        st.shared.u64 [%s], %q; st.shared.u64 [%s+8], %q;
        st.shared.u64 [%s+16], %q; st.shared.u64 [%s+24], %q;
        {transfer} [%s], [%g], {size};
        """
    words: list[Callable[[int], int]] = [
        lambda lane, k=k: int.from_bytes(data[lane * 32 + 8 * k :][:8], "little")
        for k in range(4)
    ]
    ones: Callable[[int], int] = lambda lane: mask(64)  # noqa: E731
    if size == 16:
        # fewer bytes from the source: the rest zero
        body += f"{transfer} [%s+16], [%g+16], 16, %n;\n"
        third: Callable[[int], int] = words[2]
        want = [words[0], words[1], third, lambda lane: 0]
        prepare = "mov.u32 %n, 8;\n"
    else:
        body += f"{transfer} [%s+16], [%g+16], 4;\n"
        prepare = ""
        want = [words[0], ones, lambda lane: words[2](lane) & mask(32) | mask(32) << 32, ones]
    body += done + "\nbar.sync 0;\n"
    for k in range(4):
        body += f"ld.shared.u64 %d{k}, [%s+{8 * k}];\n"
    outs = [Out(64, [w(lane) for lane in range(128)]) for w in want]
    return Case(
        form, prepare + body, [], outs, regs=CP_PLAIN + " .shared .align 16 .b8 $K_s[4096];",
        memory=data, memory_want=data, lanes=128,
    )  # fmt: skip


def copy_mbarrier(form: str, mods: list[str]) -> Case:
    """Each thread's copies arrive at a barrier that everybody then waits for."""
    data = table(form, 4096)
    arrive, count = "", 128
    # without noinc the copy's arrival is balanced by the count it adds; arrive itself then
    own = "" if "noinc" in mods else "mbarrier.arrive.shared.b64 %st, [%b];"
    body = f"""mov.u32 %b, $K_b; mov.u32 %s, $K_s; mad.lo.u32 %s, %thr, 32, %s;
        mad.wide.u32 %g, %thr, 32, %mem;
        setp.eq.u32 %p, %thr, 0;
        @%p mbarrier.init.shared.b64 [%b], {count};
        bar.sync 0;
        cp.async.ca.shared.global [%s], [%g], 8;
        {form} [%b];
        {own}{arrive}
        $K_wait: mbarrier.test_wait.parity.shared.b64 %p, [%b], 0;
        @!%p bra $K_wait;
        xor.b32 %n, %thr, 1; mov.u32 %s, $K_s; mad.lo.u32 %s, %n, 32, %s;
        ld.shared.u64 %d0, [%s];"""
    want = [
        int.from_bytes(data[(lane ^ 1) * 32 :][:8], "little") for lane in range(128)
    ]
    return Case(
        form, body, [], [Out(64, want)], lanes=128, memory=data, memory_want=data,
        regs=CP_PLAIN + " .reg .b32 %b; .reg .b64 %st; .reg .pred %p;"
        " .shared .align 16 .b8 $K_s[4096]; .shared .align 8 .b64 $K_b;",
    )  # fmt: skip


# ---- hints and fences: nothing may happen ----


@maker("membar", "fence", "prefetch", "prefetchu", "discard", "applypriority", "createpolicy")
def make_fence(form: str, mods: list[str]) -> Case:
    operand, more, regs, after = "", "", "", ""
    op = form.split(".")[0]
    if op == "prefetch" or op == "prefetchu":
        operand = " [%mem]"
    elif op in ("discard", "applypriority"):
        operand = " [%mem], 128"
    elif op == "createpolicy":
        regs = ".reg .b64 %pol;"
        operand = " %pol, 1.0" if "fractional" in mods else " %pol, [%mem], 128, 128"
    need: dict[str, object] = {"target": 80}
    if "cluster" in mods or "proxy" in form or "mbarrier_init" in form:
        need = {"target": 90, "version": "8.0"}
    if op == "discard":
        # what is left of the line is not defined
        return Case(
            form, f"{form}{operand};\nst.global.u32 [%mem], 7;\nmov.u32 %d0, 5;", [],
            [Out(32, [5] * 128)], lanes=128, memory=bytes(128),
            memory_want=lambda got: None if got[0] == 7 else "not stored", **need,  # type: ignore[arg-type]
        )  # fmt: skip
    data = struct.pack("<I", 7) * 64
    body = f"{form}{operand};\nld.global.u32 %d0, [%mem];{after}{more}"
    return Case(
        form, body, [], [Out(32, [7] * 128)], regs=regs, lanes=128, memory=data,
        memory_want=data, **need,  # type: ignore[arg-type]
    )  # fmt: skip
