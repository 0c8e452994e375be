/*
 * What the files about graphs share. A graph's handle stands for the driver's graph; its
 * aux is NULL where the session owns it, else the graph that it is inside of (or itself,
 * while a capture is still making it). A node's aux is the graph that it is a node of, so
 * that its name ends with that graph.
 */
#ifndef FDC_SERVER_GRAPH_H
#define FDC_SERVER_GRAPH_H

#include "fdc/graph.h"
#include "server/serve.h"

/* ---- graphname.c: names of nodes ---- */

CUresult fdc_graph_get(struct fdc_serve *serve, uint64_t handle, CUgraph *graph);
/* Names a graph that is inside of another (or is being captured: then of itself). */
CUresult fdc_graph_put_inner(struct fdc_request *request, uint64_t handle, CUgraph graph,
                             CUgraph in);
/* Everything that has a name in this graph is stale from now on. */
void fdc_graph_forget(struct fdc_serve *serve, CUgraph graph);

/* The same, and the graph's own names. */
void fdc_graph_end(struct fdc_serve *serve, CUgraph graph);

/* The node's handle, 0: it has none. */
uint64_t fdc_node_name(struct fdc_serve *serve, CUgraphNode node);
CUresult fdc_node_put(struct fdc_request *request, uint64_t handle, CUgraphNode node,
                      CUgraph graph);
CUresult fdc_node_get(struct fdc_serve *serve, uint64_t handle, CUgraphNode *node);
/* The graph that it is a node of, NULL: stale. */
CUgraph fdc_node_graph(struct fdc_serve *serve, uint64_t handle);
/* What is inside the node has no name any more. */
void fdc_node_forget_child(struct fdc_serve *serve, CUgraphNode node);
/* Handles of a span as the driver's nodes; count 0 gives NULL. -EPROTO through *err. */
CUgraphNode *fdc_nodes_read(struct fdc_request *request, struct fdc_span span,
                            uint32_t count, int *err, CUresult *result);
/* A span of CUgraphEdgeData, one a dependency: *edges is NULL where all are plain. 0 or
 * -EPROTO. */
int fdc_edges_read(struct fdc_request *request, struct fdc_span span, uint32_t count,
                   const CUgraphEdgeData **edges);

/* The graph is inside of the other from now on. */
CUresult fdc_graph_move(struct fdc_request *request, CUgraph graph, CUgraph in);

/* ---- graphlist.c ---- */

/* Answers with a list of these nodes; those without a name get one of `fresh`, in order.
 * Takes nothing over. 0 or -EPROTO. */
struct fdc_list_ask {
    CUgraph graph;
    CUgraphNode *nodes, *to; /* to: NULL unless the rows are edges */
    CUgraphEdgeData *edges;  /* NULL: plain ones */
    size_t count;
    struct fdc_span fresh;
    uint32_t fresh_count;
    struct fdc_chunk blob;
    uint64_t id;
};
int fdc_list_give(struct fdc_request *request, const struct fdc_list_ask *ask,
                  uint64_t *total, CUresult *result);

/* ---- shadow.c: memory that stands for the client's in graphs ---- */

struct fdc_shadow {
    uint32_t refs; /* its handle, and each list of copies that names it; atomic */
    uint8_t *bytes;
    uint64_t size, room; /* room: of the mapping */
    uint64_t handle;
    struct fdc_mark *last; /* of the last replay with it; executor only */
    struct fdc_ctx *ctx;   /* that it is registered in, NULL: in none */
    uint32_t epoch;        /* the ctx->opened of that */
    struct fdc_shadow *next;
};

struct fdc_shadow *fdc_shadow_find(struct fdc_serve *serve, uint64_t handle);
/* The shadow that holds this address of the worker's, with a reference; NULL: none. */
struct fdc_shadow *fdc_shadow_at(struct fdc_serve *serve, const void *at);
void fdc_shadow_put(struct fdc_serve *serve, struct fdc_shadow *shadow);
bool fdc_shadows_any(struct fdc_serve *serve);

/* ---- graphrows.c: the copies of an executable graph that have to do with shadows ---- */

struct fdc_row {
    struct fdc_shadow *shadow; /* a reference */
    CUgraphNode node;
    struct fdc_graph_copy copy;
};

struct fdc_rows { /* never changed once others see it */
    uint32_t refs; /* atomic */
    uint32_t count, hosts;
    uint64_t up, down; /* bytes, packed */
    struct fdc_row *row;
    struct fdc_graph_host *host;
    /* For each host function the copies (and others of its kind) before and behind it. */
    struct fdc_host_set {
        uint64_t number;
        CUgraphNode node, *before, *after;
        size_t nbefore, nafter;
    } *set;
    size_t sets;
};

/* NULL with success: there are none. */
CUresult fdc_rows_make(struct fdc_serve *serve, CUgraph graph, struct fdc_rows **rows);
/* The same with another copy for this node. Takes a reference to nothing. */
CUresult fdc_rows_change(struct fdc_serve *serve, const struct fdc_rows *old,
                         CUgraphNode node, const CUDA_MEMCPY3D *copy,
                         struct fdc_rows **rows);
void fdc_rows_put(struct fdc_serve *serve, struct fdc_rows *rows);

/* ---- replay.c ---- */

/* What an executable graph's handle has beside the driver's value. */
struct fdc_replays;
struct fdc_replays *fdc_replays_new(struct fdc_rows *rows);
/* Waits for nothing: what runs keeps what it needs. */
void fdc_replays_put(struct fdc_serve *serve, struct fdc_replays *replays);
/* Other copies from the next launch on; takes the reference over. */
void fdc_replays_set(struct fdc_serve *serve, struct fdc_replays *replays,
                     struct fdc_rows *rows);
struct fdc_rows *fdc_replays_rows(struct fdc_replays *replays);
/* graphexec.c: other copies for this executable graph; takes the reference over. */
CUresult fdc_exec_rows(struct fdc_serve *serve, uint64_t handle, struct fdc_rows *rows);

#endif
