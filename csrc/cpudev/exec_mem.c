/*
 * Loads and stores of a whole warp. Addresses are checked together (lowest and highest
 * against one range); only when that fails lane by lane. Compiled once per ISA.
 */
#include "fpconv.h"
#include "vm.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES(l) for (int l = 0; l < FDCPU_LANES; l++)
#define IVDEP _Pragma("GCC ivdep")
#define COLD __attribute__((noinline, cold))

/* Addresses of the active lanes; afterwards addresses in host memory. */
struct access {
    uint64_t at[FDCPU_LANES];
    uint32_t lanes;
    bool row;                   /* full warp, one element after the other */
    bool same;                  /* one address for all */
};

static const uint8_t sizes[T_COUNT] = {
    [T_B8] = 1, [T_U8] = 1, [T_S8] = 1, [T_B16] = 2, [T_U16] = 2, [T_S16] = 2, [T_F16] = 2,
    [T_BF16] = 2, [T_B32] = 4, [T_U32] = 4, [T_S32] = 4, [T_F32] = 4, [T_F16X2] = 4,
    [T_BF16X2] = 4, [T_TF32] = 4, [T_B64] = 8, [T_U64] = 8, [T_S64] = 8, [T_F64] = 8,
    [T_F32X2] = 8, [T_B128] = 16,
};

/* Some lane may be wrong: looks at each by itself. False after a fault. */
static COLD bool
each_lane(struct fdcpu_exec *x, const struct fdcpu_insn *i, struct access *a, int space,
          uint32_t size, bool store)
{
    FDCPU_EACH(l, a->lanes) {
        void *p = fdcpu_lane_address(x, i, l, space, a->at[l], size, size, store);

        if (!p)
            return false;
        a->at[l] = (uintptr_t)p;
    }
    return true;
}

/* Finds, checks and translates the addresses. False after a fault. */
static inline __attribute__((always_inline)) bool
reach(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, struct access *a, int space,
      uint32_t size, bool store)
{
    uint64_t add = (uint64_t)i->imm, wrong = 0, spread = 0, first;
    int64_t lo, hi;

    if (i->aux & MEM_FRAME)
        add += x->local_base;
    if (i->aux & MEM_A32) {
        const u32 *base = FDCPU_REG(u32, i->a);

        IVDEP LANES(l) a->at[l] = base[l] + add;
    } else {
        const u64 *base = FDCPU_REG(u64, i->a);

        IVDEP LANES(l) a->at[l] = base[l] + add;
    }
    if (a->lanes != FDCPU_FULL) {
        first = a->at[__builtin_ctz(a->lanes)];
        IVDEP LANES(l) a->at[l] = (a->lanes & fdcpu_bit64[l]) ? a->at[l] : first;
    }
    first = a->at[0];
    lo = hi = (int64_t)first;
    LANES(l) {
        int64_t v = (int64_t)a->at[l];

        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
        wrong |= a->at[l];
        spread |= a->at[l] - first - (uint64_t)l * size;
    }
    a->same = lo == hi;
    a->row = !spread && a->lanes == FDCPU_FULL;
    wrong &= size - 1;

    if (space == SP_SHARED) {
        uint64_t base = (uintptr_t)x->shared;

        if (wrong || lo < 0 || (uint64_t)hi + size > x->shared_size)
            return each_lane(x, i, a, space, size, store);
        IVDEP LANES(l) a->at[l] += base;
        return true;
    }
    if (space == SP_LOCAL) {
        uint64_t base = (uintptr_t)x->local;

        if (wrong || lo < 0 || (uint64_t)hi + size > x->local_stride)
            return each_lane(x, i, a, space, size, store);
        a->same = a->row = false;
        LANES(l) a->at[l] += base + (uint64_t)l * x->local_stride;
        return true;
    }
    if (wrong || lo < 0 || !fdcpu_in_range(x, i, (uint64_t)lo, (uint64_t)hi + size, store)) {
        a->same = a->row = false;
        return each_lane(x, i, a, space, size, store);
    }
    return true;
}

