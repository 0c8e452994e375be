/*
 * Several bulk connections at once. Puts are shared out among them, each to where least is
 * queued, and each connection has a thread that sends its share, a hauler: so a large copy
 * is on all of them, and where they are sealed as many threads encrypt. Their other ends are
 * read by a thread each. Haulers start with the first put; a link with one bulk connection
 * has none, and whoever puts sends.
 *
 * A put that finds its connection with nothing to do is sent by whoever puts, unless its
 * bytes are lent, or a worker's that are many: those have better to do.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "tcp.h"

enum {
    EAGER_US = 1000, /* what others get to take a lock that they wait for */
    DRAIN_STEP_NS = 1000000,
};

static uint64_t
cost_of(const struct tcp_conn *conn)
{
    return conn->haul.size + (is_broken(conn) ? UINT64_MAX / 2 : 0);
}

/* Where least is queued; of equals the next one. Under haul_lock. */
static struct tcp_conn *
choose(struct tcp_link *tcp)
{
    uint32_t stripes = (uint32_t)tcp->conns - TCP_BULK, first = tcp->stripe++;
    struct tcp_conn *best = &tcp->conn[TCP_BULK + first % stripes], *conn;

    for (uint32_t i = 1; i < stripes; i++) {
        conn = &tcp->conn[TCP_BULK + (first + i) % stripes];
        if (cost_of(conn) < cost_of(best))
            best = conn;
    }
    return best;
}

/* There is something for the thread. */
static void
kick(struct hauler *haul)
{
    __atomic_fetch_add(&haul->turn, 1, __ATOMIC_RELEASE); /* next_load() */
    fdc_futex_wake(&haul->turn, 1, false);
}

/* Its bytes are its caller's again. Pairs with fdc_link_settle(); the loan may be gone when
 * its sleeper is woken. */
static void
repay(struct fdc_loan *loan, int err)
{
    if (!loan)
        return;
    if (err)
        fdc_store_relaxed(&loan->lost, 1);
    if (__atomic_sub_fetch(&loan->out, 1, __ATOMIC_ACQ_REL) == 0)
        fdc_futex_wake(&loan->out, INT_MAX, false);
}

/* ---- the threads ---- */

/* Sleeps until there is one, and nobody sends. NULL: it is over. */
static struct load *
next_load(struct tcp_link *tcp, struct hauler *haul)
{
    struct load *load;
    uint32_t turn;

    pthread_mutex_lock(&tcp->haul_lock);
    while (!haul->first || haul->busy) {
        if (!haul->first && tcp->haul_stop) {
            pthread_mutex_unlock(&tcp->haul_lock);
            return NULL;
        }
        turn = fdc_load_acquire(&haul->turn);
        pthread_mutex_unlock(&tcp->haul_lock);
        fdc_futex_wait(&haul->turn, turn, -1, false);
        pthread_mutex_lock(&tcp->haul_lock);
    }
    load = haul->first;
    haul->first = load->next;
    haul->busy = true;
    pthread_mutex_unlock(&tcp->haul_lock);
    return load;
}

/* True: there is another one. */
static bool
end_load(struct tcp_link *tcp, struct hauler *haul, uint64_t size)
{
    bool more;

    pthread_mutex_lock(&tcp->haul_lock);
    haul->busy = false;
    haul->size -= size;
    more = haul->first != NULL;
    pthread_mutex_unlock(&tcp->haul_lock);
    return more;
}

/* Who has a message for the connection comes first. */
static void
let_others(struct sender *to)
{
    uint32_t eager;

    while ((eager = fdc_load_ordered(&to->eager)) != 0)
        fdc_futex_wait(&to->eager, eager, EAGER_US, false);
}

static int
carry(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put,
      const uint8_t *bytes, struct fdc_loan *loan)
{
    int err;

    pthread_mutex_lock(&conn->out.lock);
    err = tcp_send_put(tcp, conn, put, bytes, loan);
    if (err) /* half a put may have left: nothing sensible can follow it */
        fdc_store_ordered(&tcp->dead, 1);
    tcp_let_go(tcp, conn);
    return err;
}

static void *
hauler_thread(void *arg)
{
    struct tcp_conn *conn = arg;
    struct tcp_link *tcp = conn->tcp;
    struct load *load;
    int err;

    while ((load = next_load(tcp, &conn->haul)) != NULL) {
        let_others(&conn->out);
        err = carry(tcp, conn, &load->put, load->bytes, load->loan);
        repay(load->loan, err);
        end_load(tcp, &conn->haul, load->put.size);
        free(load);
    }
    return NULL;
}

