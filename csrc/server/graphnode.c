/*
 * Graphs that a program builds itself, and questions about any graph. Nodes are named
 * by the client; those of captured graphs and clones get a name when it first asks for
 * them.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fdc/graph.h"

/* ---- names of nodes ---- */

struct name {
    CUgraphNode node;
    uint64_t handle;
};

static int
compare_names(const void *a, const void *b)
{
    const struct name *left = a, *right = b;

    return (left->node > right->node) - (left->node < right->node);
}

/* All nodes that have a handle, in order of the driver's value. */
static struct name *
names_collect(struct fdc_serve *serve, size_t *count)
{
    struct fdc_slots *slots = &serve->slots[FDC_KIND_NODE];
    struct name *names;
    size_t n = 0;

    pthread_mutex_lock(&slots->lock);
    names = calloc(slots->high + 1, sizeof(*names));
    for (uint32_t i = 0; names != NULL && i < slots->high; i++) {
        struct fdc_slot *chunk = slots->chunk[i / FDC_TABLE_CHUNK], *slot;

        if (chunk == NULL)
            continue;
        slot = &chunk[i % FDC_TABLE_CHUNK];
        if (slot->state == 0 || slot->value == NULL)
            continue;
        names[n].node = slot->value;
        names[n++].handle = 0x00FDull << 48 | (uint64_t)FDC_KIND_NODE << 40 |
                            (uint64_t)(slot->state & 0xffff) << 24 | (uint64_t)i << 4;
    }
    pthread_mutex_unlock(&slots->lock);
    if (names != NULL)
        qsort(names, n, sizeof(*names), compare_names);
    *count = n;
    return names;
}

static uint64_t
name_of(const struct name *names, size_t count, CUgraphNode node)
{
    struct name key = {node, 0};
    const struct name *found =
        count == 0 ? NULL : bsearch(&key, names, count, sizeof(key), compare_names);

    return found != NULL ? found->handle : 0;
}

static CUresult
node_get(struct fdc_serve *serve, uint64_t handle, CUgraphNode *node)
{
    void *value = NULL;
    CUresult result = fdc_handle_get(serve, FDC_KIND_NODE, handle, &value);

    *node = value;
    return result;
}

static CUresult
graph_get(struct fdc_serve *serve, uint64_t handle, CUgraph *graph)
{
    void *value = NULL;
    CUresult result = fdc_handle_get(serve, FDC_KIND_GRAPH, handle, &value);

    *graph = value;
    return result;
}

/* Handles of a span as the driver's nodes; count 0 gives NULL. -EPROTO through *err. */
static CUgraphNode *
nodes_read(struct fdc_request *request, struct fdc_span span, uint32_t count, int *err,
           CUresult *result)
{
    const uint64_t *handles = fdc_request_span(request, span);
    CUgraphNode *nodes;

    *err = 0;
    if (span.size != (uint64_t)count * 8 || (count != 0 && handles == NULL)) {
        *err = -EPROTO;
        return NULL;
    }
    nodes = calloc(count + 1u, sizeof(*nodes));
    *result = nodes == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    for (uint32_t i = 0; i < count && *result == CUDA_SUCCESS; i++)
        *result = node_get(request->serve, handles[i], &nodes[i]);
    return nodes;
}

/* ---- parameters ---- */

struct body {
    CUDA_KERNEL_NODE_PARAMS kernel;
    void *extra[5];
    size_t params_size;
    CUDA_MEMCPY3D memcpy;
    CUDA_MEMSET_NODE_PARAMS memset;
    CUDA_HOST_NODE_PARAMS host;
    CUevent event;
    CUgraph graph;
};

/* Checks and translates; -EPROTO, or a CUresult. */
static int
body_read(struct fdc_request *request, uint32_t type, struct fdc_span span,
          struct body *body)
{
    struct fdc_serve *serve = request->serve;
    const void *bytes = span.size != 0 ? fdc_request_span(request, span) : NULL;
    uint32_t needed = 0;
    CUfunction function;
    void *value;
    CUresult result;

