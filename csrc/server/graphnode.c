/*
 * Nodes that a program makes itself: their parameters checked and translated, then given
 * to the driver, for a node or for an executable graph's copy of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/graph.h"
#include "server_hooks.h"

#define MEMOPS_MAX 256u /* of one node, as drivers have it */

/* ---- parameters ---- */

struct body {
    CUDA_KERNEL_NODE_PARAMS kernel;
    void *extra[5];
    size_t params_size;
    CUDA_MEMCPY3D memcpy;
    CUDA_MEMSET_NODE_PARAMS memset;
    CUDA_HOST_NODE_PARAMS host;
    CUDA_BATCH_MEM_OP_NODE_PARAMS memop;
    CUevent event;
    CUgraph graph;
    bool move;
};

static CUresult
kernel_read(struct fdc_serve *serve, const struct fdc_node_kernel *kernel,
            struct body *body)
{
    CUfunction function;
    uint32_t needed = 0;
    CUresult result;

    result = fdc_code_kernel(serve, kernel->func, &function, &needed);
    if (result == CUDA_SUCCESS && kernel->params_size < needed)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
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
    return CUDA_SUCCESS;
}

static CUresult
memset_read(struct fdc_serve *serve, const struct fdc_node_memset *set,
            struct body *body)
{
    uint64_t reach;

    if ((set->element != 1 && set->element != 2 && set->element != 4) ||
        set->width == 0 || set->height == 0 || set->width >= 1ull << 40 ||
        set->height >= 1ull << 40 ||
        __builtin_mul_overflow(set->height - 1, set->pitch, &reach) ||
        __builtin_add_overflow(reach, set->width * set->element, &reach))
        return CUDA_ERROR_INVALID_VALUE;
    body->memset = (CUDA_MEMSET_NODE_PARAMS){.dst = set->dst,
                                             .pitch = set->pitch,
                                             .value = set->value,
                                             .elementSize = set->element,
                                             .width = set->width,
                                             .height = set->height};
    return fdc_memory_check(serve, set->dst, reach);
}

