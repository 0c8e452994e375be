/*
 * Runs grids: workers take blocks in rising order, a block's warps run in turn, a warp's
 * splits by the rule in vm.h. Barriers count lanes. What jumps back too often gives way,
 * first to other splits, then to other warps, then to other blocks of the worker.
 */
#define _GNU_SOURCE
#include "vm.h"
#include "slow.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    QUANTUM = 1024, FAIR_QUANTUM = 64,
    SPINS_BEFORE_MORE = 64,     /* fruitless rounds before another block is begun */
    MAX_RESIDENT = 256,         /* blocks of one worker, not cooperative */
    MAX_DEPTH = 4096,
};

uint64_t
fdcpu_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool
fdcpu_stopped(struct fdcpu_job *job)
{
    return __atomic_load_n(&job->stop, __ATOMIC_RELAXED) != 0;
}

/* Threads come to the grid's barrier, or exit and are waited for no longer. */
void
fdcpu_grid_arrive(struct fdcpu_job *job, uint64_t count, uint64_t gone)
{
    pthread_mutex_lock(&job->lock);
    job->grid_arrived += count;
    job->grid_gone += gone;
    if (job->grid_arrived &&
        job->grid_arrived + job->grid_gone >= job->nblocks * job->threads) {
        job->grid_arrived = 0;
        /* pairs with the loads in rt_grid_sync: what came before is seen after */
        __atomic_add_fetch(&job->grid_phase, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&job->lock);
}

/* ---- faults ---- */

static void
report(struct fdcpu_exec *x, const struct fdcpu_insn *i, int lane, int result, const char *what)
{
    struct fdcpu_job *job = x->job;
    const uint32_t *dim = job->launch->block;
    const struct fdcpu_block *b = x->block;
    const char *kernel = job->launch->func->name;
    char where[160] = "";

    if (lane >= 0) {
        uint32_t t = x->warp->index * FDCPU_LANES + (uint32_t)lane;

        snprintf(where, sizeof(where), ", thread (%u, %u, %u)", t % dim[0], t / dim[0] % dim[1],
                 t / dim[0] / dim[1]);
    }
    x->why = WHY_FAULT;
    pthread_mutex_lock(&job->lock);
    if (!job->fault.result) {
        const char *inside = x->frame && x->frame->code->func != job->launch->func
                                 ? x->frame->code->func->name : NULL;

        job->fault.result = result;
        snprintf(job->fault.report, sizeof(job->fault.report),
                 "kernel %.200s, block (%u, %u, %u)%s, PTX line %u%s%.120s: %s", kernel,
                 b->ctaid[0], b->ctaid[1], b->ctaid[2], where, i ? i->line : 0,
                 inside ? " in " : "", inside ? inside : "", what);
    }
    pthread_mutex_unlock(&job->lock);
    __atomic_store_n(&job->stop, 1, __ATOMIC_RELAXED);
}

void
fdcpu_fault_at(struct fdcpu_exec *x, const struct fdcpu_insn *i, int lane, int result,
               const char *format, ...)
{
    char what[400];
    va_list ap;

    va_start(ap, format);
    vsnprintf(what, sizeof(what), format, ap);
    va_end(ap);
    report(x, i, lane, result, what);
}

void
fdcpu_fault_address(struct fdcpu_exec *x, const struct fdcpu_insn *i, int lane, int result,
                    uint64_t addr, uint32_t size, const char *what)
{
    struct fdcpu_range near;
    char text[400];
    int n;

    n = snprintf(text, sizeof(text), "%s of %u bytes at 0x%llx",
                 result == 716 ? "misaligned access" : "access outside of", size,
                 (unsigned long long)addr);
    if (result != 716)
        n = snprintf(text, sizeof(text), "access of %u bytes at 0x%llx outside of %s", size,
                     (unsigned long long)addr, what);
    if (!strcmp(what, "shared memory"))
        snprintf(text + n, sizeof(text) - (size_t)n, " (%u bytes)", x->shared_size);
    else if (!strcmp(what, "memory") && fdcpu_mem_nearest(addr, &near))
        snprintf(text + n, sizeof(text) - (size_t)n,
                 "; nearest is 0x%llx to 0x%llx (%llu bytes)%s", (unsigned long long)near.lo,
                 (unsigned long long)near.hi, (unsigned long long)(near.hi - near.lo),
                 addr >= near.lo && addr < near.hi ? ", which cannot be written or is too short"
                                                   : "");
    report(x, i, lane, result, text);
}

/* ---- frames ---- */

static void
fill32(char *at, uint32_t v)
{
    for (int l = 0; l < FDCPU_LANES; l++)
        ((uint32_t *)(void *)at)[l] = v;
}

static void
fill_constants(const struct fdcpu_code *code, char *regs)
{
    ((uint32_t *)(void *)regs)[0] = FDCPU_FULL;
    ((uint32_t *)(void *)regs)[1] = 0;
    for (uint32_t k = 0; k < code->nconsts; k++) {
        const struct fdcpu_const *c = &code->consts[k];

        if (c->size == 4)
            fill32(regs + c->off, (uint32_t)c->value);
        else
            for (int l = 0; l < FDCPU_LANES; l++)
                ((uint64_t *)(void *)(regs + c->off))[l] = c->value;
    }
}

/* Registers that differ from block to block. */
static void
fill_place(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs)
{
    static const enum fdcpu_special places[] = { SR_CTAID_X, SR_CTAID_Y, SR_CTAID_Z,
                                                 SR_CLUSTERID_X, SR_CLUSTERID_Y,
                                                 SR_CLUSTERID_Z };
    const struct fdcpu_block *b = w->block;

    for (uint32_t k = 0; k < 6; k++)
        if (code->special[places[k]])
            fill32(regs + code->special[places[k]], b->ctaid[k % 3]);
    if (code->special[SR_SMID]) {
        uint32_t n = b->worker->x.job->env->sm_count;

        fill32(regs + code->special[SR_SMID], (uint32_t)(b->number % (n ? n : 1)));
    }
}

/* Registers that stay as they are from block to block. */
static void
fill_special(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs)
{
    const struct fdcpu_block *b = w->block;
    const struct fdcpu_job *job = b->worker->x.job;
    const struct fdcpu_launch *launch = job->launch;
    const uint32_t *dim = launch->block, *grid = launch->grid;

    for (int s = 0; s < SR_COUNT; s++) {
        uint32_t *p, v = 0;

        if (!code->special[s])
            continue;
        p = (uint32_t *)(void *)(regs + code->special[s]);
        switch (s) {
        case SR_TID_X: case SR_TID_Y: case SR_TID_Z:
        case SR_LANEID:
        case SR_LANEMASK_EQ: case SR_LANEMASK_LE: case SR_LANEMASK_LT: case SR_LANEMASK_GE:
        case SR_LANEMASK_GT:
            for (uint32_t l = 0; l < FDCPU_LANES; l++) {
                uint32_t t = w->index * FDCPU_LANES + l;

                p[l] = s == SR_TID_X ? t % dim[0] : s == SR_TID_Y ? t / dim[0] % dim[1]
                       : s == SR_TID_Z ? t / dim[0] / dim[1] : s == SR_LANEID ? l
                       : s == SR_LANEMASK_EQ ? 1u << l : s == SR_LANEMASK_LT ? (1u << l) - 1
                       : s == SR_LANEMASK_LE ? ((1u << l) - 1) | 1u << l
                       : s == SR_LANEMASK_GE ? ~((1u << l) - 1)
                                             : ~(((1u << l) - 1) | 1u << l);
            }
            continue;
        case SR_NTID_X: v = dim[0]; break;
        case SR_NTID_Y: v = dim[1]; break;
        case SR_NTID_Z: v = dim[2]; break;
        case SR_CTAID_X: case SR_CTAID_Y: case SR_CTAID_Z: case SR_SMID:
        case SR_CLUSTERID_X: case SR_CLUSTERID_Y: case SR_CLUSTERID_Z:
            continue;
        case SR_NCTAID_X: case SR_NCLUSTERID_X: v = grid[0]; break;
        case SR_NCTAID_Y: case SR_NCLUSTERID_Y: v = grid[1]; break;
        case SR_NCTAID_Z: case SR_NCLUSTERID_Z: v = grid[2]; break;
        case SR_WARPID: v = w->index; break;
        case SR_NWARPID: v = MAX_WARPS; break;
        case SR_NSMID: v = job->env->sm_count ? job->env->sm_count : 1; break;
        case SR_GRIDID: v = (uint32_t)job->grid_id; break;
        case SR_ENVREG1: v = (uint32_t)(job->workspace >> 32); break;
        case SR_ENVREG2: v = (uint32_t)job->workspace; break;
        case SR_DYNAMIC_SMEM: v = launch->dynamic_shared; break;
        case SR_TOTAL_SMEM: v = job->shared_size; break;
        case SR_ONE: v = 1; break;
        default: break;
        }
        fill32((char *)p, v);
    }
}

static struct fdcpu_frame *
frame_take(struct fdcpu_worker *wk, const struct fdcpu_code *code)
{
    struct fdcpu_frame *f = wk->free_frames[code->index];
    size_t head = (sizeof(*f) + FDCPU_SLOT - 1) & ~(size_t)(FDCPU_SLOT - 1);

    if (f) {
        wk->free_frames[code->index] = f->parent;
        return f;
    }
    f = aligned_alloc(FDCPU_SLOT, head + code->file_size);
    if (!f)
        return NULL;
    memset(f, 0, head + code->file_size);
    f->code = code;
    f->regs = (char *)f + head;
    fill_constants(code, f->regs);
    return f;
}

/* One split or frame less; the warp's own frame is never given back. */
static void
frame_drop(struct fdcpu_worker *wk, struct fdcpu_frame *f)
{
    while (f && --f->refs == 0 && f->parent) {
        struct fdcpu_frame *up = f->parent;

        f->parent = wk->free_frames[f->code->index];
        wk->free_frames[f->code->index] = f;
        f = up;
    }
}

bool
fdcpu_local_grow(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint64_t size)
{
    struct fdcpu_warp *w = x->warp;
    uint64_t stride;
    uint8_t *bigger;

    if (size <= w->local_stride)
        return true;
    if (size > x->job->stack_max) {
        fdcpu_fault_at(x, i, -1, 719, "stack overflow: %llu bytes a thread needed, %u allowed",
                       (unsigned long long)size, x->job->stack_max);
        return false;
    }
    stride = size * 2 < x->job->stack_max ? size * 2 : x->job->stack_max;
    stride = ((stride + 63) & ~63ull) | 64;
    bigger = aligned_alloc(64, stride * FDCPU_LANES);
    if (!bigger) {
        fdcpu_fault_at(x, i, -1, 719, "no memory for the stack");
        return false;
    }
    memset(bigger, 0, stride * FDCPU_LANES);
    for (uint32_t l = 0; l < FDCPU_LANES && w->local_stride; l++)
        memcpy(bigger + l * stride, w->local + (size_t)l * w->local_stride, w->local_stride);
    free(w->local);
    w->local = x->local = bigger;
    w->local_stride = x->local_stride = (uint32_t)stride;
    return true;
}

/* ---- splits ---- */

static void
split_remove(struct fdcpu_warp *w, uint32_t k)
{
    w->split[k] = w->split[--w->nsplit];
}

/* A new split beside the others; the frame counts it. */
static struct fdcpu_split *
split_add(struct fdcpu_warp *w, const struct fdcpu_insn *ip, struct fdcpu_frame *frame,
          uint32_t mask)
{
    struct fdcpu_split *s = &w->split[w->nsplit++];

    *s = (struct fdcpu_split){ .ip = ip, .frame = frame, .mask = mask, .age = w->clock };
    frame->refs++;
    return s;
}

static uint32_t
runnable(const struct fdcpu_warp *w)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < w->nsplit; k++)
        n += w->split[k].state == S_RUN;
    return n;
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
        frame_drop(wk, o->frame);
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
    if (up->depth >= MAX_DEPTH || !(f = frame_take(wk, code))) {
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
    fill_special(w, code, f->regs);
    fill_place(w, code, f->regs);
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
    frame_drop(wk, f);
}

