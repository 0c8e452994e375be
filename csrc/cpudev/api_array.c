/*
 * Arrays: boxes of elements that copies, textures and surfaces reach, kept as rows.
 * Mipmapped arrays are several of them.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"
#include "fdc/array.h"

static CUresult
array_new(struct fdcpu_ctx *ctx, const CUDA_ARRAY3D_DESCRIPTOR *desc,
          struct fdcpu_array **out)
{
    struct fdcpu_array *a;
    CUresult result;

    if (fdc_channel_size(desc->Format) == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (desc->Width == 0 ||
        (desc->NumChannels != 1 && desc->NumChannels != 2 && desc->NumChannels != 4) ||
        desc->Width > 131072 || desc->Height > 131072 || desc->Depth > 16384)
        return CUDA_ERROR_INVALID_VALUE;
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    a->ctx = ctx;
    a->desc = *desc;
    a->element = (size_t)fdc_channel_size(desc->Format) * desc->NumChannels;
    a->width = desc->Width * a->element;
    a->height = desc->Height == 0 ? 1 : desc->Height;
    a->depth = desc->Depth == 0 ? 1 : desc->Depth;
    if ((desc->Flags & CUDA_ARRAY3D_CUBEMAP) != 0 &&
        (desc->Width != desc->Height || a->depth % 6 != 0)) {
        free(a);
        return CUDA_ERROR_INVALID_VALUE;
    }
    a->pitch = FDC_ALIGN_UP(a->width, 32);
    a->slice = a->pitch * a->height;
    result = fdcpu_alloc_device(ctx, FDCPU_A_ARRAY, a->slice * a->depth, 512, &a->base);
    if (result != CUDA_SUCCESS) {
        free(a);
        return result;
    }
    a->handle = fdcpu_handle_new(FDCPU_H_ARRAY, a);
    *out = a;
    return CUDA_SUCCESS;
}

static void
array_free(struct fdcpu_array *a)
{
    fdcpu_handle_drop(FDCPU_H_ARRAY, a->handle);
    fdcpu_alloc_free(a->base, NULL);
    free(a);
}

static void
drop_array(void *obj, void *user)
{
    struct fdcpu_array *a = obj;

    if (a->ctx == user && !a->borrowed)
        array_free(a);
}

static void
drop_mipmap(void *obj, void *user)
{
    struct fdcpu_mipmap *m = obj;
    unsigned int i;

    if (m->ctx != user)
        return;
    fdcpu_handle_drop(FDCPU_H_MIPMAP, m->handle);
    for (i = 0; i < m->nlevels; i++)
        array_free(m->level[i]);
    free(m);
}

void
fdcpu_array_drop_ctx(struct fdcpu_ctx *ctx)
{
    fdcpu_handle_each(FDCPU_H_MIPMAP, drop_mipmap, ctx);
    fdcpu_handle_each(FDCPU_H_ARRAY, drop_array, ctx);
}

FDC_EXPORT CUresult
cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
    struct fdcpu_array *a;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result == CUDA_SUCCESS)
        result = fdcpu_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    if (pHandle == NULL || desc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if ((desc->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    result = array_new(ctx, desc, &a);
    if (result == CUDA_SUCCESS)
        *pHandle = (CUarray)(uintptr_t)a->handle;
    return result;
}

FDC_EXPORT CUresult
cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *desc)
{
    CUDA_ARRAY3D_DESCRIPTOR wide;

    if (desc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memset(&wide, 0, sizeof(wide));
    wide.Width = desc->Width;
    wide.Height = desc->Height;
    wide.Format = desc->Format;
    wide.NumChannels = desc->NumChannels;
    return cuArray3DCreate_v2(pHandle, &wide);
}

static CUresult
enter_array(CUarray handle, const void *out, struct fdcpu_array **a)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *a = FDCPU_GET(FDCPU_H_ARRAY, handle);
    if (*a == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return out == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *desc, CUarray hArray)
{
    struct fdcpu_array *a;
    CUresult result = enter_array(hArray, desc, &a);

    if (result == CUDA_SUCCESS)
        *desc = a->desc;
    return result;
}

FDC_EXPORT CUresult
cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *desc, CUarray hArray)
{
    struct fdcpu_array *a;
    CUresult result = enter_array(hArray, desc, &a);

    if (result != CUDA_SUCCESS)
        return result;
    desc->Width = a->desc.Width;
    desc->Height = a->desc.Height;
    desc->Format = a->desc.Format;
    desc->NumChannels = a->desc.NumChannels;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuArrayDestroy(CUarray hArray)
{
    struct fdcpu_array *a;
    CUresult result = enter_array(hArray, &a, &a);

    if (result != CUDA_SUCCESS)
        return result;
    if (a->borrowed)
        return CUDA_ERROR_INVALID_HANDLE;
    fdcpu_texture_forget(a);
    fdcpu_device_idle(a->ctx->device);
    array_free(a);
    return CUDA_SUCCESS;
}

/* ---- mipmapped ---- */

