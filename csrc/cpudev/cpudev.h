/*
 * The driver API of the CPU device: what its api_*.c files share.
 *
 * Objects are named by packed handles (api_handle.c), never by addresses. A unit of
 * device work is a struct fdcpu_work, the same whether it waits in a stream's queue or
 * stands in a graph; api_work.c runs it, api_stream.c orders it, api_capture.c catches
 * it.
 *
 * Locks, in the order in which they may be taken:
 *   fdcpu.api    contexts, modules and libraries (bookkeeping, short)
 *   fdcpu.sched  streams, queues, events, captures, graphs and executable graphs
 *   fdcpu.mem    the allocation table and the arena (api_arena.c, api_alloc.c)
 * The engine's own locks come last. A library's `loading` mutex is taken before all of
 * them. The engine's load and run, host functions and destructors of the program are
 * called with none held.
 */
#ifndef FDCPU_CPUDEV_H
#define FDCPU_CPUDEV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "engine.h"
#include "fdc/base.h"
#include "fdc/cuda_abi.h"
#include "fdc/monitor.h"
#include "cuda_calls.h"

#define FDCPU_MAX_DEVICES 16
#define FDCPU_GRANULE (2ull << 20) /* of cuMemCreate and reservations */
#define FDCPU_ALIGN 512            /* of cuMemAlloc */
#define FDCPU_QUEUE 1024           /* entries of a stream's queue, FD_CPU_STRICT */
#define FDCPU_STAGE (64u << 10)    /* pageable copies above it block when strict */
#define FDCPU_LEGACY ((CUstream)1)
#define FDCPU_PER_THREAD ((CUstream)2)

/* ---- per-thread twins ---- */

/*
 * Exports a call and its _ptsz or _ptds twin from one expression. Inside it S(stream)
 * is the stream meant: 0 is the thread's own stream in the twin.
 */
#define FDCPU_TWIN(name, suffix, params, ...)                                          \
    FDC_EXPORT CUresult name params                                                    \
    {                                                                                  \
        enum { twin = 0 };                                                             \
        return __VA_ARGS__;                                                            \
    }                                                                                  \
    FDC_EXPORT CUresult name##suffix params                                            \
    {                                                                                  \
        enum { twin = 1 };                                                             \
        return __VA_ARGS__;                                                            \
    }
#define S(stream) (twin && (stream) == NULL ? FDCPU_PER_THREAD : (stream))

/* ---- options (api_init.c) ---- */

enum fdcpu_strict {
    FDCPU_STRICT_QUEUE = 1,   /* queues of FDCPU_QUEUE entries that block the caller */
    FDCPU_STRICT_CAPTURE = 2, /* a capturing stream must not even be asked its flags */
    FDCPU_STRICT_HINTS = 4,   /* address hints are not followed */
    FDCPU_STRICT_NOVMM = 8,   /* attribute 102 is 0, cuMemCreate is refused */
    FDCPU_STRICT_SLOW = 16,   /* loads take 50 ms */
    FDCPU_STRICT_UNMAP = 32,  /* memory unmapped while in use is a fault */
    FDCPU_STRICT_HOST = 128, /* host functions of all streams run one after the other */
    FDCPU_STRICT_PAGEABLE = 64, /* big pageable copies wait for their stream */
    FDCPU_STRICT_NOVALUES = 256, /* streams neither wait for words nor write them */
    FDCPU_STRICT_DIRTY = 512, /* new memory is full of FDCPU_DIRT */
};

#define FDCPU_DIRT 0xD1 /* as somebody else might have left it */

struct fdcpu_options {
    int version;     /* what cuDriverGetVersion says */
    int cc;          /* 80 */
    uint64_t memory; /* bytes a device */
    uint32_t strict; /* enum fdcpu_strict */
    bool skip_kernels;
    bool blocking; /* CUDA_LAUNCH_BLOCKING */
    bool eager;    /* CUDA_MODULE_LOADING=EAGER */
    uint64_t context; /* bytes of a device that each context takes, without its heap */
    bool exclusive; /* FD_CPU_EXCLUSIVE: one process at a time has contexts */
    bool slack;    /* FD_CPU_SLACK=1: kernels may use the rest of a block's 512 bytes */
    uint64_t deadline_ms;
    uint64_t fault; /* FD_CPU_FAULT: where a bit flips after each kernel; 0: nowhere */
};

/* ---- handles (api_handle.c) ---- */

