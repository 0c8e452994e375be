"""One client's session in this process: the link, the executor, the counters."""

import os

from libc.string cimport memcpy, memset

from fdcore._core.driver cimport Driver, fdc_driver
from fdcore._core.status cimport check

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_DUMPABLE
    int PR_SET_NAME
    int PR_SET_CHILD_SUBREAPER
    int prctl(int option, ...)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_sched_getattr
    long SYS_sched_setattr

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)

cdef extern from "<sched.h>" nogil:
    int SCHED_OTHER
    int SCHED_BATCH

# As in linux/sched/types.h, which cannot be included beside sched.h everywhere.
cdef struct scheduling:
    uint32_t size
    uint32_t policy
    uint64_t flags
    int32_t nice
    uint32_t priority
    uint64_t runtime
    uint64_t deadline
    uint64_t period


def settle(str name):
    """Names the process and keeps others of its user out of its memory."""
    cdef bytes text = name.encode()[:15]

    prctl(PR_SET_NAME, <const char *>text, 0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    time_slice(0)  # not the one of who started it
    fdc_log_default(FDC_LOG_WARN, b"worker")


def time_slice(uint64_t ns):
    """How long the ordinary scheduler lets the calling thread finish what it is at; who
    has a shorter one goes before it. 0: the usual. False: this kernel has none to set
    (Linux before 6.12), or another scheduler has the thread."""
    cdef scheduling now

    memset(&now, 0, sizeof(now))
    if syscall(SYS_sched_getattr, 0, &now, <unsigned int>sizeof(now), 0) != 0:
        return False
    if now.policy not in (SCHED_OTHER, SCHED_BATCH) or now.runtime == 0:
        return False
    now.runtime = ns
    return syscall(SYS_sched_setattr, 0, &now, 0) == 0


def adopt():
    """Makes this process the parent of its children's orphans."""
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def confine_rights(bint may_change_user):
    """Gives up capabilities, core dumps and new privileges. Before there are threads."""
    check(fdc_confine_rights(may_change_user))


def confine_user(uint32_t uid, uint32_t gid):
    """Becomes another user, in all threads and for good."""
    check(fdc_confine_user(uid, gid))


def confine_calls():
    """Gives up the system calls that a worker never needs, in all threads."""
    check(fdc_confine_calls())


def no_cipher():
    """Why connections cannot be sealed on this machine; empty: they can."""
    cdef fdc_crypto *crypto = NULL
    cdef const char *why = NULL

    if fdc_crypto_open(&crypto, &why) < 0:
        return why.decode()
    fdc_crypto_close(crypto)
    return ""


def rdma_missing():
    """Why the rdma road cannot be taken from here; nothing if it can. Loads UCX."""
    cdef char why[512]

    if fdc_rdma_probe(why, sizeof(why)) == 0:
        return ""
    return (<bytes>why).decode("utf-8", "replace")


def tell_ready(int fd, int error=0, str reason=""):
    """Says on a fresh command connection whether the link may begin."""
    cdef fdc_attach_ready ready
    cdef bytes text = reason.encode("ascii", "replace")[:247]
    cdef int rc

    memset(&ready, 0, sizeof(ready))
    ready.magic = FDC_ATTACH_MAGIC
    ready.error = error
    memcpy(ready.reason, <const char *>text, len(text))
    with nogil:
        rc = fdc_sock_write(fd, &ready, sizeof(ready))
    check(rc)


cdef class LinkMemory:
    """Owns the memory of an shm link that is not begun yet; close() is safe to call
    twice."""

    def __cinit__(self):
        self._memory = NULL

    def __init__(self, uint64_t filled):
        """filled: so many bytes of each region have their pages at once."""
        cdef int rc

        if self._memory != NULL:
            raise ValueError("the memory is there")
        with nogil:
            rc = fdc_link_memory_new(NULL, filled, &self._memory)
        check(rc)

    def close(self):
        cdef fdc_link_memory *memory = self._memory

        self._memory = NULL
        with nogil:
            fdc_link_memory_free(memory)

    def __dealloc__(self):
        fdc_link_memory_free(self._memory)


cdef class Session:
    """Owns the link and the server object; close() is safe to call twice."""

    def __cinit__(self):
        self._link = NULL
        self._serve = NULL
        self._running = False

    def __init__(self, Driver driver, str road, fds, devices, bytes number=b"",
                 uint64_t host_memory=0, int cache=0, uint64_t cache_room=0, keys=(),
                 int board=0, uint32_t board_row=0, LinkMemory memory=None,
                 int shares=0, share_rows=()):
        """The sockets in fds belong to the session from now on. devices: pairs of the
        driver's ordinal and the bytes of the slice (0: all). host_memory: the pinned
        bytes of this machine's that it may have (0: half of it). cache: the folder of the
        tenant's module cache, open (0: none), and the bytes that it may have. keys: of
        the sockets, whose bytes are sealed with them then. board: the lease's board, a
        file (0: none), and this session's row there; the caller keeps it open. memory: what an shm link
        is made of, made beforehand. shares: of computing time, a file that the caller
        keeps open, and 1 + the row of each device there."""
        cdef int socks[5]
        cdef int nsocks = len(fds)
        cdef fdc_road which = FDC_ROAD_SHM
        cdef const fdc_driver *table = &driver._table
        cdef fdc_link_key sealed[5]
        cdef const fdc_link_key *seal = NULL
        cdef int rc

        if self._link != NULL:
            raise ValueError("the session has begun")
        if road not in ("shm", "tcp", "rdma"):
            raise ValueError(f"no such road: {road}")
        if road != "shm":
            which = FDC_ROAD_TCP if road == "tcp" else FDC_ROAD_RDMA
        if not 1 <= len(devices) <= 64:
            raise ValueError("a session has 1 to 64 devices")
        if not (2 <= nsocks <= 5 if road == "tcp" else nsocks == 1):
            raise ValueError(f"{nsocks} sockets for {road}")
        for i in range(nsocks):
            socks[i] = fds[i]
        if len(keys) > 0:
            if len(keys) != nsocks or any(len(key) != 32 for key in keys):
                raise ValueError("each socket has a key of 32 bytes, or none has")
            for i in range(nsocks):
                memcpy(sealed[i].bytes, <const char *>(<bytes>keys[i]), 32)
            seal = sealed
        memset(&self._limits, 0, sizeof(self._limits))
        self._limits.devices = len(devices)
        for i, (ordinal, room) in enumerate(devices):
            self._limits.ordinal[i] = ordinal
            self._limits.memory[i] = room
        self._limits.host_memory = host_memory
        self._limits.cache = cache
        self._limits.cache_room = cache_room
        self._limits.board = board
        self._limits.board_row = board_row
        self._limits.shares = shares
        for i, row in enumerate(share_rows[:len(devices)]):
            self._limits.share_row[i] = row
        if len(number) == 16:
            memcpy(self._limits.session, <const char *>number, 16)
        self._driver = driver
        if memory is not None and memory._memory != NULL and road == "shm":
            with nogil:
                rc = fdc_link_worker_of(memory._memory, socks[0], &self._link)
            if rc == 0:
                memory._memory = NULL
        else:
            with nogil:
                rc = fdc_link_worker_sealed(which, socks, nsocks, seal, NULL, &self._link)
        memset(sealed, 0, sizeof(sealed))
        if rc < 0:
            for fd in fds:
                os.close(fd)
        check(rc)
        with nogil:
            rc = fdc_serve_new(table, self._link, &self._limits, &self._serve)
        if rc < 0:
            self.close()
        check(rc)

    def print_from(self, int fd, int error_fd, int log_fd):
        """What comes out of fd and error_fd, the other ends of standard output and error,
        goes to the client; what is logged goes to log_fd."""
        if self._serve == NULL or self._running:
            raise ValueError("the session cannot print")
        fdc_log_to(log_fd)
        check(fdc_serve_print_from(self._serve, fd, error_fd))

    def run(self, uint32_t grace_ms=0):
        """Serves until the client has gone; raises if the client broke the protocol.
        grace_ms: from then to the end of close() at most, or the process ends."""
        cdef int rc

        if self._serve == NULL or self._running:
            raise ValueError("the session cannot run")
        self._running = True
        fdc_serve_grace(self._serve, grace_ms)
        with nogil:
            rc = fdc_serve_run(self._serve)
        self._running = False
        check(rc)

    def stop(self):
        """Ends run(), from any thread."""
        if self._serve != NULL:
            with nogil:
                fdc_serve_stop(self._serve)

    def keep(self, uint64_t seconds, int news):
        """From now on, before run(), the client may be away for so long. news: 8 bytes are
        written there when away() may have changed. Does nothing over other roads than
        tcp."""
        cdef c_link_keep keep

        memset(&keep, 0, sizeof(keep))
        keep.grace_us = seconds * 1000000
        keep.news_fd = news
        if self._link != NULL and seconds > 0:
            fdc_link_keep(self._link, &keep)

    def resume(self, int which, uint32_t turn, int fd, bytes key=b""):
        """The client has come again: fd, the session's from now on, is in place of a
        connection that broke."""
        cdef fdc_link_key sealed
        cdef const fdc_link_key *seal = NULL
        cdef int rc

        if self._link == NULL or len(key) not in (0, 32):
            os.close(fd)
            raise ValueError("the session takes no connection")
        if len(key) == 32:
            memcpy(sealed.bytes, <const char *>key, 32)
            seal = &sealed
        with nogil:
            rc = fdc_link_resume(self._link, which, turn, fd, seal)
        memset(&sealed, 0, sizeof(sealed))
        check(rc)

    def away(self):
        """Whether a connection of the client's is gone."""
        return self._link != NULL and fdc_link_away(self._link)

    def give_up(self):
        """The client will not come again: run() ends once what has come is done."""
        if self._link != NULL:
            with nogil:
                fdc_link_shutdown(self._link)

    def trunk(self, uint64_t number, int fd, bytes key=b""):
        """Another server's worker is at the other end of fd, which is the session's from
        now on. key: what the connection is sealed with, if it is."""
        cdef const uint8_t *sealed = NULL
        cdef int rc

        if self._serve == NULL or len(key) not in (0, 32):
            os.close(fd)
            raise ValueError("the session takes no trunk")
        if len(key) == 32:
            sealed = <const uint8_t *><const char *>key
        with nogil:
            rc = fdc_serve_trunk(self._serve, number, fd, sealed)
        check(rc)

    def company(self):
        """Others of the lease have come: the client is told."""
        if self._serve != NULL:
            with nogil:
                fdc_serve_company(self._serve)

    def counters(self):
        """What the session did so far."""
        cdef fdc_serve_counters did
        cdef fdc_link_stats stats

        if self._serve == NULL:
            return {}
        fdc_serve_get_counters(self._serve, &did)
        fdc_link_get_stats(self._link, &stats)
        return {
            "messages": did.messages,
            "replies": did.replies,
            "dones": did.dones,
            "host_functions": did.host_functions,
            "failures": did.failures,
            "slow": did.slow,
            "waits": did.waits,
            "waited": did.waited,
            "up_bytes": did.up_bytes,
            "down_bytes": did.down_bytes,
            "launches": did.launches,
            "memory_used": did.memory_used,
            "host_memory_used": did.host_memory_used,
            "device_ns": did.device_ns,
            "sleeps": sum(stats.sleeps),
            "system_calls": stats.system_calls,
            "resumes": stats.resumes,
        }

    def calls(self):
        """By the name of the call: what people know it as, messages, and how many of
        them their senders waited for."""
        cdef fdc_serve_tally tally
        cdef const fdc_serve_entry *entry
        cdef int id

        found = {}
        if self._serve == NULL:
            return found
        for id in range(FDC_IDS):
            entry = fdc_serve_get_tally(self._serve, id, &tally)
            if entry != NULL:
                name = (<bytes>entry.name).decode()
                seen = (<bytes>entry.seen).decode()
                found[name] = (seen, tally.messages, tally.waits)
        return found

    def close(self):
        """Frees what the client left behind. Not while run() runs."""
        if self._running:
            raise ValueError("the session is running")
        with nogil:
            if self._serve != NULL:
                fdc_serve_free(self._serve)
            self._serve = NULL
            if self._link != NULL:
                fdc_link_free(self._link)
            self._link = NULL

    def __dealloc__(self):
        if self._serve != NULL:
            fdc_serve_free(self._serve)
        if self._link != NULL:
            fdc_link_free(self._link)
