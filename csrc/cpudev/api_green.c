/*
 * Parts of a device: its multiprocessors can be divided and given to green contexts. Kernels
 * run as everywhere here, so a part is no slower and no faster; what is asked is answered.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

enum { TYPE_SM = 1, MAGIC = 0x66646772, DEFAULT_STREAM = 1, MOST = 64 };

struct note { /* in a resource's padding */
    uint32_t magic;
    int device;
};

struct fdcpu_desc {
    struct fdcpu_desc *next;
    int device;
    unsigned int sms;
};

struct fdcpu_green {
    uint64_t handle;
    struct fdcpu_device *device;
    unsigned int sms;
    uint64_t id;
    struct fdcpu_ctx *ctx; /* of cuCtxFromGreenCtx, or NULL */
};

static struct fdcpu_desc *descs; /* under api */

static void
resource_write(CUdevResource *to, int device, unsigned int sms)
{
    struct note note = {MAGIC, device};

    memset(to, 0, sizeof(*to));
    to->type = TYPE_SM;
    memcpy(to->_internal_padding, &note, sizeof(note));
    to->sm.smCount = sms;
    to->sm.minSmPartitionSize = 1;
    to->sm.smCoscheduledAlignment = 1;
}

static CUresult
resource_read(const CUdevResource *from, int *device)
{
    struct note note;

    if (from == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&note, from->_internal_padding, sizeof(note));
    if (note.magic != MAGIC || fdcpu_device_get(note.device) == NULL)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    *device = note.device;
    return from->type == TYPE_SM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_TYPE;
}

