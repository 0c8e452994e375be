/*
 * The sending half of a tcp connection. What has been sent stays in the buffer until the
 * other side says that it has it, so a full buffer waits for that. Acknowledgements of
 * what came travel with what is sent anyway: those of a client on the bulk connection,
 * whose reader never waits for the executor, those of a worker between the replies. There
 * is one for each quarter of a lane, so a program that calls pays 16 bytes for 256 KiB.
 *
 * What a socket does not take is left to the flusher, a thread that also sends what nobody
 * has flushed: a worker's puts to its client never wait.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp.h"

enum {
    PARTS = 8, /* of one write */
    FLUSHER_US = 200,
    FLUSHER_IDLE_ROUNDS = 25,
    WRITABLE_SLICE_MS = 100,
    SLOW_SLICE_MS = 10, /* others may have become slow meanwhile */
    ROOM_SLICE_US = 1000,
};

/* ---- places in the stream ---- */

static struct insert *
insert_at(const struct sender *to, uint64_t number)
{
    return &to->insert[number & (to->inserts - 1)];
}

/* One piece of memory that the stream goes on with from this place, at most so many bytes
 * of it; the place is behind it then. */
static size_t
step(const struct sender *to, struct place *place, uint64_t most, const uint8_t **bytes)
{
    const struct insert *insert = NULL;
    uint64_t inside, left;

    if (place->insert < to->insert_end)
        insert = insert_at(to, place->insert);
    if (!insert || place->at < insert->at) {
        left = (insert ? insert->at : to->end_at) - place->at;
        *bytes = to->bytes + place->index;
        left = left < most ? left : most;
        place->index += left;
    } else {
        inside = place->at - insert->at;
        if (inside < insert->head_size) {
            left = insert->head_size - inside;
            *bytes = (const uint8_t *)&insert->head + inside;
        } else {
            left = insert->head_size + insert->size - inside;
            *bytes = insert->bytes + (inside - insert->head_size);
        }
        left = left < most ? left : most;
        if (inside + left == insert->head_size + insert->size)
            place->insert++;
    }
    place->at += left;
    return left;
}

static void
walk(const struct sender *to, struct place *place, uint64_t until)
{
    const uint8_t *bytes;

    while (place->at < until)
        step(to, place, until - place->at, &bytes);
}

void
tcp_drop_acked(struct sender *to)
{
    uint64_t acked = fdc_load_acquire(&to->acked); /* tcp_acked() */

    walk(to, &to->kept, acked < to->next.at ? acked : to->next.at);
    if (to->kept.at == to->end_at && to->claimed == 0)
        to->kept.index = to->next.index = to->end = 0;
}

int
tcp_send_from(struct sender *to, uint64_t position)
{
    if (position < to->kept.at || position > to->end_at)
        return -EPROTO;
    to->next = to->kept;
    walk(to, &to->next, position);
    if (fdc_load_relaxed(&to->acked) < position)
        fdc_store_release(&to->acked, position);
    tcp_drop_acked(to);
    return 0;
}

/* The connection that carries this side's acknowledgements. */
static struct tcp_conn *
ack_carrier(struct tcp_link *tcp)
{
    return &tcp->conn[tcp->link.worker ? TCP_COMMAND : TCP_BULK];
}

/* Makes room for this many bytes behind end, where that goes without waiting. */
bool
tcp_make_room(struct tcp_link *tcp, struct tcp_conn *conn, size_t need)
{
    struct sender *to = &conn->out;
    size_t shift;

    /* What a worker has to acknowledge goes before its next message: tcp_reclaim(). */
    if (conn == ack_carrier(tcp) && !tcp_may_insert(to, (uint32_t)tcp->conns))
        return false;
    if (to->size - to->end >= need)
        return true;
    tcp_send(tcp, conn);
    tcp_drop_acked(to);
    if (to->size - to->end >= need)
        return true;
    if (to->claimed > 0) /* somebody is writing behind end: it must not move */
        return false;
    /* What is left moves to the front, as far off a multiple of 8 as it was: a new
     * connection may have begun with half a message, and the next one shall be aligned. */
    shift = to->kept.index & ~(size_t)7;
    if (to->size - (to->end - shift) < need)
        return false;
    memmove(to->bytes + to->kept.index - shift, to->bytes + to->kept.index,
            to->end - to->kept.index);
    to->kept.index -= shift;
    to->next.index -= shift;
    to->end -= shift;
    return true;
}

