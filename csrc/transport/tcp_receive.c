/*
 * The receiving half of a tcp connection: whatever arrives is sorted into rings of this
 * process (messages) and into the regions (puts, tcp_bulk.c). On each bulk connection a
 * thread of the worker does that, and one of a client's where there are several. On the command connection there is no thread: of those
 * who wait one leads, reading the socket for all, and the others sleep on the ring; who
 * stops leading wakes them to take over. Peeking and waiting for room read the socket too,
 * so that a client that only waits for room still takes in what the worker wants to get
 * rid of.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

enum {
    READ_REPLIES = 16 << 10, /* that puts may be between */
    SILENCE_LOOK_US = 5000000,
    LEAD_BROKEN = 4, /* of lead_wait(): nobody can lead now */
    BULK_READS = 4,
};

static int
check_message(const struct tcp_link *tcp, const struct tcp_conn *conn,
              const struct frame *frame)
{
    if (frame->lane >= FDC_LANES || link_sends(&tcp->link, frame->lane))
        return -EPROTO;
    if (conn->number != (frame->lane == FDC_LANE_SIDE ? TCP_BULK : TCP_COMMAND))
        return -EPROTO;
    if (frame->size == 0 || frame->size > link_max_record(&tcp->link, frame->lane))
        return -EPROTO;
    return 0;
}

/* The lane whose messages come on the connection; its size says when to acknowledge. */
static enum fdc_lane
lane_of(const struct tcp_link *tcp, const struct tcp_conn *conn)
{
    if (conn->number != TCP_COMMAND)
        return FDC_LANE_SIDE;
    return tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;
}

static void
settle_debt(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct receiver *from = &conn->in;

    if (FDC_LIKELY(from->owed < tcp->link.size.lane[lane_of(tcp, conn)] / 4 &&
                   from->owed_inserts < conn->out.inserts / 4))
        return;
    from->owed = from->owed_inserts = 0;
    tcp_ack(tcp, conn, from->position - (from->end - from->start));
}

int
tcp_fill_ring(struct tcp_link *tcp, enum fdc_lane lane, const uint8_t *bytes, uint32_t size)
{
    int err = 0;
    void *room = fdc_ring_claim(&tcp->fill[lane], size, &err);

    if (!room)
        return err == -EAGAIN ? 0 : err;
    memcpy(room, bytes, size);
    fdc_ring_commit(&tcp->fill[lane]);
    return 1;
}

/* The message at the front, which is there whole, into its ring, or is kept until it may
 * go there. 1, 0: blocked, -errno. */
static int
take_message(struct tcp_link *tcp, struct receiver *from, const struct frame *frame)
{
    const uint8_t *bytes = from->bytes + from->start + sizeof(*frame);
    int done;

    if (FDC_UNLIKELY(frame->lane == FDC_LANE_REPLY && tcp_order_is_on(tcp)))
        done = tcp_order_take(tcp, frame, bytes);
    else
        done = tcp_fill_ring(tcp, frame->lane, bytes, frame->size);
    if (done == 1) {
        from->start += frame_size(frame->size);
        from->owed += frame_size(frame->size);
    } else if (done == 0) {
        from->blocked_size = frame->size;
    }
    return done;
}

/* The head at the front of something else. 1, -EPROTO; 0: it is not there whole. */
static int
take_head(struct tcp_link *tcp, struct tcp_conn *conn, const struct frame *frame)
{
    struct receiver *from = &conn->in;
    const uint8_t *at = from->bytes + from->start;
    size_t held = from->end - from->start;
    struct mark_frame mark;
    struct put_frame put;

    switch (frame->kind) {
    case FRAME_PUT:
        if (held < sizeof(put))
            return 0;
        memcpy(&put, at, sizeof(put));
        if (tcp_check_put(tcp, conn, &put))
            return -EPROTO;
        from->start += sizeof(put);
        from->put_region = put.frame.lane;
        from->put_start = from->put_offset = put.offset;
        from->put_left = put.size;
        break;
    case FRAME_ACK:
        if (held < sizeof(mark))
            return 0;
        memcpy(&mark, at, sizeof(mark));
        if (mark.frame.size != 0 || mark.frame.lane >= tcp->conns)
            return -EPROTO;
        from->start += sizeof(mark);
        tcp_acked(tcp, &tcp->conn[mark.frame.lane], mark.position);
        break;
    case FRAME_AFTER:
    case FRAME_FENCE:
        if (held < sizeof(mark))
            return 0;
        memcpy(&mark, at, sizeof(mark));
        if (conn->number != TCP_COMMAND || tcp_order_mark(tcp, &mark))
            return -EPROTO;
        from->start += sizeof(mark);
        break;
    case FRAME_BYE:
        if (frame->size != 0 || conn->number != TCP_COMMAND)
            return -EPROTO;
        from->start += sizeof(*frame);
        fdc_store_ordered(&tcp->bye, 1);
        break;
    default:
        return -EPROTO;
    }
    from->owed_inserts++;
    return 1;
}

