/* The rdma road's receiving half: any order, any lie. Needs no UCX. */
#include "check.h"
#include "receiver.h"

enum { WINDOW = 4096 };

struct batch {
    struct rdma_head head;
    uint8_t bytes[WINDOW];
};

static void
add(struct batch *batch, uint32_t size, uint64_t word)
{
    struct rdma_record record = {.size = size};

    memcpy(batch->bytes + batch->head.size, &record, sizeof(record));
    memcpy(batch->bytes + batch->head.size + sizeof(record), &word,
           size < 8 ? size : 8);
    batch->head.size += (uint32_t)rdma_record_size(size);
}

static struct batch
one(uint64_t seq, uint64_t puts, uint64_t word)
{
    struct batch batch = {
        .head = {.kind = RDMA_BATCH,
                 .lane = FDC_LANE_COMMAND,
                 .seq = seq,
                 .puts = puts},
    };

    add(&batch, 8, word);
    return batch;
}

static void
hear(struct rdma_link *rdma, const struct batch *batch)
{
    receiver_hears(rdma, batch, sizeof(batch->head) + batch->head.size);
}

static void
expect(struct rdma_link *rdma, uint64_t word)
{
    const uint64_t *seen;
    uint32_t size = 0;
    int err = 0;

    rdma_deliver(rdma, FDC_LANE_COMMAND);
    seen = fdc_ring_peek(&rdma->link.ring[FDC_LANE_COMMAND], &size, &err);
    CHECK(seen);
    CHECK_EQ(size, 8);
    CHECK_EQ(*seen, word);
    fdc_ring_release(&rdma->link.ring[FDC_LANE_COMMAND]);
}

static void
expect_none(struct rdma_link *rdma)
{
    uint32_t size;
    int err = 1;

    rdma_deliver(rdma, FDC_LANE_COMMAND);
    CHECK(!fdc_ring_peek(&rdma->link.ring[FDC_LANE_COMMAND], &size, &err));
    CHECK_EQ(err, 0);
}

static void
test_batches_are_seen_by_number(void)
{
    static const uint64_t order[] = {3, 1, 0, 2, 5, 4};
    struct rdma_link *rdma = receiver_new(WINDOW);
    struct batch batch;

    for (size_t i = 0; i < FDC_COUNT(order); i++) {
        batch = one(order[i], 0, 100 + order[i]);
        hear(rdma, &batch);
        if (i == 1)
            expect_none(rdma);
    }
    for (uint64_t i = 0; i < FDC_COUNT(order); i++)
        expect(rdma, 100 + i);
    expect_none(rdma);
    CHECK_EQ(rdma->dead, 0);
    receiver_free(rdma);
}

static void
test_batch_waits_for_the_puts_it_names(void)
{
    struct rdma_head landed = {.kind = RDMA_LANDED, .puts = 2};
    struct rdma_link *rdma = receiver_new(WINDOW);
    struct batch batch;

    batch = one(0, 2, 7);
    hear(rdma, &batch);
    batch = one(1, 0, 8); /* may be seen, but not before the one above */
    hear(rdma, &batch);
    expect_none(rdma);
    landed.puts = 1;
    receiver_hears(rdma, &landed, sizeof(landed));
    expect_none(rdma);
    landed.puts = 2;
    receiver_hears(rdma, &landed, sizeof(landed));
    expect(rdma, 7);
    expect(rdma, 8);
    landed.puts = 1; /* late */
    receiver_hears(rdma, &landed, sizeof(landed));
    CHECK_EQ(rdma->landed, 2);
    CHECK_EQ(rdma->dead, 0);
    receiver_free(rdma);
}

static void
test_full_ring_keeps_the_rest(void)
{
    struct rdma_link *rdma = receiver_new(WINDOW);
    struct batch batch = one(0, 0, 0);
    uint64_t words = 1;

    while (batch.head.size + 16 <= WINDOW)
        add(&batch, 8, words++);
    hear(rdma, &batch); /* a ring of this size keeps a little for itself */
    CHECK(rdma->in[FDC_LANE_COMMAND].held);
    CHECK_EQ(rdma->in[FDC_LANE_COMMAND].taken, 0);
    for (uint64_t i = 0; i < words; i++)
        expect(rdma, i);
    expect_none(rdma);
    CHECK_EQ(rdma->in[FDC_LANE_COMMAND].taken, batch.head.size);
    CHECK_EQ(rdma->dead, 0);
    receiver_free(rdma);
}

