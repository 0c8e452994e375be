/* made by csrc/specgen from csrc/spec/; do not edit */
/* The CPU device's answer to every call that no other file of it defines. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

#include "cuda_calls.h"
#include "fdc/base.h"

static CUresult
refuse(const char *name, uint32_t *said)
{
    if (!__atomic_exchange_n(said, 1, __ATOMIC_RELAXED))
        fdc_log(FDC_LOG_WARN, "%s is not implemented", name);
    return CUDA_ERROR_NOT_SUPPORTED;
}

__attribute__((weak)) FDC_EXPORT
CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    static uint32_t said;

    return refuse("cuLaunchHostFunc", &said);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
    static uint32_t said;

    return refuse("cuLaunchHostFunc_ptsz", &said);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                         CUstream hStream)
{
    static uint32_t said;

    return refuse("cuMemsetD8Async", &said);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuMemsetD8Async_ptsz(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                              CUstream hStream)
{
    static uint32_t said;

    return refuse("cuMemsetD8Async_ptsz", &said);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                              const char *name)
{
    static uint32_t said;

    return refuse("cuModuleGetGlobal_v2", &said);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    static uint32_t said;

    return refuse("cuStreamCreate", &said);
}

/* ---- one answer, always ---- */

CUresult cuCtxGetCurrent(CUcontext *pctx);

static CUresult
ready(void)
{
    CUcontext current;

    return cuCtxGetCurrent(&current);
}

__attribute__((weak)) FDC_EXPORT
CUresult cuModuleGetGlobal(CUdeviceptr_v1 *dptr, unsigned int *bytes, CUmodule hmod,
                           const char *name)
{
    CUresult result = ready();

    if (result == CUDA_SUCCESS && hmod == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_CONTEXT;
}

