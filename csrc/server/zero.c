/*
 * Memory is zeroed before a client's first use of it: a driver may hand out what another
 * tenant has left. This goes by a stream of the worker's own, beside the program's streams
 * and captures, and is waited for on a helper thread, before the client has an address or a
 * handle of the memory. What the session itself has freed is not zeroed again.
 */
#include "server/memory.h"

#include <stdlib.h>

#include "fdc/array.h"

#define ROWS 65536      /* bytes of zeros that an array is sent, or one row if that is more */

CUresult
fdc_zero_settle(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    struct fdc_mark *mark;
    CUresult result = fdc_mark_stream(ctx, ctx->clear, &mark);

    if (result != CUDA_SUCCESS)
        return result;
    result = serve->driver->cuEventSynchronize(mark->event);
    fdc_mark_put(mark);
    return result;
}

CUresult
fdc_zero_memory(struct fdc_serve *serve, int device, uint64_t address, uint64_t size)
{
    struct fdc_ctx *ctx;
    CUresult result;

    result = fdc_memory_use(serve, device);
    if (result != CUDA_SUCCESS)
        return result;
    ctx = fdc_context_here();
    result = serve->driver->cuMemsetD8Async(address, 0, size, ctx->clear);
    return result == CUDA_SUCCESS ? fdc_zero_settle(serve, ctx) : result;
}

/* ---- arrays, which no memset reaches ---- */

/* Copies what is zero already, from the array's start, behind it: along y or z. */
static CUresult
spread(struct fdc_serve *serve, CUDA_MEMCPY3D *copy, size_t *at, size_t *from, size_t *count,
       size_t zero, size_t all)
{
    CUresult result = CUDA_SUCCESS;

    copy->srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy->srcArray = copy->dstArray;
    *from = 0;
    for (; zero < all && result == CUDA_SUCCESS; zero += *count) {
        *count = zero < all - zero ? zero : all - zero;
        *at = zero;
        result = serve->driver->cuMemcpy3DAsync_v2(copy, fdc_context_here()->clear);
    }
    *at = 0;
    *count = all;
    return result;
}

static CUresult
zero_array(struct fdc_serve *serve, CUarray array)
{
    CUDA_ARRAY3D_DESCRIPTOR desc;
    CUDA_MEMCPY3D copy = { .dstMemoryType = CU_MEMORYTYPE_ARRAY, .dstArray = array };
    size_t row, rows, height, depth;
    CUresult result, settled;
    void *zeros;

    result = serve->driver->cuArray3DGetDescriptor_v2(&desc, array);
    if (result != CUDA_SUCCESS)
        return result;
    row = desc.Width * desc.NumChannels * fdc_channel_size(desc.Format);
    height = desc.Height != 0 ? desc.Height : 1;
    depth = desc.Depth != 0 ? desc.Depth : 1;
    if (row == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    rows = row < ROWS ? ROWS / row : 1;
    rows = rows < height ? rows : height;
    zeros = calloc(rows, row);
    if (zeros == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = zeros;
    copy.srcPitch = copy.WidthInBytes = row;
    copy.srcHeight = copy.Height = rows;
    copy.Depth = 1;
    result = serve->driver->cuMemcpy3DAsync_v2(&copy, fdc_context_here()->clear);
    if (result == CUDA_SUCCESS)
        result = spread(serve, &copy, &copy.dstY, &copy.srcY, &copy.Height, rows, height);
    if (result == CUDA_SUCCESS)
        result = spread(serve, &copy, &copy.dstZ, &copy.srcZ, &copy.Depth, 1, depth);
    settled = fdc_zero_settle(serve, fdc_context_here()); /* the zeros are read until then */
    free(zeros);
    return result == CUDA_SUCCESS ? settled : result;
}

/* Nobody gets what cannot be zeroed. */
static CUresult
said(const char *what, CUresult result)
{
    if (result != CUDA_SUCCESS)
        fdc_log(FDC_LOG_WARN, "%s cannot be zeroed: result %d", what, result);
    return result;
}

CUresult
fdc_zero_array(struct fdc_serve *serve, CUarray array)
{
    return said("an array", zero_array(serve, array));
}

CUresult
fdc_zero_mipmap(struct fdc_serve *serve, CUmipmappedArray mipmap, unsigned int levels)
{
    CUresult result = CUDA_SUCCESS;
    CUarray level;

    for (unsigned int i = 0; i < levels && result == CUDA_SUCCESS; i++) {
        result = serve->driver->cuMipmappedArrayGetLevel(&level, mipmap, i);
        if (result == CUDA_ERROR_INVALID_VALUE && i > 0)
            return CUDA_SUCCESS;        /* more were asked for than it has */
        if (result == CUDA_SUCCESS)
            result = zero_array(serve, level);
    }
    return said("a mipmapped array", result);
}
