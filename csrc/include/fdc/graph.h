/* What the bodies of graph messages are: parameters of nodes, and lists of nodes. */
#ifndef FDC_GRAPH_H
#define FDC_GRAPH_H

#include <stdint.h>

#include "fdc/copy.h"
#include "fdc/wire.h"

struct fdc_node_kernel {
    struct fdc_wire_func func;
    struct fdc_dim3 grid, block;
    uint32_t shared;
    uint32_t params_size; /* the packed parameters follow */
};

struct fdc_node_memcpy {
    struct fdc_copy3d copy; /* between device memory and arrays */
};

struct fdc_node_memset {
    uint64_t dst, pitch, width, height;
    uint32_t value, element;
};

struct fdc_node_handle { /* event record, event wait, child graph */
    uint64_t handle;
};

struct fdc_node_host {
    uint64_t number; /* of the client's function */
};

enum {
    FDC_GRAPH_NODES,
    FDC_GRAPH_ROOTS,
    FDC_GRAPH_EDGES,
    FDC_GRAPH_BEFORE,
    FDC_GRAPH_BEHIND,
};

/* One row a node, or an edge: then both ends are named. */
struct fdc_graph_row {
    uint64_t node, to; /* handles, 0: not named */
    uint32_t type;     /* CUgraphNodeType of node */
    uint8_t edge[8];   /* CUgraphEdgeData */
    uint32_t pad;
};

struct fdc_graph_list {
    uint32_t count;
    uint32_t unnamed; /* fresh handles that were missing */
    struct fdc_graph_row row[];
};

#endif
