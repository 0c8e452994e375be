/*
 * Questions about graphs: their nodes, edges, clones, ids, what a driver prints of them.
 * The driver's answers are given in handles; where a node has none yet, the client sends
 * new ones along.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/graph.h"
#include "server_hooks.h"

/* ---- lists ---- */

/* What the driver says to the question: nodes, and for edges their other ends. */
static CUresult
ask(const struct fdc_driver *driver, uint32_t question, CUgraph graph, CUgraphNode node,
    CUgraphNode *nodes, CUgraphNode *to, CUgraphEdgeData *edges, size_t *count)
{
    switch (question) {
    case FDC_GRAPH_NODES:
        return driver->cuGraphGetNodes(graph, nodes, count);
    case FDC_GRAPH_ROOTS:
        return driver->cuGraphGetRootNodes(graph, nodes, count);
    case FDC_GRAPH_EDGES:
        return FDC_HAS(driver, cuGraphGetEdges_v2)
                   ? driver->cuGraphGetEdges_v2(graph, nodes, to, edges, count)
                   : driver->cuGraphGetEdges(graph, nodes, to, count);
    case FDC_GRAPH_BEFORE:
        return FDC_HAS(driver, cuGraphNodeGetDependencies_v2)
                   ? driver->cuGraphNodeGetDependencies_v2(node, nodes, edges, count)
                   : driver->cuGraphNodeGetDependencies(node, nodes, count);
    case FDC_GRAPH_BEHIND:
        return FDC_HAS(driver, cuGraphNodeGetDependentNodes_v2)
                   ? driver->cuGraphNodeGetDependentNodes_v2(node, nodes, edges, count)
                   : driver->cuGraphNodeGetDependentNodes(node, nodes, count);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

struct listing {
    struct fdc_request *request;
    CUgraph graph;
    const uint64_t *fresh;
    uint32_t fresh_count, used, missing;
};

/* The node's handle; a fresh one where it has none yet. */
static uint64_t
listed(struct listing *listing, CUgraphNode node)
{
    uint64_t handle = fdc_node_name(listing->request->serve, node);

    if (handle != 0)
        return handle;
    if (listing->used == listing->fresh_count) {
        listing->missing++;
        return 0;
    }
    handle = listing->fresh[listing->used];
    if (fdc_node_put(listing->request, handle, node, listing->graph) != CUDA_SUCCESS)
        return 0;
    listing->used++;
    return handle;
}

int
fdc_list_give(struct fdc_request *request, const struct fdc_list_ask *asked,
              uint64_t *total, CUresult *result)
{
    size_t size = sizeof(struct fdc_graph_list) +
                  asked->count * sizeof(struct fdc_graph_row);
    struct fdc_graph_list *list = calloc(1, size);
    struct listing listing = {.request = request, .graph = asked->graph};

    listing.fresh = fdc_request_span(request, asked->fresh);
    listing.fresh_count = asked->fresh_count;
    if (asked->fresh.size != (uint64_t)asked->fresh_count * 8 ||
        (asked->fresh_count != 0 && listing.fresh == NULL)) {
        free(list);
        return -EPROTO;
    }
    *result = list == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    for (size_t i = 0; i < asked->count && *result == CUDA_SUCCESS; i++) {
        struct fdc_graph_row *row = &list->row[i];
        CUgraphNodeType type = 0;

        row->node = listed(&listing, asked->nodes[i]);
        if (asked->to != NULL)
            row->to = listed(&listing, asked->to[i]);
        if (asked->edges != NULL)
            memcpy(row->edge, &asked->edges[i], sizeof(row->edge));
        *result = request->driver->cuGraphNodeGetType(asked->nodes[i], &type);
        row->type = (uint32_t)type;
        if (asked->to != NULL && *result == CUDA_SUCCESS) {
            *result = request->driver->cuGraphNodeGetType(asked->to[i], &type);
            row->to_type = (uint32_t)type;
        }
    }
    if (*result != CUDA_SUCCESS) {
        free(list);
        return 0;
    }
    list->count = (uint32_t)asked->count;
    list->unnamed = listing.missing;
    list->id = asked->id;
    *total = size;
    return fdc_blob_give(request, asked->blob, list, size);
}

int
fdc_server_call_fdcGraphList(struct fdc_request *request,
                             const struct fdc_req_fdcGraphList *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphList reply = {0};
    struct fdc_list_ask list = {
        .fresh = req->fresh, .fresh_count = req->fresh_count, .blob = req->blob};
    CUgraphNode *nodes = NULL, *to = NULL, node = NULL;
    CUgraphEdgeData *edges = NULL;
    CUgraph graph = NULL;
    CUresult result;
    int err = 0;

    if (req->question >= FDC_GRAPH_BEFORE) {
        graph = fdc_node_graph(serve, req->node);
        result = fdc_node_get(serve, req->node, &node);
    } else {
        result = fdc_graph_get(serve, req->graph, &graph);
    }
    if (result == CUDA_SUCCESS)
        result =
            ask(driver, req->question, graph, node, NULL, NULL, NULL, &list.count);
    if (result != CUDA_SUCCESS)
        goto answer;

    nodes = calloc(list.count + 1, sizeof(*nodes));
    to = calloc(list.count + 1, sizeof(*to));
    edges = calloc(list.count + 1, sizeof(*edges));
    result = CUDA_ERROR_OUT_OF_MEMORY;
    if (nodes == NULL || to == NULL || edges == NULL)
        goto answer;
    result = CUDA_SUCCESS;
    if (list.count != 0)
        result =
            ask(driver, req->question, graph, node, nodes, to, edges, &list.count);
    if (result != CUDA_SUCCESS)
        goto answer;
    list.graph = graph;
    list.nodes = nodes;
    list.to = req->question == FDC_GRAPH_EDGES ? to : NULL;
    list.edges = edges;
    err = fdc_list_give(request, &list, &reply.total, &result);
answer:
    free(nodes);
    free(to);
    free(edges);
    if (err < 0)
        return err;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- edges ---- */

static CUresult
change(const struct fdc_driver *driver, bool remove, CUgraph graph,
       const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edges,
       size_t count)
{
    if (FDC_HAS(driver, cuGraphAddDependencies_v2) &&
        FDC_HAS(driver, cuGraphRemoveDependencies_v2))
        return remove ? driver->cuGraphRemoveDependencies_v2(graph, from, to, edges,
                                                             count)
                      : driver->cuGraphAddDependencies_v2(graph, from, to, edges,
                                                          count);
    if (edges != NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    return remove ? driver->cuGraphRemoveDependencies(graph, from, to, count)
                  : driver->cuGraphAddDependencies(graph, from, to, count);
}

int
fdc_server_call_fdcGraphEdges(struct fdc_request *request,
                              const struct fdc_req_fdcGraphEdges *req)
{
    const CUgraphEdgeData *edges = NULL;
    CUgraphNode *from, *to = NULL;
    CUresult result, more = CUDA_SUCCESS;
    CUgraph graph;
    int err;

    from = fdc_nodes_read(request, req->from, req->count, &err, &result);
    if (err == 0)
        to = fdc_nodes_read(request, req->to, req->count, &err, &more);
    if (err == 0)
        err = fdc_edges_read(request, req->edges, req->count, &edges);
    if (err < 0)
        goto out;
    if (result == CUDA_SUCCESS)
        result = more;
    if (result == CUDA_SUCCESS)
        result = fdc_graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS)
        result = change(request->driver, req->remove != 0, graph, from, to, edges,
                        req->count);
    fdc_request_answer(request, result, NULL, 0);
out:
    free(from);
    free(to);
    return err < 0 ? err : 0;
}

int
fdc_server_call_fdcGraphDestroyNode(struct fdc_request *request,
                                    const struct fdc_req_fdcGraphDestroyNode *req)
{
    struct fdc_serve *serve = request->serve;
    CUgraphNode node;
    CUresult result = fdc_node_get(serve, req->node, &node);

    if (result == CUDA_SUCCESS) {
        fdc_node_forget_child(serve, node);
        result = request->driver->cuGraphDestroyNode(node);
    }
    if (result == CUDA_SUCCESS)
        result = fdc_handle_drop(serve, FDC_KIND_NODE, req->node, NULL);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- whole graphs ---- */

static void
end_graph(struct fdc_serve *serve, void *value, void *aux)
{
    (void)aux;
    serve->driver->cuGraphDestroy(value);
}

int
fdc_server_call_cuGraphDestroy(struct fdc_request *request,
                               const struct fdc_req_cuGraphDestroy *req)
{
    struct fdc_slot *slot = fdc_slot_find(request->serve, FDC_KIND_GRAPH, req->hGraph);
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    void *graph = NULL;

    /* One inside a node, or being captured, is not the client's to destroy. */
    if (slot != NULL && fdc_slot_aux(slot) == NULL)
        result = fdc_handle_drop(request->serve, FDC_KIND_GRAPH, req->hGraph, &graph);
    if (result == CUDA_SUCCESS) {
        fdc_graph_forget(request->serve, graph);
        fdc_retire(request->serve, graph, NULL, end_graph); /* a helper may be reading it */
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphClone(struct fdc_request *request,
                              const struct fdc_req_fdcGraphClone *req)
{
    CUgraph graph, clone = NULL;
    CUresult result;

    result = fdc_graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphClone(&clone, graph);
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put(request->serve, FDC_KIND_GRAPH, req->clone, clone,
                                request->ctx);
        if (result != CUDA_SUCCESS)
            request->driver->cuGraphDestroy(clone);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphInClone(struct fdc_request *request,
                                const struct fdc_req_fdcGraphInClone *req)
{
    struct fdc_rep_fdcGraphInClone reply = {0};
    CUgraphNode node, found = NULL;
    CUgraph clone;
    CUresult result;

    result = fdc_node_get(request->serve, req->node, &node);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_get(request->serve, req->clone, &clone);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphNodeFindInClone(&found, node, clone);
    if (result == CUDA_SUCCESS) {
        reply.found = fdc_node_name(request->serve, found);
        if (reply.found == 0) {
            reply.found = req->fresh;
            result = fdc_node_put(request, req->fresh, found, clone);
        }
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphChild(struct fdc_request *request,
                              const struct fdc_req_fdcGraphChild *req)
{
    struct fdc_serve *serve = request->serve;
    CUgraph child = NULL, in = fdc_node_graph(serve, req->node);
    CUgraphNode node;
    CUresult result;

    result = fdc_node_get(serve, req->node, &node);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphChildGraphNodeGetGraph(node, &child);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_put_inner(request, req->graph, child, in);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphId(struct fdc_request *request,
                           const struct fdc_req_fdcGraphId *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphId reply = {0};
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    unsigned long long wide = 0;
    unsigned int id = 0;
    CUgraphNode node;
    CUgraph graph;
    void *exec;

    switch (req->question) {
    case FDC_ID_OF_GRAPH:
        result = fdc_graph_get(serve, req->handle, &graph);
        if (result == CUDA_SUCCESS)
            result = FDC_HAS(driver, cuGraphGetId) ? driver->cuGraphGetId(graph, &id)
                                                   : CUDA_ERROR_NOT_SUPPORTED;
        break;
    case FDC_ID_OF_EXEC:
        result = fdc_handle_get(serve, FDC_KIND_GRAPH_EXEC, req->handle, &exec);
        if (result == CUDA_SUCCESS)
            result = FDC_HAS(driver, cuGraphExecGetId)
                         ? driver->cuGraphExecGetId(exec, &id)
                         : CUDA_ERROR_NOT_SUPPORTED;
        break;
    case FDC_ID_LOCAL:
        result = fdc_node_get(serve, req->handle, &node);
        if (result == CUDA_SUCCESS)
            result = FDC_HAS(driver, cuGraphNodeGetLocalId)
                         ? driver->cuGraphNodeGetLocalId(node, &id)
                         : CUDA_ERROR_NOT_SUPPORTED;
        break;
    case FDC_ID_TOOLS:
        result = fdc_node_get(serve, req->handle, &node);
        if (result == CUDA_SUCCESS)
            result = FDC_HAS(driver, cuGraphNodeGetToolsId)
                         ? driver->cuGraphNodeGetToolsId(node, &wide)
                         : CUDA_ERROR_NOT_SUPPORTED;
        break;
    default:
        break;
    }
    reply.id = wide != 0 ? wide : id;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- what the driver prints ---- */

static CUresult
file_read(int fd, void **bytes, uint64_t *size)
{
    off_t end = lseek(fd, 0, SEEK_END);
    uint64_t have = 0;
    char *whole;

    if (end < 0 || end > 1 << 30)
        return CUDA_ERROR_OPERATING_SYSTEM;
    whole = malloc((size_t)end + 1);
    if (whole == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    while (have < (uint64_t)end) {
        ssize_t got = pread(fd, whole + have, (size_t)end - have, (off_t)have);

        if (got <= 0) {
            free(whole);
            return CUDA_ERROR_OPERATING_SYSTEM;
        }
        have += (uint64_t)got;
    }
    *bytes = whole;
    *size = have;
    return CUDA_SUCCESS;
}

/* The driver writes a file by name: one in memory. */
int
fdc_server_call_fdcGraphDot(struct fdc_request *request,
                            const struct fdc_req_fdcGraphDot *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcGraphDot reply = {0};
    void *bytes = NULL;
    char path[64];
    CUgraph graph;
    CUresult result;
    int fd = -1, err = 0;

    result = fdc_graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS && !FDC_HAS(driver, cuGraphDebugDotPrint))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    fd = memfd_create("fdcore-dot", MFD_CLOEXEC);
    result = CUDA_ERROR_OPERATING_SYSTEM;
    if (fd < 0)
        goto answer;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    result = driver->cuGraphDebugDotPrint(graph, path, req->flags);
    if (result == CUDA_SUCCESS)
        result = file_read(fd, &bytes, &reply.total);
    if (result == CUDA_SUCCESS)
        err = fdc_blob_give(request, req->blob, bytes, reply.total);
answer:
    if (fd >= 0)
        close(fd);
    if (err < 0)
        return err;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
