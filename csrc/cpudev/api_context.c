/*
 * Contexts: primary and created ones, the current context of a thread, limits, sticky
 * errors, and the text that kernels print. A struct fdcpu_ctx is never freed, so that a
 * thread whose current context another thread destroys finds a dead one, not garbage.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"
#include "fdc/private.h"

enum { PRINT_MAX = 1 << 20, HEAP = 8 << 20 };

/* ---- device printf ---- */

/* Under print_lock and the stream's own, which the program may hold while it waits for the
 * device: so that one is taken first, or not at all. */
static void
print_out(struct fdcpu_ctx *ctx)
{
    if (ctx->print_used == 0)
        return;
    fwrite(ctx->print, 1, ctx->print_used, stdout);
    fflush(stdout);
    ctx->print_used = 0;
}

/* Room for more: by printing what there is, or else by growing. Under print_lock. */
static bool
print_make_room(struct fdcpu_ctx *ctx, size_t size)
{
    size_t room = ctx->print_room == 0 ? PRINT_MAX : ctx->print_room;
    char *grown;

    if (ftrylockfile(stdout) == 0) {
        print_out(ctx);
        funlockfile(stdout);
    }
    while (room - ctx->print_used < size)
        room *= 2;
    if (room == ctx->print_room)
        return true;
    grown = realloc(ctx->print, room);
    if (grown == NULL)
        return false;
    ctx->print = grown;
    ctx->print_room = room;
    return true;
}

static void
ctx_print(void *user, const char *bytes, size_t size)
{
    struct fdcpu_ctx *ctx = user;

    pthread_mutex_lock(&ctx->print_lock);
    if (size <= ctx->print_room - ctx->print_used || print_make_room(ctx, size)) {
        memcpy(ctx->print + ctx->print_used, bytes, size);
        ctx->print_used += size;
    }
    pthread_mutex_unlock(&ctx->print_lock);
}

/* A failed assertion: on standard error, as CUDA has it. */
static void
ctx_complain(void *user, const char *bytes, size_t size)
{
    (void)user;
    fwrite(bytes, 1, size, stderr);
}

void
fdcpu_ctx_print_flush(struct fdcpu_ctx *ctx)
{
    if (ctx->print == NULL)
        return;
    flockfile(stdout);
    pthread_mutex_lock(&ctx->print_lock);
    print_out(ctx);
    pthread_mutex_unlock(&ctx->print_lock);
    funlockfile(stdout);
}

/* ---- a new one ---- */

static void
set_defaults(struct fdcpu_ctx *ctx)
{
    memset(ctx->limits, 0, sizeof(ctx->limits));
    ctx->limits[CU_LIMIT_STACK_SIZE] = 1024;
    ctx->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = PRINT_MAX;
    ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = HEAP;
    ctx->limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    ctx->limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    ctx->limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
    ctx->cache_config = 0;
    ctx->shared_config = 1;
    atomic_store(&ctx->pending, 0);
    atomic_store(&ctx->cancel, 0);
    atomic_store(&ctx->peers, 0);
}

static void
fill_env(struct fdcpu_ctx *ctx)
{
    ctx->env.heap = fdcpu_allocator_of(ctx);
    ctx->env.heap_limit = ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE];
    ctx->env.stack_limit = ctx->limits[CU_LIMIT_STACK_SIZE];
    ctx->env.printf_limit = ctx->limits[CU_LIMIT_PRINTF_FIFO_SIZE];
    ctx->env.print = ctx_print;
    ctx->env.complain = ctx_complain;
    ctx->env.print_user = ctx;
    ctx->env.cc = fdcpu.opt.cc;
    ctx->env.sm_count = FDCPU_SMS;
    ctx->env.device = (uint32_t)ctx->device->ordinal;
    ctx->env.peers = &ctx->peers;
    ctx->env.cancel = &ctx->cancel;
    ctx->env.texture = fdcpu_texture_find;
    ctx->env.texture_user = ctx;
    ctx->env.deadline_ms = fdcpu.opt.deadline_ms;
}

