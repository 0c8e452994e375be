/*
 * Copies of plain ranges. All entries come together in copy(): where the two ends lie
 * decides what travels. From host memory the bytes are taken before the call returns;
 * to pageable memory they are there when it returns, to pinned memory when the stream's
 * completion is known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fdc/copy.h"
#include "managed.h"
#include "process.h"
#include "cuda_calls.h"

CUresult
fdc_stream_drain(struct fdc_call *call, struct fdc_stream *stream)
{
    struct fdc_req_cuStreamSynchronize *req;
    struct fdc_reply reply;
    uint16_t id = call->id;
    CUresult result;

    call->id = FDC_ID_cuStreamSynchronize;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->hStream = fdc_stream_wire(stream);
    fdc_object_hold(stream);
    result = fdc_call_wait(call, &reply, sizeof(reply));
    fdc_object_unhold(stream);
    call->id = id;
    return result;
}

CUresult
fdc_copy_wait(struct fdc_call *call, struct fdc_stream *stream,
              struct fdc_gather *gather)
{
    CUresult result, earlier;

    if (gather->sent == 0)
        return CUDA_SUCCESS;
    fdc_object_hold(stream);
    result = fdc_gather_wait(call->session, gather);
    /* Work on the stream before the last piece is over: a synchronise need not ask. */
    if (result == CUDA_SUCCESS)
        fdc_stream_idle(stream, call->position);
    fdc_object_unhold(stream);
    /* One error tells of both; left over, it would come up after a reset. */
    earlier = fdc_session_failure(call->session);
    return result != CUDA_SUCCESS ? result : earlier;
}

CUresult
fdc_copy_begin(struct fdc_call *call, struct fdc_stream *stream, uint64_t size)
{
    struct fdc_session *session = call->session;

    /* Nobody can tell but who has host functions there or memory that kernels reach. */
    if (size <= FDC_STAGED_MAX || fdc_stream_is_idle(stream) ||
        (!fdc_hostfn_pending(session) &&
         fdc_load_relaxed(&session->memory->pinned_hi) == 0 &&
         fdc_load_relaxed(&session->memory->shared) == NULL))
        return CUDA_SUCCESS;
    return fdc_stream_drain(call, stream);
}

CUresult
fdc_copy_end(struct fdc_call *call, struct fdc_stream *stream)
{
    return FDC_UNLIKELY(call->session->sync) ? fdc_stream_drain(call, stream)
                                             : CUDA_SUCCESS;
}

/* A copy whose source has to be read when the stream gets there. */
struct later {
    const struct fdc_device *device;
    uint64_t dst, size;
    const char *src;
};

static void
later_run(void *user)
{
    struct later *later = user;
    CUresult result;

    result = fdc_ferry_push(later->device, later->dst, later->src, later->size, true);
    if (result != CUDA_SUCCESS)
        fdc_log(FDC_LOG_ERROR, "a copy from pinned memory failed: %s",
                fdc_result_name(result));
    free(later);
}

