/*
 * Capture. Every capture is relaxed here: the rules of the program's mode and threads are
 * the shim's. Before a capture begins, the stream's earlier work is joined to the
 * worker's own stream, because nothing may be recorded on it meanwhile. Of each capture
 * it is kept how many of its streams are blocking ones: while there are any, the context's
 * NULL stream is left alone.
 */
#include <stdlib.h>

#include "server/graph.h"
#include "server_hooks.h"

struct capture {
    struct capture *next;
    uint64_t id; /* the driver's */
    CUstream origin;
    struct fdc_ctx *ctx;
    uint32_t blocking; /* blocking streams in it */
    bool into;         /* a graph of the session's own */
    CUgraph graph;     /* what it makes, once somebody has asked */
};

struct fdc_captures {
    pthread_mutex_t lock; /* a leaf */
    struct capture *list;
};

struct fdc_captures *
fdc_captures_new(void)
{
    struct fdc_captures *captures = calloc(1, sizeof(*captures));

    if (captures != NULL)
        pthread_mutex_init(&captures->lock, NULL);
    return captures;
}

void
fdc_captures_free(struct fdc_captures *captures)
{
    struct capture *capture;

    if (captures == NULL)
        return;
    while ((capture = captures->list) != NULL) {
        captures->list = capture->next;
        free(capture);
    }
    pthread_mutex_destroy(&captures->lock);
    free(captures);
}

/* What the driver says of the stream's capture: nodes point into memory of its own. */
struct told {
    CUstreamCaptureStatus status;
    cuuint64_t id;
    CUgraph graph;
    const CUgraphNode *nodes;
    const CUgraphEdgeData *edges;
    size_t count;
};

static CUresult
tell(const struct fdc_driver *driver, CUstream stream, struct told *told)
{
    CUresult result;

    *told = (struct told){.status = CU_STREAM_CAPTURE_STATUS_NONE};
    if (FDC_HAS(driver, cuStreamGetCaptureInfo_v3)) {
        result = driver->cuStreamGetCaptureInfo_v3(stream, &told->status, &told->id,
                                                   &told->graph, &told->nodes,
                                                   &told->edges, &told->count);
        /* With edges that are not plain v2 would fail; v3 may be there for the name. */
        if (result != CUDA_ERROR_NOT_SUPPORTED)
            return result;
    }
    if (!FDC_HAS(driver, cuStreamGetCaptureInfo_v2))
        return CUDA_ERROR_NOT_SUPPORTED;
    return driver->cuStreamGetCaptureInfo_v2(stream, &told->status, &told->id,
                                             &told->graph, &told->nodes, &told->count);
}

static struct capture *
find(struct fdc_captures *captures, CUstream origin, uint64_t id)
{
    struct capture *capture = captures->list;

    while (capture != NULL &&
           (origin != NULL ? capture->origin != origin : capture->id != id))
        capture = capture->next;
    return capture;
}

CUgraph
fdc_capture_graph(struct fdc_serve *serve, CUstream stream)
{
    struct told told;

    return tell(serve->driver, stream, &told) == CUDA_SUCCESS &&
                   told.status == CU_STREAM_CAPTURE_STATUS_ACTIVE
               ? told.graph
               : NULL;
}

/* One more blocking stream is in it. */
static void
add_blocking(struct capture *capture)
{
    capture->blocking++;
    __atomic_add_fetch(&capture->ctx->blocking_captures, 1, __ATOMIC_RELAXED);
}

