/* What the files about memory and copies share: places, arenas, pending copies. */
#ifndef FDC_SHIM_MEMORY_H
#define FDC_SHIM_MEMORY_H

#include "fdc/copy.h"
#include "shim.h"
#include "shim/arena.h"

#define FDC_ACROSS_LANES 4 /* pieces of a copy between servers under way at a time */

/* Several chunks that one thread waits for. */
struct fdc_gather {
    uint32_t sent, came; /* came: atomic, a futex word */
    CUresult result;     /* the first failure */
};

/* A chunk on its way down, and where its bytes go. Rows: the chunk is packed (a row is
 * width bytes), in memory they are pitch apart, slices are slice bytes apart. One row:
 * plain bytes. */
struct fdc_pending {
    struct fdc_pending *next, **link;
    struct fdc_session *session;
    struct fdc_gather *gather;
    struct fdc_chunk chunk;
    char *to;
    uint64_t width, rows, depth, pitch, slice;
    bool past_cache; /* a large copy's: its bytes go by the caches to memory */
    bool landed;     /* they come straight to where they belong */
    uint64_t span; /* bytes from the first to the last written */
    struct fdc_ticket ticket;
};

/* The addresses of this process and all its sessions, which are disjoint. */
struct fdc_space {
    pthread_rwlock_t lock;
    struct fdc_ranges *places;   /* -> struct fdc_place, heap */
    struct fdc_ranges *ranges;   /* the sessions' addresses -> struct fdc_device */
    struct fdc_ranges *reserved; /* cuMemAddressReserve -> struct fdc_device */
    uint64_t buffers;            /* buffer ids given, atomic */
};
struct fdc_space *fdc_space(void);
CUresult fdc_space_setup(void); /* once, before the first session */

struct fdc_memory {
    pthread_mutex_t setup;        /* arenas being made */
    uint64_t retired; /* all work up to this position is over, atomic */
    pthread_mutex_t pending_lock; /* a leaf: taken under intake too */
    struct fdc_pending *pending;
    uint32_t pending_count; /* atomic; what flush waiters sleep on is below */
    uint32_t arrived;       /* counts pending copies that came in, atomic */
    struct fdc_shared *shared; /* shared.c, made at first use, atomic */
    struct fdc_managed *managed; /* managed.c, likewise */
    uint32_t handing; /* threads that handed some of it over and have yet to send, atomic */
    uint32_t managed_out; /* blocks of it that the program has, atomic */
    struct fdc_mirrors *mirrors; /* mirror.c, likewise */
    uint32_t mirror_count; /* atomic */
    bool mirrors_stale; /* the device may have written to one, atomic */
    pthread_mutex_t ferry_lock; /* of the chunk, also while it is used; a leaf */
    struct fdc_chunk ferry_chunk; /* ferry.c: of DOWN, where there is no other room */
    pthread_mutex_t mapping; /* one mirror of pinned memory is made at a time */
    uint64_t mapped_next;
    uint64_t own_hint; /* host.c, atomic */
    uint32_t pieces_out; /* pending.c, atomic */
    uint64_t pinned_lo, pinned_hi; /* where pinned memory that is not shared lies; atomic */
    pthread_mutex_t across_lock; /* the chunks below being taken; across.c */
    struct fdc_chunk across_down[FDC_ACROSS_LANES], across_up[FDC_ACROSS_LANES];
};

CUresult fdc_memory_setup(struct fdc_session *session);
static inline uint64_t
fdc_memory_retired(const struct fdc_memory *memory)
{
    return fdc_load_acquire(&memory->retired); /* pairs with the release in memory.c */
}
/* The device's allocator, made at first use; NULL with result 0: the device has no VMM.
 */
CUresult fdc_memory_arena(struct fdc_device *device, struct fdc_arena **arena);
/* What an arena asks of the worker; the user is the device. */
extern const struct fdc_arena_ops fdc_memory_ops;
/* Everything that was accepted so far has finished: arenas are told. */
CUresult fdc_memory_fence(struct fdc_session *session, bool wait);
/* Gives back cached memory of the device, so that others (arrays, mappings) may have
 * it. */
void fdc_memory_trim(struct fdc_device *device);
/* Bytes that the process has on a device. */
uint64_t fdc_memory_used(struct fdc_device *device);
/* Code goes, and nobody says when: what is free has to be asked for where there is any. */
void fdc_memory_unsure(struct fdc_session *session);
CUresult fdc_memory_alloc(struct fdc_call *call, uint64_t size, enum fdc_origin origin,
                          uint64_t owner, CUdeviceptr *address);
