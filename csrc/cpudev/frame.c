/*
 * Frames: the registers of a warp in one function, with the constants and special registers
 * that decoding has given places in them; and the local memory that they lie in.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

static void
fill32(char *at, uint32_t v)
{
    for (int l = 0; l < FDCPU_LANES; l++)
        ((uint32_t *)(void *)at)[l] = v;
}

void
fdcpu_fill_constants(const struct fdcpu_code *code, char *regs)
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

void
fdcpu_fill_place(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs)
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

void
fdcpu_fill_special(struct fdcpu_warp *w, const struct fdcpu_code *code, char *regs)
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

struct fdcpu_frame *
fdcpu_frame_take(struct fdcpu_worker *wk, const struct fdcpu_code *code)
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
    fdcpu_fill_constants(code, f->regs);
    return f;
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
