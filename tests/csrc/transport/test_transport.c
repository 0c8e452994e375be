/* What every road promises, over each road. */

#include "pair.h"

#ifndef ROADS /* test_sealed.c has its own */
#define ROADS {FDC_ROAD_SHM, FDC_ROAD_TCP}
#endif

static enum fdc_road road;

static void
test_echo_keeps_order_and_content(void)
{
    struct pair pair;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 3000; i++) {
        send_words(pair.client, FDC_LANE_COMMAND, i, 1 + (uint32_t)(i % 300));
        if (i % 10 == 0)
            CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        take_words(pair.worker, FDC_LANE_COMMAND, i, 1 + (uint32_t)(i % 300));
        send_words(pair.worker, FDC_LANE_REPLY, ~i, 5);
        CHECK_EQ(fdc_link_flush(pair.worker, FDC_LANE_REPLY), 0);
        take_words(pair.client, FDC_LANE_REPLY, ~i, 5);
    }
    pair_free(&pair);
}

static void
test_largest_message_passes_and_larger_is_refused(void)
{
    uint32_t words, size;
    struct pair pair;
    int err = 0;

    pair_make(&pair, road);
    words = fdc_link_max_message(pair.client, FDC_LANE_COMMAND) / 8;
    CHECK(words * 8 >= 1u << 18);
    for (uint64_t i = 0; i < 5; i++) {
        send_words(pair.client, FDC_LANE_COMMAND, i, words);
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        take_words(pair.worker, FDC_LANE_COMMAND, i, words);
    }
    CHECK(!fdc_link_claim(pair.client, FDC_LANE_COMMAND, words * 8 + 8, &err));
    CHECK_EQ(err, -EMSGSIZE);
    CHECK_EQ(fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, words * 8 + 8, 0),
             -EMSGSIZE);
    /* Each lane has one direction. */
    CHECK(!fdc_link_claim(pair.client, FDC_LANE_REPLY, 8, &err));
    CHECK_EQ(err, -EINVAL);
    CHECK(!fdc_link_peek(pair.client, FDC_LANE_COMMAND, &size, &err));
    CHECK_EQ(err, -EINVAL);
    pair_free(&pair);
}

static void
test_aborted_message_is_never_seen(void)
{
    struct pair pair;
    uint32_t size;
    int err = 0;

    pair_make(&pair, road);
    CHECK(fdc_link_claim(pair.client, FDC_LANE_COMMAND, 4000, &err));
    fdc_link_abort(pair.client, FDC_LANE_COMMAND);
    fdc_link_commit(pair.client, FDC_LANE_COMMAND);
    fdc_link_flush(pair.client, FDC_LANE_COMMAND);
    CHECK(!fdc_link_peek(pair.worker, FDC_LANE_COMMAND, &size, &err));
    CHECK_EQ(err, 0);
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_COMMAND, 2000), 0);
    send_words(pair.client, FDC_LANE_COMMAND, 3, 3);
    fdc_link_flush(pair.client, FDC_LANE_COMMAND);
    take_words(pair.worker, FDC_LANE_COMMAND, 3, 3);
    pair_free(&pair);
}

static void
test_commits_without_flush_leave_soon(void)
{
    struct pair pair;

    pair_make(&pair, road);
    for (uint64_t round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 7; i++)
            send_words(pair.client, FDC_LANE_COMMAND, round + i, 4);
        for (uint64_t i = 0; i < 7; i++)
            take_words(pair.worker, FDC_LANE_COMMAND, round + i, 4);
        if (round % 5 == 4)
            usleep(20000);
    }
    pair_free(&pair);
}

/* ---- a thread for the other end ---- */

enum { MANY = 20000 };

static void *
answer_many(void *arg)
{
    struct fdc_link *worker = arg;

    for (uint64_t i = 0; i < MANY; i++) {
        take_words(worker, FDC_LANE_COMMAND, i, 1 + (uint32_t)(i % 50));
        if (i % 10 == 0) {
            send_words(worker, FDC_LANE_REPLY, i, 2);
            CHECK_EQ(fdc_link_flush(worker, FDC_LANE_REPLY), 0);
        }
    }
    return NULL;
}

