/*
 * Contexts of a session. From contexts_first on, agreed at attach, are the primary contexts
 * of the lease's devices; others are made by the program. Each open context has a
 * non-blocking stream of the worker's own: to wait for "everything so far", that stream
 * waits for an event on every stream that had work, so nothing context-wide is ever called
 * and the NULL stream is left alone while something is being captured.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <stdlib.h>
#include <unistd.h>

#define SHUT_NS 2000000000ull           /* how long the end of a context waits for others */

/* What cuCtxSetCurrent last said in this thread. */
static __thread struct {
    struct fdc_ctx *ctx;
    CUcontext value;
    uint32_t epoch;
} here;

struct fdc_ctx *
fdc_context_here(void)
{
    return here.ctx;
}

static void
forget_here(void)
{
    here.ctx = NULL;
    here.value = NULL;
}

struct fdc_ctx *
fdc_context_at(struct fdc_serve *serve, uint32_t index)
{
    struct fdc_slot *slot = fdc_slot_at(serve, FDC_KIND_CONTEXT, index);
    struct fdc_ctx *ctx;

    if (slot == NULL || !fdc_load_acquire(&slot->state))
        return NULL;            /* pairs with the release in fdc_handle_put_aux() */
    ctx = fdc_slot_aux(slot);
    return ctx != NULL && fdc_load_acquire(&ctx->open) ? ctx : NULL;
}

struct fdc_ctx *
fdc_context_of_device(struct fdc_serve *serve, int device)
{
    return fdc_context_at(serve, fdc_load_relaxed(&serve->contexts_first) + (uint32_t)device);
}

CUresult
fdc_context_use_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    uint32_t epoch = fdc_load_acquire(&serve->epoch);   /* pairs with context_shut() */
    CUresult result;

    if (FDC_LIKELY(here.ctx == ctx && here.epoch == epoch && here.value == ctx->value))
        return CUDA_SUCCESS;
    result = serve->driver->cuCtxSetCurrent(ctx->value);
    if (result != CUDA_SUCCESS)
        return result;
    if (here.ctx == NULL && FDC_HAS(serve->driver, cuThreadExchangeStreamCaptureMode)) {
        /* The client's threads have their own rules, which the shim applies. */
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

        serve->driver->cuThreadExchangeStreamCaptureMode(&mode);
    }
    here.ctx = ctx;
    here.value = ctx->value;
    here.epoch = epoch;
    return CUDA_SUCCESS;
}

