/*
 * The rdma road: UCX (libucp), whatever it finds between two machines: InfiniBand, RoCE, or
 * plain TCP. Lanes are active messages with records in them, regions are registered memory
 * that the other side writes into.
 *
 * One lock guards UCX. Nobody has a thread for it: of those who wait one leads, lets UCX
 * work and sleeps on its descriptor, and the others sleep until what they wait for is there
 * or the leader has stopped leading (as on the tcp road). The socket of the handshake stays
 * open: its end of file tells that the other process has gone, whatever UCX knows.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "rdma.h"

enum {
    ROUNDS = 64,            /* of UCX's work under one lock */
    PAUSES = 200,           /* for somebody else who wants it */
    LOOK_AGAIN_US = 500000, /* a leader that nobody woke */
    LAST_NS = 20000000,     /* for what is on its way from a process that has gone */
    LINGER_NS = 1000000000, /* what free() gives a slow peer to take the rest */
    NAP_NS = 100000,
};

/* ---- the lock, and who is woken ---- */

void
rdma_lock(struct rdma_link *rdma)
{
    __atomic_fetch_add(&rdma->wanting, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&rdma->lock);
    __atomic_fetch_sub(&rdma->wanting, 1, __ATOMIC_RELAXED);
}

static void
wake_leader(struct rdma_link *rdma)
{
    uint64_t one = 1;

    /* Orders the caller's store before this look; pairs with lead_sleep()'s. */
    if (fdc_exchange_ordered(&rdma->polling, 0) &&
        write(rdma->wake_fd, &one, sizeof(one)) < 0) {
        /* full: it is awake anyway */
    }
}

void
rdma_unlock(struct rdma_link *rdma)
{
    bool news = rdma->news;

    rdma->news = false;
    pthread_mutex_unlock(&rdma->lock);
    if (news)
        wake_leader(rdma);
}

void
rdma_wake_turn(struct rdma_link *rdma)
{
    if (!fdc_load_ordered(&rdma->turn_waiters))
        return;
    __atomic_fetch_add(&rdma->turn, 1, __ATOMIC_SEQ_CST);
    fdc_futex_wake(&rdma->turn, INT_MAX, false);
}

/* Ends the link for this side: every ring, every sleeper, the socket. */
void
rdma_end(struct rdma_link *rdma)
{
    fdc_store_ordered(&rdma->dead, 1);
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (!link_sends(&rdma->link, lane))
            fdc_ring_close(&rdma->link.ring[lane]);
    shutdown(rdma->sock, SHUT_RDWR);
    wake_leader(rdma);
    rdma_wake_turn(rdma);
}

void
rdma_broken(struct rdma_link *rdma, const char *what)
{
    rdma->gone = true;
    if (!fdc_load_acquire(&rdma->dead))
        fdc_log(FDC_LOG_ERROR, "rdma link ends: %s", what);
    rdma_end(rdma);
}

/* ---- UCX at work; locked ---- */

bool
rdma_progress(struct rdma_link *rdma)
{
    int rounds = 0;

    while (rounds < ROUNDS && rdma->ucx.worker_progress(rdma->worker))
        rounds++;
    rdma_send_notes(rdma);
    if (FDC_UNLIKELY(fdc_load_relaxed(&rdma->dead))) {
        rdma->gone = true; /* UCX has lost the other side */
        rdma->news = true;
    }
    rdma_close_empty(rdma);
    return rounds > 0;
}

