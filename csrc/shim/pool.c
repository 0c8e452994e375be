/*
 * Pools and stream-ordered allocation, on the same allocator: an allocation is good on
 * any stream at once, and a freed block is in limbo as every other. Pools are this
 * process's own objects: they keep the books that programs ask for.
 */
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "cuda_calls.h"

struct fdc_pool {
    struct fdc_object object;
    struct fdc_device *device;
    bool standard;
    CUmemPoolProps props;
    int reuse[3];
    uint64_t threshold;
    uint64_t used, high; /* bytes, atomic */
    uint64_t readers;    /* other devices that may reach it, atomic */
};

static struct fdc_pool *
pool_new(struct fdc_device *device)
{
    struct fdc_pool *pool;

    pool = fdc_object_new(device->session, FDC_KIND_POOL, sizeof(*pool), NULL);
    if (pool == NULL)
        return NULL;
    pool->device = device;
    pool->props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    pool->props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    pool->props.location.id = device->ordinal;
    pool->reuse[0] = pool->reuse[1] = pool->reuse[2] = 1;
    return pool;
}

/* The pool of a device that is current, or the one it came with. */
static struct fdc_pool *
pool_of(struct fdc_device *device, bool standard)
{
    struct fdc_memory *memory = device->session->memory;
    struct fdc_pool *pool;

    pthread_mutex_lock(&memory->setup);
    if (device->pool[0] == NULL) {
        pool = pool_new(device);
        if (pool != NULL)
            pool->standard = true;
        device->pool[0] = device->pool[1] = pool;
    }
    pool = device->pool[standard ? 0 : 1];
    pthread_mutex_unlock(&memory->setup);
    return pool;
}

static struct fdc_pool *
pool_find(CUmemoryPool handle, CUresult *result)
{
    struct fdc_pool *pool;

    *result = fdc_session_check();
    if (*result != CUDA_SUCCESS)
        return NULL;
    pool = fdc_object_find(FDC_KIND_POOL, handle);
    if (pool == NULL)
        *result = CUDA_ERROR_INVALID_VALUE;
    return pool;
}

/* ---- allocation ---- */

/* In a capture an allocation is a node of the graph. */
static CUresult
alloc_captured(struct fdc_call *call, struct fdc_stream *stream,
               const struct fdc_pool *pool, size_t size, CUdeviceptr *dptr)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    CUresult result;

    params.alloc.poolProps = pool->props;
    params.alloc.bytesize = size;
    result = fdc_capture_memory(call, stream, &params);
    if (result == CUDA_SUCCESS)
        *dptr = params.alloc.dptr;
    return result;
}

static CUresult
alloc_async(CUdeviceptr *dptr, size_t size, CUmemoryPool handle, bool given,
            CUstream value, unsigned how)
{
    struct fdc_pool *pool;
    struct fdc_stream *stream;
    struct fdc_call call;
    uint64_t used, high;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMemGrow, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result =
            fdc_stream_resolve(&call, value, how & ~(unsigned)FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    pool = given ? fdc_object_find(FDC_KIND_POOL, handle)
                 : pool_of(call.context->device, false);
    if (pool == NULL)
        return given ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    if (fdc_stream_capturing(stream))
        return alloc_captured(&call, stream, pool, size, dptr);
    if (pool->device != call.context->device) {
        call.context = pool->device->primary;
        result = fdc_context_activate(call.context);
        if (result != CUDA_SUCCESS)
            return result;
    }
    result = fdc_memory_alloc(&call, size, FDC_BY_POOL, pool->object.handle, dptr);
    if (result != CUDA_SUCCESS)
        return result;
    used = __atomic_add_fetch(&pool->used, size, __ATOMIC_RELAXED);
    high = fdc_load_relaxed(&pool->high);
    while (used > high &&
           !__atomic_compare_exchange_n(&pool->high, &high, used, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
    return CUDA_SUCCESS;
}

FDC_TWINS(cuMemAllocAsync, _ptsz,
          (CUdeviceptr * dptr, size_t bytesize, CUstream hStream),
          alloc_async(dptr, bytesize, NULL, false, hStream, how))
FDC_TWINS(cuMemAllocFromPoolAsync, _ptsz,
          (CUdeviceptr * dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream),
          alloc_async(dptr, bytesize, pool, true, hStream, how))

void
fdc_pool_freed(uint64_t handle, uint64_t size)
{
    struct fdc_pool *pool = fdc_object_find(FDC_KIND_POOL, (void *)(uintptr_t)handle);

    if (pool != NULL)
        __atomic_sub_fetch(&pool->used, size, __ATOMIC_RELAXED);
}

static CUresult
free_async(CUdeviceptr dptr, CUstream value, unsigned how)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE};
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMemShrink, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result =
            fdc_stream_resolve(&call, value, how & ~(unsigned)FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_stream_capturing(stream)) {
        params.free.dptr = dptr;
        return fdc_capture_memory(&call, stream, &params);
    }
    return fdc_memory_free(&call, dptr);
}

FDC_TWINS(cuMemFreeAsync, _ptsz, (CUdeviceptr dptr, CUstream hStream),
          free_async(dptr, hStream, how))

/* ---- pools ---- */

static CUresult
location_device(const CUmemLocation *location, CUmemAllocationType type,
                struct fdc_device **device)
{
    if (location == NULL || type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    *device = fdc_device(location->id);
    return *device != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

FDC_EXPORT CUresult
cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    struct fdc_device *device;
    struct fdc_pool *made;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pool == NULL || poolProps == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = location_device(&poolProps->location, poolProps->allocType, &device);
    if (result != CUDA_SUCCESS)
        return result;
    if (poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED;
    made = pool_new(device);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->props = *poolProps;
    *pool = (CUmemoryPool)(uintptr_t)made->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolDestroy(CUmemoryPool handle)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);
    struct fdc_memory *memory;

    if (pool == NULL)
        return result;
    if (pool->standard)
        return CUDA_ERROR_INVALID_VALUE;
    memory = pool->device->session->memory;
    pthread_mutex_lock(&memory->setup);
    if (pool->device->pool[1] == pool)
        pool->device->pool[1] = pool->device->pool[0];
    pthread_mutex_unlock(&memory->setup);
    fdc_object_drop(pool);
    return CUDA_SUCCESS;
}

static CUresult
pool_get(CUmemoryPool *out, struct fdc_device *device, bool standard)
{
    struct fdc_pool *pool;

    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pool = pool_of(device, standard);
    if (pool == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = (CUmemoryPool)(uintptr_t)pool->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    CUresult result = fdc_session_check();

    return result != CUDA_SUCCESS ? result : pool_get(pool_out, fdc_device(dev), true);
}

FDC_EXPORT CUresult
cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    CUresult result = fdc_session_check();

    return result != CUDA_SUCCESS ? result : pool_get(pool, fdc_device(dev), false);
}

FDC_EXPORT CUresult
cuDeviceSetMemPool(CUdevice dev, CUmemoryPool handle)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);
    struct fdc_device *device;

    if (pool == NULL)
        return result;
    device = fdc_device(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (pool->device != device)
        return CUDA_ERROR_INVALID_VALUE;
    (void)pool_of(device, true);
    pthread_mutex_lock(&device->session->memory->setup);
    device->pool[1] = pool;
    pthread_mutex_unlock(&device->session->memory->setup);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                       CUmemAllocationType type)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result == CUDA_SUCCESS)
        result = location_device(location, type, &device);
    return result != CUDA_SUCCESS ? result : pool_get(pool_out, device, true);
}

