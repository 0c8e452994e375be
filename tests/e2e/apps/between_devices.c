/*
 * Two devices, of one machine or of two servers: nothing blocks the caller, a stream stands
 * still at another device's event and at a copy between the two, and what mixes objects of
 * both gets the driver's errors.
 */
#include "app.h"

enum { N = 1 << 18 };

static CUcontext context[2];
static CUdeviceptr p[2], q[2];
static CUstream stream[2], other;
static CUfunction fill[2];
static CUmodule module[2];

/* The callers of all of this return before the gate opens. */
static void
nothing_blocks(void)
{
    struct app_gate gate = APP_GATE;
    CUevent event;

    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuLaunchHostFunc(stream[0], app_wait, &gate));
    CHECK(app_fill(fill[0], p[0], 11, N, stream[0]));
    CHECK(cuEventRecord(event, stream[0]));
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(app_fill(fill[1], q[1], 1, N, stream[1]));
    CHECK(cuStreamWaitEvent(stream[1], event, 0));
    CHECK(cuMemcpyPeerAsync(q[1], context[1], p[0], context[0], N * 4, stream[1]));
    app_arrived(&gate);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream[1]));
    /* Other streams of both go on meanwhile. */
    CHECK(app_fill(fill[1], p[1], 3, N, other));
    CHECK(cuStreamSynchronize(other));
    REQUIRE(app_count_wrong(p[1], 3, N) == 0);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream[1]));
    app_open(&gate);
    CHECK(cuStreamSynchronize(stream[1]));
    REQUIRE(app_count_wrong(q[1], 11, N) == 0);
    CHECK(cuEventDestroy(event));
    puts("nothing blocks the caller");
}

/* An event that is recorded again, or destroyed, while somebody waits for it. */
static void
the_record_counts(void)
{
    struct app_gate first = APP_GATE, second = APP_GATE;
    CUevent event;

    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamWaitEvent(stream[1], event, 0)); /* never recorded: no wait */
    CHECK(cuStreamSynchronize(stream[1]));
    CHECK(cuLaunchHostFunc(stream[0], app_wait, &first));
    CHECK(cuEventRecord(event, stream[0]));
    CHECK(cuStreamWaitEvent(stream[1], event, 0));
    CHECK(cuLaunchHostFunc(stream[0], app_wait, &second));
    CHECK(cuEventRecord(event, stream[0]));
    CHECK(cuEventDestroy(event));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream[1]));
    app_open(&first);
    CHECK(cuStreamSynchronize(stream[1])); /* the second record is not waited for */
    app_open(&second);
    CHECK(cuStreamSynchronize(stream[0]));
    puts("the record at the call counts");
}

/* Both wait for each other's, again and again, more often than a queue is long. */
static void
to_and_fro(void)
{
    CUevent event[2];
    int i, d;

    for (d = 0; d < 2; d++) {
        CHECK(cuCtxSetCurrent(context[d]));
        CHECK(cuEventCreate(&event[d], CU_EVENT_DISABLE_TIMING));
    }
    for (i = 0; i < 300; i++)
        for (d = 0; d < 2; d++) {
            CHECK(cuCtxSetCurrent(context[d]));
            CHECK(cuStreamWaitEvent(stream[d], event[1 - d], 0));
            CHECK(app_fill(fill[d], p[d], (unsigned)i, 16, stream[d]));
            CHECK(cuEventRecord(event[d], stream[d]));
        }
    for (d = 0; d < 2; d++) {
        CHECK(cuCtxSetCurrent(context[d]));
        CHECK(cuStreamSynchronize(stream[d]));
        REQUIRE(app_count_wrong(p[d], 299, 16) == 0);
        CHECK(cuEventDestroy(event[d]));
    }
    puts("to and fro");
}

/* Copies to the host that stand still hold what they need, and a copy between devices gets
 * through all the same. */