CUresult fdc_memory_free(struct fdc_call *call, CUdeviceptr address);
/* The bytes of a live allocation go back, whoever's they were. */
CUresult fdc_memory_give(struct fdc_call *call, const struct fdc_place *place);
/* graphmem.c: what a graph's launch has allocated is freed, outside of graphs. */
CUresult fdc_graph_memory_free(CUdeviceptr address);

/* place.c: what the address belongs to; true when it is in a live allocation. An address
 * inside a session's range but in none is FDC_NOWHERE; unknown addresses are pageable. */
bool fdc_place_find(uint64_t address, struct fdc_place *place);
/* The same as a call of this session sees it: what is shared with another is only pinned. */
void fdc_place_look(struct fdc_session *session, uint64_t address,
                    struct fdc_place *place);
/* Changes a flag of a live place in place: 0 or -ENOENT. */
int fdc_place_set_sync(uint64_t address, bool on);
/* Remembers a device's access to the mappings of a range. */
void fdc_place_set_access(uint64_t address, uint64_t size, int device, unsigned flags);
/* Changes every place of a range. */
void fdc_place_change(uint64_t address, uint64_t size,
                      void (*change)(struct fdc_place *place, int what, int device),
                      int what, int device);
/* Addresses for our own use, without access: all of them or none; address 0: wherever the
 * kernel likes. 0 or -errno. */
int fdc_place_reserve(uint64_t *address, uint64_t size);
/* Pages of a range that fdc_place_range() has kept get memory, where they have none. */
int fdc_place_open(struct fdc_device *device, uint64_t base, uint64_t size);
/* That device and kernels reach memory of this place where it is. */
static inline bool
fdc_place_reached(const struct fdc_place *place)
{
    return place->where == FDC_DEVICE || place->shared;
}

/* shared.c: the worker keeps these addresses free for pinned memory. */
CUresult fdc_shared_piece(struct fdc_session *session, uint64_t address, uint64_t size);
/* shared.c: the worker's side of pinned memory that fdcHostGrow made ends. */
void fdc_host_shrink(struct fdc_session *session, uint64_t address);
/* shared.c: pinned memory that client and worker have at one address. NOT_SUPPORTED: this
 * session has none. */
CUresult fdc_shared_alloc(struct fdc_session *session, uint64_t size, uint64_t *address);
void fdc_shared_free(struct fdc_session *session, uint64_t address);

/* pool.c: bytes of a pool that came back. */
void fdc_pool_freed(uint64_t pool, uint64_t size);
/* Says that these addresses are the device's, and keeps this process out of them. 0, or
 * -EEXIST where something of this process's own is mapped there. */
int fdc_place_range(struct fdc_device *device, uint64_t base, uint64_t size);
/* Forgets the live places for which drop() says so. */
void fdc_place_sweep(bool (*drop)(const struct fdc_place *place, void *user),
                     void *user);

/* Memory of the session that the device reaches, [address, +size): 0, or INVALID_VALUE
 * where it is not all in one live allocation (or in adjacent mappings). */
CUresult fdc_place_device(struct fdc_session *session, uint64_t address, uint64_t size,
                          struct fdc_place *place);

/* pending.c: waits until no pending copy is going to write there. */
CUresult fdc_pending_wait(const void *address, uint64_t size);
/* A chunk of DOWN and what becomes of its bytes when they are there; gather may be
 * NULL. */
CUresult fdc_pending_new(struct fdc_session *session, const struct fdc_pending *what,
                         struct fdc_gather *gather, struct fdc_pending **pending);
/* Commits the call's message with it. */
CUresult fdc_pending_send(struct fdc_call *call, struct fdc_pending *pending);
void fdc_pending_cancel(struct fdc_pending *pending);
/* Before the next piece, over shared memory: waits while many are on their way. How many are
 * too many is learned: few, so that they stay in the caches, unless both sides would sleep. */
void fdc_gather_pace(struct fdc_session *session, struct fdc_gather *gather);
/* Waits until all that was sent with this gather has come in. */
CUresult fdc_gather_wait(struct fdc_session *session, struct fdc_gather *gather);
/* A chunk of UP that is free again when the message's work is done. */
CUresult fdc_up_new(struct fdc_session *session, uint64_t size, struct fdc_chunk *chunk,
                    struct fdc_ticket **ticket);
/* The same, NOT_READY where there is no room now. */
CUresult fdc_up_try(struct fdc_session *session, uint64_t size, struct fdc_chunk *chunk,
                    struct fdc_ticket **ticket);
void fdc_up_cancel(struct fdc_session *session, struct fdc_ticket *ticket);

/* memcpy.c: what a synchronous copy from pageable memory begins with: a driver waits for
 * the stream if the copy is large, so a program that could tell waits too. */
