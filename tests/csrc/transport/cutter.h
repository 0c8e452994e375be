/*
 * Connections with somebody in between who forwards a number of bytes and then cuts both
 * ends, or changes a byte on the way.
 */
#ifndef CUTTER_H
#define CUTTER_H

#include <poll.h>
#include <stdlib.h>

#include "pair.h"

enum { CUTTER_WIRES = 256, CUTTER_PIECE = 16 << 10 };

struct wire {
    int end[2];     /* -1: not there */
    uint64_t left;  /* bytes until it is cut; 0: never */
    bool corrupts;  /* changes the last byte, and goes on */
};

struct cutter {
    pthread_t thread;
    pthread_mutex_t lock;
    uint64_t random;
    uint64_t least, most; /* how long wires live, in bytes; 0: for good */
    bool corrupts;
    uint32_t stop;
    uint64_t cuts;
    struct wire wire[CUTTER_WIRES];
};

static inline void
cutter_close(struct wire *wire)
{
    close(wire->end[0]);
    close(wire->end[1]);
    wire->end[0] = wire->end[1] = -1;
}

/* Some bytes one way. False: the wire is at its end. */
static inline bool
cutter_forward(struct cutter *cutter, struct wire *wire, int from)
{
    uint8_t piece[CUTTER_PIECE];
    size_t room = sizeof(piece), sent = 0;
    bool last = false;
    ssize_t n;
    struct pollfd poll_fd = {.fd = wire->end[!from], .events = POLLOUT};

    if (wire->left && wire->left < room)
        room = wire->left;
    n = recv(wire->end[from], piece, room, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n <= 0)
        return false;
    if (wire->left) {
        wire->left -= (size_t)n;
        last = wire->left == 0;
        if (last && wire->corrupts)
            piece[n - 1] ^= 0x10;
    }
    while (sent < (size_t)n) {
        ssize_t part = send(wire->end[!from], piece + sent, (size_t)n - sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);

        if (part > 0)
            sent += (size_t)part;
        else if (errno != EAGAIN || poll(&poll_fd, 1, 50) < 0)
            return false;
        if (fdc_load_acquire(&cutter->stop))
            return false;
    }
    cutter->cuts += last;
    return !last || wire->corrupts;
}

static inline void *
cutter_main(void *arg)
{
    struct cutter *cutter = arg;
    struct pollfd polls[2 * CUTTER_WIRES];

    while (!fdc_load_acquire(&cutter->stop)) {
        pthread_mutex_lock(&cutter->lock);
        for (int i = 0; i < CUTTER_WIRES; i++)
            for (int k = 0; k < 2; k++)
                polls[2 * i + k] =
                    (struct pollfd){.fd = cutter->wire[i].end[k], .events = POLLIN};
        pthread_mutex_unlock(&cutter->lock);
        poll(polls, 2 * CUTTER_WIRES, 1);
        pthread_mutex_lock(&cutter->lock);
        for (int i = 0; i < CUTTER_WIRES; i++) {
            struct wire *wire = &cutter->wire[i];

            for (int k = 0; k < 2 && wire->end[0] >= 0; k++)
                if (polls[2 * i + k].fd == wire->end[k] && polls[2 * i + k].revents &&
                    !cutter_forward(cutter, wire, k))
                    cutter_close(wire);
        }
        pthread_mutex_unlock(&cutter->lock);
    }
    for (int i = 0; i < CUTTER_WIRES; i++)
        if (cutter->wire[i].end[0] >= 0)
            cutter_close(&cutter->wire[i]);
    return NULL;
}

/* A connection through it. */
static inline void
cutter_connect(struct cutter *cutter, int *client, int *worker)
{
    struct wire *wire = NULL;
    int inner[2];

    loopback_connect(client, &inner[0]);
    loopback_connect(&inner[1], worker);
    pthread_mutex_lock(&cutter->lock);
    for (int i = 0; i < CUTTER_WIRES && !wire; i++)
        if (cutter->wire[i].end[0] < 0)
            wire = &cutter->wire[i];
    CHECK(wire);
    wire->end[1] = inner[1];
    wire->end[0] = inner[0];
    wire->corrupts = cutter->corrupts;
    wire->left = cutter->least;
    if (cutter->most > cutter->least)
        wire->left += check_random(&cutter->random) % (cutter->most - cutter->least);
    pthread_mutex_unlock(&cutter->lock);
}

static inline void
cutter_start(struct cutter *cutter, uint64_t seed)
{
    memset(cutter, 0, sizeof(*cutter));
    cutter->random = seed * 2654435761u + 88172645463325252u;
    for (int i = 0; i < CUTTER_WIRES; i++)
        cutter->wire[i].end[0] = cutter->wire[i].end[1] = -1;
    pthread_mutex_init(&cutter->lock, NULL);
    CHECK_EQ(pthread_create(&cutter->thread, NULL, cutter_main, cutter), 0);
}

static inline void
cutter_stop(struct cutter *cutter)
{
    fdc_store_release(&cutter->stop, 1);
    pthread_join(cutter->thread, NULL);
    pthread_mutex_destroy(&cutter->lock);
}

#endif
