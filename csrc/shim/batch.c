/*
 * Several copies, prefetches or discards in one call: one after the other, which every order
 * that the driver allows contains. Built of public calls alone; the CPU device has this file
 * too.
 */
#include <stdint.h>
#include <string.h>

#include "cuda_calls.h"
#include "fdc/base.h"

/* The stream-ordered calls that a batch is made of, for one kind of default stream. */
struct calls {
    CUresult (*copy)(CUdeviceptr dst, CUdeviceptr src, size_t size, CUstream stream);
    CUresult (*copy3d)(const CUDA_MEMCPY3D *copy, CUstream stream);
    CUresult (*prefetch)(CUdeviceptr at, size_t size, CUmemLocation where,
                         unsigned int flags, CUstream stream);
    CUresult (*synchronize)(CUstream stream);
    CUresult (*capturing)(CUstream stream, CUstreamCaptureStatus *status);
    bool per_thread;
};

static const struct calls calls[2] = {
    {cuMemcpyAsync, cuMemcpy3DAsync_v2, cuMemPrefetchAsync_v2, cuStreamSynchronize,
     cuStreamIsCapturing, false},
    {cuMemcpyAsync_ptsz, cuMemcpy3DAsync_v2_ptsz, cuMemPrefetchAsync_v2_ptsz,
     cuStreamSynchronize_ptsz, cuStreamIsCapturing_ptsz, true},
};

#define TWINS(name, params, body)                                                      \
    FDC_EXPORT CUresult name params                                                    \
    {                                                                                  \
        const struct calls *by = &calls[0];                                            \
        return body;                                                                   \
    }                                                                                  \
    FDC_EXPORT CUresult name##_ptsz params                                             \
    {                                                                                  \
        const struct calls *by = &calls[1];                                            \
        return body;                                                                   \
    }

/* A batch is for a stream that does not wait for others by itself. */
static CUresult
stream_fits(const struct calls *by, CUstream stream)
{
    CUcontext current;
    CUresult result = cuCtxGetCurrent(&current);

    if (result != CUDA_SUCCESS)
        return result;
    return stream == CU_STREAM_LEGACY || (stream == NULL && !by->per_thread)
               ? CUDA_ERROR_INVALID_VALUE
               : CUDA_SUCCESS;
}

/* first[k] says from where on entry k of `count` counts: from 0, ever higher. */
static bool
indices_fit(const size_t *first, size_t entries, size_t count)
{
    if (first == NULL || entries == 0 || entries > count || first[0] != 0)
        return false;
    for (size_t k = 1; k < entries; k++)
        if (first[k] <= first[k - 1] || first[k] >= count)
            return false;
    return true;
}

/* ---- copies ---- */

static bool
order_fits(CUmemcpySrcAccessOrder order)
{
    return order >= CU_MEMCPY_SRC_ACCESS_ORDER_STREAM &&
           order <= CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
}

/* Memory that CUDA does not know has been read when a copy from it returns. Other memory,
 * if it has to be read before, is waited for. */
static CUresult
read_now(const struct calls *by, CUdeviceptr src, CUmemcpySrcAccessOrder order,
         CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    unsigned int type = 0;

    if (order != CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL ||
        cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, src) !=
            CUDA_SUCCESS ||
        type != CU_MEMORYTYPE_HOST)
        return CUDA_SUCCESS;
    if (by->capturing(stream, &status) == CUDA_SUCCESS &&
        status != CU_STREAM_CAPTURE_STATUS_NONE)
        return CUDA_SUCCESS;
    return by->synchronize(stream);
}

static CUresult
copies(const struct calls *by, CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
       size_t count, CUmemcpyAttributes *attrs, size_t *first, size_t entries,
       size_t *failed, CUstream stream)
{
    CUresult result = stream_fits(by, stream);
    size_t k = 0;

    if (failed != NULL)
        *failed = SIZE_MAX;
    if (result != CUDA_SUCCESS)
        return result;
    if (dsts == NULL || srcs == NULL || sizes == NULL || count == 0 || attrs == NULL ||
        !indices_fit(first, entries, count))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < entries; i++)
        if (!order_fits(attrs[i].srcAccessOrder))
            return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        if (k + 1 < entries && first[k + 1] == i)
            k++;
        result = by->copy(dsts[i], srcs[i], sizes[i], stream);
        if (result == CUDA_SUCCESS)
            result = read_now(by, srcs[i], attrs[k].srcAccessOrder, stream);
        if (result != CUDA_SUCCESS && failed != NULL)
            *failed = i;
    }
    return result;
}

TWINS(cuMemcpyBatchAsync,
      (CUdeviceptr * dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
       CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, size_t *failIdx,
       CUstream hStream),
      copies(by, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failIdx, hStream))
