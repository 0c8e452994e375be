/* Several copies in one call, flat and of boxes, with arrays too; prefetches and discards. */
#include "app.h"

static CUstream stream;

static void
flat(void)
{
    unsigned a[64], b[64], back[64];
    CUdeviceptr device[2], dsts[3], srcs[3];
    size_t sizes[3] = { 256, 256, 128 }, first[2] = { 0, 2 }, failed = 7;
    CUmemcpyAttributes attrs[2];

    for (unsigned i = 0; i < 64; i++) {
        a[i] = i;
        b[i] = 1000 + i;
        back[i] = 0;
    }
    CHECK(cuMemAlloc(&device[0], 256));
    CHECK(cuMemAlloc(&device[1], 256));
    memset(attrs, 0, sizeof(attrs));
    attrs[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    attrs[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    dsts[0] = device[0];
    srcs[0] = (CUdeviceptr)(uintptr_t)a;
    dsts[1] = device[1];
    srcs[1] = (CUdeviceptr)(uintptr_t)b;
    dsts[2] = (CUdeviceptr)(uintptr_t)back;
    srcs[2] = device[1];
    CHECK(cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 2, stream));
    memset(b, 0, sizeof(b));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(back[0] == 1000 && back[31] == 1031 && back[32] == 0);
    CHECK(cuMemcpyWithAttributesAsync(dsts[2], device[0], 256, attrs, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(memcmp(back, a, 256) == 0);

    srcs[1] = 0;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemcpyBatchAsync(dsts, srcs, sizes, 2, attrs, first, 1, &failed, stream));
    REQUIRE(failed == 1);
    first[1] = 3;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 3, attrs, first, 2, stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 1, attrs, first, 1, NULL));
    attrs[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_INVALID;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemcpyWithAttributesAsync(dsts[2], device[0], 256, attrs, stream));
}

/* The source is read before the call returns, though it is pinned and the stream is busy. */
static void
pinned(void)
{
    CUmemcpyAttributes attr;
    CUdeviceptr device;
    unsigned *source, back = 0;

    CHECK(cuMemHostAlloc((void **)&source, 64, 0));
    CHECK(cuMemAlloc(&device, 64));
    memset(&attr, 0, sizeof(attr));
    attr.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    *source = 5;
    CHECK(cuMemcpyWithAttributesAsync(device, (CUdeviceptr)(uintptr_t)source, 4, &attr,
                                      stream));
    *source = 6;
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(&back, device, 4));
    REQUIRE(back == 5);
}

/* Four rows of three floats into an array, out of wider ones, and back. */
static void
boxes(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = { .Width = 8, .Height = 8, .Depth = 0,
                                     .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1 };
    CUDA_MEMCPY3D_BATCH_OP op[2];
    float source[4][5], back[4][3];
    size_t failed = 7;
    CUarray array;

    for (int i = 0; i < 20; i++)
        source[i / 5][i % 5] = (float)i;
    memset(back, 0, sizeof(back));
    CHECK(cuArray3DCreate_v2(&array, &desc));
    memset(op, 0, sizeof(op));
    op[0].src.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
    op[0].src.op.ptr.ptr = (CUdeviceptr)(uintptr_t)source;
    op[0].src.op.ptr.rowLength = 5;
    op[0].dst.type = CU_MEMCPY_OPERAND_TYPE_ARRAY;
    op[0].dst.op.array.array = array;
    op[0].dst.op.array.offset.x = 2;
    op[0].dst.op.array.offset.y = 1;
    op[0].extent = (CUextent3D){ 3, 4, 1 };
    op[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    op[1] = op[0];
    op[1].src = op[0].dst;
    op[1].dst = op[0].src;
    op[1].dst.op.ptr.ptr = (CUdeviceptr)(uintptr_t)back;
    op[1].dst.op.ptr.rowLength = 0;
    CHECK(cuMemcpy3DBatchAsync_v2(2, op, 0, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 3; x++)
            REQUIRE(back[y][x] == source[y][x]);
    memset(back, 0, sizeof(back));
    CHECK(cuMemcpy3DWithAttributesAsync(&op[1], 0, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(back[3][2] == 17.0f);

    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DBatchAsync_v2(2, op, 1, stream));
    op[1].dst.op.ptr.rowLength = 2;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DBatchAsync(2, op, &failed, 0, stream));
    REQUIRE(failed == 1);
    op[0].extent.depth = 0;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DBatchAsync_v2(1, op, 0, stream));
    CHECK(cuArrayDestroy(array));
}

static void
ranges(CUdevice device)
{
    CUmemLocation where = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device };
    size_t size = 4096, first = 0;
    CUdeviceptr memory = 0, plain;
    int concurrent = 0, can = 0;

    CHECK(cuDeviceGetAttribute(&concurrent,
                               CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, device));
    CHECK(cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, device));
    CHECK(cuMemAlloc(&plain, size));
    if (concurrent == 0)
        EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuMemDiscardBatchAsync(&plain, &size, 1, 0, stream));
    if (concurrent == 0 || can == 0 ||
        cuMemAllocManaged(&memory, size, CU_MEM_ATTACH_GLOBAL) != CUDA_SUCCESS)
        return;
    *(unsigned *)(uintptr_t)memory = 9;
    CHECK(cuMemPrefetchBatchAsync(&memory, &size, 1, &where, &first, 1, 0, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(*(unsigned *)(uintptr_t)memory == 9);
    CHECK(cuMemDiscardBatchAsync(&memory, &size, 1, 0, stream));
    CHECK(cuMemDiscardAndPrefetchBatchAsync(&memory, &size, 1, &where, &first, 1, 0, stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemDiscardBatchAsync(&plain, &size, 1, 0, stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemDiscardBatchAsync(&memory, &size, 1, 1, stream));
    first = 1;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuMemPrefetchBatchAsync(&memory, &size, 1, &where, &first, 1, 0, stream));
    CHECK(cuStreamSynchronize(stream));
}

/* What no array here has. */
static void
arrays(CUdevice device)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = { .Width = 16, .Format = CU_AD_FORMAT_FLOAT,
                                     .NumChannels = 1 };
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs;
    CUDA_ARRAY_SPARSE_PROPERTIES sparse;
    CUarray array, plane;

    CHECK(cuArray3DCreate_v2(&array, &desc));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuArrayGetSparseProperties(&sparse, array));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuArrayGetMemoryRequirements(&needs, array, device));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuArrayGetPlane(&plane, array, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuArrayGetSparseProperties(&sparse, NULL));
    CHECK(cuArrayDestroy(array));
}

int
main(void)
{
    CUdevice device;

    app_begin();
    CHECK(cuCtxGetDevice(&device));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    flat();
    pinned();
    boxes();
    ranges(device);
    arrays(device);
    return app_end();
}
