/*
 * tcp links whose connections break: at random places of the stream, plain and sealed,
 * with copies both ways under way. FD_TEST_SEED and FD_TEST_ROUNDS make longer runs.
 */
#include "cutter.h"
#include "fdc/cipher.h"

enum {
    REQUESTS = 96,
    WINDOW = 8, /* requests under way, each with a chunk of its own */
    CHUNK = 128 << 10,
    ANSWER = 23, /* words */
    FILLER = 40, /* messages without an answer between two requests */
    GRACE_S = 60,
};

struct request {
    uint64_t number, up_size, put, down_size;
    uint64_t filler[28];
};

struct play {
    struct cutter cutter;
    struct pair pair;
    bool sealed;
    uint64_t seed, salt;
    pthread_t worker, resumer;
    int orders[2];
    uint32_t refused; /* this many dials are answered by nobody */
    uint64_t side_taken;
    struct fdc_loan loans[2 * WINDOW];
};

/* What the dialling side tells the worker's. */
struct order {
    int which, sock;
    uint32_t turn;
    struct fdc_link_key key;
};

static struct fdc_link_key
fresh_key(struct play *play)
{
    struct fdc_link_key key = {{0}};
    uint64_t salt = ++play->salt;

    memcpy(key.bytes, &salt, sizeof(salt));
    return key;
}

static int
dial(void *user, int which, uint32_t turn, int *sock, struct fdc_link_key *key)
{
    struct play *play = user;
    struct order order = {.which = which, .turn = turn};

    if (fdc_load_relaxed(&play->refused)) {
        __atomic_fetch_sub(&play->refused, 1, __ATOMIC_RELAXED);
        return -ECONNREFUSED;
    }
    cutter_connect(&play->cutter, sock, &order.sock);
    order.key = *key = fresh_key(play);
    CHECK_EQ(write(play->orders[1], &order, sizeof(order)), (ssize_t)sizeof(order));
    return 0;
}

static void *
resumer_main(void *arg)
{
    struct play *play = arg;
    struct order order;

    while (read(play->orders[0], &order, sizeof(order)) == (ssize_t)sizeof(order)) {
        fdc_link_resume(play->pair.worker, order.which, order.turn, order.sock,
                        play->sealed ? &order.key : NULL);
        CHECK(order.turn > 0);
    }
    return NULL;
}

static uint8_t
pattern(uint64_t number, uint64_t i)
{
    return (uint8_t)(number * 31 + i * 7 + i / 253);
}

/* Other bytes in the request's chunk, of every other one aside, and the answer that tells of
 * them. Ones of no request are put into chunks of their own, between them. */
static void
answer(struct fdc_link *link, uint64_t number, uint64_t size)
{
    uint8_t *place = fdc_link_region(link, FDC_REGION_DOWN, NULL);
    uint64_t offset = number % WINDOW * CHUNK, ticket = 0, *words;
    int err = 0;

    place += offset;
    for (uint64_t i = 0; i < size; i++)
        place[i] = pattern(number + 5, i);
    if (number % 4 == 3)
        CHECK_EQ(fdc_link_put(link, FDC_REGION_DOWN, (WINDOW + number / 4 % WINDOW) * CHUNK,
                              place, size, &ticket),
                 0);
    if (number % 2)
        CHECK_EQ(fdc_link_put_aside(link, offset, size, &ticket), 0);
    else
        CHECK_EQ(fdc_link_put(link, FDC_REGION_DOWN, offset, place, size, &ticket), 0);
    while (!(words = fdc_link_claim(link, FDC_LANE_REPLY, ANSWER * 8, &err))) {
        CHECK_EQ(err, -EAGAIN);
        CHECK_EQ(fdc_link_wait_room(link, FDC_LANE_REPLY, ANSWER * 8, -1), 1);
    }
    for (uint64_t i = 0; i < ANSWER; i++)
        words[i] = number + i;
    fdc_link_commit_after(link, FDC_LANE_REPLY, ticket);
    CHECK_EQ(fdc_link_flush(link, FDC_LANE_REPLY), 0);
}

