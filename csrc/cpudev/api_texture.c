/*
 * Texture and surface objects: descriptions of arrays and memory that kernels name by a
 * number, which is the object's handle.
 *
 * A kernel that runs keeps what it has looked up: a destroyed object's memory is freed
 * when no kernel runs. An object on an array that is destroyed is none to kernels any
 * more; memory of linear and pitched textures is checked by the engine at each access.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"
#include "fdc/array.h"

enum {
    LINEAR_MAX = 268435456, /* elements; as the device's attributes say */
    PITCHED_WIDTH = 131072,
    PITCHED_HEIGHT = 65000,
    PITCHED_PITCH = 2097120,
    BASE_ALIGN = 512,
    PITCH_ALIGN = 32,
};

struct object {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    bool surface, has_view;
    _Atomic bool dead; /* its array is gone; it can still be destroyed */
    struct fdcpu_array *arrays[FDCPU_MAX_LEVELS]; /* what it lies on; compared only */
    struct fdcpu_texture texture;
    CUDA_RESOURCE_DESC resource;
    CUDA_TEXTURE_DESC desc;
    CUDA_RESOURCE_VIEW_DESC view;
    struct object *next; /* retired */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *_Atomic retired;
static _Atomic int running; /* kernels */

/* ---- lives ---- */

static void
collect(void)
{
    struct object *o = NULL, *next;

    pthread_mutex_lock(&lock);
    /* what is retired cannot be found any more: a kernel that starts now has none of it */
    if (atomic_load(&running) == 0)
        o = atomic_exchange(&retired, NULL);
    pthread_mutex_unlock(&lock);
    for (; o != NULL; o = next) {
        next = o->next;
        free(o);
    }
}

void
fdcpu_texture_enter(void)
{
    atomic_fetch_add(&running, 1);
}

void
fdcpu_texture_leave(void)
{
    if (atomic_fetch_sub(&running, 1) == 1 && atomic_load(&retired) != NULL)
        collect();
}

static void
retire(struct object *o)
{
    enum fdcpu_kind kind = o->surface ? FDCPU_H_SURFACE : FDCPU_H_TEXTURE;

    if (fdcpu_handle_drop(kind, o->handle) == NULL)
        return;
    pthread_mutex_lock(&lock);
    o->next = atomic_load(&retired);
    atomic_store(&retired, o);
    pthread_mutex_unlock(&lock);
    collect();
}

const struct fdcpu_texture *
fdcpu_texture_find(void *ctx, uint64_t number, bool surface)
{
    struct object *o =
        fdcpu_handle_get(surface ? FDCPU_H_SURFACE : FDCPU_H_TEXTURE, number);

    return o != NULL && o->ctx == ctx && !o->dead ? &o->texture : NULL;
}

static void
forget_if_on(void *obj, void *user)
{
    struct object *o = obj;
    uint32_t i;

    for (i = 0; i < FDCPU_MAX_LEVELS; i++)
        if (o->arrays[i] == user)
            o->dead = true;
}

void
fdcpu_texture_forget(const struct fdcpu_array *array)
{
    fdcpu_texture_enter(); /* objects stay while they are looked at */
    fdcpu_handle_each(FDCPU_H_TEXTURE, forget_if_on, (void *)array);
    fdcpu_handle_each(FDCPU_H_SURFACE, forget_if_on, (void *)array);
    fdcpu_texture_leave();
}

static void
drop_if_of(void *obj, void *user)
{
    struct object *o = obj;

    if (o->ctx == user)
        retire(o);
}

void
fdcpu_texture_drop_ctx(struct fdcpu_ctx *ctx)
{
    fdcpu_texture_enter();
    fdcpu_handle_each(FDCPU_H_TEXTURE, drop_if_of, ctx);
    fdcpu_handle_each(FDCPU_H_SURFACE, drop_if_of, ctx);
    fdcpu_texture_leave();
}

/* ---- what it lies on ---- */

static bool
set_format(struct fdcpu_texture *t, CUarray_format format, unsigned int channels)
{
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8: t->texel = FDCPU_TEXEL_U8; break;
    case CU_AD_FORMAT_SIGNED_INT8: t->texel = FDCPU_TEXEL_S8; break;
    case CU_AD_FORMAT_UNSIGNED_INT16: t->texel = FDCPU_TEXEL_U16; break;
    case CU_AD_FORMAT_SIGNED_INT16: t->texel = FDCPU_TEXEL_S16; break;
    case CU_AD_FORMAT_UNSIGNED_INT32: t->texel = FDCPU_TEXEL_U32; break;
    case CU_AD_FORMAT_SIGNED_INT32: t->texel = FDCPU_TEXEL_S32; break;
    case CU_AD_FORMAT_HALF: t->texel = FDCPU_TEXEL_F16; break;
    case CU_AD_FORMAT_FLOAT: t->texel = FDCPU_TEXEL_F32; break;
    default: return false;
    }
    t->channels = channels;
    t->element = fdc_channel_size(format) * channels;
    return channels == 1 || channels == 2 || channels == 4;
}

