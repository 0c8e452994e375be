/*
 * Devices 0 and 2 are two servers'; copies go between them until the second's worker is
 * killed in the middle of one ("take": it takes, else it gives). The copy has the lost
 * server's error, and the first server's device goes on.
 */
#include "app.h"

enum { SIZE = 24 << 20, MOST = 100000 };

int
main(int argc, char **argv)
{
    int taken = argc > 1 && strcmp(argv[1], "take") == 0;
    CUresult result = CUDA_SUCCESS;
    CUcontext context[2];
    CUmodule module = NULL;
    CUdeviceptr p[2];
    CUfunction fill;
    CUdevice device;

    app_begin();
    for (int i = 0; i < 2; i++) {
        CHECK(cuDeviceGet(&device, 2 * i));
        CHECK(cuDevicePrimaryCtxRetain(&context[i], device));
        CHECK(cuCtxSetCurrent(context[i]));
        CHECK(cuMemAlloc(&p[i], SIZE));
        CHECK(cuMemsetD32(p[i], 5, SIZE / 4));
    }
    CHECK(cuCtxSetCurrent(context[0]));
    for (int i = 0; i < MOST && result == CUDA_SUCCESS; i++) {
        result = cuMemcpyPeer(p[taken], context[taken], p[!taken], context[!taken], SIZE);
        if (i == 0)
            puts("copying");
    }
    EXPECT(CUDA_ERROR_DEVICE_UNAVAILABLE, result);
    fill = app_function(&module, "fill");
    CHECK(app_fill(fill, p[0], 7, SIZE / 4, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(p[0], 7, SIZE / 4) == 0);
    return app_end();
}
