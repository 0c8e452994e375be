/*
 * Loads and stores of a whole warp. Addresses are checked together (lowest and highest
 * against one range); only when that fails lane by lane. Compiled once per ISA.
 */
#include "fpconv.h"
#include "vm.h"

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

/* Kept apart from the handlers, so that their jump to the next one stays a jump. */
#define MEMORY(name, work, space)                                                            \
    static __attribute__((noinline)) bool                                                    \
    do_##name(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)         \
    {                                                                                        \
        return work(x, i, m, r, space);                                                      \
    }                                                                                        \
    FDCPU_HANDLER(FDCPU_SYM(fdcpu_op_##name));                                               \
    FDCPU_HANDLER(FDCPU_SYM(fdcpu_op_##name))                                                \
    {                                                                                        \
        if (!do_##name(x, i, m, r))                                                          \
            FDCPU_STOP(i, WHY_FAULT);                                                        \
        FDCPU_NEXT;                                                                          \
    }
MEMORY(ld_global, load, SP_GLOBAL)
MEMORY(ld_shared, load, SP_SHARED)
MEMORY(ld_local, load, SP_LOCAL)
MEMORY(ld_any, load, SP_GENERIC)
MEMORY(st_global, store, SP_GLOBAL)
MEMORY(st_shared, store, SP_SHARED)
MEMORY(st_local, store, SP_LOCAL)
MEMORY(st_any, store, SP_GENERIC)