CUresult
fdc_context_use(struct fdc_serve *serve, uint32_t index)
{
    struct fdc_ctx *ctx;

    if (index == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    ctx = fdc_context_at(serve, index);
    if (ctx == NULL)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return fdc_context_use_ctx(serve, ctx);
}

/* ---- private events ---- */

static CUresult
mark_get(struct fdc_ctx *ctx, struct fdc_mark **got)
{
    struct fdc_mark *mark;
    CUresult result;

    pthread_mutex_lock(&ctx->lock);
    mark = ctx->marks;
    if (mark != NULL)
        ctx->marks = mark->next;
    pthread_mutex_unlock(&ctx->lock);
    if (mark == NULL) {
        mark = calloc(1, sizeof(*mark));
        if (mark == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        result = ctx->serve->driver->cuEventCreate(
            &mark->event, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
        if (result != CUDA_SUCCESS) {
            free(mark);
            return result;
        }
        mark->ctx = ctx;
        mark->epoch = ctx->opened;
    }
    mark->next = NULL;
    mark->all = false;
    *got = mark;
    return CUDA_SUCCESS;
}

void
fdc_mark_put(struct fdc_mark *mark)
{
    struct fdc_ctx *ctx = mark->ctx;

    pthread_mutex_lock(&ctx->lock);
    if (fdc_load_relaxed(&ctx->open) && mark->epoch == ctx->opened) {
        mark->next = ctx->marks;
        ctx->marks = mark;
        mark = NULL;
    }
    pthread_mutex_unlock(&ctx->lock);
    free(mark);                 /* its driver event went with its context */
}

CUresult
fdc_mark_stream(struct fdc_ctx *ctx, CUstream stream, struct fdc_mark **mark)
{
    CUresult result = mark_get(ctx, mark);

    if (result != CUDA_SUCCESS)
        return result;
    result = ctx->serve->driver->cuEventRecord((*mark)->event, stream);
    if (result != CUDA_SUCCESS)
        fdc_mark_put(*mark);
    return result;
}

CUresult
fdc_context_join(struct fdc_ctx *ctx, CUstream stream)
{
    struct fdc_mark *mark;
    CUresult result;

    fdc_context_stir(ctx);
    result = fdc_mark_stream(ctx, stream, &mark);
    if (result != CUDA_SUCCESS)
        return result;
    result = ctx->serve->driver->cuStreamWaitEvent(ctx->own, mark->event, 0);
    fdc_mark_put(mark);         /* a wait keeps what was recorded when it was enqueued */
    return result;
}

CUresult
fdc_context_join_legacy(struct fdc_ctx *ctx)
{
    CUresult result;

    if (!fdc_load_relaxed(&ctx->legacy_work) || fdc_load_relaxed(&ctx->blocking_captures))
        return CUDA_SUCCESS;
    result = fdc_context_join(ctx, CU_STREAM_LEGACY);
    if (result == CUDA_SUCCESS)
        __atomic_store_n(&ctx->legacy_work, 0, __ATOMIC_RELAXED);
    return result;
}

bool
fdc_stream_is_capturing(struct fdc_serve *serve, CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;

    if (fdc_load_relaxed(&serve->captures) == 0 || stream == CU_STREAM_LEGACY)
        return false;
    if (!FDC_HAS(serve->driver, cuStreamIsCapturing) ||
        serve->driver->cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS)
        return false;
    return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

bool
fdc_context_may_print(const struct fdc_ctx *ctx)
{
    return ctx->serve->print_fd >= 0 &&
           fdc_load_relaxed(&ctx->given) != fdc_load_relaxed(&ctx->shown);
}

static bool
any_stream_has_work(struct fdc_ctx *ctx)
{
    struct fdc_slots *slots = &ctx->serve->slots[FDC_KIND_STREAM];
    bool work = false;

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high && !work; i++) {
        struct fdc_slot *slot = fdc_slot_at(ctx->serve, FDC_KIND_STREAM, i);

        work = slot != NULL && slot->state != 0 && slot->ctx == ctx->index &&
               fdc_load_relaxed(&slot->work);
    }
    pthread_mutex_unlock(&slots->lock);
    return work;
}

/* What was given while this looks stirs it again. */
static __attribute__((noinline)) bool
has_come_to_rest(struct fdc_ctx *ctx, CUresult *result)
{
    /* pairs with fdc_context_stir(), which comes after what it tells of */
    (void)__atomic_exchange_n(&ctx->stirred, 0, __ATOMIC_ACQ_REL);
    *result = CUDA_ERROR_NOT_READY;
    if (!any_stream_has_work(ctx))
        *result = ctx->serve->driver->cuStreamQuery(ctx->own); /* joins of earlier waits */
    if (*result != CUDA_SUCCESS)
        fdc_context_stir(ctx);
    return *result != CUDA_ERROR_NOT_READY;
}

bool
fdc_context_rests(struct fdc_ctx *ctx, CUresult *result)
{
    if (fdc_load_relaxed(&ctx->legacy_work) || fdc_context_may_print(ctx))
        return false;
    if (fdc_load_relaxed(&ctx->stirred))
        return has_come_to_rest(ctx, result);
    *result = CUDA_SUCCESS; /* as when the driver was asked, and it has had no work since */
    return true;
}

CUresult
fdc_mark_all(struct fdc_ctx *ctx, struct fdc_mark **mark)
{
    uint32_t given = fdc_load_relaxed(&ctx->given);
    struct fdc_serve *serve = ctx->serve;
    struct fdc_slots *slots = &serve->slots[FDC_KIND_STREAM];
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high && result == CUDA_SUCCESS; i++) {
        struct fdc_slot *slot = fdc_slot_at(serve, FDC_KIND_STREAM, i);

        if (slot == NULL || slot->state == 0 || slot->ctx != ctx->index ||
            !fdc_load_relaxed(&slot->work) || fdc_stream_is_capturing(serve, slot->value))
            continue;
        result = fdc_context_join(ctx, slot->value);
        if (result == CUDA_SUCCESS)
            __atomic_store_n(&slot->work, 0, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&slots->lock);
    if (result == CUDA_SUCCESS)
        result = fdc_context_join_legacy(ctx);
    if (result == CUDA_SUCCESS)
        result = fdc_mark_stream(ctx, ctx->own, mark);
    if (result == CUDA_SUCCESS) {
        (*mark)->all = true;
        (*mark)->given = given;
    }
    return result;
}

/* ---- opening and closing ---- */

/* A context structure of this index, the old one again if there was one. Under
 * context_lock. */
static struct fdc_ctx *
context_new(struct fdc_serve *serve, uint32_t index, int device, bool primary)
{
    struct fdc_ctx *ctx;

    for (ctx = serve->contexts; ctx != NULL; ctx = ctx->next)
        if (ctx->index == index && !ctx->open)
            break;
    if (ctx == NULL) {
        ctx = calloc(1, sizeof(*ctx));
        if (ctx == NULL)
            return NULL;
        pthread_mutex_init(&ctx->lock, NULL);
        ctx->serve = serve;
        ctx->index = index;
        ctx->next = serve->contexts;
        serve->contexts = ctx;
    }
    ctx->device = device;
    ctx->primary = primary;
    ctx->borrowed = false;
    ctx->legacy_work = 0;
    ctx->blocking_captures = 0;
    ctx->stirred = 1;
    ctx->opened++;
    return ctx;
}

/* The driver has the context: gives it what the worker needs and lets calls name it. */
static CUresult
context_ready(struct fdc_ctx *ctx, uint64_t handle, CUcontext value)
{
    struct fdc_serve *serve = ctx->serve;
    CUresult result;

    ctx->value = value;
    __atomic_add_fetch(&serve->epoch, 1, __ATOMIC_ACQ_REL);
    result = fdc_context_use_ctx(serve, ctx);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuStreamCreate(&ctx->own, CU_STREAM_NON_BLOCKING);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuStreamCreate(&ctx->clear, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_store_release(&ctx->open, 1);   /* pairs with fdc_context_at() */
    result = fdc_handle_put_aux(serve, FDC_KIND_CONTEXT, handle, value, ctx, ctx->index);
    if (result != CUDA_SUCCESS) {
        fdc_store_release(&ctx->open, 0);
        return result;
    }
    fdc_regions_register(serve);
    fdc_host_register(serve);
    return CUDA_SUCCESS;
}

static CUresult
adopt(struct fdc_serve *serve, uint64_t handle, int device, CUcontext value)
{
    struct fdc_ctx *ctx;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

    fdc_context_lock(serve);
    ctx = context_new(serve, FDC_HANDLE_INDEX(handle), device, false);
    if (ctx != NULL)
        result = context_ready(ctx, handle, value);
    pthread_mutex_unlock(&serve->context_lock);
    return result;
}

CUresult
fdc_context_borrow(struct fdc_serve *serve, uint64_t handle, int device, CUcontext value)
{
    CUresult result = adopt(serve, handle, device, value);
    struct fdc_slot *slot;

    if (result != CUDA_SUCCESS)
        return result;
    slot = fdc_slot_find(serve, FDC_KIND_CONTEXT, handle);
    if (slot != NULL)
        ((struct fdc_ctx *)slot->aux)->borrowed = true;
    return CUDA_SUCCESS;
}

static CUresult
primary_open(struct fdc_serve *serve, uint64_t handle, int device)
{
    const struct fdc_driver *driver = serve->driver;
    struct fdc_ctx *ctx;
    CUcontext value;
    CUresult result;

    if (fdc_slot_find(serve, FDC_KIND_CONTEXT, handle) != NULL)
        return CUDA_SUCCESS;
    ctx = context_new(serve, FDC_HANDLE_INDEX(handle), device, true);
    if (ctx == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = driver->cuDevicePrimaryCtxRetain(&value, serve->device[device]);
    if (result != CUDA_SUCCESS)
        return result;
    result = context_ready(ctx, handle, value);
    if (result != CUDA_SUCCESS)
        driver->cuDevicePrimaryCtxRelease_v2(serve->device[device]);
    return result;
}

static CUresult close_one(struct fdc_serve *serve, uint64_t handle);

/* A context takes memory of the slice; one that is too large for it goes again. */
static CUresult
weigh(struct fdc_serve *serve, uint64_t handle, int device)
{
    CUresult result = fdc_memory_look(serve, device, false);

    if (result != CUDA_SUCCESS)
        (void)close_one(serve, handle);
    return result;
}

int
fdc_server_call_fdcContextOpen(struct fdc_request *request,
                               const struct fdc_req_fdcContextOpen *req)
{
    struct fdc_serve *serve = request->serve;
    uint32_t first = fdc_load_relaxed(&serve->contexts_first);
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device >= 0 && req->device < serve->limits.devices &&
        req->context == FDC_HANDLE(FDC_KIND_CONTEXT, 1, first + (uint32_t)req->device)) {
        fdc_context_lock(serve);
        result = primary_open(serve, req->context, req->device);
        pthread_mutex_unlock(&serve->context_lock);
        if (result == CUDA_SUCCESS)
            result = weigh(serve, req->context, req->device);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* What the driver takes for it is the slice's; where that is too much it stays as it was. */
int
fdc_server_call_cuCtxSetLimit(struct fdc_request *request,
                              const struct fdc_req_cuCtxSetLimit *req)
{
    struct fdc_rep_cuCtxSetLimit reply = { 0 };
    int device = fdc_context_here()->device;
    CUlimit limit = (CUlimit)req->limit;
    CUresult result;
    size_t had = 0;

    result = request->driver->cuCtxGetLimit(&had, limit);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuCtxSetLimit(limit, req->value);
    if (result == CUDA_SUCCESS) {
        result = fdc_memory_look(request->serve, device, false);
        if (result != CUDA_SUCCESS) {
            request->driver->cuCtxSetLimit(limit, had);
            (void)fdc_memory_look(request->serve, device, false);
        }
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcContextCreate(struct fdc_request *request,
                                 const struct fdc_req_fdcContextCreate *req)
{
    struct fdc_serve *serve = request->serve;
    uint32_t index = FDC_HANDLE_INDEX(req->context);
    CUcontext value;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device < 0 || req->device >= serve->limits.devices)
        goto answer;
    result = CUDA_ERROR_INVALID_HANDLE;
    if (index - fdc_load_relaxed(&serve->contexts_first) < FDC_DEVICES_MAX ||
        FDC_HANDLE_KIND(req->context) != FDC_KIND_CONTEXT ||
        fdc_context_at(serve, index) != NULL)
        goto answer;
    result = serve->driver->cuCtxCreate_v2(&value, req->flags, serve->device[req->device]);
    if (result != CUDA_SUCCESS)
        goto answer;
    forget_here();                      /* the new one is current in this thread */
    result = adopt(serve, req->context, req->device, value);
    if (result != CUDA_SUCCESS)
        serve->driver->cuCtxDestroy_v2(value);
    else
        result = weigh(serve, req->context, req->device);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static void
drop_box(struct fdc_serve *serve, void *value, void *aux)
{
    (void)serve;
    (void)value;
    if (aux != NULL)
        fdc_event_box_put(aux);
}

static void
drop_code(struct fdc_serve *serve, void *value, void *aux)
{
    (void)serve;
    (void)value;
    fdc_code_free(aux);
}

/* Nothing of the context is in the tables any more: waits until nobody is in the middle of
 * something with it. Not for ever: the executor may be standing in the driver, for a stream
 * of another context that stands itself. */
static void
wait_for_others(struct fdc_ctx *ctx)
{
    struct fdc_serve *serve = ctx->serve;
    uint64_t until = fdc_now_ns() + SHUT_NS;
    bool over = fdc_turns_wait(serve, until);

    /* pairs with the release in wait_leave(); none can begin any more */
    while (fdc_load_acquire(&ctx->waits) != 0 && fdc_now_ns() < until)
        usleep(50);
    if (!over || fdc_load_relaxed(&ctx->waits) != 0)
        fdc_log(FDC_LOG_WARN, "a context ends while calls are in the driver");
}

/* Waits for the context's work, answers who waits for it, forgets its handles and gives it
 * back to the driver. On a helper thread; under context_lock. */
static CUresult
context_shut(struct fdc_ctx *ctx)
{
    static const int owned[] = {
        FDC_KIND_NODE, FDC_KIND_GRAPH, FDC_KIND_STREAM,
    };
    struct fdc_serve *serve = ctx->serve;
    const struct fdc_driver *driver = serve->driver;
    struct fdc_mark *mark, *next;
    void *value;
    CUresult result;

    fdc_store_release(&ctx->open, 0);   /* pairs with fdc_context_at() */
    fdc_gates_shut(serve, ctx);
    fdc_trunks_shut(serve, ctx);
    result = fdc_context_use_ctx(serve, ctx);
    if (result == CUDA_SUCCESS && fdc_mark_all(ctx, &mark) == CUDA_SUCCESS) {
        driver->cuEventSynchronize(mark->event);
        fdc_mark_put(mark);
        fdc_print_turn(serve, true);
    }
    fdc_handle_retire(serve, FDC_KIND_GRAPH_EXEC, ctx->index, fdc_exec_forget);
    for (size_t i = 0; i < FDC_COUNT(owned); i++)
        fdc_handle_sweep(serve, owned[i], ctx->index, NULL);
    fdc_objects_sweep(serve, ctx->index);
    fdc_handle_retire(serve, FDC_KIND_ARRAY, ctx->index, fdc_arrays_forget);
    fdc_handle_retire(serve, FDC_KIND_MIPMAP, ctx->index, fdc_mipmaps_forget);
    fdc_handle_retire(serve, FDC_KIND_EVENT, ctx->index, drop_box);
    fdc_handle_retire(serve, FDC_KIND_MODULE, ctx->index, drop_code);
    wait_for_others(ctx);
    fdc_done_flush(serve);
    fdc_done_cancel(serve, ctx, CUDA_ERROR_CONTEXT_IS_DESTROYED);

    pthread_mutex_lock(&ctx->lock);
    mark = ctx->marks;
    ctx->marks = NULL;
    pthread_mutex_unlock(&ctx->lock);
    for (; mark != NULL; mark = next) {
        next = mark->next;
        driver->cuEventDestroy_v2(mark->event);
        free(mark);
    }
    fdc_order_forget(serve, ctx);
    fdc_peers_forget(serve, ctx);
    fdc_regions_release_ctx(serve, ctx);
    fdc_host_release_ctx(serve, ctx);
    fdc_gates_release_ctx(serve, ctx);
    driver->cuStreamDestroy_v2(ctx->own);
    driver->cuStreamDestroy_v2(ctx->clear);
    fdc_handle_sweep(serve, FDC_KIND_CONTEXT, ctx->index, NULL);
    forget_here();
    value = ctx->value;
    ctx->value = NULL;
    if (ctx->primary) {
        result = driver->cuDevicePrimaryCtxRelease_v2(serve->device[ctx->device]);
    } else if (!ctx->borrowed) {
        result = driver->cuCtxDestroy_v2(value);
    } else {
        result = CUDA_SUCCESS;
    }
    __atomic_add_fetch(&serve->epoch, 1, __ATOMIC_ACQ_REL);
    return result;
}

static CUresult
close_one(struct fdc_serve *serve, uint64_t handle)
{
    struct fdc_slot *slot;
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;
    int device = -1;

    fdc_context_lock(serve);
    slot = fdc_slot_find(serve, FDC_KIND_CONTEXT, handle);
    if (slot != NULL) {
        device = ((struct fdc_ctx *)slot->aux)->device;
        result = context_shut(slot->aux);
    }
    pthread_mutex_unlock(&serve->context_lock);
    if (device >= 0)
        (void)fdc_memory_look(serve, device, false);
    return result;
}

int
fdc_server_call_fdcContextClose(struct fdc_request *request,
                                const struct fdc_req_fdcContextClose *req)
{
    fdc_request_answer(request, close_one(request->serve, req->context), NULL, 0);
    return 0;
}

/* The next open starts afresh: nobody else in this process holds the primary context. */
int
fdc_server_call_fdcContextReset(struct fdc_request *request,
                                const struct fdc_req_fdcContextReset *req)
{
    CUresult result = CUDA_SUCCESS;

    if (fdc_slot_find(request->serve, FDC_KIND_CONTEXT, req->context) != NULL)
        result = close_one(request->serve, req->context);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

void
fdc_contexts_close(struct fdc_serve *serve)
{
    struct fdc_ctx *ctx, *next;

    fdc_context_lock(serve);
    for (ctx = serve->contexts; ctx != NULL; ctx = ctx->next)
        if (ctx->open)
            context_shut(ctx);
    for (ctx = serve->contexts; ctx != NULL; ctx = next) {
        next = ctx->next;
        pthread_mutex_destroy(&ctx->lock);
        free(ctx);
    }
    serve->contexts = NULL;
    pthread_mutex_unlock(&serve->context_lock);
    forget_here();
}
