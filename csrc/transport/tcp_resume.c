/*
 * Connections that break. Each direction of one is a stream whose bytes are counted; each
 * side keeps what the other has not acknowledged, so a new connection begins with both
 * saying how far they have come (struct resume_frame), and goes on at that byte: nothing is
 * lost, nothing comes twice, and half a message or half a copy is continued. A sealed
 * connection has a new key, made in the new handshake; its records are counted anew.
 *
 * A client dials: a thread of its own, which sleeps on the sockets, notices that one has
 * broken even where the program asks for nothing. A worker is given the new socket
 * (tcp_resume()), by whoever did the handshake; a try that is not newer than the last one
 * is refused, and one that is newer ends the other. Whoever sends or receives meanwhile
 * waits. After the grace time it is over.
 *
 * On the plain road bytes that were changed on the way cannot be told from good ones. On
 * the sealed one they are found, and the connection is given up like one that broke.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcp.h"

#define RESUME_MAGIC 0x52434446u /* "FDCR" */

enum {
    EXCHANGE_US = 5000000,
    AGAIN_MS = 20,
    AGAIN_MOST_MS = 1000,
    CHECK_MS = 50,
    FUTILE_MOST = 16, /* new connections one after the other that brought nothing */
};

/* First on a new connection, both ways, the client's before the worker's. */
struct resume_frame {
    uint32_t magic;
    uint32_t which; /* the connection */
    uint64_t position; /* of the other side's stream, all that was taken in */
};

/* The worker's user is told that the client is away, or back. */
static void
tell_news(struct tcp_link *tcp)
{
    uint64_t one = 1;

    if (tcp->keep.news_fd >= 0 && write(tcp->keep.news_fd, &one, sizeof(one)) < 0) {
        /* full: it will look in any case */
    }
}

static void
wake_keeper(struct tcp_link *tcp)
{
    uint64_t one = 1;

    if (tcp->keeper_fd >= 0 && write(tcp->keeper_fd, &one, sizeof(one)) < 0) {
        /* full: it is awake anyway */
    }
}

/* Under break_lock. */
static void
set_state(struct tcp_link *tcp, struct tcp_conn *conn, enum conn_state state)
{
    fdc_store_release(&conn->state, state);
    fdc_store_release(&tcp->broken, tcp->broken + (state == CONN_BROKEN ? 1 : -1u));
    __atomic_fetch_add(&conn->turn, 1, __ATOMIC_SEQ_CST); /* tcp_await_road() */
    fdc_futex_wake(&conn->turn, INT_MAX, false);
}

bool
tcp_break(struct tcp_link *tcp, struct tcp_conn *conn)
{
    bool kept, news = false;

    pthread_mutex_lock(&tcp->break_lock);
    kept = tcp->keeps && !fdc_load_acquire(&tcp->dead) && !fdc_load_acquire(&tcp->bye);
    if (kept && conn->state == CONN_UP) {
        conn->broken_ns = fdc_now_ns();
        set_state(tcp, conn, CONN_BROKEN);
        shutdown(conn->fd, SHUT_RDWR); /* whoever sleeps there sees it */
        news = true;
    }
    pthread_mutex_unlock(&tcp->break_lock);
    if (news) {
        fdc_log(FDC_LOG_INFO, "tcp connection %d broke", conn->number);
        tcp_wake_leader(tcp);
        wake_keeper(tcp);
        tell_news(tcp);
    }
    return kept;
}

static bool
is_too_late(struct tcp_link *tcp, struct tcp_conn *conn)
{
    uint64_t now_ns = fdc_now_ns();
    bool late;

    pthread_mutex_lock(&tcp->break_lock);
    late = conn->state == CONN_BROKEN && now_ns > conn->broken_ns &&
           now_ns - conn->broken_ns >= tcp->keep.grace_us * 1000;
    pthread_mutex_unlock(&tcp->break_lock);
    return late;
}

static void
end_if_too_late(struct tcp_link *tcp, struct tcp_conn *conn)
{
    if (fdc_load_acquire(&tcp->dead) || !is_too_late(tcp, conn))
        return;
    fdc_log(FDC_LOG_ERROR, "tcp link ends: no new connection for %lu s",
            (unsigned long)(tcp->keep.grace_us / 1000000));
    tcp_shutdown(&tcp->link);
}

