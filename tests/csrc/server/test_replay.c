/* Replays that share a shadow come one after the other, whatever fails and wherever. */
#include "client.h"

#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define GRAPH FDC_HANDLE(FDC_KIND_GRAPH, 1, 1)
#define EXEC FDC_HANDLE(FDC_KIND_GRAPH_EXEC, 1, 1)
#define SHADOW FDC_HANDLE(FDC_KIND_SHADOW, 1, 1)
#define OTHER FDC_HANDLE(FDC_KIND_CONTEXT, 1, 200)
#define GATE 5

enum { BYTES = 64 };

/* A graph of one copy, from the shadow to the start of device memory; its two streams. */
static uint64_t
open_graph(struct client *client)
{
    uint64_t base;

    client_open(client);
    base = client_attach(client);
    client_grow(client, base, 4 << 20);
    SEND(client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    CHECK_EQ(CALL(client, fdcShadowNew, .shadow = SHADOW, .size = BYTES), 0);
    CHECK_EQ(CALL(client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    SEND(client, fdcCopy3D, 0, .stream = STREAM(1),
         .copy = {
             .src = { .memory = FDC_COPY_SHADOW, .base = SHADOW, .pitch = BYTES,
                      .height = 1 },
             .dst = { .memory = FDC_COPY_DEVICE, .base = base, .pitch = BYTES,
                      .height = 1 },
             .width = BYTES, .height = 1, .depth = 1,
         });
    CHECK_EQ(CALL(client, cuStreamEndCapture, .hStream = STREAM(1), .phGraph = GRAPH), 0);
    CHECK_EQ(CALL(client, fdcGraphMake, .exec = EXEC, .graph = GRAPH), 0);
    CHECK_EQ(REPLY(client, fdcGraphMake)->rows, 1);
    return base;
}

static void
replay(struct client *client, uint64_t stream, uint64_t number, int value)
{
    struct {
        struct fdc_req_fdcReplay req;
        uint8_t bytes[BYTES];
    } message = {
        .req = {
            .exec = EXEC,
            .stream = stream,
            .replay = number,
            .bytes = { sizeof(struct fdc_req_fdcReplay), BYTES },
            .size = BYTES,
        },
    };

    memset(message.bytes, value, BYTES);
    client_send(client, &message, sizeof(message), FDC_ID_fdcReplay, 0);
}

static int
in_shadow(struct client *client)
{
    CHECK_EQ(CALL(client, fdcShadowRead, .shadow = SHADOW, .chunk = { 0, BYTES }), 0);
    return client->down[0];
}

static void
close_gate(struct client *client, uint64_t stream)
{
    SEND(client, fdcHostFn, 0, .stream = stream, .number = GATE);
    while (client->host_fns == 0)
        CHECK_EQ(client_take(client, -1), 1);
}

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuLaunchHostFunc) real;
    int left; /* calls until one fails */
} host_calls;

static CUresult
count_host(CUstream stream, CUhostFn fn, void *user)
{
    if (host_calls.left > 0 && --host_calls.left == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return host_calls.real(stream, fn, user);
}

/* The first replay stands at the gate, and nobody will say when it has ended; the second
 * one's bytes must not be where the first has yet to read. */
static void
test_replay_whose_end_cannot_be_told_is_waited_for(void)
{
    static struct client client;
    uint64_t base = open_graph(&client);
    uint8_t byte = 0;

    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2), .flags = 1);
    close_gate(&client, STREAM(1));
    host_calls.real = client.driver.cuLaunchHostFunc;
    host_calls.left = 1;
    client.driver.cuLaunchHostFunc = count_host;
    replay(&client, STREAM(1), 1, 11);
    replay(&client, STREAM(2), 2, 22);
    CHECK_EQ(in_shadow(&client), 11);
    CHECK_EQ(host_calls.left, 0);
    usleep(20000);
    CHECK_EQ(in_shadow(&client), 11);
    client_answer_host_fn(&client, GATE);
    client_read(&client, base, STREAM(2), &byte, 1);
    CHECK_EQ(byte, 22);
    client_close(&client, 0);
}

static void
test_replays_of_two_contexts_come_one_after_the_other(void)
{
    static struct client client;
    uint64_t base = open_graph(&client);
    uint8_t byte = 0;

    CHECK_EQ(CALL(&client, fdcContextCreate, .context = OTHER), 0);
    client.ctx = 200;
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2), .flags = 1);
    client.ctx = 0;
    close_gate(&client, STREAM(1));
    replay(&client, STREAM(1), 1, 11);
    client.ctx = 200;
    replay(&client, STREAM(2), 2, 22);
    CHECK_EQ(in_shadow(&client), 11);
    usleep(20000);
    CHECK_EQ(in_shadow(&client), 11);
    client_answer_host_fn(&client, GATE);
    client_read(&client, base, STREAM(2), &byte, 1);
    CHECK_EQ(byte, 22);
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_replay_whose_end_cannot_be_told_is_waited_for);
    RUN(test_replays_of_two_contexts_come_one_after_the_other);
    return failed;
}
