/*
 * Pinned memory: kernels read and write it through its device pointer, copies from and to
 * it follow the stream's order (a source is read when the stream gets there, not when the
 * call is made), many small allocations keep apart, boxes, memset and copies in a graph
 * work on it, and freeing and allocating again disturbs nobody.
 */
#include "app.h"

#define WORDS 5000u
#define SMALL 300

static CUmodule module;

static void
kernels_reach_it(void)
{
    CUfunction fill = app_function(&module, "fill"), copy = app_function(&module, "copy");
    unsigned *host, *mapped;
    CUdeviceptr at, at2, device;

    CHECK(cuMemHostAlloc((void **)&host, WORDS * 4, CU_MEMHOSTALLOC_DEVICEMAP));
    CHECK(cuMemAllocHost_v2((void **)&mapped, WORDS * 4));
    CHECK(cuMemHostGetDevicePointer_v2(&at, host, 0));
    CHECK(cuMemHostGetDevicePointer_v2(&at2, mapped + 1, 0));
    CHECK(cuMemAlloc(&device, WORDS * 4));
    memset(host, 0, WORDS * 4);
    CHECK(app_fill(fill, at, 17, WORDS, NULL));
    CHECK(cuCtxSynchronize());
    printf("written by a kernel: %u wrong\n", app_wrong(host, 17, WORDS));

    for (unsigned i = 0; i < WORDS; i++)
        mapped[i] = 99;
    CHECK(app_copy(copy, device, at2, WORDS - 1, NULL));
    printf("read by a kernel: %u wrong\n", app_count_wrong(device, 99, WORDS - 1));
    mapped[1] = 5;
    CHECK(app_copy(copy, at, at2, WORDS - 1, NULL));
    CHECK(cuStreamSynchronize(NULL));
    printf("both: %u, %u wrong\n", host[0], app_wrong(host + 1, 99, WORDS - 2));
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(host));
    CHECK(cuMemFreeHost(mapped));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(mapped));
}

static struct app_gate gate = APP_GATE;

/* The source changes while the copy waits for its turn. */
static void
copies_are_in_order(void)
{
    unsigned *from, *to, *back = malloc(WORDS * 4);
    CUdeviceptr device;
    CUstream stream;

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc((void **)&from, WORDS * 4, 0));
    CHECK(cuMemHostAlloc((void **)&to, WORDS * 4, 0));
    CHECK(cuMemAlloc(&device, WORDS * 4));
    for (unsigned i = 0; i < WORDS; i++)
        from[i] = 1, to[i] = 0;
    CHECK(cuLaunchHostFunc(stream, app_wait, &gate));
    CHECK(cuMemcpyHtoDAsync(device, from, WORDS * 4, stream));
    CHECK(cuMemcpyDtoHAsync(to, device, WORDS * 4, stream));
    app_arrived(&gate);
    for (unsigned i = 0; i < WORDS; i++)
        from[i] = 2;
    printf("before its turn: %u wrong\n", app_wrong(to, 0, WORDS));
    app_open(&gate);
    CHECK(cuStreamSynchronize(stream));
    printf("after it: %u wrong\n", app_wrong(to, 2, WORDS));

    for (unsigned i = 0; i < WORDS; i++)
        from[i] = 3;
    CHECK(cuMemcpyHtoD(device, from, WORDS * 4));
    for (unsigned i = 0; i < WORDS; i++)
        from[i] = 4;
    CHECK(cuMemcpyDtoH(back, device, WORDS * 4));
    printf("synchronous: %u wrong\n", app_wrong(back, 3, WORDS));
    CHECK(cuMemcpy((CUdeviceptr)(size_t)to, (CUdeviceptr)(size_t)from, WORDS * 4));
    printf("host to host: %u wrong\n", app_wrong(to, 4, WORDS));
    CHECK(cuMemcpy((CUdeviceptr)(size_t)back, (CUdeviceptr)(size_t)to, WORDS * 4));
    printf("to pageable: %u wrong\n", app_wrong(back, 4, WORDS));
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(from));
    CHECK(cuMemFreeHost(to));
    CHECK(cuStreamDestroy_v2(stream));
    free(back);
}

