/*
 * The shim's own header: what the generated stubs and the hand-written areas share.
 *
 * A call: fdc_call_open() (process, thread and context are fit for it), checks and
 * staging, fdc_call_begin() (claims the message under the session's order lock),
 * fill the fields, then fdc_call_send() (no answer) or fdc_call_wait() (one answer).
 * Between begin and send/wait nothing may fail, block or call begin again.
 */
#ifndef FDC_SHIM_H
#define FDC_SHIM_H

#include <pthread.h>

#include "fdc/base.h"
#include "fdc/cuda_abi.h"
#include "fdc/handle.h"
#include "fdc/result.h"
#include "fdc/table.h"
#include "fdc/transport.h"
#include "fdc/wire.h"
#include "proto.h"

/* ---- handles (handles.c) ---- */

/* Every object the program has a handle of starts with this. */
struct fdc_object {
    uint64_t handle;
    struct fdc_session *session;
    struct fdc_context *context;        /* NULL where it belongs to none */
    uint32_t held;                      /* not freed while somebody holds it, atomic */
};

/* Makes a handle for a new object of `size` bytes (zeroed, head filled). NULL: no memory. */
void *fdc_object_new(struct fdc_session *session, enum fdc_kind kind, size_t size,
                     struct fdc_context *context);
/* The live object of this kind, or NULL. Lock-free. */
void *fdc_object_find(enum fdc_kind kind, const void *handle);
/* The handle is stale from now on. The memory is freed after a grace (other threads may
 * be in the middle of a look-up). */
void fdc_object_drop(void *object);
/* Around a wait in which another thread may drop the object: its memory stays. */
void fdc_object_hold(void *object);
void fdc_object_unhold(void *object);
/* Calls fn for each live object of a kind. */
void fdc_object_each(enum fdc_kind kind, void (*fn)(void *object, void *user), void *user);

/* ---- the session (session.c, attach.c) ---- */

struct fdc_ticket {
    uint64_t number;
    uint32_t done;                      /* futex word: 1 when taken in */
    uint32_t slot;
    int32_t result, first_result;
    uint16_t first_id;
    uint16_t id;
    void *reply;                        /* where the reply's bytes go, head included */
    uint32_t room, size;
    /* Runs in the thread that takes the reply in, before done is set: must neither send
     * nor block. It may free the ticket after fdc_ticket_release(). */
    void (*on_done)(struct fdc_ticket *ticket);
    void *user;
    uint32_t armed;                     /* call.c's: sent, so on_done will run */
    bool kept;                          /* ... its slot is the thread's own */
};

struct fdc_stream;
struct fdc_arena;
struct fdc_stage;

struct fdc_device {
    struct fdc_session *session;
    int ordinal;                        /* the program's, over all sessions */
    int remote;                         /* the worker's */
    const struct fdc_snapshot_device *snapshot;
    struct fdc_context *primary;
    struct fdc_arena *arena;            /* memory.c */
    uint64_t beside;                    /* bytes of others and of code, atomic; as the */
    uint32_t beside_at;                 /* worker said under this word of company */
    uint64_t plain;                     /* bytes allocated without an arena, atomic */
    int32_t lost;                       /* what its context has failed with for good, atomic */
    struct fdc_pool *pool[2];           /* pool.c: its own, and the current one */
};

struct fdc_context {
    struct fdc_object object;
    struct fdc_device *device;
    bool primary, active;               /* active: open at the worker, atomic */
    bool destroyed;                     /* cuCtxDestroy; its memory stays */
    unsigned config;                    /* cache and bank configuration */
    int retained;                       /* primary: reference count */
    unsigned flags;
    uint64_t id;                        /* cuCtxGetId */
    uint32_t version;                   /* cuCtxGetApiVersion */
    struct fdc_stream *legacy;          /* bookkeeping of the NULL stream */
    uint64_t green;                     /* handle of the green context it stands for, or 0 */
    uint64_t hidden;                    /* stream.c: handle of the courier's stream */
    bool gates;                         /* bridge.c: its streams can wait for words */
    uint64_t issued;                    /* position of the last work in it, atomic */
    uint64_t limit[16];
    pthread_mutex_t lock;
};

