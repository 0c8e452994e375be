"""The trampoline: a driver library opened by its path, and the few calls that Python
makes of it. Everything else goes through the table in C."""

import os

from fdcore.errors import ConfigError, DriverError


cdef class Driver:
    """One opened driver. Opening it does not initialise it; it is never closed, for
    its threads outlive every call."""

    def __cinit__(self):
        self._table.dl = NULL

    def __init__(self, str path):
        cdef bytes name = os.fsencode(path)
        cdef const char *where = name
        cdef int rc

        if self._table.dl != NULL:
            raise ValueError("the driver is open")
        with nogil:
            rc = fdc_driver_load(where, &self._table)
        if rc < 0:
            raise ConfigError(f"{path}: no CUDA driver: {os.strerror(-rc)}")
        self.path = path

    cdef int _call(self, int result, str name) except -1:
        if result != 0:
            raise DriverError(result, f"CUDA error {result}", name)
        return 0

    @property
    def version(self):
        """What cuDriverGetVersion says, such as 13000; 0: nothing."""
        return self._table.version

    def init(self):
        cdef int result

        with nogil:
            result = self._table.cuInit(0)
        self._call(result, "cuInit")

    def device_count(self):
        cdef int count = 0

        self._call(self._table.cuDeviceGetCount(&count), "cuDeviceGetCount")
        return count

    def device(self, int ordinal):
        """Name, bytes of memory and PCI address of one device."""
        cdef int device = 0
        cdef size_t memory = 0
        cdef char name[256]
        cdef char pci[32]

        self._call(self._table.cuDeviceGet(&device, ordinal), "cuDeviceGet")
        self._call(self._table.cuDeviceGetName(name, 256, device), "cuDeviceGetName")
        self._call(self._table.cuDeviceTotalMem_v2(&memory, device), "cuDeviceTotalMem")
        self._call(self._table.cuDeviceGetPCIBusId(pci, 32, device), "cuDeviceGetPCIBusId")
        return (<bytes>name).decode(), memory, (<bytes>pci).decode()
