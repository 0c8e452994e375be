/* A kernel that writes where nothing is: the error comes, sticks, and a reset cures it. */
#include "app.h"

int
main(void)
{
    CUmodule module = NULL;
    CUfunction fill, wild;
    CUdevice device;
    CUcontext context;
    CUdeviceptr p;

    context = app_begin();
    CHECK(cuDeviceGet(&device, 0));
    fill = app_function(&module, "fill");
    wild = app_function(&module, "wild");
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
    CHECK(cuDevicePrimaryCtxReset(device));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    module = NULL;
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(app_fill(fill, p, 2, 1024, NULL));
    REQUIRE(app_count_wrong(p, 2, 1024) == 0);
    return app_end();
}
