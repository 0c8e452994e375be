/*
 * Nodes: added, read, changed. Every call of the API comes down to the generic form of the
 * parameters; a node is made at the worker at once, so that the answer is the driver's.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

/* ---- adding ---- */

/* The message for a node whose body is made. */
static CUresult
send_add(struct fdc_call *call, struct fdc_node *node, uint64_t graph,
         const CUgraphNode *deps, uint32_t count, const CUgraphEdgeData *edges,
         uint32_t edges_size, const struct fdc_body *body)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphAdd), deps_size = count * 8;
    struct fdc_req_fdcGraphAdd *req;
    struct fdc_reply reply;

    call->id = FDC_ID_fdcGraphAdd;
    req = fdc_call_begin(call,
                         at + deps_size + edges_size + FDC_ALIGN_UP(body->size, 8u));
    if (req == NULL)
        return call->result;
    req->graph = graph;
    req->node = node->object.handle;
    req->type = body->type;
    req->deps = (struct fdc_span){at, deps_size};
    req->deps_count = count;
    if (count != 0)
        memcpy((char *)req + at, deps, deps_size);
    at += deps_size;
    req->edges = (struct fdc_span){at, edges_size};
    req->edges_size = edges_size;
    if (edges_size != 0)
        memcpy((char *)req + at, edges, edges_size);
    at += edges_size;
    req->body = (struct fdc_span){at, body->size};
    req->body_size = body->size;
    fdc_body_write(body, (char *)req + at);
    return fdc_call_wait(call, &reply, sizeof(reply));
}

/* What a node of memory or of another graph does to the graph that it is added to. */
static CUresult
add_before(struct fdc_call *call, struct fdc_graph *graph, CUgraphNodeParams *params)
{
    if (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        return fdc_graph_alloc(call, graph, &params->alloc);
    if (params->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
        return fdc_graph_free(call, graph, params->free.dptr);
    return CUDA_SUCCESS;
}

static CUresult
add_after(struct fdc_graph *graph, const CUgraphNodeParams *params)
{
    struct fdc_graph *child;

    if (params->type != CU_GRAPH_NODE_TYPE_GRAPH)
        return CUDA_SUCCESS;
    child = fdc_graph_find(params->graph.graph);
    if (child == NULL)
        return CUDA_SUCCESS;
    if (params->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE)
        child->inside = graph->object.handle;
    return fdc_keeps_share(&graph->keeps, &child->keeps);
}

static CUresult
add(CUgraphNode *out, CUgraph handle, const CUgraphNode *deps,
    const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params)
{
    struct fdc_graph *graph;
    struct fdc_node *node;
    uint32_t edges_size;
    struct fdc_body body;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphAdd, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    graph = fdc_graph_find(handle);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_graph_at(&call, &graph->object);
    if (result == CUDA_SUCCESS)
        result = fdc_nodes_check(deps, count, graph->object.handle, edges, &edges_size);
    if (result == CUDA_SUCCESS)
        result = fdc_body_make(&call, graph, &graph->keeps, params, &body);
    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_new(call.session, graph->object.handle);
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = add_before(&call, graph, params);
    if (result != CUDA_SUCCESS)
        goto err_node;
    result = fdc_body_remember(&call, node, &body, params);
    if (result == CUDA_SUCCESS)
        result = send_add(&call, node, graph->object.handle, deps, (uint32_t)count,
                          edges, edges_size, &body);
    if (result != CUDA_SUCCESS) {
        fdc_graph_memory_undo(graph, (uint32_t)params->type);
        goto err_node;
    }
    *out = (CUgraphNode)(uintptr_t)node->object.handle;
    return add_after(graph, params);

err_node:
    fdc_node_drop(node);
    return result;
}

/* ---- reading ---- */

/* Out are the node's parameters, if it is of this type. */
static CUresult
get(CUgraphNode handle, int type, const void *out, const CUgraphNodeParams **params)
{
    struct fdc_node *node;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_find(handle);
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (out == NULL || (type >= 0 && node->typed && node->type != (uint32_t)type))
        return CUDA_ERROR_INVALID_VALUE;
    if (!node->known) {
        result = fdc_body_ask(node);
        if (result != CUDA_SUCCESS)
            return result;
    }
    if (type >= 0 && node->type != (uint32_t)type)
        return CUDA_ERROR_INVALID_VALUE;
    *params = &node->params;
    return CUDA_SUCCESS;
}

/* ---- changing ---- */

/* Changes the node, or an executable graph's copy of it. */
static CUresult
set(CUgraphExec exec, bool executable, CUgraphNode handle,
    const CUgraphNodeParams *params)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphSet);
    struct fdc_req_fdcGraphSet *req;
    struct fdc_exec *found = NULL;
    struct fdc_graph *graph, *child;
    struct fdc_reply reply;
    struct fdc_node *node;
    struct fdc_body body;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphSet, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    node = fdc_node_find(handle);
    if (executable)
        found = fdc_object_find(FDC_KIND_GRAPH_EXEC, exec);
    if (node == NULL || (executable && found == NULL))
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_graph_at(&call, &node->object);
    if (result == CUDA_SUCCESS && executable)
        result = fdc_graph_at(&call, &found->object);
    if (result != CUDA_SUCCESS)
        return result;
    if (node->typed && node->type != (uint32_t)params->type)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return CUDA_ERROR_NOT_SUPPORTED;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        if (!executable)
            return CUDA_ERROR_NOT_SUPPORTED;
        break;
    default:
        break;
    }
    graph = fdc_graph_find((CUgraph)(uintptr_t)node->graph);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_body_make(&call, NULL, executable ? &found->keeps : &graph->keeps,
                           params, &body);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, at + FDC_ALIGN_UP(body.size, 8u));
    if (req == NULL)
        return call.result;
    req->exec = executable ? found->object.handle : 0;
    req->node = node->object.handle;
    req->type = body.type;
    req->body = (struct fdc_span){at, body.size};
    req->body_size = body.size;
    fdc_body_write(&body, (char *)req + at);
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        return result;
    if (!executable)
        return fdc_body_remember(&call, node, &body, params);
    if (params->type == CU_GRAPH_NODE_TYPE_MEMCPY &&
        (found->keeps.shadows != 0 || found->rows != NULL))
        return fdc_replay_learn(&call, found);
    child = params->type == CU_GRAPH_NODE_TYPE_GRAPH
                ? fdc_graph_find(params->graph.graph)
                : NULL;
    return child != NULL ? fdc_keeps_share(&found->keeps, &child->keeps) : CUDA_SUCCESS;
}