/* Takes requests in their order, looks at what was put, answers with other bytes. */
static void *
worker_main(void *arg)
{
    struct play *play = arg;
    struct fdc_link *link = play->pair.worker;
    uint8_t *up = fdc_link_region(link, FDC_REGION_UP, NULL), *place;
    uint64_t next = 0, message = 0;
    struct request request;
    uint32_t size;

    while (next < REQUESTS) {
        const uint64_t *words = await_words(link, FDC_LANE_COMMAND, &size);

        CHECK_EQ(words[0], message);
        message++;
        if (size != sizeof(request) + 8) {
            fdc_link_release(link, FDC_LANE_COMMAND);
            continue;
        }
        memcpy(&request, words + 1, sizeof(request));
        fdc_link_release(link, FDC_LANE_COMMAND);
        CHECK_EQ(request.number, next);
        CHECK_EQ(fdc_link_put_wait(link, FDC_REGION_UP, request.put, -1), 0);
        place = up + next % WINDOW * CHUNK;
        for (uint64_t i = 0; i < request.up_size; i++)
            CHECK_EQ(place[i], pattern(next, i));
        answer(link, next, request.down_size);
        if (next % 16 == 0) {
            take_words(link, FDC_LANE_SIDE, play->side_taken, 3);
            play->side_taken++;
        }
        next++;
    }
    return NULL;
}

static void
send_request(struct play *play, uint64_t number, uint64_t *message)
{
    struct fdc_link *link = play->pair.client;
    static uint8_t all[2 * WINDOW][CHUNK];
    uint8_t *bytes = all[number % (2 * WINDOW)];
    struct fdc_loan *loan = &play->loans[number % (2 * WINDOW)];
    struct request request = {.number = number};
    uint64_t *words;
    int err = 0;

    request.up_size = 1 + check_random(&play->seed) % CHUNK;
    request.down_size = 1 + check_random(&play->seed) % CHUNK;
    for (uint64_t i = 0; i < request.up_size; i++)
        bytes[i] = pattern(number, i);
    if (number % 3) {
        CHECK_EQ(fdc_link_lend(link, FDC_REGION_UP, number % WINDOW * CHUNK, bytes,
                               request.up_size, loan, &request.put),
                 0);
        CHECK_EQ(fdc_link_settle(loan), 0);
    } else {
        CHECK_EQ(fdc_link_put(link, FDC_REGION_UP, number % WINDOW * CHUNK, bytes,
                              request.up_size, &request.put),
                 0);
        memset(bytes, 0xee, CHUNK); /* they are the caller's again */
    }
    /* Those of the one that had this chunk before are now, and not kept in it any more. */
    loan = &play->loans[(number + WINDOW) % (2 * WINDOW)];
    fdc_link_reclaim(link, loan);
    memset(all[(number + WINDOW) % (2 * WINDOW)], 0xee, CHUNK);
    for (uint64_t i = 0; i < check_random(&play->seed) % FILLER; i++)
        send_words(link, FDC_LANE_COMMAND, (*message)++, 1 + i % 20);
    while (!(words = fdc_link_claim(link, FDC_LANE_COMMAND, sizeof(request) + 8, &err))) {
        CHECK_EQ(err, -EAGAIN);
        CHECK_EQ(fdc_link_wait_room(link, FDC_LANE_COMMAND, sizeof(request) + 8, -1), 1);
    }
    words[0] = (*message)++;
    memcpy(words + 1, &request, sizeof(request));
    fdc_link_commit(link, FDC_LANE_COMMAND);
    fdc_link_flush(link, FDC_LANE_COMMAND);
    if (number % 16 == 0)
        send_words(link, FDC_LANE_SIDE, number / 16, 3);
}

static void
check_answer(struct play *play, uint64_t number, uint64_t size, const uint8_t *landing)
{
    struct fdc_link *link = play->pair.client;
    const uint8_t *region = fdc_link_region(link, FDC_REGION_DOWN, NULL);
    uint64_t landed = 0;

    region += number % WINDOW * CHUNK;
    if (landing)
        landed = fdc_link_landed(link, number % WINDOW * CHUNK);
    for (uint64_t i = 0; i < size; i++)
        CHECK_EQ(i < landed ? landing[i] : region[i], pattern(number + 5, i));
}

