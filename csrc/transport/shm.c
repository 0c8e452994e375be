/*
 * The shm road: three rings and two regions in memfds of their own, which the worker's
 * end makes and seals and the client's end checks. The Unix socket that carried them
 * stays open to tell when the other process is gone, and for the descriptors of memory
 * that is shared later.
 *
 * Both sides treat the memory as hostile: rings check what they read, and the sizes
 * used are the ones agreed at set-up.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"

enum { MAPS = FDC_LANES + FDC_REGIONS, PAGE = 4096 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct shm_link {
    struct fdc_link link;
    int sock;
    void *map[MAPS];
    size_t map_size[MAPS];
};

static const struct fdc_link_ops shm_ops;

static struct shm_link *
shm_of(struct fdc_link *link)
{
    return (struct shm_link *)(void *)link;
}

static void
shm_close_rings(struct fdc_link *link)
{
    for (int lane = 0; lane < FDC_LANES; lane++)
        fdc_ring_close(&link->ring[lane]);
}

/* The peer's process is gone when its end of the socket is. */
static int
shm_alive(void *owner)
{
    struct shm_link *shm = owner;
    struct pollfd poll_fd = {.fd = shm->sock, .events = POLLIN | POLLRDHUP};
    int saved = errno, n;

    n = poll(&poll_fd, 1, 0);
    errno = saved;
    if (n <= 0 || !(poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)))
        return 0;
    shm_close_rings(&shm->link);
    /* The ring decides: what was committed before is still delivered. */
    return 0;
}

static size_t
map_size(const struct fdc_link_size *size, int i)
{
    if (i < FDC_LANES)
        return FDC_ALIGN_UP(fdc_ring_footprint(size->lane[i]), (size_t)PAGE);
    return size->region[i - FDC_LANES];
}

static void
shm_detach(struct shm_link *shm)
{
    for (int i = 0; i < MAPS; i++)
        if (shm->map[i])
            munmap(shm->map[i], shm->map_size[i]);
}

/* The pages of the first bytes of a fresh region, which is all zeros. */
static void
fill(void *memory, uint64_t size)
{
    volatile uint8_t *bytes = memory;

    if (size == 0 || madvise(memory, size, MADV_POPULATE_WRITE) == 0)
        return;
    for (uint64_t at = 0; at < size; at += PAGE) /* a kernel before 5.14 */
        bytes[at] = 0;
}

/* Maps the descriptors and attaches to what is in them. filled: so many bytes of each
 * region have their pages at once, as the rings have. */
static int
shm_attach(struct shm_link *shm, const struct fdc_link_size *size, const int *fds,
           uint64_t filled)
{
    struct fdc_link *link = &shm->link;
    int flags = MAP_SHARED, err;
    void *memory;

    link->ops = &shm_ops;
    link->road = FDC_ROAD_SHM;
    link->size = *size;
    for (int i = 0; i < MAPS; i++) {
        shm->map_size[i] = map_size(size, i);
        flags = i < FDC_LANES ? MAP_SHARED | MAP_POPULATE : MAP_SHARED;
        memory = mmap(NULL, shm->map_size[i], PROT_READ | PROT_WRITE, flags, fds[i], 0);
        if (memory == MAP_FAILED) {
            err = -errno;
            goto err_unmap;
        }
        shm->map[i] = memory;
        if (i >= FDC_LANES) {
            link->region[i - FDC_LANES] = memory;
            fill(memory, filled < shm->map_size[i] ? filled : shm->map_size[i]);
            continue;
        }
        if (link->worker) {
            err = fdc_ring_make(memory, size->lane[i]);
            if (err)
                goto err_unmap;
        }
        err = fdc_ring_map(&link->ring[i], memory, shm->map_size[i]);
        if (!err && link->ring[i].size != size->lane[i])
            err = -EPROTO;
        if (err)
            goto err_unmap;
        link->ring[i].alive = shm_alive;
        link->ring[i].owner = shm;
    }
    return 0;

err_unmap:
    shm_detach(shm);
    return err;
}

/* ---- the worker's end ---- */

/* A link without a peer, and the descriptors for one. */
struct fdc_link_memory {
    struct shm_link *shm;
    int fd[MAPS];
};

static void
close_all(const int *fds, int count)
{
    while (count > 0)
        close(fds[--count]);
}

int
shm_memory_new(const struct fdc_link_size *size, uint64_t filled,
               struct fdc_link_memory **made)
{
    static const char *const names[MAPS] = {
        "fdcore-command", "fdcore-reply", "fdcore-side", "fdcore-up", "fdcore-down",
    };
    struct fdc_link_memory *memory;
    int count = 0, err = -ENOMEM;

    memory = calloc(1, sizeof(*memory));
    if (!memory)
        return -ENOMEM;
    memory->shm = calloc(1, sizeof(*memory->shm));
    if (!memory->shm)
        goto err_free;
    memory->shm->link.worker = true;
    for (; count < MAPS; count++) {
        memory->fd[count] = fdc_memfd_new(names[count], map_size(size, count));
        if (memory->fd[count] < 0) {
            err = memory->fd[count];
            goto err_close;
        }
    }
    err = shm_attach(memory->shm, size, memory->fd, filled);
    if (err)
        goto err_close;
    *made = memory;
    return 0;

err_close:
    close_all(memory->fd, count);
err_free:
    free(memory->shm);
    free(memory);
    fdc_log(FDC_LOG_ERROR, "cannot make memory to share: %s", strerror(-err));
    return err;
}

void
fdc_link_memory_free(struct fdc_link_memory *memory)
{
    if (!memory)
        return;
    close_all(memory->fd, MAPS);
    shm_detach(memory->shm);
    free(memory->shm);
    free(memory);
}

