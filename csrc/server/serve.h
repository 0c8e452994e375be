/*
 * What the worker's own files share and the generated dispatch does not see: the session
 * object, handle tables, contexts, private events, threads. DESIGN.md says which thread
 * may touch what, and in which order the locks are taken.
 */
#ifndef FDC_SERVE_H
#define FDC_SERVE_H

#include "fdc/copy.h"
#include "server/server.h"

#define FDC_TABLE_CHUNK 4096u           /* slots a chunk */
#define FDC_TABLE_CHUNKS 256u           /* 20 bits of index in all */
#define FDC_DEVICES_MAX 64
#define FDC_MESSAGE_ALIGN 128u          /* of a message's copy: some fields want it */

/* ---- handles.c ---- */

struct fdc_slot {
    uint32_t state;                     /* 0 free, else 0x10000 | generation */
    uint32_t ctx;                       /* index of the context it belongs to */
    void *value;                        /* the driver's */
    void *aux;                          /* ours: event box, code, context, memory */
    uint32_t work;                      /* stream: calls since the last join, atomic */
    uint64_t ordered;                   /* stream: as serve->ordered, when it was last used */
};

struct fdc_slots {
    pthread_mutex_t lock;               /* put, drop and walks */
    struct fdc_slot *chunk[FDC_TABLE_CHUNKS];
    uint32_t high;                      /* no slot in use at or above */
};

struct fdc_slot *fdc_slot_find(struct fdc_serve *serve, int kind, uint64_t handle);
/* Its handle is stale from now on. Under the table's lock. */
void fdc_slot_empty(struct fdc_slot *slot);
/* Ours of a slot that was found; NULL: it has been emptied since. */
static inline void *
fdc_slot_aux(struct fdc_slot *slot)
{
    return fdc_load_acquire(&slot->aux);        /* pairs with handles.c */
}
/* By index alone, whatever generation: contexts. */
struct fdc_slot *fdc_slot_at(struct fdc_serve *serve, int kind, uint32_t index);
CUresult fdc_handle_put_aux(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
                            void *aux, uint32_t ctx);
/* Another value behind a live handle. */
CUresult fdc_handle_swap(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
                         void *aux);
CUresult fdc_handle_drop_aux(struct fdc_serve *serve, int kind, uint64_t handle,
                             void **value, void **aux);
/* The handle that stands for the driver's value, 0: none does. Looks at all of them. */
uint64_t fdc_handle_of(struct fdc_serve *serve, int kind, const void *value);
/* Forgets the handles of a context (0: of all) of one kind; fn sees each that was live. */
void fdc_handle_sweep(struct fdc_serve *serve, int kind, uint32_t ctx,
                      void (*fn)(struct fdc_serve *serve, void *value, void *aux));
/* The same, but fn sees them once nobody can be holding what is in them (retire.c). */
void fdc_handle_retire(struct fdc_serve *serve, int kind, uint32_t ctx,
                       void (*fn)(struct fdc_serve *serve, void *value, void *aux));
/* The same for those with this aux. */
void fdc_handle_sweep_aux(struct fdc_serve *serve, int kind, const void *aux);
int fdc_handles_new(struct fdc_serve *serve);
void fdc_handles_free(struct fdc_serve *serve);
/* What the client left, freed in an order that is safe. */
void fdc_handles_cleanup(struct fdc_serve *serve);

/* ---- retire.c: what others may still be looking at ---- */

/* A slow call, from its beginning to its end; on the helper's stack. */
struct fdc_turn {
    struct fdc_turn *next;
    uint64_t number;
};
void fdc_turn_begin(struct fdc_serve *serve, struct fdc_turn *turn);
void fdc_turn_end(struct fdc_serve *serve, struct fdc_turn *turn);
/* The executor, between two messages, if turn_asked is set; and while it has none. */
void fdc_turns_next(struct fdc_serve *serve);
void fdc_turns_idle(struct fdc_serve *serve, bool idle);
/* Waits until whoever served a message when this was called has come to its end, and ends
 * what was retired before. False: not by then. Not by the executor. */
