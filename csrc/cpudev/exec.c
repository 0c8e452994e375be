/*
 * Handlers that work on a whole warp in vector loops. Compiled once per ISA
 * (-DFDCPU_ISA=v2|v3|v4|plain); ops.c chooses a table at run time.
 */
#include "fpconv.h"
#include "vm.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __FMA__
#define FMA32(a, b, c) __builtin_fmaf(a, b, c)
#define FMA64(a, b, c) __builtin_fma(a, b, c)
#elif defined(__aarch64__)
#define FMA32(a, b, c) __builtin_fmaf(a, b, c)
#define FMA64(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA32(a, b, c) soft_fmaf(a, b, c)
#define FMA64(a, b, c) fma(a, b, c)
#endif

#define LANES(l) for (int l = 0; l < FDCPU_LANES; l++)
#define IVDEP _Pragma("GCC ivdep")
#define ALIGNED(type, off) ((type *)__builtin_assume_aligned(r + (off), FDCPU_SLOT))

/* Writes v to the active lanes of d. gcc makes a blend of the second loop. */
#define WRITE(td, v)                                                                         \
    if (q == FDCPU_FULL) {                                                                   \
        IVDEP LANES(l) d[l] = (td)(v);                                                       \
    } else if (q) {                                                                          \
        if (sizeof(td) == 4) {                                                               \
            IVDEP LANES(l) { td t = (td)(v); d[l] = (q & fdcpu_bit[l]) ? t : d[l]; }         \
        } else {                                                                             \
            IVDEP LANES(l) { td t = (td)(v); d[l] = (q & fdcpu_bit64[l]) ? t : d[l]; }       \
        }                                                                                    \
    }

#define VALUE1(ta, expr) ({ ta a = pa[l]; (expr); })
#define VALUE2(ta, tb, expr) ({ ta a = pa[l]; tb b = pb[l]; (expr); })
#define VALUE3(ta, tb, tc, expr) ({ ta a = pa[l]; tb b = pb[l]; tc c = pc[l]; (expr); })

#define UN(name, td, ta, expr, forms)                                                        \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD;                                                            \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        WRITE(td, VALUE1(ta, expr))                                                          \
        FDCPU_NEXT;                                                                          \
    }
#define BI(name, td, ta, tb, expr, forms)                                                    \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD;                                                            \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        const tb *pb = ALIGNED(tb, i->b);                                                    \
        WRITE(td, VALUE2(ta, tb, expr))                                                      \
        FDCPU_NEXT;                                                                          \
    }
#define TR(name, td, ta, tb, tc, expr, forms)                                                \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD;                                                            \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        const tb *pb = ALIGNED(tb, i->b);                                                    \
        const tc *pc = ALIGNED(tc, i->c);                                                    \
        WRITE(td, VALUE3(ta, tb, tc, expr))                                                  \
        FDCPU_NEXT;                                                                          \
    }
#define SUN(name, td, ta, expr, forms)                                                       \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        FDCPU_EACH(l, FDCPU_GUARD)                                                           \
            d[l] = (td)VALUE1(ta, expr);                                                     \
        FDCPU_NEXT;                                                                          \
    }
#define SBI(name, td, ta, tb, expr, forms)                                                   \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        const tb *pb = ALIGNED(tb, i->b);                                                    \
        FDCPU_EACH(l, FDCPU_GUARD)                                                           \
            d[l] = (td)VALUE2(ta, tb, expr);                                                 \
        FDCPU_NEXT;                                                                          \
    }
#define STR(name, td, ta, tb, tc, expr, forms)                                               \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        td *d = ALIGNED(td, i->d);                                                           \
        const ta *pa = ALIGNED(ta, i->a);                                                    \
        const tb *pb = ALIGNED(tb, i->b);                                                    \
        const tc *pc = ALIGNED(tc, i->c);                                                    \
        FDCPU_EACH(l, FDCPU_GUARD)                                                           \
            d[l] = (td)VALUE3(ta, tb, tc, expr);                                             \
        FDCPU_NEXT;                                                                          \
    }
