/*
 * Graphs. A program's own nodes are made at once at the worker, so that its answers are
 * exact; nodes of captured graphs get handles when the program first asks for them.
 * What a node was made of is remembered here.
 */
#include <stdlib.h>
#include <string.h>

#include "fdc/graph.h"
#include "code.h"
#include "memory.h"
#include "cuda_calls.h"

#define BLOB_FIRST (64u << 10)
#define FORGET_MAX 4096u

struct fdc_node {
    struct fdc_object object;
    uint64_t graph;
    uint32_t type;
    bool known; /* the parameters below are its own */
    union {
        CUDA_KERNEL_NODE_PARAMS kernel;
        CUDA_MEMCPY3D memcpy;
        CUDA_MEMSET_NODE_PARAMS memset;
        CUDA_HOST_NODE_PARAMS host;
    } params;
    void *saved;    /* kernel: pointers, and the values they point to */
    uint64_t child; /* handle of the graph inside */
};

void *
fdc_graph_new(struct fdc_session *session, struct fdc_context *context)
{
    return fdc_object_new(session, FDC_KIND_GRAPH, sizeof(struct fdc_object), context);
}

static struct fdc_object *
graph_find(CUgraph graph)
{
    return fdc_object_find(FDC_KIND_GRAPH, graph);
}

static struct fdc_node *
node_find(CUgraphNode node)
{
    return fdc_object_find(FDC_KIND_NODE, node);
}

static struct fdc_node *
node_new(struct fdc_session *session, uint64_t graph, uint32_t type)
{
    struct fdc_node *node = fdc_object_new(session, FDC_KIND_NODE, sizeof(*node), NULL);

    if (node != NULL) {
        node->graph = graph;
        node->type = type;
    }
    return node;
}

static void
node_drop(struct fdc_node *node)
{
    void *saved = node->saved;

    if (node->child != 0) {
        void *child = fdc_object_find(FDC_KIND_GRAPH, (void *)(uintptr_t)node->child);

        if (child != NULL)
            fdc_object_drop(child);
    }
    node->saved = NULL;
    fdc_object_drop(node);
    free(saved);
}

/* ---- parameters of nodes as they travel ---- */

struct body {
    uint32_t type, size;
    const struct fdc_func *func; /* kernel: packs itself into the message */
    void **params, **extra;
    union {
        struct fdc_node_kernel kernel;
        struct fdc_node_memcpy memcpy;
        struct fdc_node_memset memset;
        struct fdc_node_handle handle;
        struct fdc_node_host host;
    } u;
};

static CUresult
body_kernel(struct fdc_call *call, const CUDA_KERNEL_NODE_PARAMS *params,
            struct body *body)
{
    struct fdc_shape shape;
    struct fdc_func *func;
    uint32_t size;
    CUresult result;

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    func = fdc_func_find(params->func != NULL ? (const void *)params->func
                                              : (const void *)params->kern);
    if (func == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    shape = (struct fdc_shape){
        .grid = {params->gridDimX, params->gridDimY, params->gridDimZ},
        .block = {params->blockDimX, params->blockDimY, params->blockDimZ},
        .shared = params->sharedMemBytes,
    };
    result = fdc_shape_check(call->context->device, func, &shape);
    if (result == CUDA_SUCCESS)
        result = fdc_params_size(func, params->kernelParams, params->extra, &size);
    if (result != CUDA_SUCCESS)
        return result;
    body->type = CU_GRAPH_NODE_TYPE_KERNEL;
    body->func = func;
    body->params = params->kernelParams;
    body->extra = params->extra;
    body->u.kernel = (struct fdc_node_kernel){
        .func = {func->code->wire, func->index, 0},
        .grid = {shape.grid[0], shape.grid[1], shape.grid[2]},
        .block = {shape.block[0], shape.block[1], shape.block[2]},
        .shared = shape.shared,
        .params_size = size,
    };
    body->size = (uint32_t)sizeof(body->u.kernel) + size;
    return CUDA_SUCCESS;
}

static CUresult
body_memcpy(struct fdc_call *call, const CUDA_MEMCPY3D *params, struct body *body)
{
    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    body->type = CU_GRAPH_NODE_TYPE_MEMCPY;
    body->size = sizeof(body->u.memcpy);
    return fdc_box_device(call->session, params, &body->u.memcpy.copy);
}

static CUresult
body_memset(struct fdc_call *call, const CUDA_MEMSET_NODE_PARAMS *params,
            struct body *body)
{
    uint64_t reach;

