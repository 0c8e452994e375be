/*
 * Which copies of a graph have an end in a shadow, and which of them come before and
 * behind each host function: read from the driver's graph when it is made executable, so
 * that captured nodes, clones and graphs inside graphs are all alike.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "server/graph.h"

struct nodes {
    CUgraphNode *node;
    size_t count, room;
};

static bool
nodes_add(struct nodes *nodes, CUgraphNode node)
{
    if (nodes->count == nodes->room) {
        size_t room = nodes->room == 0 ? 16 : 2 * nodes->room;
        CUgraphNode *grown = realloc(nodes->node, room * sizeof(*grown));

        if (grown == NULL)
            return false;
        nodes->node = grown;
        nodes->room = room;
    }
    nodes->node[nodes->count++] = node;
    return true;
}

static CUresult
nodes_of(const struct fdc_driver *driver, CUgraph graph, struct nodes *nodes)
{
    CUresult result = driver->cuGraphGetNodes(graph, NULL, &nodes->count);

    if (result != CUDA_SUCCESS || nodes->count == 0)
        return result;
    nodes->node = calloc(nodes->count, sizeof(*nodes->node));
    if (nodes->node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return driver->cuGraphGetNodes(graph, nodes->node, &nodes->count);
}

/* ---- copies ---- */

static void
row_fill(struct fdc_row *row, const CUDA_MEMCPY3D *copy, const uint8_t *at, bool up)
{
    uint64_t pitch = up ? copy->srcPitch : copy->dstPitch;
    uint64_t height = up ? copy->srcHeight : copy->dstHeight;

    if (pitch == 0)
        pitch = copy->WidthInBytes;
    if (height == 0)
        height = copy->Height;
    row->copy = (struct fdc_graph_copy){
        .shadow = row->shadow->handle,
        .offset = (uint64_t)(at - row->shadow->bytes),
        .width = copy->WidthInBytes,
        .height = copy->Height,
        .depth = copy->Depth,
        .pitch = pitch,
        .slice = pitch * height,
        .up = up,
        .down = !up,
    };
}

