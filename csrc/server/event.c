/*
 * Events, and every way to wait. A wait is for a driver event that was recorded at the
 * call's own place: a private one (mark), or the event's current driver event, which is
 * not recorded again while somebody waits for it (a fresh one takes its place). The
 * executor looks once, and again while it has nothing else to do; then a helper thread
 * waits.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <stdlib.h>

void
fdc_event_box_put(struct fdc_event_box *box)
{
    struct fdc_ctx *ctx = fdc_context_at(box->serve, box->ctx);

    /* pairs with itself: the last one out sees all that the others did */
    if (__atomic_sub_fetch(&box->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    /* One of a context that has been reset went with it, though the index is open again. */
    if (ctx != NULL && ctx->opened == box->epoch)
        box->serve->driver->cuEventDestroy_v2(box->event);
    free(box);
}

static CUresult
box_new(struct fdc_serve *serve, uint32_t flags, uint32_t ctx, struct fdc_event_box **made)
{
    struct fdc_event_box *box = calloc(1, sizeof(*box));
    CUresult result;

    if (box == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = serve->driver->cuEventCreate(&box->event, flags);
    if (result != CUDA_SUCCESS) {
        free(box);
        return result;
    }
    box->serve = serve;
    box->flags = flags;
    box->ctx = ctx;
    box->home = fdc_context_here();
    box->epoch = box->home != NULL ? box->home->opened : 0;
    box->refs = 1;
    *made = box;
    return CUDA_SUCCESS;
}

static struct fdc_event_box *
box_find(struct fdc_serve *serve, uint64_t handle)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_EVENT, handle);

    return slot != NULL ? fdc_slot_aux(slot) : NULL;
}