enum fdcpu_kind {
    FDCPU_H_CONTEXT = 1,
    FDCPU_H_STREAM,
    FDCPU_H_EVENT,
    FDCPU_H_MODULE,
    FDCPU_H_FUNCTION,
    FDCPU_H_LIBRARY,
    FDCPU_H_KERNEL,
    FDCPU_H_GRAPH,
    FDCPU_H_EXEC,
    FDCPU_H_NODE,
    FDCPU_H_POOL,
    FDCPU_H_ARRAY,
    FDCPU_H_MEMORY,
    FDCPU_H_LINK,
    FDCPU_H_OBJECT,
    FDCPU_H_MIPMAP,
    FDCPU_H_TEXTURE,
    FDCPU_H_SURFACE,
    FDCPU_H_GREEN,
};

/* Names obj. 0 when the table is full. */
uint64_t fdcpu_handle_new(enum fdcpu_kind kind, void *obj);
/* The object, or NULL for a value of another kind, a stale or an unknown one. */
void *fdcpu_handle_get(enum fdcpu_kind kind, uint64_t value);
/* Forgets the name; returns the object once, NULL to everybody later. */
void *fdcpu_handle_drop(enum fdcpu_kind kind, uint64_t value);
/* Calls each(obj, user) for every live object of a kind; each may drop its own. */
void fdcpu_handle_each(enum fdcpu_kind kind, void (*each)(void *obj, void *user),
                       void *user);
#define FDCPU_GET(kind, handle) fdcpu_handle_get(kind, (uint64_t)(uintptr_t)(handle))

/* ---- devices and contexts (api_device.c, api_context.c) ---- */

struct fdcpu_ctx;
struct fdcpu_stream;
struct fdcpu_pool;
struct fdcpu_plan;

struct fdcpu_device {
    int ordinal; /* as CUDA_VISIBLE_DEVICES left it */
    int physical;
    uint8_t uuid[16];
    int pci_domain, pci_bus, pci_slot;
    char name[64];
    _Atomic uint64_t used; /* bytes of the quota */
    _Atomic int lost; /* what a kernel did to it: this process has no more contexts */
    int running; /* kernels; with busy under the lock in api_work.c */
    struct fdc_busy own_busy, *busy; /* where busy time is kept; NULL: in own_busy */
    struct fdcpu_ctx *primary;
    int retains; /* of the primary context; under api */
    unsigned int primary_flags;
    struct fdcpu_pool *default_pool, *pool;
    uint64_t graph_high[2]; /* high marks of used and reserved bytes */
};

#define FDCPU_LIMITS 16

struct fdcpu_ctx {
    struct fdcpu_ctx *next; /* destroyed ones: stacks of threads may still name them */
    uint64_t handle;
    struct fdcpu_device *device;
    bool primary;
    uint64_t green; /* handle of the green context it stands for, or 0 */
    _Atomic bool active; /* false: destroyed, or a primary nobody retains */
    unsigned int flags;
    uint64_t id;
    _Atomic int pending; /* told once by the next call that waits */
    _Atomic uint32_t cancel;
    size_t limits[FDCPU_LIMITS];
    int cache_config, shared_config;
    struct fdcpu_env env;
    struct fdcpu_stream *legacy;
    struct fdcpu_stream *streams; /* all of this context; under sched */
    _Atomic uint32_t peers;       /* bit a device: access enabled */
    pthread_mutex_t print_lock;
    char *print; /* device printf, until the next wait */
    size_t print_used, print_room;
};

struct fdcpu_state {
    _Atomic int ready; /* 1 after cuInit, 2 in a forked child */
    struct fdcpu_options opt;
    int ndevices;
    struct fdcpu_device device[FDCPU_MAX_DEVICES];
    pthread_mutex_t api, sched;
    pthread_rwlock_t mem;
    _Atomic uint64_t next_id;
};
extern struct fdcpu_state fdcpu;

struct fdcpu_own { /* a thread's own default stream in one context */
    struct fdcpu_ctx *ctx;
    struct fdcpu_stream *stream;
};

struct fdcpu_thread {
    struct fdcpu_ctx **stack; /* current context on top */
    int depth, room;
    CUstreamCaptureMode mode;
    int captures; /* not relaxed, begun by this thread */
    bool in_host_function;
    struct fdcpu_own *own;
    int nown;
    uint64_t number;    /* 0 until asked for */
    CUgraphNode *asked; /* what cuStreamGetCaptureInfo gave out last */
    CUgraphEdgeData *asked_edges;
};
extern __thread struct fdcpu_thread fdcpu_thread;
uint64_t fdcpu_thread_number(void);
/* Has what the calling thread keeps freed when it ends. */
void fdcpu_thread_watch(void);
void fdcpu_own_streams_drop(struct fdcpu_thread *thread);