/* ---- warps ---- */

enum result { R_YIELD, R_BLOCKED, R_DONE, R_FAULT };

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
        frame_drop(wk, s->frame);
        split_remove(w, k);
    } else {
        s->ip++;
    }
    wake_waiting(w);
    barrier_check_all(w->block);
}

static void
load_warp(struct fdcpu_exec *x, struct fdcpu_warp *w)
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
    w->fair = runnable(w);
    return w->fair <= 1;
}

static enum result
warp_run(struct fdcpu_worker *wk, struct fdcpu_warp *w)
{
    struct fdcpu_exec *x = &wk->x;
    int last = -1;

    load_warp(x, w);
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
            split_add(w, x->target, s->frame, q)->age = s->age;
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
                split_add(w, i, s->frame, again);
            if (on)
                split_add(w, i + 1, s->frame, on);
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
                split_add(w, i, s->frame, again);
            if (on)
                split_add(w, i + 1, s->frame, on);
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
                split_add(w, i + 1, s->frame, s->mask & ~q);
                s->mask = q;
            }
            call_leave(wk, w, s);
            break;
        case WHY_BAR:
            q = x->taken;
            if (q != s->mask) {
                split_add(w, i + 1, s->frame, s->mask & ~q);
                s->mask = q;
            }
            if (!barrier_arrive(x, w, i, s, q))
                return R_FAULT;
            last = -1;
            break;
        case WHY_SYNC:          /* taken waits; who comes to it later joins it */
            q = x->taken;
            if (q != s->mask) {
                split_add(w, i, s->frame, s->mask & ~q);
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

/* ---- blocks ---- */

static enum result
block_run(struct fdcpu_worker *wk, struct fdcpu_block *b)
{
    struct fdcpu_job *job = wk->x.job;

    for (;;) {
        bool ran = false, moved = false;

        for (uint32_t n = 0; n < b->nwarps; n++) {
            struct fdcpu_warp *w = &b->warp[n];
            enum result res;

            if (!w->live || !runnable(w))
                continue;
            ran = true;
            res = warp_run(wk, w);
            if (res == R_FAULT || fdcpu_stopped(job))
                return R_FAULT;
            moved |= res != R_YIELD;
        }
        if (!b->live)
            return R_DONE;
        if (!ran) {
            const struct fdcpu_insn *i = NULL;
            int lane = -1;

            for (uint32_t n = 0; n < b->nwarps && !i; n++)
                if (b->warp[n].nsplit) {
                    struct fdcpu_warp *w = &b->warp[n];

                    load_warp(&wk->x, w);
                    wk->x.frame = w->split[0].frame;
                    i = w->split[0].ip;
                    lane = __builtin_ctz(w->split[0].mask);
                }
            wk->x.block = b;
            fdcpu_fault_at(&wk->x, i, lane, 702,
                           "deadlock: every thread of the block waits, this one at %s",
                           i && i->op == OP_bar ? "a barrier" : "a warp operation");
            return R_FAULT;
        }
        if (!moved) {
            b->spins++;
            return R_YIELD;
        }
        b->spins = 0;
        if (fdcpu_stopped(job))
            return R_FAULT;
        if (job->deadline_ns || job->env->cancel)
            return R_YIELD;
    }
}

static void
block_free(struct fdcpu_block *b)
{
    if (!b)
        return;
    for (uint32_t n = 0; n < b->nwarps; n++)
        free(b->warp[n].local);
    free(b->shared);
    free(b->files);
    free(b->text);
    free(b);
}

static struct fdcpu_block *
block_make(struct fdcpu_worker *wk)
{
    struct fdcpu_job *job = wk->x.job;
    const struct fdcpu_code *code = job->prog->entry;
    struct fdcpu_block *b;
    uint32_t stride = code->local_size ? code->local_size | 64 : 0;
    size_t shared = ((size_t)job->shared_size + 127) & ~(size_t)127;

    b = calloc(1, sizeof(*b) + job->nwarps * sizeof(b->warp[0]));
    if (!b)
        return NULL;
    b->worker = wk;
    b->bars = (1u << MAX_BARRIERS) - 1;         /* to be set up */
    b->nwarps = job->nwarps;
    b->files = aligned_alloc(FDCPU_SLOT, (size_t)job->nwarps * code->file_size);
    b->shared = aligned_alloc(1024, (shared + 1023 + 1024) & ~(size_t)1023);
    if (!b->files || !b->shared)
        goto err;
    memset(b->files, 0, (size_t)job->nwarps * code->file_size);
    memset(b->shared, 0, shared);
    for (uint32_t n = 0; n < job->nwarps; n++) {
        struct fdcpu_warp *w = &b->warp[n];
        uint32_t left = job->threads - n * FDCPU_LANES;

        w->block = b;
        w->index = n;
        w->lanes = left >= FDCPU_LANES ? FDCPU_FULL : (1u << left) - 1;
        w->base.code = code;
        w->base.regs = b->files + (size_t)n * code->file_size;
        w->base.local_top = code->local_size;
        fill_constants(code, w->base.regs);
        fill_special(w, code, w->base.regs);
        if (stride) {
            w->local = aligned_alloc(64, (size_t)stride * FDCPU_LANES);
            if (!w->local)
                goto err;
            memset(w->local, 0, (size_t)stride * FDCPU_LANES);
            w->local_stride = stride;
        }
    }
    return b;
err:
    block_free(b);
    return NULL;
}

static struct fdcpu_block *
block_begin(struct fdcpu_worker *wk, uint64_t number)
{
    struct fdcpu_job *job = wk->x.job;
    const uint32_t *grid = job->launch->grid;
    struct fdcpu_block *b = wk->spare;

    if (b)
        wk->spare = b->next;
    else
        b = block_make(wk);
    if (!b)
        return NULL;
    b->number = number;
    b->ctaid[0] = (uint32_t)(number % grid[0]);
    b->ctaid[1] = (uint32_t)(number / grid[0] % grid[1]);
    b->ctaid[2] = (uint32_t)(number / grid[0] / grid[1]);
    b->live = job->threads;
    b->spins = 0;
    b->text_used = 0;
    FDCPU_EACH(id, b->bars) {
        memset(&b->bar[id], 0, sizeof(b->bar[id]));
        b->bar[id].all = true;
    }
    b->bars = 0;
    for (uint32_t n = 0; n < b->nwarps; n++) {
        struct fdcpu_warp *w = &b->warp[n];

        w->live = w->lanes;
        w->nsplit = 0;
        w->grid_in = 0;
        w->base.refs = 1;       /* never falls to zero */
        w->base.local_top = w->base.code->local_size;
        fill_place(w, w->base.code, w->base.regs);
        split_add(w, w->base.code->insn, &w->base, w->lanes);
    }
    return b;
}

/* ---- text ---- */

void
fdcpu_print(struct fdcpu_exec *x, const char *bytes, size_t size)
{
    struct fdcpu_block *b = x->block;

    if (size == 0)
        return;
    if (b->text_used + size > b->text_size) {
        size_t want = (b->text_used + size) * 2 + 256;
        char *bigger = realloc(b->text, want);

        if (!bigger)
            return;
        b->text = bigger;
        b->text_size = want;
    }
    memcpy(b->text + b->text_used, bytes, size);
    b->text_used += size;
}

/* Hands over what a block has printed; kept in the order of blocks until the end. */
static void
text_collect(struct fdcpu_job *job, struct fdcpu_block *b)
{
    struct fdcpu_text_piece *piece, **at;

    if (!b->text_used)
        return;
    piece = malloc(sizeof(*piece) + b->text_used);
    if (!piece)
        return;
    piece->block = b->number;
    piece->size = b->text_used;
    memcpy(piece->bytes, b->text, b->text_used);
    b->text_used = 0;
    pthread_mutex_lock(&job->lock);
    for (at = &job->text; *at && (*at)->block > piece->block; at = &(*at)->next)
        ;
    piece->next = *at;          /* latest block first: most blocks end in order */
    *at = piece;
    pthread_mutex_unlock(&job->lock);
}

static void
text_print(struct fdcpu_job *job)
{
    struct fdcpu_text_piece *list = NULL, *next;

    for (struct fdcpu_text_piece *p = job->text; p; p = next) {
        next = p->next;
        p->next = list;
        list = p;
    }
    for (; list; list = next) {
        next = list->next;
        if (job->env->print)
            job->env->print(job->env->print_user, list->bytes, list->size);
        free(list);
    }
    job->text = NULL;
}

/* ---- workers ---- */

static void
check_limits(struct fdcpu_worker *wk, struct fdcpu_block *b)
{
    struct fdcpu_job *job = wk->x.job;
    const char *what = NULL;

    if (job->env->cancel && __atomic_load_n((const uint32_t *)job->env->cancel, __ATOMIC_RELAXED))
        what = "cancelled";
    else if (job->deadline_ns && fdcpu_now_ns() > job->deadline_ns)
        what = "ran longer than allowed";
    if (what) {
        struct fdcpu_warp *w = &b->warp[0];

        for (uint32_t n = 0; n < b->nwarps; n++)
            if (b->warp[n].nsplit)
                w = &b->warp[n];
        load_warp(&wk->x, w);
        wk->x.frame = w->nsplit ? w->split[0].frame : NULL;
        fdcpu_fault_at(&wk->x, w->nsplit ? w->split[0].ip : NULL,
                       w->nsplit ? __builtin_ctz(w->split[0].mask) : -1, 702, "%s", what);
    }
}

static void
work(struct fdcpu_job *job, struct fdcpu_worker *wk)
{
    struct fdcpu_block *list = NULL, **tail = &list, *b;
    uint32_t resident = 0, limit = job->launch->cooperative ? UINT32_MAX : MAX_RESIDENT;
    uint32_t rounds = 0;
    bool more = true;

    memset(&wk->x, 0, sizeof(wk->x));
    wk->x.job = job;
    wk->x.params = job->params;
    wk->x.param_size = job->param_size;
    wk->x.shared_size = job->shared_size;
    wk->free_frames = calloc(job->prog->ncode + 1, sizeof(*wk->free_frames));
    if (!wk->free_frames)
        return;
    while (!fdcpu_stopped(job)) {
        struct fdcpu_block **at;
        bool ended = false;

        if (more && (!list || (resident < limit && (job->launch->cooperative ||
                                                    rounds >= SPINS_BEFORE_MORE)))) {
            uint64_t number = __atomic_fetch_add(&job->next_block, 1, __ATOMIC_RELAXED);

            rounds = 0;
            if (number >= job->nblocks) {
                more = false;
            } else {
                b = block_begin(wk, number);
                if (!b) {
                    pthread_mutex_lock(&job->lock);
                    if (!job->fault.result) {
                        job->fault.result = 2;
                        snprintf(job->fault.report, sizeof(job->fault.report),
                                 "no memory for a block of %.200s", job->launch->func->name);
                    }
                    pthread_mutex_unlock(&job->lock);
                    __atomic_store_n(&job->stop, 1, __ATOMIC_RELAXED);
                    break;
                }
                b->next = NULL;
                for (tail = &list; *tail; tail = &(*tail)->next)
                    ;
                *tail = b;
                resident++;
            }
        }
        if (!list)
            break;
        for (at = &list; *at && !fdcpu_stopped(job);) {
            enum result res;

            b = *at;
            res = block_run(wk, b);
            if (res == R_DONE) {
                *at = b->next;
                text_collect(job, b);
                b->next = wk->spare;
                wk->spare = b;
                resident--;
                ended = true;
                continue;
            }
            if (res == R_YIELD)
                check_limits(wk, b);
            at = &b->next;
        }
        rounds = ended ? 0 : rounds + 1;
        if (!ended && rounds > 16 && !more)
            sched_yield();      /* others may hold what we wait for */
    }
    while (list) {
        b = list;
        list = b->next;
        text_collect(job, b);
        /* frames of splits that never returned */
        for (uint32_t n = 0; n < b->nwarps; n++)
            for (uint32_t k = 0; k < b->warp[n].nsplit; k++)
                frame_drop(wk, b->warp[n].split[k].frame);
        block_free(b);
    }
    while (wk->spare) {
        b = wk->spare;
        wk->spare = b->next;
        block_free(b);
    }
    for (uint32_t k = 0; k < job->prog->ncode; k++)
        while (wk->free_frames[k]) {
            struct fdcpu_frame *f = wk->free_frames[k];

            wk->free_frames[k] = f->parent;
            free(f);
        }
    free(wk->free_frames);
    wk->free_frames = NULL;
    free(wk->x.scratch);
    wk->x.scratch = NULL;
}

/* ---- the pool ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct fdcpu_job *jobs;
    uint32_t threads;           /* wanted besides the caller */
    uint32_t started, idle;
} pool = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL,
           0, 0, 0 };
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void
pool_forget(void)
{
    /* in a forked child: none of the threads came along */
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.jobs = NULL;
    pool.started = pool.idle = 0;
}

