/* Atomic operations, asynchronous copies and mbarriers: one lane after the other. */
#include "fpconv.h"
#include "slow.h"
#include "vm.h"

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define EXT(k) (x->frame->code->ext[i->ext + (k)].reg)

static u64
combine(u32 op, u32 type, u64 old, u64 b)
{
    switch (type) {
    case T_F32: {
        f32 p = bits_f32((u32)old), r = bits_f32((u32)b);

        return f32_bits(op == ATOM_ADD ? cn(p + r) : op == ATOM_MIN ? min_f32(p, r)
                                                                    : max_f32(p, r));
    }
    case T_F64: {
        f64 p = bits_f64(old), r = bits_f64(b);

        return f64_bits(op == ATOM_ADD ? p + r : op == ATOM_MIN ? min_f64(p, r) : max_f64(p, r));
    }
    case T_F16X2:
    case T_F16: {
        u32 lo = f2h(op == ATOM_ADD ? h2f((u32)old) + h2f((u32)b)
                     : op == ATOM_MIN ? min_f32(h2f((u32)old), h2f((u32)b))
                                      : max_f32(h2f((u32)old), h2f((u32)b)));
        u32 oh = (u32)old >> 16, bh = (u32)b >> 16;

        if (type == T_F16)
            return lo;
        return x2(lo, f2h(op == ATOM_ADD ? h2f(oh) + h2f(bh)
                          : op == ATOM_MIN ? min_f32(h2f(oh), h2f(bh)) : max_f32(h2f(oh), h2f(bh))));
    }
    case T_BF16X2:
    case T_BF16: {
        u32 lo = f2bf(op == ATOM_ADD ? bf2f((u32)old) + bf2f((u32)b)
                      : op == ATOM_MIN ? min_f32(bf2f((u32)old), bf2f((u32)b))
                                       : max_f32(bf2f((u32)old), bf2f((u32)b)));
        u32 oh = (u32)old >> 16, bh = (u32)b >> 16;

        if (type == T_BF16)
            return lo;
        return x2(lo, f2bf(op == ATOM_ADD ? bf2f(oh) + bf2f(bh)
                           : op == ATOM_MIN ? min_f32(bf2f(oh), bf2f(bh))
                                            : max_f32(bf2f(oh), bf2f(bh))));
    }
    default:
        break;
    }
    switch (op) {
    case ATOM_ADD: return old + b;
    case ATOM_MIN:
        return type == T_S32   ? ((s32)old < (s32)b ? old : b)
               : type == T_S64 ? ((s64)old < (s64)b ? old : b) : (old < b ? old : b);
    case ATOM_MAX:
        return type == T_S32   ? ((s32)old > (s32)b ? old : b)
               : type == T_S64 ? ((s64)old > (s64)b ? old : b) : (old > b ? old : b);
    case ATOM_AND: return old & b;
    case ATOM_OR: return old | b;
    case ATOM_XOR: return old ^ b;
    case ATOM_INC: return (u32)old >= (u32)b ? 0 : (u32)old + 1;
    case ATOM_DEC: return (u32)old == 0 || (u32)old > (u32)b ? b : (u32)old - 1;
    default: return b;
    }
}

#define SWAP(type)                                                                           \
    static u64 swap_##type(void *at, u32 op, u32 t, u64 b, u64 c)                            \
    {                                                                                        \
        type *p = at, old, new;                                                              \
        if (op == ATOM_EXCH)                                                                 \
            return __atomic_exchange_n(p, (type)b, __ATOMIC_SEQ_CST);                        \
        if (op == ATOM_CAS) {                                                                \
            old = (type)b;                                                                   \
            __atomic_compare_exchange_n(p, &old, (type)c, false, __ATOMIC_SEQ_CST,           \
                                        __ATOMIC_SEQ_CST);                                   \
            return old;                                                                      \
        }                                                                                    \
        if (op == ATOM_ADD && !fdcpu_type_float(t))                                          \
            return __atomic_fetch_add(p, (type)b, __ATOMIC_SEQ_CST);                         \
        old = __atomic_load_n(p, __ATOMIC_RELAXED);                                          \
        do                                                                                   \
            new = (type)combine(op, t, old, b);                                              \
        while (!__atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST,           \
                                            __ATOMIC_RELAXED));                              \
        return old;                                                                          \
    }
SWAP(u16)
SWAP(u32)
SWAP(u64)

/* 128 bits: one lock for all, for not every machine has the instruction. */
static pthread_mutex_t wide_lock = PTHREAD_MUTEX_INITIALIZER;

static __attribute__((noinline)) bool
do_atom(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t q = FDCPU_GUARD, op = i->aux2 & 255, t = i->aux2 >> 8 & 255;
    uint32_t size = fdcpu_type_size((enum fdcpu_type)t);
    int space = (int)(i->aux >> MEM_SPACE_SHIFT & 7);

    FDCPU_EACH(l, q) {
        void *p = fdcpu_lane_address(x, i, l, space, fdcpu_address(x, i, r, l), size, size, true);

        if (!p)
            return false;
        switch (size) {
        case 2:
            FDCPU_REG(u32, EXT(0))[l] = (u32)swap_u16(p, op, t, FDCPU_REG(u32, EXT(1))[l],
                                                      FDCPU_REG(u32, EXT(2))[l]);
            break;
        case 4:
            FDCPU_REG(u32, EXT(0))[l] = (u32)swap_u32(p, op, t, FDCPU_REG(u32, EXT(1))[l],
                                                      FDCPU_REG(u32, EXT(2))[l]);
            break;
        case 8:
            FDCPU_REG(u64, EXT(0))[l] = swap_u64(p, op, t, FDCPU_REG(u64, EXT(1))[l],
                                                 FDCPU_REG(u64, EXT(2))[l]);
            break;
        default: {
            const u64 *b = FDCPU_REG(u64, EXT(1)) + 2 * l, *c = FDCPU_REG(u64, EXT(2)) + 2 * l;
            u64 *at = p, old[2];

            pthread_mutex_lock(&wide_lock);
            memcpy(old, at, 16);
            if (op == ATOM_EXCH || (old[0] == b[0] && old[1] == b[1]))
                memcpy(at, op == ATOM_EXCH ? b : c, 16);
            pthread_mutex_unlock(&wide_lock);
            memcpy(FDCPU_REG(u64, EXT(0)) + 2 * l, old, 16);
            break;
        }
        }
    }
    return true;
}