static CUresult
row_add(struct fdc_serve *serve, struct fdc_rows *rows, CUgraphNode node,
        const CUDA_MEMCPY3D *copy, bool up)
{
    CUmemorytype type = up ? copy->srcMemoryType : copy->dstMemoryType;
    const uint8_t *at = up ? copy->srcHost : copy->dstHost;
    struct fdc_shadow *shadow;
    struct fdc_row *grown;
    uint64_t size;

    if (type == CU_MEMORYTYPE_ARRAY)
        return CUDA_SUCCESS;
    if (type != CU_MEMORYTYPE_HOST) /* a driver may call registered memory so */
        at = (const uint8_t *)(uintptr_t)(up ? copy->srcDevice : copy->dstDevice);
    if (at == NULL)
        return CUDA_SUCCESS;
    shadow = fdc_shadow_at(serve, at);
    if (shadow == NULL)
        return CUDA_SUCCESS;
    grown = realloc(rows->row, (rows->count + 1) * sizeof(*grown));
    if (grown == NULL) {
        fdc_shadow_put(serve, shadow);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    rows->row = grown;
    grown[rows->count] = (struct fdc_row){.shadow = shadow, .node = node};
    row_fill(&grown[rows->count++], copy, at, up);
    size = copy->WidthInBytes * copy->Height * copy->Depth;
    if (up)
        rows->up += size;
    else
        rows->down += size;
    return CUDA_SUCCESS;
}

static CUresult
rows_add(struct fdc_serve *serve, struct fdc_rows *rows, CUgraphNode node,
         const CUDA_MEMCPY3D *copy)
{
    CUresult result = row_add(serve, rows, node, copy, true);

    return result == CUDA_SUCCESS ? row_add(serve, rows, node, copy, false) : result;
}

struct walk {
    struct fdc_serve *serve;
    struct fdc_rows *rows;
    size_t hosts;
};

/* All copies, and how many host functions there are. */
static CUresult
collect(struct walk *walk, CUgraph graph)
{
    const struct fdc_driver *driver = walk->serve->driver;
    struct nodes nodes = {0};
    CUDA_MEMCPY3D copy;
    CUgraph child;
    CUresult result = nodes_of(driver, graph, &nodes);

    for (size_t i = 0; i < nodes.count && result == CUDA_SUCCESS; i++) {
        CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;

        result = driver->cuGraphNodeGetType(nodes.node[i], &type);
        if (result != CUDA_SUCCESS)
            break;
        if (type == CU_GRAPH_NODE_TYPE_HOST) {
            walk->hosts++;
        } else if (type == CU_GRAPH_NODE_TYPE_MEMCPY) {
            memset(&copy, 0, sizeof(copy));
            if (driver->cuGraphMemcpyNodeGetParams(nodes.node[i], &copy) ==
                CUDA_SUCCESS)
                result = rows_add(walk->serve, walk->rows, nodes.node[i], &copy);
        } else if (type == CU_GRAPH_NODE_TYPE_GRAPH) {
            result = driver->cuGraphChildGraphNodeGetGraph(nodes.node[i], &child);
            if (result == CUDA_SUCCESS)
                result = collect(walk, child);
        }
    }
    free(nodes.node);
    return result;
}

/* ---- before and behind host functions ---- */

/* The copies and host functions that a node of this type stands for: itself, or those of
 * the graph in it. */
static CUresult
copies_in(const struct fdc_driver *driver, CUgraphNode node, CUgraphNodeType type,
          struct nodes *copies)
{
    struct nodes inner = {0};
    CUgraph child;
    CUresult result;

    if (type == CU_GRAPH_NODE_TYPE_MEMCPY || type == CU_GRAPH_NODE_TYPE_HOST)
        return nodes_add(copies, node) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (type != CU_GRAPH_NODE_TYPE_GRAPH)
        return CUDA_SUCCESS;
    result = driver->cuGraphChildGraphNodeGetGraph(node, &child);
    if (result == CUDA_SUCCESS)
        result = nodes_of(driver, child, &inner);
    for (size_t i = 0; i < inner.count && result == CUDA_SUCCESS; i++) {
        result = driver->cuGraphNodeGetType(inner.node[i], &type);
        if (result == CUDA_SUCCESS)
            result = copies_in(driver, inner.node[i], type, copies);
    }
    free(inner.node);
    return result;
}

struct shape { /* of one graph */
    struct nodes nodes; /* sorted */
    CUgraphNodeType *type;
    CUgraphNode *from, *to;
    size_t edges;
    /* Neighbours by index: those before node i are near[0][first[0][i]..first[0][i + 1]),
     * those behind it near[1][...]. */
    size_t *first[2], *near[2];
};

static int
compare(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)*(CUgraphNode const *)a;
    uintptr_t y = (uintptr_t)*(CUgraphNode const *)b;

    return x < y ? -1 : x > y;
}

static void
nodes_sort(CUgraphNode *nodes, size_t count)
{
    if (count > 1)
        qsort(nodes, count, sizeof(*nodes), compare);
}

/* The place of a node among sorted ones, NULL: it is none of them. */
static const CUgraphNode *
place_of(const CUgraphNode *nodes, size_t count, CUgraphNode node)
{
    return count != 0 ? bsearch(&node, nodes, count, sizeof(*nodes), compare) : NULL;
}

static CUresult
edges_read(const struct fdc_driver *driver, CUgraph graph, struct shape *shape)
{
    CUgraphEdgeData *data = NULL;
    bool has_data = FDC_HAS(driver, cuGraphGetEdges_v2);
    CUresult result;

    result = has_data
                 ? driver->cuGraphGetEdges_v2(graph, NULL, NULL, NULL, &shape->edges)
                 : driver->cuGraphGetEdges(graph, NULL, NULL, &shape->edges);
    if (result != CUDA_SUCCESS || shape->edges == 0)
        return result;
    shape->from = calloc(shape->edges, sizeof(*shape->from));
    shape->to = calloc(shape->edges, sizeof(*shape->to));
    data = calloc(shape->edges, sizeof(*data));
    result = CUDA_ERROR_OUT_OF_MEMORY;
    if (shape->from != NULL && shape->to != NULL && data != NULL)
        result = has_data ? driver->cuGraphGetEdges_v2(graph, shape->from, shape->to,
                                                       data, &shape->edges)
                          : driver->cuGraphGetEdges(graph, shape->from, shape->to,
                                                    &shape->edges);
    free(data);
    return result;
}

