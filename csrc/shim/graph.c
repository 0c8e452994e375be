/*
 * Graphs as a whole: made, cloned, destroyed, printed; which one a node is of. A handle
 * of a destroyed graph, or of a node in it, means nothing any more, here and at the
 * worker.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_calls.h"
#include "graph.h"

#define BLOB_FIRST (64u << 10)

/* ---- objects ---- */

void *
fdc_graph_new(struct fdc_session *session, struct fdc_context *context)
{
    struct fdc_graph *graph;

    graph = fdc_object_new(session, FDC_KIND_GRAPH, sizeof(*graph), context);
    if (graph != NULL)
        fdc_keeps_setup(&graph->keeps);
    return graph;
}

struct fdc_graph *
fdc_graph_find(CUgraph graph)
{
    return fdc_object_find(FDC_KIND_GRAPH, graph);
}

CUresult
fdc_graph_at(struct fdc_call *call, const struct fdc_object *object)
{
    static uint32_t said;

    if (object->session != call->session)
        return fdc_refuse("a graph over several servers", &said);
    return fdc_call_join(call, object);
}

CUresult
fdc_graph_join(struct fdc_call *call, const void *object)
{
    return object != NULL ? fdc_call_join(call, object) : CUDA_ERROR_INVALID_HANDLE;
}

struct fdc_node *
fdc_node_find(CUgraphNode node)
{
    return fdc_object_find(FDC_KIND_NODE, node);
}

struct fdc_node *
fdc_node_new(struct fdc_session *session, uint64_t graph)
{
    struct fdc_node *node = fdc_object_new(session, FDC_KIND_NODE, sizeof(*node), NULL);

    if (node != NULL)
        node->graph = graph;
    return node;
}

static void
node_drop_child(struct fdc_node *node)
{
    struct fdc_graph *child = NULL;

    if (node->child != 0)
        child = fdc_graph_find((CUgraph)(uintptr_t)node->child);
    node->child = 0;
    if (child != NULL)
        fdc_graph_drop(child);
}

void
fdc_node_drop(struct fdc_node *node)
{
    void *saved = node->saved;

    node_drop_child(node);
    node->saved = NULL;
    fdc_object_drop(node);
    free(saved);
}

static void
drop_member(void *object, void *user)
{
    struct fdc_node *node = object;
    const uint64_t *graph = user;

    if (node->graph == *graph)
        fdc_node_drop(node);
}

static void
drop_inner(void *object, void *user)
{
    struct fdc_graph *inner = object;
    const uint64_t *graph = user;

    if (inner->inside == *graph)
        fdc_graph_drop(inner);
}

void
fdc_graph_drop(struct fdc_graph *graph)
{
    uint64_t handle = graph->object.handle;

    fdc_object_drop(graph);
    fdc_object_each(FDC_KIND_NODE, drop_member, &handle);
    fdc_object_each(FDC_KIND_GRAPH, drop_inner, &handle);
    fdc_keeps_drop(&graph->keeps);
}

CUresult
fdc_nodes_check(const CUgraphNode *nodes, size_t count, uint64_t graph,
                const CUgraphEdgeData *edges, uint32_t *edges_size)
{
    static const CUgraphEdgeData plain;

    *edges_size = 0;
    if ((count != 0 && nodes == NULL) || count > 1u << 14)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        struct fdc_node *node = fdc_node_find(nodes[i]);

        if (node == NULL || node->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
        if (edges != NULL && memcmp(&edges[i], &plain, sizeof(plain)) != 0)
            *edges_size = (uint32_t)(count * sizeof(*edges));
    }
    return CUDA_SUCCESS;
}

/* ---- making and destroying ---- */

