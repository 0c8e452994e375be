/* The tcp road against a peer that sends what it likes. */
#include <sys/mman.h>

#include "pair.h"
#include "wire.h"

/* A worker's link; the test holds the client's sockets. */
static void
worker_make(struct pair *pair)
{
    const struct fdc_link_size usual = FDC_LINK_SIZE_DEFAULT;
    struct wire_setup setup;

    pair_sockets(pair, FDC_ROAD_TCP);
    CHECK_EQ(fdc_link_worker(FDC_ROAD_TCP, pair->worker_socks, 2, &usual, &pair->worker),
             0);
    CHECK_EQ(fdc_sock_read(pair->client_socks[0], &setup, sizeof(setup), -1), 0);
    CHECK_BYTES(&setup, &good_setup, sizeof(setup));
}

static void
worker_free(struct pair *pair)
{
    fdc_link_free(pair->worker);
    pair_close_sockets(pair->client_socks, 2);
}

/* Waits until the link has ended; what it should end with is that it says so. */
static void
expect_end(struct fdc_link *link, enum fdc_lane lane)
{
    uint32_t size;
    int ready, err = 0;

    while ((ready = fdc_link_wait(link, lane, -1)) == 1) {
        while (fdc_link_peek(link, lane, &size, &err))
            fdc_link_release(link, lane);
        if (err)
            break;
    }
    CHECK_EQ(ready == 1 ? err : ready, -EPIPE);
}

static void
test_broken_command_frames_end_the_session(void)
{
    static const struct wire_frame lies[] = {
        {0, MESSAGE, FDC_LANE_COMMAND},
        {0xffffffff, MESSAGE, FDC_LANE_COMMAND},
        {(1 << 19) + 8, MESSAGE, FDC_LANE_COMMAND},
        {8, MESSAGE, FDC_LANE_REPLY},
        {8, MESSAGE, FDC_LANE_SIDE},
        {8, MESSAGE, 3},
        {8, MESSAGE, 0xffff},
        {8, 0, 0},
        {8, 7, 0},
        {0, PUT, FDC_REGION_UP}, /* puts do not come here */
        {0, PUT, FDC_REGION_DOWN},
    };
    struct wire_put padded;
    struct pair pair;

    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        worker_make(&pair);
        memset(&padded, 0, sizeof(padded));
        padded.frame = lies[i];
        padded.size = 1;
        padded.ticket = 1;
        CHECK_EQ(fdc_sock_write(pair.client_socks[0], &padded, sizeof(padded)), 0);
        expect_end(pair.worker, FDC_LANE_COMMAND);
        worker_free(&pair);
    }
}

static void
test_broken_bulk_frames_end_the_session(void)
{
    static const struct wire_put lies[] = {
        {{0, PUT, FDC_REGION_UP}, 8 << 20, 1, 1},
        {{0, PUT, FDC_REGION_UP}, UINT64_MAX, 2, 1},
        {{0, PUT, FDC_REGION_UP}, 2, UINT64_MAX, 1},
        {{0, PUT, FDC_REGION_UP}, 0, (8 << 20) + 1, 1},
        {{0, PUT, FDC_REGION_UP}, 0, 0, 1},
        {{0, PUT, FDC_REGION_UP}, 0, 8, 2},
        {{0, PUT, FDC_REGION_UP}, 0, 8, 0},
        {{1, PUT, FDC_REGION_UP}, 0, 8, 1},
        {{0, PUT, FDC_REGION_DOWN}, 0, 8, 1},
        {{0, PUT, 9}, 0, 8, 1},
        {{8, MESSAGE, FDC_LANE_COMMAND}, 0, 8, 1},
        {{1 << 16, MESSAGE, FDC_LANE_SIDE}, 0, 8, 1},
        {{8, 99, 0}, 0, 8, 1},
    };
    struct pair pair;

    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        worker_make(&pair);
        CHECK_EQ(fdc_sock_write(pair.client_socks[1], &lies[i], sizeof(lies[i])), 0);
        expect_end(pair.worker, FDC_LANE_SIDE);
        expect_end(pair.worker, FDC_LANE_COMMAND);
        CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, 1, -1), -EPIPE);
        worker_free(&pair);
    }
}

