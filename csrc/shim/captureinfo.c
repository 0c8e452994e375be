/*
 * What a capture under way is asked and told by hand: its graph, what the next node will
 * depend on, a capture into a graph that there is already. Graph and dependencies live at
 * the worker; status and id are known here.
 */
#include "process.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

/* ---- questions ---- */

static CUresult
send_info(struct fdc_call *call, const struct fdc_listing *asked, const uint64_t *fresh,
          uint32_t fresh_count, struct fdc_chunk blob, uint64_t *total)
{
    uint32_t at = sizeof(struct fdc_req_fdcCaptureInfo);
    struct fdc_rep_fdcCaptureInfo rep;
    struct fdc_req_fdcCaptureInfo *req;
    CUresult result;

    call->id = FDC_ID_fdcCaptureInfo;
    req = fdc_call_begin(call, at + fresh_count * 8);
    if (req == NULL)
        return call->result;
    req->stream = asked->stream;
    req->graph = asked->graph;
    req->fresh = (struct fdc_span){at, fresh_count * 8};
    req->fresh_count = fresh_count;
    req->blob = blob;
    if (fresh_count != 0)
        memcpy((char *)req + at, fresh, fresh_count * 8);
    result = fdc_call_wait(call, &rep, sizeof(rep));
    *total = result == CUDA_SUCCESS ? rep.total : 0;
    return result;
}

