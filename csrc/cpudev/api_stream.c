/*
 * Streams: queues of work in order, each with a thread that is started when something
 * has to wait in it. A place in a stream is a ticket; what must wait for another stream
 * waits for a ticket of it. So the legacy stream's rules, events and graph launches are
 * all the same thing: dependencies.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

#define COPY_HERE (1u << 20)

enum { KEPT = 64 }; /* streams that nobody has any more */

/* ---- life ---- */

struct fdcpu_stream *
fdcpu_stream_new(struct fdcpu_ctx *ctx, unsigned int flags, int priority)
{
    struct fdcpu_stream *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->ctx = ctx;
    s->flags = flags;
    s->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    s->sync_policy.syncPolicy = (CUsynchronizationPolicy)-1;
    s->domain_map.memSyncDomainMap.remote = 1;
    s->refs = 1; /* of the list */
    s->listed = true;
    s->tail = &s->head;
    s->timed_tail = &s->timed;
    s->wake_at = UINT64_MAX;
    s->id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->change, NULL);
    pthread_mutex_lock(&fdcpu.sched);
    s->next = ctx->streams;
    ctx->streams = s;
    pthread_mutex_unlock(&fdcpu.sched);
    return s;
}

void
fdcpu_stream_ref(struct fdcpu_stream *stream)
{
    stream->refs++;
}

static void
stream_free(struct fdcpu_stream *stream)
{
    pthread_cond_destroy(&stream->work);
    pthread_cond_destroy(&stream->change);
    free(stream->waits);
    free(stream->tips);
    free(stream);
}

/* A call of another thread may have looked the stream up just before it was destroyed, as
 * where a program ends while its threads go on; so the last ones that nobody has are kept. */
void
fdcpu_stream_unref(struct fdcpu_stream *stream)
{
    static struct fdcpu_stream *kept[KEPT];
    static unsigned int next;
    struct fdcpu_stream *oldest;

    if (--stream->refs > 0 || stream->kept)
        return;
    stream->kept = true;
    oldest = kept[next];
    kept[next] = stream;
    next = (next + 1) % KEPT;
    if (oldest != NULL && oldest->refs == 0)
        stream_free(oldest);
}

static bool start_worker(struct fdcpu_stream *s);

/* Takes a destroyed stream off the list once all its work is done. */
static __attribute__((noinline)) void
reap(struct fdcpu_stream *s)
{
    struct fdcpu_stream **at;

    if (!s->gone || !s->listed || s->running || s->done < s->submitted)
        return;
    for (at = &s->ctx->streams; *at != s; at = &(*at)->next)
        ;
    *at = s->next;
    s->listed = false;
    fdcpu_stream_unref(s);
}

void
fdcpu_stream_retire(struct fdcpu_stream *stream)
{
    if (stream->capture != NULL) {
        fdcpu_capture_spoil(stream->capture);
        fdcpu_capture_leave(stream);
    }
    stream->gone = true;
    pthread_cond_signal(&stream->work);
    if (stream->timed != NULL && !stream->running)
        start_worker(stream); /* somebody has to see its end */
    reap(stream);
}

void
fdcpu_own_streams_drop(struct fdcpu_thread *t)
{
    int i;

    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < t->nown; i++) {
        if (!t->own[i].stream->gone)
            fdcpu_stream_retire(t->own[i].stream);
        fdcpu_stream_unref(t->own[i].stream);
    }
    pthread_mutex_unlock(&fdcpu.sched);
}

