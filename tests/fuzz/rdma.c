/*
 * The rdma road's receiving half, against a peer that sends what it likes. Two bytes say
 * how long the next active message is, and in their upper half whether the lanes are read
 * after it.
 */
#include "fuzz.h"

#include <errno.h>

#include "../csrc/transport/receiver.h"

enum { LANE = 4096, READ = 1 << 15 };

static void
read_lane(struct rdma_link *rdma, enum fdc_lane lane)
{
    static volatile uint8_t sum;
    const uint8_t *message;
    uint32_t size = 0;
    int err = 0;

    for (;;) {
        rdma_deliver(rdma, lane);
        message = fdc_ring_peek(&rdma->link.ring[lane], &size, &err);
        FUZZ_CHECK(err != -EPROTO); /* the ring is ours: only good records are in it */
        if (message == NULL)
            return;
        for (uint32_t k = 0; k < size; k++)
            sum ^= message[k];
        fdc_ring_release(&rdma->link.ring[lane]);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rdma_link *rdma = receiver_new(LANE);
    uint16_t word;
    size_t part;

    fdc_log_default(FDC_LOG_OFF, "fuzz");
    rdma->out[FDC_LANE_REPLY].sent = 4096;
    while (size >= sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        data += sizeof(word), size -= sizeof(word);
        part = word & (READ - 1);
        if (part > size)
            part = size;
        receiver_hears(rdma, data, part);
        data += part, size -= part;
        for (int lane = 0; lane < FDC_LANES; lane++) {
            const struct rdma_in *in = &rdma->in[lane];

            FUZZ_CHECK(in->received - in->taken <= LANE || rdma->dead);
        }
        if (word & READ) {
            read_lane(rdma, FDC_LANE_COMMAND);
            read_lane(rdma, FDC_LANE_SIDE);
        }
    }
    receiver_free(rdma);
    return 0;
}
