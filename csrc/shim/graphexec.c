/* Executable graphs: made from graphs, launched, updated, given back. */
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"
#include "process.h"

#define ENTRIES 4 /* of a stream's queue, beside the launch of a graph with host copies */

/* What the worker's driver need not know of: uploading is a call of its own, memory nodes
 * are the shim's. */
#define OWN_FLAGS                                                                      \
    ((uint64_t)(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |                                   \
                CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH))

static struct fdc_exec *
exec_find(CUgraphExec exec)
{
    return fdc_object_find(FDC_KIND_GRAPH_EXEC, exec);
}

static void
exec_drop(struct fdc_exec *exec)
{
    fdc_object_drop(exec);
    fdc_replay_drop(exec);
    fdc_keeps_drop(&exec->keeps);
}

/* ---- made ---- */

static CUresult
make(CUgraphExec *out, CUgraph handle, uint64_t flags,
     CUDA_GRAPH_INSTANTIATE_PARAMS *told)
{
    static uint32_t said;
    struct fdc_rep_fdcGraphMake rep = {0};
    struct fdc_req_fdcGraphMake *req;
    struct fdc_graph *graph;
    struct fdc_exec *exec;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphMake, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || (flags & ~15ull) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
        return fdc_refuse("a graph that kernels launch", &said);
    graph = fdc_graph_find(handle);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_graph_at(&call, &graph->object);
    if (result != CUDA_SUCCESS)
        return result;
    exec = fdc_object_new(call.session, FDC_KIND_GRAPH_EXEC, sizeof(*exec),
                          call.context);
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    exec->flags = flags;
    fdc_keeps_setup(&exec->keeps);
    result = fdc_keeps_share(&exec->keeps, &graph->keeps);
    req = result == CUDA_SUCCESS ? fdc_call_begin(&call, sizeof(*req)) : NULL;
    if (req != NULL) {
        req->exec = exec->object.handle;
        req->graph = graph->object.handle;
        req->flags = flags & ~OWN_FLAGS;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
    } else if (result == CUDA_SUCCESS) {
        result = call.result;
    }
    if (told != NULL) {
        told->hErrNode_out = (CUgraphNode)(uintptr_t)rep.error_node;
        told->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                           : rep.outcome != CUDA_GRAPH_INSTANTIATE_SUCCESS
                               ? (CUgraphInstantiateResult)rep.outcome
                               : CUDA_GRAPH_INSTANTIATE_ERROR;
    }
    if (result != CUDA_SUCCESS) {
        exec_drop(exec);
        return result;
    }
    *out = (CUgraphExec)(uintptr_t)exec->object.handle;
    if (rep.rows == 0)
        return CUDA_SUCCESS;
    result = fdc_replay_learn(&call, exec);
    if (result != CUDA_SUCCESS)
        (void)cuGraphExecDestroy(*out);
    return result;
}

FDC_EXPORT CUresult
cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                            unsigned long long flags)
{
    return make(phGraphExec, hGraph, flags, NULL);
}

FDC_EXPORT CUresult
cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                      CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    CUDA_GRAPH_INSTANTIATE_PARAMS told = {0};
    CUresult result = make(phGraphExec, hGraph, 0, &told);

    if (phErrorNode != NULL)
        *phErrorNode = told.hErrNode_out;
    if (logBuffer != NULL && bufferSize != 0)
        logBuffer[0] = '\0';
    return result;
}