    if (params == NULL || params->width == 0 || params->height == 0 ||
        (params->elementSize != 1 && params->elementSize != 2 &&
         params->elementSize != 4) ||
        __builtin_mul_overflow(params->height - 1, params->pitch, &reach) ||
        __builtin_add_overflow(reach, params->width * params->elementSize, &reach))
        return CUDA_ERROR_INVALID_VALUE;
    body->type = CU_GRAPH_NODE_TYPE_MEMSET;
    body->size = sizeof(body->u.memset);
    body->u.memset = (struct fdc_node_memset){
        params->dst,    params->pitch, params->width,
        params->height, params->value, params->elementSize,
    };
    return fdc_place_device(call->session, params->dst, reach, NULL);
}

static CUresult
body_host(struct fdc_call *call, const CUDA_HOST_NODE_PARAMS *params, struct body *body)
{
    if (params == NULL || params->fn == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    body->type = CU_GRAPH_NODE_TYPE_HOST;
    body->size = sizeof(body->u.host);
    return fdc_hostfn_keep(call->session, params->fn, params->userData,
                           &body->u.host.number);
}

static CUresult
body_handle(uint32_t type, enum fdc_kind kind, const void *value, struct body *body)
{
    if (fdc_object_find(kind, value) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    body->type = type;
    body->size = sizeof(body->u.handle);
    body->u.handle.handle = (uint64_t)(uintptr_t)value;
    return CUDA_SUCCESS;
}

static void
body_write(const struct body *body, void *to)
{
    char *at = to;

    if (body->type != CU_GRAPH_NODE_TYPE_KERNEL) {
        memcpy(at, &body->u, body->size);
        return;
    }
    memcpy(at, &body->u.kernel, sizeof(body->u.kernel));
    memset(at + sizeof(body->u.kernel), 0,
           FDC_ALIGN_UP(body->u.kernel.params_size, 8u));
    fdc_params_pack(body->func, body->params, body->extra, at + sizeof(body->u.kernel),
                    body->u.kernel.params_size);
}

/* Remembers a kernel node's parameters the way GetParams gives them. */
static void
remember_kernel(struct fdc_node *node, const struct body *body,
                const CUDA_KERNEL_NODE_PARAMS *params)
{
    uint32_t count = body->func->kernel->param_count, size = body->u.kernel.params_size;
    void **pointers = calloc(1, (count + 1) * sizeof(*pointers) + size + 8);
    void *old = node->saved;
    char *values;

    if (pointers == NULL)
        return;
    values = (char *)(pointers + count + 1);
    fdc_params_pack(body->func, body->params, body->extra, values, size);
    for (uint32_t i = 0; i < count; i++)
        pointers[i] = values + body->func->params[i].offset;
    node->params.kernel = *params;
    node->params.kernel.kernelParams = pointers;
    node->params.kernel.extra = NULL;
    node->saved = pointers;
    node->known = true;
    free(old);
}

/* ---- adding and changing ---- */

static CUresult
open(struct fdc_call *call, uint16_t id)
{
    return fdc_call_open(call, id, FDC_NEEDS_CONTEXT);
}

/* A node and its graph are where the current context is: one worker runs all of it. */
static CUresult
at_graph(struct fdc_call *call, const struct fdc_object *object)
{
    static uint32_t said;

    if (object == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (object->session != call->session)
        return fdc_refuse("a graph over several servers", &said);
    return fdc_call_join(call, object);
}

/* A call that needs no context goes where the graph or node is. */
static CUresult
join(struct fdc_call *call, const struct fdc_object *object)
{
    return object != NULL ? fdc_call_join(call, object) : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult
add(struct fdc_call *call, CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
    size_t count, const struct body *body, struct fdc_node **made)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphAdd), deps_size = (uint32_t)count * 8;
    struct fdc_req_fdcGraphAdd *req;
    struct fdc_reply reply;
    struct fdc_node *node;
    CUresult result;

    if (out == NULL || (count != 0 && deps == NULL) || count > 1u << 16)
        return CUDA_ERROR_INVALID_VALUE;
    result = at_graph(call, graph_find(graph));
    if (result != CUDA_SUCCESS)
        return result;
    for (size_t i = 0; i < count; i++) {
        struct fdc_node *dep = node_find(deps[i]);

        if (dep == NULL || dep->graph != (uint64_t)(uintptr_t)graph)
            return CUDA_ERROR_INVALID_VALUE;
    }
    node = node_new(call->session, (uint64_t)(uintptr_t)graph, body->type);
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    call->id = FDC_ID_fdcGraphAdd;
    req = fdc_call_begin(call, at + deps_size + FDC_ALIGN_UP(body->size, 8u));
    if (req == NULL) {
        result = call->result;
        goto err_node;
    }
    req->graph = (uint64_t)(uintptr_t)graph;
    req->node = node->object.handle;
    req->type = body->type;
    req->deps = (struct fdc_span){at, deps_size};
    req->deps_count = (uint32_t)count;
    if (count != 0)
        memcpy((char *)req + at, deps, deps_size);
    at += deps_size;
    req->body = (struct fdc_span){at, body->size};
    req->body_size = body->size;
    if (body->size != 0)
        body_write(body, (char *)req + at);
    result = fdc_call_wait(call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        goto err_node;
    *out = (CUgraphNode)(uintptr_t)node->object.handle;
    *made = node;
    return CUDA_SUCCESS;

err_node:
    node_drop(node);
    return result;
}

/* exec 0: the node itself. */
static CUresult
set(struct fdc_call *call, CUgraphExec exec, CUgraphNode handle,
    const struct body *body, struct fdc_node **found)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphSet);
    struct fdc_node *node = node_find(handle);
    struct fdc_req_fdcGraphSet *req;
    struct fdc_reply reply;
    CUresult result;

    if (node == NULL ||
        (exec != NULL && fdc_object_find(FDC_KIND_GRAPH_EXEC, exec) == NULL))
        return CUDA_ERROR_INVALID_HANDLE;
    result = at_graph(call, &node->object);
    if (result != CUDA_SUCCESS)
        return result;
    if (node->type != body->type)
        return CUDA_ERROR_INVALID_VALUE;
    call->id = FDC_ID_fdcGraphSet;
    req = fdc_call_begin(call, at + FDC_ALIGN_UP(body->size, 8u));
    if (req == NULL)
        return call->result;
    req->exec = (uint64_t)(uintptr_t)exec;
    req->node = node->object.handle;
    req->type = body->type;
    req->body = (struct fdc_span){at, body->size};
    req->body_size = body->size;
    body_write(body, (char *)req + at);
    *found = node;
    return fdc_call_wait(call, &reply, sizeof(reply));
}

/* ---- kernel nodes ---- */

/* The first version of the structure: the newer one without its last two fields. */
static const CUDA_KERNEL_NODE_PARAMS *
widen(const CUDA_KERNEL_NODE_PARAMS_v1 *from, CUDA_KERNEL_NODE_PARAMS *to)
{
    if (from == NULL)
        return NULL;
    memset(to, 0, sizeof(*to));
    memcpy(to, from, sizeof(*from));
    return to;
}

FDC_EXPORT CUresult
cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                        const CUgraphNode *dependencies, size_t numDependencies,
                        const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct body body = {0};
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = open(&call, FDC_ID_fdcGraphAdd);
    if (result == CUDA_SUCCESS)
        result = body_kernel(&call, nodeParams, &body);
    if (result == CUDA_SUCCESS)
        result = add(&call, phGraphNode, hGraph, dependencies, numDependencies, &body,
                     &node);
    if (result == CUDA_SUCCESS)
        remember_kernel(node, &body, nodeParams);
    return result;
}

FDC_EXPORT CUresult
cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS params;

