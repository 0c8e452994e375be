/*
 * The rdma road, receiving. UCX hands over whole active messages, in whatever order its
 * paths have brought them; batches go into their lane's ring by their numbers, and not
 * before the puts that they name have landed. What cannot go yet is kept: a sender has at
 * most a lane's size on its way, so that is also the most that is kept.
 *
 * All of this runs under the link's lock, mostly inside UCX's progress.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rdma.h"

/* Moves records from `at` on. True: all of them. */
static bool
fill_ring(struct rdma_link *rdma, enum fdc_lane lane, const uint8_t *bytes, size_t size,
          size_t *at)
{
    struct fdc_ring *ring = &rdma->in[lane].fill;
    struct rdma_record record;
    void *room;
    int err = 0;

    while (*at < size) {
        memcpy(&record, bytes + *at, sizeof(record));
        room = fdc_ring_claim(ring, record.size, &err);
        if (!room)
            return err != -EAGAIN; /* closed: there is nobody left to see them */
        memcpy(room, bytes + *at + sizeof(record), record.size);
        fdc_ring_commit(ring);
        *at += rdma_record_size(record.size);
    }
    return true;
}

static bool
is_next(const struct rdma_link *rdma, const struct rdma_in *in,
        const struct rdma_head *head)
{
    return head->seq == in->seq && head->puts <= fdc_load_relaxed(&rdma->landed);
}

static void
count_taken(struct rdma_in *in, const struct rdma_head *head)
{
    in->seq++;
    in->taken += head->size;
}

void
rdma_deliver(struct rdma_link *rdma, enum fdc_lane lane)
{
    struct rdma_in *in = &rdma->in[lane];
    struct rdma_held *held;

    while ((held = in->held) != NULL && is_next(rdma, in, &held->head)) {
        rdma->news = true;
        if (!fill_ring(rdma, lane, held->bytes, held->head.size, &held->at))
            return;
        count_taken(in, &held->head);
        in->held = held->next;
        free(held);
    }
    fdc_store_release(&in->holds, in->held != NULL); /* the load in refill() */
}

/* 0, or -errno. */
static int
hold(struct rdma_in *in, const struct rdma_head *head, const uint8_t *bytes, size_t at)
{
    struct rdma_held **place = &in->held, *held;

    while (*place && (*place)->head.seq < head->seq)
        place = &(*place)->next;
    if (*place && (*place)->head.seq == head->seq)
        return -EPROTO;
    held = malloc(sizeof(*held) + head->size);
    if (!held)
        return -ENOMEM;
    held->head = *head;
    held->at = at;
    memcpy(held->bytes, bytes, head->size);
    held->next = *place;
    *place = held;
    fdc_store_release(&in->holds, 1); /* the load in refill() */
    return 0;
}

/* Every record within the batch, none larger than its lane takes. */
static bool
records_fit(const uint8_t *bytes, size_t size, uint32_t largest)
{
    struct rdma_record record;
    size_t at = 0;

    while (at < size) {
        if (size - at < sizeof(record))
            return false;
        memcpy(&record, bytes + at, sizeof(record));
        if (record.size == 0 || record.size > largest ||
            rdma_record_size(record.size) > size - at)
            return false;
        at += rdma_record_size(record.size);
    }
    return size > 0;
}

static int
take_credit(struct rdma_link *rdma, enum fdc_lane lane, uint64_t taken)
{
    struct rdma_out *out = &rdma->out[lane];
    uint64_t known = fdc_load_relaxed(&out->taken);

    /* Messages may overtake each other: an older number says nothing new. */
    if (taken <= known)
        return 0;
    if (taken > fdc_load_acquire(&out->sent))
        return -EPROTO;
    fdc_store_release(&out->taken, taken); /* the load in window_left() */
    rdma_wake_turn(rdma);
    return 0;
}