struct fdcpu_ctx *
fdcpu_ctx_new(struct fdcpu_device *device, bool primary)
{
    struct fdcpu_ctx *ctx = calloc(1, sizeof(*ctx));

    if (ctx == NULL)
        return NULL;
    ctx->device = device;
    ctx->primary = primary;
    ctx->id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    pthread_mutex_init(&ctx->print_lock, NULL);
    set_defaults(ctx);
    fill_env(ctx);
    ctx->handle = fdcpu_handle_new(FDCPU_H_CONTEXT, ctx);
    ctx->legacy = fdcpu_stream_new(ctx, 0, 0);
    if (ctx->handle == 0 || ctx->legacy == NULL) {
        free(ctx);
        return NULL;
    }
    ctx->legacy->legacy = true;
    atomic_store(&ctx->active, !primary);
    return ctx;
}

struct fdcpu_ctx *
fdcpu_ctx_current(void)
{
    struct fdcpu_thread *t = &fdcpu_thread;

    return t->depth == 0 ? NULL : t->stack[t->depth - 1];
}

CUresult
fdcpu_enter(struct fdcpu_ctx **ctx)
{
    CUresult result = fdcpu_check();
    int error;

    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    *ctx = fdcpu_ctx_current();
    if (FDC_UNLIKELY(*ctx == NULL))
        return CUDA_ERROR_INVALID_CONTEXT;
    if (FDC_UNLIKELY(!atomic_load_explicit(&(*ctx)->active, memory_order_relaxed)))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    error = atomic_load_explicit(&(*ctx)->device->lost, memory_order_relaxed);
    return FDC_UNLIKELY(error != 0) ? (CUresult)error : CUDA_SUCCESS;
}

