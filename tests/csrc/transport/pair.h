/* Both ends of a link in one process, over sockets of the kind that the road wants. */
#ifndef PAIR_H
#define PAIR_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "fdc/transport.h"
#include "loopback.h"

struct pair {
    struct fdc_link *client, *worker;
    int client_socks[FDC_LINK_SOCKS], worker_socks[FDC_LINK_SOCKS], nsocks;
};

static inline void
pair_sockets(struct pair *pair, enum fdc_road road)
{
    int fds[2];

    memset(pair, 0, sizeof(*pair));
    pair->nsocks = road == FDC_ROAD_TCP ? 2 : 1;
    for (int i = 0; i < pair->nsocks; i++) {
        if (road == FDC_ROAD_SHM) {
            CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
            pair->client_socks[i] = fds[0];
            pair->worker_socks[i] = fds[1];
        } else {
            loopback_connect(&pair->client_socks[i], &pair->worker_socks[i]);
        }
    }
}

static inline void
pair_close_sockets(const int *socks, int nsocks)
{
    for (int i = 0; i < nsocks; i++)
        close(socks[i]);
}

static inline void
pair_make_sized(struct pair *pair, enum fdc_road road, const struct fdc_link_size *size)
{
    pair_sockets(pair, road);
    CHECK_EQ(
        fdc_link_worker(road, pair->worker_socks, pair->nsocks, size, &pair->worker),
        0);
    CHECK_EQ(fdc_link_client(road, pair->client_socks, pair->nsocks, &pair->client), 0);
}

static inline void
pair_make(struct pair *pair, enum fdc_road road)
{
    const struct fdc_link_size usual = FDC_LINK_SIZE_DEFAULT; /* on however slow a road */

    pair_make_sized(pair, road, &usual);
}

static inline void
pair_free(struct pair *pair)
{
    fdc_link_free(pair->client);
    fdc_link_free(pair->worker);
}

static inline void
send_words(struct fdc_link *link, enum fdc_lane lane, uint64_t first, uint32_t count)
{
    uint64_t *words;
    int err = 0, room;

    while (!(words = fdc_link_claim(link, lane, count * 8, &err))) {
        CHECK_EQ(err, -EAGAIN);
        room = fdc_link_wait_room(link, lane, count * 8, -1);
        CHECK_EQ(room, 1);
    }
    for (uint32_t i = 0; i < count; i++)
        words[i] = first + i;
    fdc_link_commit(link, lane);
}

static inline const uint64_t *
await_words(struct fdc_link *link, enum fdc_lane lane, uint32_t *size)
{
    const uint64_t *words;
    int err = 0, ready;

    while (!(words = fdc_link_peek(link, lane, size, &err))) {
        CHECK_EQ(err, 0);
        ready = fdc_link_wait(link, lane, -1);
        CHECK_EQ(ready, 1);
    }
    return words;
}

static inline void
take_words(struct fdc_link *link, enum fdc_lane lane, uint64_t first, uint32_t count)
{
    const uint64_t *words;
    uint32_t size = 0;

    words = await_words(link, lane, &size);
    CHECK_EQ(size, count * 8);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(words[i], first + i);
    fdc_link_release(link, lane);
}

#endif