static CUresult
make_with(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
          unsigned how)
{
    CUresult result;

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    params->hErrNode_out = NULL;
    params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    result = make(exec, graph, params->flags, params);
    if (result == CUDA_SUCCESS && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
        result = how & FDC_STREAM_PER_THREAD_ZERO
                     ? cuGraphUpload_ptsz(*exec, params->hUploadStream)
                     : cuGraphUpload(*exec, params->hUploadStream);
    return result;
}

FDC_TWINS(cuGraphInstantiateWithParams, _ptsz,
          (CUgraphExec * phGraphExec, CUgraph hGraph,
           CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams),
          make_with(phGraphExec, hGraph, instantiateParams, how))

FDC_EXPORT CUresult
cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    struct fdc_exec *exec;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    exec = exec_find(hGraphExec);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

/* ---- launched ---- */

static CUresult
launch(CUgraphExec handle, CUstream value, unsigned how)
{
    struct fdc_req_cuGraphLaunch *req;
    struct fdc_stream *stream;
    struct fdc_exec *exec;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuGraphLaunch, FDC_NEEDS_CONTEXT);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    exec = exec_find(handle);
    if (FDC_UNLIKELY(exec == NULL))
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &exec->object);
    if (FDC_LIKELY(result == CUDA_SUCCESS))
        result = fdc_stream_resolve(&call, value, how, &stream);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    if (FDC_UNLIKELY(fdc_stream_capturing(stream)))
        return fdc_capture_refuse(stream); /* as a driver does (580) */
    if (FDC_UNLIKELY(fdc_graph_has_memory(&exec->keeps))) {
        result = fdc_graph_memory_launch(exec);
        if (result != CUDA_SUCCESS)
            return result;
    }
    if (FDC_UNLIKELY(fdc_load_relaxed(&exec->rows) != NULL)) {
        /* What the worker puts on the stream around the launch counts too. */
        for (int i = 0; i < ENTRIES && result == CUDA_SUCCESS; i++)
            result = fdc_stream_resolve(&call, value, how, &stream);
        if (result == CUDA_SUCCESS)
            result = fdc_replay(&call, exec, stream);
    } else {
        req = fdc_call_begin(&call, sizeof(*req));
        if (FDC_UNLIKELY(req == NULL))
            return call.result;
        req->hGraph = exec->object.handle;
        req->hStream = fdc_stream_wire(stream);
        result = fdc_call_send(&call);
    }
    if (FDC_LIKELY(result == CUDA_SUCCESS)) {
        __atomic_store_n(&exec->stream, stream->object.handle, __ATOMIC_RELAXED);
        __atomic_store_n(&exec->issued, call.position, __ATOMIC_RELAXED);
    }
    return result;
}

FDC_TWINS(cuGraphLaunch, _ptsz, (CUgraphExec hGraphExec, CUstream hStream),
          launch(hGraphExec, hStream, how))

FDC_EXPORT CUresult
cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    struct fdc_req_cuGraphExecDestroy *req;
    struct fdc_exec *exec;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuGraphExecDestroy, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    exec = exec_find(hGraphExec);
    result = fdc_graph_join(&call, exec);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hGraphExec = exec->object.handle;
    result = fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_object_drop(exec);
    fdc_replay_drop(exec);
    fdc_keeps_drop_later(&call, exec);
    return CUDA_SUCCESS;
}

/* ---- changed ---- */

FDC_EXPORT CUresult
cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                     CUgraphExecUpdateResultInfo *resultInfo)
{
    struct fdc_rep_fdcGraphUpdate rep = {0};
    struct fdc_req_fdcGraphUpdate *req;
    struct fdc_graph *graph;
    struct fdc_exec *exec;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphUpdate, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    exec = exec_find(hGraphExec);
    graph = fdc_graph_find(hGraph);
    result = fdc_graph_join(&call, exec);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_join(&call, graph);
    if (result != CUDA_SUCCESS)
        return result;
    if (resultInfo == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->exec = exec->object.handle;
    req->graph = graph->object.handle;
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    memset(resultInfo, 0, sizeof(*resultInfo));
    resultInfo->result = (CUgraphExecUpdateResult)rep.outcome;
    resultInfo->errorNode = (CUgraphNode)(uintptr_t)rep.error_node;
    resultInfo->errorFromNode = (CUgraphNode)(uintptr_t)rep.error_from;
    if (result == CUDA_SUCCESS)
        result = fdc_keeps_replace(&exec->keeps, &graph->keeps);
    if (result == CUDA_SUCCESS && (rep.rows != 0 || exec->rows != NULL))
        result = fdc_replay_learn(&call, exec);
    return result;
}

static CUresult
enable(CUgraphExec exec, CUgraphNode node, bool set, unsigned wanted,
       unsigned int *enabled)
{
    struct fdc_req_fdcGraphEnable *req;
    struct fdc_rep_fdcGraphEnable rep;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphEnable, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_graph_join(&call, exec_find(exec));
    if (result == CUDA_SUCCESS)
        result = fdc_graph_join(&call, fdc_node_find(node));
    if (result != CUDA_SUCCESS)
        return result;
    if (!set && enabled == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->exec = (uint64_t)(uintptr_t)exec;
    req->node = (uint64_t)(uintptr_t)node;
    req->set = set;
    req->wanted = wanted;
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    if (result == CUDA_SUCCESS && !set)
        *enabled = rep.enabled;
    return result;
}

FDC_EXPORT CUresult
cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
    return enable(hGraphExec, hNode, true, isEnabled, NULL);
}

FDC_EXPORT CUresult
cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                      unsigned int *isEnabled)
{
    return enable(hGraphExec, hNode, false, 0, isEnabled);
}