struct fdc_session {
    struct fdc_link *link;
    int number;                         /* its place among the sessions */
    char server[64];                    /* what people call it */
    enum fdc_road road;
    int life_fd;                        /* the session file, locked for its life; -1: not */
    bool shared;                        /* regions are shared memory */
    uint32_t dead;                      /* nonzero: CUresult to give from now on */
    pthread_mutex_t order;              /* claim .. commit on the command lane */
    uint64_t position;                  /* messages committed so far; under order */
    pthread_mutex_t intake;             /* peek .. release on the reply lane */
    struct fdc_snapshot *snapshot;
    struct fdc_device device[64];       /* those of the worker's that the program sees */
    int devices;
    struct fdc_stage *up, *down;        /* stage.c */
    uint64_t waits, messages;           /* counters, FD_STATS; under order */
    uint64_t holds;                     /* waits for room or for earlier work, atomic */
    uint64_t taken;                     /* bytes that came in the region DOWN, atomic */
    uint64_t moved, in_place;           /* bytes of copies: through here, by the driver alone */

    /* What belongs to single files of the shim. */
    bool sync;                          /* FD_SYNC, CUDA_LAUNCH_BLOCKING: all calls wait */
    uint32_t driver_version;
    struct fdc_tickets *tickets;        /* call.c */
    struct fdc_stats *stats;            /* stats.c, NULL without FD_STATS */
    int32_t first_result;               /* first failure not yet returned; under intake */
    uint16_t company;                   /* as the last reply said, atomic */
    uint16_t first_id;
    uint32_t leader;                    /* a thread waits on the reply lane, atomic */
    uint32_t waiting;                   /* threads in the list below, atomic */
    struct fdc_waiter *waiters;
    pthread_mutex_t waiters_lock;
    pthread_mutex_t capture_lock;       /* capture.c */
    struct fdc_capture *captures;
    uint32_t capturing;                 /* captures under way, atomic */
    int32_t watch_score;                /* watch.c: recordings to be told of, atomic */
    struct fdc_hostfns *hostfns[2];     /* hostfn.c: the program's, the shim's own */
    struct fdc_gate_words *gate_words;  /* bridge.c, made when needed, atomic */
    pthread_mutex_t side;               /* claim .. commit on the side lane */
    uint32_t host_done;                 /* host functions that have returned, atomic */
    uint32_t contexts;                  /* context.c: those that are active, atomic */
    struct fdc_memory *memory;          /* memory.c, made by fdc_stage_make() */
    struct fdc_codes *codes;            /* module.c, likewise */
    struct fdc_chunk host_chunk;        /* graphhost.c: of DOWN, the service thread's own */
    struct fdc_door *door;              /* trunk.c: for other servers; NULL: none */
    struct fdc_graph_memory *graph_memory;      /* graphmem.c, made when needed, atomic */
};

#define FDC_SESSIONS 16
/* The sessions of this process, one a server; NULL: there are no more. Whose a call is says
 * the context or the object at hand (fdc_call_open, fdc_call_join). */
struct fdc_session *fdc_session_at(int number);
CUresult fdc_session_open(void);        /* cuInit's work, once, thread-safe */
/* What this process has to answer every call with: 0, 3 (not initialised, forked), dead. */
CUresult fdc_session_check(void);
struct fdc_device *fdc_device(CUdevice ordinal);        /* NULL: no such device */
int fdc_device_count(void);
/* FDC_PEER_... of one device's access to another's memory; 0: none, or the same device. */
uint8_t fdc_device_peer(const struct fdc_device *from, const struct fdc_device *to);

/* ---- threads (thread.c) ---- */

