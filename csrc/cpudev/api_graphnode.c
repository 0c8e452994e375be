/* Nodes of every kind: made from the program's parameters, read back, and changed. */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

/* ---- parameters to work ---- */

/* The context that a node is for: the one named, else the current one. */
static CUresult
context(CUcontext handle, struct fdcpu_ctx **ctx)
{
    CUresult result = fdcpu_ctx_get(handle, ctx);

    if (result == CUDA_SUCCESS && !atomic_load(&(*ctx)->active))
        result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return result;
}

static CUresult
kernel_work(const CUDA_KERNEL_NODE_PARAMS *p, struct fdcpu_ctx *ctx,
            struct fdcpu_work **work)
{
    uint32_t grid[3] = {p->gridDimX, p->gridDimY, p->gridDimZ};
    uint32_t block[3] = {p->blockDimX, p->blockDimY, p->blockDimZ};
    void *handle = p->func != NULL ? (void *)p->func : (void *)p->kern;

    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return fdcpu_launch_prepare(ctx, handle, grid, block, NULL, p->sharedMemBytes,
                                false, p->kernelParams, p->extra, work);
}

static CUresult
simple_work(enum fdcpu_work_kind kind, struct fdcpu_ctx *ctx, struct fdcpu_work **work)
{
    *work = fdcpu_work_new(kind, ctx);
    return *work == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

static CUresult
host_work(CUhostFn fn, void *user, struct fdcpu_ctx *ctx, struct fdcpu_work **work)
{
    CUresult result =
        fn == NULL ? CUDA_ERROR_INVALID_VALUE : simple_work(FDCPU_W_HOST, ctx, work);

    if (result == CUDA_SUCCESS) {
        (*work)->u.host.fn = fn;
        (*work)->u.host.user = user;
    }
    return result;
}

static CUresult
event_work(enum fdcpu_work_kind kind, CUevent event, struct fdcpu_ctx *ctx,
           struct fdcpu_work **work)
{
    CUresult result = FDCPU_GET(FDCPU_H_EVENT, event) == NULL
                          ? CUDA_ERROR_INVALID_HANDLE
                          : simple_work(kind, ctx, work);

    if (result == CUDA_SUCCESS)
        (*work)->u.event.handle = event;
    return result;
}

static CUresult
child_work(CUgraph hGraph, bool move, struct fdcpu_ctx *ctx, struct fdcpu_work **work)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph), *child;
    CUresult result;

    if (graph == NULL || (move && graph->child))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    if (!move && fdcpu_graph_has_memory(graph)) {
        pthread_mutex_unlock(&fdcpu.sched);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    child = move ? graph : fdcpu_graph_clone(graph);
    pthread_mutex_unlock(&fdcpu.sched);
    if (child == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = simple_work(FDCPU_W_CHILD, ctx, work);
    if (result != CUDA_SUCCESS) {
        if (!move)
            fdcpu_graph_free(child);
        return result;
    }
    child->child = true;
    (*work)->u.child = child;
    return CUDA_SUCCESS;
}

static CUresult
alloc_work(CUDA_MEM_ALLOC_NODE_PARAMS *p, struct fdcpu_ctx *ctx,
           struct fdcpu_work **work)
{
    struct fdcpu_device *device;
    CUresult result;
    uint64_t addr;

    if (p->bytesize == 0 || p->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        p->poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    device = fdcpu_device_get(p->poolProps.location.id);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (ctx->device != device)
        ctx = device->primary;
    result = fdcpu_alloc_device(ctx, FDCPU_A_GRAPH, p->bytesize, FDCPU_ALIGN, &addr);
    if (result != CUDA_SUCCESS)
        return result;
    p->dptr = addr;
    result = simple_work(FDCPU_W_ALLOC, ctx, work);
    if (result != CUDA_SUCCESS) {
        fdcpu_alloc_free(addr, NULL);
        return result;
    }
    (*work)->u.alloc.params = *p;
    (*work)->u.alloc.params.accessDescs = NULL;
    (*work)->u.alloc.params.accessDescCount = 0;
    return CUDA_SUCCESS;
}

static CUresult
memop_work(const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, struct fdcpu_ctx *ctx,
           struct fdcpu_work **work)
{
    CUresult result;

    if (p->count == 0 || p->count > 256 || p->paramArray == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = simple_work(FDCPU_W_MEMOP, ctx, work);
    if (result != CUDA_SUCCESS)
        return result;
    (*work)->u.memop.count = p->count;
    (*work)->u.memop.ops = malloc(p->count * sizeof(*p->paramArray));
    if ((*work)->u.memop.ops == NULL) {
        free(*work);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memcpy((*work)->u.memop.ops, p->paramArray, p->count * sizeof(*p->paramArray));
    return CUDA_SUCCESS;
}

static CUresult
node_work(CUgraphNodeParams *p, struct fdcpu_work **work)
{
    CUDA_MEMSET_NODE_PARAMS set;
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUcontext named = NULL;
    CUresult result;

    switch ((int)p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        named = p->kernel.ctx;
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        named = p->memcpy.copyCtx;
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        named = p->memset.ctx;
        break;
    default:
        break;
    }
    result = context(named, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    switch ((int)p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return kernel_work(&p->kernel, ctx, work);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return fdcpu_copy_work(&p->memcpy.copyParams, ctx, work);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        set = (CUDA_MEMSET_NODE_PARAMS){p->memset.dst,   p->memset.pitch,
                                        p->memset.value, p->memset.elementSize,
                                        p->memset.width, p->memset.height};
        return fdcpu_set_work(&set, ctx, work);
    case CU_GRAPH_NODE_TYPE_HOST:
        return host_work(p->host.fn, p->host.userData, ctx, work);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return child_work(p->graph.graph,
                          p->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE,
                          ctx, work);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return simple_work(FDCPU_W_EMPTY, ctx, work);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return event_work(FDCPU_W_WAIT, p->eventWait.event, ctx, work);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return event_work(FDCPU_W_RECORD, p->eventRecord.event, ctx, work);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return alloc_work(&p->alloc, ctx, work);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        result = !fdcpu_alloc_find(p->free.dptr, &alloc) ||
                         alloc.kind != FDCPU_A_GRAPH || alloc.lo != p->free.dptr
                     ? CUDA_ERROR_INVALID_VALUE
                     : simple_work(FDCPU_W_FREE, ctx, work);
        if (result == CUDA_SUCCESS)
            (*work)->u.free = p->free.dptr;
        return result;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return memop_work(&p->memOp, ctx, work);
    default:
        fdcpu_log_once("graph nodes of this type are not supported");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* ---- adding ---- */

/* Adds work (owned from here on, whatever happens) after the nodes named. */
static CUresult
add(CUgraphNode *out, CUgraph hGraph, const CUgraphNode *deps,
    const CUgraphEdgeData *edges, size_t ndeps, struct fdcpu_work *work)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_node **from = NULL, *node;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    size_t i;

    if (out == NULL || graph == NULL || (ndeps > 0 && deps == NULL))
        goto err;
    from = malloc((ndeps + 1) * sizeof(*from));
    if (from == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err;
    }
    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < ndeps; i++) {
        from[i] = FDCPU_GET(FDCPU_H_NODE, deps[i]);
        if (from[i] == NULL || from[i]->graph != graph)
            break;
    }
    if (i < ndeps) {
        pthread_mutex_unlock(&fdcpu.sched);
        goto err;
    }
    node = fdcpu_graph_add(graph, work, from, ndeps);
    if (node != NULL) {
        for (i = 0; edges != NULL && i < ndeps; i++)
            node->deps[i].data = edges[i];
        *out = (CUgraphNode)(uintptr_t)node->handle;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    if (node == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err;
    }
    free(from);
    return CUDA_SUCCESS;
err:
    free(from);
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_work_free(work);
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDC_EXPORT CUresult
cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                  const CUgraphNode *dependencies,
                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                  CUgraphNodeParams *nodeParams)
{
    struct fdcpu_work *work;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = node_work(nodeParams, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, dependencyData, numDependencies,
               work);
}

FDC_EXPORT CUresult
cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
               const CUgraphNode *dependencies, size_t numDependencies,
               CUgraphNodeParams *nodeParams)
{
    return cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, NULL, numDependencies,
                             nodeParams);
}

/* The old calls, one a kind. */
static CUresult
add_params(CUgraphNode *out, CUgraph hGraph, const CUgraphNode *deps, size_t ndeps,
           CUgraphNodeParams *p)
{
    return cuGraphAddNode_v2(out, hGraph, deps, NULL, ndeps, p);
}

FDC_EXPORT CUresult
cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                        const CUgraphNode *dependencies, size_t numDependencies,
                        const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_KERNEL};

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.kernel = *nodeParams;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

static void
widen(const CUDA_KERNEL_NODE_PARAMS_v1 *from, CUDA_KERNEL_NODE_PARAMS *to)
{
    memset(to, 0, sizeof(*to));
    memcpy(to, from, sizeof(*from)); /* the newer layout begins with the older */
}

FDC_EXPORT CUresult
cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS wide;

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    widen(nodeParams, &wide);
    return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies,
                                   &wide);
}

FDC_EXPORT CUresult
cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};

    if (copyParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.memcpy.copyParams = *copyParams;
    p.memcpy.copyCtx = ctx;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                     const CUgraphNode *dependencies, size_t numDependencies,
                     const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEMSET};

    if (memsetParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&p.memset, memsetParams, sizeof(*memsetParams));
    p.memset.ctx = ctx;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                   const CUgraphNode *dependencies, size_t numDependencies,
                   const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_HOST};

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.host.fn = nodeParams->fn;
    p.host.userData = nodeParams->userData;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                         const CUgraphNode *dependencies, size_t numDependencies,
                         CUgraph childGraph)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

    p.graph.graph = childGraph;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                    const CUgraphNode *dependencies, size_t numDependencies)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_EMPTY};

    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                          const CUgraphNode *dependencies, size_t numDependencies,
                          CUevent event)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};

    p.eventRecord.event = event;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                        const CUgraphNode *dependencies, size_t numDependencies,
                        CUevent event)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};

    p.eventWait.event = event;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                       const CUgraphNode *dependencies, size_t numDependencies,
                       CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    CUresult result;

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.alloc = *nodeParams;
    result = add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
    if (result == CUDA_SUCCESS)
        nodeParams->dptr = p.alloc.dptr;
    return result;
}