CUresult
fdcpu_ctx_get(CUcontext handle, struct fdcpu_ctx **ctx)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *ctx = handle == NULL ? fdcpu_ctx_current() : FDCPU_GET(FDCPU_H_CONTEXT, handle);
    if (*ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    /* A primary one can come back, and is asked nothing that its end would change. */
    return (*ctx)->primary || atomic_load(&(*ctx)->active)
               ? CUDA_SUCCESS
               : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult
fdcpu_ctx_result(struct fdcpu_ctx *ctx)
{
    int error = atomic_load(&ctx->device->lost);

    if (FDC_UNLIKELY(error != 0))
        return (CUresult)error;
    return FDC_LIKELY(atomic_load(&ctx->pending) == 0)
               ? CUDA_SUCCESS
               : (CUresult)atomic_exchange(&ctx->pending, 0);
}

void
fdcpu_ctx_fault(struct fdcpu_ctx *ctx, const struct fdcpu_fault *fault)
{
    int none = 0;

    if (fault->report[0] != '\0')
        fdc_log(FDC_LOG_ERROR, "%s", fault->report);
    /* Who sees the error first may never come to where the rest is printed. */
    fdcpu_ctx_print_flush(ctx);
    switch (fault->result) {
    case 700:
    case 702:
    case 710:
    case 714:
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
        atomic_compare_exchange_strong(&ctx->device->lost, &none, fault->result);
        break;
    default:
        atomic_compare_exchange_strong(&ctx->pending, &none, fault->result);
    }
}

/* ---- waiting ---- */

/* Waits for all streams of a context; under sched. */
static void
drain(struct fdcpu_ctx *ctx)
{
    struct fdcpu_stream *s;

again:
    for (s = ctx->streams; s != NULL; s = s->next) {
        if (!fdcpu_stream_reached(s, s->submitted)) {
            fdcpu_stream_ref(s);
            fdcpu_stream_await(s, s->submitted);
            fdcpu_stream_unref(s);
            goto again; /* the list may have changed */
        }
    }
}

static CUresult
ctx_sync(struct fdcpu_ctx *ctx)
{
    struct fdcpu_dep *deps = NULL;
    struct fdcpu_stream *s;
    size_t n = 0, i;

    pthread_mutex_lock(&fdcpu.sched);
    for (s = ctx->streams; s != NULL; s = s->next)
        n += s->done < s->submitted;
    if (n > 0)
        deps = malloc(n * sizeof(*deps));
    if (deps == NULL) {
        if (n > 0)
            drain(ctx);
    } else {
        /* Work that others submit from here on is not waited for. */
        for (i = 0, s = ctx->streams; s != NULL; s = s->next) {
            if (s->done >= s->submitted)
                continue;
            fdcpu_stream_ref(s);
            deps[i++] = (struct fdcpu_dep){s, s->submitted};
        }
        for (i = 0; i < n; i++) {
            fdcpu_stream_await(deps[i].stream, deps[i].ticket);
            fdcpu_stream_unref(deps[i].stream);
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    free(deps);
    fdcpu_ctx_print_flush(ctx);
    return fdcpu_ctx_result(ctx);
}

static void
drain_one(void *obj, void *user)
{
    struct fdcpu_ctx *ctx = obj;

    if (ctx->device == user) {
        pthread_mutex_lock(&fdcpu.sched);
        drain(ctx);
        pthread_mutex_unlock(&fdcpu.sched);
    }
}

void
fdcpu_device_idle(struct fdcpu_device *device)
{
    fdcpu_handle_each(FDCPU_H_CONTEXT, drain_one, device);
}

/* ---- the end of a context's state ---- */

static void
drop_event(void *obj, void *user)
{
    struct fdcpu_event *event = obj;

    if (event->ctx == user)
        fdcpu_event_drop(event);
}

/* Frees all that lives in a context. The handle stays valid for a primary one. */
static void
clear(struct fdcpu_ctx *ctx)
{
    struct fdcpu_stream *s, *next;

    pthread_mutex_lock(&fdcpu.sched);
    drain(ctx);
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_ctx_print_flush(ctx);
    fdc_cls_reset((void *)(uintptr_t)ctx->handle);
    fdcpu_heap_forget(&ctx->env);
    fdcpu_library_drop_ctx(ctx);
    fdcpu_module_drop_ctx(ctx);
    fdcpu_handle_each(FDCPU_H_EVENT, drop_event, ctx);
    fdcpu_texture_drop_ctx(ctx);
    fdcpu_array_drop_ctx(ctx);
    fdcpu_alloc_drop_ctx(ctx);
    pthread_mutex_lock(&fdcpu.sched);
    for (s = ctx->streams; s != NULL; s = next) {
        next = s->next;
        if (!s->legacy && !s->gone) {
            fdcpu_handle_drop(FDCPU_H_STREAM, s->handle);
            fdcpu_stream_retire(s);
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    (void)fdcpu_admit_heap(ctx, HEAP);
    set_defaults(ctx);
    fill_env(ctx);
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&device->lost) != 0)
        return (CUresult)atomic_load(&device->lost);
    pthread_mutex_lock(&fdcpu.api);
    if (device->retains == 0)
        result = fdcpu_admit(device);
    if (result != CUDA_SUCCESS)
        goto unlock;
    if (device->retains++ == 0)
        atomic_store(&device->primary->active, true);
    device->primary->flags = device->primary_flags;
    *pctx = (CUcontext)(uintptr_t)device->primary->handle;
unlock:
    pthread_mutex_unlock(&fdcpu.api);
    return result;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);
    bool last;

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.api);
    if (device->retains == 0) {
        pthread_mutex_unlock(&fdcpu.api);
        return atomic_load(&device->lost) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
    }
    last = --device->retains == 0;
    pthread_mutex_unlock(&fdcpu.api);
    if (last) {
        atomic_store(&device->primary->active, false);
        clear(device->primary);
        fdcpu_admit_end(device);
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);
    bool there;

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.api);
    there = device->retains != 0;
    device->retains = 0;
    atomic_store(&device->primary->active, false);
    pthread_mutex_unlock(&fdcpu.api);
    clear(device->primary);
    if (there)
        fdcpu_admit_end(device);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (flags != NULL)
        *flags = device->primary_flags;
    if (active != NULL)
        *active = atomic_load(&device->primary->active);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if ((flags & ~0xFFu) != 0 || (flags & 7) > 4 || (flags & 7) == 3)
        return CUDA_ERROR_INVALID_VALUE;
    device->primary_flags = flags;
    device->primary->flags = flags;
    return CUDA_SUCCESS;
}