static CUresult
on_array(struct object *o, struct fdcpu_array *a)
{
    struct fdcpu_texture *t = &o->texture;
    unsigned int layered = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP;

    if (t->nlevels == FDCPU_MAX_LEVELS)
        return CUDA_ERROR_INVALID_VALUE;
    if (t->nlevels == 0) {
        if (!set_format(t, a->desc.Format, a->desc.NumChannels))
            return CUDA_ERROR_INVALID_VALUE;
        t->layered = (a->desc.Flags & CUDA_ARRAY3D_LAYERED) != 0;
        t->cube = (a->desc.Flags & CUDA_ARRAY3D_CUBEMAP) != 0;
        t->dims = a->desc.Depth != 0 && (a->desc.Flags & layered) == 0 ? 3
                  : a->desc.Height != 0                                ? 2
                                                                       : 1;
    }
    o->arrays[t->nlevels] = a;
    t->level[t->nlevels++] = (struct fdcpu_plane){
        .base = a->base,
        .pitch = a->pitch,
        .slice = a->slice,
        .width = (uint32_t)a->desc.Width,
        .height = (uint32_t)a->height,
        .depth = (uint32_t)a->depth,
    };
    return CUDA_SUCCESS;
}

static CUresult
on_mipmap(struct object *o, CUmipmappedArray handle)
{
    struct fdcpu_mipmap *m = FDCPU_GET(FDCPU_H_MIPMAP, handle);
    CUresult result = CUDA_SUCCESS;
    unsigned int i;

    if (m == NULL)
        return handle == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
    for (i = 0; i < m->nlevels && result == CUDA_SUCCESS; i++)
        result = on_array(o, m->level[i]);
    return result;
}

static CUresult
on_linear(struct object *o, const CUDA_RESOURCE_DESC *r)
{
    struct fdcpu_texture *t = &o->texture;
    uint64_t n;

    if (!set_format(t, r->res.linear.format, r->res.linear.numChannels))
        return CUDA_ERROR_INVALID_VALUE;
    n = r->res.linear.sizeInBytes / t->element;
    if (n == 0 || n > LINEAR_MAX || r->res.linear.devPtr % BASE_ALIGN != 0 ||
        !fdcpu_alloc_covers(r->res.linear.devPtr, r->res.linear.sizeInBytes))
        return CUDA_ERROR_INVALID_VALUE;
    t->dims = 1;
    t->line = t->checked = true;
    t->nlevels = 1;
    t->level[0] = (struct fdcpu_plane){
        .base = r->res.linear.devPtr, .width = (uint32_t)n, .height = 1, .depth = 1};
    return CUDA_SUCCESS;
}

static CUresult
on_pitched(struct object *o, const CUDA_RESOURCE_DESC *r)
{
    struct fdcpu_texture *t = &o->texture;
    size_t width = r->res.pitch2D.width, height = r->res.pitch2D.height;
    size_t pitch = r->res.pitch2D.pitchInBytes;

    if (!set_format(t, r->res.pitch2D.format, r->res.pitch2D.numChannels) ||
        width == 0 || height == 0 || width > PITCHED_WIDTH || height > PITCHED_HEIGHT ||
        pitch > PITCHED_PITCH || pitch % PITCH_ALIGN != 0 || pitch < width * t->element ||
        r->res.pitch2D.devPtr % BASE_ALIGN != 0 ||
        !fdcpu_alloc_covers(r->res.pitch2D.devPtr,
                            pitch * (height - 1) + width * t->element))
        return CUDA_ERROR_INVALID_VALUE;
    t->dims = 2;
    t->checked = true;
    t->nlevels = 1;
    t->level[0] = (struct fdcpu_plane){.base = r->res.pitch2D.devPtr,
                                       .pitch = pitch,
                                       .width = (uint32_t)width,
                                       .height = (uint32_t)height,
                                       .depth = 1};
    return CUDA_SUCCESS;
}