#if defined(__AVX2__)
/* A vector of lanes at a time: its comparison has all bits set or none. */
#ifdef __AVX512DQ__
enum { VECTOR = 64 };
INLINE u32 bits_of_4(__m512i v) { return _mm512_movepi32_mask(v); }
INLINE u32 bits_of_8(__m512i v) { return _mm512_movepi64_mask(v); }
#define AS_MASK(v) ((__m512i)(v))
#else
enum { VECTOR = 32 };
INLINE u32 bits_of_4(__m256i v) { return (u32)_mm256_movemask_ps(_mm256_castsi256_ps(v)); }
INLINE u32 bits_of_8(__m256i v) { return (u32)_mm256_movemask_pd(_mm256_castsi256_pd(v)); }
#define AS_MASK(v) ((__m256i)(v))
#endif
typedef u32 v_u32 __attribute__((vector_size(VECTOR)));
typedef s32 v_s32 __attribute__((vector_size(VECTOR)));
typedef u64 v_u64 __attribute__((vector_size(VECTOR)));
typedef s64 v_s64 __attribute__((vector_size(VECTOR)));
typedef f32 v_f32 __attribute__((vector_size(VECTOR)));
typedef f64 v_f64 __attribute__((vector_size(VECTOR)));
#define COMPARE(ta, expr)                                                                    \
    for (u32 k = 0; k < FDCPU_LANES * sizeof(ta) / VECTOR; k++) {                            \
        v_##ta a = ((const v_##ta *)(const void *)pa)[k];                                    \
        v_##ta b = ((const v_##ta *)(const void *)pb)[k];                                    \
        v |= (sizeof(ta) == 4 ? bits_of_4(AS_MASK(expr)) : bits_of_8(AS_MASK(expr)))         \
             << k * (VECTOR / sizeof(ta));                                                   \
    }
#else
#define COMPARE(ta, expr)                                                                    \
    if (sizeof(ta) == 4) {                                                                   \
        LANES(l) v |= VALUE2(ta, ta, expr) ? fdcpu_bit[l] : 0;                               \
    } else {                                                                                 \
        uint64_t w = 0;                                                                      \
        LANES(l) w |= VALUE2(ta, ta, expr) ? fdcpu_bit64[l] : 0;                             \
        v = (uint32_t)w;                                                                     \
    }
#endif
#define CMP(name, ta, expr, forms)                                                           \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD, v = 0, *d = &FDCPU_PRED(i->d);                             \
        const ta *pa = ALIGNED(ta, i->a), *pb = ALIGNED(ta, i->b);                           \
        COMPARE(ta, expr)                                                                    \
        v ^= 0u - i->aux;                                                                    \
        *d = (*d & ~q) | (v & q);                                                            \
        FDCPU_NEXT;                                                                          \
    }
#define HAND(name, sig, forms)
#define SLOW(name, sig, forms)
#include "ops.def"
#undef UN
#undef BI
#undef TR
#undef SUN
#undef SBI
#undef STR
#undef CMP
#undef HAND
#undef SLOW

/* ---- moves, selections and predicates ---- */

static FDCPU_HANDLER(op_mov128)
{
    uint32_t q = FDCPU_GUARD;
    const u64 *pa = FDCPU_REG(u64, i->a);
    u64 *d = FDCPU_REG(u64, i->d);

    FDCPU_EACH(l, q) {
        d[2 * l] = pa[2 * l];
        d[2 * l + 1] = pa[2 * l + 1];
    }
    FDCPU_NEXT;
}

static FDCPU_HANDLER(op_sel32)
{
    uint32_t q = FDCPU_GUARD, p = FDCPU_PRED(i->c);
    const u32 *pa = ALIGNED(u32, i->a), *pb = ALIGNED(u32, i->b);
    u32 *d = ALIGNED(u32, i->d);

    WRITE(u32, (p & fdcpu_bit[l]) ? pa[l] : pb[l])
    FDCPU_NEXT;
}

static FDCPU_HANDLER(op_sel64)
{
    uint32_t q = FDCPU_GUARD;
    u64 p = FDCPU_PRED(i->c);
    const u64 *pa = ALIGNED(u64, i->a), *pb = ALIGNED(u64, i->b);
    u64 *d = ALIGNED(u64, i->d);

    WRITE(u64, (p & fdcpu_bit64[l]) ? pa[l] : pb[l])
    FDCPU_NEXT;
}

#define PREDICATE(name, expr)                                                                \
    static FDCPU_HANDLER(op_##name)                                                          \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD, a = FDCPU_PRED(i->a), b = FDCPU_PRED(i->b);                \
        uint32_t *d = &FDCPU_PRED(i->d);                                                     \
        (void)b;                                                                             \
        *d = (*d & ~q) | ((expr) & q);                                                       \
        FDCPU_NEXT;                                                                          \
    }
