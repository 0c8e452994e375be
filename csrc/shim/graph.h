/* What the files about graphs share: graphs, their nodes, what those are made of. */
#ifndef FDC_SHIM_GRAPH_H
#define FDC_SHIM_GRAPH_H

#include "code.h"
#include "fdc/graph.h"
#include "memory.h"

struct fdc_graph_block;
struct fdc_shadow;
struct fdc_rows;

/* User objects that something keeps alive, and memory that it stands for. */
struct fdc_keeps {
    pthread_mutex_t lock;
    struct fdc_user_ref {
        struct fdc_user_object *object;
        unsigned count;
    } *user;
    size_t users;
    struct fdc_graph_block **alloc, **free; /* of its nodes of these kinds */
    size_t allocs, frees;
    struct fdc_shadow **shadow; /* of the host memory that its copies name */
    size_t shadows;
};

struct fdc_graph {
    struct fdc_object object;
    uint64_t inside; /* handle of the graph that it is in, 0: its own */
    bool capturing;  /* a capture makes it */
    struct fdc_keeps keeps;
};

struct fdc_exec {
    struct fdc_object object;
    uint64_t flags;
    uint64_t stream, issued; /* its last launch: handle, position; atomic */
    struct fdc_rows *rows;   /* copies from and to host memory, NULL: none; atomic */
    struct fdc_keeps keeps;
};

/* A node that the program has a handle of. What it is made of is remembered where the
 * program said it, and asked for where a capture or a clone made it. */
struct fdc_node {
    struct fdc_object object;
    uint64_t graph;
    uint32_t type;
    bool typed, known;        /* type and params are filled in */
    CUgraphNodeParams params; /* as the program gets them back */
    void *saved;              /* what they point to; owned */
    uint64_t child;           /* handle of the graph inside, once asked for */
};

/* A node's parameters on their way to the worker. */
struct fdc_body {
    uint32_t type, size;
    const struct fdc_func *func; /* kernel: packs itself into the message */
    void **params, **extra;
    const CUstreamBatchMemOpParams *ops; /* batch of operations: likewise */
    union {
        struct fdc_node_kernel kernel;
        struct fdc_node_memcpy memcpy;
        struct fdc_node_memset memset;
        struct fdc_node_handle handle;
        struct fdc_node_host host;
        struct fdc_node_memop memop;
    } u;
};

/* ---- graphbody.c ---- */

/* Checks what can be checked here. The call's context becomes the one that they name. The
 * node will be of this graph (or of an executable one: NULL), which keeps what it needs. */
CUresult fdc_body_make(struct fdc_call *call, struct fdc_graph *graph,
                       struct fdc_keeps *keeps, const CUgraphNodeParams *params,
                       struct fdc_body *body);
void fdc_body_write(const struct fdc_body *body, void *to);
/* The node is made of this now. */
CUresult fdc_body_remember(struct fdc_call *call, struct fdc_node *node,
                           const struct fdc_body *body,
                           const CUgraphNodeParams *params);
/* What the worker knows of a node. */
CUresult fdc_body_ask(struct fdc_node *node);

/* ---- graph.c ---- */

struct fdc_graph *fdc_graph_find(CUgraph graph);
/* A node and its graph are where the current context is: one worker runs all of it. */
CUresult fdc_graph_at(struct fdc_call *call, const struct fdc_object *object);
/* A call that needs no context goes where the graph or node is. */
CUresult fdc_graph_join(struct fdc_call *call, const void *object);
/* Nothing that it or its nodes are called by means anything from now on. */
void fdc_graph_drop(struct fdc_graph *graph);
struct fdc_node *fdc_node_find(CUgraphNode node);
struct fdc_node *fdc_node_new(struct fdc_session *session, uint64_t graph);
void fdc_node_drop(struct fdc_node *node);
/* The nodes' common graph is this one, and the edges can travel: *edges_size says how many
 * bytes of them have to. */
CUresult fdc_nodes_check(const CUgraphNode *nodes, size_t count, uint64_t graph,
                         const CUgraphEdgeData *edges, uint32_t *edges_size);

/* ---- graphlist.c ---- */

/* A list that the worker gives, which names nodes that have no handle yet by those sent
 * along: `send` fills the message of one question. */
struct fdc_listing {
    uint64_t graph; /* of new nodes */
    CUresult (*send)(struct fdc_call *call, const struct fdc_listing *asked,
                     const uint64_t *fresh, uint32_t fresh_count,
                     struct fdc_chunk blob, uint64_t *total);
    uint64_t node, stream;
    uint32_t question;
};
/* named: all nodes have handles. The list is the caller's to free. */
CUresult fdc_list_ask(struct fdc_call *call, const struct fdc_listing *asked, bool named,
                      struct fdc_graph_list **list);

/* ---- userobject.c: also what a graph keeps ---- */

void fdc_keeps_setup(struct fdc_keeps *keeps);
/* The one keeps from now on also what the other does: 0 or CUDA_ERROR_OUT_OF_MEMORY. */
CUresult fdc_keeps_share(struct fdc_keeps *to, struct fdc_keeps *from);
/* It keeps nothing any more. Destructors run at once. */
void fdc_keeps_drop(struct fdc_keeps *keeps);
/* Only what the other keeps. */
CUresult fdc_keeps_replace(struct fdc_keeps *keeps, struct fdc_keeps *by);
/* Once the exec's last launch is over. */
void fdc_keeps_drop_later(struct fdc_call *call, struct fdc_exec *exec);

/* ---- graphmem.c ---- */

/* Memory nodes are the shim's own: at the worker an empty node stands in their place. */
CUresult fdc_graph_alloc(struct fdc_call *call, struct fdc_graph *graph,
                         CUDA_MEM_ALLOC_NODE_PARAMS *params);
CUresult fdc_graph_free(struct fdc_call *call, struct fdc_graph *graph,
                        CUdeviceptr address);
/* The node could not be made: what the above did to the graph last is undone. */
void fdc_graph_memory_undo(struct fdc_graph *graph, uint32_t type);
bool fdc_graph_has_memory(struct fdc_keeps *keeps);
/* Before a launch: whether its allocations may be made; then they are. */
CUresult fdc_graph_memory_launch(struct fdc_exec *exec);
void fdc_block_ref(struct fdc_graph_block *block);
void fdc_block_unref(struct fdc_graph_block *block);

/* ---- graphhost.c ---- */

void fdc_shadow_ref(struct fdc_shadow *shadow);
void fdc_shadow_unref(struct fdc_shadow *shadow);
/* The executable graph's copies from and to host memory, as the worker knows them. */
CUresult fdc_replay_learn(struct fdc_call *call, struct fdc_exec *exec);
void fdc_replay_drop(struct fdc_exec *exec);
/* A launch of one that has such copies. */
CUresult fdc_replay(struct fdc_call *call, struct fdc_exec *exec,
                    struct fdc_stream *stream);

/* ---- captureinfo.c ---- */

/* What the graph of the stream's capture keeps, or NULL. */
struct fdc_keeps *fdc_capture_keeps(struct fdc_stream *stream);

/* An allocation or its end in a capture: a node at its place. */
CUresult fdc_capture_memory(struct fdc_call *call, struct fdc_stream *stream,
                            CUgraphNodeParams *params);

#endif
