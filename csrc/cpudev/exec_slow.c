/*
 * Handlers that take one lane after the other: directed rounding, carries, video, odd
 * bit instructions, clocks, traps. Compiled once, with -frounding-math.
 */
#include "fdc/base.h"
#include "fpconv.h"
#include "slow.h"
#include "vm.h"

#include <fenv.h>

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define W(off) FDCPU_REG(u32, off)
#define L(off) FDCPU_REG(u64, off)

/* ---- bits ---- */

OPEN(lop3)
{
    uint32_t q = FDCPU_GUARD, table = (uint32_t)i->imm;
    const u32 *a = W(i->a), *b = W(i->b), *c = W(i->c);
    u32 *d = W(i->d);

    FDCPU_EACH(l, q) {
        u32 v = 0;

        for (int k = 0; k < 8; k++)
            if (table >> k & 1)
                v |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
        d[l] = v;
    }
    FDCPU_NEXT;
}

OPEN(bfi32)
{
    const u32 *len = W(x->frame->code->ext[i->ext].reg);

    FDCPU_EACH(l, FDCPU_GUARD)
        W(i->d)[l] = (u32)bfi_any(W(i->a)[l], W(i->b)[l], W(i->c)[l], len[l], 32);
    FDCPU_NEXT;
}

OPEN(bfi64)
{
    const u32 *len = W(x->frame->code->ext[i->ext].reg);

    FDCPU_EACH(l, FDCPU_GUARD)
        L(i->d)[l] = bfi_any(L(i->a)[l], L(i->b)[l], W(i->c)[l], len[l], 64);
    FDCPU_NEXT;
}

#define CARRY(name, type, wide, bits)                                                        \
    OPEN(name)                                                                               \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD, cc = FDCPU_PRED(i->c), out = 0;                            \
        const type *a = FDCPU_REG(type, i->a), *b = FDCPU_REG(type, i->b);                   \
        type *d = FDCPU_REG(type, i->d);                                                     \
        FDCPU_EACH(l, q) {                                                                   \
            wide v, in = (i->aux & CARRY_IN) ? cc >> l & 1 : 0;                              \
            v = (i->aux & CARRY_SUB) ? (wide)a[l] - (wide)b[l] - in                          \
                                     : (wide)a[l] + (wide)b[l] + in;                         \
            d[l] = (type)v;                                                                  \
            out |= (uint32_t)(v >> bits & 1) << l;                                           \
        }                                                                                    \
        if (i->aux & CARRY_OUT)                                                              \
            FDCPU_PRED(i->c) = (cc & ~q) | (out & q);                                        \
        FDCPU_NEXT;                                                                          \
    }
CARRY(carry32, u32, u64, 32)
CARRY(carry64, u64, unsigned __int128, 64)

/* ---- video ---- */

static s64
video_part(u32 v, u32 sel, int sign)
{
    if (sel & 32) {
        u32 k = sel & 3;

        if (sel & 16)
            return sign ? (s64)(s16)(v >> 16 * (k & 1)) : (s64)(u16)(v >> 16 * (k & 1));
        return sign ? (s64)(s8)(v >> 8 * k) : (s64)(u8)(v >> 8 * k);
    }
    return sign ? (s64)(s32)v : (s64)v;
}

static s64
clamp_to(s64 v, int bits, int sign)
{
    s64 lo = sign ? -(1ll << (bits - 1)) : 0, hi = sign ? (1ll << (bits - 1)) - 1 : (1ll << bits) - 1;

    return v < lo ? lo : v > hi ? hi : v;
}

static s64
video_op(u32 aux, s64 a, s64 b, s64 c)
{
    s64 v;
    u32 n;

    switch (aux & VIDEO_OP) {
    case VIDEO_ADD: return a + b;
    case VIDEO_SUB: return a - b;
    case VIDEO_ABSDIFF: return a < b ? b - a : a - b;
    case VIDEO_MIN: return a < b ? a : b;
    case VIDEO_MAX: return a > b ? a : b;
    case VIDEO_AVRG: v = a + b; return (v + (v >= 0)) >> 1;
    case VIDEO_SHL:
        n = (aux & VIDEO_WRAP) ? (u32)b & 31 : (u32)b > 32 ? 32 : (u32)b;
        return (s64)((u64)a << n);
    case VIDEO_SHR:
        n = (aux & VIDEO_WRAP) ? (u32)b & 31 : (u32)b > 32 ? 32 : (u32)b;
        return a >> n;
    case VIDEO_MAD:
        v = a * b + c + ((aux & VIDEO_PO) != 0);
        return (aux & VIDEO_SHR7) ? v >> 7 : (aux & VIDEO_SHR15) ? v >> 15 : v;
    default:
        switch (aux >> VIDEO_CMP_SHIFT & 7) {
        case CMP_EQ: return a == b;
        case CMP_NE: return a != b;
        case CMP_LT: return a < b;
        case CMP_LE: return a <= b;
        case CMP_GT: return a > b;
        default: return a >= b;
        }
    }
}

