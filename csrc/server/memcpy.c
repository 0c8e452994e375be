/*
 * Copies. Small ones carry their bytes in the message; larger ones name a chunk of a
 * region: UP is filled by the client before the message, DOWN is told of (and, over a
 * network, sent) when the copy has finished. Addresses that a copy names must be the
 * session's: a driver would take one of the worker's own memory just as gladly.
 */
#include "server/graph.h"
#include "server_hooks.h"

#include <errno.h>
#include <string.h>

#define PIECE (64u << 10) /* copies of so much are told of one by one */

static void
up(struct fdc_serve *serve, uint64_t size)
{
    fdc_count(serve, up_bytes, size);
}

/* The copy is under way, with this result so far: DONE when it has finished. A failure is
 * told at once, and the client uses the chunk for something else then: no sooner than the
 * copy is over. */
static CUresult
enqueued(struct fdc_request *request, CUstream stream, CUresult result, uint64_t size,
         struct fdc_chunk down)
{
    if (result == CUDA_SUCCESS)
        result = fdc_done_later(request, stream, down);
    /* The client works on one piece while we do on another. */
    if (result == CUDA_SUCCESS && size >= PIECE)
        fdc_done_turn(request->serve);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS) &&
        !fdc_stream_is_capturing(request->serve, stream))
        request->driver->cuStreamSynchronize(stream);
    return result;
}