/* The neighbours on one side of every node; edges of nodes that are not there are none. */
static CUresult
neighbours(struct shape *shape, bool behind)
{
    const CUgraphNode *own = behind ? shape->from : shape->to;
    const CUgraphNode *other = behind ? shape->to : shape->from;
    size_t count = shape->nodes.count;
    size_t *first = calloc(count + 2, sizeof(*first));
    size_t *near = calloc(shape->edges + 1, sizeof(*near));

    shape->first[behind] = first;
    shape->near[behind] = near;
    if (first == NULL || near == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (int fill = 0; fill < 2; fill++) {
        /* First how many node i has, in first[i + 2]; summed up, first[i + 1] is where its
         * next one goes; at the end first[i] is where they begin. */
        for (size_t e = 0; e < shape->edges; e++) {
            const CUgraphNode *a = place_of(shape->nodes.node, count, own[e]);
            const CUgraphNode *b = place_of(shape->nodes.node, count, other[e]);
            size_t i = a != NULL ? (size_t)(a - shape->nodes.node) : 0;

            if (a == NULL || b == NULL)
                continue;
            if (fill)
                near[first[i + 1]++] = (size_t)(b - shape->nodes.node);
            else
                first[i + 2]++;
        }
        for (size_t i = 1; !fill && i < count + 2; i++)
            first[i] += first[i - 1];
    }
    return CUDA_SUCCESS;
}

static void
shape_free(struct shape *shape)
{
    free(shape->nodes.node);
    free(shape->type);
    free(shape->from);
    free(shape->to);
    for (int i = 0; i < 2; i++) {
        free(shape->first[i]);
        free(shape->near[i]);
    }
}

static CUresult
shape_read(const struct fdc_driver *driver, CUgraph graph, struct shape *shape)
{
    CUresult result = nodes_of(driver, graph, &shape->nodes);

    if (result == CUDA_SUCCESS)
        result = edges_read(driver, graph, shape);
    shape->type = calloc(shape->nodes.count + 1, sizeof(*shape->type));
    if (shape->type == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS)
        return result;
    nodes_sort(shape->nodes.node, shape->nodes.count);
    for (size_t i = 0; i < shape->nodes.count && result == CUDA_SUCCESS; i++)
        result = driver->cuGraphNodeGetType(shape->nodes.node[i], &shape->type[i]);
    for (int i = 0; i < 2 && result == CUDA_SUCCESS; i++)
        result = neighbours(shape, i == 1);
    return result;
}

/* Adds the copies on one side of a node: all that lead to it, or come from it. */
static CUresult
side(const struct fdc_driver *driver, const struct shape *shape, size_t node,
     bool before, struct nodes *copies)
{
    const size_t *first = shape->first[!before], *near = shape->near[!before];
    bool *in = calloc(shape->nodes.count + 1, 1);
    size_t *todo = calloc(shape->nodes.count + 1, sizeof(*todo)), left = 0;
    CUresult result = CUDA_SUCCESS;

    if (in == NULL || todo == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto out;
    }
    in[node] = true;
    todo[left++] = node;
    while (left > 0 && result == CUDA_SUCCESS) {
        size_t at = todo[--left];

        for (size_t i = first[at]; i < first[at + 1]; i++)
            if (!in[near[i]]) {
                in[near[i]] = true;
                todo[left++] = near[i];
            }
        if (at != node)
            result = copies_in(driver, shape->nodes.node[at], shape->type[at], copies);
    }
out:
    free(in);
    free(todo);
    return result;
}

static CUresult
nodes_copy(struct nodes *to, const struct nodes *from)
{
    for (size_t i = 0; i < from->count; i++)
        if (!nodes_add(to, from->node[i]))
            return CUDA_ERROR_OUT_OF_MEMORY;
    return CUDA_SUCCESS;
}

/* Takes the lists over. */
static CUresult
set_add(struct walk *walk, CUgraphNode node, struct nodes *before, struct nodes *after)
{
    struct fdc_rows *rows = walk->rows;
    CUDA_HOST_NODE_PARAMS host = {0};
    struct fdc_host_set *grown;
    uint64_t number;
    CUresult result;

    result = walk->serve->driver->cuGraphHostNodeGetParams(node, &host);
    if (result == CUDA_SUCCESS)
        result = fdc_hostfn_number(walk->serve, host.fn, host.userData, &number);
    if (result != CUDA_SUCCESS)
        return result;
    grown = realloc(rows->set, (rows->sets + 1) * sizeof(*grown));
    if (grown == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    rows->set = grown;
    nodes_sort(before->node, before->count);
    nodes_sort(after->node, after->count);
    grown[rows->sets++] = (struct fdc_host_set){
        number, node, before->node, after->node, before->count, after->count};
    before->node = after->node = NULL;
    return CUDA_SUCCESS;
}

static CUresult
hosts(struct walk *walk, CUgraph graph, const struct nodes *outer_before,
      const struct nodes *outer_after)
{
    const struct fdc_driver *driver = walk->serve->driver;
    struct shape shape = {0};
    CUgraph child;
    CUresult result = shape_read(driver, graph, &shape);

    for (size_t i = 0; i < shape.nodes.count && result == CUDA_SUCCESS; i++) {
        CUgraphNode node = shape.nodes.node[i];
        struct nodes before = {0}, after = {0};
        CUgraphNodeType type = shape.type[i];

        if (type != CU_GRAPH_NODE_TYPE_HOST && type != CU_GRAPH_NODE_TYPE_GRAPH)
            continue;
        result = nodes_copy(&before, outer_before);
        if (result == CUDA_SUCCESS)
            result = nodes_copy(&after, outer_after);
        if (result == CUDA_SUCCESS)
            result = side(driver, &shape, i, true, &before);
        if (result == CUDA_SUCCESS)
            result = side(driver, &shape, i, false, &after);
        if (result == CUDA_SUCCESS && type == CU_GRAPH_NODE_TYPE_HOST) {
            result = set_add(walk, node, &before, &after);
        } else if (result == CUDA_SUCCESS) {
            result = driver->cuGraphChildGraphNodeGetGraph(node, &child);
            if (result == CUDA_SUCCESS)
                result = hosts(walk, child, &before, &after);
        }
        free(before.node);
        free(after.node);
    }
    shape_free(&shape);
    return result;
}

/* The host function that a copy's bytes are for: of those behind it one with none of the
 * others before it. NULL: there is none, they are given at the end. */
static const struct fdc_host_set *
first_behind(const struct fdc_rows *rows, CUgraphNode copy)
{
    const struct fdc_host_set *first = NULL;

    for (size_t s = 0; s < rows->sets; s++) {
        const struct fdc_host_set *set = &rows->set[s];

        if (place_of(set->before, set->nbefore, copy) != NULL &&
            (first == NULL || place_of(first->before, first->nbefore, set->node) != NULL))
            first = set;
    }
    return first;
}

static int
ranges_compare(const void *a, const void *b, void *rows)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const struct fdc_row *row = rows;
    int differ = memcmp(&row[x].copy, &row[y].copy, offsetof(struct fdc_graph_copy, down));

    return differ != 0 ? differ : x < y ? -1 : x > y;
}

/* For each row the first one with the same bytes in the same direction. */
static bool
firsts_find(const struct fdc_rows *rows, uint32_t *first)
{
    uint32_t *order = calloc(rows->count, sizeof(*order));

    if (order == NULL)
        return false;
    for (uint32_t i = 0; i < rows->count; i++)
        order[i] = i;
    qsort_r(order, rows->count, sizeof(*order), ranges_compare, rows->row);
    for (uint32_t i = 0, at = 0; i < rows->count; i++) {
        if (memcmp(&rows->row[order[at]].copy, &rows->row[order[i]].copy,
                   offsetof(struct fdc_graph_copy, down)) != 0)
            at = i;
        first[order[i]] = order[at];
    }
    free(order);
    return true;
}

/* Lists the row for the set's function; bytes that are listed for it already are not listed
 * again. */
static void
host_add(struct fdc_rows *rows, uint8_t *listed, uint32_t row, uint32_t first,
         const struct fdc_host_set *set, uint32_t after)
{
    uint8_t *seen = &listed[first * rows->sets + (size_t)(set - rows->set)];

    if (*seen == 0)
        rows->host[rows->hosts++] = (struct fdc_graph_host){set->number, row, after};
    *seen = 1;
}

/* What the sets say of the copies that there are. A function may change what it was given,
 * so bytes are given once: before it, or at the end. */
static CUresult
hosts_name(struct fdc_rows *rows)
{
    size_t room = (rows->sets + 1) * rows->count;
    uint32_t *firsts;
    uint8_t *listed;

    if (rows->sets == 0 || rows->count == 0)
        return CUDA_SUCCESS;
    rows->host = calloc(room, sizeof(*rows->host));
    firsts = calloc(rows->count, sizeof(*firsts));
    listed = calloc(rows->count, rows->sets);
    if (rows->host == NULL || firsts == NULL || listed == NULL ||
        !firsts_find(rows, firsts)) {
        free(firsts);
        free(listed);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (uint32_t i = 0; i < rows->count; i++) {
        struct fdc_graph_copy *copy = &rows->row[i].copy;
        const struct fdc_host_set *first = first_behind(rows, rows->row[i].node);

        if (copy->down && first != NULL) {
            if (copy->down == FDC_COPY_AT_END)
                rows->down -= copy->width * copy->height * copy->depth;
            copy->down = FDC_COPY_BY_HOST;
            host_add(rows, listed, i, firsts[i], first, 0);
        }
        for (size_t s = 0; s < rows->sets && copy->up; s++)
            if (place_of(rows->set[s].after, rows->set[s].nafter, rows->row[i].node) != NULL)
                host_add(rows, listed, i, firsts[i], &rows->set[s], 1);
    }
    free(firsts);
    free(listed);
    return CUDA_SUCCESS;
}

/* ---- lists ---- */

void
fdc_rows_put(struct fdc_serve *serve, struct fdc_rows *rows)
{
    /* pairs with itself: the last one out sees all that the others did */
    if (rows == NULL || __atomic_sub_fetch(&rows->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    for (uint32_t i = 0; i < rows->count; i++)
        fdc_shadow_put(serve, rows->row[i].shadow);
    for (size_t s = 0; s < rows->sets; s++) {
        free(rows->set[s].before);
        free(rows->set[s].after);
    }
    free(rows->set);
    free(rows->row);
    free(rows->host);
    free(rows);
}

static CUresult
finish(struct fdc_serve *serve, struct fdc_rows *made, CUresult result,
       struct fdc_rows **rows)
{
    if (result == CUDA_SUCCESS)
        result = hosts_name(made);
    if (result != CUDA_SUCCESS || made->count == 0) {
        fdc_rows_put(serve, made);
        made = NULL;
    }
    *rows = made;
    return result;
}

CUresult
fdc_rows_make(struct fdc_serve *serve, CUgraph graph, struct fdc_rows **rows)
{
    struct walk walk = {.serve = serve};
    struct nodes none = {0};
    CUresult result;

    *rows = NULL;
    if (!fdc_shadows_any(serve))
        return CUDA_SUCCESS;
    walk.rows = calloc(1, sizeof(*walk.rows));
    if (walk.rows == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    walk.rows->refs = 1;
    result = collect(&walk, graph);
    if (result == CUDA_SUCCESS && walk.rows->count != 0 && walk.hosts != 0)
        result = hosts(&walk, graph, &none, &none);
    return finish(serve, walk.rows, result, rows);
}

CUresult
fdc_rows_change(struct fdc_serve *serve, const struct fdc_rows *old, CUgraphNode node,
                const CUDA_MEMCPY3D *copy, struct fdc_rows **rows)
{
    struct fdc_rows *made = calloc(1, sizeof(*made));
    CUresult result = CUDA_SUCCESS;

    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->refs = 1;
    for (uint32_t i = 0; old != NULL && i < old->count; i++) {
        const struct fdc_row *row = &old->row[i];
        struct fdc_row *grown;

        if (row->node == node)
            continue;
        grown = realloc(made->row, (made->count + 1) * sizeof(*grown));
        if (grown == NULL ||
            fdc_shadow_at(serve, row->shadow->bytes + row->copy.offset) == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            made->row = grown != NULL ? grown : made->row;
            break;
        }
        made->row = grown;
        grown[made->count++] = *row;
        if (row->copy.up)
            made->up += row->copy.width * row->copy.height * row->copy.depth;
        else if (row->copy.down == FDC_COPY_AT_END)
            made->down += row->copy.width * row->copy.height * row->copy.depth;
    }
    if (result == CUDA_SUCCESS)
        result = rows_add(serve, made, node, copy);
    for (size_t s = 0; old != NULL && s < old->sets && result == CUDA_SUCCESS; s++) {
        const struct fdc_host_set *set = &old->set[s];
        struct fdc_host_set *grown =
            realloc(made->set, (made->sets + 1) * sizeof(*grown));
        struct nodes before = {0}, after = {0};

        if (grown == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            break;
        }
        made->set = grown;
        result = nodes_copy(&before, &(struct nodes){set->before, set->nbefore, 0});
        if (result == CUDA_SUCCESS)
            result = nodes_copy(&after, &(struct nodes){set->after, set->nafter, 0});
        grown[made->sets++] = (struct fdc_host_set){
            set->number, set->node, before.node, after.node, before.count, after.count};
    }
    return finish(serve, made, result, rows);
}
