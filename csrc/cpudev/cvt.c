/* The conversion matrix, one lane at a time: what ops.def's vector rows leave over. */
#include "fpconv.h"
#include "slow.h"
#include "vm.h"

#include <fenv.h>

/*
 * A number on its way: an integer with its sign, or a double. Every float source fits a
 * double exactly.
 */
struct num {
    bool flt, neg;              /* neg: signed integer below zero */
    u64 u;
    f64 f;
};

static f64
e4m3(u32 b)
{
    u32 e = b >> 3 & 15, f = b & 7;
    f64 v = e == 15 && f == 7 ? NAN : e ? ldexp(8 + f, (int)e - 10) : ldexp(f, -9);

    return b & 0x80 ? -v : v;
}

static f64
small_float(u32 b, int ebits, int fbits, int bias, bool special)
{
    u32 e = b >> fbits & ((1u << ebits) - 1), f = b & ((1u << fbits) - 1);
    f64 v;

    if (special && e == (1u << ebits) - 1)
        v = f ? NAN : INFINITY;
    else
        v = e ? ldexp((1 << fbits) + f, (int)e - bias - fbits) : ldexp(f, 1 - bias - fbits);
    return b >> (ebits + fbits) & 1 ? -v : v;
}

static struct num
read_num(unsigned t, u64 raw)
{
    struct num n = { .u = raw };

    switch (t) {
    case T_U8: case T_B8: n.u = (u8)raw; break;
    case T_S8: n.u = (u64)(s64)(s8)raw; n.neg = (s64)n.u < 0; break;
    case T_U16: case T_B16: n.u = (u16)raw; break;
    case T_S16: n.u = (u64)(s64)(s16)raw; n.neg = (s64)n.u < 0; break;
    case T_U32: case T_B32: n.u = (u32)raw; break;
    case T_S32: n.u = (u64)(s64)(s32)raw; n.neg = (s64)n.u < 0; break;
    case T_S64: n.neg = (s64)raw < 0; break;
    case T_F16: n.flt = true; n.f = (f64)h2f((u32)raw); break;
    case T_BF16: n.flt = true; n.f = (f64)bf2f((u32)raw); break;
    case T_F32: case T_TF32: n.flt = true; n.f = (f64)bits_f32((u32)raw); break;
    case T_F64: n.flt = true; n.f = bits_f64(raw); break;
    default: break;
    }
    return n;
}

/* Rounds to an integer in the float's own format. */
static f64
round_int(f64 v, unsigned mode)
{
    switch (mode) {
    case RND_RN: return nearbyint(v);
    case RND_RZ: return trunc(v);
    case RND_RM: return floor(v);
    case RND_RP: return ceil(v);
    case RND_RNA: return round(v);
    default: return v;
    }
}

static u64
to_int(f64 v, unsigned t, unsigned from)
{
    unsigned size = fdcpu_type_size(t) * 8;
    bool sign = fdcpu_type_signed(t);

    if (v != v) {               /* NaN: 0, but the top bit from or to 64 bits */
        if (size < 64 && from != T_F64)
            return 0;
        return sign ? ~0ull << (size - 1) : 1ull << (size - 1);
    }
    if (sign) {
        f64 hi = ldexp(1, (int)size - 1);

        if (v >= hi)
            return ~0ull >> (65 - size);
        if (v < -hi)
            return (u64)-(s64)(~0ull >> (65 - size)) - 1;
        return (u64)(s64)v;
    }
    if (v <= 0)
        return 0;
    if (v >= ldexp(1, (int)size))
        return ~0ull >> (64 - size);
    return (u64)v;
}

/* Rounds a double to a format of p bits of fraction, lowest exponent emin, by the mode. */
static f64
round_to(f64 v, int p, int emin, unsigned mode)
{
    int e;
    f64 unit, q;

    if (v == 0 || v != v || isinf(v))
        return v;
    frexp(v, &e);
    e -= 1;
    if (e < emin)
        e = emin;
    unit = ldexp(1, e - p);
    q = v / unit;               /* a power of two: exact */
    q = mode == RND_RNA ? round(q) : round_int(q, mode == RND_NONE ? RND_RN : mode);
    return q * unit;
}

static u32
pack_small(f64 v, int ebits, int fbits, int bias, u32 sign)
{
    int e;
    f64 a = fabs(v);
    u32 exp, frac;

    (void)ebits;
    if (a == 0)
        return sign;
    frexp(a, &e);
    e -= 1;
    if (e < 1 - bias) {
        exp = 0;
        frac = (u32)ldexp(a, bias - 1 + fbits);
    } else {
        exp = (u32)(e + bias);
        frac = (u32)ldexp(a, fbits - e) - (1u << fbits);
    }
    return sign | exp << fbits | frac;
}

