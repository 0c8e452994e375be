/* Questions about addresses, answered from the places. */
#include <string.h>

#include "managed.h"

/* What the attribute says of a known address; found false: of an unknown one. Writes
 * the value also where the answer is an error, as the list form wants it. */
static CUresult
attribute(const struct fdc_place *place, bool found, CUpointer_attribute which,
          CUdeviceptr address, void *value)
{
    bool device = found && place->where == FDC_DEVICE;
    CUresult result = found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    uint64_t word = 0;
    size_t size = 8;

    switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        if (found && place->context != NULL)
            word = place->context->object.handle;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        word = !found ? 0 : device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        word = found ? address : 0;
        if (found && place->where == FDC_HOST_PINNED && !place->shared)
            (void)fdc_mirror_find(place->device->session, address, &word);
        break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        word = found && (!device || place->managed) ? address : 0;
        if (device && !place->managed)
            result = CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        word = found && place->sync_memops;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        word = found ? place->buffer_id : 0;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        word = found && place->managed;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        word = found && place->device != NULL ? (uint32_t)place->device->ordinal
                                              : (uint32_t)CU_DEVICE_INVALID;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        word = found ? place->base : 0;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        word = found ? place->size : 0;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        word = found;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        break;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        word = found ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE : 0;
        size = 4;
        break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        if (found && place->origin == FDC_BY_POOL)
            word = place->owner;
        else
            result = CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        word = found ? place->buffer_id : 0;
        break;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy(value, &word, size);
    return result;
}

FDC_EXPORT CUresult
cuPointerGetAttribute(void *data, CUpointer_attribute which, CUdeviceptr ptr)
{
    struct fdc_place place;
    uint64_t value[2] = {0};
    CUresult result = fdc_session_check();
    bool found;

    if (result != CUDA_SUCCESS)
        return result;
    if (data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    found = fdc_place_find(ptr, &place);
    result = attribute(&place, found, which, ptr, value);
    if (result == CUDA_SUCCESS)
        (void)attribute(&place, found, which, ptr, data);
    return result;
}

FDC_EXPORT CUresult
cuPointerGetAttributes(unsigned int count, CUpointer_attribute *which, void **data,
                       CUdeviceptr ptr)
{
    struct fdc_place place;
    CUresult result = fdc_session_check();
    bool found;

    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0 || which == NULL || data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    found = fdc_place_find(ptr, &place);
    for (unsigned int i = 0; i < count; i++)
        if (data[i] != NULL)
            (void)attribute(&place, found, which[i], ptr, data[i]);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuPointerSetAttribute(const void *value, CUpointer_attribute which, CUdeviceptr ptr)
{
    CUresult result = fdc_session_check();
    unsigned int on;

    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL || which != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&on, value, sizeof(on));
    return fdc_place_set_sync(ptr, on != 0) == 0 ? CUDA_SUCCESS
                                                 : CUDA_ERROR_INVALID_VALUE;
}

FDC_EXPORT CUresult
cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr ptr)
{
    struct fdc_place place;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_context_current() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!fdc_place_find(ptr, &place))
        return CUDA_ERROR_NOT_FOUND;
    if (base != NULL)
        *base = place.base;
    if (size != NULL)
        *size = place.size;
    return CUDA_SUCCESS;
}