FDC_EXPORT CUresult
cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                      const CUgraphNode *dependencies, size_t numDependencies,
                      CUdeviceptr dptr)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE};

    p.free.dptr = dptr;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                         const CUgraphNode *dependencies, size_t numDependencies,
                         const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.memOp = *nodeParams;
    return add_params(phGraphNode, hGraph, dependencies, numDependencies, &p);
}

FDC_EXPORT CUresult
cuGraphAddNode_v3(CUgraphNode *phGraphNode, CUgraph hGraph,
                  const CUgraphNode *dependencies,
                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                  CUgraphNodeParams *nodeParams)
{
    return cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData,
                             numDependencies, nodeParams);
}

/* ---- reading back ---- */

static CUresult
get_node(CUgraphNode hNode, int kind, const void *out, struct fdcpu_node **node)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *node = FDCPU_GET(FDCPU_H_NODE, hNode);
    if (*node == NULL || out == NULL || (kind >= 0 && (int)(*node)->work->kind != kind))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    static const int types[] = {
        [FDCPU_W_EMPTY] = CU_GRAPH_NODE_TYPE_EMPTY,
        [FDCPU_W_KERNEL] = CU_GRAPH_NODE_TYPE_KERNEL,
        [FDCPU_W_COPY] = CU_GRAPH_NODE_TYPE_MEMCPY,
        [FDCPU_W_SET] = CU_GRAPH_NODE_TYPE_MEMSET,
        [FDCPU_W_HOST] = CU_GRAPH_NODE_TYPE_HOST,
        [FDCPU_W_RECORD] = CU_GRAPH_NODE_TYPE_EVENT_RECORD,
        [FDCPU_W_WAIT] = CU_GRAPH_NODE_TYPE_WAIT_EVENT,
        [FDCPU_W_CHILD] = CU_GRAPH_NODE_TYPE_GRAPH,
        [FDCPU_W_ALLOC] = CU_GRAPH_NODE_TYPE_MEM_ALLOC,
        [FDCPU_W_FREE] = CU_GRAPH_NODE_TYPE_MEM_FREE,
        [FDCPU_W_MEMOP] = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
        [FDCPU_W_GRAPH] = CU_GRAPH_NODE_TYPE_GRAPH,
    };
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, -1, type, &node);

    if (result == CUDA_SUCCESS)
        *type = (CUgraphNodeType)types[node->work->kind];
    return result;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *p)
{
    struct fdcpu_node *node;
    const struct fdcpu_work *w;
    CUresult result = get_node(hNode, FDCPU_W_KERNEL, p, &node);

    if (result != CUDA_SUCCESS)
        return result;
    w = node->work;
    memset(p, 0, sizeof(*p));
    if (FDCPU_GET(FDCPU_H_KERNEL, w->u.kernel.asked) != NULL)
        p->kern = w->u.kernel.asked;
    p->func = (CUfunction)(uintptr_t)w->u.kernel.function->handle;
    p->gridDimX = w->u.kernel.grid[0];
    p->gridDimY = w->u.kernel.grid[1];
    p->gridDimZ = w->u.kernel.grid[2];
    p->blockDimX = w->u.kernel.block[0];
    p->blockDimY = w->u.kernel.block[1];
    p->blockDimZ = w->u.kernel.block[2];
    p->sharedMemBytes = w->u.kernel.shared;
    p->kernelParams = w->u.kernel.pointers;
    p->ctx = (CUcontext)(uintptr_t)w->ctx->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS wide;
    CUresult result;

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = cuGraphKernelNodeGetParams_v2(hNode, &wide);
    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &wide, sizeof(*nodeParams));
    return result;
}