    memset(body, 0, sizeof(*body));
    if (span.size != 0 && bytes == NULL)
        return -EPROTO;
    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
        const struct fdc_node_kernel *kernel = bytes;

        if (span.size < sizeof(*kernel) ||
            kernel->params_size > span.size - sizeof(*kernel))
            return -EPROTO;
        result = fdc_code_kernel(serve, kernel->func, &function, &needed);
        if (result == CUDA_SUCCESS && kernel->params_size < needed)
            result = CUDA_ERROR_INVALID_VALUE;
        body->kernel.func = function;
        body->kernel.gridDimX = kernel->grid.x;
        body->kernel.gridDimY = kernel->grid.y;
        body->kernel.gridDimZ = kernel->grid.z;
        body->kernel.blockDimX = kernel->block.x;
        body->kernel.blockDimY = kernel->block.y;
        body->kernel.blockDimZ = kernel->block.z;
        body->kernel.sharedMemBytes = kernel->shared;
        body->params_size = kernel->params_size;
        body->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
        body->extra[1] = (void *)(uintptr_t)(kernel + 1);
        body->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
        body->extra[3] = &body->params_size;
        body->extra[4] = CU_LAUNCH_PARAM_END;
        body->kernel.extra = kernel->params_size != 0 ? body->extra : NULL;
        return (int)result;
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY: {
        const struct fdc_node_memcpy *memcpy_node = bytes;

        if (span.size < sizeof(*memcpy_node))
            return -EPROTO;
        return (int)fdc_copy3d_fill(request, &memcpy_node->copy, NULL, NULL,
                                    &body->memcpy);
    }
    case CU_GRAPH_NODE_TYPE_MEMSET: {
        const struct fdc_node_memset *set = bytes;
        uint64_t reach;

        if (span.size < sizeof(*set))
            return -EPROTO;
        if ((set->element != 1 && set->element != 2 && set->element != 4) ||
            set->width == 0 || set->height == 0 || set->width >= 1ull << 40 ||
            set->height >= 1ull << 40 ||
            __builtin_mul_overflow(set->height - 1, set->pitch, &reach) ||
            __builtin_add_overflow(reach, set->width * set->element, &reach))
            return CUDA_ERROR_INVALID_VALUE;
        body->memset.dst = set->dst;
        body->memset.pitch = set->pitch;
        body->memset.value = set->value;
        body->memset.elementSize = set->element;
        body->memset.width = set->width;
        body->memset.height = set->height;
        return (int)fdc_memory_check(serve, set->dst, reach);
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
        const struct fdc_node_host *host = bytes;

        if (span.size < sizeof(*host))
            return -EPROTO;
        return (int)fdc_hostfn_place(serve, host->number, true, &body->host.fn,
                                     &body->host.userData);
    }
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: {
        const struct fdc_node_handle *event = bytes;

        if (span.size < sizeof(*event))
            return -EPROTO;
        result = fdc_handle_get(serve, FDC_KIND_EVENT, event->handle, &value);
        body->event = value;
        return (int)result;
    }
    case CU_GRAPH_NODE_TYPE_GRAPH: {
        const struct fdc_node_handle *graph = bytes;

        if (span.size < sizeof(*graph))
            return -EPROTO;
        return (int)graph_get(serve, graph->handle, &body->graph);
    }
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* ---- nodes ---- */

static CUresult
add(const struct fdc_driver *driver, uint32_t type, CUgraph graph,
    const CUgraphNode *deps, size_t count, const struct body *body, CUgraphNode *node)
{
    struct fdc_ctx *ctx = fdc_context_here();

    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        if (FDC_HAS(driver, cuGraphAddKernelNode_v2))
            return driver->cuGraphAddKernelNode_v2(node, graph, deps, count,
                                                   &body->kernel);
        return CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return driver->cuGraphAddMemcpyNode(node, graph, deps, count, &body->memcpy,
                                            ctx->value);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return driver->cuGraphAddMemsetNode(node, graph, deps, count, &body->memset,
                                            ctx->value);
    case CU_GRAPH_NODE_TYPE_HOST:
        return driver->cuGraphAddHostNode(node, graph, deps, count, &body->host);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return driver->cuGraphAddEventRecordNode(node, graph, deps, count, body->event);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return driver->cuGraphAddEventWaitNode(node, graph, deps, count, body->event);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return driver->cuGraphAddChildGraphNode(node, graph, deps, count, body->graph);
    default:
        return driver->cuGraphAddEmptyNode(node, graph, deps, count);
    }
}

