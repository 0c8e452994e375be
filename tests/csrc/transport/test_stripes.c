/*
 * tcp links with several bulk connections: puts go beside each other both ways, each of its
 * connection's thread, and what is lent comes back.
 */
#include "pair.h"
#include "wire.h"

enum { STRIPES = 4, CONNS = 1 + STRIPES, PIECE = 1 << 20, CHUNKS = 8, PUTS = 48 };

static const struct fdc_link_size usual = FDC_LINK_SIZE_DEFAULT;

static void
connect_all(struct pair *pair)
{
    memset(pair, 0, sizeof(*pair));
    pair->nsocks = CONNS;
    for (int i = 0; i < CONNS; i++)
        loopback_connect(&pair->client_socks[i], &pair->worker_socks[i]);
}

/* False: there is no cipher here. */
static bool
make(struct pair *pair, bool sealed)
{
    struct fdc_link_key keys[CONNS];
    int err;

    for (int i = 0; i < CONNS; i++)
        memset(keys[i].bytes, i + 1, sizeof(keys[i].bytes));
    connect_all(pair);
    err = fdc_link_worker_sealed(FDC_ROAD_TCP, pair->worker_socks, CONNS,
                                 sealed ? keys : NULL, &usual, &pair->worker);
    if (err == -ENOSYS) {
        pair_close_sockets(pair->worker_socks, CONNS);
        pair_close_sockets(pair->client_socks, CONNS);
        return false;
    }
    CHECK_EQ(err, 0);
    CHECK_EQ(fdc_link_client_sealed(FDC_ROAD_TCP, pair->client_socks, CONNS,
                                    sealed ? keys : NULL, &pair->client),
             0);
    CHECK_EQ(fdc_link_stripes(pair->client), STRIPES);
    return true;
}

/* A client's link; the test holds the worker's sockets; little fits between. */
static void
client_make(struct pair *pair)
{
    int little = 16 << 10;

    connect_all(pair);
    for (int i = 1; i < CONNS; i++)
        for (int k = 0; k < 4; k++)
            setsockopt(k & 1 ? pair->client_socks[i] : pair->worker_socks[i], SOL_SOCKET,
                       k & 2 ? SO_SNDBUF : SO_RCVBUF, &little, sizeof(little));
    CHECK_EQ(fdc_sock_write(pair->worker_socks[0], &good_setup, sizeof(good_setup)), 0);
    CHECK_EQ(fdc_link_client(FDC_ROAD_TCP, pair->client_socks, CONNS, &pair->client), 0);
}

static void
client_free(struct pair *pair)
{
    fdc_link_free(pair->client);
    pair_close_sockets(pair->worker_socks, CONNS);
}

static void
fill(uint8_t *bytes, uint64_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(number * 37 + i / 97);
}

static void
check(const uint8_t *bytes, uint64_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != (uint8_t)(number * 37 + i / 97))
            CHECK_EQ(i, -1);
}

/* ---- up ---- */

/* The last connection's put leaves, and the one's before, while the first one's does not. */
static void
test_puts_up_go_beside_each_other(void)
{
    static uint8_t bytes[STRIPES][PIECE], there[PIECE];
    struct fdc_loan loans[STRIPES] = {0};
    uint64_t ticket;
    struct pair pair;

    client_make(&pair);
    for (int i = 0; i < STRIPES; i++) {
        fill(bytes[i], (uint64_t)i, PIECE);
        CHECK_EQ(fdc_link_lend(pair.client, FDC_REGION_UP, (uint64_t)i * PIECE, bytes[i],
                               PIECE, &loans[i], &ticket),
                 0);
    }
    for (int i = STRIPES; i >= 1; i--) {
        struct wire_put put;

        CHECK_EQ(fdc_sock_read(pair.worker_socks[i], &put, sizeof(put), -1), 0);
        CHECK_EQ(put.frame.kind, PUT);
        CHECK_EQ(put.size, PIECE);
        CHECK_EQ(put.ticket, 1);
        CHECK_EQ(fdc_sock_read(pair.worker_socks[i], there, PIECE, -1), 0);
        check(there, put.offset / PIECE, PIECE);
        CHECK_EQ(fdc_link_settle(&loans[put.offset / PIECE]), 0);
    }
    client_free(&pair);
}

