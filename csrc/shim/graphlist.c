/*
 * Lists of nodes and edges. The worker has them; nodes of captured graphs and of clones
 * get handles when the program first sees them.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

#define BLOB_FIRST (64u << 10)
#define FRESH_MAX (1u << 12) /* new handles of one question */

/* ---- asking ---- */

static CUresult
ask(struct fdc_call *call, const struct fdc_listing *asked, const uint64_t *fresh,
    uint32_t fresh_count, struct fdc_graph_list **list)
{
    struct fdc_chunk blob;
    void *bytes = NULL;
    uint64_t total;
    CUresult result;

    result = fdc_stage_alloc(call->session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    result = asked->send(call, asked, fresh, fresh_count, blob, &total);
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(call, &blob, total, &bytes);
    if (result == CUDA_SUCCESS) {
        *list = bytes;
        if (total < sizeof(**list) || (*list)->count > (total - sizeof(**list)) /
                                                           sizeof((*list)->row[0])) {
            free(bytes);
            result = CUDA_ERROR_UNKNOWN;
        }
    }
    fdc_stage_free(call->session, FDC_REGION_DOWN, &blob);
    return result;
}

static void
learn_type(uint64_t handle, uint32_t type)
{
    struct fdc_node *node =
        handle != 0 ? fdc_node_find((CUgraphNode)(uintptr_t)handle) : NULL;

    if (node != NULL && !node->typed) {
        node->type = type;
        node->typed = true;
    }
}

/* Asks again with new handles; those that were not needed end. */
static CUresult
name(struct fdc_call *call, const struct fdc_listing *asked,
     struct fdc_graph_list **list)
{
    uint32_t count = (*list)->unnamed < FRESH_MAX ? (*list)->unnamed : FRESH_MAX;
    uint64_t *fresh = calloc(count, sizeof(*fresh));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    struct fdc_graph_list *named = NULL;
    struct fdc_node *node;
    uint32_t made = 0;

    if (fresh == NULL)
        return result;
    for (; made < count; made++) {
        node = fdc_node_new(call->session, asked->graph);
        if (node == NULL)
            goto out;
        fresh[made] = node->object.handle;
    }
    result = ask(call, asked, fresh, count, &named);
    if (result != CUDA_SUCCESS)
        goto out;
    free(*list);
    *list = named;
    for (uint32_t i = 0; i < named->count; i++) {
        learn_type(named->row[i].node, named->row[i].type);
        learn_type(named->row[i].to, named->row[i].to_type);
    }
out:
    for (uint32_t i = 0; i < made; i++) {
        node = fdc_node_find((CUgraphNode)(uintptr_t)fresh[i]);
        if (node != NULL && !node->typed)
            fdc_node_drop(node);
    }
    free(fresh);
    return result;
}

CUresult
fdc_list_ask(struct fdc_call *call, const struct fdc_listing *asked, bool named,
             struct fdc_graph_list **list)
{
    uint32_t before = UINT32_MAX;
    CUresult result = ask(call, asked, NULL, 0, list);

    /* As long as that makes fewer of them. */
    while (result == CUDA_SUCCESS && named && (*list)->unnamed != 0) {
        if ((*list)->unnamed >= before)
            result = CUDA_ERROR_UNKNOWN;
        before = (*list)->unnamed;
        if (result == CUDA_SUCCESS)
            result = name(call, asked, list);
        if (result != CUDA_SUCCESS)
            free(*list);
    }
    return result;
}

/* ---- the calls ---- */

static CUresult
send_list(struct fdc_call *call, const struct fdc_listing *asked, const uint64_t *fresh,
          uint32_t fresh_count, struct fdc_chunk blob, uint64_t *total)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphList);
    struct fdc_rep_fdcGraphList rep;
    struct fdc_req_fdcGraphList *req;
    CUresult result;

    call->id = FDC_ID_fdcGraphList;
    req = fdc_call_begin(call, at + fresh_count * 8);
    if (req == NULL)
        return call->result;
    req->graph = asked->graph;
    req->node = asked->node;
    req->question = asked->question;
    req->fresh = (struct fdc_span){at, fresh_count * 8};
    req->fresh_count = fresh_count;
    req->blob = blob;
    if (fresh_count != 0)
        memcpy((char *)req + at, fresh, fresh_count * 8);
    result = fdc_call_wait(call, &rep, sizeof(rep));
    *total = result == CUDA_SUCCESS ? rep.total : 0;
    return result;
}

