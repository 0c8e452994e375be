/*
 * Where the library begins: its only mutable globals, what happens when it is loaded, when
 * the process forks, and cuInit. There is no destructor: calls may come after main, and
 * the end of the process closes the session.
 */
#include "process.h"

#include <string.h>
#include <unistd.h>

#include "cuda_calls.h"

struct fdc_process fdc_process = {
    .state = CUDA_ERROR_NOT_INITIALIZED,
    .init = PTHREAD_MUTEX_INITIALIZER,
    .prints = {{.lock = PTHREAD_MUTEX_INITIALIZER}, {.lock = PTHREAD_MUTEX_INITIALIZER}},
};
__thread struct fdc_thread *fdc_self;

/* In the child only: nobody else runs here yet. What the parent had is not touched; the
 * child's copies of the links are given up, so that the worker sees the parent's end. */
static void
forked(void)
{
    struct fdc_session *session;
    int i;

    pthread_mutex_init(&fdc_process.init, NULL);
    fdc_handles_reset();
    if (fdc_process.forked)     /* a child's child: all is given up already */
        return;
    for (i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        if (fdc_link_road(session->link) == FDC_ROAD_RDMA)
            fdc_process.ucx_lost = true;
        fdc_link_abandon(session->link);
        if (session->life_fd >= 0)
            close(session->life_fd); /* the parent's end is the parent's */
        session->life_fd = -1;
    }
    if (fdc_process.attaching || (i > 0 && fdc_process.initialised))
        fdc_process.forked = true;
    if (i > 0 && !fdc_process.initialised) {
        /* attached only to learn the version */
        if (fdc_self != NULL)
            memset(fdc_self->slot, 0, sizeof(fdc_self->slot));
        fdc_process.sessions = fdc_process.devices = 0;
        memset(fdc_process.handles[FDC_KIND_CONTEXT].chunk, 0,
               sizeof(fdc_process.handles[FDC_KIND_CONTEXT].chunk));
        fdc_process.handles[FDC_KIND_CONTEXT].fresh = 1;
    }
    fdc_process.attaching = false;
    fdc_store_relaxed(&fdc_process.state, CUDA_ERROR_NOT_INITIALIZED);
}

static void __attribute__((constructor))
loaded(void)
{
    unsigned kind;

    for (kind = 0; kind < FDC_KINDS; kind++) {
        pthread_mutex_init(&fdc_process.handles[kind].lock, NULL);
        fdc_process.handles[kind].fresh = 1;
    }
    pthread_atfork(NULL, NULL, forked);
}

uint64_t
fdc_process_id(void)
{
    return __atomic_add_fetch(&fdc_process.ids, 1, __ATOMIC_RELAXED);
}

FDC_EXPORT CUresult
cuInit(unsigned int Flags)
{
    if (FDC_LIKELY(fdc_process_check() == CUDA_SUCCESS))
        return Flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_session_open();
}
