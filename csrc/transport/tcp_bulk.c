/*
 * Puts over tcp: sending them, where they go on the other side, and waiting for them. Bytes
 * of puts are read straight to their place, the region or where the caller wants them
 * instead (land), all but the few that come with their head.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp.h"

enum {
    HAUL_LEAST = 512 << 10, /* of a worker's put that is left to a hauler in any case */
    READ_BEHIND = 4 << 10, /* a put: the next heads come with its bytes */
};

/* ---- receiving ---- */

/* So many bytes of the put under way are in their place, which end at this position of the
 * stream. */
static void
advance_put(struct tcp_link *tcp, struct tcp_conn *conn, size_t size, uint64_t position)
{
    struct receiver *from = &conn->in;

    from->put_offset += size;
    from->put_left -= size;
    if (from->put_left > 0)
        return;
    from->put_ticket++;
    if (tcp->link.worker && from->put_offset - from->put_start >= PUT_ACKED)
        fdc_store_ordered(&conn->ack, position);
    fdc_store_ordered(&from->landed, from->put_ticket); /* tcp_put_wait() */
    tcp_wake_landed(tcp);
    if (!tcp->link.worker && fdc_load_relaxed(&from->has_thread))
        tcp_bring(tcp);
}

int
tcp_check_put(const struct tcp_link *tcp, const struct tcp_conn *conn,
              const struct put_frame *put)
{
    const struct fdc_link *link = &tcp->link;
    uint16_t region = link->worker ? FDC_REGION_UP : FDC_REGION_DOWN;

    if (put->frame.lane != region || put->frame.size != 0)
        return -EPROTO;
    if ((link->worker && conn->number == TCP_COMMAND) || put->ticket != conn->in.put_ticket + 1)
        return -EPROTO;
    if (put->size == 0 || put->offset > link->size.region[region] ||
        put->size > link->size.region[region] - put->offset)
        return -EPROTO;
    return 0;
}

/* Where the put under way goes instead, or NULL. Under land_lock. */
static struct landing *
landing_of(struct tcp_link *tcp, const struct receiver *from)
{
    struct landing *landing;

    if (!tcp->landing || from->put_start % LAND_STEP)
        return NULL;
    landing = &tcp->landing[from->put_start / LAND_STEP];
    if (!landing->to || landing->landed != from->put_offset - from->put_start ||
        from->put_left > landing->size - landing->landed)
        return NULL;
    return landing;
}

/* Bytes of the put go there from now on, until they are counted by end_store(). A worker has
 * no landings, and what its connections bring does not wait for each other. */
static struct landing *
begin_store(struct tcp_link *tcp, const struct receiver *from, uint8_t **place)
{
    struct landing *landing = NULL;

    if (!tcp->link.worker) {
        pthread_mutex_lock(&tcp->land_lock);
        landing = landing_of(tcp, from);
        if (landing)
            landing->busy = true;
    }
    *place = landing ? landing->to + landing->landed
                     : tcp->link.region[from->put_region] + from->put_offset;
    if (!tcp->link.worker)
        pthread_mutex_unlock(&tcp->land_lock);
    return landing;
}

/* refused: the kernel may not write there, as a program that guards its memory has it; the
 * rest goes by way of the region. */
static void
end_store(struct tcp_link *tcp, struct landing *landing, size_t size, bool refused)
{
    if (!landing)
        return;
    pthread_mutex_lock(&tcp->land_lock);
    landing->landed += size;
    landing->busy = false;
    if (refused)
        landing->to = NULL;
    __atomic_fetch_add(&tcp->land_turn, 1, __ATOMIC_RELEASE); /* tcp_landed() */
    pthread_mutex_unlock(&tcp->land_lock);
    fdc_futex_wake(&tcp->land_turn, INT_MAX, false);
}

/* Bytes of the put that were read with messages. */
void
tcp_place_bytes(struct tcp_link *tcp, struct tcp_conn *conn, const uint8_t *bytes,
                size_t size)
{
    struct receiver *from = &conn->in;
    struct landing *landing;
    uint8_t *place;

    landing = begin_store(tcp, from, &place);
    memcpy(place, bytes, size);
    end_store(tcp, landing, size, false);
    advance_put(tcp, conn, size, from->position - (from->end - from->start) + size);
}

/*
 * The rest of a put, and what is behind it. Of a sealed connection bytes are written where
 * they belong before it is known that they are good. Those that are not are never counted:
 * they are written once more after a resume, or the session ends and no call succeeds that
 * was to bring them.
 */