/* What devices there are, CUDA_VISIBLE_DEVICES aside, with or without cuInit. */
int fdcpu_devices_look(struct fdcpu_device *out, int room, struct fdcpu_options *opt);

/* 0, or why no call can be answered now (3 without cuInit, 800 in a host function). */
CUresult fdcpu_check(void);
/* The same, and the current context, which must be usable: 201, 709, sticky errors. */
CUresult fdcpu_enter(struct fdcpu_ctx **ctx);
/* NULL means current. */
CUresult fdcpu_ctx_get(CUcontext handle, struct fdcpu_ctx **ctx);
struct fdcpu_ctx *fdcpu_ctx_current(void);
struct fdcpu_device *fdcpu_device_get(CUdevice dev);
/* As fdcpu_check(), and the device: 101. */
CUresult fdcpu_enter_device(CUdevice dev, struct fdcpu_device **device);
/* Shared memory of a multiprocessor, and of one block that asks for more than usual. */
int fdcpu_sm_shared(void);
int fdcpu_shared_optin(void);
/* api_admit.c: before a device's context is there, and once it is no more; before its heap
 * has another size. */
CUresult fdcpu_admit(struct fdcpu_device *device);
void fdcpu_admit_end(struct fdcpu_device *device);
CUresult fdcpu_admit_heap(struct fdcpu_ctx *ctx, size_t value);
struct fdcpu_ctx *fdcpu_ctx_new(struct fdcpu_device *device, bool primary);
/* Waits for all work of every context of a device. */
void fdcpu_device_idle(struct fdcpu_device *device);
void fdcpu_ctx_print_flush(struct fdcpu_ctx *ctx);
/* Says once what a kernel did, and makes the context remember. */
void fdcpu_ctx_fault(struct fdcpu_ctx *ctx, const struct fdcpu_fault *fault);
/* What a call that waits returns: sticky, or pending (then forgotten), or 0. */
CUresult fdcpu_ctx_result(struct fdcpu_ctx *ctx);
void fdcpu_log_once(const char *what);

/* ---- memory (api_arena.c, api_alloc.c) ---- */

enum fdcpu_alloc_kind {
    FDCPU_A_DEVICE = 1,
    FDCPU_A_MANAGED,
    FDCPU_A_HOST,
    FDCPU_A_REGISTERED,
    FDCPU_A_MAPPED,
    FDCPU_A_POOL,
    FDCPU_A_MODULE,
    FDCPU_A_ARRAY,
    FDCPU_A_GRAPH,
};

struct fdcpu_memory { /* cuMemCreate */
    uint64_t handle;
    size_t size;
    int fd;
    int refs;                    /* handle references + mappings; under mem */
    int names;                   /* references of the handle alone */
    struct fdcpu_device *device; /* NULL: host memory */
    CUmemAllocationProp prop;
};

struct fdcpu_alloc {
    uint64_t lo, hi; /* as asked for */
    size_t charged;  /* bytes of the device's quota */
    enum fdcpu_alloc_kind kind;
    bool announced; /* to kernels */
    bool held;      /* a graph's: allocated by a launch, not freed since */
    bool orphan;    /* ... and no graph names it any more */
    bool freeing;   /* a stream-ordered free is on its way */
    unsigned int flags;
    uint8_t access[FDCPU_MAX_DEVICES]; /* mapped, of a pool: CUmemAccess_flags */
    /* Advice about managed memory. accessed: bit 0 the host, then one a device. */
    bool read_mostly;
    int preferred, prefetched; /* CU_DEVICE_INVALID: not said */
    uint64_t accessed;
    struct fdcpu_ctx *ctx;
    struct fdcpu_device *device;
    struct fdcpu_pool *pool;
    struct fdcpu_memory *memory;
    uint64_t id;
};

/* Variables of modules are parts of one allocation: those that are managed, as somebody has
 * asked for them (api_managed.c). */
void fdcpu_managed_var(uint64_t lo, size_t size);
bool fdcpu_is_managed(uint64_t addr);

/* The arena: addresses that belong to the devices (api_arena.c). */
uint64_t fdcpu_addr_alloc(size_t size, size_t align); /* readable, writable; 0: none */
void fdcpu_addr_free(uint64_t addr, size_t size);
uint64_t fdcpu_addr_reserve(size_t size, size_t align, uint64_t hint); /* no access */
void fdcpu_addr_unreserve(uint64_t addr, size_t size);

