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
    fdcpu_log_once("FD_CPU_KERNELS=skip: no kernel is executed, so nothing that kernels "
                   "compute is there; this is for development of fdcore only");
}

uint64_t
fdcpu_stand_in_ns(const struct fdcpu_work *work)
{
    unsigned us;

    if (work->kind != FDCPU_W_KERNEL ||
        strncmp(work->u.kernel.function->name, "busy_", 5) != 0 ||
        sscanf(work->u.kernel.function->name, "busy_%uus", &us) != 1)
        return 0;
    return us * 1000ull;
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

bool
fdcpu_timed_add(struct fdcpu_stream *s, struct fdcpu_work *work)
{
    uint64_t now_ns;
    struct fdcpu_op *op;

    if (!fdcpu.opt.skip_kernels || s->nwaits > 0 ||
        s->submitted - s->done != s->ntimed || atomic_load(&s->ctx->device->lost) != 0)
        return false;
    if (work->kind != FDCPU_W_KERNEL && work->kind != FDCPU_W_RECORD &&
        work->kind != FDCPU_W_EMPTY)
        return false;
    op = calloc(1, sizeof(*op));
    if (op == NULL)
        return false;
    now_ns = fdc_now_ns();
    if (s->until_ns < now_ns)
        s->until_ns = now_ns;
    s->until_ns += fdcpu_stand_in_ns(work);
    op->work = work;
    op->end_ns = s->until_ns;
    op->ticket = ++s->submitted;
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
        fdcpu_log_work(op->work, s);
        if (op->work->kind == FDCPU_W_KERNEL)
            fdcpu_skipped();
        else if (op->work->kind == FDCPU_W_RECORD && op->work->u.event.record != NULL)
            op->work->u.event.record->time_ns = op->end_ns;
        fdcpu_stream_finish(s, op->ticket);
        fdcpu_work_end(op->work);
        free(op);
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
