/* Sealed records: what passes, and that nothing else does. */
#include <errno.h>
#include <sys/socket.h>

#include "check.h"
#include "transport/seal.h"

static const uint8_t key[FDC_KEY_SIZE] = "a key that both ends know of.";

struct ends {
    struct seal *client, *worker;
    int fd[2]; /* the client's, the worker's */
};

static void
ends_make(struct ends *ends)
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends->fd), 0);
    CHECK_EQ(seal_new(key, false, &ends->client), 0);
    CHECK_EQ(seal_new(key, true, &ends->worker), 0);
}

static void
ends_free(struct ends *ends)
{
    seal_free(ends->client);
    seal_free(ends->worker);
    close(ends->fd[0]);
    close(ends->fd[1]);
}

static ssize_t
say(struct ends *ends, const void *bytes, size_t size)
{
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};

    return seal_send(ends->client, ends->fd[0], &part, 1);
}

/* One record as it travels. */
static size_t
record_of(struct ends *ends, const void *bytes, size_t size, uint8_t *record)
{
    ssize_t n;

    CHECK_EQ(say(ends, bytes, size), (ssize_t)size);
    n = recv(ends->fd[1], record, SEAL_RECORD + SEAL_EXTRA, MSG_DONTWAIT);
    CHECK_EQ(n, (ssize_t)(size + SEAL_EXTRA));
    return (size_t)n;
}

static void
arrives(struct ends *ends, const void *record, size_t size)
{
    CHECK_EQ(send(ends->fd[0], record, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void
is_refused(struct ends *ends)
{
    uint8_t bytes[256];

    errno = 0;
    CHECK_EQ(seal_receive(ends->worker, ends->fd[1], bytes, sizeof(bytes), MSG_DONTWAIT),
             -1);
    CHECK_EQ(errno, EBADMSG);
}

static uint64_t
next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Whatever the sizes of what is sent, asked for and taken by the socket. */
static void
streams(uint64_t rekey, uint64_t seed)
{
    enum { TOTAL = 3 << 20 };
    uint8_t *out = malloc(TOTAL), *in = malloc(TOTAL);
    uint64_t state = seed;
    size_t sent = 0, got = 0, want, size;
    struct iovec part[2];
    struct ends ends;
    ssize_t n;

    CHECK(out && in);
    for (size_t i = 0; i < TOTAL; i++)
        out[i] = (uint8_t)next_random(&state);
    ends_make(&ends);
    seal_rekey_after(ends.client, rekey);
    seal_rekey_after(ends.worker, rekey);
    size = 0;
    while (got < TOTAL) {
        if (sent < TOTAL) {
            if (size == 0)
                size = next_random(&state) % (next_random(&state) % 2 ? 600000 : 300) + 1;
            if (size > TOTAL - sent)
                size = TOTAL - sent;
            part[0] = (struct iovec){out + sent, size / 3};
            part[1] = (struct iovec){out + sent + size / 3, size - size / 3};
            n = seal_send(ends.client, ends.fd[0], part, 2);
            if (n < 0) {
                CHECK_EQ(errno, EAGAIN);
            } else {
                CHECK(n > 0);
                sent += (size_t)n;
                size -= (size_t)n;
            }
        }
        want = next_random(&state) % (next_random(&state) % 2 ? 400000 : 100) + 1;
        if (want > TOTAL - got)
            want = TOTAL - got;
        n = seal_receive(ends.worker, ends.fd[1], in + got, want, MSG_DONTWAIT);
        if (n < 0)
            CHECK_EQ(errno, EAGAIN);
        else
            got += (size_t)n;
        CHECK(n != 0);
    }
    CHECK_BYTES(in, out, TOTAL);
    ends_free(&ends);
    free(out);
    free(in);
}

static void
test_stream_passes_whole(void)
{
    for (uint64_t seed = 1; seed <= 5; seed++)
        streams(SEAL_REKEY, seed);
}

static void
test_keys_change_on_the_way(void)
{
    streams(1, 7);
    streams(3, 8);
}

/* Less than was asked for means that the socket is drained. */
static void
test_short_answer_means_drained(void)
{
    uint8_t bytes[1000] = {0}, back[1000];
    struct ends ends;

    ends_make(&ends);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(say(&ends, bytes, 70), 70);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 100, MSG_DONTWAIT), 100);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 1000, MSG_DONTWAIT), 600);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 1, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EAGAIN);
    ends_free(&ends);
}

static void
test_every_changed_bit_is_refused(void)
{
    uint8_t record[64 + SEAL_EXTRA], bytes[64] = "something that is worth being kept";
    struct ends ends;
    size_t size;

    for (size_t bit = 0; bit < 8 * sizeof(record); bit++) {
        ends_make(&ends);
        size = record_of(&ends, bytes, sizeof(bytes), record);
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
        arrives(&ends, record, size);
        is_refused(&ends);
        ends_free(&ends);
    }
}

/* Nothing of the record but its head has to have come. */
static void
test_changed_length_is_refused_at_once(void)
{
    uint8_t record[64 + SEAL_EXTRA], bytes[64] = {0}, back[64];
    struct ends ends;

    for (size_t bit = 0; bit < 32; bit++) {
        ends_make(&ends);
        record_of(&ends, bytes, sizeof(bytes), record);
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
        arrives(&ends, record, SEAL_HEAD - 1);
        CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 64, MSG_DONTWAIT), -1);
        CHECK_EQ(errno, EAGAIN);
        arrives(&ends, record + SEAL_HEAD - 1, 1);
        is_refused(&ends);
        ends_free(&ends);
    }
}

