/*
 * Texture and surface objects. A kernel gets the object as a number among its parameters,
 * so the program has the very number that the worker's driver gave. What it stands for is
 * remembered here: what is asked about it is answered, and nothing else is destroyed.
 */
#include <stdlib.h>

#include "fdc/array.h"
#include "memory.h"
#include "cuda_calls.h"

enum { BUCKETS = 256 };

struct texture {
    struct texture *next;
    uint64_t number;
    struct fdc_context *context;
    bool surface, has_view;
    CUDA_RESOURCE_DESC resource;
    CUDA_TEXTURE_DESC desc;
    CUDA_RESOURCE_VIEW_DESC view;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* a leaf */
static struct texture *table[BUCKETS];

static struct texture **
bucket(uint64_t number)
{
    return &table[(number ^ number >> 4 ^ number >> 24) % BUCKETS];
}

static void
remember(struct texture *t)
{
    struct texture **at = bucket(t->number);

    pthread_mutex_lock(&lock);
    t->next = *at;
    *at = t;
    pthread_mutex_unlock(&lock);
}

/* Under the lock. */
static struct texture **
find(uint64_t number, bool surface)
{
    struct texture **at = bucket(number);

    while (*at != NULL && ((*at)->number != number || (*at)->surface != surface))
        at = &(*at)->next;
    return at;
}

void
fdc_texture_context_gone(struct fdc_context *context)
{
    size_t i;

    pthread_mutex_lock(&lock);
    for (i = 0; i < BUCKETS; i++) {
        struct texture **at = &table[i], *t;

        while ((t = *at) != NULL) {
            if (t->context != context) {
                at = &t->next;
                continue;
            }
            *at = t->next;
            free(t);
        }
    }
    pthread_mutex_unlock(&lock);
    fdc_array_context_gone(context);
}

/* ---- creation ---- */

static CUresult
check_array(enum fdc_kind kind, const void *handle)
{
    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_object_find(kind, handle) != NULL ? CUDA_SUCCESS
                                                 : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult
check_resource(struct fdc_session *session, const CUDA_RESOURCE_DESC *r)
{
    uint64_t row;

    if (r->flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)r->resType) {
    case CU_RESOURCE_TYPE_ARRAY:
        return check_array(FDC_KIND_ARRAY, r->res.array.hArray);
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY:
        return check_array(FDC_KIND_MIPMAP, r->res.mipmap.hMipmappedArray);
    case CU_RESOURCE_TYPE_LINEAR:
        if (r->res.linear.sizeInBytes == 0)
            return CUDA_ERROR_INVALID_VALUE;
        return fdc_place_device(session, r->res.linear.devPtr, r->res.linear.sizeInBytes,
                                NULL);
    case CU_RESOURCE_TYPE_PITCH2D:
        row = fdc_channel_size(r->res.pitch2D.format) * (uint64_t)r->res.pitch2D.numChannels;
        if (row == 0 || row > 16 || r->res.pitch2D.width - 1 >= 1ull << 31 ||
            r->res.pitch2D.height - 1 >= 1ull << 31 ||
            r->res.pitch2D.pitchInBytes >= 1ull << 31)
            return CUDA_ERROR_INVALID_VALUE;
        row *= r->res.pitch2D.width;
        return fdc_place_device(
            session, r->res.pitch2D.devPtr,
            (r->res.pitch2D.height - 1) * r->res.pitch2D.pitchInBytes + row, NULL);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static struct texture *
texture_new(const struct fdc_call *call, bool surface, const CUDA_RESOURCE_DESC *resource)
{
    struct texture *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return NULL;
    t->context = call->context;
    t->surface = surface;
    t->resource = *resource;
    return t;
}

FDC_EXPORT CUresult
cuTexObjectCreate(CUtexObject *pTexObject, const CUDA_RESOURCE_DESC *pResDesc,
                  const CUDA_TEXTURE_DESC *pTexDesc,
                  const CUDA_RESOURCE_VIEW_DESC *pResViewDesc)
{
    struct fdc_req_cuTexObjectCreate *req;
    struct fdc_rep_cuTexObjectCreate reply;
    struct fdc_call call;
    struct texture *t;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuTexObjectCreate, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (pTexObject == NULL || pResDesc == NULL || pTexDesc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_resource(call.session, pResDesc);
    if (result != CUDA_SUCCESS)
        return result;
    t = texture_new(&call, false, pResDesc);
    if (t == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    t->desc = *pTexDesc;
    t->has_view = pResViewDesc != NULL;
    if (pResViewDesc != NULL)
        t->view = *pResViewDesc;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
        goto err;
    }
    req->pResDesc = t->resource;
    req->pTexDesc = t->desc;
    req->pResViewDesc_given = t->has_view;
    req->pResViewDesc = t->view;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        goto err;
    t->number = reply.pTexObject;
    remember(t);
    *pTexObject = t->number;
    return CUDA_SUCCESS;

err:
    free(t);
    return result;
}

FDC_EXPORT CUresult
cuSurfObjectCreate(CUsurfObject *pSurfObject, const CUDA_RESOURCE_DESC *pResDesc)
{
    struct fdc_req_cuSurfObjectCreate *req;
    struct fdc_rep_cuSurfObjectCreate reply;
    struct fdc_call call;
    struct texture *t;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuSurfObjectCreate, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (pSurfObject == NULL || pResDesc == NULL ||
        pResDesc->resType != CU_RESOURCE_TYPE_ARRAY)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_resource(call.session, pResDesc);
    if (result != CUDA_SUCCESS)
        return result;
    t = texture_new(&call, true, pResDesc);
    if (t == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
        goto err;
    }
    req->pResDesc = t->resource;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        goto err;
    t->number = reply.pSurfObject;
    remember(t);
    *pSurfObject = t->number;
    return CUDA_SUCCESS;

err:
    free(t);
    return result;
}

/* ---- the end ---- */

/* Forgets the object; its context is the one that the message names. */
static CUresult
take(struct fdc_call *call, uint64_t number, bool surface)
{
    struct texture **at, *t;

    pthread_mutex_lock(&lock);
    at = find(number, surface);
    t = *at;
    if (t != NULL)
        *at = t->next;
    pthread_mutex_unlock(&lock);
    if (t == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    call->context = t->context;
    free(t);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexObjectDestroy(CUtexObject texObject)
{
    struct fdc_req_cuTexObjectDestroy *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuTexObjectDestroy, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = take(&call, texObject, false);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->texObject = texObject;
    return fdc_call_send(&call);
}

FDC_EXPORT CUresult
cuSurfObjectDestroy(CUsurfObject surfObject)
{
    struct fdc_req_cuSurfObjectDestroy *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuSurfObjectDestroy, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = take(&call, surfObject, true);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->surfObject = surfObject;
    return fdc_call_send(&call);
}

/* ---- questions ---- */

/* Copies what is known of an object. */
static CUresult
describe(uint64_t number, bool surface, const void *out, struct texture *copy)
{
    struct texture *t;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&lock);
    t = *find(number, surface);
    if (t != NULL)
        *copy = *t;
    pthread_mutex_unlock(&lock);
    return t == NULL || out == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUtexObject texObject)
{
    struct texture t;
    CUresult result = describe(texObject, false, pResDesc, &t);

    if (result == CUDA_SUCCESS)
        *pResDesc = t.resource;
    return result;
}

FDC_EXPORT CUresult
cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC *pTexDesc, CUtexObject texObject)
{
    struct texture t;
    CUresult result = describe(texObject, false, pTexDesc, &t);

    if (result == CUDA_SUCCESS)
        *pTexDesc = t.desc;
    return result;
}

FDC_EXPORT CUresult
cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC *pResViewDesc,
                               CUtexObject texObject)
{
    struct texture t;
    CUresult result = describe(texObject, false, pResViewDesc, &t);

    if (result == CUDA_SUCCESS && !t.has_view)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *pResViewDesc = t.view;
    return result;
}

FDC_EXPORT CUresult
cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUsurfObject surfObject)
{
    struct texture t;
    CUresult result = describe(surfObject, true, pResDesc, &t);

    if (result == CUDA_SUCCESS)
        *pResDesc = t.resource;
    return result;
}