    return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies,
                                   widen(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    static uint32_t said;
    struct fdc_node *node;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    node = node_find(hNode);
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (nodeParams == NULL || node->type != CU_GRAPH_NODE_TYPE_KERNEL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!node->known)
        return fdc_refuse("the parameters of a captured kernel node", &said);
    *nodeParams = node->params.kernel;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS params;
    CUresult result;

    result = cuGraphKernelNodeGetParams_v2(hNode, nodeParams != NULL ? &params : NULL);
    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &params, sizeof(*nodeParams));
    return result;
}

static CUresult
kernel_set(CUgraphExec exec, bool executable, CUgraphNode hNode,
           const CUDA_KERNEL_NODE_PARAMS *params)
{
    struct body body = {0};
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = open(&call, FDC_ID_fdcGraphSet);
    if (result != CUDA_SUCCESS)
        return result;
    if (executable && exec == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = body_kernel(&call, params, &body);
    if (result == CUDA_SUCCESS)
        result = set(&call, exec, hNode, &body, &node);
    if (result == CUDA_SUCCESS && !executable)
        remember_kernel(node, &body, params);
    return result;
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                              const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return kernel_set(NULL, false, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams(CUgraphNode hNode,
                           const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS params;

    return kernel_set(NULL, false, hNode, widen(nodeParams, &params));
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return kernel_set(hGraphExec, true, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS params;

    return kernel_set(hGraphExec, true, hNode, widen(nodeParams, &params));
}

/* ---- copies, sets, host functions: all alike ---- */

#define NODE_CALLS(Kind, kind, KIND, TYPE)                                             \
    static CUresult kind##_set(CUgraphExec exec, bool executable, CUgraphNode hNode,   \
                               const TYPE *params)                                     \
    {                                                                                  \
        struct body body = {0};                                                        \
        struct fdc_node *node;                                                         \
        struct fdc_call call;                                                          \
        CUresult result = open(&call, FDC_ID_fdcGraphSet);                             \
                                                                                       \
        if (result != CUDA_SUCCESS)                                                    \
            return result;                                                             \
        if (executable && exec == NULL)                                                \
            return CUDA_ERROR_INVALID_HANDLE;                                          \
        result = body_##kind(&call, params, &body);                                    \
        if (result == CUDA_SUCCESS)                                                    \
            result = set(&call, exec, hNode, &body, &node);                            \
        if (result == CUDA_SUCCESS && !executable) {                                   \
            node->params.kind = *params;                                               \
            node->known = true;                                                        \
        }                                                                              \
        return result;                                                                 \
    }                                                                                  \
                                                                                       \
    static CUresult kind##_add(CUgraphNode *out, CUgraph graph,                        \
                               const CUgraphNode *deps, size_t count,                  \
                               const TYPE *params)                                     \
    {                                                                                  \
        struct body body = {0};                                                        \
        struct fdc_node *node;                                                         \
        struct fdc_call call;                                                          \
        CUresult result = open(&call, FDC_ID_fdcGraphAdd);                             \
                                                                                       \
        if (result == CUDA_SUCCESS)                                                    \
            result = body_##kind(&call, params, &body);                                \
        if (result == CUDA_SUCCESS)                                                    \
            result = add(&call, out, graph, deps, count, &body, &node);                \
        if (result == CUDA_SUCCESS) {                                                  \
            node->params.kind = *params;                                               \
            node->known = true;                                                        \
        }                                                                              \
        return result;                                                                 \
    }                                                                                  \
                                                                                       \
    FDC_EXPORT CUresult cuGraph##Kind##NodeGetParams(CUgraphNode hNode,                \
                                                     TYPE *nodeParams)                 \
    {                                                                                  \
        static uint32_t said;                                                          \
        struct fdc_node *node;                                                         \
        CUresult result = fdc_session_check();                                         \
                                                                                       \
        if (result != CUDA_SUCCESS)                                                    \
            return result;                                                             \
        node = node_find(hNode);                                                       \
        if (node == NULL)                                                              \
            return CUDA_ERROR_INVALID_HANDLE;                                          \
        if (nodeParams == NULL || node->type != CU_GRAPH_NODE_TYPE_##KIND)             \
            return CUDA_ERROR_INVALID_VALUE;                                           \
        if (!node->known)                                                              \
            return fdc_refuse("the parameters of a captured node", &said);             \
        *nodeParams = node->params.kind;                                               \
        return CUDA_SUCCESS;                                                           \
    }                                                                                  \
                                                                                       \
    FDC_EXPORT CUresult cuGraph##Kind##NodeSetParams(CUgraphNode hNode,                \
                                                     const TYPE *nodeParams)           \
    {                                                                                  \
        return kind##_set(NULL, false, hNode, nodeParams);                             \
    }

NODE_CALLS(Memcpy, memcpy, MEMCPY, CUDA_MEMCPY3D)
NODE_CALLS(Memset, memset, MEMSET, CUDA_MEMSET_NODE_PARAMS)
NODE_CALLS(Host, host, HOST, CUDA_HOST_NODE_PARAMS)

FDC_EXPORT CUresult
cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    if (ctx != NULL && fdc_context_find(ctx) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    return memcpy_add(phGraphNode, hGraph, dependencies, numDependencies, copyParams);
}

FDC_EXPORT CUresult
cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    if (ctx != NULL && fdc_context_find(ctx) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    return memcpy_set(hGraphExec, true, hNode, copyParams);
}

FDC_EXPORT CUresult
cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    if (ctx != NULL && fdc_context_find(ctx) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    return memset_add(phGraphNode, hGraph, dependencies, numDependencies, memsetParams);
}

FDC_EXPORT CUresult
cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMSET_NODE_PARAMS *memsetParams,
                               CUcontext ctx)
{
    if (ctx != NULL && fdc_context_find(ctx) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    return memset_set(hGraphExec, true, hNode, memsetParams);
}

FDC_EXPORT CUresult
cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                   const CUgraphNode *dependencies, size_t numDependencies,
                   const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    return host_add(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                             const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    return host_set(hGraphExec, true, hNode, nodeParams);
}

/* ---- nodes of a handle, or of nothing ---- */

static CUresult
add_handle(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps, size_t count,
           uint32_t type, enum fdc_kind kind, const void *value)
{
    struct body body = {.type = type};
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result = open(&call, FDC_ID_fdcGraphAdd);

    if (result == CUDA_SUCCESS && type != CU_GRAPH_NODE_TYPE_EMPTY)
        result = body_handle(type, kind, value, &body);
    if (result == CUDA_SUCCESS)
        result = add(&call, out, graph, deps, count, &body, &node);
    return result;
}

FDC_EXPORT CUresult
cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                    const CUgraphNode *dependencies, size_t numDependencies)
{
    return add_handle(phGraphNode, hGraph, dependencies, numDependencies,
                      CU_GRAPH_NODE_TYPE_EMPTY, 0, NULL);
}

