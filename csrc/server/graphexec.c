/* Executable graphs: made, updated, their nodes switched on and off. */
#include <string.h>

#include "server/graph.h"
#include "server_hooks.h"

/* The flags that upload or launch from a device are the shim's matter, or refused. */
#define FLAGS (CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY)

static CUresult
instantiate(const struct fdc_driver *driver, CUgraph graph, uint64_t flags,
            CUgraphExec *exec, struct fdc_rep_fdcGraphMake *reply, CUgraphNode *bad)
{
    CUDA_GRAPH_INSTANTIATE_PARAMS params = {.flags = flags};
    CUresult result;

    if (!FDC_HAS(driver, cuGraphInstantiateWithParams)) {
        result = driver->cuGraphInstantiateWithFlags(exec, graph, flags);
        reply->outcome = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                                                : CUDA_GRAPH_INSTANTIATE_ERROR;
        return result;
    }
    result = driver->cuGraphInstantiateWithParams(exec, graph, &params);
    reply->outcome = (uint32_t)params.result_out;
    *bad = params.hErrNode_out;
    return result;
}

/* Its handle, and what copies it has from and to the client's memory. */
static CUresult
keep(struct fdc_request *request, uint64_t handle, CUgraphExec exec, CUgraph graph,
     uint32_t *count)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_replays *replays = NULL;
    struct fdc_rows *rows;
    CUresult result;

    result = fdc_rows_make(serve, graph, &rows);
    if (result == CUDA_SUCCESS && rows != NULL) {
        *count = rows->count;
        replays = fdc_replays_new(rows);
        if (replays == NULL) {
            fdc_rows_put(serve, rows);
            result = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (result == CUDA_SUCCESS)
        result = fdc_handle_put_aux(serve, FDC_KIND_GRAPH_EXEC, handle, exec, replays,
                                    request->ctx);
    if (result != CUDA_SUCCESS)
        fdc_replays_put(serve, replays);
    return result;
}

CUresult
fdc_exec_rows(struct fdc_serve *serve, uint64_t handle, struct fdc_rows *rows)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_GRAPH_EXEC, handle);
    struct fdc_replays *replays;

    if (slot == NULL) {
        fdc_rows_put(serve, rows);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    replays = fdc_slot_aux(slot);
    if (replays == NULL && rows == NULL)
        return CUDA_SUCCESS;
    if (replays == NULL) {
        replays = fdc_replays_new(NULL);
        if (replays == NULL) {
            fdc_rows_put(serve, rows);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        if (fdc_handle_swap(serve, FDC_KIND_GRAPH_EXEC, handle, slot->value, replays) !=
            CUDA_SUCCESS) {
            fdc_replays_put(serve, replays); /* it has ended meanwhile */
            fdc_rows_put(serve, rows);
            return CUDA_ERROR_INVALID_HANDLE;
        }
    }
    fdc_replays_set(serve, replays, rows);
    return CUDA_SUCCESS;
}

int
fdc_server_call_fdcGraphMake(struct fdc_request *request,
                             const struct fdc_req_fdcGraphMake *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphMake reply = {0};
    CUgraphNode bad = NULL;
    CUgraphExec exec = NULL;
    CUgraph graph;
    CUresult result;

    result = fdc_graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS && (req->flags & ~(uint64_t)FLAGS) != 0)
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS)
        result = instantiate(request->driver, graph, req->flags, &exec, &reply, &bad);
    if (bad != NULL)
        reply.error_node = fdc_node_name(serve, bad);
    if (result == CUDA_SUCCESS) {
        result = keep(request, req->exec, exec, graph, &reply.rows);
        if (result != CUDA_SUCCESS)
            request->driver->cuGraphExecDestroy(exec);
    }
    fdc_request_answer_always(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphUpdate(struct fdc_request *request,
                               const struct fdc_req_fdcGraphUpdate *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphUpdate reply = {0};
    CUgraphExecUpdateResultInfo info = {0};
    CUgraph graph;
    void *exec;
    CUresult result;

    result = fdc_handle_get(serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_get(serve, req->graph, &graph);
    if (result == CUDA_SUCCESS) {
        if (FDC_HAS(driver, cuGraphExecUpdate_v2))
            result = driver->cuGraphExecUpdate_v2(exec, graph, &info);
        else
            result =
                driver->cuGraphExecUpdate(exec, graph, &info.errorNode, &info.result);
    }
    if (result == CUDA_SUCCESS) {
        struct fdc_rows *rows;

        result = fdc_rows_make(serve, graph, &rows);
        if (rows != NULL)
            reply.rows = rows->count;
        if (result == CUDA_SUCCESS)
            result = fdc_exec_rows(serve, req->exec, rows);
    }
    reply.outcome = (uint32_t)info.result;
    if (info.errorNode != NULL)
        reply.error_node = fdc_node_name(serve, info.errorNode);
    if (info.errorFromNode != NULL)
        reply.error_from = fdc_node_name(serve, info.errorFromNode);
    fdc_request_answer_always(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGraphEnable(struct fdc_request *request,
                               const struct fdc_req_fdcGraphEnable *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcGraphEnable reply = {0};
    unsigned int enabled = 0;
    CUgraphNode node;
    void *exec;
    CUresult result;

    result = fdc_handle_get(request->serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS)
        result = fdc_node_get(request->serve, req->node, &node);
    if (result == CUDA_SUCCESS && (!FDC_HAS(driver, cuGraphNodeSetEnabled) ||
                                   !FDC_HAS(driver, cuGraphNodeGetEnabled)))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS && req->set != 0)
        result = driver->cuGraphNodeSetEnabled(exec, node, req->wanted);
    else if (result == CUDA_SUCCESS)
        result = driver->cuGraphNodeGetEnabled(exec, node, &enabled);
    reply.enabled = enabled;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
