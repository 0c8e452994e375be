/*
 * Access between devices of one lease. Memory is mapped (memory.c), and mapped memory has
 * its own list of who may reach it: enabling access adds the device to all that is mapped
 * and to what will be. The driver is told too, for what it allocates by itself.
 */
#include "server/serve.h"
#include "server_hooks.h"

/* The worker's context behind the client's handle. */
static struct fdc_ctx *
ctx_of(struct fdc_serve *serve, uint64_t handle)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_CONTEXT, handle);

    return slot != NULL ? fdc_slot_aux(slot) : NULL;
}

static CUresult
change(struct fdc_serve *serve, struct fdc_ctx *ctx, struct fdc_ctx *peer, bool enable)
{
    const struct fdc_driver *driver = serve->driver;
    uint64_t bit = 1ull << peer->device;
    CUresult result;

    if (peer->device == ctx->device)
        return enable ? CUDA_ERROR_PEER_ACCESS_UNSUPPORTED
                      : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    if (enable == ((ctx->peers & bit) != 0))
        return enable ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
                      : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    result = enable ? driver->cuCtxEnablePeerAccess(peer->value, 0)
                    : driver->cuCtxDisablePeerAccess(peer->value);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_memory_share(serve, peer->device, ctx->device, enable);
    if (result != CUDA_SUCCESS && enable)
        driver->cuCtxDisablePeerAccess(peer->value);
    else
        ctx->peers ^= bit;
    return result;
}

/* Under context_lock, so that two helpers cannot both enable, and no context ends here. */
static int
serve_change(struct fdc_request *request, uint64_t handle, bool enable)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here(), *peer;
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;

    fdc_context_lock(serve);
    peer = ctx_of(serve, handle);
    if (ctx != NULL && peer != NULL && peer->value != NULL)
        result = change(serve, ctx, peer, enable);
    pthread_mutex_unlock(&serve->context_lock);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuCtxEnablePeerAccess(struct fdc_request *request,
                                      const struct fdc_req_cuCtxEnablePeerAccess *req)
{
    return serve_change(request, req->peerContext, true);
}

int
fdc_server_call_cuCtxDisablePeerAccess(struct fdc_request *request,
                                       const struct fdc_req_cuCtxDisablePeerAccess *req)
{
    return serve_change(request, req->peerContext, false);
}

void
fdc_peers_forget(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    for (int device = 0; device < serve->limits.devices && serve->memory != NULL; device++)
        if (ctx->peers >> device & 1)
            (void)fdc_memory_share(serve, device, ctx->device, false);
    ctx->peers = 0;
}

/* What a pool's or a mapping's owner lets another device do, without a context. */
int
fdc_server_call_fdcPeer(struct fdc_request *request, const struct fdc_req_fdcPeer *req)
{
    struct fdc_serve *serve = request->serve;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->owner >= 0 && req->owner < serve->limits.devices && req->reader >= 0 &&
        req->reader < serve->limits.devices && req->owner != req->reader)
        result = fdc_memory_share(serve, req->owner, req->reader, req->enable != 0);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
