/* Captures, and streams that join them. */
#include "client.h"
#include "server/serve.h"

#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define EVENT(i) FDC_HANDLE(FDC_KIND_EVENT, 1, (i))
#define MODULE FDC_HANDLE(FDC_KIND_MODULE, 1, 1)
#define EXEC FDC_HANDLE(FDC_KIND_GRAPH_EXEC, 1, 1)
#define GRAPH FDC_HANDLE(FDC_KIND_GRAPH, 1, 1)

enum { N = 1024 };

static void
test_captured_graph_runs_again_and_again(void)
{
    static struct client client;
    static uint32_t words[N];
    uint64_t base;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 4 << 20);
    CHECK_EQ(client_load(&client, FDC_ID_fdcModuleLoad, MODULE, client_ptx), 0);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1));
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 1, .N = N,
         .hStream = STREAM(1));
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    client_launch_add(&client, MODULE, STREAM(1), 0, base, base, N);
    client_launch_add(&client, MODULE, STREAM(1), 0, base, base, N);
    /* Waiting for the rest meanwhile leaves the capture alone. */
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)),
             CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(CALL(&client, cuStreamEndCapture, .hStream = STREAM(1), .phGraph = GRAPH), 0);
    CHECK_EQ(CALL(&client, fdcGraphMake, .exec = EXEC, .graph = GRAPH), 0);
    for (int i = 0; i < 3; i++)
        SEND(&client, cuGraphLaunch, 0, .hGraph = EXEC, .hStream = STREAM(1));
    client_read(&client, base, STREAM(1), words, sizeof(words));
    CHECK_EQ(words[0], 64);
    CHECK_EQ(words[N - 1], 64);
    SEND(&client, cuGraphExecDestroy, 0, .hGraphExec = EXEC);
    SEND(&client, cuGraphDestroy, 0, .hGraph = GRAPH);
    client_close(&client, 0);
}

/* What a stream was given before it joined a capture still runs, and a fence waits. */
static void
test_fence_knows_what_a_joining_stream_had_to_do(void)
{
    static struct client client;
    uint64_t fence;

    client_open(&client);
    client_attach(&client);
    for (int i = 1; i <= 3; i++)
        SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(i), .flags = 1);
    SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1));
    SEND(&client, fdcHostFn, 0, .stream = STREAM(2), .number = 5);
    while (client.host_fns == 0)
        CHECK_EQ(client_take(&client, -1), 1);
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(1), .hStream = STREAM(1));
    SEND(&client, cuStreamWaitEvent, 0, .hStream = STREAM(2), .hEvent = EVENT(1));
    fence = SEND(&client, fdcFence, FDC_MSG_DONE);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(3)), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(3)), 0);
    CHECK(!client_is_done(&client, fence));
    client_answer_host_fn(&client, 5);
    CHECK_EQ(client_wait_done(&client, fence), 0);
    client_close(&client, 0);
}

/* It makes the NULL stream one that must be left alone, as if the capture had begun on it. */
static void
test_blocking_stream_that_joins_a_capture_is_known(void)
{
    static struct client client;
    uint64_t base;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 2 << 20);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2));
    for (int i = 1; i <= 2; i++)
        SEND(&client, cuEventCreate, 0, .phEvent = EVENT(i));
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 1, .N = N, .hStream = 1);
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(1), .hStream = STREAM(1));
    SEND(&client, cuStreamWaitEvent, 0, .hStream = STREAM(2), .hEvent = EVENT(1));
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 2, .N = N,
         .hStream = STREAM(2));
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = 1),
             CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(2), .hStream = STREAM(2));
    SEND(&client, cuStreamWaitEvent, 0, .hStream = STREAM(1), .hEvent = EVENT(2));
    CHECK_EQ(CALL(&client, cuStreamEndCapture, .hStream = STREAM(1), .phGraph = GRAPH), 0);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = 1), 0);
    client_close(&client, 0);
}

/* ---- host functions of graphs ---- */

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuLaunchHostFunc) real;
    CUhostFn fn; /* that was captured last */
    void *user;
} placed;

static CUresult
note_place(CUstream stream, CUhostFn fn, void *user)
{
    fdc_store_relaxed(&placed.fn, fn); /* the answer to a later call tells of it */
    fdc_store_relaxed(&placed.user, user);
    return placed.real(stream, fn, user);
}

static void
note_places(struct fdc_driver *driver)
{
    placed.real = driver->cuLaunchHostFunc;
    driver->cuLaunchHostFunc = note_place;
}

static bool
is_placed(struct client *client, uint64_t expected)
{
    uint64_t number = 0;

    if (fdc_hostfn_number(client->serve, fdc_load_relaxed(&placed.fn),
                          fdc_load_relaxed(&placed.user), &number) != CUDA_SUCCESS)
        return false;
    CHECK_EQ(number, expected);
    return true;
}

static void
run_once(struct client *client, int nth)
{
    SEND(client, cuGraphLaunch, 0, .hGraph = EXEC, .hStream = STREAM(1));
    while (client->host_fns < nth)
        CHECK_EQ(client_take(client, -1), 1);
    CHECK_EQ(client->host_fn[nth - 1], 7);
}

/* A session that makes graphs for days does not keep what they called. */
static void
test_host_function_goes_with_its_graph(void)
{
    static struct client client;

    client_prepare = note_places;
    client_open(&client);
    client_prepare = NULL;
    client_attach(&client);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 7);
    CHECK_EQ(CALL(&client, cuStreamEndCapture, .hStream = STREAM(1), .phGraph = GRAPH), 0);
    CHECK_EQ(CALL(&client, fdcGraphMake, .exec = EXEC, .graph = GRAPH), 0);

    /* What is executable has it without its graph; what runs has it to its end. */
    SEND(&client, cuGraphDestroy, 0, .hGraph = GRAPH);
    run_once(&client, 1);
    CHECK(is_placed(&client, 7));
    client_answer_host_fn(&client, 7);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);
    CHECK(is_placed(&client, 7));
    run_once(&client, 2);
    SEND(&client, cuGraphExecDestroy, 0, .hGraphExec = EXEC);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    CHECK(is_placed(&client, 7));
    client_answer_host_fn(&client, 7);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);
    for (int i = 0; is_placed(&client, 7); i++) {
        CHECK(i < 3000);
        usleep(10000);
    }
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_captured_graph_runs_again_and_again);
    RUN(test_fence_knows_what_a_joining_stream_had_to_do);
    RUN(test_blocking_stream_that_joins_a_capture_is_known);
    RUN(test_host_function_goes_with_its_graph);
    return failed;
}
