/* A worker's receiving half of an rdma link, with no UCX behind it: what arrives is said by
 * the test. */
#ifndef RECEIVER_H
#define RECEIVER_H

#include <stdlib.h>

#include "transport/rdma.h"

static inline struct rdma_link *
receiver_new(uint64_t lane_size)
{
    struct rdma_link *rdma = calloc(1, sizeof(*rdma));
    size_t footprint = fdc_ring_footprint(lane_size);

    if (!rdma)
        abort();
    rdma->link.worker = true;
    rdma->sock = rdma->wake_fd = -1;
    for (int lane = 0; lane < FDC_LANES; lane++) {
        rdma->link.size.lane[lane] = lane_size;
        if (link_sends(&rdma->link, lane))
            continue;
        if (posix_memalign(&rdma->in[lane].memory, FDC_CACHE_LINE, footprint))
            abort();
        memset(rdma->in[lane].memory, 0, footprint);
        if (fdc_ring_make(rdma->in[lane].memory, lane_size) ||
            fdc_ring_map(&rdma->link.ring[lane], rdma->in[lane].memory, footprint) ||
            fdc_ring_map(&rdma->in[lane].fill, rdma->in[lane].memory, footprint))
            abort();
    }
    return rdma;
}

static inline void
receiver_free(struct rdma_link *rdma)
{
    rdma_drop_held(rdma);
    for (int lane = 0; lane < FDC_LANES; lane++)
        free(rdma->in[lane].memory);
    free(rdma);
}

/* UCX's part: one active message, at an address of no particular alignment. */
static inline void
receiver_hears(struct rdma_link *rdma, const void *bytes, size_t size)
{
    struct ucx_am_recv recv = {0};
    uint8_t *copy = malloc(size + 1);

    if (!copy)
        abort();
    memcpy(copy + 1, bytes, size);
    rdma_arrived(rdma, NULL, 0, copy + 1, size, &recv);
    free(copy);
}

#endif
