/* Device memory, host memory, copies and mappings against a real worker. */
#include <pthread.h>

#include "shim/shim.h"
#include "worker.h"

#define MIB (1ull << 20)

static uint64_t
waits(void)
{
    return __atomic_load_n(&fdc_session_at(0)->waits, __ATOMIC_RELAXED);
}

static void
fill(uint8_t *bytes, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(seed >> 24);
    }
}

static void
test_bytes_go_up_and_come_down_at_every_size(void)
{
    static const size_t sizes[] = {
        1, 3, 4096, 16384, 16385, 100000, 512 << 10, (512 << 10) + 1, 20 << 20,
    };
    uint8_t *from = malloc(20 << 20), *to = malloc(20 << 20);
    CUdeviceptr device;

    worker_context();
    fill(from, 20 << 20, 1);
    CHECK_EQ(cuMemAlloc_v2(&device, 21 << 20), 0);
    for (size_t i = 0; i < FDC_COUNT(sizes); i++) {
        size_t shift = i % 3;

        memset(to, 0, sizes[i]);
        CHECK_EQ(cuMemcpyHtoD_v2(device + shift, from, sizes[i]), 0);
        CHECK_EQ(cuMemcpyDtoH_v2(to, device + shift, sizes[i]), 0);
        CHECK_BYTES(to, from, sizes[i]);
        memset(to, 0, sizes[i]);
        CHECK_EQ(cuMemcpy(device, (CUdeviceptr)(uintptr_t)from, sizes[i]), 0);
        CHECK_EQ(cuMemcpy((CUdeviceptr)(uintptr_t)to, device, sizes[i]), 0);
        CHECK_BYTES(to, from, sizes[i]);
    }
    CHECK_EQ(cuMemFree_v2(device), 0);
    worker_exit();
}

/* What follows from the client choosing the addresses. */
static void
needs_vmm(void)
{
    int vmm;

    CHECK_EQ(cuDeviceGetAttribute(
                 &vmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0),
             0);
    if (!vmm)
        CHECK_SKIP("the device has no virtual memory management");
}

static void
test_allocations_are_local_once_the_memory_is_there(void)
{
    CUdeviceptr block[64];
    uint64_t before;

    worker_context();
    needs_vmm();
    CHECK_EQ(cuMemAlloc_v2(&block[0], 1000), 0);
    before = waits();
    for (int i = 1; i < 64; i++)
        CHECK_EQ(cuMemAlloc_v2(&block[i], 1000), 0);
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(block[i] % 512, 0);
        CHECK_EQ(cuMemFree_v2(block[i]), 0);
    }
    CHECK_EQ(waits(), before);
    CHECK_EQ(cuMemFree_v2(block[0]), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemFree_v2(0), 0);
    CHECK_EQ(cuMemAlloc_v2(&block[0], 0), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

static void
test_slice_is_exact(void)
{
    CUdeviceptr block[256], large;
    size_t total, free_bytes;
    unsigned count;

    worker_context();
    CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
    CHECK_EQ(free_bytes, total);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(cuMemAlloc_v2(&large, total), 0);
        CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
        CHECK_EQ(free_bytes, 0);
        CHECK_EQ(cuMemAlloc_v2(&block[0], 1), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemFree_v2(large), 0);
        CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
        CHECK_EQ(free_bytes, total);
        for (count = 0; count < 256; count++)
            if (cuMemAlloc_v2(&block[count], 4 * MIB) != 0)
                break;
        CHECK_EQ(count, total / (4 * MIB));
        for (unsigned i = 0; i < count; i += 2)
            CHECK_EQ(cuMemFree_v2(block[i]), 0);
        CHECK_EQ(cuMemAlloc_v2(&large, (count + 1) / 2 * 4 * MIB), 0);
        CHECK_EQ(cuMemFree_v2(large), 0);
        for (unsigned i = 1; i < count; i += 2)
            CHECK_EQ(cuMemFree_v2(block[i]), 0);
    }
    worker_exit();
}

static uint32_t gate;

static void
wait_for_gate(void *user)
{
    (void)user;
    while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE))
        usleep(200);
}

static void *
open_gate_later(void *user)
{
    usleep(50000);
    __atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
    return user;
}