CUresult fdc_copy_begin(struct fdc_call *call, struct fdc_stream *stream, uint64_t size);
/* What a copy from host memory ends with: FD_SYNC waits for its stream. */
CUresult fdc_copy_end(struct fdc_call *call, struct fdc_stream *stream);
/* Waits for what was sent with the gather, the call's last messages on the stream. */
CUresult fdc_copy_wait(struct fdc_call *call, struct fdc_stream *stream,
                       struct fdc_gather *gather);
/* memcpy3d.c: a plain range with host memory in a stream that captures. */
CUresult fdc_copy_captured(struct fdc_call *call, struct fdc_stream *stream,
                           CUdeviceptr dst, CUdeviceptr src, uint64_t size);
/* Host memory to host memory in stream order. */
CUresult fdc_stream_drain(struct fdc_call *call, struct fdc_stream *stream);

struct fdc_array {
    struct fdc_object object;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    uint32_t element; /* bytes, 0: not known here */
    bool level;       /* of a mipmapped array, which it ends with */
    uint64_t bytes;   /* of the slice; a level's are its array's */
};
struct fdc_mipmap {
    struct fdc_object object;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    unsigned levels;
    uint64_t bytes;
    struct fdc_array *level[32]; /* those that the program has asked for */
};
/* array.c: they end with their context. */
void fdc_array_context_gone(struct fdc_context *context);
struct fdc_copy3d;
/* across.c: memory of two servers, or of one that is not the stream's; sync: all of it is
 * over when it returns. */
CUresult fdc_across(struct fdc_call *call, struct fdc_stream *stream,
                    const struct fdc_copy3d *copy, struct fdc_context *to,
                    struct fdc_context *from, bool sync);
/* trunk.c: copies between servers that do not pass through here; for the courier alone. */
struct fdc_trunks;
struct fdc_trunks *fdc_trunks_new(void);
/* False: the courier has to carry. Else it is over, with this result. */
bool fdc_trunk_copy(struct fdc_trunks *trunks, const struct fdc_copy3d *copy,
                   struct fdc_context *to, struct fdc_context *from, CUresult *result);
struct fdc_copy_end;
struct fdc_keeps;
/* memcpy3d.c: a box as a graph's node wants it; host memory is shadowed for the graph. */
CUresult fdc_box_wire(struct fdc_call *call, struct fdc_keeps *keeps,
                      const CUDA_MEMCPY3D *copy, struct fdc_copy3d *box);
/* graphhost.c: a range of host memory as the end of a graph's copy, and where it is. */
CUresult fdc_shadow_end(struct fdc_call *call, struct fdc_keeps *keeps,
                        const void *bytes, uint64_t size, struct fdc_copy_end *end);
void *fdc_shadow_address(const struct fdc_copy_end *end);
/* memcpy3d.c: what a node was given as the program said it. */
CUresult fdc_box_params(const struct fdc_copy3d *box, CUDA_MEMCPY3D *copy);

#define FDC_INLINE_MAX (16u << 10) /* bytes that travel in the message itself */
#define FDC_STAGED_MAX (64u << 10) /* bytes that a driver copies without waiting */
#define FDC_PIECE_MAX (512u << 10) /* bytes of one chunk of a copy */
#define FDC_PIECE_SHARED (256u << 10) /* where both sides should find it in their caches */
#define FDC_PIECE_SENT (1u << 20) /* where each is a call of the system's, or several */
#define FDC_PAST_CACHE (4u << 20) /* bytes of a copy that no cache keeps anyway */

/* How much of a plain copy's bytes the next piece takes. */
static inline uint64_t
fdc_piece(const struct fdc_session *session, uint64_t size)
{
    uint64_t most = session->shared ? FDC_PIECE_SHARED : FDC_PIECE_SENT;

    return size < most ? size : most;
}

/* The next part of a box that fits such a chunk. */
static inline bool
fdc_part_next(uint64_t width, uint64_t height, uint64_t depth, struct fdc_part *part)
{
    return fdc_part_cut(FDC_PIECE_MAX, width, height, depth, part);
}

/* An entry and its twin, whose stream 0 is the thread's own: both give `body`, an
 * expression over the parameters and `how`. */
#define FDC_TWINS(name, suffix, params, body)                                          \
    FDC_EXPORT CUresult name params                                                    \
    {                                                                                  \
        const unsigned how = FDC_STREAM_WORK;                                          \
        return body;                                                                   \
    }                                                                                  \
    FDC_EXPORT CUresult name##suffix params                                            \
    {                                                                                  \
        const unsigned how = FDC_STREAM_WORK | FDC_STREAM_PER_THREAD_ZERO;             \
        return body;                                                                   \
    }

#endif
