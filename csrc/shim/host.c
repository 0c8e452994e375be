/*
 * Host memory. Where the session can, what is allocated here is shared with the worker at
 * one address (shared.c), and then the device reaches it. Else, and where memory of the
 * program's own is registered, it is remembered as pinned: copies know by the place that
 * they may be asynchronous, and mapped.c sees to kernels.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "managed.h"
#include "cuda_calls.h"

#define OWN_HINT 0x4fe000000000ull
#define OWN_SIZE 0x001000000000ull

/* Memory of this process alone. */
static CUresult
own_alloc(struct fdc_session *session, size_t size, uint64_t *address)
{
    size_t whole = FDC_ALIGN_UP(size, (size_t)4096);
    uint64_t hint;
    void *memory;

    if (whole < size)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* Where the worker's process has room too, should kernels want to reach it. */
    hint = OWN_HINT + __atomic_fetch_add(&session->memory->own_hint, whole,
                                         __ATOMIC_RELAXED) % OWN_SIZE;
    memory = mmap((void *)(uintptr_t)hint, whole, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *address = (uint64_t)(uintptr_t)memory;
    return CUDA_SUCCESS;
}

static void
release(struct fdc_session *session, const struct fdc_place *place)
{
    if (place->shared)
        fdc_shared_free(session, place->base);
    else
        munmap((void *)(uintptr_t)place->base, FDC_ALIGN_UP(place->size, 4096ull));
}

FDC_EXPORT CUresult
cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    struct fdc_place place = {
        .where = FDC_HOST_PINNED,
        .origin = FDC_BY_HOST_ALLOC,
        .flags = Flags,
    };
    struct fdc_call call;
    CUresult result;

    result =
        fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (pp == NULL || bytesize == 0 || (Flags & ~7u) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_shared_alloc(call.session, bytesize, &place.base);
    place.shared = result == CUDA_SUCCESS;
    if (result == CUDA_ERROR_NOT_SUPPORTED)
        result = own_alloc(call.session, bytesize, &place.base);
    if (result != CUDA_SUCCESS)
        return result;
    place.size = bytesize;
    place.context = call.context;
    place.device = call.context->device;
    if (fdc_place_add(place.base, bytesize, &place) != 0) {
        release(call.session, &place);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!place.shared)
        fdc_mapped_note(&place);
    *pp = (void *)(uintptr_t)place.base;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemFreeHost(void *p)
{
    struct fdc_place place;
    struct fdc_call call;
    CUresult result;

    result =
        fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_INIT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS || p == NULL)
        return result;
    if (!fdc_place_find((uint64_t)(uintptr_t)p, &place) ||
        place.origin != FDC_BY_HOST_ALLOC || place.base != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_pending_wait(p, place.size);
    if (result != CUDA_SUCCESS)
        return result;
    if (!place.shared) {
        uint64_t position;

        /* Copies that have not come to their turn read it then. */
        if (fdc_hostfn_pending(place.device->session))
            (void)fdc_ferry_wait(place.device->session, &position);
        fdc_mapped_end(&place);
    }
    if (fdc_place_del(place.base) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    release(place.device->session, &place);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    struct fdc_place place = {
        .where = FDC_HOST_PINNED,
        .origin = FDC_BY_HOST_REGISTER,
        .flags = Flags,
    };
    uint64_t base = (uint64_t)(uintptr_t)p;
    struct fdc_call call;
    unsigned char resident;
    CUresult result;

    result =
        fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (p == NULL || bytesize == 0 || base + bytesize < base || (Flags & ~0xfu) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    /* Memory that is not there cannot be registered. */
    if (mincore((void *)(base & ~4095ull), 1, &resident) != 0 ||
        mincore((void *)((base + bytesize - 1) & ~4095ull), 1, &resident) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    place.context = call.context;
    place.device = call.context->device;
    switch (fdc_place_add(base, bytesize, &place)) {
    case 0:
        place.base = base;
        place.size = bytesize;
        fdc_mapped_note(&place);
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
    struct fdc_place place;
    struct fdc_call call;
    CUresult result;

    result =
        fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_INIT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (!fdc_place_find((uint64_t)(uintptr_t)p, &place) ||
        place.origin != FDC_BY_HOST_REGISTER || place.base != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    result = fdc_pending_wait(p, place.size);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_mapped_end(&place);
    return fdc_place_del(place.base) == 0 ? CUDA_SUCCESS
                                          : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

/* Host memory of either kind that holds p. */
static CUresult
find_host(void *p, struct fdc_place *place)
{
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (!fdc_place_find((uint64_t)(uintptr_t)p, place) ||
        place->where != FDC_HOST_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    struct fdc_place place;
    uint64_t pointer;
    CUresult result;

    if (pdptr == NULL || Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = find_host(p, &place);
    if (result != CUDA_SUCCESS)
        return result;
    *pdptr = (CUdeviceptr)(uintptr_t)p;
    if (place.shared)
        return CUDA_SUCCESS;
    result = fdc_mapped_pointer(&place, *pdptr, &pointer);
    if (result == CUDA_SUCCESS)
        *pdptr = pointer;
    return result;
}

FDC_EXPORT CUresult
cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    struct fdc_place place;
    CUresult result;

    if (pFlags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = find_host(p, &place);
    if (result == CUDA_SUCCESS && place.origin != FDC_BY_HOST_ALLOC)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *pFlags = place.flags | CU_MEMHOSTALLOC_DEVICEMAP;
    return result;
}