/* ---- the generic calls ---- */

FDC_EXPORT CUresult
cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
               const CUgraphNode *dependencies, size_t numDependencies,
               CUgraphNodeParams *nodeParams)
{
    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies, nodeParams);
}

FDC_EXPORT CUresult
cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                  const CUgraphNode *dependencies,
                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                  CUgraphNodeParams *nodeParams)
{
    return add(phGraphNode, hGraph, dependencies, dependencyData, numDependencies,
               nodeParams);
}

FDC_EXPORT CUresult
cuGraphAddNode_v3(CUgraphNode *phGraphNode, CUgraph hGraph,
                  const CUgraphNode *dependencies,
                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                  CUgraphNodeParams *nodeParams)
{
    return add(phGraphNode, hGraph, dependencies, dependencyData, numDependencies,
               nodeParams);
}

FDC_EXPORT CUresult
cuGraphNodeGetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, -1, nodeParams, &params);

    if (result != CUDA_SUCCESS)
        return result;
    *nodeParams = *params;
    return params->type == CU_GRAPH_NODE_TYPE_GRAPH
               ? cuGraphChildGraphNodeGetGraph(hNode, &nodeParams->graph.graph)
               : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    return set(NULL, false, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphNodeSetParams_v2(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    return set(NULL, false, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                         CUgraphNodeParams *nodeParams)
{
    return set(hGraphExec, true, hNode, nodeParams);
}

/* ---- kernels ---- */

/* The first version of the structure: the newer one without its last two fields. */
static CUgraphNodeParams *
kernel_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_KERNEL;
    memcpy(&to->kernel, from, sizeof(*from));
    return to;
}

static CUgraphNodeParams *
kernel_v2(const CUDA_KERNEL_NODE_PARAMS *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_KERNEL;
    to->kernel = *from;
    return to;
}

FDC_EXPORT CUresult
cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               kernel_v1(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                        const CUgraphNode *dependencies, size_t numDependencies,
                        const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               kernel_v2(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams, &params);

    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &params->kernel, sizeof(*nodeParams));
    return result;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams, &params);

    if (result == CUDA_SUCCESS)
        *nodeParams = params->kernel;
    return result;
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams(CUgraphNode hNode,
                           const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, kernel_v1(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                              const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, kernel_v2(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, kernel_v1(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, kernel_v2(nodeParams, &params));
}

/* ---- attributes of kernel nodes ---- */

static CUresult
attribute(CUgraphNode handle, CUgraphNode from, uint32_t action,
          CUkernelNodeAttrID which, const CUkernelNodeAttrValue *value,
          CUkernelNodeAttrValue *got)
{
    static uint32_t said;
    struct fdc_req_fdcGraphAttribute *req;
    struct fdc_rep_fdcGraphAttribute rep;
    struct fdc_call call;
    CUresult result;

    _Static_assert(sizeof(*value) == sizeof(rep.got), "an attribute's value");
    result = fdc_call_open(&call, FDC_ID_fdcGraphAttribute, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_graph_join(&call, fdc_node_find(handle));
    if (result == CUDA_SUCCESS && action == FDC_ATTRIBUTE_COPY)
        result = fdc_graph_join(&call, fdc_node_find(from));
    if (result != CUDA_SUCCESS)
        return result;
    if ((action == FDC_ATTRIBUTE_GET && got == NULL) ||
        (action == FDC_ATTRIBUTE_SET && value == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    if (action == FDC_ATTRIBUTE_SET && !fdc_attribute_plain((uint32_t)which))
        return fdc_refuse("a kernel node's attribute that names a handle", &said);
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->node = (uint64_t)(uintptr_t)handle;
    req->from = (uint64_t)(uintptr_t)from;
    req->action = action;
    req->attribute = (uint32_t)which;
    memset(&req->value, 0, sizeof(req->value));
    if (action == FDC_ATTRIBUTE_SET)
        memcpy(&req->value, value, sizeof(req->value));
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    if (result == CUDA_SUCCESS && action == FDC_ATTRIBUTE_GET)
        memcpy(got, &rep.got, sizeof(*got));
    return result;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                              CUkernelNodeAttrValue *value_out)
{
    return attribute(hNode, NULL, FDC_ATTRIBUTE_GET, attr, NULL, value_out);
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                              const CUkernelNodeAttrValue *value)
{
    return attribute(hNode, NULL, FDC_ATTRIBUTE_SET, attr, value, NULL);
}

FDC_EXPORT CUresult
cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    return attribute(dst, src, FDC_ATTRIBUTE_COPY, 0, NULL, NULL);
}

/* ---- copies ---- */

static CUgraphNodeParams *
memcpy_form(const CUDA_MEMCPY3D *from, CUcontext ctx, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_MEMCPY;
    to->memcpy.copyParams = *from;
    to->memcpy.copyCtx = ctx;
    return to;
}

FDC_EXPORT CUresult
cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               memcpy_form(copyParams, ctx, &params));
}

FDC_EXPORT CUresult
cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams, &params);

    if (result == CUDA_SUCCESS)
        *nodeParams = params->memcpy.copyParams;
    return result;
}