int
fdc_server_call_fdcGraphAdd(struct fdc_request *request,
                            const struct fdc_req_fdcGraphAdd *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    CUgraphNode *deps, node = NULL;
    CUresult result = CUDA_SUCCESS;
    struct body body;
    CUgraph graph;
    int err;

    deps = nodes_read(request, req->deps, req->deps_count, &err, &result);
    if (err < 0)
        return err;
    if (result == CUDA_SUCCESS)
        result = graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS) {
        err = body_read(request, req->type, req->body, &body);
        if (err < 0) {
            free(deps);
            return err;
        }
        result = (CUresult)err;
    }
    if (result == CUDA_SUCCESS)
        result = add(driver, req->type, graph, req->deps_count ? deps : NULL,
                     req->deps_count, &body, &node);
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put(serve, FDC_KIND_NODE, req->node, node, 0);
        if (result != CUDA_SUCCESS)
            driver->cuGraphDestroyNode(node);
    }
    free(deps);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static CUresult
set(const struct fdc_driver *driver, uint32_t type, CUgraphNode node,
    const struct body *body)
{
    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return FDC_HAS(driver, cuGraphKernelNodeSetParams_v2)
                   ? driver->cuGraphKernelNodeSetParams_v2(node, &body->kernel)
                   : CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return driver->cuGraphMemcpyNodeSetParams(node, &body->memcpy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return driver->cuGraphMemsetNodeSetParams(node, &body->memset);
    case CU_GRAPH_NODE_TYPE_HOST:
        return driver->cuGraphHostNodeSetParams(node, &body->host);
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult
set_exec(const struct fdc_driver *driver, CUgraphExec exec, uint32_t type,
         CUgraphNode node, const struct body *body)
{
    struct fdc_ctx *ctx = fdc_context_here();

    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return FDC_HAS(driver, cuGraphExecKernelNodeSetParams_v2)
                   ? driver->cuGraphExecKernelNodeSetParams_v2(exec, node,
                                                               &body->kernel)
                   : CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return driver->cuGraphExecMemcpyNodeSetParams(exec, node, &body->memcpy,
                                                      ctx->value);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return driver->cuGraphExecMemsetNodeSetParams(exec, node, &body->memset,
                                                      ctx->value);
    case CU_GRAPH_NODE_TYPE_HOST:
        return driver->cuGraphExecHostNodeSetParams(exec, node, &body->host);
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

int
fdc_server_call_fdcGraphSet(struct fdc_request *request,
                            const struct fdc_req_fdcGraphSet *req)
{
    struct fdc_serve *serve = request->serve;
    void *exec = NULL;
    CUgraphNode node;
    struct body body;
    CUresult result;
    int err;

    result = node_get(serve, req->node, &node);
    if (result == CUDA_SUCCESS && req->exec != 0)
        result = fdc_handle_get(serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS) {
        err = body_read(request, req->type, req->body, &body);
        if (err < 0)
            return err;
        result = (CUresult)err;
    }
    if (result == CUDA_SUCCESS)
        result = req->exec != 0
                     ? set_exec(request->driver, exec, req->type, node, &body)
                     : set(request->driver, req->type, node, &body);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

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
    struct fdc_serve *serve;
    struct name *names;
    size_t name_count;
    const uint64_t *fresh;
    uint32_t fresh_count, used, missing;
    bool again; /* a node may come again, as another edge's end */
};

/* The node's handle; a fresh one where it has none yet. */
static uint64_t
listed(struct listing *listing, CUgraphNode node)
{
    uint64_t handle = name_of(listing->names, listing->name_count, node);

    if (handle != 0)
        return handle;
    if (listing->used == listing->fresh_count) {
        listing->missing++;
        return 0;
    }
    handle = listing->fresh[listing->used];
    if (fdc_handle_put(listing->serve, FDC_KIND_NODE, handle, node, 0) != CUDA_SUCCESS)
        return 0;
    listing->used++;
    if (!listing->again)
        return handle;
    listing->names[listing->name_count++] = (struct name){node, handle};
    qsort(listing->names, listing->name_count, sizeof(*listing->names), compare_names);
    return handle;
}

int
fdc_server_call_fdcGraphList(struct fdc_request *request,
                             const struct fdc_req_fdcGraphList *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphList reply = {0};
    struct listing listing = {.serve = serve,
                              .again = req->question == FDC_GRAPH_EDGES};
    CUgraphNode *nodes = NULL, *to = NULL, node = NULL;
    CUgraphEdgeData *edges = NULL;
    struct fdc_graph_list *list = NULL;
    struct name *grown;
    size_t count = 0, size = 0;
    CUgraph graph = NULL;
    CUresult result;
    int err = 0;

    listing.fresh = fdc_request_span(request, req->fresh);
    listing.fresh_count = req->fresh_count;
    if (req->fresh.size != (uint64_t)req->fresh_count * 8 ||
        (req->fresh_count != 0 && listing.fresh == NULL))
        return -EPROTO;
    if (req->question >= FDC_GRAPH_BEFORE)
        result = node_get(serve, req->node, &node);
    else
        result = graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS)
        result = ask(driver, req->question, graph, node, NULL, NULL, NULL, &count);
    if (result != CUDA_SUCCESS)
        goto answer;

    result = CUDA_ERROR_OUT_OF_MEMORY;
    nodes = calloc(count + 1, sizeof(*nodes));
    to = calloc(count + 1, sizeof(*to));
    edges = calloc(count + 1, sizeof(*edges));
    size = sizeof(*list) + count * sizeof(list->row[0]);
    list = calloc(1, size);
    listing.names = names_collect(serve, &listing.name_count);
    if (nodes == NULL || to == NULL || edges == NULL || list == NULL ||
        listing.names == NULL)
        goto answer;
    grown = realloc(listing.names,
                    (listing.name_count + req->fresh_count + 1) * sizeof(*grown));
    if (grown == NULL)
        goto answer;
    listing.names = grown;
    result = CUDA_SUCCESS;
    if (count != 0)
        result = ask(driver, req->question, graph, node, nodes, to, edges, &count);
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        struct fdc_graph_row *row = &list->row[i];
        CUgraphNodeType type = 0;

        row->node = listed(&listing, nodes[i]);
        if (req->question == FDC_GRAPH_EDGES)
            row->to = listed(&listing, to[i]);
        memcpy(row->edge, &edges[i], sizeof(row->edge));
        result = driver->cuGraphNodeGetType(nodes[i], &type);
        row->type = (uint32_t)type;
    }
    if (result != CUDA_SUCCESS)
        goto answer;
    list->count = (uint32_t)count;
    list->unnamed = listing.missing;
    reply.total = size;
    err = fdc_blob_give(request, req->blob, list, size);
    list = NULL;
answer:
    free(nodes);
    free(to);
    free(edges);
    free(list);
    free(listing.names);
    if (err < 0)
        return err;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphEdges(struct fdc_request *request,
                              const struct fdc_req_fdcGraphEdges *req)
{
    const struct fdc_driver *driver = request->driver;
    CUgraphNode *from, *to = NULL;
    CUresult result, more = CUDA_SUCCESS;
    CUgraph graph;
    int err;

    from = nodes_read(request, req->from, req->count, &err, &result);
    if (err == 0)
        to = nodes_read(request, req->to, req->count, &err, &more);
    if (err < 0) {
        free(from);
        return err;
    }
    if (result == CUDA_SUCCESS)
        result = more;
    if (result == CUDA_SUCCESS)
        result = graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS)
        result = req->remove != 0
                     ? driver->cuGraphRemoveDependencies(graph, from, to, req->count)
                     : driver->cuGraphAddDependencies(graph, from, to, req->count);
    free(from);
    free(to);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphForget(struct fdc_request *request,
                               const struct fdc_req_fdcGraphForget *req)
{
    const uint64_t *nodes = fdc_request_span(request, req->nodes);
    CUresult result = CUDA_SUCCESS, one;
    void *value;

    if (req->nodes.size != (uint64_t)req->count * 8 ||
        (req->count != 0 && nodes == NULL))
        return -EPROTO;
    for (uint32_t i = 0; i < req->count; i++) {
        one = fdc_handle_drop(request->serve, FDC_KIND_NODE, nodes[i], &value);
        if (one == CUDA_SUCCESS && req->destroy != 0)
            one = request->driver->cuGraphDestroyNode(value);
        if (result == CUDA_SUCCESS)
            result = one;
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- whole graphs ---- */

int
fdc_server_call_fdcGraphClone(struct fdc_request *request,
                              const struct fdc_req_fdcGraphClone *req)
{
    CUgraph graph, clone = NULL;
    CUresult result;

    result = graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphClone(&clone, graph);
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put(request->serve, FDC_KIND_GRAPH, req->clone, clone, 0);
        if (result != CUDA_SUCCESS)
            request->driver->cuGraphDestroy(clone);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphUpdate(struct fdc_request *request,
                               const struct fdc_req_fdcGraphUpdate *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcGraphUpdate reply = {0};
    CUgraphExecUpdateResultInfo info = {0};
    struct name *names;
    CUgraph graph;
    void *exec;
    size_t count;
    CUresult result;

    result = fdc_handle_get(request->serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS)
        result = graph_get(request->serve, req->graph, &graph);
    if (result == CUDA_SUCCESS) {
        if (FDC_HAS(driver, cuGraphExecUpdate_v2))
            result = driver->cuGraphExecUpdate_v2(exec, graph, &info);
        else
            result =
                driver->cuGraphExecUpdate(exec, graph, &info.errorNode, &info.result);
    }
    reply.outcome = (uint32_t)info.result;
    if (info.errorNode != NULL) {
        names = names_collect(request->serve, &count);
        reply.error_node = names != NULL ? name_of(names, count, info.errorNode) : 0;
        free(names);
    }
    fdc_request_answer_always(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphInClone(struct fdc_request *request,
                                const struct fdc_req_fdcGraphInClone *req)
{
    struct fdc_rep_fdcGraphInClone reply = {0};
    CUgraphNode node, found = NULL;
    struct name *names;
    CUgraph clone;
    size_t count;
    CUresult result;

    result = node_get(request->serve, req->node, &node);
    if (result == CUDA_SUCCESS)
        result = graph_get(request->serve, req->clone, &clone);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphNodeFindInClone(&found, node, clone);
    if (result == CUDA_SUCCESS) {
        names = names_collect(request->serve, &count);
        reply.found = names != NULL ? name_of(names, count, found) : 0;
        free(names);
        if (reply.found == 0) {
            reply.found = req->fresh;
            result =
                fdc_handle_put(request->serve, FDC_KIND_NODE, req->fresh, found, 0);
        }
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphChild(struct fdc_request *request,
                              const struct fdc_req_fdcGraphChild *req)
{
    CUgraph child = NULL;
    CUgraphNode node;
    CUresult result;

    result = node_get(request->serve, req->node, &node);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGraphChildGraphNodeGetGraph(node, &child);
    if (result == CUDA_SUCCESS)
        /* aux: it is the node's, and not ended with the session's other graphs */
        result = fdc_handle_put_aux(request->serve, FDC_KIND_GRAPH, req->graph, child,
                                    child, 0);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
