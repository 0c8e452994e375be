/*
 * Stream capture: which streams are in one, whether the calling thread may do what it
 * does, and how events tie streams together. All but the exported calls run under
 * sched.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

static _Atomic int global_captures; /* in progress, begun in global mode */

static bool
tips_add(struct fdcpu_node ***tips, size_t *ntips, struct fdcpu_node *node)
{
    struct fdcpu_node **more;
    size_t i;

    for (i = 0; i < *ntips; i++)
        if ((*tips)[i] == node)
            return true;
    more = realloc(*tips, (*ntips + 1) * sizeof(*more));
    if (more == NULL)
        return false;
    more[*ntips] = node;
    *tips = more;
    ++*ntips;
    return true;
}

static bool
tips_copy(struct fdcpu_node ***to, size_t *nto, struct fdcpu_node *const *from,
          size_t nfrom)
{
    size_t i;

    for (i = 0; i < nfrom; i++)
        if (!tips_add(to, nto, from[i]))
            return false;
    return true;
}

static void
capture_unref(struct fdcpu_capture *capture)
{
    if (--capture->refs > 0)
        return;
    if (capture->graph != NULL && !capture->into)
        fdcpu_graph_free(capture->graph);
    else if (capture->graph != NULL)
        capture->graph->capturing = false;
    free(capture);
}

void
fdcpu_capture_leave(struct fdcpu_stream *stream)
{
    struct fdcpu_capture *capture = stream->capture;

    if (capture == NULL)
        return;
    stream->capture = NULL;
    free(stream->tips);
    stream->tips = NULL;
    stream->ntips = 0;
    if (capture->origin == stream)
        capture->origin = NULL;
    capture_unref(capture);
}

