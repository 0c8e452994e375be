/* A kernel writes where nothing is, and an allocation is the first call to hear of it. From
 * then on a stream that never had any work fails as everything does. */
#include "app.h"

enum { ALLOCATIONS = 20000 };

int
main(void)
{
    CUresult result = CUDA_SUCCESS;
    CUstream working, idle;
    CUmodule module = NULL;
    CUfunction wild;
    CUdeviceptr p;

    app_begin();
    wild = app_function(&module, "wild");
    CHECK(cuStreamCreate(&working, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&idle, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamSynchronize(idle));
    CHECK(cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, working, NULL, NULL));
    for (int i = 0; i < ALLOCATIONS && result == CUDA_SUCCESS; i++) {
        /* More than any allocator keeps ready, so that the device is asked. */
        result = cuMemAlloc(&p, (size_t)64 << 20);
        if (result == CUDA_SUCCESS) {
            app_sleep_ms(1);
            result = cuMemFree(p);
        }
    }
    printf("allocating: %s\n", app_error(result));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(idle));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamQuery(idle));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    return app_end();
}