static CUresult
give(CUdevResource *resource, CUdevResourceType type, int device, unsigned int sms)
{
    if (resource == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    resource_write(resource, device, sms);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetDevResource(CUdevice device, CUdevResource *resource, CUdevResourceType type)
{
    struct fdcpu_device *found;
    CUresult result = fdcpu_enter_device(device, &found);

    return result != CUDA_SUCCESS ? result : give(resource, type, device, FDCPU_SMS);
}

FDC_EXPORT CUresult
cuDevSmResourceSplitByCount(CUdevResource *result, unsigned int *nbGroups,
                            const CUdevResource *input, CUdevResource *remainder,
                            unsigned int flags, unsigned int minCount)
{
    CUresult err = fdcpu_check();
    unsigned int each = minCount != 0 ? minCount : 1, groups;
    int device;

    if (err != CUDA_SUCCESS)
        return err;
    if (nbGroups == NULL || (result != NULL && *nbGroups == 0) || flags > 3)
        return CUDA_ERROR_INVALID_VALUE;
    err = resource_read(input, &device);
    if (err != CUDA_SUCCESS)
        return err;
    groups = input->sm.smCount / each;
    if (groups == 0)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    if (result != NULL && groups > *nbGroups)
        groups = *nbGroups;
    for (unsigned int i = 0; result != NULL && i < groups; i++)
        resource_write(&result[i], device, each);
    if (result != NULL && remainder != NULL) {
        memset(remainder, 0, sizeof(*remainder));
        if (input->sm.smCount > groups * each)
            resource_write(remainder, device, input->sm.smCount - groups * each);
    }
    *nbGroups = groups;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDevResourceGenerateDesc(CUdevResourceDesc *phDesc, CUdevResource *resources,
                          unsigned int nbResources)
{
    CUresult result = fdcpu_check();
    struct fdcpu_desc *desc;
    unsigned int sms = 0;
    int device = 0, first = 0;

    if (result != CUDA_SUCCESS)
        return result;
    if (phDesc == NULL || resources == NULL || nbResources == 0 || nbResources > MOST)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < nbResources && result == CUDA_SUCCESS; i++) {
        result = resource_read(&resources[i], &device);
        if (i == 0)
            first = device;
        if (result == CUDA_SUCCESS && device != first)
            result = CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        sms += resources[i].sm.smCount;
    }
    if (result != CUDA_SUCCESS)
        return result;
    desc = malloc(sizeof(*desc));
    if (desc == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    desc->device = first;
    desc->sms = sms < FDCPU_SMS ? sms : FDCPU_SMS;
    pthread_mutex_lock(&fdcpu.api);
    desc->next = descs;
    descs = desc;
    pthread_mutex_unlock(&fdcpu.api);
    *phDesc = (CUdevResourceDesc)desc;
    return CUDA_SUCCESS;
}

static CUresult
enter(CUgreenCtx handle, struct fdcpu_green **green)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *green = FDCPU_GET(FDCPU_H_GREEN, handle);
    return *green == NULL ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
                 unsigned int flags)
{
    CUresult result = fdcpu_check();
    struct fdcpu_green *green;
    struct fdcpu_desc *at;

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&fdcpu.api);
    for (at = descs; at != NULL && (CUdevResourceDesc)at != desc; at = at->next)
        ;
    pthread_mutex_unlock(&fdcpu.api);
    if (phCtx == NULL || at == NULL || flags != DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    if (at->device != dev)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    green = calloc(1, sizeof(*green));
    if (green == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    green->device = fdcpu_device_get(dev);
    green->sms = at->sms;
    green->id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    green->handle = fdcpu_handle_new(FDCPU_H_GREEN, green);
    *phCtx = (CUgreenCtx)(uintptr_t)green->handle;
    return CUDA_SUCCESS;
}

/* Its streams go with it. */
static void
streams_end(const struct fdcpu_green *green)
{
    struct fdcpu_stream *stream;
    uint64_t handle;

    do {
        handle = 0;
        pthread_mutex_lock(&fdcpu.sched);
        for (stream = green->device->primary->streams; stream != NULL;
             stream = stream->next)
            if (!stream->gone && stream->green == green->handle)
                handle = stream->handle;
        pthread_mutex_unlock(&fdcpu.sched);
    } while (handle != 0 &&
             cuStreamDestroy_v2((CUstream)(uintptr_t)handle) == CUDA_SUCCESS);
}

FDC_EXPORT CUresult
cuGreenCtxDestroy(CUgreenCtx hCtx)
{
    struct fdcpu_green *green;
    CUresult result = enter(hCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    streams_end(green);
    if (green->ctx != NULL) {
        green->ctx->green = 0;
        cuCtxDestroy_v2((CUcontext)(uintptr_t)green->ctx->handle);
    }
    fdcpu_handle_drop(FDCPU_H_GREEN, green->handle);
    free(green);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long *greenCtxId)
{
    struct fdcpu_green *green;
    CUresult result = enter(greenCtx, &green);

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
    struct fdcpu_green *green;
    CUresult result = enter(hCtx, &green);

    return result != CUDA_SUCCESS
               ? result
               : give(resource, type, green->device->ordinal, green->sms);
}

FDC_EXPORT CUresult
cuCtxGetDevResource(CUcontext hCtx, CUdevResource *resource, CUdevResourceType type)
{
    struct fdcpu_green *green = NULL;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_ctx_get(hCtx, &ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (ctx->green != 0)
        green = fdcpu_handle_get(FDCPU_H_GREEN, ctx->green);
    return give(resource, type, ctx->device->ordinal,
                green != NULL ? green->sms : FDCPU_SMS);
}

static CUresult
stream_resource(CUstream hStream, CUdevResource *resource, CUdevResourceType type)
{
    struct fdcpu_green *green = NULL;
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_stream_green(stream) != 0)
        green = fdcpu_handle_get(FDCPU_H_GREEN, fdcpu_stream_green(stream));
    return give(resource, type, stream->ctx->device->ordinal,
                green != NULL ? green->sms : FDCPU_SMS);
}

FDCPU_TWIN(cuStreamGetDevResource, _ptsz,
           (CUstream hStream, CUdevResource *resource, CUdevResourceType type),
           stream_resource(S(hStream), resource, type))

FDC_EXPORT CUresult
cuCtxFromGreenCtx(CUcontext *pContext, CUgreenCtx hCtx)
{
    struct fdcpu_green *green;
    CUresult result = enter(hCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    if (pContext == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.api);
    if (green->ctx == NULL) {
        green->ctx = fdcpu_ctx_new(green->device, false);
        if (green->ctx != NULL) {
            green->ctx->active = true;
            green->ctx->flags = CU_CTX_MAP_HOST;
            green->ctx->green = green->handle;
            green->ctx->id = green->id;
        }
    }
    pthread_mutex_unlock(&fdcpu.api);
    if (green->ctx == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *pContext = (CUcontext)(uintptr_t)green->ctx->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags,
                       int priority)
{
    struct fdcpu_green *green;
    struct fdcpu_stream *stream;
    CUcontext before = NULL;
    CUresult result = enter(greenCtx, &green);

    if (result != CUDA_SUCCESS)
        return result;
    if (phStream == NULL || flags != CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    /* It belongs to the device's primary context, as what is used on it does. */
    cuCtxGetCurrent(&before);
    result = cuCtxSetCurrent((CUcontext)(uintptr_t)green->device->primary->handle);
    if (result == CUDA_SUCCESS)
        result = cuStreamCreateWithPriority(phStream, flags, priority);
    cuCtxSetCurrent(before);
    if (result == CUDA_SUCCESS) {
        stream = FDCPU_GET(FDCPU_H_STREAM, *phStream);
        stream->green = green->handle;
    }
    return result;
}

/* ---- all of a context's work ---- */

static bool
part_of(const struct fdcpu_stream *stream, uint64_t green)
{
    return !stream->gone && (green == 0 || fdcpu_stream_green(stream) == green);
}

/* A stream of its own waits for all the others, and the event is recorded there. */
static CUresult
record_all(struct fdcpu_ctx *ctx, uint64_t green, CUevent event)
{
    CUcontext before = NULL, own = (CUcontext)(uintptr_t)ctx->handle;
    struct fdcpu_stream *meet, *stream;
    CUstream handle;
    CUresult result;

    if (FDCPU_GET(FDCPU_H_EVENT, event) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    cuCtxGetCurrent(&before);
    result = cuCtxSetCurrent(own);
    if (result == CUDA_SUCCESS)
        result = cuStreamCreate(&handle, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS)
        goto leave;
    meet = FDCPU_GET(FDCPU_H_STREAM, handle);
    pthread_mutex_lock(&fdcpu.sched);
    for (stream = ctx->streams; stream != NULL; stream = stream->next)
        if (stream != meet && part_of(stream, green))
            fdcpu_stream_depend(meet, stream, stream->submitted);
    pthread_mutex_unlock(&fdcpu.sched);
    result = cuEventRecord(event, handle);
    cuStreamDestroy_v2(handle);
leave:
    cuCtxSetCurrent(before);
    return result;
}

static CUresult
wait_all(struct fdcpu_ctx *ctx, uint64_t green, CUevent handle)
{
    struct fdcpu_event *event = FDCPU_GET(FDCPU_H_EVENT, handle);
    struct fdcpu_stream *stream;

    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&fdcpu.sched);
    for (stream = ctx->streams; stream != NULL && event->record != NULL;
         stream = stream->next)
        if (part_of(stream, green))
            fdcpu_stream_depend(stream, event->record->stream, event->record->ticket);
    pthread_mutex_unlock(&fdcpu.sched);
    return CUDA_SUCCESS;
}

static CUresult
all(struct fdcpu_ctx *ctx, uint64_t green, CUevent event, bool wait)
{
    return wait ? wait_all(ctx, green, event) : record_all(ctx, green, event);
}

FDC_EXPORT CUresult
cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent)
{
    struct fdcpu_ctx *ctx;
    CUresult result = hCtx == NULL ? CUDA_ERROR_INVALID_CONTEXT : fdcpu_ctx_get(hCtx, &ctx);

    return result != CUDA_SUCCESS ? result : all(ctx, 0, hEvent, false);
}

FDC_EXPORT CUresult
cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent)
{
    struct fdcpu_ctx *ctx;
    CUresult result = hCtx == NULL ? CUDA_ERROR_INVALID_CONTEXT : fdcpu_ctx_get(hCtx, &ctx);

    return result != CUDA_SUCCESS ? result : all(ctx, 0, hEvent, true);
}

FDC_EXPORT CUresult
cuGreenCtxRecordEvent(CUgreenCtx hCtx, CUevent hEvent)
{
    struct fdcpu_green *green;
    CUresult result = enter(hCtx, &green);

    return result != CUDA_SUCCESS
               ? result
               : all(green->device->primary, green->handle, hEvent, false);
}

FDC_EXPORT CUresult
cuGreenCtxWaitEvent(CUgreenCtx hCtx, CUevent hEvent)
{
    struct fdcpu_green *green;
    CUresult result = enter(hCtx, &green);

    return result != CUDA_SUCCESS
               ? result
               : all(green->device->primary, green->handle, hEvent, true);
}