void
tcp_await_road(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t limit_ns)
{
    uint32_t seen = fdc_load_acquire(&conn->turn); /* set_state() */
    int64_t slice_us = BROKEN_SLICE_US;
    uint64_t now_ns = fdc_now_ns();

    if (limit_ns && now_ns + BROKEN_SLICE_US * 1000ull > limit_ns)
        slice_us = now_ns < limit_ns ? (int64_t)((limit_ns - now_ns) / 1000) + 1 : 0;
    if (is_broken(conn) && !fdc_load_ordered(&tcp->dead))
        fdc_futex_wait(&conn->turn, seen, slice_us, false);
    if (is_broken(conn))
        end_if_too_late(tcp, conn);
}

/* ---- going on ---- */

/* Both say how far they have come. */
static int
exchange(struct tcp_link *tcp, struct tcp_conn *conn, struct seal *seal, int sock,
         uint64_t *position)
{
    struct resume_frame ours = {
        .magic = RESUME_MAGIC,
        .which = (uint32_t)conn->number,
        .position = conn->in.position,
    }, theirs;
    int err = 0;

    if (!tcp->link.worker)
        err = seal_write(seal, sock, &ours, sizeof(ours));
    if (!err)
        err = seal_read(seal, sock, &theirs, sizeof(theirs), EXCHANGE_US);
    if (!err && (theirs.magic != RESUME_MAGIC || theirs.which != ours.which))
        err = -EPROTO;
    if (!err && (theirs.position < conn->out.kept.at || theirs.position > conn->out.end_at))
        err = -EPROTO;
    if (!err && tcp->link.worker)
        err = seal_write(seal, sock, &ours, sizeof(ours));
    if (!err)
        *position = theirs.position;
    return err;
}

/* The new socket in place of the old one, under its number. A program that closes what it
 * does not know may have given that to something else. */
static int
replace_socket(struct tcp_conn *conn, int sock)
{
    struct stat status;

    if (fstat(conn->fd, &status) < 0 || status.st_dev != conn->device ||
        status.st_ino != conn->inode || fstat(sock, &status) < 0)
        return -EBADF;
    tcp_set_socket(sock);
    if (dup3(sock, conn->fd, O_CLOEXEC) < 0)
        return -errno;
    conn->device = status.st_dev;
    conn->inode = status.st_ino;
    return 0;
}

/* A road that changes or cuts everything would have us dial for ever. */
static int
check_progress(struct tcp_conn *conn, uint64_t position)
{
    bool moved = position != conn->began_out || conn->in.position != conn->began_in ||
                 position == conn->out.end_at; /* there is nothing to bring */

    conn->futile = moved ? 0 : conn->futile + 1;
    conn->began_out = position;
    conn->began_in = conn->in.position;
    if (conn->futile < FUTILE_MOST)
        return 0;
    fdc_log(FDC_LOG_ERROR, "nothing gets through %d connections, one after the other",
            FUTILE_MOST);
    return -EPROTO;
}

/* Nobody sends or receives on it. 0; -EPROTO, -EBADF: there is no going on; else another
 * try may help. */
static int
go_on(struct tcp_link *tcp, struct tcp_conn *conn, int sock, struct seal *seal)
{
    uint64_t position = 0;
    int err;

    if (fdc_load_acquire(&tcp->dead))
        return -EPIPE;
    if (!is_broken(conn))
        return -EBUSY;
    tcp_drop_acked(&conn->out); /* nobody keeps it any more: tcp_reclaim() */
    err = exchange(tcp, conn, seal, sock, &position);
    if (!err)
        err = check_progress(conn, position);
    if (!err)
        err = replace_socket(conn, sock);
    if (!err)
        err = tcp_send_from(&conn->out, position);
    if (err)
        return err;
    seal_free(conn->seal);
    conn->seal = seal;
    __atomic_fetch_add(&tcp->link.stats.resumes, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&tcp->break_lock);
    set_state(tcp, conn, CONN_UP);
    if (fdc_load_acquire(&tcp->dead))
        shutdown(conn->fd, SHUT_RDWR);
    pthread_mutex_unlock(&tcp->break_lock);
    fdc_log(FDC_LOG_INFO, "tcp connection %d goes on, at %lu bytes out, %lu in", conn->number,
            (unsigned long)position, (unsigned long)conn->in.position);
    tell_news(tcp);
    tcp_wake_leader(tcp); /* it may want what comes on it */
    if (tcp_send(tcp, conn) == -EAGAIN)
        tcp_arm_flusher(tcp, conn);
    return 0;
}