static void
send_many(struct fdc_link *client)
{
    for (uint64_t i = 0; i < MANY; i++) {
        send_words(client, FDC_LANE_COMMAND, i, 1 + (uint32_t)(i % 50));
        if (i % 10 == 0) {
            CHECK_EQ(fdc_link_flush(client, FDC_LANE_COMMAND), 0);
            take_words(client, FDC_LANE_REPLY, i, 2);
        }
    }
}

static void
test_two_threads(void)
{
    struct fdc_link_stats stats;
    struct pair pair;
    pthread_t thread;

    pair_make(&pair, road);
    CHECK_EQ(pthread_create(&thread, NULL, answer_many, pair.worker), 0);
    send_many(pair.client);
    pthread_join(thread, NULL);
    fdc_link_get_stats(pair.client, &stats);
    CHECK_EQ(stats.messages[FDC_LANE_COMMAND], MANY);
    CHECK_EQ(stats.messages[FDC_LANE_REPLY], MANY / 10);
    pair_free(&pair);
}

static void
test_two_processes(void)
{
    struct pair pair;
    int status = 0;
    pid_t child;

    pair_sockets(&pair, road);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pair_close_sockets(pair.client_socks, pair.nsocks);
        CHECK_EQ(
            fdc_link_worker(road, pair.worker_socks, pair.nsocks, NULL, &pair.worker),
            0);
        answer_many(pair.worker);
        fdc_link_free(pair.worker);
        _exit(0);
    }
    pair_close_sockets(pair.worker_socks, pair.nsocks);
    CHECK_EQ(fdc_link_client(road, pair.client_socks, pair.nsocks, &pair.client), 0);
    send_many(pair.client);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    fdc_link_free(pair.client);
}

/* Nobody reads for a while: the sender gets -EAGAIN, waits, and goes on. */
static void *
read_late(void *arg)
{
    usleep(50000);
    for (uint64_t i = 0; i < 4000; i++)
        take_words(arg, FDC_LANE_COMMAND, i, 500);
    return NULL;
}

static void
test_slow_reader_holds_the_sender_up(void)
{
    struct pair pair;
    pthread_t thread;

    pair_make(&pair, road);
    CHECK_EQ(pthread_create(&thread, NULL, read_late, pair.worker), 0);
    for (uint64_t i = 0; i < 4000; i++)
        send_words(pair.client, FDC_LANE_COMMAND, i, 500);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    pthread_join(thread, NULL);
    pair_free(&pair);
}

/* ---- several threads wait for their replies on one lane ---- */

enum { CALLERS = 3, CALLS = 1500 };

struct calls {
    struct fdc_link *client;
    pthread_mutex_t send, receive;
    uint32_t answered[CALLERS]; /* one word a caller */
};

struct caller {
    struct calls *calls;
    uint32_t number;
};

/* Takes in all replies there are; whoever they are for. */
static void
take_replies(struct calls *calls)
{
    const uint64_t *reply;
    uint32_t size;
    int err = 0;

    pthread_mutex_lock(&calls->receive);
    while ((reply = fdc_link_peek(calls->client, FDC_LANE_REPLY, &size, &err))) {
        CHECK_EQ(size, 16);
        CHECK(reply[0] < CALLERS);
        fdc_store_release(&calls->answered[reply[0]], (uint32_t)reply[1]);
        fdc_link_release(calls->client, FDC_LANE_REPLY);
    }
    CHECK_EQ(err, 0);
    pthread_mutex_unlock(&calls->receive);
    fdc_link_poke(calls->client, FDC_LANE_REPLY);
}

static void *
call_many(void *arg)
{
    struct caller *caller = arg;
    struct calls *calls = caller->calls;
    uint32_t *word = &calls->answered[caller->number];
    uint64_t *message;
    int err, ready;

    for (uint32_t i = 1; i <= CALLS; i++) {
        pthread_mutex_lock(&calls->send);
        message = fdc_link_claim(calls->client, FDC_LANE_COMMAND, 16, &err);
        CHECK(message);
        message[0] = caller->number;
        message[1] = i;
        fdc_link_commit(calls->client, FDC_LANE_COMMAND);
        CHECK_EQ(fdc_link_flush(calls->client, FDC_LANE_COMMAND), 0);
        pthread_mutex_unlock(&calls->send);
        while (fdc_load_acquire(word) != i) {
            ready = fdc_link_wait_word(calls->client, FDC_LANE_REPLY, word, i - 1, -1);
            CHECK(ready == 1 || ready == 2);
            if (ready == 1)
                take_replies(calls);
        }
    }
    return NULL;
}

