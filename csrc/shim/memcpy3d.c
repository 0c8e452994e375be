/*
 * Copies of boxes: rows of rows, of linear memory or arrays. What lies on the host
 * travels packed, in pieces that fit a chunk; between device memory and arrays one
 * message does.
 */
#include <string.h>

#include "fdc/copy.h"
#include "graph.h"
#include "process.h"
#include "cuda_calls.h"

enum { COPY_SYNC = 1 };

/* One end of a copy, as every form of the structure says it. */
struct end {
    struct fdc_copy_end wire; /* device memory or array */
    struct fdc_context *context;
    bool host, pinned, shared; /* shared: not host, though it is there */
    char *bytes;           /* host: the box's first byte */
    uint64_t pitch, slice; /* host: bytes between rows, slices */
};

struct box {
    struct end src, dst;
    uint64_t width, height, depth;
};

struct form {
    uint64_t x, y, z, lod, pitch, height;
    CUmemorytype type;
    const void *host;
    CUdeviceptr device;
    CUarray array;
};

static CUresult
array_end(const struct form *form, const struct box *box, struct end *end)
{
    struct fdc_array *array = fdc_object_find(FDC_KIND_ARRAY, form->array);
    uint64_t height, depth;

    if (array == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    height = array->desc.Height != 0 ? array->desc.Height : 1;
    depth = array->desc.Depth != 0 ? array->desc.Depth : 1;
    if (form->lod != 0 || form->y > height || box->height > height - form->y ||
        form->z > depth || box->depth > depth - form->z)
        return CUDA_ERROR_INVALID_VALUE;
    if (array->element != 0) {
        uint64_t width = array->desc.Width * array->element;

        if (form->x > width || box->width > width - form->x ||
            form->x % array->element != 0 || box->width % array->element != 0)
            return CUDA_ERROR_INVALID_VALUE;
    }
    end->context = array->object.context;
    end->wire.memory = FDC_COPY_ARRAY;
    end->wire.base = array->object.handle;
    end->wire.x = form->x;
    end->wire.y = form->y;
    end->wire.z = form->z;
    return CUDA_SUCCESS;
}

/* Linear memory: where the box begins and how far it reaches. */
static CUresult
linear_end(struct fdc_session *session, const struct form *form, const struct box *box,
           uint64_t address, bool host, struct end *end)
{
    uint64_t pitch = form->pitch, height = form->height, offset, reach, rows;
    struct fdc_place place;

    if (address == 0 || form->lod != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (pitch == 0)
        pitch = form->x + box->width;
    if (height == 0)
        height = form->y + box->height;
    if (box->height > 1 || box->depth > 1) {
        if (pitch < form->x + box->width ||
            (box->depth > 1 && height < form->y + box->height))
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (__builtin_mul_overflow(form->z, height, &rows) ||
        __builtin_add_overflow(rows, form->y, &rows) ||
        __builtin_mul_overflow(rows, pitch, &offset) ||
        __builtin_add_overflow(offset, form->x, &offset))
        return CUDA_ERROR_INVALID_VALUE;
    if (__builtin_mul_overflow(box->depth - 1, height, &rows) ||
        __builtin_add_overflow(rows, box->height - 1, &rows) ||
        __builtin_mul_overflow(rows, pitch, &reach) ||
        __builtin_add_overflow(reach, box->width, &reach) || reach > 1ull << 47)
        return CUDA_ERROR_INVALID_VALUE;

    fdc_place_look(session, address + offset, &place);
    if (place.where == FDC_NOWHERE || (!host && place.where == FDC_HOST_PAGEABLE))
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_place_reached(&place)) {
        end->shared = place.shared;
        end->context = place.context != NULL ? place.context : place.device->primary;
        end->wire.memory = FDC_COPY_DEVICE;
        /* The worker is told of the box alone: its range is what was checked here. */
        end->wire.base = address + offset;
        end->wire.pitch = pitch > box->width ? pitch : box->width;
        end->wire.height = height;
        return fdc_place_device(place.device->session, address + offset, reach, NULL);
    }
    end->host = true;
    end->pinned = place.where == FDC_HOST_PINNED;
    end->bytes = (char *)(uintptr_t)(address + offset);
    end->pitch = pitch;
    end->slice = pitch * height;
    return CUDA_SUCCESS;
}

static CUresult
end_read(struct fdc_session *session, const struct form *form, const struct box *box,
         struct end *end)
{
    memset(end, 0, sizeof(*end));
    switch ((int)form->type) {
    case CU_MEMORYTYPE_HOST:
        return linear_end(session, form, box, (uint64_t)(uintptr_t)form->host, true,
                          end);
    case CU_MEMORYTYPE_DEVICE:
        return linear_end(session, form, box, form->device, false, end);
    case CU_MEMORYTYPE_UNIFIED:
        return linear_end(session, form, box, form->device, true, end);
    case CU_MEMORYTYPE_ARRAY:
        return array_end(form, box, end);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult
box_read(struct fdc_session *session, const CUDA_MEMCPY3D *copy, struct box *box)
{
    struct form src = {
        copy->srcXInBytes, copy->srcY,      copy->srcZ,          copy->srcLOD,
        copy->srcPitch,    copy->srcHeight, copy->srcMemoryType, copy->srcHost,
        copy->srcDevice,   copy->srcArray,
    };
    struct form dst = {
        copy->dstXInBytes, copy->dstY,      copy->dstZ,          copy->dstLOD,
        copy->dstPitch,    copy->dstHeight, copy->dstMemoryType, copy->dstHost,
        copy->dstDevice,   copy->dstArray,
    };
    CUresult result;

    box->width = copy->WidthInBytes;
    box->height = copy->Height;
    box->depth = copy->Depth;
    if ((box->width | box->height | box->depth) >= 1ull << 40)
        return CUDA_ERROR_INVALID_VALUE;
    result = end_read(session, &src, box, &box->src);
    return result == CUDA_SUCCESS ? end_read(session, &dst, box, &box->dst) : result;
}

static uint64_t host_span(const struct end *end, const struct box *box);

/* An end in host memory is one in its shadow. */
static CUresult
end_shadow(struct fdc_call *call, struct fdc_keeps *keeps, const struct box *box,
           struct end *end)
{
    if (!end->host)
        return CUDA_SUCCESS;
    memset(&end->wire, 0, sizeof(end->wire));
    end->wire.pitch = end->pitch > box->width ? end->pitch : box->width;
    end->wire.height = end->pitch != 0 ? end->slice / end->pitch : box->height;
    return fdc_shadow_end(call, keeps, end->bytes, host_span(end, box), &end->wire);
}

static CUresult
box_shadow(struct fdc_call *call, struct fdc_keeps *keeps, struct box *box)
{
    CUresult result = end_shadow(call, keeps, box, &box->src);

    return result == CUDA_SUCCESS ? end_shadow(call, keeps, box, &box->dst) : result;
}

/* Either end is another server's. */
static bool
is_elsewhere(const struct box *box, const struct fdc_session *session)
{
    return (box->src.context != NULL && box->src.context->object.session != session) ||
           (box->dst.context != NULL && box->dst.context->object.session != session);
}

CUresult
fdc_box_wire(struct fdc_call *call, struct fdc_keeps *keeps, const CUDA_MEMCPY3D *copy,
             struct fdc_copy3d *wire)
{
    struct box box;
    CUresult result;

    if (copy->WidthInBytes == 0 || copy->Height == 0 || copy->Depth == 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = box_read(call->session, copy, &box);
    if (result == CUDA_SUCCESS && is_elsewhere(&box, call->session))
        return CUDA_ERROR_INVALID_VALUE; /* a graph is one server's */
    if (result == CUDA_SUCCESS)
        result = box_shadow(call, keeps, &box);
    if (result == CUDA_SUCCESS)
        *wire = (struct fdc_copy3d){box.src.wire, box.dst.wire, box.width, box.height,
                                    box.depth};
    return result;
}

static CUresult
end_params(const struct fdc_copy_end *end, struct form *form)
{
    struct fdc_place place;

    *form = (struct form){.x = end->x,
                          .y = end->y,
                          .z = end->z,
                          .lod = end->level,
                          .pitch = end->pitch,
                          .height = end->height};
    switch (end->memory) {
    case FDC_COPY_DEVICE:
        form->type = CU_MEMORYTYPE_DEVICE;
        form->device = end->base;
        if (fdc_place_find(end->base, &place) && place.shared) {
            form->type = CU_MEMORYTYPE_HOST;
            form->device = 0;
            form->host = (const void *)(uintptr_t)end->base;
        }
        return CUDA_SUCCESS;
    case FDC_COPY_SHADOW:
        form->type = CU_MEMORYTYPE_HOST;
        form->host = fdc_shadow_address(end);
        form->x = 0;
        return form->host != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    case FDC_COPY_ARRAY:
        form->type = CU_MEMORYTYPE_ARRAY;
        form->array = (CUarray)(uintptr_t)end->base;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult
fdc_box_params(const struct fdc_copy3d *wire, CUDA_MEMCPY3D *copy)
{
    struct form src, dst;
    CUresult result;

    result = end_params(&wire->src, &src);
    if (result == CUDA_SUCCESS)
        result = end_params(&wire->dst, &dst);
    if (result != CUDA_SUCCESS)
        return result;
    *copy = (CUDA_MEMCPY3D){
        .srcXInBytes = src.x,
        .srcY = src.y,
        .srcZ = src.z,
        .srcLOD = src.lod,
        .srcMemoryType = src.type,
        .srcHost = src.host,
        .srcDevice = src.device,
        .srcArray = src.array,
        .srcPitch = src.pitch,
        .srcHeight = src.height,
        .dstXInBytes = dst.x,
        .dstY = dst.y,
        .dstZ = dst.z,
        .dstLOD = dst.lod,
        .dstMemoryType = dst.type,
        .dstHost = (void *)(uintptr_t)dst.host,
        .dstDevice = dst.device,
        .dstArray = dst.array,
        .dstPitch = dst.pitch,
        .dstHeight = dst.height,
        .WidthInBytes = wire->width,
        .Height = wire->height,
        .Depth = wire->depth,
    };
    return CUDA_SUCCESS;
}

/* ---- pieces ---- */

static void
part_wire(const struct end *end, const struct fdc_part *part, struct fdc_copy_end *wire)
{
    *wire = end->wire;
    wire->x += part->x;
    wire->y += part->y;
    wire->z += part->z;
}

static char *
part_host(const struct end *end, const struct fdc_part *part)
{
    return end->bytes + part->z * end->slice + part->y * end->pitch + part->x;
}

/* Bytes from the box's first to its last. */
static uint64_t
host_span(const struct end *end, const struct box *box)
{
    return (box->depth - 1) * end->slice + (box->height - 1) * end->pitch + box->width;
}

static CUresult
box_up(struct fdc_call *call, struct fdc_stream *stream, const struct box *box,
       bool sync)
{
    struct fdc_session *session = call->session;
    uint64_t left = box->width * box->height * box->depth;
    CUresult result = CUDA_SUCCESS;
    struct fdc_part part = {0};
    struct fdc_ticket *ticket;
    struct fdc_chunk chunk;
    uint64_t put;
    int err;

    if (sync)
        result = fdc_copy_begin(call, stream, left);
    if (result == CUDA_SUCCESS)
        result = fdc_pending_wait(box->src.bytes, host_span(&box->src, box));
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcCopy3DUp;
    while (fdc_part_next(box->width, box->height, box->depth, &part)) {
        uint64_t size = part.width * part.height * part.depth;
        const char *from = part_host(&box->src, &part);
        struct fdc_req_fdcCopy3DUp *req;
        char *to;

        result = fdc_up_new(session, size, &chunk, &ticket);
        if (result != CUDA_SUCCESS)
            return result;
        to = fdc_stage_at(session, FDC_REGION_UP, &chunk);
        for (uint64_t z = 0; z < part.depth; z++)
            for (uint64_t y = 0; y < part.height; y++, to += part.width)
                memcpy(to, from + z * box->src.slice + y * box->src.pitch, part.width);
        err = fdc_link_put(session->link, FDC_REGION_UP, chunk.offset,
                           fdc_stage_at(session, FDC_REGION_UP, &chunk), size, &put);
        req = err == 0 ? fdc_call_begin(call, sizeof(*req)) : NULL;
        if (req == NULL) {
            fdc_up_cancel(session, ticket);
            return err ? fdc_result(err) : call->result;
        }
        memset(&req->copy, 0, sizeof(req->copy));
        req->copy.src.memory = FDC_COPY_CHUNK;
        part_wire(&box->dst, &part, &req->copy.dst);
        req->copy.width = part.width;
        req->copy.height = part.height;
        req->copy.depth = part.depth;
        req->stream = fdc_stream_wire(stream);
        req->chunk = chunk;
        fdc_call_uses_put(call, put);
        left -= size;
        if (sync && left == 0)
            fdc_call_comes_first(call);
        result = fdc_call_send_done(call, ticket);
        if (result != CUDA_SUCCESS) {
            fdc_up_cancel(session, ticket);
            return result;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult
box_down(struct fdc_call *call, struct fdc_stream *stream, const struct box *box,
         bool wait)
{
    struct fdc_session *session = call->session;
    struct fdc_pending *pending, what;
    struct fdc_gather gather = {0};
    struct fdc_part part = {0};
    CUresult result, waited;

    result = fdc_pending_wait(box->dst.bytes, host_span(&box->dst, box));
    if (result != CUDA_SUCCESS)
        return result;
    memset(&what, 0, sizeof(what));
    call->id = FDC_ID_fdcCopy3DDown;
    while (fdc_part_next(box->width, box->height, box->depth, &part)) {
        struct fdc_req_fdcCopy3DDown *req;

        what.to = part_host(&box->dst, &part);
        what.width = part.width;
        what.rows = part.height;
        what.depth = part.depth;
        what.pitch = box->dst.pitch;
        what.slice = box->dst.slice;
        result = fdc_pending_new(session, &what, wait ? &gather : NULL, &pending);
        if (result != CUDA_SUCCESS)
            break;
        req = fdc_call_begin(call, sizeof(*req));
        if (req == NULL) {
            result = call->result;
            fdc_pending_cancel(pending);
            break;
        }
        memset(&req->copy, 0, sizeof(req->copy));
        req->copy.dst.memory = FDC_COPY_CHUNK;
        part_wire(&box->src, &part, &req->copy.src);
        req->copy.width = part.width;
        req->copy.height = part.height;
        req->copy.depth = part.depth;
        req->stream = fdc_stream_wire(stream);
        req->chunk = pending->chunk;
        result = fdc_pending_send(call, pending);
        if (result != CUDA_SUCCESS)
            break;
    }
    if (!wait)
        return result;
    waited = fdc_copy_wait(call, stream, &gather);
    return result != CUDA_SUCCESS ? result : waited;
}

static CUresult
box_between(struct fdc_call *call, struct fdc_stream *stream, const struct box *box,
            bool sync)
{
    struct fdc_copy3d copy = {box->src.wire, box->dst.wire, box->width, box->height,
                              box->depth};
    struct fdc_req_fdcCopy3D *req;

    if (FDC_UNLIKELY(is_elsewhere(box, call->session)))
        return fdc_across(call, stream, &copy, box->dst.context, box->src.context,
                          sync);

    call->id = FDC_ID_fdcCopy3D;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->copy = copy;
    req->stream = fdc_stream_wire(stream);
    return fdc_call_send(call);
}

static void
box_host(const struct box *box)
{
    for (uint64_t z = 0; z < box->depth; z++)
        for (uint64_t y = 0; y < box->height; y++)
            memmove(box->dst.bytes + z * box->dst.slice + y * box->dst.pitch,
                    box->src.bytes + z * box->src.slice + y * box->src.pitch,
                    box->width);
}

/* A node of the graph, whose bytes are read and stored at each replay. */
static CUresult
box_captured(struct fdc_call *call, struct fdc_stream *stream, struct box *box)
{
    struct fdc_keeps *keeps = fdc_capture_keeps(stream);
    CUresult result;

    if (keeps == NULL)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    call->context = stream->object.context;
    result = box_shadow(call, keeps, box);
    return result == CUDA_SUCCESS ? box_between(call, stream, box, false) : result;
}

CUresult
fdc_copy_captured(struct fdc_call *call, struct fdc_stream *stream, CUdeviceptr dst,
                  CUdeviceptr src, uint64_t size)
{
    CUDA_MEMCPY3D copy = {
        .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
        .srcDevice = src,
        .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
        .dstDevice = dst,
        .WidthInBytes = size,
        .Height = 1,
        .Depth = 1,
    };
    struct box box;
    CUresult result = box_read(call->session, &copy, &box);

    return result == CUDA_SUCCESS ? box_captured(call, stream, &box) : result;
}

/* The end that is no host memory may be another server's. */
static CUresult
end_begin(struct fdc_call *call, struct fdc_stream **stream, const struct end *end)
{
    if (end->wire.memory == FDC_COPY_DEVICE)
        return fdc_across_begin(call, stream, end->wire.base);
    return end->context == NULL || end->context->object.session == call->session
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult
copy3d(const CUDA_MEMCPY3D *copy, CUstream value, unsigned how, unsigned kind)
{
    struct fdc_stream *stream;
    struct fdc_call call;
    struct box box;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcCopy3D, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (copy == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (copy->WidthInBytes == 0 || copy->Height == 0 || copy->Depth == 0)
        return fdc_stream_resolve(&call, value, how & ~(unsigned)FDC_STREAM_WORK,
                                  &stream);
    result = fdc_stream_resolve(&call, value, how, &stream);
    if (result == CUDA_SUCCESS)
        result = box_read(call.session, copy, &box);
    if (result != CUDA_SUCCESS)
        return result;
    if (!box.src.host && !box.dst.host) {
        result = box_between(&call, stream, &box, (kind & COPY_SYNC) != 0);
        if (result == CUDA_SUCCESS && (box.src.shared || box.dst.shared)) {
            __atomic_add_fetch(&call.session->in_place,
                               box.width * box.height * box.depth, __ATOMIC_RELAXED);
            if (kind & COPY_SYNC)
                result = fdc_stream_drain(&call, stream);
        }
        return result;
    }
    if (fdc_stream_capturing(stream)) {
        if (kind & COPY_SYNC)
            return fdc_capture_refuse(stream);
        return box_captured(&call, stream, &box);
    }
    __atomic_add_fetch(&call.session->moved, box.width * box.height * box.depth,
                       __ATOMIC_RELAXED);
    if (!box.src.host || !box.dst.host) {
        const struct end *end = box.src.host ? &box.dst : &box.src;

        result = end_begin(&call, &stream, end);
        if (result != CUDA_SUCCESS)
            return result;
    }
    if (!box.dst.host) {
        result = box_up(&call, stream, &box, (kind & COPY_SYNC) != 0);
        if (result == CUDA_SUCCESS)
            result = fdc_copy_end(&call, stream);
        return fdc_across_end(&call, stream, result);
    }
    if (!box.src.host)
        return box_down(&call, stream, &box,
                        (kind & COPY_SYNC) != 0 || !box.dst.pinned || call.moved ||
                            call.session->sync);
    result = fdc_stream_drain(&call, stream);
    if (result == CUDA_SUCCESS)
        box_host(&box);
    return result;
}

/* ---- the entries ---- */

static CUresult
copy2d(const CUDA_MEMCPY2D *flat, CUstream value, unsigned how, unsigned kind)
{
    CUDA_MEMCPY3D copy = {0};

    if (flat == NULL)
        return copy3d(NULL, value, how, kind);
    copy.srcXInBytes = flat->srcXInBytes;
    copy.srcY = flat->srcY;
    copy.srcMemoryType = flat->srcMemoryType;
    copy.srcHost = flat->srcHost;
    copy.srcDevice = flat->srcDevice;
    copy.srcArray = flat->srcArray;
    copy.srcPitch = flat->srcPitch;
    copy.dstXInBytes = flat->dstXInBytes;
    copy.dstY = flat->dstY;
    copy.dstMemoryType = flat->dstMemoryType;
    copy.dstHost = flat->dstHost;
    copy.dstDevice = flat->dstDevice;
    copy.dstArray = flat->dstArray;
    copy.dstPitch = flat->dstPitch;
    copy.WidthInBytes = flat->WidthInBytes;
    copy.Height = flat->Height;
    copy.Depth = 1;
    return copy3d(&copy, value, how, kind);
}

FDC_TWINS(cuMemcpy2D_v2, _ptds, (const CUDA_MEMCPY2D *pCopy),
          copy2d(pCopy, NULL, how, COPY_SYNC))
FDC_TWINS(cuMemcpy2DUnaligned_v2, _ptds, (const CUDA_MEMCPY2D *pCopy),
          copy2d(pCopy, NULL, how, COPY_SYNC))
FDC_TWINS(cuMemcpy2DAsync_v2, _ptsz, (const CUDA_MEMCPY2D *pCopy, CUstream hStream),
          copy2d(pCopy, hStream, how, 0))
FDC_TWINS(cuMemcpy3D_v2, _ptds, (const CUDA_MEMCPY3D *pCopy),
          copy3d(pCopy, NULL, how, COPY_SYNC))
FDC_TWINS(cuMemcpy3DAsync_v2, _ptsz, (const CUDA_MEMCPY3D *pCopy, CUstream hStream),
          copy3d(pCopy, hStream, how, 0))

/* Addresses say which device they are of; the contexts only have to be there. */
static CUresult
peer3d(const CUDA_MEMCPY3D_PEER *from, CUstream value, unsigned how, unsigned kind)
{
    CUDA_MEMCPY3D copy;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (from == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_context_find(from->srcContext) == NULL ||
        fdc_context_find(from->dstContext) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    /* The two structures differ only in what the reserved words are. */
    memcpy(&copy, from, sizeof(copy));
    copy.reserved0 = copy.reserved1 = NULL;
    return copy3d(&copy, value, how, kind);
}

FDC_TWINS(cuMemcpy3DPeer, _ptds, (const CUDA_MEMCPY3D_PEER *pCopy),
          peer3d(pCopy, NULL, how, COPY_SYNC))
FDC_TWINS(cuMemcpy3DPeerAsync, _ptsz,
          (const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream),
          peer3d(pCopy, hStream, how, 0))

/* ---- plain ranges of arrays: row by row ---- */

/* Where this byte of the array lies; *part becomes no more than what is left of its row. */
static bool
row_at(CUarray handle, uint64_t offset, size_t *x, size_t *y, uint64_t *part)
{
    struct fdc_array *array = fdc_object_find(FDC_KIND_ARRAY, handle);
    uint64_t row = array != NULL ? array->desc.Width * array->element : 0;

    if (row == 0)
        return false;
    *x = offset % row;
    *y = offset / row;
    if (*part > row - *x)
        *part = row - *x;
    return true;
}

static CUresult
array_range(CUarray dst_array, CUarray src_array, uint64_t dst, uint64_t src,
            uint64_t size, const void *host, CUstream value, unsigned how,
            unsigned kind)
{
    CUDA_MEMCPY3D copy;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    while (size > 0 && result == CUDA_SUCCESS) {
        uint64_t part = size;

        memset(&copy, 0, sizeof(copy));
        copy.Height = copy.Depth = 1;
        copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
        copy.srcDevice = src;
        copy.dstDevice = dst;
        if (dst_array != NULL) {
            if (!row_at(dst_array, dst, &copy.dstXInBytes, &copy.dstY, &part))
                return CUDA_ERROR_INVALID_HANDLE;
            copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
            copy.dstArray = dst_array;
        }
        if (src_array != NULL) {
            if (!row_at(src_array, src, &copy.srcXInBytes, &copy.srcY, &part))
                return CUDA_ERROR_INVALID_HANDLE;
            copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
            copy.srcArray = src_array;
        }
        if (host != NULL && src_array == NULL) {
            copy.srcMemoryType = CU_MEMORYTYPE_HOST;
            copy.srcHost = host;
        } else if (host != NULL) {
            copy.dstMemoryType = CU_MEMORYTYPE_HOST;
            copy.dstHost = (void *)(uintptr_t)host;
        }
        copy.WidthInBytes = part;
        result = copy3d(&copy, value, how, kind);
        dst += part;
        src += part;
        size -= part;
        if (host != NULL)
            host = (const char *)host + part;
    }
    return result;
}

FDC_TWINS(cuMemcpyHtoA_v2, _ptds,
          (CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount),
          array_range(dstArray, NULL, dstOffset, 0, ByteCount, srcHost, NULL, how,
                      COPY_SYNC))
FDC_TWINS(cuMemcpyHtoAAsync_v2, _ptsz,
          (CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount,
           CUstream hStream),
          array_range(dstArray, NULL, dstOffset, 0, ByteCount, srcHost, hStream, how,
                      0))
FDC_TWINS(cuMemcpyAtoH_v2, _ptds,
          (void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount),
          array_range(NULL, srcArray, 0, srcOffset, ByteCount, dstHost, NULL, how,
                      COPY_SYNC))
FDC_TWINS(cuMemcpyAtoHAsync_v2, _ptsz,
          (void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount,
           CUstream hStream),
          array_range(NULL, srcArray, 0, srcOffset, ByteCount, dstHost, hStream, how,
                      0))
FDC_TWINS(cuMemcpyDtoA_v2, _ptds,
          (CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice, size_t ByteCount),
          array_range(dstArray, NULL, dstOffset, srcDevice, ByteCount, NULL, NULL, how,
                      COPY_SYNC))
FDC_TWINS(cuMemcpyAtoD_v2, _ptds,
          (CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount),
          array_range(NULL, srcArray, dstDevice, srcOffset, ByteCount, NULL, NULL, how,
                      COPY_SYNC))
FDC_TWINS(cuMemcpyAtoA_v2, _ptds,
          (CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset,
           size_t ByteCount),
          array_range(dstArray, srcArray, dstOffset, srcOffset, ByteCount, NULL, NULL,
                      how, COPY_SYNC))