/* The stream stands still; what was freed behind it must not be given out. */
static void
test_freed_memory_waits_for_the_work_before_the_free(void)
{
    enum { SIZE = 1 << 20 };
    static uint8_t ones[SIZE], twos[SIZE], got[SIZE];
    CUdeviceptr a, b, c;
    CUstream stream;
    size_t total, free_bytes;
    pthread_t thread;

    worker_context();
    needs_vmm();
    memset(ones, 1, SIZE);
    memset(twos, 2, SIZE);
    CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
    CHECK_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuMemAlloc_v2(&a, total - 2 * MIB), 0);
    CHECK_EQ(cuMemAlloc_v2(&c, SIZE), 0);
    CHECK_EQ(cuLaunchHostFunc(stream, wait_for_gate, NULL), 0);
    CHECK_EQ(cuMemcpyHtoDAsync_v2(a, ones, SIZE, stream), 0);
    CHECK_EQ(cuMemcpyDtoDAsync_v2(c, a, SIZE, stream), 0);
    CHECK_EQ(cuMemFree_v2(a), 0);
    CHECK_EQ(pthread_create(&thread, NULL, open_gate_later, NULL), 0);
    /* fits only when a has gone, and so waits for the gate */
    CHECK_EQ(cuMemAlloc_v2(&b, total - 2 * MIB), 0);
    CHECK_EQ(__atomic_load_n(&gate, __ATOMIC_ACQUIRE), 1);
    CHECK_EQ(cuMemcpyHtoD_v2(b, twos, SIZE), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(cuMemcpyDtoH_v2(got, c, SIZE), 0);
    CHECK_BYTES(got, ones, SIZE);
    pthread_join(thread, NULL);
    worker_exit();
}

static void
test_pinned_copy_down_is_there_after_synchronise(void)
{
    enum { SIZE = 3 << 20 };
    uint8_t *pinned, *source = malloc(SIZE);
    CUdeviceptr a, b;
    CUstream stream;
    uint8_t got[64];
    CUevent event;

    worker_context();
    fill(source, SIZE, 7);
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuEventCreate(&event, 0), 0);
    CHECK_EQ(cuMemHostAlloc((void **)&pinned, SIZE, 0), 0);
    CHECK_EQ(cuMemAlloc_v2(&a, SIZE), 0);
    CHECK_EQ(cuMemAlloc_v2(&b, SIZE), 0);
    CHECK_EQ(cuMemcpyHtoDAsync_v2(a, source, SIZE, stream), 0);
    for (int round = 0; round < 20; round++) {
        memset(pinned, 0, SIZE);
        CHECK_EQ(cuMemcpyDtoHAsync_v2(pinned, a, SIZE, stream), 0);
        if (round % 3 == 0) {
            CHECK_EQ(cuStreamSynchronize(stream), 0);
        } else if (round % 3 == 1) {
            CHECK_EQ(cuEventRecord(event, stream), 0);
            CHECK_EQ(cuEventSynchronize(event), 0);
        } else {
            while (cuStreamQuery(stream) == CUDA_ERROR_NOT_READY)
                continue;
        }
        CHECK_BYTES(pinned, source, SIZE);
    }
    /* what comes down goes up again, without a synchronise in between */
    memset(pinned, 0, SIZE);
    CHECK_EQ(cuMemcpyDtoHAsync_v2(pinned, a, SIZE, stream), 0);
    CHECK_EQ(cuMemcpyHtoDAsync_v2(b, pinned, SIZE, stream), 0);
    CHECK_EQ(cuMemcpyDtoH_v2(got, b + SIZE - 64, 64), 0);
    CHECK_BYTES(got, source + SIZE - 64, 64);
    CHECK_EQ(cuMemcpyDtoHAsync_v2(pinned, a, SIZE, stream), 0);
    CHECK_EQ(cuMemFreeHost(pinned), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

/* A synchronous copy is over when it returns, also for streams that do not wait for it.
 */
static void
test_work_on_other_streams_finds_the_bytes(void)
{
    enum { SIZE = 6 << 20 };
    uint8_t *from = malloc(SIZE), *got = malloc(SIZE);
    CUdeviceptr a, b;
    CUstream stream;

    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuMemAlloc_v2(&a, SIZE), 0);
    CHECK_EQ(cuMemAlloc_v2(&b, SIZE), 0);
    for (uint32_t round = 0; round < 10; round++) {
        fill(from, SIZE, round);
        CHECK_EQ(cuMemcpyHtoD_v2(a, from, SIZE), 0);
        CHECK_EQ(cuMemcpyDtoDAsync_v2(b, a, SIZE, stream), 0);
        CHECK_EQ(cuMemcpyDtoHAsync_v2(got, b, SIZE, stream), 0);
        CHECK_BYTES(got, from, SIZE);
    }
    worker_exit();
}