FDC_EXPORT CUresult
cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                         const CUgraphNode *dependencies, size_t numDependencies,
                         CUgraph childGraph)
{
    return add_handle(phGraphNode, hGraph, dependencies, numDependencies,
                      CU_GRAPH_NODE_TYPE_GRAPH, FDC_KIND_GRAPH, childGraph);
}

FDC_EXPORT CUresult
cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                          const CUgraphNode *dependencies, size_t numDependencies,
                          CUevent event)
{
    return add_handle(phGraphNode, hGraph, dependencies, numDependencies,
                      CU_GRAPH_NODE_TYPE_EVENT_RECORD, FDC_KIND_EVENT, event);
}

FDC_EXPORT CUresult
cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                        const CUgraphNode *dependencies, size_t numDependencies,
                        CUevent event)
{
    return add_handle(phGraphNode, hGraph, dependencies, numDependencies,
                      CU_GRAPH_NODE_TYPE_WAIT_EVENT, FDC_KIND_EVENT, event);
}

static CUresult
add_any(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
        const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params)
{
    static const CUgraphEdgeData plain;
    static uint32_t said;
    CUDA_MEMSET_NODE_PARAMS set_params;
    CUDA_HOST_NODE_PARAMS host_params;

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; edges != NULL && i < count; i++)
        if (memcmp(&edges[i], &plain, sizeof(plain)) != 0)
            return fdc_refuse("a graph's edge with data", &said);
    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return cuGraphAddKernelNode_v2(out, graph, deps, count, &params->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return cuGraphAddMemcpyNode(out, graph, deps, count, &params->memcpy.copyParams,
                                    params->memcpy.copyCtx);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        memcpy(&set_params, &params->memset, sizeof(set_params));
        return cuGraphAddMemsetNode(out, graph, deps, count, &set_params,
                                    params->memset.ctx);
    case CU_GRAPH_NODE_TYPE_HOST:
        host_params = (CUDA_HOST_NODE_PARAMS){params->host.fn, params->host.userData};
        return cuGraphAddHostNode(out, graph, deps, count, &host_params);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return cuGraphAddChildGraphNode(out, graph, deps, count, params->graph.graph);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return cuGraphAddEmptyNode(out, graph, deps, count);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return cuGraphAddEventWaitNode(out, graph, deps, count,
                                       params->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return cuGraphAddEventRecordNode(out, graph, deps, count,
                                         params->eventRecord.event);
    default:
        return fdc_refuse("a graph's node of this type", &said);
    }
}