static void
test_frames_cut_anywhere_arrive(void)
{
    struct {
        struct wire_frame frame;
        uint64_t words[4];
    } message = {
        .frame = {29, MESSAGE, FDC_LANE_COMMAND},
        .words = {5, 6, 7, 8},
    };
    struct {
        struct wire_put put;
        uint8_t bytes[100];
    } put = {
        .put = {{0, PUT, FDC_REGION_UP}, 1000, 100, 1},
    };
    const uint8_t *at, *up;
    struct pair pair;
    uint32_t size;
    int err = 0;

    memset(put.bytes, 0x5a, sizeof(put.bytes));
    worker_make(&pair);
    at = (const void *)&message;
    for (size_t i = 0; i < sizeof(message); i++) {
        CHECK(!fdc_link_peek(pair.worker, FDC_LANE_COMMAND, &size, &err));
        CHECK_EQ(err, 0);
        CHECK_EQ(fdc_sock_write(pair.client_socks[0], at + i, 1), 0);
        if (i % 8 == 0)
            usleep(1000);
    }
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_COMMAND, -1), 1);
    at = fdc_link_peek(pair.worker, FDC_LANE_COMMAND, &size, &err);
    CHECK(at);
    CHECK_EQ(size, 29);
    CHECK_BYTES(at, message.words, 29);
    fdc_link_release(pair.worker, FDC_LANE_COMMAND);

    at = (const void *)&put;
    for (size_t i = 0; i < sizeof(put.put) + sizeof(put.bytes); i++) {
        CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, 1, 0), -ETIMEDOUT);
        CHECK_EQ(fdc_sock_write(pair.client_socks[1], at + i, 1), 0);
        if (i % 32 == 0)
            usleep(1000);
    }
    CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, 1, -1), 0);
    up = fdc_link_region(pair.worker, FDC_REGION_UP, NULL);
    CHECK_BYTES(up + 1000, put.bytes, 100);
    CHECK_EQ(up[999], 0);
    CHECK_EQ(up[1100], 0);
    worker_free(&pair);
}

/* The worker puts bytes at the offset, then sends a word; the client has taken that in. */
static void
put_and_tell(struct pair *pair, uint64_t offset, const uint8_t *bytes, uint64_t size)
{
    uint64_t ticket;
    uint64_t *word;
    uint32_t got;
    int err = 0;

    CHECK_EQ(fdc_link_put(pair->worker, FDC_REGION_DOWN, offset, bytes, size, &ticket), 0);
    word = fdc_link_claim(pair->worker, FDC_LANE_REPLY, 8, &err);
    CHECK(word);
    *word = offset;
    fdc_link_commit(pair->worker, FDC_LANE_REPLY);
    CHECK_EQ(fdc_link_flush(pair->worker, FDC_LANE_REPLY), 0);
    CHECK_EQ(fdc_link_wait(pair->client, FDC_LANE_REPLY, -1), 1);
    CHECK(fdc_link_peek(pair->client, FDC_LANE_REPLY, &got, &err));
    fdc_link_release(pair->client, FDC_LANE_REPLY);
}

enum { LAND_SIZE = 300000, LAND_OPEN = 40960 };