static void
pool_init(void)
{
    const char *want = getenv("FD_CPU_THREADS");
    cpu_set_t set;
    long n = want ? strtol(want, NULL, 10) : 0;

    if (n <= 0)
        n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
    pool.threads = n > 256 ? 255 : (uint32_t)n - 1;
    pthread_atfork(NULL, NULL, pool_forget);
}

static void *
pool_thread(void *arg)
{
    struct fdcpu_worker *wk = arg;

    pthread_mutex_lock(&pool.lock);
    for (;;) {
        struct fdcpu_job *job;

        for (job = pool.jobs; job; job = job->next)
            if (__atomic_load_n(&job->next_block, __ATOMIC_RELAXED) < job->nblocks &&
                !fdcpu_stopped(job))
                break;
        if (!job) {
            pool.idle++;
            pthread_cond_wait(&pool.work, &pool.lock);
            pool.idle--;
            continue;
        }
        job->helpers++;
        pthread_mutex_unlock(&pool.lock);
        work(job, wk);
        pthread_mutex_lock(&pool.lock);
        if (--job->helpers == 0)
            pthread_cond_broadcast(&pool.done);
    }
    return NULL;
}

/* Shows the job to the pool's threads, starting them when there are too few. */
static void
pool_offer(struct fdcpu_job *job)
{
    uint64_t want = job->nblocks - 1 < pool.threads ? job->nblocks - 1 : pool.threads;

    pthread_mutex_lock(&pool.lock);
    job->next = pool.jobs;
    pool.jobs = job;
    while (pool.started < pool.threads && pool.idle < want && pool.started < want) {
        struct fdcpu_worker *wk = calloc(1, sizeof(*wk));
        pthread_t t;

        if (!wk || pthread_create(&t, NULL, pool_thread, wk)) {
            free(wk);
            break;
        }
        pthread_detach(t);
        pool.started++;
    }
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

static void
pool_withdraw(struct fdcpu_job *job)
{
    struct fdcpu_job **at;

    pthread_mutex_lock(&pool.lock);
    for (at = &pool.jobs; *at != job; at = &(*at)->next)
        ;
    *at = job->next;
    while (job->helpers)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

/* ---- launching ---- */

static int
refuse(struct fdcpu_fault *fault, int result, const struct fdcpu_func *f, const char *why)
{
    fault->result = result;
    snprintf(fault->report, sizeof(fault->report), "kernel %.200s: %s", f->name, why);
    return result;
}

static uint64_t
block_bytes(const struct fdcpu_program *prog, uint32_t threads, uint32_t dynamic)
{
    uint64_t warps = (threads + FDCPU_LANES - 1) / FDCPU_LANES;

    return warps * (prog->entry->file_size + (uint64_t)prog->entry->local_size * FDCPU_LANES +
                    sizeof(struct fdcpu_warp)) + prog->dynamic_at + dynamic +
           sizeof(struct fdcpu_block);
}

uint32_t
fdcpu_max_cooperative_blocks(const struct fdcpu_func *func, uint32_t threads,
                             uint32_t dynamic_shared)
{
    uint64_t n;

    if (func->machine)
        return 4096;    /* it does not run, so it takes no memory */
    if (!threads || threads > 1024 || fdcpu_program_get((struct fdcpu_func *)(uintptr_t)func))
        return 0;
    n = (1ull << 30) / block_bytes(func->prog, threads, dynamic_shared);
    return n > 4096 ? 4096 : (uint32_t)n;
}

int
fdcpu_run(const struct fdcpu_launch *launch, struct fdcpu_fault *fault)
{
    static uint64_t grids;
    struct fdcpu_func *f = launch->func;
    struct fdcpu_job job;
    struct fdcpu_worker *wk;
    uint64_t threads = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
    int result;
    uint8_t *params;

    memset(fault, 0, sizeof(*fault));
    result = fdcpu_program_get(f);
    if (result)
        return refuse(fault, result, f, f->prog_error ? f->prog_error
                                        : f->machine ? "machine code" : "not decoded");
    if (!launch->grid[0] || !launch->grid[1] || !launch->grid[2] || !threads ||
        launch->block[0] > 1024 || launch->block[1] > 1024 || launch->block[2] > 64)
        return refuse(fault, 1, f, "grid or block of an impossible size");
    if (threads > 1024)
        return refuse(fault, 1, f, "more than 1024 threads in a block");
    if (launch->param_size < f->info.param_size)
        return refuse(fault, 1, f, "too few parameters");
    if (f->info.reqntid[0] && (f->info.reqntid[0] != launch->block[0] ||
                               f->info.reqntid[1] != launch->block[1] ||
                               f->info.reqntid[2] != launch->block[2]))
        return refuse(fault, 1, f, "block differs from what .reqntid demands");
    if (threads > f->info.max_threads)
        return refuse(fault, 1, f, "more threads in a block than .maxntid allows");
    if ((uint64_t)f->prog->dynamic_at + launch->dynamic_shared > (1u << 20))
        return refuse(fault, 1, f, "too much shared memory");

    memset(&job, 0, sizeof(job));
    wk = calloc(1, sizeof(*wk));
    params = aligned_alloc(64, (launch->param_size + 64 + 63) & ~63u);
    if (!wk || !params) {
        free(wk);
        free(params);
        return refuse(fault, 2, f, "no memory");
    }
    if (launch->param_size)
        memcpy(params, launch->params, launch->param_size);
    job.launch = launch;
    job.prog = f->prog;
    job.env = launch->env;
    job.params = params;
    job.param_size = f->info.param_size;
    job.threads = (uint32_t)threads;
    job.nwarps = (uint32_t)((threads + FDCPU_LANES - 1) / FDCPU_LANES);
    job.shared_size = (launch->dynamic_shared || f->prog->dynamic_at != f->prog->static_shared
                           ? f->prog->dynamic_at : f->prog->static_shared) +
                      launch->dynamic_shared;
    job.stack_max = (uint32_t)(launch->env->stack_limit > (256u << 20) ? (1u << 30)
                               : launch->env->stack_limit * 4 + (256u << 10));
    if (job.stack_max < f->prog->entry->local_size)
        job.stack_max = f->prog->entry->local_size;
    job.nblocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
    job.grid_id = __atomic_add_fetch(&grids, 1, __ATOMIC_RELAXED);
    if (launch->env->deadline_ms)
        job.deadline_ns = fdcpu_now_ns() + launch->env->deadline_ms * 1000000u;
    pthread_mutex_init(&job.lock, NULL);
    if (launch->cooperative &&
        job.nblocks > fdcpu_max_cooperative_blocks(f, job.threads, launch->dynamic_shared)) {
        result = refuse(fault, 720, f, "too many blocks for a cooperative launch");
        goto out;
    }
    if (f->prog->uses_grid) {           /* words that blocks of a grid meet at */
        struct fdcpu_range range = { .lo = 0 };

        job.workspace = launch->env->heap.alloc
                            ? launch->env->heap.alloc(launch->env->heap.user, 4096, 512) : 0;
        if (!job.workspace) {
            result = refuse(fault, 2, f, "no memory for the grid's workspace");
            goto out;
        }
        memset((void *)(uintptr_t)job.workspace, 0, 4096);
        range.lo = job.workspace;
        range.hi = job.workspace + 4096;
        result = fdcpu_mem_add(&range);
    } else {
        result = -1;
    }
    pthread_once(&pool_once, pool_init);
    if (job.nblocks > 1 && pool.threads) {
        pool_offer(&job);
        work(&job, wk);
        pool_withdraw(&job);
    } else {
        work(&job, wk);
    }
    if (job.workspace) {
        if (result == 0)
            fdcpu_mem_del(job.workspace);
        launch->env->heap.free(launch->env->heap.user, job.workspace);
    }
    text_print(&job);
    *fault = job.fault;
    result = fault->result;
out:
    pthread_mutex_destroy(&job.lock);
    free(params);
    free(wk);
    return result;
}