static void
test_lies_end_the_link(void)
{
    struct batch lies[20], twice;
    struct rdma_link *rdma;
    size_t n = 0;

    for (size_t i = 0; i < FDC_COUNT(lies); i++)
        lies[i] = one(0, 0, 1);
    lies[n++].head.kind = 0;
    lies[n++].head.kind = 9;
    lies[n++].head.lane = FDC_LANE_REPLY; /* which the worker sends */
    lies[n++].head.lane = FDC_LANES;
    lies[n++].head.lane = 0xffff;
    lies[n++].head.seq = UINT64_MAX;
    lies[n++].head.seq = WINDOW + 1;
    lies[n++].head.taken = 1; /* nothing was sent */
    lies[n++].head.kind = RDMA_LANDED;
    lies[n++].head.kind = RDMA_ASK;
    lies[n++].head.kind = RDMA_TAKEN;
    lies[n++].head.kind = RDMA_TRY;
    lies[n++].head.kind = RDMA_HEARD;
    lies[n++].bytes[0] = 0;
    lies[n++].bytes[0] = 9; /* beyond the batch */
    memset(lies[n++].bytes, 0xff, 4);
    lies[n].head.size = 0;
    n++;
    lies[n].head.size = 4;
    n++;
    for (size_t i = 0; i < n; i++) {
        rdma = receiver_new(WINDOW);
        hear(rdma, &lies[i]);
        CHECK_EQ(rdma->dead, 1);
        receiver_free(rdma);
    }

    rdma = receiver_new(WINDOW); /* the size of what came is another */
    receiver_hears(rdma, &lies[n], sizeof(struct rdma_head) + 8);
    CHECK_EQ(rdma->dead, 1);
    receiver_free(rdma);
    rdma = receiver_new(WINDOW);
    receiver_hears(rdma, &lies[n], 7);
    CHECK_EQ(rdma->dead, 1);
    receiver_free(rdma);
    for (uint64_t seq = 0; seq < 2; seq++) { /* seen already, and held already */
        rdma = receiver_new(WINDOW);
        twice = one(seq, 0, 1);
        hear(rdma, &twice);
        CHECK_EQ(rdma->dead, 0);
        hear(rdma, &twice);
        CHECK_EQ(rdma->dead, 1);
        receiver_free(rdma);
    }
}

static void
test_client_tries_and_the_worker_is_heard(void)
{
    struct rdma_head try = {.kind = RDMA_TRY}, heard = {.kind = RDMA_HEARD};
    struct rdma_link *rdma = receiver_new(WINDOW);

    receiver_hears(rdma, &try, sizeof(try));
    CHECK(rdma->tried);
    CHECK_EQ(rdma->dead, 0);
    receiver_hears(rdma, &heard, sizeof(heard)); /* which is the worker's to say */
    CHECK_EQ(rdma->dead, 1);
    receiver_free(rdma);
}

static void
test_more_than_may_be_on_its_way_ends_the_link(void)
{
    struct rdma_link *rdma = receiver_new(WINDOW);
    struct batch batch;
    uint64_t seq = 1; /* 0 does not come: nothing is taken */

    while (rdma->in[FDC_LANE_COMMAND].received + 16 <= WINDOW) {
        batch = one(seq++, 0, 1);
        hear(rdma, &batch);
        CHECK_EQ(rdma->dead, 0);
    }
    batch = one(seq, 0, 1);
    hear(rdma, &batch);
    CHECK_EQ(rdma->dead, 1);
    receiver_free(rdma);
}

int
main(void)
{
    int failed = 0;

    fdc_log_default(FDC_LOG_OFF, "test");
    RUN(test_batches_are_seen_by_number);
    RUN(test_batch_waits_for_the_puts_it_names);
    RUN(test_full_ring_keeps_the_rest);
    RUN(test_lies_end_the_link);
    RUN(test_client_tries_and_the_worker_is_heard);
    RUN(test_more_than_may_be_on_its_way_ends_the_link);
    return failed;
}