/* Allocates and records device memory; zero_ok sizes are the caller's business. */
CUresult fdcpu_alloc_device(struct fdcpu_ctx *ctx, enum fdcpu_alloc_kind kind,
                            size_t size, size_t align, uint64_t *addr);
CUresult fdcpu_alloc_free(uint64_t addr, const struct fdcpu_alloc *only);
/* Records memory that was made elsewhere. -EEXIST: overlaps. */
int fdcpu_alloc_add(const struct fdcpu_alloc *alloc);
/* What kernels are told of it: who may read, who may write. */
struct fdcpu_range fdcpu_alloc_range(const struct fdcpu_alloc *alloc);
/* The widest access that a device has: CUmemAccess_flags. */
unsigned int fdcpu_alloc_widest(const struct fdcpu_alloc *alloc);
int fdcpu_alloc_remove(uint64_t lo, struct fdcpu_alloc *removed);
/* The record that holds addr. */
bool fdcpu_alloc_find(uint64_t addr, struct fdcpu_alloc *alloc);
/* Whether [addr, addr+size) is recorded throughout. */
bool fdcpu_alloc_covers(uint64_t addr, size_t size);
/* Changes a record in place under the lock. */
/* Calls change for each record; under mem. */
void fdcpu_alloc_each(void (*change)(struct fdcpu_alloc *, void *), void *user);
bool fdcpu_alloc_change(uint64_t lo, void (*change)(struct fdcpu_alloc *, void *),
                        void *user);
/* Frees everything that belongs to ctx. */
void fdcpu_alloc_drop_ctx(struct fdcpu_ctx *ctx);
/* Bytes that graphs' launches have allocated, and that their nodes may. */
void fdcpu_alloc_graph_bytes(const struct fdcpu_device *device, uint64_t *used,
                             uint64_t *reserved);
bool fdcpu_charge(struct fdcpu_device *device, size_t size);
void fdcpu_uncharge(struct fdcpu_device *device, size_t size);
/* Ends a pool's bookkeeping for one block (api_pool.c). */
void fdcpu_pool_freed(struct fdcpu_pool *pool, size_t size);
CUresult fdcpu_pool_free_now(uint64_t addr);
/* A graph's allocation is freed by the program: 0, or INVALID_VALUE where it is not
 * allocated. */
CUresult fdcpu_graph_memory_free(uint64_t addr);
/* What a launch of the plan allocates and frees; before it is queued, under sched. */
CUresult fdcpu_graph_memory_launch(const struct fdcpu_plan *plan, bool frees_itself);
void fdcpu_pool_init(struct fdcpu_device *device);
void fdcpu_vmm_free(const struct fdcpu_alloc *alloc);
/* Whether all of it is in one reservation of addresses, mapped or not. */
bool fdcpu_vmm_reserved(uint64_t lo, uint64_t hi);
struct fdcpu_allocator fdcpu_allocator_of(struct fdcpu_ctx *ctx);

/* ---- arrays, textures, surfaces (api_array.c, api_texture.c) ---- */

struct fdcpu_array {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    size_t element;              /* bytes of one element, all channels */
    size_t pitch, slice;         /* bytes of a row, of a plane of rows */
    size_t width, height, depth; /* bytes, rows, planes; at least 1 */
    uint64_t base;
    bool borrowed; /* a level of a mipmapped array */
};
struct fdcpu_mipmap {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    unsigned int nlevels;
    struct fdcpu_array *level[32];
};
void fdcpu_array_drop_ctx(struct fdcpu_ctx *ctx);
/* Kernels find objects on this array no more; the caller waits for those that run. */
void fdcpu_texture_forget(const struct fdcpu_array *array);
void fdcpu_texture_drop_ctx(struct fdcpu_ctx *ctx);
/* Around a kernel's run: what it has looked up stays. */
void fdcpu_texture_enter(void);
void fdcpu_texture_leave(void);
const struct fdcpu_texture *fdcpu_texture_find(void *ctx, uint64_t number, bool surface);

/* ---- modules (api_module.c, api_library.c, fatbin.c) ---- */

struct fdcpu_image { /* PTX texts, or cubins, found in what the program handed over */
    struct fdcpu_text *texts;
    char **owned; /* buffers to free */
    int ntexts, nowned;
};
/* Finds the code. 0, 209 with a line on the log, 200, 218, 2. */
CUresult fdcpu_image_open(struct fdcpu_image *image, const void *data);
/* A linker input of known size. kind is a CUjitInputType. */
CUresult fdcpu_image_add(struct fdcpu_image *image, int kind, const void *data,
                         size_t size, const char *name);
