/*
 * The rdma road, making and freeing. Over the socket of the handshake, whose two ends have
 * proved who they are, each side says where its UCX worker is and gives the key to the
 * region that the other side puts into:
 *
 *   worker -> client   the sizes (struct link_setup), then struct hello and its parts;
 *                      or, with the magic number REFUSAL_MAGIC, why it cannot
 *   client -> worker   struct hello and its parts
 *
 * The worker does not wait for the client's: it takes it when it first needs it. Lengths are
 * checked here; what is inside, UCX reads, and trusts (ARCHITECTURE.md, Roads).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fdc/rdma.h"
#include "rdma.h"

enum {
    HELLO_MAGIC = 0x55434446,
    REFUSAL_MAGIC = 0x4e434446,
    ADDRESS_MAX = 64 << 10,
    KEY_MAX = 16 << 10,
    VERSION_MAX = 24,
    CLOSE_NS = 1000000000,
};

struct hello {
    uint32_t magic, address_size, key_size, zero;
    uint64_t base;         /* of the region, in the address space of who says so */
    char ucx[VERSION_MAX]; /* for people */
};

static enum fdc_region
region_in(const struct rdma_link *rdma) /* that the other side puts into */
{
    return rdma->link.worker ? FDC_REGION_UP : FDC_REGION_DOWN;
}

static int
failed(struct rdma_link *rdma, const char *what, ucx_status status)
{
    snprintf(rdma->why, sizeof(rdma->why), "UCX %s: %s: %s",
             rdma->ucx.get_version_string(), what, rdma->ucx.status_string(status));
    return -EIO;
}

static void
lost(void *arg, struct ucx_ep *ep, ucx_status status)
{
    struct rdma_link *rdma = arg;

    (void)ep;
    fdc_log(FDC_LOG_DEBUG, "UCX: %s", rdma->ucx.status_string(status));
    fdc_store_ordered(&rdma->dead, 1); /* rdma_progress() goes on from there */
    rdma->news = true;
    rdma_wake_turn(rdma);
}

/* ---- the other side ---- */

static int
say_hello(struct rdma_link *rdma)
{
    struct hello hello = {
        .magic = HELLO_MAGIC,
        .base = (uintptr_t)rdma->link.region[region_in(rdma)],
    };
    size_t address_size = 0, key_size = 0;
    void *address = NULL, *key = NULL;
    ucx_status status;
    int err;

    status = rdma->ucx.worker_get_address(rdma->worker, &address, &address_size);
    if (status != UCX_OK)
        return failed(rdma, "no address", status);
    status = rdma->ucx.rkey_pack(rdma->context, rdma->region_mem[region_in(rdma)], &key,
                                 &key_size);
    if (status != UCX_OK) {
        rdma->ucx.worker_release_address(rdma->worker, address);
        return failed(rdma, "no key", status);
    }
    hello.address_size = (uint32_t)address_size;
    hello.key_size = (uint32_t)key_size;
    strncpy(hello.ucx, rdma->ucx.get_version_string(), sizeof(hello.ucx) - 1);
    err = -EMSGSIZE;
    if (address_size <= ADDRESS_MAX && key_size <= KEY_MAX)
        err = fdc_sock_write(rdma->sock, &hello, sizeof(hello));
    if (!err)
        err = fdc_sock_write(rdma->sock, address, address_size);
    if (!err)
        err = fdc_sock_write(rdma->sock, key, key_size);
    rdma->ucx.rkey_buffer_release(key);
    rdma->ucx.worker_release_address(rdma->worker, address);
    return err;
}

/* Releases of UCX that are far apart do not find each other. */
static int
unreached(struct rdma_link *rdma, const struct hello *hello, ucx_status status)
{
    snprintf(rdma->why, sizeof(rdma->why),
             "UCX %s cannot reach the other side's UCX %s: %s (the same UCX and the same "
             "UCX_TLS at both ends can)",
             rdma->ucx.get_version_string(), hello->ucx,
             rdma->ucx.status_string(status));
    return -EHOSTUNREACH;
}

