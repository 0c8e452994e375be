/*
 * Runs a warp: which of its splits is next, by the rule in vm.h, and what becomes of it
 * where an instruction gives it back: it divides, is joined, calls, returns, waits at a
 * barrier (which counts lanes), ends, or has jumped back often enough for now.
 */
#include "run.h"
#include "slow.h"

#include <string.h>

enum { QUANTUM = 1024, FAIR_QUANTUM = 64, MAX_DEPTH = 4096 };

/* ---- splits ---- */

static void
split_remove(struct fdcpu_warp *w, uint32_t k)
{
    w->split[k] = w->split[--w->nsplit];
}

/* Joins to split k whatever runs at the same place. Returns where k is afterwards. */
static uint32_t
join(struct fdcpu_worker *wk, struct fdcpu_warp *w, uint32_t k)
{
    for (uint32_t j = 0; j < w->nsplit;) {
        struct fdcpu_split *s = &w->split[k], *o = &w->split[j];

        if (j == k || o->state != s->state || o->ip != s->ip || o->frame != s->frame) {
            j++;
            continue;
        }
        s->mask |= o->mask;
        fdcpu_frame_drop(wk, o->frame);
        if (k == w->nsplit - 1)
            k = j;
        split_remove(w, j);
        j = 0;
    }
    return k;
}

static int
pick(struct fdcpu_worker *wk, struct fdcpu_warp *w)
{
    int best = -1;

    for (uint32_t k = 0; k < w->nsplit; k++) {
        const struct fdcpu_split *s = &w->split[k], *b = best < 0 ? NULL : &w->split[best];

        if (s->state != S_RUN)
            continue;
        if (!b || (w->fair ? s->age < b->age
                           : s->frame->depth > b->frame->depth ||
                                 (s->frame->depth == b->frame->depth && s->ip < b->ip)))
            best = (int)k;
    }
    if (best >= 0 && w->nsplit > 1)
        best = (int)join(wk, w, (uint32_t)best);
    return best;
}

/* ---- barriers ---- */

static void
barrier_release(struct fdcpu_block *b, uint32_t id)
{
    struct fdcpu_barrier *bar = &b->bar[id];

    for (uint32_t n = 0; n < b->nwarps; n++) {
        struct fdcpu_warp *w = &b->warp[n];

        for (uint32_t k = 0; k < w->nsplit; k++) {
            struct fdcpu_split *s = &w->split[k];
            const struct fdcpu_insn *i = s->ip;

            if (s->state != S_BAR || s->bar != id)
                continue;
            if (i->aux >= BAR_RED_POPC) {
                char *out = s->frame->regs + s->frame->code->ext[i->ext + 1].reg;

                if (i->aux == BAR_RED_POPC) {
                    FDCPU_EACH(l, s->mask)
                        ((uint32_t *)(void *)out)[l] = bar->popc;
                } else {
                    uint32_t v = (i->aux == BAR_RED_AND ? bar->all : bar->any != 0) ? ~0u : 0;
                    uint32_t *p = (uint32_t *)(void *)out;

                    *p = (*p & ~s->mask) | (v & s->mask);
                }
            }
            s->state = S_RUN;
            s->ip++;
        }
    }
    memset(bar, 0, sizeof(*bar));
    bar->all = true;
    b->bars &= ~(1u << id);
}

static bool
barrier_full(const struct fdcpu_block *b, const struct fdcpu_barrier *bar)
{
    uint32_t sum = 0;

    for (uint32_t n = 0; n < b->nwarps; n++) {
        /* who has arrived and is gone since still counts */
        uint32_t in = bar->arrived[n], missing = b->warp[n].live & ~in;

        if (!bar->expected) {
            if (missing)
                return false;
        } else if (in) {
            sum += missing ? (uint32_t)__builtin_popcount(in) : FDCPU_LANES;
        }
    }
    return !bar->expected || sum >= bar->expected;
}

static void
barrier_check_all(struct fdcpu_block *b)
{
    FDCPU_EACH(id, b->bars)
        if (barrier_full(b, &b->bar[id]))
            barrier_release(b, id);
}