FDC_EXPORT CUresult
cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
               const CUgraphNode *dependencies, size_t numDependencies,
               CUgraphNodeParams *nodeParams)
{
    return add_any(phGraphNode, hGraph, dependencies, NULL, numDependencies,
                   nodeParams);
}

FDC_EXPORT CUresult
cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                  const CUgraphNode *dependencies,
                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                  CUgraphNodeParams *nodeParams)
{
    return add_any(phGraphNode, hGraph, dependencies, dependencyData, numDependencies,
                   nodeParams);
}

/* ---- lists ---- */

struct listing {
    uint64_t graph, node;
    uint32_t question;
};

static CUresult
list_ask(struct fdc_call *call, const struct listing *asked, const uint64_t *fresh,
         uint32_t fresh_count, struct fdc_graph_list **list)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphList);
    struct fdc_rep_fdcGraphList rep;
    struct fdc_req_fdcGraphList *req;
    struct fdc_chunk blob;
    void *bytes = NULL;
    CUresult result;

    result = fdc_stage_alloc(call->session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcGraphList;
    req = fdc_call_begin(call, at + fresh_count * 8);
    if (req == NULL) {
        result = call->result;
        goto out;
    }
    req->graph = asked->graph;
    req->node = asked->node;
    req->question = asked->question;
    req->fresh = (struct fdc_span){at, fresh_count * 8};
    req->fresh_count = fresh_count;
    req->blob = blob;
    if (fresh_count != 0)
        memcpy((char *)req + at, fresh, fresh_count * 8);
    result = fdc_call_wait(call, &rep, sizeof(rep));
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(call, &blob, rep.total, &bytes);
    if (result == CUDA_SUCCESS) {
        *list = bytes;
        if (rep.total < sizeof(**list) ||
            ((*list)->count > (rep.total - sizeof(**list)) / sizeof((*list)->row[0]))) {
            free(bytes);
            result = CUDA_ERROR_UNKNOWN;
        }
    }
out:
    fdc_stage_free(call->session, FDC_REGION_DOWN, &blob);
    return result;
}

