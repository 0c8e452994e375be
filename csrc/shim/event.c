/*
 * Events. Making, recording and destroying one is sent without waiting; a recording that is
 * known to be over is answered without asking.
 */
#include "managed.h"
#include "process.h"

#include "cuda_calls.h"

FDC_EXPORT CUresult
cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct fdc_req_cuEventCreate *req;
    struct fdc_event *event;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuEventCreate, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (phEvent == NULL ||
        (Flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING |
                             CU_EVENT_INTERPROCESS)) != 0 ||
        (Flags & (CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING)) ==
            CU_EVENT_INTERPROCESS)
        return CUDA_ERROR_INVALID_VALUE;
    event = fdc_object_new(call.session, FDC_KIND_EVENT, sizeof(*event), call.context);
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->flags = Flags;
    pthread_mutex_init(&event->lock, NULL);
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
        goto err_drop;
    }
    req->phEvent = event->object.handle;
    /* Its handle for other processes is refused, so it need not be made for them. */
    req->Flags = Flags & ~(unsigned)CU_EVENT_INTERPROCESS;
    result = fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        goto err_drop;
    *phEvent = (CUevent)(uintptr_t)event->object.handle;
    return CUDA_SUCCESS;

err_drop:
    fdc_object_drop(event);
    return result;
}

FDC_EXPORT CUresult
cuEventDestroy_v2(CUevent hEvent)
{
    struct fdc_req_cuEventDestroy_v2 *req;
    struct fdc_event *event;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuEventDestroy_v2, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    event = fdc_object_find(FDC_KIND_EVENT, hEvent);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &event->object);
    if (result != CUDA_SUCCESS)
        return result;
    call.context = event->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hEvent = event->object.handle;
    fdc_object_drop(event);
    return fdc_call_send(&call);
}

/* ---- record ---- */

static CUresult
record(CUevent value, CUstream on, unsigned flags, unsigned how)
{
    struct fdc_req_cuEventRecordWithFlags *req;
    struct fdc_stream *stream;
    struct fdc_watch *watch;
    struct fdc_event *event;
    struct fdc_call call;
    uint32_t recorded;
    bool capturing;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuEventRecordWithFlags, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags > CU_EVENT_RECORD_EXTERNAL)
        return CUDA_ERROR_INVALID_VALUE;
    event = fdc_object_find(FDC_KIND_EVENT, value);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_stream_resolve(&call, on, how | FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (event->object.context != stream->object.context)
        return CUDA_ERROR_INVALID_HANDLE;
    capturing = fdc_stream_capturing(stream);
    if (flags != 0 && !capturing)
        return CUDA_ERROR_ILLEGAL_STATE;
    call.context = stream->object.context;
    watch = capturing ? NULL : fdc_watch_event(event);
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        if (watch != NULL)
            fdc_watch_cancel(watch);
        return call.result;
    }
    req->hEvent = event->object.handle;
    req->hStream = fdc_stream_wire(stream);
    req->flags = flags;
    result = watch != NULL ? fdc_watch_send(&call, watch) : fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        return result;
    if (capturing && flags == 0) {
        fdc_capture_record(stream, event);
        return CUDA_SUCCESS;
    }
    if (capturing) { /* external: a node that records it at each launch */
        __atomic_store_n(&event->replayed, 1, __ATOMIC_RELAXED);
        return CUDA_SUCCESS;
    }
    pthread_mutex_lock(&event->lock);
    event->stream = stream->object.handle;
    event->issued = call.position;
    __atomic_store_n(&event->capture, 0, __ATOMIC_RELAXED);
    recorded = ++event->recorded;
    fdc_store_relaxed(&event->watched, watch != NULL ? recorded : 0);
    pthread_mutex_unlock(&event->lock);
    if (watch != NULL)
        fdc_watch_sent(watch, call.position, recorded);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return record(hEvent, hStream, 0, 0);
}

FDC_EXPORT CUresult
cuEventRecord_ptsz(CUevent hEvent, CUstream hStream)
{
    return record(hEvent, hStream, 0, FDC_STREAM_PER_THREAD_ZERO);
}

FDC_EXPORT CUresult
cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    return record(hEvent, hStream, flags, 0);
}

FDC_EXPORT CUresult
cuEventRecordWithFlags_ptsz(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    return record(hEvent, hStream, flags, FDC_STREAM_PER_THREAD_ZERO);
}