/* ---- the stack of current contexts ---- */

static CUresult
push(struct fdcpu_ctx *ctx)
{
    struct fdcpu_thread *t = &fdcpu_thread;

    if (t->depth == t->room) {
        int room = t->room == 0 ? 8 : 2 * t->room;
        struct fdcpu_ctx **stack = realloc(t->stack, (size_t)room * sizeof(*stack));

        if (stack == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        t->stack = stack;
        t->room = room;
        fdcpu_thread_watch();
    }
    t->stack[t->depth++] = ctx;
    return CUDA_SUCCESS;
}

static CUresult
create(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    struct fdcpu_device *device;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pctx == NULL || (flags & ~0xFFu) != 0 || (flags & 7) > 4 || (flags & 7) == 3)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&device->lost) != 0)
        return (CUresult)atomic_load(&device->lost);
    result = fdcpu_admit(device);
    if (result != CUDA_SUCCESS)
        return result;
    ctx = fdcpu_ctx_new(device, false);
    if (ctx == NULL) {
        fdcpu_admit_end(device);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    ctx->flags = flags;
    result = push(ctx);
    if (result == CUDA_SUCCESS)
        *pctx = (CUcontext)(uintptr_t)ctx->handle;
    return result;
}

FDC_EXPORT CUresult
cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    return create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
               unsigned int flags, CUdevice dev)
{
    (void)paramsArray;
    if (numParams != 0)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
               CUdevice dev)
{
    if (ctxCreateParams != NULL && (ctxCreateParams->numExecAffinityParams != 0 ||
                                    ctxCreateParams->cigParams != NULL))
        return CUDA_ERROR_NOT_SUPPORTED;
    return create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxDestroy_v2(CUcontext handle)
{
    static struct fdcpu_ctx *_Atomic destroyed;
    struct fdcpu_thread *t = &fdcpu_thread;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    ctx = FDCPU_GET(FDCPU_H_CONTEXT, handle);
    if (ctx == NULL || ctx->primary || ctx->green != 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!atomic_exchange(&ctx->active, false))
        return CUDA_ERROR_INVALID_CONTEXT;
    clear(ctx);
    fdcpu_admit_end(ctx->device);
    fdcpu_handle_drop(FDCPU_H_CONTEXT, ctx->handle);
    ctx->next = atomic_load(&destroyed);
    while (!atomic_compare_exchange_weak(&destroyed, &ctx->next, ctx))
        ;
    if (t->depth > 0 && t->stack[t->depth - 1] == ctx)
        t->depth--;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxDestroy(CUcontext handle)
{
    return cuCtxDestroy_v2(handle);
}

FDC_EXPORT CUresult
cuCtxPushCurrent_v2(CUcontext handle)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    ctx = FDCPU_GET(FDCPU_H_CONTEXT, handle);
    return ctx == NULL ? CUDA_ERROR_INVALID_CONTEXT : push(ctx);
}

FDC_EXPORT CUresult
cuCtxPushCurrent(CUcontext handle)
{
    return cuCtxPushCurrent_v2(handle);
}

FDC_EXPORT CUresult
cuCtxPopCurrent_v2(CUcontext *pctx)
{
    struct fdcpu_thread *t = &fdcpu_thread;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (t->depth == 0 || t->stack[t->depth - 1] == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    t->depth--;
    if (pctx != NULL)
        *pctx = (CUcontext)(uintptr_t)t->stack[t->depth]->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetCurrent(CUcontext handle)
{
    struct fdcpu_thread *t = &fdcpu_thread;
    struct fdcpu_ctx *ctx = NULL;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL) {
        if (t->depth > 0)
            t->depth--;
        return CUDA_SUCCESS;
    }
    ctx = FDCPU_GET(FDCPU_H_CONTEXT, handle);
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (t->depth == 0)
        return push(ctx);
    t->stack[t->depth - 1] = ctx;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetCurrent(CUcontext *pctx)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    ctx = fdcpu_ctx_current();
    *pctx = ctx == NULL ? NULL : (CUcontext)(uintptr_t)ctx->handle;
    return CUDA_SUCCESS;
}

/* ---- questions ---- */

FDC_EXPORT CUresult
cuCtxGetDevice_v2(CUdevice *device, CUcontext handle)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(handle, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ctx->device->ordinal;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetFlags(unsigned int *flags)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(NULL, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = ctx->flags;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetFlags(unsigned int flags)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(NULL, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if ((flags & ~0xFFu) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    ctx->flags = flags;
    if (ctx->primary)
        ctx->device->primary_flags = flags;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetId(CUcontext handle, unsigned long long *ctxId)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(handle, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (ctxId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *ctxId = ctx->id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetApiVersion(CUcontext handle, unsigned int *version)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(handle, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *version = 3020;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSynchronize_v2(CUcontext handle)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(handle, &ctx);
    struct fdcpu_stream *s;
    bool capturing = false;

    if (result != CUDA_SUCCESS)
        return result;
    if (!atomic_load(&ctx->active))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    pthread_mutex_lock(&fdcpu.sched);
    for (s = ctx->streams; s != NULL; s = s->next) {
        if (s->capture != NULL) {
            fdcpu_capture_spoil(s->capture);
            capturing = true;
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    if (capturing)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return ctx_sync(ctx);
}

FDC_EXPORT CUresult
cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pvalue == NULL || (unsigned int)limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    /* No context here is CIG-enabled. cuBLAS asks, and uses the value whatever we say. */
    if ((unsigned int)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE &&
        limit != CU_LIMIT_CIG_ENABLED)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *pvalue = ctx->limits[limit];
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    switch ((int)limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > 512 << 10)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        result = fdcpu_admit_heap(ctx, value);
        if (result != CUDA_SUCCESS)
            return result;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
        break;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
        value = value < 32 ? 32 : value > 128 ? 128 : value;
        break;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
        value = 0;
        break;
    default:
        return (unsigned int)limit >= CU_LIMIT_MAX ? CUDA_ERROR_INVALID_VALUE
                                                   : CUDA_ERROR_UNSUPPORTED_LIMIT;
    }
    ctx->limits[limit] = value;
    fill_env(ctx);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pconfig == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pconfig = (CUfunc_cache)ctx->cache_config;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned int)config > 3)
        return CUDA_ERROR_INVALID_VALUE;
    ctx->cache_config = (int)config;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pConfig == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pConfig = (CUsharedconfig)ctx->shared_config;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    (void)config; /* as on every device since 5.0: four-byte banks */
    return result;
}

FDC_EXPORT CUresult
cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (leastPriority != NULL)
        *leastPriority = 0;
    if (greatestPriority != NULL)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxResetPersistingL2Cache(void)
{
    struct fdcpu_ctx *ctx;

    return fdcpu_enter(&ctx);
}

FDC_EXPORT CUresult
cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    struct fdcpu_ctx *ctx, *peer;
    CUresult result = fdcpu_enter(&ctx);
    uint32_t bit;

    if (result != CUDA_SUCCESS)
        return result;
    peer = FDCPU_GET(FDCPU_H_CONTEXT, peerContext);
    if (peer == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (peer->device == ctx->device)
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    bit = 1u << peer->device->ordinal;
    return atomic_fetch_or(&ctx->peers, bit) & bit
               ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
               : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxDisablePeerAccess(CUcontext peerContext)
{
    struct fdcpu_ctx *ctx, *peer;
    CUresult result = fdcpu_enter(&ctx);
    uint32_t bit;

    if (result != CUDA_SUCCESS)
        return result;
    peer = FDCPU_GET(FDCPU_H_CONTEXT, peerContext);
    if (peer == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    bit = 1u << peer->device->ordinal;
    if (!(atomic_fetch_and(&ctx->peers, ~bit) & bit))
        return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    fdcpu_mem_changed();
    return CUDA_SUCCESS;
}
