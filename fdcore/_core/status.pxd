cdef int check(int rc) except -1 nogil