static uint8_t *
land_bytes(void)
{
    static uint8_t bytes[LAND_SIZE];

    for (int i = 0; i < LAND_SIZE; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    return bytes;
}

static void
land(struct pair *pair)
{
    static uint8_t to[LAND_SIZE + 1];
    uint8_t *bytes = land_bytes(), *region;

    region = fdc_link_region(pair->client, FDC_REGION_DOWN, NULL);
    memset(to, 0, sizeof(to));
    CHECK(!fdc_link_land(pair->client, 100, 10, to)); /* no place of its own */
    CHECK(!fdc_link_land(pair->client, 8 << 20, 10, to));
    CHECK(!fdc_link_land(pair->worker, 0, 10, to));

    CHECK(fdc_link_land(pair->client, 4096, LAND_SIZE, to));
    put_and_tell(pair, 4096, bytes, LAND_SIZE);
    CHECK_EQ(fdc_link_landed(pair->client, 4096), LAND_SIZE);
    CHECK_BYTES(to, bytes, LAND_SIZE);
    CHECK_EQ(to[LAND_SIZE], 0);
    CHECK_EQ(region[4096 + LAND_SIZE - 1], 0);
    /* That is over; and more than was said never goes there. */
    put_and_tell(pair, 4096, bytes, LAND_SIZE);
    CHECK_BYTES(region + 4096, bytes, LAND_SIZE);
    CHECK(fdc_link_land(pair->client, 1 << 20, LAND_SIZE - 1, to));
    memset(to, 0, sizeof(to));
    put_and_tell(pair, 1 << 20, bytes, LAND_SIZE);
    CHECK_EQ(fdc_link_landed(pair->client, 1 << 20), 0);
    CHECK_BYTES(region + (1 << 20), bytes, LAND_SIZE);
    CHECK_EQ(to[0], 0);
}

static void
test_puts_land_where_the_client_wants_them(void)
{
    struct pair pair;

    pair_make(&pair, FDC_ROAD_TCP);
    land(&pair);
    pair_free(&pair);
}

static void
test_sealed_puts_land_likewise(void)
{
    const struct fdc_link_key keys[2] = {{"one of the command connection"}, {"and another"}};
    const struct fdc_link_size usual = FDC_LINK_SIZE_DEFAULT;
    struct pair pair;
    int err;

    pair_sockets(&pair, FDC_ROAD_TCP);
    err = fdc_link_worker_sealed(FDC_ROAD_TCP, pair.worker_socks, 2, keys, &usual,
                                 &pair.worker);
    if (err == -ENOSYS) { /* no cipher here */
        pair_close_sockets(pair.worker_socks, 2);
        pair_close_sockets(pair.client_socks, 2);
        return;
    }
    CHECK_EQ(err, 0);
    CHECK_EQ(fdc_link_client_sealed(FDC_ROAD_TCP, pair.client_socks, 2, keys, &pair.client),
             0);
    land(&pair);
    pair_free(&pair);
}

/* The kernel may not write there behind the first pages: the rest is in the region. */
static void
test_puts_into_guarded_memory_go_by_way_of_the_region(void)
{
    uint8_t *bytes = land_bytes(), *region, *guarded;
    struct pair pair;
    uint64_t landed;

    pair_make(&pair, FDC_ROAD_TCP);
    region = fdc_link_region(pair.client, FDC_REGION_DOWN, NULL);
    guarded = mmap(NULL, 2 * LAND_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    CHECK_EQ(mprotect(guarded + LAND_OPEN, 2 * LAND_SIZE - LAND_OPEN, PROT_NONE), 0);
    CHECK(fdc_link_land(pair.client, 2 << 20, LAND_SIZE, guarded));
    put_and_tell(&pair, 2 << 20, bytes, LAND_SIZE);
    landed = fdc_link_landed(pair.client, 2 << 20);
    CHECK(landed <= LAND_OPEN);
    CHECK_BYTES(guarded, bytes, landed);
    CHECK_BYTES(region + (2 << 20) + landed, bytes + landed, LAND_SIZE - landed);
    munmap(guarded, 2 * LAND_SIZE);
    pair_free(&pair);
}

static void
test_half_a_put_never_lands(void)
{
    struct wire_put put = {{0, PUT, FDC_REGION_UP}, 0, 1 << 20, 1};
    struct pair pair;

    worker_make(&pair);
    CHECK_EQ(fdc_sock_write(pair.client_socks[1], &put, sizeof(put)), 0);
    CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, 1, 2000), -ETIMEDOUT);
    shutdown(pair.client_socks[1], SHUT_WR);
    CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, 1, -1), -EPIPE);
    worker_free(&pair);
}

static uint64_t random_state = 88172645463325252u;

static void
test_garbage_on_either_connection_ends_the_session(void)
{
    uint64_t garbage[64];
    struct pair pair;

    for (int round = 0; round < 60; round++) {
        for (size_t i = 0; i < FDC_COUNT(garbage); i++)
            garbage[i] = check_random(&random_state) & (i % 3 ? UINT64_MAX : 0x00030003000000ffu);
        worker_make(&pair);
        fdc_sock_write(pair.client_socks[round % 2], garbage, sizeof(garbage));
        pair_close_sockets(pair.client_socks, 2);
        expect_end(pair.worker, FDC_LANE_COMMAND);
        expect_end(pair.worker, FDC_LANE_SIDE);
        fdc_link_free(pair.worker);
    }
}