static CUresult
begun(struct fdc_serve *serve, CUstream stream, unsigned flags, bool into)
{
    struct fdc_captures *captures = serve->capture;
    struct capture *capture = calloc(1, sizeof(*capture));
    struct told told;

    if (capture == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (tell(serve->driver, stream, &told) == CUDA_SUCCESS)
        capture->id = told.id;
    capture->origin = stream;
    capture->ctx = fdc_context_here();
    capture->into = into;
    pthread_mutex_lock(&captures->lock);
    capture->next = captures->list;
    captures->list = capture;
    if (!(flags & CU_STREAM_NON_BLOCKING))
        add_blocking(capture);
    pthread_mutex_unlock(&captures->lock);
    __atomic_add_fetch(&serve->captures, 1, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

/* The capture that began on this stream is over; a copy of what was known of it. */
static bool
ended(struct fdc_serve *serve, CUstream origin, struct capture *was)
{
    struct fdc_captures *captures = serve->capture;
    struct capture *capture, **link;

    pthread_mutex_lock(&captures->lock);
    capture = find(captures, origin, 0);
    if (capture != NULL) {
        for (link = &captures->list; *link != capture; link = &(*link)->next)
            ;
        *link = capture->next;
        __atomic_sub_fetch(&capture->ctx->blocking_captures, capture->blocking,
                           __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&captures->lock);
    if (capture == NULL)
        return false;
    __atomic_sub_fetch(&serve->captures, 1, __ATOMIC_RELAXED);
    *was = *capture;
    free(capture);
    return true;
}

void
fdc_capture_gone(struct fdc_serve *serve, CUstream stream)
{
    struct capture was;

    if (fdc_load_relaxed(&serve->captures) != 0 && ended(serve, stream, &was) &&
        was.graph != NULL && !was.into)
        fdc_graph_end(serve, was.graph);
}

void
fdc_capture_joined(struct fdc_serve *serve, CUstream stream, unsigned flags)
{
    struct fdc_captures *captures = serve->capture;
    struct capture *capture;
    struct told told;

    if ((flags & CU_STREAM_NON_BLOCKING) || !fdc_stream_is_capturing(serve, stream) ||
        tell(serve->driver, stream, &told) != CUDA_SUCCESS)
        return;
    pthread_mutex_lock(&captures->lock);
    capture = find(captures, NULL, told.id);
    if (capture != NULL)
        add_blocking(capture);
    pthread_mutex_unlock(&captures->lock);
}

/* The stream may be captured from now on: what it was given before, and what the NULL
 * stream was if it is a blocking one, is joined while that can be. Its flags are asked for
 * now, since asking a capturing stream breaks the capture. */
CUresult
fdc_capture_prepare(struct fdc_serve *serve, CUstream stream, unsigned *flags)
{
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result;

    *flags = CU_STREAM_NON_BLOCKING;
    if (ctx == NULL || stream == CU_STREAM_LEGACY ||
        fdc_stream_is_capturing(serve, stream))
        return CUDA_SUCCESS;
    result = fdc_context_join(ctx, stream);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuStreamGetFlags(stream, flags);
    if (result == CUDA_SUCCESS && !(*flags & CU_STREAM_NON_BLOCKING))
        result = fdc_context_join_legacy(ctx);
    return result;
}

/* ---- beginning and end ---- */

static CUresult
begin(const struct fdc_driver *driver, CUstream stream, CUgraph graph,
      const CUgraphNode *deps, const CUgraphEdgeData *edges, size_t count)
{
    if (graph == NULL)
        return driver->cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    if (!FDC_HAS(driver, cuStreamBeginCaptureToGraph))
        return CUDA_ERROR_NOT_SUPPORTED;
    return driver->cuStreamBeginCaptureToGraph(stream, graph, count != 0 ? deps : NULL,
                                               edges, count,
                                               CU_STREAM_CAPTURE_MODE_RELAXED);
}

int
fdc_server_call_fdcCaptureBegin(struct fdc_request *request,
                                const struct fdc_req_fdcCaptureBegin *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    const CUgraphEdgeData *edges;
    CUgraphNode *deps;
    CUgraph graph = NULL;
    unsigned flags = 0;
    CUstream stream;
    CUresult result;
    int err;

    deps = fdc_nodes_read(request, req->deps, req->deps_count, &err, &result);
    if (err == 0)
        err = fdc_edges_read(request, req->edges, req->deps_count, &edges);
    if (err < 0) {
        free(deps);
        return err;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS && req->graph != 0)
        result = fdc_graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS && stream == CU_STREAM_LEGACY)
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result == CUDA_SUCCESS && fdc_context_here() == NULL)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS && fdc_stream_is_capturing(serve, stream))
        result = CUDA_ERROR_ILLEGAL_STATE;
    if (result == CUDA_SUCCESS)
        result = fdc_capture_prepare(serve, stream, &flags);
    if (result == CUDA_SUCCESS)
        result = begin(driver, stream, graph, deps, edges, req->deps_count);
    if (result == CUDA_SUCCESS)
        result = begun(serve, stream, flags, graph != NULL);
    free(deps);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* The graph's handle, which may have been given out while it was captured; one that was
 * there before has one, and may be inside of another. */
static CUresult
put_graph(struct fdc_request *request, uint64_t handle, CUgraph graph, bool into)
{
    struct fdc_serve *serve = request->serve;
    CUgraph named = NULL;

    (void)fdc_graph_get(serve, handle, &named);
    if (into)
        return named == graph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    if (named == NULL && fdc_handle_of(serve, FDC_KIND_GRAPH, graph) != 0)
        return CUDA_ERROR_INVALID_HANDLE;
    if (named != NULL)
        return named == graph
                   ? fdc_handle_swap(serve, FDC_KIND_GRAPH, handle, graph, NULL)
                   : CUDA_ERROR_INVALID_HANDLE;
    return fdc_handle_put(serve, FDC_KIND_GRAPH, handle, graph, request->ctx);
}

int
fdc_server_call_cuStreamEndCapture(struct fdc_request *request,
                                   const struct fdc_req_cuStreamEndCapture *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_cuStreamEndCapture reply = {0};
    struct capture was = {0};
    CUgraph graph = NULL;
    CUstream stream;
    bool over;
    CUresult result;

    result = fdc_handle_stream(serve, req->hStream, &stream);
    if (result != CUDA_SUCCESS)
        goto answer;
    result = driver->cuStreamEndCapture(stream, &graph);
    /* Whatever it says: only if it left the stream capturing does the capture go on. */
    over = !fdc_stream_is_capturing(serve, stream) && ended(serve, stream, &was);
    if (result == CUDA_SUCCESS) {
        result = put_graph(request, req->phGraph, graph, was.into);
        if (result != CUDA_SUCCESS && !was.into)
            driver->cuGraphDestroy(graph);
    } else if (graph != NULL && !was.into) {
        driver->cuGraphDestroy(graph);
    }
    if (result != CUDA_SUCCESS && over && was.graph != NULL && !was.into) {
        fdc_graph_end(serve, was.graph);
    }
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- questions and changes ---- */

int
fdc_server_call_fdcCaptureInfo(struct fdc_request *request,
                               const struct fdc_req_fdcCaptureInfo *req)
{
    struct fdc_captures *captures = request->serve->capture;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcCaptureInfo reply = {0};
    struct fdc_list_ask ask = {.fresh = req->fresh, .fresh_count = req->fresh_count};
    struct capture *capture;
    CUgraph named = NULL;
    struct told told;
    CUstream stream;
    CUresult result;
    int err;

    result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = tell(serve->driver, stream, &told);
    if (result == CUDA_SUCCESS && told.status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (result == CUDA_SUCCESS &&
        fdc_graph_get(serve, req->graph, &named) != CUDA_SUCCESS)
        result = fdc_handle_of(serve, FDC_KIND_GRAPH, told.graph) != 0
                     ? CUDA_ERROR_INVALID_HANDLE /* it has a name */
                     : fdc_graph_put_inner(request, req->graph, told.graph, told.graph);
    else if (result == CUDA_SUCCESS && named != told.graph)
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result != CUDA_SUCCESS)
        goto answer;
    pthread_mutex_lock(&captures->lock);
    capture = find(captures, NULL, told.id);
    if (capture != NULL)
        capture->graph = told.graph;
    pthread_mutex_unlock(&captures->lock);
    ask.graph = told.graph;
    ask.nodes = (CUgraphNode *)(uintptr_t)told.nodes;
    ask.edges = (CUgraphEdgeData *)(uintptr_t)told.edges;
    ask.count = told.count;
    ask.blob = req->blob;
    err = fdc_list_give(request, &ask, &reply.total, &result);
    if (err < 0)
        return err;
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

static CUresult
update(const struct fdc_driver *driver, CUstream stream, CUgraphNode *nodes,
       const CUgraphEdgeData *edges, size_t count, unsigned flags)
{
    if (FDC_HAS(driver, cuStreamUpdateCaptureDependencies_v2))
        return driver->cuStreamUpdateCaptureDependencies_v2(stream, nodes, edges, count,
                                                            flags);
    if (edges != NULL || !FDC_HAS(driver, cuStreamUpdateCaptureDependencies))
        return CUDA_ERROR_NOT_SUPPORTED;
    return driver->cuStreamUpdateCaptureDependencies(stream, nodes, count, flags);
}

int
fdc_server_call_fdcCaptureUpdate(struct fdc_request *request,
                                 const struct fdc_req_fdcCaptureUpdate *req)
{
    const CUgraphEdgeData *edges;
    CUgraphNode *nodes;
    CUstream stream;
    CUresult result;
    int err;

    nodes = fdc_nodes_read(request, req->nodes, req->count, &err, &result);
    if (err == 0)
        err = fdc_edges_read(request, req->edges, req->count, &edges);
    if (err < 0) {
        free(nodes);
        return err;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = update(request->driver, stream, req->count != 0 ? nodes : NULL, edges,
                        req->count, req->flags);
    free(nodes);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Stands for what the shim does by itself, an allocation: it has its place in the graph. */
int
fdc_server_call_fdcCaptureEmpty(struct fdc_request *request,
                                const struct fdc_req_fdcCaptureEmpty *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    CUgraphNode node = NULL;
    struct told told;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = tell(driver, stream, &told);
    if (result == CUDA_SUCCESS && told.status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (result == CUDA_SUCCESS)
        result = driver->cuGraphAddEmptyNode(
            &node, told.graph, told.count != 0 ? told.nodes : NULL, told.count);
    if (result == CUDA_SUCCESS)
        result = update(driver, stream, &node, NULL, 1,
                        CU_STREAM_SET_CAPTURE_DEPENDENCIES);
    if (result == CUDA_SUCCESS) {
        struct fdc_captures *captures = serve->capture;
        struct capture *capture;

        result = fdc_node_put(request, req->node, node, told.graph);
        pthread_mutex_lock(&captures->lock);
        capture = find(captures, NULL, told.id);
        if (capture != NULL)
            capture->graph = told.graph;
        pthread_mutex_unlock(&captures->lock);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
