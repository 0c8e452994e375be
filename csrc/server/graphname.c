/*
 * Names of graphs' nodes. Nodes are named by the client, those that the driver made by
 * itself (captured ones, clones) when it first asks for them. From a driver's node to its
 * handle leads a hash table; an entry counts only while the handle still means that node,
 * so names that have ended need not be looked for in it.
 */
#include <errno.h>
#include <stdlib.h>

#include "server/graph.h"

struct entry {
    CUgraphNode node; /* NULL: free */
    uint64_t handle;
};

struct fdc_names {
    pthread_mutex_t lock; /* before a table's lock */
    struct entry *entry;  /* open addressing */
    size_t room, used;    /* a power of two */
    uint32_t inner;       /* graphs inside others that have had names */
};

struct fdc_names *
fdc_names_new(void)
{
    struct fdc_names *names = calloc(1, sizeof(*names));

    if (names != NULL)
        pthread_mutex_init(&names->lock, NULL);
    return names;
}

void
fdc_names_free(struct fdc_names *names)
{
    if (names == NULL)
        return;
    pthread_mutex_destroy(&names->lock);
    free(names->entry);
    free(names);
}

/* Whether the handle still stands for the node. */
static bool
lives(struct fdc_serve *serve, const struct entry *entry)
{
    void *value = NULL;

    return fdc_handle_get(serve, FDC_KIND_NODE, entry->handle, &value) ==
               CUDA_SUCCESS &&
           value == entry->node;
}

static size_t
place(const struct fdc_names *names, CUgraphNode node)
{
    uint64_t key = (uint64_t)(uintptr_t)node * 0x9e3779b97f4a7c15ull;
    size_t at = (size_t)(key >> 20) & (names->room - 1);

    while (names->entry[at].node != NULL && names->entry[at].node != node)
        at = (at + 1) & (names->room - 1);
    return at;
}

/* Room for one more; what has ended goes. Under the lock. */
static bool
grow(struct fdc_serve *serve, struct fdc_names *names)
{
    struct entry *old = names->entry;
    size_t count = names->room, alive = 0;

    if (names->used * 2 < names->room)
        return true;
    for (size_t i = 0; i < count; i++)
        alive += old[i].node != NULL && lives(serve, &old[i]);
    names->room = 64;
    while (names->room < alive * 4 + 4)
        names->room *= 2;
    names->entry = calloc(names->room, sizeof(*names->entry));
    if (names->entry == NULL) {
        names->entry = old;
        names->room = count;
        return names->used + 1 < names->room;
    }
    names->used = 0;
    for (size_t i = 0; i < count; i++)
        if (old[i].node != NULL && lives(serve, &old[i])) {
            names->entry[place(names, old[i].node)] = old[i];
            names->used++;
        }
    free(old);
    return true;
}

uint64_t
fdc_node_name(struct fdc_serve *serve, CUgraphNode node)
{
    struct fdc_names *names = serve->names;
    uint64_t handle = 0;

    pthread_mutex_lock(&names->lock);
    if (names->room != 0) {
        struct entry *entry = &names->entry[place(names, node)];

        if (entry->node != NULL && lives(serve, entry))
            handle = entry->handle;
    }
    pthread_mutex_unlock(&names->lock);
    return handle;
}

CUresult
fdc_node_put(struct fdc_request *request, uint64_t handle, CUgraphNode node,
             CUgraph graph)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_names *names = serve->names;
    struct entry *entry;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

    pthread_mutex_lock(&names->lock);
    if (grow(serve, names))
        result = fdc_handle_put_aux(serve, FDC_KIND_NODE, handle, node, graph,
                                    request->ctx);
    if (result == CUDA_SUCCESS) {
        entry = &names->entry[place(names, node)];
        names->used += entry->node == NULL;
        *entry = (struct entry){node, handle};
    }
    pthread_mutex_unlock(&names->lock);
    return result;
}

CUresult
fdc_node_get(struct fdc_serve *serve, uint64_t handle, CUgraphNode *node)
{
    void *value = NULL;
    CUresult result = fdc_handle_get(serve, FDC_KIND_NODE, handle, &value);

    *node = value;
    return result;
}

CUgraph
fdc_node_graph(struct fdc_serve *serve, uint64_t handle)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_NODE, handle);

    return slot != NULL ? fdc_slot_aux(slot) : NULL;
}