ssize_t
tcp_read_put(struct tcp_link *tcp, struct tcp_conn *conn, int flags, size_t *want)
{
    struct receiver *from = &conn->in;
    struct iovec part[2] = {
        {.iov_len = from->put_left},
        {.iov_base = from->bytes, .iov_len = READ_BEHIND},
    };
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    struct landing *landing;
    size_t got = 0;
    uint8_t *place;
    bool refused;
    ssize_t n;
    int err;

    *want = from->put_left + (conn->seal ? 0 : READ_BEHIND);
    from->start = from->end = 0;
    landing = begin_store(tcp, from, &place);
    part[0].iov_base = place;
    n = conn->seal ? seal_receive(conn->seal, conn->fd, place, *want, flags)
                   : recvmsg(conn->fd, &message, flags);
    refused = landing && n < 0 && errno == EFAULT;
    err = refused ? EAGAIN : errno;
    if (n > 0)
        got = (size_t)n < from->put_left ? (size_t)n : from->put_left;
    end_store(tcp, landing, got, refused);
    errno = err;
    if (n <= 0)
        return n;
    from->end = (size_t)n - got;
    advance_put(tcp, conn, got, from->position + got);
    return n;
}

/* ---- sending ---- */

static uint8_t *
view_of(struct tcp_link *tcp, const struct put_frame *put)
{
    return tcp->link.region[put->frame.lane] + put->offset;
}

/* What the other side may still ask for must not be the caller's any more. */
static void
own_bytes(struct tcp_link *tcp, struct sender *to, uint64_t number)
{
    struct insert *insert = &to->insert[number & (to->inserts - 1)];
    uint8_t *view = view_of(tcp, &insert->head.put);

    if (insert->bytes != view)
        memcpy(view, insert->bytes, insert->size);
    insert->bytes = view;
}

int
tcp_send_put(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put,
             const uint8_t *bytes, struct fdc_loan *loan)
{
    struct sender *to = &conn->out;
    uint64_t number, until;
    int err;

    err = tcp_await_insert(tcp, conn);
    if (err)
        return err;
    if (put->ticket == 0)
        put->ticket = ++to->puts;
    number = to->insert_end;
    tcp_insert(to, put, sizeof(*put), bytes, put->size);
    until = to->end_at;
    for (;;) {
        err = tcp_send(tcp, conn);
        if (to->next.at >= until || err == -EPIPE)
            break;
        if (err == -EAGAIN) {
            tcp_await_writable(tcp, conn);
            continue;
        }
        tcp_let_go(tcp, conn);
        tcp_await_road(tcp, conn, 0);
        pthread_mutex_lock(&to->lock);
    }
    if (to->next.at < until)
        return -EPIPE;
    if (!fdc_load_relaxed(&tcp->keeps) || number < to->kept.insert)
        return 0;
    if (loan && put->size >= PUT_ACKED) {
        loan->insert = number;
        loan->until = until;
        loan->conn = (uint32_t)conn->number;
    } else {
        own_bytes(tcp, to, number);
    }
    return 0;
}

/* The bytes follow by themselves where the socket does not take them now, or where the
 * caller has other things to do. */
int
tcp_queue_put(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put, bool leave)
{
    int err;

    err = tcp_await_insert(tcp, conn);
    if (err)
        return err;
    if (put->ticket == 0)
        put->ticket = ++conn->out.puts;
    tcp_insert(&conn->out, put, sizeof(*put), view_of(tcp, put), put->size);
    err = leave ? -EAGAIN : tcp_send(tcp, conn);
    if (err == -EAGAIN)
        tcp_arm_flusher(tcp, conn);
    return err == -EPIPE ? err : 0;
}

/* Commands wait: who serves them has better to do than to copy into a socket, which the
 * flusher does meanwhile. With more connections than one it may be waiting for another. */
static bool
is_busy(struct tcp_link *tcp)
{
    return !has_stripes(tcp) &&
           fdc_ring_wait_word(&tcp->link.ring[FDC_LANE_COMMAND], NULL, 0, 0) == 1;
}

/* A bulk connection, its sender locked: one that nobody sends on, the next one first. */
static struct tcp_conn *
lock_one(struct tcp_link *tcp)
{
    uint32_t stripes = (uint32_t)tcp->conns - 1, first = 0;
    struct tcp_conn *conn;

    if (stripes > 1)
        first = __atomic_fetch_add(&tcp->stripe, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; stripes > 1 && i < stripes; i++) {
        conn = &tcp->conn[TCP_BULK + (first + i) % stripes];
        if (is_broken(conn) || pthread_mutex_trylock(&conn->out.lock) != 0)
            continue;
        if (conn->out.next.at == conn->out.end_at)
            return conn;
        pthread_mutex_unlock(&conn->out.lock);
    }
    conn = &tcp->conn[TCP_BULK + first % stripes];
    pthread_mutex_lock(&conn->out.lock);
    return conn;
}

