/* Spellings of CUDA 2 and 3: their addresses have 32 bits, and so the driver of today gives
 * one answer to nearly all of them. */
#include "app.h"

#undef cuMemAlloc
#undef cuMemFree
#undef cuMemGetInfo
#undef cuMemcpyDtoH
#undef cuMemcpyHtoD

int
main(void)
{
    unsigned int total = 0, used = 7;
    CUdeviceptr_v1 address = 7;
    CUcontext made = NULL;
    CUdevice device;
    size_t all;
    int word = 0;

    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc(&address, 64));
    CHECK(cuInit(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&address, 64));
    app_begin();
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDeviceTotalMem_v2(&all, device));
    CHECK(cuDeviceTotalMem(&total, device));
    REQUIRE(total == (all > 0xffffffff ? 0xffffffffu : (unsigned int)all));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceTotalMem(NULL, device));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceTotalMem(&total, 99));

    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuCtxCreate(&made, 0, device));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemGetInfo(&used, &total));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&address, 64));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemFree(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyHtoD(64, &word, 4));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyDtoH(&word, 64, 0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemsetD8(64, 1, 4));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuArrayGetDescriptor(NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleGetGlobal(&address, &used, NULL, "x"));
    REQUIRE(made == NULL); /* some drivers clear the numbers */

    /* The same names, as cuGetProcAddress gives them to programs of that time. */
    for (int version = 2000; version <= 3020; version += 1020) {
        CUresult (*allocate)(void *, size_t) = NULL;
        CUdeviceptr wide = 0;

        CHECK(cuGetProcAddress("cuMemAlloc", (void **)&allocate, version, 0));
        EXPECT(version < 3020 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS,
               allocate(&wide, 64));
        REQUIRE((wide != 0) == (version == 3020));
    }
    return app_end();
}
