/*
 * Devices 0 and 1 are one server's, 2 and 3 another's, whose worker is killed when "both work"
 * is printed. The first server's go on; the others answer errors, at once. What stands still
 * for the lost one goes on with its error.
 */
#include "app.h"

static struct app_gate gate = APP_GATE;

/* Streams of the first server that stand still: for an event of the second's, for a copy. */
static void
stand_still(CUcontext *context, CUdeviceptr *p, CUstream stream, CUevent event,
            CUstream *waits)
{
    CHECK(cuCtxSetCurrent(context[3]));
    CHECK(cuLaunchHostFunc(stream, app_wait, &gate));
    CHECK(cuEventRecord(event, stream));
    for (int i = 0; i < 2; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        CHECK(cuStreamCreate(&waits[i], CU_STREAM_NON_BLOCKING));
        CHECK(cuStreamWaitEvent(waits[i], event, 0));
        if (i == 1)
            CHECK(cuMemcpyPeerAsync(p[1], context[1], p[3], context[3], 4096, waits[1]));
        CHECK(cuMemsetD32Async(p[i], 8, 1024, waits[i]));
    }
    /* And one of the second's for the first. */
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventRecord(event, waits[1]));
    CHECK(cuCtxSetCurrent(context[3]));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamWaitEvent(stream, event, 0));
    for (int i = 0; i < 2; i++)
        EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits[i]));
}

static void
go_on(CUcontext *context, CUdeviceptr *p, CUstream *waits)
{
    CUresult result;

    CHECK(cuCtxSetCurrent(context[0]));
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuStreamSynchronize(waits[0]));
    CHECK(cuCtxSetCurrent(context[1]));
    result = cuStreamSynchronize(waits[1]); /* of several failures the first is told */
    REQUIRE(result == CUDA_SUCCESS || result == CUDA_ERROR_DEVICE_UNAVAILABLE);
    for (int i = 0; i < 2; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        CHECK(cuCtxSynchronize());
        REQUIRE(app_count_wrong(p[i], 8, 1024) == 0);
    }
    app_open(&gate);
}

int
main(void)
{
    CUstream waits[2];
    CUcontext context[4];
    CUdeviceptr p[4];
    CUmodule module = NULL;
    CUfunction fill;
    CUstream stream;
    CUevent event;
    CUresult result;
    char line[8];
    int i;

    context[0] = app_begin();
    for (i = 1; i < 4; i++)
        CHECK(cuDevicePrimaryCtxRetain(&context[i], i));
    for (i = 0; i < 4; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        CHECK(cuMemAlloc(&p[i], 4096));
        CHECK(cuMemsetD32(p[i], 5, 1024));
        CHECK(cuCtxSynchronize());
    }
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)); /* device 3's */
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    stand_still(context, p, stream, event, waits);
    puts("both work");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL)
        return 2;
    go_on(context, p, waits);
    CHECK(cuCtxSetCurrent(context[3]));

    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuMemsetD32(p[3], 6, 1024));
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuStreamSynchronize(stream));
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuEventRecord(event, stream));
    CHECK(cuCtxSetCurrent(context[2]));
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, cuMemcpyDtoH(line, p[2], 8));

    for (i = 0; i < 2; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        module = NULL;
        fill = app_function(&module, "fill");
        CHECK(app_fill(fill, p[i], 7, 1024, NULL));
        CHECK(cuCtxSynchronize());
        REQUIRE(app_count_wrong(p[i], 7, 1024) == 0);
        /* Between the living and the dead. */
        result = cuMemcpyPeer(p[i], context[i], p[2], context[2], 4096);
        REQUIRE(result == CUDA_ERROR_DEVICE_UNAVAILABLE);
        result = cuMemcpyPeerAsync(p[i], context[i], p[3], context[3], 4096, NULL);
        if (result == CUDA_SUCCESS)
            result = cuCtxSynchronize();
        REQUIRE(result == CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK(cuCtxSynchronize());
        REQUIRE(app_count_wrong(p[i], 7, 1024) == 0);
    }
    return app_end();
}
