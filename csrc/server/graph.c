/*
 * Capture and graphs. Every capture is relaxed here: the rules of the program's mode and
 * threads are the shim's. Before a capture begins, the stream's earlier work is joined to
 * the worker's own stream, because nothing may be recorded on it meanwhile.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>

/* The stream may be captured from now on: what it was given before, and what the NULL
 * stream was if it is a blocking one, is joined while that can be. */
CUresult
fdc_capture_prepare(struct fdc_serve *serve, CUstream stream)
{
    struct fdc_ctx *ctx = fdc_context_here();
    unsigned flags = 0;
    CUresult result;

    if (ctx == NULL || stream == CU_STREAM_LEGACY || fdc_stream_is_capturing(serve, stream))
        return CUDA_SUCCESS;
    result = fdc_context_join(ctx, stream);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuStreamGetFlags(stream, &flags);
    if (result == CUDA_SUCCESS && !(flags & CU_STREAM_NON_BLOCKING))
        result = fdc_context_join_legacy(ctx);
    return result;
}

int
fdc_server_call_fdcCaptureBegin(struct fdc_request *request,
                                const struct fdc_req_fdcCaptureBegin *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here();
    unsigned flags = 0;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS && stream == CU_STREAM_LEGACY)
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result == CUDA_SUCCESS && fdc_stream_is_capturing(serve, stream))
        result = CUDA_ERROR_ILLEGAL_STATE;
    if (result == CUDA_SUCCESS)
        result = fdc_capture_prepare(serve, stream);
    if (result == CUDA_SUCCESS)
        result = driver->cuStreamGetFlags(stream, &flags);
    if (result == CUDA_SUCCESS)
        result = driver->cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    if (result == CUDA_SUCCESS) {
        __atomic_add_fetch(&serve->captures, 1, __ATOMIC_RELAXED);
        if (!(flags & CU_STREAM_NON_BLOCKING))
            __atomic_add_fetch(&ctx->blocking_captures, 1, __ATOMIC_RELAXED);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuStreamEndCapture(struct fdc_request *request,
                                   const struct fdc_req_cuStreamEndCapture *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here();
    struct fdc_rep_cuStreamEndCapture reply = { 0 };
    CUgraph graph = NULL;
    CUstream stream;
    unsigned flags = 0;
    bool capturing;
    CUresult result;

    result = fdc_handle_stream(serve, req->hStream, &stream);
    if (result != CUDA_SUCCESS)
        goto answer;
    capturing = fdc_stream_is_capturing(serve, stream);
    driver->cuStreamGetFlags(stream, &flags);
    result = driver->cuStreamEndCapture(stream, &graph);
    /* Whatever it says: only if it left the stream capturing does the capture go on. */
    if (capturing && !fdc_stream_is_capturing(serve, stream)) {
        __atomic_sub_fetch(&serve->captures, 1, __ATOMIC_RELAXED);
        if (!(flags & CU_STREAM_NON_BLOCKING) &&
            fdc_load_relaxed(&ctx->blocking_captures) != 0)
            __atomic_sub_fetch(&ctx->blocking_captures, 1, __ATOMIC_RELAXED);
    }
    if (result == CUDA_SUCCESS) {
        result = fdc_handle_put(serve, FDC_KIND_GRAPH, req->phGraph, graph, request->ctx);
        if (result != CUDA_SUCCESS)
            driver->cuGraphDestroy(graph);
    } else if (graph != NULL) {
        driver->cuGraphDestroy(graph);
    }
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
