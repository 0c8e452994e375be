"""Forms that work on registers alone: arithmetic, comparisons, moves; and what the makers of
all forms share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.conformance import floats
from tests.conformance.case import SIZES, Case, Out, Untested, maker, signed, tuples
from tests.conformance.floats import INF, NAN

INTEGERS = {f"{k}{n}" for k in "bus" for n in (8, 16, 32, 64)}
ROUNDINGS = {"rn", "rz", "rm", "rp"}


def types_of(mods: Sequence[str]) -> list[str]:
    return [m for m in mods if m in SIZES]


def mask(bits: int) -> int:
    return (1 << bits) - 1


def value(v: int, t: str) -> int:
    """A register's bits as the number that a type makes of them."""
    return signed(v, SIZES[t]) if t[0] == "s" else v & mask(SIZES[t])


def needs(mods: Sequence[str], op: str = "") -> dict[str, object]:
    """Target and version that the modifiers ask for."""
    need: dict[str, object] = {}
    t = " ".join(mods)
    if ("bf16" in t and op in ("add", "sub", "mul", "setp", "set")) or "e4m3" in t or "e5m2" in t:
        need = {"target": 90, "version": "8.1"}
    if "e2m1" in t or "e2m3" in t or "e3m2" in t or "ue8m0" in t or "f32x2" in t:
        need = {"target": 100, "version": "8.7", "features": "a"}
    if op in ("u16x2", "s16x2") or ("u16x2" in t or "s16x2" in t):
        need = {"target": 90, "version": "8.0"}
    return need


def simple(
    form: str,
    mods: list[str],
    types: list[str],
    result: str,
    f: Callable[..., int],
    *,
    same: Callable[[int, int], bool] | None = None,
    only: dict[int, list[int]] | None = None,
    more: str = "",
) -> Case:
    """d = form(a, b, ...): an exact result, by default bit for bit."""
    columns = tuples(form, types, only=only)
    want = [f(*row) for row in zip(*columns, strict=True)]
    sources = ", ".join(f"%a{k}" for k in range(len(types)))
    out = Out(SIZES[result], want)
    if same:
        out = Out(SIZES[result], check=same_as(want, same))
    return Case(
        form,
        f"{form} %d0, {sources}{more};",
        [(SIZES[t], c) for t, c in zip(types, columns, strict=True)],
        [out],
        **needs(mods, form.split(".")[0]),  # type: ignore[arg-type]
    )


def same_as(
    want: list[int], same: Callable[[int, int], bool]
) -> Callable[[int, int], str | None]:
    def check(got: int, lane: int) -> str | None:
        return None if same(got, want[lane]) else f"{want[lane]:#x}"

    return check


def any_nan(f: floats.Format) -> Callable[[int, int], bool]:
    def same(got: int, want: int) -> bool:
        if floats.is_nan(f, want):
            return floats.is_nan(f, got)
        return got == want

    return same


def fmt(t: str) -> floats.Format:
    return floats.FORMATS[t]


def packed(t: str) -> tuple[str, int]:
    """Element type of a packed one, and how many elements; itself and 1 for others."""
    if t.endswith("x2"):
        return t[:-2], 2
    return t, 1


def by_element(t: str, f: Callable[..., int]) -> Callable[..., int]:
    """f for each element of a packed type."""
    base, n = packed(t)
    if n == 1:
        return f
    bits = SIZES[base]

    def both(*values: int) -> int:
        out = 0
        for k in range(n):
            out |= f(*((v >> bits * k) & mask(bits) for v in values)) << bits * k
        return out

    return both


def nan_rule(t: str) -> Callable[[int, int], bool] | None:
    """Double precision makes any NaN; the narrower ones have one."""
    return any_nan(floats.F64) if t == "f64" else None


def is_float(t: str) -> bool:
    return packed(t)[0] in floats.FORMATS


# ---- add, sub, mul, mad, fma ----


