/* Copies over a trunk as a worker serves them: the other worker is this program. */
#include "client.h"

#include "fdc/attach.h"
#include "fdc/trunk.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
enum { CHUNKS = 3, NUMBER = 42 };
#define PIECE (64 * KIB)
#define OTHER FDC_HANDLE(FDC_KIND_CONTEXT, 1, 200)

static struct client client;
static uint64_t base;
static uint8_t bytes[MIB], found[MIB];

/* The other end of a trunk to the worker. */
static struct fdc_trunk
come(uint64_t number)
{
    struct fdc_trunk end = { .fd = -1 };
    struct fdc_attach_ready ready;
    int socks[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    CHECK_EQ(fdc_serve_trunk(client.serve, number, socks[0], NULL), 0);
    CHECK_EQ(fdc_sock_read(socks[1], &ready, sizeof(ready), -1), 0);
    end.fd = socks[1];
    return end;
}

/* Takes a copy of this many bytes. */
static uint64_t
take(uint64_t trunk, uint64_t number, uint64_t to, uint64_t size, unsigned flags)
{
    struct {
        struct fdc_req_fdcTrunkCopy req;
        struct fdc_chunk chunk[CHUNKS];
    } message = {
        .req = {
            .trunk = trunk,
            .number = number,
            .copy = {
                .dst = { .memory = FDC_COPY_DEVICE, .base = to },
                .width = size, .height = 1, .depth = 1,
            },
            .stream = 1,
            .chunks = { sizeof(message.req), sizeof(message.chunk) },
            .chunks_size = sizeof(message.chunk),
        },
    };

    for (uint64_t i = 0; i < CHUNKS; i++)
        message.chunk[i] = (struct fdc_chunk){ i * PIECE, PIECE };
    return client_send(&client, &message, sizeof(message), FDC_ID_fdcTrunkCopy, flags);
}

static int
answered(uint64_t ticket)
{
    struct fdc_reply *reply = (void *)client.reply;

    while (reply->ticket != ticket)
        CHECK_EQ(client_take(&client, -1), 1);
    return reply->result;
}

static void
open_client(void)
{
    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 4 * MIB);
    for (size_t i = 0; i < MIB; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
}

static void
test_what_comes_is_stored(void)
{
    uint64_t size = 5 * PIECE + 77, ticket;
    struct fdc_trunk end;

    open_client();
    end = come(NUMBER);
    for (uint64_t copy = 1; copy < 4; copy++) {
        ticket = take(NUMBER, copy, base + copy, size, FDC_MSG_REPLY);
        for (uint64_t at = 0; at < size; at += PIECE)
            CHECK_EQ(fdc_trunk_send(&end, copy, at, bytes + at,
                                    (uint32_t)(size - at < PIECE ? size - at : PIECE)), 0);
        CHECK_EQ(answered(ticket), 0);
        CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 0);
        client_read(&client, base + copy, 1, found, size);
        CHECK_EQ(memcmp(found, bytes, size), 0);
    }
    fdc_trunk_close(&end);
    client_close(&client, 0);
}

/* What is not the next frame of this copy is not stored, and ends the trunk, not more. */
static void
test_other_frames_end_the_trunk(void)
{
    static const struct { uint64_t copy, offset; uint32_t size; } frames[] = {
        { 2, 0, PIECE }, { 1, PIECE, PIECE }, { 1, 0, PIECE - 1 }, { 1, 0, PIECE + 1 },
        { 1, 0, 0 }, { 1, UINT64_MAX, PIECE },
    };

    open_client();
    for (uint64_t i = 0; i < FDC_COUNT(frames); i++) {
        struct fdc_trunk end = come(i);
        uint64_t ticket = take(i, 1, base, 2 * PIECE, FDC_MSG_REPLY);
        uint8_t end_of_file;
        int sent = fdc_trunk_send(&end, frames[i].copy, frames[i].offset, bytes + 1,
                                  frames[i].size);

        /* The head is enough to hang up on the rest. */
        CHECK(sent == 0 || sent == -EPIPE || sent == -ECONNRESET);
        CHECK_EQ(answered(ticket), 0);
        CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 1);
        CHECK(fdc_sock_read(end.fd, &end_of_file, 1, -1) < 0);
        client_read(&client, base, 1, found, 2 * PIECE);
        for (uint64_t at = 0; at < 2 * PIECE; at++)
            CHECK_EQ(found[at], 0);
        /* It stays so. */
        CHECK_EQ(answered(take(i, 2, base, PIECE, FDC_MSG_REPLY)), 0);
        CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 1);
        fdc_trunk_close(&end);
    }
    client_close(&client, 0);
}

static void
test_memory_that_is_not_the_session_s_is_refused(void)
{
    struct fdc_trunk end;

    open_client();
    end = come(NUMBER);
    CHECK_EQ(answered(take(NUMBER, 1, (uint64_t)(uintptr_t)found, PIECE, FDC_MSG_REPLY)),
             CUDA_ERROR_INVALID_VALUE);
    fdc_trunk_close(&end);
    client_close(&client, 0);
}

static void
test_no_such_trunk_is_a_broken_one(void)
{
    open_client();
    CHECK_EQ(answered(take(NUMBER, 1, base, PIECE, FDC_MSG_REPLY)), 0);
    CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 1);
    client_close(&client, 0);
}