void
fdcpu_capture_spoil(struct fdcpu_capture *capture)
{
    if (capture->status == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        capture->status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
}

void
fdcpu_event_uncapture(struct fdcpu_event *event)
{
    if (event->capture == NULL)
        return;
    capture_unref(event->capture);
    event->capture = NULL;
    free(event->tips);
    event->tips = NULL;
    event->ntips = 0;
}

/* ---- what a thread may do ---- */

struct spoil {
    uint64_t thread; /* captures of this thread, or 0: global ones */
};

static void
spoil_in_ctx(void *obj, void *user)
{
    struct fdcpu_ctx *ctx = obj;
    struct spoil *spoil = user;
    struct fdcpu_stream *s;

    pthread_mutex_lock(&fdcpu.sched);
    for (s = ctx->streams; s != NULL; s = s->next) {
        struct fdcpu_capture *c = s->capture;

        if (c != NULL && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
            (c->thread == spoil->thread || c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL))
            fdcpu_capture_spoil(c);
    }
    pthread_mutex_unlock(&fdcpu.sched);
}

CUresult
fdcpu_capture_unsafe(void)
{
    struct fdcpu_thread *t = &fdcpu_thread;
    struct spoil spoil;

    if (t->mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    if (t->captures == 0 && (t->mode != CU_STREAM_CAPTURE_MODE_GLOBAL ||
                             atomic_load(&global_captures) == 0))
        return CUDA_SUCCESS;
    spoil.thread = fdcpu_thread_number();
    fdcpu_handle_each(FDCPU_H_CONTEXT, spoil_in_ctx, &spoil);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult
fdcpu_capture_implicit(struct fdcpu_stream *stream)
{
    struct fdcpu_stream *s;
    CUresult result = CUDA_SUCCESS;

    if (!stream->legacy)
        return CUDA_SUCCESS;
    for (s = stream->ctx->streams; s != NULL; s = s->next) {
        if (s->capture != NULL && (s->flags & CU_STREAM_NON_BLOCKING) == 0) {
            fdcpu_capture_spoil(s->capture);
            result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
    }
    return result;
}

FDC_EXPORT CUresult
cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUstreamCaptureMode old = fdcpu_thread.mode;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (mode == NULL || (unsigned int)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    fdcpu_thread.mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}

/* ---- what is caught ---- */

CUresult
fdcpu_capture_add(struct fdcpu_stream *stream, struct fdcpu_work *work)
{
    struct fdcpu_capture *capture = stream->capture;
    struct fdcpu_node *node;

    if (capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        fdcpu_work_free(work);
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    node = fdcpu_graph_add(capture->graph, work, stream->tips, stream->ntips);
    if (node == NULL) {
        fdcpu_work_free(work);
        fdcpu_capture_spoil(capture);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stream->ntips = 0;
    if (!tips_add(&stream->tips, &stream->ntips, node)) {
        fdcpu_capture_spoil(capture);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

CUresult
fdcpu_capture_record(struct fdcpu_stream *stream, struct fdcpu_event *event)
{
    struct fdcpu_capture *capture = stream->capture;

    if (capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    fdcpu_event_uncapture(event);
    if (!tips_copy(&event->tips, &event->ntips, stream->tips, stream->ntips))
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->capture = capture;
    capture->refs++;
    return CUDA_SUCCESS;
}

CUresult
fdcpu_capture_wait(struct fdcpu_stream *stream, struct fdcpu_event *event)
{
    struct fdcpu_capture *capture = stream->capture;

    if (capture != NULL && capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (event->capture == NULL) {
        if (event->record == NULL)
            return CUDA_SUCCESS; /* never recorded: nothing to wait for */
        fdcpu_capture_spoil(capture);
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (capture == NULL) {
        if (stream->legacy) {
            fdcpu_capture_spoil(event->capture);
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
        if (event->capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
            return CUDA_ERROR_CAPTURED_EVENT;
        capture = event->capture;
        stream->capture = capture;
        capture->refs++;
    } else if (capture != event->capture) {
        fdcpu_capture_spoil(capture);
        fdcpu_capture_spoil(event->capture);
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    if (!tips_copy(&stream->tips, &stream->ntips, event->tips, event->ntips)) {
        fdcpu_capture_spoil(capture);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

/* ---- beginning and end ---- */

static CUresult
begin(CUstream hStream, CUstreamCaptureMode mode, struct fdcpu_graph *into,
      const CUgraphNode *deps, size_t ndeps)
{
    struct fdcpu_capture *capture;
    struct fdcpu_stream *stream;
    struct fdcpu_node *node;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    size_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned int)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    capture = calloc(1, sizeof(*capture));
    if (capture == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&fdcpu.sched);
    if (stream->capture != NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
        goto err;
    }
    for (i = 0; i < ndeps; i++) {
        node = FDCPU_GET(FDCPU_H_NODE, deps[i]);
        if (node == NULL || node->graph != into) {
            result = CUDA_ERROR_INVALID_VALUE;
            goto err;
        }
        if (!tips_add(&stream->tips, &stream->ntips, node)) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            goto err;
        }
    }
    if (into != NULL && into->capturing) {
        result = CUDA_ERROR_INVALID_VALUE;
        goto err;
    }
    capture->graph = into != NULL ? into : fdcpu_graph_new();
    if (capture->graph == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err;
    }
    capture->graph->capturing = true;
    capture->into = into != NULL;
    capture->refs = 1;
    capture->mode = mode;
    capture->status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    capture->id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    capture->origin = stream;
    capture->thread = fdcpu_thread_number();
    stream->capture = capture;
    if (mode != CU_STREAM_CAPTURE_MODE_RELAXED)
        fdcpu_thread.captures++;
    if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL)
        atomic_fetch_add(&global_captures, 1);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;

err:
    if (stream->capture == NULL) {
        free(stream->tips);
        stream->tips = NULL;
        stream->ntips = 0;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    free(capture);
    return result;
}

FDCPU_TWIN(cuStreamBeginCapture_v2, _ptsz, (CUstream hStream, CUstreamCaptureMode mode),
           begin(S(hStream), mode, NULL, NULL, 0))
FDCPU_TWIN(cuStreamBeginCapture, _ptsz, (CUstream hStream),
           begin(S(hStream), CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0))

static CUresult
begin_into(CUstream hStream, CUgraph hGraph, const CUgraphNode *deps, size_t ndeps,
           CUstreamCaptureMode mode)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);

    if (graph == NULL || (ndeps > 0 && deps == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    return begin(hStream, mode, graph, deps, ndeps);
}

FDCPU_TWIN(cuStreamBeginCaptureToGraph, _ptsz,
           (CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
            const CUgraphEdgeData *dependencyData, size_t numDependencies,
            CUstreamCaptureMode mode),
           ((void)dependencyData,
            begin_into(S(hStream), hGraph, dependencies, numDependencies, mode)))

/* Marks node and all it depends on. */
static void
mark_back(struct fdcpu_node *node, size_t mark)
{
    struct fdcpu_node **stack = NULL, **more;
    size_t n = 0, room = 0, i;

    node->mark = mark;
    for (;;) {
        for (i = 0; i < node->ndeps; i++) {
            struct fdcpu_node *from = node->deps[i].from;

            if (from->mark == mark)
                continue;
            from->mark = mark;
            if (n == room) {
                more = realloc(stack, (room + 64) * sizeof(*more));
                if (more == NULL)
                    break;
                stack = more;
                room += 64;
            }
            stack[n++] = from;
        }
        if (n == 0)
            break;
        node = stack[--n];
    }
    free(stack);
}

/* Whether a stream of the capture has work that the origin never waited for. */
static bool
unjoined(struct fdcpu_capture *capture)
{
    const size_t mark = SIZE_MAX;
    struct fdcpu_stream *origin = capture->origin, *s;
    bool found = false;
    size_t i;

    for (i = 0; i < capture->graph->nnodes; i++)
        capture->graph->nodes[i]->mark = 0;
    for (i = 0; i < origin->ntips; i++)
        mark_back(origin->tips[i], mark);
    for (s = origin->ctx->streams; s != NULL && !found; s = s->next)
        if (s->capture == capture && s != origin)
            for (i = 0; i < s->ntips; i++)
                found |= s->tips[i]->mark != mark;
    return found;
}

static CUresult
end(CUstream hStream, CUgraph *phGraph)
{
    struct fdcpu_capture *capture;
    struct fdcpu_stream *stream, *s, *next;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    bool mine;

    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph != NULL)
        *phGraph = NULL;
    pthread_mutex_lock(&fdcpu.sched);
    capture = stream->capture;
    if (capture == NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
        goto out;
    }
    if (capture->origin != stream) {
        fdcpu_capture_spoil(capture);
        result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        goto out;
    }
    mine = capture->thread == fdcpu_thread_number();
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !mine) {
        result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        goto out;
    }
    if (capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (unjoined(capture))
        result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    capture->refs++;
    for (s = stream->ctx->streams; s != NULL; s = next) {
        next = s->next;
        if (s->capture == capture)
            fdcpu_capture_leave(s);
    }
    capture->status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED)
        fdcpu_thread.captures--;
    if (capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL)
        atomic_fetch_sub(&global_captures, 1);
    capture->graph->capturing = false;
    if (result == CUDA_SUCCESS && phGraph != NULL) {
        *phGraph = (CUgraph)(uintptr_t)capture->graph->handle;
        capture->graph = NULL;
    }
    if (capture->into)
        capture->graph = NULL; /* events may outlive it with this capture */
    capture_unref(capture);
out:
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDCPU_TWIN(cuStreamEndCapture, _ptsz, (CUstream hStream, CUgraph *phGraph),
           end(S(hStream), phGraph))

/* ---- questions ---- */

static CUresult
info(CUstream hStream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
     const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *ndeps)
{
    struct fdcpu_thread *t = &fdcpu_thread;
    struct fdcpu_capture *capture;
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    size_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (status == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    capture = stream->capture;
    if (stream->legacy) {
        struct fdcpu_stream *s;

        for (s = stream->ctx->streams; s != NULL; s = s->next)
            if (s->capture != NULL && (s->flags & CU_STREAM_NON_BLOCKING) == 0)
                result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        if (result != CUDA_SUCCESS)
            goto out;
    }
    *status = capture == NULL ? CU_STREAM_CAPTURE_STATUS_NONE : capture->status;
    if (*status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        goto out;
    if (id != NULL)
        *id = capture->id;
    if (graph != NULL)
        *graph = (CUgraph)(uintptr_t)capture->graph->handle;
    if (ndeps != NULL)
        *ndeps = stream->ntips;
    if (deps != NULL || edges != NULL) {
        /* Kept for the program until this thread asks again. */
        fdcpu_thread_watch();
        free(t->asked);
        free(t->asked_edges);
        t->asked = malloc((stream->ntips + 1) * sizeof(*t->asked));
        t->asked_edges = calloc(stream->ntips + 1, sizeof(*t->asked_edges));
        if (t->asked == NULL || t->asked_edges == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            goto out;
        }
        for (i = 0; i < stream->ntips; i++)
            t->asked[i] = (CUgraphNode)(uintptr_t)stream->tips[i]->handle;
        if (deps != NULL)
            *deps = t->asked;
        if (edges != NULL)
            *edges = t->asked_edges;
    }
out:
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDCPU_TWIN(cuStreamIsCapturing, _ptsz,
           (CUstream hStream, CUstreamCaptureStatus *captureStatus),
           info(S(hStream), captureStatus, NULL, NULL, NULL, NULL, NULL))
FDCPU_TWIN(cuStreamGetCaptureInfo, _ptsz,
           (CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
            cuuint64_t *id_out),
           info(S(hStream), captureStatus_out, id_out, NULL, NULL, NULL, NULL))
FDCPU_TWIN(cuStreamGetCaptureInfo_v2, _ptsz,
           (CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
            cuuint64_t *id_out, CUgraph *graph_out,
            const CUgraphNode **dependencies_out, size_t *numDependencies_out),
           info(S(hStream), captureStatus_out, id_out, graph_out, dependencies_out,
                NULL, numDependencies_out))
FDCPU_TWIN(cuStreamGetCaptureInfo_v3, _ptsz,
           (CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
            cuuint64_t *id_out, CUgraph *graph_out,
            const CUgraphNode **dependencies_out, const CUgraphEdgeData **edgeData_out,
            size_t *numDependencies_out),
           info(S(hStream), captureStatus_out, id_out, graph_out, dependencies_out,
                edgeData_out, numDependencies_out))

static CUresult
update(CUstream hStream, CUgraphNode *deps, size_t ndeps, unsigned int flags)
{
    struct fdcpu_stream *stream;
    struct fdcpu_node *node;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    size_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if ((ndeps > 0 && deps == NULL) || flags > 1)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    if (stream->capture == NULL) {
        result = CUDA_ERROR_ILLEGAL_STATE;
        goto out;
    }
    for (i = 0; i < ndeps; i++) {
        node = FDCPU_GET(FDCPU_H_NODE, deps[i]);
        if (node == NULL || node->graph != stream->capture->graph) {
            result = CUDA_ERROR_INVALID_VALUE;
            goto out;
        }
    }
    if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        stream->ntips = 0;
    for (i = 0; i < ndeps; i++)
        if (!tips_add(&stream->tips, &stream->ntips,
                            FDCPU_GET(FDCPU_H_NODE, deps[i])))
            result = CUDA_ERROR_OUT_OF_MEMORY;
out:
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDCPU_TWIN(cuStreamUpdateCaptureDependencies, _ptsz,
           (CUstream hStream, CUgraphNode *dependencies, size_t numDependencies,
            unsigned int flags),
           update(S(hStream), dependencies, numDependencies, flags))
FDCPU_TWIN(cuStreamUpdateCaptureDependencies_v2, _ptsz,
           (CUstream hStream, CUgraphNode *dependencies,
            const CUgraphEdgeData *dependencyData, size_t numDependencies,
            unsigned int flags),
           ((void)dependencyData,
            update(S(hStream), dependencies, numDependencies, flags)))