bool
tcp_may_insert(struct sender *to, uint32_t spare)
{
    if (to->insert_end - to->kept.insert + spare < to->inserts)
        return true;
    tcp_drop_acked(to);
    return to->insert_end - to->kept.insert + spare < to->inserts;
}

struct insert *
tcp_insert(struct sender *to, const void *head, uint32_t head_size, const uint8_t *bytes,
           uint64_t size)
{
    struct insert *insert = insert_at(to, to->insert_end);

    insert->at = to->end_at;
    insert->size = size;
    insert->bytes = bytes;
    insert->head_size = head_size;
    memcpy(&insert->head, head, head_size);
    to->end_at += head_size + size;
    to->insert_end++;
    return insert;
}

/* Until the other side has acknowledged something, for a moment. No lock is held. */
static void
await_ack(struct tcp_link *tcp, struct sender *to, uint32_t seen)
{
    if (tcp_try_lead(tcp)) {
        tcp_pump(tcp);
        tcp_stop_leading(tcp);
    }
    fdc_futex_wait(&to->ack_turn, seen, ROOM_SLICE_US, false);
}

int
tcp_await_insert(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct sender *to = &conn->out;
    uint32_t seen;

    for (;;) {
        if (fdc_load_acquire(&tcp->dead))
            return -EPIPE;
        seen = fdc_load_acquire(&to->ack_turn); /* tcp_acked() */
        if (tcp_may_insert(to, INSERTS_OWN))
            return 0;
        tcp_let_go(tcp, conn);
        await_ack(tcp, to, seen);
        pthread_mutex_lock(&to->lock);
    }
}

/* ---- sending ---- */

