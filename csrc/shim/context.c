/*
 * Contexts: the stack of each thread, primary contexts and those of cuCtxCreate. All of it
 * is local but opening, closing and waiting. A primary context's handle is the same for
 * the life of the process; the memory of a destroyed context stays, for it may be on other
 * threads' stacks.
 */
#include "managed.h"
#include "process.h"

#include <string.h>

#include "cuda_calls.h"
#include "fdc/private.h"

static struct fdc_context *
context_new(struct fdc_session *session, struct fdc_device *device)
{
    struct fdc_context *context;

    context = fdc_object_new(session, FDC_KIND_CONTEXT, sizeof(*context), NULL);
    if (context == NULL)
        return NULL;
    fdc_object_hold(context); /* for ever */
    context->object.context = context;
    context->device = device;
    context->id = fdc_process_id();
    context->version = 3020;
    pthread_mutex_init(&context->lock, NULL);
    context->legacy = fdc_stream_make(session, context, 0, 0);
    if (context->legacy == NULL)
        return NULL;
    context->legacy->legacy = true;
    if (device != NULL)
        memcpy(context->limit, device->snapshot->limit, sizeof(context->limit));
    return context;
}

/* The primary contexts: the worker's device n has index `first` + n, visible here or not. */
int
fdc_context_setup(struct fdc_session *session)
{
    uint32_t remote, first = fdc_context_first(session);
    int i;

    fdc_handles_skip(FDC_KIND_CONTEXT, first - 1);
    for (remote = 0; remote < session->snapshot->device_count; remote++) {
        struct fdc_device *device = NULL;
        struct fdc_context *context;

        for (i = 0; i < session->devices; i++)
            if (session->device[i].remote == (int)remote)
                device = &session->device[i];
        context = context_new(session, device);
        if (context == NULL)
            return -1;
        context->primary = true;
        if (device != NULL)
            device->primary = context;
    }
    /* The worker keeps these indices for primary contexts. */
    fdc_handles_skip(FDC_KIND_CONTEXT, first + FDC_COUNT(session->device) - 1);
    return 0;
}

struct fdc_context *
fdc_context_find(CUcontext handle)
{
    struct fdc_context *context;

    if (handle == NULL)
        return fdc_context_current();
    context = fdc_object_find(FDC_KIND_CONTEXT, handle);
    return context != NULL && context->device != NULL ? context : NULL;
}

/* ---- at the worker ---- */

static CUresult
context_open(struct fdc_context *context)
{
    struct fdc_call call = {.session = context->object.session};
    struct fdc_reply reply;
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&context->lock);
    if (context->destroyed) {
        result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    } else if (!context->active) {
        if (context->primary) {
            struct fdc_req_fdcContextOpen *req;

            call.id = FDC_ID_fdcContextOpen;
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL) {
                req->context = context->object.handle;
                req->device = context->device->remote;
            }
        } else if (context->green != 0) {
            struct fdc_req_fdcGreenContext *req;

            call.id = FDC_ID_fdcGreenContext;
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL) {
                req->context = context->object.handle;
                req->green = context->green;
                req->device = context->device->remote;
            }
        } else {
            struct fdc_req_fdcContextCreate *req;

            call.id = FDC_ID_fdcContextCreate;
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL) {
                req->context = context->object.handle;
                req->device = context->device->remote;
                req->flags = context->flags;
            }
        }
        result = call.msg != NULL ? fdc_call_wait(&call, &reply, sizeof(reply))
                                  : call.result;
        /* pairs with the acquire in fdc_context_activate() */
        if (result == CUDA_SUCCESS) {
            if (fdc_process.sessions > 1)
                fdc_gate_setup(context);
            __atomic_add_fetch(&call.session->contexts, 1, __ATOMIC_ACQ_REL);
            fdc_store_release(&context->active, true);
        }
    }
    pthread_mutex_unlock(&context->lock);
    return result;
}

CUresult
fdc_context_activate(struct fdc_context *context)
{
    int32_t lost = fdc_load_relaxed(&context->device->lost);
    CUresult result;

    if (FDC_UNLIKELY(lost != 0))
        return (CUresult)lost;
    /* pairs with the release in context_open() */
    if (FDC_LIKELY(fdc_load_acquire(&context->active)))
        return CUDA_SUCCESS;
    result = context_open(context);
    if (fdc_result_is_final(result))
        fdc_store_relaxed(&context->device->lost, (int32_t)result);
    return result;
}

