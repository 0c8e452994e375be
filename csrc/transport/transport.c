/* Links: what the roads have in common, and the way from a call to its road. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "link.h"

enum { LANE_SMALLEST = 4096, LANE_LARGEST = 256 << 20, PAGE = 4096 };
#define REGION_LARGEST (UINT64_C(64) << 30)

int
link_size_check(const struct fdc_link_size *size)
{
    for (int lane = 0; lane < FDC_LANES; lane++)
        if (size->lane[lane] < LANE_SMALLEST || size->lane[lane] > LANE_LARGEST ||
            (size->lane[lane] & (size->lane[lane] - 1)))
            return -EINVAL;
    for (int region = 0; region < FDC_REGIONS; region++)
        if (size->region[region] == 0 || size->region[region] > REGION_LARGEST ||
            size->region[region] % PAGE)
            return -EINVAL;
    return 0;
}

void
link_setup_fill(struct link_setup *setup, struct fdc_link *link)
{
    link_emulation_ask(&link->emulation);
    memset(setup, 0, sizeof(*setup));
    setup->magic = LINK_SETUP_MAGIC;
    setup->road = link->road;
    memcpy(setup->lane, link->size.lane, sizeof(setup->lane));
    memcpy(setup->region, link->size.region, sizeof(setup->region));
    setup->delay_ns = link->emulation.delay_ns;
    setup->mbps = link->emulation.mbps;
}

int
link_setup_take(const struct link_setup *setup, enum fdc_road road,
                struct fdc_link_size *size, struct link_emulation *emulation)
{
    struct fdc_link_size taken;

    memcpy(taken.lane, setup->lane, sizeof(taken.lane));
    memcpy(taken.region, setup->region, sizeof(taken.region));
    if (setup->magic != LINK_SETUP_MAGIC || setup->road != road ||
        link_size_check(&taken))
        return -EPROTO;
    *size = taken;
    *emulation = (struct link_emulation){
        .on = setup->delay_ns > 0 || setup->mbps > 0,
        .delay_ns = setup->delay_ns,
        .mbps = setup->mbps,
    };
    return 0;
}

void *
link_map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void
link_unmap(void *memory, size_t size)
{
    if (memory)
        munmap(memory, size);
}

int
link_make_ring(struct fdc_link *link, enum fdc_lane lane, void **memory,
               struct fdc_ring *fill)
{
    size_t footprint = fdc_ring_footprint(link->size.lane[lane]);
    int err;

    *memory = link_map(footprint);
    if (!*memory)
        return -ENOMEM;
    err = fdc_ring_make(*memory, link->size.lane[lane]);
    if (!err)
        err = fdc_ring_map(&link->ring[lane], *memory, footprint);
    if (!err)
        err = fdc_ring_map(fill, *memory, footprint);
    return err;
}

int
link_await_setup(int sock)
{
    struct pollfd poll_fd = {.fd = sock, .events = POLLIN};
    int n;

    do
        n = poll(&poll_fd, 1, LINK_SETUP_TIMEOUT_US / 1000);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return n > 0 ? 0 : -ETIMEDOUT;
}

int
fdc_link_client(enum fdc_road road, const int *socks, int nsocks,
                struct fdc_link **link)
{
    return fdc_link_client_sealed(road, socks, nsocks, NULL, link);
}

int
fdc_link_worker(enum fdc_road road, const int *socks, int nsocks,
                const struct fdc_link_size *size, struct fdc_link **link)
{
    return fdc_link_worker_sealed(road, socks, nsocks, NULL, size, link);
}

int
fdc_link_client_sealed(enum fdc_road road, const int *socks, int nsocks,
                       const struct fdc_link_key *keys, struct fdc_link **link)
{
    if (road == FDC_ROAD_SHM && nsocks == 1 && !keys)
        return shm_link_client(socks[0], link);
    if (road == FDC_ROAD_TCP && nsocks >= 2 && nsocks <= FDC_LINK_SOCKS)
        return tcp_link_client(socks, nsocks, keys, link);
    if (road == FDC_ROAD_RDMA && nsocks == 1 && !keys)
        return rdma_link_client(socks[0], link);
    return -EINVAL;
}

static const struct fdc_link_size default_size = FDC_LINK_SIZE_DEFAULT;

int
fdc_link_memory_new(const struct fdc_link_size *size, uint64_t filled,
                    struct fdc_link_memory **memory)
{
    if (!size)
        size = &default_size;
    if (link_size_check(size))
        return -EINVAL;
    return shm_memory_new(size, filled, memory);
}

int
fdc_link_worker_sealed(enum fdc_road road, const int *socks, int nsocks,
                       const struct fdc_link_key *keys,
                       const struct fdc_link_size *size, struct fdc_link **link)
{
    struct fdc_link_size usual = default_size;

    if (!size) {
        if (road == FDC_ROAD_TCP && nsocks > 0)
            tcp_widen(&usual, socks[0]);
        size = &usual;
    }
    if (link_size_check(size))
        return -EINVAL;
    if (road == FDC_ROAD_SHM && nsocks == 1 && !keys)
        return shm_link_worker(socks[0], size, link);
    if (road == FDC_ROAD_TCP && nsocks >= 2 && nsocks <= FDC_LINK_SOCKS)
        return tcp_link_worker(socks, nsocks, keys, size, link);
    if (road == FDC_ROAD_RDMA && nsocks == 1 && !keys)
        return rdma_link_worker(socks[0], size, link);
    return -EINVAL;
}

void
fdc_link_free(struct fdc_link *link)
{
    if (link)
        link->ops->free(link, false);
}

void
fdc_link_abandon(struct fdc_link *link)
{
    if (link)
        link->ops->free(link, true);
}

void
fdc_link_shutdown(struct fdc_link *link)
{
    link->ops->shutdown(link);
}

/* ---- connections that break ---- */