static u32
video_one(u32 aux, u32 sel, u32 a, u32 b, u32 c)
{
    int ds = (aux & VIDEO_DS) != 0;
    s64 v = video_op(aux, video_part(a, sel >> 8, (aux & VIDEO_AS) != 0),
                     video_part(b, sel >> 16, (aux & VIDEO_BS) != 0), ds ? (s64)(s32)c : (s64)c);
    s64 third = ds ? (s64)(s32)c : (s64)c;
    u32 part = sel & 0xff;
    int bits = (part & 32) && (aux >> VIDEO_MERGE_SHIFT & 7) == 4 ? ((part & 16) ? 16 : 8) : 32;

    if (aux & VIDEO_SAT)
        v = clamp_to(v, bits, ds);
    switch (aux >> VIDEO_MERGE_SHIFT & 7) {
    case 1: return (u32)(v + third);
    case 2: v = ds ? (s64)(s32)v : (s64)(u32)v; return (u32)(v < third ? v : third);
    case 3: v = ds ? (s64)(s32)v : (s64)(u32)v; return (u32)(v > third ? v : third);
    case 4: {
        u32 shift = (part & 16) ? 16 * (part & 1) : 8 * (part & 3);
        u32 mask = !(part & 32) ? ~0u : ((part & 16) ? 0xffffu : 0xffu) << shift;

        return (c & ~mask) | ((u32)v << ((part & 32) ? shift : 0) & mask);
    }
    default: return (u32)v;
    }
}

static u32
video_many(u32 aux, u32 n, u32 a, u32 b, u32 c)
{
    u32 bits = 32 / n, mask = (1u << bits) - 1, r = 0, sum = 0;
    int as = (aux & VIDEO_AS) != 0, bs = (aux & VIDEO_BS) != 0, ds = (aux & VIDEO_DS) != 0;

    for (u32 k = 0; k < n; k++) {
        u32 p = a >> bits * k & mask, q = b >> bits * k & mask;
        s64 pv = as ? (s64)(s32)(p << (32 - bits)) >> (32 - bits) : (s64)p;
        s64 qv = bs ? (s64)(s32)(q << (32 - bits)) >> (32 - bits) : (s64)q;
        s64 v = video_op(aux, pv, qv, 0);

        if (aux & VIDEO_SAT)
            v = clamp_to(v, (int)bits, ds);
        sum += (u32)v;
        r |= ((u32)v & mask) << bits * k;
    }
    return (aux >> VIDEO_MERGE_SHIFT & 7) == 1 ? c + sum : r;
}

OPEN(video)
{
    u32 n = i->aux >> VIDEO_LANES_SHIFT & 15;

    FDCPU_EACH(l, FDCPU_GUARD)
        W(i->d)[l] = n == 1 ? video_one(i->aux, i->aux2, W(i->a)[l], W(i->b)[l], W(i->c)[l])
                            : video_many(i->aux, n, W(i->a)[l], W(i->b)[l], W(i->c)[l]);
    FDCPU_NEXT;
}

/* ---- directed rounding ---- */

static const int modes[] = { FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD };

/* Double precision's rule of two and three NaNs; division takes the first, as hosts do. */
static f64
rounded_nan(uint32_t op, f64 b, f64 c, f64 v)
{
    switch (op) {
    case ROUND_ADD: case ROUND_SUB: case ROUND_MUL: return nan_or(b, v);
    case ROUND_FMA: return fma_nan(b, c, v);
    default: return v;
    }
}

#define ROUND(name, type, fma_, sqrt_, in, out)                                              \
    OPEN(name)                                                                               \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD;                                                            \
        const type *pa = FDCPU_REG(type, i->a), *pb = FDCPU_REG(type, i->b);                 \
        const type *pc = FDCPU_REG(type, i->c);                                              \
        type *d = FDCPU_REG(type, i->d);                                                     \
        int old = fegetround(), z = (i->aux & ROUND_FTZ) != 0;                               \
        (void)z;                                                                             \
        fesetround(modes[i->aux >> 4 & 3]);                                                  \
        FDCPU_EACH(l, q) {                                                                   \
            volatile type a = in(pa[l]), b = in(pb[l]), c = in(pc[l]), v;                    \
            switch (i->aux & 15) {                                                           \
            case ROUND_ADD: v = a + b; break;                                                \
            case ROUND_SUB: v = a - b; break;                                                \
            case ROUND_MUL: v = a * b; break;                                                \
            case ROUND_FMA: v = fma_(a, b, c); break;                                        \
            case ROUND_DIV: v = a / b; break;                                                \
            case ROUND_RCP: v = 1 / a; break;                                                \
            default: v = sqrt_(a); break;                                                    \
            }                                                                                \
            d[l] = out(v);                                                                   \
        }                                                                                    \
        fesetround(old);                                                                     \
        FDCPU_NEXT;                                                                          \
    }