/* The calling thread's default stream in a context. */
static struct fdcpu_stream *
own_stream(struct fdcpu_ctx *ctx)
{
    struct fdcpu_thread *t = &fdcpu_thread;
    struct fdcpu_own *more;
    struct fdcpu_stream *s;
    int i;

    for (i = 0; i < t->nown; i++) {
        if (t->own[i].ctx != ctx)
            continue;
        if (!t->own[i].stream->gone)
            return t->own[i].stream;
        break; /* the context was reset since */
    }
    s = fdcpu_stream_new(ctx, 0, 0);
    if (s == NULL)
        return NULL;
    s->per_thread = true;
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_stream_ref(s); /* of this thread's table */
    if (i < t->nown) {
        fdcpu_stream_unref(t->own[i].stream);
        t->own[i].stream = s;
        pthread_mutex_unlock(&fdcpu.sched);
        return s;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    more = realloc(t->own, (size_t)(t->nown + 1) * sizeof(*more));
    if (more == NULL)
        return NULL;
    t->own = more;
    t->own[t->nown++] = (struct fdcpu_own){ctx, s};
    fdcpu_thread_watch();
    return s;
}

CUresult
fdcpu_stream_get(CUstream handle, struct fdcpu_stream **stream)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || handle == FDCPU_LEGACY) {
        *stream = ctx->legacy;
        return CUDA_SUCCESS;
    }
    if (handle == FDCPU_PER_THREAD) {
        *stream = own_stream(ctx);
        return *stream == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    *stream = FDCPU_GET(FDCPU_H_STREAM, handle);
    if (*stream == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if ((*stream)->ctx != ctx) {
        if (!atomic_load(&(*stream)->ctx->active))
            return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        return (CUresult)atomic_load(&(*stream)->ctx->device->lost);
    }
    return CUDA_SUCCESS;
}

/* ---- queues ---- */

/* Waits until the stream may have come to this ticket. */
static void
wait_change(struct fdcpu_stream *s, uint64_t ticket)
{
    if (fdcpu_timed_wait(s, ticket))
        return;
    if (ticket < s->wake_at)
        s->wake_at = ticket;
    pthread_cond_wait(&s->change, &fdcpu.sched);
}

bool
fdcpu_stream_reached(struct fdcpu_stream *stream, uint64_t ticket)
{
    if (stream->done < ticket && stream->timed != NULL)
        fdcpu_timed_settle(stream);
    return stream->done >= ticket;
}

void
fdcpu_stream_await(struct fdcpu_stream *stream, uint64_t ticket)
{
    while (!fdcpu_stream_reached(stream, ticket))
        wait_change(stream, ticket);
}

void
fdcpu_work_end(struct fdcpu_work *work)
{
    if (work->kind == FDCPU_W_RECORD && work->u.event.record != NULL)
        fdcpu_record_unref(work->u.event.record);
    if (work->kind == FDCPU_W_GRAPH)
        fdcpu_plan_unref(work->u.plan);
    fdcpu_work_free(work);
}

void
fdcpu_stream_finish(struct fdcpu_stream *s, uint64_t ticket)
{
    s->done = ticket;
    if (ticket < s->wake_at)
        return;
    s->wake_at = UINT64_MAX; /* who waits for more says so again */
    pthread_cond_broadcast(&s->change);
}

static void *
worker(void *arg)
{
    struct fdcpu_stream *s = arg;
    struct fdcpu_op *op;
    uint32_t i;

    pthread_mutex_lock(&fdcpu.sched);
    for (;;) {
        while (s->head == NULL && !s->gone)
            pthread_cond_wait(&s->work, &fdcpu.sched);
        op = s->head;
        if (op == NULL && s->timed != NULL)
            fdcpu_stream_await(s, s->submitted);
        if (op == NULL)
            break;
        fdcpu_stream_await(s, op->ticket - 1); /* one that a caller runs itself */
        for (i = 0; i < op->ndeps; i++) {
            fdcpu_stream_await(op->deps[i].stream, op->deps[i].ticket);
            fdcpu_stream_unref(op->deps[i].stream);
        }
        s->head = op->next;
        if (s->head == NULL)
            s->tail = &s->head;
        s->queued--;
        s->current = op->work;
        pthread_mutex_unlock(&fdcpu.sched);
        fdcpu_work_run(op->work, s);
        pthread_mutex_lock(&fdcpu.sched);
        s->current = NULL;
        fdcpu_stream_finish(s, op->ticket);
        free(op->deps);
        fdcpu_work_end(op->work);
    }
    s->running = false;
    reap(s);
    fdcpu_stream_unref(s);
    pthread_mutex_unlock(&fdcpu.sched);
    return NULL;
}

static bool
start_worker(struct fdcpu_stream *s)
{
    sigset_t all, old;
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, &attr, worker, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (err != 0)
        return false;
    s->running = true;
    fdcpu_stream_ref(s);
    return true;
}

void
fdcpu_stream_depend(struct fdcpu_stream *stream, struct fdcpu_stream *on,
                    uint64_t ticket)
{
    struct fdcpu_dep *more;

    if (on == stream || fdcpu_stream_reached(on, ticket))
        return;
    more = realloc(stream->waits, (stream->nwaits + 1) * sizeof(*more));
    if (more == NULL) {
        fdcpu_stream_await(on, ticket);
        return;
    }
    stream->waits = more;
    stream->waits[stream->nwaits++] = (struct fdcpu_dep){on, ticket};
    fdcpu_stream_ref(on);
}

/* Adds what the rules of the legacy stream ask for. */
static void
depend_on_legacy(struct fdcpu_stream *s)
{
    struct fdcpu_stream *other;

    if (s->legacy) {
        for (other = s->ctx->streams; other != NULL; other = other->next)
            if ((other->flags & CU_STREAM_NON_BLOCKING) == 0)
                fdcpu_stream_depend(s, other, other->submitted);
    } else if ((s->flags & CU_STREAM_NON_BLOCKING) == 0) {
        fdcpu_stream_depend(s, s->ctx->legacy, s->ctx->legacy->submitted);
    }
}

/* Forgets dependencies that are met. */
static void
prune(struct fdcpu_stream *s)
{
    uint32_t i, n = 0;

    for (i = 0; i < s->nwaits; i++) {
        if (fdcpu_stream_reached(s->waits[i].stream, s->waits[i].ticket))
            fdcpu_stream_unref(s->waits[i].stream);
        else
            s->waits[n++] = s->waits[i];
    }
    s->nwaits = n;
}

/* Runs work in the calling thread, if nothing comes before it. */
static bool
run_here(struct fdcpu_stream *s, struct fdcpu_work *work)
{
    uint64_t ticket;

    if (s->nwaits > 0 || !fdcpu_stream_reached(s, s->submitted))
        return false;
    ticket = ++s->submitted;
    s->current = work;
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_work_run(work, s);
    pthread_mutex_lock(&fdcpu.sched);
    s->current = NULL;
    fdcpu_stream_finish(s, ticket);
    fdcpu_work_end(work);
    reap(s);
    return true;
}

/* Queues work; the dependencies collected so far are its own. */
static uint64_t
enqueue(struct fdcpu_stream *s, struct fdcpu_work *work)
{
    struct fdcpu_op *op = &work->op;
    uint64_t ticket = ++s->submitted;
    uint32_t i;

    if (s->running || start_worker(s)) {
        op->ticket = ticket;
        op->work = work;
        op->deps = s->waits;
        op->ndeps = s->nwaits;
        s->waits = NULL;
        s->nwaits = 0;
        *s->tail = op;
        s->tail = &op->next;
        s->queued++;
        pthread_cond_signal(&s->work);
        return ticket;
    }
    /* No thread: do it now, in order. */
    fdcpu_stream_await(s, ticket - 1);
    for (i = 0; i < s->nwaits; i++) {
        fdcpu_stream_await(s->waits[i].stream, s->waits[i].ticket);
        fdcpu_stream_unref(s->waits[i].stream);
    }
    s->nwaits = 0;
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_work_run(work, s);
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_stream_finish(s, ticket);
    fdcpu_work_end(work);
    return ticket;
}

/* What only marks a place needs no thread while the stream is idle. Neither do copies, where
 * the device only stands in for another: that one would have no thread for them. */
static bool
needs_no_thread(const struct fdcpu_work *work)
{
    const CUDA_MEMCPY3D *p = &work->u.copy.p;

    if (work->kind == FDCPU_W_RECORD || work->kind == FDCPU_W_EMPTY)
        return true;
    return fdcpu.opt.skip_kernels && work->kind == FDCPU_W_COPY &&
           p->WidthInBytes <= COPY_HERE && p->Height == 1 && p->Depth == 1;
}

uint64_t
fdcpu_stream_push(struct fdcpu_stream *stream, struct fdcpu_work *work)
{
    /* As a driver: a full queue holds its caller up. */
    while ((fdcpu.opt.strict & FDCPU_STRICT_QUEUE) != 0 &&
           stream->queued >= FDCPU_QUEUE)
        if (!fdcpu_stream_reached(stream, stream->done + 1))
            wait_change(stream, stream->done + 1);
    prune(stream);
    depend_on_legacy(stream);
    if (fdcpu_timed_add(stream, work) || (needs_no_thread(work) && run_here(stream, work)))
        return stream->submitted;
    return enqueue(stream, work);
}

CUresult
fdcpu_stream_do(struct fdcpu_stream *stream, struct fdcpu_work *work, int what)
{
    bool wait = (what & FDCPU_DO_WAIT) != 0;
    struct fdcpu_ctx *ctx = stream->ctx;
    CUresult result;
    uint64_t ticket;

    pthread_mutex_lock(&fdcpu.sched);
    if (stream->capture != NULL) {
        result = fdcpu_capture_add(stream, work);
        goto out;
    }
    result = fdcpu_capture_implicit(stream);
    if (result != CUDA_SUCCESS) {
        fdcpu_work_end(work);
        goto out;
    }
    if (wait) {
        fdcpu_stream_ref(stream);
        prune(stream);
        depend_on_legacy(stream);
        if (!run_here(stream, work)) {
            ticket = fdcpu_stream_push(stream, work);
            fdcpu_stream_await(stream, ticket);
        }
        fdcpu_stream_unref(stream);
    } else {
        fdcpu_stream_push(stream, work);
    }
out:
    pthread_mutex_unlock(&fdcpu.sched);
    if (wait && result == CUDA_SUCCESS) {
        fdcpu_ctx_print_flush(ctx);
        result = fdcpu_ctx_result(ctx);
    }
    return result;
}

CUresult
fdcpu_stream_wait(struct fdcpu_stream *stream)
{
    struct fdcpu_ctx *ctx = stream->ctx;

    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_stream_ref(stream);
    prune(stream);
    if (stream->legacy) {
        /* What the legacy stream would wait for counts as its own. */
        depend_on_legacy(stream);
        while (stream->nwaits > 0) {
            fdcpu_stream_await(stream->waits[0].stream, stream->waits[0].ticket);
            prune(stream);
        }
    }
    fdcpu_stream_await(stream, stream->submitted);
    fdcpu_stream_unref(stream);
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_ctx_print_flush(ctx);
    return fdcpu_ctx_result(ctx);
}

/* ---- who uses memory ---- */

struct use {
    struct fdcpu_device *device;
    uint64_t lo, hi;
    struct fdcpu_ctx *found;
};

static void
use_in_ctx(void *obj, void *user)
{
    struct fdcpu_ctx *ctx = obj;
    struct use *use = user;
    struct fdcpu_stream *s;
    struct fdcpu_op *op;

    if (ctx->device != use->device || use->found != NULL)
        return;
    pthread_mutex_lock(&fdcpu.sched);
    for (s = ctx->streams; s != NULL && use->found == NULL; s = s->next) {
        if (s->current != NULL && fdcpu_work_uses(s->current, use->lo, use->hi))
            use->found = ctx;
        for (op = s->head; op != NULL && use->found == NULL; op = op->next)
            if (fdcpu_work_uses(op->work, use->lo, use->hi))
                use->found = ctx;
        for (op = s->timed; op != NULL && use->found == NULL; op = op->next)
            if (fdcpu_work_uses(op->work, use->lo, use->hi))
                use->found = ctx;
    }
    pthread_mutex_unlock(&fdcpu.sched);
}

bool
fdcpu_streams_use(struct fdcpu_device *device, uint64_t lo, uint64_t hi,
                  struct fdcpu_ctx **ctx)
{
    struct use use = {device, lo, hi, NULL};

    fdcpu_handle_each(FDCPU_H_CONTEXT, use_in_ctx, &use);
    *ctx = use.found;
    return use.found != NULL;
}

/* ---- calls ---- */

FDC_EXPORT CUresult
cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    struct fdcpu_ctx *ctx;
    struct fdcpu_stream *s;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (phStream == NULL || (flags & ~1u) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    s = fdcpu_stream_new(ctx, flags, priority);
    if (s == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    s->handle = fdcpu_handle_new(FDCPU_H_STREAM, s);
    if (s->handle == 0) {
        pthread_mutex_lock(&fdcpu.sched);
        fdcpu_stream_retire(s);
        pthread_mutex_unlock(&fdcpu.sched);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *phStream = (CUstream)(uintptr_t)s->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return cuStreamCreateWithPriority(phStream, Flags, 0);
}

FDC_EXPORT CUresult
cuStreamDestroy_v2(CUstream hStream)
{
    struct fdcpu_stream *s;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    s = fdcpu_handle_drop(FDCPU_H_STREAM, (uint64_t)(uintptr_t)hStream);
    if (s == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_stream_retire(s);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;
}

/* Whether a stream's progress may be asked about: not while it captures. Under sched. */
static CUresult
may_ask(struct fdcpu_stream *stream)
{
    if (stream->capture == NULL)
        return fdcpu_capture_implicit(stream);
    fdcpu_capture_spoil(stream->capture);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static CUresult
synchronize(CUstream hStream)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.sched);
    result = may_ask(stream);
    pthread_mutex_unlock(&fdcpu.sched);
    return result == CUDA_SUCCESS ? fdcpu_stream_wait(stream) : result;
}

FDCPU_TWIN(cuStreamSynchronize, _ptsz, (CUstream hStream), synchronize(S(hStream)))

static CUresult
query(CUstream hStream)
{
    struct fdcpu_stream *stream, *other;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.sched);
    result = may_ask(stream);
    if (result == CUDA_SUCCESS && !fdcpu_stream_reached(stream, stream->submitted))
        result = CUDA_ERROR_NOT_READY;
    if (result == CUDA_SUCCESS && stream->legacy)
        for (other = stream->ctx->streams; other != NULL; other = other->next)
            if ((other->flags & CU_STREAM_NON_BLOCKING) == 0 &&
                !fdcpu_stream_reached(other, other->submitted))
                result = CUDA_ERROR_NOT_READY;
    pthread_mutex_unlock(&fdcpu.sched);
    return result == CUDA_SUCCESS ? fdcpu_ctx_result(stream->ctx) : result;
}

FDCPU_TWIN(cuStreamQuery, _ptsz, (CUstream hStream), query(S(hStream)))

enum { ASK_FLAGS, ASK_PRIORITY, ASK_ID, ASK_DEVICE, ASK_CTX };

static CUresult
ask(CUstream hStream, int what, void *out)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    /* Seen of driver 580: an innocent question, and the capture is broken. */
    if (what == ASK_FLAGS && (fdcpu.opt.strict & FDCPU_STRICT_CAPTURE) != 0) {
        pthread_mutex_lock(&fdcpu.sched);
        if (stream->capture != NULL) {
            fdcpu_capture_spoil(stream->capture);
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        pthread_mutex_unlock(&fdcpu.sched);
        if (result != CUDA_SUCCESS)
            return result;
    }
    switch (what) {
    case ASK_FLAGS:
        *(unsigned int *)out = stream->flags;
        break;
    case ASK_PRIORITY:
        *(int *)out = stream->priority;
        break;
    case ASK_ID:
        *(unsigned long long *)out = stream->id;
        break;
    case ASK_DEVICE:
        *(CUdevice *)out = stream->ctx->device->ordinal;
        break;
    default:
        *(CUcontext *)out = (CUcontext)(uintptr_t)stream->ctx->handle;
    }
    return CUDA_SUCCESS;
}

FDCPU_TWIN(cuStreamGetFlags, _ptsz, (CUstream hStream, unsigned int *flags),
           ask(S(hStream), ASK_FLAGS, flags))
FDCPU_TWIN(cuStreamGetPriority, _ptsz, (CUstream hStream, int *priority),
           ask(S(hStream), ASK_PRIORITY, priority))
FDCPU_TWIN(cuStreamGetId, _ptsz, (CUstream hStream, unsigned long long *streamId),
           ask(S(hStream), ASK_ID, streamId))
FDCPU_TWIN(cuStreamGetDevice, _ptsz, (CUstream hStream, CUdevice *device),
           ask(S(hStream), ASK_DEVICE, device))
FDCPU_TWIN(cuStreamGetCtx, _ptsz, (CUstream hStream, CUcontext *pctx),
           ask(S(hStream), ASK_CTX, pctx))

static CUresult
get_ctx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (pCtx == NULL && pGreenCtx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (pCtx != NULL)
        *pCtx = (CUcontext)(uintptr_t)stream->ctx->handle;
    if (pGreenCtx != NULL)
        *pGreenCtx = (CUgreenCtx)(uintptr_t)fdcpu_stream_green(stream);
    return CUDA_SUCCESS;
}

FDCPU_TWIN(cuStreamGetCtx_v2, _ptsz,
           (CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx),
           get_ctx_v2(S(hStream), pCtx, pGreenCtx))

FDC_EXPORT CUresult
cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (phCtx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *phCtx = (CUgreenCtx)(uintptr_t)fdcpu_stream_green(stream);
    return CUDA_SUCCESS;
}

/* ---- attributes ---- */

/* One that a stream has; NULL: there is no such. */
static CUstreamAttrValue *
attribute(struct fdcpu_stream *s, CUstreamAttrID attr)
{
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        return &s->window;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        return &s->sync_policy;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        return &s->domain_map;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        return &s->domain;
    default:
        return NULL;
    }
}

/* Until it is set, the policy is none of those that can be set. */
static CUresult
get_attribute(CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value)
{
    const CUstreamAttrValue *from;
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    from = attribute(stream, attr);
    if (value == NULL ||
        (from == NULL && (int)attr != CU_LAUNCH_ATTRIBUTE_PRIORITY))
        return CUDA_ERROR_INVALID_VALUE;
    if (from == &stream->window)
        value->accessPolicyWindow = from->accessPolicyWindow;
    else if (from == &stream->domain_map)
        value->memSyncDomainMap = from->memSyncDomainMap;
    else
        value->priority = from == NULL ? stream->priority : from->priority;
    return CUDA_SUCCESS;
}

FDCPU_TWIN(cuStreamGetAttribute, _ptsz,
           (CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value_out),
           get_attribute(S(hStream), attr, value_out))

static CUresult
set_attribute(CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        if (value->accessPolicyWindow.num_bytes > FDCPU_WINDOW)
            return CUDA_ERROR_INVALID_VALUE;
        stream->window = *value;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        if ((unsigned)value->syncPolicy - 1 > 3)
            return CUDA_ERROR_INVALID_VALUE;
        stream->sync_policy = *value;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        if (value->memSyncDomainMap.default_ >= FDCPU_DOMAINS ||
            value->memSyncDomainMap.remote >= FDCPU_DOMAINS)
            return CUDA_ERROR_INVALID_VALUE;
        stream->domain_map = *value;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        if ((unsigned)value->memSyncDomain > 1)
            return CUDA_ERROR_INVALID_VALUE;
        stream->domain = *value;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        stream->priority = value->priority > 0    ? 0
                           : value->priority < -5 ? -5
                                                  : value->priority;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

FDCPU_TWIN(cuStreamSetAttribute, _ptsz,
           (CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value),
           set_attribute(S(hStream), attr, value))

static CUresult
copy_attributes(CUstream to, CUstream from)
{
    struct fdcpu_stream *dst, *src;
    CUresult result = fdcpu_stream_get(to, &dst);

    if (result == CUDA_SUCCESS)
        result = fdcpu_stream_get(from, &src);
    if (result != CUDA_SUCCESS)
        return result;
    dst->window = src->window;
    dst->sync_policy = src->sync_policy;
    dst->domain_map = src->domain_map;
    dst->domain = src->domain;
    dst->priority = src->priority;
    return CUDA_SUCCESS;
}

FDCPU_TWIN(cuStreamCopyAttributes, _ptsz, (CUstream dst, CUstream src),
           copy_attributes(S(dst), S(src)))
