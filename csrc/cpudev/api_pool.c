/*
 * Stream-ordered allocation. Memory is found when it is asked for, so the address is
 * good for work on any stream; it is given back where its free stands in the stream.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

struct fdcpu_pool {
    uint64_t handle;
    struct fdcpu_device *device;
    CUmemPoolProps props;
    bool is_default;
    int reuse[3];
    uint64_t threshold;
    _Atomic uint64_t used, high;
    uint8_t access[FDCPU_MAX_DEVICES]; /* under mem */
};

static struct fdcpu_pool *
pool_new(struct fdcpu_device *device)
{
    struct fdcpu_pool *pool = calloc(1, sizeof(*pool));

    if (pool == NULL)
        return NULL;
    pool->device = device;
    pool->access[device->ordinal] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    pool->reuse[0] = pool->reuse[1] = pool->reuse[2] = 1;
    pool->handle = fdcpu_handle_new(FDCPU_H_POOL, pool);
    return pool;
}

void
fdcpu_pool_init(struct fdcpu_device *device)
{
    device->default_pool = device->pool = pool_new(device);
    if (device->pool != NULL)
        device->pool->is_default = true;
}

void
fdcpu_pool_freed(struct fdcpu_pool *pool, size_t size)
{
    if (pool != NULL)
        atomic_fetch_sub(&pool->used, size);
}

CUresult
fdcpu_pool_free_now(uint64_t addr)
{
    struct fdcpu_alloc alloc;

    if (!fdcpu_alloc_find(addr, &alloc) || alloc.lo != addr ||
        (alloc.kind != FDCPU_A_POOL && alloc.kind != FDCPU_A_GRAPH &&
         alloc.kind != FDCPU_A_DEVICE))
        return CUDA_ERROR_INVALID_VALUE;
    if (alloc.kind == FDCPU_A_GRAPH && !alloc.orphan)
        return CUDA_SUCCESS; /* the graph keeps its addresses */
    if (alloc.kind == FDCPU_A_POOL)
        fdcpu_pool_freed(alloc.pool, alloc.charged);
    return fdcpu_alloc_free(addr, &alloc);
}

/* Kernels are told who reaches it now; under mem. */
static void
set_access(struct fdcpu_alloc *alloc, void *user)
{
    struct fdcpu_pool *pool = user;
    struct fdcpu_range range;

    if (alloc->pool != pool || alloc->kind != FDCPU_A_POOL ||
        memcmp(alloc->access, pool->access, sizeof(alloc->access)) == 0)
        return;
    memcpy(alloc->access, pool->access, sizeof(alloc->access));
    if (!alloc->announced)
        return;
    range = fdcpu_alloc_range(alloc);
    fdcpu_mem_del(alloc->lo);
    alloc->announced = fdcpu_mem_add(&range) == 0;
}

static void
set_pool(struct fdcpu_alloc *alloc, void *pool)
{
    alloc->pool = pool;
    set_access(alloc, pool);
}

static CUresult
alloc_async(CUdeviceptr *dptr, size_t size, struct fdcpu_pool *pool, CUstream hStream)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    uint64_t addr, used, high;

    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (pool == NULL)
        pool = stream->ctx->device->pool;
    if (stream->capture != NULL) {
        work = fdcpu_work_new(FDCPU_W_ALLOC, stream->ctx);
        if (work == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        result =
            fdcpu_alloc_device(stream->ctx, FDCPU_A_GRAPH, size, FDCPU_ALIGN, &addr);
        if (result != CUDA_SUCCESS) {
            fdcpu_work_free(work);
            return result;
        }
        work->u.alloc.params.bytesize = size;
        work->u.alloc.params.poolProps = pool->props;
        work->u.alloc.params.dptr = addr;
        *dptr = addr;
        return fdcpu_stream_do(stream, work, 0);
    }
    result = fdcpu_alloc_device(stream->ctx, FDCPU_A_POOL, size, FDCPU_ALIGN, &addr);
    if (result == CUDA_ERROR_OUT_OF_MEMORY && size <= fdcpu.opt.memory) {
        fdcpu_device_idle(stream->ctx->device);
        result =
            fdcpu_alloc_device(stream->ctx, FDCPU_A_POOL, size, FDCPU_ALIGN, &addr);
    }
    if (result != CUDA_SUCCESS)
        return result;
    fdcpu_alloc_change(addr, set_pool, pool);
    size = FDC_ALIGN_UP(size, FDCPU_ALIGN);
    used = atomic_fetch_add(&pool->used, size) + size;
    high = atomic_load(&pool->high);
    while (used > high && !atomic_compare_exchange_weak(&pool->high, &high, used))
        ;
    *dptr = addr;
    return CUDA_SUCCESS;
}

FDCPU_TWIN(cuMemAllocAsync, _ptsz,
           (CUdeviceptr * dptr, size_t bytesize, CUstream hStream),
           alloc_async(dptr, bytesize, NULL, S(hStream)))

static CUresult
alloc_from(CUdeviceptr *dptr, size_t size, CUmemoryPool handle, CUstream hStream)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);

    if (pool == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return alloc_async(dptr, size, pool, hStream);
}

FDCPU_TWIN(cuMemAllocFromPoolAsync, _ptsz,
           (CUdeviceptr * dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream),
           alloc_from(dptr, bytesize, pool, S(hStream)))

