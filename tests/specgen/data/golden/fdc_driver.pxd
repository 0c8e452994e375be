# made by csrc/specgen from csrc/spec/; do not edit
from libc.stdint cimport uint64_t

cdef extern from "fdc/cuda_abi.h" nogil:
    ctypedef int CUresult
    ctypedef int CUdevice
    ctypedef unsigned long long CUdeviceptr
    ctypedef uint64_t cuuint64_t
    ctypedef void *CUfunction
    ctypedef void *CUmodule
    ctypedef void *CUstream

cdef extern from "driver_calls.h" nogil:
    cdef struct fdc_driver:
        void *dl
        int version
        CUresult (*cuModuleGetGlobal_v2)(CUdeviceptr *, size_t *, CUmodule, const char *) noexcept
        CUresult (*cuStreamCreate)(CUstream *, unsigned int) noexcept

cdef extern from "fdc/driver.h" nogil:
    int fdc_driver_load(const char *path, fdc_driver *driver)
    void fdc_driver_unload(fdc_driver *driver)