static void *
echo_calls(void *arg)
{
    struct fdc_link *worker = arg;
    const uint64_t *message;
    uint64_t *reply;
    uint32_t size;
    int err;

    for (int i = 0; i < CALLERS * CALLS; i++) {
        message = await_words(worker, FDC_LANE_COMMAND, &size);
        reply = fdc_link_claim(worker, FDC_LANE_REPLY, 16, &err);
        CHECK(reply);
        memcpy(reply, message, 16);
        fdc_link_release(worker, FDC_LANE_COMMAND);
        fdc_link_commit(worker, FDC_LANE_REPLY);
        CHECK_EQ(fdc_link_flush(worker, FDC_LANE_REPLY), 0);
    }
    return NULL;
}

static void
test_each_waiter_gets_its_reply(void)
{
    struct calls calls = {.send = PTHREAD_MUTEX_INITIALIZER,
                          .receive = PTHREAD_MUTEX_INITIALIZER};
    struct caller callers[CALLERS];
    pthread_t threads[CALLERS], echo;
    struct pair pair;

    pair_make(&pair, road);
    calls.client = pair.client;
    CHECK_EQ(pthread_create(&echo, NULL, echo_calls, pair.worker), 0);
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.calls = &calls, .number = i};
        CHECK_EQ(pthread_create(&threads[i], NULL, call_many, &callers[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(echo, NULL);
    pair_free(&pair);
}

/* ---- regions ---- */

enum { PIECE = 300000, PIECES = 40 };

static uint8_t
pattern(uint64_t piece, uint64_t at)
{
    return (uint8_t)(piece * 31 + at * 7 + (at >> 8));
}

static void
fill(uint8_t *bytes, uint64_t piece)
{
    for (uint64_t i = 0; i < PIECE; i++)
        bytes[i] = pattern(piece, i);
}

static void
check_filled(const uint8_t *bytes, uint64_t piece)
{
    for (uint64_t i = 0; i < PIECE; i++)
        CHECK_EQ(bytes[i], pattern(piece, i));
}

/* For each command, [piece, offset, ticket]: checks what was put up, and puts the next
 * pattern down in front of the reply. */
static void *
serve_puts(void *arg)
{
    uint8_t *up, *bytes = malloc(PIECE);
    struct fdc_link *worker = arg;
    uint64_t size, piece, offset, ticket;
    const uint64_t *words;
    uint32_t message_size;

    CHECK(bytes);
    up = fdc_link_region(worker, FDC_REGION_UP, &size);
    for (int i = 0; i < PIECES; i++) {
        words = await_words(worker, FDC_LANE_COMMAND, &message_size);
        CHECK_EQ(message_size, 24);
        piece = words[0];
        offset = words[1];
        ticket = words[2];
        fdc_link_release(worker, FDC_LANE_COMMAND);
        CHECK_EQ(fdc_link_put_wait(worker, FDC_REGION_UP, ticket, -1), 0);
        check_filled(up + offset, piece);
        fill(bytes, piece + 1);
        CHECK_EQ(fdc_link_put(worker, FDC_REGION_DOWN, offset, bytes, PIECE, &ticket),
                 0);
        CHECK_EQ(ticket, 0);
        send_words(worker, FDC_LANE_REPLY, piece, 1);
        CHECK_EQ(fdc_link_flush(worker, FDC_LANE_REPLY), 0);
    }
    free(bytes);
    return NULL;
}

static void
test_puts_land_before_they_are_used(void)
{
    uint64_t *message, offset, ticket, up_size, down_size;
    uint8_t *bytes = malloc(PIECE), *up, *down;
    struct pair pair;
    pthread_t thread;
    int err;

    CHECK(bytes);
    pair_make(&pair, road);
    up = fdc_link_region(pair.client, FDC_REGION_UP, &up_size);
    down = fdc_link_region(pair.client, FDC_REGION_DOWN, &down_size);
    CHECK_EQ(up_size, 8 << 20);
    CHECK_EQ(down_size, 8 << 20);
    CHECK_EQ(pthread_create(&thread, NULL, serve_puts, pair.worker), 0);
    for (uint64_t i = 0; i < PIECES; i++) {
        offset = i * 173000;
        if (i % 2) {
            fill(up + offset, i); /* in place */
            CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, offset, up + offset,
                                  PIECE, &ticket),
                     0);
        } else {
            fill(bytes, i);
            CHECK_EQ(
                fdc_link_put(pair.client, FDC_REGION_UP, offset, bytes, PIECE, &ticket),
                0);
        }
        CHECK_EQ(ticket == 0, fdc_link_is_shared(pair.client));
        message = fdc_link_claim(pair.client, FDC_LANE_COMMAND, 24, &err);
        CHECK(message);
        message[0] = i;
        message[1] = offset;
        message[2] = ticket;
        fdc_link_commit(pair.client, FDC_LANE_COMMAND);
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        take_words(pair.client, FDC_LANE_REPLY, i, 1);
        check_filled(down + offset, i + 1);
    }
    pthread_join(thread, NULL);
    /* Outside the region, or in the wrong direction. */
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, up_size, bytes, 1, &ticket),
             -EINVAL);
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, UINT64_MAX, bytes, 2, &ticket),
             -EINVAL);
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, 1, bytes, up_size, &ticket),
             -EINVAL);
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_DOWN, 0, bytes, 1, &ticket), -EINVAL);
    pair_free(&pair);
    free(bytes);
}

