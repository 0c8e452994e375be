/* Replays that share a shadow come one after the other, whatever fails and wherever. */
#include "client.h"
#include "fdc/graph.h"

#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define GRAPH FDC_HANDLE(FDC_KIND_GRAPH, 1, 1)
#define EXEC FDC_HANDLE(FDC_KIND_GRAPH_EXEC, 1, 1)
#define SHADOW FDC_HANDLE(FDC_KIND_SHADOW, 1, 1)
#define OTHER FDC_HANDLE(FDC_KIND_CONTEXT, 1, 200)
#define GATE 5

enum { BYTES = 64 };

/* Of half the shadow's bytes, or of all, to the start of device memory. */
static void
copy_up(struct client *client, uint64_t base, bool half)
{
    uint64_t size = half ? BYTES / 2 : BYTES;

    SEND(client, fdcCopy3D, 0, .stream = STREAM(1),
         .copy = {
             .src = { .memory = FDC_COPY_SHADOW, .base = SHADOW, .pitch = size,
                      .height = 1 },
             .dst = { .memory = FDC_COPY_DEVICE, .base = base, .pitch = size,
                      .height = 1 },
             .width = size, .height = 1, .depth = 1,
         });
}

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
    copy_up(client, base, false);
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

/* As many copies of the same bytes as you like: a host function before them all is said
 * to come before them once. */
static void
test_same_bytes_are_listed_once_for_a_host_function(void)
{
    static struct client client;
    uint64_t base = open_graph(&client);
    const struct fdc_graph_rows *rows;
    const struct fdc_graph_host *host;

    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    copy_up(&client, base, false);
    for (uint64_t number = 5; number < 8; number++)
        SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = number);
    for (int i = 0; i < 20; i++)
        copy_up(&client, base, i % 2);
    CHECK_EQ(CALL(&client, cuStreamEndCapture, .hStream = STREAM(1), .phGraph = GRAPH + 16),
             0);
    CHECK_EQ(CALL(&client, fdcGraphMake, .exec = EXEC + 16, .graph = GRAPH + 16), 0);
    CHECK_EQ(REPLY(&client, fdcGraphMake)->rows, 21);
    CHECK_EQ(CALL(&client, fdcGraphRows, .exec = EXEC + 16, .blob = { 0, 65536 }), 0);
    rows = (void *)client.down;
    host = (void *)&rows->row[rows->count];
    CHECK_EQ(rows->count, 21);
    CHECK_EQ(rows->hosts, 3 * 2); /* two ranges begin after each of them */
    for (uint32_t i = 0; i < rows->hosts; i++)
        CHECK_EQ(host[i].after, 1);
    client_close(&client, 0);
}

/* Bytes of replays are the session's host memory, and given back. */
static void
test_bytes_of_replays_count_as_host_memory(void)
{
    static struct client client;
    struct fdc_serve_counters counters;
    uint64_t base = open_graph(&client), before;
    uint8_t byte = 0;

    fdc_serve_get_counters(client.serve, &counters);
    before = counters.host_memory_used;
    close_gate(&client, STREAM(1));
    for (uint64_t number = 1; number <= 3; number++)
        replay(&client, STREAM(1), number, (int)number);
    CHECK_EQ(in_shadow(&client), 0x1); /* all have been taken in */
    fdc_serve_get_counters(client.serve, &counters);
    CHECK(counters.host_memory_used > before);
    client_answer_host_fn(&client, GATE);
    client_read(&client, base, STREAM(1), &byte, 1);
    CHECK_EQ(byte, 3);
    for (int i = 0; i < 200; i++) { /* the last function may still be returning */
        fdc_serve_get_counters(client.serve, &counters);
        if (counters.host_memory_used == before)
            break;
        usleep(10000);
    }
    CHECK_EQ(counters.host_memory_used, before);
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_replay_whose_end_cannot_be_told_is_waited_for);
    RUN(test_replays_of_two_contexts_come_one_after_the_other);
    RUN(test_same_bytes_are_listed_once_for_a_host_function);
    RUN(test_bytes_of_replays_count_as_host_memory);
    return failed;
}