/* Whoever waits on a trunk on which nothing comes is let go. */
static void
test_a_wait_ends_with_the_trunk_and_with_the_client(void)
{
    struct fdc_trunk end;
    uint64_t ticket;

    open_client();
    end = come(1);
    ticket = take(1, 1, base, PIECE, FDC_MSG_REPLY);
    usleep(20000);
    SEND(&client, fdcTrunkShut, 0, .trunk = 1);
    CHECK_EQ(answered(ticket), 0);
    CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 1);
    fdc_trunk_close(&end);
    end = come(2);
    take(2, 1, base, PIECE, FDC_MSG_REPLY);
    usleep(20000);
    client_close(&client, 0);
    fdc_trunk_close(&end);
}

/* A context does not close under a copy that waits, and does not wait for it either. */
static void
test_a_wait_ends_with_its_context(void)
{
    struct fdc_trunk end;
    uint64_t copy, close;

    open_client();
    CHECK_EQ(CALL(&client, fdcContextCreate, .context = OTHER), 0);
    client.ctx = FDC_HANDLE_INDEX(OTHER);
    end = come(1);
    copy = take(1, 1, base, PIECE, FDC_MSG_REPLY);
    usleep(20000);
    client.ctx = 0;
    close = SEND(&client, fdcContextClose, FDC_MSG_REPLY, .context = OTHER);
    CHECK_EQ(answered(copy), 0);
    CHECK_EQ(REPLY(&client, fdcTrunkCopy)->broken, 1);
    CHECK_EQ(answered(close), 0);
    fdc_trunk_close(&end);
    client_close(&client, 0);
}

static void
test_a_number_comes_once(void)
{
    struct fdc_trunk end;
    int socks[2];

    open_client();
    end = come(NUMBER);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    CHECK_EQ(fdc_serve_trunk(client.serve, NUMBER, socks[0], NULL), -EEXIST);
    close(socks[1]);
    fdc_trunk_close(&end);
    client_close(&client, 0);
}

static int
dial(uint32_t family, const char address[16])
{
    struct {
        struct fdc_req_fdcTrunkOpen req;
        struct fdc_trunk_about about;
    } message = {
        .req = {
            .about = { sizeof(message.req), sizeof(message.about) },
            .about_size = sizeof(message.about),
        },
        .about = { .family = family, .port = 9 },
    };

    memcpy(message.about.address, address, 16);
    return client_call(&client, &message, sizeof(message), FDC_ID_fdcTrunkOpen);
}

/* Whatever the cause, and however soon it is known. */
static void
test_what_cannot_be_reached_takes_its_time(void)
{
    static const struct { uint32_t family; char address[16]; } places[] = {
        { FDC_TRUNK_UNIX, "/nothing/there" }, { FDC_TRUNK_IPV4, "\x7f\0\0\1" }, { 77, "" },
    };

    open_client();
    for (size_t i = 0; i < FDC_COUNT(places); i++) {
        uint64_t start = fdc_now_ns();

        CHECK_EQ(dial(places[i].family, places[i].address), 0);
        CHECK_EQ(REPLY(&client, fdcTrunkOpen)->open, 0);
        CHECK(fdc_now_ns() - start > (uint64_t)FDC_TRUNK_DIAL_US * 990);
    }
    client_close(&client, 0);
}

/* Boxes and chunks that nobody has. */
static void
test_lies_end_the_session(void)
{
    for (int lie = 0; lie < 4; lie++) {
        struct {
            struct fdc_req_fdcTrunkCopy req;
            struct fdc_chunk chunk[CHUNKS];
        } message = {
            .req = {
                .copy = { .dst = { .memory = FDC_COPY_DEVICE }, .width = 1, .height = 1,
                          .depth = 1 },
                .stream = 1,
                .chunks = { sizeof(message.req), sizeof(message.chunk) },
                .chunks_size = sizeof(message.chunk),
            },
            .chunk = { { 0, 4096 }, { 4096, 4096 }, { 8192, 4096 } },
        };

        open_client();
        if (lie == 0)
            message.chunk[2].offset = UINT64_MAX - 100;
        if (lie == 1)
            message.chunk[1].size = 4095;
        if (lie == 2)
            message.req.chunks_size = 8;
        if (lie == 3)
            message.req.chunks.size = message.req.chunks_size = 17;
        client_send(&client, &message, sizeof(message), FDC_ID_fdcTrunkCopy, FDC_MSG_REPLY);
        while (client_take(&client, -1) >= 0)
            continue;
        client_close(&client, -EPROTO);
    }
}

int
main(void)
{
    int failed = 0;

    RUN(test_what_comes_is_stored);
    RUN(test_other_frames_end_the_trunk);
    RUN(test_memory_that_is_not_the_session_s_is_refused);
    RUN(test_no_such_trunk_is_a_broken_one);
    RUN(test_a_wait_ends_with_the_trunk_and_with_the_client);
    RUN(test_a_wait_ends_with_its_context);
    RUN(test_a_number_comes_once);
    RUN(test_what_cannot_be_reached_takes_its_time);
    RUN(test_lies_end_the_session);
    return failed;
}
