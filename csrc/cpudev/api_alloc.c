/*
 * The table of all memory that the API knows, with the quota of each device, and the
 * calls that allocate and free: device, pitched, managed and host memory. The table is
 * a sorted array, searched by address; kernels get the same ranges through the engine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpudev.h"

static struct fdcpu_alloc *table;
static size_t count, room;

bool
fdcpu_charge(struct fdcpu_device *device, size_t size)
{
    uint64_t used = atomic_load(&device->used);

    do {
        if (size > fdcpu.opt.memory || used > fdcpu.opt.memory - size)
            return false;
    } while (!atomic_compare_exchange_weak(&device->used, &used, used + size));
    return true;
}

void
fdcpu_uncharge(struct fdcpu_device *device, size_t size)
{
    atomic_fetch_sub(&device->used, size);
}

/* Index of the first record that ends above addr. */
static size_t
lookup(uint64_t addr)
{
    size_t lo = 0, hi = count, mid;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (table[mid].hi > addr)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static int
insert(const struct fdcpu_alloc *alloc)
{
    size_t at = lookup(alloc->lo);

    if (at < count && table[at].lo < alloc->hi)
        return -EEXIST;
    if (count == room) {
        size_t want = room == 0 ? 256 : 2 * room;
        struct fdcpu_alloc *more = realloc(table, want * sizeof(*more));

        if (more == NULL)
            return -ENOMEM;
        table = more;
        room = want;
    }
    memmove(table + at + 1, table + at, (count - at) * sizeof(*table));
    table[at] = *alloc;
    if (table[at].id == 0)
        table[at].id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    count++;
    return 0;
}

unsigned int
fdcpu_alloc_widest(const struct fdcpu_alloc *alloc)
{
    unsigned int widest = 0;

    for (size_t i = 0; i < FDC_COUNT(alloc->access); i++)
        if (alloc->access[i] > widest)
            widest = alloc->access[i];
    return widest;
}

struct fdcpu_range
fdcpu_alloc_range(const struct fdcpu_alloc *alloc)
{
    struct fdcpu_range range = {
        .lo = alloc->lo, .hi = alloc->hi, .owner = (uint32_t)alloc->device->ordinal};

    switch (alloc->kind) {
    case FDCPU_A_MAPPED:
    case FDCPU_A_POOL:
        for (uint32_t i = 0; i < FDC_COUNT(alloc->access); i++) {
            range.readers |= (alloc->access[i] != 0 ? 1u : 0) << i;
            range.writers |=
                (alloc->access[i] == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? 1u : 0) << i;
        }
        break;
    case FDCPU_A_DEVICE:
    case FDCPU_A_MODULE:
    case FDCPU_A_GRAPH:
        range.flags = FDCPU_MEM_PEERS;
        break;
    default:
        break; /* the host's, and what textures read: everybody's */
    }
    if (fdcpu.opt.slack && alloc->kind != FDCPU_A_MAPPED &&
        alloc->kind != FDCPU_A_REGISTERED)
        range.hi = FDC_ALIGN_UP(range.hi, FDCPU_ALIGN);
    return range;
}

int
fdcpu_alloc_add(const struct fdcpu_alloc *alloc)
{
    struct fdcpu_range range = fdcpu_alloc_range(alloc);
    int err;

    pthread_rwlock_wrlock(&fdcpu.mem);
    err = insert(alloc);
    if (err == 0 && alloc->announced) {
        err = fdcpu_mem_add(&range);
        if (err != 0)
            memmove(table + lookup(alloc->lo), table + lookup(alloc->lo) + 1,
                    (--count - lookup(alloc->lo)) * sizeof(*table));
    }
    pthread_rwlock_unlock(&fdcpu.mem);
    return err;
}

/* Takes a record out; under mem. */
static void
extract(size_t at)
{
    if (table[at].announced)
        fdcpu_mem_del(table[at].lo);
    memmove(table + at, table + at + 1, (count - at - 1) * sizeof(*table));
    count--;
}

int
fdcpu_alloc_remove(uint64_t lo, struct fdcpu_alloc *removed)
{
    size_t at;
    int err = -ENOENT;

    pthread_rwlock_wrlock(&fdcpu.mem);
    at = lookup(lo);
    if (at < count && table[at].lo == lo) {
        *removed = table[at];
        extract(at);
        err = 0;
    }
    pthread_rwlock_unlock(&fdcpu.mem);
    return err;
}

bool
fdcpu_alloc_find(uint64_t addr, struct fdcpu_alloc *alloc)
{
    size_t at;
    bool found;

    pthread_rwlock_rdlock(&fdcpu.mem);
    at = lookup(addr);
    found = at < count && table[at].lo <= addr;
    if (found)
        *alloc = table[at];
    pthread_rwlock_unlock(&fdcpu.mem);
    return found;
}

bool
fdcpu_alloc_covers(uint64_t addr, size_t size)
{
    uint64_t end = addr + size;
    size_t at;

    if (end < addr)
        return false;
    pthread_rwlock_rdlock(&fdcpu.mem);
    for (at = lookup(addr); addr < end && at < count && table[at].lo <= addr; at++) {
        if (table[at].kind == FDCPU_A_MAPPED && fdcpu_alloc_widest(&table[at]) == 0)
            break;
        addr = table[at].hi;
    }
    pthread_rwlock_unlock(&fdcpu.mem);
    return addr >= end;
}

bool
fdcpu_alloc_change(uint64_t lo, void (*change)(struct fdcpu_alloc *, void *),
                   void *user)
{
    size_t at;
    bool found;

    pthread_rwlock_wrlock(&fdcpu.mem);
    at = lookup(lo);
    found = at < count && table[at].lo == lo;
    if (found)
        change(&table[at], user);
    pthread_rwlock_unlock(&fdcpu.mem);
    return found;
}

void
fdcpu_alloc_graph_bytes(const struct fdcpu_device *device, uint64_t *used,
                        uint64_t *reserved)
{
    size_t i;

    *used = *reserved = 0;
    pthread_rwlock_rdlock(&fdcpu.mem);
    for (i = 0; i < count; i++) {
        if (table[i].kind != FDCPU_A_GRAPH || table[i].device != device)
            continue;
        *reserved += table[i].hi - table[i].lo;
        if (table[i].held)
            *used += table[i].hi - table[i].lo;
    }
    pthread_rwlock_unlock(&fdcpu.mem);
}

void
fdcpu_alloc_each(void (*change)(struct fdcpu_alloc *, void *), void *user)
{
    pthread_rwlock_wrlock(&fdcpu.mem);
    for (size_t i = 0; i < count; i++)
        change(&table[i], user);
    pthread_rwlock_unlock(&fdcpu.mem);
}

/* Gives back what a record stood for. */
static void
release(const struct fdcpu_alloc *alloc)
{
    switch (alloc->kind) {
    case FDCPU_A_HOST:
        munmap((void *)alloc->lo, FDC_ALIGN_UP(alloc->hi - alloc->lo, 4096));
        break;
    case FDCPU_A_REGISTERED:
        break;
    case FDCPU_A_MAPPED:
        fdcpu_vmm_free(alloc);
        break;
    default:
        pthread_rwlock_wrlock(&fdcpu.mem);
        fdcpu_addr_free(alloc->lo, alloc->hi - alloc->lo);
        pthread_rwlock_unlock(&fdcpu.mem);
        fdcpu_uncharge(alloc->device, alloc->charged);
    }
}

CUresult
fdcpu_alloc_device(struct fdcpu_ctx *ctx, enum fdcpu_alloc_kind kind, size_t size,
                   size_t align, uint64_t *addr)
{
    struct fdcpu_alloc alloc = {
        .charged = FDC_ALIGN_UP(size, FDCPU_ALIGN),
        .kind = kind,
        /* The engine announces the variables in a module's memory itself. */
        .announced = kind != FDCPU_A_ARRAY && kind != FDCPU_A_MODULE,
        .preferred = CU_DEVICE_INVALID,
        .prefetched = CU_DEVICE_INVALID,
        .ctx = ctx,
        .device = ctx->device,
    };

    alloc.access[ctx->device->ordinal] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (size > fdcpu.opt.memory || !fdcpu_charge(ctx->device, alloc.charged))
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_rwlock_wrlock(&fdcpu.mem);
    alloc.lo = fdcpu_addr_alloc(size, align);
    pthread_rwlock_unlock(&fdcpu.mem);
    if (alloc.lo == 0)
        goto err_uncharge;
    alloc.hi = alloc.lo + size;
    if ((fdcpu.opt.strict & FDCPU_STRICT_DIRTY) != 0)
        memset((void *)alloc.lo, FDCPU_DIRT, size);
    if (fdcpu_alloc_add(&alloc) != 0)
        goto err_free;
    *addr = alloc.lo;
    return CUDA_SUCCESS;

err_free:
    pthread_rwlock_wrlock(&fdcpu.mem);
    fdcpu_addr_free(alloc.lo, size);
    pthread_rwlock_unlock(&fdcpu.mem);
err_uncharge:
    fdcpu_uncharge(ctx->device, alloc.charged);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult
fdcpu_alloc_free(uint64_t addr, const struct fdcpu_alloc *only)
{
    struct fdcpu_alloc alloc;

    (void)only;
    if (fdcpu_alloc_remove(addr, &alloc) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    release(&alloc);
    return CUDA_SUCCESS;
}

void
fdcpu_alloc_drop_ctx(struct fdcpu_ctx *ctx)
{
    struct fdcpu_alloc alloc;
    size_t i;

    for (;;) {
        pthread_rwlock_wrlock(&fdcpu.mem);
        for (i = 0; i < count; i++)
            if (table[i].ctx == ctx && table[i].kind != FDCPU_A_MAPPED)
                break;
        if (i == count) {
            pthread_rwlock_unlock(&fdcpu.mem);
            return;
        }
        alloc = table[i];
        extract(i);
        pthread_rwlock_unlock(&fdcpu.mem);
        if (alloc.kind == FDCPU_A_POOL)
            fdcpu_pool_freed(alloc.pool, alloc.charged);
        release(&alloc);
    }
}

/* ---- what the engine allocates: variables of modules, the heap of device code ---- */

static uint64_t
engine_alloc(void *user, size_t size, size_t align)
{
    uint64_t addr;

    return fdcpu_alloc_device(user, FDCPU_A_MODULE, size, align, &addr) == CUDA_SUCCESS
               ? addr
               : 0;
}

static void
engine_free(void *user, uint64_t addr)
{
    (void)user;
    fdcpu_alloc_free(addr, NULL);
}

struct fdcpu_allocator
fdcpu_allocator_of(struct fdcpu_ctx *ctx)
{
    return (struct fdcpu_allocator){engine_alloc, engine_free, ctx};
}

/* ---- device memory ---- */

FDC_EXPORT CUresult
cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (free_bytes == NULL || total == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *total = fdcpu.opt.memory;
    *free_bytes = fdcpu.opt.memory - atomic_load(&ctx->device->used);
    return CUDA_SUCCESS;
}

/* Enters a call that is unsafe while a stream captures. */
static CUresult
enter_unsafe(struct fdcpu_ctx **ctx)
{
    CUresult result = fdcpu_enter(ctx);

    if (result != CUDA_SUCCESS)
        return result;
    return fdcpu_capture_unsafe();
}

/* Memory, after waiting for stream-ordered frees if it is short. */
static CUresult
allocate(struct fdcpu_ctx *ctx, enum fdcpu_alloc_kind kind, size_t size, uint64_t *addr)
{
    CUresult result = fdcpu_alloc_device(ctx, kind, size, FDCPU_ALIGN, addr);

    if (result == CUDA_ERROR_OUT_OF_MEMORY && size <= fdcpu.opt.memory) {
        fdcpu_device_idle(ctx->device);
        result = fdcpu_alloc_device(ctx, kind, size, FDCPU_ALIGN, addr);
    }
    return result;
}

FDC_EXPORT CUresult
cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);
    uint64_t addr;

    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || bytesize == 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = allocate(ctx, FDCPU_A_DEVICE, bytesize, &addr);
    if (result == CUDA_SUCCESS)
        *dptr = addr;
    return result;
}

FDC_EXPORT CUresult
cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                   size_t Height, unsigned int ElementSizeBytes)
{
    size_t pitch = FDC_ALIGN_UP(WidthInBytes, 512);
    CUresult result;

    if (dptr == NULL || pPitch == NULL || WidthInBytes == 0 || Height == 0 ||
        (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
        return CUDA_ERROR_INVALID_VALUE;
    if (Height > fdcpu.opt.memory / pitch)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = cuMemAlloc_v2(dptr, pitch * Height);
    if (result == CUDA_SUCCESS)
        *pPitch = pitch;
    return result;
}

FDC_EXPORT CUresult
cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);
    uint64_t addr;

    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || bytesize == 0 ||
        (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    result = allocate(ctx, FDCPU_A_MANAGED, bytesize, &addr);
    if (result == CUDA_SUCCESS)
        *dptr = addr;
    return result;
}

FDC_EXPORT CUresult
cuMemFree_v2(CUdeviceptr dptr)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == 0)
        return CUDA_SUCCESS;
    result = fdcpu_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    if (!fdcpu_alloc_find(dptr, &alloc) || alloc.lo != dptr || alloc.freeing)
        return CUDA_ERROR_INVALID_VALUE;
    switch (alloc.kind) {
    case FDCPU_A_DEVICE:
    case FDCPU_A_MANAGED:
        fdcpu_device_idle(alloc.device);
        return fdcpu_alloc_free(dptr, &alloc);
    case FDCPU_A_POOL:
        fdcpu_device_idle(alloc.device);
        return fdcpu_pool_free_now(dptr);
    case FDCPU_A_GRAPH:
        fdcpu_device_idle(alloc.device);
        return fdcpu_graph_memory_free(dptr);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

FDC_EXPORT CUresult
cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (!fdcpu_alloc_find(dptr, &alloc))
        return CUDA_ERROR_NOT_FOUND;
    if (pbase != NULL)
        *pbase = alloc.lo;
    if (psize != NULL)
        *psize = alloc.hi - alloc.lo;
    return CUDA_SUCCESS;
}

