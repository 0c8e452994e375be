"""Conversions between types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.conformance import floats
from tests.conformance.alu import (
    INTEGERS,
    ROUNDINGS,
    any_nan,
    mask,
    needs,
    same_as,
    sat_int,
    simple,
    types_of,
    value,
)
from tests.conformance.case import SIZES, Case, Out, Untested, maker, signed, tuples
from tests.conformance.floats import INF, NAN

# ---- cvt ----


def convert(
    mods: Sequence[str], dt: str, st: str
) -> tuple[Callable[[int], int], Callable[[int, int], bool] | None]:
    """One value of st as dt, and how a result is compared."""
    ftz, sat = "ftz" in mods, "sat" in mods
    finite = "satfinite" in mods
    relu = "relu" in mods
    integral = next((m[:2] for m in mods if m in ("rni", "rzi", "rmi", "rpi")), "")
    mode = next((m for m in mods if m in ROUNDINGS | {"rna"}), "rn")
    df, sf = floats.FORMATS.get(dt), floats.FORMATS.get(st)

    def f(a: int) -> int:
        if df is None and sf is None:
            v = value(a, st)
            return sat_int(v, dt) if sat else v & mask(SIZES[dt])
        if df is None:
            assert sf is not None
            v = floats.unpack(sf, a, ftz and st == "f32")
            if v[1] == NAN:
                wide = st == "f64" or SIZES[dt] == 64
                if sat and not wide:
                    return 0
                return 1 << (SIZES[dt] - 1) if wide else 0
            if v[1] == INF:
                return sat_int(-(1 << 70) if v[0] else 1 << 70, dt)
            return sat_int(floats.to_integer(v, integral or "rz"), dt)
        if sf is None:
            v = value(a, st)
            return floats.pack(df, (int(v < 0), abs(v), 0), mode, sat=sat)
        flush_in = ftz and st == "f32"
        v = floats.unpack(sf, a, flush_in)
        if integral and isinstance(v[1], int):
            v = (v[0], abs(floats.to_integer(v, integral)), 0)
        if relu and v[0] and v[1] != NAN:
            v = (0, 0, 0)
        r = floats.pack(
            df, v, mode, ftz=ftz and dt == "f32", sat=sat, finite=finite
        )
        return r

    same: Callable[[int, int], bool] | None = None
    if relu and df is not None:  # the manual does not say what becomes of -0
        same = zeros_alike(df)
    if df is not None and sf is not None and not (relu or finite):
        same = any_nan(df)
    if dt == "tf32":
        base = same or any_nan(floats.TF32)

        def upper(got: int, want: int) -> bool:
            if mode == "rna" and floats.is_nan(floats.F32, want):
                # NaN is cut too, and where its low bits made it one an infinity is left
                return got & 0x7F800000 == 0x7F800000
            return base(got & ~0x1FFF, want & ~0x1FFF)

        same = upper

    return f, same


def zeros_alike(f: floats.Format) -> Callable[[int, int], bool]:
    def same(got: int, want: int) -> bool:
        return got == want or (want == 0 and got == f.sign)

    return same


@maker("cvt")
def make_cvt(form: str, mods: list[str]) -> Case:
    types = types_of(mods)
    if "rs" in mods:
        raise Untested("stochastic rounding")
    if "pack" in mods:
        return make_cvt_pack(form, mods)
    dt, st = types[0], types[1]
    if dt.endswith("x2"):
        return make_cvt_packed(form, mods, dt, st)
    if st.endswith("x2"):
        return make_cvt_unpacked(form, mods, dt, st)
    f, same = convert(mods, dt, st)
    need: dict[str, object] = {}
    if "bf16" in (dt, st) and not (dt == "bf16" and st == "f32"):
        need = {"target": 90, "version": "7.8"}
    if dt == "tf32" and ("rn" in mods or "rz" in mods or "satfinite" in mods):
        need = {"target": 90, "version": "8.1"}
        if "satfinite" in mods:
            need = {"target": 100, "version": "8.6"}
    columns = tuples(form, [st], 384)
    want = [f(a) for a in columns[0]]
    out = Out(SIZES[dt], want)
    if same:
        out = Out(SIZES[dt], check=same_as(want, same))
    case = Case(form, f"{form} %d0, %a0;", [(SIZES[st], columns[0])], [out], **need)  # type: ignore[arg-type]
    if "bf16" in (dt, st):
        return case  # the assembler wants registers of the right width here
    # sources and results in wider registers, as compilers keep them
    if dt in INTEGERS and SIZES[dt] < 32:
        k = len(case.outs)
        case.body += f"\n{form} %d{k}, %a0;"
        wide = [signed(w, SIZES[dt]) & mask(32) if dt[0] == "s" else w for w in want]
        case.outs.append(Out(32, wide))
        case.body += f"\n{form} %d{k + 1}, %a0;"
        case.outs.append(Out(64, [signed(w, 32) & mask(64) if dt[0] == "s" else w for w in wide]))
    if st in INTEGERS and SIZES[st] < 32:
        k = len(case.outs)
        case.regs = ".reg .b32 %w;"
        convert_up = f"cvt.u32.u{SIZES[st]} %w, %a0; or.b32 %w, %w, 0x5a5a0000;"
        if SIZES[st] == 8:
            convert_up += " or.b32 %w, %w, 0x5a00;"
        case.body += f"\n{convert_up}\n{form} %d{k}, %w;"
        case.outs.append(Out(SIZES[dt], want))
    return case


def make_cvt_pack(form: str, mods: list[str]) -> Case:
    """cvt.pack.sat.u8.s32.b32 d, a, b, c and cvt.pack.sat.u16.s32 d, a, b"""
    types = types_of(mods)
    dt = types[0]
    n = SIZES[dt]
    third = len(types) == 3

    def f(a: int, b: int, c: int = 0) -> int:
        r = sat_int(value(b, "s32"), dt) | sat_int(value(a, "s32"), dt) << n
        if third:
            r |= c << 2 * n
        return r & mask(32)

    return simple(form, mods, ["s32"] * (3 if third else 2), "b32", f)


def make_cvt_packed(form: str, mods: list[str], dt: str, st: str) -> Case:
    """Two sources (a: upper half), or one packed source."""
    base = dt[:-2]
    need = needs(mods)
    if st.endswith("x2"):
        f, same = convert(mods, base, st[:-2])
        bits = SIZES[st] // 2
        columns = tuples(form, [st], 384)
        out_bits = floats.FORMATS[base].bits
        pad = 8 if out_bits < 8 and base != "e2m1" else out_bits
        regs, body = "", f"{form} %d0, %a0;"
        if st == "e2m1x2":
            bits, regs = 4, ".reg .b8 %n;"
            body = f"cvt.u8.u16 %n, %a0; {form} %d0, %n;"
        want = [
            f(a & mask(bits)) | f(a >> bits & mask(bits)) << pad for a in columns[0]
        ]
        return Case(
            form, body, [(SIZES[st], columns[0])],
            [Out(SIZES[dt], check=same_as(want, halves_same(pad, same)))],
            regs=regs, **need,  # type: ignore[arg-type]
        )  # fmt: skip
    if base not in floats.FORMATS:
        raise Untested("no oracle for this packed type")
    f, same = convert(mods, base, st)
    columns = tuples(form, [st, st], 640)
    out_bits = floats.FORMATS[base].bits
    pad = 8 if out_bits < 8 and base != "e2m1" else out_bits
    want = [f(b) | f(a) << pad for a, b in zip(*columns, strict=True)]
    body = f"{form} %d0, %a0, %a1;"
    regs = ""
    if base == "e2m1":
        regs = ".reg .b8 %n;"
        body = f"{form} %n, %a0, %a1; cvt.u16.u8 %d0, %n;"
    return Case(
        form, body, [(SIZES[st], c) for c in columns],
        [Out(max(8, SIZES[dt]), check=same_as(want, halves_same(pad, same)))],
        regs=regs, **need,  # type: ignore[arg-type]
    )  # fmt: skip


def halves_same(
    bits: int, same: Callable[[int, int], bool] | None
) -> Callable[[int, int], bool]:
    def both(got: int, want: int) -> bool:
        for k in range(2):
            x, y = got >> bits * k & mask(bits), want >> bits * k & mask(bits)
            if x != y and not (same and same(x, y)):
                return False
        return True

    return both


def make_cvt_unpacked(form: str, mods: list[str], dt: str, st: str) -> Case:
    raise Untested("no such conversion")
