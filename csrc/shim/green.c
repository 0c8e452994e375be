/*
 * Parts of a device: resources, green contexts and what is theirs. A resource is the driver's
 * own structure and holds what only the driver understands, so it stays at the worker: the
 * program's copy carries a token in its padding.
 */
#include "process.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "memory.h"

#define MAGIC 0x4644524eu
#define MOST 256u /* groups of one split, resources of one description */

enum { TYPE_SM = 1, OF_DEVICE = 0, OF_CONTEXT = 1, OF_GREEN = 2, DEFAULT_STREAM = 1 };

struct note { /* in a resource's padding */
    uint32_t magic, token;
    int32_t device; /* the program's */
};

struct description {
    struct description *next;
    int device;
    uint32_t count, token[];
};

struct fdc_green {
    struct fdc_object object;
    struct fdc_device *device;
    uint64_t id;
    struct fdc_context *context; /* of cuCtxFromGreenCtx, made when asked for */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list, and contexts */
static struct description *descriptions;

static void
resource_write(CUdevResource *to, int device, uint32_t token, uint32_t sms, uint32_t least,
               uint32_t align)
{
    struct note note = {MAGIC, token, device};

    memset(to, 0, sizeof(*to));
    to->type = TYPE_SM;
    memcpy(to->_internal_padding, &note, sizeof(note));
    to->sm.smCount = sms;
    to->sm.minSmPartitionSize = least;
    to->sm.smCoscheduledAlignment = align;
}

static CUresult
resource_read(const CUdevResource *from, struct note *note, struct fdc_device **device)
{
    if (from == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(note, from->_internal_padding, sizeof(*note));
    *device = note->magic == MAGIC ? fdc_device(note->device) : NULL;
    if (*device == NULL)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    return from->type == TYPE_SM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_TYPE;
}

/* ---- resources ---- */

static CUresult
resource_of(struct fdc_device *device, uint32_t of, uint64_t handle, uint32_t type,
            CUdevResource *resource)
{
    struct fdc_call call = {.session = device->session, .id = FDC_ID_fdcGreenResource};
    struct fdc_rep_fdcGreenResource reply;
    struct fdc_req_fdcGreenResource *req;
    CUresult result;

    if (resource == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->of = of;
    req->handle = handle;
    req->device = device->remote;
    req->type = type;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        resource_write(resource, device->ordinal, reply.token, reply.sms, reply.least,
                       reply.align);
    return result;
}

FDC_EXPORT CUresult
cuDeviceGetDevResource(CUdevice device, CUdevResource *resource, CUdevResourceType type)
{
    CUresult result = fdc_process_check();
    struct fdc_device *found;

    if (result != CUDA_SUCCESS)
        return result;
    found = fdc_device(device);
    return found == NULL ? CUDA_ERROR_INVALID_DEVICE
                         : resource_of(found, OF_DEVICE, 0, type, resource);
}

FDC_EXPORT CUresult
cuCtxGetDevResource(CUcontext hCtx, CUdevResource *resource, CUdevResourceType type)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;

    if (result != CUDA_SUCCESS)
        return result;
    context = fdc_context_find(hCtx);
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_context_activate(context);
    return result != CUDA_SUCCESS
               ? result
               : resource_of(context->device, OF_CONTEXT, context->object.handle, type,
                             resource);
}

FDC_EXPORT CUresult
cuDevSmResourceSplitByCount(CUdevResource *result, unsigned int *nbGroups,
                            const CUdevResource *input, CUdevResource *remainder,
                            unsigned int flags, unsigned int minCount)
{
    struct fdc_call call = {.id = FDC_ID_fdcGreenSplit};
    struct fdc_rep_fdcGreenSplit reply;
    struct fdc_req_fdcGreenSplit *req;
    CUresult err = fdc_process_check();
    struct fdc_device *device;
    struct note note;

    if (err != CUDA_SUCCESS)
        return err;
    if (nbGroups == NULL || (result != NULL && (*nbGroups == 0 || *nbGroups > MOST)))
        return CUDA_ERROR_INVALID_VALUE;
    err = resource_read(input, &note, &device);
    if (err != CUDA_SUCCESS)
        return err;
    call.session = device->session;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->token = note.token;
    req->wanted = *nbGroups;
    req->count_only = result == NULL;
    req->flags = flags;
    req->each = minCount;
    err = fdc_call_wait(&call, &reply, sizeof(reply));
    if (err != CUDA_SUCCESS)
        return err;
    for (uint32_t i = 0; result != NULL && i < reply.made && i < *nbGroups; i++)
        resource_write(&result[i], device->ordinal, reply.first + i, reply.sms,
                       reply.least, reply.align);
    *nbGroups = reply.made;
    if (result != NULL && remainder != NULL) {
        resource_write(remainder, device->ordinal, reply.rest, reply.rest_sms,
                       reply.least, reply.align);
        if (reply.rest == 0)
            memset(remainder, 0, sizeof(*remainder)); /* nothing is left */
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevResourceGenerateDesc(CUdevResourceDesc *phDesc, CUdevResource *resources,
                          unsigned int nbResources)
{
    struct description *made;
    struct fdc_device *device;
    struct note note;
    CUresult result = fdc_process_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (phDesc == NULL || resources == NULL || nbResources == 0 || nbResources > MOST)
        return CUDA_ERROR_INVALID_VALUE;
    made = malloc(sizeof(*made) + nbResources * sizeof(made->token[0]));
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->count = nbResources;
    for (unsigned int i = 0; i < nbResources && result == CUDA_SUCCESS; i++) {
        result = resource_read(&resources[i], &note, &device);
        if (result == CUDA_SUCCESS && i > 0 && made->device != note.device)
            result = CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        made->device = note.device;
        made->token[i] = note.token;
    }
    if (result != CUDA_SUCCESS) {
        free(made);
        return result;
    }
    pthread_mutex_lock(&lock);
    made->next = descriptions; /* there is no call that ends one */
    descriptions = made;
    pthread_mutex_unlock(&lock);
    *phDesc = (CUdevResourceDesc)made;
    return CUDA_SUCCESS;
}

static struct description *
description_find(CUdevResourceDesc desc)
{
    struct description *at;

    pthread_mutex_lock(&lock);
    for (at = descriptions; at != NULL && (CUdevResourceDesc)at != desc; at = at->next)
        ;
    pthread_mutex_unlock(&lock);
    return at;
}

/* ---- green contexts ---- */

static CUresult
green_find(CUgreenCtx handle, struct fdc_green **green)
{
    CUresult result = fdc_process_check();

    if (result != CUDA_SUCCESS)
        return result;
    *green = fdc_object_find(FDC_KIND_GREEN_CTX, handle);
    return *green != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

FDC_EXPORT CUresult
cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
                 unsigned int flags)
{
    struct fdc_call call = {.id = FDC_ID_fdcGreenCreate};
    struct fdc_rep_fdcGreenCreate reply;
    struct fdc_req_fdcGreenCreate *req;
    CUresult result = fdc_process_check();
    struct description *from;
    struct fdc_device *device;
    struct fdc_green *green;

    if (result != CUDA_SUCCESS)
        return result;
    device = fdc_device(dev);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    from = description_find(desc);
    if (phCtx == NULL || from == NULL || flags != DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    if (from->device != device->ordinal)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    result = fdc_context_activate(device->primary); /* what it is a part of */
    if (result != CUDA_SUCCESS)
        return result;
    green = fdc_object_new(device->session, FDC_KIND_GREEN_CTX, sizeof(*green), NULL);
    if (green == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    green->device = device;
    call.session = device->session;
    req = fdc_call_begin(&call, sizeof(*req) + from->count * 4);
    if (req == NULL) {
        fdc_object_drop(green);
        return call.result;
    }
    req->green = green->object.handle;
    req->device = device->remote;
    req->flags = flags;
    req->tokens = (struct fdc_span){sizeof(*req), from->count * 4};
    req->count = from->count;
    memcpy(req + 1, from->token, from->count * 4);
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(green);
        return result;
    }
    green->id = fdc_process_id();
    *phCtx = (CUgreenCtx)(uintptr_t)green->object.handle;
    return CUDA_SUCCESS;
}

static void
stream_gone(void *found, void *user)
{
    struct fdc_stream *stream = found;
    struct fdc_green *green = user;

    if (stream->green == green->object.handle)
        cuStreamDestroy_v2((CUstream)(uintptr_t)stream->object.handle);
}

/* Its streams and its context end first: they are the driver's to look after no more. */
FDC_EXPORT CUresult
cuGreenCtxDestroy(CUgreenCtx hCtx)
{
    struct fdc_call call = {.id = FDC_ID_cuGreenCtxDestroy};
    struct fdc_req_cuGreenCtxDestroy *req;
    struct fdc_reply reply;
    struct fdc_green *green;
    CUresult result = green_find(hCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    fdc_object_each(FDC_KIND_STREAM, stream_gone, green);
    if (green->context != NULL)
        fdc_context_end(green->context);
    call.session = green->object.session;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hCtx = green->object.handle;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    fdc_object_drop(green);
    return result;
}

FDC_EXPORT CUresult
cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long *greenCtxId)
{
    struct fdc_green *green;
    CUresult result = green_find(greenCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    if (greenCtxId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *greenCtxId = green->id;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource *resource,
                         CUdevResourceType type)
{
    struct fdc_green *green;
    CUresult result = green_find(hCtx, &green);

    return result != CUDA_SUCCESS ? result
                                  : resource_of(green->device, OF_GREEN,
                                                green->object.handle, type, resource);
}

FDC_EXPORT CUresult
cuCtxFromGreenCtx(CUcontext *pContext, CUgreenCtx hCtx)
{
    struct fdc_green *green;
    CUresult result = green_find(hCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    if (pContext == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (green->context == NULL)
        result = fdc_context_of_green(green->device, green->object.handle, green->id,
                                      &green->context);
    if (result == CUDA_SUCCESS)
        *pContext = (CUcontext)(uintptr_t)green->context->object.handle;
    pthread_mutex_unlock(&lock);
    return result;
}

FDC_EXPORT CUresult
cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags,
                       int priority)
{
    struct fdc_call call = {.id = FDC_ID_fdcGreenStream};
    struct fdc_req_fdcGreenStream *req;
    struct fdc_stream *stream;
    struct fdc_reply reply;
    struct fdc_green *green;
    CUresult result = green_find(greenCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    if (phStream == NULL || flags != CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    call.session = green->object.session;
    call.context = green->device->primary;
    result = fdc_context_activate(call.context);
    if (result != CUDA_SUCCESS)
        return result;
    stream = fdc_stream_make(call.session, call.context, flags, priority);
    if (stream == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    stream->green = green->object.handle;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        fdc_object_drop(stream);
        return call.result;
    }
    req->stream = stream->object.handle;
    req->green = green->object.handle;
    req->flags = flags;
    req->priority = priority;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(stream);
        return result;
    }
    *phStream = (CUstream)(uintptr_t)stream->object.handle;
    return CUDA_SUCCESS;
}

/* ---- what streams belong to ---- */

static uint64_t
green_of(const struct fdc_stream *stream)
{
    return stream->green != 0 ? stream->green : stream->object.context->green;
}

FDC_EXPORT CUresult
cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx)
{
    struct fdc_stream *stream;
    CUresult result = fdc_stream_asked(hStream, phCtx, 0, &stream);

    if (result == CUDA_SUCCESS)
        *phCtx = (CUgreenCtx)(uintptr_t)green_of(stream);
    return result;
}

static CUresult
context_of(CUstream value, CUcontext *context, CUgreenCtx *green, unsigned how)
{
    struct fdc_stream *stream;
    const void *either = context != NULL ? (void *)context : (void *)green;
    CUresult result = fdc_stream_asked(value, either, how, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (context != NULL)
        *context = (CUcontext)(uintptr_t)stream->object.context->object.handle;
    if (green != NULL)
        *green = (CUgreenCtx)(uintptr_t)green_of(stream);
    return CUDA_SUCCESS;
}

FDC_TWINS(cuStreamGetCtx_v2, _ptsz,
          (CUstream hStream, CUcontext * pCtx, CUgreenCtx *pGreenCtx),
          context_of(hStream, pCtx, pGreenCtx, how))

static CUresult
stream_resource(CUstream value, CUdevResource *resource, CUdevResourceType type,
                unsigned how)
{
    struct fdc_stream *stream;
    CUresult result = fdc_stream_asked(value, resource, how, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (green_of(stream) != 0)
        return resource_of(stream->object.context->device, OF_GREEN, green_of(stream),
                           type, resource);
    return resource_of(stream->object.context->device, OF_CONTEXT,
                       stream->object.context->object.handle, type, resource);
}

FDC_TWINS(cuStreamGetDevResource, _ptsz,
          (CUstream hStream, CUdevResource * resource, CUdevResourceType type),
          stream_resource(hStream, resource, type, how))

/* ---- all of a context's work ---- */

/* Such an event has no place on a stream; nothing is concluded from where it was recorded. */
static CUresult
all(struct fdc_context *context, uint32_t of, uint64_t handle, CUevent value, bool wait)
{
    struct fdc_call call = {.session = context->object.session,
                            .context = context,
                            .id = FDC_ID_fdcRecordAll};
    struct fdc_req_fdcRecordAll *req;
    struct fdc_event *event = fdc_object_find(FDC_KIND_EVENT, value);
    CUresult result;

    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_context_activate(context);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->of = of;
    req->handle = handle;
    req->event = event->object.handle;
    req->wait = wait;
    result = fdc_call_send(&call);
    if (result != CUDA_SUCCESS || wait)
        return result;
    pthread_mutex_lock(&event->lock);
    event->stream = context->legacy->object.handle;
    event->issued = UINT64_MAX;
    __atomic_store_n(&event->capture, 0, __ATOMIC_RELAXED);
    event->recorded++;
    pthread_mutex_unlock(&event->lock);
    return CUDA_SUCCESS;
}

static CUresult
all_of_context(CUcontext handle, CUevent event, bool wait)
{
    CUresult result = fdc_process_check();
    struct fdc_context *context;

    if (result != CUDA_SUCCESS)
        return result;
    context = handle != NULL ? fdc_context_find(handle) : NULL;
    return context == NULL
               ? CUDA_ERROR_INVALID_CONTEXT
               : all(context, OF_CONTEXT, context->object.handle, event, wait);
}

static CUresult
all_of_green(CUgreenCtx handle, CUevent event, bool wait)
{
    struct fdc_green *green;
    CUresult result = green_find(handle, &green);

    return result != CUDA_SUCCESS ? result
                                  : all(green->device->primary, OF_GREEN,
                                        green->object.handle, event, wait);
}

FDC_EXPORT CUresult
cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent)
{
    return all_of_context(hCtx, hEvent, false);
}

FDC_EXPORT CUresult
cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent)
{
    return all_of_context(hCtx, hEvent, true);
}

FDC_EXPORT CUresult
cuGreenCtxRecordEvent(CUgreenCtx hCtx, CUevent hEvent)
{
    return all_of_green(hCtx, hEvent, false);
}

FDC_EXPORT CUresult
cuGreenCtxWaitEvent(CUgreenCtx hCtx, CUevent hEvent)
{
    return all_of_green(hCtx, hEvent, true);
}