uint64_t
tcp_ticket(const struct tcp_link *tcp, const struct tcp_conn *conn, uint64_t number)
{
    return number * ((uint32_t)tcp->conns - 1) + (uint32_t)(conn->number - TCP_BULK);
}

void
tcp_mark_put(struct tcp_link *tcp, enum frame_kind kind, uint64_t ticket)
{
    uint32_t stripes = (uint32_t)tcp->conns - 1;
    struct tcp_conn *conn = &tcp->conn[TCP_COMMAND];
    struct mark_frame mark = {
        .frame = {.kind = kind, .lane = (uint16_t)(TCP_BULK + ticket % stripes)},
        .position = ticket / stripes,
    };

    if (tcp_await_insert(tcp, conn) == 0)
        tcp_insert(&conn->out, &mark, sizeof(mark), NULL, 0);
}

/* ticket 0: it travels between the replies. */
static int
put_down(struct tcp_link *tcp, struct put_frame *put, const uint8_t *bytes,
         uint64_t *ticket)
{
    struct tcp_conn *conn = &tcp->conn[TCP_COMMAND];
    bool leave = false;
    int err;

    if (put->size >= PUT_ALONE && tcp_haul_is_on(tcp)) {
        if (bytes != view_of(tcp, put))
            memcpy(view_of(tcp, put), bytes, put->size);
        return tcp_haul(tcp, put, view_of(tcp, put), NULL, put->size < HAUL_LEAST, ticket);
    }
    if (put->size < PUT_ALONE) {
        pthread_mutex_lock(&conn->out.lock);
    } else {
        leave = is_busy(tcp);
        conn = lock_one(tcp);
    }
    if (bytes != view_of(tcp, put))
        memcpy(view_of(tcp, put), bytes, put->size);
    err = tcp_queue_put(tcp, conn, put, leave);
    if (err)
        fdc_store_ordered(&tcp->dead, 1);
    *ticket = conn->number == TCP_COMMAND ? 0 : tcp_ticket(tcp, conn, put->ticket);
    tcp_let_go(tcp, conn);
    if (leave)
        tcp_kick_flusher(tcp);
    return err;
}

int
tcp_put_aside(struct fdc_link *link, uint64_t offset, uint64_t size, uint64_t *ticket)
{
    struct put_frame put = {
        .frame = {.kind = FRAME_PUT, .lane = FDC_REGION_DOWN},
        .offset = offset,
        .size = size,
    };

    return put_down(tcp_of(link), &put, link->region[FDC_REGION_DOWN] + offset, ticket);
}

/* A client's. */
static int
put_up(struct tcp_link *tcp, struct put_frame *put, const uint8_t *bytes,
       struct fdc_loan *loan, uint64_t *ticket)
{
    struct tcp_conn *conn = lock_one(tcp);
    int err;

    err = tcp_send_put(tcp, conn, put, bytes, loan);
    if (err) /* half a put may have left: nothing sensible can follow it */
        fdc_store_ordered(&tcp->dead, 1);
    else
        *ticket = tcp_ticket(tcp, conn, put->ticket);
    tcp_let_go(tcp, conn);
    return err;
}

int
tcp_lend(struct fdc_link *link, enum fdc_region region, uint64_t offset,
         const void *bytes, uint64_t size, struct fdc_loan *loan, uint64_t *ticket)
{
    struct tcp_link *tcp = tcp_of(link);
    struct put_frame put = {
        .frame = {.kind = FRAME_PUT, .lane = (uint16_t)region},
        .offset = offset,
        .size = size,
    };

    if (tcp_haul_is_on(tcp))
        return tcp_haul(tcp, &put, bytes, loan, false, ticket);
    return put_up(tcp, &put, bytes, loan, ticket);
}

/* What the other side has said to have it will not ask for. */
void
tcp_reclaim(struct fdc_link *link, struct fdc_loan *loan)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn = &tcp->conn[loan->conn];
    struct sender *to = &conn->out;

    if (fdc_load_acquire(&to->acked) >= loan->until) /* tcp_acked() */
        return;
    tcp_lock_sender(conn);
    if (loan->insert >= to->kept.insert)
        own_bytes(tcp, to, loan->insert);
    tcp_let_go(tcp, conn);
}

