/*
 * The tcp road. Two connections: socks[0] carries the commands one way and, the other
 * way, replies with the puts to the client between them; socks[1], the bulk connection,
 * carries puts to the worker and the side lane.
 *
 * Receiving: whatever arrives is sorted into rings of this process (messages) and into
 * the regions (puts), or where the caller wants a put's bytes instead (land). Bytes of puts
 * are read straight to their place, all but the few that come with their head. On the bulk connection a thread of the worker does that. On the
 * command connection there is no thread: of those who wait one leads, reading the
 * socket for all, and the others sleep on the ring; who stops leading wakes them to
 * take over. Peeking and waiting for room read the socket too, so that a client that
 * only waits for room still takes in what the worker wants to get rid of.
 *
 * Sending: messages gather in a buffer. They leave when asked to, when there are many,
 * at once when the connection has been quiet, and otherwise through a thread that is
 * started at the first need and looks every 200 us while there is traffic.
 */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "link.h"
#include "seal.h"

enum {
    FLUSH_BYTES = 64 << 10,
    QUIET_NS = 100000, /* then a message does not wait for company */
    FLUSHER_NS = 200000,
    FLUSHER_IDLE_ROUNDS = 25,
    STAGING_EXTRA = 64 << 10,
    READ_BEHIND = 4 << 10,  /* a put: the next heads come with its bytes */
    READ_REPLIES = 16 << 10, /* that puts may be between */
    LAND_STEP = 4 << 10,
    ROOM_SLICE_MS = 10,
    WRITABLE_SLICE_MS = 100,
    LINGER_NS = 1000000000, /* what free() gives a slow peer to take the rest */
    SILENCE_MS = 30000,     /* of a peer's machine that should have answered */
    SILENCE_LOOK_US = 5000000,
};

enum frame_kind { FRAME_MESSAGE = 1, FRAME_PUT = 2 };

struct frame {
    uint32_t size; /* of the message behind it; of a put: 0 */
    uint16_t kind;
    uint16_t lane; /* or region */
};

struct put_frame {
    struct frame frame;
    uint64_t offset, size, ticket;
};

/* One socket's sending half. lock guards all of it. */
struct sender {
    int fd;
    struct seal *seal; /* NULL: the bytes leave as they are */
    pthread_mutex_t lock;
    uint8_t *bytes;
    size_t size, start, end; /* committed and not yet sent */
    size_t claimed;          /* behind end; the buffer does not move then */
    uint64_t sent_ns;
    uint64_t puts;
};

/* One socket's receiving half; one thread at a time. */
struct receiver {
    int fd;
    struct seal *seal;
    uint8_t *bytes;
    size_t size, start, end;
    uint64_t put_start, put_offset, put_left, put_ticket;
    uint16_t put_region;
    uint32_t blocked_size; /* of the message that its ring had no room for */
    size_t missing;        /* of a message whose head is there */
};

/* Where the bytes of a put go instead, and how many have. */
struct landing {
    uint8_t *to;
    uint64_t size, landed;
};

enum flusher_state { FLUSHER_NONE, FLUSHER_PARKED, FLUSHER_ARMED, FLUSHER_STOP };

struct tcp_link {
    struct fdc_link link;
    struct sender command, bulk;
    struct receiver from_command, from_bulk;
    void *ring_memory[FDC_LANES];
    struct fdc_ring fill[FDC_LANES]; /* the producing ends of link.ring */

    /* Who leads on the command connection. */
    pthread_mutex_t lead;
    uint32_t lead_turn; /* changes when somebody stops leading */
    uint32_t polling;   /* the leader is about to sleep in poll() */
    int wake_fd;
    struct fdc_spin spin;

    uint32_t flusher_state; /* written under command.lock, slept on */
    bool has_flusher, has_bulk_thread;
    pthread_t flusher, bulk_thread;

    pthread_mutex_t land_lock; /* of landings, also while bytes go there; a leaf */
    struct landing *landing;   /* a client's, by where in DOWN; made at first use */

    /* Puts that have landed, in order of their tickets. */
    uint64_t landed;
    uint32_t landed_waiters, landed_turn;
    uint32_t bulk_gone, dead;
    struct fdc_spin landed_spin;
};

static const struct fdc_link_ops tcp_ops;

static struct tcp_link *
tcp_of(struct fdc_link *link)
{
    return (struct tcp_link *)(void *)link;
}

static size_t
frame_size(uint32_t size)
{
    return sizeof(struct frame) + FDC_ALIGN_UP((size_t)size, 8);
}

static void
count_call(struct tcp_link *tcp)
{
    __atomic_fetch_add(&tcp->link.stats.system_calls, 1, __ATOMIC_RELAXED);
}

static void
wake_landed(struct tcp_link *tcp)
{
    if (!fdc_load_ordered(&tcp->landed_waiters))
        return;
    __atomic_fetch_add(&tcp->landed_turn, 1, __ATOMIC_SEQ_CST);
    fdc_futex_wake(&tcp->landed_turn, INT_MAX, false);
}