int
fdc_server_call_fdcCopyUpInline(struct fdc_request *request,
                                const struct fdc_req_fdcCopyUpInline *req)
{
    const void *bytes = fdc_request_span(request, req->bytes);
    CUstream stream;
    CUresult result;

    if (bytes == NULL || req->bytes.size != req->size)
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_check(request->serve, req->dst, req->size);
    if (result == CUDA_SUCCESS) {
        up(request->serve, req->size);
        result = request->driver->cuMemcpyHtoDAsync_v2(req->dst, bytes, req->size, stream);
    }
    if (result == CUDA_SUCCESS)
        result = fdc_order_copied(request, stream);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcCopyUp(struct fdc_request *request, const struct fdc_req_fdcCopyUp *req)
{
    const void *bytes = fdc_request_chunk(request, FDC_REGION_UP, req->chunk);
    CUstream stream;
    CUresult result;

    if (bytes == NULL)
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_check(request->serve, req->dst, req->chunk.size);
    if (result == CUDA_SUCCESS) {
        up(request->serve, req->chunk.size);
        result = request->driver->cuMemcpyHtoDAsync_v2(req->dst, bytes, req->chunk.size,
                                                       stream);
    }
    if (result == CUDA_SUCCESS)
        result = enqueued(request, stream, fdc_order_copied(request, stream),
                          req->chunk.size, (struct fdc_chunk){ 0 });
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcCopyDown(struct fdc_request *request,
                            const struct fdc_req_fdcCopyDown *req)
{
    void *bytes = fdc_request_chunk(request, FDC_REGION_DOWN, req->chunk);
    CUstream stream;
    CUresult result;

    if (bytes == NULL)
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_check(request->serve, req->src, req->chunk.size);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuMemcpyDtoHAsync_v2(bytes, req->src, req->chunk.size,
                                                       stream);
    if (result == CUDA_SUCCESS)
        result = enqueued(request, stream, CUDA_SUCCESS, req->chunk.size, req->chunk);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcCopyShared(struct fdc_request *request,
                              const struct fdc_req_fdcCopyShared *req)
{
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_check(request->serve, req->dst, req->size);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_check(request->serve, req->src, req->size);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuMemcpyAsync(req->dst, req->src, req->size, stream);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- boxes ---- */

/* How many bytes from its base a box in linear memory ends at; false: more than any
 * memory has. */
static bool
reach(const struct fdc_copy_end *end, const struct fdc_copy3d *copy, uint64_t *bytes)
{
    uint64_t pitch = end->pitch ? end->pitch : copy->width + end->x;
    uint64_t height = end->height ? end->height : copy->height + end->y;
    unsigned __int128 last;

    last = (unsigned __int128)(end->z + copy->depth - 1) * pitch * height;
    last += (unsigned __int128)(end->y + copy->height - 1) * pitch;
    last += (unsigned __int128)end->x + copy->width;
    *bytes = (uint64_t)last;
    return last < 1ull << 48;
}

static bool
small(uint64_t a, uint64_t b, uint64_t c)
{
    return (a | b | c) < 1ull << 40;
}

/* Memory of the worker's that stands for the client's: the box has to be in it. */
static CUresult
shadow_end(struct fdc_serve *serve, const struct fdc_copy_end *end,
           const struct fdc_copy3d *copy, const void **host)
{
    struct fdc_shadow *shadow = fdc_shadow_find(serve, end->base);
    struct fdc_copy_end here = *end;
    uint64_t bytes;

    if (shadow == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    here.x = 0;
    if (end->y != 0 || end->z != 0 || !reach(&here, copy, &bytes) ||
        end->x > shadow->size || bytes > shadow->size - end->x)
        return CUDA_ERROR_INVALID_VALUE;
    *host = shadow->bytes + end->x;
    return CUDA_SUCCESS;
}

/* One end as the driver wants it. chunk: what FDC_COPY_CHUNK means here. */
static CUresult
end_of(struct fdc_request *request, const struct fdc_copy_end *end,
       const struct fdc_copy3d *copy, CUmemorytype *type, CUdeviceptr *device,
       CUarray *array, const void *chunk, const void **host)
{
    uint64_t bytes;
    void *value;
    CUresult result;

    if (!small(end->x, end->y, end->z) || !small(end->pitch, end->height, 0))
        return CUDA_ERROR_INVALID_VALUE;
    switch (end->memory) {
    case FDC_COPY_CHUNK:
        if (chunk == NULL || end->x || end->y || end->z)
            return CUDA_ERROR_INVALID_VALUE;
        *type = CU_MEMORYTYPE_HOST;
        *host = chunk;
        return CUDA_SUCCESS;
    case FDC_COPY_SHADOW:
        *type = CU_MEMORYTYPE_HOST;
        return shadow_end(request->serve, end, copy, host);
    case FDC_COPY_DEVICE:
        *type = CU_MEMORYTYPE_DEVICE;
        *device = end->base;
        if (!reach(end, copy, &bytes))
            return CUDA_ERROR_INVALID_VALUE;
        if (fdc_host_check(request->serve, end->base, bytes) == CUDA_SUCCESS) {
            *type = CU_MEMORYTYPE_HOST;
            *host = (const void *)(uintptr_t)end->base;
            return CUDA_SUCCESS;
        }
        return fdc_memory_check(request->serve, end->base, bytes);
    case FDC_COPY_ARRAY:
        *type = CU_MEMORYTYPE_ARRAY;
        result = fdc_handle_get(request->serve, FDC_KIND_ARRAY, end->base, &value);
        *array = value;
        return result;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult
fdc_copy3d_fill(struct fdc_request *request, const struct fdc_copy3d *copy,
                const void *src_chunk, void *dst_chunk, CUDA_MEMCPY3D *out)
{
    const void *host = NULL;
    CUresult result;

    memset(out, 0, sizeof(*out));
    if (copy->width == 0 || copy->height == 0 || copy->depth == 0 ||
        !small(copy->width, copy->height, copy->depth))
        return CUDA_ERROR_INVALID_VALUE;
    result = end_of(request, &copy->src, copy, &out->srcMemoryType, &out->srcDevice,
                    &out->srcArray, src_chunk, &out->srcHost);
    if (result == CUDA_SUCCESS)
        result = end_of(request, &copy->dst, copy, &out->dstMemoryType, &out->dstDevice,
                        &out->dstArray, dst_chunk, &host);
    if (result != CUDA_SUCCESS)
        return result;
    out->dstHost = (void *)(uintptr_t)host;
    out->WidthInBytes = copy->width;
    out->Height = copy->height;
    out->Depth = copy->depth;
    out->srcXInBytes = copy->src.x;
    out->srcY = copy->src.y;
    out->srcZ = copy->src.z;
    out->srcLOD = copy->src.level;
    out->srcPitch = copy->src.pitch;
    out->srcHeight = copy->src.height;
    out->dstXInBytes = copy->dst.x;
    out->dstY = copy->dst.y;
    out->dstZ = copy->dst.z;
    out->dstLOD = copy->dst.level;
    out->dstPitch = copy->dst.pitch;
    out->dstHeight = copy->dst.height;
    if (copy->src.memory == FDC_COPY_SHADOW)
        out->srcXInBytes = 0;
    if (copy->dst.memory == FDC_COPY_SHADOW)
        out->dstXInBytes = 0;
    if (copy->src.memory == FDC_COPY_CHUNK) {
        out->srcPitch = copy->width;
        out->srcHeight = copy->height;
    }
    if (copy->dst.memory == FDC_COPY_CHUNK) {
        out->dstPitch = copy->width;
        out->dstHeight = copy->height;
    }
    return CUDA_SUCCESS;
}

/* Whether the chunk has room for the packed box. */
static bool
fits(const struct fdc_copy3d *copy, struct fdc_chunk chunk)
{
    return small(copy->width, copy->height, copy->depth) &&
           (unsigned __int128)copy->width * copy->height * copy->depth <= chunk.size;
}

int
fdc_server_call_fdcCopy3DUp(struct fdc_request *request,
                            const struct fdc_req_fdcCopy3DUp *req)
{
    const void *bytes = fdc_request_chunk(request, FDC_REGION_UP, req->chunk);
    CUDA_MEMCPY3D copy;
    CUstream stream;
    CUresult result;

    if (bytes == NULL || !fits(&req->copy, req->chunk))
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_copy3d_fill(request, &req->copy, bytes, NULL, &copy);
    if (result == CUDA_SUCCESS) {
        up(request->serve, req->chunk.size);
        result = request->driver->cuMemcpy3DAsync_v2(&copy, stream);
    }
    if (result == CUDA_SUCCESS)
        result = enqueued(request, stream, fdc_order_copied(request, stream),
                          req->chunk.size, (struct fdc_chunk){ 0 });
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcCopy3DDown(struct fdc_request *request,
                              const struct fdc_req_fdcCopy3DDown *req)
{
    void *bytes = fdc_request_chunk(request, FDC_REGION_DOWN, req->chunk);
    CUDA_MEMCPY3D copy;
    CUstream stream;
    CUresult result;

    if (bytes == NULL || !fits(&req->copy, req->chunk))
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_copy3d_fill(request, &req->copy, NULL, bytes, &copy);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuMemcpy3DAsync_v2(&copy, stream);
    if (result == CUDA_SUCCESS)
        result = enqueued(request, stream, CUDA_SUCCESS, req->chunk.size, req->chunk);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcCopy3D(struct fdc_request *request, const struct fdc_req_fdcCopy3D *req)
{
    CUDA_MEMCPY3D copy;
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_copy3d_fill(request, &req->copy, NULL, NULL, &copy);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuMemcpy3DAsync_v2(&copy, stream);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
