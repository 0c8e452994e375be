from fdcore._core.libfdc cimport fdc_ring


cdef class Ring:
    # One end each, for a process may hold both.
    cdef fdc_ring _producer
    cdef fdc_ring _consumer
    cdef void *_memory
    cdef size_t _mapped
    cdef int _fd
    cdef int _claims            # views alive on what is claimed
    cdef int _peeks             # ... and peeked at
    cdef bint _claimed

    cdef int _adopt(self, int fd, size_t size, bint make) except -1
    cdef int _check_open(self) except -1