FDC_EXPORT CUresult
cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, memcpy_form(nodeParams, NULL, &params));
}

FDC_EXPORT CUresult
cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, memcpy_form(copyParams, ctx, &params));
}

/* ---- sets ---- */

static CUgraphNodeParams *
memset_form(const CUDA_MEMSET_NODE_PARAMS *from, CUcontext ctx, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_MEMSET;
    memcpy(&to->memset, from, sizeof(*from));
    to->memset.ctx = ctx;
    return to;
}

FDC_EXPORT CUresult
cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               memset_form(memsetParams, ctx, &params));
}

FDC_EXPORT CUresult
cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams, &params);

    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &params->memset, sizeof(*nodeParams));
    return result;
}

FDC_EXPORT CUresult
cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, memset_form(nodeParams, NULL, &params));
}

FDC_EXPORT CUresult
cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMSET_NODE_PARAMS *memsetParams,
                               CUcontext ctx)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, memset_form(memsetParams, ctx, &params));
}

/* ---- host functions ---- */

static CUgraphNodeParams *
host_form(const CUDA_HOST_NODE_PARAMS *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_HOST;
    to->host.fn = from->fn;
    to->host.userData = from->userData;
    return to;
}

FDC_EXPORT CUresult
cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                   const CUgraphNode *dependencies, size_t numDependencies,
                   const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               host_form(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams, &params);

    if (result == CUDA_SUCCESS)
        *nodeParams =
            (CUDA_HOST_NODE_PARAMS){params->host.fn, params->host.userData};
    return result;
}

FDC_EXPORT CUresult
cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, host_form(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                             const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, host_form(nodeParams, &params));
}

/* ---- batches of memory operations ---- */

static CUgraphNodeParams *
memop_form(const CUDA_BATCH_MEM_OP_NODE_PARAMS *from, CUgraphNodeParams *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    to->type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    to->memOp = *from;
    return to;
}