#define LOAD(tm, td)                                                                         \
    for (unsigned k = 0; k < n; k++) {                                                       \
        td *d = FDCPU_REG(td, n > 1 ? x->frame->code->ext[i->ext + k].reg : i->d);           \
        if (a.same) {                                                                        \
            td v = (td)((const tm *)(uintptr_t)a.at[0])[k];                                  \
            if (a.lanes == FDCPU_FULL)                                                       \
                LANES(l) d[l] = v;                                                           \
            else                                                                             \
                FDCPU_EACH(l, a.lanes) d[l] = v;                                             \
        } else if (a.row && n == 1) {                                                        \
            const tm *p = (const tm *)(uintptr_t)a.at[0];                                    \
            IVDEP LANES(l) d[l] = (td)p[l];                                                  \
        } else if (a.lanes == FDCPU_FULL) {                                                  \
            LANES(l) d[l] = (td)((const tm *)(uintptr_t)a.at[l])[k];                         \
        } else {                                                                             \
            FDCPU_EACH(l, a.lanes) d[l] = (td)((const tm *)(uintptr_t)a.at[l])[k];           \
        }                                                                                    \
    }

static inline __attribute__((always_inline)) bool
load(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r, int space)
{
    struct access a;
    unsigned n = i->n ? i->n : 1, type = i->aux & MEM_TYPE;

    a.lanes = FDCPU_GUARD;
    if (!a.lanes)
        return true;
    if (!reach(x, i, r, &a, space, sizes[type] * n, false))
        return false;
    switch (type) {
    case T_U8: case T_B8: LOAD(u8, u32) break;
    case T_S8: LOAD(s8, s32) break;
    case T_U16: case T_B16: case T_F16: case T_BF16: LOAD(u16, u32) break;
    case T_S16: LOAD(s16, s32) break;
    case T_B128:
        for (unsigned k = 0; k < n; k++) {
            u64 *d = FDCPU_REG(u64, n > 1 ? x->frame->code->ext[i->ext + k].reg : i->d);

            FDCPU_EACH(l, a.lanes) {
                d[2 * l] = ((const u64 *)(uintptr_t)a.at[l])[2 * k];
                d[2 * l + 1] = ((const u64 *)(uintptr_t)a.at[l])[2 * k + 1];
            }
        }
        break;
    default:
        if (sizes[type] == 8)
            LOAD(u64, u64)
        else
            LOAD(u32, u32)
        break;
    }
    if (i->aux & MEM_ACQUIRE)
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return true;
}

#define STORE(tm, td)                                                                        \
    for (unsigned k = 0; k < n; k++) {                                                       \
        const td *s = FDCPU_REG(td, n > 1 ? x->frame->code->ext[i->ext + k].reg : i->d);     \
        if (a.row && n == 1) {                                                               \
            tm *p = (tm *)(uintptr_t)a.at[0];                                                \
            IVDEP LANES(l) p[l] = (tm)s[l];                                                  \
        } else {                                                                             \
            FDCPU_EACH(l, a.lanes) ((tm *)(uintptr_t)a.at[l])[k] = (tm)s[l];                 \
        }                                                                                    \
    }

static inline __attribute__((always_inline)) bool
store(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r, int space)
{
    struct access a;
    unsigned n = i->n ? i->n : 1, type = i->aux & MEM_TYPE;

    a.lanes = FDCPU_GUARD;
    if (!a.lanes)
        return true;
    if (!reach(x, i, r, &a, space, sizes[type] * n, true))
        return false;
    if (i->aux & MEM_RELEASE)
        __atomic_thread_fence(__ATOMIC_RELEASE);
    switch (sizes[type]) {
    case 1: STORE(u8, u32) break;
    case 2: STORE(u16, u32) break;
    case 4: STORE(u32, u32) break;
    case 8: STORE(u64, u64) break;
    default:
        for (unsigned k = 0; k < n; k++) {
            const u64 *s = FDCPU_REG(u64, n > 1 ? x->frame->code->ext[i->ext + k].reg : i->d);

            FDCPU_EACH(l, a.lanes) {
                ((u64 *)(uintptr_t)a.at[l])[2 * k] = s[2 * l];
                ((u64 *)(uintptr_t)a.at[l])[2 * k + 1] = s[2 * l + 1];
            }
        }
        break;
    }
    return true;
}

