/*
 * Captures and other threads: a thread-local capture survives another thread's
 * allocation and synchronous work; a global one is invalidated by it.
 */
#include "app.h"

enum { N = 2048 };

static CUcontext context;
static CUmodule module;
static CUresult other_alloc;

static void *
other(void *user)
{
    CUdeviceptr p = 0;

    (void)user;
    CHECK(cuCtxSetCurrent(context));
    other_alloc = cuMemAlloc(&p, 1 << 20);
    if (other_alloc == CUDA_SUCCESS)
        CHECK(cuMemFree(p));
    return NULL;
}

static void
in_another_thread(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, other, NULL);
    pthread_join(thread, NULL);
}

int
main(void)
{
    CUfunction fill, copy;
    CUdeviceptr a, b;
    CUstream stream;
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    CUstreamCaptureStatus status;
    CUstreamCaptureMode mode;
    size_t nodes = 0;

    context = app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    CHECK(cuMemAlloc(&a, N * 4));
    CHECK(cuMemAlloc(&b, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

    puts("thread-local capture");
    CHECK(cuStreamIsCapturing(stream, &status));
    REQUIRE(status == CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK(app_fill(fill, a, 11, N, stream));
    in_another_thread();
    printf("another thread's allocation: %s\n", app_error(other_alloc));
    REQUIRE(other_alloc == CUDA_SUCCESS);
    CHECK(cuStreamIsCapturing(stream, &status));
    REQUIRE(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(app_copy(copy, b, a, N, stream));
    CHECK(cuMemsetD32Async(a, 5, N, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphGetNodes(graph, NULL, &nodes));
    printf("%zu nodes\n", nodes);
    CHECK(cuMemsetD32(b, 0, N));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    REQUIRE(app_count_wrong(b, 0, N) == 0);         /* nothing ran while it was captured */
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("replayed: %u and %u wrong words\n", app_count_wrong(b, 11, N),
           app_count_wrong(a, 5, N));
    REQUIRE(app_count_wrong(b, 11, N) == 0 && app_count_wrong(a, 5, N) == 0);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));

    puts("the capturing thread's own unsafe call");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    {
        CUdeviceptr p;

        EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&p, 4096));
    }
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));

    puts("global capture");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(app_fill(fill, a, 12, N, stream));
    in_another_thread();
    printf("another thread's allocation: %s\n", app_error(other_alloc));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));

    puts("global capture, relaxed thread");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    REQUIRE(mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
    {
        CUdeviceptr p;

        CHECK(cuMemAlloc(&p, 4096));
        CHECK(cuMemFree(p));
    }
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    REQUIRE(mode == CU_STREAM_CAPTURE_MODE_RELAXED);
    CHECK(app_fill(fill, a, 13, N, stream));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(stream, &graph));
    CHECK(app_fill(fill, a, 14, N, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(a, 14, N) == 0);
    return app_end();
}