bool fdc_turns_wait(struct fdc_serve *serve, uint64_t until_ns);
/* Calls end(), now or later, when nobody can be holding this, which no table has. */
void fdc_retire(struct fdc_serve *serve, void *value, void *aux,
                void (*end)(struct fdc_serve *serve, void *value, void *aux));
/* What is left; nobody looks any more. */
void fdc_retired_free(struct fdc_serve *serve);
/* Locks context_lock, by a helper that holds nothing of the tables': who has it may be
 * waiting for all that do. */
void fdc_context_lock(struct fdc_serve *serve);

/* ---- context.c ---- */

struct fdc_mark;

struct fdc_ctx {
    struct fdc_serve *serve;
    uint32_t index;
    int device;                         /* the lease's ordinal */
    bool primary;
    bool borrowed;                      /* a green context's: it ends with that */
    uint32_t open;                      /* atomic: 1 while calls may name it */
    struct fdc_ctx *next;               /* of the session, never freed before its end */
    CUcontext value;
    CUstream own;                       /* the worker's: joins and clearing */
    CUstream clear;
    uint32_t stirred;                   /* given something since fdc_context_rests(), atomic */
    uint32_t legacy_work;               /* calls on the NULL stream since the last join */
    uint32_t blocking_captures;
    uint32_t waits;                     /* for events of it, atomic (event.c) */
    uint64_t ordered;                   /* as fdc_slot.ordered, of the NULL stream */
    uint32_t given, shown;              /* atomic: what may launch kernels, what of it is printed */
    uint32_t opened;                    /* times it was opened */
    uint64_t peers;                     /* devices that it reaches; under context_lock */
    pthread_mutex_t lock;               /* of marks */
    struct fdc_mark *marks;             /* free ones */
};

/* The context of this index made current in this thread; 0: none wanted. */
CUresult fdc_context_use(struct fdc_serve *serve, uint32_t index);
CUresult fdc_context_use_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx);
/* The context that is current in this thread, or NULL. */
struct fdc_ctx *fdc_context_here(void);
/* An open one, or NULL. */
struct fdc_ctx *fdc_context_at(struct fdc_serve *serve, uint32_t index);
struct fdc_ctx *fdc_context_of_device(struct fdc_serve *serve, int device);
/* One that is not the worker's to destroy. */
CUresult fdc_context_borrow(struct fdc_serve *serve, uint64_t handle, int device,
                            CUcontext value);
void fdc_contexts_close(struct fdc_serve *serve);

/* A private event of a context, recorded once, then given back. */
struct fdc_mark {
    CUevent event;
    struct fdc_ctx *ctx;
    struct fdc_mark *next;
    uint32_t epoch;                     /* the ctx->opened that it belongs to */
    bool all;                           /* behind everything that the context was given, */
    uint32_t given;                     /* and what ctx->given was then */
};
void fdc_mark_put(struct fdc_mark *mark);
/* An event recorded now on this stream, or behind everything that the context was given
 * so far. */
CUresult fdc_mark_stream(struct fdc_ctx *ctx, CUstream stream, struct fdc_mark **mark);
CUresult fdc_mark_all(struct fdc_ctx *ctx, struct fdc_mark **mark);
/* The context was given nothing since somebody last waited for all of it, so there is
 * nothing to mark; *result is what such a wait returns. */
bool fdc_context_rests(struct fdc_ctx *ctx, CUresult *result);
/* Something has been given to a stream of the context, or to its own. Any thread, before the
 * client hears of it. */
static inline void
fdc_context_stir(struct fdc_ctx *ctx)
{
    fdc_store_release(&ctx->stirred, 1);        /* pairs with fdc_context_rests() */
}
/* Whether what kernels print may not have come out yet. */
bool fdc_context_may_print(const struct fdc_ctx *ctx);
/* The worker's own stream waits for what the stream was given so far. */
CUresult fdc_context_join(struct fdc_ctx *ctx, CUstream stream);
CUresult fdc_context_join_legacy(struct fdc_ctx *ctx);
bool fdc_stream_is_capturing(struct fdc_serve *serve, CUstream stream);

/* ---- capture.c ---- */