/* Lanes q of split k arrive at instruction i. False after a fault. */
static bool
barrier_arrive(struct fdcpu_exec *x, struct fdcpu_warp *w, const struct fdcpu_insn *i,
               struct fdcpu_split *s, uint32_t q)
{
    struct fdcpu_block *b = w->block;
    char *r = s->frame->regs;
    uint32_t lane = (uint32_t)__builtin_ctz(q), id = FDCPU_REG(uint32_t, i->a)[lane];
    uint32_t count = FDCPU_REG(uint32_t, i->b)[lane];
    struct fdcpu_barrier *bar;

    if (id >= MAX_BARRIERS || count % FDCPU_LANES) {
        fdcpu_fault_at(x, i, (int)lane, 719, id >= MAX_BARRIERS ? "barrier %u does not exist"
                       : "barrier %u with %u threads: not a multiple of 32", id, count);
        return false;
    }
    bar = &b->bar[id];
    b->bars |= 1u << id;
    if (count)
        bar->expected = count;
    bar->arrived[w->index] |= q;
    if (i->aux >= BAR_RED_POPC) {
        uint32_t p = FDCPU_PRED(s->frame->code->ext[i->ext].reg);

        bar->popc += (uint32_t)__builtin_popcount(p & q);
        bar->any |= p & q;
        bar->all &= (p & q) == q;
    }
    if (i->aux == BAR_ARRIVE) {
        s->ip = i + 1;
        /* the split goes on at once with its other lanes: joined again by pick() */
    } else {
        s->state = S_BAR;
        s->bar = (uint8_t)id;
        s->ip = i;
    }
    if (barrier_full(b, bar))
        barrier_release(b, id);
    return true;
}

/* ---- calls ---- */

static bool
call_enter(struct fdcpu_exec *x, struct fdcpu_worker *wk, struct fdcpu_warp *w,
           struct fdcpu_split *s, const struct fdcpu_insn *i)
{
    const struct fdcpu_program *prog = x->job->prog;
    const struct fdcpu_code *code = x->callee < prog->ncode ? prog->code[x->callee] : NULL;
    struct fdcpu_frame *up = s->frame, *f;
    const struct fdcpu_func *func;

    if (!code || code->func->entry) {
        fdcpu_fault_at(x, i, __builtin_ctz(s->mask), 718, "call of what is no function");
        return false;
    }
    func = code->func;
    if (up->depth >= MAX_DEPTH || !(f = fdcpu_frame_take(wk, code))) {
        fdcpu_fault_at(x, i, __builtin_ctz(s->mask), 719, "stack overflow");
        return false;
    }
    f->parent = up;
    f->call = i;
    f->depth = up->depth + 1;
    f->local_base = up->local_top;
    f->local_top = f->local_base + code->local_size;
    f->refs = 1;
    if (!fdcpu_local_grow(x, i, f->local_top)) {
        f->refs = 0;
        f->parent = wk->free_frames[code->index];
        wk->free_frames[code->index] = f;
        return false;
    }
    fdcpu_fill_special(w, code, f->regs);
    fdcpu_fill_place(w, code, f->regs);
    /* texts may disagree about a function: what both know is passed */
    for (uint32_t k = 0; k < func->nparams && i->aux + k < i->n; k++) {
        const struct fdcpu_formal *p = &func->params[k];
        const struct fdcpu_ext *a = &up->code->ext[i->ext + i->aux + k];
        uint32_t size = a->size < p->size ? a->size : p->size;

        FDCPU_EACH(l, s->mask) {
            uint8_t *lane = w->local + (size_t)l * w->local_stride;

            memcpy(lane + f->local_base + p->offset, lane + up->local_base + a->reg, size);
        }
    }
    s->frame = f;               /* the parent keeps its count: the new frame is in it */
    s->ip = code->insn;
    return true;
}