FDC_EXPORT CUresult
cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    struct fdc_req_cuGraphCreate *req;
    struct fdc_graph *graph;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuGraphCreate, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    graph = fdc_graph_new(call.session, call.context);
    if (graph == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
    } else {
        req->phGraph = graph->object.handle;
        req->flags = flags;
        result = fdc_call_send(&call);
    }
    if (result != CUDA_SUCCESS) {
        fdc_graph_drop(graph);
        return result;
    }
    *phGraph = (CUgraph)(uintptr_t)graph->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphDestroy(CUgraph hGraph)
{
    struct fdc_req_cuGraphDestroy *req;
    struct fdc_graph *graph;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuGraphDestroy, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    graph = fdc_graph_find(hGraph);
    result = fdc_graph_join(&call, graph);
    if (result != CUDA_SUCCESS)
        return result;
    if (graph->inside != 0 || graph->capturing)
        return CUDA_ERROR_INVALID_VALUE; /* it is a node's, or a capture's */
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hGraph = graph->object.handle;
    result = fdc_call_send(&call);
    if (result == CUDA_SUCCESS)
        fdc_graph_drop(graph);
    return result;
}

FDC_EXPORT CUresult
cuGraphDestroyNode(CUgraphNode hNode)
{
    struct fdc_req_fdcGraphDestroyNode *req;
    struct fdc_reply reply;
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphDestroyNode, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_find(hNode);
    result = fdc_graph_join(&call, node);
    if (result != CUDA_SUCCESS)
        return result;
    if (node->typed && (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
                        node->type == CU_GRAPH_NODE_TYPE_MEM_FREE))
        return CUDA_ERROR_NOT_SUPPORTED;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->node = node->object.handle;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        fdc_node_drop(node);
    return result;
}

/* ---- clones and inner graphs ---- */

FDC_EXPORT CUresult
cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    struct fdc_req_fdcGraphClone *req;
    struct fdc_graph *original, *clone;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphClone, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    original = fdc_graph_find(originalGraph);
    result = fdc_graph_join(&call, original);
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraphClone == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_graph_has_memory(&original->keeps))
        return CUDA_ERROR_NOT_SUPPORTED;
    clone = fdc_graph_new(call.session, call.context);
    if (clone == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = fdc_keeps_share(&clone->keeps, &original->keeps);
    req = result == CUDA_SUCCESS ? fdc_call_begin(&call, sizeof(*req)) : NULL;
    if (req != NULL) {
        req->graph = original->object.handle;
        req->clone = clone->object.handle;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
    } else if (result == CUDA_SUCCESS) {
        result = call.result;
    }
    if (result != CUDA_SUCCESS) {
        fdc_graph_drop(clone);
        return result;
    }
    *phGraphClone = (CUgraph)(uintptr_t)clone->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode,
                       CUgraph hClonedGraph)
{
    struct fdc_req_fdcGraphInClone *req;
    struct fdc_rep_fdcGraphInClone rep;
    struct fdc_node *original, *fresh;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphInClone, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    original = fdc_node_find(hOriginalNode);
    result = fdc_graph_join(&call, original);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_join(&call, fdc_graph_find(hClonedGraph));
    if (result != CUDA_SUCCESS)
        return result;
    if (phNode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fresh = fdc_node_new(call.session, (uint64_t)(uintptr_t)hClonedGraph);
    if (fresh == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    fresh->type = original->type;
    fresh->typed = original->typed;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->node = original->object.handle;
        req->clone = (uint64_t)(uintptr_t)hClonedGraph;
        req->fresh = fresh->object.handle;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
    } else {
        result = call.result;
    }
    if (result == CUDA_SUCCESS)
        *phNode = (CUgraphNode)(uintptr_t)rep.found;
    if (result != CUDA_SUCCESS || rep.found != fresh->object.handle)
        fdc_node_drop(fresh);
    return result;
}

FDC_EXPORT CUresult
cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct fdc_req_fdcGraphChild *req;
    struct fdc_graph *graph;
    struct fdc_reply reply;
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphChild, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_find(hNode);
    result = fdc_graph_join(&call, node);
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL || (node->typed && node->type != CU_GRAPH_NODE_TYPE_GRAPH))
        return CUDA_ERROR_INVALID_VALUE;
    if (node->child == 0) {
        graph = fdc_graph_new(call.session, call.context);
        if (graph == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        graph->inside = node->graph;
        req = fdc_call_begin(&call, sizeof(*req));
        if (req != NULL) {
            req->node = node->object.handle;
            req->graph = graph->object.handle;
            result = fdc_call_wait(&call, &reply, sizeof(reply));
        } else {
            result = call.result;
        }
        if (result != CUDA_SUCCESS) {
            fdc_graph_drop(graph);
            return result;
        }
        node->child = graph->object.handle;
    }
    *phGraph = (CUgraph)(uintptr_t)node->child;
    return CUDA_SUCCESS;
}

