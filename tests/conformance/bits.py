"""Forms that see registers as bits: logic, shifts, fields, bytes, the video forms."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.alu import (
    mask,
    simple,
    types_of,
    value,
)
from tests.conformance.case import SIZES, Case, Out, maker, signed, tuples

# ---- logic and shifts ----


@maker("and", "or", "xor")
def make_logic(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    f = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}
    return simple(form, mods, [t, t], t, f[op])


@maker("not", "cnot")
def make_not(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = mask(SIZES[t])
    if form.startswith("cnot"):
        return simple(form, mods, [t], t, lambda a: int(a == 0))
    return simple(form, mods, [t], t, lambda a: a ^ n)


@maker("shl", "shr")
def make_shift(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = SIZES[t]
    counts = [0, 1, 2, 3, 5, 7, 8, n // 2, n - 2, n - 1, n, n + 1, 2 * n, 255, 256]
    counts += [1 << 16, mask(32), 1 << 31, (1 << 31) + 1, mask(32) - 30]

    def f(a: int, b: int) -> int:
        b = min(b, n)
        if form.startswith("shl"):
            return (a << b) & mask(n)
        return (value(a, t) >> b) & mask(n)

    return simple(form, mods, [t, "u32"], t, f, only={1: counts})


@maker("shf")
def make_shf(form: str, mods: list[str]) -> Case:
    left, wrap = "l" in mods, "wrap" in mods
    counts = [0, 1, 5, 16, 31, 32, 33, 63, 64, mask(32)]

    def f(a: int, b: int, c: int) -> int:
        n = c & 31 if wrap else min(c, 32)
        both = b << 32 | a
        return (both << n >> 32 if left else both >> n) & mask(32)

    return simple(form, mods, ["b32"] * 3, "b32", f, only={2: counts})


@maker("lop3")
def make_lop3(form: str, mods: list[str]) -> Case:
    columns = tuples(form, ["b32"] * 3)
    tables = (0x96, 0xE8, 0xCA, 0x01, 0xFE)
    outs, body = [], ""
    for k, table in enumerate(tables):
        want = []
        for a, b, c in zip(*columns, strict=True):
            r = 0
            for bit in range(8):
                if table >> bit & 1:
                    r |= (
                        (a if bit & 4 else ~a)
                        & (b if bit & 2 else ~b)
                        & (c if bit & 1 else ~c)
                    )
            want.append(r & mask(32))
        outs.append(Out(32, want))
        body += f"{form} %d{k}, %a0, %a1, %a2, {table};\n"
    return Case(form, body, [(32, c) for c in columns], outs)


# ---- bits ----


@maker("popc", "clz", "brev")
def make_bits(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    n = SIZES[t]
    f: dict[str, Callable[[int], int]] = {
        "popc": lambda a: bin(a).count("1"),
        "clz": lambda a: n - a.bit_length(),
        "brev": lambda a: int(format(a, f"0{n}b")[::-1], 2),
    }
    return simple(form, mods, [t], t if op == "brev" else "u32", f[op])


@maker("bfind")
def make_bfind(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = SIZES[t]

    def f(a: int) -> int:
        v = value(a, t)
        if v < 0:
            v = ~v
        if v == 0:
            return mask(32)
        at = v.bit_length() - 1
        return n - 1 - at if "shiftamt" in mods else at

    return simple(form, mods, [t], "u32", f)


@maker("fns")
def make_fns(form: str, mods: list[str]) -> Case:
    def f(m: int, base: int, offset: int) -> int:
        base &= 31
        o = signed(offset, 32)
        if o == 0:
            return base if m >> base & 1 else mask(32)
        step = 1 if o > 0 else -1
        left = abs(o)
        at = base
        while 0 <= at < 32:
            if m >> at & 1:
                left -= 1
                if left == 0:
                    return at
            at += step
        return mask(32)

    offsets = [v & mask(32) for v in (0, 1, 2, 3, 9, 31, 40, -1, -2, -5, -31)]
    return simple(
        form, mods, ["b32", "b32", "s32"], "b32", f,
        only={1: list(range(32)), 2: offsets},
    )  # fmt: skip


def field(v: int, bits: int) -> int:
    """A position or length: of 32-bit fields the low byte counts, of 64-bit ones all."""
    return v if bits == 64 else v & 0xFF


@maker("bfe")
def make_bfe(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = SIZES[t]
    only = {1: [0, 1, 7, 8, 16, 31, 32, 40, 63, 64, 255, 256, 300],
            2: [0, 1, 4, 8, 16, 31, 32, 33, 63, 64, 255, 256, 257]}  # fmt: skip

    def f(a: int, b: int, c: int) -> int:
        pos, length = field(b, n), field(c, n)
        r = 0
        if t[0] == "u" or length == 0:
            sign = 0
        else:
            sign = a >> min(pos + length - 1, n - 1) & 1
        for k in range(n):
            bit = a >> (pos + k) & 1 if k < length and pos + k < n else sign
            r |= bit << k
        return r

    return simple(form, mods, [t, "u32", "u32"], t, f, only=only)


@maker("bfi")
def make_bfi(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = SIZES[t]
    only = {2: [0, 1, 7, 8, 16, 31, 32, 40, 63, 64, 255, 256, 300],
            3: [0, 1, 4, 8, 16, 31, 32, 33, 63, 64, 255, 256, 257]}  # fmt: skip

    def f(a: int, b: int, c: int, d: int) -> int:
        pos, length = field(c, n), field(d, n)
        place = (mask(length) << pos) & mask(n)
        return (b & ~place | (a << pos) & place) & mask(n)

    return simple(form, mods, [t, t, "u32", "u32"], t, f, only=only)


@maker("bmsk")
def make_bmsk(form: str, mods: list[str]) -> Case:
    values = [0, 1, 2, 5, 8, 16, 30, 31, 32, 33, 64, 255, 256, mask(32)]

    def f(a: int, b: int) -> int:
        if "wrap" in mods:
            a, b = a & 31, b & 31
        else:
            a, b = min(a, 32), min(b, 32)
        return mask(b) << a & mask(32)

    return simple(form, mods, ["b32", "b32"], "b32", f, only={0: values, 1: values})


@maker("szext")
def make_szext(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    values = [0, 1, 2, 5, 8, 16, 30, 31, 32, 33, 64, 255, 256, mask(32)]

    def f(a: int, b: int) -> int:
        if "wrap" in mods:
            b &= 31
        if b == 0:
            return 0
        if b >= 32:
            return a
        r = a & mask(b)
        if t == "s32" and r >> (b - 1):
            r |= mask(32) & ~mask(b)
        return r

    return simple(form, mods, [t, "u32"], t, f, only={1: values})


@maker("prmt")
def make_prmt(form: str, mods: list[str]) -> Case:
    mode = next((m for m in mods if m != "b32"), "")

    def f(a: int, b: int, c: int) -> int:
        source = (b << 32 | a).to_bytes(8, "little")
        s = c & 3
        order = {
            "f4e": [s, s + 1, s + 2, s + 3],
            "b4e": [s, s - 1, s - 2, s - 3],
            "rc8": [s] * 4,
            "ecl": [max(k, s) for k in range(4)],
            "ecr": [min(k, s) for k in range(4)],
            "rc16": [0, 1, 0, 1] if s % 2 == 0 else [2, 3, 2, 3],
        }.get(mode)
        r = 0
        for k in range(4):
            if order:
                byte = source[order[k] % 8]
            else:
                sel = c >> 4 * k & 0xF
                byte = source[sel & 7]
                if sel & 8:
                    byte = 0xFF if byte & 0x80 else 0
            r |= byte << 8 * k
        return r

    only = {2: [0, 1, 2, 3]} if mode else None
    return simple(form, mods, ["b32"] * 3, "b32", f, only=only)


@maker("dp4a", "dp2a")
def make_dp(form: str, mods: list[str]) -> Case:
    ta, tb = types_of(mods)
    four = form.startswith("dp4a")
    high = "hi" in mods
    result = "s32" if "s" in ta + tb else "u32"

    def f(a: int, b: int, c: int) -> int:
        total = value(c, result)
        if four:
            for k in range(4):
                x, y = a >> 8 * k & 255, b >> 8 * k & 255
                x = signed(x, 8) if ta[0] == "s" else x
                y = signed(y, 8) if tb[0] == "s" else y
                total += x * y
        else:
            for k in range(2):
                x, y = a >> 16 * k & 0xFFFF, b >> 8 * (k + (2 if high else 0)) & 255
                x = signed(x, 16) if ta[0] == "s" else x
                y = signed(y, 8) if tb[0] == "s" else y
                total += x * y
        return total & mask(32)

    return simple(form, mods, [ta, tb, result], result, f)


@maker("vabsdiff4", "vadd4", "vsub4", "vmin4", "vmax4", "vavrg4",
       "vabsdiff2", "vadd2", "vsub2", "vmin2", "vmax2", "vavrg2")  # fmt: skip
def make_video(form: str, mods: list[str]) -> Case:
    """vop2/vop4.dtype.atype.btype{.sat}{.add} d, a, b, c"""
    op = form.split(".")[0]
    n = int(op[-1])
    op = op[1:-1]
    bits = 32 // n
    dt, at, bt = types_of(mods)[:3]
    add = "add" in mods

    def part(v: int, k: int, t: str) -> int:
        v = v >> bits * k & mask(bits)
        return signed(v, bits) if t[0] == "s" else v

    def f(a: int, b: int, c: int) -> int:
        total = value(c, dt) if add else 0
        for k in range(n):
            x, y = part(a, k, at), part(b, k, bt)
            r = {
                "absdiff": abs(x - y), "add": x + y, "sub": x - y, "min": min(x, y),
                "max": max(x, y), "avrg": average(x, y),
            }[op]  # fmt: skip
            if "sat" in mods:
                low = -(1 << (bits - 1)) if dt[0] == "s" else 0
                high = mask(bits - 1) if dt[0] == "s" else mask(bits)
                r = max(low, min(high, r))
            if add:
                total += r
            else:
                total |= (r & mask(bits)) << bits * k
        return total & mask(32)

    return simple(form, mods, [at, bt, dt], dt, f)


def average(x: int, y: int) -> int:
    s = x + y
    return (s + 1) >> 1 if s >= 0 else -((-s + 1) >> 1)
