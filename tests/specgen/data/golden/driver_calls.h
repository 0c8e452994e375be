/* made by csrc/specgen from csrc/spec/; do not edit */
/* A driver that was opened: NULL where it lacks a call. */
#ifndef FDC_DRIVER_CALLS_H
#define FDC_DRIVER_CALLS_H

#include "fdc/cuda_abi.h"

struct fdc_driver {
    void *dl;               /* of dlopen() */
    int version;            /* what cuDriverGetVersion says; 0: nothing */
    CUresult (*cuLaunchHostFunc)(CUstream hStream, CUhostFn fn, void *userData);
    CUresult (*cuMemsetD8Async)(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                                CUstream hStream);
    CUresult (*cuModuleGetGlobal)(CUdeviceptr_v1 *dptr, unsigned int *bytes, CUmodule hmod,
                                  const char *name);
    CUresult (*cuModuleGetGlobal_v2)(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                                     const char *name);
    CUresult (*cuStreamCreate)(CUstream *phStream, unsigned int Flags);
};

/* X(name) for each member, in order. */
#define FDC_DRIVER_CALLS(X) \
    X(cuLaunchHostFunc) \
    X(cuMemsetD8Async) \
    X(cuModuleGetGlobal) \
    X(cuModuleGetGlobal_v2) \
    X(cuStreamCreate)

#endif