/* ---- asking and waiting ---- */

/* Which recording is the event's last, and whether it is known to be over. */
static bool
known_complete(struct fdc_event *event, uint32_t *recorded)
{
    struct fdc_stream *stream;
    bool complete;

    pthread_mutex_lock(&event->lock);
    *recorded = event->recorded;
    /* Launches of a graph record it, which is told to nobody here. */
    if (__atomic_load_n(&event->replayed, __ATOMIC_RELAXED) != 0) {
        pthread_mutex_unlock(&event->lock);
        return false;
    }
    complete = event->complete == event->recorded;
    if (!complete) {
        stream = fdc_object_find(FDC_KIND_STREAM, (void *)(uintptr_t)event->stream);
        if (stream != NULL &&
            event->issued <= __atomic_load_n(&stream->idle, __ATOMIC_ACQUIRE)) {
            event->complete = event->recorded;
            complete = true;
        }
    }
    pthread_mutex_unlock(&event->lock);
    return complete;
}

static void
now_complete(struct fdc_event *event, uint32_t recorded)
{
    struct fdc_stream *stream = NULL;
    uint64_t issued = 0;

    pthread_mutex_lock(&event->lock);
    if (event->recorded == recorded &&
        __atomic_load_n(&event->replayed, __ATOMIC_RELAXED) == 0) {
        event->complete = recorded;
        issued = event->issued;
        if (issued != UINT64_MAX)
            stream = fdc_object_find(FDC_KIND_STREAM, (void *)(uintptr_t)event->stream);
    }
    pthread_mutex_unlock(&event->lock);
    /* What was on the stream before the recording is over too. */
    if (stream != NULL && !stream->legacy)
        fdc_stream_idle(stream, issued);
}

/* Not so any more where the worker has told of a failure, or is gone. */
static bool
still_watched(struct fdc_event *event)
{
    bool watched;

    pthread_mutex_lock(&event->lock);
    watched = event->watched != 0 && event->watched == event->recorded;
    pthread_mutex_unlock(&event->lock);
    return watched && fdc_load_relaxed(&event->object.session->dead) == 0;
}

static CUresult
ask(CUevent value, uint16_t id)
{
    struct fdc_event *event;
    struct fdc_reply reply;
    struct fdc_call call;
    uint32_t recorded;
    CUresult result;
    bool complete;

    result = fdc_call_open(&call, id, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    event = fdc_object_find(FDC_KIND_EVENT, value);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &event->object);
    if (result == CUDA_SUCCESS)
        result = fdc_context_use(event->object.context);
    if (result != CUDA_SUCCESS)
        return result;
    if (FDC_UNLIKELY(__atomic_load_n(&event->capture, __ATOMIC_RELAXED) != 0))
        return fdc_capture_refuse_event(call.session, event);
    /* Asking is among the unsafe calls, waiting is not. */
    if (id == FDC_ID_cuEventQuery && fdc_load_relaxed(&call.session->capturing) != 0) {
        result = fdc_capture_guard();
        if (result != CUDA_SUCCESS)
            return result;
    }
    complete = known_complete(event, &recorded);
    if (id == FDC_ID_cuEventQuery)
        fdc_watch_asked(event, recorded);
    if (!complete && id == FDC_ID_cuEventQuery && fdc_watch_knows(event, recorded)) {
        complete = known_complete(event, &recorded);
        if (!complete && still_watched(event))
            return CUDA_ERROR_NOT_READY;
    }
    if (complete) {
        fdc_memory_seen(call.session);
        return fdc_session_failure(call.session);
    }
    call.context = event->object.context;
    fdc_object_hold(event);
    if (id == FDC_ID_cuEventQuery) {
        struct fdc_req_cuEventQuery *req = fdc_call_begin(&call, sizeof(*req));

        if (req != NULL)
            req->hEvent = event->object.handle;
    } else {
        struct fdc_req_cuEventSynchronize *req = fdc_call_begin(&call, sizeof(*req));

        if (req != NULL)
            req->hEvent = event->object.handle;
    }
    result =
        call.msg != NULL ? fdc_call_wait(&call, &reply, sizeof(reply)) : call.result;
    if (result == CUDA_SUCCESS) {
        now_complete(event, recorded);
        fdc_memory_seen(call.session);
    }
    fdc_object_unhold(event);
    return result;
}