/* Asks again with as many new handles as nodes have none. */
static CUresult
list_name(struct fdc_call *call, const struct listing *asked,
          struct fdc_graph_list **list)
{
    uint32_t count = (*list)->unnamed;
    uint64_t *fresh = calloc(count, sizeof(*fresh));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    struct fdc_graph_list *named = NULL;
    struct fdc_node *node;
    uint32_t made = 0;

    if (fresh == NULL || count > 1u << 16)
        goto out;
    for (; made < count; made++) {
        node = node_new(call->session, asked->graph, 0);
        if (node == NULL)
            goto out;
        fresh[made] = node->object.handle;
    }
    result = list_ask(call, asked, fresh, count, &named);
    if (result != CUDA_SUCCESS)
        goto out;
    free(*list);
    *list = named;
    for (uint32_t i = 0; i < named->count; i++) {
        for (int end = 0; end < 2; end++) {
            uint64_t handle = end == 0 ? named->row[i].node : named->row[i].to;

            node = handle != 0 ? node_find((CUgraphNode)(uintptr_t)handle) : NULL;
            if (node == NULL)
                continue;
            if (end == 0)
                node->type = named->row[i].type;
            /* It is in use: not one to throw away below. */
            for (uint32_t j = 0; j < count && named->count < 4096; j++)
                if (fresh[j] == handle)
                    fresh[j] = 0;
        }
    }
    if (named->count >= 4096)
        memset(fresh, 0, count * sizeof(*fresh));
out:
    for (uint32_t i = 0; i < made; i++) {
        node = fresh[i] != 0 ? node_find((CUgraphNode)(uintptr_t)fresh[i]) : NULL;
        if (node != NULL)
            node_drop(node);
    }
    free(fresh);
    return result;
}

static CUresult
list_nodes(const struct listing *asked, CUgraphNode *nodes, CUgraphNode *to,
           CUgraphEdgeData *edges, size_t *count)
{
    struct fdc_graph_list *list;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphList, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = join(&call, graph_find((CUgraph)(uintptr_t)asked->graph));
    if (result != CUDA_SUCCESS)
        return result;
    result = list_ask(&call, asked, NULL, 0, &list);
    if (result != CUDA_SUCCESS)
        return result;
    if (nodes != NULL && list->unnamed != 0)
        result = list_name(&call, asked, &list);
    if (result == CUDA_SUCCESS && nodes != NULL) {
        for (size_t i = 0; i < *count; i++) {
            const struct fdc_graph_row *row = i < list->count ? &list->row[i] : NULL;

            nodes[i] = (CUgraphNode)(uintptr_t)(row != NULL ? row->node : 0);
            if (to != NULL)
                to[i] = (CUgraphNode)(uintptr_t)(row != NULL ? row->to : 0);
            if (edges != NULL && row != NULL)
                memcpy(&edges[i], row->edge, sizeof(edges[i]));
        }
    }
    if (result == CUDA_SUCCESS && (nodes == NULL || *count > list->count))
        *count = list->count;
    free(list);
    return result;
}

static CUresult
list_graph(CUgraph graph, uint32_t question, CUgraphNode *nodes, CUgraphNode *to,
           CUgraphEdgeData *edges, size_t *count)
{
    struct listing asked = {(uint64_t)(uintptr_t)graph, 0, question};

    if (graph_find(graph) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return list_nodes(&asked, nodes, to, edges, count);
}

static CUresult
list_node(CUgraphNode handle, uint32_t question, CUgraphNode *nodes,
          CUgraphEdgeData *edges, size_t *count)
{
    struct fdc_node *node = node_find(handle);
    struct listing asked;

    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    asked = (struct listing){node->graph, node->object.handle, question};
    return list_nodes(&asked, nodes, NULL, edges, count);
}

FDC_EXPORT CUresult
cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    return list_graph(hGraph, FDC_GRAPH_NODES, nodes, NULL, NULL, numNodes);
}

FDC_EXPORT CUresult
cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    return list_graph(hGraph, FDC_GRAPH_ROOTS, rootNodes, NULL, NULL, numRootNodes);
}

