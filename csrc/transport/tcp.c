/*
 * The tcp road: its lanes as callers see them, and its end. tcp.h says what it is made of.
 *
 * Messages gather in a buffer. They leave when asked to, when there are many, at once when
 * the connection has been quiet, and otherwise through a thread that is started at the
 * first need and looks every 200 us while there is traffic.
 */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

enum {
    FLUSH_BYTES = 64 << 10,
    QUIET_NS = 100000, /* then a message does not wait for company */
    ROOM_SLICE_MS = 10,
};

void
tcp_wake_landed(struct tcp_link *tcp)
{
    if (!fdc_load_ordered(&tcp->landed_waiters))
        return;
    __atomic_fetch_add(&tcp->landed_turn, 1, __ATOMIC_SEQ_CST);
    fdc_futex_wake(&tcp->landed_turn, INT_MAX, false);
}

void
tcp_wake_leader(struct tcp_link *tcp)
{
    uint64_t one = 1;

    /* Orders the caller's store before this look; pairs with lead_sleep()'s. */
    if (fdc_exchange_ordered(&tcp->polling, 0) &&
        write(tcp->wake_fd, &one, sizeof(one)) < 0) {
        /* full: it is awake anyway */
    }
}

/* Ends the link for this side: every ring, every sleeper, both sockets. */
void
tcp_shutdown(struct fdc_link *link)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn;

    /* Whoever has the lock may be this thread. */
    if (pthread_mutex_trylock(&tcp->conn[TCP_COMMAND].out.lock) == 0) {
        tcp_say_bye(tcp);
        pthread_mutex_unlock(&tcp->conn[TCP_COMMAND].out.lock);
    }
    fdc_store_ordered(&tcp->dead, 1);
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (!link_sends(link, lane))
            fdc_ring_close(&link->ring[lane]);
    for (int i = 0; i < tcp->conns; i++) {
        conn = &tcp->conn[i];
        fdc_store_ordered(&conn->in.gone, 1); /* tcp_put_wait() */
        shutdown(conn->fd, SHUT_RDWR);
        __atomic_fetch_add(&conn->turn, 1, __ATOMIC_SEQ_CST); /* tcp_await_road() */
        fdc_futex_wake(&conn->turn, INT_MAX, false);
        fdc_futex_wake(&conn->out.ack_turn, INT_MAX, false);
    }
    tcp_wake_leader(tcp);
    tcp_wake_landed(tcp);
}

/*
 * True when the peer's machine has not acknowledged anything for long although the
 * kernel kept asking. TCP_USER_TIMEOUT would be simpler, but it also ends a connection
 * whose peer is well and merely does not read, as a worker does during a long kernel;
 * such a peer answers the probes. Idle connections are the business of keepalive.
 */
static bool
is_silent(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return false;
    return info.tcpi_last_ack_recv > SILENCE_MS &&
           (info.tcpi_retransmits >= 3 || info.tcpi_probes >= 2);
}

void
tcp_end_if_silent(struct tcp_link *tcp)
{
    struct tcp_conn *conn;

    for (int i = 0; i < tcp->conns && !fdc_load_acquire(&tcp->dead); i++) {
        conn = &tcp->conn[i];
        if (is_broken(conn) || !is_silent(conn->fd))
            continue;
        fdc_log(FDC_LOG_ERROR, "tcp connection ends: the peer has not answered for %d s",
                SILENCE_MS / 1000);
        if (!tcp_break(tcp, conn))
            tcp_shutdown(&tcp->link);
    }
}

/* ---- receiving ---- */

static const void *
tcp_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    struct tcp_link *tcp = tcp_of(link);
    const void *message;

    message = fdc_ring_peek(&link->ring[lane], size, err);
    if (FDC_LIKELY(message) || *err || lane == FDC_LANE_SIDE || !tcp_try_lead(tcp))
        return message;
    tcp_pump(tcp);
    tcp_stop_leading(tcp);
    return fdc_ring_peek(&link->ring[lane], size, err);
}

static void
tcp_poke(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_poke(&link->ring[lane]);
    if (lane != FDC_LANE_SIDE)
        tcp_wake_leader(tcp_of(link));
}

/* ---- sending ---- */

static struct tcp_conn *
conn_of(struct tcp_link *tcp, enum fdc_lane lane)
{
    return &tcp->conn[lane == FDC_LANE_SIDE ? TCP_BULK : TCP_COMMAND];
}

static void *
tcp_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);
    struct sender *to = &conn->out;
    struct frame frame = {.size = size, .kind = FRAME_MESSAGE, .lane = (uint16_t)lane};
    uint8_t *room = NULL;

    if (size > link_max_record(link, lane)) {
        *err = -EMSGSIZE;
        return NULL;
    }
    if (fdc_load_acquire(&tcp->dead)) {
        *err = -EPIPE;
        return NULL;
    }
    tcp_lock_sender(conn);
    if (tcp_make_room(tcp, conn, frame_size(size))) {
        room = to->bytes + to->end;
        memcpy(room, &frame, sizeof(frame));
        memset(room + sizeof(frame) + size, 0, frame_size(size) - sizeof(frame) - size);
        room += sizeof(frame);
        to->claimed = frame_size(size);
    } else {
        *err = fdc_load_acquire(&tcp->dead) ? -EPIPE : -EAGAIN;
    }
    tcp_let_go(tcp, conn);
    return room;
}