/* Before a stream begins or joins a capture. */
CUresult fdc_capture_prepare(struct fdc_serve *serve, CUstream stream, unsigned *flags);
/* After a stream may have joined one. */
void fdc_capture_joined(struct fdc_serve *serve, CUstream stream, unsigned flags);
/* The graph that the stream is captured into, NULL: none. */
CUgraph fdc_capture_graph(struct fdc_serve *serve, CUstream stream);
/* A stream has been destroyed. */
void fdc_capture_gone(struct fdc_serve *serve, CUstream stream);

/* ---- order.c ---- */

struct fdc_order;
struct fdc_order *fdc_order_new(void);
void fdc_order_free(struct fdc_order *order);
/* What the request has just given to the stream comes before all that any stream is given
 * later, if the message says so. */
CUresult fdc_order_copied(struct fdc_request *request, CUstream stream);
/* The stream is about to be given work: it comes after those copies. `seen` is the
 * stream's own count of them. */
CUresult fdc_order_follow(struct fdc_serve *serve, CUstream stream, uint64_t *seen);
/* The stream is no more, its copies may be under way. */
void fdc_order_gone(struct fdc_serve *serve, CUstream stream);
/* The context goes away, and its copies have finished. */
void fdc_order_forget(struct fdc_serve *serve, const struct fdc_ctx *ctx);

/* ---- done.c ---- */

struct fdc_event_box;
struct fdc_done {
    struct fdc_done *next;
    struct fdc_ctx *ctx;
    struct fdc_mark *mark;              /* this, or */
    struct fdc_event_box *box;          /* ... that, of a program's event */
    CUstream stream;
    uint64_t ticket;
    struct fdc_chunk down;
    bool aside;                         /* FDC_MSG_ASIDE */
    /* Where the chunk's bytes come from, if not from the driver: called once, view NULL
     * where they are not wanted. */
    void (*fill)(struct fdc_serve *serve, void *user, void *view, uint64_t size);
    void *user;
};
/* DONE when the mark or the event has passed, which are taken over. */
int fdc_done_add(struct fdc_serve *serve, uint64_t ticket, struct fdc_mark *mark,
                 CUstream stream, struct fdc_chunk down);
int fdc_done_add_filled(struct fdc_serve *serve, struct fdc_done *like);
/* As fdc_done_flush, says how many it sent. */
int fdc_done_turn(struct fdc_serve *serve);
bool fdc_done_any(struct fdc_serve *serve);
/* Answers what waits on a context that goes away (NULL: all), with this result. */
void fdc_done_cancel(struct fdc_serve *serve, struct fdc_ctx *ctx, CUresult result);
int fdc_poller_start(struct fdc_serve *serve);
void fdc_poller_stop(struct fdc_serve *serve);
void fdc_poller_kick(struct fdc_serve *serve);

/* ---- serve.c ---- */

struct fdc_task;
struct fdc_out;

/* Sends one message on the reply lane, in order, never blocking. */
void fdc_send(struct fdc_serve *serve, const void *bytes, uint32_t size, bool flush);
/* ctx: whose work it was, NULL: nobody's. */
void fdc_send_done(struct fdc_serve *serve, const struct fdc_ctx *ctx, uint64_t ticket,
                   CUresult result, bool flush);
/* ... which the bytes of that put aside precede. */
void fdc_send_done_after(struct fdc_serve *serve, const struct fdc_ctx *ctx, uint64_t ticket,
                         CUresult result, uint64_t after);
