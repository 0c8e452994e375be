/*
 * Streams: which one a value means, holding a thread back while too much is unfinished on
 * one, and what is answered without asking. A stream's `issued` is the position of its last
 * work in the session's order, `idle` a position up to which its work is known to be over.
 */
#include "managed.h"
#include "process.h"

#include <errno.h>
#include <stdlib.h>

#include "cuda_calls.h"
#include "memory.h"

#define MARK_EVERY 256u
#define MARKS_OUT 2u /* so at most 3 * 256 calls are unfinished */

struct mark {
    struct fdc_ticket ticket;
    struct fdc_stream *stream;
    uint32_t number;
};

/* ---- objects ---- */

struct fdc_stream *
fdc_stream_make(struct fdc_session *session, struct fdc_context *context,
                unsigned flags, int priority)
{
    struct fdc_stream *stream;

    stream = fdc_object_new(session, FDC_KIND_STREAM, sizeof(*stream), context);
    if (stream == NULL)
        return NULL;
    stream->flags = flags;
    stream->priority = priority;
    stream->id = fdc_process_id();
    fdc_stream_attributes(stream);
    return stream;
}

/* A new stream, at the worker too. */
static CUresult
stream_create(struct fdc_call *call, unsigned flags, int priority,
              struct fdc_stream **created)
{
    struct fdc_req_cuStreamCreateWithPriority *req;
    struct fdc_stream *stream;
    CUresult result;

    stream = fdc_stream_make(call->session, call->context, flags, priority);
    if (stream == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    call->id = FDC_ID_cuStreamCreateWithPriority;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        result = call->result;
        goto err_drop;
    }
    req->phStream = stream->object.handle;
    req->flags = flags;
    req->priority = priority;
    result = fdc_call_send(call);
    if (result != CUDA_SUCCESS)
        goto err_drop;
    *created = stream;
    return CUDA_SUCCESS;

err_drop:
    fdc_object_drop(stream);
    return result;
}

CUresult
fdc_stream_hidden(struct fdc_context *context, struct fdc_stream **stream)
{
    struct fdc_call call;
    CUresult result;

    *stream = fdc_object_find(FDC_KIND_STREAM, (void *)(uintptr_t)context->hidden);
    if (*stream != NULL)
        return CUDA_SUCCESS;
    result = fdc_call_open_in(&call, context->object.session, 0);
    if (result != CUDA_SUCCESS)
        return result;
    call.context = context;
    /* Not among the program's on a queue of the device, where one may stand at a gate. */
    result = stream_create(&call, CU_STREAM_NON_BLOCKING,
                           context->device->snapshot->priority_high, stream);
    if (result == CUDA_SUCCESS)
        context->hidden = (*stream)->object.handle;
    return result;
}

/* This thread's default stream in the call's context, made at first use. */
static CUresult
per_thread_stream(struct fdc_call *call, struct fdc_stream **stream)
{
    struct fdc_thread *self = fdc_thread_self();
    uint16_t id = call->id;
    CUresult result;
    unsigned i, place = FDC_COUNT(self->per_thread);

    for (i = 0; i < FDC_COUNT(self->per_thread); i++) {
        if (self->per_thread[i].context == call->context) {
            place = i;
            *stream = fdc_object_find(FDC_KIND_STREAM,
                                      (void *)(uintptr_t)self->per_thread[i].stream);
            if (*stream != NULL)
                return CUDA_SUCCESS;
            break;
        }
        if (place == FDC_COUNT(self->per_thread) &&
            (self->per_thread[i].context == NULL ||
             fdc_load_relaxed(&self->per_thread[i].context->destroyed)))
            place = i;
    }
    if (place == FDC_COUNT(self->per_thread))
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = stream_create(call, 0, 0, stream);
    call->id = id;
    if (result != CUDA_SUCCESS)
        return result;
    (*stream)->per_thread = true;
    self->per_thread[place].context = call->context;
    self->per_thread[place].stream = (*stream)->object.handle;
    return CUDA_SUCCESS;
}

/* Nobody waits. The stream's earlier work still runs. */
static CUresult
stream_destroy(struct fdc_call *call, struct fdc_stream *stream)
{
    struct fdc_req_cuStreamDestroy_v2 *req;

    call->id = FDC_ID_cuStreamDestroy_v2;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->hStream = stream->object.handle;
    fdc_object_drop(stream);
    return fdc_call_send(call);
}

