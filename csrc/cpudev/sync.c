/*
 * Operations of several lanes: shuffles, votes, matches, reductions, barriers of a warp.
 * A split that lacks lanes of its member mask waits here until they arrive or exit.
 */
#include "fpconv.h"
#include "slow.h"
#include "vm.h"

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define W(off) FDCPU_REG(u32, off)
#define L(off) FDCPU_REG(u64, off)
#define EXT(k) (x->frame->code->ext[i->ext + (k)].reg)

/*
 * Lanes of q whose whole group is in q, lanes that have exited not counted. Where lanes name
 * different groups, each whom one of them names has to be such a lane too: those that are
 * left out wait, and the others are asked again without them.
 */
static uint32_t
complete(const struct fdcpu_exec *x, const u32 *mask, uint32_t q)
{
    u32 first = mask[__builtin_ctz(q)], ready = q, before;
    bool same = true;

    FDCPU_EACH(l, q)
        same &= mask[l] == first;
    if (same)
        return (first & x->live & ~q) ? 0 : q;
    do {
        before = ready;
        FDCPU_EACH(l, before)
            if (mask[l] & x->live & ~before)
                ready &= ~(1u << l);
    } while (ready != before);
    return ready;
}

/* Begins a handler: q, or a wait for the lanes that are missing. */
#define GATHER(mask)                                                                         \
    uint32_t q = FDCPU_GUARD;                                                                \
    if (!q)                                                                                  \
        FDCPU_NEXT;                                                                          \
    {                                                                                        \
        uint32_t ready_ = complete(x, (mask), q);                                            \
        if (ready_ != q) {                                                                   \
            x->taken = q & ~ready_;                                                          \
            FDCPU_STOP(i, WHY_SYNC);                                                         \
        }                                                                                    \
    }

OPEN(shfl)
{
    const u32 *a = W(i->a), *b = W(i->b), *c = W(i->c), *mask = W(EXT(0));
    u32 *d = W(i->d), *p = &FDCPU_PRED(EXT(1)), t[FDCPU_LANES], ok = 0;
    static const u32 all[FDCPU_LANES];

    GATHER((i->aux & 16) ? all : mask)
    FDCPU_EACH(l, q) {
        u32 clamp = c[l] & 31, seg = c[l] >> 8 & 31, by = b[l] & 31;
        u32 max = (l & seg) | (clamp & ~seg), min = l & seg;
        s32 from;
        bool in;

        switch (i->aux & 3) {
        case SHFL_UP: from = (s32)l - (s32)by; in = from >= (s32)max; break;
        case SHFL_DOWN: from = (s32)(l + by); in = from <= (s32)max; break;
        case SHFL_BFLY: from = (s32)(l ^ by); in = from <= (s32)max; break;
        default: from = (s32)(min | (by & ~seg)); in = from <= (s32)max; break;
        }
        if (!in)
            from = (s32)l;
        /* an inactive lane has nothing to give */
        t[l] = q >> (from & 31) & 1 ? a[from & 31] : a[l];
        ok |= (u32)in << l;
    }
    FDCPU_EACH(l, q)
        d[l] = t[l];
    *p = (*p & ~q) | ok;
    FDCPU_NEXT;
}

OPEN(vote)
{
    static const u32 none[FDCPU_LANES];
    const u32 *mask = W(i->b);
    u32 a = FDCPU_PRED(i->a), same = 0;
    bool sync = !(i->aux & 16);

    GATHER(sync ? mask : none)
    if (!sync)
        same = q;
    FDCPU_EACH(l, q) {
        u32 group = sync ? (mask[l] & q) : same, in = a & group;

        switch (i->aux & 3) {
        case VOTE_BALLOT:
            W(EXT(0))[l] = in;
            break;
        default: {
            bool v = (i->aux & 3) == VOTE_ALL ? in == group
                     : (i->aux & 3) == VOTE_ANY ? in != 0 : in == 0 || in == group;
            u32 *p = &FDCPU_PRED(EXT(0));

            *p = (*p & ~(1u << l)) | (u32)v << l;
            break;
        }
        }
    }
    FDCPU_NEXT;
}

OPEN(match)
{
    const u32 *mask = W(i->b);
    u64 v[FDCPU_LANES];
    u32 out[FDCPU_LANES], yes = 0;

    GATHER(mask)
    FDCPU_EACH(l, q)
        v[l] = (i->aux & 2) ? L(EXT(0))[l] : W(EXT(0))[l];
    FDCPU_EACH(l, q) {
        u32 group = mask[l] & q, equal = 0;

        FDCPU_EACH(k, group)
            equal |= (u32)(v[k] == v[l]) << k;
        if (i->aux & 1) {
            yes |= (u32)(equal == group) << l;
            out[l] = equal == group ? group : 0;
        } else {
            out[l] = equal;
        }
    }
    FDCPU_EACH(l, q)
        W(i->d)[l] = out[l];
    if (i->aux & 1) {
        u32 *p = &FDCPU_PRED(EXT(1));

        *p = (*p & ~q) | yes;
    }
    FDCPU_NEXT;
}