static void
small_ones_keep_apart(void)
{
    static unsigned *block[SMALL];
    CUfunction fill = app_function(&module, "fill");
    unsigned bad = 0, unaligned = 0;
    CUdeviceptr at;

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < SMALL; i++) {
            unsigned n = 1 + (i * 37 + round) % 200;

            CHECK(cuMemHostAlloc((void **)&block[i], n * 4, 0));
            unaligned += (size_t)block[i] % 256 != 0;
            CHECK(cuMemHostGetDevicePointer_v2(&at, block[i], 0));
            CHECK(app_fill(fill, at, i + round, n, NULL));
        }
        CHECK(cuCtxSynchronize());
        for (unsigned i = 0; i < SMALL; i++) {
            bad += app_wrong(block[i], i + round, 1 + (i * 37 + round) % 200);
            CHECK(cuMemFreeHost(block[i]));
        }
    }
    printf("small ones: %u wrong, %u unaligned\n", bad, unaligned);
}

static void
boxes(void)
{
    unsigned char *host, *back = calloc(64, 100);
    CUDA_MEMCPY2D box = { 0 };
    CUdeviceptr device;
    size_t pitch;
    unsigned bad = 0;

    CHECK(cuMemHostAlloc((void **)&host, 64 * 100, CU_MEMHOSTALLOC_PORTABLE));
    CHECK(cuMemAllocPitch_v2(&device, &pitch, 60, 50, 4));
    for (unsigned i = 0; i < 64 * 100; i++)
        host[i] = (unsigned char)(i * 7);
    box.srcMemoryType = CU_MEMORYTYPE_HOST;
    box.srcHost = host;
    box.srcPitch = 100;
    box.srcXInBytes = 3;
    box.srcY = 2;
    box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    box.dstDevice = device;
    box.dstPitch = pitch;
    box.WidthInBytes = 60;
    box.Height = 50;
    CHECK(cuMemcpy2D_v2(&box));
    memset(&box, 0, sizeof(box));
    box.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    box.srcDevice = device;
    box.srcPitch = pitch;
    box.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    box.dstDevice = (CUdeviceptr)(size_t)host;
    box.dstPitch = 64;
    box.WidthInBytes = 60;
    box.Height = 50;
    memcpy(back, host, 64 * 100);
    CHECK(cuMemcpy2DAsync_v2(&box, NULL));
    CHECK(cuCtxSynchronize());
    for (unsigned y = 0; y < 50; y++)
        for (unsigned x = 0; x < 60; x++)
            bad += host[y * 64 + x] != back[(y + 2) * 100 + x + 3];
    printf("boxes: %u wrong\n", bad);
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(host));
    free(back);
}