FDC_EXPORT CUresult
cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                   CUgraphEdgeData *edgeData, size_t *numEdges)
{
    if ((from == NULL) != (to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    return list_graph(hGraph, FDC_GRAPH_EDGES, from, to, edgeData, numEdges);
}

FDC_EXPORT CUresult
cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    return cuGraphGetEdges_v2(hGraph, from, to, NULL, numEdges);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies,
                              CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    return list_node(hNode, FDC_GRAPH_BEFORE, dependencies, edgeData, numDependencies);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies,
                           size_t *numDependencies)
{
    return list_node(hNode, FDC_GRAPH_BEFORE, dependencies, NULL, numDependencies);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
    return list_node(hNode, FDC_GRAPH_BEHIND, dependentNodes, edgeData,
                     numDependentNodes);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes,
                             size_t *numDependentNodes)
{
    return list_node(hNode, FDC_GRAPH_BEHIND, dependentNodes, NULL, numDependentNodes);
}

FDC_EXPORT CUresult
cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    struct fdc_node *node;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    node = node_find(hNode);
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (type == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *type = (CUgraphNodeType)node->type;
    return CUDA_SUCCESS;
}

/* ---- edges ---- */

static CUresult
edges_change(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
             size_t count, bool remove)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphEdges), size = (uint32_t)count * 8;
    struct fdc_req_fdcGraphEdges *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphEdges, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = join(&call, graph_find(graph));
    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0)
        return CUDA_SUCCESS;
    if (from == NULL || to == NULL || count > 1u << 15)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, at + 2 * size);
    if (req == NULL)
        return call.result;
    req->graph = (uint64_t)(uintptr_t)graph;
    req->remove = remove;
    req->from = (struct fdc_span){at, size};
    req->to = (struct fdc_span){at + size, size};
    req->count = (uint32_t)count;
    memcpy((char *)req + at, from, size);
    memcpy((char *)req + at + size, to, size);
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

static CUresult
edges_plain(const CUgraphEdgeData *edges, size_t count)
{
    static const CUgraphEdgeData plain;
    static uint32_t said;

    for (size_t i = 0; edges != NULL && i < count; i++)
        if (memcmp(&edges[i], &plain, sizeof(plain)) != 0)
            return fdc_refuse("a graph's edge with data", &said);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                       size_t numDependencies)
{
    return edges_change(hGraph, from, to, numDependencies, false);
}

FDC_EXPORT CUresult
cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                          size_t numDependencies)
{
    CUresult result = edges_plain(edgeData, numDependencies);

    return result == CUDA_SUCCESS
               ? edges_change(hGraph, from, to, numDependencies, false)
               : result;
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, size_t numDependencies)
{
    return edges_change(hGraph, from, to, numDependencies, true);
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                             const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                             size_t numDependencies)
{
    CUresult result = edges_plain(edgeData, numDependencies);

    return result == CUDA_SUCCESS
               ? edges_change(hGraph, from, to, numDependencies, true)
               : result;
}

/* ---- the end of nodes and graphs ---- */

static CUresult
forget(struct fdc_call *call, const uint64_t *nodes, uint32_t count, bool destroy)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphForget);
    struct fdc_req_fdcGraphForget *req;

    call->id = FDC_ID_fdcGraphForget;
    req = fdc_call_begin(call, at + count * 8);
    if (req == NULL)
        return call->result;
    req->destroy = destroy;
    req->nodes = (struct fdc_span){at, count * 8};
    req->count = count;
    memcpy((char *)req + at, nodes, count * 8);
    return fdc_call_send(call);
}

FDC_EXPORT CUresult
cuGraphDestroyNode(CUgraphNode hNode)
{
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphForget, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    node = node_find(hNode);
    result = join(&call, node != NULL ? &node->object : NULL);
    if (result != CUDA_SUCCESS)
        return result;
    result = forget(&call, &node->object.handle, 1, true);
    if (result == CUDA_SUCCESS)
        node_drop(node);
    return result;
}

struct members {
    uint64_t graph;
    uint64_t handle[FORGET_MAX];
    struct fdc_node *node[FORGET_MAX];
    uint32_t count;
};

static void
member(void *object, void *user)
{
    struct members *members = user;
    struct fdc_node *node = object;

    if (node->graph == members->graph && members->count < FORGET_MAX) {
        members->handle[members->count] = node->object.handle;
        members->node[members->count++] = node;
    }
}