void
fdc_stream_thread_gone(struct fdc_thread *thread)
{
    struct fdc_call call;
    struct fdc_stream *stream;
    unsigned i;

    for (i = 0; i < FDC_COUNT(thread->per_thread); i++) {
        if (thread->per_thread[i].context == NULL)
            continue;
        stream = fdc_object_find(FDC_KIND_STREAM,
                                 (void *)(uintptr_t)thread->per_thread[i].stream);
        if (stream == NULL || fdc_call_open(&call, 0, FDC_NEEDS_INIT) != CUDA_SUCCESS ||
            fdc_call_join(&call, &stream->object) != CUDA_SUCCESS)
            continue;
        fdc_capture_stream_gone(stream);
        call.context = stream->object.context;
        stream_destroy(&call, stream);
    }
}

static void
gone_with(void *found, void *user)
{
    struct fdc_object *object = found;
    struct fdc_context *context = user;

    if (object->context != context || found == context->legacy)
        return;
    if (FDC_HANDLE_KIND(object->handle) == FDC_KIND_STREAM)
        fdc_capture_stream_gone(found);
    fdc_object_drop(object);
}

void
fdc_stream_context_gone(struct fdc_context *context)
{
    fdc_object_each(FDC_KIND_STREAM, gone_with, context);
    fdc_object_each(FDC_KIND_EVENT, gone_with, context);
}

/* ---- flow control ---- */

static void
mark_done(struct fdc_ticket *ticket)
{
    struct mark *mark = ticket->user;
    struct fdc_stream *stream = mark->stream;

    if ((int32_t)(mark->number - fdc_load_relaxed(&stream->marks_done)) > 0)
        fdc_store_release(&stream->marks_done, mark->number);
    fdc_ticket_release(stream->object.session, ticket);
    free(mark);
    fdc_object_unhold(stream);
}