static ssize_t
send_some(struct tcp_conn *conn)
{
    const struct sender *to = &conn->out;
    struct iovec parts[PARTS];
    struct msghdr message = {.msg_iov = parts};
    struct place place = to->next;
    const uint8_t *bytes;
    size_t count = 0;

    while (count < PARTS && place.at < to->end_at) {
        parts[count].iov_len = step(to, &place, UINT64_MAX, &bytes);
        parts[count++].iov_base = (void *)bytes;
    }
    message.msg_iovlen = count;
    if (conn->seal)
        return seal_send(conn->seal, conn->fd, parts, count);
    return sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int
tcp_send(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct sender *to = &conn->out;
    int saved = errno, err = 0;
    ssize_t n;

    while (to->next.at < to->end_at && !err) {
        if (fdc_load_acquire(&tcp->dead))
            err = -EPIPE;
        if (err || is_broken(conn))
            break;
        count_call(tcp);
        n = send_some(conn);
        if (n > 0) {
            walk(to, &to->next, to->next.at + (uint64_t)n);
            to->sent_ns = fdc_now_ns();
        } else if (errno == EAGAIN) {
            err = -EAGAIN;
        } else if (errno != EINTR && !tcp_break(tcp, conn)) {
            err = -EPIPE;
        }
    }
    tcp_drop_acked(to);
    if (err == -EPIPE) {
        fdc_store_ordered(&tcp->dead, 1);
        shutdown(conn->fd, SHUT_RDWR); /* what has arrived can still be read */
    }
    errno = saved;
    return err;
}

void
tcp_lock_sender(struct tcp_conn *conn)
{
    struct sender *to = &conn->out;

    if (conn->number == TCP_COMMAND) {
        pthread_mutex_lock(&to->lock);
    } else if (pthread_mutex_trylock(&to->lock) != 0) {
        __atomic_fetch_add(&to->eager, 1, __ATOMIC_SEQ_CST); /* let_others() */
        pthread_mutex_lock(&to->lock);
        __atomic_fetch_sub(&to->eager, 1, __ATOMIC_SEQ_CST);
        fdc_futex_wake(&to->eager, 1, false);
    }
}

void
tcp_await_writable(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct pollfd poll_fd = {.fd = conn->fd, .events = POLLOUT};
    int saved = errno;

    if (poll(&poll_fd, 1, WRITABLE_SLICE_MS) == 0)
        tcp_end_if_silent(tcp);
    errno = saved;
}

/* ---- acknowledging ---- */

static bool
is_ack_due(struct tcp_link *tcp)
{
    for (int i = 0; i < tcp->conns; i++)
        if (fdc_load_ordered(&tcp->conn[i].ack))
            return true;
    return false;
}

/* False: one is due that there is no room for. */
static bool
send_acks(struct tcp_link *tcp, struct tcp_conn *carrier)
{
    struct mark_frame ack = {.frame.kind = FRAME_ACK};
    bool added = false;

    for (int i = 0; i < tcp->conns; i++) {
        if (!fdc_load_relaxed(&tcp->conn[i].ack))
            continue;
        if (!tcp_may_insert(&carrier->out, 1))
            return false;
        ack.position = fdc_exchange_ordered(&tcp->conn[i].ack, 0);
        ack.frame.lane = (uint16_t)i;
        tcp_insert(&carrier->out, &ack, sizeof(ack), NULL, 0);
        added = true;
    }
    /* Where a message is being written it leaves with that. */
    if (added && carrier->out.claimed == 0 && tcp_send(tcp, carrier) == -EAGAIN)
        tcp_arm_flusher(tcp, carrier);
    return true;
}

/* Whoever finds the lock taken leaves an acknowledgement to the one who has it. */
void
tcp_let_go(struct tcp_link *tcp, struct tcp_conn *conn)
{
    bool carries = conn == ack_carrier(tcp), done;

    do {
        done = !carries || send_acks(tcp, conn);
        pthread_mutex_unlock(&conn->out.lock);
    } while (carries && done && is_ack_due(tcp) &&
             pthread_mutex_trylock(&conn->out.lock) == 0);
}

static void
try_acks(struct tcp_link *tcp)
{
    struct tcp_conn *carrier = ack_carrier(tcp);

    if (is_ack_due(tcp) && pthread_mutex_trylock(&carrier->out.lock) == 0)
        tcp_let_go(tcp, carrier);
}

void
tcp_ack(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t position)
{
    fdc_store_ordered(&conn->ack, position); /* is_ack_due() */
    try_acks(tcp);
}

/* A position that cannot be true harms nobody but who said it: tcp_drop_acked(). */
void
tcp_acked(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t position)
{
    struct sender *to = &conn->out;

    if (position <= fdc_load_relaxed(&to->acked))
        return;
    fdc_store_release(&to->acked, position);
    __atomic_fetch_add(&to->ack_turn, 1, __ATOMIC_SEQ_CST); /* tcp_wait_room() */
    fdc_futex_wake(&to->ack_turn, INT_MAX, false);
    try_acks(tcp);
}

/* This side ends and will not come back. Where it cannot be said, the other side finds out
 * when it dials. */
void
tcp_say_bye(struct tcp_link *tcp)
{
    struct frame bye = {.kind = FRAME_BYE};
    struct tcp_conn *conn = &tcp->conn[TCP_COMMAND];

    if (tcp->said_bye || !conn->out.insert || fdc_load_acquire(&tcp->dead) ||
        !tcp_may_insert(&conn->out, 1))
        return;
    tcp->said_bye = true;
    tcp_insert(&conn->out, &bye, sizeof(bye), NULL, 0);
    tcp_send(tcp, conn);
}

/* ---- the flusher ---- */

/* Connections whose sockets took not all. */
struct slow {
    struct pollfd poll[TCP_CONNS];
    nfds_t count;
};

/* One round. True: there was something to send. */
static bool
flush_all(struct tcp_link *tcp, struct slow *slow)
{
    struct tcp_conn *conn;
    bool did = false;

    slow->count = 0;
    for (int i = 0; i < tcp->conns; i++) {
        conn = &tcp->conn[i];
        if (i == TCP_COMMAND) {
            pthread_mutex_lock(&conn->out.lock);
        } else if (pthread_mutex_trylock(&conn->out.lock) != 0) {
            did = true; /* who has it may leave to us what they queue, and not wake us */
            continue;
        }
        if (conn->out.next.at < conn->out.end_at && !is_broken(conn)) {
            did = true;
            if (tcp_send(tcp, conn) == -EAGAIN)
                slow->poll[slow->count++] =
                    (struct pollfd){.fd = conn->fd, .events = POLLOUT};
        }
        tcp_let_go(tcp, conn);
    }
    return did;
}

static bool
change_flusher(struct tcp_link *tcp, uint32_t from, uint32_t to)
{
    return __atomic_compare_exchange_n(&tcp->flusher_state, &from, to, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void *
flusher_thread(void *arg)
{
    struct tcp_link *tcp = arg;
    struct slow slow = {.count = 0};
    uint32_t kick = 0;
    int idle = 0;

    for (;;) {
        switch (fdc_load_acquire(&tcp->flusher_state)) {
        case FLUSHER_STOP:
            return NULL;
        case FLUSHER_PARKED:
            fdc_futex_wait(&tcp->flusher_state, FLUSHER_PARKED, -1, false);
            idle = 0;
            continue;
        default:
            if (slow.count == 0)
                fdc_futex_wait(&tcp->flusher_kick, kick, FLUSHER_US, false);
        }
        kick = fdc_load_acquire(&tcp->flusher_kick); /* tcp_kick_flusher() */
        if (flush_all(tcp, &slow) && !fdc_load_acquire(&tcp->dead))
            idle = 0;
        else if (++idle >= FLUSHER_IDLE_ROUNDS &&
                 change_flusher(tcp, FLUSHER_ARMED, FLUSHER_PARKED) &&
                 flush_all(tcp, &slow) && !fdc_load_acquire(&tcp->dead))
            change_flusher(tcp, FLUSHER_PARKED, FLUSHER_ARMED);
        if (slow.count > 0 && poll(slow.poll, slow.count, SLOW_SLICE_MS) == 0)
            tcp_end_if_silent(tcp);
    }
}

static __attribute__((noinline)) bool
start_flusher(struct tcp_link *tcp)
{
    sigset_t all, before;
    bool started;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&tcp->flusher, NULL, flusher_thread, tcp) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        tcp->has_flusher = true;
    } else {
        fdc_log(FDC_LOG_WARN, "no thread to flush with: messages are sent one by one");
        change_flusher(tcp, FLUSHER_ARMED, FLUSHER_NONE);
    }
    return started;
}

void
tcp_kick_flusher(struct tcp_link *tcp)
{
    __atomic_fetch_add(&tcp->flusher_kick, 1, __ATOMIC_SEQ_CST);
    fdc_futex_wake(&tcp->flusher_kick, 1, false);
}

/* Something is queued that nobody may come back for. The sender's lock is held. */
void
tcp_arm_flusher(struct tcp_link *tcp, struct tcp_conn *conn)
{
    if (FDC_LIKELY(fdc_load_acquire(&tcp->flusher_state) == FLUSHER_ARMED))
        return;
    if (change_flusher(tcp, FLUSHER_PARKED, FLUSHER_ARMED)) {
        fdc_futex_wake(&tcp->flusher_state, 1, false);
        return;
    }
    if (!change_flusher(tcp, FLUSHER_NONE, FLUSHER_ARMED) || start_flusher(tcp))
        return;
    while (tcp_send(tcp, conn) == -EAGAIN)
        tcp_await_writable(tcp, conn);
}