/* A double's NaN cut to a half: quiet, with its sign and upper bits. */
static u32
nan_half(f64 v, bool bf)
{
    u64 u = f64_bits(quiet(v));
    u32 sign = u >> 63 ? 0x8000 : 0;

    return sign | (bf ? 0x7f80 | (u32)(u >> 45 & 0x7f) : 0x7c00 | (u32)(u >> 42 & 0x3ff));
}

static u32
to_half(f64 v, unsigned mode, bool bf, bool satfinite)
{
    f64 max = bf ? 0x1.fep127 : 65504.0, w;
    u32 sign = signbit(v) ? 0x8000 : 0;

    if (v != v)
        return 0x7fff;
    w = round_to(v, bf ? 7 : 10, bf ? -126 : -14, mode);
    if (fabs(w) > max) {
        bool finite = satfinite || mode == RND_RZ || (mode == RND_RM && v > 0) ||
                      (mode == RND_RP && v < 0);

        if (!finite || (isinf(v) && !satfinite))
            return sign | (bf ? 0x7f80 : 0x7c00);
        w = v < 0 ? -max : max;
    }
    return bf ? pack_small(w, 8, 7, 127, sign) : pack_small(w, 5, 10, 15, sign);
}

/* The eight-bit and smaller formats; all saturate to the largest number. */
static u32
to_tiny(f64 v, unsigned t, unsigned mode)
{
    u32 sign;
    f64 w;

    switch (t) {
    case T_E4M3X2:
        sign = signbit(v) ? 0x80 : 0;
        if (v != v)
            return 0x7f;
        w = round_to(v, 3, -6, RND_RN);
        if (fabs(w) > 448)
            w = v < 0 ? -448 : 448;
        return pack_small(w, 4, 3, 7, sign);
    case T_E5M2X2:
        sign = signbit(v) ? 0x80 : 0;
        if (v != v)
            return 0x7f;
        w = round_to(v, 2, -14, RND_RN);
        if (fabs(w) > 57344)
            w = v < 0 ? -57344 : 57344;
        return pack_small(w, 5, 2, 15, sign);
    case T_E2M1X2:
        sign = signbit(v) ? 8 : 0;
        if (v != v)
            return 7;
        w = round_to(v, 1, 0, RND_RN);
        if (fabs(w) > 6)
            w = v < 0 ? -6 : 6;
        return pack_small(w, 2, 1, 1, sign);
    case T_E2M3X2:
        sign = signbit(v) ? 0x20 : 0;
        if (v != v)
            return 0x1f;
        w = round_to(v, 3, 0, RND_RN);
        if (fabs(w) > 7.5)
            w = v < 0 ? -7.5 : 7.5;
        return pack_small(w, 2, 3, 1, sign);
    case T_E3M2X2:
        sign = signbit(v) ? 0x20 : 0;
        if (v != v)
            return 0x1f;
        w = round_to(v, 2, -2, RND_RN);
        if (fabs(w) > 28)
            w = v < 0 ? -28 : 28;
        return pack_small(w, 3, 2, 3, sign);
    default: {                  /* ue8m0: the exponent alone */
        int e;
        f64 a = fabs(v), m;

        if (v != v)
            return 0xff;
        if (a == 0)
            return 0;
        m = frexp(a, &e);
        e -= 1;
        if (mode == RND_RP && m > 0.5)
            e++;
        return e < -127 ? 0 : e > 127 ? 254 : (u32)(e + 127);
    }
    }
}

static f32
to_single(struct num n, unsigned mode)
{
    volatile f32 v;
    int old = fegetround();

    fesetround(mode == RND_RZ ? FE_TOWARDZERO : mode == RND_RM ? FE_DOWNWARD
               : mode == RND_RP ? FE_UPWARD : FE_TONEAREST);
    if (n.flt) {
        volatile f64 f = n.f;

        v = (f32)f;
    } else if (n.neg) {
        volatile s64 s = (s64)n.u;

        v = (f32)s;
    } else {
        volatile u64 u = n.u;

        v = (f32)u;
    }
    fesetround(old);
    return v;
}

static f64
to_double(struct num n, unsigned mode)
{
    volatile f64 v;
    int old = fegetround();

    if (n.flt)
        return n.f;
    fesetround(mode == RND_RZ ? FE_TOWARDZERO : mode == RND_RM ? FE_DOWNWARD
               : mode == RND_RP ? FE_UPWARD : FE_TONEAREST);
    if (n.neg) {
        volatile s64 s = (s64)n.u;

        v = (f64)s;
    } else {
        volatile u64 u = n.u;

        v = (f64)u;
    }
    fesetround(old);
    return v;
}

