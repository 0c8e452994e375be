"""Floating point as the PTX manual defines it, in exact integers.

A value is (sign, m, e), worth m * 2**e, or one of INF, NAN with a sign. Everything
rounds once, from the exact result, so nothing here can share a mistake with the engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

NAN = "nan"
INF = "inf"
RN, RZ, RM, RP, RNA = "rn", "rz", "rm", "rp", "rna"


@dataclass(frozen=True)
class Format:
    name: str
    bits: int
    mant: int  # bits stored of the mantissa
    bias: int
    inf: bool = True  # has infinities
    nan: int = 0  # the NaN that instructions make
    maximum: int = 0  # largest finite encoding
    low: int = 0  # bits below the mantissa that are not there (tf32)

    @property
    def emin(self) -> int:  # exponent of the unit of subnormals
        return 1 - self.bias - self.mant

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)


F16 = Format("f16", 16, 10, 15, nan=0x7FFF, maximum=0x7BFF)
BF16 = Format("bf16", 16, 7, 127, nan=0x7FFF, maximum=0x7F7F)
F32 = Format("f32", 32, 23, 127, nan=0x7FFFFFFF, maximum=0x7F7FFFFF)
F64 = Format(
    "f64", 64, 52, 1023, nan=0x7FF8000000000000, maximum=0x7FEFFFFFFFFFFFFF
)
TF32 = Format("tf32", 32, 10, 127, nan=0x7FFFFFFF, maximum=0x7F7FE000, low=13)
E4M3 = Format("e4m3", 8, 3, 7, inf=False, nan=0x7F, maximum=0x7E)
E5M2 = Format("e5m2", 8, 2, 15, nan=0x7F, maximum=0x7B)
E2M1 = Format("e2m1", 4, 1, 1, inf=False, nan=0x7, maximum=0x7)
E2M3 = Format("e2m3", 6, 3, 1, inf=False, nan=0x1F, maximum=0x1F)
E3M2 = Format("e3m2", 6, 2, 3, inf=False, nan=0x1F, maximum=0x1F)
FORMATS = {
    f.name: f for f in (F16, BF16, F32, F64, TF32, E4M3, E5M2, E2M1, E2M3, E3M2)
}

Value = tuple[int, "int | str", int]


def unpack(f: Format, bits: int, ftz: bool = False) -> Value:
    sign = bits >> (f.bits - 1) & 1
    bits &= f.sign - 1
    if f is TF32:
        bits &= ~0x1FFF
    mant_bits = f.mant + f.low
    exp = bits >> mant_bits
    mant = (bits & ((1 << mant_bits) - 1)) >> f.low
    if f.inf and bits > f.maximum | ((1 << f.low) - 1):
        return (sign, NAN if mant else INF, 0)
    if f is E4M3 and bits == 0x7F:
        return (sign, NAN, 0)
    if exp == 0:
        return (sign, 0 if ftz else mant, f.emin)
    return (sign, mant | 1 << f.mant, f.emin + exp - 1)


def pack(
    f: Format,
    value: Value,
    mode: str = RN,
    sticky: bool = False,
    ftz: bool = False,
    sat: bool = False,
    finite: bool = False,
) -> int:
    """Rounds; sticky: a little more than the value. finite: saturates to the largest."""
    sign, m, e = value
    if m == NAN:
        if sat:
            return 0
        return f.nan
    top = f.sign if sign else 0
    if m == INF:
        if sat:
            return 0 if sign else one(f)
        if finite or not f.inf:
            return top | f.maximum
        return top | f.maximum + (1 << f.low)
    if isinstance(m, str):
        raise ValueError(m)
    if m == 0 and not sticky:
        return 0 if sat else top
    if ftz and f is F16 and m.bit_length() + e <= f.emin + f.mant:
        return 0 if sat else top  # half precision looks before it rounds
    if sticky:
        m = m << 2 | 1
        e -= 2
    # bring m to mant + 1 bits, or fewer where it is subnormal
    shift = max(m.bit_length() - (f.mant + 1), f.emin - e)
    if shift > 0:
        rest = m & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        m >>= shift
        e += shift
        up = {
            RN: rest > half or (rest == half and m & 1),
            RZ: False,
            RM: bool(sign and rest),
            RP: bool(not sign and rest),
            RNA: rest >= half,
        }[mode]
        m += bool(up)
    else:
        m <<= -shift
        e += shift
    # the exponent's field follows from where m stands; a carry runs into it by itself
    if m < 1 << f.mant:
        bits = m
        if ftz:
            bits = 0
    else:
        bits = ((e - f.emin) << f.mant) + m
    bits <<= f.low
    if bits > f.maximum:
        if finite or not f.inf or mode == RZ or (mode == RM and not sign) or (mode == RP and sign):
            bits = f.maximum
        else:
            bits = f.maximum + (1 << f.low)
    if sat:
        return 0 if sign else min(bits, one(f))
    return top | bits


def one(f: Format) -> int:
    return f.bias << (f.mant + f.low)


def is_nan(f: Format, bits: int) -> bool:
    return unpack(f, bits)[1] == NAN


def neg(a: Value) -> Value:
    return (a[0] ^ 1, a[1], a[2])


def add(a: Value, b: Value, mode: str = RN) -> Value:
    if a[1] == NAN or b[1] == NAN:
        return (0, NAN, 0)
    if a[1] == INF or b[1] == INF:
        if a[1] == INF and b[1] == INF and a[0] != b[0]:
            return (0, NAN, 0)
        return a if a[1] == INF else b
    e = min(a[2], b[2])
    x = (-a[1] if a[0] else a[1]) << (a[2] - e)
    y = (-b[1] if b[0] else b[1]) << (b[2] - e)
    total = x + y
    if total == 0:
        if x == 0 and y == 0 and a[0] == b[0]:
            return (a[0], 0, e)
        return (int(mode == RM), 0, e)
    return (int(total < 0), abs(total), e)


def mul(a: Value, b: Value) -> Value:
    sign = a[0] ^ b[0]
    if a[1] == NAN or b[1] == NAN:
        return (0, NAN, 0)
    if a[1] == INF or b[1] == INF:
        return (sign, NAN, 0) if a[1] == 0 or b[1] == 0 else (sign, INF, 0)
    return (sign, a[1] * b[1], a[2] + b[2])


def div(a: Value, b: Value) -> tuple[Value, bool]:
    """Quotient to 140 bits and whether something was left."""
    sign = a[0] ^ b[0]
    if a[1] == NAN or b[1] == NAN:
        return (0, NAN, 0), False
    if a[1] == INF:
        return ((0, NAN, 0) if b[1] == INF else (sign, INF, 0)), False
    if b[1] == INF:
        return (sign, 0, 0), False
    if b[1] == 0:
        return ((0, NAN, 0) if a[1] == 0 else (sign, INF, 0)), False
    q, r = divmod(a[1] << 140, b[1])
    return (sign, q, a[2] - b[2] - 140), r != 0


def sqrt(a: Value) -> tuple[Value, bool]:
    if a[1] == NAN:
        return a, False
    if a[1] == 0:
        return (a[0], 0, 0), False
    if a[0]:
        return (0, NAN, 0), False
    if a[1] == INF:
        return a, False
    shift = 160 + (a[2] & 1)
    m = a[1] << shift
    r = math.isqrt(m)
    return (0, r, (a[2] - shift) // 2), r * r != m


def compare(a: Value, b: Value) -> int | None:
    """-1, 0, 1, or None where one is NaN."""
    if a[1] == NAN or b[1] == NAN:
        return None
    x, y = exact(a), exact(b)
    return (x > y) - (x < y)


BIG = Fraction(2) ** 5000


def exact(a: Value) -> Fraction:
    if a[1] == INF:
        return -BIG if a[0] else BIG
    if isinstance(a[1], str):
        raise ValueError(a[1])
    value = Fraction(a[1]) * Fraction(2) ** a[2]
    return -value if a[0] else value


def to_float(a: Value) -> float:
    if a[1] == NAN:
        return math.nan
    if a[1] == INF:
        return -math.inf if a[0] else math.inf
    assert not isinstance(a[1], str)
    value = math.ldexp(a[1], a[2])
    return -value if a[0] else value


def from_fraction(x: Fraction) -> tuple[Value, bool]:
    """As a value of 140 bits and whether something was left."""
    if x == 0:
        return (0, 0, 0), False
    n, d = abs(x.numerator), x.denominator
    shift = max(0, 140 - n.bit_length() + d.bit_length())
    q, r = divmod(n << shift, d)
    return (int(x < 0), q, -shift), r != 0


def to_integer(a: Value, mode: str) -> int:
    """A finite value as a whole number."""
    x = exact(a)
    if mode == RZ:
        return math.trunc(x)
    if mode == RM:
        return math.floor(x)
    if mode == RP:
        return math.ceil(x)
    return round(x)  # ties to even


def next_ulp(f: Format, x: float) -> float:
    """Size of the last place of f at x."""
    if x == 0 or math.isinf(x) or math.isnan(x):
        return math.ldexp(1.0, f.emin)
    e = math.frexp(x)[1] - 1
    return math.ldexp(1.0, max(e - f.mant, f.emin))