CUresult
fdc_context_use(struct fdc_context *context)
{
    if (FDC_LIKELY(fdc_load_acquire(&context->active) &&
                   fdc_load_relaxed(&context->device->lost) == 0))
        return CUDA_SUCCESS;
    if (context->primary && __atomic_load_n(&context->retained, __ATOMIC_ACQUIRE) == 0)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return fdc_context_activate(context);
}

/* The context's work ends, its handles are no more. Under the context's lock. */
static CUresult
context_shut(struct fdc_context *context, bool reset)
{
    struct fdc_call call = {.session = context->object.session};
    struct fdc_reply reply;
    CUresult result = CUDA_SUCCESS;

    if (context->active) {
        if (reset) {
            struct fdc_req_fdcContextReset *req;

            call.id = FDC_ID_fdcContextReset;
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL)
                req->context = context->object.handle;
        } else {
            struct fdc_req_fdcContextClose *req;

            call.id = FDC_ID_fdcContextClose;
            req = fdc_call_begin(&call, sizeof(*req));
            if (req != NULL)
                req->context = context->object.handle;
        }
        /* No message names the context from here on; what was sent before is served. */
        fdc_store_release(&context->active, false);
        __atomic_sub_fetch(&call.session->contexts, 1, __ATOMIC_ACQ_REL);
        result = call.msg != NULL ? fdc_call_wait(&call, &reply, sizeof(reply))
                                  : call.result;
        /* What had failed in it is no news any more. */
        (void)fdc_session_failure(call.session);
    }
    fdc_stream_context_gone(context);
    fdc_code_context_gone(context);
    fdc_texture_context_gone(context);
    fdc_memory_context_gone(context);
    if (context->device != NULL)
        memcpy(context->limit, context->device->snapshot->limit,
               sizeof(context->limit));
    context->config = 0;
    return result;
}

/* ---- primary contexts ---- */

