/*
 * The rdma road: what every road promises, over UCX's own tcp and shared-memory transports,
 * and what a peer may say that is not so. Skipped where there is no UCX (FD_UCX_LIB).
 */
#include "pair.h"

/* Who is alone in a process with the other side would wait for it in vain. */
static void
free_both(struct pair *pair)
{
    fdc_link_shutdown(pair->worker);
    pair_free(pair);
}

#define main transport_main
#define pair_free free_both
#include "test_transport.c"
#undef pair_free
#undef main

#include "fdc/rdma.h"

static void *
free_link(void *arg)
{
    fdc_link_free(arg);
    return NULL;
}

/* As test_freed_client_leaves_its_last_messages(), but UCX needs both sides to work. */
static void
test_freed_client_waits_for_its_last_messages(void)
{
    struct pair pair;
    pthread_t thread;
    uint32_t size;
    int err = 0;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 100; i++)
        send_words(pair.client, FDC_LANE_COMMAND, i, 3);
    CHECK_EQ(pthread_create(&thread, NULL, free_link, pair.client), 0);
    for (uint64_t i = 0; i < 100; i++)
        take_words(pair.worker, FDC_LANE_COMMAND, i, 3);
    CHECK_EQ(fdc_link_wait(pair.worker, FDC_LANE_COMMAND, -1), -EPIPE);
    CHECK(!fdc_link_peek(pair.worker, FDC_LANE_COMMAND, &size, &err));
    CHECK_EQ(err, -EPIPE);
    pthread_join(thread, NULL);
    fdc_link_free(pair.worker);
}

/* Each wait opens a batch, and then another is needed, which is larger. */
static void
test_waiting_for_room_uses_none_up(void)
{
    struct pair pair;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 100; i++) {
        CHECK_EQ(fdc_link_wait_room(pair.client, FDC_LANE_COMMAND, 8, 5000000), 1);
        send_words(pair.client, FDC_LANE_COMMAND, i, 12500);
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        take_words(pair.worker, FDC_LANE_COMMAND, i, 12500);
    }
    free_both(&pair);
}

static void *
take_one(void *arg)
{
    take_words(arg, FDC_LANE_COMMAND, 7, 3);
    return NULL;
}

/* A client that asks is heard once the worker waits for its commands. */
static void
test_client_hears_the_worker_before_it_goes_on(void)
{
    struct pair pair;
    pthread_t thread;
    char why[512];

    pair_sockets(&pair, road);
    CHECK_EQ(fdc_link_worker(road, pair.worker_socks, 1, NULL, &pair.worker), 0);
    CHECK_EQ(pthread_create(&thread, NULL, take_one, pair.worker), 0);
    CHECK_EQ(fdc_rdma_client(pair.client_socks[0], &pair.client, why, sizeof(why)), 0);
    send_words(pair.client, FDC_LANE_COMMAND, 7, 3);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    pthread_join(thread, NULL);
    free_both(&pair);
}

static void
test_client_is_told_why_the_worker_makes_no_link(void)
{
    struct pair pair;
    char why[512] = "";

    pair_sockets(&pair, road);
    setenv("UCX_TLS", "none_such", 1);
    CHECK_EQ(fdc_link_worker(road, pair.worker_socks, 1, NULL, &pair.worker), -ENODEV);
    CHECK_EQ(fdc_rdma_client(pair.client_socks[0], &pair.client, why, sizeof(why)),
             -ECONNREFUSED);
    CHECK(strstr(why, "on the server: UCX "));
    CHECK(strstr(why, "UCX_TLS"));
    pair_close_sockets(pair.client_socks, 1);
    pair_close_sockets(pair.worker_socks, 1);

    pair_sockets(&pair, road); /* one that has gone without a word */
    pair_close_sockets(pair.worker_socks, 1);
    CHECK(fdc_rdma_client(pair.client_socks[0], &pair.client, why, sizeof(why)) < 0);
    CHECK(strstr(why, "the server's half of the set-up"));
    pair_close_sockets(pair.client_socks, 1);
}

static int
run_all(const char *transports)
{
    int failed = 0;

    fprintf(stderr, "UCX_TLS=%s\n", transports);
    setenv("UCX_TLS", transports, 1);
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
    RUN(test_freed_client_waits_for_its_last_messages);
    RUN(test_killed_peer_ends_a_wait_for_replies);
    RUN(test_killed_peer_ends_a_wait_for_room);
    RUN(test_forked_child_abandons_without_harm);
    RUN(test_wrong_sizes_and_sockets_are_refused);
    RUN(test_waiting_for_room_uses_none_up);
    RUN(test_client_hears_the_worker_before_it_goes_on);
    RUN(test_client_is_told_why_the_worker_makes_no_link);
    return failed;
}

static void
test_probe(void)
{
    char why[512];

    if (fdc_rdma_probe(why, sizeof(why)))
        CHECK_SKIP(why);
    exit(0);
}

static bool
has_ucx(void)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        test_probe();
    waitpid(child, &status, 0);
    return status == 0;
}

/* UCX asks whether it may read another process's memory (cma) with an address that is wild
 * on purpose, which AddressSanitizer takes for a mistake. */
#ifdef __SANITIZE_ADDRESS__
#define SHARED_MEMORY "posix,sysv,self"
#else
#define SHARED_MEMORY "sm,self"
#endif

/* With an argument: over these of UCX's transports alone. */
int
main(int argc, char **argv)
{
    int failed = 0;

#ifdef __SANITIZE_THREAD__
    CHECK_SKIP("UCX, which is not instrumented, crashes under ThreadSanitizer");
#endif
    if (!has_ucx())
        return CHECK_SKIPPED;
    road = FDC_ROAD_RDMA;
    if (argc > 1)
        return run_all(argv[1]);
    failed |= run_all("tcp");
    failed |= run_all(SHARED_MEMORY);
    return failed;
}