/* ---- the usual: a full warp whose halves are each a row or one element ---- */

/*
 * Halves, for blocks are often 16 wide. A half whose addresses follow one another, or are
 * all the same, is one vector access, and its bounds are those of two lanes.
 */
enum { HALF = FDCPU_LANES / 2 };
enum pattern { P_ANY, P_ROW, P_SAME };

#define STEPS(s)                                                                             \
    { 0, 1 * s, 2 * s, 3 * s, 4 * s, 5 * s, 6 * s, 7 * s, 8 * s, 9 * s, 10 * s, 11 * s,      \
      12 * s, 13 * s, 14 * s, 15 * s }
static const u32 steps32[4][HALF] __attribute__((aligned(64))) = { STEPS(1), STEPS(2),
                                                                   STEPS(4), STEPS(8) };
static const u64 steps64[4][HALF] __attribute__((aligned(64))) = { STEPS(1), STEPS(2),
                                                                   STEPS(4), STEPS(8) };

static inline __attribute__((always_inline)) enum pattern
pattern32(const u32 *a, unsigned shift)
{
#ifdef __AVX512F__
    __m512i v = _mm512_load_si512(a), first = _mm512_set1_epi32((int)a[0]);
    __m512i row = _mm512_add_epi32(first, _mm512_load_si512(steps32[shift]));

    return !_mm512_cmpneq_epi32_mask(v, row) ? P_ROW
           : !_mm512_cmpneq_epi32_mask(v, first) ? P_SAME : P_ANY;
#elif defined(__AVX2__)
    const __m256i *v = (const __m256i *)(const void *)a;
    const __m256i *step = (const __m256i *)(const void *)steps32[shift];
    __m256i first = _mm256_set1_epi32((int)a[0]);
    __m256i low = _mm256_sub_epi32(v[0], first), high = _mm256_sub_epi32(v[1], first);
    __m256i row = _mm256_or_si256(_mm256_xor_si256(low, step[0]),
                                  _mm256_xor_si256(high, step[1]));
    __m256i same = _mm256_or_si256(low, high);

    return _mm256_testz_si256(row, row) ? P_ROW : _mm256_testz_si256(same, same) ? P_SAME : P_ANY;
#else
    u32 row = 0, same = 0;

    for (int l = 0; l < HALF; l++) {
        row |= a[l] - a[0] - steps32[shift][l];
        same |= a[l] - a[0];
    }
    return !row ? P_ROW : !same ? P_SAME : P_ANY;
#endif
}

static inline __attribute__((always_inline)) enum pattern
pattern64(const u64 *a, unsigned shift)
{
#ifdef __AVX512F__
    __m512i v = _mm512_load_si512(a), w = _mm512_load_si512(a + 8);
    __m512i first = _mm512_set1_epi64((long long)a[0]);
    __m512i row = _mm512_add_epi64(first, _mm512_load_si512(steps64[shift]));
    __m512i more = _mm512_add_epi64(first, _mm512_load_si512(steps64[shift] + 8));

    return !(_mm512_cmpneq_epi64_mask(v, row) | _mm512_cmpneq_epi64_mask(w, more)) ? P_ROW
           : !(_mm512_cmpneq_epi64_mask(v, first) | _mm512_cmpneq_epi64_mask(w, first))
               ? P_SAME : P_ANY;
#elif defined(__AVX2__)
    const __m256i *v = (const __m256i *)(const void *)a;
    const __m256i *step = (const __m256i *)(const void *)steps64[shift];
    __m256i first = _mm256_set1_epi64x((long long)a[0]);
    __m256i row = _mm256_setzero_si256(), same = row;

    for (int k = 0; k < 4; k++) {
        __m256i from_first = _mm256_sub_epi64(v[k], first);

        row = _mm256_or_si256(row, _mm256_xor_si256(from_first, step[k]));
        same = _mm256_or_si256(same, from_first);
    }
    return _mm256_testz_si256(row, row) ? P_ROW : _mm256_testz_si256(same, same) ? P_SAME : P_ANY;
#else
    u64 row = 0, same = 0;

    for (int l = 0; l < HALF; l++) {
        row |= a[l] - a[0] - steps64[shift][l];
        same |= a[l] - a[0];
    }
    return !row ? P_ROW : !same ? P_SAME : P_ANY;
#endif
}

