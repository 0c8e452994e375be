/*
 * Replies that bytes have to precede, at the client. A worker puts what is large on the bulk
 * connections and says on the command connection, between the replies, which of it the next
 * reply (AFTER) or all that follow (FENCE) come after. What may not go into the ring yet is
 * kept here, and what may overtakes it: so a reply waits for the bytes that it tells of and
 * for no others.
 *
 * A reply behind a fence is behind all earlier ones that are behind it, since a fence never
 * goes back: what is held goes in order but for those that wait for more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp.h"

static bool
has_landed(const struct tcp_link *tcp, const uint64_t after[TCP_CONNS])
{
    for (int i = TCP_BULK; i < tcp->conns; i++)
        if (fdc_load_acquire(&tcp->conn[i].in.landed) < after[i])
            return false;
    return true;
}

static bool
are_there(const uint64_t there[TCP_CONNS], const uint64_t after[TCP_CONNS])
{
    for (int i = TCP_BULK; i < TCP_CONNS; i++)
        if (there[i] < after[i])
            return false;
    return true;
}

bool
tcp_order_wants(const struct tcp_link *tcp, const struct tcp_conn *conn)
{
    return fdc_load_acquire(&conn->in.landed) < tcp->order.wanted[conn->number];
}

int
tcp_order_mark(struct tcp_link *tcp, const struct mark_frame *mark)
{
    struct tcp_order *order = &tcp->order;
    int number = mark->frame.lane;
    uint64_t *after = mark->frame.kind == FRAME_FENCE ? order->fence : order->next;

    if (tcp->link.worker || mark->frame.size != 0 || number < TCP_BULK ||
        number >= tcp->conns)
        return -EPROTO;
    if (mark->position > after[number])
        after[number] = mark->position;
    if (mark->position > order->wanted[number])
        order->wanted[number] = mark->position;
    order->wants = !has_landed(tcp, order->wanted);
    return 0;
}

/* 1; 0: more is held than a lane may have on its way; -ENOMEM. */
static int
hold(struct tcp_link *tcp, const struct frame *frame, const uint8_t *bytes,
     const uint64_t after[TCP_CONNS])
{
    struct tcp_order *order = &tcp->order;
    struct held *held;

    if (order->size + frame->size > tcp->link.size.lane[FDC_LANE_REPLY])
        return 0;
    held = malloc(sizeof(*held) + frame->size);
    if (!held)
        return -ENOMEM;
    held->next = NULL;
    held->size = frame->size;
    memcpy(held->after, after, sizeof(held->after));
    memcpy(held->bytes, bytes, frame->size);
    if (!order->held)
        order->last = &order->held;
    *order->last = held;
    order->last = &held->next;
    order->size += frame->size;
    return 1;
}

int
tcp_order_take(struct tcp_link *tcp, const struct frame *frame, const uint8_t *bytes)
{
    struct tcp_order *order = &tcp->order;
    uint64_t after[TCP_CONNS] = {0};
    int done;

    for (int i = TCP_BULK; i < tcp->conns; i++)
        after[i] = order->next[i] > order->fence[i] ? order->next[i] : order->fence[i];
    if (!has_landed(tcp, after))
        done = hold(tcp, frame, bytes, after);
    else
        done = tcp_order_deliver(tcp) ? tcp_fill_ring(tcp, frame->lane, bytes, frame->size)
                                      : 0;
    if (done == 1)
        memset(order->next, 0, sizeof(order->next));
    return done;
}

bool
tcp_order_deliver(struct tcp_link *tcp)
{
    struct tcp_order *order = &tcp->order;
    struct held **place, *held;
    uint64_t there[TCP_CONNS] = {0};
    bool room = true;

    /* One look for all: what lands meanwhile, where a connection is resumed, must not let a
     * later one go before an earlier one. */
    for (int i = TCP_BULK; i < tcp->conns; i++)
        there[i] = fdc_load_acquire(&tcp->conn[i].in.landed); /* advance_put() */
    order->wants = !are_there(there, order->wanted);
    for (place = &order->held; room && (held = *place) != NULL;) {
        if (!are_there(there, held->after)) {
            place = &held->next;
            continue;
        }
        /* Into a ring that is closed it goes nowhere. */
        room = tcp_fill_ring(tcp, FDC_LANE_REPLY, held->bytes, held->size) != 0;
        if (!room)
            break;
        *place = held->next;
        if (!held->next)
            order->last = place;
        order->size -= held->size;
        free(held);
    }
    return room;
}

void
tcp_bring(struct tcp_link *tcp)
{
    __atomic_fetch_add(&tcp->order.brought, 1, __ATOMIC_SEQ_CST); /* lead_sleep() */
    tcp_wake_leader(tcp);
}

bool
tcp_order_is_over(struct tcp_link *tcp)
{
    if (!tcp->order.held)
        return true;
    for (int i = TCP_BULK; i < tcp->conns; i++)
        if (tcp_order_wants(tcp, &tcp->conn[i]) && fdc_load_acquire(&tcp->conn[i].in.gone))
            return true;
    return false;
}

void
tcp_order_drop(struct tcp_link *tcp)
{
    struct held *held;

    while ((held = tcp->order.held) != NULL) {
        tcp->order.held = held->next;
        free(held);
    }
}
