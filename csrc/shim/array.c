/* Arrays: made by the worker, described here. */
#include <string.h>

#include "memory.h"
#include "cuda_calls.h"

static uint32_t
element_size(CUarray_format format, unsigned int channels)
{
    uint32_t size;

    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        size = 1;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        size = 2;
        break;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        size = 4;
        break;
    default:
        return 0;
    }
    return size * channels;
}

static CUresult
create_send(struct fdc_call *call, uint64_t handle, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
    struct fdc_req_cuArray3DCreate_v2 *req;
    struct fdc_reply reply;

    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->pHandle = handle;
    req->pAllocateArray = *desc;
    return fdc_call_wait(call, &reply, sizeof(reply));
}

FDC_EXPORT CUresult
cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
    struct fdc_array *array;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuArray3DCreate_v2,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (pHandle == NULL || pAllocateArray == NULL || pAllocateArray->Width == 0 ||
        (pAllocateArray->NumChannels != 1 && pAllocateArray->NumChannels != 2 &&
         pAllocateArray->NumChannels != 4))
        return CUDA_ERROR_INVALID_VALUE;
    array = fdc_object_new(call.session, FDC_KIND_ARRAY, sizeof(*array), call.context);
    if (array == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    array->desc = *pAllocateArray;
    array->element = element_size(pAllocateArray->Format, pAllocateArray->NumChannels);
    result = create_send(&call, array->object.handle, pAllocateArray);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        fdc_memory_trim(call.context->device);
        result = create_send(&call, array->object.handle, pAllocateArray);
    }
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(array);
        return result;
    }
    *pHandle = (CUarray)(uintptr_t)array->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {0};

    if (pAllocateArray == NULL)
        return cuArray3DCreate_v2(pHandle, NULL);
    desc.Width = pAllocateArray->Width;
    desc.Height = pAllocateArray->Height;
    desc.Format = pAllocateArray->Format;
    desc.NumChannels = pAllocateArray->NumChannels;
    return cuArray3DCreate_v2(pHandle, &desc);
}

FDC_EXPORT CUresult
cuArrayDestroy(CUarray hArray)
{
    struct fdc_req_cuArrayDestroy *req;
    struct fdc_array *array;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuArrayDestroy,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    array = fdc_object_find(FDC_KIND_ARRAY, hArray);
    if (array == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hArray = array->object.handle;
    result = fdc_call_send(&call);
    if (result == CUDA_SUCCESS)
        fdc_object_drop(array);
    return result;
}

FDC_EXPORT CUresult
cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    struct fdc_array *array;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    array = fdc_object_find(FDC_KIND_ARRAY, hArray);
    if (array == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pArrayDescriptor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pArrayDescriptor = array->desc;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    CUDA_ARRAY3D_DESCRIPTOR desc;
    CUresult result;

    result = cuArray3DGetDescriptor_v2(&desc, hArray);
    if (result != CUDA_SUCCESS)
        return result;
    if (pArrayDescriptor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pArrayDescriptor->Width = desc.Width;
    pArrayDescriptor->Height = desc.Height;
    pArrayDescriptor->Format = desc.Format;
    pArrayDescriptor->NumChannels = desc.NumChannels;
    return CUDA_SUCCESS;
}