int
fdc_server_call_cuEventCreate(struct fdc_request *request,
                              const struct fdc_req_cuEventCreate *req)
{
    struct fdc_event_box *box;
    CUresult result;

    result = box_new(request->serve, req->Flags, request->ctx, &box);
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put_aux(request->serve, FDC_KIND_EVENT, req->phEvent,
                                    box->event, box, request->ctx);
        if (result != CUDA_SUCCESS)
            fdc_event_box_put(box);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuEventDestroy_v2(struct fdc_request *request,
                                  const struct fdc_req_cuEventDestroy_v2 *req)
{
    void *box = NULL;
    CUresult result;

    result = fdc_handle_drop_aux(request->serve, FDC_KIND_EVENT, req->hEvent, NULL, &box);
    if (box != NULL)
        fdc_event_box_put(box);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

CUresult
fdc_event_for_record(struct fdc_serve *serve, uint64_t handle, CUevent *event)
{
    struct fdc_event_box *box = box_find(serve, handle), *fresh;
    CUresult result;

    if (box == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (__atomic_load_n(&box->refs, __ATOMIC_ACQUIRE) > 1 &&
        !fdc_load_relaxed(&box->pinned)) {
        result = box_new(serve, box->flags, box->ctx, &fresh);
        if (result != CUDA_SUCCESS)
            return result;
        result = fdc_handle_swap(serve, FDC_KIND_EVENT, handle, fresh->event, fresh);
        fdc_event_box_put(result == CUDA_SUCCESS ? box : fresh);
        if (result != CUDA_SUCCESS)
            return result;
        box = fresh;
    }
    *event = box->event;
    return CUDA_SUCCESS;
}

CUresult
fdc_event_pin(struct fdc_serve *serve, uint64_t handle, CUevent *event)
{
    struct fdc_event_box *box = box_find(serve, handle);

    if (box == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    __atomic_store_n(&box->pinned, 1, __ATOMIC_RELAXED);
    *event = box->event;
    return CUDA_SUCCESS;
}

/* DONE when the event has passed: its own driver event, since whoever waits for that and
 * comes to know of it may not find the recording unfinished. */
static CUresult
tell_of(struct fdc_request *request, uint64_t handle, CUstream stream)
{
    struct fdc_event_box *box = box_find(request->serve, handle);
    struct fdc_done done = {
        .ctx = fdc_context_here(), .box = box, .stream = stream, .ticket = request->ticket,
    };

    if (box == NULL || done.ctx == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    __atomic_add_fetch(&box->refs, 1, __ATOMIC_ACQ_REL);
    if (fdc_done_add_filled(request->serve, &done)) {
        fdc_event_box_put(box);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    request->done = true;
    return CUDA_SUCCESS;
}

int
fdc_server_call_cuEventRecordWithFlags(struct fdc_request *request,
                                       const struct fdc_req_cuEventRecordWithFlags *req)
{
    CUstream stream;
    CUevent event;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->hStream, &stream);
    if (result == CUDA_SUCCESS && req->flags != 0)
        result = fdc_event_pin(request->serve, req->hEvent, &event);
    else if (result == CUDA_SUCCESS)
        result = fdc_event_for_record(request->serve, req->hEvent, &event);
    if (result == CUDA_SUCCESS && req->flags == 0) {
        result = request->driver->cuEventRecord(event, stream);
        if (result == CUDA_SUCCESS && (request->flags & FDC_MSG_DONE))
            result = tell_of(request, req->hEvent, stream);
    } else if (result == CUDA_SUCCESS)
        result = FDC_HAS(request->driver, cuEventRecordWithFlags)
                     ? request->driver->cuEventRecordWithFlags(event, stream, req->flags)
                     : CUDA_ERROR_NOT_SUPPORTED;
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuEventQuery(struct fdc_request *request,
                             const struct fdc_req_cuEventQuery *req)
{
    struct fdc_event_box *box = box_find(request->serve, req->hEvent);
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    if (box != NULL)
        result = request->driver->cuEventQuery(box->event);
    if (result == CUDA_SUCCESS)
        fdc_done_flush(request->serve);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuEventElapsedTime_v2(struct fdc_request *request,
                                      const struct fdc_req_cuEventElapsedTime_v2 *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_event_box *start = box_find(request->serve, req->hStart);
    struct fdc_event_box *end = box_find(request->serve, req->hEnd);
    struct fdc_rep_cuEventElapsedTime_v2 reply = { 0 };
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    if (start != NULL && end != NULL)
        result = FDC_HAS(driver, cuEventElapsedTime_v2)
                     ? driver->cuEventElapsedTime_v2(&reply.pMilliseconds, start->event,
                                                     end->event)
                     : driver->cuEventElapsedTime(&reply.pMilliseconds, start->event,
                                                  end->event);
    if (result == CUDA_SUCCESS)
        fdc_done_flush(request->serve);
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuStreamWaitEvent(struct fdc_request *request,
                                  const struct fdc_req_cuStreamWaitEvent *req)
{
    struct fdc_event_box *box = box_find(request->serve, req->hEvent);
    struct fdc_serve *serve = request->serve;
    bool may_join = false;
    unsigned flags = 0;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(serve, req->hStream, &stream);
    if (result == CUDA_SUCCESS && box == NULL)
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS && fdc_load_relaxed(&serve->captures) != 0) {
        may_join = !fdc_stream_is_capturing(serve, stream);
        result = fdc_capture_prepare(serve, stream, &flags);
    }
    if (result == CUDA_SUCCESS && req->Flags != 0)
        __atomic_store_n(&box->pinned, 1, __ATOMIC_RELAXED);
    if (result == CUDA_SUCCESS) {
        fdc_meter_stands(serve);
        result = request->driver->cuStreamWaitEvent(stream, box->event, req->Flags);
    }
    if (may_join)
        fdc_capture_joined(serve, stream, flags);
    fdc_meter_stood(serve);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- waiting ---- */

struct fdc_wait {
    struct fdc_wait *next;
    struct fdc_request *kept;
    struct fdc_mark *mark;              /* this, or */
    struct fdc_event_box *box;          /* ... that */
    struct fdc_ctx *ctx;                /* whose event it is; it counts the wait */
};

static CUevent
wait_event(const struct fdc_wait *wait)
{
    return wait->mark != NULL ? wait->mark->event : wait->box->event;
}

/* The mark's event, or the box's, has passed, as a query said: what kernels printed comes out
 * only where the driver itself synchronises. */
static CUresult
passed(struct fdc_serve *serve, struct fdc_mark *mark, struct fdc_event_box *box,
       CUresult result)
{
    struct fdc_ctx *ctx = mark != NULL ? mark->ctx : box->home;
    CUresult waited;

    if (serve->print_fd < 0 ||
        (result == CUDA_SUCCESS && ctx != NULL && !fdc_context_may_print(ctx)))
        return result;
    waited = serve->driver->cuEventSynchronize(mark != NULL ? mark->event : box->event);
    if (result == CUDA_SUCCESS)
        result = waited;
    fdc_print_turn(serve, result != CUDA_SUCCESS);
    if (mark != NULL && mark->all)
        fdc_store_relaxed(&ctx->shown, mark->given);
    return result;
}

/* The context does not end while somebody waits for an event of it. */
static void
wait_enter(struct fdc_wait *wait)
{
    wait->ctx = wait->mark != NULL ? wait->mark->ctx : wait->box->home;
    if (wait->ctx != NULL)
        __atomic_add_fetch(&wait->ctx->waits, 1, __ATOMIC_RELAXED);
}

static void
wait_leave(struct fdc_ctx *ctx)
{
    if (ctx != NULL)            /* pairs with the acquire in wait_for_others() */
        __atomic_sub_fetch(&ctx->waits, 1, __ATOMIC_RELEASE);
}

static void
wait_end(struct fdc_wait *wait, CUresult result)
{
    struct fdc_ctx *ctx = wait->ctx;

    result = passed(wait->kept->serve, wait->mark, wait->box, result);
    fdc_done_flush(wait->kept->serve);
    fdc_request_finish(wait->kept, result, NULL, 0);
    if (wait->mark != NULL)
        fdc_mark_put(wait->mark);
    else
        fdc_event_box_put(wait->box);
    free(wait);
    wait_leave(ctx);
}

static void
wait_run(struct fdc_request *kept, void *user)
{
    struct fdc_wait *wait = user;
    struct fdc_serve *serve = kept->serve;

    if (kept->ctx != 0)
        fdc_context_use(serve, kept->ctx);
    wait_end(wait, serve->driver->cuEventSynchronize(wait_event(wait)));
}

bool
fdc_wait_turn(struct fdc_serve *serve)
{
    struct fdc_wait **place = &serve->hot, *wait;

    while ((wait = *place) != NULL) {
        CUresult result = serve->driver->cuEventQuery(wait_event(wait));

        if (result == CUDA_ERROR_NOT_READY) {
            place = &wait->next;
            continue;
        }
        *place = wait->next;
        wait_end(wait, result);
    }
    return serve->hot != NULL;
}

void
fdc_wait_hand_over(struct fdc_serve *serve)
{
    struct fdc_wait *wait;

    while ((wait = serve->hot) != NULL) {
        serve->hot = wait->next;
        if (fdc_pool_add(serve, wait->kept, wait_run, wait))
            wait_end(wait, CUDA_ERROR_OUT_OF_MEMORY);
    }
}

/* Takes the mark or the box over. result: what a query said. */
static int
wait_begin(struct fdc_request *request, struct fdc_mark *mark, struct fdc_event_box *box,
           CUresult result)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_wait *wait = NULL;

    fdc_count(serve, waits, 1);
    if (result == CUDA_ERROR_NOT_READY) {
        wait = malloc(sizeof(*wait));
        if (wait != NULL)
            wait->kept = fdc_request_keep(request);
        if (wait != NULL && wait->kept != NULL) {
            wait->mark = mark;
            wait->box = box;
            wait_enter(wait);
            wait->next = serve->hot;
            serve->hot = wait;
            return 0;
        }
        result = CUDA_ERROR_OUT_OF_MEMORY;
        free(wait);
    } else {
        result = passed(serve, mark, box, result);
    }
    fdc_done_flush(serve);
    fdc_request_answer(request, result, NULL, 0);
    if (mark != NULL)
        fdc_mark_put(mark);
    else
        fdc_event_box_put(box);
    return 0;
}

int
fdc_wait_mark(struct fdc_request *request, struct fdc_mark *mark)
{
    return wait_begin(request, mark, NULL, request->driver->cuEventQuery(mark->event));
}

int
fdc_wait_mark_later(struct fdc_request *request, struct fdc_mark *mark)
{
    return wait_begin(request, mark, NULL, CUDA_ERROR_NOT_READY);
}

int
fdc_server_call_cuEventSynchronize(struct fdc_request *request,
                                   const struct fdc_req_cuEventSynchronize *req)
{
    struct fdc_event_box *box = box_find(request->serve, req->hEvent);

    if (box == NULL) {
        fdc_request_answer(request, CUDA_ERROR_INVALID_HANDLE, NULL, 0);
        return 0;
    }
    __atomic_add_fetch(&box->refs, 1, __ATOMIC_ACQ_REL);
    return wait_begin(request, NULL, box, request->driver->cuEventQuery(box->event));
}

/* ---- all of a context's work ---- */

int
fdc_server_call_fdcRecordAll(struct fdc_request *request,
                             const struct fdc_req_fdcRecordAll *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_event_box *box;
    bool green = req->of == 2, has;
    CUevent event = NULL;
    CUresult result;
    void *value;

    has = green ? FDC_HAS(driver, cuGreenCtxRecordEvent) && FDC_HAS(driver, cuGreenCtxWaitEvent)
                : FDC_HAS(driver, cuCtxRecordEvent) && FDC_HAS(driver, cuCtxWaitEvent);
    result = fdc_handle_get(request->serve, green ? FDC_KIND_GREEN_CTX : FDC_KIND_CONTEXT,
                            req->handle, &value);
    if (result == CUDA_SUCCESS && !has)
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS && !req->wait) {
        result = fdc_event_for_record(request->serve, req->event, &event);
    } else if (result == CUDA_SUCCESS) {
        box = box_find(request->serve, req->event);
        result = box != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
        event = box != NULL ? box->event : NULL;
    }
    if (result != CUDA_SUCCESS)
        goto answer;
    if (req->wait)
        result = green ? driver->cuGreenCtxWaitEvent(value, event)
                       : driver->cuCtxWaitEvent(value, event);
    else
        result = green ? driver->cuGreenCtxRecordEvent(value, event)
                       : driver->cuCtxRecordEvent(value, event);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