/* Every 256th call on a stream: a mark, and a wait for the mark before the last. */
static __attribute__((noinline)) CUresult
mark_send(struct fdc_call *call, struct fdc_stream *stream, uint32_t number)
{
    struct fdc_session *session = call->session;
    struct fdc_call own = {
        .session = session, .context = call->context, .id = FDC_ID_fdcMark};
    struct fdc_req_fdcMark *req;
    struct mark *mark;
    CUresult result;
    uint32_t seen;

    while (seen = fdc_load_acquire(&stream->marks_done),
           (int32_t)(number - seen) > (int32_t)MARKS_OUT) {
        fdc_link_flush(session->link, FDC_LANE_COMMAND);
        if (fdc_intake_until(session, &stream->marks_done, seen, -1) == -EPIPE)
            return (CUresult)fdc_load_relaxed(&session->dead);
    }
    mark = calloc(1, sizeof(*mark));
    if (mark == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mark->stream = stream;
    mark->number = number;
    mark->ticket.user = mark;
    mark->ticket.on_done = mark_done;
    fdc_object_hold(stream);
    result = fdc_ticket_take(session, &mark->ticket);
    if (result != CUDA_SUCCESS)
        goto err_free;
    req = fdc_call_begin(&own, sizeof(*req));
    if (req == NULL) {
        result = own.result;
        fdc_ticket_release(session, &mark->ticket);
        goto err_free;
    }
    req->stream = fdc_stream_wire(stream);
    result = fdc_call_send_done(&own, &mark->ticket);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;

err_free:
    fdc_object_unhold(stream);
    free(mark);
    return result;
}

/* Work is about to be sent on the stream. */
static CUresult
stream_work(struct fdc_call *call, struct fdc_stream *stream)
{
    uint64_t calls;
    CUresult result;

    if (FDC_UNLIKELY(fdc_load_relaxed(&call->session->capturing) != 0)) {
        result = fdc_capture_use(call->session, stream);
        if (result != CUDA_SUCCESS)
            return result;
        if (fdc_stream_capturing(stream)) {
            call->work = NULL;
            return CUDA_SUCCESS;
        }
    }
    if (fdc_managed_out(call->session) &&
        (call->id == FDC_ID_fdcLaunch || call->id == FDC_ID_cuGraphLaunch)) {
        result = fdc_managed_use(call->session, false);
        if (result != CUDA_SUCCESS)
            return result;
    }
    call->work = stream;
    calls = __atomic_add_fetch(&stream->calls, 1, __ATOMIC_RELAXED);
    if (FDC_UNLIKELY(calls % MARK_EVERY == 0))
        return mark_send(call, stream, (uint32_t)(calls / MARK_EVERY));
    return CUDA_SUCCESS;
}

/* ---- what other areas use ---- */

CUresult
fdc_stream_resolve(struct fdc_call *call, CUstream value, unsigned how,
                   struct fdc_stream **resolved)
{
    uintptr_t number = (uintptr_t)value;
    struct fdc_stream *stream;
    CUresult result;

    if (number == 0)
        number = (how & FDC_STREAM_PER_THREAD_ZERO) != 0 ? 2 : 1;
    if (number <= 2) {
        if (call->context == NULL)
            return CUDA_ERROR_INVALID_CONTEXT;
        if (number == 2) {
            result = per_thread_stream(call, &stream);
            if (result != CUDA_SUCCESS)
                return result;
        } else {
            stream = call->context->legacy;
        }
    } else {
        stream = fdc_object_at(FDC_KIND_STREAM, value);
        if (FDC_UNLIKELY(stream == NULL))
            return CUDA_ERROR_INVALID_HANDLE;
        result = fdc_call_join(call, &stream->object);
        if (FDC_UNLIKELY(result != CUDA_SUCCESS))
            return result;
    }
    *resolved = stream;
    if ((how & FDC_STREAM_WORK) != 0)
        return stream_work(call, stream);
    return CUDA_SUCCESS;
}

uint64_t
fdc_stream_wire(const struct fdc_stream *stream)
{
    return stream->legacy ? 1 : stream->object.handle;
}

bool
fdc_stream_capturing(const struct fdc_stream *stream)
{
    return fdc_load_relaxed(&stream->capture) != NULL;
}

void
fdc_stream_idle(struct fdc_stream *stream, uint64_t position)
{
    uint64_t idle = __atomic_load_n(&stream->idle, __ATOMIC_RELAXED);

    if (fdc_stream_issued(stream) <= idle)
        return; /* that is known */
    /* pairs with the acquire in fdc_stream_is_idle() */
    while (idle < position &&
           !__atomic_compare_exchange_n(&stream->idle, &idle, position, false,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

struct unfinished {
    const struct fdc_session *session;
    bool found;
};

static void
find_unfinished(void *object, void *user)
{
    const struct fdc_stream *stream = object;
    const struct fdc_stream *legacy = stream->object.context->legacy;
    struct unfinished *unfinished = user;
    uint64_t issued = __atomic_load_n(&stream->issued, __ATOMIC_RELAXED);

    if (stream->object.session != unfinished->session ||
        issued <= __atomic_load_n(&stream->idle, __ATOMIC_ACQUIRE))
        return;
    if (legacy == NULL || (stream->flags & CU_STREAM_NON_BLOCKING) != 0 ||
        issued > __atomic_load_n(&legacy->idle, __ATOMIC_ACQUIRE))
        unfinished->found = true;
}

static bool
nothing_unfinished(struct fdc_session *session)
{
    struct unfinished unfinished = {.session = session};

    fdc_object_each(FDC_KIND_STREAM, find_unfinished, &unfinished);
    return !unfinished.found;
}

void
fdc_stream_seen(struct fdc_stream *stream)
{
    struct fdc_session *session = stream->object.session;
    uint64_t issued; /* before it is looked whether that is all over */

    if (FDC_LIKELY(fdc_load_relaxed(&session->memory->managed) == NULL &&
                   !fdc_load_relaxed(&session->memory->mirrors_stale)))
        return;
    issued = fdc_load_acquire(&stream->object.context->issued);
    if (nothing_unfinished(session)) {
        fdc_mirrors_pull(session, true);
        fdc_managed_seen(session, issued);
    } else {
        fdc_mirrors_pull(session, false);
    }
}

void
fdc_memory_seen(struct fdc_session *session)
{
    if (FDC_UNLIKELY(fdc_load_relaxed(&session->memory->mirrors_stale)))
        fdc_mirrors_pull(session, nothing_unfinished(session));
}

uint64_t
fdc_stream_issued(const struct fdc_stream *stream)
{
    return stream->legacy
               ? __atomic_load_n(&stream->object.context->issued, __ATOMIC_RELAXED)
               : __atomic_load_n(&stream->issued, __ATOMIC_RELAXED);
}

bool
fdc_stream_is_idle(const struct fdc_stream *stream)
{
    return fdc_stream_issued(stream) <= __atomic_load_n(&stream->idle, __ATOMIC_ACQUIRE);
}

/* ---- create and destroy ---- */

static CUresult
create(CUstream *phStream, unsigned flags, int priority)
{
    const struct fdc_snapshot_device *snapshot;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuStreamCreateWithPriority, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (phStream == NULL || flags > CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    snapshot = call.context->device->snapshot;
    if (priority > snapshot->priority_low)
        priority = snapshot->priority_low;
    if (priority < snapshot->priority_high)
        priority = snapshot->priority_high;
    result = stream_create(&call, flags, priority, &stream);
    if (result == CUDA_SUCCESS)
        *phStream = (CUstream)(uintptr_t)stream->object.handle;
    return result;
}

FDC_EXPORT CUresult
cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    return create(phStream, flags, priority);
}

FDC_EXPORT CUresult
cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return create(phStream, Flags, 0);
}

FDC_EXPORT CUresult
cuStreamDestroy_v2(CUstream hStream)
{
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuStreamDestroy_v2, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    stream = fdc_object_find(FDC_KIND_STREAM, hStream);
    if (stream == NULL || stream->legacy || stream->per_thread)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &stream->object);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_capture_stream_gone(stream);
    call.context = stream->object.context;
    return stream_destroy(&call, stream);
}

/* ---- waiting and asking ---- */

/* Opens a call about how far a stream is, which a capturing one cannot be asked. */
static CUresult
progress_of(struct fdc_call *call, uint16_t id, CUstream value, unsigned how,
            struct fdc_stream **stream)
{
    CUresult result = fdc_call_open(call, id, FDC_NEEDS_CONTEXT);

    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(call, value, how & ~FDC_STREAM_WORK, stream);
    if (result == CUDA_SUCCESS && fdc_load_relaxed(&call->session->capturing) != 0)
        result = fdc_capture_refuse(*stream);
    return result;
}

static CUresult
synchronize(CUstream value, unsigned how)
{
    struct fdc_req_cuStreamSynchronize *req;
    struct fdc_stream *stream;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = progress_of(&call, FDC_ID_cuStreamSynchronize, value, how, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_stream_is_idle(stream)) {
        fdc_memory_seen(call.session);
        return fdc_session_failure(call.session);
    }
    fdc_object_hold(stream);
    call.context = stream->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->hStream = fdc_stream_wire(stream);
        result = fdc_call_wait(&call, &reply, sizeof(reply));
        if (result == CUDA_SUCCESS)
            fdc_stream_idle(stream, call.position);
    } else {
        result = call.result;
    }
    if (result == CUDA_SUCCESS)
        fdc_stream_seen(stream);
    fdc_object_unhold(stream);
    return result;
}

FDC_TWINS(cuStreamSynchronize, _ptsz, (CUstream hStream), synchronize(hStream, how))

static CUresult
query(CUstream value, unsigned how)
{
    struct fdc_req_cuStreamQuery *req;
    struct fdc_stream *stream;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;
    bool told;

    result = progress_of(&call, FDC_ID_cuStreamQuery, value, how, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    told = !fdc_stream_is_idle(stream) && fdc_watch_knows_stream(stream);
    if (fdc_stream_is_idle(stream)) {
        fdc_memory_seen(call.session);
        return fdc_session_failure(call.session);
    }
    if (told && fdc_load_relaxed(&call.session->dead) == 0)
        return CUDA_ERROR_NOT_READY;
    call.context = stream->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hStream = fdc_stream_wire(stream);
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS) {
        fdc_stream_idle(stream, call.position);
        fdc_memory_seen(call.session);
    } else if (result == CUDA_ERROR_NOT_READY) {
        fdc_watch_stream(&call, stream);
    }
    return result;
}

FDC_TWINS(cuStreamQuery, _ptsz, (CUstream hStream), query(hStream, how))

/* ---- local questions ---- */

static CUresult
stream_of(CUstream value, unsigned how, struct fdc_stream **stream)
{
    struct fdc_call call;
    CUresult result;

    /* A handle says all; only 0, 1 and 2 need a context. */
    if ((uintptr_t)value > 2) {
        result = fdc_process_check();
        if (result != CUDA_SUCCESS)
            return result;
        *stream = fdc_object_find(FDC_KIND_STREAM, value);
        return *stream != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    }
    result = fdc_call_open(&call, 0, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, value, how & ~FDC_STREAM_WORK, stream);
    return result;
}

CUresult
fdc_stream_asked(CUstream value, const void *out, unsigned how,
                 struct fdc_stream **stream)
{
    CUresult result = stream_of(value, how, stream);

    return result == CUDA_SUCCESS && out == NULL ? CUDA_ERROR_INVALID_VALUE : result;
}

/* A question about a stream and its twin: the answer is an expression over `stream`. */
#define QUESTION(name, type, answer)                                                   \
    static CUresult name##_asked(CUstream value, type *out, unsigned how)              \
    {                                                                                  \
        struct fdc_stream *stream;                                                     \
        CUresult result = fdc_stream_asked(value, out, how, &stream);                          \
                                                                                       \
        if (result == CUDA_SUCCESS)                                                    \
            *out = (answer);                                                           \
        return result;                                                                 \
    }                                                                                  \
    FDC_TWINS(name, _ptsz, (CUstream hStream, type * out), name##_asked(hStream, out, how))

QUESTION(cuStreamGetFlags, unsigned int, stream->flags)
QUESTION(cuStreamGetPriority, int, stream->priority)
QUESTION(cuStreamGetId, unsigned long long, stream->id)
QUESTION(cuStreamGetDevice, CUdevice, stream->object.context->device->ordinal)
QUESTION(cuStreamGetCtx, CUcontext,
         (CUcontext)(uintptr_t)stream->object.context->object.handle)
