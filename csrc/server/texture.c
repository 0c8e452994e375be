/*
 * Texture and surface objects: their values are the driver's, because kernels get them,
 * and are kept here so that nothing but what was given out is destroyed. Arrays in their
 * descriptions travel as handles, addresses must be the session's.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <stdlib.h>

#include "fdc/array.h"

struct object {
    uint64_t number;
    uint32_t ctx;
    bool surface;
};

struct fdc_objects {
    pthread_mutex_t lock;               /* a leaf */
    struct object *list;
    size_t count, room;
};

struct fdc_objects *
fdc_objects_new(void)
{
    struct fdc_objects *objects = calloc(1, sizeof(*objects));

    if (objects != NULL)
        pthread_mutex_init(&objects->lock, NULL);
    return objects;
}

void
fdc_objects_free(struct fdc_objects *objects)
{
    if (objects == NULL)
        return;
    pthread_mutex_destroy(&objects->lock);
    free(objects->list);
    free(objects);
}

void
fdc_objects_sweep(struct fdc_serve *serve, uint32_t ctx)
{
    struct fdc_objects *objects = serve->objects;
    size_t kept = 0;

    pthread_mutex_lock(&objects->lock);
    for (size_t i = 0; i < objects->count; i++)
        if (objects->list[i].ctx != ctx)
            objects->list[kept++] = objects->list[i];
    objects->count = kept;
    pthread_mutex_unlock(&objects->lock);
}

/* Room for one more, before the driver is asked. */
static CUresult
objects_reserve(struct fdc_objects *objects)
{
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&objects->lock);
    if (objects->count == objects->room) {
        size_t room = objects->room != 0 ? objects->room * 2 : 16;
        struct object *list = realloc(objects->list, room * sizeof(*list));

        if (list != NULL) {
            objects->list = list;
            objects->room = room;
        } else {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    pthread_mutex_unlock(&objects->lock);
    return result;
}

static void
objects_put(struct fdc_request *request, uint64_t number, bool surface)
{
    struct fdc_objects *objects = request->serve->objects;

    pthread_mutex_lock(&objects->lock);
    /* the executor alone adds, so the room that was made is still there */
    objects->list[objects->count++] = (struct object){ number, request->ctx, surface };
    pthread_mutex_unlock(&objects->lock);
}

/* Whether it was there, in this context. */
static bool
objects_take(struct fdc_request *request, uint64_t number, bool surface)
{
    struct fdc_objects *objects = request->serve->objects;
    bool found = false;

    pthread_mutex_lock(&objects->lock);
    for (size_t i = objects->count; i-- > 0 && !found;)
        if (objects->list[i].number == number && objects->list[i].surface == surface &&
            objects->list[i].ctx == request->ctx) {
            objects->list[i] = objects->list[--objects->count];
            found = true;
        }
    pthread_mutex_unlock(&objects->lock);
    return found;
}

/* The description with the driver's values in it. */
static CUresult
resource(struct fdc_request *request, const CUDA_RESOURCE_DESC *from, CUDA_RESOURCE_DESC *to)
{
    struct fdc_serve *serve = request->serve;
    CUresult result;
    uint64_t row;
    void *value;

    *to = *from;
    switch ((int)from->resType) {
    case CU_RESOURCE_TYPE_ARRAY:
        result = fdc_handle_get(serve, FDC_KIND_ARRAY,
                                (uint64_t)(uintptr_t)from->res.array.hArray, &value);
        to->res.array.hArray = value;
        return result;
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY:
        result = fdc_handle_get(serve, FDC_KIND_MIPMAP,
                                (uint64_t)(uintptr_t)from->res.mipmap.hMipmappedArray,
                                &value);
        to->res.mipmap.hMipmappedArray = value;
        return result;
    case CU_RESOURCE_TYPE_LINEAR:
        return fdc_memory_check(serve, from->res.linear.devPtr,
                                from->res.linear.sizeInBytes);
    case CU_RESOURCE_TYPE_PITCH2D:
        if (from->res.pitch2D.height - 1 >= 1ull << 31 ||
            from->res.pitch2D.width - 1 >= 1ull << 31 ||
            from->res.pitch2D.pitchInBytes >= 1ull << 31 ||
            from->res.pitch2D.numChannels > 4)
            return CUDA_ERROR_INVALID_VALUE;
        /* the last row ends with its last element */
        row = fdc_channel_size(from->res.pitch2D.format);
        row = from->res.pitch2D.width * (row != 0 ? row : 4) * from->res.pitch2D.numChannels;
        return fdc_memory_check(
            serve, from->res.pitch2D.devPtr,
            (from->res.pitch2D.height - 1) * from->res.pitch2D.pitchInBytes + row);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

int
fdc_server_call_cuTexObjectCreate(struct fdc_request *request,
                                  const struct fdc_req_cuTexObjectCreate *req)
{
    struct fdc_rep_cuTexObjectCreate reply = { 0 };
    CUDA_RESOURCE_DESC desc;
    CUtexObject object = 0;
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;

    if (request->driver->cuTexObjectCreate == NULL)
        goto answer;
    result = resource(request, &req->pResDesc, &desc);
    if (result == CUDA_SUCCESS)
        result = objects_reserve(request->serve->objects);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuTexObjectCreate(
            &object, &desc, &req->pTexDesc,
            req->pResViewDesc_given ? &req->pResViewDesc : NULL);
    if (result == CUDA_SUCCESS)
        objects_put(request, object, false);
    reply.pTexObject = object;
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuTexObjectDestroy(struct fdc_request *request,
                                   const struct fdc_req_cuTexObjectDestroy *req)
{
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (objects_take(request, req->texObject, false))
        result = request->driver->cuTexObjectDestroy((CUtexObject)req->texObject);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuSurfObjectCreate(struct fdc_request *request,
                                   const struct fdc_req_cuSurfObjectCreate *req)
{
    struct fdc_rep_cuSurfObjectCreate reply = { 0 };
    CUDA_RESOURCE_DESC desc;
    CUsurfObject object = 0;
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;

    if (request->driver->cuSurfObjectCreate == NULL)
        goto answer;
    result = resource(request, &req->pResDesc, &desc);
    if (result == CUDA_SUCCESS)
        result = objects_reserve(request->serve->objects);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuSurfObjectCreate(&object, &desc);
    if (result == CUDA_SUCCESS)
        objects_put(request, object, true);
    reply.pSurfObject = object;
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuSurfObjectDestroy(struct fdc_request *request,
                                    const struct fdc_req_cuSurfObjectDestroy *req)
{
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (objects_take(request, req->surfObject, true))
        result = request->driver->cuSurfObjectDestroy((CUsurfObject)req->surfObject);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
