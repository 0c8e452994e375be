/* Parts of a device: resources, green contexts, their streams and their events. */
#include "app.h"

#define SM 1 /* CU_DEV_RESOURCE_TYPE_SM */

int
main(void)
{
    CUdevResource whole, half[2], rest, back;
    CUcontext context = app_begin(), own = NULL, of = NULL;
    unsigned groups = 0, each, value = 0;
    unsigned long long id = 0, other = 0;
    CUdevResourceDesc desc;
    CUmodule module = NULL;
    CUfunction fill;
    CUdeviceptr memory;
    CUgreenCtx green, found = NULL;
    CUstream stream, plain;
    CUdevice device;
    CUevent event;
    CUresult result;

    CHECK(cuCtxGetDevice(&device));
    result = cuDeviceGetDevResource(device, &whole, SM);
    if (result == CUDA_ERROR_NOT_SUPPORTED) {
        puts("the driver has no green contexts");
        return app_end();
    }
    REQUIRE(result == CUDA_SUCCESS && whole.type == SM && whole.sm.smCount > 1);
    EXPECT(CUDA_ERROR_INVALID_RESOURCE_TYPE, cuDeviceGetDevResource(device, &whole, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetDevResource(99, &whole, SM));
    each = whole.sm.smCount / 2;
    if (each > 16)
        each = 16;
    CHECK(cuDevSmResourceSplitByCount(NULL, &groups, &whole, &rest, 0, each));
    REQUIRE(groups >= 2);
    groups = 1;
    CHECK(cuDevSmResourceSplitByCount(half, &groups, &whole, &rest, 0, each));
    REQUIRE(groups == 1 && half[0].sm.smCount == each);
    REQUIRE(rest.sm.smCount == whole.sm.smCount - each);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDevResourceGenerateDesc(&desc, NULL, 1));
    CHECK(cuDevResourceGenerateDesc(&desc, half, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGreenCtxCreate(&green, desc, device, 0));
    CHECK(cuGreenCtxCreate(&green, desc, device, 1));
    CHECK(cuGreenCtxGetDevResource(green, &back, SM));
    REQUIRE(back.sm.smCount == each);
    CHECK(cuCtxGetDevResource(context, &back, SM));
    REQUIRE(back.sm.smCount == whole.sm.smCount);
    CHECK(cuGreenCtxGetId(green, &id));
    REQUIRE(id != 0);

    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGreenCtxStreamCreate(&stream, green, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT,
           cuGreenCtxStreamCreate(&stream, NULL, CU_STREAM_NON_BLOCKING, 0));
    CHECK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
    CHECK(cuStreamCreate(&plain, 0));
    CHECK(cuStreamGetGreenCtx(stream, &found));
    REQUIRE(found == green);
    CHECK(cuStreamGetGreenCtx(plain, &found));
    REQUIRE(found == NULL);
    CHECK(cuStreamGetCtx_v2(plain, &of, &found));
    REQUIRE(of == context && found == NULL);

    /* Functions, memory and events of the primary context are good on its streams. */
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&memory, 1024));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(app_fill(fill, memory, 5, 256, stream));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuStreamWaitEvent(plain, event, 0));
    CHECK(cuMemcpyDtoHAsync(&value, memory, 4, plain));
    CHECK(cuStreamSynchronize(plain));
    REQUIRE(value == 5);

    CHECK(app_fill(fill, memory, 6, 256, stream));
    CHECK(cuGreenCtxRecordEvent(green, event));
    CHECK(cuEventSynchronize(event));
    CHECK(cuGreenCtxWaitEvent(green, event));
    CHECK(app_fill(fill, memory, 7, 256, stream));
    CHECK(cuCtxRecordEvent(context, event));
    CHECK(cuEventSynchronize(event));
    CHECK(cuCtxWaitEvent(context, event));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxRecordEvent(NULL, event));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory, 7, 256) == 0);

    CHECK(cuCtxFromGreenCtx(&own, green));
    REQUIRE(own != context);
    CHECK(cuCtxGetId(own, &other));
    REQUIRE(other == id);
    CHECK(cuCtxSetCurrent(own));
    CHECK(cuCtxGetDevResource(own, &back, SM));
    REQUIRE(back.sm.smCount == each);
    CHECK(cuStreamCreate(&plain, 0));
    CHECK(cuStreamGetGreenCtx(plain, &found));
    REQUIRE(found == green);
    CHECK(cuMemsetD32(memory, 8, 256));
    CHECK(cuCtxSynchronize());
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(own));
    CHECK(cuCtxSetCurrent(context));
    REQUIRE(app_count_wrong(memory, 8, 256) == 0);

    CHECK(cuGreenCtxDestroy(green));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuGreenCtxDestroy(NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemFree(memory));
    return app_end();
}