int
tcp_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
        const void *bytes, uint64_t size, uint64_t *ticket)
{
    struct tcp_link *tcp = tcp_of(link);
    struct put_frame put = {
        .frame = {.kind = FRAME_PUT, .lane = (uint16_t)region},
        .offset = offset,
        .size = size,
    };
    struct fdc_loan loan = {0};
    struct tcp_conn *conn;
    int err, lost;

    if (link->worker) {
        err = put_down(tcp, &put, bytes, ticket);
        if (!err && *ticket != 0) {
            conn = &tcp->conn[TCP_COMMAND];
            pthread_mutex_lock(&conn->out.lock);
            tcp_mark_put(tcp, FRAME_FENCE, *ticket);
            tcp_let_go(tcp, conn);
            *ticket = 0;
        }
        return err;
    }
    if (!tcp_haul_is_on(tcp))
        return put_up(tcp, &put, bytes, NULL, ticket);
    err = tcp_haul(tcp, &put, bytes, &loan, true, ticket);
    lost = fdc_link_settle(&loan);
    fdc_link_reclaim(link, &loan);
    return err ? err : lost;
}

int
tcp_put_wait(struct fdc_link *link, uint64_t ticket, int64_t timeout_us)
{
    struct tcp_link *tcp = tcp_of(link);
    uint32_t stripes = (uint32_t)tcp->conns - 1;
    struct receiver *from = &tcp->conn[TCP_BULK + ticket % stripes].in;
    uint64_t start_ns, now_ns, budget_ns;
    int64_t left_us = -1;
    uint32_t turn;
    int err = 0;

    ticket /= stripes; /* on that connection: tcp_put() */
    /* Pairs with the ordered stores where a put lands. */
    if (FDC_LIKELY(fdc_load_acquire(&from->landed) >= ticket))
        return 0;
    start_ns = fdc_now_ns();
    budget_ns = timeout_us ? fdc_spin_begin(&tcp->landed_spin) : 0;
    if (budget_ns) {
        while (fdc_load_acquire(&from->landed) < ticket &&
               fdc_now_ns() < start_ns + budget_ns)
            fdc_pause();
        fdc_spin_end(&tcp->landed_spin, fdc_load_acquire(&from->landed) >= ticket, false);
        if (fdc_load_acquire(&from->landed) >= ticket)
            return 0;
    }
    __atomic_fetch_add(&tcp->landed_waiters, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        turn = fdc_load_acquire(&tcp->landed_turn);
        if (fdc_load_ordered(&from->gone))
            err = -EPIPE;
        if (fdc_load_ordered(&from->landed) >= ticket) {
            err = 0;
            break;
        }
        if (err)
            break;
        now_ns = fdc_now_ns();
        if (timeout_us >= 0) {
            left_us = timeout_us - (int64_t)((now_ns - start_ns) / 1000);
            if (left_us <= 0) {
                err = -ETIMEDOUT;
                break;
            }
        }
        fdc_futex_wait(&tcp->landed_turn, turn, left_us, false);
    }
    __atomic_fetch_sub(&tcp->landed_waiters, 1, __ATOMIC_SEQ_CST);
    fdc_spin_learn(&tcp->landed_spin, fdc_now_ns() - start_ns, err == 0, budget_ns != 0);
    return err;
}

/* ---- where puts land ---- */

bool
tcp_land(struct fdc_link *link, uint64_t offset, uint64_t size, void *to)
{
    struct tcp_link *tcp = tcp_of(link);
    bool done, start;

    if (offset % LAND_STEP)
        return false;
    pthread_mutex_lock(&tcp->land_lock);
    if (!tcp->landing)
        tcp->landing =
            calloc(link->size.region[FDC_REGION_DOWN] / LAND_STEP, sizeof(*tcp->landing));
    done = tcp->landing != NULL;
    if (done)
        tcp->landing[offset / LAND_STEP] = (struct landing){.to = to, .size = size};
    start = done && has_stripes(tcp) && !tcp->reads;
    tcp->reads |= start;
    pthread_mutex_unlock(&tcp->land_lock);
    if (start && tcp_start_readers(tcp)) {
        /* then who leads reads them */
    }
    return done;
}

uint64_t
tcp_landed(struct fdc_link *link, uint64_t offset)
{
    struct tcp_link *tcp = tcp_of(link);
    struct landing *landing = &tcp->landing[offset / LAND_STEP];
    uint64_t landed;
    uint32_t turn;

    pthread_mutex_lock(&tcp->land_lock);
    while (landing->busy) {
        turn = fdc_load_relaxed(&tcp->land_turn); /* end_store() */
        pthread_mutex_unlock(&tcp->land_lock);
        fdc_futex_wait(&tcp->land_turn, turn, -1, false);
        pthread_mutex_lock(&tcp->land_lock);
    }
    landed = landing->landed;
    landing->to = NULL;
    pthread_mutex_unlock(&tcp->land_lock);
    return landed;
}