FDC_EXPORT CUresult
cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result == CUDA_SUCCESS)
        result = location_device(location, type, &device);
    return result != CUDA_SUCCESS ? result : pool_get(pool, device, false);
}

FDC_EXPORT CUresult
cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result == CUDA_SUCCESS)
        result = location_device(location, type, &device);
    return result != CUDA_SUCCESS ? result : cuDeviceSetMemPool(device->ordinal, pool);
}

FDC_EXPORT CUresult
cuMemPoolTrimTo(CUmemoryPool handle, size_t minBytesToKeep)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);
    struct fdc_arena *arena;

    if (pool == NULL)
        return result;
    arena = fdc_load_acquire(&pool->device->arena);
    if (arena != NULL && minBytesToKeep <= fdc_load_relaxed(&pool->used))
        fdc_arena_trim(arena, false);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);
    uint64_t word;

    if (pool == NULL)
        return result;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        memcpy(value, &pool->reuse[attr - 1], sizeof(int));
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        word = pool->threshold;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        word = fdc_load_relaxed(&pool->used);
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        word = fdc_load_relaxed(&pool->high);
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy(value, &word, sizeof(word));
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attr, void *value)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);
    uint64_t word;

    if (pool == NULL)
        return result;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        pool->reuse[attr - 1] = *(const int *)value != 0;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        memcpy(&pool->threshold, value, sizeof(pool->threshold));
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        memcpy(&word, value, sizeof(word));
        if (word != 0)
            return CUDA_ERROR_INVALID_VALUE; /* high marks can only be reset */
        fdc_store_relaxed(&pool->high, fdc_load_relaxed(&pool->used));
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* A pool's memory lies among the device's other memory, so access is given to all of that. */
static CUresult
pool_share(struct fdc_pool *pool, struct fdc_device *reader, bool enable)
{
    uint64_t bit = 1ull << (reader->remote & 63);
    struct fdc_req_fdcPeer *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    if (((__atomic_load_n(&pool->readers, __ATOMIC_RELAXED) & bit) != 0) == enable)
        return CUDA_SUCCESS;
    if (!(fdc_device_peer(reader, pool->device) & FDC_PEER_ACCESS))
        return CUDA_ERROR_INVALID_DEVICE;
    result = fdc_call_open(&call, FDC_ID_fdcPeer, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    call.session = pool->device->session;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->owner = pool->device->remote;
    req->reader = reader->remote;
    req->enable = enable;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        __atomic_fetch_xor(&pool->readers, bit, __ATOMIC_RELAXED);
    return result;
}

FDC_EXPORT CUresult
cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *map, size_t count)
{
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);

    if (pool == NULL)
        return result;
    if (map == NULL && count != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = CUDA_SUCCESS;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
            fdc_device(map[i].location.id) == NULL)
            return CUDA_ERROR_INVALID_DEVICE;
        if (map[i].location.id == pool->device->ordinal) {
            if (map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE)
                return CUDA_ERROR_INVALID_VALUE;
            continue;
        }
        result = pool_share(pool, fdc_device(map[i].location.id),
                            map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE);
    }
    return result;
}

FDC_EXPORT CUresult
cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool handle,
                   CUmemLocation *location)
{
    const struct fdc_device *reader;
    CUresult result;
    struct fdc_pool *pool = pool_find(handle, &result);

    if (pool == NULL)
        return result;
    if (flags == NULL || location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_SUCCESS;
    reader = fdc_device(location->id);
    if (reader == pool->device ||
        (reader != NULL && reader->session == pool->device->session &&
         (__atomic_load_n(&pool->readers, __ATOMIC_RELAXED) >> (reader->remote & 63) & 1)))
        *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return CUDA_SUCCESS;
}
