"""Return codes of the C core become exceptions here and nowhere else."""

import errno
import os

from fdcore.errors import ProtocolError


cdef int check(int rc) except -1 nogil:
    """Gives rc back if it is not negative; raises what -errno means otherwise."""
    if rc >= 0:
        return rc
    with gil:
        raise failure(-rc)


def failure(code: int) -> Exception:
    """The exception for a positive errno: a peer that lies, or the system's."""
    if code == errno.EPROTO:
        return ProtocolError("the other side broke the protocol")
    return OSError(code, os.strerror(code))