FDC_EXPORT CUresult
cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_COPY, nodeParams, &node);

    if (result == CUDA_SUCCESS)
        *nodeParams = node->work->u.copy.p;
    return result;
}

FDC_EXPORT CUresult
cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_SET, nodeParams, &node);

    if (result == CUDA_SUCCESS)
        *nodeParams = node->work->u.set;
    return result;
}

FDC_EXPORT CUresult
cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_HOST, nodeParams, &node);

    if (result != CUDA_SUCCESS)
        return result;
    nodeParams->fn = node->work->u.host.fn;
    nodeParams->userData = node->work->u.host.user;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_CHILD, phGraph, &node);

    if (result == CUDA_SUCCESS)
        *phGraph = (CUgraph)(uintptr_t)node->work->u.child->handle;
    return result;
}

FDC_EXPORT CUresult
cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_RECORD, event_out, &node);

    if (result == CUDA_SUCCESS)
        *event_out = node->work->u.event.handle;
    return result;
}

FDC_EXPORT CUresult
cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_WAIT, event_out, &node);

    if (result == CUDA_SUCCESS)
        *event_out = node->work->u.event.handle;
    return result;
}

FDC_EXPORT CUresult
cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *params_out)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_ALLOC, params_out, &node);

    if (result == CUDA_SUCCESS)
        *params_out = node->work->u.alloc.params;
    return result;
}