/* The socket is used up, also on failure. */
static int
take_over(struct tcp_link *tcp, struct tcp_conn *conn, int sock,
          const struct fdc_link_key *key)
{
    pthread_mutex_t *receiving =
        conn->number == TCP_COMMAND ? &tcp->lead : &conn->in.lock;
    struct seal *seal = NULL;
    int err = (key != NULL) == (conn->seal != NULL) ? 0 : -EINVAL;

    if (!err && key)
        err = seal_new(key->bytes, tcp->link.worker, &seal);
    if (!err) {
        pthread_mutex_lock(receiving);
        if (is_broken(conn)) {
            tcp_take_rest(tcp, conn);
            /* What has landed may be all that a reply waits for, whatever comes of this. */
            if (conn->number != TCP_COMMAND)
                tcp_wake_leader(tcp);
        }
        pthread_mutex_lock(&conn->out.lock);
        err = go_on(tcp, conn, sock, seal);
        tcp_let_go(tcp, conn);
        if (conn->number == TCP_COMMAND)
            tcp_stop_leading(tcp);
        else
            pthread_mutex_unlock(receiving);
    }
    if (err)
        seal_free(seal);
    pthread_mutex_lock(&tcp->break_lock);
    if (conn->trial == sock + 1)
        conn->trial = 0;
    pthread_mutex_unlock(&tcp->break_lock);
    close(sock);
    return err;
}

int
tcp_resume(struct fdc_link *link, int which, uint32_t turn, int sock,
           const struct fdc_link_key *key)
{
    struct tcp_link *tcp = tcp_of(link);
    struct tcp_conn *conn;
    bool stale;
    int err;

    if (which < 0 || which >= tcp->conns || !fdc_load_acquire(&tcp->keeps)) {
        close(sock);
        return -EINVAL;
    }
    conn = &tcp->conn[which];
    pthread_mutex_lock(&tcp->break_lock);
    stale = turn <= conn->tried;
    if (!stale) {
        conn->tried = turn;
        if (conn->trial) /* the client has given that one up: nothing comes there */
            shutdown(conn->trial - 1, SHUT_RDWR);
        conn->trial = sock + 1;
    }
    pthread_mutex_unlock(&tcp->break_lock);
    if (stale) {
        close(sock);
        return -ESTALE;
    }
    tcp_break(tcp, conn); /* that it broke may not have been seen here yet */
    err = take_over(tcp, conn, sock, key);
    if (err == -EPROTO || err == -EBADF) {
        fdc_log(FDC_LOG_ERROR, "tcp link ends: it cannot be resumed: %s", strerror(-err));
        tcp_shutdown(link);
    }
    return err;
}

uint32_t
tcp_away(struct fdc_link *link)
{
    return fdc_load_acquire(&tcp_of(link)->broken);
}

/* ---- the client's thread ---- */

static bool
is_over(struct tcp_link *tcp)
{
    return fdc_load_acquire(&tcp->dead) || fdc_load_acquire(&tcp->bye);
}

/* False: woken, or the link is over. */
static bool
doze(struct tcp_link *tcp, int ms)
{
    struct pollfd poll_fd = {.fd = tcp->keeper_fd, .events = POLLIN};

    return !is_over(tcp) && poll(&poll_fd, 1, ms) == 0;
}