/* A record that comes byte by byte is looked at often, and opened once. */
static void
test_records_come_in_any_pieces(void)
{
    uint8_t record[64 + SEAL_EXTRA], bytes[64] = "in pieces", back[64];
    struct ends ends;
    size_t size;

    ends_make(&ends);
    seal_rekey_after(ends.client, 2);
    seal_rekey_after(ends.worker, 2);
    for (int round = 0; round < 5; round++) {
        size = record_of(&ends, bytes, sizeof(bytes), record);
        for (size_t i = 0; i < size; i++) {
            CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 64, MSG_DONTWAIT), -1);
            CHECK_EQ(errno, EAGAIN);
            arrives(&ends, record + i, 1);
        }
        CHECK_EQ(seal_receive(ends.worker, ends.fd[1], back, 64, MSG_DONTWAIT), 64);
        CHECK_BYTES(back, bytes, 64);
    }
    ends_free(&ends);
}

static void
test_record_is_not_taken_twice(void)
{
    uint8_t record[64], bytes[64];
    struct ends ends;
    size_t size;

    ends_make(&ends);
    size = record_of(&ends, "pay 100", 7, record);
    arrives(&ends, record, size);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], bytes, 64, MSG_DONTWAIT), 7);
    arrives(&ends, record, size);
    is_refused(&ends);
    ends_free(&ends);
}

static void
test_record_is_neither_left_out_nor_moved(void)
{
    uint8_t first[64], second[64];
    struct ends ends;
    size_t size;

    ends_make(&ends);
    record_of(&ends, "first", 5, first);
    size = record_of(&ends, "second", 6, second);
    arrives(&ends, second, size);
    is_refused(&ends);
    ends_free(&ends);
}

/* What one end has said is not good as what the other says. */
static void
test_record_is_not_sent_back(void)
{
    uint8_t record[64], bytes[64];
    struct ends ends;
    size_t size;

    ends_make(&ends);
    size = record_of(&ends, "hello", 5, record);
    CHECK_EQ(send(ends.fd[1], record, size, 0), (ssize_t)size);
    CHECK_EQ(seal_receive(ends.client, ends.fd[0], bytes, 64, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EBADMSG);
    ends_free(&ends);
}

static void
test_other_keys_do_not_open(void)
{
    uint8_t other[FDC_KEY_SIZE];
    struct ends ends;

    for (size_t bit = 0; bit < 8 * sizeof(other); bit += 7) {
        ends_make(&ends);
        seal_free(ends.worker);
        memcpy(other, key, sizeof(other));
        other[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_EQ(seal_new(other, true, &ends.worker), 0);
        CHECK_EQ(say(&ends, "hello", 5), 5);
        is_refused(&ends);
        ends_free(&ends);
    }
}

static void
test_cut_record_is_an_end_of_file(void)
{
    uint8_t record[64], bytes[64];
    struct ends ends;
    size_t size;

    ends_make(&ends);
    size = record_of(&ends, "hello", 5, record);
    arrives(&ends, record, size - 1);
    CHECK_EQ(shutdown(ends.fd[0], SHUT_WR), 0);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], bytes, 64, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(seal_receive(ends.worker, ends.fd[1], bytes, 64, MSG_DONTWAIT), 0);
    ends_free(&ends);
}

static void
test_lengths_that_cannot_be_are_refused(void)
{
    static const uint64_t lengths[] = {0, SEAL_RECORD + 1, 1u << 31, UINT32_MAX};
    struct ends ends;

    for (size_t i = 0; i < FDC_COUNT(lengths); i++) {
        ends_make(&ends);
        arrives(&ends, &lengths[i], sizeof(lengths[i]));
        is_refused(&ends);
        ends_free(&ends);
    }
}

/* What is on the wire shows nothing of what is sent, not even that it is the same. */
static void
test_same_bytes_never_look_the_same(void)
{
    uint8_t bytes[64] = {0}, record[2][64 + SEAL_EXTRA], differ;
    struct ends ends;

    ends_make(&ends);
    for (int i = 0; i < 2; i++)
        record_of(&ends, bytes, sizeof(bytes), record[i]);
    differ = 0;
    for (size_t i = SEAL_HEAD; i < SEAL_HEAD + sizeof(bytes); i++)
        differ = (uint8_t)(differ + (record[0][i] != record[1][i]));
    CHECK(differ > 48);
    ends_free(&ends);
}

int
main(void)
{
    struct seal *seal;
    int failed = 0;

    if (seal_new(key, true, &seal)) {
        fprintf(stderr, "this machine has no libcrypto.so.3\n");
        return CHECK_SKIPPED;
    }
    seal_free(seal);
    RUN(test_stream_passes_whole);
    RUN(test_keys_change_on_the_way);
    RUN(test_short_answer_means_drained);
    RUN(test_every_changed_bit_is_refused);
    RUN(test_changed_length_is_refused_at_once);
    RUN(test_records_come_in_any_pieces);
    RUN(test_record_is_not_taken_twice);
    RUN(test_record_is_neither_left_out_nor_moved);
    RUN(test_record_is_not_sent_back);
    RUN(test_other_keys_do_not_open);
    RUN(test_cut_record_is_an_end_of_file);
    RUN(test_lengths_that_cannot_be_are_refused);
    RUN(test_same_bytes_never_look_the_same);
    return failed;
}
