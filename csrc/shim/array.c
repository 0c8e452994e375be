/* Arrays and mipmapped arrays: made by the worker, described here. */
#include <string.h>

#include "fdc/array.h"
#include "memory.h"
#include "cuda_calls.h"

/* The bytes show in cuMemGetInfo, and leave less to allocate. */
static void
charge(struct fdc_device *device, int64_t bytes)
{
    if (device->arena != NULL)
        fdc_arena_charge(device->arena, bytes);
    else
        __atomic_add_fetch(&device->plain, (uint64_t)bytes, __ATOMIC_RELAXED);
}

/* After the worker has forgotten it: its bytes are the slice's again. */
static void
array_gone(struct fdc_array *array)
{
    charge(array->object.context->device, -(int64_t)array->bytes);
    fdc_object_drop(array);
}

static void
mipmap_gone(struct fdc_mipmap *mipmap)
{
    charge(mipmap->object.context->device, -(int64_t)mipmap->bytes);
    fdc_object_drop(mipmap);
}

static void
array_with(void *object, void *user)
{
    struct fdc_array *array = object;

    if (array->object.context == user)
        array_gone(array);
}

static void
mipmap_with(void *object, void *user)
{
    struct fdc_mipmap *mipmap = object;

    if (mipmap->object.context == user)
        mipmap_gone(mipmap);
}

void
fdc_array_context_gone(struct fdc_context *context)
{
    fdc_object_each(FDC_KIND_MIPMAP, mipmap_with, context);
    fdc_object_each(FDC_KIND_ARRAY, array_with, context);
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
    if (pAllocateArray->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))
        return CUDA_ERROR_NOT_SUPPORTED; /* attributes 112 and 121 are 0 */
    array = fdc_object_new(call.session, FDC_KIND_ARRAY, sizeof(*array), call.context);
    if (array == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    array->desc = *pAllocateArray;
    array->element = fdc_channel_size(pAllocateArray->Format) *
                     pAllocateArray->NumChannels;
    result = create_send(&call, array->object.handle, pAllocateArray);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        fdc_memory_trim(call.context->device);
        result = create_send(&call, array->object.handle, pAllocateArray);
    }
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(array);
        return result;
    }
    array->bytes = fdc_array_bytes(&array->desc, 1);
    charge(call.context->device, (int64_t)array->bytes);
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
    if (array == NULL || array->level)
        return CUDA_ERROR_INVALID_HANDLE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hArray = array->object.handle;
    result = fdc_call_send(&call);
    if (result == CUDA_SUCCESS)
        array_gone(array);
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

/* ---- mipmapped ---- */

static pthread_mutex_t levels_lock = PTHREAD_MUTEX_INITIALIZER;

static CUresult
mipmap_send(struct fdc_call *call, uint64_t handle, const CUDA_ARRAY3D_DESCRIPTOR *desc,
            unsigned levels)
{
    struct fdc_req_cuMipmappedArrayCreate *req;
    struct fdc_reply reply;

    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->pHandle = handle;
    req->pMipmappedArrayDesc = *desc;
    req->numMipmapLevels = levels;
    return fdc_call_wait(call, &reply, sizeof(reply));
}