/* Under haul_lock. */
static bool
start_haulers(struct tcp_link *tcp)
{
    sigset_t all, before;
    struct hauler *haul;
    bool started = true;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = TCP_BULK; i < tcp->conns && started; i++) {
        haul = &tcp->conn[i].haul;
        started = pthread_create(&haul->thread, NULL, hauler_thread, &tcp->conn[i]) == 0;
        haul->has_thread = started;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!started)
        fdc_log(FDC_LOG_WARN, "no threads to send with: copies are sent one by one");
    return started;
}

bool
tcp_haul_is_on(struct tcp_link *tcp)
{
    uint32_t state;

    if (!has_stripes(tcp))
        return false;
    state = fdc_load_acquire(&tcp->haul_state);
    if (FDC_LIKELY(state != HAUL_NONE))
        return state == HAUL_ON;
    pthread_mutex_lock(&tcp->haul_lock);
    state = fdc_load_relaxed(&tcp->haul_state);
    if (state == HAUL_NONE) {
        state = start_haulers(tcp) ? HAUL_ON : HAUL_OFF;
        fdc_store_release(&tcp->haul_state, state);
    }
    pthread_mutex_unlock(&tcp->haul_lock);
    return state == HAUL_ON;
}

void
tcp_stop_haulers(struct tcp_link *tcp)
{
    struct hauler *haul;

    pthread_mutex_lock(&tcp->haul_lock);
    tcp->haul_stop = true;
    pthread_mutex_unlock(&tcp->haul_lock);
    for (int i = TCP_BULK; i < tcp->conns; i++) {
        haul = &tcp->conn[i].haul;
        kick(haul);
        if (haul->has_thread)
            pthread_join(haul->thread, NULL);
    }
}

static bool
have_work(struct tcp_link *tcp)
{
    bool work = false;

    pthread_mutex_lock(&tcp->haul_lock);
    for (int i = TCP_BULK; i < tcp->conns; i++)
        work |= tcp->conn[i].haul.size > 0;
    pthread_mutex_unlock(&tcp->haul_lock);
    return work;
}

void
tcp_drain_haulers(struct tcp_link *tcp, uint64_t limit_ns)
{
    struct timespec step = {.tv_nsec = DRAIN_STEP_NS};

    while (have_work(tcp) && !fdc_load_acquire(&tcp->dead) && fdc_now_ns() < limit_ns)
        nanosleep(&step, NULL);
}

/* ---- what they get ---- */

/* By the caller, as nobody else sends there. */
static int
send_here(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put,
          const uint8_t *bytes, struct fdc_loan *loan)
{
    int err;

    if (tcp->link.worker) {
        pthread_mutex_lock(&conn->out.lock);
        err = tcp_queue_put(tcp, conn, put, false);
        if (err)
            fdc_store_ordered(&tcp->dead, 1);
        tcp_let_go(tcp, conn);
    } else {
        err = carry(tcp, conn, put, bytes, loan);
    }
    if (end_load(tcp, &conn->haul, put->size))
        kick(&conn->haul);
    return err;
}

int
tcp_haul(struct tcp_link *tcp, struct put_frame *put, const uint8_t *bytes,
         struct fdc_loan *loan, bool here, uint64_t *ticket)
{
    struct load *load = malloc(sizeof(*load));
    struct tcp_conn *conn;
    struct hauler *haul;

    if (!load) {
        fdc_store_ordered(&tcp->dead, 1);
        return -ENOMEM;
    }
    if (fdc_load_acquire(&tcp->dead)) {
        free(load);
        return -EPIPE;
    }
    pthread_mutex_lock(&tcp->haul_lock);
    conn = choose(tcp);
    haul = &conn->haul;
    put->ticket = ++haul->puts;
    *ticket = tcp_ticket(tcp, conn, put->ticket);
    haul->size += put->size;
    here = here && !haul->busy && !haul->first;
    if (here) {
        haul->busy = true;
    } else {
        *load = (struct load){.put = *put, .bytes = bytes, .loan = loan};
        if (loan)
            __atomic_fetch_add(&loan->out, 1, __ATOMIC_RELAXED);
        if (!haul->first)
            haul->last = &haul->first;
        *haul->last = load;
        haul->last = &load->next;
    }
    pthread_mutex_unlock(&tcp->haul_lock);
    if (!here) {
        kick(haul);
        return 0;
    }
    free(load);
    return send_here(tcp, conn, put, bytes, loan);
}