/* Sorts what has been gathered. 1: more bytes are needed; 0: blocked, a ring has no
 * room for the next message; -EPROTO, -EPIPE. */
static int
sort_frames(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct receiver *from = &conn->in;
    struct frame frame;
    size_t held, part;
    int done = 1;

    from->blocked_size = 0;
    from->missing = 0;
    while (done == 1) {
        held = from->end - from->start;
        if (from->put_left > 0) {
            if (held == 0)
                break;
            part = held < from->put_left ? held : from->put_left;
            tcp_place_bytes(tcp, conn, from->bytes + from->start, part);
            from->start += part;
            continue;
        }
        if (held < sizeof(frame))
            break;
        memcpy(&frame, from->bytes + from->start, sizeof(frame));
        if (frame.kind == FRAME_MESSAGE) {
            done = check_message(tcp, conn, &frame);
            if (done < 0)
                return done;
            if (held < frame_size(frame.size)) {
                from->missing = frame_size(frame.size) - held;
                break;
            }
            done = take_message(tcp, from, &frame);
        } else {
            done = take_head(tcp, conn, &frame);
            if (done == 0)
                break;
        }
        if (done < 0)
            return done;
    }
    settle_debt(tcp, conn);
    return from->blocked_size ? 0 : 1;
}

/* What one read may take in of messages, where puts may be behind them. */
static size_t
read_ahead(const struct tcp_link *tcp, const struct tcp_conn *conn)
{
    const struct receiver *from = &conn->in;
    size_t size = from->size - from->end;

    if (conn->number == TCP_COMMAND && tcp->link.worker)
        return size; /* there are no puts */
    if (from->missing > READ_REPLIES)
        return from->missing < size ? from->missing : size;
    return READ_REPLIES < size ? READ_REPLIES : size;
}

static ssize_t
read_messages(struct tcp_link *tcp, struct tcp_conn *conn, int flags, size_t *want)
{
    struct receiver *from = &conn->in;
    size_t held = from->end - from->start;
    uint8_t *to;
    ssize_t n;

    if (held == 0 || from->size - from->end < STAGING_EXTRA) {
        memmove(from->bytes, from->bytes + from->start, held);
        from->start = 0;
        from->end = held;
    }
    *want = read_ahead(tcp, conn);
    to = from->bytes + from->end;
    n = conn->seal ? seal_receive(conn->seal, conn->fd, to, *want, flags)
                   : recv(conn->fd, to, *want, flags);
    if (n > 0)
        from->end += (size_t)n;
    return n;
}

/* A connection that is of no use, and not a mistake of whoever uses it. */
static bool
is_loss(int err)
{
    return err == ECONNRESET || err == ETIMEDOUT || err == EPIPE || err == ECONNABORTED ||
           err == EHOSTUNREACH || err == ENETUNREACH || err == ENETDOWN || err == ENETRESET;
}

/* One read. Returns 2 when it got all it had asked for, 1 when less, -EAGAIN, -EPIPE or
 * another -errno. */
static int
read_more(struct tcp_link *tcp, struct tcp_conn *conn, int flags)
{
    struct receiver *from = &conn->in;
    size_t want;
    ssize_t n;

    count_call(tcp);
    if (from->put_left > 0 && from->end == from->start)
        n = tcp_read_put(tcp, conn, flags, &want);
    else
        n = read_messages(tcp, conn, flags, &want);
    if (n == 0 || (n < 0 && is_loss(errno)))
        return -EPIPE;
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    from->position += (uint64_t)n;
    return (size_t)n == want ? 2 : 1;
}

const char *
tcp_what_broke(int err)
{
    return err == -EPROTO    ? "broken frame"
           : err == -EBADMSG ? "bytes that are not sealed as agreed"
                             : strerror(-err);
}