/* Into DOWN, of bytes that are there in the worker's view, for the request's answer alone. */
void fdc_request_put(struct fdc_request *request, struct fdc_chunk down);
/* What a call of no context has found out about a device: replies tell of it from now on. */
void fdc_serve_lost(struct fdc_serve *serve, int device, CUresult result);
void fdc_send_flush(struct fdc_serve *serve);
void fdc_send_drop(struct fdc_serve *serve);
/* What did not fit before; true: there is still some. */
bool fdc_send_rest(struct fdc_serve *serve);
/* Ends the session; says why once. */
void fdc_serve_break(struct fdc_serve *serve, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int fdc_pool_add(struct fdc_serve *serve, struct fdc_request *kept,
                 void (*fn)(struct fdc_request *, void *), void *user);
void fdc_pool_stop(struct fdc_serve *serve);
/* Runs an entry's function and sees that the client gets what it waits for. */
int fdc_entry_run(const struct fdc_serve_entry *entry, struct fdc_request *request);
void fdc_request_free(struct fdc_request *request);

/* ---- event.c ---- */

/* The driver event behind an event handle, kept while somebody waits for it. */
struct fdc_event_box {
    CUevent event;
    struct fdc_serve *serve;
    uint32_t refs, flags, ctx;
    uint32_t epoch;                     /* the ctx->opened that it belongs to */
    uint32_t pinned;                    /* atomic: a graph's node has it */
    struct fdc_ctx *home;               /* NULL: it was made in none */
};
void fdc_event_box_put(struct fdc_event_box *box);
/* The driver event of this handle, which must not be recorded anew while it is waited for:
 * a fresh one where that is so. */
CUresult fdc_event_for_record(struct fdc_serve *serve, uint64_t handle, CUevent *event);
/* The driver event of this handle, which stays the same from now on: a graph has it. */
CUresult fdc_event_pin(struct fdc_serve *serve, uint64_t handle, CUevent *event);
/* Answers the kept request when the event has passed: at once, or on a helper thread. */
int fdc_wait_mark(struct fdc_request *request, struct fdc_mark *mark);
/* Likewise, and it has not passed yet. */
int fdc_wait_mark_later(struct fdc_request *request, struct fdc_mark *mark);
/* The executor is idle: looks at waits that have just begun. True: some are left. */
bool fdc_wait_turn(struct fdc_serve *serve);
void fdc_wait_hand_over(struct fdc_serve *serve);

/* ---- board.c: what the processes of the lease have together ---- */

struct fdc_board;
struct fdc_board_row;
struct fdc_board *fdc_board_new(const struct fdc_serve_limits *limits);
void fdc_board_free(struct fdc_board *board);
struct fdc_board_row *fdc_board_own(struct fdc_board *board);
/* The nth row and whose it is; NULL: nobody's, or our own. */
const struct fdc_board_row *fdc_board_other(const struct fdc_board *board, uint32_t n,
                                            uint32_t *pid);
/* How often the device has failed sessions that have ended, and how the last time. */
void fdc_board_failed(const struct fdc_board *board, int device, uint64_t *times,
                      uint32_t *xid);
/* That other processes of the lease are attached. */
bool fdc_board_company(const struct fdc_board *board);
/* what: a device, or FDC_BOARD_HOST. All that the lease has of it. */
uint64_t fdc_board_sum(const struct fdc_board *board, int what);
/* More of it for this session, if the lease then has no more than limit. One thread at a
 * time for each what. */
bool fdc_board_take(struct fdc_board *board, int what, uint64_t size, uint64_t limit);
void fdc_board_add(struct fdc_board *board, int what, uint64_t size); /* in any case */
void fdc_board_give(struct fdc_board *board, int what, uint64_t size);

/* ---- monitor.c ---- */

struct fdc_monitor;
struct fdc_monitor *fdc_monitor_new(struct fdc_serve *serve);
void fdc_monitor_free(struct fdc_serve *serve);
/* A final result of the device. Any thread. */
void fdc_monitor_lost(struct fdc_serve *serve, int device, CUresult result);
/* Bytes that this process has on the device, all told; false: the driver does not say.
 * slow: asking takes long, which nobody should do often. */
bool fdc_monitor_taken(struct fdc_serve *serve, int device, uint64_t *bytes, bool *slow);

/* ---- meter.c: shares of computing time; only where serve->meter is there ---- */

struct fdc_meter;
int fdc_meter_new(struct fdc_serve *serve);     /* 0: it is there if it is needed */
void fdc_meter_stop(struct fdc_serve *serve);   /* before contexts are closed */
void fdc_meter_free(struct fdc_serve *serve);   /* after host functions are */
/* This thread is the executor, or is it no longer. */
void fdc_meter_executes(bool on);
/* The executor is about to give this stream of the current context work: waits for the
 * device's turn. */
void fdc_meter_enter(struct fdc_serve *serve, CUstream stream);
/* This stream is about to be destroyed. */
void fdc_meter_gone(struct fdc_serve *serve, CUstream stream);
/* The executor has nothing to do. */
void fdc_meter_idle(struct fdc_serve *serve);
/* What the executor gives a stream now, after fdc_meter_enter(), is a place to stand at: before
 * the driver gets it, and after. */
void fdc_meter_stands(struct fdc_serve *serve);
void fdc_meter_stood(struct fdc_serve *serve);
/* What it gives now, after those, is work that is behind them. */
void fdc_meter_goes_on(struct fdc_serve *serve);
/* A host function of the program's begins in this stream, or ends; NULL: in a graph. Any
 * thread. */
void fdc_meter_host(struct fdc_serve *serve, struct fdc_ctx *ctx, CUstream stream, bool on);
/* Device time of the lease's parts, ns. */
uint64_t fdc_meter_spent(const struct fdc_serve *serve);

/* ---- memory.c ---- */

struct fdc_memory;
struct fdc_memory *fdc_memory_new(struct fdc_serve *serve);
/* Where its memory shall lie, said before any does; false: it cannot. */
bool fdc_memory_range(struct fdc_serve *serve, uint64_t base, uint64_t size);
void fdc_memory_free(struct fdc_serve *serve);          /* gives everything back */
void fdc_memory_piece(struct fdc_serve *serve, int device, uint64_t size, uint64_t *base,
                      uint64_t *got);
uint64_t fdc_memory_granularity(struct fdc_serve *serve, int device);
/* Whether a copy may name these addresses: the session's pieces, blocks and globals, and
 * host memory that it shares. */
CUresult fdc_memory_check(struct fdc_serve *serve, uint64_t address, uint64_t size);
/* Addresses that the driver chose (a module's globals) may be named from now on. */
CUresult fdc_memory_allow(struct fdc_serve *serve, uint64_t address, uint64_t size);
/* The reader may reach what is mapped of the owner, now and later; counted. Enabling
 * fails as a whole; disabling counts even if it fails in parts. */
CUresult fdc_memory_share(struct fdc_serve *serve, int owner, int reader, bool enable);

/* ---- quota.c ---- */

uint64_t fdc_memory_used(struct fdc_serve *serve, int device);
uint64_t fdc_memory_limit(struct fdc_serve *serve, int device);
CUresult fdc_memory_charge(struct fdc_serve *serve, int device, uint64_t size);
void fdc_memory_refund(struct fdc_serve *serve, int device, uint64_t size);
/* A context or code has come or gone: what the driver has taken beside the session's own
 * allocations counts too. OUT_OF_MEMORY: what has come is too much for the slice, and the
 * caller sends it away again and looks once more. often: this happens often, and is left out
 * where asking takes long. */
CUresult fdc_memory_look(struct fdc_serve *serve, int device, bool often);
/* Bytes that the driver has taken so, as far as it can tell. */
uint64_t fdc_memory_beside(struct fdc_serve *serve, int device);
/* Bytes of the slice that something of the driver's takes, until they are let go. */
struct fdc_memory_held;
CUresult fdc_memory_hold(struct fdc_serve *serve, int device, uint64_t size, bool whole,
                         struct fdc_memory_held **held);
/* Of something that has parts, which name it too. */
bool fdc_memory_is_whole(const struct fdc_memory_held *held);
void fdc_memory_let_go(struct fdc_serve *serve, struct fdc_memory_held *held);

/* ---- zero.c: before a client's first use; each waits for it ---- */

CUresult fdc_zero_memory(struct fdc_serve *serve, int device, uint64_t address, uint64_t size);
/* Of the current context. */
CUresult fdc_zero_array(struct fdc_serve *serve, CUarray array);
CUresult fdc_zero_mipmap(struct fdc_serve *serve, CUmipmappedArray mipmap,
                         unsigned int levels);
/* Waits for what the context's stream `clear` was given. */
CUresult fdc_zero_settle(struct fdc_serve *serve, struct fdc_ctx *ctx);

/* ---- region.c ---- */

void fdc_regions_register(struct fdc_serve *serve);
void fdc_regions_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx);