struct halves {
    uint64_t at[2];             /* host addresses of the first lanes */
    enum pattern pattern[2];
};

/* False where the long way must decide. */
static inline __attribute__((always_inline)) bool
find_halves(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, struct halves *h,
            int space, unsigned shift, bool store)
{
    uint64_t add = (uint64_t)i->imm, size = 1ull << shift, end[2], lo, hi;

    if (i->aux & MEM_A32) {
        const u32 *a = FDCPU_REG(u32, i->a);

        for (int k = 0; k < 2; k++) {
            h->pattern[k] = pattern32(a + k * HALF, shift);
            h->at[k] = a[k * HALF] + add;
        }
    } else {
        const u64 *a = FDCPU_REG(u64, i->a);

        for (int k = 0; k < 2; k++) {
            h->pattern[k] = pattern64(a + k * HALF, shift);
            h->at[k] = a[k * HALF] + add;
        }
    }
    if (h->pattern[0] == P_ANY || h->pattern[1] == P_ANY)
        return false;
    for (int k = 0; k < 2; k++)
        end[k] = h->at[k] + (h->pattern[k] == P_ROW ? size * HALF : size);
    lo = h->at[0] < h->at[1] ? h->at[0] : h->at[1];
    hi = end[0] > end[1] ? end[0] : end[1];
    /* below 2^62 nothing above has wrapped */
    if (((h->at[0] | h->at[1]) & (size - 1)) || (h->at[0] | h->at[1]) >> 62)
        return false;
    if (space == SP_SHARED) {
        if (hi > x->shared_size)
            return false;
        h->at[0] += (uintptr_t)x->shared;
        h->at[1] += (uintptr_t)x->shared;
        return true;
    }
    return fdcpu_in_range(x, i, lo, hi, store);
}

#define LOAD_HALVES(tm, td, shift)                                                           \
    {                                                                                        \
        if (!find_halves(x, i, r, &h, space, shift, false))                                  \
            return false;                                                                    \
        for (int k = 0; k < 2; k++) {                                                        \
            td *d = (td *)__builtin_assume_aligned(r + i->d, FDCPU_SLOT) + k * HALF;         \
            const tm *p = (const tm *)(uintptr_t)h.at[k];                                    \
            if (h.pattern[k] == P_ROW && sizeof(td) == sizeof(tm)) {                         \
                memcpy(d, p, HALF * sizeof(tm));                                             \
            } else if (h.pattern[k] == P_ROW) {                                              \
                IVDEP for (int l = 0; l < HALF; l++) d[l] = (td)p[l];                        \
            } else {                                                                         \
                td v = (td)*p;                                                               \
                IVDEP for (int l = 0; l < HALF; l++) d[l] = v;                               \
            }                                                                                \
        }                                                                                    \
        return true;                                                                         \
    }