static void
play_client(struct play *play)
{
    static uint8_t landings[WINDOW][CHUNK];
    struct fdc_link *link = play->pair.client;
    uint64_t sent = 0, taken = 0, message = 0, copy, sizes[WINDOW], number;
    bool there[REQUESTS] = {false};
    const uint64_t *words;
    uint32_t size;

    while (taken < REQUESTS) {
        /* Whose chunk is in use still has not been answered. */
        while (sent < REQUESTS && (sent < WINDOW || there[sent - WINDOW])) {
            if (sent % 2)
                CHECK(fdc_link_land(link, sent % WINDOW * CHUNK, CHUNK,
                                    landings[sent % WINDOW]));
            copy = play->seed;
            check_random(&copy);
            sizes[sent % WINDOW] = 1 + check_random(&copy) % CHUNK;
            send_request(play, sent++, &message);
        }
        words = await_words(link, FDC_LANE_REPLY, &size);
        number = words[0];
        CHECK_EQ(size, ANSWER * 8);
        CHECK(number < sent && !there[number]);
        /* Aside or not, it comes after all answers that were not put aside. */
        for (uint64_t i = 0; i < number; i += 2)
            CHECK(there[i]);
        for (uint64_t i = 0; i < ANSWER; i++)
            CHECK_EQ(words[i], number + i);
        fdc_link_release(link, FDC_LANE_REPLY);
        check_answer(play, number, sizes[number % WINDOW],
                     number % 2 ? landings[number % WINDOW] : NULL);
        there[number] = true;
        taken++;
    }
}

static bool
play_begin(struct play *play, bool sealed, uint64_t seed, uint64_t grace_us)
{
    const struct fdc_link_size size = {{1 << 16, 1 << 16, 1 << 12},
                                       {WINDOW * CHUNK, 2 * WINDOW * CHUNK}};
    struct fdc_link_key keys[FDC_LINK_SOCKS];
    int count = seed % 2 ? 2 : FDC_LINK_SOCKS;
    struct fdc_link_keep keep = {.grace_us = grace_us, .news_fd = -1};
    int err;

    memset(play, 0, sizeof(*play));
    play->sealed = sealed;
    play->seed = seed + 1;
    cutter_start(&play->cutter, seed);
    for (int i = 0; i < count; i++) {
        cutter_connect(&play->cutter, &play->pair.client_socks[i],
                       &play->pair.worker_socks[i]);
        keys[i] = fresh_key(play);
    }
    err = fdc_link_worker_sealed(FDC_ROAD_TCP, play->pair.worker_socks, count,
                                 sealed ? keys : NULL, &size, &play->pair.worker);
    if (err == -ENOSYS) { /* no cipher here */
        pair_close_sockets(play->pair.worker_socks, count);
        pair_close_sockets(play->pair.client_socks, count);
        cutter_stop(&play->cutter);
        return false;
    }
    CHECK_EQ(err, 0);
    CHECK_EQ(fdc_link_client_sealed(FDC_ROAD_TCP, play->pair.client_socks, count,
                                    sealed ? keys : NULL, &play->pair.client),
             0);
    CHECK_EQ(pipe(play->orders), 0);
    CHECK_EQ(fdc_link_keep(play->pair.worker, &keep), 0);
    keep.dial = dial;
    keep.user = play;
    CHECK_EQ(fdc_link_keep(play->pair.client, &keep), 0);
    CHECK_EQ(fdc_link_keep(play->pair.client, &keep), -EINVAL); /* once */
    CHECK_EQ(pthread_create(&play->resumer, NULL, resumer_main, play), 0);
    return true;
}

static void
play_end(struct play *play)
{
    fdc_link_free(play->pair.client);
    close(play->orders[1]);
    pthread_join(play->resumer, NULL);
    close(play->orders[0]);
    fdc_link_free(play->pair.worker);
    cutter_stop(&play->cutter);
}

/* From now on every wire, also those there are, lives for so many bytes. */
static void
live_for(struct play *play, uint64_t least, uint64_t most, bool corrupts)
{
    struct cutter *cutter = &play->cutter;

    pthread_mutex_lock(&cutter->lock);
    cutter->least = least;
    cutter->most = most;
    cutter->corrupts = corrupts;
    for (int i = 0; i < CUTTER_WIRES; i++) {
        cutter->wire[i].left = least + check_random(&cutter->random) % (most - least);
        cutter->wire[i].corrupts = corrupts;
    }
    pthread_mutex_unlock(&cutter->lock);
}

static uint64_t
number_of(const char *name, uint64_t usual)
{
    const char *value = getenv(name);

    return value ? strtoull(value, NULL, 10) : usual;
}

