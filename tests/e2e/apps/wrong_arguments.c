/* Mistakes come back at once and as the driver's own errors; nothing is lost by them. */
#include "app.h"

int
main(void)
{
    CUmodule module = NULL, none = NULL;
    CUfunction fill, missing;
    CUdeviceptr p;
    CUstream stream;
    CUevent event;
    CUdevice device;
    unsigned n = 16, value = 1;
    void *params[3] = { &p, &value, &n };
    int number;

    app_begin();
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 99));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(NULL, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE,
           cuDeviceGetAttribute(&number, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 99));
    fill = app_function(&module, "fill");
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&missing, module, "nowhere"));
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadData(&none, ".version 7.0\n.target sm_52\n"
                                                    ".entry broken( { this is not ptx }"));
    CHECK(cuMemAlloc(&p, 4096));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuLaunchKernel(fill, 0, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuLaunchKernel(fill, 1, 1, 1, 2048, 1, 1, 0, NULL, params, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 1 << 20, NULL, params, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE,
           cuLaunchKernel(NULL, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&stream, 0x80));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(p + 16));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&number, 0x10, 4));
    CHECK(cuMemFree(0));
    CHECK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    {
        float ms;

        EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, event, event));
    }
    CHECK(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(p, 1, 16) == 0);
    CHECK(cuCtxSetCurrent(NULL));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&p, 16));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    return app_end();
}