static void
wake_leader(struct tcp_link *tcp)
{
    uint64_t one = 1;

    /* Orders the caller's store before this look; pairs with lead_sleep()'s. */
    if (fdc_exchange_ordered(&tcp->polling, 0) &&
        write(tcp->wake_fd, &one, sizeof(one)) < 0) {
        /* full: it is awake anyway */
    }
}

/* Ends the link for this side: every ring, every sleeper, both sockets. */
static void
tcp_shutdown(struct fdc_link *link)
{
    struct tcp_link *tcp = tcp_of(link);

    fdc_store_ordered(&tcp->dead, 1);
    fdc_store_ordered(&tcp->bulk_gone, 1);
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (!link_sends(link, lane))
            fdc_ring_close(&link->ring[lane]);
    shutdown(tcp->command.fd, SHUT_RDWR);
    shutdown(tcp->bulk.fd, SHUT_RDWR);
    wake_leader(tcp);
    wake_landed(tcp);
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

static void
end_if_silent(struct tcp_link *tcp)
{
    if (fdc_load_acquire(&tcp->dead) ||
        (!is_silent(tcp->command.fd) && !is_silent(tcp->bulk.fd)))
        return;
    fdc_log(FDC_LOG_ERROR, "tcp link ends: the peer has not answered for %d s",
            SILENCE_MS / 1000);
    tcp_shutdown(&tcp->link);
}

/* ---- receiving ---- */

/* So many bytes of the put under way are in the region. */
static void
advance_put(struct tcp_link *tcp, struct receiver *from, size_t size)
{
    from->put_offset += size;
    from->put_left -= size;
    if (from->put_left > 0)
        return;
    from->put_ticket++;
    fdc_store_ordered(&tcp->landed, from->put_ticket); /* tcp_put_wait() */
    wake_landed(tcp);
}

static int
check_message(const struct tcp_link *tcp, const struct receiver *from,
              const struct frame *frame)
{
    if (frame->lane >= FDC_LANES || link_sends(&tcp->link, frame->lane))
        return -EPROTO;
    if ((frame->lane == FDC_LANE_SIDE) != (from == &tcp->from_bulk))
        return -EPROTO;
    if (frame->size == 0 || frame->size > link_max_record(&tcp->link, frame->lane))
        return -EPROTO;
    return 0;
}

static int
check_put(const struct tcp_link *tcp, const struct receiver *from,
          const struct put_frame *put)
{
    const struct fdc_link *link = &tcp->link;
    uint16_t region = link->worker ? FDC_REGION_UP : FDC_REGION_DOWN;

    if (put->frame.lane != region || put->frame.size != 0)
        return -EPROTO;
    if (link->worker != (from == &tcp->from_bulk) ||
        put->ticket != from->put_ticket + 1)
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

static uint8_t *
put_place(struct tcp_link *tcp, const struct receiver *from, const struct landing *landing)
{
    return landing ? landing->to + landing->landed
                   : tcp->link.region[from->put_region] + from->put_offset;
}

/* Bytes of the put that were read with messages. */
static void
place_bytes(struct tcp_link *tcp, struct receiver *from, const uint8_t *bytes, size_t size)
{
    struct landing *landing;

    pthread_mutex_lock(&tcp->land_lock);
    landing = landing_of(tcp, from);
    memcpy(put_place(tcp, from, landing), bytes, size);
    if (landing)
        landing->landed += size;
    pthread_mutex_unlock(&tcp->land_lock);
}

/* Sorts what has been gathered. 1: more bytes are needed; 0: blocked, a ring has no
 * room for the next message; -EPROTO, -EPIPE. */
static int
sort_frames(struct tcp_link *tcp, struct receiver *from)
{
    struct put_frame put;
    struct frame frame;
    const uint8_t *at;
    size_t held, part;
    void *room;
    int err = 0;

    from->blocked_size = 0;
    from->missing = 0;
    for (;;) {
        at = from->bytes + from->start;
        held = from->end - from->start;
        if (from->put_left > 0) {
            if (held == 0)
                return 1;
            part = held < from->put_left ? held : from->put_left;
            place_bytes(tcp, from, at, part);
            from->start += part;
            advance_put(tcp, from, part);
            continue;
        }
        if (held < sizeof(frame))
            return 1;
        memcpy(&frame, at, sizeof(frame));
        if (frame.kind == FRAME_MESSAGE) {
            err = check_message(tcp, from, &frame);
            if (err)
                return err;
            if (held < frame_size(frame.size)) {
                from->missing = frame_size(frame.size) - held;
                return 1;
            }
            room = fdc_ring_claim(&tcp->fill[frame.lane], frame.size, &err);
            if (!room) {
                if (err != -EAGAIN)
                    return err;
                from->blocked_size = frame.size;
                return 0;
            }
            memcpy(room, at + sizeof(frame), frame.size);
            from->start += frame_size(frame.size);
            fdc_ring_commit(&tcp->fill[frame.lane]);
        } else if (frame.kind == FRAME_PUT) {
            if (held < sizeof(put))
                return 1;
            memcpy(&put, at, sizeof(put));
            err = check_put(tcp, from, &put);
            if (err)
                return err;
            from->start += sizeof(put);
            from->put_region = put.frame.lane;
            from->put_start = from->put_offset = put.offset;
            from->put_left = put.size;
        } else {
            return -EPROTO;
        }
    }
}

/* What one read may take in of messages, where puts may be behind them. */
static size_t
read_ahead(const struct tcp_link *tcp, const struct receiver *from)
{
    size_t size = from->size - from->end;

    if (from == &tcp->from_command && tcp->link.worker)
        return size; /* there are no puts */
    if (from->missing > READ_REPLIES)
        return from->missing < size ? from->missing : size;
    return READ_REPLIES < size ? READ_REPLIES : size;
}

/* The rest of a put, and what is behind it. */
static ssize_t
read_put(struct tcp_link *tcp, struct receiver *from, int flags, size_t *want)
{
    struct iovec part[2] = {
        {.iov_len = from->put_left},
        {.iov_base = from->bytes, .iov_len = READ_BEHIND},
    };
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    struct landing *landing;
    size_t got = 0;
    ssize_t n;

    *want = from->put_left + (from->seal ? 0 : READ_BEHIND);
    from->start = from->end = 0;
    /* A worker, whose bulk thread sleeps here, has no landings, and nobody else wants this. */
    pthread_mutex_lock(&tcp->land_lock);
    landing = landing_of(tcp, from);
    part[0].iov_base = put_place(tcp, from, landing);
    n = from->seal ? seal_receive(from->seal, from->fd, part[0].iov_base, *want, flags)
                   : recvmsg(from->fd, &message, flags);
    if (n > 0)
        got = (size_t)n < from->put_left ? (size_t)n : from->put_left;
    if (landing)
        landing->landed += got;
    if (landing && n < 0 && errno == EFAULT) {
        /* The kernel may not write there, as a program that guards its memory has it: the
         * rest goes by way of the region. */
        landing->to = NULL;
        errno = EAGAIN;
    }
    pthread_mutex_unlock(&tcp->land_lock);
    if (n <= 0)
        return n;
    from->end = (size_t)n - got;
    advance_put(tcp, from, got);
    return n;
}

static ssize_t
read_messages(struct tcp_link *tcp, struct receiver *from, int flags, size_t *want)
{
    size_t held = from->end - from->start;
    uint8_t *to;
    ssize_t n;

    if (held == 0 || from->size - from->end < STAGING_EXTRA) {
        memmove(from->bytes, from->bytes + from->start, held);
        from->start = 0;
        from->end = held;
    }
    *want = read_ahead(tcp, from);
    to = from->bytes + from->end;
    n = from->seal ? seal_receive(from->seal, from->fd, to, *want, flags)
                   : recv(from->fd, to, *want, flags);
    if (n > 0)
        from->end += (size_t)n;
    return n;
}

/* One read. Returns 2 when it got all it had asked for, 1 when less, -EAGAIN, -EPIPE or
 * another -errno. */
static int
read_more(struct tcp_link *tcp, struct receiver *from, int flags)
{
    size_t want;
    ssize_t n;

    count_call(tcp);
    if (from->put_left > 0 && from->end == from->start)
        n = read_put(tcp, from, flags, &want);
    else
        n = read_messages(tcp, from, flags, &want);
    if (n == 0)
        return -EPIPE;
    if (n < 0 && (errno == ECONNRESET || errno == ETIMEDOUT))
        return -EPIPE;
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    return (size_t)n == want ? 2 : 1;
}

static const char *
what_broke(int err)
{
    return err == -EPROTO    ? "broken frame"
           : err == -EBADMSG ? "bytes that are not sealed as agreed"
                             : strerror(-err);
}

/* Takes in what has arrived, without waiting. The caller leads. */
static void
pump(struct tcp_link *tcp)
{
    struct receiver *from = &tcp->from_command;
    enum fdc_lane lane = tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;
    int saved = errno, got = 2, ready;

    /* Nothing more is read while a ring is full: the sender has to wait. */
    ready = sort_frames(tcp, from);
    while (ready == 1 && got == 2) {
        got = read_more(tcp, from, MSG_DONTWAIT);
        ready = got < 0 ? got : sort_frames(tcp, from);
    }
    if (ready == -EPIPE) {
        fdc_ring_close(&tcp->link.ring[lane]);
    } else if (ready < 0 && ready != -EAGAIN) {
        fdc_log(FDC_LOG_ERROR, "tcp link ends: %s on the command connection",
                what_broke(ready));
        tcp_shutdown(&tcp->link);
    }
    errno = saved;
}

static bool
try_lead(struct tcp_link *tcp)
{
    return pthread_mutex_trylock(&tcp->lead) == 0;
}

static void
stop_leading(struct tcp_link *tcp)
{
    enum fdc_lane lane = tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;

    pthread_mutex_unlock(&tcp->lead);
    __atomic_fetch_add(&tcp->lead_turn, 1, __ATOMIC_SEQ_CST); /* follower's wait */
    fdc_ring_poke(&tcp->link.ring[lane]);
}

static void *
bulk_thread(void *arg)
{
    struct tcp_link *tcp = arg;
    struct receiver *from = &tcp->from_bulk;
    struct fdc_ring *side = &tcp->fill[FDC_LANE_SIDE];
    int ready;

    do {
        ready = sort_frames(tcp, from);
        if (ready == 0) /* until the side lane's reader makes room */
            ready = fdc_ring_wait_room(side, from->blocked_size, -1);
        else if (ready > 0)
            ready = read_more(tcp, from, 0);
    } while (ready >= 0 || ready == -EAGAIN);
    if (ready != -EPIPE) {
        fdc_log(FDC_LOG_ERROR, "tcp link ends: %s on the bulk connection",
                what_broke(ready));
        tcp_shutdown(&tcp->link);
    }
    /* Commands that have arrived are still good; only puts will not come any more. */
    fdc_store_ordered(&tcp->bulk_gone, 1);
    fdc_ring_close(side);
    wake_landed(tcp);
    return NULL;
}

static const void *
tcp_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    struct tcp_link *tcp = tcp_of(link);
    const void *message;

    message = fdc_ring_peek(&link->ring[lane], size, err);
    if (FDC_LIKELY(message) || *err || lane == FDC_LANE_SIDE || !try_lead(tcp))
        return message;
    pump(tcp);
    stop_leading(tcp);
    return fdc_ring_peek(&link->ring[lane], size, err);
}

/* Until the socket or a poke says that there is news. False: the time is over. */
static bool
lead_sleep(struct tcp_link *tcp, const uint32_t *word, uint32_t seen,
           int64_t timeout_us)
{
    struct pollfd poll_fds[2] = {
        {.fd = tcp->from_command.fd, .events = POLLIN},
        {.fd = tcp->wake_fd, .events = POLLIN},
    };
    struct timespec timeout;
    int saved = errno, n = 1;
    uint64_t drained;

    fdc_exchange_ordered(&tcp->polling, 1);
    if ((!word || fdc_load_acquire(word) == seen) && !fdc_load_ordered(&tcp->dead)) {
        timeout.tv_sec = timeout_us / 1000000;
        timeout.tv_nsec = timeout_us % 1000000 * 1000;
        count_call(tcp);
        n = ppoll(poll_fds, 2, &timeout, NULL);
    }
    fdc_store_ordered(&tcp->polling, 0);
    if (poll_fds[1].revents && read(tcp->wake_fd, &drained, sizeof(drained)) < 0) {
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
        pump(tcp);
        ready = look(ring, word, seen);
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
            end_if_silent(tcp);
    }
    if (budget_ns)
        fdc_spin_end(&tcp->spin, ready != 0, lent);
    if (slept)
        fdc_spin_learn(&tcp->spin, now_ns - start_ns, ready != 0, spun);
    return ready;
}

static int
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
        turn = fdc_load_acquire(&tcp->lead_turn); /* the add in stop_leading() */
        if (try_lead(tcp)) {
            __atomic_fetch_add(&ring->waits, 1, __ATOMIC_RELAXED);
            ready = lead_wait(tcp, ring, word, seen, limit_ns);
            stop_leading(tcp);
            return ready;
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

static void
tcp_poke(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_poke(&link->ring[lane]);
    if (lane != FDC_LANE_SIDE)
        wake_leader(tcp_of(link));
}

static int
tcp_put_wait(struct fdc_link *link, uint64_t ticket, int64_t timeout_us)
{
    struct tcp_link *tcp = tcp_of(link);
    uint64_t start_ns, now_ns, budget_ns;
    int64_t left_us = -1;
    uint32_t turn;
    int err = 0;

    /* Pairs with the ordered stores where a put lands. */
    if (FDC_LIKELY(fdc_load_acquire(&tcp->landed) >= ticket))
        return 0;
    start_ns = fdc_now_ns();
    budget_ns = timeout_us ? fdc_spin_begin(&tcp->landed_spin) : 0;
    if (budget_ns) {
        while (fdc_load_acquire(&tcp->landed) < ticket &&
               fdc_now_ns() < start_ns + budget_ns)
            fdc_pause();
        fdc_spin_end(&tcp->landed_spin, fdc_load_acquire(&tcp->landed) >= ticket, false);
        if (fdc_load_acquire(&tcp->landed) >= ticket)
            return 0;
    }
    __atomic_fetch_add(&tcp->landed_waiters, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        turn = fdc_load_acquire(&tcp->landed_turn);
        if (fdc_load_ordered(&tcp->bulk_gone))
            err = -EPIPE;
        if (fdc_load_ordered(&tcp->landed) >= ticket) {
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

static bool
tcp_land(struct fdc_link *link, uint64_t offset, uint64_t size, void *to)
{
    struct tcp_link *tcp = tcp_of(link);
    bool done;

    if (offset % LAND_STEP)
        return false;
    pthread_mutex_lock(&tcp->land_lock);
    if (!tcp->landing)
        tcp->landing =
            calloc(link->size.region[FDC_REGION_DOWN] / LAND_STEP, sizeof(*tcp->landing));
    done = tcp->landing != NULL;
    if (done)
        tcp->landing[offset / LAND_STEP] = (struct landing){.to = to, .size = size};
    pthread_mutex_unlock(&tcp->land_lock);
    return done;
}

static uint64_t
tcp_landed(struct fdc_link *link, uint64_t offset)
{
    struct tcp_link *tcp = tcp_of(link);
    uint64_t landed;

    pthread_mutex_lock(&tcp->land_lock);
    landed = tcp->landing[offset / LAND_STEP].landed;
    tcp->landing[offset / LAND_STEP].to = NULL;
    pthread_mutex_unlock(&tcp->land_lock);
    return landed;
}

/* ---- sending ---- */

static ssize_t
send_parts(struct sender *to, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

    if (to->seal)
        return seal_send(to->seal, to->fd, parts, count);
    return sendmsg(to->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Sends what is committed as far as the socket takes it. The lock is held. 0: all gone,
 * -EAGAIN, -EPIPE. */
static int
send_committed(struct tcp_link *tcp, struct sender *to)
{
    int saved = errno, err = 0;
    struct iovec part;
    ssize_t n;

    while (to->start < to->end) {
        count_call(tcp);
        part.iov_base = to->bytes + to->start;
        part.iov_len = to->end - to->start;
        n = send_parts(to, &part, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err = errno == EAGAIN ? -EAGAIN : -EPIPE;
            break;
        }
        to->start += (size_t)n;
        to->sent_ns = fdc_now_ns();
    }
    if (to->start == to->end && to->claimed == 0)
        to->start = to->end = 0;
    if (err == -EPIPE) {
        fdc_store_ordered(&tcp->dead, 1);
        shutdown(to->fd, SHUT_RDWR); /* what has arrived can still be read */
    }
    errno = saved;
    return err;
}

static void
await_writable(struct tcp_link *tcp, int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    int saved = errno;

    if (poll(&poll_fd, 1, WRITABLE_SLICE_MS) == 0)
        end_if_silent(tcp);
    errno = saved;
}

static void *
flusher_thread(void *arg)
{
    struct timespec period = {.tv_nsec = FLUSHER_NS};
    struct tcp_link *tcp = arg;
    struct sender *to = &tcp->command;
    int idle = 0, err;

    for (;;) {
        switch (fdc_load_acquire(&tcp->flusher_state)) {
        case FLUSHER_STOP:
            return NULL;
        case FLUSHER_PARKED:
            fdc_futex_wait(&tcp->flusher_state, FLUSHER_PARKED, -1, false);
            idle = 0;
            continue;
        default:
            nanosleep(&period, NULL);
        }
        err = 0;
        pthread_mutex_lock(&to->lock);
        if (to->start < to->end) {
            err = send_committed(tcp, to);
            idle = 0;
        } else if (++idle >= FLUSHER_IDLE_ROUNDS &&
                   tcp->flusher_state == FLUSHER_ARMED) {
            fdc_store_release(&tcp->flusher_state, FLUSHER_PARKED);
        }
        if (err == -EPIPE) /* nothing will ever leave: do not try again */
            to->start = to->end;
        pthread_mutex_unlock(&to->lock);
        if (err == -EAGAIN)
            await_writable(tcp, to->fd);
    }
}

static __attribute__((noinline)) void
start_flusher(struct tcp_link *tcp)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    fdc_store_release(&tcp->flusher_state, FLUSHER_ARMED);
    if (pthread_create(&tcp->flusher, NULL, flusher_thread, tcp) == 0) {
        tcp->has_flusher = true;
    } else {
        fdc_log(FDC_LOG_WARN, "no thread to flush with: messages are sent one by one");
        fdc_store_release(&tcp->flusher_state, FLUSHER_NONE);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Something is queued that nobody may come back for. The lock is held. */
static void
arm_flusher(struct tcp_link *tcp)
{
    switch (tcp->flusher_state) {
    case FLUSHER_NONE:
        start_flusher(tcp);
        if (tcp->flusher_state == FLUSHER_NONE)
            while (send_committed(tcp, &tcp->command) == -EAGAIN)
                await_writable(tcp, tcp->command.fd);
        break;
    case FLUSHER_PARKED:
        fdc_store_release(&tcp->flusher_state, FLUSHER_ARMED);
        fdc_futex_wake(&tcp->flusher_state, 1, false);
        break;
    default:
        break;
    }
}

static struct sender *
sender_of(struct tcp_link *tcp, enum fdc_lane lane)
{
    return lane == FDC_LANE_SIDE ? &tcp->bulk : &tcp->command;
}

/* Makes room for this many bytes behind end, where that goes without waiting. */
static bool
make_room(struct tcp_link *tcp, struct sender *to, size_t need)
{
    size_t shift;

    if (to->size - to->end >= need)
        return true;
    send_committed(tcp, to);
    if (to->size - to->end >= need)
        return true;
    if (to->claimed > 0) /* somebody is writing behind end: it must not move */
        return false;
    /* What is left moves to the front, as far off a multiple of 8 as it was: the socket
     * may have taken half a message, and the next one shall be aligned. */
    shift = to->start & ~(size_t)7;
    if (to->size - (to->end - shift) < need)
        return false;
    memmove(to->bytes + to->start - shift, to->bytes + to->start, to->end - to->start);
    to->start -= shift;
    to->end -= shift;
    return true;
}

static void *
tcp_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    struct tcp_link *tcp = tcp_of(link);
    struct sender *to = sender_of(tcp, lane);
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
    pthread_mutex_lock(&to->lock);
    if (make_room(tcp, to, frame_size(size))) {
        room = to->bytes + to->end;
        memcpy(room, &frame, sizeof(frame));
        memset(room + sizeof(frame) + size, 0, frame_size(size) - sizeof(frame) - size);
        room += sizeof(frame);
        to->claimed = frame_size(size);
    } else {
        *err = fdc_load_acquire(&tcp->dead) ? -EPIPE : -EAGAIN;
    }
    pthread_mutex_unlock(&to->lock);
    return room;
}

static void
tcp_commit(struct fdc_link *link, enum fdc_lane lane)
{
    struct tcp_link *tcp = tcp_of(link);
    struct sender *to = sender_of(tcp, lane);
    int err;

    pthread_mutex_lock(&to->lock);
    to->end += to->claimed;
    to->claimed = 0;
    if (to == &tcp->bulk) {
        while ((err = send_committed(tcp, to)) == -EAGAIN &&
               !fdc_load_acquire(&tcp->dead))
            await_writable(tcp, to->fd);
    } else {
        err = -EAGAIN;
        if (to->end - to->start >= FLUSH_BYTES || fdc_now_ns() - to->sent_ns > QUIET_NS)
            err = send_committed(tcp, to);
        if (err == -EAGAIN)
            arm_flusher(tcp);
    }
    pthread_mutex_unlock(&to->lock);
}

static void
tcp_abort(struct fdc_link *link, enum fdc_lane lane)
{
    struct sender *to = sender_of(tcp_of(link), lane);

    pthread_mutex_lock(&to->lock);
    to->claimed = 0;
    pthread_mutex_unlock(&to->lock);
}

static int
tcp_flush(struct fdc_link *link, enum fdc_lane lane)
{
    struct tcp_link *tcp = tcp_of(link);
    struct sender *to = sender_of(tcp, lane);
    int err = 0;

    if (!link_sends(link, lane))
        return -EINVAL;
    pthread_mutex_lock(&to->lock);
    if (to->start < to->end) {
        __atomic_fetch_add(&link->stats.flushes, 1, __ATOMIC_RELAXED);
        err = send_committed(tcp, to);
        if (err == -EAGAIN && to == &tcp->command) {
            arm_flusher(tcp);
            err = 0;
        }
    }
    pthread_mutex_unlock(&to->lock);
    return fdc_load_acquire(&tcp->dead) ? -EPIPE : err;
}

static int
tcp_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
              int64_t timeout_us)
{
    struct tcp_link *tcp = tcp_of(link);
    struct sender *to = sender_of(tcp, lane);
    uint64_t limit_ns = 0, now_ns;
    struct pollfd poll_fd = {.fd = to->fd};
    int slice_ms, saved;
    bool room;

    if (timeout_us >= 0)
        limit_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000;
    for (;;) {
        pthread_mutex_lock(&to->lock);
        room = make_room(tcp, to, frame_size(size));
        pthread_mutex_unlock(&to->lock);
        if (fdc_load_acquire(&tcp->dead))
            return -EPIPE;
        if (room)
            return 1;
        poll_fd.events = POLLOUT;
        if (to == &tcp->command && try_lead(tcp)) {
            pump(tcp);
            if (tcp->from_command.blocked_size == 0)
                poll_fd.events |= POLLIN;
            stop_leading(tcp);
        }
        slice_ms = ROOM_SLICE_MS;
        if (limit_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= limit_ns)
                return 0;
            if ((limit_ns - now_ns) / 1000000 < ROOM_SLICE_MS)
                slice_ms = (int)((limit_ns - now_ns) / 1000000) + 1;
        }
        saved = errno;
        count_call(tcp);
        if (poll(&poll_fd, 1, slice_ms) == 0)
            end_if_silent(tcp);
        errno = saved;
    }
}

/* Bytes of the caller, whole, after what is committed. The lock is held. */
static int
send_put(struct tcp_link *tcp, struct sender *to, struct iovec *part)
{
    int saved = errno, err;
    size_t parts = 2;
    ssize_t n;

    while ((err = send_committed(tcp, to)) == -EAGAIN && !fdc_load_acquire(&tcp->dead))
        await_writable(tcp, to->fd);
    while (!err && parts > 0) {
        count_call(tcp);
        n = send_parts(to, part, parts);
        if (n < 0) {
            if (errno == EAGAIN)
                await_writable(tcp, to->fd);
            else if (errno != EINTR)
                err = -EPIPE;
            if (fdc_load_acquire(&tcp->dead))
                err = -EPIPE;
            continue;
        }
        while (parts > 0 && (size_t)n >= part->iov_len) {
            n -= (ssize_t)part->iov_len;
            part++;
            parts--;
        }
        if (parts > 0) {
            part->iov_base = (uint8_t *)part->iov_base + n;
            part->iov_len -= (size_t)n;
        }
    }
    to->sent_ns = fdc_now_ns();
    errno = saved;
    return err;
}

static int
tcp_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
        const void *bytes, uint64_t size, uint64_t *ticket)
{
    struct tcp_link *tcp = tcp_of(link);
    struct sender *to = link->worker ? &tcp->command : &tcp->bulk;
    struct put_frame put = {
        .frame = {.kind = FRAME_PUT, .lane = (uint16_t)region},
        .offset = offset,
        .size = size,
    };
    struct iovec part[2] = {
        {.iov_base = &put, .iov_len = sizeof(put)},
        {.iov_base = (void *)bytes, .iov_len = size},
    };
    int err;

    pthread_mutex_lock(&to->lock);
    put.ticket = to->puts + 1;
    err = fdc_load_acquire(&tcp->dead) ? -EPIPE : send_put(tcp, to, part);
    if (err) {
        /* Half a put may have left: nothing sensible can follow it. */
        fdc_store_ordered(&tcp->dead, 1);
    } else {
        to->puts = put.ticket;
        if (!link->worker)
            *ticket = put.ticket;
    }
    pthread_mutex_unlock(&to->lock);
    return err;
}

/* ---- making and freeing ---- */

/* FD_TCP_CONGESTION names the kernel's algorithm; where it has no such one, it keeps its
 * own. */
static void
set_congestion(int fd)
{
    const char *name = getenv("FD_TCP_CONGESTION");

    if (name && *name &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) < 0)
        fdc_log(FDC_LOG_WARN, "congestion control %s cannot be had: %s", name,
                strerror(errno));
}

static void
set_socket(int fd)
{
    int on = 1, idle_s = 10, every_s = 5, count = 4;

    /* A Unix stream serves as well, in tests: then these fail and nothing is lost. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    set_congestion(fd);
}

static void
drop(struct tcp_link *tcp)
{
    struct fdc_link *link = &tcp->link;

    for (int lane = 0; lane < FDC_LANES; lane++)
        link_unmap(tcp->ring_memory[lane], fdc_ring_footprint(link->size.lane[lane]));
    for (int region = 0; region < FDC_REGIONS; region++)
        link_unmap(link->region[region], link->size.region[region]);
    link_unmap(tcp->command.bytes, tcp->command.size);
    link_unmap(tcp->bulk.bytes, tcp->bulk.size);
    link_unmap(tcp->from_command.bytes, tcp->from_command.size);
    link_unmap(tcp->from_bulk.bytes, tcp->from_bulk.size);
    seal_free(tcp->command.seal);
    seal_free(tcp->bulk.seal);
    if (tcp->wake_fd >= 0)
        close(tcp->wake_fd);
    pthread_mutex_destroy(&tcp->command.lock);
    pthread_mutex_destroy(&tcp->bulk.lock);
    pthread_mutex_destroy(&tcp->lead);
    pthread_mutex_destroy(&tcp->land_lock);
    free(tcp->landing);
    free(tcp);
}

static int
make_buffers(struct tcp_link *tcp)
{
    enum fdc_lane sent = tcp->link.worker ? FDC_LANE_REPLY : FDC_LANE_COMMAND;
    enum fdc_lane received = tcp->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;
    const struct fdc_link_size *size = &tcp->link.size;

    tcp->command.size = size->lane[sent] + STAGING_EXTRA;
    tcp->command.bytes = link_map(tcp->command.size);
    tcp->bulk.size = size->lane[FDC_LANE_SIDE] + STAGING_EXTRA;
    tcp->bulk.bytes = link_map(tcp->bulk.size);
    tcp->from_command.size = size->lane[received] / 2 + 2 * STAGING_EXTRA;
    tcp->from_command.bytes = link_map(tcp->from_command.size);
    tcp->from_bulk.size = size->lane[FDC_LANE_SIDE] / 2 + 2 * STAGING_EXTRA;
    tcp->from_bulk.bytes = link_map(tcp->from_bulk.size);
    if (!tcp->command.bytes || !tcp->bulk.bytes || !tcp->from_command.bytes ||
        !tcp->from_bulk.bytes)
        return -ENOMEM;
    return 0;
}

static int
make_rings(struct tcp_link *tcp)
{
    struct fdc_link *link = &tcp->link;
    int err;

    for (int lane = 0; lane < FDC_LANES; lane++) {
        if (link_sends(link, lane))
            continue;
        err = link_make_ring(link, lane, &tcp->ring_memory[lane], &tcp->fill[lane]);
        if (err)
            return err;
    }
    for (int region = 0; region < FDC_REGIONS; region++) {
        link->region[region] = link_map(link->size.region[region]);
        if (!link->region[region])
            return -ENOMEM;
    }
    return 0;
}

static int
make_seals(struct tcp_link *tcp, const struct fdc_link_key *keys)
{
    int err;

    if (!keys)
        return 0;
    err = seal_new(keys[0].bytes, tcp->link.worker, &tcp->command.seal);
    if (!err)
        err = seal_new(keys[1].bytes, tcp->link.worker, &tcp->bulk.seal);
    tcp->from_command.seal = tcp->command.seal;
    tcp->from_bulk.seal = tcp->bulk.seal;
    return err;
}

static int
tcp_make(const int socks[2], const struct fdc_link_key *keys, bool worker,
         struct tcp_link **made)
{
    struct tcp_link *tcp;
    int err;

    tcp = calloc(1, sizeof(*tcp));
    if (!tcp)
        return -ENOMEM;
    tcp->link.ops = &tcp_ops;
    tcp->link.road = FDC_ROAD_TCP;
    tcp->link.worker = worker;
    tcp->command.fd = tcp->from_command.fd = socks[0];
    tcp->bulk.fd = tcp->from_bulk.fd = socks[1];
    pthread_mutex_init(&tcp->command.lock, NULL);
    pthread_mutex_init(&tcp->bulk.lock, NULL);
    pthread_mutex_init(&tcp->lead, NULL);
    pthread_mutex_init(&tcp->land_lock, NULL);
    fdc_spin_init(&tcp->spin);
    fdc_spin_init(&tcp->landed_spin);
    set_socket(socks[0]);
    set_socket(socks[1]);
    tcp->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = tcp->wake_fd < 0 ? -errno : make_seals(tcp, keys);
    if (err) {
        drop(tcp);
        return err;
    }
    *made = tcp;
    return 0;
}

/* Once the sizes are known. */
static int
tcp_furnish(struct tcp_link *tcp, const struct fdc_link_size *size)
{
    int err;

    tcp->link.size = *size;
    err = make_buffers(tcp);
    return err ? err : make_rings(tcp);
}

int
tcp_link_worker(const int socks[2], const struct fdc_link_key *keys,
                const struct fdc_link_size *size, struct fdc_link **link)
{
    struct tcp_link *tcp = NULL;
    struct link_setup setup;
    sigset_t all, before;
    int err;

    err = tcp_make(socks, keys, true, &tcp);
    if (!err)
        err = tcp_furnish(tcp, size);
    if (err)
        goto out;
    link_setup_fill(&setup, &tcp->link);
    err = seal_write(tcp->command.seal, socks[0], &setup, sizeof(setup));
    if (err)
        goto out;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&tcp->bulk_thread, NULL, bulk_thread, tcp);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!err)
        tcp->has_bulk_thread = true;

out:
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot make a tcp link: %s", strerror(-err));
        if (tcp)
            drop(tcp);
        return err;
    }
    *link = &tcp->link;
    return 0;
}

int
tcp_link_client(const int socks[2], const struct fdc_link_key *keys,
                struct fdc_link **link)
{
    struct link_emulation emulation;
    struct tcp_link *tcp = NULL;
    struct fdc_link_size size;
    struct link_setup setup;
    int err;

    err = tcp_make(socks, keys, false, &tcp);
    if (!err)
        err = seal_read(tcp->from_command.seal, socks[0], &setup, sizeof(setup),
                        LINK_SETUP_TIMEOUT_US);
    if (!err)
        err = link_setup_take(&setup, FDC_ROAD_TCP, &size, &emulation);
    if (!err)
        err = tcp_furnish(tcp, &size);
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot take over a tcp link: %s", what_broke(err));
        if (tcp)
            drop(tcp);
        return err;
    }
    tcp->link.emulation = emulation;
    *link = &tcp->link;
    return 0;
}