static int
take_batch(struct rdma_link *rdma, const struct rdma_head *head, const uint8_t *bytes)
{
    uint64_t window = rdma->link.size.lane[head->lane];
    struct rdma_in *in = &rdma->in[head->lane];
    enum fdc_lane lane = head->lane;
    size_t at = 0;

    if (!records_fit(bytes, head->size, link_max_record(&rdma->link, lane)))
        return -EPROTO;
    if (head->size > window - (in->received - in->taken))
        return -EPROTO; /* more than may be on its way */
    if (head->seq < in->seq || head->seq - in->seq > window)
        return -EPROTO;
    in->received += head->size;
    if (!in->held && is_next(rdma, in, head) &&
        fill_ring(rdma, lane, bytes, head->size, &at)) {
        count_taken(in, head);
        return 0;
    }
    if (hold(in, head, bytes, at))
        return -EPROTO;
    rdma_deliver(rdma, lane);
    return 0;
}

static int
take_landed(struct rdma_link *rdma, uint64_t puts)
{
    if (puts <= fdc_load_relaxed(&rdma->landed))
        return 0;
    fdc_store_ordered(&rdma->landed, puts); /* look_put() */
    for (int lane = 0; lane < FDC_LANES; lane++)
        rdma_deliver(rdma, lane);
    rdma_wake_turn(rdma);
    return 0;
}

static int
take(struct rdma_link *rdma, const struct rdma_head *head, const uint8_t *bytes,
     size_t size)
{
    const struct fdc_link *link = &rdma->link;
    enum fdc_lane main_lane = link->worker ? FDC_LANE_REPLY : FDC_LANE_COMMAND;
    int err;

    if (head->size != size || head->lane >= FDC_LANES)
        return -EPROTO;
    switch (head->kind) {
    case RDMA_BATCH:
        if (link_sends(link, head->lane))
            return -EPROTO;
        err = take_credit(rdma, main_lane, head->taken);
        return err ? err : take_batch(rdma, head, bytes);
    case RDMA_LANDED:
        return size == 0 ? take_landed(rdma, head->puts) : -EPROTO;
    case RDMA_ASK:
        rdma->asked = true;
        return size == 0 ? 0 : -EPROTO;
    case RDMA_TRY:
        rdma->tried = true;
        return size == 0 && link->worker ? 0 : -EPROTO;
    case RDMA_HEARD:
        fdc_store_ordered(&rdma->heard, 1); /* look_heard() */
        return size == 0 && !link->worker ? 0 : -EPROTO;
    case RDMA_TAKEN:
        if (size != 0 || !link_sends(link, head->lane))
            return -EPROTO;
        return take_credit(rdma, head->lane, head->taken);
    default:
        return -EPROTO;
    }
}

ucx_status
rdma_arrived(void *arg, const void *header, size_t header_size, void *data, size_t size,
             const struct ucx_am_recv *recv)
{
    struct rdma_link *rdma = arg;
    struct rdma_head head;

    (void)header;
    rdma->news = true;
    if (rdma->gone)
        return UCX_OK;
    if (header_size != 0 || size < sizeof(head) ||
        (recv->attributes & UCX_AM_RECV_RNDV)) {
        rdma_broken(rdma, "broken message");
        return UCX_OK;
    }
    memcpy(&head, data, sizeof(head));
    if (take(rdma, &head, (const uint8_t *)data + sizeof(head), size - sizeof(head)))
        rdma_broken(rdma, "broken message");
    return UCX_OK;
}

void
rdma_close_empty(struct rdma_link *rdma)
{
    for (int lane = 0; rdma->gone && lane < FDC_LANES; lane++) {
        if (link_sends(&rdma->link, lane))
            continue;
        rdma_deliver(rdma, lane);
        /* What waits for something that will not come is not waited for. */
        if (!rdma->in[lane].held ||
            !is_next(rdma, &rdma->in[lane], &rdma->in[lane].held->head))
            fdc_ring_close(&rdma->link.ring[lane]);
    }
}

void
rdma_drop_held(struct rdma_link *rdma)
{
    struct rdma_held *held;

    for (int lane = 0; lane < FDC_LANES; lane++) {
        while ((held = rdma->in[lane].held) != NULL) {
            rdma->in[lane].held = held->next;
            free(held);
        }
    }
}