/* The socket has something to say: only that it is over, once both ends have met. */
static bool
has_hung_up(struct rdma_link *rdma)
{
    char byte;
    ssize_t n = recv(rdma->sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

    return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* Takes in what was on its way, and then says that it is over. */
static void
take_leave(struct rdma_link *rdma)
{
    uint64_t limit_ns = fdc_now_ns() + LAST_NS;

    if (rdma->gone)
        return;
    while (fdc_now_ns() < limit_ns)
        if (rdma_progress(rdma))
            limit_ns = fdc_now_ns() + LAST_NS;
    rdma->gone = true;
    fdc_store_ordered(&rdma->dead, 1);
    rdma_close_empty(rdma);
    rdma_wake_turn(rdma);
}

static void
pump(struct rdma_link *rdma)
{
    int saved = errno;

    rdma_lock(rdma);
    if (FDC_LIKELY(fdc_load_acquire(&rdma->met)) || rdma_meet(rdma, 0) == 0) {
        for (int lane = 0; lane < FDC_LANES; lane++)
            if (rdma->in[lane].held)
                rdma_deliver(rdma, lane);
        rdma_progress(rdma);
    }
    rdma_unlock(rdma);
    errno = saved;
}

/* What was held back because the lane was full. */
static void
refill(struct rdma_link *rdma, enum fdc_lane lane)
{
    /* pairs with the stores in rdma_deliver() and hold() */
    if (!fdc_load_acquire(&rdma->in[lane].holds))
        return;
    rdma_lock(rdma);
    rdma_deliver(rdma, lane);
    rdma_close_empty(rdma);
    if (fdc_load_acquire(&rdma->met))
        rdma_send_notes(rdma);
    rdma_unlock(rdma);
}

/* ---- waiting ---- */

/* What somebody waits for. look: 0 nothing yet, or what the wait returns. */
struct want {
    int (*look)(struct rdma_link *rdma, const struct want *want);
    enum fdc_lane lane;
    const uint32_t *word;
    uint32_t seen, size;
    uint64_t ticket;
};

static int
look_lane(struct rdma_link *rdma, const struct want *want)
{
    return fdc_ring_wait_word(&rdma->link.ring[want->lane], want->word, want->seen, 0);
}

static int
look_room(struct rdma_link *rdma, const struct want *want)
{
    if (fdc_load_ordered(&rdma->dead))
        return -EPIPE;
    return rdma_has_room(rdma, want->lane, want->size);
}

static int
look_put(struct rdma_link *rdma, const struct want *want)
{
    /* pairs with the ordered store in take_landed() */
    if (fdc_load_ordered(&rdma->landed) >= want->ticket)
        return 1;
    return fdc_load_ordered(&rdma->dead) ? -EPIPE : 0;
}

static int
look_heard(struct rdma_link *rdma, const struct want *want)
{
    (void)want;
    if (fdc_load_ordered(&rdma->heard)) /* pairs with the store in take() */
        return 1;
    return fdc_load_ordered(&rdma->dead) ? -EPIPE : 0;
}

static bool
try_lead(struct rdma_link *rdma)
{
    return pthread_mutex_trylock(&rdma->lead) == 0;
}

static void
stop_leading(struct rdma_link *rdma)
{
    pthread_mutex_unlock(&rdma->lead);
    __atomic_fetch_add(&rdma->lead_turn, 1, __ATOMIC_SEQ_CST); /* follow_lane() */
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (!link_sends(&rdma->link, lane))
            fdc_ring_poke(&rdma->link.ring[lane]);
    rdma_wake_turn(rdma);
}

/* Until UCX, the socket or a poke says that there is news. */
static void
lead_sleep(struct rdma_link *rdma, const struct want *want, int64_t timeout_us)
{
    struct pollfd poll_fds[3] = {
        {.fd = rdma->efd, .events = POLLIN},
        {.fd = rdma->wake_fd, .events = POLLIN},
        {.fd = rdma->sock, .events = POLLIN | POLLRDHUP},
    };
    struct timespec timeout = {
        .tv_sec = timeout_us / 1000000,
        .tv_nsec = timeout_us % 1000000 * 1000,
    };
    int saved = errno;
    uint64_t drained;
    ucx_status armed;

    fdc_exchange_ordered(&rdma->polling, 1);
    if (!want->look(rdma, want)) {
        rdma_lock(rdma);
        armed = rdma->ucx.worker_arm(rdma->worker);
        rdma_unlock(rdma);
        if (armed != UCX_BUSY) {
            __atomic_fetch_add(&rdma->link.stats.system_calls, 1, __ATOMIC_RELAXED);
            ppoll(poll_fds, 3, &timeout, NULL);
        }
    }
    fdc_store_ordered(&rdma->polling, 0);
    if (poll_fds[1].revents && read(rdma->wake_fd, &drained, sizeof(drained)) < 0) {
        /* only the leader reads it, so this does not happen */
    }
    if (poll_fds[2].revents && fdc_load_acquire(&rdma->met) && has_hung_up(rdma)) {
        rdma_lock(rdma);
        take_leave(rdma);
        rdma_unlock(rdma);
    }
    errno = saved;
}

/* Waits as the leader: spins for a while, then sleeps. */
static int
lead_wait(struct rdma_link *rdma, const struct want *want, uint64_t limit_ns)
{
    uint64_t start_ns = fdc_now_ns(), now_ns, budget_ns;
    bool slept = false, spun, lent = false;
    int64_t left_us;
    int ready;

    /* One look is no wait. */
    budget_ns = limit_ns && limit_ns <= start_ns ? 0 : fdc_spin_begin(&rdma->spin);
    spun = budget_ns != 0;
    for (;;) {
        pump(rdma);
        ready = want->look(rdma, want);
        now_ns = fdc_now_ns();
        if (ready || (limit_ns && now_ns >= limit_ns))
            break;
        if (now_ns < start_ns + budget_ns) {
            for (int i = 0; i < PAUSES && fdc_load_relaxed(&rdma->wanting); i++)
                fdc_pause(); /* somebody wants to send */
            lent = now_ns > start_ns + FDC_SPIN_ALONE_NS && fdc_spin_yield();
            continue;
        }
        if (budget_ns) {
            fdc_spin_end(&rdma->spin, false, false);
            budget_ns = 0;
        }
        slept = true;
        left_us = LOOK_AGAIN_US;
        if (limit_ns && (limit_ns - now_ns) / 1000 < LOOK_AGAIN_US)
            left_us = (int64_t)((limit_ns - now_ns) / 1000) + 1;
        lead_sleep(rdma, want, left_us);
    }
    if (budget_ns)
        fdc_spin_end(&rdma->spin, ready != 0, lent);
    if (slept)
        fdc_spin_learn(&rdma->spin, now_ns - start_ns, ready != 0, spun);
    return ready;
}

/* Sleeps until something may have changed; *seen is what the turn was before the look. */
static void
follow_turn(struct rdma_link *rdma, const struct want *want, uint32_t turn,
            int64_t timeout_us)
{
    __atomic_fetch_add(&rdma->turn_waiters, 1, __ATOMIC_SEQ_CST);
    if (!want->look(rdma, want))
        fdc_futex_wait(&rdma->turn, turn, timeout_us, false);
    __atomic_fetch_sub(&rdma->turn_waiters, 1, __ATOMIC_SEQ_CST);
}

/* As lead_wait, or as a follower while somebody else leads. */
static int
wait_for(struct rdma_link *rdma, const struct want *want, int64_t timeout_us)
{
    struct fdc_ring *ring =
        want->look == look_lane ? &rdma->link.ring[want->lane] : NULL;
    uint64_t limit_ns = 0, now_ns;
    int64_t left_us = LOOK_AGAIN_US;
    uint32_t turn, lead_turn;
    int ready;

    if (timeout_us >= 0)
        limit_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000;
    for (;;) {
        ready = want->look(rdma, want);
        if (ready)
            return ready;
        /* pairs with the adds in stop_leading() and rdma_wake_turn() */
        lead_turn = fdc_load_acquire(&rdma->lead_turn);
        turn = fdc_load_acquire(&rdma->turn);
        if (try_lead(rdma)) {
            if (ring) {
                __atomic_fetch_add(&ring->waits, 1, __ATOMIC_RELAXED);
            }
            ready = lead_wait(rdma, want, limit_ns);
            stop_leading(rdma);
            return ready;
        }
        if (limit_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= limit_ns)
                return 0;
            left_us = (int64_t)((limit_ns - now_ns) / 1000) + 1;
            if (left_us > LOOK_AGAIN_US)
                left_us = LOOK_AGAIN_US;
        }
        if (!ring) {
            follow_turn(rdma, want, turn, left_us);
            continue;
        }
        refill(rdma, want->lane);
        ready = fdc_ring_wait_words(ring, want->word, want->seen, &rdma->lead_turn,
                                    lead_turn, left_us);
        if (ready != 0 && ready != 3)
            return ready;
    }
}

static int
rdma_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
               uint32_t seen, int64_t timeout_us)
{
    struct want want = {
        .look = look_lane,
        .lane = lane,
        .word = word,
        .seen = seen,
    };

    return wait_for(rdma_of(link), &want, timeout_us);
}