static void
send_rest(struct tcp_link *tcp)
{
    uint64_t limit_ns = fdc_now_ns() + LINGER_NS;

    pthread_mutex_lock(&tcp->command.lock);
    while (!fdc_load_acquire(&tcp->dead) &&
           send_committed(tcp, &tcp->command) == -EAGAIN && fdc_now_ns() < limit_ns)
        await_writable(tcp, tcp->command.fd);
    pthread_mutex_unlock(&tcp->command.lock);
}

static void
tcp_free(struct fdc_link *link, bool abandon)
{
    struct tcp_link *tcp = tcp_of(link);

    if (!abandon) {
        send_rest(tcp);
        pthread_mutex_lock(&tcp->command.lock);
        fdc_store_release(&tcp->flusher_state, FLUSHER_STOP);
        pthread_mutex_unlock(&tcp->command.lock);
        fdc_futex_wake(&tcp->flusher_state, 1, false);
        tcp_shutdown(link);
        if (tcp->has_flusher)
            pthread_join(tcp->flusher, NULL);
        if (tcp->has_bulk_thread)
            pthread_join(tcp->bulk_thread, NULL);
    }
    close(tcp->command.fd);
    close(tcp->bulk.fd);
    drop(tcp);
}

static const struct fdc_link_ops tcp_ops = {
    .free = tcp_free,
    .shutdown = tcp_shutdown,
    .claim = tcp_claim,
    .commit = tcp_commit,
    .abort = tcp_abort,
    .wait_room = tcp_wait_room,
    .flush = tcp_flush,
    .peek = tcp_peek,
    .wait_word = tcp_wait_word,
    .poke = tcp_poke,
    .put = tcp_put,
    .put_wait = tcp_put_wait,
    .land = tcp_land,
    .landed = tcp_landed,
};