static void
test_client_checks_what_the_worker_says(void)
{
    struct wire_setup lies[6];
    struct wire_put put = {{0, PUT, FDC_REGION_DOWN}, (8 << 20) - 8, 16, 1};
    struct fdc_link *link;
    struct pair pair;

    for (size_t i = 0; i < FDC_COUNT(lies); i++)
        lies[i] = good_setup;
    lies[0].magic ^= 1;
    lies[1].road = FDC_ROAD_SHM;
    lies[2].lane[0] = 5000;
    lies[3].lane[1] = UINT64_C(1) << 40;
    lies[4].region[0] = 0;
    lies[5].region[1] = UINT64_MAX;
    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        pair_sockets(&pair, FDC_ROAD_TCP);
        CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &lies[i], sizeof(lies[i])), 0);
        link = NULL;
        CHECK_EQ(fdc_link_client(FDC_ROAD_TCP, pair.client_socks, 2, &link), -EPROTO);
        CHECK(!link);
        pair_close_sockets(pair.client_socks, 2);
        pair_close_sockets(pair.worker_socks, 2);
    }

    pair_sockets(&pair, FDC_ROAD_TCP);
    CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &good_setup, sizeof(good_setup)), 0);
    CHECK_EQ(fdc_link_client(FDC_ROAD_TCP, pair.client_socks, 2, &link), 0);
    CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &put, sizeof(put)), 0);
    expect_end(link, FDC_LANE_REPLY);
    fdc_link_free(link);
    pair_close_sockets(pair.worker_socks, 2);
}

/* A client's link; the test holds the worker's sockets. */
static void
client_make(struct pair *pair)
{
    pair_sockets(pair, FDC_ROAD_TCP);
    CHECK_EQ(fdc_sock_write(pair->worker_socks[0], &good_setup, sizeof(good_setup)), 0);
    CHECK_EQ(fdc_link_client(FDC_ROAD_TCP, pair->client_socks, 2, &pair->client), 0);
}

static void
client_free(struct pair *pair)
{
    fdc_link_free(pair->client);
    pair_close_sockets(pair->worker_socks, 2);
}

struct wire_mark {
    struct wire_frame frame;
    uint64_t ticket;
};

static void
tell(struct pair *pair, uint64_t word)
{
    struct wire_mark message = {{8, MESSAGE, FDC_LANE_REPLY}, word};

    CHECK_EQ(fdc_sock_write(pair->worker_socks[0], &message, sizeof(message)), 0);
}

static void
mark(struct pair *pair, uint16_t kind, uint64_t ticket)
{
    struct wire_mark frame = {{0, kind, 1}, ticket};

    CHECK_EQ(fdc_sock_write(pair->worker_socks[0], &frame, sizeof(frame)), 0);
}

static void
bring(struct pair *pair, uint64_t ticket)
{
    static const uint8_t bytes[100000];
    struct wire_put put = {{0, PUT, FDC_REGION_DOWN}, 0, sizeof(bytes), ticket};

    CHECK_EQ(fdc_sock_write(pair->worker_socks[1], &put, sizeof(put)), 0);
    CHECK_EQ(fdc_sock_write(pair->worker_socks[1], bytes, sizeof(bytes)), 0);
}

static void
is_quiet(struct pair *pair)
{
    uint32_t size;
    int err = 0;

    CHECK_EQ(fdc_link_wait(pair->client, FDC_LANE_REPLY, 2000), 0);
    CHECK(!fdc_link_peek(pair->client, FDC_LANE_REPLY, &size, &err));
    CHECK_EQ(err, 0);
}

static void
test_replies_wait_for_their_own_bytes_alone(void)
{
    struct pair pair;

    client_make(&pair);
    mark(&pair, AFTER, 1);
    tell(&pair, 1);
    tell(&pair, 2);
    take_words(pair.client, FDC_LANE_REPLY, 2, 1);
    is_quiet(&pair);
    bring(&pair, 1);
    take_words(pair.client, FDC_LANE_REPLY, 1, 1);
    mark(&pair, AFTER, 1); /* they are there */
    tell(&pair, 3);
    take_words(pair.client, FDC_LANE_REPLY, 3, 1);

    mark(&pair, AFTER, 3);
    tell(&pair, 4);
    mark(&pair, FENCE, 2);
    tell(&pair, 5);
    tell(&pair, 6);
    is_quiet(&pair);
    bring(&pair, 2);
    take_words(pair.client, FDC_LANE_REPLY, 5, 1);
    take_words(pair.client, FDC_LANE_REPLY, 6, 1);
    is_quiet(&pair);
    bring(&pair, 3);
    take_words(pair.client, FDC_LANE_REPLY, 4, 1);
    tell(&pair, 7);
    take_words(pair.client, FDC_LANE_REPLY, 7, 1);
    client_free(&pair);
}