static u32
redux_step(u32 aux, u32 a, u32 b)
{
    bool sign = (aux >> 8 & 63) == T_S32;

    if ((aux >> 8 & 63) == T_F32) {
        f32 p = bits_f32(a), r = bits_f32(b);
        bool nan = aux >> 17 & 1;

        return f32_bits((aux & 255) == ATOM_MIN ? (nan ? min_nan(p, r) : min_f32(p, r))
                                                : (nan ? max_nan(p, r) : max_f32(p, r)));
    }
    switch (aux & 255) {
    case ATOM_ADD: return a + b;
    case ATOM_MIN: return sign ? ((s32)a < (s32)b ? a : b) : (a < b ? a : b);
    case ATOM_MAX: return sign ? ((s32)a > (s32)b ? a : b) : (a > b ? a : b);
    case ATOM_AND: return a & b;
    case ATOM_OR: return a | b;
    default: return a ^ b;
    }
}

OPEN(redux)
{
    const u32 *mask = W(i->b), *a = W(i->a);
    u32 out[FDCPU_LANES], abs = i->aux >> 16 & 1 ? 0x7fffffffu : ~0u;

    GATHER(mask)
    FDCPU_EACH(l, q) {
        u32 group = mask[l] & q, v = 0;
        bool first = true;

        FDCPU_EACH(k, group) {
            v = first ? a[k] & abs : redux_step(i->aux, v, a[k] & abs);
            first = false;
        }
        out[l] = v;
    }
    FDCPU_EACH(l, q)
        W(i->d)[l] = out[l];
    FDCPU_NEXT;
}

OPEN(elect)
{
    const u32 *mask = W(i->a);
    u32 yes = 0, *p = &FDCPU_PRED(EXT(0));

    GATHER(mask)
    FDCPU_EACH(l, q) {
        u32 leader = (u32)__builtin_ctz((mask[l] & q) | 1u << l);

        W(i->d)[l] = leader;
        yes |= (u32)(leader == l) << l;
    }
    *p = (*p & ~q) | yes;
    FDCPU_NEXT;
}

OPEN(activemask)
{
    FDCPU_EACH(l, FDCPU_GUARD)
        W(i->d)[l] = m;
    FDCPU_NEXT;
}

/* Lanes may wait at different places for one another, so masks count, not places. */
OPEN(bar_warp)
{
    const u32 *mask = W(i->a);
    struct fdcpu_warp *w = x->warp;
    uint32_t q = FDCPU_GUARD, here = q, all = 0;

    if (!q)
        FDCPU_NEXT;
    FDCPU_EACH(l, q)
        all |= mask[l] & x->live;
    if (all & ~q) {
        for (uint32_t k = 0; k < w->nsplit; k++)
            if (w->split[k].state == S_SYNC && w->split[k].ip->op == OP_bar_warp)
                here |= w->split[k].mask;
        if (all & ~here) {
            uint32_t ready = complete(x, mask, q);

            x->taken = q & ~ready;
            FDCPU_STOP(i, WHY_SYNC);
        }
        for (uint32_t k = 0; k < w->nsplit; k++)
            if (w->split[k].state == S_SYNC && w->split[k].ip->op == OP_bar_warp &&
                (w->split[k].mask & all)) {
                w->split[k].state = S_RUN;
                w->split[k].ip++;
            }
        FDCPU_STOP(i + 1, WHY_SWITCH);
    }
    FDCPU_NEXT;
}

/* What the scheduler does with the lanes that the guard lets through. */
#define GIVEN_BACK(name, reason)                                                             \
    OPEN(name)                                                                               \
    {                                                                                        \
        uint32_t q = FDCPU_GUARD;                                                            \
                                                                                             \
        if (!q)                                                                              \
            FDCPU_NEXT;                                                                      \
        x->taken = q;                                                                        \
        FDCPU_STOP(i, reason);                                                               \
    }
GIVEN_BACK(bar, WHY_BAR)
GIVEN_BACK(exit, WHY_EXIT)
GIVEN_BACK(ret, WHY_RET)

OPEN(brx)
{
    uint32_t q = FDCPU_GUARD, first, t = 0;
    const struct fdcpu_code *code = x->frame->code;
    const u32 *a = W(i->a);

    if (!q)
        FDCPU_NEXT;
    first = a[__builtin_ctz(q)];
    if (first >= i->aux) {
        fdcpu_fault_at(x, i, __builtin_ctz(q), 700, "branch index %u of %u", first, i->aux);
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_EACH(l, q)
        t |= (u32)(a[l] == first) << l;
    x->target = code->insn + code->table[(uint32_t)i->imm + first];
    if (t != m) {               /* the others come here again, or go on where guarded */
        x->taken = t;
        FDCPU_STOP(i, WHY_INDEXED);
    }
    if (x->target <= i && --x->fuel < 0)
        FDCPU_STOP(x->target, WHY_YIELD);
    FDCPU_GO(x->target);
}