/* Whoever waits for what was lent hears of the end, and so does whoever puts after it. */
static void
test_an_end_gives_loans_back(void)
{
    enum { LOANS = 7 };
    static uint8_t bytes[PIECE];
    struct fdc_loan loans[LOANS] = {0};
    int lost = 0, err;
    uint64_t ticket;
    struct pair pair;

    client_make(&pair);
    for (int i = 0; i < LOANS; i++)
        CHECK_EQ(fdc_link_lend(pair.client, FDC_REGION_UP, (uint64_t)i * PIECE, bytes, PIECE,
                               &loans[i], &ticket),
                 0);
    for (int i = 0; i < CONNS; i++)
        shutdown(pair.worker_socks[i], SHUT_RDWR);
    for (int i = 0; i < LOANS; i++) {
        err = fdc_link_settle(&loans[i]);
        CHECK(err == 0 || err == -EPIPE);
        lost += err == -EPIPE;
        fdc_link_reclaim(pair.client, &loans[i]);
    }
    CHECK(lost > 0);
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, 0, bytes, PIECE, &ticket), -EPIPE);
    client_free(&pair);
}

struct told {
    uint64_t number, ticket, size;
};

/* Takes in what it is told of, in order, and answers: the chunk is free again. */
static void *
worker_main(void *arg)
{
    struct fdc_link *link = arg;
    const uint8_t *up = fdc_link_region(link, FDC_REGION_UP, NULL);
    struct told told;
    uint32_t size;

    for (uint64_t i = 0; i < PUTS; i++) {
        memcpy(&told, await_words(link, FDC_LANE_COMMAND, &size), sizeof(told));
        fdc_link_release(link, FDC_LANE_COMMAND);
        CHECK_EQ(told.number, i);
        CHECK_EQ(fdc_link_put_wait(link, FDC_REGION_UP, told.ticket, -1), 0);
        check(up + i % CHUNKS * PIECE, i, told.size);
        send_words(link, FDC_LANE_REPLY, i, 1);
        CHECK_EQ(fdc_link_flush(link, FDC_LANE_REPLY), 0);
    }
    return NULL;
}

/* Some lent, some not, large and small; messages of the side lane get between them. */
static void
up(bool sealed)
{
    static uint8_t bytes[CHUNKS][PIECE];
    struct fdc_loan loans[CHUNKS] = {0};
    struct told told;
    struct pair pair;
    pthread_t worker;
    uint64_t *words;
    int err = 0;

    if (!make(&pair, sealed))
        return;
    CHECK_EQ(pthread_create(&worker, NULL, worker_main, pair.worker), 0);
    for (uint64_t i = 0; i < PUTS; i++) {
        uint64_t chunk = i % CHUNKS;

        if (i >= CHUNKS)
            take_words(pair.client, FDC_LANE_REPLY, i - CHUNKS, 1);
        CHECK_EQ(fdc_link_settle(&loans[chunk]), 0);
        fdc_link_reclaim(pair.client, &loans[chunk]);
        told = (struct told){.number = i, .size = i % 3 ? PIECE - i : 5000 + i};
        fill(bytes[chunk], i, told.size);
        if (i % 5) {
            CHECK_EQ(fdc_link_lend(pair.client, FDC_REGION_UP, chunk * PIECE, bytes[chunk],
                                   told.size, &loans[chunk], &told.ticket),
                     0);
            if (i % 2) /* else the worker waits for it, and this side goes on */
                CHECK_EQ(fdc_link_settle(&loans[chunk]), 0);
        } else {
            CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, chunk * PIECE, bytes[chunk],
                                  told.size, &told.ticket),
                     0);
            memset(bytes[chunk], 0xee, told.size);
        }
        words = fdc_link_claim(pair.client, FDC_LANE_COMMAND, sizeof(told), &err);
        CHECK(words);
        memcpy(words, &told, sizeof(told));
        fdc_link_commit(pair.client, FDC_LANE_COMMAND);
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        send_words(pair.client, FDC_LANE_SIDE, i, 2);
        take_words(pair.worker, FDC_LANE_SIDE, i, 2);
    }
    for (uint64_t i = PUTS - CHUNKS; i < PUTS; i++)
        take_words(pair.client, FDC_LANE_REPLY, i, 1);
    pthread_join(worker, NULL);
    pair_free(&pair);
}