static void
test_boxes_travel_packed(void)
{
    enum { WIDTH = 700, ROWS = 900, DEPTH = 3, PITCH = 1024 };
    static uint8_t from[DEPTH * ROWS * PITCH], got[DEPTH * ROWS * PITCH];
    CUDA_ARRAY3D_DESCRIPTOR desc = {
        .Width = 64,
        .Height = 32,
        .Format = CU_AD_FORMAT_FLOAT,
        .NumChannels = 1,
    };
    CUDA_MEMCPY3D copy;
    CUDA_MEMCPY2D flat;
    CUdeviceptr device;
    CUarray array;
    size_t pitch;

    worker_context();
    fill(from, sizeof(from), 9);
    CHECK_EQ(cuMemAllocPitch_v2(&device, &pitch, WIDTH, ROWS * DEPTH, 4), 0);
    CHECK_EQ(pitch % 512, 0);
    memset(&copy, 0, sizeof(copy));
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = from;
    copy.srcPitch = PITCH;
    copy.srcHeight = ROWS;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = device;
    copy.dstPitch = pitch;
    copy.dstHeight = ROWS;
    copy.WidthInBytes = WIDTH;
    copy.Height = ROWS;
    copy.Depth = DEPTH;
    CHECK_EQ(cuMemcpy3D_v2(&copy), 0);
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = device;
    copy.srcPitch = pitch;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = got;
    copy.dstPitch = PITCH;
    CHECK_EQ(cuMemcpy3D_v2(&copy), 0);
    for (int row = 0; row < ROWS * DEPTH; row++)
        CHECK_BYTES(got + row * PITCH, from + row * PITCH, WIDTH);
    CHECK_EQ(got[WIDTH], 0); /* between the rows nothing was written */
    copy.srcPitch = WIDTH - 1;
    CHECK_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE);

    CHECK_EQ(cuArray3DCreate_v2(&array, &desc), 0);
    memset(&flat, 0, sizeof(flat));
    flat.srcMemoryType = CU_MEMORYTYPE_HOST;
    flat.srcHost = from;
    flat.srcPitch = PITCH;
    flat.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    flat.dstArray = array;
    flat.WidthInBytes = 256;
    flat.Height = 32;
    CHECK_EQ(cuMemcpy2D_v2(&flat), 0);
    memset(got, 0, sizeof(got));
    CHECK_EQ(cuMemcpyAtoH_v2(got, array, 256 * 3 + 8, 300), 0);
    CHECK_BYTES(got, from + 3 * PITCH + 8, 248);
    CHECK_BYTES(got + 248, from + 4 * PITCH, 52);
    flat.Height = 33;
    CHECK_EQ(cuMemcpy2D_v2(&flat), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuArrayDestroy(array), 0);
    CHECK_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
    worker_exit();
}

