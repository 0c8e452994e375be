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
#include "fdc/table.h"
#include "fdc/transport.h"
#include "fdc/wire.h"
#include "proto.h"

struct fdc_serve_limits {               /* the slice, per device of the lease */
    int devices;
    int ordinal[64];                    /* the driver's ordinals */
    uint64_t memory[64];                /* bytes the session may have, 0: all */
};

struct fdc_serve;                       /* one session, session.c */

int fdc_serve_new(const struct fdc_driver *driver, struct fdc_link *link,
                  const struct fdc_serve_limits *limits, struct fdc_serve **serve);
/* Runs the executor in the calling thread until the client is gone (0), or the session is broken (-EPROTO...). */
int fdc_serve_run(struct fdc_serve *serve);
void fdc_serve_stop(struct fdc_serve *serve);   /* from any thread */
void fdc_serve_free(struct fdc_serve *serve);   /* cancels, frees what the client left */

/* ---- for dispatch (serve.c) ---- */

enum { FDC_SERVED = 0, FDC_SERVED_LATER = 1 };  /* LATER: the hook replies itself */

/* One message being served. Valid until the serve function returns; a hook that replies later takes a
 * copy with fdc_request_keep(). */
struct fdc_request {
    struct fdc_serve *serve;
    const struct fdc_driver *driver;
    const struct fdc_msg *msg;          /* in ring memory: checked size, fields read once */
    uint32_t size;
    uint16_t id, flags;
    uint64_t ticket;
    uint32_t ctx;
};

/* The generated function of each call: 0 or -EPROTO (the message lies: the session ends). */
typedef int (*fdc_serve_fn)(struct fdc_request *request);
struct fdc_serve_entry {
    const char *name;
    fdc_serve_fn fn;
    uint32_t min_size;
    bool slow;                          /* runs on a helper thread */
    bool context;                       /* set msg->ctx current first */
};
extern const struct fdc_serve_entry *fdc_serve_entry(uint16_t id);      /* generated; NULL */

/* Answers: with result and, if 0, the reply's fields (reply[size] with head; the head is filled here).
 * For calls without REPLY a failure becomes the session's first failure. */
void fdc_request_answer(struct fdc_request *request, CUresult result, void *reply, uint32_t size);
/* Heap copy, for later; freed by answering it with fdc_request_finish(). */
struct fdc_request *fdc_request_keep(const struct fdc_request *request);
void fdc_request_finish(struct fdc_request *request, CUresult result, void *reply, uint32_t size);
/* Runs fn(request, user) on a helper thread (the kept copy). */
int fdc_request_later(struct fdc_request *kept, void (*fn)(struct fdc_request *, void *), void *user);

/* Handles: the driver's value of a client's handle. kind: as FDC_KIND_ in shim.h. 0 or CUresult 400. */
CUresult fdc_handle_get(struct fdc_serve *serve, int kind, uint64_t handle, void **value);
CUresult fdc_handle_put(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
                        uint32_t ctx);
CUresult fdc_handle_drop(struct fdc_serve *serve, int kind, uint64_t handle, void **value);
/* Streams: 1 is the legacy stream, else a STREAM handle. */
CUresult fdc_handle_stream(struct fdc_serve *serve, uint64_t handle, CUstream *value);
/* A span of the message: its bytes, or NULL (with -EPROTO to be returned) if it lies. */
const void *fdc_request_span(const struct fdc_request *request, struct fdc_span span);
/* A chunk of a region in this side's memory, or NULL if it lies. */
void *fdc_request_chunk(const struct fdc_request *request, enum fdc_region region,
                        struct fdc_chunk chunk);

/* Work was enqueued on this stream by a message with DONE: DONE is sent when it has finished.
 * region/chunk: bytes that are put into DOWN first (size 0: none). */
CUresult fdc_done_later(struct fdc_request *request, CUstream stream, struct fdc_chunk down);
/* Sends DONE for everything outstanding that is complete: before every reply that tells of completion. */
void fdc_done_flush(struct fdc_serve *serve);

#endif
