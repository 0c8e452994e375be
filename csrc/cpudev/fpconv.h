/*
 * Small arithmetic that handlers share: half floats, flushing, canonical NaN, bit fields.
 * All of it is total (no operand is undefined), for handlers compute idle lanes too.
 */
#ifndef FDCPU_FPCONV_H
#define FDCPU_FPCONV_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef int8_t s8;
typedef uint16_t u16;
typedef int16_t s16;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;
typedef int64_t s64;
typedef float f32;
typedef double f64;

#define MINI(p, q) ((p) < (q) ? (p) : (q))
#define MAXI(p, q) ((p) > (q) ? (p) : (q))
#define INLINE static inline __attribute__((always_inline, unused))

INLINE u32 f32_bits(f32 v) { u32 u; memcpy(&u, &v, 4); return u; }
INLINE f32 bits_f32(u32 u) { f32 v; memcpy(&v, &u, 4); return v; }
INLINE u64 f64_bits(f64 v) { u64 u; memcpy(&u, &v, 8); return u; }
INLINE f64 bits_f64(u64 u) { f64 v; memcpy(&v, &u, 8); return v; }

INLINE f32 nan32(void) { return bits_f32(0x7fffffffu); }
/* The one NaN that single precision arithmetic gives. */
INLINE f32 cn(f32 v) { return v == v ? v : nan32(); }
/*
 * Double precision keeps NaNs: made quiet, their sign and bits stay. Where several operands
 * are NaN a GPU takes the second, of a fused multiply-add then the third.
 */
INLINE f64 quiet(f64 v) { return bits_f64(f64_bits(v) | 1ull << 51); }
INLINE f64 nan_or(f64 b, f64 v) { return b != b ? quiet(b) : v; }
INLINE f64 fma_nan(f64 b, f64 c, f64 v) { return nan_or(b, nan_or(c, v)); }
/* neg and abs are arithmetic too: halves make the one NaN there, not another sign of theirs. */
INLINE u32 neg_half(u32 h, u32 inf) { return (h & 0x7fff) > inf ? 0x7fff : h ^ 0x8000; }
INLINE u32 abs_half(u32 h, u32 inf) { return (h & 0x7fff) > inf ? 0x7fff : h & 0x7fff; }
/* Subnormal to zero of the same sign. */
INLINE f32
fz(f32 v)
{
    u32 u = f32_bits(v);

    return bits_f32((u & 0x7f800000u) ? u : u & 0x80000000u);
}
INLINE u32 fzh(u32 h) { return (h & 0x7c00) ? h : h & 0x8000; }
INLINE u32 fzbf(u32 h) { return (h & 0x7f80) ? h : h & 0x8000; }
INLINE u32
sign_half(u32 h, u32 sign, u32 inf)
{
    return (h & 0x7fff) > inf ? h : h | (sign & 0x8000);
}
INLINE u32 x2(u32 lo, u32 hi) { return (lo & 0xffff) | hi << 16; }
INLINE u32 SATH(u32 h)
{
    return (s16)h <= 0 ? 0 : h > 0x7c00 ? 0 : MINI(h, 0x3c00u);
}
INLINE u32
relu16(u32 h)                   /* NaN stays */
{
    return (h & 0x8000) && (h & 0x7fff) <= 0x7c00 ? 0 : h;
}
INLINE u32
relubf(u32 h)
{
    return (h & 0x8000) && (h & 0x7fff) <= 0x7f80 ? 0 : h;
}

INLINE f32
h2f(u32 h)
{
    u32 v = (h & 0x7fff) << 13;
    f32 f = bits_f32(v) * 0x1p112f;

    v = (v & 0x0f800000u) == 0x0f800000u ? v + 0x70000000u : f32_bits(f);
    return bits_f32(v | (h & 0x8000) << 16);
}