FDC_EXPORT CUresult
cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_FREE, dptr_out, &node);

    if (result == CUDA_SUCCESS)
        *dptr_out = node->work->u.free;
    return result;
}

FDC_EXPORT CUresult
cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode,
                               CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
    struct fdcpu_node *node;
    CUresult result = get_node(hNode, FDCPU_W_MEMOP, nodeParams_out, &node);

    if (result != CUDA_SUCCESS)
        return result;
    memset(nodeParams_out, 0, sizeof(*nodeParams_out));
    nodeParams_out->ctx = (CUcontext)(uintptr_t)node->work->ctx->handle;
    nodeParams_out->count = node->work->u.memop.count;
    nodeParams_out->paramArray = node->work->u.memop.ops;
    return CUDA_SUCCESS;
}

/* ---- changing: of a node, or of an executable graph's step for it ---- */

/* Puts new work (owned from here on) in the place of old work of the same kind. */
static CUresult
replace(CUgraphExec hExec, CUgraphNode hNode, struct fdcpu_work *work)
{
    struct fdcpu_exec *exec = NULL;
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode);
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    pthread_mutex_lock(&fdcpu.sched);
    if (hExec != NULL) {
        exec = FDCPU_GET(FDCPU_H_EXEC, hExec);
        if (exec != NULL)
            result = fdcpu_exec_replace(exec, (uint64_t)(uintptr_t)hNode, work);
    } else if (node != NULL && node->work->kind == work->kind) {
        fdcpu_work_free(node->work);
        node->work = work;
        work = NULL;
        result = CUDA_SUCCESS;
    }
    if (work != NULL && (hExec == NULL || result != CUDA_SUCCESS))
        fdcpu_work_free(work);
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