static void
call_leave(struct fdcpu_worker *wk, struct fdcpu_warp *w, struct fdcpu_split *s)
{
    struct fdcpu_frame *f = s->frame, *up = f->parent;
    const struct fdcpu_func *func = f->code->func;

    for (uint32_t k = 0; k < func->nrets && k < f->call->aux; k++) {
        const struct fdcpu_formal *p = &func->rets[k];
        const struct fdcpu_ext *e = &up->code->ext[f->call->ext + k];
        uint32_t size = e->size < p->size ? e->size : p->size;

        FDCPU_EACH(l, s->mask) {
            uint8_t *lane = w->local + (size_t)l * w->local_stride;

            memcpy(lane + up->local_base + e->reg, lane + f->local_base + p->offset, size);
        }
    }
    s->ip = f->call + 1;
    s->frame = up;
    up->refs++;
    fdcpu_frame_drop(wk, f);
}

/* ---- warps ---- */

static void
wake_waiting(struct fdcpu_warp *w)
{
    for (uint32_t k = 0; k < w->nsplit; k++)
        if (w->split[k].state == S_SYNC)
            w->split[k].state = S_RUN;
}

/* Lanes q of split k are gone. */
static void
lanes_exit(struct fdcpu_worker *wk, struct fdcpu_warp *w, uint32_t k, uint32_t q)
{
    struct fdcpu_split *s = &w->split[k];

    w->live &= ~q;
    w->block->live -= (uint32_t)__builtin_popcount(q);
    wk->x.live = w->live;
    if (wk->x.job->launch->cooperative)
        fdcpu_grid_arrive(wk->x.job, 0, (uint64_t)__builtin_popcount(q));
    s->mask &= ~q;
    if (!s->mask) {
        fdcpu_frame_drop(wk, s->frame);
        split_remove(w, k);
    } else {
        s->ip++;
    }
    wake_waiting(w);
    barrier_check_all(w->block);
}

void
fdcpu_load_warp(struct fdcpu_exec *x, struct fdcpu_warp *w)
{
    uint64_t generation = fdcpu_mem_generation();

    if (generation != x->generation || x->env != x->job->env) {
        memset(x->hit, 0, sizeof(x->hit));
        x->generation = generation;
        x->env = x->job->env;
    }
    x->warp = w;
    x->block = w->block;
    x->live = w->live;
    x->shared = w->block->shared;
    x->local = w->local;
    x->local_stride = w->local_stride;
}

/* A split has run long enough. Whether the warp has, all its splits with it. */
static bool
turn_over(struct fdcpu_warp *w, struct fdcpu_split *s)
{
    s->age = ++w->clock;
    if (w->fair)
        return --w->fair == 0;
    w->fair = fdcpu_runnable(w);
    return w->fair <= 1;
}