struct fdc_thread {
    uint32_t number;                    /* from 1 */
    struct fdc_context *stack[32];
    int depth;                          /* current context: stack[depth - 1] */
    CUstreamCaptureMode capture_mode;
    bool in_hostfn;                     /* runs a host function: no calls */
    CUgraphNode *asked;                 /* captureinfo.c: what the program was told last */
    uint64_t asked_here, told_here;     /* stats.c: calls; the last one that sent */
    bool in_message;                    /* between begin and commit: cannot send */
    bool in_fault;                      /* fetches managed memory */
    struct fdc_session *handing;        /* managed.c: handed memory over, has yet to send */
    struct fdc_ticket *delivering;      /* call.c: on_done of this one runs here */
    uint16_t slot[FDC_SESSIONS];        /* ... and of tickets, kept for waits; or 0 */
    /* per-thread default streams, blobs, ... of the areas */
    struct { struct fdc_context *context; uint64_t stream; } per_thread[16];
};
struct fdc_thread *fdc_thread(void);    /* this thread's, made at first use; never NULL */
struct fdc_context *fdc_context_current(void);          /* NULL: none */
struct fdc_context *fdc_context_find(CUcontext handle); /* NULL handle: the current one */
/* Makes sure the context is open at the worker (sends fdcContextOpen the first time). */
CUresult fdc_context_activate(struct fdc_context *context);
/* The same for a call of the program in its current context: a primary context that nobody
 * holds is CUDA_ERROR_CONTEXT_IS_DESTROYED. A lost device's error comes from both. */
CUresult fdc_context_use(struct fdc_context *context);

/* ---- calls (call.c) ---- */

enum {
    FDC_NEEDS_INIT = 1,
    FDC_NEEDS_CONTEXT = 2,              /* implies INIT; activates it */
    FDC_UNSAFE_IN_CAPTURE = 4,          /* refused while a global capture is under way, etc. */
};

struct fdc_call {
    struct fdc_session *session;
    struct fdc_context *context;
    uint16_t id;
    bool bound;                         /* an object of the call's lives in the session */
    bool moved;                         /* across.c: to where its memory is */
    CUresult result;
    struct fdc_msg *msg;
    uint16_t flags;                     /* of msg's, _FIRST and _ASIDE */
    struct fdc_stream *work;            /* stream.c: what FD_SYNC waits for afterwards */
    uint64_t position;                  /* in the total order, once it is committed */
    struct fdc_ticket own;
};

/* 0, or what the call has to return at once. The session is the current context's; without
 * one the first, until an object says more. */
CUresult fdc_call_open(struct fdc_call *call, uint16_t id, unsigned needs);
/* The same for a message of the shim's own to this session. */
CUresult fdc_call_open_in(struct fdc_call *call, struct fdc_session *session, uint16_t id);
/* The call names this object and so goes where it lives. INVALID_HANDLE: another object of
 * the call lives elsewhere. */
static inline CUresult
fdc_call_join(struct fdc_call *call, const struct fdc_object *object)
{
    if (FDC_UNLIKELY(object->session != call->session)) {
        if (call->bound)
            return CUDA_ERROR_INVALID_HANDLE;
        call->session = object->session;
        call->context = object->context;
    }
    call->bound = true;
    return CUDA_SUCCESS;
}
/* Claims size bytes (head included) and fills the head. NULL: call->result says why. */
void *fdc_call_begin(struct fdc_call *call, uint32_t size);
/* Commits; nobody waits. */
CUresult fdc_call_send(struct fdc_call *call);
/* Commits with DONE: ticket (yours, from fdc_ticket_take) completes when the work has. If
 * this fails, the ticket is released, its on_done will not run, and it is yours; else
 * on_done runs exactly once, also when the worker dies. */
CUresult fdc_call_send_done(struct fdc_call *call, struct fdc_ticket *ticket);
/* What it brings only its DONE tells of: nobody else's reply waits for those bytes. */
void fdc_call_brings_aside(struct fdc_call *call);
/* The same, and the caller waits for that: both sides count it as a wait. */
CUresult fdc_call_send_waited(struct fdc_call *call, struct fdc_ticket *ticket);
/* The same with REPLY: the ticket completes with the answer. */
CUresult fdc_call_send_reply(struct fdc_call *call, struct fdc_ticket *ticket);
/* Commits with REPLY and waits. The reply (head included) is copied to reply[room]; shorter
 * replies are an error unless result != 0. Gives the CUresult to return. */
