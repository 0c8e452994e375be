/*
 * Copies and memsets of all shapes. Every one becomes a CUDA_MEMCPY3D or memset node
 * whose ends are checked here against the allocation table, and which a stream runs.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

/* ---- the two ends ---- */

struct end {
    char *base; /* first byte of the box */
    size_t pitch, slice;
    bool pageable, host;
};

/* What a host or unified address is. */
static bool
known(uint64_t addr)
{
    struct fdcpu_alloc alloc;

    return fdcpu_alloc_find(addr, &alloc);
}

static CUresult
locate(int type, uint64_t host, uint64_t device, CUarray array, size_t x, size_t y,
       size_t z, size_t pitch, size_t height, const CUDA_MEMCPY3D *p, struct end *end)
{
    struct fdcpu_array *a;
    uint64_t base;
    size_t extent;

    memset(end, 0, sizeof(*end));
    if (type == CU_MEMORYTYPE_ARRAY) {
        a = FDCPU_GET(FDCPU_H_ARRAY, array);
        if (a == NULL)
            return CUDA_ERROR_INVALID_HANDLE;
        if (x > a->width || p->WidthInBytes > a->width - x || y > a->height ||
            p->Height > a->height - y || z > a->depth || p->Depth > a->depth - z)
            return CUDA_ERROR_INVALID_VALUE;
        end->pitch = a->pitch;
        end->slice = a->slice;
        end->base = (char *)a->base + z * a->slice + y * a->pitch + x;
        return CUDA_SUCCESS;
    }
    if (pitch == 0 && (p->Height > 1 || p->Depth > 1))
        pitch = p->WidthInBytes;
    if (pitch < p->WidthInBytes && (p->Height > 1 || p->Depth > 1))
        return CUDA_ERROR_INVALID_VALUE;
    if (height == 0)
        height = p->Height;
    if (height < p->Height && p->Depth > 1)
        return CUDA_ERROR_INVALID_VALUE;
    end->pitch = pitch;
    end->slice = pitch * height;
    base = type == CU_MEMORYTYPE_HOST ? host : device;
    base += z * end->slice + y * pitch + x;
    end->base = (char *)base;
    extent = (p->Depth - 1) * end->slice + (p->Height - 1) * pitch + p->WidthInBytes;
    switch (type) {
    case CU_MEMORYTYPE_HOST:
        if (base == 0)
            return CUDA_ERROR_INVALID_VALUE;
        end->host = true;
        end->pageable = !known(base);
        return CUDA_SUCCESS;
    case CU_MEMORYTYPE_DEVICE:
        return fdcpu_alloc_covers(base, extent) ? CUDA_SUCCESS
                                                : CUDA_ERROR_INVALID_VALUE;
    case CU_MEMORYTYPE_UNIFIED:
        if (known(base))
            return fdcpu_alloc_covers(base, extent) ? CUDA_SUCCESS
                                                    : CUDA_ERROR_INVALID_VALUE;
        /* Below the program's own addresses, in the arena, or reserved: nobody's memory. */
        if (base < 4096 || base >> 40 == 0x50 || fdcpu_vmm_reserved(base, base + 1))
            return CUDA_ERROR_INVALID_VALUE;
        end->pageable = end->host = true;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult
ends(const CUDA_MEMCPY3D *p, struct end *dst, struct end *src)
{
    CUresult result;

    result =
        locate((int)p->dstMemoryType, (uint64_t)p->dstHost, p->dstDevice, p->dstArray,
               p->dstXInBytes, p->dstY, p->dstZ, p->dstPitch, p->dstHeight, p, dst);
    if (result != CUDA_SUCCESS)
        return result;
    return locate((int)p->srcMemoryType, (uint64_t)p->srcHost, p->srcDevice,
                  p->srcArray, p->srcXInBytes, p->srcY, p->srcZ, p->srcPitch,
                  p->srcHeight, p, src);
}

static bool
empty(const CUDA_MEMCPY3D *p)
{
    return p->WidthInBytes == 0 || p->Height == 0 || p->Depth == 0;
}

enum { SRC_PAGEABLE = 1, DST_PAGEABLE = 2 };

/* Checks a copy's ends and says which are pageable. */
static CUresult
copy_check(const CUDA_MEMCPY3D *p, int *how)
{
    struct end dst, src;
    CUresult result;

    *how = 0;
    if (empty(p))
        return CUDA_SUCCESS;
    result = ends(p, &dst, &src);
    if (result == CUDA_SUCCESS)
        *how = (src.pageable ? SRC_PAGEABLE : 0) |
               (dst.pageable ? DST_PAGEABLE : 0);
    return result;
}

/* Whether an address is the host's: pageable, or pinned. */
static bool
of_host(const struct end *end)
{
    struct fdcpu_alloc alloc;

    if (end->host || !fdcpu_alloc_find((uint64_t)(uintptr_t)end->base, &alloc))
        return true;
    return alloc.kind == FDCPU_A_HOST || alloc.kind == FDCPU_A_REGISTERED;
}

void
fdcpu_copy_log(const CUDA_MEMCPY3D *p, const struct fdcpu_stream *stream)
{
    struct end dst, src;
    bool to_host, from_host;
    size_t y, z;

    if (empty(p) || ends(p, &dst, &src) != CUDA_SUCCESS)
        return;
    to_host = of_host(&dst);
    from_host = of_host(&src);
    for (z = 0; z < p->Depth; z++)
        for (y = 0; y < p->Height; y++)
            fdcpu_log_copy(stream, dst.base + z * dst.slice + y * dst.pitch, to_host,
                           src.base + z * src.slice + y * src.pitch, from_host,
                           p->WidthInBytes);
}

void
fdcpu_copy_run(const CUDA_MEMCPY3D *p)
{
    struct end dst, src;
    size_t size, y, z;

    if (empty(p) || ends(p, &dst, &src) != CUDA_SUCCESS)
        return; /* freed since: the program's mistake, and harmless */
    if ((p->Height == 1 || (dst.pitch == p->WidthInBytes && src.pitch == dst.pitch)) &&
        p->Depth == 1) {
        size = p->WidthInBytes * p->Height;
        /* What a device writes to pinned memory is in no processor's cache either. */
        if (dst.host && !dst.pageable && !src.host && size >= FDC_COPY_PAST_LEAST)
            fdc_copy_past(dst.base, src.base, size);
        else
            memmove(dst.base, src.base, size);
        return;
    }
    for (z = 0; z < p->Depth; z++)
        for (y = 0; y < p->Height; y++)
            memmove(dst.base + z * dst.slice + y * dst.pitch,
                    src.base + z * src.slice + y * src.pitch, p->WidthInBytes);
}

CUresult
fdcpu_copy_work(const CUDA_MEMCPY3D *params, struct fdcpu_ctx *ctx,
                struct fdcpu_work **work)
{
    CUresult result;
    int how;

    result = copy_check(params, &how);
    if (result != CUDA_SUCCESS)
        return result;
    *work = fdcpu_work_new(FDCPU_W_COPY, ctx);
    if (*work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (*work)->u.copy.p = *params;
    return CUDA_SUCCESS;
}

/* ---- through a stream ---- */

/* Takes the bytes of a pageable source now. */
static bool
stage(struct fdcpu_work *work)
{
    CUDA_MEMCPY3D *p = &work->u.copy.p;
    size_t size = p->WidthInBytes * p->Height * p->Depth;
    CUDA_MEMCPY3D in = *p;
    char *copy = malloc(size);

    if (copy == NULL)
        return false;
    in.dstMemoryType = CU_MEMORYTYPE_HOST;
    in.dstHost = copy;
    in.dstXInBytes = in.dstY = in.dstZ = 0;
    in.dstPitch = p->WidthInBytes;
    in.dstHeight = p->Height;
    fdcpu_copy_run(&in);
    p->srcMemoryType = CU_MEMORYTYPE_HOST;
    p->srcHost = copy;
    p->srcXInBytes = p->srcY = p->srcZ = 0;
    p->srcPitch = p->WidthInBytes;
    p->srcHeight = p->Height;
    work->u.copy.staged = copy;
    return true;
}

/* One copy on a stream; wait: a call without Async in its name. */
static CUresult
copy(const CUDA_MEMCPY3D *p, CUstream hStream, bool wait)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);
    size_t size;
    int how;

    if (result != CUDA_SUCCESS)
        return result;
    result = copy_check(p, &how);
    if (result != CUDA_SUCCESS)
        return result;
    if (wait && stream->capture != NULL) {
        pthread_mutex_lock(&fdcpu.sched);
        if (stream->capture != NULL)
            fdcpu_capture_spoil(stream->capture);
        pthread_mutex_unlock(&fdcpu.sched);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    work = fdcpu_work_new(FDCPU_W_COPY, stream->ctx);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.copy.p = *p;
    if (!wait && stream->capture == NULL) {
        size = p->WidthInBytes * p->Height * p->Depth;
        if ((how & DST_PAGEABLE) != 0)
            wait = true;
        else if ((how & SRC_PAGEABLE) != 0 &&
                 (size == 0 ||
                  ((fdcpu.opt.strict & FDCPU_STRICT_PAGEABLE) != 0 &&
                   size > FDCPU_STAGE) ||
                  !stage(work)))
            wait = true;
    }
    return fdcpu_stream_do(stream, work, wait ? FDCPU_DO_WAIT : 0);
}

static CUDA_MEMCPY3D
linear(CUmemorytype dst_type, uint64_t dst, CUmemorytype src_type, uint64_t src,
       size_t size)
{
    CUDA_MEMCPY3D p;

    memset(&p, 0, sizeof(p));
    p.dstMemoryType = dst_type;
    p.srcMemoryType = src_type;
    if (dst_type == CU_MEMORYTYPE_HOST)
        p.dstHost = (void *)dst;
    else
        p.dstDevice = dst;
    if (src_type == CU_MEMORYTYPE_HOST)
        p.srcHost = (void *)src;
    else
        p.srcDevice = src;
    p.WidthInBytes = size;
    p.Height = p.Depth = 1;
    return p;
}

#define UNI CU_MEMORYTYPE_UNIFIED
#define HOST CU_MEMORYTYPE_HOST
#define DEV CU_MEMORYTYPE_DEVICE

static CUresult
flat(CUmemorytype dt, uint64_t dst, CUmemorytype st, uint64_t src, size_t size,
     CUstream hStream, bool wait)
{
    CUDA_MEMCPY3D p = linear(dt, dst, st, src, size);

    return copy(&p, hStream, wait);
}

/* A copy between device memory reads no pageable memory, and does not wait. */
static CUresult
device_flat(uint64_t dst, uint64_t src, size_t size, CUstream hStream)
{
    return flat(DEV, dst, DEV, src, size, hStream, false);
}

FDCPU_TWIN(cuMemcpy, _ptds, (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount),
           flat(UNI, dst, UNI, src, ByteCount, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyAsync, _ptsz,
           (CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream),
           flat(UNI, dst, UNI, src, ByteCount, S(hStream), false))
FDCPU_TWIN(cuMemcpyHtoD_v2, _ptds,
           (CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount),
           flat(DEV, dstDevice, HOST, (uint64_t)srcHost, ByteCount, S((CUstream)NULL),
                true))
FDCPU_TWIN(cuMemcpyHtoDAsync_v2, _ptsz,
           (CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
            CUstream hStream),
           flat(DEV, dstDevice, HOST, (uint64_t)srcHost, ByteCount, S(hStream), false))
FDCPU_TWIN(cuMemcpyDtoH_v2, _ptds,
           (void *dstHost, CUdeviceptr srcDevice, size_t ByteCount),
           flat(HOST, (uint64_t)dstHost, DEV, srcDevice, ByteCount, S((CUstream)NULL),
                true))
FDCPU_TWIN(cuMemcpyDtoHAsync_v2, _ptsz,
           (void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream),
           flat(HOST, (uint64_t)dstHost, DEV, srcDevice, ByteCount, S(hStream), false))
FDCPU_TWIN(cuMemcpyDtoD_v2, _ptds,
           (CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount),
           device_flat(dstDevice, srcDevice, ByteCount, S((CUstream)NULL)))
FDCPU_TWIN(cuMemcpyDtoDAsync_v2, _ptsz,
           (CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
            CUstream hStream),
           device_flat(dstDevice, srcDevice, ByteCount, S(hStream)))

static CUresult
peer(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx,
     size_t size, CUstream hStream)
{
    if (FDCPU_GET(FDCPU_H_CONTEXT, dst_ctx) == NULL ||
        FDCPU_GET(FDCPU_H_CONTEXT, src_ctx) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    return flat(UNI, dst, UNI, src, size, hStream, false);
}

FDCPU_TWIN(cuMemcpyPeer, _ptds,
           (CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
            CUcontext srcContext, size_t ByteCount),
           peer(dstDevice, dstContext, srcDevice, srcContext, ByteCount,
                S((CUstream)NULL)))
FDCPU_TWIN(cuMemcpyPeerAsync, _ptsz,
           (CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
            CUcontext srcContext, size_t ByteCount, CUstream hStream),
           peer(dstDevice, dstContext, srcDevice, srcContext, ByteCount, S(hStream)))

/* ---- boxes ---- */

static CUresult
copy_2d(const CUDA_MEMCPY2D *q, CUstream hStream, bool wait)
{
    CUDA_MEMCPY3D p;

    if (q == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memset(&p, 0, sizeof(p));
    p.srcXInBytes = q->srcXInBytes;
    p.srcY = q->srcY;
    p.srcMemoryType = q->srcMemoryType;
    p.srcHost = q->srcHost;
    p.srcDevice = q->srcDevice;
    p.srcArray = q->srcArray;
    p.srcPitch = q->srcPitch;
    p.dstXInBytes = q->dstXInBytes;
    p.dstY = q->dstY;
    p.dstMemoryType = q->dstMemoryType;
    p.dstHost = q->dstHost;
    p.dstDevice = q->dstDevice;
    p.dstArray = q->dstArray;
    p.dstPitch = q->dstPitch;
    p.WidthInBytes = q->WidthInBytes;
    p.Height = q->Height;
    p.Depth = 1;
    return copy(&p, hStream, wait);
}

FDCPU_TWIN(cuMemcpy2D_v2, _ptds, (const CUDA_MEMCPY2D *pCopy),
           copy_2d(pCopy, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpy2DUnaligned_v2, _ptds, (const CUDA_MEMCPY2D *pCopy),
           copy_2d(pCopy, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpy2DAsync_v2, _ptsz, (const CUDA_MEMCPY2D *pCopy, CUstream hStream),
           copy_2d(pCopy, S(hStream), false))

static CUresult
copy_3d(const CUDA_MEMCPY3D *p, CUstream hStream, bool wait)
{
    return p == NULL ? CUDA_ERROR_INVALID_VALUE : copy(p, hStream, wait);
}

FDCPU_TWIN(cuMemcpy3D_v2, _ptds, (const CUDA_MEMCPY3D *pCopy),
           copy_3d(pCopy, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpy3DAsync_v2, _ptsz, (const CUDA_MEMCPY3D *pCopy, CUstream hStream),
           copy_3d(pCopy, S(hStream), false))

static CUresult
copy_3d_peer(const CUDA_MEMCPY3D_PEER *q, CUstream hStream)
{
    CUDA_MEMCPY3D p;

    if (q == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memset(&p, 0, sizeof(p));
    p.srcXInBytes = q->srcXInBytes;
    p.srcY = q->srcY;
    p.srcZ = q->srcZ;
    p.srcMemoryType = q->srcMemoryType;
    p.srcHost = q->srcHost;
    p.srcDevice = q->srcDevice;
    p.srcArray = q->srcArray;
    p.srcPitch = q->srcPitch;
    p.srcHeight = q->srcHeight;
    p.dstXInBytes = q->dstXInBytes;
    p.dstY = q->dstY;
    p.dstZ = q->dstZ;
    p.dstMemoryType = q->dstMemoryType;
    p.dstHost = q->dstHost;
    p.dstDevice = q->dstDevice;
    p.dstArray = q->dstArray;
    p.dstPitch = q->dstPitch;
    p.dstHeight = q->dstHeight;
    p.WidthInBytes = q->WidthInBytes;
    p.Height = q->Height;
    p.Depth = q->Depth;
    return copy(&p, hStream, false);
}

FDCPU_TWIN(cuMemcpy3DPeer, _ptds, (const CUDA_MEMCPY3D_PEER *pCopy),
           copy_3d_peer(pCopy, S((CUstream)NULL)))
FDCPU_TWIN(cuMemcpy3DPeerAsync, _ptsz,
           (const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream),
           copy_3d_peer(pCopy, S(hStream)))

/* ---- arrays, one row ---- */

static CUresult
array_row(CUarray dst_array, size_t dst_off, CUmemorytype dt, uint64_t dst,
          CUarray src_array, size_t src_off, CUmemorytype st, uint64_t src, size_t size,
          CUstream hStream, bool wait)
{
    CUDA_MEMCPY3D p = linear(dt, dst, st, src, size);

    if (dt == CU_MEMORYTYPE_ARRAY) {
        p.dstArray = dst_array;
        p.dstXInBytes = dst_off;
    }
    if (st == CU_MEMORYTYPE_ARRAY) {
        p.srcArray = src_array;
        p.srcXInBytes = src_off;
    }
    return copy(&p, hStream, wait);
}

#define ARR CU_MEMORYTYPE_ARRAY

FDCPU_TWIN(cuMemcpyDtoA_v2, _ptds,
           (CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice,
            size_t ByteCount),
           array_row(dstArray, dstOffset, ARR, 0, NULL, 0, DEV, srcDevice, ByteCount,
                     S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyAtoD_v2, _ptds,
           (CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset,
            size_t ByteCount),
           array_row(NULL, 0, DEV, dstDevice, srcArray, srcOffset, ARR, 0, ByteCount,
                     S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyHtoA_v2, _ptds,
           (CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount),
           array_row(dstArray, dstOffset, ARR, 0, NULL, 0, HOST, (uint64_t)srcHost,
                     ByteCount, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyAtoH_v2, _ptds,
           (void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount),
           array_row(NULL, 0, HOST, (uint64_t)dstHost, srcArray, srcOffset, ARR, 0,
                     ByteCount, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyAtoA_v2, _ptds,
           (CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset,
            size_t ByteCount),
           array_row(dstArray, dstOffset, ARR, 0, srcArray, srcOffset, ARR, 0,
                     ByteCount, S((CUstream)NULL), true))
FDCPU_TWIN(cuMemcpyHtoAAsync_v2, _ptsz,
           (CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount,
            CUstream hStream),
           array_row(dstArray, dstOffset, ARR, 0, NULL, 0, HOST, (uint64_t)srcHost,
                     ByteCount, S(hStream), false))
FDCPU_TWIN(cuMemcpyAtoHAsync_v2, _ptsz,
           (void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount,
            CUstream hStream),
           array_row(NULL, 0, HOST, (uint64_t)dstHost, srcArray, srcOffset, ARR, 0,
                     ByteCount, S(hStream), false))

/* ---- memset ---- */

static CUresult
set_check(const CUDA_MEMSET_NODE_PARAMS *p)
{
    size_t row;

    if (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (p->dst % p->elementSize != 0 ||
        (p->height > 1 && p->pitch % p->elementSize != 0))
        return CUDA_ERROR_INVALID_VALUE;
    if (p->width == 0 || p->height == 0)
        return CUDA_SUCCESS;
    row = p->width * p->elementSize;
    if (row / p->elementSize != p->width || (p->height > 1 && p->pitch < row) ||
        !fdcpu_alloc_covers(p->dst, (p->height - 1) * p->pitch + row))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult
fdcpu_set_work(const CUDA_MEMSET_NODE_PARAMS *params, struct fdcpu_ctx *ctx,
               struct fdcpu_work **work)
{
    CUresult result = set_check(params);

    if (result != CUDA_SUCCESS)
        return result;
    *work = fdcpu_work_new(FDCPU_W_SET, ctx);
    if (*work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (*work)->u.set = *params;
    return CUDA_SUCCESS;
}

static CUresult
set(CUdeviceptr dst, size_t pitch, unsigned int value, unsigned int element,
    size_t width, size_t height, CUstream hStream)
{
    CUDA_MEMSET_NODE_PARAMS p = {dst, pitch, value, element, width, height};
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    result = fdcpu_set_work(&p, stream->ctx, &work);
    return result == CUDA_SUCCESS ? fdcpu_stream_do(stream, work, 0) : result;
}

#define SET_1D(bits, type, name)                                                       \
    FDCPU_TWIN(cuMemsetD##bits##_v2, _ptds,                                            \
               (CUdeviceptr dstDevice, type name, size_t N),                           \
               set(dstDevice, 0, name, bits / 8, N, 1, S((CUstream)NULL)))             \
    FDCPU_TWIN(cuMemsetD##bits##Async, _ptsz,                                          \
               (CUdeviceptr dstDevice, type name, size_t N, CUstream hStream),         \
               set(dstDevice, 0, name, bits / 8, N, 1, S(hStream)))
#define SET_2D(bits, type, name)                                                       \
    FDCPU_TWIN(                                                                        \
        cuMemsetD2D##bits##_v2, _ptds,                                                 \
        (CUdeviceptr dstDevice, size_t dstPitch, type name, size_t Width,              \
         size_t Height),                                                               \
        set(dstDevice, dstPitch, name, bits / 8, Width, Height, S((CUstream)NULL)))    \
    FDCPU_TWIN(cuMemsetD2D##bits##Async, _ptsz,                                        \
               (CUdeviceptr dstDevice, size_t dstPitch, type name, size_t Width,       \
                size_t Height, CUstream hStream),                                      \
               set(dstDevice, dstPitch, name, bits / 8, Width, Height, S(hStream)))

SET_1D(8, unsigned char, uc)
SET_1D(16, unsigned short, us)
SET_1D(32, unsigned int, ui)
SET_2D(8, unsigned char, uc)
SET_2D(16, unsigned short, us)
SET_2D(32, unsigned int, ui)