#define STORE_HALVES(tm, td, shift)                                                          \
    {                                                                                        \
        if (!find_halves(x, i, r, &h, space, shift, true))                                   \
            return false;                                                                    \
        for (int k = 0; k < 2; k++) {           /* in order: the last lane's value stays */  \
            const td *s = (const td *)__builtin_assume_aligned(r + i->d, FDCPU_SLOT) +       \
                          k * HALF;                                                          \
            tm *p = (tm *)(uintptr_t)h.at[k];                                                \
            if (h.pattern[k] == P_ROW && sizeof(td) == sizeof(tm)) {                         \
                memcpy(p, s, HALF * sizeof(tm));                                             \
            } else if (h.pattern[k] == P_ROW) {                                              \
                IVDEP for (int l = 0; l < HALF; l++) p[l] = (tm)s[l];                        \
            } else {                                                                         \
                *p = (tm)s[HALF - 1];                                                        \
            }                                                                                \
        }                                                                                    \
        return true;                                                                         \
    }

/* aux of what may go the short way: the plain access of one element of these types */
enum { MEM_LONG = MEM_FRAME | MEM_ACQUIRE | MEM_RELEASE | MEM_VOLATILE };

/* True when all is done, false when nothing is. */
static inline __attribute__((always_inline)) bool
load_halves(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t q, char *r, int space)
{
    struct halves h;

    if (q != FDCPU_FULL || i->n || (i->aux & MEM_LONG))
        return false;
    switch (i->aux & MEM_TYPE) {
    case T_B32: case T_U32: case T_S32: case T_F32: case T_F16X2: case T_BF16X2:
        LOAD_HALVES(u32, u32, 2)
    case T_B64: case T_U64: case T_S64: case T_F64:
        LOAD_HALVES(u64, u64, 3)
    case T_U8: case T_B8:
        LOAD_HALVES(u8, u32, 0)
    case T_U16: case T_B16: case T_F16: case T_BF16:
        LOAD_HALVES(u16, u32, 1)
    default:
        return false;
    }
}

static inline __attribute__((always_inline)) bool
store_halves(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t q, char *r, int space)
{
    struct halves h;

    if (q != FDCPU_FULL || i->n || (i->aux & MEM_LONG))
        return false;
    switch (i->aux & MEM_TYPE) {
    case T_B32: case T_U32: case T_S32: case T_F32: case T_F16X2: case T_BF16X2:
        STORE_HALVES(u32, u32, 2)
    case T_B64: case T_U64: case T_S64: case T_F64:
        STORE_HALVES(u64, u64, 3)
    case T_U8: case T_B8: case T_S8:
        STORE_HALVES(u8, u32, 0)
    case T_U16: case T_B16: case T_F16: case T_BF16: case T_S16:
        STORE_HALVES(u16, u32, 1)
    default:
        return false;
    }
}

static inline __attribute__((always_inline)) bool
no_halves(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t q, char *r, int space)
{
    (void)x, (void)i, (void)q, (void)r, (void)space;
    return false;
}

/* Kept apart from the handlers, so that their jump to the next one stays a jump. */
#define MEMORY(name, quick, work, space)                                                     \
    static __attribute__((noinline)) bool                                                    \
    do_##name(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)         \
    {                                                                                        \
        return work(x, i, m, r, space);                                                      \
    }                                                                                        \
    FDCPU_HANDLER(FDCPU_SYM(fdcpu_op_##name));                                               \
    FDCPU_HANDLER(FDCPU_SYM(fdcpu_op_##name))                                                \
    {                                                                                        \
        if (!quick(x, i, FDCPU_GUARD, r, space) && !do_##name(x, i, m, r))                   \
            FDCPU_STOP(i, WHY_FAULT);                                                        \
        FDCPU_NEXT;                                                                          \
    }
MEMORY(ld_global, load_halves, load, SP_GLOBAL)
MEMORY(ld_shared, load_halves, load, SP_SHARED)
MEMORY(ld_local, no_halves, load, SP_LOCAL)
MEMORY(ld_any, load_halves, load, SP_GENERIC)
MEMORY(st_global, store_halves, store, SP_GLOBAL)
MEMORY(st_shared, store_halves, store, SP_SHARED)
MEMORY(st_local, no_halves, store, SP_LOCAL)
MEMORY(st_any, store_halves, store, SP_GENERIC)