void fdcpu_image_close(struct fdcpu_image *image);
/* Packs texts as an ELF file that fdcpu_image_open() reads back; malloc'd. */
void *fdcpu_image_pack(const struct fdcpu_image *image, size_t *size);

struct fdcpu_function {
    uint64_t handle;
    struct fdcpu_module_obj *module;
    struct fdcpu_func *func;
    char *name;
    uint64_t stand_in_ns; /* what it takes where kernels are skipped */
    _Atomic int refs;  /* of the module and of work */
    _Atomic bool dead; /* the module is gone */
    /* what cuFuncSetAttribute changes; -1: not set */
    int max_dynamic_shared, carveout, cluster[3], nonportable, sched_policy;
    int cluster_required;
    int cache_config;
};

struct fdcpu_module_obj {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    struct fdcpu_module *engine;
    struct fdcpu_library *library; /* NULL for cuModuleLoad* */
    struct fdcpu_function **functions;
    uint32_t nfunctions;
    struct fdcpu_module_obj *next; /* of the same library */
};

struct fdcpu_kernel {
    uint64_t handle;
    struct fdcpu_library *library;
    char *name;
    uint32_t index;
    /* attributes set by cuKernelSetAttribute, a device each; -1: not set */
    int set[FDCPU_MAX_DEVICES][16];
};

struct fdcpu_library {
    uint64_t handle;
    struct fdcpu_image image;
    pthread_mutex_t loading;
    struct fdcpu_module_obj *instances;
    struct fdcpu_kernel **kernels;
    uint32_t nkernels;
    int refs;
};

struct fdcpu_jit { /* the options that a load understands */
    struct fdcpu_jit_log log;
    void **error_used, **info_used; /* where sizes go back */
};
void fdcpu_jit_read(struct fdcpu_jit *jit, unsigned int n, CUjit_option *options,
                    void **values);
void fdcpu_jit_write(struct fdcpu_jit *jit);
CUresult fdcpu_module_make(struct fdcpu_ctx *ctx, const struct fdcpu_image *image,
                           struct fdcpu_jit_log *log, struct fdcpu_module_obj **module);
void fdcpu_module_free(struct fdcpu_module_obj *module);
void fdcpu_library_drop_ctx(struct fdcpu_ctx *ctx);
void fdcpu_module_drop_ctx(struct fdcpu_ctx *ctx);
/* A function from a CUfunction or a CUkernel (in ctx). NULL: neither. */
CUresult fdcpu_function_get(void *handle, struct fdcpu_ctx *ctx,
                            struct fdcpu_function **function);
void fdcpu_function_unref(struct fdcpu_function *function);
/* Dynamic shared memory that a launch may ask for. */
int fdcpu_function_dynamic(const struct fdcpu_function *function,
                           const struct fdcpu_func_info *info);
CUresult fdcpu_function_attribute(const struct fdcpu_function *function, int attribute,
                                  int *value);
CUresult fdcpu_function_set(struct fdcpu_function *function, int attribute, int value);
void *fdcpu_file_read(const char *path, size_t *size, CUresult *result);

/* ---- work (api_work.c) ---- */

enum fdcpu_work_kind {
    FDCPU_W_EMPTY,
    FDCPU_W_KERNEL,
    FDCPU_W_COPY,
    FDCPU_W_SET,
    FDCPU_W_HOST,
    FDCPU_W_CALLBACK,
    FDCPU_W_RECORD,
    FDCPU_W_WAIT,
    FDCPU_W_CHILD,
    FDCPU_W_ALLOC,
    FDCPU_W_FREE,
    FDCPU_W_MEMOP,
    FDCPU_W_GRAPH,
};

struct fdcpu_event;
struct fdcpu_record;
struct fdcpu_graph;
struct fdcpu_plan;

struct fdcpu_dep {               /* until `ticket` of `stream` is done */
    struct fdcpu_stream *stream; /* owned reference */
    uint64_t ticket;
};

struct fdcpu_op { /* work in a stream's queue, where each is once at most */
    struct fdcpu_op *next;
    uint64_t ticket;
    struct fdcpu_work *work;
    struct fdcpu_dep *deps;
    uint32_t ndeps;
    uint64_t end_ns; /* of what only takes time (api_timed.c) */
};