static void *
echo_side(void *arg)
{
    struct fdc_link *worker = arg;

    for (uint64_t i = 0; i < 200; i++) {
        take_words(worker, FDC_LANE_SIDE, i, 5);
        send_words(worker, FDC_LANE_REPLY, i, 1);
        fdc_link_flush(worker, FDC_LANE_REPLY);
    }
    return NULL;
}

static void
test_side_lane_passes_beside_a_full_command_lane(void)
{
    struct pair pair;
    pthread_t thread;
    int err = 0;

    pair_make(&pair, road);
    do {
        while (fdc_link_claim(pair.client, FDC_LANE_COMMAND, 4096, &err))
            fdc_link_commit(pair.client, FDC_LANE_COMMAND);
        CHECK_EQ(err, -EAGAIN);
    } while (fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 4096, 20000) == 1);
    CHECK_EQ(pthread_create(&thread, NULL, echo_side, pair.worker), 0);
    for (uint64_t i = 0; i < 200; i++) {
        send_words(pair.client, FDC_LANE_SIDE, i, 5);
        fdc_link_flush(pair.client, FDC_LANE_SIDE);
        take_words(pair.client, FDC_LANE_REPLY, i, 1);
    }
    pthread_join(thread, NULL);
    pair_free(&pair);
}

/* ---- the end of a link ---- */

static void *
shut_down_soon(void *arg)
{
    usleep(30000);
    fdc_link_shutdown(arg);
    return NULL;
}

static void
test_shutdown_ends_every_wait_of_this_side(void)
{
    struct pair pair;
    pthread_t thread;
    uint32_t word = 0;
    int err = 0;

    pair_make(&pair, road);
    CHECK_EQ(pthread_create(&thread, NULL, shut_down_soon, pair.client), 0);
    CHECK_EQ(fdc_link_wait_word(pair.client, FDC_LANE_REPLY, &word, 0, -1), -EPIPE);
    pthread_join(thread, NULL);
    CHECK(!fdc_link_claim(pair.client, FDC_LANE_COMMAND, 8, &err));
    CHECK_EQ(err, -EPIPE);
    CHECK_EQ(fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 8, -1), -EPIPE);
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_COMMAND, -1), -EPIPE);
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_SIDE, -1), -EPIPE);
    pair_free(&pair);
}