def float_op(form: str, mods: list[str], op: str) -> Case:
    t = types_of(mods)[-1]
    base, _ = packed(t)
    f = fmt(base)
    mode = next((m for m in mods if m in ROUNDINGS), "rn")
    ftz = "ftz" in mods
    sat = "sat" in mods
    relu = "relu" in mods
    count = 3 if op in ("fma", "mad") else 2

    def one(*bits: int) -> int:
        v = [floats.unpack(f, b, ftz) for b in bits]
        if op == "mul":
            r = floats.mul(v[0], v[1])
        elif op == "add":
            r = floats.add(v[0], v[1], mode)
        elif op == "sub":
            r = floats.add(v[0], floats.neg(v[1]), mode)
        else:
            r = floats.add(floats.mul(v[0], v[1]), v[2], mode)
        out = floats.pack(f, r, mode, ftz=ftz, sat=sat)
        if relu and out >> (f.bits - 1) and not floats.is_nan(f, out):
            return 0
        return out

    return simple(form, mods, [t] * count, t, by_element(t, one), same=nan_rule(t))


def sat_int(v: int, t: str) -> int:
    bits = SIZES[t]
    if t[0] == "s":
        v = max(-(1 << (bits - 1)), min(mask(bits - 1), v))
    else:
        v = max(0, min(mask(bits), v))
    return v & mask(bits)


