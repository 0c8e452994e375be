/*
 * Arrays and mipmapped arrays: the driver's, but their bytes count against the slice as
 * fdc/array.h says. The aux of each is what is held of the slice; levels of mipmapped
 * arrays are arrays with the whole's.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include "fdc/array.h"

/* What the array will take, charged to the context's device. */
static CUresult
hold(struct fdc_request *request, const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels,
     bool whole, struct fdc_memory_held **held)
{
    uint64_t bytes = fdc_array_bytes(desc, levels);

    if (bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_memory_hold(request->serve, fdc_context_here()->device, bytes, whole,
                           held);
}

/* Names what the driver made, or undoes the charge. */
static CUresult
made(struct fdc_request *request, int kind, uint64_t handle, void *value,
     struct fdc_memory_held *held, CUresult result)
{
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put_aux(request->serve, kind, handle, value, held, request->ctx);
        if (result != CUDA_SUCCESS && kind == FDC_KIND_ARRAY)
            request->driver->cuArrayDestroy(value);
        else if (result != CUDA_SUCCESS)
            request->driver->cuMipmappedArrayDestroy(value);
    }
    if (result != CUDA_SUCCESS)
        fdc_memory_let_go(request->serve, held);
    return result;
}

int
fdc_server_call_cuArray3DCreate_v2(struct fdc_request *request,
                                   const struct fdc_req_cuArray3DCreate_v2 *req)
{
    struct fdc_rep_cuArray3DCreate_v2 reply = { 0 };
    struct fdc_memory_held *held;
    CUarray array = NULL;
    CUresult result;

    result = hold(request, &req->pAllocateArray, 1, false, &held);
    if (result == CUDA_SUCCESS) {
        result = request->driver->cuArray3DCreate_v2(&array, &req->pAllocateArray);
        if (result == CUDA_SUCCESS) {
            result = fdc_zero_array(request->serve, array);
            if (result != CUDA_SUCCESS)
                request->driver->cuArrayDestroy(array);
        }
        result = made(request, FDC_KIND_ARRAY, req->pHandle, array, held, result);
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuMipmappedArrayCreate(struct fdc_request *request,
                                       const struct fdc_req_cuMipmappedArrayCreate *req)
{
    struct fdc_rep_cuMipmappedArrayCreate reply = { 0 };
    struct fdc_memory_held *held;
    CUmipmappedArray array = NULL;
    CUresult result;

    result = hold(request, &req->pMipmappedArrayDesc, req->numMipmapLevels, true, &held);
    if (result == CUDA_SUCCESS) {
        result = request->driver->cuMipmappedArrayCreate(
            &array, &req->pMipmappedArrayDesc, req->numMipmapLevels);
        if (result == CUDA_SUCCESS) {
            result = fdc_zero_mipmap(request->serve, array, req->numMipmapLevels);
            if (result != CUDA_SUCCESS)
                request->driver->cuMipmappedArrayDestroy(array);
        }
        result = made(request, FDC_KIND_MIPMAP, req->pHandle, array, held, result);
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuArrayDestroy(struct fdc_request *request,
                               const struct fdc_req_cuArrayDestroy *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_ARRAY, req->hArray);
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    void *array, *held = NULL;

    if (slot != NULL)
        held = fdc_slot_aux(slot);
    if (held != NULL && !fdc_memory_is_whole(held))
        result = fdc_handle_drop_aux(serve, FDC_KIND_ARRAY, req->hArray, &array, &held);
    if (result == CUDA_SUCCESS) {
        result = request->driver->cuArrayDestroy(array);
        fdc_memory_let_go(serve, held);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuMipmappedArrayGetLevel(struct fdc_request *request,
                                         const struct fdc_req_cuMipmappedArrayGetLevel *req)
{
    struct fdc_slot *slot;
    CUarray level = NULL;
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    slot = fdc_slot_find(request->serve, FDC_KIND_MIPMAP, req->hMipmappedArray);
    if (slot != NULL)
        result = request->driver->cuMipmappedArrayGetLevel(&level, slot->value, req->level);
    if (result == CUDA_SUCCESS)
        result = fdc_handle_put_aux(request->serve, FDC_KIND_ARRAY, req->pLevelArray, level,
                                    slot->aux, request->ctx);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuMipmappedArrayDestroy(struct fdc_request *request,
                                        const struct fdc_req_cuMipmappedArrayDestroy *req)
{
    struct fdc_serve *serve = request->serve;
    void *whole, *held;
    CUresult result;

    result = fdc_handle_drop_aux(serve, FDC_KIND_MIPMAP, req->hMipmappedArray, &whole, &held);
    if (result == CUDA_SUCCESS) {
        fdc_handle_sweep_aux(serve, FDC_KIND_ARRAY, held);
        result = request->driver->cuMipmappedArrayDestroy(whole);
        fdc_memory_let_go(serve, held);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- with their context, or the session ---- */

void
fdc_arrays_forget(struct fdc_serve *serve, void *value, void *aux)
{
    (void)value;
    if (!fdc_memory_is_whole(aux))
        fdc_memory_let_go(serve, aux);
}

void
fdc_arrays_end(struct fdc_serve *serve, void *value, void *aux)
{
    if (fdc_memory_is_whole(aux))
        return;
    serve->driver->cuArrayDestroy(value);
    fdc_memory_let_go(serve, aux);
}

void
fdc_mipmaps_forget(struct fdc_serve *serve, void *value, void *aux)
{
    (void)value;
    fdc_memory_let_go(serve, aux);
}

void
fdc_mipmaps_end(struct fdc_serve *serve, void *value, void *aux)
{
    serve->driver->cuMipmappedArrayDestroy(value);
    fdc_memory_let_go(serve, aux);
}