int
fdc_link_keep(struct fdc_link *link, const struct fdc_link_keep *keep)
{
    return link->ops->keep ? link->ops->keep(link, keep) : -EOPNOTSUPP;
}

int
fdc_link_resume(struct fdc_link *link, int which, uint32_t turn, int sock,
                const struct fdc_link_key *key)
{
    if (link->worker && link->ops->resume)
        return link->ops->resume(link, which, turn, sock, key);
    close(sock);
    return -EOPNOTSUPP;
}

bool
fdc_link_away(struct fdc_link *link)
{
    return link->ops->away && link->ops->away(link) > 0;
}

/* ---- lanes ---- */

static __attribute__((noinline)) void *
claim_stamped(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    uint8_t *room = NULL;

    link->claimed[lane] = 0;
    if (size > fdc_link_max_message(link, lane))
        *err = -EMSGSIZE;
    else
        room = link->ops->claim(link, lane, size + LINK_STAMP, err);
    if (!room)
        return NULL;
    link->claimed[lane] = size;
    link->claimed_at[lane] = room;
    return room + LINK_STAMP;
}

static __attribute__((noinline)) const void *
peek_stamped(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    const uint8_t *message = link->ops->peek(link, lane, size, err);
    uint64_t due_ns;

    if (!message)
        return NULL;
    if (*size <= LINK_STAMP) {
        *err = -EPROTO;
        return NULL;
    }
    memcpy(&due_ns, message, sizeof(due_ns));
    if (fdc_now_ns() < due_ns) {
        fdc_store_release(&link->emulation.due_ns[lane], due_ns); /* wait_for_due() */
        *err = 0;
        return NULL;
    }
    *size -= LINK_STAMP;
    return message + LINK_STAMP;
}

/* The road's wait, and then the wait for what peek holds back. */
static __attribute__((noinline)) int
wait_for_due(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
             uint32_t seen, int64_t timeout_us)
{
    int ready = link->ops->wait_word(link, lane, word, seen, timeout_us);

    if (ready != 1)
        return ready;
    return link_emulation_wait(fdc_load_acquire(&link->emulation.due_ns[lane]), word,
                               seen, timeout_us);
}

void *
fdc_link_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    void *room;

    if (FDC_UNLIKELY(!link_sends(link, lane) || size == 0)) {
        *err = -EINVAL;
        return NULL;
    }
    if (FDC_UNLIKELY(link->emulation.on))
        return claim_stamped(link, lane, size, err);
    if (FDC_LIKELY(link->road == FDC_ROAD_SHM))
        room = fdc_ring_claim(&link->ring[lane], size, err);
    else
        room = link->ops->claim(link, lane, size, err);
    link->claimed[lane] = room ? size : 0;
    return room;
}

/* False: there is nothing to commit. */
static bool
close_claim(struct fdc_link *link, enum fdc_lane lane)
{
    struct fdc_link_stats *stats = &link->stats;

    if (FDC_UNLIKELY(link->claimed[lane] == 0))
        return false;
    fdc_store_relaxed(&stats->messages[lane], stats->messages[lane] + 1);
    fdc_store_relaxed(&stats->bytes[lane], stats->bytes[lane] + link->claimed[lane]);
    if (FDC_UNLIKELY(link->emulation.on))
        memcpy(link->claimed_at[lane],
               &(uint64_t){link_emulation_send(&link->emulation, link->claimed[lane])},
               LINK_STAMP);
    link->claimed[lane] = 0;
    return true;
}

