/*
 * What there is once a process: all mutable globals of the shim are in entry.c, in the one
 * structure below and the calling thread's pointer. For the files of call.c's kind; areas
 * use the functions of shim.h.
 */
#ifndef FDC_SHIM_PROCESS_H
#define FDC_SHIM_PROCESS_H

#include <signal.h>

#include "shim.h"

#define FDC_HANDLE_CHUNK 1024u
#define FDC_HANDLE_CHUNKS 1024u

struct fdc_handle_slot {
    struct fdc_object *object; /* atomic */
    uint32_t next;             /* free list */
    uint16_t generation;
};

struct fdc_handle_table {
    struct fdc_handle_slot *chunk[FDC_HANDLE_CHUNKS]; /* atomic, made when needed */
    pthread_mutex_t lock;                             /* for the rest */
    uint32_t fresh; /* indices from here on were never used */
    uint32_t free_first, free_last, free_count;
    struct fdc_dropped *dropped_first, *dropped_last;
};

struct fdc_prints {
    pthread_mutex_t lock; /* a leaf */
    struct fdc_print *first, *last;
};

struct fdc_process {
    int32_t state;    /* CUresult of every call, or FDC_COUNTED; atomic */
    bool initialised; /* cuInit has succeeded */
    bool forked;      /* a child of a process that had a session */
    bool ucx_lost;    /* a child of a process that used UCX, whose threads it has not */
    bool attaching;
    CUresult failed; /* what attaching ended with before, or 0 */
    pthread_mutex_t init;
    pthread_key_t thread_key;
    bool thread_key_made;
    uint32_t threads;        /* numbers given, atomic */
    bool counted;            /* FD_STATS */
    uint64_t calls, told;    /* ... and what it counts: calls, those that sent; atomic */
    uint64_t ids;            /* unique ids given (streams, contexts), atomic */
    bool fault_installed; /* atomic */
    struct sigaction fault_before; /* who handled SIGSEGV before us */
    struct fdc_thread spare; /* when there is no memory for a thread's own */
    struct fdc_session *session[FDC_SESSIONS]; /* in the order of FD_SESSION's file */
    int sessions;
    struct fdc_device *device[64]; /* what the program sees, by ordinal */
    int devices;
    struct fdc_space *space;     /* place.c: whose every address is */
    struct fdc_courier *courier; /* across.c, from the first copy between servers on */
    uint32_t capturing;      /* captures under way in all sessions, atomic */
    struct fdc_prints prints[2]; /* print.c: for standard output, standard error */
    uint32_t printing;           /* those that are not written yet, atomic */
    struct fdc_handle_table handles[FDC_KINDS];
};

extern struct fdc_process fdc_process;
extern __thread struct fdc_thread *fdc_self
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* thread.c: this thread's, made now. */
struct fdc_thread *fdc_thread_make(void);
static inline struct fdc_thread *
fdc_thread_self(void)
{
    struct fdc_thread *self = fdc_self;

    return FDC_LIKELY(self != NULL) ? self : fdc_thread_make();
}

/* entry.c */
enum { FDC_COUNTED = -1 }; /* a state: all is well, and calls are counted */
CUresult fdc_process_odd(int32_t state);
static inline CUresult
fdc_process_check(void)
{
    int32_t state = fdc_load_relaxed(&fdc_process.state);

    return FDC_LIKELY(state == 0) ? CUDA_SUCCESS : fdc_process_odd(state);
}
uint64_t fdc_process_id(void); /* the next unique id */

/* handles.c */
static inline struct fdc_handle_slot *
fdc_handle_slot_of(struct fdc_handle_table *table, uint32_t index)
{
    struct fdc_handle_slot *chunk;

    /* pairs with the release in slot_make() */
    chunk = fdc_load_acquire(&table->chunk[index / FDC_HANDLE_CHUNK]);
    return chunk != NULL ? &chunk[index % FDC_HANDLE_CHUNK] : NULL;
}

