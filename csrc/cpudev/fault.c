/*
 * What is said of a kernel that does wrong: the place, the lane, what it touched. The first
 * report of a job is kept, and the job stops.
 */
#include "vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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
