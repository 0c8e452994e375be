/* What sched.c, block.c, warp.c and frame.c, which run a grid together, have of each other. */
#ifndef FDCPU_RUN_H
#define FDCPU_RUN_H

#include "vm.h"

/* ---- frame.c ---- */

void fdcpu_fill_constants(const struct fdcpu_code *code, char *regs);
/* Registers that differ from block to block. */
void fdcpu_fill_place(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs);
/* Registers that stay as they are from block to block. */
void fdcpu_fill_special(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs);
/* A frame for a function that is called, a free one if there is any; NULL: no memory. */
struct fdcpu_frame *fdcpu_frame_take(struct fdcpu_worker *wk, const struct fdcpu_code *code);
/* One split or frame less; the warp's own frame is never given back. */
static inline void
fdcpu_frame_drop(struct fdcpu_worker *wk, struct fdcpu_frame *f)
{
    while (f && --f->refs == 0 && f->parent) {
        struct fdcpu_frame *up = f->parent;

        f->parent = wk->free_frames[f->code->index];
        wk->free_frames[f->code->index] = f;
        f = up;
    }
}

/* ---- warp.c ---- */

enum fdcpu_ran { R_YIELD, R_BLOCKED, R_DONE, R_FAULT };

/* Runs a warp until it has had its turn, waits or is done. */
enum fdcpu_ran fdcpu_warp_run(struct fdcpu_worker *wk, struct fdcpu_warp *w);
/* What handlers see of a warp; for reports, too. */
void fdcpu_load_warp(struct fdcpu_exec *x, struct fdcpu_warp *w);
/* A new split beside the others; the frame counts it. */
static inline struct fdcpu_split *
fdcpu_split_add(struct fdcpu_warp *w, const struct fdcpu_insn *ip,
                struct fdcpu_frame *frame, uint32_t mask)
{
    struct fdcpu_split *s = &w->split[w->nsplit++];

    *s = (struct fdcpu_split){ .ip = ip, .frame = frame, .mask = mask, .age = w->clock };
    frame->refs++;
    return s;
}

/* How many splits could go on. */
static inline uint32_t
fdcpu_runnable(const struct fdcpu_warp *w)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < w->nsplit; k++)
        n += w->split[k].state == S_RUN;
    return n;
}

/* ---- block.c ---- */

/* The block of this number, ready to run; NULL: no memory. */
struct fdcpu_block *fdcpu_block_begin(struct fdcpu_worker *wk, uint64_t number);
/* A turn for each of its warps, again while any gets on. */
enum fdcpu_ran fdcpu_block_run(struct fdcpu_worker *wk, struct fdcpu_block *b);
void fdcpu_block_free(struct fdcpu_block *b);
/* Takes what a block has printed; it is kept in the order of blocks until the end. */
void fdcpu_text_collect(struct fdcpu_job *job, struct fdcpu_block *b);
void fdcpu_text_print(struct fdcpu_job *job);

#endif
