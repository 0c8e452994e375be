/* What the files about code share: images, loaded code, its kernels. */
#ifndef FDC_SHIM_CODE_H
#define FDC_SHIM_CODE_H

#include "fdc/table.h"
#include "shim.h"

/* An image where the program has it, or a copy of ours (owned). */
struct fdc_image {
    const void *bytes;
    uint64_t size;
    enum fdc_image_kind kind;
    void *owned;
};

/* image.c: kind and length by the first bytes (owned is to be freed); the file's content;
 * the announcement by its hash (the number is what the load call names), with the bytes
 * where the worker keeps none; the bytes. A failure drops it. */
CUresult fdc_image_look(const void *image, struct fdc_image *found);
CUresult fdc_image_read(const char *path, struct fdc_image *found);
CUresult fdc_file_read(const char *path, struct fdc_image *found);
CUresult fdc_image_announce(struct fdc_call *call, const void *bytes, uint64_t size,
                            uint64_t *number);
CUresult fdc_image_send(struct fdc_call *call, uint64_t number, const void *bytes,
                        uint64_t size);
void fdc_image_drop(struct fdc_call *call, uint64_t number);
/* fatbin.c: the image without what none of the devices can run: the context's for a module,
 * all of the session's for a library. `fitted` is the image itself where all of it is
 * needed; its owned is to be freed. */
CUresult fdc_image_fit(const struct fdc_call *call, const struct fdc_image *image,
                       bool library, struct fdc_image *fitted);

/* image.c: the program's JIT options: numbers that travel, and log buffers that do not.
 */
#define FDC_JIT_OPTIONS_MAX 48
struct fdc_jit {
    struct {
        uint32_t option, pad;
        uint64_t value;
    } wire[FDC_JIT_OPTIONS_MAX];
    uint32_t count;
    char *info, *error;
    unsigned int info_room, error_room;
    void **info_size, **error_size, **wall; /* where the used sizes are told */
};
CUresult fdc_jit_read(unsigned int count, const CUjit_option *options, void **values,
                      struct fdc_jit *jit);
/* Stores the logs that came back. */
void fdc_jit_logs(const struct fdc_jit *jit, const char *info, uint32_t info_size,
                  const char *error, uint32_t error_size);

struct fdc_global {
    struct fdc_global *next;
    struct fdc_context *context; /* each has its own */
    char *name;
    uint64_t address, size;
    uint32_t flags;
};

/* An image that other sessions may still want, with the options of its load. */
struct fdc_kept {
    uint64_t size;
    enum fdc_image_kind kind;
    struct fdc_jit jit;
    char bytes[];
};

/* Loaded code. The body outlives its handles a little: threads may be looking at it. */
struct fdc_code {
    uint64_t wire; /* the handle that was loaded */
    bool library;
    struct fdc_session *session; /* where it was loaded first */
    struct fdc_context *context; /* a module's; NULL: a library is every context's */
    struct fdc_kept *kept;
    struct fdc_elsewhere *elsewhere[FDC_SESSIONS]; /* elsewhere.c, atomic */
    pthread_mutex_t carry;                         /* the others being made */
    struct fdc_table_module *table;
    const struct fdc_table_kernel *kernel;
    uint32_t count;
    uint32_t *by_name;                     /* kernels in order of name */
    pthread_mutex_t lock;                  /* the rest */
    struct fdc_func **function, **kernels; /* handles given, by kernel */
    struct fdc_unit *module; /* library: its module's handle, when asked for */
    struct fdc_global *globals;
};

/* What a MODULE or LIBRARY handle stands for. */
struct fdc_unit {
    struct fdc_object object;
    struct fdc_code *code;
};

struct fdc_codes {
    uint64_t images; /* numbers given, atomic */
    uint64_t bytes;  /* of images loaded, atomic; of them sent: */
    uint64_t sent;
    uint32_t uncached; /* the worker keeps no images: they are sent unasked, atomic */
    pthread_mutex_t lock;
    struct fdc_code *retired[256];
    uint32_t retired_next;
};

CUresult fdc_codes_setup(struct fdc_session *session);
/* module.c */
CUresult fdc_code_load(struct fdc_call *call, const struct fdc_image *image,
                       bool library, const struct fdc_jit *jit, struct fdc_unit **unit);
CUresult fdc_code_unload(struct fdc_call *call, struct fdc_unit *unit);
CUresult fdc_code_func(struct fdc_session *session, struct fdc_code *code,
                       enum fdc_kind kind, uint32_t index, struct fdc_func **func);
/* The MODULE or LIBRARY behind a handle, and what both are asked for. */
CUresult fdc_unit_find(enum fdc_kind kind, const void *handle, struct fdc_unit **unit);
CUresult fdc_unit_count(enum fdc_kind kind, const void *handle, unsigned int *count);
/* Handles of its kernels (of this kind: FUNCTION, KERNEL): the one of a name; the first. */
CUresult fdc_unit_named(enum fdc_kind kind, const void *handle, enum fdc_kind what,
                        const char *name, void **named);
CUresult fdc_unit_each(enum fdc_kind kind, const void *handle, enum fdc_kind what,
                       void **each, unsigned int room);
/* The kernel of this name; code->count: none. */
uint32_t fdc_code_named(const struct fdc_code *code, const char *name);
CUresult fdc_code_global(struct fdc_call *call, struct fdc_code *code, const char *name,
                         CUdeviceptr *address, size_t *size, uint32_t *flags);
/* Parts of these for elsewhere.c: the load itself, with the table that it answers
 * (soundness checked); a body that takes the table over; its end; a kernel's name. */
CUresult fdc_code_fetch(struct fdc_call *call, uint64_t handle,
                        const struct fdc_image *image, bool library,
                        const struct fdc_jit *jit, struct fdc_table_module **table);
struct fdc_code *fdc_code_new(struct fdc_table_module *table, bool library);
void fdc_code_free(struct fdc_code *code);
const char *fdc_code_name(const struct fdc_code *code, uint32_t index);
CUresult fdc_code_drop(struct fdc_call *call, uint64_t handle, bool library);

/* elsewhere.c: keeps a library's image where other sessions may want it; the code is loaded
 * with the call's session from now on; the others let go of it. */
CUresult fdc_code_keep(struct fdc_code *code, const struct fdc_image *image,
                       const struct fdc_jit *jit);
void fdc_code_unkeep(struct fdc_code *code);
CUresult fdc_code_here(const struct fdc_call *call, struct fdc_code *code);
void fdc_code_unload_elsewhere(struct fdc_code *code);


/* launch.c: parameters packed in the kernel's own layout, from either form; room: at
 * least kernel->param_bytes or what `extra` says (fdc_params_size). */
CUresult fdc_params_size(const struct fdc_func *func, void **params, void **extra,
                         uint32_t *size);
void fdc_params_pack(const struct fdc_func *func, void **params, void **extra, void *to,
                     uint32_t size);
/* Everything of a launch that can be told at once. */
struct fdc_shape {
    uint32_t grid[3], block[3], cluster[3];
    uint32_t shared;
    bool cooperative;
};
CUresult fdc_shape_check(struct fdc_device *device, const struct fdc_func *func,
                         const struct fdc_shape *shape);
/* occupancy.c: blocks of this many threads that a multiprocessor holds at a time. */
int fdc_occupancy_blocks(const struct fdc_device *device, const struct fdc_func *func,
                         uint32_t threads, uint64_t shared);

#endif
