# C declarations of libfdc that the modules here use.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "fdc/base.h" nogil:
    int fdc_memfd_new(const char *name, size_t size)
    int fdc_memfd_check(int fd, size_t size)

cdef extern from "fdc/ring.h" nogil:
    struct fdc_ring:
        uint64_t size
        uint64_t waits
        uint64_t sleeps

    size_t fdc_ring_footprint(uint64_t size)
    uint32_t fdc_ring_max(const fdc_ring *ring)
    int fdc_ring_make(void *memory, uint64_t size)
    int fdc_ring_map(fdc_ring *ring, void *memory, size_t memory_size)
    void *fdc_ring_claim(fdc_ring *ring, uint32_t size, int *err)
    void fdc_ring_commit(fdc_ring *ring)
    void fdc_ring_abort(fdc_ring *ring)
    int fdc_ring_wait_room(fdc_ring *ring, uint32_t size, int64_t timeout_us)
    const void *fdc_ring_peek(fdc_ring *ring, uint32_t *size, int *err)
    void fdc_ring_release(fdc_ring *ring)
    int fdc_ring_wait_data(fdc_ring *ring, int64_t timeout_us)
    void fdc_ring_close(fdc_ring *ring)
