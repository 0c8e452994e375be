/*
 * The worker's own header: what the generated dispatch and the hand-written areas share.
 * One session, one link, one driver. The executor thread takes messages in order;
 * it must never block (see DESIGN.md beside this file).
 */
#ifndef FDC_SERVER_H
#define FDC_SERVER_H

#include <pthread.h>

#include "driver_calls.h"               /* generated: struct fdc_driver */
#include "fdc/base.h"
#include "fdc/cuda_abi.h"
#include "fdc/handle.h"
#include "fdc/table.h"
#include "fdc/transport.h"
#include "fdc/wire.h"
#include "proto.h"

struct fdc_serve_limits {               /* the slice, per device of the lease */
    int devices;
    int ordinal[64];                    /* the driver's ordinals */
    uint64_t memory[64];                /* bytes the session may have, 0: all */
    uint64_t host_memory;               /* pinned bytes of the host's, 0: half of it */
    uint8_t session[16];                /* its number, for logs and the snapshot */
    int cache;                          /* folder of the module cache, or 0: none */
    uint64_t cache_room;                /* bytes of it */
    int board;                          /* the lease's board (fdc/monitor.h), or 0: none */
    uint32_t board_row;                 /* this session's there */
    int shares;                         /* shares of computing time (fdc/share.h), or 0 */
    uint32_t share_row[64];             /* 1 + the row of each device; 0: it has no share */
};

struct fdc_serve_counters {
    uint64_t messages, replies, dones, host_functions, failures, slow, waits;
    uint64_t up_bytes, down_bytes, launches, memory_used;
    uint64_t host_memory_used;
    uint64_t device_ns;                 /* what was charged to the lease, if it has a share */
    uint64_t waited;                    /* messages whose caller waits: the client counts
                                           as many */
};

/* The same by call. */
#define FDC_IDS 0x10000
struct fdc_serve_tally {
    uint64_t messages, waits;
};

struct fdc_serve;                       /* one session, session.c */
struct fdc_serve_entry;                 /* below */

int fdc_serve_new(const struct fdc_driver *driver, struct fdc_link *link,
                  const struct fdc_serve_limits *limits, struct fdc_serve **serve);
/* Runs the executor in the calling thread until the client is gone (0), or the session is
 * broken (-EPROTO...). */
int fdc_serve_run(struct fdc_serve *serve);
void fdc_serve_stop(struct fdc_serve *serve);   /* from any thread */
/* Before run, where this process is the session's alone: from the client's going (or stop)
 * to the end of fdc_serve_free() at most this long, then the process ends by itself. */
void fdc_serve_grace(struct fdc_serve *serve, uint32_t grace_ms);
/* Before run: what kernels print comes out of these descriptors (non-blocking pipes whose
 * other ends are this process's standard output and error; error_fd may be -1) and goes to
 * the client. 0 or -errno. */
int fdc_serve_print_from(struct fdc_serve *serve, int fd, int error_fd);
/* While it runs, from any thread: another server's worker has dialled this one (fdc/trunk.h).
 * key: of 32 bytes if it is sealed, else NULL. Takes the socket over. 0 or -errno. */
int fdc_serve_trunk(struct fdc_serve *serve, uint64_t number, int fd, const uint8_t *key);
/* While it runs, from any thread: other processes of the lease have come; the client is told,
 * since what it knows of its memory is not all any more. */
void fdc_serve_company(struct fdc_serve *serve);
void fdc_serve_free(struct fdc_serve *serve);   /* cancels, frees what the client left */
void fdc_serve_get_counters(struct fdc_serve *serve, struct fdc_serve_counters *counters);
/* What has come of one call, and its entry; NULL: nothing. */
const struct fdc_serve_entry *fdc_serve_get_tally(struct fdc_serve *serve, uint16_t id,
                                                  struct fdc_serve_tally *tally);

/* ---- for dispatch (serve.c) ---- */

/* One message being served. Valid until the serve function returns; a hook that replies
 * later takes a copy with fdc_request_keep(). */