/* fdc_object_find() where each call counts. */
static inline void *
fdc_object_at(enum fdc_kind kind, const void *handle)
{
    uint64_t value = (uint64_t)(uintptr_t)handle;
    struct fdc_handle_slot *slot;
    struct fdc_object *object;

    if (value >> 40 != (0x00FDull << 8 | (uint64_t)kind))
        return NULL;
    slot = fdc_handle_slot_of(&fdc_process.handles[kind], FDC_HANDLE_INDEX(value));
    if (slot == NULL)
        return NULL;
    /* pairs with the release in fdc_object_new() */
    object = fdc_load_acquire(&slot->object);
    return object != NULL && object->handle == value ? object : NULL;
}
void fdc_handles_reset(void); /* after fork: locks that nobody holds any more */
void fdc_handles_skip(enum fdc_kind kind, uint32_t last); /* new ones come after it */

/* attach.c: fills fdc_process.session with sessions that are ready for calls, or says why
 * there is none (logged). */
CUresult fdc_attach(void);
/* trunk.c: how other servers' workers come to this session's, from what attaching knew. */
struct fdc_door_facts {
    const uint8_t *lease, *session, *secret;
    const char *path, *host, *port; /* of the session file, "" where it has none */
    int sock;
    bool shared, seal;
};
struct fdc_door *fdc_door_new(const struct fdc_door_facts *facts);

/* session.c */
void fdc_session_devices(const char *visible, const char *order);
uint32_t fdc_session_version(void);
/* A worker has gone: every call fails once none is left. */
void fdc_session_lost(void);

/* call.c */
int fdc_call_setup(struct fdc_session *session);
/* A thread ends: the slots that it kept. */
void fdc_tickets_thread_gone(struct fdc_thread *thread);
/* The session is over: every call and every wait ends. Not with order or intake held. */
void fdc_session_kill(struct fdc_session *session, const char *why);

/* print.c: keeps what a kernel printed; under intake. 0 or -ENOMEM. */
int fdc_print_keep(bool error, const void *bytes, size_t size);
/* Writes it. wait: also if the program is busy with the stream, so that it is there when
 * this returns; with no lock held that a thread could want while it prints. */
void fdc_print_all(bool wait);
static inline void
fdc_print_out(bool wait)
{
    /* pairs with the releases in print.c */
    if (FDC_UNLIKELY(fdc_load_acquire(&fdc_process.printing) != 0))
        fdc_print_all(wait);
}

/* stats.c: FD_STATS, FD_STATS_FILE. */
void fdc_stats_setup(struct fdc_session *session);
/* What was just counted as a call is part of one that has been. */
void fdc_stats_inside(void);
void fdc_stats_sent(struct fdc_session *session, uint16_t id, bool waits);

/* hostfn.c: a host function's turn has come; under intake. */
void fdc_hostfn_due(struct fdc_session *session, uint64_t number);

/* hostfn.c: a message on the side lane; its size is filled here. */
void fdc_side_send(struct fdc_session *session, const struct fdc_msg *like);

/* bridge.c: a context has been opened, and there are several sessions. */
void fdc_gate_setup(struct fdc_context *context);
/* The stream stands still at the call's place until fdc_gate_open(). arrived, if any, runs
 * in a service thread when the stream is there, or with why it never will be; *made is set
 * before that. */
struct fdc_gate;
CUresult fdc_gate_put(struct fdc_call *call, struct fdc_stream *stream,
                      void (*arrived)(void *user, CUresult result), void *user,
                      struct fdc_gate **made);
/* Once, and not before it is there where arrived was given. It frees the gate. */
void fdc_gate_open(struct fdc_gate *gate);
/* What the stream stood still for has failed: its session gets to know. */
void fdc_gate_fail(struct fdc_gate *gate, uint16_t id, CUresult result);
/* The stream waits for an event of another session, which nobody waits for. */
CUresult fdc_bridge_wait(struct fdc_call *call, struct fdc_stream *stream,
                         struct fdc_event *event);

/* watch.c: recordings and positions that the worker tells of. A watch for the next
 * recording, or NULL: nobody is likely to ask. Then its message is sent with it, and said
 * where that is; recorded 0: nothing is to be concluded from it. */