/* The last words of a worker that has gone, once the bytes are there; never without. */
static void
test_replies_that_wait_outlive_the_command_connection(void)
{
    struct pair pair;

    for (int whole = 0; whole < 2; whole++) {
        client_make(&pair);
        mark(&pair, AFTER, 1);
        tell(&pair, 1);
        shutdown(pair.worker_socks[0], SHUT_RDWR);
        is_quiet(&pair);
        if (whole) {
            bring(&pair, 1);
            take_words(pair.client, FDC_LANE_REPLY, 1, 1);
        }
        shutdown(pair.worker_socks[1], SHUT_RDWR);
        expect_end(pair.client, FDC_LANE_REPLY);
        client_free(&pair);
    }
}

/* Without a way back nothing brings them any more, whatever the command connection does. */
static void
test_replies_do_not_wait_for_a_bulk_connection_that_ended(void)
{
    struct pair pair;

    client_make(&pair);
    mark(&pair, AFTER, 1);
    tell(&pair, 1);
    is_quiet(&pair);
    shutdown(pair.worker_socks[1], SHUT_RDWR);
    expect_end(pair.client, FDC_LANE_REPLY);
    client_free(&pair);
}

/* Nobody keeps more than a lane's worth of replies, and all of them come. */
static void
test_what_waits_for_bytes_is_bounded(void)
{
    enum { COUNT = 12, WORDS = 16 << 10 };
    static struct {
        struct wire_frame frame;
        uint64_t words[WORDS];
    } message = {.frame = {sizeof(message.words), MESSAGE, FDC_LANE_REPLY}};
    const uint64_t *words;
    struct pair pair;
    uint32_t size;

    client_make(&pair);
    mark(&pair, FENCE, 1);
    for (uint64_t i = 0; i < COUNT; i++) {
        message.words[0] = i;
        CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &message, sizeof(message)), 0);
        fdc_link_wait(pair.client, FDC_LANE_REPLY, 0);
    }
    is_quiet(&pair);
    bring(&pair, 1);
    for (uint64_t i = 0; i < COUNT; i++) {
        words = await_words(pair.client, FDC_LANE_REPLY, &size);
        CHECK_EQ(size, sizeof(message.words));
        CHECK_EQ(words[0], i);
        fdc_link_release(pair.client, FDC_LANE_REPLY);
    }
    client_free(&pair);
}

static void
test_marks_that_cannot_be_end_the_session(void)
{
    static const struct wire_frame lies[] = {
        {0, AFTER, 0}, {0, AFTER, 2}, {0, FENCE, 0xffff}, {8, FENCE, 1},
    };
    struct wire_mark lie = {{0, AFTER, 1}, 1};
    struct pair pair;

    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        client_make(&pair);
        lie.frame = lies[i];
        CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &lie, sizeof(lie)), 0);
        expect_end(pair.client, FDC_LANE_REPLY);
        client_free(&pair);
    }
    worker_make(&pair);
    lie.frame = (struct wire_frame){0, AFTER, 1};
    CHECK_EQ(fdc_sock_write(pair.client_socks[0], &lie, sizeof(lie)), 0);
    expect_end(pair.worker, FDC_LANE_COMMAND);
    worker_free(&pair);
}

