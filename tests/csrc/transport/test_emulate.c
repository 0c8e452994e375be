/* The link emulator: messages are held back, in order, and nothing else changes. */
#include "pair.h"

enum { RTT_US = 20000 };

static enum fdc_road road;

/* A reply sent at this time is not to be seen before half a round trip has passed. */
static void
check_not_before(struct pair *pair, uint64_t sent_ns)
{
    uint32_t size;
    int err = 1;

    if (fdc_link_peek(pair->client, FDC_LANE_REPLY, &size, &err) != NULL)
        CHECK(fdc_now_ns() - sent_ns >= RTT_US * 500u); /* held up ourselves */
    else
        CHECK_EQ(err, 0);
}

static void
test_reply_takes_the_emulated_round_trip(void)
{
    struct pair pair;
    uint64_t start_ns, reply_ns;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 5; i++) {
        start_ns = fdc_now_ns();
        send_words(pair.client, FDC_LANE_COMMAND, i, 3);
        CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
        while (fdc_link_wait(pair.worker, FDC_LANE_COMMAND, 0) == 0)
            continue;
        take_words(pair.worker, FDC_LANE_COMMAND, i, 3);
        CHECK(fdc_now_ns() - start_ns >= RTT_US * 500u);
        reply_ns = fdc_now_ns();
        send_words(pair.worker, FDC_LANE_REPLY, i, 2);
        CHECK_EQ(fdc_link_flush(pair.worker, FDC_LANE_REPLY), 0);
        check_not_before(&pair, reply_ns);
        take_words(pair.client, FDC_LANE_REPLY, i, 2);
        CHECK(fdc_now_ns() - start_ns >= RTT_US * 1000u);
    }
    pair_free(&pair);
}

/* A thousand messages sent at once cost one delay, not a thousand. */
static void
test_messages_travel_side_by_side(void)
{
    uint64_t start_ns = 0;
    struct pair pair;

    pair_make(&pair, road);
    for (uint64_t i = 0; i < 1000; i++)
        send_words(pair.client, FDC_LANE_COMMAND, i, 3);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    take_words(pair.worker, FDC_LANE_COMMAND, 0, 3);
    start_ns = fdc_now_ns();
    for (uint64_t i = 1; i < 1000; i++)
        take_words(pair.worker, FDC_LANE_COMMAND, i, 3);
    CHECK(fdc_now_ns() - start_ns < 999 * RTT_US * 500ull);
    pair_free(&pair);
}

static void
test_bandwidth_holds_large_messages_back(void)
{
    uint64_t start_ns, ticket;
    struct pair pair;
    uint8_t *up;

    setenv("FD_EMULATE_MBPS", "100", 1);
    pair_make(&pair, road);
    up = fdc_link_region(pair.client, FDC_REGION_UP, NULL);
    start_ns = fdc_now_ns();
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, 0, up, 1000000, &ticket), 0);
    send_words(pair.client, FDC_LANE_COMMAND, ticket, 3);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    take_words(pair.worker, FDC_LANE_COMMAND, ticket, 3);
    CHECK(fdc_now_ns() - start_ns >= 80000000u);
    pair_free(&pair);
}

static void
test_poke_ends_a_wait_for_a_held_message(void)
{
    uint32_t word = 1, size;
    struct pair pair;
    int err;

    setenv("FD_EMULATE_RTT_US", "1000000", 1); /* a busy machine may take its time */
    pair_make(&pair, road);
    send_words(pair.worker, FDC_LANE_REPLY, 1, 1);
    CHECK_EQ(fdc_link_flush(pair.worker, FDC_LANE_REPLY), 0);
    CHECK(!fdc_link_peek(pair.client, FDC_LANE_REPLY, &size, &err));
    CHECK_EQ(fdc_link_wait_word(pair.client, FDC_LANE_REPLY, &word, 0, -1), 2);
    CHECK_EQ(fdc_link_wait_word(pair.client, FDC_LANE_REPLY, &word, 1, 100), 0);
    take_words(pair.client, FDC_LANE_REPLY, 1, 1);
    pair_free(&pair);
}

static void
test_largest_message_still_passes(void)
{
    struct pair pair;
    uint32_t words;
    int err = 0;

    pair_make(&pair, road);
    words = fdc_link_max_message(pair.client, FDC_LANE_COMMAND) / 8;
    send_words(pair.client, FDC_LANE_COMMAND, 1, words);
    CHECK_EQ(fdc_link_flush(pair.client, FDC_LANE_COMMAND), 0);
    take_words(pair.worker, FDC_LANE_COMMAND, 1, words);
    CHECK(!fdc_link_claim(pair.client, FDC_LANE_COMMAND, words * 8 + 8, &err));
    CHECK_EQ(err, -EMSGSIZE);
    pair_free(&pair);
}

/* What a region lets through in a round trip is what the road brings. */
static void
test_regions_grow_with_the_road_up_to_a_bound(void)
{
    static const struct {
        const char *rtt_us;
        uint64_t least, most;
    } roads[] = {{"30000", 57 << 20, 64 << 20}, {"10000000", 64 << 20, 64 << 20}};
    struct pair pair;
    uint64_t size;

    for (size_t i = 0; i < FDC_COUNT(roads); i++) {
        setenv("FD_EMULATE_RTT_US", roads[i].rtt_us, 1);
        pair_make_sized(&pair, FDC_ROAD_TCP, NULL);
        for (int region = 0; region < FDC_REGIONS; region++) {
            CHECK(fdc_link_region(pair.client, region, &size));
            CHECK(size >= roads[i].least && size <= roads[i].most);
        }
        pair_free(&pair);
    }
}

int
main(void)
{
    static const enum fdc_road roads[] = {FDC_ROAD_SHM, FDC_ROAD_TCP};
    int failed = 0;

    setenv("FD_EMULATE_RTT_US", "20000", 1);
    for (size_t i = 0; i < FDC_COUNT(roads); i++) {
        road = roads[i];
        RUN(test_reply_takes_the_emulated_round_trip);
        RUN(test_messages_travel_side_by_side);
        RUN(test_bandwidth_holds_large_messages_back);
        RUN(test_poke_ends_a_wait_for_a_held_message);
        RUN(test_largest_message_still_passes);
    }
    RUN(test_regions_grow_with_the_road_up_to_a_bound);
    return failed;
}