void
fdc_link_commit(struct fdc_link *link, enum fdc_lane lane)
{
    if (FDC_UNLIKELY(!close_claim(link, lane)))
        return;
    if (FDC_LIKELY(link->road == FDC_ROAD_SHM))
        fdc_ring_commit(&link->ring[lane]);
    else
        link->ops->commit(link, lane);
}

void
fdc_link_commit_after(struct fdc_link *link, enum fdc_lane lane, uint64_t ticket)
{
    if (!close_claim(link, lane))
        return;
    if (ticket != 0 && link->ops->commit_after && lane == FDC_LANE_REPLY)
        link->ops->commit_after(link, lane, ticket);
    else
        link->ops->commit(link, lane);
}

void
fdc_link_abort(struct fdc_link *link, enum fdc_lane lane)
{
    if (link->claimed[lane] == 0)
        return;
    link->claimed[lane] = 0;
    link->ops->abort(link, lane);
}

int
fdc_link_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
                   int64_t timeout_us)
{
    if (!link_sends(link, lane))
        return -EINVAL;
    if (size > fdc_link_max_message(link, lane))
        return -EMSGSIZE;
    if (link->emulation.on)
        size += LINK_STAMP;
    return link->ops->wait_room(link, lane, size, timeout_us);
}

int
fdc_link_flush(struct fdc_link *link, enum fdc_lane lane)
{
    return link->ops->flush(link, lane);
}

/* As of a ring of the lane's size, whichever side holds that ring. */
uint32_t
link_max_record(const struct fdc_link *link, enum fdc_lane lane)
{
    return fdc_ring_max(&(struct fdc_ring){.size = link->size.lane[lane]});
}

uint32_t
fdc_link_max_message(const struct fdc_link *link, enum fdc_lane lane)
{
    return link_max_record(link, lane) - (link->emulation.on ? LINK_STAMP : 0);
}

const void *
fdc_link_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    const void *message;

    if (FDC_UNLIKELY(link_sends(link, lane))) {
        *err = -EINVAL;
        return NULL;
    }
    if (FDC_UNLIKELY(link->emulation.on))
        message = peek_stamped(link, lane, size, err);
    else if (FDC_LIKELY(link->road == FDC_ROAD_SHM))
        message = fdc_ring_peek(&link->ring[lane], size, err);
    else
        message = link->ops->peek(link, lane, size, err);
    if (message)
        link->peeked[lane] = *size;
    return message;
}

void
fdc_link_release(struct fdc_link *link, enum fdc_lane lane)
{
    struct fdc_link_stats *stats = &link->stats;

    if (FDC_UNLIKELY(link_sends(link, lane) || link->peeked[lane] == 0))
        return;
    fdc_store_relaxed(&stats->messages[lane], stats->messages[lane] + 1);
    fdc_store_relaxed(&stats->bytes[lane], stats->bytes[lane] + link->peeked[lane]);
    link->peeked[lane] = 0;
    fdc_ring_release(&link->ring[lane]);
}

int
fdc_link_wait(struct fdc_link *link, enum fdc_lane lane, int64_t timeout_us)
{
    return fdc_link_wait_word(link, lane, NULL, 0, timeout_us);
}

void
fdc_link_soon(struct fdc_link *link, enum fdc_lane lane)
{
    if (link->road == FDC_ROAD_SHM && !link->emulation.on)
        fdc_ring_soon(&link->ring[lane]);
}

bool
fdc_link_quick(struct fdc_link *link, enum fdc_lane lane)
{
    return link->road == FDC_ROAD_SHM && !link->emulation.on &&
           fdc_ring_quick(&link->ring[lane]);
}

int
fdc_link_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
                   uint32_t seen, int64_t timeout_us)
{
    if (link_sends(link, lane))
        return -EINVAL;
    if (FDC_UNLIKELY(link->emulation.on))
        return wait_for_due(link, lane, word, seen, timeout_us);
    return link->ops->wait_word(link, lane, word, seen, timeout_us);
}

void
fdc_link_poke(struct fdc_link *link, enum fdc_lane lane)
{
    if (!link_sends(link, lane))
        link->ops->poke(link, lane);
}

/* ---- regions ---- */

void *
fdc_link_region(struct fdc_link *link, enum fdc_region region, uint64_t *size)
{
    if (size)
        *size = link->size.region[region];
    return link->region[region];
}

/* Whether this side may put so much there. */
static bool
may_put(const struct fdc_link *link, enum fdc_region region, uint64_t offset, uint64_t size)
{
    return link->worker == (region == FDC_REGION_DOWN) &&
           offset <= link->size.region[region] &&
           size <= link->size.region[region] - offset;
}