static int
endpoint_make(struct rdma_link *rdma, const struct hello *hello, const void *address,
              const void *key)
{
    struct ucx_ep_params params = {
        .mask = UCX_EP_PARAM_ADDRESS | UCX_EP_PARAM_ERR_MODE | UCX_EP_PARAM_ERR_HANDLER,
        .address = address,
        .err_mode = UCX_ERR_MODE_PEER,
        .err_handler = {.cb = lost, .arg = rdma},
    };
    ucx_status status;

    status = rdma->ucx.ep_create(rdma->worker, &params, &rdma->ep);
    if (status == UCX_UNREACHABLE) {
        /* Shared memory tells nobody that the other side has gone. The socket does. */
        params.mask = UCX_EP_PARAM_ADDRESS;
        status = rdma->ucx.ep_create(rdma->worker, &params, &rdma->ep);
    }
    if (status != UCX_OK)
        return unreached(rdma, hello, status);
    status = rdma->ucx.ep_rkey_unpack(rdma->ep, key, &rdma->rkey);
    if (status != UCX_OK)
        return failed(rdma, "the other side's key", status);
    return 0;
}

static int
hear_hello(struct rdma_link *rdma, int64_t timeout_us)
{
    struct hello hello;
    uint8_t *parts = NULL;
    sigset_t all, before;
    int err;

    err = fdc_sock_read(rdma->sock, &hello, sizeof(hello), timeout_us);
    if (err)
        return err;
    if (hello.magic != HELLO_MAGIC || hello.address_size == 0 ||
        hello.address_size > ADDRESS_MAX || hello.key_size == 0 ||
        hello.key_size > KEY_MAX ||
        hello.base > UINT64_MAX - rdma->link.size.region[!region_in(rdma)])
        return -EPROTO;
    fdc_log_printable(hello.ucx, sizeof(hello.ucx));
    /* UCX finds the ends of both by itself; zeros behind them end its search. */
    parts = calloc(1, (size_t)hello.address_size + hello.key_size + 2 * FDC_CACHE_LINE);
    if (!parts)
        return -ENOMEM;
    err = fdc_sock_read(rdma->sock, parts, hello.address_size, timeout_us);
    if (!err)
        err = fdc_sock_read(rdma->sock, parts + hello.address_size + FDC_CACHE_LINE,
                            hello.key_size, timeout_us);
    if (!err) {
        rdma->remote_base = hello.base;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* of threads of UCX's */
        err = endpoint_make(rdma, &hello, parts,
                            parts + hello.address_size + FDC_CACHE_LINE);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    free(parts);
    if (!err)
        fdc_log(FDC_LOG_DEBUG, "rdma link: UCX %s, the other side's is %s",
                rdma->ucx.get_version_string(), hello.ucx);
    return err;
}

int
rdma_meet(struct rdma_link *rdma, int64_t timeout_us)
{
    struct pollfd poll_fd = {.fd = rdma->sock, .events = POLLIN};
    int err;

    if (FDC_LIKELY(fdc_load_relaxed(&rdma->met)))
        return 0;
    if (fdc_load_acquire(&rdma->dead))
        return -EPIPE;
    if (timeout_us == 0 && poll(&poll_fd, 1, 0) <= 0)
        return -EAGAIN;
    err = hear_hello(rdma, LINK_SETUP_TIMEOUT_US);
    if (err) {
        rdma_broken(rdma, rdma->why[0] ? rdma->why
                          : err == -EPIPE
                              ? "the client has gone before it began"
                              : "the client's half of the set-up is broken");
        return -EPIPE;
    }
    fdc_store_release(&rdma->met, 1); /* the loads without the lock */
    return 0;
}

/* ---- making ---- */

static int
make_rings(struct rdma_link *rdma)
{
    struct fdc_link *link = &rdma->link;
    int err;

    for (int lane = 0; lane < FDC_LANES; lane++) {
        if (link_sends(link, lane))
            continue;
        err = link_make_ring(link, lane, &rdma->in[lane].memory, &rdma->in[lane].fill);
        if (err)
            return err;
    }
    return 0;
}

/* Network cards want their memory locked, and most systems allow a little of that. */
static int
unregistered(struct rdma_link *rdma, ucx_status status)
{
    uint64_t need = RDMA_BATCHES * RDMA_BATCH_ROOM;
    struct rlimit limit;
    size_t said;

    for (int region = 0; region < FDC_REGIONS; region++)
        need += rdma->link.size.region[region];
    failed(rdma, "memory cannot be registered", status);
    said = strlen(rdma->why);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < need)
        snprintf(rdma->why + said, sizeof(rdma->why) - said,
                 "; a session locks %llu KiB, and `ulimit -l` allows %llu",
                 (unsigned long long)need >> 10,
                 (unsigned long long)limit.rlim_cur >> 10);
    return -ENOMEM;
}

