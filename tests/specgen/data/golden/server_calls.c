/* made by csrc/specgen from csrc/spec/; do not edit */
#include <errno.h>
#include <string.h>

#include "server/server.h"
#include "server_hooks.h"

static int
serve_cuStreamCreate(struct fdc_request *request)
{
    const struct fdc_req_cuStreamCreate *req = (const void *)request->msg;
    CUstream phStream = NULL;
    CUresult result;

    if (request->size < sizeof(*req))
        return -EPROTO;
    if (request->driver->cuStreamCreate == NULL) {
        result = CUDA_ERROR_NOT_SUPPORTED;
        goto answer;
    }
    result = request->driver->cuStreamCreate(&phStream, (unsigned int)req->Flags);
    if (result != CUDA_SUCCESS)
        goto answer;
    result = fdc_handle_put(request->serve, FDC_KIND_STREAM, req->phStream, phStream,
                            request->ctx);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static int
serve_cuMemsetD8Async(struct fdc_request *request)
{
    const struct fdc_req_cuMemsetD8Async *req = (const void *)request->msg;
    CUstream hStream;
    CUresult result;

    if (request->size < sizeof(*req))
        return -EPROTO;
    if (request->driver->cuMemsetD8Async == NULL) {
        result = CUDA_ERROR_NOT_SUPPORTED;
        goto answer;
    }
    result = fdc_memory_reach(request->serve,  req->dstDevice,
                                            (unsigned __int128)req->N);
    if (result != CUDA_SUCCESS)
        goto answer;
    result = fdc_handle_stream(request->serve,  req->hStream, &hStream);
    if (result != CUDA_SUCCESS)
        goto answer;
    result = request->driver->cuMemsetD8Async(req->dstDevice, (unsigned char)req->uc,
                                            (size_t)req->N, hStream);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static int
serve_cuModuleGetGlobal_v2(struct fdc_request *request)
{
    const struct fdc_req_cuModuleGetGlobal_v2 *req = (const void *)request->msg;
    CUdeviceptr dptr;
    size_t bytes;
    void *hmod;
    const void *name;
    struct fdc_rep_cuModuleGetGlobal_v2 reply = { 0 };
    CUresult result;

    if (request->size < sizeof(*req))
        return -EPROTO;
    name = fdc_request_span(request, req->name);
    if (name == NULL || req->name.size == 0 ||
        ((const char *)name)[req->name.size - 1] != 0)
        return -EPROTO;
    if (request->driver->cuModuleGetGlobal_v2 == NULL) {
        result = CUDA_ERROR_NOT_SUPPORTED;
        goto answer;
    }
    memset(&dptr, 0, sizeof(dptr));
    memset(&bytes, 0, sizeof(bytes));
    result = fdc_handle_get(request->serve,  FDC_KIND_MODULE, req->hmod, &hmod);
    if (result != CUDA_SUCCESS)
        goto answer;
    result = request->driver->cuModuleGetGlobal_v2(&dptr, &bytes, hmod, name);
    if (result != CUDA_SUCCESS)
        goto answer;
    memcpy(&reply.dptr, &dptr, sizeof(dptr));
    memcpy(&reply.bytes, &bytes, sizeof(bytes));
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

static const struct fdc_serve_entry entries[] = {
    { "cuStreamCreate", "cuStreamCreate", serve_cuStreamCreate,
      sizeof(struct fdc_req_cuStreamCreate), false, true },
    { "cuMemsetD8Async", "cuMemsetD8Async", serve_cuMemsetD8Async,
      sizeof(struct fdc_req_cuMemsetD8Async), false, true },
    { "cuModuleGetGlobal_v2", "cuModuleGetGlobal_v2", serve_cuModuleGetGlobal_v2,
      sizeof(struct fdc_req_cuModuleGetGlobal_v2), false, true },
};

const struct fdc_serve_entry *
fdc_serve_entry(uint16_t id)
{
    switch (id) {
    case FDC_ID_cuStreamCreate:
        return &entries[0];
    case FDC_ID_cuMemsetD8Async:
        return &entries[1];
    case FDC_ID_cuModuleGetGlobal_v2:
        return &entries[2];
    default:
        return NULL;
    }
}