struct fdcpu_work {
    enum fdcpu_work_kind kind;
    struct fdcpu_ctx *ctx;
    struct fdcpu_op op;
    union {
        struct {
            struct fdcpu_function *function;
            void *asked; /* the handle that the program gave */
            uint32_t grid[3], block[3], cluster[3], shared;
            bool cooperative;
            void *params; /* packed; behind the work itself */
            uint32_t param_size;
            void **pointers; /* into params, for GetParams; behind those */
            uint32_t nparams;
        } kernel;
        struct {
            CUDA_MEMCPY3D p;
            void *staged; /* copy of a pageable source; owned */
        } copy;
        CUDA_MEMSET_NODE_PARAMS set;
        struct {
            CUhostFn fn;
            void *user;
        } host;
        struct {
            CUstreamCallback fn;
            void *user;
            CUstream stream;
        } callback;
        struct {
            CUevent handle;
            struct fdcpu_record *record; /* owned reference */
        } event;
        struct fdcpu_graph *child; /* owned */
        struct {
            CUDA_MEM_ALLOC_NODE_PARAMS params;
        } alloc;
        uint64_t free;
        struct {
            CUstreamBatchMemOpParams *ops; /* owned */
            unsigned int count;
        } memop;
        struct fdcpu_plan *plan; /* owned reference */
    } u;
};

struct fdcpu_work *fdcpu_work_new(enum fdcpu_work_kind kind, struct fdcpu_ctx *ctx);
/* A kernel's, with room for its parameters, which are zeros, and for pointers to them. The
 * other fields are the caller's to fill. */
struct fdcpu_work *fdcpu_work_kernel(struct fdcpu_ctx *ctx, uint32_t param_size,
                                     uint32_t nparams);
struct fdcpu_work *fdcpu_work_clone(const struct fdcpu_work *work);
void fdcpu_work_free(struct fdcpu_work *work);
/* Does it, in the calling thread, with no lock held. status: the stream's so far. */
void fdcpu_work_run(struct fdcpu_work *work, struct fdcpu_stream *stream);
/* How long at least one kernel was running; keep: counts on at where, or NULL: here. */
uint64_t fdcpu_busy_ns(struct fdcpu_device *device, uint64_t *now);
void fdcpu_busy_keep(struct fdcpu_device *device, struct fdc_busy *where);
/* Whether it names memory in [lo, hi). */
bool fdcpu_work_uses(const struct fdcpu_work *work, uint64_t lo, uint64_t hi);
/* Checks the arguments of a launch and packs them. */
CUresult fdcpu_launch_prepare(struct fdcpu_ctx *ctx, void *handle,
                              const uint32_t grid[3], const uint32_t block[3],
                              const uint32_t cluster[3], uint32_t shared,
                              bool cooperative, void **params, void **extra,
                              struct fdcpu_work **work);
void fdcpu_copy_run(const CUDA_MEMCPY3D *p);
/* api_log.c: what a stream does, for who compares. A copy is a line a row. */
void fdcpu_log_work(const struct fdcpu_work *work, const struct fdcpu_stream *stream);
void fdcpu_log_copy(const struct fdcpu_stream *stream, const void *dst, bool dst_host,
                    const void *src, bool src_host, size_t size);
void fdcpu_copy_log(const CUDA_MEMCPY3D *p, const struct fdcpu_stream *stream);

/* ---- streams and events (api_stream.c, api_event.c) ---- */

struct fdcpu_capture;

struct fdcpu_stream {
    uint64_t handle; /* 0 for the legacy and the per-thread streams */
    uint64_t green;  /* handle of the green context it was made in, or 0 */
    struct fdcpu_ctx *ctx;
    struct fdcpu_stream *next; /* of ctx->streams */
    int refs;
    unsigned int flags;
    int priority;
    uint64_t id;
    bool legacy, per_thread, gone, running, listed, kept;
    uint64_t submitted;
    uint64_t done; /* read without the lock by queries: acquire/release */
    struct fdcpu_op *head, **tail;
    struct fdcpu_op *timed, **timed_tail; /* before head: what only takes time */
    uint64_t until_ns;                    /* when the last of it ends */
    uint32_t queued, ntimed;
    uint64_t wake_at; /* the first ticket that somebody waits for */
    struct fdcpu_work *current; /* running now */
    struct fdcpu_dep *waits;    /* of cuStreamWaitEvent, for the next op */
    uint32_t nwaits;
    pthread_cond_t work, change;
    struct fdcpu_capture *capture;
    struct fdcpu_node **tips; /* nodes that the next captured one depends on */
    size_t ntips;
    CUstreamAttrValue sync_policy, domain_map, domain, window;
};

struct fdcpu_record { /* one recording of an event */
    int refs;
    struct fdcpu_stream *stream; /* owned reference */
    uint64_t ticket;
    uint64_t time_ns;
};