CUresult fdc_call_wait(struct fdc_call *call, void *reply, uint32_t room);
/* The first failure of a call without reply that nobody was told of yet, or 0. The waits of
 * calls of cuda.h look by themselves; those of fdcXxx do not (a failure of something else
 * must not look like theirs), so a call made of them alone asks at its end. */
CUresult fdc_session_failure(struct fdc_session *session);
/* A failure that the worker does not know of, unless there is one already. */
void fdc_session_fail(struct fdc_session *session, uint16_t id, CUresult result);
/* The same for what a ticket came back with, if it is news. */
void fdc_ticket_fail(struct fdc_session *session, const struct fdc_ticket *ticket);
/* The put ticket that this message depends on; between begin and send. */
void fdc_call_uses_put(struct fdc_call *call, uint64_t put);
/* All later work comes after what this message, a copy up, puts on its stream; likewise. */
void fdc_call_comes_first(struct fdc_call *call);

/* Tickets for DONE. take registers (on_done/user set by the caller before; it may wait, so
 * before begin); wait blocks until done and unregisters; a ticket with on_done may instead
 * free itself there (fdc_ticket_release first). */
CUresult fdc_ticket_take(struct fdc_session *session, struct fdc_ticket *ticket);
CUresult fdc_ticket_wait(struct fdc_session *session, struct fdc_ticket *ticket);
void fdc_ticket_release(struct fdc_session *session, struct fdc_ticket *ticket);
/* Takes replies in until *word != seen, or timeout. 0, -ETIMEDOUT, -EPIPE. */
int fdc_intake_until(struct fdc_session *session, const uint32_t *word, uint32_t seen,
                     int64_t timeout_us);
/* After changing such a word elsewhere than in an on_done. */
void fdc_intake_poke(struct fdc_session *session);
/* Takes in what is there, without waiting. */
void fdc_intake_poll(struct fdc_session *session);

/* -errno of ours to CUresult: the only place. */
CUresult fdc_result(int err);
const char *fdc_result_name(CUresult result);           /* "CUDA_ERROR_..." or NULL */
const char *fdc_call_name(uint16_t id);                 /* generated */
const char *fdc_call_seen(uint16_t id);                 /* likewise: what the program called */
/* What a refused call does: logs its name once, gives CUDA_ERROR_NOT_SUPPORTED. */
CUresult fdc_refuse(const char *name, uint32_t *said);

/* ---- streams and capture (stream.c, capture.c) ---- */

struct fdc_stream {
    struct fdc_object object;
    unsigned flags;
    int priority;
    uint64_t id;
    uint64_t calls;                     /* given to it so far (flow control), atomic */
    uint64_t issued;                    /* position of the last work on it, atomic */
    uint64_t idle;                      /* all work up to this position is over, atomic */
    uint32_t marks_done;                /* marks that have come back, atomic */
    uint64_t watched;                   /* watch.c: told of up to here, atomic */
    uint64_t watched_waits;             /* the session's waits when it was last asked, atomic */
    uint32_t polls;                     /* queries since that was asked for, atomic */
    struct fdc_capture *capture;        /* not NULL: capturing, atomic */
    bool per_thread, legacy;
    uint64_t green;                     /* handle of the green context it belongs to, or 0 */
    struct {                            /* streamattr.c */
        CUaccessPolicyWindow window;
        CUsynchronizationPolicy policy;
        CUlaunchMemSyncDomainMap map;
        CUlaunchMemSyncDomain domain;
    } attr;
};

struct fdc_event {
    struct fdc_object object;
    unsigned flags;
    uint32_t recorded;                  /* times, 0: never; atomic */
    uint32_t complete;                  /* the recording that is known to be over, atomic */
    uint64_t capture;                   /* id of the capture it was recorded in, or 0 */
    uint32_t replayed;                  /* a graph's launches record it, atomic */
    uint64_t stream, issued;            /* where it was recorded: handle, position */
    uint32_t watched;                   /* watch.c: the recording that will be told of, or 0 */
    uint32_t asked, polls;              /* the one last asked about, how often; atomic */
    pthread_mutex_t lock;
};
/* The stream's work up to this position (call.position of a message on it that was waited
 * for: a synchronise, the last piece of a copy) is known to be finished, so that
 * synchronise and query need not ask. */