/* Where an operation reads or writes has to be the session's. */
static CUresult
memop_check(struct fdc_serve *serve, const CUstreamBatchMemOpParams *op)
{
    switch ((int)op->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        return fdc_memory_check(serve, op->waitValue.address, 4);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        return fdc_memory_check(serve, op->waitValue.address, 8);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        return fdc_memory_check(serve, op->writeValue.address, 4);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        return fdc_memory_check(serve, op->writeValue.address, 8);
    case CU_STREAM_MEM_OP_BARRIER:
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult
memop_read(struct fdc_serve *serve, const struct fdc_node_memop *memop,
           struct body *body)
{
    CUresult result = CUDA_SUCCESS;

    for (uint32_t i = 0; i < memop->count && result == CUDA_SUCCESS; i++)
        result = memop_check(serve, &memop->op[i]);
    body->memop.ctx = fdc_context_here()->value;
    body->memop.count = memop->count;
    body->memop.paramArray = (CUstreamBatchMemOpParams *)(uintptr_t)memop->op;
    body->memop.flags = memop->flags;
    return result;
}

/* Checks and translates; -EPROTO, or a CUresult. */
static int
body_read(struct fdc_request *request, uint32_t type, struct fdc_span span,
          struct body *body)
{
    static const uint32_t least[] = {
        [CU_GRAPH_NODE_TYPE_KERNEL] = sizeof(struct fdc_node_kernel),
        [CU_GRAPH_NODE_TYPE_MEMCPY] = sizeof(struct fdc_node_memcpy),
        [CU_GRAPH_NODE_TYPE_MEMSET] = sizeof(struct fdc_node_memset),
        [CU_GRAPH_NODE_TYPE_HOST] = sizeof(struct fdc_node_host),
        [CU_GRAPH_NODE_TYPE_GRAPH] = sizeof(struct fdc_node_handle),
        [CU_GRAPH_NODE_TYPE_WAIT_EVENT] = sizeof(struct fdc_node_handle),
        [CU_GRAPH_NODE_TYPE_EVENT_RECORD] = sizeof(struct fdc_node_handle),
        [CU_GRAPH_NODE_TYPE_BATCH_MEM_OP] = sizeof(struct fdc_node_memop),
    };
    struct fdc_serve *serve = request->serve;
    const union {
        struct fdc_node_kernel kernel;
        struct fdc_node_memcpy memcpy;
        struct fdc_node_memset memset;
        struct fdc_node_host host;
        struct fdc_node_handle handle;
        struct fdc_node_memop memop;
    } *bytes = span.size != 0 ? fdc_request_span(request, span) : NULL;

    memset(body, 0, sizeof(*body));
    if (type < FDC_COUNT(least) && least[type] > 0 &&
        (bytes == NULL || span.size < least[type]))
        return -EPROTO;
    if (fdc_context_here() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        if (bytes->kernel.params_size > span.size - sizeof(bytes->kernel))
            return -EPROTO;
        return (int)kernel_read(serve, &bytes->kernel, body);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return (int)fdc_copy3d_fill(request, &bytes->memcpy.copy, NULL, NULL,
                                    &body->memcpy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return (int)memset_read(serve, &bytes->memset, body);
    case CU_GRAPH_NODE_TYPE_HOST:
        return (int)fdc_hostfn_place(serve, bytes->host.number, NULL, &body->host.fn,
                                     &body->host.userData);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return (int)fdc_event_pin(serve, bytes->handle.handle, &body->event);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        body->move = bytes->handle.move != 0;
        return (int)fdc_graph_get(serve, bytes->handle.handle, &body->graph);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        if (bytes->memop.count == 0 || bytes->memop.count > MEMOPS_MAX)
            return CUDA_ERROR_INVALID_VALUE;
        if (span.size - sizeof(bytes->memop) <
            bytes->memop.count * sizeof(bytes->memop.op[0]))
            return -EPROTO;
        return (int)memop_read(serve, &bytes->memop, body);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* The driver did not take what was made for it. */
static void
body_undo(struct fdc_serve *serve, const struct body *body)
{
    if (body->host.userData != NULL)
        fdc_hostfn_unplace(serve, body->host.userData);
}

/* ---- nodes ---- */

static CUresult
add_child(const struct fdc_driver *driver, CUgraph graph, const CUgraphNode *deps,
          size_t count, const struct body *body, CUgraphNode *node)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

    if (!body->move)
        return driver->cuGraphAddChildGraphNode(node, graph, deps, count, body->graph);
    params.graph.graph = body->graph;
    params.graph.ownership = CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE;
    return FDC_HAS(driver, cuGraphAddNode_v2)
               ? driver->cuGraphAddNode_v2(node, graph, deps, NULL, count, &params)
               : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult
add(const struct fdc_driver *driver, uint32_t type, CUgraph graph,
    const CUgraphNode *deps, size_t count, const struct body *body, CUgraphNode *node)
{
    CUcontext ctx = fdc_context_here()->value;

    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        if (FDC_HAS(driver, cuGraphAddKernelNode_v2))
            return driver->cuGraphAddKernelNode_v2(node, graph, deps, count,
                                                   &body->kernel);
        return CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return driver->cuGraphAddMemcpyNode(node, graph, deps, count, &body->memcpy,
                                            ctx);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return driver->cuGraphAddMemsetNode(node, graph, deps, count, &body->memset,
                                            ctx);
    case CU_GRAPH_NODE_TYPE_HOST:
        return driver->cuGraphAddHostNode(node, graph, deps, count, &body->host);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return driver->cuGraphAddEventRecordNode(node, graph, deps, count, body->event);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return driver->cuGraphAddEventWaitNode(node, graph, deps, count, body->event);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return add_child(driver, graph, deps, count, body, node);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return FDC_HAS(driver, cuGraphAddBatchMemOpNode)
                   ? driver->cuGraphAddBatchMemOpNode(node, graph, deps, count,
                                                      &body->memop)
                   : CUDA_ERROR_NOT_SUPPORTED;
    default:
        return driver->cuGraphAddEmptyNode(node, graph, deps, count);
    }
}

/* Behind these nodes, with edges that are not plain. */
static CUresult
depend(const struct fdc_driver *driver, CUgraph graph, CUgraphNode node,
       const CUgraphNode *deps, const CUgraphEdgeData *edges, size_t count)
{
    CUresult result = CUDA_SUCCESS;

    if (!FDC_HAS(driver, cuGraphAddDependencies_v2))
        return CUDA_ERROR_NOT_SUPPORTED;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = driver->cuGraphAddDependencies_v2(graph, &deps[i], &node, &edges[i], 1);
    return result;
}

int
fdc_server_call_fdcGraphAdd(struct fdc_request *request,
                            const struct fdc_req_fdcGraphAdd *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    const CUgraphEdgeData *edges = NULL;
    CUgraphNode *deps, node = NULL;
    CUresult result = CUDA_SUCCESS;
    struct body body = {0};
    CUgraph graph;
    size_t count;
    int err;

    deps = fdc_nodes_read(request, req->deps, req->deps_count, &err, &result);
    if (err == 0)
        err = fdc_edges_read(request, req->edges, req->deps_count, &edges);
    if (err < 0)
        goto out;
    count = edges == NULL ? req->deps_count : 0;
    if (result == CUDA_SUCCESS)
        result = fdc_graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS) {
        err = body_read(request, req->type, req->body, &body);
        if (err < 0)
            goto out;
        result = (CUresult)err;
    }
    if (result == CUDA_SUCCESS) {
        result = add(driver, req->type, graph, count != 0 ? deps : NULL, count, &body,
                     &node);
        if (result != CUDA_SUCCESS)
            body_undo(serve, &body);
        else
            fdc_hostfn_keep(serve, graph, body.host.userData);
    }
    if (result == CUDA_SUCCESS && body.move)
        result = fdc_graph_move(request, body.graph, graph);
    if (result == CUDA_SUCCESS && edges != NULL)
        result = depend(driver, graph, node, deps, edges, req->deps_count);
    if (result == CUDA_SUCCESS)
        result = fdc_node_put(request, req->node, node, graph);
    if (result != CUDA_SUCCESS && node != NULL) {
        fdc_node_forget_child(serve, node); /* that was moved, and ends with it */
        driver->cuGraphDestroyNode(node);
    }
    err = 0;
    fdc_request_answer(request, result, NULL, 0);
out:
    free(deps);
    return err < 0 ? err : 0;
}

static CUresult
set(struct fdc_serve *serve, uint32_t type, CUgraphNode node, const struct body *body)
{
    const struct fdc_driver *driver = serve->driver;

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
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return driver->cuGraphEventRecordNodeSetEvent(node, body->event);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return driver->cuGraphEventWaitNodeSetEvent(node, body->event);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return FDC_HAS(driver, cuGraphBatchMemOpNodeSetParams)
                   ? driver->cuGraphBatchMemOpNodeSetParams(node, &body->memop)
                   : CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult
set_exec(const struct fdc_driver *driver, CUgraphExec exec, uint32_t type,
         CUgraphNode node, const struct body *body)
{
    CUcontext ctx = fdc_context_here()->value;

    switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return FDC_HAS(driver, cuGraphExecKernelNodeSetParams_v2)
                   ? driver->cuGraphExecKernelNodeSetParams_v2(exec, node,
                                                               &body->kernel)
                   : CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return driver->cuGraphExecMemcpyNodeSetParams(exec, node, &body->memcpy, ctx);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return driver->cuGraphExecMemsetNodeSetParams(exec, node, &body->memset, ctx);
    case CU_GRAPH_NODE_TYPE_HOST:
        return driver->cuGraphExecHostNodeSetParams(exec, node, &body->host);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return driver->cuGraphExecEventRecordNodeSetEvent(exec, node, body->event);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return driver->cuGraphExecEventWaitNodeSetEvent(exec, node, body->event);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return driver->cuGraphExecChildGraphNodeSetParams(exec, node, body->graph);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return FDC_HAS(driver, cuGraphExecBatchMemOpNodeSetParams)
                   ? driver->cuGraphExecBatchMemOpNodeSetParams(exec, node,
                                                                &body->memop)
                   : CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* An executable graph's copy may be from or to a shadow now, or not any more. */
static CUresult
other_rows(struct fdc_serve *serve, uint64_t exec, CUgraphNode node,
           const CUDA_MEMCPY3D *copy)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_GRAPH_EXEC, exec);
    struct fdc_replays *replays = slot != NULL ? fdc_slot_aux(slot) : NULL;
    struct fdc_rows *old, *rows = NULL;
    CUresult result;

    if (slot == NULL || (replays == NULL && !fdc_shadows_any(serve)))
        return CUDA_SUCCESS;
    old = fdc_replays_rows(replays);
    result = fdc_rows_change(serve, old, node, copy, &rows);
    fdc_rows_put(serve, old);
    return result == CUDA_SUCCESS ? fdc_exec_rows(serve, exec, rows) : result;
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

    result = fdc_node_get(serve, req->node, &node);
    if (result == CUDA_SUCCESS && req->exec != 0)
        result = fdc_handle_get(serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS) {
        err = body_read(request, req->type, req->body, &body);
        if (err < 0)
            return err;
        result = (CUresult)err;
    }
    if (result == CUDA_SUCCESS) {
        result = req->exec != 0
                     ? set_exec(request->driver, exec, req->type, node, &body)
                     : set(serve, req->type, node, &body);
        if (result != CUDA_SUCCESS)
            body_undo(serve, &body);
        else if (req->exec == 0 && req->type == CU_GRAPH_NODE_TYPE_HOST)
            fdc_hostfn_keep(serve, fdc_node_graph(serve, req->node), body.host.userData);
        else if (req->exec != 0 && req->type == CU_GRAPH_NODE_TYPE_MEMCPY)
            result = other_rows(serve, req->exec, node, &body.memcpy);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