struct fdcpu_event {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    unsigned int flags;
    struct fdcpu_record *record;   /* NULL: never recorded */
    struct fdcpu_capture *capture; /* recorded in a capture */
    struct fdcpu_node **tips;
    size_t ntips;
};

/* The green context that a stream belongs to, or 0. */
static inline uint64_t
fdcpu_stream_green(const struct fdcpu_stream *stream)
{
    return stream->green != 0 ? stream->green : stream->ctx->green;
}
struct fdcpu_stream *fdcpu_stream_new(struct fdcpu_ctx *ctx, unsigned int flags,
                                      int priority);
void fdcpu_stream_ref(struct fdcpu_stream *stream);   /* under sched */
void fdcpu_stream_unref(struct fdcpu_stream *stream); /* under sched */
/* The stream meant by a handle; 0, 1 and 2 belong to the current context. */
CUresult fdcpu_stream_get(CUstream handle, struct fdcpu_stream **stream);
/*
 * Hands work (owned from here on) to a stream: a node if it captures, else an entry of
 * its queue. wait: returns when it is done. what: FDCPU_DO_*.
 */
enum { FDCPU_DO_WAIT = 1 };
CUresult fdcpu_stream_do(struct fdcpu_stream *stream, struct fdcpu_work *work,
                         int what);
/* Waits until everything submitted so far is done. */
CUresult fdcpu_stream_wait(struct fdcpu_stream *stream);
/* Puts work into the queue, capture or not; under sched. The ticket it got. */
uint64_t fdcpu_stream_push(struct fdcpu_stream *stream, struct fdcpu_work *work);
/* Whether the stream has come so far. */
bool fdcpu_stream_reached(struct fdcpu_stream *stream, uint64_t ticket);
/* It has come so far; the end of a unit of work. */
void fdcpu_stream_finish(struct fdcpu_stream *stream, uint64_t ticket);
void fdcpu_work_end(struct fdcpu_work *work);
/* api_timed.c. add: false, if the work takes more than time; wait: false, if nothing of the
 * stream only takes time. */
bool fdcpu_timed_add(struct fdcpu_stream *stream, struct fdcpu_work *work);
void fdcpu_timed_settle(struct fdcpu_stream *stream);
bool fdcpu_timed_wait(struct fdcpu_stream *stream, uint64_t ticket);
void fdcpu_skipped(void);
/* What a kernel of this name stands in for. */
uint64_t fdcpu_stand_in_ns(const char *name);
void fdcpu_sleep_until(uint64_t until_ns);
void fdcpu_stream_await(struct fdcpu_stream *stream, uint64_t ticket); /* under sched */
void fdcpu_stream_depend(struct fdcpu_stream *stream, struct fdcpu_stream *on,
                         uint64_t ticket);             /* under sched */
void fdcpu_stream_retire(struct fdcpu_stream *stream); /* destroys, under sched */
/* Whether work that names [lo, hi) is queued or running in a context of device. */
bool fdcpu_streams_use(struct fdcpu_device *device, uint64_t lo, uint64_t hi,
                       struct fdcpu_ctx **ctx);
void fdcpu_record_unref(struct fdcpu_record *record);               /* under sched */
void fdcpu_event_drop(struct fdcpu_event *event);
/* An event record or wait as a graph's launch does it; under sched. */
void fdcpu_event_record_at(CUevent handle, struct fdcpu_stream *stream);

/* ---- capture (api_capture.c), all under sched ---- */

struct fdcpu_capture {
    int refs; /* streams + events */
    struct fdcpu_graph *graph;
    bool into; /* the graph is the program's, BeginCaptureToGraph */
    CUstreamCaptureMode mode;
    CUstreamCaptureStatus status;
    uint64_t id;
    struct fdcpu_stream *origin;
    uint64_t thread;
};

/* May the calling thread make an unsafe call now? 0, or 900 (captures spoilt). */
CUresult fdcpu_capture_unsafe(void);
/* Before work on a stream: 0, or 906 for the legacy stream while a stream captures. */
CUresult fdcpu_capture_implicit(struct fdcpu_stream *stream);
void fdcpu_capture_spoil(struct fdcpu_capture *capture);
void fdcpu_capture_leave(struct fdcpu_stream *stream);
CUresult fdcpu_capture_add(struct fdcpu_stream *stream, struct fdcpu_work *work);
CUresult fdcpu_capture_record(struct fdcpu_stream *stream, struct fdcpu_event *event);
CUresult fdcpu_capture_wait(struct fdcpu_stream *stream, struct fdcpu_event *event);
void fdcpu_event_uncapture(struct fdcpu_event *event);

