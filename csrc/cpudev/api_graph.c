/*
 * Graphs: nodes, edges, clones, and the questions about them. Everything but the calls
 * themselves runs under sched.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

struct fdcpu_user_object {
    uint64_t handle;
    void *ptr;
    CUhostFn destroy;
    unsigned int count;
};

/* ---- life ---- */

/* Such a graph cannot be cloned, nor be inside another that does not own it. */
bool
fdcpu_graph_has_memory(const struct fdcpu_graph *graph)
{
    size_t i;

    for (i = 0; i < graph->nnodes; i++) {
        const struct fdcpu_work *work = graph->nodes[i]->work;

        if (work->kind == FDCPU_W_ALLOC || work->kind == FDCPU_W_FREE ||
            (work->kind == FDCPU_W_CHILD && fdcpu_graph_has_memory(work->u.child)))
            return true;
    }
    return false;
}

struct fdcpu_graph *
fdcpu_graph_new(void)
{
    struct fdcpu_graph *graph = calloc(1, sizeof(*graph));

    if (graph == NULL)
        return NULL;
    graph->handle = fdcpu_handle_new(FDCPU_H_GRAPH, graph);
    if (graph->handle == 0) {
        free(graph);
        return NULL;
    }
    graph->id = (unsigned int)atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    return graph;
}

static void
node_free(struct fdcpu_node *node)
{
    fdcpu_handle_drop(FDCPU_H_NODE, node->handle);
    fdcpu_work_free(node->work);
    free(node->deps);
    free(node->attrs);
    free(node);
}

void
fdcpu_graph_free(struct fdcpu_graph *graph)
{
    size_t i;

    if (graph == NULL)
        return;
    fdcpu_handle_drop(FDCPU_H_GRAPH, graph->handle);
    for (i = 0; i < graph->nnodes; i++)
        node_free(graph->nodes[i]);
    free(graph->nodes);
    fdcpu_users_drop(graph->users, graph->nusers);
    free(graph);
}

static bool
depend(struct fdcpu_node *node, struct fdcpu_node *from, const CUgraphEdgeData *data)
{
    struct fdcpu_edge *more = realloc(node->deps, (node->ndeps + 1) * sizeof(*more));

    if (more == NULL)
        return false;
    node->deps = more;
    memset(&more[node->ndeps], 0, sizeof(*more));
    more[node->ndeps].from = from;
    if (data != NULL)
        more[node->ndeps].data = *data;
    node->ndeps++;
    return true;
}

struct fdcpu_node *
fdcpu_graph_add(struct fdcpu_graph *graph, struct fdcpu_work *work,
                struct fdcpu_node *const *deps, size_t ndeps)
{
    struct fdcpu_node **more, *node = calloc(1, sizeof(*node));
    size_t i;

    if (node == NULL)
        return NULL;
    if (graph->nnodes == graph->room) {
        size_t room = graph->room == 0 ? 16 : 2 * graph->room;

        more = realloc(graph->nodes, room * sizeof(*more));
        if (more == NULL)
            goto err;
        graph->nodes = more;
        graph->room = room;
    }
    for (i = 0; i < ndeps; i++)
        if (!depend(node, deps[i], NULL))
            goto err;
    node->handle = fdcpu_handle_new(FDCPU_H_NODE, node);
    if (node->handle == 0)
        goto err;
    node->graph = graph;
    node->work = work;
    node->local_id = graph->next_local++;
    node->tools_id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    graph->nodes[graph->nnodes++] = node;
    return node;
err:
    free(node->deps);
    free(node);
    return NULL;
}

struct fdcpu_graph *
fdcpu_graph_clone(const struct fdcpu_graph *graph)
{
    struct fdcpu_graph *copy = fdcpu_graph_new();
    size_t i, d;

    if (copy == NULL)
        return NULL;
    for (i = 0; i < graph->nnodes; i++) {
        struct fdcpu_work *work = fdcpu_work_clone(graph->nodes[i]->work);
        struct fdcpu_node *node;

        if (work == NULL)
            goto err;
        node = fdcpu_graph_add(copy, work, NULL, 0);
        if (node == NULL) {
            fdcpu_work_free(work);
            goto err;
        }
        node->origin_handle = graph->nodes[i]->handle;
        if (!fdcpu_node_copy_attributes(node, graph->nodes[i]))
            goto err;
        graph->nodes[i]->mark = i;
    }
    for (i = 0; i < graph->nnodes; i++)
        for (d = 0; d < graph->nodes[i]->ndeps; d++)
            if (!depend(copy->nodes[i],
                        copy->nodes[graph->nodes[i]->deps[d].from->mark],
                        &graph->nodes[i]->deps[d].data))
                goto err;
    fdcpu_users_share(&copy->users, &copy->nusers, graph->users, graph->nusers);
    return copy;
err:
    fdcpu_graph_free(copy);
    return NULL;
}