INLINE u32
f2h(f32 f)
{
    u32 u = f32_bits(f), x = u & 0x7fffffffu, s = u >> 16 & 0x8000;
    u32 small = f32_bits(bits_f32(x) + 0.5f) - 0x3f000000u;
    u32 normal = (x + 0xc8000fffu + (x >> 13 & 1)) >> 13;
    u32 big = x > 0x7f800000u ? 0x7fff : 0x7c00;

    if (x > 0x7f800000u)
        s = 0;
    return s | (x >= 0x47800000u ? big : x < 0x38800000u ? small : normal);
}

/* Double to single with the last bit made sticky: a further rounding is then right. */
INLINE f32
d2f_odd(f64 v)
{
    f32 f = (f32)v;
    f64 back = (f64)f;
    u32 u = f32_bits(f);

    if (back != v && v == v) {
        /* towards zero, then the lowest bit set */
        if (__builtin_fabs(back) > __builtin_fabs(v))
            u--;
        u |= 1;
    }
    return bits_f32(u);
}
INLINE u32 d2h(f64 v) { return f2h(d2f_odd(v)); }

/* The same with .ftz, which looks at the exact result: what rounding would lift goes too. */
INLINE u32
f2hz(f32 f)
{
    return __builtin_fabsf(f) < 0x1p-14f ? f32_bits(f) >> 16 & 0x8000 : f2h(f);
}
INLINE u32
fma_hz(u32 a, u32 b, u32 c)
{
    f64 v = (f64)h2f(fzh(a)) * (f64)h2f(fzh(b)) + (f64)h2f(fzh(c));

    return f2hz(d2f_odd(v));
}