/* Where the program finds what it asked for, until this thread asks again. */
static CUresult
keep(const struct fdc_graph_list *list, const CUgraphNode **deps,
     const CUgraphEdgeData **edges)
{
    static const CUgraphEdgeData plain;
    struct fdc_thread *self = fdc_thread_self();
    size_t size = (list->count + 1) * (sizeof(CUgraphNode) + sizeof(CUgraphEdgeData));
    CUgraphNode *nodes = realloc(self->asked, size);
    CUgraphEdgeData *data;

    if (nodes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    self->asked = nodes;
    data = (CUgraphEdgeData *)(nodes + list->count + 1);
    for (uint32_t i = 0; i < list->count; i++) {
        nodes[i] = (CUgraphNode)(uintptr_t)list->row[i].node;
        memcpy(&data[i], list->row[i].edge, sizeof(data[i]));
        if (edges == NULL && memcmp(&data[i], &plain, sizeof(plain)) != 0)
            return CUDA_ERROR_LOSSY_QUERY;
    }
    if (deps != NULL)
        *deps = nodes;
    if (edges != NULL)
        *edges = data;
    return CUDA_SUCCESS;
}

struct question {
    CUstreamCaptureStatus *status;
    cuuint64_t *id;
    CUgraph *graph;
    const CUgraphNode **deps;
    const CUgraphEdgeData **edges;
    size_t *count;
};

static CUresult
info(CUstream value, unsigned how, const struct question *question)
{
    struct fdc_listing asked = {.send = send_info};
    CUstreamCaptureStatus status;
    struct fdc_graph_list *list;
    struct fdc_capture capture;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_capture_status(value, how, &status, &capture, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (question->status == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (status == CU_STREAM_CAPTURE_STATUS_ACTIVE &&
        (question->deps != NULL || question->edges != NULL ||
         question->count != NULL || question->graph != NULL)) {
        result = fdc_call_open(&call, FDC_ID_fdcCaptureInfo, FDC_NEEDS_INIT);
        if (result != CUDA_SUCCESS)
            return result;
        result = fdc_call_join(&call, &stream->object);
        if (result != CUDA_SUCCESS)
            return result;
        call.context = stream->object.context;
        asked.graph = capture.graph->object.handle;
        asked.stream = fdc_stream_wire(stream);
        result = fdc_list_ask(&call, &asked,
                              question->deps != NULL || question->edges != NULL, &list);
        if (result != CUDA_SUCCESS)
            return result;
        if (question->deps != NULL || question->edges != NULL)
            result = keep(list, question->deps, question->edges);
        if (question->count != NULL)
            *question->count = list->count;
        if (question->graph != NULL)
            *question->graph = (CUgraph)(uintptr_t)asked.graph;
        free(list);
    }
    *question->status = status;
    if (question->id != NULL && status == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        *question->id = capture.id;
    return result;
}

/* ---- changes ---- */

static CUresult
update(CUstream value, const CUgraphNode *nodes, const CUgraphEdgeData *edges,
       size_t count, unsigned flags, unsigned how)
{
    uint32_t at = sizeof(struct fdc_req_fdcCaptureUpdate), edges_size;
    struct fdc_req_fdcCaptureUpdate *req;
    CUstreamCaptureStatus status;
    struct fdc_capture capture;
    struct fdc_stream *stream;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_capture_status(value, how, &status, &capture, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        return CUDA_ERROR_INVALID_VALUE;
    if (status == CU_STREAM_CAPTURE_STATUS_NONE)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (status == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    result = fdc_nodes_check(nodes, count, capture.graph->object.handle, edges,
                             &edges_size);
    if (result == CUDA_SUCCESS)
        result = fdc_call_open(&call, FDC_ID_fdcCaptureUpdate, FDC_NEEDS_INIT);
    if (result == CUDA_SUCCESS)
        result = fdc_call_join(&call, &stream->object);
    if (result != CUDA_SUCCESS)
        return result;
    call.context = stream->object.context;
    req = fdc_call_begin(&call, at + (uint32_t)count * 8 + edges_size);
    if (req == NULL)
        return call.result;
    req->stream = fdc_stream_wire(stream);
    req->nodes = (struct fdc_span){at, (uint32_t)count * 8};
    req->edges = (struct fdc_span){at + (uint32_t)count * 8, edges_size};
    req->edges_size = edges_size;
    req->count = (uint32_t)count;
    req->flags = flags;
    if (count != 0)
        memcpy((char *)req + at, nodes, count * 8);
    if (edges_size != 0)
        memcpy((char *)req + at + count * 8, edges, edges_size);
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

struct fdc_keeps *
fdc_capture_keeps(struct fdc_stream *stream)
{
    struct fdc_session *session = stream->object.session;
    struct fdc_keeps *keeps = NULL;

    pthread_mutex_lock(&session->capture_lock);
    if (stream->capture != NULL && !stream->capture->invalid)
        keeps = &stream->capture->graph->keeps;
    pthread_mutex_unlock(&session->capture_lock);
    return keeps;
}

CUresult
fdc_capture_memory(struct fdc_call *call, struct fdc_stream *stream,
                   CUgraphNodeParams *params)
{
    struct fdc_body body = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    struct fdc_req_fdcCaptureEmpty *req;
    CUstreamCaptureStatus status;
    struct fdc_capture capture;
    struct fdc_reply reply;
    struct fdc_node *node;
    CUresult result;

    result = fdc_capture_status((CUstream)(uintptr_t)stream->object.handle, 0, &status,
                                &capture, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    node = fdc_node_new(call->session, capture.graph->object.handle);
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    call->context = stream->object.context;
    result = params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC
                 ? fdc_graph_alloc(call, capture.graph, &params->alloc)
                 : fdc_graph_free(call, capture.graph, params->free.dptr);
    if (result != CUDA_SUCCESS)
        goto err_node;
    result = fdc_body_remember(call, node, &body, params);
    if (result == CUDA_SUCCESS) {
        call->id = FDC_ID_fdcCaptureEmpty;
        req = fdc_call_begin(call, sizeof(*req));
        if (req != NULL) {
            req->stream = fdc_stream_wire(stream);
            req->node = node->object.handle;
            result = fdc_call_wait(call, &reply, sizeof(reply));
        } else {
            result = call->result;
        }
    }
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    fdc_graph_memory_undo(capture.graph, (uint32_t)params->type);
err_node:
    fdc_node_drop(node);
    return result;
}

/* ---- the calls ---- */

#define CALLS(suffix, how)                                                             \
    FDC_EXPORT CUresult cuStreamIsCapturing##suffix(                                   \
        CUstream hStream, CUstreamCaptureStatus *captureStatus)                        \
    {                                                                                  \
        return info(hStream, how, &(struct question){.status = captureStatus});        \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamGetCaptureInfo##suffix(                                \
        CUstream hStream, CUstreamCaptureStatus *captureStatus_out,                    \
        cuuint64_t *id_out)                                                            \
    {                                                                                  \
        return info(hStream, how,                                                      \
                    &(struct question){.status = captureStatus_out, .id = id_out});    \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamGetCaptureInfo_v2##suffix(                             \
        CUstream hStream, CUstreamCaptureStatus *captureStatus_out,                    \
        cuuint64_t *id_out, CUgraph *graph_out, const CUgraphNode **dependencies_out,  \
        size_t *numDependencies_out)                                                   \
    {                                                                                  \
        return info(hStream, how,                                                      \
                    &(struct question){captureStatus_out, id_out, graph_out,           \
                                       dependencies_out, NULL, numDependencies_out});  \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamGetCaptureInfo_v3##suffix(                             \
        CUstream hStream, CUstreamCaptureStatus *captureStatus_out,                    \
        cuuint64_t *id_out, CUgraph *graph_out, const CUgraphNode **dependencies_out,  \
        const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out)             \
    {                                                                                  \
        return info(hStream, how,                                                      \
                    &(struct question){captureStatus_out, id_out, graph_out,           \
                                       dependencies_out, edgeData_out,                 \
                                       numDependencies_out});                          \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamUpdateCaptureDependencies##suffix(                     \
        CUstream hStream, CUgraphNode *dependencies, size_t numDependencies,           \
        unsigned int flags)                                                            \
    {                                                                                  \
        return update(hStream, dependencies, NULL, numDependencies, flags, how);       \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamUpdateCaptureDependencies_v2##suffix(                  \
        CUstream hStream, CUgraphNode *dependencies,                                   \
        const CUgraphEdgeData *dependencyData, size_t numDependencies,                 \
        unsigned int flags)                                                            \
    {                                                                                  \
        return update(hStream, dependencies, dependencyData, numDependencies, flags,   \
                      how);                                                            \
    }                                                                                  \
    FDC_EXPORT CUresult cuStreamBeginCaptureToGraph##suffix(                           \
        CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,             \
        const CUgraphEdgeData *dependencyData, size_t numDependencies,                 \
        CUstreamCaptureMode mode)                                                      \
    {                                                                                  \
        return fdc_capture_begin(hStream, mode, how,                                   \
                                 &(struct fdc_capture_into){hGraph, dependencies,      \
                                                            dependencyData,            \
                                                            numDependencies});         \
    }

CALLS(, 0)
CALLS(_ptsz, FDC_STREAM_PER_THREAD_ZERO)