static void
test_what_is_put_up_is_there(void)
{
    up(false);
}

static void
test_sealed_puts_up_likewise(void)
{
    up(true);
}

/* ---- down ---- */

/* A put is said to be there as soon as its own connection has brought it. */
static void
test_puts_down_are_read_beside_each_other(void)
{
    static uint8_t bytes[PIECE], to[STRIPES][PIECE];
    struct pair pair;

    client_make(&pair);
    fill(bytes, 1, PIECE);
    for (int i = 0; i < STRIPES; i++)
        CHECK(fdc_link_land(pair.client, (uint64_t)i * PIECE, PIECE, to[i]));
    /* Heads of all, the bytes of the last one first; nobody takes replies in meanwhile. */
    for (int i = 0; i < STRIPES; i++) {
        struct wire_put put = {
            {0, PUT, FDC_REGION_DOWN}, (uint64_t)i * PIECE, PIECE, 1};

        CHECK_EQ(fdc_sock_write(pair.worker_socks[1 + i], &put, sizeof(put)), 0);
    }
    for (int i = STRIPES - 1; i >= 0; i--)
        CHECK_EQ(fdc_sock_write(pair.worker_socks[1 + i], bytes, PIECE), 0);
    for (uint64_t i = 0; i < STRIPES; i++) {
        struct {
            struct wire_frame frame;
            uint64_t ticket;
            struct wire_frame told;
            uint64_t word;
        } after = {{0, AFTER, (uint16_t)(1 + i)}, 1, {8, MESSAGE, FDC_LANE_REPLY}, i};

        CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &after, sizeof(after)), 0);
        take_words(pair.client, FDC_LANE_REPLY, i, 1);
        CHECK_EQ(fdc_link_landed(pair.client, i * PIECE), PIECE);
        check(to[i], 1, PIECE);
    }
    client_free(&pair);
}

/* A reply is waited for by somebody who sleeps while a connection's thread brings the bytes. */
static void *
late_main(void *arg)
{
    static uint8_t bytes[PIECE];
    struct pair *pair = arg;

    fill(bytes, 7, PIECE);
    for (size_t at = 0; at < PIECE; at += PIECE / 8) {
        usleep(5000);
        CHECK_EQ(fdc_sock_write(pair->worker_socks[2], bytes + at, PIECE / 8), 0);
    }
    return NULL;
}

static void
test_who_sleeps_is_woken_by_bytes(void)
{
    static uint8_t to[PIECE];
    struct wire_put put = {{0, PUT, FDC_REGION_DOWN}, 0, PIECE, 1};
    struct {
        struct wire_frame frame;
        uint64_t ticket;
        struct wire_frame told;
        uint64_t word;
    } after = {{0, AFTER, 2}, 1, {8, MESSAGE, FDC_LANE_REPLY}, 5};
    struct pair pair;
    pthread_t late;

    client_make(&pair);
    CHECK(fdc_link_land(pair.client, 0, PIECE, to));
    CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &after, sizeof(after)), 0);
    CHECK_EQ(fdc_sock_write(pair.worker_socks[2], &put, sizeof(put)), 0);
    CHECK_EQ(pthread_create(&late, NULL, late_main, &pair), 0);
    take_words(pair.client, FDC_LANE_REPLY, 5, 1);
    check(to, 7, PIECE);
    pthread_join(late, NULL);
    /* One that will bring no more ends what waits for it. */
    after.ticket = 2;
    CHECK_EQ(fdc_sock_write(pair.worker_socks[0], &after, sizeof(after)), 0);
    CHECK_EQ(fdc_link_wait(pair.client, FDC_LANE_REPLY, 2000), 0);
    shutdown(pair.worker_socks[2], SHUT_RDWR);
    CHECK_EQ(fdc_link_wait(pair.client, FDC_LANE_REPLY, -1), -EPIPE);
    client_free(&pair);
}