/* What a connection's reader came upon: 0, or it will bring no more (-EPIPE). */
static int
see_end(struct tcp_link *tcp, struct tcp_conn *conn, int ready, bool was_broken)
{
    if (ready >= 0 || ready == -EAGAIN)
        return 0;
    if ((ready == -EPIPE || ready == -EBADMSG) && tcp_break(tcp, conn)) {
        if (ready == -EBADMSG && !was_broken)
            fdc_log(FDC_LOG_WARN, "a connection is given up: %s", tcp_what_broke(ready));
        return 0;
    }
    if (ready != -EPIPE) {
        fdc_log(FDC_LOG_ERROR, "tcp link ends: %s on the %s connection",
                tcp_what_broke(ready), conn->number == TCP_COMMAND ? "command" : "bulk");
        tcp_shutdown(&tcp->link);
    }
    return -EPIPE;
}

/* Takes in what has arrived on a client's bulk connection, as long as replies wait for it,
 * but not for long: there may be others. True: there may be more, and not in the socket.
 * Who resumes it has its lock. */
static bool
pump_bulk(struct tcp_link *tcp, struct tcp_conn *conn)
{
    int got = 2, reads = 0, ready;
    bool broken;

    if (fdc_load_acquire(&conn->in.has_thread) || pthread_mutex_trylock(&conn->in.lock) != 0)
        return false;
    broken = is_broken(conn);
    ready = sort_frames(tcp, conn);
    while (ready == 1 && (got == 2 || broken) && tcp_order_wants(tcp, conn) &&
           reads++ < BULK_READS) {
        got = read_more(tcp, conn, MSG_DONTWAIT);
        ready = got < 0 ? got : sort_frames(tcp, conn);
    }
    pthread_mutex_unlock(&conn->in.lock);
    if (see_end(tcp, conn, ready, broken))
        fdc_store_ordered(&conn->in.gone, 1);
    return ready == 1 && reads > BULK_READS;
}

/* Takes in what has arrived, without waiting; of a connection that broke all that had come
 * before, a goodbye among it. The caller leads. */
void
tcp_pump(struct tcp_link *tcp)
{
    struct tcp_conn *conn = &tcp->conn[TCP_COMMAND];
    enum fdc_lane lane = tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;
    bool broken = is_broken(conn);
    int saved = errno, got = 2, ready;

    /* Nothing more is read while a ring is full: the sender has to wait. */
    ready = sort_frames(tcp, conn);
    while (ready == 1 && (got == 2 || (got == 1 && is_broken(conn)))) {
        got = read_more(tcp, conn, MSG_DONTWAIT);
        ready = got < 0 ? got : sort_frames(tcp, conn);
    }
    if (see_end(tcp, conn, ready, broken))
        tcp->order.ended = true;
    tcp->order.more = false;
    if (FDC_UNLIKELY(tcp_order_is_on(tcp))) {
        tcp->order.seen = fdc_load_ordered(&tcp->order.brought);
        for (int i = TCP_BULK; i < tcp->conns; i++)
            if (tcp_order_wants(tcp, &tcp->conn[i]) && pump_bulk(tcp, &tcp->conn[i]))
                tcp->order.more = true;
        tcp_order_deliver(tcp);
    }
    if (FDC_UNLIKELY(tcp->order.ended || tcp->order.held) && tcp_order_is_over(tcp))
        fdc_ring_close(&tcp->link.ring[lane]);
    errno = saved;
}

/* Else ever new connections may break with bytes that nobody has read. */
void
tcp_take_rest(struct tcp_link *tcp, struct tcp_conn *conn)
{
    int ready, saved = errno;

    if (conn->number == TCP_COMMAND) {
        tcp_pump(tcp);
        return;
    }
    do {
        ready = sort_frames(tcp, conn);
        if (ready == 1)
            ready = read_more(tcp, conn, MSG_DONTWAIT);
    } while (ready > 0);
    see_end(tcp, conn, ready, true);
    errno = saved;
}

bool
tcp_try_lead(struct tcp_link *tcp)
{
    return pthread_mutex_trylock(&tcp->lead) == 0;
}

void
tcp_stop_leading(struct tcp_link *tcp)
{
    enum fdc_lane lane = tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;

    pthread_mutex_unlock(&tcp->lead);
    __atomic_fetch_add(&tcp->lead_turn, 1, __ATOMIC_SEQ_CST); /* follower's wait */
    fdc_ring_poke(&tcp->link.ring[lane]);
}