/* The lock is held. */
static void
commit(struct tcp_link *tcp, struct tcp_conn *conn, enum fdc_lane lane)
{
    struct sender *to = &conn->out;
    int err;

    to->end += to->claimed;
    to->end_at += to->claimed;
    to->claimed = 0;
    if (lane == FDC_LANE_SIDE) {
        while ((err = tcp_send(tcp, conn)) == -EAGAIN && !fdc_load_acquire(&tcp->dead))
            tcp_await_writable(tcp, conn);
    } else {
        err = -EAGAIN;
        if (to->end_at - to->next.at >= FLUSH_BYTES ||
            fdc_now_ns() - to->sent_ns > QUIET_NS)
            err = tcp_send(tcp, conn);
        if (err == -EAGAIN)
            tcp_arm_flusher(tcp, conn);
    }
}

static void
tcp_commit(struct fdc_link *link, enum fdc_lane lane)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);

    tcp_lock_sender(conn);
    commit(tcp, conn, lane);
    tcp_let_go(tcp, conn);
}

static void
tcp_commit_after(struct fdc_link *link, enum fdc_lane lane, uint64_t ticket)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);

    tcp_lock_sender(conn);
    tcp_mark_put(tcp, FRAME_AFTER, ticket);
    commit(tcp, conn, lane);
    tcp_let_go(tcp, conn);
}

static void
tcp_abort(struct fdc_link *link, enum fdc_lane lane)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);

    tcp_lock_sender(conn);
    conn->out.claimed = 0;
    if (conn->out.next.at < conn->out.end_at) /* send_acks() has left it to this one */
        tcp_arm_flusher(tcp, conn);
    tcp_let_go(tcp, conn);
}

static int
tcp_flush(struct fdc_link *link, enum fdc_lane lane)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);
    int err = 0;

    if (!link_sends(link, lane))
        return -EINVAL;
    tcp_lock_sender(conn);
    if (conn->out.next.at < conn->out.end_at) {
        __atomic_fetch_add(&link->stats.flushes, 1, __ATOMIC_RELAXED);
        err = tcp_send(tcp, conn);
        if (err == -EAGAIN && lane != FDC_LANE_SIDE) {
            tcp_arm_flusher(tcp, conn);
            err = 0;
        }
    }
    tcp_let_go(tcp, conn);
    return fdc_load_acquire(&tcp->dead) ? -EPIPE : err;
}

/* Until there may be room: the socket takes something, the other side has acknowledged
 * something, or a moment has passed. */
static void
await_room(struct tcp_link *tcp, struct tcp_conn *conn, bool unsent, uint32_t seen,
           int slice_ms)
{
    struct pollfd poll_fd = {.fd = conn->fd, .events = unsent ? POLLOUT : 0};
    int saved = errno;

    /* What the worker says is read here, so that it can say more; a client's
     * acknowledgements are read by a thread of their own. */
    if (tcp_try_lead(tcp)) {
        tcp_pump(tcp);
        if (conn->number == TCP_COMMAND && conn->in.blocked_size == 0)
            poll_fd.events |= POLLIN;
        tcp_stop_leading(tcp);
    }
    if (fdc_load_acquire(&conn->out.ack_turn) != seen)
        return;
    if (!unsent && (tcp->link.worker || poll_fd.events == 0)) {
        fdc_futex_wait(&conn->out.ack_turn, seen, (int64_t)slice_ms * 1000, false);
        slice_ms = 0;
    }
    count_call(tcp);
    poll_fd.events |= unsent ? 0 : POLLRDHUP; /* nothing is sent that would tell */
    if (poll(&poll_fd, 1, slice_ms) == 0)
        tcp_end_if_silent(tcp);
    else if (!unsent && poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR) &&
             !tcp_break(tcp, conn))
        fdc_store_ordered(&tcp->dead, 1);
    errno = saved;
}

static int
tcp_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
              int64_t timeout_us)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = conn_of(tcp, lane);
    uint64_t limit_ns = 0, now_ns;
    bool room, unsent;
    uint32_t seen;
    int slice_ms;

    if (timeout_us >= 0)
        limit_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000;
    for (;;) {
        seen = fdc_load_acquire(&conn->out.ack_turn); /* tcp_acked() */
        tcp_lock_sender(conn);
        room = tcp_make_room(tcp, conn, frame_size(size));
        unsent = conn->out.next.at < conn->out.end_at;
        tcp_let_go(tcp, conn);
        if (fdc_load_acquire(&tcp->dead))
            return -EPIPE;
        if (room)
            return 1;
        slice_ms = ROOM_SLICE_MS;
        if (limit_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= limit_ns)
                return 0;
            if ((limit_ns - now_ns) / 1000000 < ROOM_SLICE_MS)
                slice_ms = (int)((limit_ns - now_ns) / 1000000) + 1;
        }
        if (is_broken(conn))
            tcp_await_road(tcp, conn, limit_ns);
        else
            await_room(tcp, conn, unsent, seen, slice_ms);
    }
}

const struct fdc_link_ops tcp_ops = {
    .free = tcp_free,
    .shutdown = tcp_shutdown,
    .claim = tcp_claim,
    .commit = tcp_commit,
    .commit_after = tcp_commit_after,
    .abort = tcp_abort,
    .wait_room = tcp_wait_room,
    .flush = tcp_flush,
    .peek = tcp_peek,
    .wait_word = tcp_wait_word,
    .poke = tcp_poke,
    .put = tcp_put,
    .lend = tcp_lend,
    .reclaim = tcp_reclaim,
    .put_aside = tcp_put_aside,
    .put_wait = tcp_put_wait,
    .land = tcp_land,
    .landed = tcp_landed,
    .keep = tcp_keep,
    .resume = tcp_resume,
    .away = tcp_away,
};
