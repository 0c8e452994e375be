/*
 * Streams: waiting for one, for a whole context, marks and fences. The rest are plain
 * calls (generated).
 */
#include "server/serve.h"
#include "server_hooks.h"

/* A stream whose work must not be waited for now. */
static bool
in_capture(struct fdc_request *request, CUstream stream)
{
    struct fdc_ctx *ctx = fdc_context_here();

    if (stream == CU_STREAM_LEGACY)
        return ctx != NULL && fdc_load_relaxed(&ctx->blocking_captures) != 0;
    return fdc_stream_is_capturing(request->serve, stream);
}

/* Its unfinished work is joined by fdc_handle_drop(), so that a later synchronise of the
 * context waits for it. */
int
fdc_server_call_cuStreamDestroy_v2(struct fdc_request *request,
                                   const struct fdc_req_cuStreamDestroy_v2 *req)
{
    void *stream;
    CUresult result;

    result = fdc_handle_drop(request->serve, FDC_KIND_STREAM, req->hStream, &stream);
    if (result == CUDA_SUCCESS) {
        fdc_meter_gone(request->serve, stream);
        result = request->driver->cuStreamDestroy_v2(stream);
        fdc_capture_gone(request->serve, stream);
        fdc_order_gone(request->serve, stream);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuStreamSynchronize(struct fdc_request *request,
                                    const struct fdc_req_cuStreamSynchronize *req)
{
    struct fdc_ctx *ctx = fdc_context_here();
    const struct fdc_driver *driver = request->driver;
    struct fdc_mark *mark;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream_asked(request->serve, req->hStream, &stream);
    if (result == CUDA_SUCCESS && ctx == NULL)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS && in_capture(request, stream))
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    /* Only what is not over needs a mark. */
    result = driver->cuStreamQuery(stream);
    if (result == CUDA_ERROR_NOT_READY) {
        result = fdc_mark_stream(ctx, stream, &mark);
        if (result == CUDA_SUCCESS)
            return fdc_wait_mark_later(request, mark);
    }
    if (result == CUDA_SUCCESS && fdc_context_may_print(ctx)) {
        result = driver->cuStreamSynchronize(stream); /* brings it out */
        fdc_print_turn(request->serve, result != CUDA_SUCCESS);
    }
    fdc_done_flush(request->serve);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuStreamQuery(struct fdc_request *request,
                              const struct fdc_req_cuStreamQuery *req)
{
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream_asked(request->serve, req->hStream, &stream);
    if (result == CUDA_SUCCESS && in_capture(request, stream))
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result == CUDA_SUCCESS)
        result = request->driver->cuStreamQuery(stream);
    if (result == CUDA_SUCCESS)
        fdc_done_flush(request->serve);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Waits for what the message's context was given so far. */
static int
context_synchronize(struct fdc_request *request)
{
    struct fdc_ctx *ctx = fdc_context_here();
    struct fdc_mark *mark;
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;

    if (ctx != NULL && fdc_context_rests(ctx, &result)) {
        fdc_done_flush(request->serve);
        fdc_request_answer(request, result, NULL, 0);
        return 0;
    }
    if (ctx != NULL)
        result = fdc_mark_all(ctx, &mark);
    if (result == CUDA_SUCCESS)
        return fdc_wait_mark(request, mark);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuCtxSynchronize(struct fdc_request *request,
                                 const struct fdc_req_cuCtxSynchronize *req)
{
    (void)req;
    return context_synchronize(request);
}

int
fdc_server_call_fdcFence(struct fdc_request *request, const struct fdc_req_fdcFence *req)
{
    struct fdc_ctx *ctx = fdc_context_here();
    struct fdc_mark *mark;
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;

    (void)req;
    if (!(request->flags & FDC_MSG_DONE))
        return 0;
    if (ctx != NULL)
        result = fdc_mark_all(ctx, &mark);
    if (result == CUDA_SUCCESS) {
        if (fdc_done_add(request->serve, request->ticket, mark, ctx->own,
                         (struct fdc_chunk){ 0 })) {
            fdc_mark_put(mark);
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            request->done = true;
        }
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcMark(struct fdc_request *request, const struct fdc_req_fdcMark *req)
{
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_done_later(request, stream, (struct fdc_chunk){ 0 });
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Attributes that a stream has hold no handle; a window's address is the session's. */
int
fdc_server_call_cuStreamSetAttribute(struct fdc_request *request,
                                     const struct fdc_req_cuStreamSetAttribute *req)
{
    const struct fdc_driver *driver = request->driver;
    CUstreamAttrValue value = req->value;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->hStream, &stream);
    switch (req->attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        if (result == CUDA_SUCCESS && value.accessPolicyWindow.num_bytes != 0)
            result = fdc_memory_reach(request->serve,
                                      (uintptr_t)value.accessPolicyWindow.base_ptr,
                                      value.accessPolicyWindow.num_bytes);
        break;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS)
        result = FDC_HAS(driver, cuStreamSetAttribute)
                     ? driver->cuStreamSetAttribute(stream, req->attr, &value)
                     : CUDA_ERROR_NOT_SUPPORTED;
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
