"""Matrix instructions: small whole numbers, so that every order of adding is exact."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tests.conformance import floats
from tests.conformance.alu import mask
from tests.conformance.case import SIZES, Case, Out, Untested, maker, signed

BITS = {**SIZES, "s4": 4, "u4": 4, "b1": 1, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8}


def encode(t: str, v: int) -> int:
    """A small whole number as bits of a type."""
    if t in floats.FORMATS:
        f = floats.FORMATS[t]
        return floats.pack(f, (int(v < 0), abs(v), 0))
    return v & mask(BITS[t])


def small(rng: random.Random, t: str) -> int:
    if t == "b1":
        return rng.getrandbits(1)
    if t in ("u4", "u8", "s4", "s8"):
        n = BITS[t]
        v = rng.getrandbits(n)
        return signed(v, n) if t[0] == "s" else v
    return rng.randint(-4, 4)


def shape_of(mods: list[str]) -> tuple[int, int, int]:
    for m in mods:
        found = re.fullmatch(r"m(\d+)n(\d+)k(\d+)", m)
        if found:
            return int(found[1]), int(found[2]), int(found[3])
    raise Untested("no shape")


def matrix(rng: random.Random, t: str, rows: int, columns: int) -> list[list[int]]:
    return [[small(rng, t) for _ in range(columns)] for _ in range(rows)]


def product(
    a: list[list[int]], b: list[list[int]], c: list[list[int]], op: str = "",
    satfinite: bool = False,
) -> list[list[int]]:
    """a by b plus c; b is indexed [k][n]."""
    out = []
    for i, row in enumerate(a):
        line = []
        for j in range(len(b[0])):
            if op == "xor":
                s = sum(x ^ b[k][j] for k, x in enumerate(row))
            else:
                s = sum(x * b[k][j] for k, x in enumerate(row))
            s += c[i][j]
            if satfinite:
                s = max(-(1 << 31), min((1 << 31) - 1, s))
            line.append(s)
        out.append(line)
    return out


# ---- wmma: the fragments' layout is the machine's, so only whole products show ----


@dataclass
class Wmma:
    shape: tuple[int, int, int]
    a: str
    b: str
    c: str
    d: str


def regs_of(which: str, t: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Registers of a fragment and their bits."""
    m, n, k = shape
    if t == "f64":
        return (1 if which in "ab" else 2), 64
    if which in "ab":
        size = m * k if which == "a" else k * n
        if t == "f16":
            return 8, 32
        if t == "tf32":
            return 4, 32
        return max(1, size * BITS[t] // 32 // 32), 32
    if t == "f16":
        return 4, 32
    return max(1, m * n // 32), 32


def types_in_mma(mods: list[str]) -> list[str]:
    return [m for m in mods if m in BITS]


@maker("wmma")
def make_wmma(form: str, mods: list[str]) -> Case:
    if mods[0] == "mma":
        types = types_in_mma(mods)
        shape = shape_of(mods)
        if len(types) == 2:
            p = Wmma(shape, "f16", "f16", types[1], types[0])
        else:
            p = Wmma(shape, types[1], types[2], types[3], types[0])
        order = [m for m in mods if m in ("row", "col")]
        return wmma_program(form, p, {"mma": form}, order[0], order[1])
    # a load or store: a product that uses it
    which = mods[1]
    t = types_in_mma(mods)[-1]
    shape = shape_of(mods)
    order = next(m for m in mods if m in ("row", "col"))
    # a program whose fragment has this type
    a = {"a": t, "b": t}.get(which, "")
    accumulate = t if which in "cd" else ""
    if which in "ab":
        accumulate = {"f64": "f64", "f16": "f32", "bf16": "f32", "tf32": "f32"}.get(
            t, "s32"
        )
    else:
        a = {"f64": "f64", "s32": "s8", "f16": "f16"}.get(t, "f16")
        if shape == (16, 16, 8):
            a = "tf32"
        if t == "s32" and shape == (8, 8, 32):
            a = "s4"
        if t == "s32" and shape == (8, 8, 128):
            a = "b1"
    p = Wmma(shape, a, a, accumulate, accumulate)
    return wmma_program(
        form, p, {which: form},
        order if which == "a" else "row", order if which == "b" else "col",
        order if which in "cd" else "row",
    )  # fmt: skip


def memory_type(t: str) -> str:
    return "f32" if t == "tf32" else t


def wmma_program(
    form: str, p: Wmma, given: dict[str, str], a_order: str, b_order: str,
    c_order: str = "row",
) -> Case:  # fmt: skip
    rng = random.Random(form)
    m, n, k = p.shape
    a, b = matrix(rng, p.a, m, k), matrix(rng, p.b, k, n)
    c = matrix(rng, "f16", m, n)
    name = f"m{m}n{n}k{k}"
    bit_op = "xor" if p.a == "b1" else ""
    if "and" in given.get("mma", "").split("."):
        bit_op = "and"
    d = product(a, b, c, bit_op)

    def lay(x: list[list[int]], t: str, order: str) -> tuple[bytes, int]:
        """In memory, with a stride a little larger than needed."""
        rows, columns = len(x), len(x[0])
        outer, inner = (rows, columns) if order == "row" else (columns, rows)
        bits = BITS[t]
        stride = inner + 128 // min(bits, 128) if bits >= 8 else inner * (2 if bits == 4 else 1)
        if bits == 1:
            stride = inner + 128
        out = bytearray(outer * stride * bits // 8)
        whole = 0
        for i in range(outer):
            for j in range(inner):
                v = x[i][j] if order == "row" else x[j][i]
                whole |= encode(t, v) << (i * stride + j) * bits
        out[:] = whole.to_bytes(len(out), "little")
        return bytes(out), stride

    parts: dict[str, tuple[bytes, int]] = {
        "a": lay(a, memory_type(p.a), a_order),
        "b": lay(b, memory_type(p.b), b_order),
        "c": lay(c, p.c, c_order),
    }
    want, d_stride = lay(d, p.d, c_order)
    image, at = b"", {}
    for key, (data, _) in parts.items():
        at[key] = len(image)
        image += data + b"\xee" * (-len(data) % 32)
    at["d"] = len(image)
    before = b"\xee" * len(want)
    # what lies between the rows stays
    outer = m if c_order == "row" else n
    inner = n if c_order == "row" else m
    size = BITS[p.d] // 8
    after = bytearray(before)
    for i in range(outer):
        span = slice(i * d_stride * size, (i * d_stride + inner) * size)
        after[span] = want[span]
    shared_bytes = len(image) + len(before)
    regs = f".reg .b64 %x, %y; .reg .b32 %s, %n; .reg .pred %p; .shared .align 32 .b8 $K_s[{shared_bytes}];"
    body = f"""mov.u64 %x, $K_s; mov.u32 %n, %lane;
        $K_copy: setp.ge.u32 %p, %n, {shared_bytes};
        @%p bra $K_go;
        cvt.u64.u32 %y, %n; add.u64 %y, %mem, %y; ld.global.u8 %s, [%y];
        cvt.u64.u32 %y, %n; add.u64 %y, %x, %y; st.shared.u8 [%y], %s;
        add.u32 %n, %n, 32; bra $K_copy;
        $K_go: bar.warp.sync -1;"""
    strides = {key: s for key, (_, s) in parts.items()}
    strides["d"] = d_stride
    types = {"a": p.a, "b": p.b, "c": p.c, "d": p.d}
    orders = {"a": a_order, "b": b_order, "c": c_order, "d": c_order}
    lists = {}
    for key, t in types.items():
        count, bits = regs_of(key, t, p.shape)
        cls = {64: "f64", 32: "b32"}[bits]
        if t == "f32" and key in "cd":
            cls = "f32"
        regs += f" .reg .{cls} %w{key}<{count}>;"
        lists[key] = "{" + ", ".join(f"%w{key}{i}" for i in range(count)) + "}"

    def access(key: str) -> str:
        verb = "store.d" if key == "d" else f"load.{key}"
        own = given.get(key, f"wmma.{verb}.sync.aligned.{orders[key]}.{name}.{types[key]}")
        base = "%mem"
        space = next((s for s in ("shared", "global") if s in own.split(".")), "")
        text = ""
        if space == "shared":
            base = "%x"
        text += f"add.u64 %y, {base}, {at[key]}; "
        if key == "d":
            return text + f"{own} [%y], {lists[key]}, {strides[key]};"
        return text + f"{own} {lists[key]}, [%y], {strides[key]};"

    mma = given.get("mma")
    if not mma:
        kind = f"{p.d}.{p.a}.{p.b}.{p.c}" if p.a != "f16" else f"{p.d}.{p.c}"
        mma = f"wmma.mma.sync.aligned.{a_order}.{b_order}.{name}.{kind}"
        if p.a == "f64":
            mma += ".rn"
        if p.a == "b1":
            mma = f"wmma.mma.xor.popc.sync.aligned.{a_order}.{b_order}.{name}.{kind}"
    if p.a == "tf32":
        pass
    body += f"""
        {access("a")}
        {access("b")}
        {access("c")}
        {mma} {lists["d"]}, {lists["a"]}, {lists["b"]}, {lists["c"]};
        {access("d")}
        bar.warp.sync -1;"""
    own = given.get("d", "")
    if "shared" in own.split("."):  # the result out of shared memory
        body += f"""
            mov.u32 %n, %lane;
            $K_back: setp.ge.u32 %p, %n, {len(before)};
            @%p bra $K_end;
            cvt.u64.u32 %y, %n; add.u64 %y, %x, %y; ld.shared.u8 %s, [%y+{at["d"]}];
            cvt.u64.u32 %y, %n; add.u64 %y, %mem, %y; st.global.u8 [%y+{at["d"]}], %s;
            add.u32 %n, %n, 32; bra $K_back;
            $K_end:"""
    return Case(
        form, body, [], [], regs=regs, lanes=32, block=32, memory=image + before,
        memory_want=image + bytes(after),
    )  # fmt: skip


# ---- mma: layouts as the manual draws them ----


def place_a(t: str, shape: tuple[int, int, int], lane: int, i: int) -> tuple[int, int]:
    """Row and column of element i of a lane's A fragment."""
    m, _, k = shape
    g, tig = lane >> 2, lane & 3
    bits = BITS[t]
    if t == "f64":
        if m == 8:
            return g, tig
        # m16n8k4, k8, k16: pairs of rows g and g + 8, then the next four columns
        return g + 8 * (i & 1), tig + 4 * (i >> 1)
    if t == "tf32":
        return g + 8 * (i & 1), tig + 4 * (i >> 1)
    per = 32 // bits  # elements of a register
    reg, e = divmod(i, per)
    if m == 8:
        return g, tig * per + e
    # registers: rows g, g + 8, then the upper half of the columns
    if k * bits == 128:  # two registers
        return g + 8 * reg, tig * per + e
    return g + 8 * (reg & 1), tig * per + e + (k // 2) * (reg >> 1)


def place_b(t: str, shape: tuple[int, int, int], lane: int, i: int) -> tuple[int, int]:
    _, _, k = shape
    g, tig = lane >> 2, lane & 3
    bits = BITS[t]
    if t in ("f64", "tf32"):
        return tig + 4 * i, g
    per = 32 // bits
    reg, e = divmod(i, per)
    return tig * per + e + (k // 2) * reg, g


def place_c(shape: tuple[int, int, int], lane: int, i: int) -> tuple[int, int]:
    g, tig = lane >> 2, lane & 3
    return g + 8 * (i >> 1), tig * 2 + (i & 1)


@maker("mma")
def make_mma(form: str, mods: list[str]) -> Case:
    if "sp" in mods or "sp::ordered_metadata" in mods or "block_scale" in mods:
        raise Untested("sparse and scaled matrices")
    shape = shape_of(mods)
    m, n, k = shape
    types = types_in_mma(mods)
    dt, at, bt, ct = types[:4]
    if shape == (8, 8, 4) and at == "f16":
        return quad_pair(form, mods)
    rng = random.Random(form)
    warps = 4
    a_count, b_count, c_count = m * k // 32, k * n // 32, m * n // 32
    bit_op = "and" if "and" in mods else "xor" if "xor" in mods else ""
    registers: dict[str, list[list[int]]] = {"a": [], "b": [], "c": []}
    want: list[list[int]] = []
    plans = []
    for _ in range(warps):
        a, b = matrix(rng, at, m, k), matrix(rng, bt, k, n)
        c = [[rng.randint(-20, 20) for _ in range(n)] for _ in range(m)]
        if "satfinite" in mods:
            c[0][0], c[1][1] = (1 << 31) - 1, -(1 << 31)
        plans.append((a, b, c, product(a, b, c, bit_op, "satfinite" in mods)))

    def pack_lane(t: str, values: list[int]) -> list[int]:
        bits = BITS[t]
        if bits >= 32:
            return [encode(t, v) for v in values]
        per = 32 // bits
        out = []
        for r in range(0, len(values), per):
            word = 0
            for e, v in enumerate(values[r : r + per]):
                word |= encode(t, v) << bits * e
            out.append(word)
        return out

    for a, b, c, d in plans:
        for lane in range(32):
            where = [place_a(at, shape, lane, i) for i in range(a_count)]
            registers["a"].append(pack_lane(at, [a[i][j] for i, j in where]))
            where = [place_b(bt, shape, lane, i) for i in range(b_count)]
            registers["b"].append(pack_lane(bt, [b[i][j] for i, j in where]))
            where = [place_c(shape, lane, i) for i in range(c_count)]
            registers["c"].append(pack_lane(ct, [c[i][j] for i, j in where]))
            want.append(pack_lane(dt, [d[i][j] for i, j in where]))
    ins: list[tuple[int, list[int]]] = []
    names: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for key, t in (("a", at), ("b", bt), ("c", ct)):
        rows = registers[key]
        for r in range(len(rows[0])):
            names[key].append(f"%a{len(ins)}")
            ins.append((64 if t == "f64" else 32, [row[r] for row in rows]))
    outs = [
        Out(64 if dt == "f64" else 32, [row[r] for row in want])
        for r in range(len(want[0]))
    ]
    lists = {key: "{" + ", ".join(v) + "}" for key, v in names.items()}
    dest = "{" + ", ".join(f"%d{r}" for r in range(len(outs))) + "}"
    need: dict[str, object] = {"target": 80}
    if at in ("e4m3", "e5m2"):
        need = {"target": 89, "version": "8.4"}
        if dt == "f16" or k == 16:
            need = {"target": 120, "version": "8.7"}
    if at == "f64" and m == 16:
        need = {"target": 90, "version": "7.8"}
    return Case(
        form, f"{form} {dest}, {lists['a']}, {lists['b']}, {lists['c']};", ins, outs, **need,  # type: ignore[arg-type]
    )  # fmt: skip


def quad_pair(form: str, mods: list[str]) -> Case:
    """mma.m8n8k4: four products, one for each pair of quads."""
    types = types_in_mma(mods)
    dt, _, _, ct = types[:4]
    a_order, b_order = [x for x in mods if x in ("row", "col")][:2]
    rng = random.Random(form)
    a_regs, b_regs, c_regs, want = [], [], [], []
    for _ in range(4):
        quads = []
        for _ in range(4):
            a, b = matrix(rng, "f16", 8, 4), matrix(rng, "f16", 4, 8)
            c = [[rng.randint(-20, 20) for _ in range(8)] for _ in range(8)]
            quads.append((a, b, c, product(a, b, c)))
        for lane in range(32):
            a, b, c, d = quads[lane % 16 // 4]
            high = lane >> 4
            if a_order == "row":
                row = [a[lane % 4 + 4 * high][i] for i in range(4)]
            else:
                row = [a[i + 4 * high][lane % 4] for i in range(4)]
            if b_order == "col":
                column = [b[i][lane % 4 + 4 * high] for i in range(4)]
            else:
                column = [b[lane % 4][i + 4 * high] for i in range(4)]
            a_regs.append(pair([encode("f16", v) for v in row]))
            b_regs.append(pair([encode("f16", v) for v in column]))

            def spot(i: int, t: str, lane: int = lane, high: int = high) -> tuple[int, int]:
                if t == "f16":
                    return lane % 4 + 4 * high, i
                row = (lane & 1) + (i & 2) + 4 * high
                return row, (i & 4) + (lane & 2) + (i & 1)

            cs = [c[spot(i, ct)[0]][spot(i, ct)[1]] for i in range(8)]
            ds = [d[spot(i, dt)[0]][spot(i, dt)[1]] for i in range(8)]
            for t, values, into in ((ct, cs, c_regs), (dt, ds, want)):
                coded = [encode(t, v) for v in values]
                into.append(pair(coded) if t == "f16" else coded)
    ins: list[tuple[int, list[int]]] = []
    lists = []
    for regs in (a_regs, b_regs, c_regs):
        names = []
        for r in range(len(regs[0])):
            names.append(f"%a{len(ins)}")
            ins.append((32, [row[r] for row in regs]))
        lists.append("{" + ", ".join(names) + "}")
    outs = [Out(32, [row[r] for row in want]) for r in range(len(want[0]))]
    dest = "{" + ", ".join(f"%d{r}" for r in range(len(outs))) + "}"
    return Case(form, f"{form} {dest}, {', '.join(lists)};", ins, outs)


def pair(halves: list[int]) -> list[int]:
    return [halves[i] | halves[i + 1] << 16 for i in range(0, len(halves), 2)]


# ---- ldmatrix, stmatrix, movmatrix ----


@maker("ldmatrix", "stmatrix")
def make_ldmatrix(form: str, mods: list[str]) -> Case:
    count = next(int(m[1:]) for m in mods if m in ("x1", "x2", "x4"))
    transposed = "trans" in mods
    if "b8" in mods or "m16n16" in mods or "m8n16" in mods or "m16n8" in mods:
        raise Untested("matrices of bytes")
    load = form.startswith("ldmatrix")
    generic = not any(m.split("::")[0] == "shared" for m in mods)
    rng = random.Random(form)
    data = rng.randbytes(32 * 32)  # 32 rows of 8 elements, 16 bytes apart in pairs
    rows = list(range(32))
    rng.shuffle(rows)
    half = [
        [int.from_bytes(data[r * 16 + 2 * j :][:2], "little") for j in range(8)]
        for r in range(64)
    ]
    regs = ".reg .b64 %x, %y; .reg .b32 %s, %n; .shared .align 16 .b8 $K_s[1024];"
    address = "mov.u64 %x, $K_s;"
    if generic:
        address += " cvta.shared.u64 %x, %x;"
    fill = """mov.u64 %x, $K_s; mad.wide.u32 %x, %lane, 32, %x;
        mad.wide.u32 %y, %lane, 32, %mem;"""
    names = ", ".join((f"%d{k}" if load else f"%a{k + 1}") for k in range(count))
    where = [r * 16 for r in rows]
    need: dict[str, object] = {"target": 80} if load else {"target": 90, "version": "7.8"}
    if load:
        for k in range(0, 32, 8):
            fill += f"\nld.global.u64 %v, [%y+{k}]; st.shared.u64 [%x+{k}], %v;"
        regs += " .reg .b64 %v;"
        body = f"""{fill}
            bar.warp.sync -1;
            {address} cvt.u64.u32 %y, %a0; add.u64 %x, %x, %y;
            {form} {{{names}}}, [%x];"""
        outs = []
        for k in range(count):
            want = []
            for lane in range(32):
                word = 0
                for e in range(2):
                    i, j = lane // 4, lane % 4 * 2 + e
                    if transposed:
                        i, j = j, i
                    word |= half[rows[8 * k + i]][j] << 16 * e
                want.append(word)
            outs.append(Out(32, want))
        return Case(
            form, body, [(32, where)], outs, regs=regs, lanes=32, block=32,
            memory=data, memory_want=data, **need,  # type: ignore[arg-type]
        )  # fmt: skip
    values = [[rng.getrandbits(32) for _ in range(32)] for _ in range(count)]
    fill += "\nmov.u64 %v, 0xeeeeeeeeeeeeeeee;"
    for k in range(0, 32, 8):
        fill += f"\nst.shared.u64 [%x+{k}], %v;"
    regs += " .reg .b64 %v;"
    body = f"""{fill}
        bar.warp.sync -1;
        {address} cvt.u64.u32 %y, %a0; add.u64 %x, %x, %y;
        {form} [%x], {{{names}}};
        bar.warp.sync -1;
        mov.u64 %x, $K_s; mad.wide.u32 %x, %lane, 32, %x;"""
    image = bytearray(b"\xee" * 1024)
    for k in range(count):
        for lane in range(32):
            for e in range(2):
                i, j = lane // 4, lane % 4 * 2 + e
                if transposed:
                    i, j = j, i
                at = rows[8 * k + i] * 16 + 2 * j
                image[at : at + 2] = (values[k][lane] >> 16 * e & 0xFFFF).to_bytes(2, "little")
    outs = []
    for k in range(4):
        body += f"\nld.shared.u64 %d{k}, [%x+{8 * k}];"
        outs.append(
            Out(64, [int.from_bytes(image[32 * i + 8 * k :][:8], "little") for i in range(32)])
        )
    return Case(
        form, body, [(32, where)] + [(32, v) for v in values], outs, regs=regs, lanes=32,
        block=32, **need,  # type: ignore[arg-type]
    )  # fmt: skip


@maker("movmatrix")
def make_movmatrix(form: str, mods: list[str]) -> Case:
    rng = random.Random(form)
    a = [rng.getrandbits(32) for _ in range(128)]
    want = []
    for k in range(128):
        base, lane = k // 32 * 32, k % 32
        word = 0
        for e in range(2):
            j, i = lane // 4, lane % 4 * 2 + e
            word |= (a[base + i * 4 + j // 2] >> 16 * (j & 1) & 0xFFFF) << 16 * e
        want.append(word)
    return Case(form, f"{form} %d0, %a0;", [(32, a)], [Out(32, want)])
