/*
 * The PTX engine of the CPU device, as the driver API around it sees it.
 *
 * The engine turns PTX text into modules and runs kernels on host threads. It knows
 * nothing of contexts, streams or handles: api_*.c keep those and call in here. What a
 * kernel may touch is what fdcpu_mem_add() has announced, nothing else.
 */
#ifndef FDCPU_ENGINE_H
#define FDCPU_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- memory a kernel may touch (mem.c) ---- */

enum {
    FDCPU_MEM_READONLY = 1,
    FDCPU_MEM_PEERS = 2,        /* for its owner, and contexts that enabled access to it */
};

struct fdcpu_range {
    uint64_t lo, hi;            /* [lo, hi), host addresses and device addresses alike */
    uint32_t flags;
    uint32_t owner;             /* the device */
    uint32_t readers, writers;  /* bits of devices; readers 0: everybody */
};

/* Announces a range to kernels. Returns 0 or -errno (-EEXIST: overlaps another). */
int fdcpu_mem_add(const struct fdcpu_range *range);
/* Withdraws exactly one announced range; the caller has made sure no kernel uses it. */
int fdcpu_mem_del(uint64_t lo);
/* Who may reach what has become less: nothing is taken from memory any more. */
void fdcpu_mem_changed(void);
/* Flips bit 3 of the byte at this offset of each range that has so many. */
void fdcpu_mem_flip(uint64_t offset);
/* Finds the range that holds addr. */
bool fdcpu_mem_find(uint64_t addr, struct fdcpu_range *range);
/* Finds the nearest range below or above addr, for reports. */
bool fdcpu_mem_nearest(uint64_t addr, struct fdcpu_range *range);

/* ---- modules (lex.c parse.c link.c program.c) ---- */

struct fdcpu_module;
struct fdcpu_func;

struct fdcpu_param {
    uint32_t offset, size;
};

enum fdcpu_space { FDCPU_GLOBAL, FDCPU_CONST };

struct fdcpu_var {
    const char *name;
    uint64_t addr;
    size_t size;
    enum fdcpu_space space;
    bool managed;               /* .attribute(.managed) */
};

struct fdcpu_func_info {
    const char *name;           /* as in the PTX */
    const struct fdcpu_param *params;
    uint32_t nparams, param_size;
    uint32_t static_shared;     /* bytes */
    uint32_t local_size;        /* bytes a thread */
    uint32_t const_size;        /* bytes of .const in the module */
    uint32_t num_regs;          /* what occupancy is computed from */
    uint32_t max_threads;       /* by .maxntid, else 1024 */
    uint32_t reqntid[3];        /* 0 where not required */
    uint32_t reqnctapercluster[3];
    uint16_t ptx_version;       /* 90 for .version 9.0 */
    uint16_t target;            /* 80 for .target sm_80 */
};

/* Where a load puts its words; either may be NULL with size 0. Always NUL-terminated. */
struct fdcpu_jit_log {
    char *error;
    size_t error_size;
    char *info;
    size_t info_size;
    size_t error_used, info_used;       /* out */
};

struct fdcpu_text {
    const char *name;           /* for messages: file or "image" */
    const char *ptx;            /* or a cubin, whose kernels are known and do not run */
    size_t size;                /* without the NUL; ptx[size] need not be readable */
};

/*
 * Memory for a module's .global and .const variables, and for what device code
 * allocates: supplied by the API, which knows the arena. free(ptr from alloc). The
 * engine announces the ranges in it that kernels may touch, exact to the byte; alloc
 * need not (if it has, the engine's are passed over).
 */
struct fdcpu_allocator {
    uint64_t (*alloc)(void *user, size_t size, size_t align);  /* 0 when out of memory */
    void (*free)(void *user, uint64_t addr);
    void *user;
};

/* Whether bytes are machine code. */
bool fdcpu_is_cubin(const void *bytes, size_t size);

/*
 * Loads PTX texts as one linked module (several texts: .extern/.weak/.common resolved
 * across them). The index is made at once, bodies are decoded when first launched.
 * Returns a CUresult number: 0, 218 INVALID_PTX, 2 OUT_OF_MEMORY, 209, 222 (version).
 */
int fdcpu_module_load(const struct fdcpu_text *texts, int ntexts,
                      const struct fdcpu_allocator *mem, struct fdcpu_jit_log *log,
                      struct fdcpu_module **module);
void fdcpu_module_unload(struct fdcpu_module *module);