/* Memory of the program's own, which begins and ends anywhere. */
static void
registered(void)
{
    CUfunction fill = app_function(&module, "fill"), copy = app_function(&module, "copy");
    unsigned *block = calloc(2 * WORDS + 100, 4), *a = block + 3, *b = block + WORDS + 50;
    CUdeviceptr at, other, device;
    CUevent event;

    CHECK(cuMemHostRegister_v2(a, WORDS * 4, CU_MEMHOSTREGISTER_DEVICEMAP));
    CHECK(cuMemHostRegister_v2(b, WORDS * 4, 0));
    EXPECT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(b + 1, 40, 0));
    CHECK(cuMemHostGetDevicePointer_v2(&at, a, 0));
    CHECK(cuMemHostGetDevicePointer_v2(&other, b + 10, 0));
    CHECK(cuMemAlloc(&device, WORDS * 4));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    for (unsigned i = 0; i < WORDS; i++)
        b[i] = 71;
    CHECK(app_copy(copy, at + 40, other, WORDS - 10, NULL));
    CHECK(cuEventRecord(event, NULL));
    CHECK(cuEventSynchronize(event));
    printf("registered: %u %u %u wrong, %u beside\n", a[9], app_wrong(a + 10, 71, WORDS - 10),
           app_wrong(b, 71, WORDS), block[2] + b[WORDS]);
    a[0] = 1;
    b[20] = 72;
    CHECK(app_copy(copy, at + 8, other + 40, 1, NULL));
    CHECK(cuStreamSynchronize(NULL));
    printf("both wrote: %u %u %u\n", a[0], a[2], b[20]);
    CHECK(app_fill(fill, at, 73, WORDS, NULL));
    CHECK(cuMemcpyHtoD(device, b, WORDS * 4));
    CHECK(cuMemcpyDtoH(b, device, WORDS * 4));
    printf("after a copy: %u %u wrong\n", app_wrong(a, 73, WORDS), app_wrong(b, 71, WORDS));
    CHECK(app_fill(fill, at, 74, WORDS, NULL));
    CHECK(cuMemHostUnregister(a));
    printf("after its end: %u wrong\n", app_wrong(a, 74, WORDS));
    CHECK(cuMemHostUnregister(b));
    EXPECT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(b));
    CHECK(cuMemFree(device));
    CHECK(cuEventDestroy_v2(event));
    free(block);
}

static void
add_one(void *user)
{
    *(unsigned *)user += 1;
}

/* A function between a kernel that writes there and a copy that goes there. */
static void
functions_between(void)
{
    CUfunction fill = app_function(&module, "fill"), copy = app_function(&module, "copy");
    CUdeviceptr at, device;
    unsigned *host;
    CUstream stream;

    CHECK(cuMemHostAlloc((void **)&host, WORDS * 4, CU_MEMHOSTALLOC_DEVICEMAP));
    CHECK(cuMemHostGetDevicePointer_v2(&at, host, 0));
    CHECK(cuMemAlloc(&device, WORDS * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemsetD32(device, 83, WORDS));
    CHECK(cuCtxSynchronize());
    CHECK(app_fill(fill, at, 81, WORDS, stream));
    CHECK(cuLaunchHostFunc(stream, add_one, host));
    CHECK(cuMemcpyDtoHAsync(host + 10, device, WORDS * 4 - 40, stream));
    CHECK(app_copy(copy, device, at, WORDS, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("between: %u %u %u wrong\n", host[0], host[1], app_wrong(host + 10, 83, WORDS - 10));
    CHECK(cuMemcpyDtoH(host, device, 80));
    printf("copied: %u %u %u %u\n", host[0], host[1], host[10], host[19]);
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(host));
}

static void
what_it_is(void)
{
    unsigned int type = 0, flags = 0;
    CUdeviceptr start = 0, at = 0;
    size_t size = 0;
    void *again = NULL;
    char *host;

    CHECK(cuMemHostAlloc((void **)&host, 1000, CU_MEMHOSTALLOC_WRITECOMBINED));
    CHECK(cuMemHostGetFlags(&flags, host + 10));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                (CUdeviceptr)(size_t)(host + 999)));
    CHECK(cuPointerGetAttribute(&at, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
                                (CUdeviceptr)(size_t)(host + 10)));
    CHECK(cuPointerGetAttribute(&again, CU_POINTER_ATTRIBUTE_HOST_POINTER, at));
    CHECK(cuMemGetAddressRange_v2(&start, &size, (CUdeviceptr)(size_t)(host + 10)));
    printf("flags %u, type %u, host pointer %d, %zu bytes from %d\n", flags, type,
           again == (void *)(host + 10), size, (int)((CUdeviceptr)(size_t)host - start));
    CHECK(cuMemFreeHost(host));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemHostAlloc((void **)&host, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemHostAlloc((void **)&host, 10, 64));
    CHECK(cuMemFreeHost(NULL));
}

int
main(void)
{
    app_begin();
    kernels_reach_it();
    copies_are_in_order();
    small_ones_keep_apart();
    boxes();
    registered();
    functions_between();
    what_it_is();
    return app_end();
}