/* .relu makes +0 of -0 and of all below; NaN stays. */
static f64
relu(f64 v, u32 aux)
{
    return (aux & CVT_RELU) && v <= 0 ? 0 : v;
}

static f64
relu_or_sat(f64 v, u32 aux)
{
    if ((aux & CVT_SAT) != 0)
        v = v > 0 ? (v < 1 ? v : 1) : 0;
    return relu(v, aux);
}

/* Integer to integer: cut, or clamp with .sat. */
static u64
int_to_int(struct num n, unsigned dt, u32 aux)
{
    unsigned bits = fdcpu_type_size(dt) * 8;
    bool sign = fdcpu_type_signed(dt);
    u64 v = n.u;

    if (aux & CVT_SAT) {
        u64 hi = sign ? ~0ull >> (65 - bits) : ~0ull >> (64 - bits);

        if (n.neg) {
            s64 lo = sign ? -(s64)hi - 1 : 0;

            v = (s64)v < lo ? (u64)lo : v;
        } else if (v > hi) {
            v = hi;
        }
    }
    if (bits < 64) {
        v &= ~0ull >> (64 - bits);
        if (sign && v >> (bits - 1) & 1)
            v |= ~0ull << bits;
    }
    return v;
}

/* tf32: 10 bits of fraction kept in a single. */
static u32
to_tf32(f32 v, unsigned mode, u32 aux)
{
    f64 w;

    if (v != v)                 /* ties away is done on the bits, and cuts NaN like a number */
        return mode == RND_RNA && !(aux & CVT_SATFINITE) ? f32_bits(v) & ~0x1fffu : 0x7fffe000;
    if ((aux & CVT_RELU) && v <= 0)
        return 0;
    if (isinf(v))
        return (aux & CVT_SATFINITE) ? (signbit(v) ? 0xff7fe000u : 0x7f7fe000u) : f32_bits(v);
    w = round_to((f64)v, 10, -126, mode == RND_NONE ? RND_RNA : mode);
    if (fabs(w) > 0x1.ffcp127)
        return (aux & CVT_SATFINITE) || mode == RND_RZ ? (v < 0 ? 0xff7fe000u : 0x7f7fe000u)
                                                      : (v < 0 ? 0xff800000u : 0x7f800000u);
    return f32_bits((f32)w);
}

static u64
convert(u32 aux, u64 raw)
{
    unsigned dt = aux & 63, st = aux >> 6 & 63, mode = aux >> 12 & 15;
    struct num n;
    f64 v;
    f32 s;

    switch (st) {               /* packed pairs to packed pairs */
    case T_E4M3X2:
    case T_E5M2X2:
    case T_E2M1X2:
    case T_E2M3X2:
    case T_E3M2X2: {
        u32 h[2], bits = st == T_E2M1X2 ? 4 : 8;

        for (int k = 0; k < 2; k++) {
            u32 b = (u32)raw >> bits * (u32)k & ((1u << bits) - 1);

            v = st == T_E4M3X2 ? e4m3(b) : st == T_E5M2X2 ? small_float(b, 5, 2, 15, true)
                : st == T_E2M1X2 ? small_float(b, 2, 1, 1, false)
                : st == T_E2M3X2 ? small_float(b, 2, 3, 1, false)
                                 : small_float(b, 3, 2, 3, false);
            v = relu_or_sat(v, aux & CVT_RELU);
            h[k] = to_half(v, RND_RN, dt == T_BF16X2, false);
        }
        return x2(h[0], h[1]);
    }
    case T_UE8M0X2: {
        u32 h[2];

        for (int k = 0; k < 2; k++) {
            u32 b = (u32)raw >> 8 * k & 255;

            h[k] = b == 255 ? 0x7fff : to_half(ldexp(1, (int)b - 127), RND_RN, true, false);
        }
        return x2(h[0], h[1]);
    }
    case T_F16X2:
    case T_BF16X2: {
        u32 lo, hi, shift = dt == T_E2M1X2 ? 4 : 8;

        v = (f64)(st == T_F16X2 ? h2f((u32)raw) : bf2f((u32)raw));
        lo = to_tiny(relu_or_sat(v, aux & CVT_RELU), dt, mode);
        v = (f64)(st == T_F16X2 ? h2f((u32)raw >> 16) : bf2f((u32)raw >> 16));
        hi = to_tiny(relu_or_sat(v, aux & CVT_RELU), dt, mode);
        return lo | hi << shift;
    }
    default:
        break;
    }
    n = read_num(st, raw);
    if (n.flt && st == T_F32 && (aux & CVT_FTZ))
        n.f = (f64)cn(fz((f32)n.f));    /* flushing makes the one NaN */
    if (!fdcpu_type_float(dt)) {
        if (!n.flt)
            return int_to_int(n, dt, aux);
        return to_int(round_int(n.f, mode == RND_NONE ? RND_RZ : mode), dt, st);
    }
    if (aux & CVT_INT) {
        v = round_int(to_double(n, RND_RN), mode);
        n.flt = true;
        n.f = v;
        mode = RND_RN;
    }
    switch (dt) {
    case T_F64:
        v = to_double(n, mode);
        if (aux & CVT_SAT)
            v = v > 0 ? (v < 1 ? v : 1) : 0;
        return f64_bits(v);
    case T_F32:
        s = to_single(n, mode);
        if (aux & CVT_FTZ)
            s = fz(s);
        if (aux & CVT_SAT)
            s = s > 0 ? (s < 1 ? s : 1) : 0;
        s = (f32)relu((f64)s, aux);
        return f32_bits(st == T_F64 ? s : cn(s));
    case T_TF32:
        /* the bits as they came: a trip through double would make NaN quiet */
        return to_tf32(st == T_F32 ? bits_f32((u32)raw) : (f32)to_double(n, RND_RN), mode, aux);
    case T_F16:
    case T_BF16:
        if (n.flt) {
            v = n.f;
        } else {
            /* integers: exact or rounded to odd in a double, so that one rounding counts */
            v = n.neg ? (f64)(s64)n.u : (f64)n.u;
            if (fabs(v) >= 0x1p53) {
                u64 mag = n.neg ? 0ull - n.u : n.u, cut = mag & ~0xfffull;

                v = (f64)(cut | (mag != cut ? 0x1000 : 0));
                v = n.neg ? -v : v;
            }
        }
        v = relu_or_sat(v, aux);
        if (v != v && st == T_F64)
            return nan_half(v, dt == T_BF16);
        return to_half(v, mode, dt == T_BF16, (aux & CVT_SATFINITE) != 0);
    default:
        return 0;
    }
}