struct fdcpu_node **
fdcpu_graph_order(const struct fdcpu_graph *graph)
{
    struct fdcpu_node **order = malloc((graph->nnodes + 1) * sizeof(*order)), *node;
    size_t done = 0, from, i, d, before;

    if (order == NULL)
        return NULL;
    /* Most graphs are made in order: then one pass over the nodes is enough. */
    for (i = 0; i < graph->nnodes; i++)
        graph->nodes[i]->mark = 0;
    do {
        before = done;
        for (i = 0; i < graph->nnodes; i++) {
            node = graph->nodes[i];
            if (node->mark != 0)
                continue;
            for (d = 0, from = 0; d < node->ndeps; d++)
                from += node->deps[d].from->mark != 0;
            if (from == node->ndeps) {
                node->mark = 1;
                order[done++] = node;
            }
        }
    } while (done > before && done < graph->nnodes);
    if (done == graph->nnodes)
        return order;
    free(order);
    return NULL;
}

/* ---- the program's objects that a graph keeps alive ---- */

static void
user_release(struct fdcpu_user_object *object, unsigned int count)
{
    if (object->count > count) {
        object->count -= count;
        return;
    }
    fdcpu_handle_drop(FDCPU_H_OBJECT, object->handle);
    object->destroy(object->ptr);
    free(object);
}

void
fdcpu_users_share(struct fdcpu_user_ref **to, size_t *nto,
                  const struct fdcpu_user_ref *from, size_t nfrom)
{
    struct fdcpu_user_ref *more;
    size_t i;

    if (nfrom == 0)
        return;
    more = realloc(*to, (*nto + nfrom) * sizeof(**to));
    if (more == NULL)
        return;
    *to = more;
    for (i = 0; i < nfrom; i++) {
        more[(*nto)++] = from[i];
        from[i].object->count += from[i].count;
    }
}

void
fdcpu_users_drop(struct fdcpu_user_ref *users, size_t nusers)
{
    size_t i;

    for (i = 0; i < nusers; i++)
        user_release(users[i].object, users[i].count);
    free(users);
}

