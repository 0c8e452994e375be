/* Memory of the CPU device: allocation, quota, copies, memsets, pointers, mappings. */
#include <sys/mman.h>

#include "driver.h"

#ifdef __SANITIZE_THREAD__
enum { MIB = 1 << 20, HINTS = 0 }; /* it leaves no address free */
#else
enum { MIB = 1 << 20, HINTS = 1 };
#endif

static void
test_allocations_are_aligned_counted_and_checked(void)
{
    CUdeviceptr a, b, base;
    size_t free_before, free_after, total, size;

    start();
    OK(cuMemGetInfo_v2(&free_before, &total));
    OK(cuMemAlloc_v2(&a, 100));
    OK(cuMemAlloc_v2(&b, 3 * MIB));
    CHECK_EQ(a % 512, 0);
    CHECK_EQ(b % 512, 0);
    OK(cuMemGetInfo_v2(&free_after, &total));
    CHECK_EQ(free_before - free_after, 512 + 3 * MIB);
    OK(cuMemGetAddressRange_v2(&base, &size, b + 5));
    CHECK_EQ(base, b);
    CHECK_EQ(size, 3 * MIB);
    FAILS(INVALID_VALUE, cuMemFree_v2(a + 4));
    FAILS(INVALID_VALUE, cuMemAlloc_v2(&a, 0));
    OK(cuMemFree_v2(0));
    OK(cuMemFree_v2(b));
    FAILS(INVALID_VALUE, cuMemFree_v2(b));
    OK(cuMemFree_v2(a));
    OK(cuMemGetInfo_v2(&free_after, &total));
    CHECK_EQ(free_before, free_after);
}

static void
test_quota_is_exact(void)
{
    CUdeviceptr a, b;
    size_t room, total;

    start();
    OK(cuMemGetInfo_v2(&room, &total));
    OK(cuMemAlloc_v2(&a, room - 1024));
    FAILS(OUT_OF_MEMORY, cuMemAlloc_v2(&b, 1025));
    OK(cuMemAlloc_v2(&b, 1024));
    FAILS(OUT_OF_MEMORY, cuMemAllocAsync(&a, 1, NULL));
    OK(cuMemFree_v2(b));
    OK(cuMemAllocAsync(&b, 1024, NULL));
    OK(cuMemFreeAsync(b, NULL));
    FAILS(INVALID_VALUE, cuMemFreeAsync(b, NULL));
    OK(cuMemAllocAsync(&b, 1024, NULL));
}

static void
test_copies_go_by_address(void)
{
    char host[1000], back[1000];
    CUdeviceptr a, b;
    void *pinned;
    size_t i;

    start();
    for (i = 0; i < sizeof(host); i++)
        host[i] = (char)i;
    OK(cuMemAlloc_v2(&a, sizeof(host)));
    OK(cuMemAlloc_v2(&b, sizeof(host)));
    OK(cuMemHostAlloc(&pinned, sizeof(host), 0));
    OK(cuMemcpyHtoD_v2(a, host, sizeof(host)));
    OK(cuMemcpyDtoD_v2(b, a, sizeof(host)));
    OK(cuMemcpy((CUdeviceptr)pinned, b, sizeof(host)));
    OK(cuMemcpy((CUdeviceptr)back, (CUdeviceptr)pinned, sizeof(host)));
    CHECK_BYTES(back, host, sizeof(host));
    FAILS(INVALID_VALUE, cuMemcpyHtoD_v2(a, host, sizeof(host) + 1));
    FAILS(INVALID_VALUE, cuMemcpyDtoH_v2(back, a + 1, sizeof(host)));
    FAILS(INVALID_VALUE, cuMemcpyHtoD_v2(0x1000, host, 1));
    FAILS(INVALID_VALUE, cuMemcpyHtoD_v2((CUdeviceptr)back, host, 1));
    OK(cuMemFreeHost(pinned));
}