/* As many as halve the longest side down to one, at most. */
static unsigned int
levels_of(const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int asked)
{
    size_t side = desc->Width > desc->Height ? desc->Width : desc->Height;
    unsigned int most = 1;

    if ((desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0 &&
        desc->Depth > side)
        side = desc->Depth;
    for (; side > 1 && most < 32; side /= 2)
        most++;
    return asked < 1 ? 1 : asked > most ? most : asked;
}

FDC_EXPORT CUresult
cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *desc,
                       unsigned int numMipmapLevels)
{
    CUDA_ARRAY3D_DESCRIPTOR level;
    struct fdcpu_mipmap *m;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pHandle == NULL || desc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    numMipmapLevels = levels_of(desc, numMipmapLevels);
    m = calloc(1, sizeof(*m));
    if (m == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    m->ctx = ctx;
    level = *desc;
    for (; m->nlevels < numMipmapLevels; m->nlevels++) {
        result = array_new(ctx, &level, &m->level[m->nlevels]);
        if (result != CUDA_SUCCESS)
            goto err;
        m->level[m->nlevels]->borrowed = true;
        level.Width = level.Width > 1 ? level.Width / 2 : level.Width;
        level.Height = level.Height > 1 ? level.Height / 2 : level.Height;
        if ((desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0)
            level.Depth = level.Depth > 1 ? level.Depth / 2 : level.Depth;
    }
    m->handle = fdcpu_handle_new(FDCPU_H_MIPMAP, m);
    *pHandle = (CUmipmappedArray)(uintptr_t)m->handle;
    return CUDA_SUCCESS;

err:
    while (m->nlevels > 0)
        array_free(m->level[--m->nlevels]);
    free(m);
    return result;
}

FDC_EXPORT CUresult
cuMipmappedArrayGetLevel(CUarray *pLevelArray, CUmipmappedArray handle,
                         unsigned int level)
{
    struct fdcpu_mipmap *m = FDCPU_GET(FDCPU_H_MIPMAP, handle);
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (m == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pLevelArray == NULL || level >= m->nlevels)
        return CUDA_ERROR_INVALID_VALUE;
    *pLevelArray = (CUarray)(uintptr_t)m->level[level]->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMipmappedArrayDestroy(CUmipmappedArray handle)
{
    struct fdcpu_mipmap *m = FDCPU_GET(FDCPU_H_MIPMAP, handle);
    CUresult result = fdcpu_check();
    unsigned int i;

    if (result != CUDA_SUCCESS)
        return result;
    if (m == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    for (i = 0; i < m->nlevels; i++)
        fdcpu_texture_forget(m->level[i]);
    fdcpu_device_idle(m->ctx->device);
    drop_mipmap(m, m->ctx);
    return CUDA_SUCCESS;
}