/* ---- host memory ---- */

FDC_EXPORT CUresult
cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    struct fdcpu_alloc alloc = {
        .kind = FDCPU_A_HOST, .announced = true, .flags = Flags};
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);
    size_t size;
    void *p;

    if (result != CUDA_SUCCESS)
        return result;
    if (pp == NULL || bytesize == 0 || (Flags & ~7u) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    size = FDC_ALIGN_UP(bytesize, 4096);
    if (size < bytesize)
        return CUDA_ERROR_OUT_OF_MEMORY;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    alloc.lo = (uint64_t)p;
    alloc.hi = alloc.lo + bytesize;
    alloc.ctx = ctx;
    alloc.device = ctx->device;
    if (fdcpu_alloc_add(&alloc) != 0) {
        munmap(p, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *pp = p;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemFreeHost(void *p)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (p == NULL)
        return CUDA_SUCCESS;
    if (!fdcpu_alloc_find((uint64_t)p, &alloc) || alloc.lo != (uint64_t)p ||
        alloc.kind != FDCPU_A_HOST)
        return CUDA_ERROR_INVALID_VALUE;
    fdcpu_device_idle(alloc.device);
    return fdcpu_alloc_free(alloc.lo, &alloc);
}

FDC_EXPORT CUresult
cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    struct fdcpu_alloc alloc = {
        .kind = FDCPU_A_REGISTERED,
        .announced = true,
        .flags = Flags,
        .lo = (uint64_t)p,
        .hi = (uint64_t)p + bytesize,
    };
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);
    unsigned char resident;

    if (result != CUDA_SUCCESS)
        return result;
    if (p == NULL || bytesize == 0 || alloc.hi < alloc.lo || (Flags & ~0xFu) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    /* Memory that is not there cannot be registered. */
    if (mincore((void *)(alloc.lo & ~4095ull), 1, &resident) != 0 ||
        mincore((void *)((alloc.hi - 1) & ~4095ull), 1, &resident) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    alloc.ctx = ctx;
    alloc.device = ctx->device;
    switch (fdcpu_alloc_add(&alloc)) {
    case 0:
        return CUDA_SUCCESS;
    case -EEXIST:
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    default:
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
}

FDC_EXPORT CUresult
cuMemHostUnregister(void *p)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = enter_unsafe(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (!fdcpu_alloc_find((uint64_t)p, &alloc) || alloc.lo != (uint64_t)p ||
        alloc.kind != FDCPU_A_REGISTERED)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    fdcpu_device_idle(alloc.device);
    return fdcpu_alloc_free(alloc.lo, &alloc);
}

/* Host memory of either kind that holds p. */
static CUresult
find_host(void *p, struct fdcpu_alloc *alloc)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (!fdcpu_alloc_find((uint64_t)p, alloc) ||
        (alloc->kind != FDCPU_A_HOST && alloc->kind != FDCPU_A_REGISTERED))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    struct fdcpu_alloc alloc;
    CUresult result;

    if (pdptr == NULL || Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = find_host(p, &alloc);
    if (result == CUDA_SUCCESS)
        *pdptr = (CUdeviceptr)p;
    return result;
}

FDC_EXPORT CUresult
cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    struct fdcpu_alloc alloc;
    CUresult result;

    if (pFlags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = find_host(p, &alloc);
    if (result == CUDA_SUCCESS && alloc.kind != FDCPU_A_HOST)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *pFlags = alloc.flags | CU_MEMHOSTALLOC_DEVICEMAP;
    return result;
}