/* Until it is resumed; the lock, which is held, is free meanwhile. False: it will not be. */
static bool
await_bulk(struct tcp_link *tcp, struct tcp_conn *conn)
{
    while (is_broken(conn)) {
        if (fdc_load_acquire(&tcp->dead) || fdc_load_acquire(&tcp->bye))
            return false;
        pthread_mutex_unlock(&conn->in.lock);
        tcp_await_road(tcp, conn, 0);
        pthread_mutex_lock(&conn->in.lock);
    }
    return true; /* it may have broken again */
}

/* One read of a thread that has nothing else to do. A client's sleeps outside of it: whoever
 * takes the place away that bytes land in waits for a read that is under way. */
static int
read_alone(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct pollfd poll_fd = {.fd = conn->fd, .events = POLLIN};
    int ready;

    if (tcp->link.worker)
        return read_more(tcp, conn, 0);
    ready = read_more(tcp, conn, MSG_DONTWAIT);
    if (ready == -EAGAIN)
        poll(&poll_fd, 1, -1);
    return ready;
}

void *
tcp_bulk_thread(void *arg)
{
    struct tcp_conn *conn = arg;
    struct tcp_link *tcp = conn->tcp;
    struct fdc_ring *side = &tcp->fill[FDC_LANE_SIDE];
    int ready;

    pthread_mutex_lock(&conn->in.lock);
    do {
        ready = sort_frames(tcp, conn);
        if (ready == 0) { /* until the side lane's reader makes room */
            pthread_mutex_unlock(&conn->in.lock);
            ready = fdc_ring_wait_room(side, conn->in.blocked_size, -1);
            pthread_mutex_lock(&conn->in.lock);
        } else if (ready > 0) {
            ready = is_broken(conn) ? -EPIPE : read_alone(tcp, conn);
        }
        if ((ready == -EPIPE || ready == -EBADMSG) && tcp_break(tcp, conn) &&
            await_bulk(tcp, conn))
            ready = 0;
    } while (ready >= 0 || ready == -EAGAIN);
    pthread_mutex_unlock(&conn->in.lock);
    if (ready != -EPIPE) {
        fdc_log(FDC_LOG_ERROR, "tcp link ends: %s on the bulk connection",
                tcp_what_broke(ready));
        tcp_shutdown(&tcp->link);
    }
    /* Commands that have arrived are still good; only puts will not come any more. */
    fdc_store_ordered(&conn->in.gone, 1); /* tcp_put_wait() */
    if (conn->number == TCP_BULK && tcp->link.worker)
        fdc_ring_close(side);
    tcp_wake_landed(tcp);
    if (!tcp->link.worker)
        tcp_bring(tcp);
    return NULL;
}

/* Whether its bytes are of use now. */
static bool
is_awaited(const struct tcp_link *tcp, const struct tcp_conn *conn)
{
    if (conn->number == TCP_COMMAND)
        return conn->in.blocked_size == 0 && !tcp->order.ended;
    return tcp->order.wants && tcp_order_wants(tcp, conn) && !is_broken(conn) &&
           !fdc_load_acquire(&conn->in.has_thread) && !fdc_load_acquire(&conn->in.gone);
}

/* Bytes that a reply may wait for have come since somebody looked; pairs with tcp_bring(). */
static bool
has_news(const struct tcp_link *tcp)
{
    return tcp_order_is_on(tcp) &&
           fdc_load_ordered(&tcp->order.brought) != tcp->order.seen;
}

/* Until the socket or a poke says that there is news. False: the time is over. */
static bool
lead_sleep(struct tcp_link *tcp, const uint32_t *word, uint32_t seen,
           int64_t timeout_us)
{
    struct pollfd polls[TCP_CONNS + 1];
    struct timespec timeout;
    int saved = errno, n = 1;
    nfds_t count = 0;
    uint64_t drained;

    fdc_exchange_ordered(&tcp->polling, 1);
    polls[count++] = (struct pollfd){.fd = tcp->wake_fd, .events = POLLIN};
    for (int i = 0; i < tcp->conns; i++)
        if (is_awaited(tcp, &tcp->conn[i]))
            polls[count++] = (struct pollfd){.fd = tcp->conn[i].fd, .events = POLLIN};
    /* A link that has been shut has sockets that tell of it at once. */
    if (!tcp->order.more && !has_news(tcp) && (!word || fdc_load_acquire(word) == seen)) {
        timeout.tv_sec = timeout_us / 1000000;
        timeout.tv_nsec = timeout_us % 1000000 * 1000;
        count_call(tcp);
        n = ppoll(polls, count, &timeout, NULL);
    }
    fdc_store_ordered(&tcp->polling, 0);
    if (n > 0 && polls[0].revents && read(tcp->wake_fd, &drained, sizeof(drained)) < 0) {
        /* only the leader reads it, so this does not happen */
    }
    errno = saved;
    return n != 0;
}

