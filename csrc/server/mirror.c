/*
 * Bytes of memory that the client's program sees as well (managed memory, mirrored host
 * memory): pushed here before what may read them, pulled from here after what may have
 * written them. They go beside the program's streams, on a stream of the worker's own, so
 * that neither captures nor order among streams matter: a push is over before the next
 * message is served. It waits for nothing but the copy itself.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <string.h>

static CUresult
push(struct fdc_serve *serve, CUdeviceptr dst, const void *bytes, uint64_t size)
{
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result;

    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_memory_check(serve, dst, size);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_count(serve, up_bytes, size);
    if (fdc_host_check(serve, dst, size) == CUDA_SUCCESS) {
        memcpy((void *)(uintptr_t)dst, bytes, size);
        return CUDA_SUCCESS;
    }
    result = serve->driver->cuMemcpyHtoDAsync_v2(dst, bytes, size, ctx->clear);
    return result == CUDA_SUCCESS ? fdc_zero_settle(serve, ctx) : result;
}

int
fdc_server_call_fdcPushInline(struct fdc_request *request,
                              const struct fdc_req_fdcPushInline *req)
{
    const void *bytes = fdc_request_span(request, req->bytes);
    CUresult result;

    if (bytes == NULL || req->bytes.size != req->size)
        return -EPROTO;
    result = push(request->serve, req->dst, bytes, req->size);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcPush(struct fdc_request *request, const struct fdc_req_fdcPush *req)
{
    const void *bytes = fdc_request_chunk(request, FDC_REGION_UP, req->chunk);
    CUresult result;

    if (bytes == NULL)
        return -EPROTO;
    result = push(request->serve, req->dst, bytes, req->chunk.size);
    if (result == CUDA_SUCCESS)
        result = fdc_done_later(request, fdc_context_here()->clear,
                                (struct fdc_chunk){ 0 });
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static CUresult
pull(struct fdc_serve *serve, struct fdc_ctx *ctx, void *to, CUdeviceptr src,
     uint64_t size)
{
    CUresult result;

    if (fdc_host_read(serve, to, src, size))
        return CUDA_SUCCESS;
    result = fdc_memory_check(serve, src, size);
    if (result != CUDA_SUCCESS)
        return result;
    result = serve->driver->cuMemcpyDtoHAsync_v2(to, src, size, ctx->clear);
    return result == CUDA_SUCCESS ? fdc_zero_settle(serve, ctx) : result;
}

static void
pull_run(struct fdc_request *kept, void *user)
{
    const struct fdc_req_fdcPull *req = (const void *)kept->msg;
    void *view = fdc_request_chunk(kept, FDC_REGION_DOWN, req->chunk);
    struct fdc_serve *serve = kept->serve;
    struct fdc_mark *mark = user;
    CUresult result;

    result = fdc_context_use(serve, kept->ctx);
    if (mark != NULL) {
        if (result == CUDA_SUCCESS)
            result = serve->driver->cuEventSynchronize(mark->event);
        fdc_mark_put(mark);
    }
    if (result == CUDA_SUCCESS && req->chunk.size != 0)
        result = pull(serve, fdc_context_here(), view, req->src, req->chunk.size);
    fdc_print_turn(serve, true);
    fdc_done_flush(serve);
    if (result == CUDA_SUCCESS && req->chunk.size != 0)
        fdc_request_put(kept, req->chunk);
    fdc_request_finish(kept, result, NULL, 0);
}

int
fdc_server_call_fdcPull(struct fdc_request *request, const struct fdc_req_fdcPull *req)
{
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;
    struct fdc_mark *mark = NULL;
    struct fdc_request *kept;

    if (fdc_request_chunk(request, FDC_REGION_DOWN, req->chunk) == NULL)
        return -EPROTO;
    if (ctx != NULL)
        result = req->after ? fdc_mark_all(ctx, &mark) : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS)
        goto answer;
    result = CUDA_ERROR_OUT_OF_MEMORY;
    kept = fdc_request_keep(request);
    if (kept != NULL && fdc_pool_add(request->serve, kept, pull_run, mark) == 0)
        return 0;
    if (kept != NULL) {
        fdc_request_free(kept);
        request->kept = false;
    }
    if (mark != NULL)
        fdc_mark_put(mark);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