TWINS(cuMemcpyBatchAsync_v2,
      (CUdeviceptr * dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
       CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, CUstream hStream),
      copies(by, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, NULL, hStream))
TWINS(cuMemcpyWithAttributesAsync,
      (CUdeviceptr dst, CUdeviceptr src, size_t size, CUmemcpyAttributes *attr,
       CUstream hStream),
      copies(by, &dst, &src, &size, 1, attr, (size_t[]){0}, 1, NULL, hStream))

/* ---- boxes ---- */

/* Bytes of an element: an array's, or 1 between pointers. 0: an array that is none. */
static size_t
element_of(const CUmemcpy3DOperand *operand)
{
    static const uint8_t bytes[] = {
        [CU_AD_FORMAT_UNSIGNED_INT8] = 1,  [CU_AD_FORMAT_SIGNED_INT8] = 1,
        [CU_AD_FORMAT_UNSIGNED_INT16] = 2, [CU_AD_FORMAT_SIGNED_INT16] = 2,
        [CU_AD_FORMAT_HALF] = 2,           [CU_AD_FORMAT_UNSIGNED_INT32] = 4,
        [CU_AD_FORMAT_SIGNED_INT32] = 4,   [CU_AD_FORMAT_FLOAT] = 4,
    };
    CUDA_ARRAY3D_DESCRIPTOR array;
    unsigned int format;

    if (operand->type == CU_MEMCPY_OPERAND_TYPE_POINTER)
        return 1;
    if (cuArray3DGetDescriptor_v2(&array, operand->op.array.array) != CUDA_SUCCESS)
        return 0;
    format = (unsigned int)array.Format;
    return format < FDC_COUNT(bytes) ? bytes[format] * array.NumChannels : 0;
}

struct end {
    CUmemorytype type;
    size_t x, y, z, pitch, height;
    CUdeviceptr at;
    CUarray array;
};

static CUresult
end_of(const CUmemcpy3DOperand *operand, const CUextent3D *extent, size_t element,
       struct end *end)
{
    size_t row, rows;

    memset(end, 0, sizeof(*end));
    if (operand->type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
        end->type = CU_MEMORYTYPE_ARRAY;
        end->array = operand->op.array.array;
        end->x = operand->op.array.offset.x * element;
        end->y = operand->op.array.offset.y;
        end->z = operand->op.array.offset.z;
        return CUDA_SUCCESS;
    }
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_POINTER)
        return CUDA_ERROR_INVALID_VALUE;
    row = operand->op.ptr.rowLength != 0 ? operand->op.ptr.rowLength : extent->width;
    rows = operand->op.ptr.layerHeight != 0 ? operand->op.ptr.layerHeight
                                            : extent->height;
    if (row < extent->width || rows < extent->height ||
        __builtin_mul_overflow(row, element, &end->pitch))
        return CUDA_ERROR_INVALID_VALUE;
    end->type = CU_MEMORYTYPE_UNIFIED;
    end->at = operand->op.ptr.ptr;
    end->height = rows;
    return CUDA_SUCCESS;
}

static CUresult
box(const struct calls *by, const CUDA_MEMCPY3D_BATCH_OP *op, CUstream stream)
{
    bool from_array = op->src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY;
    size_t element = element_of(from_array ? &op->src : &op->dst);
    struct end src, dst;
    CUDA_MEMCPY3D copy;
    CUresult result;

    if (element == 0 || op->extent.width == 0 || op->extent.height == 0 ||
        op->extent.depth == 0 || !order_fits(op->srcAccessOrder) ||
        (from_array && op->dst.type == CU_MEMCPY_OPERAND_TYPE_ARRAY &&
         element_of(&op->dst) != element))
        return CUDA_ERROR_INVALID_VALUE;
    result = end_of(&op->src, &op->extent, element, &src);
    if (result == CUDA_SUCCESS)
        result = end_of(&op->dst, &op->extent, element, &dst);
    if (result != CUDA_SUCCESS)
        return result;
    memset(&copy, 0, sizeof(copy));
    copy.srcMemoryType = src.type;
    copy.srcDevice = src.at;
    copy.srcArray = src.array;
    copy.srcXInBytes = src.x;
    copy.srcY = src.y;
    copy.srcZ = src.z;
    copy.srcPitch = src.pitch;
    copy.srcHeight = src.height;
    copy.dstMemoryType = dst.type;
    copy.dstDevice = dst.at;
    copy.dstArray = dst.array;
    copy.dstXInBytes = dst.x;
    copy.dstY = dst.y;
    copy.dstZ = dst.z;
    copy.dstPitch = dst.pitch;
    copy.dstHeight = dst.height;
    if (__builtin_mul_overflow(op->extent.width, element, &copy.WidthInBytes))
        return CUDA_ERROR_INVALID_VALUE;
    copy.Height = op->extent.height;
    copy.Depth = op->extent.depth;
    result = by->copy3d(&copy, stream);
    if (result == CUDA_SUCCESS && src.type == CU_MEMORYTYPE_UNIFIED)
        result = read_now(by, src.at, op->srcAccessOrder, stream);
    return result;
}