FDC_EXPORT CUresult
cuGraphDestroy(CUgraph hGraph)
{
    struct fdc_req_cuGraphDestroy *req;
    struct members *members;
    struct fdc_object *graph;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuGraphDestroy, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    graph = graph_find(hGraph);
    result = join(&call, graph);
    if (result != CUDA_SUCCESS)
        return result;
    members = malloc(sizeof(*members));
    if (members == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    members->graph = graph->handle;
    do {
        members->count = 0;
        fdc_object_each(FDC_KIND_NODE, member, members);
        if (members->count != 0)
            result = forget(&call, members->handle, members->count, false);
        for (uint32_t i = 0; i < members->count; i++)
            node_drop(members->node[i]);
    } while (members->count == FORGET_MAX && result == CUDA_SUCCESS);
    free(members);
    if (result != CUDA_SUCCESS)
        return result;
    call.id = FDC_ID_cuGraphDestroy;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hGraph = graph->handle;
    result = fdc_call_send(&call);
    if (result == CUDA_SUCCESS)
        fdc_object_drop(graph);
    return result;
}

/* ---- whole graphs ---- */

FDC_EXPORT CUresult
cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    struct fdc_req_fdcGraphClone *req;
    struct fdc_object *clone;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphClone, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = join(&call, graph_find(originalGraph));
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraphClone == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    clone = fdc_graph_new(call.session, call.context);
    if (clone == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->graph = (uint64_t)(uintptr_t)originalGraph;
        req->clone = clone->handle;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
    } else {
        result = call.result;
    }
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(clone);
        return result;
    }
    *phGraphClone = (CUgraph)(uintptr_t)clone->handle;
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
    original = node_find(hOriginalNode);
    if (original == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = join(&call, &original->object);
    if (result == CUDA_SUCCESS)
        result = join(&call, graph_find(hClonedGraph));
    if (result != CUDA_SUCCESS)
        return result;
    if (phNode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fresh = node_new(call.session, (uint64_t)(uintptr_t)hClonedGraph, original->type);
    if (fresh == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
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
        node_drop(fresh);
    return result;
}

FDC_EXPORT CUresult
cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct fdc_req_fdcGraphChild *req;
    struct fdc_object *graph;
    struct fdc_reply reply;
    struct fdc_node *node;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphChild, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    node = node_find(hNode);
    result = join(&call, node != NULL ? &node->object : NULL);
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL || node->type != CU_GRAPH_NODE_TYPE_GRAPH)
        return CUDA_ERROR_INVALID_VALUE;
    if (node->child == 0) {
        graph = fdc_graph_new(call.session, call.context);
        if (graph == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        req = fdc_call_begin(&call, sizeof(*req));
        if (req != NULL) {
            req->node = node->object.handle;
            req->graph = graph->handle;
            result = fdc_call_wait(&call, &reply, sizeof(reply));
        } else {
            result = call.result;
        }
        if (result != CUDA_SUCCESS) {
            fdc_object_drop(graph);
            return result;
        }
        node->child = graph->handle;
    }
    *phGraph = (CUgraph)(uintptr_t)node->child;
    return CUDA_SUCCESS;
}

/* ---- executable graphs ---- */

FDC_EXPORT CUresult
cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                      CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    if (phErrorNode != NULL)
        *phErrorNode = NULL;
    if (logBuffer != NULL && bufferSize != 0)
        logBuffer[0] = '\0';
    return cuGraphInstantiateWithFlags(phGraphExec, hGraph, 0);
}

FDC_EXPORT CUresult
cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                   char *logBuffer, size_t bufferSize)
{
    return cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer,
                                 bufferSize);
}

static CUresult
instantiate(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
            unsigned how)
{
    CUresult result;

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    params->hErrNode_out = NULL;
    result = cuGraphInstantiateWithFlags(
        exec, graph, params->flags & ~(uint64_t)CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
    params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                                                : CUDA_GRAPH_INSTANTIATE_ERROR;
    if (result == CUDA_SUCCESS && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
        result = how & FDC_STREAM_PER_THREAD_ZERO
                     ? cuGraphUpload_ptsz(*exec, params->hUploadStream)
                     : cuGraphUpload(*exec, params->hUploadStream);
    return result;
}

FDC_TWINS(cuGraphInstantiateWithParams, _ptsz,
          (CUgraphExec * phGraphExec, CUgraph hGraph,
           CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams),
          instantiate(phGraphExec, hGraph, instantiateParams, how))

FDC_EXPORT CUresult
cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                     CUgraphExecUpdateResultInfo *resultInfo)
{
    struct fdc_rep_fdcGraphUpdate rep = {0};
    struct fdc_req_fdcGraphUpdate *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphUpdate, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = join(&call, fdc_object_find(FDC_KIND_GRAPH_EXEC, hGraphExec));
    if (result == CUDA_SUCCESS)
        result = join(&call, graph_find(hGraph));
    if (result != CUDA_SUCCESS)
        return result;
    if (resultInfo == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->exec = (uint64_t)(uintptr_t)hGraphExec;
    req->graph = (uint64_t)(uintptr_t)hGraph;
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    memset(resultInfo, 0, sizeof(*resultInfo));
    resultInfo->result = (CUgraphExecUpdateResult)rep.outcome;
    resultInfo->errorNode = (CUgraphNode)(uintptr_t)rep.error_node;
    return result;
}

FDC_EXPORT CUresult
cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                  CUgraphExecUpdateResult *updateResult_out)
{
    CUgraphExecUpdateResultInfo info = {0};
    CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);

    if (hErrorNode_out != NULL)
        *hErrorNode_out = info.errorNode;
    if (updateResult_out != NULL)
        *updateResult_out = info.result;
    return result;
}