/* ---- host.c: host memory that both sides have at one address ---- */

struct fdc_host;
struct fdc_host *fdc_host_new(struct fdc_serve *serve);
void fdc_host_free(struct fdc_serve *serve);
uint64_t fdc_host_used(const struct fdc_host *host);
/* Bytes of what the lease may have; where there are too few, shadows that are only kept
 * go. On a helper thread. */
CUresult fdc_host_charge(struct fdc_serve *serve, uint64_t size);
/* The same by the executor: nothing goes for it. */
CUresult fdc_host_charge_now(struct fdc_serve *serve, uint64_t size);
void fdc_host_refund(struct fdc_serve *serve, uint64_t size);
/* Whether these bytes are such memory. */
CUresult fdc_host_check(struct fdc_serve *serve, uint64_t address, uint64_t size);
/* Copies them if they are; it stays where it is meanwhile, whatever the executor serves. */
bool fdc_host_read(struct fdc_serve *serve, void *to, uint64_t address, uint64_t size);
/* Before a context goes away; and in one that has been opened. */
void fdc_host_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx);
void fdc_host_register(struct fdc_serve *serve);

/* ---- green.c ---- */

struct fdc_greens;
struct fdc_greens *fdc_greens_new(void);
void fdc_greens_free(struct fdc_serve *serve);

