/*
 * Texture and surface objects: their values are the driver's, because kernels get them;
 * arrays in their descriptions travel as handles, addresses must be the session's.
 */
#include "server/serve.h"
#include "server_hooks.h"

/* The description with the driver's values in it. */
static CUresult
resource(struct fdc_request *request, const CUDA_RESOURCE_DESC *from, CUDA_RESOURCE_DESC *to)
{
    struct fdc_serve *serve = request->serve;
    CUresult result;
    void *value;

    *to = *from;
    switch ((int)from->resType) {
    case CU_RESOURCE_TYPE_ARRAY:
        result = fdc_handle_get(serve, FDC_KIND_ARRAY,
                                (uint64_t)(uintptr_t)from->res.array.hArray, &value);
        to->res.array.hArray = value;
        return result;
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY:
        result = fdc_handle_get(serve, FDC_KIND_MIPMAP,
                                (uint64_t)(uintptr_t)from->res.mipmap.hMipmappedArray,
                                &value);
        to->res.mipmap.hMipmappedArray = value;
        return result;
    case CU_RESOURCE_TYPE_LINEAR:
        return fdc_memory_check(serve, from->res.linear.devPtr,
                                from->res.linear.sizeInBytes);
    case CU_RESOURCE_TYPE_PITCH2D:
        if (from->res.pitch2D.height >= 1ull << 32 ||
            from->res.pitch2D.pitchInBytes >= 1ull << 32)
            return CUDA_ERROR_INVALID_VALUE;
        return fdc_memory_check(serve, from->res.pitch2D.devPtr,
                                from->res.pitch2D.height * from->res.pitch2D.pitchInBytes);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

int
fdc_server_call_cuTexObjectCreate(struct fdc_request *request,
                                  const struct fdc_req_cuTexObjectCreate *req)
{
    struct fdc_rep_cuTexObjectCreate reply = { 0 };
    CUDA_RESOURCE_DESC desc;
    CUtexObject object = 0;
    CUresult result;

    result = resource(request, &req->pResDesc, &desc);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuTexObjectCreate(
            &object, &desc, &req->pTexDesc,
            req->pResViewDesc_given ? &req->pResViewDesc : NULL);
    reply.pTexObject = object;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuSurfObjectCreate(struct fdc_request *request,
                                   const struct fdc_req_cuSurfObjectCreate *req)
{
    struct fdc_rep_cuSurfObjectCreate reply = { 0 };
    CUDA_RESOURCE_DESC desc;
    CUsurfObject object = 0;
    CUresult result;

    result = resource(request, &req->pResDesc, &desc);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuSurfObjectCreate(&object, &desc);
    reply.pSurfObject = object;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