static void
full_of_copies(void)
{
    struct app_gate gate = APP_GATE;
    void *host[5];
    int i;

    CHECK(cuCtxSetCurrent(context[0]));
    for (i = 0; i < 5; i++)
        CHECK(cuMemAllocHost_v2(&host[i], N * 4));
    CHECK(app_fill(fill[0], p[0], 21, N, stream[0]));
    CHECK(cuStreamSynchronize(stream[0]));
    CHECK(cuLaunchHostFunc(stream[0], app_wait, &gate));
    for (i = 0; i < 5; i++)
        CHECK(cuMemcpyDtoHAsync(host[i], p[0], N * 4, stream[0]));
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuMemcpyPeerAsync(p[1], context[1], p[0], context[0], N * 4, stream[1]));
    CHECK(cuStreamSynchronize(stream[1]));
    REQUIRE(app_count_wrong(p[1], 21, N) == 0);
    app_open(&gate);
    CHECK(cuStreamSynchronize(stream[0]));
    for (i = 0; i < 5; i++)
        REQUIRE(((unsigned *)host[i])[N - 1] == 21);
    CHECK(cuCtxSetCurrent(context[0]));
    for (i = 0; i < 5; i++)
        CHECK(cuMemFreeHost(host[i]));
    puts("copies get through");
}

static void
mistakes(void)
{
    CUevent mine, theirs;
    CUdeviceptr far;
    float ms;
    int can = -1;

    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuEventCreate(&theirs, 0));
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuEventCreate(&mine, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(theirs, stream[0]));
    CHECK(cuEventRecord(mine, stream[0]));
    CHECK(cuEventRecord(theirs, stream[1])); /* whatever is current */
    CHECK(cuEventSynchronize(theirs));
    CHECK(cuEventSynchronize(mine));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, mine, theirs));
    /* A module's function is its context's alone. */
    EXPECT(CUDA_ERROR_INVALID_HANDLE, app_fill(fill[0], p[1], 1, 16, stream[1]));
    CHECK(cuDeviceCanAccessPeer(&can, 0, 1));
    REQUIRE(can == 0 || can == 1);
    /* Beyond the end of either. */
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemcpyPeer(p[0], context[0], p[1], context[1], N * 4 + 4));
    CHECK(cuMemGetInfo(&(size_t){0}, &(size_t){0}));
    /* Freed and set from wherever. */
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuMemAlloc(&far, 4096));
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuMemsetD32(far, 9, 1024));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(far, 9, 1024) == 0);
    CHECK(cuMemFree(far));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(far));
    CHECK(cuEventDestroy(mine));
    CHECK(cuEventDestroy(theirs));
    puts("mistakes");
}

/* No capture spans both, where they are two servers'; where they are one's it would. */
static void
capture(void)
{
    CUgraph graph = NULL;
    CUevent event;

    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuStreamBeginCapture(stream[1], CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventRecord(event, stream[0]));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(stream[1], event, 0));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream[1], &graph));
    /* An unsafe call is forbidden to the whole process. */
    CHECK(cuStreamBeginCapture(stream[1], CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&(CUdeviceptr){0}, 4096));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream[1], &graph));
    CHECK(cuEventDestroy(event));
    puts("capture");
}

int
main(void)
{
    int count = 0, d;

    context[0] = app_begin();
    CHECK(cuDeviceGetCount(&count));
    CHECK(cuDevicePrimaryCtxRetain(&context[1], count - 1));
    for (d = 0; d < 2; d++) {
        CHECK(cuCtxSetCurrent(context[d]));
        fill[d] = app_function(&module[d], "fill");
        CHECK(cuMemAlloc(&p[d], N * 4));
        CHECK(cuMemAlloc(&q[d], N * 4));
        CHECK(cuStreamCreate(&stream[d], CU_STREAM_NON_BLOCKING));
    }
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    nothing_blocks();
    the_record_counts();
    to_and_fro();
    full_of_copies();
    mistakes();
    capture();
    return app_end();
}