static void
play_cut(bool sealed, bool corrupts)
{
    static struct play play;
    struct fdc_link_stats stats;
    uint64_t seed = number_of("FD_TEST_SEED", 1), rounds = number_of("FD_TEST_ROUNDS", 2);
    uint64_t resumes = 0, cuts = 0;

    for (uint64_t round = 0; round < rounds; round++) {
        if (!play_begin(&play, sealed, seed + round, GRACE_S * UINT64_C(1000000)))
            return;
        /* Some barely get beyond their first words, others take whole copies. */
        if (round % 2)
            live_for(&play, 30, 150000, corrupts);
        else
            live_for(&play, 100000, 600000, corrupts);
        CHECK_EQ(pthread_create(&play.worker, NULL, worker_main, &play), 0);
        play_client(&play);
        pthread_join(play.worker, NULL);
        CHECK_EQ(play.side_taken, REQUESTS / 16);
        fdc_link_get_stats(play.pair.client, &stats);
        resumes += stats.resumes;
        pthread_mutex_lock(&play.cutter.lock);
        cuts += play.cutter.cuts;
        pthread_mutex_unlock(&play.cutter.lock);
        play_end(&play);
    }
    CHECK(cuts > 10 * rounds);
    CHECK(resumes > 10 * rounds);
}

static void
test_each_message_comes_once_however_often_it_is_cut(void)
{
    play_cut(false, false);
}

static void
test_sealed_ones_likewise(void)
{
    play_cut(true, false);
}

static void
test_bytes_changed_on_a_sealed_connection_are_sent_again(void)
{
    play_cut(true, true);
}

static void
test_nothing_is_resumed_where_nothing_breaks(void)
{
    static struct play play;
    struct fdc_link_stats stats;

    CHECK(play_begin(&play, false, 5, GRACE_S * UINT64_C(1000000)));
    CHECK_EQ(pthread_create(&play.worker, NULL, worker_main, &play), 0);
    play_client(&play);
    pthread_join(play.worker, NULL);
    fdc_link_get_stats(play.pair.client, &stats);
    CHECK_EQ(stats.resumes, 0);
    CHECK(!fdc_link_away(play.pair.worker));
    play_end(&play);
}

/* Nobody answers for a while: that is a pause. */
static void
test_a_server_that_cannot_be_reached_is_dialled_again(void)
{
    static struct play play;

    CHECK(play_begin(&play, false, 6, GRACE_S * UINT64_C(1000000)));
    fdc_store_relaxed(&play.refused, 3);
    live_for(&play, 1000, 1001, false);
    CHECK_EQ(pthread_create(&play.worker, NULL, worker_main, &play), 0);
    pthread_mutex_lock(&play.cutter.lock);
    play.cutter.least = play.cutter.most = 0;
    pthread_mutex_unlock(&play.cutter.lock);
    play_client(&play);
    pthread_join(play.worker, NULL);
    CHECK_EQ(fdc_load_relaxed(&play.refused), 0);
    play_end(&play);
}

static void
expect_broken_pipe(struct fdc_link *link, enum fdc_lane lane)
{
    uint32_t size;
    int err = 0, ready;

    while ((ready = fdc_link_wait(link, lane, -1)) == 1 &&
           fdc_link_peek(link, lane, &size, &err))
        fdc_link_release(link, lane);
    CHECK_EQ(ready == 1 ? err : ready, -EPIPE);
}

static void
test_it_is_over_after_the_grace_time(void)
{
    static struct play play;

    CHECK(play_begin(&play, false, 7, 300000));
    fdc_store_relaxed(&play.refused, UINT32_MAX);
    shutdown(play.pair.client_socks[0], SHUT_RDWR);
    expect_broken_pipe(play.pair.worker, FDC_LANE_COMMAND);
    expect_broken_pipe(play.pair.client, FDC_LANE_REPLY);
    play_end(&play);
}

/* Who ends says so: nobody waits for the other. */
static void
test_an_end_is_no_break(void)
{
    static struct play play;

    CHECK(play_begin(&play, false, 8, GRACE_S * UINT64_C(1000000)));
    send_words(play.pair.client, FDC_LANE_COMMAND, 1, 4);
    fdc_link_free(play.pair.client);
    take_words(play.pair.worker, FDC_LANE_COMMAND, 1, 4);
    expect_broken_pipe(play.pair.worker, FDC_LANE_COMMAND);
    close(play.orders[1]);
    pthread_join(play.resumer, NULL);
    close(play.orders[0]);
    fdc_link_free(play.pair.worker);
    cutter_stop(&play.cutter);

    CHECK(play_begin(&play, false, 9, GRACE_S * UINT64_C(1000000)));
    send_words(play.pair.worker, FDC_LANE_REPLY, 1, 4);
    fdc_link_shutdown(play.pair.worker);
    take_words(play.pair.client, FDC_LANE_REPLY, 1, 4);
    expect_broken_pipe(play.pair.client, FDC_LANE_REPLY);
    play_end(&play);
}