static int
memory_register(struct rdma_link *rdma, void *memory, size_t size, unsigned prot,
                struct ucx_mem **mem)
{
    struct ucx_mem_params params = {
        .mask = UCX_MEM_ADDRESS | UCX_MEM_LENGTH | UCX_MEM_PROT,
        .address = memory,
        .length = size,
        .prot = prot,
    };
    ucx_status status = rdma->ucx.mem_map(rdma->context, &params, mem);

    return status == UCX_OK ? 0 : unregistered(rdma, status);
}

static int
make_memory(struct rdma_link *rdma)
{
    struct fdc_link *link = &rdma->link;
    unsigned prot;
    int err;

    for (int region = 0; region < FDC_REGIONS; region++) {
        link->region[region] = link_map(link->size.region[region]);
        if (!link->region[region])
            return -ENOMEM;
        prot = UCX_PROT_LOCAL_READ | UCX_PROT_LOCAL_WRITE;
        if (region == (int)region_in(rdma))
            prot |= UCX_PROT_REMOTE_WRITE;
        err = memory_register(rdma, link->region[region], link->size.region[region],
                              prot, &rdma->region_mem[region]);
        if (err)
            return err;
    }
    rdma->pool = link_map(RDMA_BATCHES * RDMA_BATCH_ROOM);
    if (!rdma->pool)
        return -ENOMEM;
    for (int i = RDMA_BATCHES - 1; i >= 0; i--) {
        rdma->batch[i] = (struct rdma_batch){
            .rdma = rdma,
            .next = rdma->free_batches,
            .room = RDMA_BATCH_ROOM,
            .bytes = rdma->pool + (size_t)i * RDMA_BATCH_ROOM,
            .pooled = true,
        };
        rdma->free_batches = &rdma->batch[i];
        rdma->free_count++;
    }
    return memory_register(rdma, rdma->pool, RDMA_BATCHES * RDMA_BATCH_ROOM,
                           UCX_PROT_LOCAL_READ | UCX_PROT_LOCAL_WRITE, &rdma->pool_mem);
}

static int
make_worker(struct rdma_link *rdma)
{
    struct ucx_worker_params params = {
        .mask = UCX_WORKER_PARAM_THREAD_MODE,
        .thread_mode = UCX_THREAD_MODE_SERIALIZED,
    };
    struct ucx_am_params am = {
        .mask = UCX_AM_ID | UCX_AM_FLAGS | UCX_AM_CB | UCX_AM_ARG,
        .id = RDMA_AM_ID,
        .flags = UCX_AM_WHOLE,
        .cb = rdma_arrived,
        .arg = rdma,
    };
    ucx_status status;

    status = rdma->ucx.worker_create(rdma->context, &params, &rdma->worker);
    if (status != UCX_OK)
        return failed(rdma, "no worker", status);
    status = rdma->ucx.worker_get_efd(rdma->worker, &rdma->efd);
    if (status != UCX_OK)
        return failed(rdma, "no descriptor to sleep on", status);
    status = rdma->ucx.worker_set_am_recv_handler(rdma->worker, &am);
    if (status != UCX_OK)
        return failed(rdma, "no active messages", status);
    return 0;
}