OPEN(atom)
{
    if (!do_atom(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* The copy is made at once; groups and waits then have nothing to do. */
static __attribute__((noinline)) bool
do_cpasync(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t q = FDCPU_GUARD, size = i->aux2 & 0xff;
    const u32 *take = FDCPU_REG(u32, EXT(0));

    FDCPU_EACH(l, q) {
        uint8_t *to = fdcpu_lane_address(x, i, l, SP_SHARED, fdcpu_address(x, i, r, l), size, size,
                                         true);
        u64 from = (i->aux2 & 0x100) ? FDCPU_REG(u32, i->b)[l] : FDCPU_REG(u64, i->b)[l];
        u32 n = take[l] < size ? take[l] : size;

        if (!to)
            return false;
        if (n) {
            const void *p = fdcpu_lane_address(x, i, l, SP_GLOBAL, from, n, size > 1 ? size : 1,
                                               false);

            if (!p)
                return false;
            memcpy(to, p, n);
        }
        memset(to + n, 0, size - n);
    }
    return true;
}

OPEN(cpasync)
{
    if (!do_cpasync(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/*
 * An mbarrier in 64 bits: pending arrivals 0-19, expected 20-39, phase 40,
 * bytes outstanding 41-62 (signed).
 */
#define MB_PENDING(v) ((u32)(v) & 0xfffff)
#define MB_EXPECTED(v) ((u32)((v) >> 20) & 0xfffff)
#define MB_PHASE(v) ((u32)((v) >> 40) & 1)
#define MB_TX(v) ((s32)((u32)((v) >> 41) << 10) >> 10)

static u64
mb_make(u32 pending, u32 expected, u32 phase, s32 tx)
{
    return (u64)pending | (u64)expected << 20 | (u64)phase << 40 |
           (u64)((u32)tx & 0x3fffff) << 41;
}

static u64
mb_settle(u64 v)
{
    if (!MB_PENDING(v) && !MB_TX(v))
        return mb_make(MB_EXPECTED(v), MB_EXPECTED(v), !MB_PHASE(v), 0);
    return v;
}

static __attribute__((noinline)) bool
do_mbarrier(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t q = FDCPU_GUARD, op = i->aux2 & 15, flags = i->aux2;
    int space = (int)(i->aux >> MEM_SPACE_SHIFT & 7);

    FDCPU_EACH(l, q) {
        u64 *p = fdcpu_lane_address(x, i, l, space, fdcpu_address(x, i, r, l), 8, 8, true);
        u64 v;
        u32 n;
        bool done;

        if (!p)
            return false;
        v = *p;
        switch (op) {
        case MBAR_INIT:
            n = FDCPU_REG(u32, EXT(1))[l] & 0xfffff;
            *p = mb_make(n, n, 0, 0);
            break;
        case MBAR_INVAL:
            *p = 0;
            break;
        case MBAR_ARRIVE:
        case MBAR_ARRIVE_DROP:
            n = FDCPU_REG(u32, EXT(1))[l];
            if (!(flags & MBAR_SINK))
                FDCPU_REG(u64, EXT(0))[l] = v;
            if (flags & MBAR_EXPECT) {
                v = mb_make(MB_PENDING(v), MB_EXPECTED(v), MB_PHASE(v), MB_TX(v) + (s32)n);
                n = 1;
            }
            if (n > MB_PENDING(v)) {
                fdcpu_fault_at(x, i, (int)l, 719, "mbarrier: %u arrivals where %u are due", n,
                               MB_PENDING(v));
                return false;
            }
            v = mb_make(MB_PENDING(v) - n, MB_EXPECTED(v) - (op == MBAR_ARRIVE_DROP ? n : 0),
                        MB_PHASE(v), MB_TX(v));
            *p = (flags & MBAR_NOCOMPLETE) ? v : mb_settle(v);
            break;
        case MBAR_EXPECT_TX:
        case MBAR_COMPLETE_TX:
            n = FDCPU_REG(u32, EXT(1))[l];
            v = mb_make(MB_PENDING(v), MB_EXPECTED(v), MB_PHASE(v),
                        MB_TX(v) + (op == MBAR_EXPECT_TX ? (s32)n : -(s32)n));
            *p = op == MBAR_COMPLETE_TX ? mb_settle(v) : v;
            break;
        default:
            /* a phase is complete when the barrier's parity is no longer the asked one */
            done = (flags & MBAR_PARITY) ? MB_PHASE(v) != (FDCPU_REG(u32, EXT(1))[l] & 1)
                                         : MB_PHASE(v) != MB_PHASE(FDCPU_REG(u64, EXT(1))[l]);
            FDCPU_PRED(EXT(0)) = (FDCPU_PRED(EXT(0)) & ~(1u << l)) | (u32)done << l;
            if (!done)
                x->fuel = 0;    /* let the others come */
            break;
        }
    }
    return true;
}

OPEN(mbarrier)
{
    if (!do_mbarrier(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}