static CUresult
primary_of(CUdevice dev, struct fdc_context **context)
{
    CUresult result = fdc_process_check();
    struct fdc_device *device;

    if (result != CUDA_SUCCESS)
        return result;
    device = fdc_device(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    *context = device->primary;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    struct fdc_context *context;
    CUresult result = primary_of(dev, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (pctx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_context_activate(context);
    if (result != CUDA_SUCCESS)
        return result;
    __atomic_add_fetch(&context->retained, 1, __ATOMIC_ACQ_REL);
    *pctx = (CUcontext)(uintptr_t)context->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    struct fdc_context *context;
    CUresult result = primary_of(dev, &context);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&context->lock);
    if (context->retained == 0) /* of a lost device: a driver does not count any more */
        result = fdc_load_relaxed(&context->device->lost) != 0 ? CUDA_SUCCESS
                                                               : CUDA_ERROR_INVALID_CONTEXT;
    else if (__atomic_sub_fetch(&context->retained, 1, __ATOMIC_ACQ_REL) == 0)
        result = context_shut(context, false);
    pthread_mutex_unlock(&context->lock);
    return result;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    struct fdc_context *context;
    CUresult result = primary_of(dev, &context);

    if (result != CUDA_SUCCESS)
        return result;
    fdc_cls_reset((void *)(uintptr_t)context->object.handle);
    pthread_mutex_lock(&context->lock);
    __atomic_store_n(&context->retained, 0, __ATOMIC_RELEASE);
    result = context_shut(context, true);
    pthread_mutex_unlock(&context->lock);
    return result;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    struct fdc_context *context;
    CUresult result = primary_of(dev, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (flags != NULL)
        *flags = fdc_load_relaxed(&context->flags);
    if (active != NULL)
        *active = __atomic_load_n(&context->retained, __ATOMIC_RELAXED) > 0;
    return CUDA_SUCCESS;
}

static bool
flags_fit(unsigned flags)
{
    unsigned sched = flags & CU_CTX_SCHED_MASK;

    return (flags & ~(unsigned)CU_CTX_FLAGS_MASK) == 0 &&
           (sched == CU_CTX_SCHED_AUTO || sched == CU_CTX_SCHED_SPIN ||
            sched == CU_CTX_SCHED_YIELD || sched == CU_CTX_SCHED_BLOCKING_SYNC);
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    struct fdc_context *context;
    CUresult result = primary_of(dev, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (!flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    fdc_store_relaxed(&context->flags, flags);
    return CUDA_SUCCESS;
}

/* ---- the stack ---- */

static CUresult
push(struct fdc_context *context)
{
    struct fdc_thread *self = fdc_thread_self();

    if (self->depth == (int)FDC_COUNT(self->stack))
        return CUDA_ERROR_OUT_OF_MEMORY;
    self->stack[self->depth++] = context;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetCurrent(CUcontext *pctx)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;

    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    if (FDC_UNLIKELY(pctx == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    context = fdc_context_current();
    *pctx = context != NULL ? (CUcontext)(uintptr_t)context->object.handle : NULL;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetCurrent(CUcontext ctx)
{
    CUresult result = fdc_process_check();
    struct fdc_thread *self;
    struct fdc_context *context;

    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    self = fdc_thread_self();
    if (ctx == NULL) {
        if (self->depth > 0)
            self->depth--;
        return CUDA_SUCCESS;
    }
    context = fdc_context_find(ctx);
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (self->depth == 0)
        self->depth = 1;
    self->stack[self->depth - 1] = context;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxPushCurrent_v2(CUcontext ctx)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;

    if (result != CUDA_SUCCESS)
        return result;
    context = ctx != NULL ? fdc_context_find(ctx) : NULL;
    return context != NULL ? push(context) : CUDA_ERROR_INVALID_CONTEXT;
}

FDC_EXPORT CUresult
cuCtxPushCurrent(CUcontext ctx)
{
    return cuCtxPushCurrent_v2(ctx);
}

FDC_EXPORT CUresult
cuCtxPopCurrent_v2(CUcontext *pctx)
{
    CUresult result = fdc_process_check();
    struct fdc_thread *self;

    if (result != CUDA_SUCCESS)
        return result;
    self = fdc_thread_self();
    if (self->depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    self->depth--;
    if (pctx != NULL)
        *pctx = (CUcontext)(uintptr_t)self->stack[self->depth]->object.handle;
    return CUDA_SUCCESS;
}

/* The context that the argument means; NULL: the current one. */
static CUresult
context_meant(CUcontext ctx, struct fdc_context **context)
{
    *context = fdc_context_find(ctx);
    if (FDC_UNLIKELY(*context == NULL))
        return CUDA_ERROR_INVALID_CONTEXT;
    if (FDC_UNLIKELY(fdc_load_relaxed(&(*context)->destroyed)))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return CUDA_SUCCESS;
}

/* The same for local questions. */
static CUresult
context_of(CUcontext ctx, struct fdc_context **context)
{
    CUresult result = fdc_process_check();

    return FDC_LIKELY(result == CUDA_SUCCESS) ? context_meant(ctx, context) : result;
}

/* For a question about a context, which answers into `out`. */
static CUresult
asked_of(CUcontext ctx, const void *out, struct fdc_context **context)
{
    CUresult result = context_of(ctx, context);

    return result == CUDA_SUCCESS && out == NULL ? CUDA_ERROR_INVALID_VALUE : result;
}

FDC_EXPORT CUresult
cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
    struct fdc_context *context;
    CUresult result = context_of(ctx, &context);

    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    if (FDC_UNLIKELY(device == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    *device = context->device->ordinal;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetFlags(unsigned int *flags)
{
    struct fdc_context *context;
    CUresult result = asked_of(NULL, flags, &context);

    if (result != CUDA_SUCCESS)
        return result;
    *flags = fdc_load_relaxed(&context->flags);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetFlags(unsigned int flags)
{
    struct fdc_context *context;
    CUresult result = context_of(NULL, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (!flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    fdc_store_relaxed(&context->flags, flags);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
    struct fdc_context *context;
    CUresult result = asked_of(ctx, version, &context);

    if (result != CUDA_SUCCESS)
        return result;
    *version = context->version;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
    struct fdc_context *context;
    CUresult result = asked_of(ctx, ctxId, &context);

    if (result != CUDA_SUCCESS)
        return result;
    *ctxId = context->id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    struct fdc_context *context;
    CUresult result = context_of(NULL, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (leastPriority != NULL)
        *leastPriority = context->device->snapshot->priority_low;
    if (greatestPriority != NULL)
        *greatestPriority = context->device->snapshot->priority_high;
    return CUDA_SUCCESS;
}

/* ---- settings ---- */

FDC_EXPORT CUresult
cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    struct fdc_context *context;
    CUresult result = asked_of(NULL, pconfig, &context);

    if (result != CUDA_SUCCESS)
        return result;
    *pconfig = (CUfunc_cache)(fdc_load_relaxed(&context->config) & 0xff);
    return CUDA_SUCCESS;
}

/* A preference, which the driver itself may ignore: remembered, not sent. */
FDC_EXPORT CUresult
cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct fdc_context *context;
    CUresult result = context_of(NULL, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
        return CUDA_ERROR_INVALID_VALUE;
    fdc_store_relaxed(&context->config, (context->config & ~0xffu) | (unsigned)config);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    struct fdc_context *context;
    CUresult result = asked_of(NULL, pConfig, &context);

    if (result != CUDA_SUCCESS)
        return result;
    *pConfig = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE; /* since compute 5.0 */
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct fdc_context *context;
    CUresult result = context_of(NULL, &context);

    if (result != CUDA_SUCCESS)
        return result;
    return (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE
               ? CUDA_ERROR_INVALID_VALUE
               : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct fdc_context *context;
    CUresult result = asked_of(NULL, pvalue, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    *pvalue = __atomic_load_n(&context->limit[limit], __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct fdc_call call;
    struct fdc_req_cuCtxSetLimit *req;
    struct fdc_reply reply;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuCtxSetLimit, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned)limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->limit = (uint32_t)limit;
    req->value = value;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        __atomic_store_n(&call.context->limit[limit], value, __ATOMIC_RELAXED);
    return result;
}

/* ---- waiting ---- */

FDC_EXPORT CUresult
cuCtxSynchronize_v2(CUcontext ctx)
{
    struct fdc_call call;
    struct fdc_context *context;
    struct fdc_reply reply;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuCtxSynchronize, FDC_NEEDS_INIT);
    if (result == CUDA_SUCCESS)
        result = context_meant(ctx, &context);
    if (result == CUDA_SUCCESS)
        result = fdc_call_join(&call, &context->object);
    if (result == CUDA_SUCCESS)
        result = fdc_context_use(context);
    if (result == CUDA_SUCCESS)
        result = fdc_capture_refuse_context(context);
    if (result != CUDA_SUCCESS)
        return result;
    call.context = context;
    if (fdc_call_begin(&call, sizeof(struct fdc_req_cuCtxSynchronize)) == NULL)
        return call.result;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS) {
        fdc_stream_idle(context->legacy, call.position);
        fdc_memory_retire(context, call.position);
        fdc_memory_seen(call.session);
        fdc_managed_seen(call.session, call.position);
    }
    return result;
}

/* ---- contexts of the program's own ---- */

static CUresult
context_create(CUcontext *pctx, unsigned flags, CUdevice dev)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;
    struct fdc_device *device;

    if (result != CUDA_SUCCESS)
        return result;
    device = fdc_device(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (pctx == NULL || !flags_fit(flags))
        return CUDA_ERROR_INVALID_VALUE;
    context = context_new(device->session, device);
    if (context == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    context->flags = flags;
    result = fdc_context_activate(context);
    if (result == CUDA_SUCCESS)
        result = push(context);
    if (result != CUDA_SUCCESS) {
        cuCtxDestroy_v2((CUcontext)(uintptr_t)context->object.handle);
        return result;
    }
    *pctx = (CUcontext)(uintptr_t)context->object.handle;
    return CUDA_SUCCESS;
}

CUresult
fdc_context_of_green(struct fdc_device *device, uint64_t green, uint64_t id,
                     struct fdc_context **made)
{
    struct fdc_context *context = context_new(device->session, device);
    CUresult result;

    if (context == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    context->flags = CU_CTX_MAP_HOST;
    context->green = green;
    context->id = id;
    result = fdc_context_activate(context);
    if (result == CUDA_SUCCESS)
        *made = context;
    else
        fdc_context_end(context);
    return result;
}

/* Whoever has it current finds it destroyed. */
void
fdc_context_end(struct fdc_context *context)
{
    fdc_cls_reset((CUcontext)(uintptr_t)context->object.handle);
    pthread_mutex_lock(&context->lock);
    (void)context_shut(context, false);
    fdc_store_release(&context->destroyed, true);
    pthread_mutex_unlock(&context->lock);
    fdc_object_drop(context->legacy);
    fdc_object_drop(context);
}

FDC_EXPORT CUresult
cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    return context_create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
               unsigned int flags, CUdevice dev)
{
    if (numParams != 0 && paramsArray != NULL)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return context_create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
               CUdevice dev)
{
    if (ctxCreateParams != NULL && ctxCreateParams->cigParams != NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (ctxCreateParams != NULL && ctxCreateParams->numExecAffinityParams != 0)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return context_create(pctx, flags, dev);
}

FDC_EXPORT CUresult
cuCtxDestroy_v2(CUcontext ctx)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;
    struct fdc_thread *self;

    if (result != CUDA_SUCCESS)
        return result;
    context = ctx != NULL ? fdc_context_find(ctx) : NULL;
    if (context == NULL || context->primary || context->green != 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    fdc_cls_reset(ctx);
    pthread_mutex_lock(&context->lock);
    if (context->destroyed) {
        pthread_mutex_unlock(&context->lock);
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    result = context_shut(context, false);
    fdc_store_release(&context->destroyed, true);
    pthread_mutex_unlock(&context->lock);
    self = fdc_thread_self();
    if (self->depth > 0 && self->stack[self->depth - 1] == context)
        self->depth--;
    fdc_object_drop(context->legacy);
    fdc_object_drop(context);
    return result;
}

FDC_EXPORT CUresult
cuCtxDestroy(CUcontext ctx)
{
    return cuCtxDestroy_v2(ctx);
}

/* Long deprecated: a reference count of its own. */
FDC_EXPORT CUresult
cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
    struct fdc_context *context;
    CUresult result = context_of(NULL, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (pctx == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!context->primary)
        __atomic_add_fetch(&context->retained, 1, __ATOMIC_ACQ_REL);
    *pctx = (CUcontext)(uintptr_t)context->object.handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxDetach(CUcontext ctx)
{
    struct fdc_context *context;
    CUresult result = context_of(ctx, &context);

    if (result != CUDA_SUCCESS)
        return result;
    if (context->primary)
        return CUDA_SUCCESS;
    if (__atomic_load_n(&context->retained, __ATOMIC_ACQUIRE) > 0) {
        __atomic_sub_fetch(&context->retained, 1, __ATOMIC_ACQ_REL);
        return CUDA_SUCCESS;
    }
    return cuCtxDestroy_v2((CUcontext)(uintptr_t)context->object.handle);
}

/* ---- access between devices ---- */

/* Opens a call about the current context and its peer. */
static CUresult
peer_open(struct fdc_call *call, uint16_t id, CUcontext handle,
          struct fdc_context **peer)
{
    CUresult result = fdc_call_open(call, id, FDC_NEEDS_CONTEXT);

    if (result != CUDA_SUCCESS)
        return result;
    *peer = handle != NULL ? fdc_context_find(handle) : NULL;
    return *peer == NULL ? CUDA_ERROR_INVALID_CONTEXT
           : fdc_load_relaxed(&(*peer)->destroyed) ? CUDA_ERROR_CONTEXT_IS_DESTROYED
                                                   : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    struct fdc_req_cuCtxEnablePeerAccess *req;
    struct fdc_context *peer;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = peer_open(&call, FDC_ID_cuCtxEnablePeerAccess, peerContext, &peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!(fdc_device_peer(call.context->device, peer->device) & FDC_PEER_ACCESS))
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    result = fdc_context_activate(peer);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->peerContext = peer->object.handle;
    req->Flags = 0;
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

FDC_EXPORT CUresult
cuCtxDisablePeerAccess(CUcontext peerContext)
{
    struct fdc_req_cuCtxDisablePeerAccess *req;
    struct fdc_context *peer;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = peer_open(&call, FDC_ID_cuCtxDisablePeerAccess, peerContext, &peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (!(fdc_device_peer(call.context->device, peer->device) & FDC_PEER_ACCESS))
        return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    result = fdc_context_activate(peer);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->peerContext = peer->object.handle;
    return fdc_call_wait(&call, &reply, sizeof(reply));
}