uint32_t fdcpu_module_func_count(const struct fdcpu_module *module);  /* entries only */
struct fdcpu_func *fdcpu_module_func_at(struct fdcpu_module *module, uint32_t i);
struct fdcpu_func *fdcpu_module_func(struct fdcpu_module *module, const char *name);
/* Decodes the kernel if need be; where that fails, what fdcpu_func_index() knows. */
const struct fdcpu_func_info *fdcpu_func_info(const struct fdcpu_func *func);
/*
 * Without decoding: name, parameters, max_threads, reqntid, ptx_version and target are
 * right, the sizes of shared and local memory and num_regs are not yet.
 */
const struct fdcpu_func_info *fdcpu_func_index(const struct fdcpu_func *func);
uint32_t fdcpu_module_var_count(const struct fdcpu_module *module);
const struct fdcpu_var *fdcpu_module_var_at(const struct fdcpu_module *module, uint32_t i);
const struct fdcpu_var *fdcpu_module_var(const struct fdcpu_module *module, const char *name);

/* ---- launching (sched.c and what it calls) ---- */

/*
 * A texture or surface object, as tex.c reads it. Base addresses are trusted: what a
 * kernel chooses are indices, which are brought into the bounds given here.
 */
enum fdcpu_texel {
    FDCPU_TEXEL_U8, FDCPU_TEXEL_S8, FDCPU_TEXEL_U16, FDCPU_TEXEL_S16, FDCPU_TEXEL_U32,
    FDCPU_TEXEL_S32, FDCPU_TEXEL_F16, FDCPU_TEXEL_F32
};
enum { FDCPU_ADDRESS_WRAP, FDCPU_ADDRESS_CLAMP, FDCPU_ADDRESS_MIRROR, FDCPU_ADDRESS_BORDER };
enum { FDCPU_MAX_LEVELS = 20 };

struct fdcpu_plane {            /* one level of a mipmap; sizes in elements, at least 1 */
    uint64_t base, pitch, slice;        /* bytes of a row, of a plane of rows */
    uint32_t width, height, depth;      /* depth counts layers and faces too */
};

struct fdcpu_texture {
    enum fdcpu_texel texel;
    uint32_t channels, element; /* bytes of an element, all channels */
    uint32_t dims;              /* 1 to 3, layers not counted */
    bool layered, cube;
    bool line;                  /* linear memory: fetches only, outside is 0 */
    bool checked;               /* memory that may go away: ask fdcpu_mem_find() */
    uint8_t address[3];
    bool linear, normalized, as_float, srgb;
    float border[4];
    bool mip_linear;
    float lod_bias, lod_min, lod_max;
    uint32_t nlevels;
    struct fdcpu_plane level[FDCPU_MAX_LEVELS];
};

/* What the device has that a launch needs to know; one a context. */
struct fdcpu_env {
    struct fdcpu_allocator heap;        /* device malloc */
    size_t heap_limit, stack_limit, printf_limit;       /* CU_LIMIT_* */
    void (*print)(void *user, const char *bytes, size_t size);  /* device printf, in order */
    void (*complain)(void *user, const char *bytes, size_t size);   /* assertions, any thread */
    void *print_user;
    uint32_t cc;                        /* 80 */
    uint32_t sm_count;
    uint32_t device;                    /* of the context */
    const _Atomic uint32_t *peers;      /* devices that it may reach; NULL: all */
    const _Atomic uint32_t *cancel;     /* nonzero: stop with 702; may be NULL */
    uint64_t deadline_ms;               /* for one launch, 0: none */
    /*
     * The object behind the number that a kernel has, NULL for none; it must stay until
     * the launch is over. May be NULL.
     */
    const struct fdcpu_texture *(*texture)(void *user, uint64_t number, bool surface);
    void *texture_user;
};

struct fdcpu_launch {
    struct fdcpu_func *func;
    uint32_t grid[3], block[3], cluster[3];     /* cluster 0 or 1: none */
    uint32_t dynamic_shared;
    const void *params;                 /* packed as fdcpu_func_info.params says */
    uint32_t param_size;
    bool cooperative;
    struct fdcpu_env *env;
};

struct fdcpu_fault {
    int result;                 /* CUresult number: 700, 702, 710, 714 ..., 801 */
    char report[768];           /* kernel, block, thread, PTX line, address, nearest */
};

/*
 * Runs one grid to its end, in the calling thread and the process's pool of workers
 * (FD_CPU_THREADS, default: CPUs allowed). Several threads may launch at once; each
 * makes progress by itself. Returns the CUresult number and fills *fault if not 0.
 */
int fdcpu_run(const struct fdcpu_launch *launch, struct fdcpu_fault *fault);

/* Frees what device code has allocated and not freed; before an env goes away. */
void fdcpu_heap_forget(struct fdcpu_env *env);

/* Largest number of blocks that a cooperative launch may have (all resident). */
uint32_t fdcpu_max_cooperative_blocks(const struct fdcpu_func *func, uint32_t threads,
                                      uint32_t dynamic_shared);

#endif