/* As many as halve the longest side down to one, at most. */
static unsigned
levels_of(const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned asked)
{
    size_t side = desc->Width > desc->Height ? desc->Width : desc->Height;
    unsigned most = 1;

    if ((desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0 &&
        desc->Depth > side)
        side = desc->Depth;
    for (; side > 1 && most < 32; side /= 2)
        most++;
    return asked < 1 ? 1 : asked > most ? most : asked;
}

FDC_EXPORT CUresult
cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                       const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                       unsigned int numMipmapLevels)
{
    struct fdc_mipmap *mipmap;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuMipmappedArrayCreate,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (pHandle == NULL || pMipmappedArrayDesc == NULL || pMipmappedArrayDesc->Width == 0)
        return CUDA_ERROR_INVALID_VALUE;
    mipmap = fdc_object_new(call.session, FDC_KIND_MIPMAP, sizeof(*mipmap), call.context);
    if (mipmap == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mipmap->desc = *pMipmappedArrayDesc;
    mipmap->levels = levels_of(pMipmappedArrayDesc, numMipmapLevels);
    result = mipmap_send(&call, mipmap->object.handle, &mipmap->desc, mipmap->levels);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        fdc_memory_trim(call.context->device);
        result = mipmap_send(&call, mipmap->object.handle, &mipmap->desc, mipmap->levels);
    }
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(mipmap);
        return result;
    }
    mipmap->bytes = fdc_array_bytes(&mipmap->desc, mipmap->levels);
    charge(call.context->device, (int64_t)mipmap->bytes);
    *pHandle = (CUmipmappedArray)(uintptr_t)mipmap->object.handle;
    return CUDA_SUCCESS;
}

/* Under the lock: the array of a level, told to the worker. */
static CUresult
level_make(struct fdc_call *call, struct fdc_mipmap *mipmap, unsigned level)
{
    struct fdc_req_cuMipmappedArrayGetLevel *req;
    CUDA_ARRAY3D_DESCRIPTOR *desc;
    struct fdc_array *array;
    CUresult result;

    array = fdc_object_new(call->session, FDC_KIND_ARRAY, sizeof(*array),
                           mipmap->object.context);
    if (array == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    array->level = true;
    desc = &array->desc;
    *desc = mipmap->desc;
    desc->Width = desc->Width >> level > 0 ? desc->Width >> level : 1;
    if (desc->Height > 0)
        desc->Height = desc->Height >> level > 0 ? desc->Height >> level : 1;
    if (desc->Depth > 0 && (desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0)
        desc->Depth = desc->Depth >> level > 0 ? desc->Depth >> level : 1;
    array->element = fdc_channel_size(desc->Format) * desc->NumChannels;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        fdc_object_drop(array);
        return call->result;
    }
    req->pLevelArray = array->object.handle;
    req->hMipmappedArray = mipmap->object.handle;
    req->level = level;
    result = fdc_call_send(call);
    if (result == CUDA_SUCCESS)
        mipmap->level[level] = array;
    else
        fdc_object_drop(array);
    return result;
}

FDC_EXPORT CUresult
cuMipmappedArrayGetLevel(CUarray *pLevelArray, CUmipmappedArray hMipmappedArray,
                         unsigned int level)
{
    struct fdc_mipmap *mipmap;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuMipmappedArrayGetLevel, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    mipmap = fdc_object_find(FDC_KIND_MIPMAP, hMipmappedArray);
    if (mipmap == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pLevelArray == NULL || level >= mipmap->levels)
        return CUDA_ERROR_INVALID_VALUE;
    call.context = mipmap->object.context;
    pthread_mutex_lock(&levels_lock);
    if (mipmap->level[level] == NULL)
        result = level_make(&call, mipmap, level);
    if (result == CUDA_SUCCESS)
        *pLevelArray = (CUarray)(uintptr_t)mipmap->level[level]->object.handle;
    pthread_mutex_unlock(&levels_lock);
    return result;
}

FDC_EXPORT CUresult
cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
    struct fdc_req_cuMipmappedArrayDestroy *req;
    struct fdc_mipmap *mipmap;
    struct fdc_call call;
    CUresult result;
    unsigned i;

    result = fdc_call_open(&call, FDC_ID_cuMipmappedArrayDestroy,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    mipmap = fdc_object_find(FDC_KIND_MIPMAP, hMipmappedArray);
    if (mipmap == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hMipmappedArray = mipmap->object.handle;
    result = fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        return result;
    for (i = 0; i < mipmap->levels; i++)
        if (mipmap->level[i] != NULL)
            fdc_object_drop(mipmap->level[i]);
    mipmap_gone(mipmap);
    return CUDA_SUCCESS;
}
