/*
 * Synchronous copies that nobody waits for. The client sends a synchronous copy from
 * pageable memory and goes on, though a driver would have put the bytes in place by then.
 * So what is given later to any stream comes after the copy: an event is recorded behind
 * it, and each other stream waits for that event once, when it is given its next work and
 * the copy is still under way. Streams that are given nothing never wait.
 */
#include "server/serve.h"

#include <stdlib.h>

#define OUT_MAX 8       /* streams that have such copies under way at a time */

struct fdc_order {
    pthread_mutex_t lock;
    struct {
        struct fdc_mark *mark;
        CUstream stream;
        uint64_t number;
    } out[OUT_MAX];
    int count;
};

struct fdc_order *
fdc_order_new(void)
{
    struct fdc_order *order = calloc(1, sizeof(*order));

    if (order != NULL)
        pthread_mutex_init(&order->lock, NULL);
    return order;
}

void
fdc_order_free(struct fdc_order *order)
{
    if (order == NULL)
        return;
    pthread_mutex_destroy(&order->lock);
    free(order);
}

/* Under the lock, from here on. */
static void
take_out(struct fdc_order *order, int i)
{
    fdc_mark_put(order->out[i].mark);
    order->out[i] = order->out[--order->count];
}

/* Under way still; else it is taken out. */
static bool
is_out(struct fdc_serve *serve, struct fdc_order *order, int i)
{
    if (serve->driver->cuEventQuery(order->out[i].mark->event) == CUDA_ERROR_NOT_READY)
        return true;
    take_out(order, i);
    return false;
}

/* The NULL streams of all contexts have one name. */
static bool
is_of(const struct fdc_order *order, int i, CUstream stream)
{
    return order->out[i].stream == stream &&
           (stream != CU_STREAM_LEGACY || order->out[i].mark->ctx == fdc_context_here());
}

/* The stream waits for the copies of others that it has not waited for yet. */
static CUresult
wait_for_others(struct fdc_serve *serve, CUstream stream, uint64_t seen)
{
    struct fdc_order *order = serve->order;
    CUresult result = CUDA_SUCCESS, one;
    bool stood = false;

    for (int i = order->count; i-- > 0;) {
        if (is_of(order, i, stream) || order->out[i].number <= seen ||
            !is_out(serve, order, i))
            continue;
        fdc_meter_stands(serve);
        one = serve->driver->cuStreamWaitEvent(stream, order->out[i].mark->event, 0);
        fdc_meter_stood(serve);
        stood = true;
        if (one != CUDA_SUCCESS)
            result = one;
    }
    if (stood)
        fdc_meter_goes_on(serve); /* with what the call is about */
    return result;
}

/* Nothing may be waited for now: the work is only remembered, or refused anyway. */
static bool
captures(struct fdc_serve *serve, CUstream stream, const struct fdc_ctx *ctx)
{
    if (stream == CU_STREAM_LEGACY)
        return ctx == NULL || fdc_load_relaxed(&ctx->blocking_captures) != 0;
    return fdc_stream_is_capturing(serve, stream);
}

CUresult
fdc_order_follow(struct fdc_serve *serve, CUstream stream, uint64_t *seen)
{
    struct fdc_order *order = serve->order;
    CUresult result;
    uint64_t number;

    if (captures(serve, stream, fdc_context_here()))
        return CUDA_SUCCESS;
    pthread_mutex_lock(&order->lock);
    number = fdc_load_relaxed(&serve->ordered);
    result = wait_for_others(serve, stream, *seen);
    __atomic_store_n(seen, number, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&order->lock);
    return result;
}

CUresult
fdc_order_copied(struct fdc_request *request, CUstream stream)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_order *order = serve->order;
    struct fdc_ctx *ctx = fdc_context_here();
    struct fdc_mark *mark;
    CUresult result;
    int i;

    if (!(request->flags & FDC_MSG_FIRST))
        return CUDA_SUCCESS;
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_mark_stream(ctx, stream, &mark);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&order->lock);
    for (i = 0; i < order->count && !is_of(order, i, stream); i++)
        ;
    if (i == OUT_MAX) {
        for (int n = OUT_MAX; n-- > 0;)
            (void)is_out(serve, order, n);
        i = order->count;
    }
    if (i == OUT_MAX) {
        /* Too many at a time: this one also comes after the first of them. */
        result = serve->driver->cuStreamWaitEvent(stream, order->out[0].mark->event, 0);
        if (result == CUDA_SUCCESS)
            result = serve->driver->cuEventRecord(mark->event, stream);
        i = 0;
    }
    if (i < order->count)
        fdc_mark_put(order->out[i].mark); /* the new one is behind it */
    else
        i = order->count++;
    order->out[i].mark = mark;
    order->out[i].stream = stream;
    order->out[i].number = fdc_load_relaxed(&serve->ordered) + 1;
    /* pairs with the load in fdc_handle_stream(), which may be another thread's */
    fdc_store_release(&serve->ordered, order->out[i].number);
    pthread_mutex_unlock(&order->lock);
    return result;
}

void
fdc_order_gone(struct fdc_serve *serve, CUstream stream)
{
    struct fdc_order *order = serve->order;

    pthread_mutex_lock(&order->lock);
    for (int i = 0; i < order->count; i++)
        if (order->out[i].stream == stream)
            order->out[i].stream = NULL; /* another one may be there soon */
    pthread_mutex_unlock(&order->lock);
}

void
fdc_order_forget(struct fdc_serve *serve, const struct fdc_ctx *ctx)
{
    struct fdc_order *order = serve->order;

    pthread_mutex_lock(&order->lock);
    for (int i = order->count; i-- > 0;)
        if (order->out[i].mark->ctx == ctx)
            take_out(order, i);
    pthread_mutex_unlock(&order->lock);
}