static CUresult
set_resource(struct object *o, const CUDA_RESOURCE_DESC *r)
{
    struct fdcpu_array *a;

    if (r->flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    o->resource = *r;
    switch ((int)r->resType) {
    case CU_RESOURCE_TYPE_ARRAY:
        a = FDCPU_GET(FDCPU_H_ARRAY, r->res.array.hArray);
        if (a == NULL)
            return r->res.array.hArray == NULL ? CUDA_ERROR_INVALID_VALUE
                                               : CUDA_ERROR_INVALID_HANDLE;
        return on_array(o, a);
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY:
        return on_mipmap(o, r->res.mipmap.hMipmappedArray);
    case CU_RESOURCE_TYPE_LINEAR:
        return on_linear(o, r);
    case CU_RESOURCE_TYPE_PITCH2D:
        return on_pitched(o, r);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* ---- how it is read ---- */

static CUresult
set_desc(struct object *o, const CUDA_TEXTURE_DESC *d)
{
    struct fdcpu_texture *t = &o->texture;
    unsigned int known = CU_TRSF_READ_AS_INTEGER | CU_TRSF_NORMALIZED_COORDINATES |
                         CU_TRSF_SRGB | CU_TRSF_DISABLE_TRILINEAR_OPTIMIZATION |
                         CU_TRSF_SEAMLESS_CUBEMAP;
    int i;

    if ((d->flags & ~known) != 0 || (unsigned int)d->filterMode > CU_TR_FILTER_MODE_LINEAR ||
        (unsigned int)d->mipmapFilterMode > CU_TR_FILTER_MODE_LINEAR)
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < 3; i++) {
        if ((unsigned int)d->addressMode[i] > CU_TR_ADDRESS_MODE_BORDER)
            return CUDA_ERROR_INVALID_VALUE;
        t->address[i] = (uint8_t)d->addressMode[i];
    }
    t->normalized = (d->flags & CU_TRSF_NORMALIZED_COORDINATES) != 0;
    if (o->resource.resType == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY && !t->normalized)
        return CUDA_ERROR_INVALID_VALUE;
    t->as_float = (d->flags & CU_TRSF_READ_AS_INTEGER) == 0;
    t->srgb = (d->flags & CU_TRSF_SRGB) != 0;
    t->linear = d->filterMode == CU_TR_FILTER_MODE_LINEAR;
    t->mip_linear = d->mipmapFilterMode == CU_TR_FILTER_MODE_LINEAR;
    t->lod_bias = d->mipmapLevelBias;
    t->lod_min = d->minMipmapLevelClamp;
    t->lod_max = d->maxMipmapLevelClamp;
    memcpy(t->border, d->borderColor, sizeof(t->border));
    o->desc = *d;
    return CUDA_SUCCESS;
}

/* The format of a view: UINT, SINT in 8, 16, 32 bits, FLOAT in 16, 32; 1, 2, 4 channels. */
static bool
view_format(struct fdcpu_texture *t, CUresourceViewFormat format)
{
    static const CUarray_format formats[] = {
        CU_AD_FORMAT_UNSIGNED_INT8,  CU_AD_FORMAT_SIGNED_INT8,
        CU_AD_FORMAT_UNSIGNED_INT16, CU_AD_FORMAT_SIGNED_INT16,
        CU_AD_FORMAT_UNSIGNED_INT32, CU_AD_FORMAT_SIGNED_INT32,
        CU_AD_FORMAT_HALF,           CU_AD_FORMAT_FLOAT,
    };
    unsigned int n = (unsigned int)format - 1;
    uint32_t element = t->element;

    if (format == CU_RES_VIEW_FORMAT_NONE)
        return true;
    return n / 3 < FDC_COUNT(formats) && set_format(t, formats[n / 3], 1u << n % 3) &&
           t->element == element;
}

static CUresult
set_view(struct object *o, const CUDA_RESOURCE_VIEW_DESC *v)
{
    struct fdcpu_texture *t = &o->texture;
    const struct fdcpu_array *a = o->arrays[0];
    uint32_t i, last;

    if (a == NULL)
        return CUDA_ERROR_INVALID_VALUE; /* of arrays alone */
    if ((unsigned int)v->format >= CU_RES_VIEW_FORMAT_UNSIGNED_BC1 &&
        (unsigned int)v->format <= CU_RES_VIEW_FORMAT_UNSIGNED_BC7)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!view_format(t, v->format) || v->width != a->desc.Width ||
        v->height != a->desc.Height ||
        (v->depth != a->desc.Depth && !t->layered && !t->cube) ||
        v->firstMipmapLevel > v->lastMipmapLevel || v->lastMipmapLevel >= t->nlevels)
        return CUDA_ERROR_INVALID_VALUE;
    if (v->firstMipmapLevel > 0) {
        last = v->lastMipmapLevel - v->firstMipmapLevel;
        for (i = 0; i <= last; i++)
            t->level[i] = t->level[i + v->firstMipmapLevel];
    }
    t->nlevels = v->lastMipmapLevel - v->firstMipmapLevel + 1;
    if (t->layered || t->cube) {
        if (v->firstLayer > v->lastLayer || v->lastLayer >= t->level[0].depth)
            return CUDA_ERROR_INVALID_VALUE;
        for (i = 0; i < t->nlevels; i++) {
            t->level[i].base += v->firstLayer * t->level[i].slice;
            t->level[i].depth = v->lastLayer - v->firstLayer + 1;
        }
    }
    o->view = *v;
    o->has_view = true;
    return CUDA_SUCCESS;
}

/* ---- calls ---- */

FDC_EXPORT CUresult
cuTexObjectCreate(CUtexObject *pTexObject, const CUDA_RESOURCE_DESC *pResDesc,
                  const CUDA_TEXTURE_DESC *pTexDesc,
                  const CUDA_RESOURCE_VIEW_DESC *pResViewDesc)
{
    struct fdcpu_ctx *ctx;
    struct object *o;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pTexObject == NULL || pResDesc == NULL || pTexDesc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    o = calloc(1, sizeof(*o));
    if (o == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    o->ctx = ctx;
    result = set_resource(o, pResDesc);
    if (result == CUDA_SUCCESS)
        result = set_desc(o, pTexDesc);
    if (result == CUDA_SUCCESS && pResViewDesc != NULL)
        result = set_view(o, pResViewDesc);
    if (result == CUDA_SUCCESS) {
        o->handle = fdcpu_handle_new(FDCPU_H_TEXTURE, o);
        result = o->handle == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (result != CUDA_SUCCESS) {
        free(o);
        return result;
    }
    *pTexObject = o->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuSurfObjectCreate(CUsurfObject *pSurfObject, const CUDA_RESOURCE_DESC *pResDesc)
{
    struct fdcpu_ctx *ctx;
    struct object *o;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (pSurfObject == NULL || pResDesc == NULL ||
        pResDesc->resType != CU_RESOURCE_TYPE_ARRAY)
        return CUDA_ERROR_INVALID_VALUE;
    o = calloc(1, sizeof(*o));
    if (o == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    o->ctx = ctx;
    o->surface = true;
    result = set_resource(o, pResDesc);
    if (result == CUDA_SUCCESS &&
        (o->arrays[0]->desc.Flags & CUDA_ARRAY3D_SURFACE_LDST) == 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) {
        o->handle = fdcpu_handle_new(FDCPU_H_SURFACE, o);
        result = o->handle == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (result != CUDA_SUCCESS) {
        free(o);
        return result;
    }
    *pSurfObject = o->handle;
    return CUDA_SUCCESS;
}

static CUresult
destroy(enum fdcpu_kind kind, uint64_t number)
{
    struct object *o;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    fdcpu_texture_enter(); /* so that another thread's destroy does not free it now */
    o = fdcpu_handle_get(kind, number);
    if (o == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        retire(o);
    fdcpu_texture_leave();
    return result;
}

FDC_EXPORT CUresult
cuTexObjectDestroy(CUtexObject texObject)
{
    return destroy(FDCPU_H_TEXTURE, texObject);
}

FDC_EXPORT CUresult
cuSurfObjectDestroy(CUsurfObject surfObject)
{
    return destroy(FDCPU_H_SURFACE, surfObject);
}

static CUresult
describe(enum fdcpu_kind kind, uint64_t number, const void *out, struct object **o)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *o = fdcpu_handle_get(kind, number);
    return *o == NULL || out == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUtexObject texObject)
{
    struct object *o;
    CUresult result = describe(FDCPU_H_TEXTURE, texObject, pResDesc, &o);

    if (result == CUDA_SUCCESS)
        *pResDesc = o->resource;
    return result;
}

FDC_EXPORT CUresult
cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC *pTexDesc, CUtexObject texObject)
{
    struct object *o;
    CUresult result = describe(FDCPU_H_TEXTURE, texObject, pTexDesc, &o);

    if (result == CUDA_SUCCESS)
        *pTexDesc = o->desc;
    return result;
}

FDC_EXPORT CUresult
cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC *pResViewDesc,
                               CUtexObject texObject)
{
    struct object *o;
    CUresult result = describe(FDCPU_H_TEXTURE, texObject, pResViewDesc, &o);

    if (result == CUDA_SUCCESS && !o->has_view)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *pResViewDesc = o->view;
    return result;
}

FDC_EXPORT CUresult
cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUsurfObject surfObject)
{
    struct object *o;
    CUresult result = describe(FDCPU_H_SURFACE, surfObject, pResDesc, &o);

    if (result == CUDA_SUCCESS)
        *pResDesc = o->resource;
    return result;
}
