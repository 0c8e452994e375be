/*
 * Blocks: their memory, which is used again for later ones, turns for their warps, and what
 * their threads print, which comes out in the order of blocks.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

enum fdcpu_ran
fdcpu_block_run(struct fdcpu_worker *wk, struct fdcpu_block *b)
{
    struct fdcpu_job *job = wk->x.job;

    for (;;) {
        bool ran = false, moved = false;

        for (uint32_t n = 0; n < b->nwarps; n++) {
            struct fdcpu_warp *w = &b->warp[n];
            enum fdcpu_ran res;

            if (!w->live || !fdcpu_runnable(w))
                continue;
            ran = true;
            res = fdcpu_warp_run(wk, w);
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

                    fdcpu_load_warp(&wk->x, w);
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

void
fdcpu_block_free(struct fdcpu_block *b)
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
        fdcpu_fill_constants(code, w->base.regs);
        fdcpu_fill_special(w, code, w->base.regs);
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
    fdcpu_block_free(b);
    return NULL;
}

struct fdcpu_block *
fdcpu_block_begin(struct fdcpu_worker *wk, uint64_t number)
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
        fdcpu_fill_place(w, w->base.code, w->base.regs);
        fdcpu_split_add(w, w->base.code->insn, &w->base, w->lanes);
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

void
fdcpu_text_collect(struct fdcpu_job *job, struct fdcpu_block *b)
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

void
fdcpu_text_print(struct fdcpu_job *job)
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