static CUresult
list_nodes(struct fdc_listing *asked, CUgraphNode *nodes, CUgraphNode *to,
           CUgraphEdgeData *edges, size_t *count)
{
    static const CUgraphEdgeData plain;
    struct fdc_graph_list *list;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphList, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result =
        fdc_graph_join(&call, fdc_graph_find((CUgraph)(uintptr_t)asked->graph));
    if (result != CUDA_SUCCESS)
        return result;
    asked->send = send_list;
    result = fdc_list_ask(&call, asked, nodes != NULL, &list);
    if (result != CUDA_SUCCESS)
        return result;
    for (size_t i = 0; nodes != NULL && i < *count; i++) {
        const struct fdc_graph_row *row = i < list->count ? &list->row[i] : NULL;

        nodes[i] = (CUgraphNode)(uintptr_t)(row != NULL ? row->node : 0);
        if (to != NULL)
            to[i] = (CUgraphNode)(uintptr_t)(row != NULL ? row->to : 0);
        if (edges != NULL && row != NULL)
            memcpy(&edges[i], row->edge, sizeof(edges[i]));
        else if (row != NULL && memcmp(row->edge, &plain, sizeof(plain)) != 0)
            result = CUDA_ERROR_LOSSY_QUERY;
    }
    if (nodes == NULL || *count > list->count)
        *count = list->count;
    free(list);
    return result;
}

static CUresult
list_graph(CUgraph graph, uint32_t question, CUgraphNode *nodes, CUgraphNode *to,
           CUgraphEdgeData *edges, size_t *count)
{
    struct fdc_listing asked = {.graph = (uint64_t)(uintptr_t)graph,
                                .question = question};
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_graph_find(graph) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return list_nodes(&asked, nodes, to, edges, count);
}

static CUresult
list_node(CUgraphNode handle, uint32_t question, CUgraphNode *nodes,
          CUgraphEdgeData *edges, size_t *count)
{
    struct fdc_node *node = fdc_node_find(handle);
    struct fdc_listing asked = {.question = question};
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    asked.graph = node->graph;
    asked.node = node->object.handle;
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

/* A captured node's type is asked for with what it is made of. */
FDC_EXPORT CUresult
cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    struct fdc_node *node;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    node = fdc_node_find(hNode);
    if (node == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (type == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!node->typed)
        result = fdc_body_ask(node);
    if (result == CUDA_SUCCESS)
        *type = (CUgraphNodeType)node->type;
    return result;
}

/* ---- edges ---- */

static CUresult
edges_change(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
             const CUgraphEdgeData *edges, size_t count, bool remove)
{
    uint32_t at = sizeof(struct fdc_req_fdcGraphEdges), size = (uint32_t)count * 8;
    struct fdc_req_fdcGraphEdges *req;
    struct fdc_reply reply;
    struct fdc_call call;
    uint32_t edges_size;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphEdges, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_graph_join(&call, fdc_graph_find(graph));
    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0)
        return CUDA_SUCCESS;
    result =
        fdc_nodes_check(from, count, (uint64_t)(uintptr_t)graph, NULL, &edges_size);
    if (result == CUDA_SUCCESS)
        result =
            fdc_nodes_check(to, count, (uint64_t)(uintptr_t)graph, edges, &edges_size);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, at + 2 * size + edges_size);
    if (req == NULL)
        return call.result;
    req->graph = (uint64_t)(uintptr_t)graph;
    req->remove = remove;
    req->from = (struct fdc_span){at, size};
    req->to = (struct fdc_span){at + size, size};
    req->edges = (struct fdc_span){at + 2 * size, edges_size};
    req->edges_size = edges_size;
    req->count = (uint32_t)count;
    memcpy((char *)req + at, from, size);
    memcpy((char *)req + at + size, to, size);
    if (edges_size != 0)
        memcpy((char *)req + at + 2 * size, edges, edges_size);
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

FDC_EXPORT CUresult
cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                       size_t numDependencies)
{
    return edges_change(hGraph, from, to, NULL, numDependencies, false);
}

FDC_EXPORT CUresult
cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                          size_t numDependencies)
{
    return edges_change(hGraph, from, to, edgeData, numDependencies, false);
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, size_t numDependencies)
{
    return edges_change(hGraph, from, to, NULL, numDependencies, true);
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                             const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                             size_t numDependencies)
{
    return edges_change(hGraph, from, to, edgeData, numDependencies, true);
}