/* A resume that is not newer than the last one, one without the seal, and strangers. */
static void
test_stale_and_wrong_resumes_are_refused(void)
{
    static const struct {
        uint32_t magic, which;
        uint64_t position;
    } lie = {0x52434446, 0, UINT64_C(1) << 40};
    struct fdc_link_key key = {{0}};
    static struct play play;
    int ours, theirs;

    CHECK(play_begin(&play, false, 10, GRACE_S * UINT64_C(1000000)));
    fdc_store_relaxed(&play.refused, UINT32_MAX);
    loopback_connect(&ours, &theirs);
    CHECK_EQ(fdc_link_resume(play.pair.worker, FDC_LINK_SOCKS, 1, theirs, NULL), -EINVAL);
    close(ours);
    loopback_connect(&ours, &theirs);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 0, 0, theirs, NULL), -ESTALE);
    close(ours);
    loopback_connect(&ours, &theirs);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 1, 7, theirs, &key), -EINVAL);
    close(ours);
    loopback_connect(&ours, &theirs);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 1, 7, theirs, NULL), -ESTALE);
    close(ours);
    /* A client that claims to have what was never sent. */
    loopback_connect(&ours, &theirs);
    CHECK_EQ(fdc_sock_write(ours, &lie, sizeof(lie)), 0);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 0, 1000, theirs, NULL), -EPROTO);
    expect_broken_pipe(play.pair.worker, FDC_LANE_COMMAND);
    close(ours);
    play_end(&play);
}

struct trial {
    struct fdc_link *link;
    int sock, err;
};

static void *
trial_main(void *arg)
{
    struct trial *trial = arg;

    trial->err = fdc_link_resume(trial->link, 0, 1000, trial->sock, NULL);
    return NULL;
}

/* A connection that breaks again before a word has come, which only the client sees. */
static void
test_a_newer_try_does_not_wait_for_the_one_before(void)
{
    struct trial trial;
    static struct play play;
    int silent, ours, theirs;
    pthread_t thread;

    CHECK(play_begin(&play, false, 11, GRACE_S * UINT64_C(1000000)));
    fdc_store_relaxed(&play.refused, UINT32_MAX);
    trial.link = play.pair.worker;
    loopback_connect(&silent, &trial.sock);
    CHECK_EQ(pthread_create(&thread, NULL, trial_main, &trial), 0);
    while (!fdc_link_away(play.pair.worker)) /* until that one is known */
        usleep(1000);
    loopback_connect(&ours, &theirs);
    close(ours);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 0, 999, theirs, NULL), -ESTALE);
    loopback_connect(&ours, &theirs);
    close(ours);
    CHECK_EQ(fdc_link_resume(play.pair.worker, 0, 1001, theirs, NULL), -EPIPE);
    pthread_join(thread, NULL);
    CHECK_EQ(trial.err, -EPIPE); /* and not -ETIMEDOUT */
    close(silent);
    fdc_link_shutdown(play.pair.client);
    play_end(&play);
}

static void
test_other_roads_keep_nothing(void)
{
    struct fdc_link_keep keep = {.grace_us = 1, .dial = dial, .news_fd = -1};
    struct pair pair;

    pair_make(&pair, FDC_ROAD_SHM);
    CHECK_EQ(fdc_link_keep(pair.client, &keep), -EOPNOTSUPP);
    CHECK_EQ(fdc_link_resume(pair.worker, 0, 1, dup(0), NULL), -EOPNOTSUPP);
    CHECK(!fdc_link_away(pair.worker));
    pair_free(&pair);
}

int
main(void)
{
    int failed = 0;

    RUN(test_each_message_comes_once_however_often_it_is_cut);
    RUN(test_sealed_ones_likewise);
    RUN(test_bytes_changed_on_a_sealed_connection_are_sent_again);
    RUN(test_nothing_is_resumed_where_nothing_breaks);
    RUN(test_a_server_that_cannot_be_reached_is_dialled_again);
    RUN(test_it_is_over_after_the_grace_time);
    RUN(test_an_end_is_no_break);
    RUN(test_stale_and_wrong_resumes_are_refused);
    RUN(test_a_newer_try_does_not_wait_for_the_one_before);
    RUN(test_other_roads_keep_nothing);
    return failed;
}