static void
test_addresses_are_told_apart(void)
{
    CUdeviceptr device, base;
    unsigned type;
    void *pinned;
    size_t size;
    int local, ordinal;
    CUpointer_attribute which[] = {
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    };
    void *values[] = {&type, &ordinal};

    worker_context();
    CHECK_EQ(cuMemAlloc_v2(&device, 1000), 0);
    CHECK_EQ(cuMemHostAlloc(&pinned, 1000, CU_MEMHOSTALLOC_PORTABLE), 0);
    CHECK_EQ(cuMemGetAddressRange_v2(&base, &size, device + 999), 0);
    CHECK_EQ(base, device);
    CHECK_EQ(size, 1000);
    CHECK_EQ(cuMemGetAddressRange_v2(&base, &size, device + 1000),
             CUDA_ERROR_NOT_FOUND);
    CHECK_EQ(cuPointerGetAttribute(&type, which[0], device + 5), 0);
    CHECK_EQ(type, CU_MEMORYTYPE_DEVICE);
    CHECK_EQ(cuPointerGetAttribute(&type, which[0], (CUdeviceptr)(uintptr_t)pinned), 0);
    CHECK_EQ(type, CU_MEMORYTYPE_HOST);
    CHECK_EQ(cuPointerGetAttribute(&type, which[0], (CUdeviceptr)(uintptr_t)&local),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuPointerGetAttributes(2, which, values, (CUdeviceptr)(uintptr_t)&local),
             0);
    CHECK_EQ(type, 0);
    CHECK_EQ(ordinal, -2);
    /* beyond the allocation, or freed: no copy, and never taken for host memory */
    CHECK_EQ(cuMemcpyHtoD_v2(device + 996, &local, 8), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemFree_v2(device), 0);
    CHECK_EQ(cuMemcpyHtoD_v2(device, &local, 4), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemcpy(device, (CUdeviceptr)(uintptr_t)&local, 4),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemHostRegister_v2(pinned, 4096, 0),
             CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CHECK_EQ(cuMemHostUnregister(&local), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    worker_exit();
}

static void
test_program_maps_memory_of_its_own(void)
{
    CUmemAllocationProp prop = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
    };
    CUmemAccessDesc access = {
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
        .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    CUmemGenericAllocationHandle one, two;
    uint8_t bytes[64], got[64];
    int fd = -1;
    size_t granule, total, free_bytes;
    CUdeviceptr base;

    worker_context();
    needs_vmm();
    fill(bytes, 64, 3);
    CHECK_EQ(cuMemGetAllocationGranularity(&granule, &prop, 0), 0);
    CHECK_EQ(cuMemAddressReserve(&base, 4 * granule, 0, 0, 0), 0);
    CHECK_EQ(cuMemCreate(&one, granule, &prop, 0), 0);
    /* As PyTorch asks: exporting it is what is refused. */
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CHECK_EQ(cuMemCreate(&two, granule, &prop, 0), 0);
    CHECK_EQ(cuMemExportToShareableHandle(&fd, two,
                                          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
             CUDA_ERROR_NOT_SUPPORTED);
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
    CHECK_EQ(cuMemCreate(&one, granule, &prop, 0), CUDA_ERROR_NOT_SUPPORTED);
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
    CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
    CHECK_EQ(free_bytes, total - 2 * granule);
    CHECK_EQ(cuMemMap(base, granule, 0, one, 0), 0);
    CHECK_EQ(cuMemMap(base, granule, 0, two, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemMap(base + granule, granule, 0, two, 0), 0);
    CHECK_EQ(cuMemSetAccess(base, 2 * granule, &access, 1), 0);
    /* a copy across the border of the two */
    CHECK_EQ(cuMemcpyHtoD_v2(base + granule - 32, bytes, 64), 0);
    CHECK_EQ(cuMemcpyDtoH_v2(got, base + granule - 32, 64), 0);
    CHECK_BYTES(got, bytes, 64);
    CHECK_EQ(cuMemRelease(one), 0);
    CHECK_EQ(cuMemAddressFree(base, 4 * granule), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemUnmap(base, granule + 1), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemUnmap(base, 2 * granule), 0);
    CHECK_EQ(cuMemRelease(two), 0);
    CHECK_EQ(cuMemRelease(two), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemAddressFree(base, 4 * granule), 0);
    CHECK_EQ(cuMemGetInfo_v2(&free_bytes, &total), 0);
    CHECK_EQ(free_bytes, total);
    worker_exit();
}

static void
test_pools_keep_books(void)
{
    CUmemoryPool pool, found;
    uint64_t used = 1, high = 0;
    CUdeviceptr a, b;
    CUstream stream;

    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuDeviceGetDefaultMemPool(&pool, 0), 0);
    CHECK_EQ(cuDeviceGetMemPool(&found, 0), 0);
    CHECK(pool == found);
    CHECK_EQ(cuMemAllocAsync(&a, 5000, stream), 0);
    CHECK_EQ(cuMemAllocFromPoolAsync(&b, 3000, pool, stream), 0);
    CHECK_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), 0);
    CHECK_EQ(used, 8000);
    CHECK_EQ(cuPointerGetAttribute(&found, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, a), 0);
    CHECK(pool == found);
    CHECK_EQ(cuMemFreeAsync(a, stream), 0);
    CHECK_EQ(cuMemFreeAsync(a, stream), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuMemFree_v2(b), 0);
    CHECK_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), 0);
    CHECK_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high), 0);
    CHECK_EQ(used, 0);
    CHECK_EQ(high, 8000);
    CHECK_EQ(cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

static void
test_sets_are_seen_by_copies(void)
{
    uint8_t got[1000];
    CUdeviceptr a;

    worker_context();
    CHECK_EQ(cuMemAlloc_v2(&a, 1000), 0);
    CHECK_EQ(cuMemsetD8_v2(a, 0x5a, 1000), 0);
    CHECK_EQ(cuMemsetD32_v2(a + 4, 0x01020304, 2), 0);
    CHECK_EQ(cuMemcpyDtoH_v2(got, a, 1000), 0);
    CHECK_EQ(got[3], 0x5a);
    CHECK_EQ(got[4], 4);
    CHECK_EQ(got[11], 1);
    CHECK_EQ(got[12], 0x5a);
    CHECK_EQ(got[999], 0x5a);
    CHECK_EQ(cuMemsetD8_v2(a, 0, 1001), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

struct hand {
    CUcontext context;
    uint32_t seed;
};

static void *
copy_much(void *user)
{
    struct hand *hand = user;
    size_t size = (300 << 10) + hand->seed * 70000;
    uint8_t *from = malloc(size), *to = malloc(size);
    CUdeviceptr a, b;
    CUstream stream;

    CHECK_EQ(cuCtxSetCurrent(hand->context), 0);
    CHECK_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
    for (int round = 0; round < 30; round++) {
        fill(from, size, hand->seed + (uint32_t)round * 77);
        CHECK_EQ(cuMemAlloc_v2(&a, size), 0);
        CHECK_EQ(cuMemAllocAsync(&b, size, stream), 0);
        CHECK_EQ(cuMemcpyHtoDAsync_v2(a, from, size, stream), 0);
        CHECK_EQ(cuMemcpyDtoDAsync_v2(b, a, size, stream), 0);
        CHECK_EQ(cuMemcpyDtoHAsync_v2(to, b, size, stream), 0);
        CHECK_BYTES(to, from, size);
        CHECK_EQ(cuMemFree_v2(a), 0);
        CHECK_EQ(cuMemFreeAsync(b, stream), 0);
    }
    free(from);
    free(to);
    return NULL;
}

static void
test_threads_copy_at_once(void)
{
    CUcontext context = worker_context();
    struct hand hand[4];
    pthread_t thread[4];

    for (uint32_t i = 0; i < 4; i++) {
        hand[i] = (struct hand){context, i + 1};
        CHECK_EQ(pthread_create(&thread[i], NULL, copy_much, &hand[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    worker_exit();
}

static void
test_arrays_count_as_memory(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {
        .Width = 1024, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 2,
    };
    size_t before, with, after, total;
    CUmipmappedArray mipmap;
    CUarray array;

    worker_context();
    CHECK_EQ(cuMemGetInfo_v2(&before, &total), 0);
    CHECK_EQ(cuArray3DCreate_v2(&array, &desc), 0);
    CHECK_EQ(cuMemGetInfo_v2(&with, &total), 0);
    CHECK_EQ(before - with, 8 << 20);
    CHECK_EQ(cuMipmappedArrayCreate(&mipmap, &desc, 2), 0);
    CHECK_EQ(cuMemGetInfo_v2(&with, &total), 0);
    CHECK_EQ(before - with, 18 << 20);
    CHECK_EQ(cuArrayDestroy(array), 0);
    CHECK_EQ(cuMipmappedArrayDestroy(mipmap), 0);
    CHECK_EQ(cuMemGetInfo_v2(&after, &total), 0);
    CHECK_EQ(after, before);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_bytes_go_up_and_come_down_at_every_size);
    RUN(test_allocations_are_local_once_the_memory_is_there);
    RUN(test_slice_is_exact);
    RUN(test_freed_memory_waits_for_the_work_before_the_free);
    RUN(test_pinned_copy_down_is_there_after_synchronise);
    RUN(test_work_on_other_streams_finds_the_bytes);
    RUN(test_boxes_travel_packed);
    RUN(test_addresses_are_told_apart);
    RUN(test_program_maps_memory_of_its_own);
    RUN(test_pools_keep_books);
    RUN(test_sets_are_seen_by_copies);
    RUN(test_threads_copy_at_once);
    RUN(test_arrays_count_as_memory);
    return failed;
}
