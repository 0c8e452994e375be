/* made by csrc/specgen from csrc/spec/; do not edit */
/* Every exported name: the stubs of calls that travel as they are described; the
 * refusals; and, weak, a refusal for each call that an area writes by hand, until it
 * does. */
#include <string.h>

#include "cuda_calls.h"
#include "shim/shim.h"
#include "shim_hooks.h"

/* Puts a span's bytes behind the message's fields; gives the place of the next one. */
static inline uint32_t
put_span(void *message, uint32_t at, const void *bytes, uint32_t size)
{
    if (size)
        memcpy((char *)message + at, bytes, size);
    return at + FDC_ALIGN_UP(size, 8u);
}

const char *
fdc_call_name(uint16_t id)
{
    switch (id) {
    case FDC_ID_cuStreamCreate:
        return "cuStreamCreate";
    case FDC_ID_cuMemsetD8Async:
        return "cuMemsetD8Async";
    case FDC_ID_cuModuleGetGlobal_v2:
        return "cuModuleGetGlobal_v2";
    default:
        return "unknown call";
    }
}

const char *
fdc_call_seen(uint16_t id)
{
    switch (id) {
    default:
        return fdc_call_name(id);
    }
}

static CUresult
call_cuStreamCreate(CUstream *phStream, unsigned int Flags, unsigned how)
{
    struct fdc_call call;
    struct fdc_req_cuStreamCreate *req;
    CUresult result;
    struct fdc_stream *phStream_object;

    (void)how;
    result = fdc_call_open(&call, FDC_ID_cuStreamCreate, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (phStream == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    phStream_object = fdc_object_new(call.session, FDC_KIND_STREAM,
                                     sizeof(*phStream_object), call.context);
    if (phStream_object == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        fdc_object_drop(phStream_object);
        return call.result;
    }
    req->phStream = phStream_object->object.handle;
    req->Flags = Flags;
    result = fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        fdc_object_drop(phStream_object);
    if (result != CUDA_SUCCESS)
        return result;
    *phStream = (CUstream)(uintptr_t)phStream_object->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT
CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return call_cuStreamCreate(phStream, Flags, 0);
}

static CUresult
call_cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                     CUstream hStream, unsigned how)
{
    struct fdc_call call;
    struct fdc_req_cuMemsetD8Async *req;
    CUresult result;
    struct fdc_stream *hStream_stream;

    result = fdc_call_open(&call, FDC_ID_cuMemsetD8Async, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_stream_resolve(&call, hStream, how | FDC_STREAM_WORK, &hStream_stream);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_place_check(&call, dstDevice, N);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->dstDevice = dstDevice;
    req->uc = uc;
    req->N = N;
    req->hStream = fdc_stream_wire(hStream_stream);
    result = fdc_call_send(&call);
    return result;
}

FDC_EXPORT
CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                         CUstream hStream)
{
    return call_cuMemsetD8Async(dstDevice, uc, N, hStream, 0);
}

FDC_EXPORT
CUresult cuMemsetD8Async_ptsz(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                              CUstream hStream)
{
    return call_cuMemsetD8Async(dstDevice, uc, N, hStream, FDC_STREAM_PER_THREAD_ZERO);
}

static CUresult
call_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                          const char *name, unsigned how)
{
    struct fdc_call call;
    struct fdc_req_cuModuleGetGlobal_v2 *req;
    CUresult result;
    struct fdc_object *hmod_object;
    uint32_t name_size;
    size_t name_length;
    uint32_t length = sizeof(*req), at;
    struct fdc_rep_cuModuleGetGlobal_v2 rep;

    (void)how;
    result = fdc_call_open(&call, FDC_ID_cuModuleGetGlobal_v2, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    hmod_object = fdc_object_find(FDC_KIND_MODULE, hmod);
    if (hmod_object == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, hmod_object);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    name_length = strlen(name) + 1;
    if (name_length > 32768)
        return CUDA_ERROR_INVALID_VALUE;
    name_size = (uint32_t)name_length;
    length += FDC_ALIGN_UP(name_size, 8u);
    req = fdc_call_begin(&call, length);
    if (req == NULL)
        return call.result;
    at = sizeof(*req);
    req->hmod = (uint64_t)(uintptr_t)hmod;
    req->name.offset = at;
    req->name.size = name_size;
    at = put_span(req, at, name, name_size);
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    result = fdc_shim_after_cuModuleGetGlobal_v2(&call, dptr, bytes, hmod, name, result,
                                            result == CUDA_SUCCESS ? &rep : NULL);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr != NULL)
        memcpy(dptr, &rep.dptr, sizeof(*dptr));
    if (bytes != NULL)
        memcpy(bytes, &rep.bytes, sizeof(*bytes));
    return CUDA_SUCCESS;
}

FDC_EXPORT
CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                              const char *name)
{
    return call_cuModuleGetGlobal_v2(dptr, bytes, hmod, name, 0);
}

/* ---- refused ---- */

#pragma GCC diagnostic ignored "-Wunused-parameter"

FDC_EXPORT
CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    static uint32_t said;

    return fdc_refuse("cuLaunchHostFunc", &said);
}

FDC_EXPORT
CUresult cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
    static uint32_t said;

    return fdc_refuse("cuLaunchHostFunc_ptsz", &said);
}

/* ---- one answer, always ---- */

FDC_EXPORT
CUresult cuModuleGetGlobal(CUdeviceptr_v1 *dptr, unsigned int *bytes, CUmodule hmod,
                           const char *name)
{
    CUresult result = fdc_session_check();

    if (result == CUDA_SUCCESS && fdc_object_find(FDC_KIND_MODULE, hmod) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_CONTEXT;
}

/* ---- written by hand elsewhere ---- */