/* ---- peer.c ---- */

/* The context ends: what it was let reach. */
void fdc_peers_forget(struct fdc_serve *serve, struct fdc_ctx *ctx);

/* ---- array.c: what becomes of swept handles ---- */

void fdc_arrays_forget(struct fdc_serve *serve, void *value, void *aux);
void fdc_arrays_end(struct fdc_serve *serve, void *value, void *aux);
void fdc_mipmaps_forget(struct fdc_serve *serve, void *value, void *aux);
void fdc_mipmaps_end(struct fdc_serve *serve, void *value, void *aux);

/* ---- module.c ---- */

struct fdc_code;
struct fdc_images;
struct fdc_images *fdc_images_new(void);
void fdc_images_free(struct fdc_images *images);
void fdc_code_free(struct fdc_code *code);
/* As fdc_code_function, and how many bytes its parameters take. */
CUresult fdc_code_kernel(struct fdc_serve *serve, struct fdc_wire_func func,
                         CUfunction *value, uint32_t *param_bytes);
/* The kernel that the driver calls by one of these (either may be NULL), with a copy of
 * its parameters' places (malloc). */
struct fdc_code_row {
    struct fdc_wire_func func;
    uint32_t param_bytes, param_count;
    struct fdc_table_param *param;
};
CUresult fdc_code_row(struct fdc_serve *serve, CUfunction function, CUkernel kernel,
                      struct fdc_code_row *row);
enum { FDC_LAUNCH_COOPERATIVE = 1, FDC_LAUNCH_PROGRAMMATIC = 2, FDC_LAUNCH_PRIORITY = 4 };
#define FDC_LAUNCH_HAS_PRIORITY(req) ((req)->flags & FDC_LAUNCH_PRIORITY)

/* ---- memcpy.c ---- */

CUresult fdc_copy3d_fill(struct fdc_request *request, const struct fdc_copy3d *copy,
                         const void *src_chunk, void *dst_chunk, CUDA_MEMCPY3D *out);

/* ---- replay.c ---- */

void fdc_exec_end(struct fdc_serve *serve, void *value, void *aux);
void fdc_exec_forget(struct fdc_serve *serve, void *value, void *aux);

/* ---- hostfn.c ---- */

struct fdc_hostfns;
struct fdc_hostfns *fdc_hostfns_new(struct fdc_serve *serve);
/* The thread that reads the side lane, and so sees the client go whatever else waits. */
int fdc_side_start(struct fdc_serve *serve);
/* Sends what is due; by the poller, after it has flushed what is complete. */
bool fdc_hostfns_turn(struct fdc_serve *serve);
void fdc_hostfns_cancel(struct fdc_serve *serve);
void fdc_hostfns_free(struct fdc_serve *serve);
/* What to give the driver for the client's function of this number, once, in this stream of
 * the current context; stream NULL: in a graph, it may run again, and lives as long as the
 * session unless a graph keeps it. */
