/* Two devices: access between them, given and taken away, and copies either way. Kernels of
 * one read and write memory of the other. */
#include "app.h"

#define N 1024

static CUcontext context[2];
static CUfunction copy[2], fill[2];
static CUdeviceptr memory[2];

static void
setup(CUdevice d)
{
    CUmodule module = NULL;

    CHECK(cuDevicePrimaryCtxRetain(&context[d], d));
    CHECK(cuCtxSetCurrent(context[d]));
    copy[d] = app_function(&module, "copy");
    fill[d] = app_function(&module, "fill");
    CHECK(cuMemAlloc(&memory[d], N * 4));
    CHECK(cuMemsetD32(memory[d], 0, N));
    CHECK(cuCtxSynchronize()); /* before the other device writes there */
}

static void
questions(void)
{
    int can = 7, value = 7;

    CHECK(cuDeviceCanAccessPeer(&can, 0, 0));
    REQUIRE(can == 0);
    CHECK(cuDeviceCanAccessPeer(&can, 0, 1));
    printf("device 0 can reach device 1: %d\n", can);
    for (int attribute = 1; attribute <= 5; attribute++) {
        CHECK(cuDeviceGetP2PAttribute(&value, attribute, 0, 1));
        printf("attribute %d: %d\n", attribute, value);
    }
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetP2PAttribute(&value, 77, 0, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetP2PAttribute(NULL, 1, 0, 1));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetP2PAttribute(&value, 1, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetP2PAttribute(&value, 1, 0, 9));

    EXPECT(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(context[0], 0));
    EXPECT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(context[0]));
    EXPECT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(context[1]));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCtxEnablePeerAccess(context[1], 1));
}

/* Memory from before and after the call, in both directions. */
static void
reaching(void)
{
    CUdeviceptr later;

    CHECK(cuCtxEnablePeerAccess(context[1], 0));
    EXPECT(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(context[1], 0));
    CHECK(app_fill(fill[0], memory[1], 11, N, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(memory[1], 11, N) == 0);
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuMemAlloc(&later, 8 << 20));
    CHECK(cuMemsetD32(later, 22, N));
    CHECK(cuCtxSynchronize());
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(app_copy(copy[0], memory[0], later, N, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(memory[0], 22, N) == 0);
    CHECK(cuMemFree(later));
    CHECK(cuCtxDisablePeerAccess(context[1]));
    EXPECT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(context[1]));
    CHECK(cuCtxEnablePeerAccess(context[1], 0));
}

static void
copies(void)
{
    CUDA_MEMCPY3D_PEER box;
    CUstream stream;

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemsetD32(memory[0], 33, N));
    CHECK(cuMemcpyPeer(memory[1], context[1], memory[0], context[0], N * 4));
    REQUIRE(app_count_wrong(memory[1], 33, N) == 0);
    CHECK(app_fill(fill[0], memory[0], 44, N, stream));
    CHECK(cuMemcpyPeerAsync(memory[1], context[1], memory[0], context[0], N * 4, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory[1], 44, N) == 0);
    memset(&box, 0, sizeof(box));
    box.srcMemoryType = box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    box.srcDevice = memory[1];
    box.srcContext = context[1];
    box.dstDevice = memory[0];
    box.dstContext = context[0];
    box.srcPitch = box.dstPitch = 256;
    box.srcHeight = box.dstHeight = 4;
    box.WidthInBytes = 256;
    box.Height = 4;
    box.Depth = 2;
    CHECK(app_fill(fill[0], memory[0], 0, N, stream));
    CHECK(cuMemcpy3DPeerAsync(&box, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory[0], 44, 512) == 0);
    REQUIRE(app_count_wrong(memory[0] + 2048, 0, 512) == 0);
    box.srcContext = NULL;
    CHECK(cuMemcpy3DPeer(&box));
}

/* Mapped memory and memory of pools say by themselves who reaches them. */
static void
mappings(void)
{
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop;
    CUmemAccessDesc access[2];
    unsigned long long flags = 7;
    CUmemoryPool pool;
    CUmemAccess_flags pool_flags;
    CUdeviceptr at = 0;
    size_t size = 0;

    memset(&prop, 0, sizeof(prop));
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = 1;
    CHECK(cuMemGetAllocationGranularity(&size, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK(cuMemCreate(&handle, size, &prop, 0));
    CHECK(cuMemAddressReserve(&at, size, 0, 0, 0));
    CHECK(cuMemMap(at, size, 0, handle, 0));
    memset(access, 0, sizeof(access));
    access[0].location = access[1].location = prop.location;
    access[1].location.id = 0;
    access[0].flags = access[1].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CHECK(cuMemSetAccess(at, size, access, 2));
    CHECK(app_fill(fill[0], at, 55, N, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(at, 55, N) == 0);
    access[1].flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    CHECK(cuMemSetAccess(at, size, &access[1], 1));
    CHECK(cuMemGetAccess(&flags, &access[0].location, at));
    REQUIRE(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CHECK(cuMemGetAccess(&flags, &access[1].location, at));
    REQUIRE(flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
    CHECK(cuMemUnmap(at, size));
    CHECK(cuMemAddressFree(at, size));
    CHECK(cuMemRelease(handle));

    CHECK(cuDeviceGetDefaultMemPool(&pool, 1));
    CHECK(cuMemPoolGetAccess(&pool_flags, pool, &access[1].location));
    REQUIRE(pool_flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
    access[1].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CHECK(cuMemPoolSetAccess(pool, &access[1], 1));
    CHECK(cuMemPoolGetAccess(&pool_flags, pool, &access[1].location));
    REQUIRE(pool_flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuMemAllocAsync(&at, N * 4, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(app_fill(fill[0], at, 66, N, NULL));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(at, 66, N) == 0);
    access[0].flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemPoolSetAccess(pool, &access[0], 1));
}

int
main(void)
{
    int devices = 0;

    app_begin();
    CHECK(cuDeviceGetCount(&devices));
    if (devices < 2) {
        puts("one device only");
        return app_end();
    }
    setup(1);
    setup(0);
    questions();
    reaching();
    copies();
    mappings();

    /* Device 1 was never let reach device 0. */
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(app_fill(fill[1], memory[0], 1, N, NULL));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    return app_end();
}
