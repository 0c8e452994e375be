/* What an address is: pointer attributes. */
#include <string.h>

#include "cpudev.h"

static bool
on_host(const struct fdcpu_alloc *alloc)
{
    return alloc->kind == FDCPU_A_HOST || alloc->kind == FDCPU_A_REGISTERED;
}

static bool
is_managed(const struct fdcpu_alloc *alloc, CUdeviceptr ptr)
{
    return alloc->kind == FDCPU_A_MANAGED ||
           (alloc->kind == FDCPU_A_MODULE && fdcpu_is_managed(ptr));
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
        if (lone || (!on_host(alloc) && !is_managed(alloc, ptr)))
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
        *(unsigned int *)data = !lone && is_managed(alloc, ptr);
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
