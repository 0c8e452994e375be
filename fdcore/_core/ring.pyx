"""The byte ring for Python: records are seen in place, as memoryviews.

At each end one thread at a time; waiting releases the interpreter.
"""

import os

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close as close_fd

from fdcore._core.libfdc cimport (
    fdc_memfd_check,
    fdc_memfd_new,
    fdc_ring_abort,
    fdc_ring_claim,
    fdc_ring_close,
    fdc_ring_commit,
    fdc_ring_footprint,
    fdc_ring_make,
    fdc_ring_map,
    fdc_ring_max,
    fdc_ring_peek,
    fdc_ring_release,
    fdc_ring_wait_data,
    fdc_ring_wait_room,
)
from fdcore._core.status cimport check


cdef class _Record:
    """Lends a record's bytes to a memoryview and counts who still looks."""

    cdef Ring _ring
    cdef void *_bytes
    cdef Py_ssize_t _size
    cdef bint _writable
    cdef Py_ssize_t _shape[1]
    cdef Py_ssize_t _strides[1]

    def __getbuffer__(self, Py_buffer *view, int flags):
        if (flags & 1) and not self._writable:      # PyBUF_WRITABLE
            raise BufferError("a received record is read-only")
        self._shape[0] = self._size
        self._strides[0] = 1
        view.buf = self._bytes
        view.obj = self
        view.len = self._size
        view.itemsize = 1
        view.readonly = not self._writable
        view.ndim = 1
        view.format = b"B"
        view.shape = self._shape
        view.strides = self._strides
        view.suboffsets = NULL
        view.internal = NULL
        if self._writable:
            self._ring._claims += 1
        else:
            self._ring._peeks += 1

    def __releasebuffer__(self, Py_buffer *view):
        if self._writable:
            self._ring._claims -= 1
        else:
            self._ring._peeks -= 1


cdef object _lend(Ring ring, void *bytes, uint32_t size, bint writable):
    cdef _Record record = _Record.__new__(_Record)

    record._ring = ring
    record._bytes = bytes
    record._size = size
    record._writable = writable
    return memoryview(record)


cdef class Ring:
    """Owns one mapped ring; close() is safe to call twice."""

    def __cinit__(self):
        self._memory = NULL
        self._fd = -1
        self._claims = 0
        self._peeks = 0
        self._claimed = False

    @staticmethod
    def make(uint64_t size, str name="fdcore-ring"):
        """A new ring of size payload bytes (a power of two) in a sealed memfd."""
        cdef Ring ring = Ring.__new__(Ring)
        cdef bytes label = name.encode()
        cdef int fd = check(fdc_memfd_new(label, fdc_ring_footprint(size)))

        ring._adopt(fd, fdc_ring_footprint(size), True)
        return ring

    @staticmethod
    def map(int fd, uint64_t size):
        """The ring of size payload bytes in a memfd; fd stays the caller's."""
        cdef Ring ring = Ring.__new__(Ring)

        check(fdc_memfd_check(fd, fdc_ring_footprint(size)))
        ring._adopt(os.dup(fd), fdc_ring_footprint(size), False)
        return ring

    cdef int _adopt(self, int fd, size_t size, bint make) except -1:
        cdef void *memory

        self._fd = fd
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if memory == MAP_FAILED:
            return check(-errno)
        self._memory = memory
        self._mapped = size
        if make:
            check(fdc_ring_make(memory, size - fdc_ring_footprint(0)))
        check(fdc_ring_map(&self._producer, memory, size))
        check(fdc_ring_map(&self._consumer, memory, size))
        return 0

    cdef int _check_open(self) except -1:
        if self._memory == NULL:
            raise ValueError("the ring is closed")
        return 0

    def fileno(self):
        """The memfd, to be passed to another process."""
        self._check_open()
        return self._fd

    @property
    def size(self):
        """Payload bytes of the whole ring."""
        self._check_open()
        return self._producer.size

    @property
    def max_record(self):
        """Bytes of the largest record."""
        self._check_open()
        return fdc_ring_max(&self._producer)

    @property
    def counters(self):
        """Waits at either end that found nothing at once, and how many slept."""
        self._check_open()
        return {
            "waits": self._producer.waits + self._consumer.waits,
            "sleeps": self._producer.sleeps + self._consumer.sleeps,
        }

    def claim(self, uint32_t size):
        """A writable view of size bytes, seen by the reader after commit(), or None
        while there is no room."""
        cdef void *room
        cdef int err = 0

        self._check_open()
        if self._claims:
            raise BufferError("a view of the last claim is still alive")
        room = fdc_ring_claim(&self._producer, size, &err)
        self._claimed = room != NULL
        if room == NULL:
            if err == -EAGAIN:
                return None
            check(err)
        return _lend(self, room, size, True)

    def commit(self):
        """Hands the claimed record over; no view of it may be alive."""
        self._check_open()
        if self._claims:
            raise BufferError("a view of the claim is still alive")
        if not self._claimed:
            raise ValueError("nothing is claimed")
        self._claimed = False
        fdc_ring_commit(&self._producer)

    def abort(self):
        """Gives the claimed room back unused."""
        self._check_open()
        if self._claims:
            raise BufferError("a view of the claim is still alive")
        self._claimed = False
        fdc_ring_abort(&self._producer)

    def peek(self):
        """A read-only view of the next record, or None while there is none."""
        cdef const void *record
        cdef uint32_t size = 0
        cdef int err = 0

        self._check_open()
        record = fdc_ring_peek(&self._consumer, &size, &err)
        if record == NULL:
            check(err)
            return None
        return _lend(self, <void *>record, size, False)

    def release(self):
        """Frees the record that peek() showed; no view of it may be alive."""
        self._check_open()
        if self._peeks:
            raise BufferError("a view of the record is still alive")
        fdc_ring_release(&self._consumer)

    def wait_room(self, uint32_t size, int64_t timeout_us=-1):
        """Waits until a record of size may fit; False when the time is over."""
        cdef int ready

        self._check_open()
        with nogil:
            ready = check(fdc_ring_wait_room(&self._producer, size, timeout_us))
        return ready != 0

    def wait_data(self, int64_t timeout_us=-1):
        """Waits for a record; False when the time is over."""
        cdef int ready

        self._check_open()
        with nogil:
            ready = check(fdc_ring_wait_data(&self._consumer, timeout_us))
        return ready != 0

    def finish(self):
        """No more records: wakes the other side, which still gets what was sent."""
        self._check_open()
        fdc_ring_close(&self._producer)

    def close(self):
        """Finishes the ring and unmaps it; no view may be alive."""
        if self._claims or self._peeks:
            raise BufferError("a view of the ring is still alive")
        if self._memory != NULL:
            fdc_ring_close(&self._producer)
            munmap(self._memory, self._mapped)
            self._memory = NULL
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __dealloc__(self):
        # Views hold a reference, so none is alive here.
        if self._memory != NULL:
            munmap(self._memory, self._mapped)
        if self._fd >= 0:
            close_fd(self._fd)