CUresult fdc_hostfn_place(struct fdc_serve *serve, uint64_t number, CUstream stream,
                          CUhostFn *fn, void **user);
/* The number that what fdc_hostfn_place() gave stands for. */
CUresult fdc_hostfn_number(struct fdc_serve *serve, CUhostFn fn, void *user,
                           uint64_t *number);
void fdc_hostfn_unplace(struct fdc_serve *serve, void *user);
/* From now on it ends with this graph and all that is made of it. */
void fdc_hostfn_keep(struct fdc_serve *serve, CUgraph graph, void *user);

/* ---- gate.c: where streams stand still until the client opens ---- */

struct fdc_gates;
struct fdc_gates *fdc_gates_new(void);
void fdc_gates_free(struct fdc_gates *gates);
/* An opening of the side lane. 0, or -EPROTO. */
int fdc_gates_open(struct fdc_serve *serve, uint32_t ctx, uint64_t what);
/* The context ends: all are open, and those to come. Then its words are let go. */
void fdc_gates_shut(struct fdc_serve *serve, struct fdc_ctx *ctx);
void fdc_gates_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx);
/* The client has gone: all are open, and those to come. */
void fdc_gates_cancel(struct fdc_serve *serve);

/* ---- trunk.c: copies to and from other servers' workers ---- */

struct fdc_trunks;
struct fdc_trunks *fdc_trunks_new(void);
void fdc_trunks_free(struct fdc_trunks *trunks);
/* The client has gone: what waits on one ends. */
void fdc_trunks_cancel(struct fdc_serve *serve);
/* Copies of a context that closes end; others begin no more in it. */
void fdc_trunks_shut(struct fdc_serve *serve, const struct fdc_ctx *ctx);

/* ---- print.c ---- */

/* Sends what has been printed so far. failed: of failed assertions too, which no call
 * that succeeds has brought out. */
void fdc_print_turn(struct fdc_serve *serve, bool failed);
void fdc_print_stop(struct fdc_serve *serve);

/* ---- blob.c ---- */

struct fdc_blobs;
struct fdc_blobs *fdc_blobs_new(void);
void fdc_blobs_free(struct fdc_blobs *blobs);
/* Fills the chunk with the blob's start and keeps the rest for this thread. Takes bytes
 * (malloc) over. 0 or -EPROTO. */
int fdc_blob_give(struct fdc_request *request, struct fdc_chunk chunk, void *bytes,
                  uint64_t size);

/* ---- the session (session.c) ---- */

struct fdc_serve {
    const struct fdc_driver *driver;
    struct fdc_link *link;
    struct fdc_serve_limits limits;
    CUdevice device[FDC_DEVICES_MAX];
    uint32_t stop;                      /* atomic: 1 from fdc_serve_stop on */
    uint32_t broken;                    /* atomic: a positive errno */
    uint32_t closed;                    /* atomic, futex: cleaning up is as good as done */
    uint32_t grace_ms;                  /* 0, or see fdc_serve_grace() */

    uint8_t *message;                   /* the executor's copy of the message at hand */
    uint32_t message_room;
    void *region[FDC_REGIONS];
    uint64_t region_size[FDC_REGIONS];
    struct fdc_ctx *registered[FDC_REGIONS];    /* the context they were registered in */
    uint32_t attached;                  /* atomic: fdcAttach has been served */

    struct fdc_slots *slots;            /* [FDC_KINDS] */
    pthread_mutex_t context_lock;       /* opening and closing contexts, the list */
    struct fdc_ctx *contexts;
    uint32_t contexts_first;            /* index of device 0's primary context, atomic */
    uint32_t epoch;                     /* counts destroyed contexts, atomic */
    uint32_t captures;                  /* under way, atomic */
    uint64_t ordered;                   /* counts copies that order.c follows up, atomic */
    struct fdc_order *order;