/* Dials until there is a new connection, or it is over. */
static void
redial(struct tcp_link *tcp, struct tcp_conn *conn)
{
    struct fdc_link_key key;
    int wait_ms = AGAIN_MS, sock, err;
    uint64_t drained;

    while (is_broken(conn) && !is_over(tcp)) {
        sock = -1;
        err = tcp->keep.dial(tcp->keep.user, conn->number, ++conn->tried, &sock, &key);
        if (!err)
            err = take_over(tcp, conn, sock, conn->seal ? &key : NULL);
        explicit_bzero(&key, sizeof(key));
        if (!err)
            return;
        if (err == -EACCES || err == -EPROTO || err == -EBADF) {
            fdc_log(FDC_LOG_ERROR, "tcp link ends: it cannot be resumed: %s",
                    strerror(-err));
            tcp_shutdown(&tcp->link);
            return;
        }
        end_if_too_late(tcp, conn);
        if (!doze(tcp, wait_ms) && read(tcp->keeper_fd, &drained, sizeof(drained)) < 0) {
            /* it is over, and nobody has woken us */
        }
        if (wait_ms < AGAIN_MOST_MS)
            wait_ms *= 2;
    }
}

/* The end of the command connection may be the worker's own: what it said before counts. */
static void
see_command_end(struct tcp_link *tcp)
{
    struct tcp_conn *conn = &tcp->conn[TCP_COMMAND];

    if (tcp_try_lead(tcp)) {
        tcp_pump(tcp);
        tcp_stop_leading(tcp);
    }
    if (!is_broken(conn) && !is_over(tcp)) /* a ring is full, or somebody else leads */
        doze(tcp, CHECK_MS);
}

static void *
keeper_thread(void *arg)
{
    struct pollfd polls[TCP_CONNS + 1];
    struct tcp_link *tcp = arg;
    uint64_t drained;

    while (!is_over(tcp)) {
        for (int i = 0; i < tcp->conns; i++)
            polls[i] = (struct pollfd){
                .fd = is_broken(&tcp->conn[i]) ? -1 : tcp->conn[i].fd,
                .events = POLLRDHUP,
            };
        polls[tcp->conns] = (struct pollfd){.fd = tcp->keeper_fd, .events = POLLIN};
        if (fdc_load_acquire(&tcp->broken) == 0 && poll(polls, (nfds_t)tcp->conns + 1, -1) < 0)
            continue;
        if (fdc_load_acquire(&tcp->broken) > 0)
            poll(polls, (nfds_t)tcp->conns + 1, 0);
        if (polls[tcp->conns].revents &&
            read(tcp->keeper_fd, &drained, sizeof(drained)) < 0) {
            /* only this thread reads it */
        }
        if (polls[TCP_COMMAND].revents)
            see_command_end(tcp);
        for (int i = TCP_BULK; i < tcp->conns && !is_over(tcp); i++)
            if (polls[i].revents && !polls[TCP_COMMAND].revents)
                tcp_break(tcp, &tcp->conn[i]);
        for (int i = 0; i < tcp->conns; i++)
            if (is_broken(&tcp->conn[i]))
                redial(tcp, &tcp->conn[i]);
    }
    return NULL;
}

static int
start_keeper(struct tcp_link *tcp)
{
    sigset_t all, before;
    int err;

    tcp->keeper_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tcp->keeper_fd < 0)
        return -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&tcp->keeper, NULL, keeper_thread, tcp);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    tcp->has_keeper = err == 0;
    return err;
}

void
tcp_stop_keeper(struct tcp_link *tcp)
{
    if (!tcp->has_keeper)
        return;
    fdc_store_ordered(&tcp->bye, 1);
    wake_keeper(tcp);
    pthread_join(tcp->keeper, NULL);
    tcp->has_keeper = false;
}

int
tcp_keep(struct fdc_link *link, const struct fdc_link_keep *keep)
{
    struct tcp_link *tcp = tcp_of(link);
    int err = 0;

    if (fdc_load_relaxed(&tcp->keeps) || (!link->worker && !keep->dial))
        return -EINVAL;
    pthread_mutex_lock(&tcp->break_lock);
    tcp->keep = *keep;
    fdc_store_release(&tcp->keeps, 1);
    pthread_mutex_unlock(&tcp->break_lock);
    if (!link->worker)
        err = start_keeper(tcp);
    if (err)
        fdc_store_release(&tcp->keeps, 0);
    return err;
}