CUgraphNode *
fdc_nodes_read(struct fdc_request *request, struct fdc_span span, uint32_t count,
               int *err, CUresult *result)
{
    const uint64_t *handles = fdc_request_span(request, span);
    CUgraphNode *nodes;

    *err = 0;
    if (span.size != (uint64_t)count * 8 || (count != 0 && handles == NULL)) {
        *err = -EPROTO;
        return NULL;
    }
    nodes = calloc(count + 1u, sizeof(*nodes));
    *result = nodes == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    for (uint32_t i = 0; i < count && *result == CUDA_SUCCESS; i++)
        *result = fdc_node_get(request->serve, handles[i], &nodes[i]);
    return nodes;
}

int
fdc_edges_read(struct fdc_request *request, struct fdc_span span, uint32_t count,
               const CUgraphEdgeData **edges)
{
    *edges = NULL;
    if (span.size == 0)
        return 0;
    *edges = fdc_request_span(request, span);
    return *edges != NULL && span.size == count * sizeof(**edges) ? 0 : -EPROTO;
}

/* ---- graphs ---- */

CUresult
fdc_graph_get(struct fdc_serve *serve, uint64_t handle, CUgraph *graph)
{
    void *value = NULL;
    CUresult result = fdc_handle_get(serve, FDC_KIND_GRAPH, handle, &value);

    *graph = value;
    return result;
}

/* A graph inside this one that has a name, which it loses; NULL: there is none. */
static CUgraph
take_inner(struct fdc_serve *serve, CUgraph graph)
{
    struct fdc_slots *slots = &serve->slots[FDC_KIND_GRAPH];
    CUgraph inner = NULL;

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high && inner == NULL; i++) {
        struct fdc_slot *slot = fdc_slot_at(serve, FDC_KIND_GRAPH, i);

        if (slot == NULL || slot->state == 0 || slot->aux != graph ||
            slot->value == graph)
            continue;
        inner = slot->value;
        fdc_slot_empty(slot);
    }
    pthread_mutex_unlock(&slots->lock);
    return inner;
}

void
fdc_graph_forget(struct fdc_serve *serve, CUgraph graph)
{
    CUgraph inner;

    if (fdc_load_relaxed(&serve->names->inner) != 0)
        while ((inner = take_inner(serve, graph)) != NULL)
            fdc_graph_forget(serve, inner);
    fdc_handle_sweep_aux(serve, FDC_KIND_NODE, graph);
}

/* The driver has ended the graph, or is about to: its own names go too. */
void
fdc_graph_end(struct fdc_serve *serve, CUgraph graph)
{
    struct fdc_slots *slots = &serve->slots[FDC_KIND_GRAPH];

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high; i++) {
        struct fdc_slot *slot = fdc_slot_at(serve, FDC_KIND_GRAPH, i);

        if (slot != NULL && slot->state != 0 && slot->value == graph)
            fdc_slot_empty(slot);
    }
    pthread_mutex_unlock(&slots->lock);
    fdc_graph_forget(serve, graph);
}

/* The graph inside a node, if it has names: they end. */
void
fdc_node_forget_child(struct fdc_serve *serve, CUgraphNode node)
{
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
    CUgraph child = NULL;

    if (fdc_load_relaxed(&serve->names->inner) == 0 ||
        serve->driver->cuGraphNodeGetType(node, &type) != CUDA_SUCCESS ||
        type != CU_GRAPH_NODE_TYPE_GRAPH ||
        serve->driver->cuGraphChildGraphNodeGetGraph(node, &child) != CUDA_SUCCESS)
        return;
    fdc_graph_end(serve, child);
}

CUresult
fdc_graph_put_inner(struct fdc_request *request, uint64_t handle, CUgraph graph,
                    CUgraph in)
{
    __atomic_store_n(&request->serve->names->inner, 1, __ATOMIC_RELAXED);
    return fdc_handle_put_aux(request->serve, FDC_KIND_GRAPH, handle, graph, in,
                              request->ctx);
}

CUresult
fdc_graph_move(struct fdc_request *request, CUgraph graph, CUgraph in)
{
    struct fdc_slots *slots = &request->serve->slots[FDC_KIND_GRAPH];
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    __atomic_store_n(&request->serve->names->inner, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high; i++) {
        struct fdc_slot *slot = fdc_slot_at(request->serve, FDC_KIND_GRAPH, i);

        if (slot != NULL && slot->state != 0 && slot->value == graph) {
            fdc_store_release(&slot->aux, (void *)in); /* pairs with fdc_slot_aux() */
            result = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&slots->lock);
    return result;
}