static void
test_boxes(void)
{
    unsigned char host[8][16], back[8][16];
    CUDA_MEMCPY2D in = {0}, out = {0};
    CUDA_ARRAY3D_DESCRIPTOR desc =
                                {
                                    .Width = 4,
                                    .Height = 8,
                                    .Format = CU_AD_FORMAT_FLOAT,
                                    .NumChannels = 1,
                                },
                            got;
    CUarray array;
    CUdeviceptr d;
    size_t pitch, i;

    start();
    for (i = 0; i < sizeof(host); i++)
        ((unsigned char *)host)[i] = (unsigned char)i;
    memset(back, 0, sizeof(back));
    OK(cuMemAllocPitch_v2(&d, &pitch, 16, 8, 4));
    CHECK_EQ(pitch % 512, 0);
    in.srcMemoryType = CU_MEMORYTYPE_HOST;
    in.srcHost = host;
    in.srcPitch = 16;
    in.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    in.dstDevice = d;
    in.dstPitch = pitch;
    in.WidthInBytes = 16;
    in.Height = 8;
    OK(cuMemcpy2D_v2(&in));
    OK(cuArray3DCreate_v2(&array, &desc));
    OK(cuArray3DGetDescriptor_v2(&got, array));
    CHECK_EQ(got.Height, 8);
    in.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    in.srcDevice = d;
    in.srcPitch = pitch;
    in.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    in.dstArray = array;
    OK(cuMemcpy2D_v2(&in));
    out.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    out.srcArray = array;
    out.srcXInBytes = 4;
    out.srcY = 1;
    out.dstMemoryType = CU_MEMORYTYPE_HOST;
    out.dstHost = back;
    out.dstPitch = 16;
    out.WidthInBytes = 8;
    out.Height = 7;
    OK(cuMemcpy2D_v2(&out));
    for (i = 0; i < 7; i++)
        CHECK_BYTES(back[i], host[i + 1] + 4, 8);
    out.WidthInBytes = 16;
    FAILS(INVALID_VALUE, cuMemcpy2D_v2(&out));
    OK(cuArrayDestroy(array));
    FAILS(INVALID_HANDLE, cuArrayDestroy(array));
}

static void
test_memsets(void)
{
    unsigned int words[64];
    CUdeviceptr d;
    size_t i;

    start();
    OK(cuMemAlloc_v2(&d, sizeof(words)));
    OK(cuMemsetD32_v2(d, 0x01020304, 64));
    OK(cuMemsetD16_v2(d + 4, 0xABCD, 2));
    OK(cuMemsetD8_v2(d + 8, 7, 3));
    OK(cuMemsetD2D8_v2(d + 64, 32, 9, 4, 2));
    OK(cuMemcpyDtoH_v2(words, d, sizeof(words)));
    CHECK_EQ(words[0], 0x01020304);
    CHECK_EQ(words[1], 0xABCDABCD);
    CHECK_EQ(words[2], 0x01070707);
    CHECK_EQ(words[16], 0x09090909);
    CHECK_EQ(words[17], 0x01020304);
    CHECK_EQ(words[24], 0x09090909);
    for (i = 25; i < 64; i++)
        CHECK_EQ(words[i], 0x01020304);
    FAILS(INVALID_VALUE, cuMemsetD32_v2(d + 2, 0, 1));
    FAILS(INVALID_VALUE, cuMemsetD8_v2(d, 0, sizeof(words) + 1));
}

static void
test_pointers_say_what_they_are(void)
{
    CUpointer_attribute what[] = {
        CU_POINTER_ATTRIBUTE_CONTEXT,        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_HOST_POINTER,
        CU_POINTER_ATTRIBUTE_IS_MANAGED,     CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    };
    unsigned int type, managed;
    int ordinal, local;
    CUcontext ctx, mine = start();
    CUdeviceptr dev, d, m;
    void *host, *pinned;
    void *out[] = {&ctx, &type, &dev, &host, &managed, &ordinal};

    OK(cuMemAlloc_v2(&d, 64));
    OK(cuMemAllocManaged(&m, 64, CU_MEM_ATTACH_GLOBAL));
    OK(cuMemHostAlloc(&pinned, 64, CU_MEMHOSTALLOC_DEVICEMAP));
    OK(cuPointerGetAttributes(6, what, out, d));
    CHECK_EQ(type, CU_MEMORYTYPE_DEVICE);
    CHECK(ctx == mine && dev == d && host == NULL && managed == 0 && ordinal == 0);
    OK(cuPointerGetAttributes(6, what, out, m));
    CHECK(managed == 1 && host == (void *)m && type == CU_MEMORYTYPE_DEVICE);
    OK(cuPointerGetAttributes(6, what, out, (CUdeviceptr)pinned + 10));
    CHECK(type == CU_MEMORYTYPE_HOST && host == (char *)pinned + 10);
    OK(cuPointerGetAttributes(6, what, out, (CUdeviceptr)&local));
    CHECK(type == 0 && ordinal == -2 && ctx == NULL);
    FAILS(INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                               (CUdeviceptr)&local));
    *(volatile int *)m = 5; /* managed memory is the program's too */
    OK(cuMemcpyDtoH_v2(&local, m, 4));
    CHECK_EQ(local, 5);
}

static void
test_registered_memory(void)
{
    CUdeviceptr d;
    unsigned int flags;
    char *p = aligned_alloc(4096, 8192);

    start();
    OK(cuMemHostRegister_v2(p, 8192, 0));
    FAILS(HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(p + 4096, 4096, 0));
    OK(cuMemHostGetDevicePointer_v2(&d, p, 0));
    CHECK(d == (CUdeviceptr)p);
    FAILS(INVALID_VALUE, cuMemHostGetFlags(&flags, p));
    OK(cuMemHostUnregister(p));
    FAILS(HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(p));
    free(p);
    p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(p, 4096);
    FAILS(INVALID_VALUE, cuMemHostRegister_v2(p, 4096, 0));
}

