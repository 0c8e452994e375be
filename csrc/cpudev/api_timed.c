/*
 * Time that passes without a processor. Where kernels are skipped, a kernel that stands in
 * for one of so many microseconds only has its stream come to its end so much later, as if
 * a GPU were at work: no thread runs it, and whoever asks looks at the clock. It is so as
 * long as nothing else lies before it in its stream; behind other work the stream's thread
 * has it. All under fdcpu.sched.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpudev.h"

/* A timer wakes late by so much, and a sleep that leaves less is none. */
enum { LATE_NS = 120000, SLEEP_NS = 250000 };

void
fdcpu_skipped(void)
{
    static _Atomic bool said;

    if (FDC_LIKELY(atomic_load_explicit(&said, memory_order_relaxed)))
        return;
    atomic_store_explicit(&said, true, memory_order_relaxed);
    fdcpu_log_once("FD_CPU_KERNELS=skip: no kernel is executed, so nothing that kernels "
                   "compute is there; this is for development of fdcore only");
}

uint64_t
fdcpu_stand_in_ns(const char *name)
{
    unsigned us;

    return strncmp(name, "busy_", 5) == 0 && sscanf(name, "busy_%uus", &us) == 1
               ? us * 1000ull
               : 0;
}

void
fdcpu_sleep_until(uint64_t until_ns)
{
    uint64_t now_ns = fdc_now_ns();
    struct timespec until;

    if (until_ns > now_ns + SLEEP_NS) {
        until.tv_sec = (time_t)((until_ns - LATE_NS) / 1000000000u);
        until.tv_nsec = (long)((until_ns - LATE_NS) % 1000000000u);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    while (fdc_now_ns() < until_ns)
        fdc_pause();
}

/* Its time has come. */
static void
finish(struct fdcpu_stream *s, struct fdcpu_op *op)
{
    struct fdcpu_work *work = op->work;

    fdcpu_log_work(work, s);
    if (work->kind == FDCPU_W_KERNEL)
        fdcpu_skipped();
    else if (work->kind == FDCPU_W_RECORD && work->u.event.record != NULL)
        work->u.event.record->time_ns = op->end_ns;
    fdcpu_stream_finish(s, op->ticket);
    fdcpu_work_end(work);
}

bool
fdcpu_timed_add(struct fdcpu_stream *s, struct fdcpu_work *work)
{
    bool kernel = work->kind == FDCPU_W_KERNEL;
    uint64_t takes_ns = kernel ? work->u.kernel.function->stand_in_ns : 0, now_ns;
    struct fdcpu_op *op = &work->op;

    if (!fdcpu.opt.skip_kernels || s->nwaits > 0 ||
        s->submitted - s->done != s->ntimed || atomic_load(&s->ctx->device->lost) != 0)
        return false;
    if (work->kind != FDCPU_W_KERNEL && work->kind != FDCPU_W_RECORD &&
        work->kind != FDCPU_W_EMPTY)
        return false;
    op->work = work;
    op->ticket = ++s->submitted;
    if (kernel && takes_ns == 0 && s->timed == NULL) {
        finish(s, op); /* nobody asks when */
        return true;
    }
    now_ns = fdc_now_ns();
    if (s->until_ns < now_ns)
        s->until_ns = now_ns;
    s->until_ns += takes_ns;
    op->end_ns = s->until_ns;
    *s->timed_tail = op;
    s->timed_tail = &op->next;
    s->ntimed++;
    s->queued++;
    fdcpu_timed_settle(s);
    return true;
}

void
fdcpu_timed_settle(struct fdcpu_stream *s)
{
    uint64_t now_ns = fdc_now_ns();
    struct fdcpu_op *op;

    while ((op = s->timed) != NULL && op->end_ns <= now_ns) {
        s->timed = op->next;
        if (s->timed == NULL)
            s->timed_tail = &s->timed;
        s->ntimed--;
        s->queued--;
        finish(s, op);
    }
}

bool
fdcpu_timed_wait(struct fdcpu_stream *s, uint64_t ticket)
{
    struct fdcpu_op *op = s->timed;
    uint64_t until_ns;

    if (op == NULL)
        return false;
    while (op->ticket < ticket && op->next != NULL)
        op = op->next;
    until_ns = op->end_ns;
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_sleep_until(until_ns);
    pthread_mutex_lock(&fdcpu.sched);
    return true;
}