static void
set_freeing(struct fdcpu_alloc *alloc, void *result)
{
    if (alloc->freeing || (alloc->kind == FDCPU_A_GRAPH && !alloc->held))
        *(CUresult *)result = CUDA_ERROR_INVALID_VALUE;
    else if (alloc->kind == FDCPU_A_GRAPH)
        alloc->held = false;
    else
        alloc->freeing = true;
}

static CUresult
free_async(CUdeviceptr dptr, CUstream hStream)
{
    struct fdcpu_stream *stream;
    struct fdcpu_alloc alloc;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!fdcpu_alloc_find(dptr, &alloc) || alloc.lo != dptr)
        return CUDA_ERROR_INVALID_VALUE;
    if (alloc.kind != FDCPU_A_POOL && alloc.kind != FDCPU_A_GRAPH &&
        alloc.kind != FDCPU_A_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    work = fdcpu_work_new(FDCPU_W_FREE, stream->ctx);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.free = dptr;
    if (stream->capture == NULL)
        fdcpu_alloc_change(dptr, set_freeing, &result);
    if (result != CUDA_SUCCESS) {
        fdcpu_work_free(work);
        return result;
    }
    return fdcpu_stream_do(stream, work, 0);
}

FDCPU_TWIN(cuMemFreeAsync, _ptsz, (CUdeviceptr dptr, CUstream hStream),
           free_async(dptr, S(hStream)))

/* ---- pools ---- */

FDC_EXPORT CUresult
cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    struct fdcpu_device *device;
    struct fdcpu_pool *made;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || poolProps == NULL ||
        poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED;
    device = fdcpu_device_get(poolProps->location.id);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    made = pool_new(device);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->props = *poolProps;
    *pool = (CUmemoryPool)(uintptr_t)made->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolDestroy(CUmemoryPool handle)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || pool->is_default)
        return CUDA_ERROR_INVALID_VALUE;
    if (pool->device->pool == pool)
        pool->device->pool = pool->device->default_pool;
    /* Blocks of it may live on; the few bytes of the pool stay with them. */
    fdcpu_handle_drop(FDCPU_H_POOL, pool->handle);
    return CUDA_SUCCESS;
}

static CUresult
pool_of_device(CUmemoryPool *out, CUdevice dev, bool standard)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *out = (CUmemoryPool)(uintptr_t)(standard ? device->default_pool : device->pool)
               ->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    return pool_of_device(pool_out, dev, true);
}

FDC_EXPORT CUresult
cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    return pool_of_device(pool, dev, false);
}

FDC_EXPORT CUresult
cuDeviceSetMemPool(CUdevice dev, CUmemoryPool handle)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || pool->device != device)
        return CUDA_ERROR_INVALID_VALUE;
    device->pool = pool;
    return CUDA_SUCCESS;
}

static CUresult
pool_at(CUmemoryPool *out, const CUmemLocation *location, CUmemAllocationType type,
        bool standard)
{
    if (location == NULL || type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    return pool_of_device(out, location->id, standard);
}

FDC_EXPORT CUresult
cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                       CUmemAllocationType type)
{
    return pool_at(pool_out, location, type, true);
}

FDC_EXPORT CUresult
cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
    return pool_at(pool, location, type, false);
}

FDC_EXPORT CUresult
cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
    if (location == NULL || type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    return cuDeviceSetMemPool(location->id, pool);
}

FDC_EXPORT CUresult
cuMemPoolTrimTo(CUmemoryPool handle, size_t minBytesToKeep)
{
    CUresult result = fdcpu_check();

    (void)minBytesToKeep; /* nothing is kept back */
    if (result != CUDA_SUCCESS)
        return result;
    return FDCPU_GET(FDCPU_H_POOL, handle) == NULL ? CUDA_ERROR_INVALID_VALUE
                                                   : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case 1:
    case 2:
    case 3:
        *(int *)value = pool->reuse[attr - 1];
        break;
    case 4:
        *(cuuint64_t *)value = pool->threshold;
        break;
    case 5:
    case 7: /* reserved, used: nothing is held beyond use */
        *(cuuint64_t *)value = atomic_load(&pool->used);
        break;
    case 6:
    case 8:
        *(cuuint64_t *)value = atomic_load(&pool->high);
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case 1:
    case 2:
    case 3:
        pool->reuse[attr - 1] = *(int *)value != 0;
        break;
    case 4:
        pool->threshold = *(cuuint64_t *)value;
        break;
    case 6:
    case 8: /* high marks can only be reset */
        if (*(cuuint64_t *)value != 0)
            return CUDA_ERROR_INVALID_VALUE;
        atomic_store(&pool->high, atomic_load(&pool->used));
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *map, size_t count)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    CUresult result = fdcpu_check();
    size_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || (map == NULL && count != 0))
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < count; i++) {
        if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
            fdcpu_device_get(map[i].location.id) == NULL)
            return CUDA_ERROR_INVALID_DEVICE;
        if (map[i].location.id == pool->device->ordinal && map[i].flags == 0)
            return CUDA_ERROR_INVALID_VALUE;
    }
    for (i = 0; i < count; i++)
        pool->access[map[i].location.id] = (uint8_t)map[i].flags;
    fdcpu_alloc_each(set_access, pool);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool handle,
                   CUmemLocation *location)
{
    struct fdcpu_pool *pool = FDCPU_GET(FDCPU_H_POOL, handle);
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL || location == NULL || pool == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = location->type == CU_MEM_LOCATION_TYPE_DEVICE &&
                     fdcpu_device_get(location->id) != NULL
                 ? pool->access[location->id]
                 : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}
