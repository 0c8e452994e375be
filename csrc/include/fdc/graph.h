/* What the bodies of graph messages are: parameters of nodes, and lists of nodes. */
#ifndef FDC_GRAPH_H
#define FDC_GRAPH_H

#include <stdint.h>

#include "fdc/copy.h"
#include "fdc/cuda_abi.h"
#include "fdc/wire.h"

struct fdc_node_kernel {
    struct fdc_wire_func func;
    struct fdc_dim3 grid, block;
    uint32_t shared;
    uint32_t params_size; /* the packed parameters follow */
};

struct fdc_node_memcpy {
    struct fdc_copy3d copy; /* between device memory, arrays and shadows */
};

struct fdc_node_memset {
    uint64_t dst, pitch, width, height;
    uint32_t value, element;
};

struct fdc_node_handle { /* event record, event wait, child graph */
    uint64_t handle;
    uint64_t move; /* child graph: it becomes the node's own */
};

struct fdc_node_host {
    uint64_t number; /* of the client's function */
};

struct fdc_node_memop {
    uint32_t count, flags;
    CUstreamBatchMemOpParams op[];
};

/* What a node is made of: one of the above in `body`. */
struct fdc_graph_params {
    uint32_t type, size;
    uint8_t body[];
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
    uint32_t to_type;  /* ... of to */
    uint8_t edge[8];   /* CUgraphEdgeData */
};

struct fdc_graph_list {
    uint32_t count;
    uint32_t unnamed; /* fresh handles that were missing */
    uint64_t id;      /* of a capture */
    struct fdc_graph_row row[];
};

/* A copy of a graph from or to a shadow: bytes of the client's that each replay takes (up),
 * gives (down), or both. Lines are `pitch` apart, planes `slice`; what travels is packed,
 * one copy behind the other. */
struct fdc_graph_copy {
    uint64_t shadow, offset;
    uint64_t width, height, depth, pitch, slice;
    uint32_t up, down; /* down: FDC_COPY_... */
};
enum {
    FDC_COPY_AT_END = 1, /* given when the replay is over */
    FDC_COPY_BY_HOST,    /* given before a host function, which may change it */
};

/* A host function of the graph's, and a copy that is over before it runs or begins
 * afterwards. */
struct fdc_graph_host {
    uint64_t number;
    uint32_t row, after;
};

struct fdc_graph_rows {
    uint32_t count, hosts;
    struct fdc_graph_copy row[]; /* behind them struct fdc_graph_host[hosts] */
};

/* Questions of fdcGraphId. */
enum {
    FDC_ID_OF_GRAPH,
    FDC_ID_OF_EXEC,
    FDC_ID_LOCAL,
    FDC_ID_TOOLS,
};

/* What is done with a kernel node's attribute. */
enum {
    FDC_ATTRIBUTE_GET,
    FDC_ATTRIBUTE_SET,
    FDC_ATTRIBUTE_COPY,
};

/* Whether an attribute's value holds no handle. */
static inline int
fdc_attribute_plain(uint32_t attribute)
{
    return attribute != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT &&
           attribute != CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT &&
           attribute != CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE;
}

#endif
