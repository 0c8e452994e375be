/* What a session may have of the host's memory. */
#include "client.h"

#define HOST 0x4f8000000000ull
#define SHADOW(i) FDC_HANDLE(FDC_KIND_SHADOW, 1, (i))
#define MIB (1ull << 20)

static void
open_with_host_memory(struct client *client, uint64_t host_memory)
{
    client_open_limited(client, &(struct fdc_serve_limits){
                                    .devices = 1,
                                    .memory = { SLICE },
                                    .host_memory = host_memory,
                                });
    client_attach(client);
}

static uint64_t
host_used(struct client *client)
{
    struct fdc_serve_counters counters;

    fdc_serve_get_counters(client->serve, &counters);
    return counters.host_memory_used;
}

static void
test_shadows_are_pinned_host_memory(void)
{
    static struct client client;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(host_used(&client), 8 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(3), .size = 1),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 64 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 2 * MIB, .shared = 1),
             CUDA_ERROR_OUT_OF_MEMORY);
    client_close(&client, 0);
}

static void
test_kept_shadows_make_room(void)
{
    static struct client client;
    int fd;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(1)), 0);
    CHECK_EQ(host_used(&client), 8 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(2)), 0);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 64 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 16 * MIB, .shared = 1), 0);
    CHECK_EQ(fdc_link_take_fd(client.link, HOST, &fd), 0);
    close(fd);
    CHECK_EQ(host_used(&client), 16 * MIB);
    SEND(&client, fdcHostShrink, 0, .address = HOST);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(3), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    client_close(&client, 0);
}

static void
test_shadow_of_a_context_that_ended_makes_room(void)
{
    static struct client client;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(1)), 0);
    CHECK_EQ(CALL(&client, fdcContextReset, .context = CTX), 0);
    CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_shadows_are_pinned_host_memory);
    RUN(test_kept_shadows_make_room);
    RUN(test_shadow_of_a_context_that_ended_makes_room);
    return failed;
}