/* 0: nothing yet. */
static int
look(struct fdc_ring *ring, const uint32_t *word, uint32_t seen)
{
    return fdc_ring_wait_word(ring, word, seen, 0);
}

/* Waits as the leader: spins on the socket for a while, then sleeps on it. */
static int
lead_wait(struct tcp_link *tcp, struct fdc_ring *ring, const uint32_t *word,
          uint32_t seen, uint64_t limit_ns)
{
    uint64_t start_ns = fdc_now_ns(), now_ns, budget_ns;
    bool slept = false, spun, lent = false;
    int64_t left_us;
    int ready;

    /* One look is no wait. */
    budget_ns = limit_ns && limit_ns <= start_ns ? 0 : fdc_spin_begin(&tcp->spin);
    spun = budget_ns != 0;
    for (;;) {
        tcp_pump(tcp);
        ready = look(ring, word, seen);
        if (!ready && is_broken(&tcp->conn[TCP_COMMAND]))
            ready = LEAD_BROKEN;
        now_ns = fdc_now_ns();
        if (ready || (limit_ns && now_ns >= limit_ns))
            break;
        if (now_ns < start_ns + budget_ns) {
            lent = now_ns > start_ns + FDC_SPIN_ALONE_NS && fdc_spin_yield();
            continue;
        }
        if (budget_ns) {
            fdc_spin_end(&tcp->spin, false, false);
            budget_ns = 0;
        }
        slept = true;
        left_us = SILENCE_LOOK_US;
        if (limit_ns && (limit_ns - now_ns) / 1000 < SILENCE_LOOK_US)
            left_us = (int64_t)((limit_ns - now_ns) / 1000) + 1;
        __atomic_fetch_add(&ring->sleeps, 1, __ATOMIC_RELAXED);
        if (!lead_sleep(tcp, word, seen, left_us))
            tcp_end_if_silent(tcp);
    }
    if (budget_ns)
        fdc_spin_end(&tcp->spin, ready != 0, lent);
    if (slept)
        fdc_spin_learn(&tcp->spin, now_ns - start_ns, ready != 0, spun);
    return ready;
}

int
tcp_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
              uint32_t seen, int64_t timeout_us)
{
    struct tcp_link *tcp = tcp_of(link);
    struct fdc_ring *ring = &link->ring[lane];
    uint64_t limit_ns = 0, now_ns;
    int64_t left_us = -1;
    uint32_t turn;
    int ready;

    if (lane == FDC_LANE_SIDE)
        return fdc_ring_wait_word(ring, word, seen, timeout_us);
    if (timeout_us >= 0)
        limit_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000;
    for (;;) {
        ready = look(ring, word, seen);
        if (ready)
            return ready;
        if (FDC_UNLIKELY(is_broken(&tcp->conn[TCP_COMMAND]))) {
            if (tcp_try_lead(tcp)) {
                tcp_pump(tcp);
                tcp_stop_leading(tcp);
                ready = look(ring, word, seen);
                if (ready)
                    return ready;
            }
            if (limit_ns && fdc_now_ns() >= limit_ns)
                return 0;
            tcp_await_road(tcp, &tcp->conn[TCP_COMMAND], limit_ns);
            continue;
        }
        turn = fdc_load_acquire(&tcp->lead_turn); /* the add in stop_leading() */
        if (tcp_try_lead(tcp)) {
            __atomic_fetch_add(&ring->waits, 1, __ATOMIC_RELAXED);
            ready = lead_wait(tcp, ring, word, seen, limit_ns);
            tcp_stop_leading(tcp);
            if (ready != LEAD_BROKEN)
                return ready;
            continue;
        }
        if (limit_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= limit_ns)
                return 0;
            left_us = (int64_t)((limit_ns - now_ns) / 1000) + 1;
        }
        ready = fdc_ring_wait_words(ring, word, seen, &tcp->lead_turn, turn, left_us);
        if (ready != 0 && ready != 3)
            return ready;
    }
}