/* ---- graphs (api_graph.c, api_graphnode.c, api_graphexec.c), under sched ---- */

struct fdcpu_edge {
    struct fdcpu_node *from;
    CUgraphEdgeData data;
};

struct fdcpu_node {
    uint64_t handle;
    struct fdcpu_graph *graph;
    struct fdcpu_work *work;
    struct fdcpu_edge *deps;
    size_t ndeps;
    uint64_t origin_handle; /* of a clone: the node it was cloned from */
    unsigned int local_id;  /* of its graph's */
    uint64_t tools_id;      /* of all */
    CUkernelNodeAttrValue *attrs; /* by id, NULL: none was set; owned */
    size_t mark;            /* scratch of the walk in progress */
};

struct fdcpu_user_object;

struct fdcpu_user_ref {
    struct fdcpu_user_object *object;
    unsigned int count;
};

struct fdcpu_graph {
    uint64_t handle;
    struct fdcpu_node **nodes;
    size_t nnodes, room;
    bool child; /* owned by a node */
    bool capturing; /* a capture makes it, or adds to it */
    unsigned int id, next_local;
    struct fdcpu_user_ref *users;
    size_t nusers;
};

struct fdcpu_step {
    struct fdcpu_work *work;
    uint64_t node; /* handle of the node that it comes from */
    uint64_t root; /* ... of the one of the graph itself that this is in */
    bool disabled;
};

struct fdcpu_plan { /* immutable while refs > 1 */
    int refs;
    struct fdcpu_step *steps;
    size_t nsteps, room;
    struct fdcpu_user_ref *users; /* which a replay keeps that outlives its exec */
    size_t nusers;
};

struct fdcpu_exec {
    uint64_t handle;
    struct fdcpu_plan *plan;
    unsigned long long flags;
    uint64_t id;
};

struct fdcpu_graph *fdcpu_graph_new(void);
void fdcpu_graph_free(struct fdcpu_graph *graph);
struct fdcpu_graph *fdcpu_graph_clone(const struct fdcpu_graph *graph);
bool fdcpu_graph_has_memory(const struct fdcpu_graph *graph);
bool fdcpu_node_copy_attributes(struct fdcpu_node *to, const struct fdcpu_node *from);
/* The steps of a child graph's node, made anew from another graph. */
CUresult fdcpu_exec_replace_child(struct fdcpu_exec *exec, uint64_t node,
                                  const struct fdcpu_graph *graph);
struct fdcpu_node *fdcpu_graph_add(struct fdcpu_graph *graph, struct fdcpu_work *work,
                                   struct fdcpu_node *const *deps, size_t ndeps);
/* Nodes in an order in which they may run. malloc'd; NULL: a cycle, or no memory. */
struct fdcpu_node **fdcpu_graph_order(const struct fdcpu_graph *graph);
void fdcpu_plan_unref(struct fdcpu_plan *plan);
void fdcpu_plan_run(struct fdcpu_plan *plan, struct fdcpu_stream *stream);
bool fdcpu_plan_uses(const struct fdcpu_plan *plan, uint64_t lo, uint64_t hi);
/* Puts work in the place of a step that stands for a node; owned if it returns 0. */
CUresult fdcpu_exec_replace(struct fdcpu_exec *exec, uint64_t node,
                            struct fdcpu_work *work);
CUresult fdcpu_copy_work(const CUDA_MEMCPY3D *params, struct fdcpu_ctx *ctx,
                         struct fdcpu_work **work);
CUresult fdcpu_set_work(const CUDA_MEMSET_NODE_PARAMS *params, struct fdcpu_ctx *ctx,
                        struct fdcpu_work **work);
void fdcpu_users_share(struct fdcpu_user_ref **to, size_t *nto,
                       const struct fdcpu_user_ref *from, size_t nfrom);
void fdcpu_users_drop(struct fdcpu_user_ref *users, size_t nusers);

/* Device limits that more than one file speaks of. */
enum {
    FDCPU_SMS = 2,
    FDCPU_WARP = 32,
    FDCPU_MAX_THREADS = 1024,
    FDCPU_SM_THREADS = 2048,
    FDCPU_SM_BLOCKS = 32,
    FDCPU_SM_REGISTERS = 65536,
    FDCPU_SHARED = 49152,
    FDCPU_SHARED_RESERVED = 1024,
    FDCPU_WINDOW = 1 << 27, /* of an access policy: taken, and nothing comes of it */
    FDCPU_DOMAINS = 4,      /* of fences, likewise */
};

#endif