static void *
down_main(void *arg)
{
    struct fdc_link *link = arg;
    uint8_t *down = fdc_link_region(link, FDC_REGION_DOWN, NULL);
    uint64_t ticket = 0, size, *word;
    int err = 0;

    for (uint64_t i = 0; i < PUTS; i++) {
        uint64_t offset = i % CHUNKS * PIECE;

        take_words(link, FDC_LANE_COMMAND, i, 1);
        size = i % 3 ? PIECE - i : (i % 2 ? 70000 : 300) + i;
        fill(down + offset, i + 5, size);
        if (i % 4)
            CHECK_EQ(fdc_link_put_aside(link, offset, size, &ticket), 0);
        else
            CHECK_EQ(fdc_link_put(link, FDC_REGION_DOWN, offset, down + offset, size,
                                  &ticket),
                     0);
        word = fdc_link_claim(link, FDC_LANE_REPLY, 8, &err);
        CHECK(word);
        *word = i;
        fdc_link_commit_after(link, FDC_LANE_REPLY, ticket);
        CHECK_EQ(fdc_link_flush(link, FDC_LANE_REPLY), 0);
    }
    fdc_link_free(link); /* what is queued still goes */
    return NULL;
}

static void
down(bool sealed)
{
    static uint8_t to[CHUNKS][PIECE];
    bool there[PUTS] = {false};
    const uint8_t *region;
    struct pair pair;
    pthread_t worker;
    uint64_t asked = 0, i;
    uint32_t size;

    if (!make(&pair, sealed))
        return;
    region = fdc_link_region(pair.client, FDC_REGION_DOWN, NULL);
    CHECK_EQ(pthread_create(&worker, NULL, down_main, pair.worker), 0);
    for (int taken = 0; taken < PUTS; taken++) {
        uint64_t landed = 0, length;

        for (; asked < PUTS && (asked < CHUNKS || there[asked - CHUNKS]); asked++) {
            if (asked % 2)
                CHECK(fdc_link_land(pair.client, asked % CHUNKS * PIECE, PIECE,
                                    to[asked % CHUNKS]));
            send_words(pair.client, FDC_LANE_COMMAND, asked, 1);
        }
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        i = *await_words(pair.client, FDC_LANE_REPLY, &size);
        fdc_link_release(pair.client, FDC_LANE_REPLY);
        CHECK(i < asked && !there[i]);
        length = i % 3 ? PIECE - i : (i % 2 ? 70000 : 300) + i;
        if (i % 2) {
            landed = fdc_link_landed(pair.client, i % CHUNKS * PIECE);
            CHECK_EQ(landed, length);
            check(to[i % CHUNKS], i + 5, length);
        } else {
            check(region + i % CHUNKS * PIECE, i + 5, length);
        }
        there[i] = true;
    }
    pthread_join(worker, NULL);
    fdc_link_free(pair.client);
}

static void
test_what_is_put_down_is_there(void)
{
    down(false);
}

static void
test_sealed_puts_down_likewise(void)
{
    down(true);
}

/* ---- threads ---- */

static int
threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int count = -2; /* . and .. */

    CHECK(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* A link with one bulk connection has none but the worker's reader, whatever is copied. */
static void
test_one_bulk_connection_needs_no_threads(void)
{
    static uint8_t bytes[PIECE], to[PIECE];
    struct fdc_loan loan = {0};
    struct pair pair;
    uint64_t ticket;
    int before;

    pair_make(&pair, FDC_ROAD_TCP);
    CHECK_EQ(fdc_link_stripes(pair.client), 1);
    before = threads();
    CHECK(fdc_link_land(pair.client, 0, PIECE, to));
    CHECK_EQ(fdc_link_lend(pair.client, FDC_REGION_UP, 0, bytes, PIECE, &loan, &ticket), 0);
    CHECK_EQ(fdc_link_settle(&loan), 0);
    fdc_link_reclaim(pair.client, &loan);
    CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, ticket, -1), 0);
    CHECK_EQ(threads(), before);
    pair_free(&pair);
}

int
main(void)
{
    int failed = 0;

    RUN(test_puts_up_go_beside_each_other);
    RUN(test_an_end_gives_loans_back);
    RUN(test_what_is_put_up_is_there);
    RUN(test_sealed_puts_up_likewise);
    RUN(test_puts_down_are_read_beside_each_other);
    RUN(test_who_sleeps_is_woken_by_bytes);
    RUN(test_what_is_put_down_is_there);
    RUN(test_sealed_puts_down_likewise);
    RUN(test_one_bulk_connection_needs_no_threads);
    return failed;
}
