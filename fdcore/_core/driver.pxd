# Only the entry points that Python calls; C uses the whole table.
cdef extern from "fdc/driver.h" nogil:
    struct fdc_driver:
        void *dl
        int version
        int (*cuInit)(unsigned int flags) noexcept nogil
        int (*cuDeviceGetCount)(int *count) noexcept nogil
        int (*cuDeviceGet)(int *device, int ordinal) noexcept nogil
        int (*cuDeviceGetName)(char *name, int room, int device) noexcept nogil
        int (*cuDeviceTotalMem_v2)(size_t *memory, int device) noexcept nogil
        int (*cuDeviceGetPCIBusId)(char *pci, int room, int device) noexcept nogil
    int fdc_driver_load(const char *path, fdc_driver *driver)


cdef class Driver:
    cdef fdc_driver _table
    cdef readonly str path

    cdef int _call(self, int result, str name) except -1
