/* Making and freeing a tcp link. */
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcp.h"

enum {
    LINGER_NS = 1000000000, /* what free() gives a slow peer to take the rest */
    WINDOW_BYTES_US = 2000, /* that a region lets through, however long the road */
    WINDOW_MOST = 64 << 20,
};

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

void
tcp_set_socket(int fd)
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

/* The round trip of the connection, as the kernel has seen it, or as it is emulated. */
static uint64_t
round_trip_us(int sock)
{
    struct link_emulation emulation;
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);
    uint64_t us = 0;

    link_emulation_ask(&emulation);
    if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
        info.tcpi_min_rtt != UINT32_MAX)
        us = info.tcpi_min_rtt;
    return us + emulation.delay_ns * 2 / 1000;
}

void
tcp_widen(struct fdc_link_size *size, int sock)
{
    uint64_t wanted = round_trip_us(sock) * WINDOW_BYTES_US;

    wanted = wanted > WINDOW_MOST ? WINDOW_MOST : wanted & ~((UINT64_C(1) << 20) - 1);
    for (int region = 0; region < FDC_REGIONS; region++)
        if (size->region[region] < wanted)
            size->region[region] = wanted;
}

static void
drop_conn(struct tcp_conn *conn)
{
    link_unmap(conn->out.bytes, conn->out.size);
    link_unmap(conn->in.bytes, conn->in.size);
    free(conn->out.insert);
    seal_free(conn->seal);
    pthread_mutex_destroy(&conn->out.lock);
    pthread_mutex_destroy(&conn->in.lock);
}

static void
drop(struct tcp_link *tcp)
{
    struct fdc_link *link = &tcp->link;

    for (int lane = 0; lane < FDC_LANES; lane++)
        link_unmap(tcp->ring_memory[lane], fdc_ring_footprint(link->size.lane[lane]));
    for (int region = 0; region < FDC_REGIONS; region++)
        link_unmap(link->region[region], link->size.region[region]);
    for (int i = 0; i < tcp->conns; i++)
        drop_conn(&tcp->conn[i]);
    if (tcp->wake_fd >= 0)
        close(tcp->wake_fd);
    if (tcp->keeper_fd >= 0)
        close(tcp->keeper_fd);
    pthread_mutex_destroy(&tcp->lead);
    pthread_mutex_destroy(&tcp->land_lock);
    pthread_mutex_destroy(&tcp->haul_lock);
    pthread_mutex_destroy(&tcp->break_lock);
    free(tcp->landing);
    tcp_order_drop(tcp);
    free(tcp);
}

/* One for each chunk that a region can have, more or less. */
static uint32_t
inserts_for(const struct fdc_link_size *size)
{
    uint64_t most = size->region[FDC_REGION_UP], count = INSERTS_MIN;

    if (size->region[FDC_REGION_DOWN] > most)
        most = size->region[FDC_REGION_DOWN];
    while (count < INSERTS_MAX && count < most / LAND_STEP)
        count *= 2;
    return (uint32_t)count;
}

static int
make_buffers(struct tcp_conn *conn, const struct fdc_link_size *size, enum fdc_lane sent,
             enum fdc_lane received)
{
    conn->out.size = size->lane[sent] + STAGING_EXTRA;
    conn->out.bytes = link_map(conn->out.size);
    conn->in.size = size->lane[received] / 2 + 2 * STAGING_EXTRA;
    conn->in.bytes = link_map(conn->in.size);
    conn->out.inserts = inserts_for(size);
    conn->out.insert = calloc(conn->out.inserts, sizeof(*conn->out.insert));
    return conn->out.bytes && conn->in.bytes && conn->out.insert ? 0 : -ENOMEM;
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
make_conn(struct tcp_link *tcp, int number, int sock, const struct fdc_link_key *keys)
{
    struct tcp_conn *conn = &tcp->conn[number];
    struct stat status;

    conn->tcp = tcp;
    conn->number = number;
    conn->fd = sock;
    pthread_mutex_init(&conn->out.lock, NULL);
    pthread_mutex_init(&conn->in.lock, NULL);
    if (fstat(sock, &status) < 0)
        return -errno;
    conn->device = status.st_dev;
    conn->inode = status.st_ino;
    tcp_set_socket(sock);
    return keys ? seal_new(keys[number].bytes, tcp->link.worker, &conn->seal) : 0;
}

static int
tcp_make(const int *socks, int count, const struct fdc_link_key *keys, bool worker,
         struct tcp_link **made)
{
    struct tcp_link *tcp;
    int err = 0;

