/*
 * Devices 0 and 1 are one server's, 2 and 3 another's, whose worker is killed when "both work"
 * is printed. The first server's go on; the others answer errors, at once.
 */
#include "app.h"

int
main(void)
{
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
    puts("both work");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL)
        return 2;

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