FDC_EXPORT CUresult
cuEventQuery(CUevent hEvent)
{
    return ask(hEvent, FDC_ID_cuEventQuery);
}

FDC_EXPORT CUresult
cuEventSynchronize(CUevent hEvent)
{
    return ask(hEvent, FDC_ID_cuEventSynchronize);
}

static bool
never_recorded(const struct fdc_event *event)
{
    return __atomic_load_n(&event->recorded, __ATOMIC_RELAXED) == 0 &&
           __atomic_load_n(&event->replayed, __ATOMIC_RELAXED) == 0;
}

FDC_EXPORT CUresult
cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    struct fdc_req_cuEventElapsedTime_v2 *req;
    struct fdc_rep_cuEventElapsedTime_v2 reply;
    struct fdc_event *start, *end;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuEventElapsedTime_v2, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    if (pMilliseconds == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    start = fdc_object_find(FDC_KIND_EVENT, hStart);
    end = fdc_object_find(FDC_KIND_EVENT, hEnd);
    if (start == NULL || end == NULL ||
        ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &start->object);
    if (result == CUDA_SUCCESS)
        result = fdc_call_join(&call, &end->object);
    if (result != CUDA_SUCCESS)
        return result;
    if (__atomic_load_n(&start->capture, __ATOMIC_RELAXED) != 0)
        result = fdc_capture_refuse_event(call.session, start);
    if (result == CUDA_SUCCESS && __atomic_load_n(&end->capture, __ATOMIC_RELAXED) != 0)
        result = fdc_capture_refuse_event(call.session, end);
    if (result != CUDA_SUCCESS)
        return result;
    if (never_recorded(start) || never_recorded(end))
        return CUDA_ERROR_INVALID_HANDLE;
    call.context = start->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hStart = start->object.handle;
    req->hEnd = end->object.handle;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        *pMilliseconds = reply.pMilliseconds;
    return result;
}

/* ---- one stream waits for another's event ---- */

/* The event is another server's. */
static CUresult
wait_elsewhere(struct fdc_call *call, struct fdc_stream *stream,
               struct fdc_event *event, unsigned flags)
{
    uint32_t recorded;

    /* No capture holds two servers' work. */
    if (fdc_stream_capturing(stream)) {
        (void)fdc_capture_refuse(stream);
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (__atomic_load_n(&event->capture, __ATOMIC_RELAXED) != 0) {
        (void)fdc_capture_refuse_event(event->object.session, event);
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (flags != 0)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (known_complete(event, &recorded)) /* never recorded, or over: no wait */
        return CUDA_SUCCESS;
    return fdc_bridge_wait(call, stream, event);
}

static CUresult
wait_event(CUstream on, CUevent value, unsigned flags, unsigned how)
{
    struct fdc_req_cuStreamWaitEvent *req;
    struct fdc_stream *stream;
    struct fdc_event *event;
    struct fdc_call call;
    uint32_t recorded;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuStreamWaitEvent, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags > CU_EVENT_WAIT_EXTERNAL)
        return CUDA_ERROR_INVALID_VALUE;
    event = fdc_object_find(FDC_KIND_EVENT, value);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_stream_resolve(&call, on, how | FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (FDC_UNLIKELY(event->object.session != call.session))
        return wait_elsewhere(&call, stream, event, flags);
    if (fdc_load_relaxed(&call.session->capturing) != 0 ||
        __atomic_load_n(&event->capture, __ATOMIC_RELAXED) != 0) {
        result = fdc_capture_wait(stream, event, flags);
        if (result != CUDA_SUCCESS)
            return result;
        if (fdc_stream_capturing(stream))
            call.work = NULL;
    }
    if (!fdc_stream_capturing(stream)) {
        if (flags != 0)
            return CUDA_ERROR_ILLEGAL_STATE;
        if (known_complete(event, &recorded)) /* never recorded, or over: no wait */
            return CUDA_SUCCESS;
    }
    call.context = stream->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hStream = fdc_stream_wire(stream);
    req->hEvent = event->object.handle;
    req->Flags = flags;
    return fdc_call_send(&call);
}

FDC_EXPORT CUresult
cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    return wait_event(hStream, hEvent, Flags, 0);
}

FDC_EXPORT CUresult
cuStreamWaitEvent_ptsz(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    return wait_event(hStream, hEvent, Flags, FDC_STREAM_PER_THREAD_ZERO);
}
