/*
 * Per-thread state. One pointer of thread-local storage; the rest is made at a thread's
 * first call and given back when the thread ends.
 */
#include "process.h"

#include <stdlib.h>

static void
ended(void *value)
{
    struct fdc_thread *self = value;

    fdc_stream_thread_gone(self);
    fdc_managed_sent(self);
    fdc_tickets_thread_gone(self);
    fdc_self = NULL;
    free(self->asked);
    free(self);
}

static void __attribute__((constructor))
thread_setup(void)
{
    fdc_process.thread_key_made =
        pthread_key_create(&fdc_process.thread_key, ended) == 0;
}

struct fdc_thread *
fdc_thread_make(void)
{
    struct fdc_thread *self;

    self = calloc(1, sizeof(*self));
    if (self == NULL)
        return &fdc_process.spare;
    self->number = __atomic_add_fetch(&fdc_process.threads, 1, __ATOMIC_RELAXED);
    fdc_self = self;
    if (fdc_process.thread_key_made)
        pthread_setspecific(fdc_process.thread_key, self);
    return self;
}

struct fdc_thread *
fdc_thread(void)
{
    return fdc_thread_self();
}

struct fdc_context *
fdc_context_current(void)
{
    struct fdc_thread *self = fdc_thread_self();

    return self->depth > 0 ? self->stack[self->depth - 1] : NULL;
}