static void
test_mappings(void)
{
    CUmemAllocationProp prop =
                            {
                                .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE,
                                             .id = 0},
                            },
                        got;
    CUmemAccessDesc access = {
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
        .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    CUmemGenericAllocationHandle handle, same;
    const CUdeviceptr hint = 0x4a0000000000;
    size_t granule, before, after, total;
    unsigned long long flags;
    CUdeviceptr va, other;
    int value = 42;

    start();
    OK(cuMemGetInfo_v2(&before, &total));
    OK(cuMemGetAllocationGranularity(&granule, &prop,
                                     CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    CHECK_EQ(granule, 2 * MIB);
    OK(cuMemAddressReserve(&va, 4 * granule, 0, hint, 0));
    CHECK(va == hint || !HINTS);
    OK(cuMemAddressReserve(&other, granule, 0, hint, 0));
    CHECK(other != hint);
    FAILS(INVALID_VALUE, cuMemCreate(&handle, granule + 1, &prop, 0));
    OK(cuMemCreate(&handle, granule, &prop, 0));
    OK(cuMemMap(va, granule, 0, handle, 0));
    FAILS(INVALID_VALUE, cuMemMap(va, granule, 0, handle, 0));
    OK(cuMemMap(va + granule, granule, 0, handle, 0));
    FAILS(INVALID_VALUE, cuMemcpyHtoD_v2(va, &value, 4)); /* no access yet */
    OK(cuMemSetAccess(va, 2 * granule, &access, 1));
    OK(cuMemGetAccess(&flags, &access.location, va));
    CHECK_EQ(flags, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuMemcpyHtoD_v2(va, &value, 4));
    value = 0;
    OK(cuMemcpyDtoH_v2(&value, va + granule, 4));
    CHECK_EQ(value, 42);                        /* the same memory twice */
    OK(cuMemsetD8_v2(va + granule - 8, 1, 16)); /* across two mappings */
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK_EQ(before - after, granule);
    OK(cuMemRetainAllocationHandle(&same, (void *)va));
    CHECK_EQ(same, handle);
    OK(cuMemRelease(same));
    OK(cuMemRelease(handle));
    FAILS(INVALID_VALUE, cuMemRelease(handle));
    OK(cuMemRetainAllocationHandle(&same, (void *)(va + granule)));
    OK(cuMemGetAllocationPropertiesFromHandle(&got, same));
    OK(cuMemRelease(same));
    FAILS(INVALID_VALUE, cuMemAddressFree(va, 4 * granule));
    FAILS(INVALID_VALUE, cuMemUnmap(va, granule / 2));
    OK(cuMemUnmap(va, 2 * granule));
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK_EQ(before, after);
    OK(cuMemAddressFree(va, 4 * granule));
    OK(cuMemAddressReserve(&va, granule, 0, hint, 0));
    CHECK(va == hint || !HINTS);
}

static void
test_reset_frees_everything_and_keeps_the_handle(void)
{
    CUcontext ctx = start(), again;
    size_t before, after, total;
    CUdeviceptr d;
    CUstream s;
    CUevent e;

    OK(cuMemGetInfo_v2(&before, &total));
    OK(cuMemAlloc_v2(&d, MIB));
    OK(cuStreamCreate(&s, 0));
    OK(cuEventCreate(&e, 0));
    OK(cuDevicePrimaryCtxReset_v2(0));
    FAILS(CONTEXT_IS_DESTROYED, cuMemAlloc_v2(&d, MIB));
    OK(cuDevicePrimaryCtxRetain(&again, 0));
    CHECK(again == ctx);
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK_EQ(before, after);
    FAILS(INVALID_VALUE, cuMemFree_v2(d));
    FAILS(INVALID_HANDLE, cuStreamSynchronize(s));
    FAILS(INVALID_HANDLE, cuEventQuery(e));
}

static void
test_reserved_addresses_are_no_hosts(void)
{
    CUdeviceptr at, d;

    start();
    OK(cuMemAlloc_v2(&d, 4096));
    OK(cuMemAddressReserve(&at, 4 * MIB, 0, 0, 0));
    FAILS(INVALID_VALUE, cuMemcpyAsync(d, at + 16, 64, NULL));
    FAILS(INVALID_VALUE, cuMemcpyAsync(at + 16, d, 64, NULL));
    OK(cuMemAddressFree(at, 4 * MIB));
    OK(cuMemFree_v2(d));
}

int
main(void)
{
    int failed = 0;

    RUN(test_allocations_are_aligned_counted_and_checked);
    RUN(test_quota_is_exact);
    RUN(test_copies_go_by_address);
    RUN(test_boxes);
    RUN(test_memsets);
    RUN(test_pointers_say_what_they_are);
    RUN(test_registered_memory);
    RUN(test_mappings);
    RUN(test_reset_frees_everything_and_keeps_the_handle);
    RUN(test_reserved_addresses_are_no_hosts);
    return failed;
}