    tcp = calloc(1, sizeof(*tcp));
    if (!tcp)
        return -ENOMEM;
    tcp->link.ops = &tcp_ops;
    tcp->link.road = FDC_ROAD_TCP;
    tcp->link.worker = worker;
    pthread_mutex_init(&tcp->lead, NULL);
    pthread_mutex_init(&tcp->land_lock, NULL);
    pthread_mutex_init(&tcp->haul_lock, NULL);
    pthread_mutex_init(&tcp->break_lock, NULL);
    fdc_spin_init(&tcp->spin);
    fdc_spin_init(&tcp->landed_spin);
    tcp->keeper_fd = -1;
    tcp->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tcp->wake_fd < 0)
        err = -errno;
    for (; tcp->conns < count && !err; tcp->conns++)
        err = make_conn(tcp, tcp->conns, socks[tcp->conns], keys);
    tcp->link.stripes = (uint32_t)tcp->conns - TCP_BULK;
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
    bool worker = tcp->link.worker;
    int err;

    tcp->link.size = *size;
    err = make_buffers(&tcp->conn[TCP_COMMAND], size,
                       worker ? FDC_LANE_REPLY : FDC_LANE_COMMAND,
                       worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY);
    for (int i = TCP_BULK; i < tcp->conns && !err; i++)
        err = make_buffers(&tcp->conn[i], size, FDC_LANE_SIDE, FDC_LANE_SIDE);
    return err ? err : make_rings(tcp);
}

static void
stop_readers(struct tcp_link *tcp)
{
    for (int i = TCP_BULK; i < tcp->conns; i++)
        if (fdc_load_acquire(&tcp->conn[i].in.has_thread))
            pthread_join(tcp->conn[i].in.thread, NULL);
}

int
tcp_start_readers(struct tcp_link *tcp)
{
    sigset_t all, before;
    struct receiver *from;
    int err = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = TCP_BULK; i < tcp->conns && !err; i++) {
        from = &tcp->conn[i].in;
        fdc_store_release(&from->has_thread, 1);
        err = -pthread_create(&from->thread, NULL, tcp_bulk_thread, &tcp->conn[i]);
        if (err)
            fdc_store_release(&from->has_thread, 0);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

int
tcp_link_worker(const int *socks, int count, const struct fdc_link_key *keys,
                const struct fdc_link_size *size, struct fdc_link **link)
{
    struct tcp_link *tcp = NULL;
    struct link_setup setup;
    int err;

    err = tcp_make(socks, count, keys, true, &tcp);
    if (!err)
        err = tcp_furnish(tcp, size);
    if (err)
        goto out;
    link_setup_fill(&setup, &tcp->link);
    err = seal_write(tcp->conn[TCP_COMMAND].seal, socks[0], &setup, sizeof(setup));
    if (err)
        goto out;
    err = tcp_start_readers(tcp);
    if (err) {
        tcp_shutdown(&tcp->link);
        stop_readers(tcp);
    }

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
tcp_link_client(const int *socks, int count, const struct fdc_link_key *keys,
                struct fdc_link **link)
{
    struct link_emulation emulation;
    struct tcp_link *tcp = NULL;
    struct fdc_link_size size;
    struct link_setup setup;
    int err;

    err = tcp_make(socks, count, keys, false, &tcp);
    if (!err)
        err = seal_read(tcp->conn[TCP_COMMAND].seal, socks[0], &setup, sizeof(setup),
                        LINK_SETUP_TIMEOUT_US);
    if (!err)
        err = link_setup_take(&setup, FDC_ROAD_TCP, &size, &emulation);
    if (!err)
        err = tcp_furnish(tcp, &size);
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot take over a tcp link: %s", tcp_what_broke(err));
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
    struct tcp_conn *conn;

    /* Bytes first: what is said of them comes last. */
    for (int i = tcp->conns - 1; i >= TCP_COMMAND; i--) {
        conn = &tcp->conn[i];
        pthread_mutex_lock(&conn->out.lock);
        if (i == TCP_COMMAND)
            tcp_say_bye(tcp);
        while (!fdc_load_acquire(&tcp->dead) && tcp_send(tcp, conn) == -EAGAIN &&
               fdc_now_ns() < limit_ns)
            tcp_await_writable(tcp, conn);
        pthread_mutex_unlock(&conn->out.lock);
    }
}

void
tcp_free(struct fdc_link *link, bool abandon)
{
    struct tcp_link *tcp = tcp_of(link);

    if (!abandon) {
        tcp_stop_keeper(tcp);
        tcp_drain_haulers(tcp, fdc_now_ns() + LINGER_NS);
        send_rest(tcp);
        fdc_store_ordered(&tcp->flusher_state, FLUSHER_STOP);
        fdc_futex_wake(&tcp->flusher_state, 1, false);
        tcp_shutdown(link);
        if (tcp->has_flusher)
            pthread_join(tcp->flusher, NULL);
        stop_readers(tcp);
        tcp_stop_haulers(tcp);
    }
    for (int i = 0; i < tcp->conns; i++)
        close(tcp->conn[i].fd);
    drop(tcp);
}