/* ---- ids ---- */

static CUresult
id_of(uint32_t question, enum fdc_kind kind, const void *handle, const void *out,
      uint64_t *id)
{
    struct fdc_req_fdcGraphId *req;
    struct fdc_rep_fdcGraphId rep;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphId, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_graph_join(&call, fdc_object_find(kind, handle));
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->question = question;
    req->handle = (uint64_t)(uintptr_t)handle;
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    *id = result == CUDA_SUCCESS ? rep.id : 0;
    return result;
}

FDC_EXPORT CUresult
cuGraphGetId(CUgraph hGraph, unsigned int *graphId)
{
    uint64_t id = 0;
    CUresult result = id_of(FDC_ID_OF_GRAPH, FDC_KIND_GRAPH, hGraph, graphId, &id);

    if (result == CUDA_SUCCESS)
        *graphId = (unsigned int)id;
    return result;
}

FDC_EXPORT CUresult
cuGraphExecGetId(CUgraphExec hGraphExec, unsigned int *graphId)
{
    uint64_t id = 0;
    CUresult result =
        id_of(FDC_ID_OF_EXEC, FDC_KIND_GRAPH_EXEC, hGraphExec, graphId, &id);

    if (result == CUDA_SUCCESS)
        *graphId = (unsigned int)id;
    return result;
}

FDC_EXPORT CUresult
cuGraphNodeGetLocalId(CUgraphNode hNode, unsigned int *nodeId)
{
    uint64_t id = 0;
    CUresult result = id_of(FDC_ID_LOCAL, FDC_KIND_NODE, hNode, nodeId, &id);

    if (result == CUDA_SUCCESS)
        *nodeId = (unsigned int)id;
    return result;
}

FDC_EXPORT CUresult
cuGraphNodeGetToolsId(CUgraphNode hNode, unsigned long long *toolsNodeId)
{
    uint64_t id = 0;
    CUresult result = id_of(FDC_ID_TOOLS, FDC_KIND_NODE, hNode, toolsNodeId, &id);

    if (result == CUDA_SUCCESS)
        *toolsNodeId = id;
    return result;
}

FDC_EXPORT CUresult
cuGraphNodeGetContainingGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct fdc_node *node;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_find(hNode);
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (phGraph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = (CUgraph)(uintptr_t)node->graph;
    return CUDA_SUCCESS;
}

/* ---- what the driver prints of a graph ---- */

static CUresult
file_write(const char *path, const char *bytes, uint64_t size)
{
    CUresult result = CUDA_SUCCESS;
    int fd;

    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return CUDA_ERROR_INVALID_VALUE;
    while (size > 0) {
        ssize_t done = write(fd, bytes, size);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            result = CUDA_ERROR_OPERATING_SYSTEM;
            break;
        }
        bytes += done;
        size -= (uint64_t)done;
    }
    close(fd);
    return result;
}

FDC_EXPORT CUresult
cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags)
{
    struct fdc_req_fdcGraphDot *req;
    struct fdc_rep_fdcGraphDot rep;
    struct fdc_chunk blob;
    struct fdc_call call;
    void *bytes = NULL;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphDot, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_graph_join(&call, fdc_graph_find(hGraph));
    if (result != CUDA_SUCCESS)
        return result;
    if (path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_stage_alloc(call.session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->graph = (uint64_t)(uintptr_t)hGraph;
        req->flags = flags;
        req->blob = blob;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
    } else {
        result = call.result;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(&call, &blob, rep.total, &bytes);
    if (result == CUDA_SUCCESS)
        result = file_write(path, bytes, rep.total);
    free(bytes);
    fdc_stage_free(call.session, FDC_REGION_DOWN, &blob);
    return result;
}
