/* Executable graphs: made, updated, their nodes switched on and off. */
#include <stdlib.h>
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
        result = fdc_handle_put(serve, FDC_KIND_GRAPH_EXEC, req->exec, exec,
                                request->ctx);
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
