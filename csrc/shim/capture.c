/*
 * Stream capture. The worker begins every capture relaxed, on its own thread; which stream
 * is in which capture, and the rules of the program's modes and threads, are kept here, so
 * that status is answered locally and mistakes get the driver's own errors.
 *
 * A capture that a rule has broken goes on at the worker until cuStreamEndCapture, which
 * then throws its graph away and says so. Captures are few: one lock guards them all, and
 * nothing is looked at while session->capturing is 0.
 */
#include "process.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

static void
invalidate(struct fdc_capture *capture, CUresult why)
{
    if (!capture->invalid) {
        capture->invalid = true;
        capture->why = why;
    }
}

static struct fdc_capture *
capture_of_id(struct fdc_session *session, uint64_t id)
{
    struct fdc_capture *capture;

    for (capture = session->captures; capture != NULL; capture = capture->next)
        if (capture->id == id)
            return capture;
    return NULL;
}

/* ---- rules that other areas ask for ---- */

static CUresult
guard(struct fdc_session *session)
{
    struct fdc_thread *self = fdc_thread_self();
    struct fdc_capture *capture;
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&session->capture_lock);
    for (capture = session->captures; capture != NULL; capture = capture->next) {
        bool concerned = capture->thread == self->number
                             ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                             : self->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                   capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;

        if (concerned) {
            invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

/* A capture forbids them to the whole process, on every server's devices. */
CUresult
fdc_capture_guard(void)
{
    CUresult result = CUDA_SUCCESS, one;
    struct fdc_session *session;

    if (fdc_load_relaxed(&fdc_process.capturing) == 0 ||
        fdc_thread_self()->capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        one = guard(session);
        if (one != CUDA_SUCCESS)
            result = one;
    }
    return result;
}

CUresult
fdc_capture_use(struct fdc_session *session, struct fdc_stream *stream)
{
    struct fdc_capture *capture;
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&session->capture_lock);
    if (stream->legacy) {
        for (capture = session->captures; capture != NULL; capture = capture->next)
            if (capture->blocking && capture->context == stream->object.context) {
                invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
                result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
            }
    } else if (stream->capture != NULL && stream->capture->invalid) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

CUresult
fdc_capture_refuse(struct fdc_stream *stream)
{
    struct fdc_session *session = stream->object.session;
    CUresult result = CUDA_SUCCESS;

    if (stream->legacy)
        return fdc_capture_use(session, stream);
    pthread_mutex_lock(&session->capture_lock);
    if (stream->capture != NULL) {
        result = stream->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                          : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

CUresult
fdc_capture_refuse_context(struct fdc_context *context)
{
    struct fdc_session *session = context->object.session;
    struct fdc_capture *capture;
    CUresult result = CUDA_SUCCESS;

    if (fdc_load_relaxed(&session->capturing) == 0)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&session->capture_lock);
    for (capture = session->captures; capture != NULL; capture = capture->next)
        if (capture->context == context) {
            invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

CUresult
fdc_capture_refuse_event(struct fdc_session *session, struct fdc_event *event)
{
    struct fdc_capture *capture;

    pthread_mutex_lock(&session->capture_lock);
    capture =
        capture_of_id(session, __atomic_load_n(&event->capture, __ATOMIC_RELAXED));
    if (capture != NULL)
        invalidate(capture, CUDA_ERROR_CAPTURED_EVENT);
    pthread_mutex_unlock(&session->capture_lock);
    return CUDA_ERROR_CAPTURED_EVENT;
}

void
fdc_capture_record(struct fdc_stream *stream, struct fdc_event *event)
{
    struct fdc_session *session = stream->object.session;

    pthread_mutex_lock(&session->capture_lock);
    __atomic_store_n(&event->capture, stream->capture != NULL ? stream->capture->id : 0,
                     __ATOMIC_RELAXED);
    pthread_mutex_unlock(&session->capture_lock);
}

CUresult
fdc_capture_wait(struct fdc_stream *stream, struct fdc_event *event, unsigned flags)
{
    struct fdc_session *session = stream->object.session;
    struct fdc_capture *own, *other;
    CUresult result = CUDA_SUCCESS;
    uint64_t id;

    pthread_mutex_lock(&session->capture_lock);
    id = __atomic_load_n(&event->capture, __ATOMIC_RELAXED);
    own = stream->capture;
    other = id != 0 ? capture_of_id(session, id) : NULL;
    if (id != 0 && other == NULL) {
        result = CUDA_ERROR_CAPTURED_EVENT; /* of a capture that has ended */
        if (own != NULL)
            invalidate(own, result);
    } else if (own != NULL && own->invalid) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (other != NULL && own == NULL) {
        if (other->invalid) {
            result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        } else if (stream->legacy) {
            result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
            invalidate(other, result);
        } else if (stream->object.context != other->context) {
            result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
            invalidate(other, result);
        } else { /* the stream joins */
            __atomic_store_n(&stream->capture, other, __ATOMIC_RELAXED);
            if ((stream->flags & CU_STREAM_NON_BLOCKING) == 0)
                other->blocking = true;
        }
    } else if (other != NULL && other != own) {
        result = CUDA_ERROR_STREAM_CAPTURE_MERGE;
        invalidate(own, result);
        invalidate(other, result);
    } else if (other == NULL && own != NULL && (flags & CU_EVENT_WAIT_EXTERNAL) == 0 &&
               __atomic_load_n(&event->recorded, __ATOMIC_RELAXED) != 0) {
        result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        invalidate(own, result);
    }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

/* ---- the books ---- */

/* Every stream of the capture leaves it. Under capture_lock. */
static void
leave(void *found, void *user)
{
    struct fdc_stream *stream = found;

    if (fdc_load_relaxed(&stream->capture) == user)
        __atomic_store_n(&stream->capture, NULL, __ATOMIC_RELAXED);
}

/* Under capture_lock. */
static void
capture_end(struct fdc_session *session, struct fdc_capture *capture)
{
    struct fdc_capture **link;

    fdc_object_each(FDC_KIND_STREAM, leave, capture);
    for (link = &session->captures; *link != capture; link = &(*link)->next)
        ;
    *link = capture->next;
    __atomic_sub_fetch(&session->capturing, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&fdc_process.capturing, 1, __ATOMIC_RELAXED);
    free(capture);
}

void
fdc_capture_stream_gone(struct fdc_stream *stream)
{
    struct fdc_session *session = stream->object.session;
    struct fdc_graph *graph = NULL;

    if (fdc_load_relaxed(&session->capturing) == 0)
        return;
    pthread_mutex_lock(&session->capture_lock);
    if (stream->capture != NULL) {
        if (stream->capture->origin == stream) {
            stream->capture->graph->capturing = false;
            if (!stream->capture->into)
                graph = stream->capture->graph;
            capture_end(session, stream->capture);
        } else {
            invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        }
        __atomic_store_n(&stream->capture, NULL, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&session->capture_lock);
    if (graph != NULL)
        fdc_graph_drop(graph);
}

/* ---- begin ---- */

/* The graph that the capture makes or adds to. */
static CUresult
capture_graph(struct fdc_capture *capture, struct fdc_call *call,
              const struct fdc_capture_into *into, uint32_t *edges_size)
{
    *edges_size = 0;
    if (into == NULL) {
        capture->graph = fdc_graph_new(call->session, capture->context);
        if (capture->graph == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        capture->graph->capturing = true;
        return CUDA_SUCCESS;
    }
    capture->graph = fdc_graph_find(into->graph);
    if (capture->graph == NULL || capture->graph->object.session != call->session)
        return CUDA_ERROR_INVALID_HANDLE;
    if (capture->graph->capturing)
        return CUDA_ERROR_INVALID_VALUE;
    capture->into = true;
    return fdc_nodes_check(into->deps, into->count, capture->graph->object.handle,
                           into->edges, edges_size);
}

static CUresult
send_begin(struct fdc_call *call, struct fdc_stream *stream,
           const struct fdc_capture_into *into, uint32_t edges_size)
{
    uint32_t at = sizeof(struct fdc_req_fdcCaptureBegin);
    uint32_t count = into != NULL ? (uint32_t)into->count : 0;
    struct fdc_req_fdcCaptureBegin *req;
    struct fdc_reply reply;

    call->context = stream->object.context;
    req = fdc_call_begin(call, at + count * 8 + edges_size);
    if (req == NULL)
        return call->result;
    req->stream = fdc_stream_wire(stream);
    req->graph = into != NULL ? (uint64_t)(uintptr_t)into->graph : 0;
    req->deps = (struct fdc_span){at, count * 8};
    req->deps_count = count;
    req->edges = (struct fdc_span){at + count * 8, edges_size};
    req->edges_size = edges_size;
    if (count != 0)
        memcpy((char *)req + at, into->deps, count * 8);
    if (edges_size != 0)
        memcpy((char *)req + at + count * 8, into->edges, edges_size);
    return fdc_call_wait(call, &reply, sizeof(reply));
}

CUresult
fdc_capture_begin(CUstream value, CUstreamCaptureMode mode, unsigned how,
                  const struct fdc_capture_into *into)
{
    struct fdc_session *session;
    struct fdc_capture *capture;
    struct fdc_stream *stream;
    struct fdc_call call;
    uint32_t edges_size;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcCaptureBegin, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, value, how, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    session = call.session;
    capture = calloc(1, sizeof(*capture));
    if (capture == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    capture->id = fdc_process_id();
    capture->origin = stream;
    capture->context = stream->object.context;
    capture->mode = mode;
    capture->thread = fdc_thread_self()->number;
    capture->blocking = (stream->flags & CU_STREAM_NON_BLOCKING) == 0;
    result = capture_graph(capture, &call, into, &edges_size);
    if (result != CUDA_SUCCESS)
        goto err_free;

    pthread_mutex_lock(&session->capture_lock);
    if (stream->capture != NULL) {
        pthread_mutex_unlock(&session->capture_lock);
        result = CUDA_ERROR_ILLEGAL_STATE;
        goto err_graph;
    }
    capture->graph->capturing = true;
    capture->next = session->captures;
    session->captures = capture;
    __atomic_add_fetch(&session->capturing, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&fdc_process.capturing, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&stream->capture, capture, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&session->capture_lock);

    result = send_begin(&call, stream, into, edges_size);
    if (result != CUDA_SUCCESS)
        fdc_capture_stream_gone(stream);
    return result;

err_graph:
    if (!capture->into)
        fdc_graph_drop(capture->graph);
err_free:
    free(capture);
    return result;
}

FDC_EXPORT CUresult
cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    return fdc_capture_begin(hStream, mode, 0, NULL);
}

FDC_EXPORT CUresult
cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode)
{
    return fdc_capture_begin(hStream, mode, FDC_STREAM_PER_THREAD_ZERO, NULL);
}

FDC_EXPORT CUresult
cuStreamBeginCapture(CUstream hStream)
{
    return fdc_capture_begin(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, 0, NULL);
}

FDC_EXPORT CUresult
cuStreamBeginCapture_ptsz(CUstream hStream)
{
    return fdc_capture_begin(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL,
                             FDC_STREAM_PER_THREAD_ZERO, NULL);
}

/* ---- end ---- */

/* The graph of a broken capture, which the worker made all the same. */
static void
discard(struct fdc_call *call, struct fdc_graph *graph)
{
    struct fdc_req_cuGraphDestroy *req;

    call->id = FDC_ID_cuGraphDestroy;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return;
    req->hGraph = graph->object.handle;
    fdc_call_send(call);
}

static CUresult
end(CUstream value, CUgraph *phGraph, unsigned how)
{
    struct fdc_req_cuStreamEndCapture *req;
    struct fdc_rep_cuStreamEndCapture reply;
    struct fdc_capture *capture;
    struct fdc_session *session;
    struct fdc_stream *stream;
    struct fdc_graph *graph = NULL;
    struct fdc_call call;
    CUresult result, broken = CUDA_SUCCESS;
    bool made = false, into = false;

    result = fdc_call_open(&call, FDC_ID_cuStreamEndCapture, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, value, how, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    session = call.session;
    pthread_mutex_lock(&session->capture_lock);
    capture = stream->capture;
    if (capture == NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
    } else if (capture->origin != stream) {
        result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        invalidate(capture, result);
    } else if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
               capture->thread != fdc_thread_self()->number) {
        result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    } else if (capture->invalid) {
        broken = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    if (result == CUDA_SUCCESS) {
        graph = capture->graph;
        into = capture->into;
    }
    pthread_mutex_unlock(&session->capture_lock);
    if (result != CUDA_SUCCESS)
        return result;

    call.context = stream->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->hStream = fdc_stream_wire(stream);
        req->phGraph = graph->object.handle;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
        made = call.own.done && call.own.result == CUDA_SUCCESS;
    } else {
        result = call.result;
    }
    pthread_mutex_lock(&session->capture_lock);
    graph->capturing = false;
    if (stream->capture == capture)
        capture_end(session, capture);
    pthread_mutex_unlock(&session->capture_lock);
    if (result == CUDA_SUCCESS && broken == CUDA_SUCCESS && phGraph != NULL) {
        *phGraph = (CUgraph)(uintptr_t)graph->object.handle;
        return CUDA_SUCCESS;
    }
    if (!into) {
        if (made) /* also where the result is an earlier call's failure */
            discard(&call, graph);
        fdc_graph_drop(graph);
    }
    if (phGraph != NULL)
        *phGraph = NULL;
    return broken != CUDA_SUCCESS ? broken : result;
}

FDC_EXPORT CUresult
cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    return end(hStream, phGraph, 0);
}

FDC_EXPORT CUresult
cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
    return end(hStream, phGraph, FDC_STREAM_PER_THREAD_ZERO);
}

/* ---- questions ---- */

CUresult
fdc_capture_status(CUstream value, unsigned how, CUstreamCaptureStatus *status,
                   struct fdc_capture *copy, struct fdc_stream **found)
{
    struct fdc_session *session;
    struct fdc_capture *capture;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    result = fdc_process_check();
    if (result != CUDA_SUCCESS)
        return result;
    if ((uintptr_t)value > 2) {
        stream = fdc_object_find(FDC_KIND_STREAM, value);
        if (stream == NULL)
            return CUDA_ERROR_INVALID_HANDLE;
    } else if (fdc_load_relaxed(&fdc_process.capturing) == 0) {
        return CUDA_SUCCESS;
    } else {
        result = fdc_call_open(&call, 0, FDC_NEEDS_CONTEXT);
        if (result == CUDA_SUCCESS)
            result = fdc_stream_resolve(&call, value, how, &stream);
        if (result != CUDA_SUCCESS)
            return result;
    }
    session = stream->object.session;
    if (fdc_load_relaxed(&session->capturing) == 0)
        return CUDA_SUCCESS;
    *found = stream;
    pthread_mutex_lock(&session->capture_lock);
    if (stream->legacy) {
        for (capture = session->captures; capture != NULL; capture = capture->next)
            if (capture->blocking && capture->context == stream->object.context)
                result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    } else if (stream->capture != NULL) {
        *status = stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                           : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        *copy = *stream->capture;
    }
    pthread_mutex_unlock(&session->capture_lock);
    return result;
}

FDC_EXPORT CUresult
cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUresult result = fdc_process_check();
    struct fdc_thread *self;
    CUstreamCaptureMode old;

    if (result != CUDA_SUCCESS)
        return result;
    if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    self = fdc_thread_self();
    old = self->capture_mode;
    self->capture_mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}