static int
rdma_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
               int64_t timeout_us)
{
    struct want want = {.look = look_room, .lane = lane, .size = size};

    return wait_for(rdma_of(link), &want, timeout_us);
}

static int
rdma_put_wait(struct fdc_link *link, uint64_t ticket, int64_t timeout_us)
{
    struct want want = {.look = look_put, .ticket = ticket};
    int ready = wait_for(rdma_of(link), &want, timeout_us);

    if (ready == 1)
        return 0;
    return ready ? ready : -ETIMEDOUT;
}

int
rdma_try(struct rdma_link *rdma, int64_t timeout_us)
{
    struct want want = {.look = look_heard};
    int ready;

    rdma_lock(rdma);
    rdma_send_word(rdma, RDMA_TRY);
    rdma_unlock(rdma);
    ready = wait_for(rdma, &want, timeout_us);
    if (ready == 1)
        return 0;
    return ready ? ready : -ETIMEDOUT;
}

static void
rdma_poke(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_poke(&link->ring[lane]);
    wake_leader(rdma_of(link));
}

static const void *
rdma_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    struct rdma_link *rdma = rdma_of(link);
    const void *message;

    message = fdc_ring_peek(&link->ring[lane], size, err);
    if (FDC_LIKELY(message))
        return message;
    refill(rdma, lane);
    if (!*err && try_lead(rdma)) {
        pump(rdma);
        stop_leading(rdma);
    }
    return fdc_ring_peek(&link->ring[lane], size, err);
}

