/*
 * The calls about managed memory: allocating, attaching to streams, advice, prefetching
 * and what was said of a range. Advice changes nothing but what is answered here.
 */
#include <string.h>

#include "managed.h"
#include "cuda_calls.h"

FDC_EXPORT CUresult
cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    static uint32_t said;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMemGrow,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || bytesize == 0 ||
        (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_managed_alloc(&call, bytesize, flags, dptr);
    return result == CUDA_ERROR_NOT_SUPPORTED ? fdc_refuse("managed memory", &said)
                                              : result;
}

/* All of the range is managed memory, of one allocation or of several in a row. */
static CUresult
managed_range(CUdeviceptr address, size_t count)
{
    uint64_t end = address + count;
    struct fdc_place place;

    if (count == 0 || end < address)
        return CUDA_ERROR_INVALID_VALUE;
    while (address < end) {
        if (!fdc_place_find(address, &place) || !place.managed)
            return CUDA_ERROR_INVALID_VALUE;
        address = place.base + place.size;
    }
    return CUDA_SUCCESS;
}

/* The device of a location, or CU_DEVICE_CPU. */
static CUresult
location_of(const CUmemLocation *location, CUdevice *device)
{
    *device = CU_DEVICE_CPU;
    switch ((int)location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *device = location->id;
        return fdc_device(location->id) != NULL ? CUDA_SUCCESS
                                                : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_INVALID:
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* ---- advice ---- */

static void
advise_place(struct fdc_place *place, int advice, CUdevice device)
{
    uint64_t bit = device >= 0 && device < 63 ? 2ull << device : 1; /* bit 0: the host */

    switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
        place->read_mostly = true;
        break;
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
        place->read_mostly = false;
        break;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        place->preferred = device;
        break;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        place->preferred = CU_DEVICE_INVALID;
        break;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
        place->access |= bit;
        break;
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
        place->access &= ~bit;
        break;
    }
}

static CUresult
advise(CUdeviceptr address, size_t count, CUmem_advise advice, CUdevice device)
{
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_context_current() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = managed_range(address, count);
    if (result != CUDA_SUCCESS)
        return result;
    if ((int)advice < 1 || (int)advice > 6)
        return CUDA_ERROR_INVALID_VALUE;
    if (device != CU_DEVICE_CPU && fdc_device(device) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    fdc_place_change(address, count, advise_place, (int)advice, device);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    return advise(devPtr, count, advice, device);
}

FDC_EXPORT CUresult
cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
               CUmemLocation location)
{
    CUdevice device;
    CUresult result = location_of(&location, &device);

    return result == CUDA_SUCCESS ? advise(devPtr, count, advice, device) : result;
}

/* ---- prefetching, attaching ---- */

static void
prefetch_place(struct fdc_place *place, int unused, CUdevice device)
{
    (void)unused;
    place->prefetched = device;
}

/* Towards the device: what the program wrote goes there now. Towards the host: it is
 * there, to be read and written and for system calls, when this returns. */
static CUresult
prefetch(CUdeviceptr address, size_t count, CUdevice device, CUresult location,
         CUstream value, unsigned how)
{
    struct fdc_stream *stream;
    struct fdc_place place;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcPush, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result =
            fdc_stream_resolve(&call, value, how & ~(unsigned)FDC_STREAM_WORK, &stream);
    if (result == CUDA_SUCCESS)
        result = managed_range(address, count);
    if (result == CUDA_SUCCESS)
        result = location;
    if (result == CUDA_SUCCESS && device != CU_DEVICE_CPU && fdc_device(device) == NULL)
        result = CUDA_ERROR_INVALID_DEVICE;
    if (result != CUDA_SUCCESS || fdc_stream_capturing(stream))
        return result;
    fdc_place_change(address, count, prefetch_place, 0, device);
    while (count > 0 && result == CUDA_SUCCESS && fdc_place_find(address, &place)) {
        uint64_t part = place.base + place.size - address;

        if (part > count)
            part = count;
        if (device == CU_DEVICE_CPU)
            result = fdc_managed_fetch(place.device->session, address, part);
        else
            result = fdc_managed_use_range(place.device->session, address, part);
        address += part;
        count -= part;
    }
    return result;
}

FDC_TWINS(cuMemPrefetchAsync, _ptsz,
          (CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream),
          prefetch(devPtr, count, dstDevice, CUDA_SUCCESS, hStream, how))

static CUresult
prefetch_to(CUdeviceptr address, size_t count, const CUmemLocation *location,
            unsigned flags, CUstream value, unsigned how)
{
    CUdevice device;
    CUresult result = location_of(location, &device);

    if (flags != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    return prefetch(address, count, device, result, value, how);
}

FDC_TWINS(cuMemPrefetchAsync_v2, _ptsz,
          (CUdeviceptr devPtr, size_t count, CUmemLocation location,
           unsigned int flags, CUstream hStream),
          prefetch_to(devPtr, count, &location, flags, hStream, how))

/* Which streams use it: without concurrent access it is the same to us. */
static CUresult
attach(CUstream value, CUdeviceptr address, size_t length, unsigned flags, unsigned how)
{
    struct fdc_stream *stream;
    struct fdc_place place;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMark, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result =
            fdc_stream_resolve(&call, value, how & ~(unsigned)FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
        flags != CU_MEM_ATTACH_SINGLE)
        return CUDA_ERROR_INVALID_VALUE;
    if (!fdc_place_find(address, &place) || place.origin != FDC_BY_MANAGED ||
        (length != 0 && length != place.size))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

FDC_TWINS(cuStreamAttachMemAsync, _ptsz,
          (CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags),
          attach(hStream, dptr, length, flags, how))

/* ---- what was said of a range ---- */

/* One place's answer; `first` is that of the places before it, or NULL. */
static void
range_accessed(const struct fdc_place *place, bool first, int *list, size_t count)
{
    uint64_t both = 0;
    size_t n = 0;

    for (size_t i = 0; !first && i < count; i++)
        if (list[i] != CU_DEVICE_INVALID)
            both |= list[i] >= 0 ? 2ull << list[i] : 1;
    both = first ? place->access : both & place->access;
    for (int bit = 0; bit < 64 && n < count; bit++)
        if (both >> bit & 1)
            list[n++] = bit == 0 ? CU_DEVICE_CPU : bit - 1;
    while (n < count)
        list[n++] = CU_DEVICE_INVALID;
}

static void
range_one(const struct fdc_place *place, bool first, int attribute, int *value,
          size_t size)
{
    int said;

    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *value = place->read_mostly && (first || *value);
        return;
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
        range_accessed(place, first, value, size / sizeof(int));
        return;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
        said = place->preferred;
        break;
    default:
        said = place->prefetched;
        break;
    }
    *value = first || *value == said ? said : CU_DEVICE_INVALID;
}

/* The newer attributes say the same by kind and number of the location. */
static CUresult
range_attribute(void *data, size_t size, int attribute, CUdeviceptr address,
                size_t count)
{
    uint64_t end = address + count;
    int asked = attribute, *value = data;
    struct fdc_place place;
    bool first = true;

    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        asked = CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION;
        break;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        asked = CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION;
        break;
    }
    if (data == NULL || size < sizeof(int) || size % sizeof(int) != 0 || attribute < 1 ||
        attribute > 8 ||
        (asked != CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY && size != sizeof(int)))
        return CUDA_ERROR_INVALID_VALUE;
    while (address < end && fdc_place_find(address, &place)) {
        range_one(&place, first, asked, value, size);
        first = false;
        address = place.base + place.size;
    }
    if (attribute == CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE ||
        attribute == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE)
        *value = *value == CU_DEVICE_INVALID ? CU_MEM_LOCATION_TYPE_INVALID
                 : *value == CU_DEVICE_CPU   ? CU_MEM_LOCATION_TYPE_HOST
                                             : CU_MEM_LOCATION_TYPE_DEVICE;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attribute,
                       CUdeviceptr devPtr, size_t count)
{
    CUresult result = fdc_session_check();

    if (result == CUDA_SUCCESS && fdc_context_current() == NULL)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS)
        result = managed_range(devPtr, count);
    return result == CUDA_SUCCESS
               ? range_attribute(data, dataSize, (int)attribute, devPtr, count)
               : result;
}