static CUresult
copy_later(struct fdc_call *call, struct fdc_stream *stream,
           const struct fdc_device *device, uint64_t dst, const char *src, uint64_t size)
{
    struct later *later = malloc(sizeof(*later));
    CUresult result;

    if (later == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *later = (struct later){device, dst, size, src};
    result = fdc_hostfn_send(call, stream, later_run, later);
    if (result != CUDA_SUCCESS)
        free(later);
    return result;
}

/* Part of a copy whose bytes are on their way. */
struct piece {
    struct fdc_chunk chunk;
    struct fdc_ticket *ticket;
    struct fdc_loan loan;
    uint64_t put, dst;
};

enum { PIECES = 64 }; /* so many bytes the program cannot have back yet, at most */

static void
piece_cancel(struct fdc_session *session, struct piece *piece)
{
    (void)fdc_link_settle(&piece->loan);
    fdc_link_reclaim(session->link, &piece->loan);
    fdc_up_cancel(session, piece->ticket);
}

/* NOT_READY: there is no room now, and the caller has others out. */
static CUresult
piece_begin(struct fdc_session *session, struct piece *piece, uint64_t dst, const char *src,
            uint64_t size, bool others)
{
    CUresult result;
    int err;

    *piece = (struct piece){.dst = dst};
    result = others ? fdc_up_try(session, size, &piece->chunk, &piece->ticket)
                    : fdc_up_new(session, size, &piece->chunk, &piece->ticket);
    if (result != CUDA_SUCCESS)
        return result;
    err = fdc_link_lend(session->link, FDC_REGION_UP, piece->chunk.offset, src, size,
                        &piece->loan, &piece->put);
    if (err)
        fdc_up_cancel(session, piece->ticket);
    return fdc_result(err);
}

/* The worker is told once the bytes have left, so that it waits for the road alone. */
static CUresult
piece_end(struct fdc_call *call, struct fdc_stream *stream, struct piece *piece, bool first)
{
    struct fdc_req_fdcCopyUp *req;
    CUresult result;
    int err;

    err = fdc_link_settle(&piece->loan);
    result = fdc_result(err);
    req = err == 0 ? fdc_call_begin(call, sizeof(*req)) : NULL;
    if (req != NULL) {
        req->dst = piece->dst;
        req->stream = fdc_stream_wire(stream);
        req->chunk = piece->chunk;
        fdc_call_uses_put(call, piece->put);
        if (first)
            fdc_call_comes_first(call);
        result = fdc_call_send_done(call, piece->ticket);
    } else if (err == 0) {
        result = call->result;
    }
    if (result != CUDA_SUCCESS)
        piece_cancel(call->session, piece);
    return result;
}

/* On roads with several stripes a few pieces are on their way at once. */
static CUresult
copy_pieces(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst, const char *src,
            uint64_t size, bool sync)
{
    struct fdc_session *session = call->session;
    uint32_t stripes = fdc_link_stripes(session->link), begun = 0, ended = 0, over = 0;
    uint32_t most = stripes > 1 ? 2 * stripes : 1;
    struct piece pieces[PIECES], *piece;
    CUresult result = CUDA_SUCCESS;
    uint64_t part;

    call->id = FDC_ID_fdcCopyUp;
    while (result == CUDA_SUCCESS && (size > 0 || begun != ended)) {
        if (size > 0 && begun - ended < most) {
            /* Chunks that are free again are taken first, while they are in the cache. */
            if (session->shared && begun > 0)
                fdc_intake_poll(session);
            if (begun - over == PIECES)
                fdc_link_reclaim(session->link, &pieces[over++ % PIECES].loan);
            part = fdc_piece(session, size);
            result = piece_begin(session, &pieces[begun % PIECES], dst, src, part,
                                 begun != ended);
            if (result == CUDA_SUCCESS) {
                begun++;
                dst += part;
                src += part;
                size -= part;
                continue;
            }
            if (result != CUDA_ERROR_NOT_READY)
                break;
        }
        piece = &pieces[ended++ % PIECES];
        result = piece_end(call, stream, piece, sync && size == 0 && begun == ended);
    }
    for (; ended != begun; ended++)
        piece_cancel(session, &pieces[ended % PIECES]);
    if (begun > 1 && !session->shared)
        fdc_intake_poll(session); /* what the worker says to have need not be kept */
    for (; over != begun; over++)
        fdc_link_reclaim(session->link, &pieces[over % PIECES].loan);
    return result;
}

static CUresult
copy_up(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst, const char *src,
        uint64_t size, bool sync)
{
    struct fdc_session *session = call->session;
    CUresult result = CUDA_SUCCESS;

    if (sync)
        result = fdc_copy_begin(call, stream, size);
    if (result == CUDA_SUCCESS)
        result = fdc_pending_wait(src, size);
    if (result != CUDA_SUCCESS)
        return result;
    __atomic_add_fetch(&session->moved, size, __ATOMIC_RELAXED);

    if (size <= FDC_INLINE_MAX) {
        struct fdc_req_fdcCopyUpInline *req;

        call->id = FDC_ID_fdcCopyUpInline;
        req = fdc_call_begin(call, (uint32_t)(sizeof(*req) + FDC_ALIGN_UP(size, 8ull)));
        if (req == NULL)
            return call->result;
        req->dst = dst;
        req->stream = fdc_stream_wire(stream);
        req->bytes = (struct fdc_span){sizeof(*req), (uint32_t)size};
        req->size = (uint32_t)size;
        memcpy(req + 1, src, size);
        if (sync)
            fdc_call_comes_first(call);
        return fdc_call_send(call);
    }

    return copy_pieces(call, stream, dst, src, size, sync);
}

static CUresult
copy_down(struct fdc_call *call, struct fdc_stream *stream, char *dst, uint64_t src,
          uint64_t size, bool wait)
{
    struct fdc_session *session = call->session;
    struct fdc_gather gather = {0};
    struct fdc_pending *pending, what;
    CUresult result = CUDA_SUCCESS, waited, earlier;

    result = fdc_pending_wait(dst, size);
    if (result != CUDA_SUCCESS)
        return result;
    __atomic_add_fetch(&session->moved, size, __ATOMIC_RELAXED);
    call->id = FDC_ID_fdcCopyDown;
    memset(&what, 0, sizeof(what));
    what.rows = what.depth = 1;
    what.past_cache = size >= FDC_PAST_CACHE;
    while (size > 0) {
        uint64_t part = fdc_piece(session, size);
        struct fdc_req_fdcCopyDown *req;

        if (wait && session->shared)
            fdc_gather_pace(session, &gather);
        what.to = dst;
        what.width = part;
        result = fdc_pending_new(session, &what, wait ? &gather : NULL, &pending);
        if (result != CUDA_SUCCESS)
            break;
        req = fdc_call_begin(call, sizeof(*req));
        if (req == NULL) {
            result = call->result;
            fdc_pending_cancel(pending);
            break;
        }
        req->src = src;
        req->stream = fdc_stream_wire(stream);
        req->chunk = pending->chunk;
        result = fdc_pending_send(call, pending);
        if (result != CUDA_SUCCESS)
            break;
        dst += part;
        src += part;
        size -= part;
    }
    if (!wait)
        return result;
    /* Also after a failure: what was sent points at this frame. */
    waited = fdc_gather_wait(session, &gather);
    if (result == CUDA_SUCCESS)
        result = waited;
    if (result == CUDA_SUCCESS)
        fdc_stream_idle(stream, call->position);
    earlier = fdc_session_failure(session);
    return result != CUDA_SUCCESS ? result : earlier;
}

static CUresult
copy_device(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst,
            uint64_t src, uint64_t size)
{
    struct fdc_req_cuMemcpyDtoDAsync_v2 *req;

    call->id = FDC_ID_cuMemcpyDtoDAsync_v2;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->dstDevice = dst;
    req->srcDevice = src;
    req->ByteCount = size;
    req->hStream = fdc_stream_wire(stream);
    return fdc_call_send(call);
}

static CUresult
copy_peer(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst,
          const struct fdc_context *to, uint64_t src, const struct fdc_context *from,
          uint64_t size)
{
    struct fdc_req_cuMemcpyPeerAsync *req;

    call->id = FDC_ID_cuMemcpyPeerAsync;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->dstDevice = dst;
    req->dstContext = to->object.handle;
    req->srcDevice = src;
    req->srcContext = from->object.handle;
    req->ByteCount = size;
    req->hStream = fdc_stream_wire(stream);
    return fdc_call_send(call);
}

/* Host memory that the worker has too: nothing of it passes through here. */
static CUresult
copy_shared(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst,
            uint64_t src, uint64_t size, bool sync)
{
    struct fdc_req_fdcCopyShared *req;
    CUresult result;

    call->id = FDC_ID_fdcCopyShared;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->dst = dst;
    req->src = src;
    req->size = size;
    req->stream = fdc_stream_wire(stream);
    result = fdc_call_send(call);
    if (result != CUDA_SUCCESS)
        return result;
    __atomic_add_fetch(&call->session->in_place, size, __ATOMIC_RELAXED);
    if (!sync)
        return CUDA_SUCCESS;
    result = fdc_stream_drain(call, stream);
    if (result == CUDA_SUCCESS)
        fdc_stream_idle(stream, call->position);
    return result;
}

static CUresult
copy_across(struct fdc_call *call, struct fdc_stream *stream, uint64_t dst,
            struct fdc_context *to, uint64_t src, struct fdc_context *from,
            uint64_t size, bool sync)
{
    struct fdc_copy3d copy = {
        .src = {.memory = FDC_COPY_DEVICE, .base = src, .pitch = size, .height = 1},
        .dst = {.memory = FDC_COPY_DEVICE, .base = dst, .pitch = size, .height = 1},
        .width = size,
        .height = 1,
        .depth = 1,
    };

    return fdc_across(call, stream, &copy, to, from, sync);
}

/* Device memory of another server than the call's. */
static bool
is_elsewhere(const struct fdc_call *call, const struct fdc_place *place)
{
    return place->where == FDC_DEVICE && place->device->session != call->session;
}

static struct fdc_context *
context_at(const struct fdc_place *place)
{
    return place->context != NULL ? place->context : place->device->primary;
}

enum { COPY_SYNC = 1, DST_DEVICE = 2, SRC_DEVICE = 4 };

/* What an end has to be: all of it in one live allocation, or host memory. */
static CUresult
classify(struct fdc_session *session, uint64_t address, uint64_t size, bool device,
         struct fdc_place *place)
{
    fdc_place_look(session, address, place);
    if (place->where == FDC_NOWHERE || (device && place->where == FDC_HOST_PAGEABLE))
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_place_reached(place))
        return fdc_place_device(place->device->session, address, size, NULL);
    return address != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult
copy_ends(struct fdc_call *call, struct fdc_stream *stream, CUdeviceptr dst,
          const struct fdc_place *to, CUdeviceptr src, const struct fdc_place *from,
          size_t size, unsigned kind)
{
    CUresult result;

    if (to->where == FDC_DEVICE && from->where == FDC_DEVICE) {
        if (FDC_UNLIKELY(is_elsewhere(call, to) || is_elsewhere(call, from)))
            return copy_across(call, stream, dst, context_at(to), src, context_at(from),
                               size, (kind & COPY_SYNC) != 0);
        if (to->device != from->device && to->context != NULL && from->context != NULL)
            return copy_peer(call, stream, dst, to->context, src, from->context, size);
        return copy_device(call, stream, dst, src, size);
    }
    if (fdc_place_reached(to) && fdc_place_reached(from) &&
        FDC_LIKELY(!is_elsewhere(call, to) && !is_elsewhere(call, from)))
        return copy_shared(call, stream, dst, src, size, (kind & COPY_SYNC) != 0);
    if (fdc_stream_capturing(stream))
        return kind & COPY_SYNC ? fdc_capture_refuse(stream)
                                : fdc_copy_captured(call, stream, dst, src, size);
    result = fdc_across_begin(call, &stream, to->where == FDC_DEVICE ? dst : src);
    if (result != CUDA_SUCCESS)
        return result;
    /* What a host function before it writes is the copy's; so is what a copy before that
     * brings. */
    if (to->where == FDC_DEVICE && from->where == FDC_HOST_PINNED &&
        !(kind & COPY_SYNC) && !call->moved && fdc_hostfn_pending(call->session))
        return copy_later(call, stream, to->device, dst, (const char *)(uintptr_t)src,
                          size);
    if (to->where == FDC_DEVICE) {
        result = copy_up(call, stream, dst, (const char *)(uintptr_t)src, size,
                         (kind & COPY_SYNC) != 0);
        if (result == CUDA_SUCCESS)
            result = fdc_copy_end(call, stream);
        return fdc_across_end(call, stream, result);
    }
    if (from->where == FDC_DEVICE)
        return copy_down(call, stream, (char *)(uintptr_t)dst, src, size,
                         (kind & COPY_SYNC) != 0 || to->where == FDC_HOST_PAGEABLE ||
                             call->moved || call->session->sync);
    result = fdc_stream_drain(call, stream);
    if (result == CUDA_SUCCESS)
        memmove((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, size);
    return result;
}

static CUresult
copy(CUdeviceptr dst, CUdeviceptr src, size_t size, CUstream value, unsigned how,
     unsigned kind)
{
    struct fdc_stream *stream;
    struct fdc_place to, from;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcCopyUp, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_stream_resolve(&call, value, size != 0 ? how : how & ~FDC_STREAM_WORK,
                                &stream);
    if (result != CUDA_SUCCESS || size == 0)
        return result;
    result = classify(call.session, dst, size, kind & DST_DEVICE, &to);
    if (result == CUDA_SUCCESS)
        result = classify(call.session, src, size, kind & SRC_DEVICE, &from);
    if (result != CUDA_SUCCESS)
        return result;

    result = copy_ends(&call, stream, dst, &to, src, &from, size, kind);
    if (result != CUDA_SUCCESS || call.moved ||
        FDC_LIKELY(!fdc_load_relaxed(&call.session->memory->mirrors_stale)) ||
        !(kind & COPY_SYNC) || fdc_stream_capturing(stream))
        return result;
    /* The program may look at what a kernel before it has written. */
    result = fdc_stream_drain(&call, stream);
    if (result == CUDA_SUCCESS)
        fdc_memory_seen(call.session);
    return result;
}

#define ADDRESS(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

FDC_TWINS(cuMemcpyHtoD_v2, _ptds,
          (CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount),
          copy(dstDevice, ADDRESS(srcHost), ByteCount, NULL, how,
               COPY_SYNC | DST_DEVICE))
FDC_TWINS(cuMemcpyHtoDAsync_v2, _ptsz,
          (CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
           CUstream hStream),
          copy(dstDevice, ADDRESS(srcHost), ByteCount, hStream, how, DST_DEVICE))
FDC_TWINS(cuMemcpyDtoH_v2, _ptds,
          (void *dstHost, CUdeviceptr srcDevice, size_t ByteCount),
          copy(ADDRESS(dstHost), srcDevice, ByteCount, NULL, how,
               COPY_SYNC | SRC_DEVICE))
FDC_TWINS(cuMemcpyDtoHAsync_v2, _ptsz,
          (void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream),
          copy(ADDRESS(dstHost), srcDevice, ByteCount, hStream, how, SRC_DEVICE))
FDC_TWINS(cuMemcpyDtoD_v2, _ptds,
          (CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount),
          copy(dstDevice, srcDevice, ByteCount, NULL, how,
               COPY_SYNC | DST_DEVICE | SRC_DEVICE))
FDC_TWINS(cuMemcpyDtoDAsync_v2, _ptsz,
          (CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
           CUstream hStream),
          copy(dstDevice, srcDevice, ByteCount, hStream, how, DST_DEVICE | SRC_DEVICE))
FDC_TWINS(cuMemcpy, _ptds, (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount),
          copy(dst, src, ByteCount, NULL, how, COPY_SYNC))
FDC_TWINS(cuMemcpyAsync, _ptsz,
          (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream),
          copy(dst, src, ByteCount, hStream, how, 0))

/* ---- between contexts ---- */

static CUresult
peer(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from, size_t size,
     CUstream value, unsigned how, unsigned kind)
{
    struct fdc_context *to_context, *from_context;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuMemcpyPeerAsync, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    to_context = fdc_context_find(to);
    from_context = fdc_context_find(from);
    if (to_context == NULL || from_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_context_activate(to_context);
    if (result == CUDA_SUCCESS)
        result = fdc_context_activate(from_context);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, value, how, &stream);
    if (result != CUDA_SUCCESS || size == 0)
        return result;
    if (fdc_place_device(to_context->object.session, dst, size, NULL) != CUDA_SUCCESS ||
        fdc_place_device(from_context->object.session, src, size, NULL) != CUDA_SUCCESS)
        return CUDA_ERROR_INVALID_VALUE;
    if (FDC_UNLIKELY(to_context->object.session != call.session ||
                     from_context->object.session != call.session))
        return copy_across(&call, stream, dst, to_context, src, from_context, size,
                           (kind & COPY_SYNC) != 0);
    return copy_peer(&call, stream, dst, to_context, src, from_context, size);
}

FDC_TWINS(cuMemcpyPeer, _ptds,
          (CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
           CUcontext srcContext, size_t ByteCount),
          peer(dstDevice, dstContext, srcDevice, srcContext, ByteCount, NULL, how,
               COPY_SYNC))
FDC_TWINS(cuMemcpyPeerAsync, _ptsz,
          (CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
           CUcontext srcContext, size_t ByteCount, CUstream hStream),
          peer(dstDevice, dstContext, srcDevice, srcContext, ByteCount, hStream, how,
               0))