@maker("add", "sub")
def make_add(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    if is_float(t):
        return float_op(form, mods, op)
    if "cc" in mods:
        return make_carry(form, mods)
    base, _ = packed(t)
    sign = -1 if op == "sub" else 1

    def one(a: int, b: int) -> int:
        r = value(a, base) + sign * value(b, base)
        return sat_int(r, base) if "sat" in mods else r & mask(SIZES[base])

    return simple(form, mods, [t, t], t, by_element(t, one))


@maker("addc", "subc", "madc")
def make_carry(form: str, mods: list[str]) -> Case:
    """The form between two others: one makes the carry, one shows it."""
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    n = SIZES[t]
    sub = op.startswith("sub")
    mad = op.startswith("mad")
    into = op.endswith("c") and op != "madcc" and op in ("addc", "subc", "madc")
    out = "cc" in mods
    columns = tuples(form, [t, t, t] if mad else [t, t], 512)
    rows = list(zip(*columns, strict=True))
    carry_in = [(k * 7 >> 2) & 1 for k in range(len(rows))]
    want, carries = [], []
    for row, c in zip(rows, carry_in, strict=True):
        a, b = row[0], row[1]
        if mad:
            product = value(a, t) * value(b, t)
            a = (product if "lo" in mods else product >> n) & mask(n)
            b = row[2]
        c = c if into else 0
        total = a - b - c if sub else a + b + c
        want.append(total & mask(n))
        carries.append(int(total < 0 if sub else total > mask(n)))
    sources = ", ".join(f"%a{k}" for k in range(len(columns)))
    # carry_in is 0 or 1: adding all ones sets the carry where it is 1; for a borrow
    # 0 - carry_in does
    body = ""
    k = len(columns)
    if into:
        body += (
            f"sub.cc.u32 %t0, 0, %a{k};\n" if sub else f"add.cc.u32 %t0, %a{k}, -1;\n"
        )
    body += f"{form} %d0, {sources};"
    outs = [Out(n, want)]
    if out:
        # a borrow shown is 0 - 0 - borrow, all ones
        body += "\nsubc.u32 %d1, 0, 0;" if sub else "\naddc.u32 %d1, 0, 0;"
        outs.append(Out(32, [(-c & mask(32)) if sub else c for c in carries]))
    ins = [(n, c) for c in columns]
    if into:
        ins.append((32, carry_in))
    return Case(form, body, ins, outs)


@maker("mul", "mad", "mul24", "mad24")
def make_mul(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    if is_float(t):
        return float_op(form, mods, op[:3])
    if "cc" in mods:
        return make_carry(form, mods)
    n = SIZES[t]
    small = op.endswith("24")
    wide = "wide" in mods
    result = t[0] + str(n * 2) if wide else t
    total_bits = SIZES[result]

    def narrow(v: int) -> int:
        if small:
            return signed(v, 24) if t[0] == "s" else v & mask(24)
        return value(v, t)

    def f(a: int, b: int, c: int = 0) -> int:
        r = narrow(a) * narrow(b)
        if "hi" in mods:
            r >>= 16 if small else n
        if small and "lo" in mods:
            r &= mask(32)
        r += value(c, result)
        if "sat" in mods:
            return sat_int(r, t)
        return r & mask(total_bits)

    types = [t, t] if op.startswith("mul") else [t, t, result]
    return simple(form, mods, types, result, f)


@maker("fma")
def make_fma(form: str, mods: list[str]) -> Case:
    return float_op(form, mods, "fma")


# ---- division, roots, approximations ----


def close(
    want: list[float],
    f: floats.Format,
    error: Callable[[float], float],
    special: dict[int, Callable[[int], bool]] | None = None,
) -> Callable[[int, int], str | None]:
    """Results within error(wanted); infinities, zeros' signs and NaNs as they are."""

    def check(got: int, lane: int) -> str | None:
        w = want[lane]
        if special and lane in special:
            return None if special[lane](got) else f"near {w!r} (special)"
        g = floats.to_float(floats.unpack(f, got))
        if math.isnan(w):
            return None if math.isnan(g) else "NaN"
        if w == 0:
            same = g == 0 and math.copysign(1, g) == math.copysign(1, w)
            return None if same or (abs(g) <= error(w) and g != 0) else f"{w!r}"
        limit = floats.to_float(floats.unpack(f, f.maximum))
        if math.isinf(w) or math.isinf(g):
            edge = abs(w) + error(w) >= limit if not math.isinf(w) else False
            return None if g == w or edge else f"{w!r}"
        return None if abs(g - w) <= error(w) else f"{w!r} +- {error(w):g}"

    return check


def ulps(f: floats.Format, n: float) -> Callable[[float], float]:
    return lambda w: n * floats.next_ulp(f, w)


def relative(
    f: floats.Format, exponent: float, last: float = 0.5
) -> Callable[[float], float]:
    """A relative error, and getting into the format, coarse for subnormals: half of the
    last place where it rounds, all of it where it cuts."""
    return lambda w: abs(w) * 2.0**exponent + last * math.ldexp(1, f.emin)


def approximate(
    form: str,
    mods: list[str],
    f: Callable[..., float],
    error: Callable[[float], float],
    count: int = 1,
    skip: Callable[..., bool] | None = None,
) -> Case:
    t = types_of(mods)[-1]
    base, n = packed(t)
    form_of = fmt(base)
    ftz = "ftz" in mods
    columns = tuples(form, [t] * count)
    if skip:
        rows = [
            [floats.one(form_of)] * count if skip(*row) else list(row)
            for row in zip(*columns, strict=True)
        ]
        columns = [list(c) for c in zip(*rows, strict=True)]
    checks = []
    for k in range(n):
        want = []
        for row in zip(*columns, strict=True):
            bits = [v >> form_of.bits * k & mask(form_of.bits) for v in row]
            v = [floats.to_float(floats.unpack(form_of, b, ftz)) for b in bits]
            r = f(*v)
            if not math.isnan(r) and not math.isinf(r):
                limit = math.ldexp(1, form_of.emin + form_of.mant)
                if ftz and abs(r) < limit:
                    r = math.copysign(0.0, r)
            want.append(r)
        checks.append(close(want, form_of, error))

    def check(got: int, lane: int) -> str | None:
        for k, one in enumerate(checks):
            said = one(got >> form_of.bits * k & mask(form_of.bits), lane)
            if said:
                return said
        return None

    sources = ", ".join(f"%a{k}" for k in range(count))
    return Case(
        form,
        f"{form} %d0, {sources};",
        [(SIZES[t], c) for c in columns],
        [Out(SIZES[t], check=check)],
        **needs(mods, form.split(".")[0]),  # type: ignore[arg-type]
    )


def float_div(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return math.nan
    if b == 0:
        if a == 0:
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1, b)
    if math.isinf(a) and math.isinf(b):
        return math.nan
    return a / b


@maker("div")
def make_div(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    if not is_float(t):

        def whole(a: int, b: int) -> int:
            x, y = value(a, t), value(b, t)
            if y == 0:
                return mask(SIZES[t])
            q = abs(x) // abs(y)
            return (q if (x < 0) == (y < 0) else -q) & mask(SIZES[t])

        # what dividing by zero gives is not defined; all ones is what hardware does
        return simple(form, mods, [t, t], t, whole)
    f = fmt(t)
    ftz = "ftz" in mods
    mode = next((m for m in mods if m in ROUNDINGS), "")
    if mode:

        def one(a: int, b: int) -> int:
            q, more = floats.div(floats.unpack(f, a, ftz), floats.unpack(f, b, ftz))
            return floats.pack(f, q, mode, more, ftz=ftz)

        return simple(form, mods, [t, t], t, one, same=nan_rule(t))

    def quotient(a: float, b: float) -> float:
        return float_div(a, b)

    def far(a: int, b: int) -> bool:  # divisors for which div.approx promises nothing
        e = b >> 23 & 0xFF
        return "approx" in mods and (e > 252 or e < 2)

    return approximate(form, mods, quotient, ulps(f, 2), 2, far)


@maker("rem")
def make_rem(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]

    def whole(a: int, b: int) -> int:
        x, y = value(a, t), value(b, t)
        if y == 0:
            return a
        r = abs(x) % abs(y)
        return (-r if x < 0 else r) & mask(SIZES[t])

    # a remainder by zero is not defined: keep it out
    t_edges = [v for v in tuples(form, [t, t])[1] if v & mask(SIZES[t])]
    return simple(form, mods, [t, t], t, whole, only={1: t_edges})


def safe_sqrt(x: float) -> float:
    if math.isnan(x) or x < 0:
        return math.nan
    return math.sqrt(x) if x else x


def reciprocal(x: float) -> float:
    return float_div(1.0, x)


def inverse_root(x: float) -> float:
    if x == 0:
        return math.copysign(math.inf, x)
    r = safe_sqrt(x)
    return math.nan if math.isnan(r) else 0.0 if math.isinf(r) else 1 / r


def low_nan(a: int) -> bool:
    """NaN only by its lower word, which these estimates do not look at."""
    return a >> 32 & 0x7FFFFFFF == 0x7FF00000 and a & mask(32) != 0


@maker("rcp", "sqrt")
def make_rcp(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    f = fmt(t)
    ftz = "ftz" in mods
    mode = next((m for m in mods if m in ROUNDINGS), "")
    if mode:

        def one(a: int) -> int:
            v = floats.unpack(f, a, ftz)
            if op == "sqrt":
                r, more = floats.sqrt(v)
            else:
                r, more = floats.div((0, 1, 0), v)
            return floats.pack(f, r, mode, more, ftz=ftz)

        return simple(form, mods, [t], t, one, same=nan_rule(t))
    if t == "f64":  # rcp.approx.ftz.f64: the upper word of an estimate
        return approximate(form, mods, reciprocal, relative(f, -19), 1, low_nan)
    if op == "rcp":
        return approximate(form, mods, reciprocal, ulps(f, 1.001))
    return approximate(form, mods, safe_sqrt, relative(f, -23))


@maker("rsqrt")
def make_rsqrt(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    f = fmt(t)
    if t == "f64":
        if "ftz" in mods:
            return approximate(form, mods, inverse_root, relative(f, -19), 1, low_nan)
        error = relative(f, -49)
    else:
        error = relative(f, -22.4)
    return approximate(form, mods, inverse_root, error)


@maker("sin", "cos")
def make_sin(form: str, mods: list[str]) -> Case:
    function = math.sin if form.startswith("sin") else math.cos

    def f(x: float) -> float:
        return math.nan if math.isnan(x) or math.isinf(x) else function(x)

    def far(a: int) -> bool:  # nothing is promised for large arguments
        x = abs(floats.to_float(floats.unpack(floats.F32, a)))
        return math.pi < x < math.inf

    return approximate(form, mods, f, lambda w: 2.0**-20.5, 1, far)


@maker("lg2")
def make_lg2(form: str, mods: list[str]) -> Case:
    def f(x: float) -> float:
        if math.isnan(x) or x < 0:
            return math.nan
        if x == 0:
            return -math.inf
        return math.inf if math.isinf(x) else math.log2(x)

    return approximate(
        form, mods, f, lambda w: 2.0**-22 if abs(w) <= 1 else abs(w) * 2.0**-22
    )


@maker("ex2")
def make_ex2(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    base, _ = packed(t)

    def f(x: float) -> float:
        if math.isnan(x):
            return x
        if x >= 1024:
            return math.inf
        return 2.0**x if x > -2000 else 0.0

    error = {"f32": -22, "f16": -9.9, "bf16": -7}[base]
    last = 1.0 if base == "f16" else 0.5
    case = approximate(form, mods, f, relative(fmt(base), error, last))
    if base == "bf16":
        case.target, case.version = 90, "7.8"
    return case


@maker("tanh")
def make_tanh(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    base, _ = packed(t)
    if base == "f32":
        error: Callable[[float], float] = relative(floats.F32, -10.9)
    elif base == "f16":
        error = lambda w: 2.0**-10.9  # noqa: E731
    else:  # 2**-8 in the manual; what is cut to that has an error of its own already
        error = lambda w: 2.0**-8 + 2.0**-11  # noqa: E731
    case = approximate(form, mods, math.tanh, error)
    if base == "bf16":
        case.target, case.version = 90, "7.8"
    return case


# ---- sign, order ----


@maker("neg", "abs")
def make_neg(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    base, _ = packed(t)
    if is_float(t):
        f = fmt(base)
        ftz = "ftz" in mods

        def one(a: int) -> int:
            if ftz and floats.unpack(f, a, True)[1] == 0:
                a &= f.sign
            return a ^ f.sign if op == "neg" else a & ~f.sign

        return simple(
            form, mods, [t], t, by_element(t, one), same=packed_nan(t, f)
        )

    def whole(a: int) -> int:
        v = value(a, base)
        return (-v if op == "neg" else abs(v)) & mask(SIZES[base])

    return simple(form, mods, [t], t, by_element(t, whole))


def packed_nan(t: str, f: floats.Format) -> Callable[[int, int], bool]:
    one = any_nan(f)
    n = packed(t)[1]

    def same(got: int, want: int) -> bool:
        return all(
            one(got >> f.bits * k & mask(f.bits), want >> f.bits * k & mask(f.bits))
            for k in range(n)
        )

    return same


@maker("copysign")
def make_copysign(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    sign = fmt(t).sign
    return simple(
        form, mods, [t, t], t, lambda a, b: (a & sign) | (b & (sign - 1))
    )


@maker("min", "max")
def make_min(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    t = types_of(mods)[-1]
    base, _ = packed(t)
    if is_float(t):
        f = fmt(base)
        ftz = "ftz" in mods

        def one(*bits: int) -> int:
            v = [floats.unpack(f, b, ftz) for b in bits]
            nans = [x[1] == NAN for x in v]
            if all(nans) or ("NaN" in mods and any(nans)):
                return f.nan
            if "xorsign" in mods:
                sign = bits[0] >> (f.bits - 1) ^ bits[1] >> (f.bits - 1)
                v = [(0, x[1], x[2]) for x in v]
            alive = [x for x, nan in zip(v, nans, strict=True) if not nan]
            best = alive[0]
            for x in alive[1:]:
                order = floats.compare(x, best)
                if order == 0:  # -0 is less than +0
                    order = best[0] - x[0]
                assert order is not None
                if order < 0 if op == "min" else order > 0:
                    best = x
            r = floats.pack(f, best, ftz=ftz)
            if "xorsign" in mods:
                r = r & (f.sign - 1) | sign << (f.bits - 1)
            return r

        case = simple(
            form, mods, [t, t], t, by_element(t, one), same=nan_rule(t)
        )
        if "xorsign" in mods:
            case.target, case.version = 90, "8.1"
        return case

    def whole(a: int, b: int) -> int:
        x, y = value(a, base), value(b, base)
        r = min(x, y) if op == "min" else max(x, y)
        if "relu" in mods:
            r = max(r, 0)
        return r & mask(SIZES[base])

    case = simple(form, mods, [t, t], t, by_element(t, whole))
    if "relu" in mods:
        case.target, case.version = 90, "8.0"
    return case


@maker("sad")
def make_sad(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    n = SIZES[t]
    return simple(
        form, mods, [t, t, t], t,
        lambda a, b, c: (c + abs(value(a, t) - value(b, t))) & mask(n),
    )  # fmt: skip


# ---- comparisons ----

ORDERED = {
    "eq": lambda o: o == 0, "ne": lambda o: o != 0, "lt": lambda o: o < 0,
    "le": lambda o: o <= 0, "gt": lambda o: o > 0, "ge": lambda o: o >= 0,
}  # fmt: skip
ORDERED.update(
    {"lo": ORDERED["lt"], "ls": ORDERED["le"], "hi": ORDERED["gt"], "hs": ORDERED["ge"]}
)


def comparison(mods: Sequence[str], t: str) -> Callable[[int, int], bool]:
    op = mods[0]
    base, _ = packed(t)
    ftz = "ftz" in mods

    def f(a: int, b: int) -> bool:
        if not is_float(t):
            x, y = value(a, base), value(b, base)
            return ORDERED[op]((x > y) - (x < y))
        form = fmt(base)
        order = floats.compare(
            floats.unpack(form, a, ftz), floats.unpack(form, b, ftz)
        )
        if op == "num":
            return order is not None
        if op == "nan":
            return order is None
        if order is None:
            return len(op) == 3
        return ORDERED[op[:2]](order)

    return f


COMBINE = {
    "and": lambda p, q: p and q,
    "or": lambda p, q: p or q,
    "xor": lambda p, q: p != q,
}


@maker("setp")
def make_setp(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    test = comparison(mods, t)
    columns = tuples(form, [t, t])
    rows = list(zip(*columns, strict=True))
    ins = [(SIZES[t], c) for c in columns]
    need = needs(mods, "setp")
    if "bf16" in t:
        need = {"target": 90, "version": "7.8"}
    combine = next((m for m in mods if m in COMBINE), "")
    if packed(t)[1] == 2:
        want = [[], []]  # type: list[list[int]]
        for a, b in rows:
            for k in range(2):
                want[k].append(int(test(a >> 16 * k & 0xFFFF, b >> 16 * k & 0xFFFF)))
        return Case(
            form, f"{form} %d0|%d1, %a0, %a1;", ins,
            [Out(1, want[0]), Out(1, want[1])], **need,  # type: ignore[arg-type]
        )  # fmt: skip
    first = [test(a, b) for a, b in rows]
    if combine:
        flags = [(k * 5 >> 1) & 1 for k in range(len(rows))]
        ins.append((1, flags))
        pairs = list(zip(first, map(bool, flags), strict=True))
        return Case(
            form, f"{form} %d0|%d1, %a0, %a1, %a2;\n{form} %d2, %a0, %a1, !%a2;", ins,
            [
                Out(1, [int(COMBINE[combine](p, q)) for p, q in pairs]),
                Out(1, [int(COMBINE[combine](not p, q)) for p, q in pairs]),
                Out(1, [int(COMBINE[combine](p, not q)) for p, q in pairs]),
            ], **need,  # type: ignore[arg-type]
        )  # fmt: skip
    if "f16" in t:  # these have one result, or a pair of packed ones
        return Case(
            form, f"{form} %d0, %a0, %a1;", ins, [Out(1, [int(p) for p in first])], **need  # type: ignore[arg-type]
        )
    return Case(
        form, f"{form} %d0, %a0, %a1;\n{form} %d1|%d2, %a0, %a1;", ins,
        [
            Out(1, [int(p) for p in first]), Out(1, [int(p) for p in first]),
            Out(1, [int(not p) for p in first]),
        ], **need,  # type: ignore[arg-type]
    )  # fmt: skip


@maker("set")
def make_set(form: str, mods: list[str]) -> Case:
    types = types_of(mods)
    dt, t = types if len(types) == 2 else (types[0], types[0])
    test = comparison(mods, t)
    _, n = packed(t)
    yes = mask(SIZES[packed(dt)[0]])
    if is_float(dt):
        yes = floats.one(fmt(packed(dt)[0]))

    def one(a: int, b: int) -> int:
        return yes if test(a, b) else 0

    if n == 2 and packed(dt)[1] == 1:  # set.lt.u32.f16x2 does not exist
        raise Untested("a packed comparison into one value")
    case = simple(form, mods, [t, t], dt, by_element(t, one))
    if "bf16" in form:
        case.target, case.version = 90, "7.8"
    return case


@maker("selp")
def make_selp(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    case = simple(
        form, mods, [t, t, "pred"], t, lambda a, b, p: a if p else b
    )
    return case


@maker("slct")
def make_slct(form: str, mods: list[str]) -> Case:
    t, ct = types_of(mods)
    ftz = "ftz" in mods

    def f(a: int, b: int, c: int) -> int:
        if ct == "s32":
            return a if signed(c, 32) >= 0 else b
        v = floats.unpack(floats.F32, c, ftz)
        return a if v[1] != NAN and (not v[0] or v[1] == 0) else b

    return simple(form, mods, [t, t, ct], t, f)


@maker("testp")
def make_testp(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    f = fmt(t)

    def one(a: int) -> int:
        v = floats.unpack(f, a)
        sub = isinstance(v[1], int) and 0 < v[1] < 1 << f.mant
        return int(
            {
                "finite": isinstance(v[1], int),
                "infinite": v[1] == INF,
                "number": v[1] != NAN,
                "notanumber": v[1] == NAN,
                # zero counts as normal, as the manual says
                "normal": isinstance(v[1], int) and not sub,
                "subnormal": sub,
            }[mods[0]]
        )

    return simple(form, mods, [t], "pred", one)


# ---- mov ----


@maker("mov")
def make_mov(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    if t == "b128":
        columns = tuples(form, ["b64", "b64"])
        return Case(
            form, f"{form} %q, {{%a0, %a1}};\n{form} {{%d0, %d1}}, %q;",
            [(64, c) for c in columns], [Out(64, columns[0]), Out(64, columns[1])],
            regs=".reg .b128 %q;", target=80, version="8.3",
        )  # fmt: skip
    case = simple(form, mods, [t], t, lambda a: a)
    values = case.ins[0][1]
    n = SIZES[t]
    if t in ("b64", "b32") or t == "b16":
        half = n // 2
        if half >= 16:
            # packing and unpacking, the parts exchanged, and over one's own source
            case.regs = f".reg .b{half} %h0, %h1; .reg .b{n} %w;"
            case.body += f"""
                {form} {{%h0, %h1}}, %a0;
                {form} %d1, {{%h1, %h0}};
                {form} {{_, %d2}}, %a0;"""
            case.outs += [
                Out(n, [v >> half | (v & mask(half)) << half for v in values]),
                Out(half, [v >> half for v in values]),
            ]
        if n == 64:
            case.regs += " .reg .b16 %q0, %q1, %q2, %q3;"
            case.body += f"""
                {form} {{%q0, %q1, %q2, %q3}}, %a0;
                {form} %d3, {{%q3, %q0, %q2, %q1}};"""

            def mix(v: int) -> int:
                q = [v >> 16 * k & 0xFFFF for k in range(4)]
                return q[3] | q[0] << 16 | q[2] << 32 | q[1] << 48

            case.outs.append(Out(64, [mix(v) for v in values]))
    if t == "u32":
        names = ["%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x", "%laneid", "%tid.y",
                 "%lanemask_lt", "%lanemask_le", "%lanemask_eq", "%lanemask_gt",
                 "%lanemask_ge", "%nctaid.z"]  # fmt: skip
        lanes = len(values)
        for k, name in enumerate(names, 1):
            case.body += f"\n{form} %d{k}, {name};"

        def special(name: str, i: int) -> int:
            lane = i % 32
            eq = 1 << lane
            return {
                "%tid.x": i % case.block, "%ntid.x": case.block,
                "%ctaid.x": i // case.block, "%nctaid.x": lanes // case.block,
                "%laneid": lane, "%tid.y": 0, "%lanemask_lt": eq - 1,
                "%lanemask_le": eq * 2 - 1, "%lanemask_eq": eq,
                "%lanemask_gt": mask(32) & ~(eq * 2 - 1),
                "%lanemask_ge": mask(32) & ~(eq - 1), "%nctaid.z": 1,
            }[name]  # fmt: skip

        for name in names:
            case.outs.append(Out(32, [special(name, i) for i in range(lanes)]))
    if t == "u64":  # an address of a variable and of a function's parameter space
        case.decl = ".global .align 8 .b8 $K_var[64];"
        k = len(case.outs)
        case.body += f"""
            mov.u64 %d{k}, $K_var;
            mov.u64 %x, $K_var+24;
            sub.u64 %d{k}, %x, %d{k};"""
        case.regs += " .reg .b64 %x;"
        case.outs.append(Out(64, [24] * len(values)))
    return case


# ---- addresses ----


@maker("cvta")
def make_cvta(form: str, mods: list[str]) -> Case:
    space = next(m for m in mods if m in ("global", "shared", "local", "const", "param"))
    to = "to" in mods
    t = types_of(mods)[-1]
    decl, inside = {
        "global": (".global .align 8 .u64 $K_v = 0x1122334455667788;", ""),
        "const": (".const .align 8 .u64 $K_v = 0x1122334455667788;", ""),
        "shared": ("", ".shared .align 8 .u64 $K_v;"),
        "local": ("", ".local .align 8 .u64 $K_v;"),
        "param": ("", ""),
    }[space]
    if space == "param":
        raise Untested("kernel parameters by generic address")
    reg = "u64"
    fill = ""
    if space in ("shared", "local"):
        fill = f"mov.u64 %x, 0x1122334455667788; st.{space}.u64 [$K_v], %x;"
        if space == "shared":
            fill += " bar.sync 0;"
    if to:
        body = f"""{fill}
            mov.{reg} %y, $K_v;
            cvta.{space}.{t} %x, %y;
            {form} %z, %x;
            ld.{space}.u64 %d0, [%z];
            sub.u64 %d1, %z, %y;"""
    else:
        body = f"""{fill}
            mov.{reg} %y, $K_v;
            {form} %x, %y;
            ld.u64 %d0, [%x];
            {form} %z, $K_v;
            sub.u64 %d1, %z, %x;"""
    return Case(
        form, body, [], [Out(64, [0x1122334455667788] * 128), Out(64, [0] * 128)],
        decl=decl, regs=f".reg .b64 %x, %y, %z; {inside}", lanes=128,
    )  # fmt: skip


@maker("isspacep")
def make_isspacep(form: str, mods: list[str]) -> Case:
    space = mods[0]
    spaces = ["global", "shared", "local", "const"]
    body = """mov.u64 %x, $K_g; cvta.global.u64 %s0, %x;
        mov.u64 %x, $K_s; cvta.shared.u64 %s1, %x;
        mov.u64 %x, $K_l; cvta.local.u64 %s2, %x;
        mov.u64 %x, $K_c; cvta.const.u64 %s3, %x;"""
    for k in range(4):
        body += f"\n{form} %d{k}, %s{k};"
    body += f"\n{form} %d4, %mem;"
    yes = {"shared::cta": "shared", "shared::cluster": "shared"}.get(space, space)
    outs = [Out(1, [int(s == yes)] * 128) for s in spaces]
    if space in ("global", "const"):
        outs[3] = Out(1, check=lambda got, lane: None)  # constants may lie in both
    outs.append(Out(1, [int(space == "global")] * 128))
    return Case(
        form, body, [], outs, lanes=128,
        decl=".global .u64 $K_g; .const .u64 $K_c;",
        regs=".reg .b64 %x, %s<4>; .shared .u64 $K_s; .local .u64 $K_l;",
        target=90 if "::" in space else 80, version="8.0",
    )  # fmt: skip
