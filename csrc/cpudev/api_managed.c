/*
 * Managed memory: all memory of the CPU device is the host's too, so what is said about it
 * here changes nothing but what can be asked.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

static struct variable {
    struct variable *next;
    uint64_t lo, hi;
} *variables;

void
fdcpu_managed_var(uint64_t lo, size_t size)
{
    struct variable *var;

    pthread_rwlock_wrlock(&fdcpu.mem);
    for (var = variables; var != NULL; var = var->next)
        if (var->lo == lo && var->hi == lo + size)
            break;
    if (var == NULL) {
        var = malloc(sizeof(*var));
        if (var != NULL) {
            *var = (struct variable){variables, lo, lo + size};
            variables = var;
        }
    }
    pthread_rwlock_unlock(&fdcpu.mem);
}

bool
fdcpu_is_managed(uint64_t addr)
{
    const struct variable *var;

    pthread_rwlock_rdlock(&fdcpu.mem);
    for (var = variables; var != NULL; var = var->next)
        if (addr >= var->lo && addr < var->hi)
            break;
    pthread_rwlock_unlock(&fdcpu.mem);
    return var != NULL;
}

static CUresult
managed(CUdeviceptr ptr, size_t count)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0 || !fdcpu_alloc_covers(ptr, count))
        return CUDA_ERROR_INVALID_VALUE;
    for (uint64_t at = ptr; at < ptr + count; at = alloc.hi)
        if (!fdcpu_alloc_find(at, &alloc) ||
            (alloc.kind != FDCPU_A_MANAGED && alloc.kind != FDCPU_A_MODULE))
            return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

struct said {
    int what, device; /* an advice, or 0: prefetched */
};

static void
note(struct fdcpu_alloc *alloc, void *user)
{
    const struct said *said = user;
    uint64_t bit = said->device >= 0 && said->device < 63 ? 2ull << said->device : 1;

    switch (said->what) {
    case 0:
        alloc->prefetched = said->device;
        break;
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
        alloc->read_mostly = said->what == CU_MEM_ADVISE_SET_READ_MOSTLY;
        break;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        alloc->preferred = said->device;
        break;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        alloc->preferred = CU_DEVICE_INVALID;
        break;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
        alloc->accessed |= bit;
        break;
    default:
        alloc->accessed &= ~bit;
    }
}

/* Remembers what was said of a range, for whole allocations. */
static void
note_range(CUdeviceptr ptr, size_t count, int what, int device)
{
    struct said said = {what, device};
    struct fdcpu_alloc alloc;

    for (uint64_t at = ptr; at < ptr + count && fdcpu_alloc_find(at, &alloc);
         at = alloc.hi)
        fdcpu_alloc_change(alloc.lo, note, &said);
}

static CUresult
check_device(int device)
{
    return device == CU_DEVICE_CPU || fdcpu_device_get(device) != NULL
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_DEVICE;
}

static int
device_of(const CUmemLocation *location)
{
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? location->id : CU_DEVICE_CPU;
}

static CUresult
check_location(const CUmemLocation *location)
{
    if ((int)location->type < 0 || (int)location->type > 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE &&
        fdcpu_device_get(location->id) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    return CUDA_SUCCESS;
}

static CUresult
advise(CUdeviceptr ptr, size_t count, CUmem_advise advice, int device,
       CUresult location)
{
    CUresult result = managed(ptr, count);

    if (result != CUDA_SUCCESS)
        return result;
    if ((int)advice < 1 || (int)advice > 6)
        return CUDA_ERROR_INVALID_VALUE;
    if (location == CUDA_SUCCESS)
        note_range(ptr, count, (int)advice, device);
    return location;
}

FDC_EXPORT CUresult
cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
               CUmemLocation location)
{
    return advise(devPtr, count, advice, device_of(&location),
                  check_location(&location));
}

FDC_EXPORT CUresult
cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    return advise(devPtr, count, advice, device, check_device(device));
}