FDC_EXPORT CUresult
cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                         const CUgraphNode *dependencies, size_t numDependencies,
                         const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
               memop_form(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode,
                               CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
    const CUgraphNodeParams *params;
    CUresult result =
        get(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, nodeParams_out, &params);

    if (result == CUDA_SUCCESS)
        *nodeParams_out = params->memOp;
    return result;
}

FDC_EXPORT CUresult
cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode,
                               const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(NULL, false, hNode, memop_form(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params;

    return set(hGraphExec, true, hNode, memop_form(nodeParams, &params));
}

/* ---- events, other graphs, nothing ---- */

static CUgraphNodeParams *
event_form(int type, CUevent event, CUgraphNodeParams *to)
{
    memset(to, 0, sizeof(*to));
    to->type = (CUgraphNodeType)type;
    if (type == CU_GRAPH_NODE_TYPE_EVENT_RECORD)
        to->eventRecord.event = event;
    else
        to->eventWait.event = event;
    return to;
}

#define EVENT_CALLS(Kind, TYPE, field)                                                 \
    FDC_EXPORT CUresult cuGraphAddEvent##Kind##Node(                                   \
        CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,     \
        size_t numDependencies, CUevent event)                                         \
    {                                                                                  \
        CUgraphNodeParams params;                                                      \
                                                                                       \
        return add(phGraphNode, hGraph, dependencies, NULL, numDependencies,           \
                   event_form(TYPE, event, &params));                                  \
    }                                                                                  \
                                                                                       \
    FDC_EXPORT CUresult cuGraphEvent##Kind##NodeGetEvent(CUgraphNode hNode,            \
                                                         CUevent *event_out)           \
    {                                                                                  \
        const CUgraphNodeParams *params;                                               \
        CUresult result = get(hNode, TYPE, event_out, &params);                        \
                                                                                       \
        if (result == CUDA_SUCCESS)                                                    \
            *event_out = params->field.event;                                          \
        return result;                                                                 \
    }                                                                                  \
                                                                                       \
    FDC_EXPORT CUresult cuGraphEvent##Kind##NodeSetEvent(CUgraphNode hNode,            \
                                                         CUevent event)                \
    {                                                                                  \
        CUgraphNodeParams params;                                                      \
                                                                                       \
        return set(NULL, false, hNode, event_form(TYPE, event, &params));              \
    }                                                                                  \
                                                                                       \
    FDC_EXPORT CUresult cuGraphExecEvent##Kind##NodeSetEvent(                          \
        CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)                      \
    {                                                                                  \
        CUgraphNodeParams params;                                                      \
                                                                                       \
        return set(hGraphExec, true, hNode, event_form(TYPE, event, &params));         \
    }

EVENT_CALLS(Record, CU_GRAPH_NODE_TYPE_EVENT_RECORD, eventRecord)
EVENT_CALLS(Wait, CU_GRAPH_NODE_TYPE_WAIT_EVENT, eventWait)

FDC_EXPORT CUresult
cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                         const CUgraphNode *dependencies, size_t numDependencies,
                         CUgraph childGraph)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

    params.graph.graph = childGraph;
    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies, &params);
}

FDC_EXPORT CUresult
cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   CUgraph childGraph)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

    params.graph.graph = childGraph;
    return set(hGraphExec, true, hNode, &params);
}

FDC_EXPORT CUresult
cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                    const CUgraphNode *dependencies, size_t numDependencies)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EMPTY};

    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies, &params);
}

/* ---- memory ---- */

FDC_EXPORT CUresult
cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                       const CUgraphNode *dependencies, size_t numDependencies,
                       CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    CUresult result;

    if (nodeParams != NULL)
        params.alloc = *nodeParams;
    result = add(phGraphNode, hGraph, dependencies, NULL, numDependencies,
                 nodeParams != NULL ? &params : NULL);
    if (result == CUDA_SUCCESS)
        nodeParams->dptr = params.alloc.dptr;
    return result;
}

FDC_EXPORT CUresult
cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *params_out)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC, params_out, &params);

    if (result == CUDA_SUCCESS)
        *params_out = params->alloc;
    return result;
}

FDC_EXPORT CUresult
cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                      const CUgraphNode *dependencies, size_t numDependencies,
                      CUdeviceptr dptr)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE};

    params.free.dptr = dptr;
    return add(phGraphNode, hGraph, dependencies, NULL, numDependencies, &params);
}

FDC_EXPORT CUresult
cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out)
{
    const CUgraphNodeParams *params;
    CUresult result = get(hNode, CU_GRAPH_NODE_TYPE_MEM_FREE, dptr_out, &params);

    if (result == CUDA_SUCCESS)
        *dptr_out = params->free.dptr;
    return result;
}