struct fdc_request {
    struct fdc_serve *serve;
    const struct fdc_driver *driver;
    const struct fdc_msg *msg;          /* a private copy: nobody else can change it */
    uint32_t size;
    uint16_t id, flags;
    uint64_t ticket;
    uint32_t ctx;
    uint64_t after;                     /* of fdc_link_put_aside(): its answer comes after it */
    bool answered, kept, done;          /* what has been seen to, for fdc_entry_run() */
};

/* The generated function of each call: 0 or -EPROTO (the message lies: the session ends). */
typedef int (*fdc_serve_fn)(struct fdc_request *request);
struct fdc_serve_entry {
    const char *name;
    const char *seen;                   /* what the program called, for people */
    fdc_serve_fn fn;
    uint32_t min_size;
    bool slow;                          /* runs on a helper thread */
    bool context;                       /* set msg->ctx current first */
};
extern const struct fdc_serve_entry *fdc_serve_entry(uint16_t id);      /* generated; NULL */

/* Answers: with result and, if 0, the reply's fields (reply[size] with head; the head is
 * filled here). For calls without REPLY a failure becomes the session's first failure. */
void fdc_request_answer(struct fdc_request *request, CUresult result, void *reply, uint32_t size);
/* As fdc_request_answer, but the fields go with a failure as well (blobs with logs). */
void fdc_request_answer_always(struct fdc_request *request, CUresult result, void *reply,
                               uint32_t size);
/* Heap copy, for later; freed by answering it with fdc_request_finish(). */
struct fdc_request *fdc_request_keep(const struct fdc_request *request);
void fdc_request_finish(struct fdc_request *request, CUresult result, void *reply, uint32_t size);

/* Handles: the driver's value of a client's handle. kind: FDC_KIND_... 0 or CUresult 400. */
CUresult fdc_handle_get(struct fdc_serve *serve, int kind, uint64_t handle, void **value);
CUresult fdc_handle_put(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
                        uint32_t ctx);
CUresult fdc_handle_drop(struct fdc_serve *serve, int kind, uint64_t handle, void **value);
/* Streams: 1 is the legacy stream, else a STREAM handle. */
CUresult fdc_handle_stream(struct fdc_serve *serve, uint64_t handle, CUstream *value);
/* One that is only waited for or asked about. */
CUresult fdc_handle_stream_asked(struct fdc_serve *serve, uint64_t handle, CUstream *value);
/* Whether a call may name these bytes of device memory: the session's, or none. */
CUresult fdc_memory_reach(struct fdc_serve *serve, uint64_t address, unsigned __int128 size);
/* A span of the message: its bytes, or NULL (with -EPROTO to be returned) if it lies. */
const void *fdc_request_span(const struct fdc_request *request, struct fdc_span span);
/* A chunk of a region in this side's memory, or NULL if it lies. */
void *fdc_request_chunk(const struct fdc_request *request, enum fdc_region region,
                        struct fdc_chunk chunk);

/* Work was enqueued on this stream by a message with DONE: DONE is sent when it has finished.
 * region/chunk: bytes that are put into DOWN first (size 0: none). */
CUresult fdc_done_later(struct fdc_request *request, CUstream stream, struct fdc_chunk down);
/* Sends DONE for everything outstanding that is complete: before every reply that tells of
 * completion. */
void fdc_done_flush(struct fdc_serve *serve);
/* The kernel behind a function of the wire: of a module or a library (module.c). A CUkernel
 * of a library comes as it is, which the driver accepts where it wants a CUfunction. */
CUresult fdc_code_function(struct fdc_serve *serve, struct fdc_wire_func func,
                           CUfunction *value);
/* The driver's ordinal of the lease's device. */
CUresult fdc_serve_device(struct fdc_serve *serve, int remote, CUdevice *value);

/*
 * confine.c: what a worker gives up, in this order; 0 or -errno. rights: capabilities and
 * core dumps, before the driver starts threads; may_change_user keeps what user() needs.
 * user: another user for all threads. calls: system calls that it never needs, for all
 * threads and for good.
 */
int fdc_confine_rights(bool may_change_user);
int fdc_confine_user(uint32_t uid, uint32_t gid);
int fdc_confine_calls(void);

#endif
