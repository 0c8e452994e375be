/* What an address is: pointer attributes, and advice about managed memory. */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

static bool
on_host(const struct fdcpu_alloc *alloc)
{
    return alloc->kind == FDCPU_A_HOST || alloc->kind == FDCPU_A_REGISTERED;
}

/* One attribute of an address; alloc NULL: nobody's. */
static CUresult
attribute(const struct fdcpu_alloc *alloc, int what, CUdeviceptr ptr, void *data)
{
    bool lone = alloc == NULL;

    switch (what) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(CUcontext *)data = alloc->ctx == NULL || alloc->kind == FDCPU_A_MAPPED
                                 ? NULL
                                 : (CUcontext)(uintptr_t)alloc->ctx->handle;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(unsigned int *)data =
            on_host(alloc) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(CUdeviceptr *)data = ptr;
        break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (lone || (!on_host(alloc) && alloc->kind != FDCPU_A_MANAGED))
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)ptr;
        break;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned int *)data = 0;
        break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(unsigned long long *)data = alloc->id;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned int *)data = !lone && alloc->kind == FDCPU_A_MANAGED;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(int *)data = alloc->device->ordinal;
        break;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        *(unsigned int *)data = 0;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(CUdeviceptr *)data = alloc->lo;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(size_t *)data = alloc->hi - alloc->lo;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned int *)data =
            !lone && (alloc->kind != FDCPU_A_MAPPED || alloc->announced);
        break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned int *)data =
            !lone && alloc->kind == FDCPU_A_MAPPED
                ? (unsigned int)alloc->memory->prop.requestedHandleTypes
                : 0;
        break;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(unsigned int *)data = lone ? 0
                                : alloc->kind == FDCPU_A_MAPPED &&
                                        fdcpu_alloc_widest(alloc) ==
                                            CU_MEM_ACCESS_FLAGS_PROT_READ
                                    ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ
                                    : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
        break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        /* A pool is known by its device's default one or not at all. */
        *(CUmemoryPool *)data = NULL;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(size_t *)data = alloc->hi - alloc->lo;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(CUdeviceptr *)data = alloc->lo;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        if (lone)
            return CUDA_ERROR_INVALID_VALUE;
        *(unsigned long long *)data = alloc->id;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuPointerGetAttribute(void *data, CUpointer_attribute what, CUdeviceptr ptr)
{
    struct fdcpu_alloc alloc;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (data == NULL || !fdcpu_alloc_find(ptr, &alloc))
        return CUDA_ERROR_INVALID_VALUE;
    return attribute(&alloc, (int)what, ptr, data);
}

/* Sizes of the attributes' values, for those that an unknown address leaves zero. */
static size_t
value_size(int what)
{
    switch (what) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        return 4;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
        return 0;
    default:
        return 8;
    }
}

FDC_EXPORT CUresult
cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
                       void **data, CUdeviceptr ptr)
{
    struct fdcpu_alloc alloc;
    CUresult result = fdcpu_check();
    unsigned int i;
    bool found;

    if (result != CUDA_SUCCESS)
        return result;
    if (numAttributes == 0 || attributes == NULL || data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    found = fdcpu_alloc_find(ptr, &alloc);
    for (i = 0; i < numAttributes; i++) {
        if (data[i] == NULL || (int)attributes[i] < 1 || (int)attributes[i] > 21)
            return CUDA_ERROR_INVALID_VALUE;
        memset(data[i], 0, value_size((int)attributes[i]));
        if (!found && attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
            *(int *)data[i] = -2;
        else
            attribute(found ? &alloc : NULL, (int)attributes[i], ptr, data[i]);
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuPointerSetAttribute(const void *value, CUpointer_attribute what, CUdeviceptr ptr)
{
    struct fdcpu_alloc alloc;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL || what != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS ||
        !fdcpu_alloc_find(ptr, &alloc))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS; /* copies always look synchronous to the host */
}

/* ---- managed memory: all of it is host memory, so advice is only checked ---- */

static CUresult
managed(CUdeviceptr ptr, size_t count)
{
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0 || !fdcpu_alloc_find(ptr, &alloc) ||
        !fdcpu_alloc_covers(ptr, count) ||
        (alloc.kind != FDCPU_A_MANAGED && alloc.kind != FDCPU_A_MODULE))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
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

FDC_EXPORT CUresult
cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
               CUmemLocation location)
{
    CUresult result = managed(devPtr, count);

    if (result != CUDA_SUCCESS)
        return result;
    if ((int)advice < 1 || (int)advice > 6)
        return CUDA_ERROR_INVALID_VALUE;
    return check_location(&location);
}

FDC_EXPORT CUresult
cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    CUresult result = managed(devPtr, count);

    if (result != CUDA_SUCCESS)
        return result;
    if ((int)advice < 1 || (int)advice > 6)
        return CUDA_ERROR_INVALID_VALUE;
    return device != CU_DEVICE_CPU && fdcpu_device_get(device) == NULL
               ? CUDA_ERROR_INVALID_DEVICE
               : CUDA_SUCCESS;
}

/* A mark in the stream: captured as an empty node. */
static CUresult
prefetch(CUdeviceptr ptr, size_t count, CUresult location, CUstream hStream)
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
    work = fdcpu_work_new(FDCPU_W_EMPTY, stream->ctx);
    return work == NULL ? CUDA_ERROR_OUT_OF_MEMORY : fdcpu_stream_do(stream, work, 0);
}

FDCPU_TWIN(cuMemPrefetchAsync, _ptsz,
           (CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream),
           prefetch(devPtr, count,
                    dstDevice == CU_DEVICE_CPU || fdcpu_device_get(dstDevice) != NULL
                        ? CUDA_SUCCESS
                        : CUDA_ERROR_INVALID_DEVICE,
                    S(hStream)))
FDCPU_TWIN(cuMemPrefetchAsync_v2, _ptsz,
           (CUdeviceptr devPtr, size_t count, CUmemLocation location,
            unsigned int flags, CUstream hStream),
           prefetch(devPtr, count,
                    flags != 0 ? CUDA_ERROR_INVALID_VALUE : check_location(&location),
                    S(hStream)))

static CUresult
attach(CUdeviceptr ptr, size_t length, CUstream hStream)
{
    struct fdcpu_alloc alloc;

    if (!fdcpu_alloc_find(ptr, &alloc) || alloc.kind != FDCPU_A_MANAGED ||
        (length != 0 && length != alloc.hi - alloc.lo))
        return CUDA_ERROR_INVALID_VALUE;
    return prefetch(alloc.lo, alloc.hi - alloc.lo, CUDA_SUCCESS, hStream);
}

FDCPU_TWIN(cuStreamAttachMemAsync, _ptsz,
           (CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags),
           (flags & ~7u) != 0 || flags == 0 ? CUDA_ERROR_INVALID_VALUE
                                            : attach(dptr, length, S(hStream)))

FDC_EXPORT CUresult
cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attr,
                       CUdeviceptr devPtr, size_t count)
{
    CUresult result = managed(devPtr, count);

    if (result != CUDA_SUCCESS)
        return result;
    if (data == NULL || dataSize < 4 || (int)attr < 1 || (int)attr > 8)
        return CUDA_ERROR_INVALID_VALUE;
    memset(data, 0, dataSize);
    if (attr == CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION ||
        attr == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION ||
        attr == CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY)
        *(int *)data = CU_DEVICE_INVALID;
    return CUDA_SUCCESS;
}