/* A mark in the stream: captured as an empty node. */
static CUresult
prefetch(CUdeviceptr ptr, size_t count, const int *device, CUresult location,
         CUstream hStream)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result == CUDA_SUCCESS)
        result = managed(ptr, count);
    if (result == CUDA_SUCCESS)
        result = location;
    if (result != CUDA_SUCCESS)
        return result;
    if (device != NULL)
        note_range(ptr, count, 0, *device);
    work = fdcpu_work_new(FDCPU_W_EMPTY, stream->ctx);
    return work == NULL ? CUDA_ERROR_OUT_OF_MEMORY : fdcpu_stream_do(stream, work, 0);
}

FDCPU_TWIN(cuMemPrefetchAsync, _ptsz,
           (CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream),
           prefetch(devPtr, count, &dstDevice, check_device(dstDevice), S(hStream)))
FDCPU_TWIN(cuMemPrefetchAsync_v2, _ptsz,
           (CUdeviceptr devPtr, size_t count, CUmemLocation location,
            unsigned int flags, CUstream hStream),
           prefetch(devPtr, count, &(int){device_of(&location)},
                    flags != 0 ? CUDA_ERROR_INVALID_VALUE : check_location(&location),
                    S(hStream)))

static CUresult
attach(CUdeviceptr ptr, size_t length, CUstream hStream)
{
    struct fdcpu_alloc alloc;

    if (!fdcpu_alloc_find(ptr, &alloc) || alloc.kind != FDCPU_A_MANAGED ||
        (length != 0 && length != alloc.hi - alloc.lo))
        return CUDA_ERROR_INVALID_VALUE;
    return prefetch(alloc.lo, alloc.hi - alloc.lo, NULL, CUDA_SUCCESS, hStream);
}

FDCPU_TWIN(cuStreamAttachMemAsync, _ptsz,
           (CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags),
           (flags & ~7u) != 0 || flags == 0 ? CUDA_ERROR_INVALID_VALUE
                                            : attach(dptr, length, S(hStream)))

/* ---- what was said of a range ---- */

static void
accessed_by(uint64_t devices, int *list, size_t count)
{
    size_t n = 0;

    for (int bit = 0; bit < 64 && n < count; bit++)
        if (devices >> bit & 1)
            list[n++] = bit == 0 ? CU_DEVICE_CPU : bit - 1;
    while (n < count)
        list[n++] = CU_DEVICE_INVALID;
}

/* What all allocations of the range agree on. */
static void
agreed(CUdeviceptr ptr, size_t count, struct fdcpu_alloc *all)
{
    struct fdcpu_alloc alloc;

    fdcpu_alloc_find(ptr, all);
    for (uint64_t at = all->hi; at < ptr + count && fdcpu_alloc_find(at, &alloc);
         at = alloc.hi) {
        all->read_mostly &= alloc.read_mostly;
        all->accessed &= alloc.accessed;
        if (alloc.preferred != all->preferred)
            all->preferred = CU_DEVICE_INVALID;
        if (alloc.prefetched != all->prefetched)
            all->prefetched = CU_DEVICE_INVALID;
    }
}

static int
kind_of(int device)
{
    return device == CU_DEVICE_INVALID ? CU_MEM_LOCATION_TYPE_INVALID
           : device == CU_DEVICE_CPU   ? CU_MEM_LOCATION_TYPE_HOST
                                       : CU_MEM_LOCATION_TYPE_DEVICE;
}

FDC_EXPORT CUresult
cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attr,
                       CUdeviceptr devPtr, size_t count)
{
    CUresult result = managed(devPtr, count);
    struct fdcpu_alloc all;
    int *value = data;

    if (result != CUDA_SUCCESS)
        return result;
    if (data == NULL || dataSize < 4 || dataSize % 4 != 0 || (int)attr < 1 ||
        (int)attr > 8 || (attr != CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY && dataSize != 4))
        return CUDA_ERROR_INVALID_VALUE;
    agreed(devPtr, count, &all);
    switch ((int)attr) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *value = all.read_mostly;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
        accessed_by(all.accessed, value, dataSize / 4);
        break;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        *value = all.preferred;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
        *value = kind_of(all.preferred);
        break;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        *value = kind_of(all.prefetched);
        break;
    default:
        *value = all.prefetched;
    }
    return CUDA_SUCCESS;
}