void fdc_stream_idle(struct fdc_stream *stream, uint64_t position);

/* Nothing is on the stream that is not known to be over. The legacy stream also stands for
 * the blocking streams of its context. */
bool fdc_stream_is_idle(const struct fdc_stream *stream);
/* The position of its last work. */
uint64_t fdc_stream_issued(const struct fdc_stream *stream);

/* The program has seen the stream's work finished: what it may look at now is brought. */
void fdc_stream_seen(struct fdc_stream *stream);

enum { FDC_STREAM_WORK = 1 /* enqueues work: flow control */, FDC_STREAM_PER_THREAD_ZERO = 2 };
/* The stream that a program's value means in this call (0, 1, 2 and handles), or an error.
 * With WORK it holds the thread back while too many calls on it are unfinished. */
CUresult fdc_stream_resolve(struct fdc_call *call, CUstream value, unsigned how,
                            struct fdc_stream **stream);
/* What travels for it. */
uint64_t fdc_stream_wire(const struct fdc_stream *stream);
bool fdc_stream_capturing(const struct fdc_stream *stream);
/* For unsafe calls: 0, or 900 after having invalidated the captures concerned. */
CUresult fdc_capture_guard(void);
/* What cuStreamEndCapture makes (graph.c): a GRAPH object as every other, without a trip. */
void *fdc_graph_new(struct fdc_session *session, struct fdc_context *context);

/* ---- memory (memory.c, arena.c, stage.c, pointer.c) ---- */

enum fdc_where { FDC_HOST_PAGEABLE, FDC_HOST_PINNED, FDC_DEVICE, FDC_NOWHERE };
enum fdc_origin {
    FDC_BY_ALLOC, FDC_BY_PLAIN, FDC_BY_POOL, FDC_BY_MAP, FDC_BY_CODE, FDC_BY_HOST_ALLOC,
    FDC_BY_HOST_REGISTER, FDC_BY_GRAPH, FDC_BY_MANAGED,
};
struct fdc_place {
    enum fdc_where where;
    enum fdc_origin origin;
    uint64_t owner;                     /* handle of the pool, mapped memory or code; a block */
    bool sync_memops;
    bool shared;                        /* pinned: the worker has the same memory there */
    bool managed;
    bool read_mostly;                   /* advice about managed memory: */
    CUdevice preferred, prefetched;     /* CU_DEVICE_INVALID: not said */
    struct fdc_device *device;          /* of device memory */
    struct fdc_context *context;
    uint64_t base, size;                /* of the allocation */
    uint64_t buffer_id;
    unsigned flags;                     /* host: CU_MEMHOSTALLOC_/REGISTER flags */
    uint64_t access;                    /* mapped: two bits for each device; managed: bit 0
                                         * the host, then one a device */
};
/* For calls that name a range of device memory: 0, or what they have to return. It may be
 * several allocations in a row. */
CUresult fdc_place_check(struct fdc_call *call, uint64_t address, uint64_t size);
int fdc_place_add(uint64_t base, uint64_t size, const struct fdc_place *place);
int fdc_place_del(uint64_t base);
/* After a successful context-wide synchronise that was sent at this position. */
void fdc_memory_retire(struct fdc_context *context, uint64_t position);
/* The context's memory and handles are gone (reset, destroy). */
void fdc_memory_context_gone(struct fdc_context *context);
void fdc_code_context_gone(struct fdc_context *context);        /* module.c */
void fdc_texture_context_gone(struct fdc_context *context);     /* texture.c, arrays too */
void fdc_stream_context_gone(struct fdc_context *context);      /* stream.c, events too */

/* Chunks of a region. alloc blocks (taking replies in) until there is room; size at most the
 * region's. */
CUresult fdc_stage_make(struct fdc_session *session);
CUresult fdc_stage_alloc(struct fdc_session *session, enum fdc_region region, uint64_t size,
                         struct fdc_chunk *chunk);