static CUresult
set_child(CUgraphExec hExec, CUgraphNode hNode, CUgraph hGraph)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hExec);
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (hExec == NULL)
        return CUDA_ERROR_NOT_SUPPORTED; /* a node keeps its graph */
    pthread_mutex_lock(&fdcpu.sched);
    if (graph != NULL && exec != NULL)
        result = fdcpu_exec_replace_child(exec, (uint64_t)(uintptr_t)hNode, graph);
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

static CUresult
set_params(CUgraphExec exec, CUgraphNode hNode, CUgraphNodeParams *p)
{
    struct fdcpu_work *work;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (p->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return set_child(exec, hNode, p->graph.graph);
    if (p->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
        p->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
        return CUDA_ERROR_NOT_SUPPORTED;
    result = node_work(p, &work);
    return result == CUDA_SUCCESS ? replace(exec, hNode, work) : result;
}

FDC_EXPORT CUresult
cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    return nodeParams == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_params(NULL, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                         CUgraphNodeParams *nodeParams)
{
    return nodeParams == NULL || hGraphExec == NULL
               ? CUDA_ERROR_INVALID_VALUE
               : set_params(hGraphExec, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphNodeSetParams_v2(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    return cuGraphNodeSetParams(hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   CUgraph childGraph)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_child(hGraphExec, hNode, childGraph);
}

static CUresult
set_memop(CUgraphExec exec, CUgraphNode hNode,
          const CUDA_BATCH_MEM_OP_NODE_PARAMS *params)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.memOp = *params;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode,
                               const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    return set_memop(NULL, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_memop(hGraphExec, hNode, nodeParams);
}

static CUresult
set_kernel(CUgraphExec exec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *params)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_KERNEL};

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.kernel = *params;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                              const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return set_kernel(NULL, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetParams(CUgraphNode hNode,
                           const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS wide;

    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    widen(nodeParams, &wide);
    return set_kernel(NULL, hNode, &wide);
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_kernel(hGraphExec, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS wide;

    if (nodeParams == NULL || hGraphExec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    widen(nodeParams, &wide);
    return set_kernel(hGraphExec, hNode, &wide);
}

static CUresult
set_memcpy(CUgraphExec exec, CUgraphNode hNode, const CUDA_MEMCPY3D *params,
           CUcontext ctx)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.memcpy.copyParams = *params;
    p.memcpy.copyCtx = ctx;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    return set_memcpy(NULL, hNode, nodeParams, NULL);
}

FDC_EXPORT CUresult
cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_memcpy(hGraphExec, hNode, copyParams, ctx);
}

static CUresult
set_memset(CUgraphExec exec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *params,
           CUcontext ctx)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_MEMSET};

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&p.memset, params, sizeof(*params));
    p.memset.ctx = ctx;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    return set_memset(NULL, hNode, nodeParams, NULL);
}

FDC_EXPORT CUresult
cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                               const CUDA_MEMSET_NODE_PARAMS *memsetParams,
                               CUcontext ctx)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_memset(hGraphExec, hNode, memsetParams, ctx);
}

static CUresult
set_host(CUgraphExec exec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *params)
{
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_HOST};

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    p.host.fn = params->fn;
    p.host.userData = params->userData;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    return set_host(NULL, hNode, nodeParams);
}

FDC_EXPORT CUresult
cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                             const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    return hGraphExec == NULL ? CUDA_ERROR_INVALID_VALUE
                              : set_host(hGraphExec, hNode, nodeParams);
}

static CUresult
set_event(CUgraphExec exec, CUgraphNode hNode, int type, CUevent event)
{
    CUgraphNodeParams p = {.type = (CUgraphNodeType)type};

    if (type == CU_GRAPH_NODE_TYPE_EVENT_RECORD)
        p.eventRecord.event = event;
    else
        p.eventWait.event = event;
    return set_params(exec, hNode, &p);
}

FDC_EXPORT CUresult
cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    return set_event(NULL, hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event);
}

FDC_EXPORT CUresult
cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    return set_event(NULL, hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event);
}

FDC_EXPORT CUresult
cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                   CUevent event)
{
    return hGraphExec == NULL
               ? CUDA_ERROR_INVALID_VALUE
               : set_event(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event);
}

FDC_EXPORT CUresult
cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                 CUevent event)
{
    return hGraphExec == NULL
               ? CUDA_ERROR_INVALID_VALUE
               : set_event(hGraphExec, hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event);
}