/* ---- the end ---- */

static void
rdma_shutdown(struct fdc_link *link)
{
    rdma_end(rdma_of(link));
}

static bool
is_all_taken(struct rdma_link *rdma)
{
    bool all;

    rdma_lock(rdma);
    rdma_progress(rdma);
    all = rdma_is_idle(rdma);
    rdma_unlock(rdma);
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (link_sends(&rdma->link, lane))
            all &= fdc_load_acquire(&rdma->out[lane].taken) == rdma->out[lane].sent;
    return all || fdc_load_acquire(&rdma->dead);
}

/* What was committed is sent, and a peer that is alive gets a while to take it in. */
static void
send_rest(struct rdma_link *rdma)
{
    uint64_t limit_ns = fdc_now_ns() + LINGER_NS;
    struct timespec nap = {.tv_nsec = NAP_NS};

    rdma_send_open(rdma);
    rdma_lock(rdma);
    rdma_send_word(rdma, RDMA_ASK);
    rdma_unlock(rdma);
    while (!fdc_load_acquire(&rdma->dead) && fdc_now_ns() < limit_ns) {
        if (rdma_send_open(rdma) && is_all_taken(rdma))
            return;
        if (has_hung_up(rdma))
            return;
        nanosleep(&nap, NULL);
    }
}

static void
rdma_free(struct fdc_link *link, bool abandon)
{
    struct rdma_link *rdma = rdma_of(link);

    if (abandon) {
        /* UCX's threads are the parent's: nothing of it can be touched here. */
        close(rdma->sock);
        close(rdma->wake_fd);
        return;
    }
    send_rest(rdma);
    rdma_end(rdma);
    rdma_stop_pusher(rdma);
    close(rdma->sock);
    rdma_drop(rdma);
}

const struct fdc_link_ops rdma_ops = {
    .free = rdma_free,
    .shutdown = rdma_shutdown,
    .claim = rdma_claim,
    .commit = rdma_commit,
    .abort = rdma_abort,
    .wait_room = rdma_wait_room,
    .flush = rdma_flush,
    .peek = rdma_peek,
    .wait_word = rdma_wait_word,
    .poke = rdma_poke,
    .put = rdma_put,
    .put_wait = rdma_put_wait,
};