/* Whoever puts down goes on, although the client takes nothing in; replies pass by. */
static void
test_puts_down_hold_nobody_up(void)
{
    enum { PIECE = 1 << 20, PIECES = 8 };
    const uint8_t *there;
    struct pair pair;
    uint8_t *view;
    uint64_t ticket[PIECES];
    uint32_t size;
    int err = 0;

    pair_make(&pair, FDC_ROAD_TCP);
    view = fdc_link_region(pair.worker, FDC_REGION_DOWN, NULL);
    there = fdc_link_region(pair.client, FDC_REGION_DOWN, NULL);
    for (int i = 0; i < PIECES; i++) {
        memset(view + i * PIECE, i + 1, PIECE);
        CHECK_EQ(fdc_link_put_aside(pair.worker, (uint64_t)i * PIECE, PIECE, &ticket[i]),
                 0);
    }
    send_words(pair.worker, FDC_LANE_REPLY, 77, 1);
    CHECK_EQ(fdc_link_flush(pair.worker, FDC_LANE_REPLY), 0);
    take_words(pair.client, FDC_LANE_REPLY, 77, 1);
    for (int i = 0; i < PIECES; i++) {
        uint64_t *word = fdc_link_claim(pair.worker, FDC_LANE_REPLY, 8, &err);

        CHECK(word);
        *word = (uint64_t)i;
        fdc_link_commit_after(pair.worker, FDC_LANE_REPLY, ticket[i]);
    }
    CHECK_EQ(fdc_link_flush(pair.worker, FDC_LANE_REPLY), 0);
    for (int i = 0; i < PIECES; i++) {
        const uint64_t *word = await_words(pair.client, FDC_LANE_REPLY, &size);

        CHECK_EQ(*word, (uint64_t)i);
        CHECK_EQ(there[i * PIECE], i + 1);
        CHECK_EQ(there[i * PIECE + PIECE - 1], i + 1);
        fdc_link_release(pair.client, FDC_LANE_REPLY);
    }
    CHECK_EQ(fdc_link_put_aside(pair.client, 0, 1, ticket), -EINVAL);
    CHECK_EQ(fdc_link_put_aside(pair.worker, 8 << 20, 1, ticket), -EINVAL);
    pair_free(&pair);
}

static void
test_burst_travels_in_few_writes(void)
{
    struct fdc_link_stats stats;
    struct pair pair;

    pair_make(&pair, FDC_ROAD_TCP);
    for (uint64_t i = 0; i < 5000; i++)
        send_words(pair.client, FDC_LANE_COMMAND, i, 8);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    for (uint64_t i = 0; i < 5000; i++)
        take_words(pair.worker, FDC_LANE_COMMAND, i, 8);
    fdc_link_get_stats(pair.client, &stats);
    CHECK_EQ(stats.messages[FDC_LANE_COMMAND], 5000);
    CHECK(stats.system_calls < 1000);
    pair_free(&pair);
}

/* One thread fills what it has claimed while another waits for more room than there is. */
static void
test_waiting_for_room_leaves_a_claim_alone(void)
{
    uint64_t sent = 0, taken = 0, *words;
    struct pair pair;
    int err = 0;

    pair_make(&pair, FDC_ROAD_TCP);
    while ((words = fdc_link_claim(pair.client, FDC_LANE_COMMAND, 4096, &err))) {
        for (uint32_t i = 0; i < 512; i++)
            words[i] = sent + i;
        fdc_link_commit(pair.client, FDC_LANE_COMMAND);
        sent++;
    }
    CHECK_EQ(err, -EAGAIN);
    words = fdc_link_claim(pair.client, FDC_LANE_COMMAND, 64, &err);
    CHECK(words);
    /* The worker reads, so that there is room again, but only where what is queued moves. */
    for (; taken < sent / 2; taken++)
        take_words(pair.worker, FDC_LANE_COMMAND, taken, 512);
    fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 65536, 100000);
    for (uint32_t i = 0; i < 8; i++)
        words[i] = 77 + i;
    fdc_link_commit(pair.client, FDC_LANE_COMMAND);
    fdc_link_flush(pair.client, FDC_LANE_COMMAND);
    for (; taken < sent; taken++)
        take_words(pair.worker, FDC_LANE_COMMAND, taken, 512);
    take_words(pair.worker, FDC_LANE_COMMAND, 77, 8);
    pair_free(&pair);
}

int
main(void)
{
    int failed = 0;

    RUN(test_broken_command_frames_end_the_session);
    RUN(test_broken_bulk_frames_end_the_session);
    RUN(test_frames_cut_anywhere_arrive);
    RUN(test_puts_land_where_the_client_wants_them);
    RUN(test_sealed_puts_land_likewise);
    RUN(test_puts_into_guarded_memory_go_by_way_of_the_region);
    RUN(test_half_a_put_never_lands);
    RUN(test_garbage_on_either_connection_ends_the_session);
    RUN(test_client_checks_what_the_worker_says);
    RUN(test_replies_wait_for_their_own_bytes_alone);
    RUN(test_replies_that_wait_outlive_the_command_connection);
    RUN(test_replies_do_not_wait_for_a_bulk_connection_that_ended);
    RUN(test_what_waits_for_bytes_is_bounded);
    RUN(test_marks_that_cannot_be_end_the_session);
    RUN(test_puts_down_hold_nobody_up);
    RUN(test_burst_travels_in_few_writes);
    RUN(test_waiting_for_room_leaves_a_claim_alone);
    return failed;
}
