/* What nodes and graphs are called, attributes of kernel nodes, a graph as a drawing. */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

#define ATTRIBUTES 18

/* ---- ids ---- */

FDC_EXPORT CUresult
cuGraphGetId(CUgraph hGraph, unsigned int *graphId)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);

    if (graph == NULL || graphId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *graphId = graph->id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphExecGetId(CUgraphExec hGraphExec, unsigned int *graphId)
{
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hGraphExec);

    if (exec == NULL || graphId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *graphId = (unsigned int)exec->id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetLocalId(CUgraphNode hNode, unsigned int *nodeId)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode);

    if (node == NULL || nodeId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *nodeId = node->local_id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetToolsId(CUgraphNode hNode, unsigned long long *toolsNodeId)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode);

    if (node == NULL || toolsNodeId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *toolsNodeId = node->tools_id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetContainingGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode);

    if (node == NULL || phGraph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = (CUgraph)(uintptr_t)node->graph->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetParams(CUgraphNode hNode, CUgraphNodeParams *p)
{
    CUDA_MEMSET_NODE_PARAMS set;
    CUDA_HOST_NODE_PARAMS host;
    struct fdcpu_node *node;
    CUgraphNodeType type;
    CUresult result;

    if (p == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = cuGraphNodeGetType(hNode, &type);
    if (result != CUDA_SUCCESS)
        return result;
    memset(p, 0, sizeof(*p));
    p->type = type;
    node = FDCPU_GET(FDCPU_H_NODE, hNode);
    switch ((int)type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return cuGraphKernelNodeGetParams_v2(hNode, &p->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        p->memcpy.copyCtx = (CUcontext)(uintptr_t)node->work->ctx->handle;
        return cuGraphMemcpyNodeGetParams(hNode, &p->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        result = cuGraphMemsetNodeGetParams(hNode, &set);
        memcpy(&p->memset, &set, sizeof(set));
        p->memset.ctx = (CUcontext)(uintptr_t)node->work->ctx->handle;
        return result;
    case CU_GRAPH_NODE_TYPE_HOST:
        result = cuGraphHostNodeGetParams(hNode, &host);
        p->host.fn = host.fn;
        p->host.userData = host.userData;
        return result;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return cuGraphChildGraphNodeGetGraph(hNode, &p->graph.graph);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return cuGraphEventWaitNodeGetEvent(hNode, &p->eventWait.event);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return cuGraphEventRecordNodeGetEvent(hNode, &p->eventRecord.event);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return cuGraphMemAllocNodeGetParams(hNode, &p->alloc);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return cuGraphMemFreeNodeGetParams(hNode, &p->free.dptr);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return cuGraphBatchMemOpNodeGetParams(hNode, &p->memOp);
    default:
        return CUDA_SUCCESS;
    }
}

/* ---- attributes of kernel nodes ---- */

bool
fdcpu_node_copy_attributes(struct fdcpu_node *to, const struct fdcpu_node *from)
{
    if (from->attrs == NULL) {
        free(to->attrs);
        to->attrs = NULL;
        return true;
    }
    if (to->attrs == NULL)
        to->attrs = calloc(ATTRIBUTES, sizeof(*to->attrs));
    if (to->attrs != NULL)
        memcpy(to->attrs, from->attrs, ATTRIBUTES * sizeof(*to->attrs));
    return to->attrs != NULL;
}

/* A kernel's node, and whether there is such an attribute. */
static struct fdcpu_node *
kernel_node(CUgraphNode hNode, CUkernelNodeAttrID attr)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode);

    return node != NULL && node->work->kind == FDCPU_W_KERNEL && (int)attr > 0 &&
                   (int)attr < ATTRIBUTES
               ? node
               : NULL;
}

FDC_EXPORT CUresult
cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                              CUkernelNodeAttrValue *value_out)
{
    struct fdcpu_node *node = kernel_node(hNode, attr);
    const struct fdcpu_work *w;

    if (node == NULL || value_out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    w = node->work;
    memset(value_out, 0, sizeof(*value_out));
    if (attr == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
        value_out->cooperative = w->u.kernel.cooperative;
    } else if (attr == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
        value_out->clusterDim.x = w->u.kernel.cluster[0];
        value_out->clusterDim.y = w->u.kernel.cluster[1];
        value_out->clusterDim.z = w->u.kernel.cluster[2];
    } else if (node->attrs != NULL) {
        *value_out = node->attrs[attr];
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                              const CUkernelNodeAttrValue *value)
{
    struct fdcpu_node *node = kernel_node(hNode, attr);

    if (node == NULL || value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (attr == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
        value->clusterDim.x * value->clusterDim.y * value->clusterDim.z > 1)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE; /* clusters are of one block here */
    pthread_mutex_lock(&fdcpu.sched);
    if (attr == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
        node->work->u.kernel.cooperative = value->cooperative != 0;
    if (node->attrs == NULL)
        node->attrs = calloc(ATTRIBUTES, sizeof(*node->attrs));
    if (node->attrs != NULL)
        node->attrs[attr] = *value;
    pthread_mutex_unlock(&fdcpu.sched);
    return node->attrs != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

FDC_EXPORT CUresult
cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    struct fdcpu_node *to = kernel_node(dst, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    struct fdcpu_node *from = kernel_node(src, CU_LAUNCH_ATTRIBUTE_PRIORITY);
    bool copied;

    if (to == NULL || from == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    to->work->u.kernel.cooperative = from->work->u.kernel.cooperative;
    copied = fdcpu_node_copy_attributes(to, from);
    pthread_mutex_unlock(&fdcpu.sched);
    return copied ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* ---- a drawing, for graphviz ---- */

static const char *
kind_name(const struct fdcpu_work *work)
{
    switch (work->kind) {
    case FDCPU_W_KERNEL:
        return work->u.kernel.function->name;
    case FDCPU_W_COPY:
        return "MEMCPY";
    case FDCPU_W_SET:
        return "MEMSET";
    case FDCPU_W_HOST:
        return "HOST";
    case FDCPU_W_RECORD:
        return "EVENT_RECORD";
    case FDCPU_W_WAIT:
        return "EVENT_WAIT";
    case FDCPU_W_CHILD:
    case FDCPU_W_GRAPH:
        return "GRAPH";
    case FDCPU_W_ALLOC:
        return "MEM_ALLOC";
    case FDCPU_W_FREE:
        return "MEM_FREE";
    case FDCPU_W_MEMOP:
        return "BATCH_MEM_OP";
    default:
        return "EMPTY";
    }
}

static void
draw(FILE *out, const struct fdcpu_graph *graph)
{
    size_t i, d;

    fprintf(out, "subgraph cluster_%u {\nlabel=\"graph_%u\" graph[style=\"dashed\"];\n",
            graph->id, graph->id);
    for (i = 0; i < graph->nnodes; i++) {
        const struct fdcpu_node *node = graph->nodes[i];

        fprintf(out, "\"graph_%u_node_%u\"[style=\"solid\" shape=\"record\" label=\"%u | %s\"];\n",
                graph->id, node->local_id, node->local_id, kind_name(node->work));
        if (node->work->kind == FDCPU_W_CHILD)
            draw(out, node->work->u.child);
    }
    for (i = 0; i < graph->nnodes; i++)
        for (d = 0; d < graph->nodes[i]->ndeps; d++)
            fprintf(out, "\"graph_%u_node_%u\" -> \"graph_%u_node_%u\";\n", graph->id,
                    graph->nodes[i]->deps[d].from->local_id, graph->id,
                    graph->nodes[i]->local_id);
    fprintf(out, "}\n");
}

FDC_EXPORT CUresult
cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    FILE *out;

    (void)flags; /* how much it says is ours to decide */
    if (graph == NULL || path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    out = fopen(path, "we");
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fprintf(out, "digraph dot {\n");
    pthread_mutex_lock(&fdcpu.sched);
    draw(out, graph);
    pthread_mutex_unlock(&fdcpu.sched);
    fprintf(out, "}\n");
    return fclose(out) == 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}