static void
count_put(struct fdc_link *link, enum fdc_region region, uint64_t size)
{
    __atomic_fetch_add(&link->stats.put_bytes[region], size, __ATOMIC_RELAXED);
    if (FDC_UNLIKELY(link->emulation.on))
        link_emulation_send(&link->emulation, size);
}

int
fdc_link_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
             const void *bytes, uint64_t size, uint64_t *ticket)
{
    if (!may_put(link, region, offset, size))
        return -EINVAL;
    *ticket = 0;
    if (size == 0)
        return 0;
    count_put(link, region, size);
    return link->ops->put(link, region, offset, bytes, size, ticket);
}

int
fdc_link_lend(struct fdc_link *link, enum fdc_region region, uint64_t offset,
              const void *bytes, uint64_t size, struct fdc_loan *loan, uint64_t *ticket)
{
    if (!link->ops->lend)
        return fdc_link_put(link, region, offset, bytes, size, ticket);
    if (link->worker || !may_put(link, region, offset, size))
        return -EINVAL;
    *ticket = 0;
    if (size == 0)
        return 0;
    count_put(link, region, size);
    return link->ops->lend(link, region, offset, bytes, size, loan, ticket);
}

int
fdc_link_settle(struct fdc_loan *loan)
{
    uint32_t out;

    while ((out = fdc_load_acquire(&loan->out)) != 0) /* pairs with repay() */
        fdc_futex_wait(&loan->out, out, -1, false);
    return fdc_load_relaxed(&loan->lost) ? -EPIPE : 0;
}

void
fdc_link_reclaim(struct fdc_link *link, struct fdc_loan *loan)
{
    if (loan->conn != 0)
        link->ops->reclaim(link, loan);
    loan->conn = 0;
}

uint32_t
fdc_link_stripes(const struct fdc_link *link)
{
    return link->stripes > 1 ? link->stripes : 1;
}

int
fdc_link_put_aside(struct fdc_link *link, uint64_t offset, uint64_t size,
                   uint64_t *ticket)
{
    if (!link->ops->put_aside)
        return fdc_link_put(link, FDC_REGION_DOWN, offset,
                            link->region[FDC_REGION_DOWN] + offset, size, ticket);
    if (!may_put(link, FDC_REGION_DOWN, offset, size))
        return -EINVAL;
    *ticket = 0;
    if (size == 0)
        return 0;
    count_put(link, FDC_REGION_DOWN, size);
    return link->ops->put_aside(link, offset, size, ticket);
}

int
fdc_link_put_wait(struct fdc_link *link, enum fdc_region region, uint64_t ticket,
                  int64_t timeout_us)
{
    if (link->worker != (region == FDC_REGION_UP))
        return -EINVAL;
    return ticket ? link->ops->put_wait(link, ticket, timeout_us) : 0;
}

bool
fdc_link_land(struct fdc_link *link, uint64_t offset, uint64_t size, void *to)
{
    if (link->worker || link->ops->land == NULL ||
        offset > link->size.region[FDC_REGION_DOWN] ||
        size > link->size.region[FDC_REGION_DOWN] - offset || size == 0)
        return false;
    return link->ops->land(link, offset, size, to);
}

uint64_t
fdc_link_landed(struct fdc_link *link, uint64_t offset)
{
    return link->ops->landed(link, offset);
}

bool
fdc_link_is_shared(const struct fdc_link *link)
{
    return link->road == FDC_ROAD_SHM;
}

enum fdc_road
fdc_link_road(const struct fdc_link *link)
{
    return link->road;
}

int
fdc_link_give_fd(struct fdc_link *link, uint64_t tag, int fd)
{
    if (!link->worker || link->ops->give_fd == NULL)
        return -EOPNOTSUPP;
    return link->ops->give_fd(link, tag, fd);
}

int
fdc_link_take_fd(struct fdc_link *link, uint64_t tag, int *fd)
{
    if (link->worker || link->ops->take_fd == NULL)
        return -EOPNOTSUPP;
    return link->ops->take_fd(link, tag, fd);
}

void
fdc_link_get_stats(struct fdc_link *link, struct fdc_link_stats *stats)
{
    const uint64_t *counts = (const uint64_t *)&link->stats;

    /* Others count on meanwhile. */
    for (size_t i = 0; i < sizeof(*stats) / sizeof(*counts); i++)
        ((uint64_t *)stats)[i] = fdc_load_relaxed(&counts[i]);
    for (int lane = 0; lane < FDC_LANES; lane++) {
        stats->waits[lane] += fdc_load_relaxed(&link->ring[lane].waits);
        stats->sleeps[lane] += fdc_load_relaxed(&link->ring[lane].sleeps);
        stats->system_calls += fdc_load_relaxed(&link->ring[lane].sleeps) +
                               fdc_load_relaxed(&link->ring[lane].wakes);
    }
}