#define CVT(name, td, ta)                                                                    \
    FDCPU_HANDLER(fdcpu_op_##name);                                                          \
    FDCPU_HANDLER(fdcpu_op_##name)                                                           \
    {                                                                                        \
        FDCPU_EACH(l, FDCPU_GUARD)                                                           \
            FDCPU_REG(td, i->d)[l] = (td)convert(i->aux, FDCPU_REG(ta, i->a)[l]);            \
        FDCPU_NEXT;                                                                          \
    }
CVT(cvt_ww, u32, u32)
CVT(cvt_wl, u32, u64)
CVT(cvt_lw, u64, u32)
CVT(cvt_ll, u64, u64)

/* Two sources into one: the first is the upper half. */
static u32
pack(u32 aux, u32 a, u32 b, u32 c)
{
    unsigned dt = aux & 63, st = aux >> 6 & 63, mode = aux >> 12 & 15;
    f64 hi = (f64)bits_f32(a), lo = (f64)bits_f32(b);
    struct num p = { .u = (u64)(s64)(s32)a, .neg = (s32)a < 0 };
    struct num q = { .u = (u64)(s64)(s32)b, .neg = (s32)b < 0 };

    (void)st;
    switch (dt) {
    case T_U8: case T_S8:
        return c << 16 | ((u32)int_to_int(p, dt, CVT_SAT) & 255) << 8 |
               ((u32)int_to_int(q, dt, CVT_SAT) & 255);
    case T_U16: case T_S16:
        return x2((u32)int_to_int(q, dt, CVT_SAT), (u32)int_to_int(p, dt, CVT_SAT));
    case T_F16X2: case T_BF16X2:
        hi = relu(hi, aux);
        lo = relu(lo, aux);
        return x2(to_half(lo, mode, dt == T_BF16X2, (aux & CVT_SATFINITE) != 0),
                  to_half(hi, mode, dt == T_BF16X2, (aux & CVT_SATFINITE) != 0));
    default:
        hi = relu(hi, aux);
        lo = relu(lo, aux);
        return to_tiny(lo, dt, mode) | to_tiny(hi, dt, mode) << (dt == T_E2M1X2 ? 4 : 8);
    }
}

FDCPU_HANDLER(fdcpu_op_cvt_pack);
FDCPU_HANDLER(fdcpu_op_cvt_pack)
{
    FDCPU_EACH(l, FDCPU_GUARD)
        FDCPU_REG(u32, i->d)[l] = pack(i->aux, FDCPU_REG(u32, i->a)[l], FDCPU_REG(u32, i->b)[l],
                                       FDCPU_REG(u32, i->c)[l]);
    FDCPU_NEXT;
}
