/*
 * A tcp link's new connection, from a peer that says what it likes: first how far it has
 * come, then what it goes on with. The first byte says which connection, and to which end:
 * a worker's, which is given the socket, or a client's, which has dialled.
 */
#include "fuzz.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fdc/transport.h"

enum { ROUNDS = 2000, GRACE_US = 20000 };

struct peer {
    const uint8_t *data;
    size_t size;
    int theirs; /* the peer's end of what was dialled */
    bool used;
};

static int
dial(void *user, int which, uint32_t turn, int *sock, struct fdc_link_key *key)
{
    struct peer *peer = user;
    int pair[2];

    (void)which, (void)turn, (void)key;
    if (peer->used)
        return -EACCES;
    peer->used = true;
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    if (peer->size > 0)
        FUZZ_CHECK(send(pair[1], peer->data, peer->size, MSG_NOSIGNAL) > 0);
    shutdown(pair[1], SHUT_WR);
    peer->theirs = pair[1];
    *sock = pair[0];
    return 0;
}

static void
drain(struct fdc_link *link, enum fdc_lane lane)
{
    const uint8_t *message;
    uint32_t size = 0;
    int err = 0;

    for (int i = 0; i < ROUNDS; i++) {
        message = fdc_link_peek(link, lane, &size, &err);
        if (message != NULL)
            fdc_link_release(link, lane);
        else if (err != 0 || fdc_link_wait(link, lane, 2 * GRACE_US) <= 0)
            return;
    }
}

/* Something that the other end may not have. */
static void
say(struct fdc_link *link, enum fdc_lane lane, enum fdc_region region)
{
    static const uint8_t bytes[100] = {1, 2, 3};
    uint64_t ticket;
    void *room;
    int err;

    room = fdc_link_claim(link, lane, 24, &err);
    FUZZ_CHECK(room != NULL);
    memcpy(room, bytes, 24);
    fdc_link_commit(link, lane);
    fdc_link_flush(link, lane);
    FUZZ_CHECK(fdc_link_put(link, region, 0, bytes, sizeof(bytes), &ticket) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        uint32_t magic, road;
        uint64_t lane[3], region[2], emulated[2];
    } setup = {0x4c434446, FDC_ROAD_TCP, {4096, 4096, 4096}, {8192, 8192}, {0, 0}};
    struct fdc_link_size sizes = {{4096, 4096, 4096}, {8192, 8192}};
    struct fdc_link_keep keep = {.grace_us = GRACE_US, .dial = dial, .news_fd = -1};
    int ours[2], theirs[2], pair[2], which;
    struct peer peer = {.theirs = -1};
    struct fdc_link *link = NULL;
    bool worker;

    if (size < 1)
        return 0;
    fdc_log_default(FDC_LOG_OFF, "fuzz");
    which = data[0] & 1;
    worker = data[0] & 2;
    peer.data = data + 1, peer.size = size - 1;
    keep.user = &peer;
    for (int i = 0; i < 2; i++) {
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        ours[i] = pair[0], theirs[i] = pair[1];
    }
    if (worker) {
        FUZZ_CHECK(fdc_link_worker(FDC_ROAD_TCP, ours, 2, &sizes, &link) == 0);
    } else {
        FUZZ_CHECK(fdc_sock_write(theirs[0], &setup, sizeof(setup)) == 0);
        FUZZ_CHECK(fdc_link_client(FDC_ROAD_TCP, ours, 2, &link) == 0);
    }
    FUZZ_CHECK(fdc_link_keep(link, &keep) == 0);
    say(link, worker ? FDC_LANE_REPLY : FDC_LANE_COMMAND,
        worker ? FDC_REGION_DOWN : FDC_REGION_UP);
    shutdown(theirs[which], SHUT_RDWR);
    if (worker) {
        int sock = -1;
        struct fdc_link_key none;

        FUZZ_CHECK(dial(&peer, which, 1, &sock, &none) == 0);
        fdc_link_resume(link, which, 1, sock, NULL);
        FUZZ_CHECK(fdc_link_resume(link, which, 1, dup(theirs[0]), NULL) < 0);
        drain(link, FDC_LANE_SIDE);
    }
    drain(link, worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY);
    fdc_link_free(link);
    if (peer.theirs >= 0)
        close(peer.theirs);
    close(theirs[0]);
    close(theirs[1]);
    return 0;
}