static CUresult
boxes(const struct calls *by, size_t count, const CUDA_MEMCPY3D_BATCH_OP *ops,
      size_t *failed, unsigned long long flags, CUstream stream)
{
    CUresult result = stream_fits(by, stream);

    if (failed != NULL)
        *failed = SIZE_MAX;
    if (result != CUDA_SUCCESS)
        return result;
    if (count == 0 || ops == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        result = box(by, &ops[i], stream);
        if (result != CUDA_SUCCESS && failed != NULL)
            *failed = i;
    }
    return result;
}

TWINS(cuMemcpy3DBatchAsync,
      (size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx,
       unsigned long long flags, CUstream hStream),
      boxes(by, numOps, opList, failIdx, flags, hStream))
TWINS(cuMemcpy3DBatchAsync_v2,
      (size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags,
       CUstream hStream),
      boxes(by, numOps, opList, NULL, flags, hStream))
TWINS(cuMemcpy3DWithAttributesAsync,
      (CUDA_MEMCPY3D_BATCH_OP * op, unsigned long long flags, CUstream hStream),
      boxes(by, 1, op, NULL, flags, hStream))

/* ---- managed memory ---- */

/* These are for devices that share managed memory with the processor at all times. */
static CUresult
concurrent(void)
{
    int count = 0, can = 0;
    CUresult result = cuDeviceGetCount(&count);

    for (int i = 0; i < count && result == CUDA_SUCCESS; i++) {
        result = cuDeviceGetAttribute(
            &can, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, i);
        if (result == CUDA_SUCCESS && can == 0)
            result = CUDA_ERROR_NOT_SUPPORTED;
    }
    return result;
}

static CUresult
managed(CUdeviceptr at, size_t size)
{
    unsigned int is = 0, end = 0;

    if (size == 0 ||
        cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_IS_MANAGED, at) !=
            CUDA_SUCCESS ||
        cuPointerGetAttribute(&end, CU_POINTER_ATTRIBUTE_IS_MANAGED, at + size - 1) !=
            CUDA_SUCCESS)
        return CUDA_ERROR_INVALID_VALUE;
    return is && end ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Discarded memory reads as anything, and so as what it was: there is nothing to do. */
static CUresult
ranges(const struct calls *by, CUdeviceptr *at, size_t *sizes, size_t count,
       CUmemLocation *where, size_t *first, size_t entries, bool prefetch,
       unsigned long long flags, CUstream stream)
{
    CUresult result = stream_fits(by, stream);
    size_t k = 0;

    if (result == CUDA_SUCCESS)
        result = concurrent();
    if (result != CUDA_SUCCESS)
        return result;
    if (at == NULL || sizes == NULL || count == 0 || flags != 0 ||
        (prefetch && (where == NULL || !indices_fit(first, entries, count))))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = managed(at[i], sizes[i]);
    for (size_t i = 0; i < count && prefetch && result == CUDA_SUCCESS; i++) {
        if (k + 1 < entries && first[k + 1] == i)
            k++;
        result = by->prefetch(at[i], sizes[i], where[k], 0, stream);
    }
    return result;
}

TWINS(cuMemPrefetchBatchAsync,
      (CUdeviceptr * dptrs, size_t *sizes, size_t count, CUmemLocation *prefetchLocs,
       size_t *prefetchLocIdxs, size_t numPrefetchLocs, unsigned long long flags,
       CUstream hStream),
      ranges(by, dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs,
             true, flags, hStream))
TWINS(cuMemDiscardBatchAsync,
      (CUdeviceptr * dptrs, size_t *sizes, size_t count, unsigned long long flags,
       CUstream hStream),
      ranges(by, dptrs, sizes, count, NULL, NULL, 0, false, flags, hStream))
TWINS(cuMemDiscardAndPrefetchBatchAsync,
      (CUdeviceptr * dptrs, size_t *sizes, size_t count, CUmemLocation *prefetchLocs,
       size_t *prefetchLocIdxs, size_t numPrefetchLocs, unsigned long long flags,
       CUstream hStream),
      ranges(by, dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs,
             true, flags, hStream))