FDC_EXPORT CUresult
cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                   unsigned int initialRefcount, unsigned int flags)
{
    struct fdcpu_user_object *object;

    if (object_out == NULL || destroy == NULL || initialRefcount == 0 ||
        initialRefcount > INT32_MAX || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
        return CUDA_ERROR_INVALID_VALUE;
    object = calloc(1, sizeof(*object));
    if (object == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    object->ptr = ptr;
    object->destroy = destroy;
    object->count = initialRefcount;
    object->handle = fdcpu_handle_new(FDCPU_H_OBJECT, object);
    *object_out = (CUuserObject)(uintptr_t)object->handle;
    return CUDA_SUCCESS;
}

static CUresult
user_change(CUuserObject handle, unsigned int count, bool more)
{
    struct fdcpu_user_object *object = FDCPU_GET(FDCPU_H_OBJECT, handle);

    if (object == NULL || count == 0 || count > INT32_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    if (more)
        object->count += count;
    else
        user_release(object, count);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuUserObjectRetain(CUuserObject object, unsigned int count)
{
    return user_change(object, count, true);
}

FDC_EXPORT CUresult
cuUserObjectRelease(CUuserObject object, unsigned int count)
{
    return user_change(object, count, false);
}

FDC_EXPORT CUresult
cuGraphRetainUserObject(CUgraph hGraph, CUuserObject handle, unsigned int count,
                        unsigned int flags)
{
    struct fdcpu_user_object *object = FDCPU_GET(FDCPU_H_OBJECT, handle);
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_user_ref *more;
    CUresult result = CUDA_SUCCESS;

    if (graph == NULL || object == NULL || count == 0 || flags > 1)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    more = realloc(graph->users, (graph->nusers + 1) * sizeof(*more));
    if (more == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        graph->users = more;
        more[graph->nusers++] = (struct fdcpu_user_ref){object, count};
        if ((flags & CU_GRAPH_USER_OBJECT_MOVE) == 0)
            object->count += count;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDC_EXPORT CUresult
cuGraphReleaseUserObject(CUgraph hGraph, CUuserObject handle, unsigned int count)
{
    struct fdcpu_user_object *object = FDCPU_GET(FDCPU_H_OBJECT, handle);
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    size_t i;

    if (graph == NULL || object == NULL || count == 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < graph->nusers; i++) {
        if (graph->users[i].object != object || graph->users[i].count < count)
            continue;
        graph->users[i].count -= count;
        if (graph->users[i].count == 0)
            graph->users[i] = graph->users[--graph->nusers];
        user_release(object, count);
        result = CUDA_SUCCESS;
        break;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

/* ---- graphs as a whole ---- */

FDC_EXPORT CUresult
cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    struct fdcpu_graph *graph;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    graph = fdcpu_graph_new();
    if (graph == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *phGraph = (CUgraph)(uintptr_t)graph->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphDestroy(CUgraph hGraph)
{
    struct fdcpu_graph *graph;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (graph->child || graph->capturing)
        return CUDA_ERROR_INVALID_VALUE; /* it is a node's, or a capture's */
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_graph_free(graph);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, originalGraph), *copy;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (phGraphClone == NULL || graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    if (fdcpu_graph_has_memory(graph)) {
        pthread_mutex_unlock(&fdcpu.sched);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    copy = fdcpu_graph_clone(graph);
    pthread_mutex_unlock(&fdcpu.sched);
    if (copy == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *phGraphClone = (CUgraph)(uintptr_t)copy->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode,
                       CUgraph hClonedGraph)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hClonedGraph);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    size_t i;

    if (phNode == NULL || graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < graph->nnodes; i++) {
        if (graph->nodes[i]->origin_handle == (uint64_t)(uintptr_t)hOriginalNode) {
            *phNode = (CUgraphNode)(uintptr_t)graph->nodes[i]->handle;
            result = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

/* ---- questions ---- */

/* Writes at most *n handles and says how many there are; the rest is zeroed. */
struct list {
    CUgraphNode *nodes, *others;
    CUgraphEdgeData *edges;
    size_t room, n;
    bool lossy; /* an edge has data that nobody asked for */
};

static void
list_add(struct list *list, const struct fdcpu_node *node,
         const struct fdcpu_node *other, const CUgraphEdgeData *edge)
{
    if (list->n < list->room) {
        if (list->nodes != NULL)
            list->nodes[list->n] = (CUgraphNode)(uintptr_t)node->handle;
        if (list->others != NULL && other != NULL)
            list->others[list->n] = (CUgraphNode)(uintptr_t)other->handle;
        if (list->edges != NULL && edge != NULL)
            list->edges[list->n] = *edge;
        else if (edge != NULL && (edge->from_port | edge->to_port | edge->type) != 0)
            list->lossy = true;
    }
    list->n++;
}

static void
list_end(struct list *list, size_t *out)
{
    size_t i;

    for (i = list->n; i < list->room; i++) {
        if (list->nodes != NULL)
            list->nodes[i] = NULL;
        if (list->others != NULL)
            list->others[i] = NULL;
    }
    *out = list->nodes == NULL || list->n < list->room ? list->n : list->room;
}

enum { ALL_NODES, ROOT_NODES, EDGES };

static CUresult
graph_list(CUgraph hGraph, int what, CUgraphNode *nodes, CUgraphNode *others,
           CUgraphEdgeData *edges, size_t *count)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct list list = {nodes, others, edges, 0, 0, false};
    size_t i, d;

    if (graph == NULL || count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    list.room = nodes == NULL ? 0 : *count;
    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < graph->nnodes; i++) {
        struct fdcpu_node *node = graph->nodes[i];

        if (what == ALL_NODES || (what == ROOT_NODES && node->ndeps == 0))
            list_add(&list, node, NULL, NULL);
        for (d = 0; what == EDGES && d < node->ndeps; d++)
            list_add(&list, node->deps[d].from, node, &node->deps[d].data);
    }
    list_end(&list, count);
    pthread_mutex_unlock(&fdcpu.sched);
    return list.lossy ? CUDA_ERROR_LOSSY_QUERY : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    return graph_list(hGraph, ALL_NODES, nodes, NULL, NULL, numNodes);
}

FDC_EXPORT CUresult
cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    return graph_list(hGraph, ROOT_NODES, rootNodes, NULL, NULL, numRootNodes);
}

FDC_EXPORT CUresult
cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                   CUgraphEdgeData *edgeData, size_t *numEdges)
{
    if ((from == NULL) != (to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    return graph_list(hGraph, EDGES, from, to, edgeData, numEdges);
}

static CUresult
neighbours(CUgraphNode hNode, bool dependents, CUgraphNode *nodes,
           CUgraphEdgeData *edges, size_t *count)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode), *other;
    struct list list = {nodes, NULL, edges, 0, 0, false};
    size_t i, d;

    if (node == NULL || count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    list.room = nodes == NULL ? 0 : *count;
    pthread_mutex_lock(&fdcpu.sched);
    for (d = 0; !dependents && d < node->ndeps; d++)
        list_add(&list, node->deps[d].from, NULL, &node->deps[d].data);
    for (i = 0; dependents && i < node->graph->nnodes; i++) {
        other = node->graph->nodes[i];
        for (d = 0; d < other->ndeps; d++)
            if (other->deps[d].from == node)
                list_add(&list, other, NULL, &other->deps[d].data);
    }
    list_end(&list, count);
    pthread_mutex_unlock(&fdcpu.sched);
    return list.lossy ? CUDA_ERROR_LOSSY_QUERY : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies,
                              CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    return neighbours(hNode, false, dependencies, edgeData, numDependencies);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies,
                           size_t *numDependencies)
{
    return neighbours(hNode, false, dependencies, NULL, numDependencies);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
    return neighbours(hNode, true, dependentNodes, edgeData, numDependentNodes);
}

FDC_EXPORT CUresult
cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes,
                             size_t *numDependentNodes)
{
    return neighbours(hNode, true, dependentNodes, NULL, numDependentNodes);
}

/* ---- edges ---- */

static CUresult
change_edges(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
             const CUgraphEdgeData *data, size_t n, bool add)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_node *a, *b;
    CUresult result = CUDA_SUCCESS;
    size_t i, d;

    if (graph == NULL || (n > 0 && (from == NULL || to == NULL)))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    for (i = 0; i < n && result == CUDA_SUCCESS; i++) {
        a = FDCPU_GET(FDCPU_H_NODE, from[i]);
        b = FDCPU_GET(FDCPU_H_NODE, to[i]);
        if (a == NULL || b == NULL || a == b || a->graph != graph ||
            b->graph != graph) {
            result = CUDA_ERROR_INVALID_VALUE;
            break;
        }
        for (d = 0; d < b->ndeps && b->deps[d].from != a; d++)
            ;
        if (add == (d < b->ndeps))
            result = CUDA_ERROR_INVALID_VALUE; /* is there already, or is not */
        else if (!add)
            b->deps[d] = b->deps[--b->ndeps];
        else if (!depend(b, a, data == NULL ? NULL : &data[i]))
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDC_EXPORT CUresult
cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                          size_t numDependencies)
{
    return change_edges(hGraph, from, to, edgeData, numDependencies, true);
}

FDC_EXPORT CUresult
cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                       size_t numDependencies)
{
    return change_edges(hGraph, from, to, NULL, numDependencies, true);
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                             const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                             size_t numDependencies)
{
    (void)edgeData;
    return change_edges(hGraph, from, to, NULL, numDependencies, false);
}

FDC_EXPORT CUresult
cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from,
                          const CUgraphNode *to, size_t numDependencies)
{
    return change_edges(hGraph, from, to, NULL, numDependencies, false);
}

FDC_EXPORT CUresult
cuGraphDestroyNode(CUgraphNode hNode)
{
    struct fdcpu_node *node = FDCPU_GET(FDCPU_H_NODE, hNode), *other;
    struct fdcpu_graph *graph;
    size_t i, d;

    if (node == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (node->work->kind == FDCPU_W_ALLOC || node->work->kind == FDCPU_W_FREE)
        return CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&fdcpu.sched);
    graph = node->graph;
    for (i = 0; i < graph->nnodes; i++) {
        other = graph->nodes[i];
        for (d = 0; d < other->ndeps;) {
            if (other->deps[d].from == node)
                other->deps[d] = other->deps[--other->ndeps];
            else
                d++;
        }
    }
    for (i = 0; graph->nodes[i] != node; i++)
        ;
    memmove(graph->nodes + i, graph->nodes + i + 1,
            (graph->nnodes - i - 1) * sizeof(*graph->nodes));
    graph->nnodes--;
    node_free(node);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;
}
