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

#endif