    pthread_mutex_t turn_lock;          /* of retire.c's, to turn_passed */
    struct fdc_turn *turns;             /* slow calls under way */
    struct fdc_retired *retired;
    uint64_t turn_number;               /* counts what begins and what is retired */
    uint64_t turn_passed;               /* the number when the executor held nothing */
    uint32_t turn_asked;                /* atomic: the executor shall look there */
    uint32_t idle;                      /* atomic: it serves no message */
    uint32_t cpus;                      /* that this process may use */

    pthread_mutex_t reply_lock;         /* claim .. commit on the reply lane, first failure */
    struct fdc_out *out_first, *out_last;
    uint64_t out_bytes;
    int32_t first_result;
    uint16_t first_id;
    uint16_t lost, lost_result;         /* as in struct fdc_reply; under reply_lock */

    pthread_mutex_t pool_lock;
    pthread_cond_t pool_cond, pool_gone;
    struct fdc_task *task_first, *task_last;
    uint64_t task_bytes;
    int pool_threads, pool_idle, task_count;
    bool pool_stop;

    pthread_mutex_t inbox_lock;         /* new outstanding items */
    struct fdc_done *inbox_first, *inbox_last;
    pthread_mutex_t done_lock;          /* the list, queries and sending; before reply_lock */
    struct fdc_done *done_first, *done_last;
    uint32_t done_count;                /* both lists, atomic */
    pthread_t poller;
    bool poller_runs;
    uint32_t poller_word, poller_stop, poller_sleeps;

    struct fdc_wait *hot;               /* executor only */

    int print_fd, error_fd;             /* -1: nobody reads what kernels print */
    pthread_mutex_t print_lock;         /* reading and sending; before reply_lock */
    pthread_t printer;

    struct fdc_memory *memory;
    struct fdc_host *host;
    struct fdc_images *images;
    struct fdc_cache *cache;            /* cache.c; NULL: none */
    struct fdc_hostfns *hostfns;
    struct fdc_gates *gates;
    struct fdc_trunks *trunks;
    struct fdc_blobs *blobs;
    struct fdc_objects *objects;
    struct fdc_greens *greens;
    struct fdc_names *names;            /* graphname.c */
    struct fdc_captures *capture;       /* capture.c */
    struct fdc_shadows *shadows;        /* shadow.c */

    struct fdc_serve_counters counters; /* atomic adds, relaxed */
    struct fdc_serve_tally *ledger;     /* by id; the executor's */
    struct fdc_board *board;
    struct fdc_meter *meter;            /* NULL: no share of computing time */
    uint32_t gone;                      /* the client has gone, atomic */
    uint16_t weighed;                   /* counts changes of fdc_memory_beside(), atomic */
    struct fdc_monitor *monitor;
};

/* One that a single thread counts at a time: the executor, or under a lock. */
#define fdc_count_own(serve, what) \
    fdc_store_relaxed(&(serve)->counters.what, (serve)->counters.what + 1)
#define fdc_count(serve, what, n) \
    ((void)__atomic_add_fetch(&(serve)->counters.what, (n), __ATOMIC_RELAXED))

/* A driver entry that may be missing in an old driver. */
#define FDC_HAS(driver, name) ((driver)->name != NULL)

/* ---- graphname.c, capture.c ---- */

struct fdc_names *fdc_names_new(void);
void fdc_names_free(struct fdc_names *names);
struct fdc_captures *fdc_captures_new(void);
void fdc_captures_free(struct fdc_captures *captures);
struct fdc_shadows *fdc_shadows_new(void);
void fdc_shadows_free(struct fdc_serve *serve);
/* Lets go of those that are only kept for the next of their size. */
void fdc_shadows_trim(struct fdc_serve *serve);

/* ---- texture.c ---- */

struct fdc_objects *fdc_objects_new(void);
void fdc_objects_free(struct fdc_objects *objects);
/* Forgets the texture and surface objects of a context. */
void fdc_objects_sweep(struct fdc_serve *serve, uint32_t ctx);

#endif