INLINE f32 bf2f(u32 b) { return bits_f32(b << 16); }
INLINE u32
f2bf(f32 f)
{
    u32 u = f32_bits(f);

    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
/* a * b is exact in double; the sum's error is folded into its last bit. */
INLINE u32
fma_bf(f32 a, f32 b, f32 c)
{
    f64 p = (f64)a * (f64)b, q = (f64)c, s = p + q, t = s - p, e = (p - (s - t)) + (q - t);
    u64 u = f64_bits(s);

    if (e != 0 && e == e && !(u & 1) && (u & 0x7ff0000000000000ull) != 0x7ff0000000000000ull)
        u = ((e > 0) == (s > 0)) ? u + 1 : u - 1;
    return f2bf(d2f_odd(bits_f64(u)));
}

/* Fused multiply-add of single precision by double arithmetic, for machines without it. */
INLINE f32
soft_fmaf(f32 a, f32 b, f32 c)
{
    f64 p = (f64)a * (f64)b, q = (f64)c, s = p + q, t = s - p, e = (p - (s - t)) + (q - t);
    u64 u = f64_bits(s);
    u64 odd = ((e > 0) == (s > 0)) ? u + 1 : u - 1;

    u = (e != 0) & (e == e) & !(u & 1) &
                ((u & 0x7ff0000000000000ull) != 0x7ff0000000000000ull)
            ? odd
            : u;
    return (f32)bits_f64(u);
}

INLINE f32
min_f32(f32 a, f32 b)
{
    f32 r = a == b ? bits_f32(f32_bits(a) | f32_bits(b)) : a < b ? a : b;

    return cn(a != a ? b : b != b ? a : r);
}
INLINE f32
max_f32(f32 a, f32 b)
{
    f32 r = a == b ? bits_f32(f32_bits(a) & f32_bits(b)) : a > b ? a : b;

    return cn(a != a ? b : b != b ? a : r);
}
INLINE f32 min_nan(f32 a, f32 b) { return a != a || b != b ? nan32() : min_f32(a, b); }
INLINE f32 max_nan(f32 a, f32 b) { return a != a || b != b ? nan32() : max_f32(a, b); }
INLINE f64
min_f64(f64 a, f64 b)
{
    f64 r = a == b ? bits_f64(f64_bits(a) | f64_bits(b)) : a < b ? a : b;

    return a != a ? nan_or(b, b) : b != b ? a : r;
}
INLINE f64
max_f64(f64 a, f64 b)
{
    f64 r = a == b ? bits_f64(f64_bits(a) & f64_bits(b)) : a > b ? a : b;

    return a != a ? nan_or(b, b) : b != b ? a : r;
}

/* The coarse double functions look at and give the upper 32 bits only, of NaN too. */
INLINE f64
upper64(f64 v)
{
    return bits_f64(v == v ? f64_bits(v) & ~0xffffffffull : 0x7fffffffull << 32);
}
INLINE f64
rcp_approx64(f64 a)
{
    u64 u = f64_bits(a);
    f64 r;

    u = (u & 0x7ff0000000000000ull) ? u & ~0xffffffffull : u & 1ull << 63;
    r = 1.0 / bits_f64(u);
    u = f64_bits(r);
    return upper64(bits_f64((u & 0x7ff0000000000000ull) ? u : u & 1ull << 63));
}
INLINE f64
rsqrt_approx64(f64 a)
{
    u64 u = f64_bits(a);
    f64 r;

    u = (u & 0x7ff0000000000000ull) ? u & ~0xffffffffull : u & 1ull << 63;
    r = 1.0 / __builtin_sqrt(bits_f64(u));
    return upper64(r);
}

INLINE s32 sat_s32(s64 v) { return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (s32)v; }
INLINE s32 div_s32(s32 a, s32 b) { return !b ? -1 : b == -1 ? (s32)(0u - (u32)a) : a / b; }
INLINE s64 div_s64(s64 a, s64 b) { return !b ? -1 : b == -1 ? (s64)(0ull - (u64)a) : a / b; }
INLINE s32 rem_s32(s32 a, s32 b) { return !b ? a : b == -1 ? 0 : a % b; }
INLINE s64 rem_s64(s64 a, s64 b) { return !b ? a : b == -1 ? 0 : a % b; }
INLINE s32
f32_s32z(f32 a)
{
    f32 v = a != a ? 0 : a < -2147483648.0f ? -2147483648.0f : a;

    return v >= 2147483648.0f ? INT32_MAX : (s32)(v < 2147483648.0f ? v : 0);
}
INLINE s32
f64_s32z(f64 a)
{
    /* NaN is the least number, unlike in f32_s32z() */
    f64 v = !(a >= -2147483648.0) ? -2147483648.0 : a > 2147483647.0 ? 2147483647.0 : a;

    return (s32)v;
}

INLINE u32
brev32(u32 v)
{
    v = (v >> 1 & 0x55555555u) | (v & 0x55555555u) << 1;
    v = (v >> 2 & 0x33333333u) | (v & 0x33333333u) << 2;
    v = (v >> 4 & 0x0f0f0f0fu) | (v & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(v);
}
INLINE u32 bfind32(u32 v) { return v ? 31 - (u32)__builtin_clz(v) : ~0u; }
INLINE u32 bfind64(u64 v) { return v ? 63 - (u32)__builtin_clzll(v) : ~0u; }
INLINE u32 bfind_shift(u32 p, u32 top) { return p == ~0u ? p : top - p; }

INLINE u32
bfe_u32(u32 a, u32 b, u32 c)
{
    u32 pos = b & 0xff, len = c & 0xff;
    u32 v = pos > 31 ? 0 : a >> (pos & 31);

    return len > 31 ? v : v & ((1u << (len & 31)) - 1);
}
INLINE u32
bfe_s32(u32 a, u32 b, u32 c)
{
    u32 pos = b & 0xff, len = c & 0xff, top, v;
    u32 sign;

    top = pos + len - 1;
    sign = len ? (a >> (top > 31 ? 31 : top) & 1) : 0;
    v = pos > 31 ? 0u - sign : (u32)((s32)a >> (pos & 31));
    if (!len)
        return 0;
    if (len > 31)
        return v;
    v &= (1u << (len & 31)) - 1;
    return v | (sign ? ~((1u << (len & 31)) - 1) : 0);
}
/* The 64-bit ones take position and length whole. */
INLINE u64
bfe_u64(u64 a, u32 pos, u32 len)
{
    u64 v = pos > 63 ? 0 : a >> pos;

    return len > 63 ? v : v & ((1ull << len) - 1);
}
INLINE u64
bfe_s64(u64 a, u32 b, u32 c)
{
    u32 pos = MINI(b, 64u), len = MINI(c, 64u), top = pos + len - 1;
    u64 sign = len ? (a >> (top > 63 ? 63 : top) & 1) : 0, v;

    v = pos > 63 ? 0ull - sign : (u64)((s64)a >> pos);
    if (!len)
        return 0;
    if (len > 63)
        return v;
    v &= (1ull << len) - 1;
    return v | (sign ? ~((1ull << len) - 1) : 0);
}
INLINE u64
bfi_any(u64 a, u64 b, u32 pos, u32 len, u32 width)
{
    u64 mask;

    if (width < 64) {           /* the low bytes of position and length */
        pos &= 0xff;
        len &= 0xff;
    }
    if (pos >= width || !len)
        return b;
    if (len > width - pos)
        len = width - pos;
    mask = (len > 63 ? ~0ull : (1ull << len) - 1) << pos;
    return (b & ~mask) | (a << pos & mask);
}
INLINE u32
bmsk_clamp(u32 a, u32 b)
{
    u32 m = b > 31 ? ~0u : (1u << (b & 31)) - 1;

    return a > 31 ? 0 : m << (a & 31);
}
INLINE u32
find_nth_set(u32 mask, u32 base, s32 offset)
{
    s32 step = offset < 0 ? -1 : 1, left = offset < 0 ? -offset : offset;

    if (base > 31)
        return ~0u;
    if (!offset)
        return mask >> base & 1 ? base : ~0u;
    for (s32 p = (s32)base; p >= 0 && p < 32; p += step)
        if (mask >> p & 1 && --left == 0)
            return (u32)p;
    return ~0u;
}
INLINE u32
prmt(u32 a, u32 b, u32 sel)
{
    u64 v = (u64)b << 32 | a;
    u32 r = 0;

    for (u32 n = 0; n < 4; n++) {
        u32 s = sel >> 4 * n & 15;
        u32 byte = (u32)(v >> 8 * (s & 7)) & 0xff;

        if (s & 8)
            byte = (byte & 0x80) ? 0xff : 0;
        r |= byte << 8 * n;
    }
    return r;
}
INLINE u32 prmt_b4e(u32 c)
{
    c &= 3;
    return (c & 7) | ((c - 1) & 7) << 4 | ((c - 2) & 7) << 8 | ((c - 3) & 7) << 12;
}
INLINE u32 prmt_ecl(u32 c)
{
    c &= 3;
    return MAXI(c, 0u) | MAXI(c, 1u) << 4 | MAXI(c, 2u) << 8 | 3u << 12;
}
INLINE u32 prmt_ecr(u32 c)
{
    c &= 3;
    return MINI(c, 1u) << 4 | MINI(c, 2u) << 8 | c << 12;
}
INLINE u32
dp4a(u32 a, u32 b, u32 c, int sa, int sb)
{
    for (int n = 0; n < 4; n++) {
        s32 p = sa ? (s8)(a >> 8 * n) : (s32)(u8)(a >> 8 * n);
        s32 q = sb ? (s8)(b >> 8 * n) : (s32)(u8)(b >> 8 * n);

        c += (u32)(p * q);
    }
    return c;
}
INLINE u32
dp2a(u32 a, u32 b, u32 c, int sa, int sb, int half)
{
    for (int n = 0; n < 2; n++) {
        s32 p = sa ? (s16)(a >> 16 * n) : (s32)(u16)(a >> 16 * n);
        s32 q = sb ? (s8)(b >> 8 * (n + half)) : (s32)(u8)(b >> 8 * (n + half));

        c += (u32)(p * q);
    }
    return c;
}

#endif