enum fdcpu_ran
fdcpu_warp_run(struct fdcpu_worker *wk, struct fdcpu_warp *w)
{
    struct fdcpu_exec *x = &wk->x;
    int last = -1;

    fdcpu_load_warp(x, w);
    x->fuel = w->block->spins ? FAIR_QUANTUM : QUANTUM;
    w->fair = 0;
    for (;;) {
        int k = pick(wk, w);
        struct fdcpu_split *s;
        const struct fdcpu_insn *i, *low;
        uint32_t q;

        if (k < 0)
            return w->live ? R_BLOCKED : R_DONE;
        s = &w->split[k];
        if (k != last && w->fair)
            x->fuel = FAIR_QUANTUM;
        last = k;
        low = (const struct fdcpu_insn *)UINTPTR_MAX;
        for (uint32_t j = 0; w->nsplit > 1 && j < w->nsplit; j++)
            if ((int)j != k && w->split[j].state == S_RUN && w->split[j].frame == s->frame &&
                w->split[j].ip < low)
                low = w->split[j].ip;
        if (w->fair && low != (const struct fdcpu_insn *)UINTPTR_MAX)
            low = NULL;
        /* a shallower frame's split has deeper ones before it */
        for (uint32_t j = 0; !w->fair && w->nsplit > 1 && j < w->nsplit; j++)
            if (w->split[j].state == S_RUN && w->split[j].frame->depth > s->frame->depth)
                low = NULL;
        x->merge_ip = low;
        x->frame = s->frame;
        x->local_base = s->frame->local_base;
        s->ip->fn(x, s->ip, s->mask, s->frame->regs);
#if !FDCPU_TAIL_CALLS
        while (x->why == WHY_CONT)
            x->ip->fn(x, x->ip, x->mask, s->frame->regs);
#endif
        i = s->ip = x->ip;
        s->mask = x->mask;
        switch (x->why) {
        case WHY_MERGE:
            if (w->fair) {
                uint32_t before = w->nsplit;

                k = (int)join(wk, w, (uint32_t)k);
                last = k;
                if (w->nsplit == before)
                    w->split[k].ip++;
                w->split[k].age = 0;    /* goes on: its turn is not over */
            }
            break;
        case WHY_YIELD:
            if (fdcpu_stopped(x->job))
                return R_YIELD;
            if (turn_over(w, s))
                return R_YIELD;
            last = -1;
            break;
        case WHY_DIVERGE:
            q = x->taken;
            s->mask &= ~q;
            s->ip = i + 1;
            fdcpu_split_add(w, x->target, s->frame, q)->age = s->age;
            if (x->target <= i && --x->fuel < 0) {      /* a jump back all the same */
                if (turn_over(w, &w->split[w->nsplit - 1]))
                    return R_YIELD;
                last = -1;
            }
            break;
        case WHY_INDEXED:       /* brx: taken jumps; other lanes come again, or go on */
        {
            uint32_t guard = *(uint32_t *)(void *)(s->frame->regs + (i->pred & ~1u)) ^
                             (0u - (i->pred & 1));
            uint32_t again = s->mask & guard & ~x->taken, on = s->mask & ~guard;

            s->mask = x->taken;
            s->ip = x->target;
            if (again)
                fdcpu_split_add(w, i, s->frame, again);
            if (on)
                fdcpu_split_add(w, i + 1, s->frame, on);
            break;
        }
        case WHY_EXIT:
            lanes_exit(wk, w, (uint32_t)k, x->taken);
            last = -1;
            break;
        case WHY_CALL:
        {
            uint32_t guard = *(uint32_t *)(void *)(s->frame->regs + (i->pred & ~1u)) ^
                             (0u - (i->pred & 1));
            uint32_t again = s->mask & guard & ~x->taken, on = s->mask & ~guard;

            s->mask = x->taken;
            if (again)
                fdcpu_split_add(w, i, s->frame, again);
            if (on)
                fdcpu_split_add(w, i + 1, s->frame, on);
            if (!call_enter(x, wk, w, s, i))
                return R_FAULT;
            if (fdcpu_stopped(x->job))
                return R_YIELD;
            if (x->fuel < 0) {          /* recursion without a jump back goes on as long */
                if (turn_over(w, s))
                    return R_YIELD;
                last = -1;
            }
            break;
        }
        case WHY_RET:
            q = x->taken;
            if (!s->frame->parent) {
                lanes_exit(wk, w, (uint32_t)k, q);
                last = -1;
                break;
            }
            if (q != s->mask) {
                fdcpu_split_add(w, i + 1, s->frame, s->mask & ~q);
                s->mask = q;
            }
            call_leave(wk, w, s);
            break;
        case WHY_BAR:
            q = x->taken;
            if (q != s->mask) {
                fdcpu_split_add(w, i + 1, s->frame, s->mask & ~q);
                s->mask = q;
            }
            if (!barrier_arrive(x, w, i, s, q))
                return R_FAULT;
            last = -1;
            break;
        case WHY_SYNC:          /* taken waits; who comes to it later joins it */
            q = x->taken;
            if (q != s->mask) {
                fdcpu_split_add(w, i, s->frame, s->mask & ~q);
                s->mask = q;
            }
            s->state = S_SYNC;
            {
                uint32_t before = w->nsplit;

                k = (int)join(wk, w, (uint32_t)k);
                if (w->nsplit != before)
                    w->split[k].state = S_RUN;  /* perhaps all are here now */
            }
            last = -1;
            break;
        case WHY_SWITCH:
            break;
        default:
            return R_FAULT;
        }
    }
}