/* The same, false where there is no room now. */
bool fdc_stage_try(struct fdc_session *session, enum fdc_region region, uint64_t size,
                   struct fdc_chunk *chunk);
void fdc_stage_free(struct fdc_session *session, enum fdc_region region,
                    const struct fdc_chunk *chunk);
void *fdc_stage_at(struct fdc_session *session, enum fdc_region region,
                   const struct fdc_chunk *chunk);

/* A blob: fetches all of a call's blob into *bytes (malloc). `first` is the chunk that came
 * with the call's reply, total the size it said. */
CUresult fdc_blob_rest(struct fdc_call *call, const struct fdc_chunk *first, uint64_t total,
                       void **bytes);

/* Around work on a stream whose memory may be another server's than the stream's: the call
 * moves there once the stream is idle, and is over when it returns. */
CUresult fdc_across_begin(struct fdc_call *call, struct fdc_stream **stream,
                          uint64_t address);
CUresult fdc_across_end(struct fdc_call *call, struct fdc_stream *stream, CUresult result);

/* ---- functions (module.c) ---- */

struct fdc_code;                        /* a loaded module or library */
struct fdc_func {
    struct fdc_object object;           /* kind FUNCTION or KERNEL */
    struct fdc_code *code;
    uint32_t index;                     /* kernel in the code's table */
    const struct fdc_table_kernel *kernel;
    const struct fdc_table_param *params;
    bool solid;                         /* there are no gaps between them */
    const char *name;
    int32_t attribute[FDC_FUNC_ATTRIBUTES];     /* current values */
    uint16_t told[FDC_FUNC_ATTRIBUTES]; /* sessions that know them, a bit each; atomic */
};
/* Accepts CUfunction and CUkernel handles alike. NULL: invalid. */
struct fdc_func *fdc_func_find(const void *handle);
/* What travels for it in this call, whose session has its code then (elsewhere.c). */
CUresult fdc_func_wire(const struct fdc_call *call, const struct fdc_func *func,
                       struct fdc_wire_func *wire);

/* ---- host functions (hostfn.c) ---- */

/* Registers a function for one run (keep: for any number, as graphs need); gives its number
 * for fdcHostFn. Starts the service thread. */
CUresult fdc_hostfn_keep(struct fdc_session *session, void (*fn)(void *user), void *user,
                         uint64_t *number);
/* Of the shim's own: fn runs in a service thread that no function of the program's holds
 * up, may make calls, and the stream stands still until fdc_hostfn_answer(). put gives the
 * number its turn on a stream. */
CUresult fdc_hostfn_quiet(struct fdc_session *session, void (*fn)(void *user), void *user,
                          uint64_t *number);
CUresult fdc_hostfn_put(struct fdc_call *call, struct fdc_stream *stream, uint64_t number);
void fdc_hostfn_answer(struct fdc_session *session, uint64_t number);
CUresult fdc_hostfn_add(struct fdc_session *session, void (*fn)(void *user), void *user,
                        uint64_t *number);
/* What is done around it, once a graph's copies are known: the reference is taken over. */
struct fdc_wrap;
void fdc_hostfn_wrap(struct fdc_session *session, uint64_t number, struct fdc_wrap *wrap);
void fdc_wrap_get(struct fdc_wrap *wrap);
void fdc_wrap_put(struct fdc_wrap *wrap);
void fdc_wrap_run(const struct fdc_wrap *wrap, bool after);
/* It will not run (again). */
void fdc_hostfn_forget(struct fdc_session *session, uint64_t number);
/* What the number stands for. */
CUresult fdc_hostfn_find(struct fdc_session *session, uint64_t number, CUhostFn *fn,
                         void **user);

/* One of the shim's own, once, at this place of the stream. */
CUresult fdc_hostfn_send(struct fdc_call *call, struct fdc_stream *stream,
                         void (*fn)(void *user), void *user);
/* Some have been given and have not run. */
bool fdc_hostfn_pending(struct fdc_session *session);

#endif
