from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fdcore._core.driver cimport Driver, fdc_driver

cdef extern from "fdc/base.h" nogil:
    enum fdc_level:
        FDC_LOG_WARN
    void fdc_log_default(fdc_level level, const char *who)
    void fdc_log_to(int fd)
    int fdc_sock_write(int fd, const void *data, size_t size)

cdef extern from "fdc/attach.h" nogil:
    uint32_t FDC_ATTACH_MAGIC
    struct fdc_attach_ready:
        uint32_t magic
        int32_t error
        char reason[248]

cdef extern from "fdc/transport.h" nogil:
    enum fdc_road:
        FDC_ROAD_SHM
        FDC_ROAD_TCP
        FDC_ROAD_RDMA
    struct fdc_link
    struct fdc_link_size:
        uint64_t lane[3]
        uint64_t region[2]
    struct fdc_link_stats:
        uint64_t messages[3]
        uint64_t bytes[3]
        uint64_t waits[3]
        uint64_t sleeps[3]
        uint64_t put_bytes[2]
        uint64_t flushes
        uint64_t system_calls
        uint64_t resumes
    struct fdc_link_key:
        uint8_t bytes[32]
    int fdc_link_worker_sealed(fdc_road road, const int *socks, int nsocks,
                               const fdc_link_key *keys, const fdc_link_size *size,
                               fdc_link **link)
    struct fdc_link_memory
    int fdc_link_memory_new(const fdc_link_size *size, uint64_t filled,
                            fdc_link_memory **memory)
    void fdc_link_memory_free(fdc_link_memory *memory)
    int fdc_link_worker_of(fdc_link_memory *memory, int sock, fdc_link **link)
    void fdc_link_free(fdc_link *link)
    void fdc_link_shutdown(fdc_link *link)
    struct c_link_keep "fdc_link_keep":
        uint64_t grace_us
        int news_fd
    int fdc_link_keep(fdc_link *link, const c_link_keep *keep)
    int fdc_link_resume(fdc_link *link, int which, uint32_t turn, int sock,
                        const fdc_link_key *key)
    bint fdc_link_away(fdc_link *link)
    void fdc_link_get_stats(fdc_link *link, fdc_link_stats *stats)

cdef extern from "fdc/cipher.h" nogil:
    struct fdc_crypto
    int fdc_crypto_open(fdc_crypto **crypto, const char **why)
    void fdc_crypto_close(fdc_crypto *crypto)

cdef extern from "fdc/rdma.h" nogil:
    int fdc_rdma_probe(char *why, size_t room)

cdef extern from "server/server.h" nogil:
    struct fdc_serve_limits:
        int devices
        int ordinal[64]
        uint64_t memory[64]
        uint64_t host_memory
        uint8_t session[16]
        int cache
        uint64_t cache_room
        int board
        uint32_t board_row
        int shares
        uint32_t share_row[64]
    struct fdc_serve_counters:
        uint64_t messages
        uint64_t replies
        uint64_t dones
        uint64_t host_functions
        uint64_t failures
        uint64_t slow
        uint64_t waits
        uint64_t up_bytes
        uint64_t down_bytes
        uint64_t launches
        uint64_t memory_used
        uint64_t host_memory_used
        uint64_t device_ns
        uint64_t waited
    struct fdc_serve_tally:
        uint64_t messages
        uint64_t waits
    struct fdc_serve_entry:
        const char *name
        const char *seen
    struct fdc_serve
    int fdc_serve_new(const fdc_driver *driver, fdc_link *link,
                      const fdc_serve_limits *limits, fdc_serve **serve)
    int fdc_serve_run(fdc_serve *serve)
    void fdc_serve_stop(fdc_serve *serve)
    void fdc_serve_grace(fdc_serve *serve, uint32_t grace_ms)
    int fdc_serve_print_from(fdc_serve *serve, int fd, int error_fd)
    void fdc_serve_company(fdc_serve *serve)
    int fdc_serve_trunk(fdc_serve *serve, uint64_t number, int fd, const uint8_t *key)
    void fdc_serve_free(fdc_serve *serve)
    void fdc_serve_get_counters(fdc_serve *serve, fdc_serve_counters *counters)
    const fdc_serve_entry *fdc_serve_get_tally(fdc_serve *serve, uint16_t id,
                                               fdc_serve_tally *tally)
    int FDC_IDS
    int fdc_confine_rights(bint may_change_user)
    int fdc_confine_user(uint32_t uid, uint32_t gid)
    int fdc_confine_calls()


cdef class LinkMemory:
    cdef fdc_link_memory *_memory


cdef class Session:
    cdef Driver _driver
    cdef fdc_link *_link
    cdef fdc_serve *_serve
    cdef fdc_serve_limits _limits
    cdef bint _running