PREDICATE(pmov, a)
PREDICATE(pnot, ~a)
PREDICATE(pand, a & b)
PREDICATE(por, a | b)
PREDICATE(pxor, a ^ b)
PREDICATE(pandn, ~a & b)
PREDICATE(porn, ~a | b)
PREDICATE(pxorn, ~a ^ b)

/* ---- control ---- */

static FDCPU_HANDLER(op_nop)
{
    FDCPU_NEXT;
}

/* A basic block begins: other splits of the frame may be here or further back. */
static FDCPU_HANDLER(op_chk)
{
    if (__builtin_expect(i >= x->merge_ip, 0))
        FDCPU_STOP(i, WHY_MERGE);
    FDCPU_NEXT;
}

/* Goes on at n, which is an OP_chk: what that does is done here. */
#define GO_BLOCK(n)                                                                          \
    do {                                                                                     \
        const struct fdcpu_insn *block_ = (n);                                               \
        if (__builtin_expect(block_ >= x->merge_ip, 0))                                      \
            FDCPU_STOP(block_, WHY_MERGE);                                                   \
        FDCPU_GO(block_ + 1);                                                                \
    } while (0)

/* A jump back over many instructions counts as several. */
#define JUMP_BACK (x->fuel -= 1 + (int32_t)(-i->imm >> 8))

static FDCPU_HANDLER(op_bra)
{
    const struct fdcpu_insn *to = i + i->imm;

    if (i->imm <= 0 && JUMP_BACK < 0)
        FDCPU_STOP(to, WHY_YIELD);
    GO_BLOCK(to);
}

static FDCPU_HANDLER(op_brap)
{
    uint32_t p = FDCPU_PRED(i->a) ^ (0u - i->aux), t = m & p;
    const struct fdcpu_insn *to = i + i->imm;

    if (!t)
        GO_BLOCK(i + 1);
    if (t != m) {
        x->taken = t;
        x->target = to;
        FDCPU_STOP(i, WHY_DIVERGE);
    }
    if (i->imm <= 0 && JUMP_BACK < 0)
        FDCPU_STOP(to, WHY_YIELD);
    GO_BLOCK(to);
}

static FDCPU_HANDLER(op_ldp32)
{
    uint32_t q = FDCPU_GUARD;
    const uint8_t *p = x->params + i->imm;
    u32 *d = ALIGNED(u32, i->d), v = 0;

    switch (i->aux) {
    case T_U8: v = *p; break;
    case T_S8: v = (u32)(s32)*(const s8 *)p; break;
    case T_U16: { u16 h; memcpy(&h, p, 2); v = h; break; }
    case T_S16: { s16 h; memcpy(&h, p, 2); v = (u32)(s32)h; break; }
    default: memcpy(&v, p, 4); break;
    }
    WRITE(u32, v)
    FDCPU_NEXT;
}

static FDCPU_HANDLER(op_ldp64)
{
    uint32_t q = FDCPU_GUARD;
    u64 *d = ALIGNED(u64, i->d), v;

    memcpy(&v, x->params + i->imm, 8);
    WRITE(u64, v)
    FDCPU_NEXT;
}

/* ---- the table ---- */

#define MEMORY_HANDLERS(H)                                                                   \
    H(ld_global) H(ld_shared) H(ld_local) H(ld_any)                                          \
    H(st_global) H(st_shared) H(st_local) H(st_any)
#define DECLARE(name) FDCPU_HANDLER(FDCPU_SYM(fdcpu_op_##name));
MEMORY_HANDLERS(DECLARE)

#define UN(name, ...) [OP_##name] = op_##name,
#define BI UN
#define TR UN
#define SUN UN
#define SBI UN
#define STR UN
#define CMP UN
#define HAND UN
#define SLOW(name, ...)
#define op_ld_global FDCPU_SYM(fdcpu_op_ld_global)
#define op_ld_shared FDCPU_SYM(fdcpu_op_ld_shared)
#define op_ld_local FDCPU_SYM(fdcpu_op_ld_local)
#define op_ld_any FDCPU_SYM(fdcpu_op_ld_any)
#define op_st_global FDCPU_SYM(fdcpu_op_st_global)
#define op_st_shared FDCPU_SYM(fdcpu_op_st_shared)
#define op_st_local FDCPU_SYM(fdcpu_op_st_local)
#define op_st_any FDCPU_SYM(fdcpu_op_st_any)
fdcpu_handler *const FDCPU_SYM(fdcpu_table)[OP_COUNT] = {
#include "ops.def"
};