int
fdc_link_worker_of(struct fdc_link_memory *memory, int sock, struct fdc_link **link)
{
    struct link_setup setup;
    int err;

    link_setup_fill(&setup, &memory->shm->link);
    err = fdc_sock_send_fds(sock, &setup, sizeof(setup), memory->fd, MAPS);
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot pass on shared memory: %s", strerror(-err));
        return err;
    }
    memory->shm->sock = sock;
    *link = &memory->shm->link;
    close_all(memory->fd, MAPS);
    free(memory);
    return 0;
}

int
shm_link_worker(int sock, const struct fdc_link_size *size, struct fdc_link **link)
{
    struct fdc_link_memory *memory;
    int err;

    err = shm_memory_new(size, 0, &memory);
    if (err)
        return err;
    err = fdc_link_worker_of(memory, sock, link);
    if (err)
        fdc_link_memory_free(memory);
    return err;
}

/* ---- the client's end ---- */

int
shm_link_client(int sock, struct fdc_link **link)
{
    int fds[MAPS], nfds = MAPS, err;
    struct fdc_link_size size;
    struct link_setup setup;
    struct shm_link *shm;

    shm = calloc(1, sizeof(*shm));
    if (!shm)
        return -ENOMEM;
    shm->sock = sock;
    err = link_await_setup(sock);
    if (!err)
        err = fdc_sock_recv_fds(sock, &setup, sizeof(setup), fds, &nfds);
    if (err)
        goto out_free;
    err = -EPROTO;
    if (nfds == MAPS)
        err = link_setup_take(&setup, FDC_ROAD_SHM, &size, &shm->link.emulation);
    for (int i = 0; i < MAPS && !err; i++)
        err = fdc_memfd_check(fds[i], map_size(&size, i));
    if (!err)
        err = shm_attach(shm, &size, fds, 0);
    if (!err)
        shm->link.ring[FDC_LANE_REPLY].spin.max_ns = FDC_SPIN_WORK_NS;
    close_all(fds, nfds);

out_free:
    if (err) {
        fdc_log(FDC_LOG_ERROR, "cannot take over a shared-memory link: %s",
                strerror(-err));
        free(shm);
        return err;
    }
    *link = &shm->link;
    return 0;
}

static void
shm_shutdown(struct fdc_link *link)
{
    shm_close_rings(link);
    shutdown(shm_of(link)->sock, SHUT_RDWR);
}

static void
shm_free(struct fdc_link *link, bool abandon)
{
    struct shm_link *shm = shm_of(link);

    if (!abandon)
        shm_shutdown(link);
    close(shm->sock);
    shm_detach(shm);
    free(shm);
}

static void *
shm_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    return fdc_ring_claim(&link->ring[lane], size, err);
}

static void
shm_commit(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_commit(&link->ring[lane]);
}

static void
shm_abort(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_abort(&link->ring[lane]);
}

static int
shm_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
              int64_t timeout_us)
{
    return fdc_ring_wait_room(&link->ring[lane], size, timeout_us);
}

static int
shm_flush(struct fdc_link *link, enum fdc_lane lane)
{
    (void)link;
    (void)lane;
    return 0;
}

static const void *
shm_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    return fdc_ring_peek(&link->ring[lane], size, err);
}

static int
shm_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
              uint32_t seen, int64_t timeout_us)
{
    return fdc_ring_wait_word(&link->ring[lane], word, seen, timeout_us);
}

static void
shm_poke(struct fdc_link *link, enum fdc_lane lane)
{
    fdc_ring_poke(&link->ring[lane]);
}

static int
shm_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
        const void *bytes, uint64_t size, uint64_t *ticket)
{
    uint8_t *to = link->region[region] + offset;

    (void)ticket; /* 0: it is there */
    if (to == bytes)
        return 0;
    if (size >= FDC_COPY_PAST_LEAST) /* the worker's processor reads it, or a device */
        fdc_copy_past(to, bytes, size);
    else
        memcpy(to, bytes, size);
    return 0;
}

static int
shm_put_wait(struct fdc_link *link, uint64_t ticket, int64_t timeout_us)
{
    (void)link;
    (void)ticket;
    (void)timeout_us;
    return 0;
}

/* ---- more memory ---- */

struct given {
    uint32_t magic, pad;
    uint64_t tag;
};

enum { GIVEN_MAGIC = 0x4d434446 };

static int
shm_give_fd(struct fdc_link *link, uint64_t tag, int fd)
{
    struct given given = {.magic = GIVEN_MAGIC, .tag = tag};

    return fdc_sock_send_fds(shm_of(link)->sock, &given, sizeof(given), &fd, 1);
}

static int
shm_take_fd(struct fdc_link *link, uint64_t tag, int *fd)
{
    int sock = shm_of(link)->sock, fds[1], nfds = 1, err;
    struct given given;

    err = link_await_setup(sock);
    if (!err)
        err = fdc_sock_recv_fds(sock, &given, sizeof(given), fds, &nfds);
    if (err)
        return err;
    if (nfds == 1 && given.magic == GIVEN_MAGIC && given.tag == tag) {
        *fd = fds[0];
        return 0;
    }
    if (nfds == 1)
        close(fds[0]);
    return -EPROTO;
}

static const struct fdc_link_ops shm_ops = {
    .free = shm_free,
    .shutdown = shm_shutdown,
    .claim = shm_claim,
    .commit = shm_commit,
    .abort = shm_abort,
    .wait_room = shm_wait_room,
    .flush = shm_flush,
    .peek = shm_peek,
    .wait_word = shm_wait_word,
    .poke = shm_poke,
    .put = shm_put,
    .put_wait = shm_put_wait,
    .give_fd = shm_give_fd,
    .take_fd = shm_take_fd,
};