/* Both ends of the connection are on this machine. */
static bool
is_local(int sock)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof(peer);
    const struct in_addr *v4 = &((struct sockaddr_in *)&peer)->sin_addr;
    const struct in6_addr *v6 = &((struct sockaddr_in6 *)&peer)->sin6_addr;

    if (getpeername(sock, (struct sockaddr *)&peer, &size) < 0)
        return false;
    if (peer.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(v6) ||
               (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
    return peer.ss_family == AF_UNIX ||
           (peer.ss_family == AF_INET && ntohl(v4->s_addr) >> 24 == 127);
}

static struct rdma_link *
rdma_new(int sock, bool worker, const struct fdc_link_size *size)
{
    struct rdma_link *rdma = calloc(1, sizeof(*rdma));

    if (!rdma)
        return NULL;
    rdma->link.ops = &rdma_ops;
    rdma->link.road = FDC_ROAD_RDMA;
    rdma->link.worker = worker;
    rdma->link.size = *size;
    rdma->sock = sock;
    rdma->efd = rdma->wake_fd = -1;
    pthread_mutex_init(&rdma->lock, NULL);
    pthread_mutex_init(&rdma->lead, NULL);
    pthread_mutex_init(&rdma->pusher_lock, NULL);
    for (int lane = 0; lane < FDC_LANES; lane++)
        pthread_mutex_init(&rdma->out[lane].lock, NULL);
    fdc_spin_init(&rdma->spin);
    return rdma;
}

static int
rdma_make(struct rdma_link *rdma)
{
    sigset_t all, before;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rdma->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = rdma->wake_fd < 0 ? -errno : make_rings(rdma);
    if (!err)
        err = ucx_open(&rdma->ucx, &rdma->context, is_local(rdma->sock), rdma->why,
                       sizeof(rdma->why));
    if (!err)
        err = make_memory(rdma);
    if (!err)
        err = make_worker(rdma);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

/* In words; made ones go before the system's. */
static const char *
reason(const struct rdma_link *rdma, int err)
{
    return rdma && rdma->why[0] ? rdma->why : strerror(-err);
}

static void
refuse(int sock, const char *why)
{
    struct {
        struct link_setup setup;
        char why[RDMA_WHY_ROOM];
    } refusal = {.setup = {.magic = REFUSAL_MAGIC, .road = FDC_ROAD_RDMA}};

    snprintf(refusal.why, sizeof(refusal.why), "%s", why);
    fdc_sock_write(sock, &refusal, sizeof(refusal)); /* if there is still anybody */
}

int
rdma_link_worker(int sock, const struct fdc_link_size *size, struct fdc_link **link)
{
    struct rdma_link *rdma = rdma_new(sock, true, size);
    struct link_setup setup;
    int err;

    err = rdma ? rdma_make(rdma) : -ENOMEM;
    if (err) {
        refuse(sock, reason(rdma, err));
    } else {
        link_setup_fill(&setup, &rdma->link);
        err = fdc_sock_write(sock, &setup, sizeof(setup));
        if (!err)
            err = say_hello(rdma);
    }
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot make an rdma link: %s", reason(rdma, err));
        rdma_drop(rdma);
        return err;
    }
    *link = &rdma->link;
    return 0;
}

/* The worker's first word. */
static int
hear_setup(int sock, struct fdc_link_size *size, struct link_emulation *emulation,
           char *why, size_t room)
{
    char theirs[RDMA_WHY_ROOM];
    struct link_setup setup;
    int err;

    err = fdc_sock_read(sock, &setup, sizeof(setup), LINK_SETUP_TIMEOUT_US);
    if (!err && setup.magic == REFUSAL_MAGIC) {
        err = fdc_sock_read(sock, theirs, sizeof(theirs), LINK_SETUP_TIMEOUT_US);
        if (!err) {
            fdc_log_printable(theirs, sizeof(theirs));
            snprintf(why, room, "on the server: %s", theirs);
            return -ECONNREFUSED;
        }
    }
    if (!err)
        err = link_setup_take(&setup, FDC_ROAD_RDMA, size, emulation);
    if (err)
        snprintf(why, room, "the server's half of the set-up: %s", strerror(-err));
    return err;
}

static int
client_make(int sock, struct rdma_link **made, char *why, size_t room)
{
    struct link_emulation emulation;
    struct fdc_link_size size;
    struct rdma_link *rdma;
    int err;

    err = hear_setup(sock, &size, &emulation, why, room);
    if (err)
        return err;
    rdma = rdma_new(sock, false, &size);
    err = rdma ? rdma_make(rdma) : -ENOMEM;
    if (!err) {
        rdma->link.emulation = emulation;
        err = hear_hello(rdma, LINK_SETUP_TIMEOUT_US);
    }
    if (!err)
        err = say_hello(rdma);
    if (err) {
        snprintf(why, room, "%s", reason(rdma, err));
        rdma_drop(rdma);
        return err;
    }
    fdc_store_release(&rdma->met, 1); /* the loads without the lock */
    *made = rdma;
    return 0;
}

int
rdma_link_client(int sock, struct fdc_link **link)
{
    struct rdma_link *rdma = NULL;
    char why[RDMA_WHY_ROOM];
    int err = client_make(sock, &rdma, why, sizeof(why));

    if (err)
        fdc_log(FDC_LOG_ERROR, "cannot take over an rdma link: %s", why);
    else
        *link = &rdma->link;
    return err;
}

int
fdc_rdma_client(int sock, struct fdc_link **link, char *why, size_t room)
{
    struct rdma_link *rdma = NULL;
    int err = client_make(sock, &rdma, why, room);

    if (err)
        return err;
    err = rdma_try(rdma, LINK_SETUP_TIMEOUT_US);
    if (err) {
        snprintf(why, room, "UCX %s has found a way to the server that nothing comes by: %s",
                 rdma->ucx.get_version_string(), strerror(-err));
        rdma_end(rdma);
        rdma_drop(rdma);
        return err;
    }
    *link = &rdma->link;
    return 0;
}

/* ---- freeing ---- */

static void
close_endpoint(struct rdma_link *rdma)
{
    struct ucx_op op = {.mask = UCX_OP_FLAGS, .flags = UCX_EP_CLOSE_FORCE};
    uint64_t limit_ns = fdc_now_ns() + CLOSE_NS;
    ucx_pending pending;

    if (rdma->rkey)
        rdma->ucx.rkey_destroy(rdma->rkey);
    if (!rdma->ep)
        return;
    pending = rdma->ucx.ep_close_nbx(rdma->ep, &op);
    if (!pending || UCX_IS_ERROR(pending))
        return;
    while (rdma->ucx.request_check_status(pending) == UCX_INPROGRESS &&
           fdc_now_ns() < limit_ns)
        rdma->ucx.worker_progress(rdma->worker);
    rdma->ucx.request_free(pending);
}

static void
drop_ucx(struct rdma_link *rdma)
{
    rdma->gone = true; /* what still arrives is not looked at */
    close_endpoint(rdma);
    if (rdma->worker)
        rdma->ucx.worker_destroy(rdma->worker);
    for (int region = 0; region < FDC_REGIONS; region++)
        if (rdma->region_mem[region])
            rdma->ucx.mem_unmap(rdma->context, rdma->region_mem[region]);
    if (rdma->pool_mem)
        rdma->ucx.mem_unmap(rdma->context, rdma->pool_mem);
    rdma->ucx.cleanup(rdma->context);
}

/* All but the socket, which is the caller's while a link is not made. */
void
rdma_drop(struct rdma_link *rdma)
{
    struct fdc_link *link;

    if (!rdma)
        return;
    link = &rdma->link;
    if (rdma->context)
        drop_ucx(rdma);
    rdma_drop_held(rdma);
    for (int lane = 0; lane < FDC_LANES; lane++) {
        link_unmap(rdma->in[lane].memory, fdc_ring_footprint(link->size.lane[lane]));
        if (rdma->out[lane].open && !rdma->out[lane].open->pooled)
            free(rdma->out[lane].open);
        pthread_mutex_destroy(&rdma->out[lane].lock);
    }
    for (int region = 0; region < FDC_REGIONS; region++)
        link_unmap(link->region[region], link->size.region[region]);
    link_unmap(rdma->pool, RDMA_BATCHES * RDMA_BATCH_ROOM);
    if (rdma->wake_fd >= 0)
        close(rdma->wake_fd);
    pthread_mutex_destroy(&rdma->lock);
    pthread_mutex_destroy(&rdma->lead);
    pthread_mutex_destroy(&rdma->pusher_lock);
    free(rdma);
}
