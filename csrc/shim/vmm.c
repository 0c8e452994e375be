/*
 * The program's own virtual memory management: addresses from the session's pieces,
 * memory that the worker creates, mappings that the places know.
 */
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "cuda_calls.h"

/* Memory that cuMemCreate made: lives while it has a handle or a mapping. */
struct fdc_made {
    struct fdc_device *device;
    uint64_t size, wire;
    uint32_t handles, mappings; /* under the memory's setup lock */
    CUmemAllocationProp prop;
};

struct fdc_made_handle {
    struct fdc_object object;
    struct fdc_made *made;
};

static CUresult
prop_check(const CUmemAllocationProp *prop, struct fdc_device **device)
{
    if (prop == NULL || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    /* PyTorch asks that a descriptor could be had, whether it will want one or not:
     * cuMemExportToShareableHandle is where it is refused. */
    if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        ((int)prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    *device = fdc_device(prop->location.id);
    if (*device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    return (*device)->snapshot->granularity == 0 ? CUDA_ERROR_NOT_SUPPORTED
                                                 : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                              CUmemAllocationGranularity_flags option)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (granularity == NULL ||
        (unsigned int)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
        return CUDA_ERROR_INVALID_VALUE;
    result = prop_check(prop, &device);
    if (result == CUDA_SUCCESS)
        *granularity = device->snapshot->granularity;
    return result;
}

/* ---- addresses ---- */

/* Reservations are kept by address, so that a free must be of a whole one. */
FDC_EXPORT CUresult
cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                    unsigned long long flags)
{
    struct fdc_space *space = fdc_space();
    struct fdc_device *device;
    struct fdc_arena *arena;
    struct fdc_call call;
    uint64_t address;
    CUresult result;
    int err;

    result = fdc_call_open(&call, FDC_ID_fdcMemPiece, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    if (ptr == NULL || size == 0 || flags != 0 || (alignment & (alignment - 1)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    device = call.context != NULL ? call.context->device : fdc_device(0);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    result = fdc_memory_arena(device, &arena);
    if (result != CUDA_SUCCESS)
        return result;
    if (arena == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    result = fdc_arena_reserve(arena, size, alignment, addr, &address);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_rwlock_wrlock(&space->lock);
    err = fdc_ranges_add(space->reserved, address, size, device);
    pthread_rwlock_unlock(&space->lock);
    if (err) {
        fdc_arena_unreserve(arena, address, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *ptr = address;
    return CUDA_SUCCESS;
}

static bool
any_mapped(uint64_t address, uint64_t size)
{
    struct fdc_space *space = fdc_space();
    uint64_t base;
    void *place;

    pthread_rwlock_rdlock(&space->lock);
    place = fdc_ranges_next(space->places, address, &base, NULL);
    pthread_rwlock_unlock(&space->lock);
    return place != NULL && base < address + size;
}

FDC_EXPORT CUresult
cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    struct fdc_device *device;
    struct fdc_space *space;
    uint64_t base, whole;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    space = fdc_space();
    if (any_mapped(ptr, size))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_wrlock(&space->lock);
    device = fdc_ranges_find(space->reserved, ptr, &base, &whole);
    if (device != NULL && (base != ptr || whole != size))
        device = NULL;
    if (device != NULL)
        fdc_ranges_del(space->reserved, ptr);
    pthread_rwlock_unlock(&space->lock);
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fdc_arena_unreserve(device->arena, ptr, size);
    return CUDA_SUCCESS;
}

/* ---- memory ---- */

static CUresult
create_send(struct fdc_call *call, struct fdc_device *device, uint64_t handle,
            uint64_t size, uint32_t flags)
{
    struct fdc_req_fdcMemCreate *req;
    struct fdc_reply reply;

    call->id = FDC_ID_fdcMemCreate;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->memory = handle;
    req->device = device->remote;
    req->size = size;
    req->flags = flags;
    return fdc_call_wait(call, &reply, sizeof(reply));
}

FDC_EXPORT CUresult
cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
            const CUmemAllocationProp *prop, unsigned long long flags)
{
    struct fdc_made_handle *object;
    struct fdc_device *device;
    struct fdc_arena *arena;
    struct fdc_made *made;
    struct fdc_call call;
    CUresult result;

    result = fdc_session_check();
    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || size == 0 || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = prop_check(prop, &device);
    if (result == CUDA_SUCCESS)
        result = fdc_call_open_in(&call, device->session, FDC_ID_fdcMemCreate);
    if (result == CUDA_SUCCESS && (size & (device->snapshot->granularity - 1)) != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = fdc_context_activate(device->primary);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_arena(device, &arena);
    if (result != CUDA_SUCCESS)
        return result;
    made = calloc(1, sizeof(*made));
    object = fdc_object_new(call.session, FDC_KIND_MEMORY, sizeof(*object), NULL);
    if (made == NULL || object == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err_free;
    }
    result = create_send(&call, device, object->object.handle, size,
                         prop->allocFlags.compressionType != 0);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        fdc_memory_trim(device);
        result = create_send(&call, device, object->object.handle, size,
                             prop->allocFlags.compressionType != 0);
    }
    if (result != CUDA_SUCCESS)
        goto err_free;
    made->device = device;
    made->size = size;
    made->wire = object->object.handle;
    made->handles = 1;
    made->prop = *prop;
    object->made = made;
    fdc_arena_charge(arena, (int64_t)size);
    *handle = object->object.handle;
    return CUDA_SUCCESS;

err_free:
    if (object != NULL)
        fdc_object_drop(object);
    free(made);
    return result;
}

/* One holder less; the last tells the worker and gives the bytes back to the slice. The
 * worker itself keeps mapped memory until it is unmapped. */
static CUresult
made_put(struct fdc_made *made, bool mapping)
{
    struct fdc_session *session = made->device->session;
    struct fdc_req_fdcMemRelease *req;
    CUresult result = CUDA_SUCCESS;
    bool last_handle, gone;
    struct fdc_call call;

    pthread_mutex_lock(&session->memory->setup);
    if (mapping)
        made->mappings--;
    else
        made->handles--;
    last_handle = !mapping && made->handles == 0;
    gone = made->handles == 0 && made->mappings == 0;
    pthread_mutex_unlock(&session->memory->setup);
    if (last_handle) {
        result = fdc_call_open_in(&call, session, FDC_ID_fdcMemRelease);
        if (result == CUDA_SUCCESS) {
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL) {
                req->memory = made->wire;
                result = fdc_call_send(&call);
            } else {
                result = call.result;
            }
        }
    }
    if (gone) {
        fdc_arena_charge(made->device->arena, -(int64_t)made->size);
        free(made);
    }
    return result;
}

static struct fdc_made_handle *
made_find(CUmemGenericAllocationHandle handle, CUresult *result)
{
    struct fdc_made_handle *object;

    *result = fdc_session_check();
    if (*result != CUDA_SUCCESS)
        return NULL;
    object = fdc_object_find(FDC_KIND_MEMORY, (void *)(uintptr_t)handle);
    if (object == NULL)
        *result = CUDA_ERROR_INVALID_VALUE;
    return object;
}

FDC_EXPORT CUresult
cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult result;
    struct fdc_made_handle *object = made_find(handle, &result);
    struct fdc_made *made;
    bool last;

    if (object == NULL)
        return result;
    made = object->made;
    pthread_mutex_lock(&object->object.session->memory->setup);
    last = made->handles == 1;
    pthread_mutex_unlock(&object->object.session->memory->setup);
    if (last)
        fdc_object_drop(object);
    return made_put(made, false);
}

FDC_EXPORT CUresult
cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                       CUmemGenericAllocationHandle handle)
{
    CUresult result;
    struct fdc_made_handle *object = made_find(handle, &result);

    if (object == NULL)
        return result;
    if (prop == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *prop = object->made->prop;
    return CUDA_SUCCESS;
}

/* ---- mappings ---- */

FDC_EXPORT CUresult
cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
         CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    CUresult result;
    struct fdc_made_handle *object = made_find(handle, &result);
    struct fdc_req_fdcMemMap *req;
    struct fdc_memory *memory;
    struct fdc_reply reply;
    struct fdc_place place;
    struct fdc_made *made;
    struct fdc_call call;
    uint64_t base, whole;
    struct fdc_device *reserved;
    struct fdc_space *space;

    if (object == NULL)
        return result;
    made = object->made;
    result = fdc_call_open_in(&call, made->device->session, FDC_ID_fdcMemMap);
    if (result != CUDA_SUCCESS)
        return result;
    memory = call.session->memory;
    space = fdc_space();
    pthread_rwlock_rdlock(&space->lock);
    reserved = fdc_ranges_find(space->reserved, ptr, &base, &whole);
    pthread_rwlock_unlock(&space->lock);
    if (size == 0 || flags != 0 || offset != 0 || size != made->size ||
        reserved == NULL || reserved->session != call.session ||
        ptr - base > whole || size > whole - (ptr - base) ||
        ((ptr | size) & (made->device->snapshot->granularity - 1)) != 0)
        return CUDA_ERROR_INVALID_VALUE;

    memset(&place, 0, sizeof(place));
    place.where = FDC_DEVICE;
    place.origin = FDC_BY_MAP;
    place.device = made->device;
    place.context = made->device->primary;
    place.owner = (uint64_t)(uintptr_t)made;
    if (fdc_place_add(ptr, size, &place) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&memory->setup);
    made->mappings++;
    pthread_mutex_unlock(&memory->setup);
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
    } else {
        req->address = ptr;
        req->size = size;
        req->offset = offset;
        req->memory = made->wire;
        req->flags = 0;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
    }
    if (result != CUDA_SUCCESS && fdc_place_del(ptr) == 0)
        (void)made_put(made, true);
    return result;
}

/* Walks the mappings that make up the range; false: it is not made of whole ones. */
static bool
walk(struct fdc_session *session, uint64_t address, uint64_t size,
     void (*each)(const struct fdc_place *place))
{
    struct fdc_place place;

    while (size > 0) {
        if (!fdc_place_find(address, &place) || place.origin != FDC_BY_MAP ||
            place.device->session != session || place.base != address ||
            place.size > size)
            return false;
        if (each != NULL)
            each(&place);
        address += place.size;
        size -= place.size;
    }
    return true;
}

static void
unmap_one(const struct fdc_place *place)
{
    if (fdc_place_del(place->base) == 0)
        (void)made_put((struct fdc_made *)(uintptr_t)place->owner, true);
}

/* A call about mappings goes where the first of them lies. */
static CUresult
mapped_open(struct fdc_call *call, uint16_t id, uint64_t address)
{
    CUresult result = fdc_session_check();
    struct fdc_place place;

    if (result != CUDA_SUCCESS)
        return result;
    if (!fdc_place_find(address, &place) || place.origin != FDC_BY_MAP)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_call_open_in(call, place.device->session, id);
}

FDC_EXPORT CUresult
cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    struct fdc_req_fdcMemUnmap *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = mapped_open(&call, FDC_ID_fdcMemUnmap, ptr);
    if (result != CUDA_SUCCESS)
        return result;
    if (size == 0 || !walk(call.session, ptr, size, NULL))
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->address = ptr;
    req->size = size;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        (void)walk(call.session, ptr, size, unmap_one);
    return result;
}

FDC_EXPORT CUresult
cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    struct fdc_req_fdcMemAccess *req;
    struct fdc_device *device;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = mapped_open(&call, FDC_ID_fdcMemAccess, ptr);
    if (result != CUDA_SUCCESS)
        return result;
    if (desc == NULL || count == 0 || size == 0 ||
        !walk(call.session, ptr, size, NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE)
            return CUDA_ERROR_NOT_SUPPORTED;
        device = fdc_device(desc[i].location.id);
        if (device == NULL)
            return CUDA_ERROR_INVALID_DEVICE;
        if (device->session != call.session) /* no GPU reaches another server's memory */
            return CUDA_ERROR_INVALID_VALUE;
        req = fdc_call_begin(&call, sizeof(*req));
        if (req == NULL)
            return call.result;
        req->address = ptr;
        req->size = size;
        req->device = device->remote;
        req->flags = (uint32_t)desc[i].flags;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
        if (result == CUDA_SUCCESS)
            fdc_place_set_access(ptr, size, device->ordinal, (unsigned)desc[i].flags);
    }
    return result;
}

FDC_EXPORT CUresult
cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
               CUdeviceptr ptr)
{
    struct fdc_place place;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL || location == NULL ||
        location->type != CU_MEM_LOCATION_TYPE_DEVICE ||
        fdc_device(location->id) == NULL ||
        !fdc_place_find(ptr, &place) || place.origin != FDC_BY_MAP)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = location->id < 32 ? place.access >> (2 * location->id) & 3 : 0;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    struct fdc_made_handle *object;
    struct fdc_place place;
    struct fdc_made *made;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL ||
        !fdc_place_find((uint64_t)(uintptr_t)addr, &place) ||
        place.origin != FDC_BY_MAP)
        return CUDA_ERROR_INVALID_VALUE;
    made = (struct fdc_made *)(uintptr_t)place.owner;
    object = fdc_object_find(FDC_KIND_MEMORY, (void *)(uintptr_t)made->wire);
    if (object == NULL)
        return CUDA_ERROR_NOT_SUPPORTED; /* its last handle was released */
    pthread_mutex_lock(&made->device->session->memory->setup);
    made->handles++;
    pthread_mutex_unlock(&made->device->session->memory->setup);
    *handle = made->wire;
    return CUDA_SUCCESS;
}