struct fdc_watch;
struct fdc_watch *fdc_watch_event(struct fdc_event *event);
void fdc_watch_cancel(struct fdc_watch *watch);
CUresult fdc_watch_send(struct fdc_call *call, struct fdc_watch *watch);
void fdc_watch_sent(struct fdc_watch *watch, uint64_t position, uint32_t recorded);
/* What was told is taken in, so what is not known now is not over; false: ask. */
void fdc_watch_asked(struct fdc_event *event, uint32_t recorded); /* by a query */
bool fdc_watch_knows(struct fdc_event *event, uint32_t recorded);
bool fdc_watch_knows_stream(struct fdc_stream *stream);
/* The stream has been asked about and was not ready: the worker shall tell. */
void fdc_watch_stream(struct fdc_call *call, struct fdc_stream *stream);

/* stream.c */
struct fdc_stream *fdc_stream_make(struct fdc_session *session,
                                   struct fdc_context *context, unsigned flags,
                                   int priority);
void fdc_stream_thread_gone(struct fdc_thread *thread);
/* The stream that a question is about, which answers into `out`. */
CUresult fdc_stream_asked(CUstream value, const void *out, unsigned how,
                          struct fdc_stream **stream);

/* managed.c: what this thread handed memory over for has been sent, or never will be. */
void fdc_managed_sent(struct fdc_thread *self);

/* streamattr.c: what a new stream has. */
void fdc_stream_attributes(struct fdc_stream *stream);
/* A stream of the context that the program knows nothing of; for the courier alone. */
CUresult fdc_stream_hidden(struct fdc_context *context, struct fdc_stream **stream);

/* context.c */
/* The context that stands for a green one; and its end, with that. */
CUresult fdc_context_of_green(struct fdc_device *device, uint64_t green, uint64_t id,
                              struct fdc_context **made);
void fdc_context_end(struct fdc_context *context);
/* Index of the first of its primary contexts: what is agreed at attach. */
static inline uint32_t
fdc_context_first(const struct fdc_session *session)
{
    return 1u + (uint32_t)session->number * (uint32_t)FDC_COUNT(session->device);
}
int fdc_context_setup(struct fdc_session *session);

/* capture.c */
struct fdc_capture {
    struct fdc_capture *next;
    uint64_t id;
    struct fdc_stream *origin;
    struct fdc_context *context;
    CUstreamCaptureMode mode;
    uint32_t thread;        /* number of the thread that began it */
    bool invalid, blocking; /* blocking: a stream that syncs with legacy is in it */
    CUresult why;
    struct fdc_graph *graph; /* what it makes, or adds to */
    bool into;               /* the graph is the program's own */
};
/* The live capture of a stream's, and its status; 906 for the legacy stream beside one. */
CUresult fdc_capture_status(CUstream value, unsigned how, CUstreamCaptureStatus *status,
                            struct fdc_capture *copy, struct fdc_stream **stream);
/* A capture of this stream begins: into a graph of the program's (NULL: a new one). */
struct fdc_capture_into {
    CUgraph graph;
    const CUgraphNode *deps;
    const CUgraphEdgeData *edges;
    size_t count;
};
CUresult fdc_capture_begin(CUstream value, CUstreamCaptureMode mode, unsigned how,
                           const struct fdc_capture_into *into);
/* 0, or what a use of this stream has to give: 906 for the legacy stream while a capture
 * of its context is under way, 901 for a stream whose capture is broken. */
CUresult fdc_capture_use(struct fdc_session *session, struct fdc_stream *stream);
/* A call that no capturing stream can do (synchronise, query): 0, or 900 after having
 * invalidated the capture. */
CUresult fdc_capture_refuse(struct fdc_stream *stream);
/* The whole context is synchronised: 0, or 900 likewise. */
CUresult fdc_capture_refuse_context(struct fdc_context *context);
/* Query or synchronise of an event: 0, or 907 likewise. */
CUresult fdc_capture_refuse_event(struct fdc_session *session, struct fdc_event *event);
/* Record on a stream; wait of a stream for an event: the rules and the books. */
void fdc_capture_record(struct fdc_stream *stream, struct fdc_event *event);
CUresult fdc_capture_wait(struct fdc_stream *stream, struct fdc_event *event,
                          unsigned flags);
void fdc_capture_stream_gone(struct fdc_stream *stream);

#endif
