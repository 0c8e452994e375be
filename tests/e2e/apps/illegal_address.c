/* A kernel that writes where nothing is: every call fails from then on, and the device is
 * lost to the process. What a driver of NVIDIA's (580) was seen to answer. */
#include "app.h"

/* What is asked of an idle stream or a free slot of the allocator fails too. */
static void
everything_fails(CUresult error, CUdeviceptr p, CUstream stream, CUevent event)
{
    CUdeviceptr q;
    CUstream made;
    size_t free, total;
    unsigned word;

    EXPECT(error, cuMemAlloc(&q, 4096));
    EXPECT(error, cuMemFree(p));
    EXPECT(error, cuMemsetD32Async(p, 0, 1, NULL));
    EXPECT(error, cuMemcpyDtoH(&word, p, 4));
    EXPECT(error, cuMemGetInfo(&free, &total));
    EXPECT(error, cuStreamQuery(stream));
    EXPECT(error, cuStreamCreate(&made, 0));
    EXPECT(error, cuEventQuery(event));
    EXPECT(error, cuEventRecord(event, stream));
}

int
main(void)
{
    unsigned flags;
    int active = 7;
    CUstream stream;
    CUevent event;
    CUmodule module = NULL;
    CUfunction fill, wild;
    CUdevice device;
    CUcontext context;
    CUdeviceptr p;
    void *params[] = {&p, &flags, &flags};

    context = app_begin();
    CHECK(cuDeviceGet(&device, 0));
    fill = app_function(&module, "fill");
    wild = app_function(&module, "wild");
    CHECK(cuStreamCreate(&stream, 0));
    CHECK(cuEventCreate(&event, 0));
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(app_fill(fill, p, 1, 1024, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    /* Fails at once, or with the next call that waits: either is allowed. */
    (void)cuMemsetD32Async(p, 0, 1, NULL);
    {
        unsigned word;

        EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemcpyDtoH(&word, p, 4));
    }
    everything_fails(CUDA_ERROR_ILLEGAL_ADDRESS, p, stream, event);
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuModuleLoadData(&module, app_ptx));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS,
           cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxCreate_v2(&context, 0, device));
    /* The device is lost to this process: a reset does not bring it back. */
    CHECK(cuDevicePrimaryCtxReset(device));
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&p, 64));
    CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    REQUIRE(!active);
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuDevicePrimaryCtxRetain(&context, device));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxCreate_v2(&context, 0, device));
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuModuleLoadData(&module, app_ptx));
    CHECK(cuDevicePrimaryCtxRelease(device));
    return app_end();
}