#define IN32(v) (z ? fz(v) : (v))
#define OUT32(v) (z ? fz(cn(v)) : cn(v))
#define SAME(v) (v)
#define OUT64(v) rounded_nan(i->aux & 15, b, c, v)
ROUND(round32, f32, fmaf, sqrtf, IN32, OUT32)
ROUND(round64, f64, fma, sqrt, SAME, OUT64)

/* ---- tests and small things ---- */

static bool
testp(int what, int class)
{
    switch (what) {
    case TESTP_FINITE: return class != FP_NAN && class != FP_INFINITE;
    case TESTP_INFINITE: return class == FP_INFINITE;
    case TESTP_NUMBER: return class != FP_NAN;
    case TESTP_NAN: return class == FP_NAN;
    case TESTP_NORMAL: return class == FP_NORMAL || class == FP_ZERO;
    default: return class == FP_SUBNORMAL;
    }
}

#define TESTP(name, type)                                                                    \
    OPEN(name)                                                                               \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD, v = 0;                                                     \
        FDCPU_EACH(l, q)                                                                     \
            v |= (uint32_t)testp((int)i->aux2, fpclassify(FDCPU_REG(type, i->a)[l])) << l;   \
        FDCPU_PRED(i->d) = (FDCPU_PRED(i->d) & ~q) | v;                                      \
        FDCPU_NEXT;                                                                          \
    }
TESTP(testp32, f32)
TESTP(testp64, f64)

OPEN(pack128)
{
    FDCPU_EACH(l, FDCPU_GUARD) {
        u64 lo = L(i->a)[l], hi = L(i->b)[l];

        L(i->d)[2 * l] = lo;
        L(i->d)[2 * l + 1] = hi;
    }
    FDCPU_NEXT;
}

OPEN(unpack128)
{
    FDCPU_EACH(l, FDCPU_GUARD)
        L(i->d)[l] = L(i->a)[2 * l + (i->aux & 1)];
    FDCPU_NEXT;
}

static bool
in_constants(const struct fdcpu_module *m, u64 addr)
{
    for (uint32_t k = 0; k < m->npub; k++)
        if (m->pub[k]->space == FDCPU_CONST && addr >= m->pub[k]->addr &&
            addr - m->pub[k]->addr < m->pub[k]->size)
            return true;
    return false;
}

OPEN(isspacep)
{
    uint32_t q = FDCPU_GUARD, v = 0;
    const struct fdcpu_module *module = x->job->prog->module;

    FDCPU_EACH(l, q) {
        u64 a = L(i->a)[l];
        bool shared = a >= FDCPU_WIN_SHARED && a < FDCPU_WIN_LOCAL;
        bool local = a >= FDCPU_WIN_LOCAL && a < FDCPU_WIN_PARAM;
        bool param = a >= FDCPU_WIN_PARAM && a < FDCPU_WIN_FUNC;
        bool yes = false;

        switch (i->aux) {
        case SP_SHARED: yes = shared; break;
        case SP_LOCAL: yes = local; break;
        case SP_PARAM: yes = param; break;
        case SP_GLOBAL: yes = !shared && !local && !param && !in_constants(module, a); break;
        case SP_CONST: yes = in_constants(module, a); break;
        default: break;
        }
        v |= (uint32_t)yes << l;
    }
    FDCPU_PRED(i->d) = (FDCPU_PRED(i->d) & ~q) | v;
    FDCPU_NEXT;
}

OPEN(lea_local)
{
    u64 v = (u64)i->imm + x->local_base + (i->aux ? FDCPU_WIN_LOCAL : 0);

    FDCPU_EACH(l, FDCPU_GUARD)
        L(i->d)[l] = v;
    FDCPU_NEXT;
}

static u64
clock_value(struct fdcpu_exec *x, uint32_t which)
{
    u64 ns = which == 4 ? 0 : fdc_now_ns();

    (void)x;
    return which == 1 || which == 3 ? ns >> 32 : ns;
}

OPEN(clock32)
{
    u32 v = (u32)clock_value(x, i->aux);

    FDCPU_EACH(l, FDCPU_GUARD)
        W(i->d)[l] = v;
    FDCPU_NEXT;
}

OPEN(clock64)
{
    u64 v = clock_value(x, i->aux);

    FDCPU_EACH(l, FDCPU_GUARD)
        L(i->d)[l] = v;
    FDCPU_NEXT;
}

OPEN(fence)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    FDCPU_NEXT;
}

OPEN(nanosleep)
{
    x->fuel = 0;                /* the next jump back lets others run */
    FDCPU_NEXT;
}

OPEN(trap)
{
    uint32_t q = FDCPU_GUARD;

    if (q) {
        fdcpu_fault_at(x, i, __builtin_ctz(q), 719, "trap instruction");
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_NEXT;
}

OPEN(unsupported)
{
    uint32_t q = FDCPU_GUARD;

    if (q) {
        fdcpu_fault_at(x, i, __builtin_ctz(q), 801, "instruction not supported: %s",
                       (const char *)(intptr_t)i->imm);
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_NEXT;
}