static void
test_freed_client_leaves_its_last_messages(void)
{
    struct pair pair;
    uint32_t size;
    int err = 0;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 100; i++)
        send_words(pair.client, FDC_LANE_COMMAND, i, 3);
    fdc_link_free(pair.client);
    for (uint64_t i = 0; i < 100; i++)
        take_words(pair.worker, FDC_LANE_COMMAND, i, 3);
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_COMMAND, -1), -EPIPE);
    CHECK(!fdc_link_peek(pair.worker, FDC_LANE_COMMAND, &size, &err));
    CHECK_EQ(err, -EPIPE);
    fdc_link_free(pair.worker);
}

static void
kill_worker(bool wait_room)
{
    struct pair pair;
    pid_t child;
    int err = 0, status;

    pair_sockets(&pair, road);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pair_close_sockets(pair.client_socks, pair.nsocks);
        CHECK_EQ(
            fdc_link_worker(road, pair.worker_socks, pair.nsocks, NULL, &pair.worker),
            0);
        for (;;)
            pause();
    }
    pair_close_sockets(pair.worker_socks, pair.nsocks);
    CHECK_EQ(fdc_link_client(road, pair.client_socks, pair.nsocks, &pair.client), 0);
    CHECK_EQ(fdc_link_wait(pair.client, FDC_LANE_REPLY, 1000), 0);
    if (wait_room)
        do {
            while (fdc_link_claim(pair.client, FDC_LANE_COMMAND, 4096, &err))
                fdc_link_commit(pair.client, FDC_LANE_COMMAND);
        } while (fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 4096, 20000) == 1);
    kill(child, SIGKILL);
    if (wait_room)
        CHECK_EQ(fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 4096, -1), -EPIPE);
    CHECK_EQ(fdc_link_wait(pair.client, FDC_LANE_REPLY, -1), -EPIPE);
    CHECK_EQ(waitpid(child, &status, 0), child);
    fdc_link_free(pair.client);
}

static void
test_killed_peer_ends_a_wait_for_replies(void)
{
    kill_worker(false);
}

static void
test_killed_peer_ends_a_wait_for_room(void)
{
    kill_worker(true);
}

static void
test_forked_child_abandons_without_harm(void)
{
    struct pair pair;
    int status = 0;
    pid_t child;

    pair_make(&pair, road);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        fdc_link_abandon(pair.client);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    send_words(pair.client, FDC_LANE_COMMAND, 3, 3);
    fdc_link_flush(pair.client, FDC_LANE_COMMAND);
    take_words(pair.worker, FDC_LANE_COMMAND, 3, 3);
    pair_free(&pair);
}

static void
test_wrong_sizes_and_sockets_are_refused(void)
{
    struct fdc_link_size size = FDC_LINK_SIZE_DEFAULT;
    struct fdc_link *link = NULL;
    int socks[2] = {-1, -1};

    size.lane[1] = 5000;
    CHECK_EQ(fdc_link_worker(road, socks, road == FDC_ROAD_SHM ? 1 : 2, &size, &link),
             -EINVAL);
    CHECK_EQ(fdc_link_client(road, socks, 0, &link), -EINVAL);
    CHECK_EQ(fdc_link_client(99, socks, 1, &link), -EINVAL);
    CHECK(!link);
}

int
main(void)
{
    static const enum fdc_road roads[] = ROADS;
    int failed = 0;

    for (size_t i = 0; i < FDC_COUNT(roads); i++) {
        road = roads[i];
        fprintf(stderr, "road %d\n", road);
        RUN(test_echo_keeps_order_and_content);
        RUN(test_largest_message_passes_and_larger_is_refused);
        RUN(test_aborted_message_is_never_seen);
        RUN(test_commits_without_flush_leave_soon);
        RUN(test_two_threads);
        RUN(test_two_processes);
        RUN(test_slow_reader_holds_the_sender_up);
        RUN(test_each_waiter_gets_its_reply);
        RUN(test_puts_land_before_they_are_used);
        RUN(test_side_lane_passes_beside_a_full_command_lane);
        RUN(test_shutdown_ends_every_wait_of_this_side);
        RUN(test_freed_client_leaves_its_last_messages);
        RUN(test_killed_peer_ends_a_wait_for_replies);
        RUN(test_killed_peer_ends_a_wait_for_room);
        RUN(test_forked_child_abandons_without_harm);
        RUN(test_wrong_sizes_and_sockets_are_refused);
    }
    return failed;
}
