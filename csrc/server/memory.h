/*
 * The device memory of a session, as three files share it: memory.c (addresses, what is
 * mapped there, allocations), quota.c (what counts against the slice) and vmm.c (the
 * program's own virtual memory calls).
 */
#ifndef FDC_SERVER_MEMORY_H
#define FDC_SERVER_MEMORY_H

#include "server/serve.h"

#define FDC_PIECES_MAX 256

struct fdc_piece {
    uint64_t base, size;
    int device;
};

/* Created memory. Its own mapping (grown, plain) or a public allocation with mappings. */
struct fdc_backing {
    CUmemGenericAllocationHandle handle;
    uint64_t size;
    uint64_t scratch;                   /* where the worker has it mapped for itself, or 0 */
    int device;
    uint32_t refs;                      /* its handle and each mapping */
    bool plain;                         /* of cuMemAlloc */
};

struct fdc_mapping {                        /* sorted by address, never overlapping */
    uint64_t address, size;
    struct fdc_backing *memory;
    bool ready, public;
};

struct fdc_memory {
    struct fdc_serve *serve;
    pthread_mutex_t lock;
    struct fdc_piece piece[FDC_PIECES_MAX];
    int pieces;
    struct fdc_mapping *map;
    size_t maps, room;
    struct fdc_piece *global;           /* module variables that were asked for */
    size_t globals;
    uint64_t base, part;                /* addresses: of device 0's part on, of each part */
    uint64_t used[FDC_DEVICES_MAX];     /* the session's own allocations */
    uint64_t beside[FDC_DEVICES_MAX];   /* contexts and code, as the driver says */
    uint64_t limit[FDC_DEVICES_MAX];    /* the lease's */
    uint64_t refunds, looked_ns;
    uint64_t granularity[FDC_DEVICES_MAX];
    /* By owner and reader: how often access was asked for. */
    uint32_t shared[FDC_DEVICES_MAX][FDC_DEVICES_MAX];
};

/* ---- memory.c ---- */

/* Makes a context of the device current here: the primary one, or any. */
CUresult fdc_memory_use(struct fdc_serve *serve, int device);
/* Memory that lies on the device. */
CUmemAllocationProp fdc_memory_on(struct fdc_serve *serve, int device);
/* Zeroes created memory, where nobody else sees it yet. The mapping that this needs stays,
 * since to unmap may wait for all work: until the program unmaps the memory, or lets it go,
 * or the client shrinks. */
CUresult fdc_backing_zero(struct fdc_serve *serve, struct fdc_backing *backing);
/* What follows is under the lock. device -1: in any of the session's pieces. */
bool fdc_memory_in_piece(const struct fdc_memory *memory, int device, uint64_t address,
                         uint64_t size);
/* The first mapping that ends above the address; the one that begins there, or NULL. */
size_t fdc_map_above(const struct fdc_memory *memory, uint64_t address);
struct fdc_mapping *fdc_map_at(const struct fdc_memory *memory, uint64_t address);
CUresult fdc_map_insert(struct fdc_memory *memory, const struct fdc_mapping *entry);
void fdc_map_remove(struct fdc_memory *memory, struct fdc_mapping *entry);
/* One holder less; the last one gives the bytes back to the slice. */
void fdc_backing_put(struct fdc_serve *serve, struct fdc_backing *backing);
/* The worker's own mapping goes, if it is there. Nobody's lock where nobody else has the
 * backing: this may wait. */
void fdc_backing_unmap(struct fdc_serve *serve, struct fdc_backing *backing);
/* As fdc_backing_put(), without the lock. */
void fdc_backing_let_go(struct fdc_serve *serve, struct fdc_backing *backing);

/* ---- quota.c; under the lock ---- */

CUresult fdc_quota_take(struct fdc_memory *memory, int device, uint64_t size);
void fdc_quota_give(struct fdc_memory *memory, int device, uint64_t size);

/* ---- vmm.c ---- */

/* What the program has created goes, with the session. */
void fdc_vmm_free(struct fdc_serve *serve);

#endif
