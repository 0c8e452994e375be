/*
 * Launches: everything that can be wrong is told here, with the driver's own codes, and
 * then one message goes out with the parameters packed as the kernel lays them out.
 */
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "managed.h"
#include "cuda_calls.h"

enum { LAUNCH_COOPERATIVE = 1, LAUNCH_PROGRAMMATIC = 2, LAUNCH_PRIORITY = 4 };
enum { MOST_ATTRIBUTES = 16 };

/* ---- parameters ---- */

/* The buffer form: pairs of a marker and a value. */
static CUresult
extra_read(void **extra, const void **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    for (int i = 0; i < 16 && extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            *bytes = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE && extra[i + 1] != NULL)
            *size = *(const size_t *)extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    return *size != 0 && *bytes == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static __attribute__((noinline)) CUresult
size_of_extra(const struct fdc_func *func, void **params, void **extra, uint32_t *size)
{
    const void *bytes;
    CUresult result;
    size_t given;

    if (params != NULL && extra != NULL && extra[0] != CU_LAUNCH_PARAM_END)
        return CUDA_ERROR_INVALID_VALUE;
    if (params == NULL && extra != NULL) {
        result = extra_read(extra, &bytes, &given);
        if (result != CUDA_SUCCESS)
            return result;
        if (given > 65536 || given < *size)
            return CUDA_ERROR_INVALID_VALUE;
        *size = (uint32_t)given;
        return CUDA_SUCCESS;
    }
    return params == NULL && func->kernel->param_count != 0 ? CUDA_ERROR_INVALID_VALUE
                                                            : CUDA_SUCCESS;
}

CUresult
fdc_params_size(const struct fdc_func *func, void **params, void **extra,
                uint32_t *size)
{
    *size = func->kernel->param_bytes;
    return FDC_LIKELY(params != NULL && extra == NULL)
               ? CUDA_SUCCESS
               : size_of_extra(func, params, extra, size);
}

void
fdc_params_pack(const struct fdc_func *func, void **params, void **extra, void *to,
                uint32_t size)
{
    const struct fdc_table_param *param = func->params, *end;
    const void *bytes;
    size_t given;

    if (params == NULL && extra != NULL) {
        (void)extra_read(extra, &bytes, &given);
        if (size != 0)
            memcpy(to, bytes, size);
        return;
    }
    for (end = param + func->kernel->param_count; param < end; param++, params++) {
        char *at = (char *)to + param->offset;

        /* Nearly all are of these sizes. */
        if (param->size == 8)
            memcpy(at, *params, 8);
        else if (param->size == 4)
            memcpy(at, *params, 4);
        else
            memcpy(at, *params, param->size);
    }
}

/* ---- what can be told at once ---- */

static int
device_attribute(const struct fdc_device *device, CUdevice_attribute which)
{
    return device->snapshot->attribute[which];
}

/* Clusters asked for by this launch, or compiled into the kernel. */
static __attribute__((noinline)) bool
cluster_fits(const int32_t *limit, const int32_t *attribute,
             const struct fdc_shape *shape)
{
    uint32_t cluster[3];
    uint64_t size;

    for (int i = 0; i < 3; i++) {
        cluster[i] =
            shape->cluster[0] != 0
                ? shape->cluster[i]
                : (uint32_t)attribute[CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH + i];
        if (cluster[i] == 0)
            cluster[i] = 1;
    }
    size = (uint64_t)cluster[0] * cluster[1] * cluster[2];
    if (size == 1)
        return true;
    if (size > 16 || limit[CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH] == 0 ||
        limit[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR] < 9 ||
        (size > 8 && !attribute[CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED]))
        return false;
    for (int i = 0; i < 3; i++)
        if (shape->grid[i] % cluster[i] != 0)
            return false;
    return true;
}

CUresult
fdc_shape_check(struct fdc_device *device, const struct fdc_func *func,
                const struct fdc_shape *shape)
{
    const int32_t *limit = device->snapshot->attribute;
    const int32_t *attribute = func->attribute;
    uint64_t threads,
        statics = (uint32_t)attribute[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES];
    uint64_t dynamic;

    for (int i = 0; i < 3; i++) { /* 1 to the limit: 0 less one is more than any */
        if (shape->grid[i] - 1 >= (uint32_t)limit[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i] ||
            shape->block[i] - 1 >= (uint32_t)limit[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i])
            return CUDA_ERROR_INVALID_VALUE;
    }
    threads = (uint64_t)shape->block[0] * shape->block[1] * shape->block[2];
    if (threads > (uint32_t)limit[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK] ||
        (attribute[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK] > 0 &&
         threads > (uint32_t)attribute[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK]))
        return CUDA_ERROR_INVALID_VALUE;
    /* Without opting in: what a block may have, less what the kernel has statically. */
    dynamic = (uint32_t)limit[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK];
    dynamic = dynamic > statics ? dynamic - statics : 0;
    if ((uint32_t)attribute[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES] > dynamic)
        dynamic = (uint32_t)attribute[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES];
    if (shape->shared > dynamic)
        return CUDA_ERROR_INVALID_VALUE;
    if (FDC_UNLIKELY((shape->cluster[0] |
                      (uint32_t)attribute[CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH] |
                      (uint32_t)attribute[CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT] |
                      (uint32_t)attribute[CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH]) != 0) &&
        !cluster_fits(limit, attribute, shape))
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    if (shape->cooperative) {
        uint64_t blocks = (uint64_t)shape->grid[0] * shape->grid[1], most;

        if (device_attribute(device, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH) == 0)
            return CUDA_ERROR_NOT_SUPPORTED;
        most = (uint64_t)fdc_occupancy_blocks(device, func, (uint32_t)threads,
                                              shape->shared) *
               (uint32_t)device_attribute(device,
                                          CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        if (blocks > most || blocks * shape->grid[2] > most)
            return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    return CUDA_SUCCESS;
}

/* ---- the launch ---- */

struct launch {
    struct fdc_shape shape;
    uint32_t flags;
    int32_t priority;
    const CUlaunchAttribute *attributes; /* what else travels */
    uint32_t attribute_count;
    struct fdc_event *event; /* that an attribute records */
};

/* An event that a launch records is no position on the stream: it may be over before the
 * kernel is, so nothing is concluded from it. */
static void
event_recorded(struct fdc_event *event, const struct fdc_stream *stream)
{
    pthread_mutex_lock(&event->lock);
    event->stream = stream->object.handle;
    event->issued = UINT64_MAX;
    __atomic_store_n(&event->capture, 0, __ATOMIC_RELAXED);
    event->recorded++;
    pthread_mutex_unlock(&event->lock);
}

/* Parameters that may lie in managed memory, or name pinned memory, are taken before the
 * device gets that, and while messages can still be sent for them. */
struct early {
    void *bytes;
    char room[512];
};

static CUresult
early_pack(struct early *early, const struct fdc_func *func, void **params,
           void **extra, uint32_t size)
{
    early->bytes = size <= sizeof(early->room) ? early->room : malloc(size);
    if (early->bytes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(early->bytes, 0, size);
    fdc_params_pack(func, params, extra, early->bytes, size);
    return CUDA_SUCCESS;
}

static void
early_end(struct early *early)
{
    if (FDC_UNLIKELY(early->bytes != NULL && early->bytes != early->room))
        free(early->bytes);
}

/* A module's kernel runs in its own context alone, a library's where the stream is. */
static CUresult
launch_context(struct fdc_call *call, const struct fdc_func *func,
               const struct fdc_stream *stream)
{
    call->context = stream->object.context;
    return func->code->context == NULL || func->code->context == call->context
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult
launch(CUfunction f, const struct launch *launch, CUstream value, unsigned how,
       void **params, void **extra)
{
    const struct fdc_shape *shape = &launch->shape;
    struct fdc_req_fdcLaunch *req;
    struct fdc_wire_func wire;
    struct fdc_stream *stream;
    struct fdc_func *func;
    static uint32_t said;
    struct fdc_call call;
    struct early early;
    uint32_t size, room, more;
    CUresult result;

    early.bytes = NULL;
    result = fdc_call_open(&call, FDC_ID_fdcLaunch, FDC_NEEDS_CONTEXT);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    func = fdc_func_find(f);
    if (FDC_UNLIKELY(func == NULL))
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_shape_check(call.context->device, func, shape);
    if (FDC_LIKELY(result == CUDA_SUCCESS))
        result = fdc_params_size(func, params, extra, &size);
    if (FDC_LIKELY(result == CUDA_SUCCESS) &&
        FDC_UNLIKELY(fdc_load_relaxed(&call.session->memory->managed) != NULL ||
                     fdc_load_relaxed(&call.session->memory->pinned_hi) != 0)) {
        result = early_pack(&early, func, params, extra, size);
        if (result == CUDA_SUCCESS)
            result = fdc_mapped_scan(call.session, early.bytes, size);
    }
    if (FDC_LIKELY(result == CUDA_SUCCESS))
        result = fdc_stream_resolve(&call, value, how, &stream);
    if (FDC_LIKELY(result == CUDA_SUCCESS))
        result = launch_context(&call, func, stream);
    if (FDC_LIKELY(result == CUDA_SUCCESS))
        result = fdc_func_wire(&call, func, &wire);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS)) {
        early_end(&early);
        return result;
    }

    if (FDC_UNLIKELY(launch->event != NULL)) {
        if (fdc_stream_capturing(stream))
            result = fdc_refuse("an event of a launch in a capture", &said);
        else if (launch->event->object.context != stream->object.context)
            result = CUDA_ERROR_INVALID_HANDLE;
        if (result != CUDA_SUCCESS) {
            early_end(&early);
            return result;
        }
    }

    room = FDC_ALIGN_UP(size, 8u);
    more = launch->attribute_count * (uint32_t)sizeof(*launch->attributes);
    req = fdc_call_begin(&call, (uint32_t)sizeof(*req) + room + more);
    if (FDC_UNLIKELY(req == NULL)) {
        early_end(&early);
        return call.result;
    }
    req->func = wire;
    req->grid = (struct fdc_dim3){shape->grid[0], shape->grid[1], shape->grid[2]};
    req->block = (struct fdc_dim3){shape->block[0], shape->block[1], shape->block[2]};
    req->cluster =
        (struct fdc_dim3){shape->cluster[0], shape->cluster[1], shape->cluster[2]};
    req->shared = shape->shared;
    req->flags = launch->flags;
    req->priority = launch->priority;
    req->stream = fdc_stream_wire(stream);
    req->params = (struct fdc_span){sizeof(*req), size};
    req->params_size = size;
    req->attributes = (struct fdc_span){(uint32_t)sizeof(*req) + room, more};
    req->attribute_count = launch->attribute_count;
    if (FDC_UNLIKELY(more != 0))
        memcpy((char *)(req + 1) + room, launch->attributes, more);
    /* Gaps between parameters, and what is behind them, are not the kernel's to see. */
    if (FDC_UNLIKELY(!func->solid || size != func->kernel->param_bytes))
        memset(req + 1, 0, room);
    else if (size != room)
        memset((char *)(req + 1) + room - 8, 0, 8);
    if (FDC_LIKELY(early.bytes == NULL))
        fdc_params_pack(func, params, extra, req + 1, size);
    else
        memcpy(req + 1, early.bytes, size);
    result = fdc_call_send(&call);
    early_end(&early);
    if (FDC_UNLIKELY(launch->event != NULL) && result == CUDA_SUCCESS)
        event_recorded(launch->event, stream);
    return result;
}

static CUresult
launch_plain(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
             unsigned by, unsigned bz, unsigned shared, CUstream stream, void **params,
             void **extra, bool cooperative, unsigned how)
{
    struct launch plain = {
        .shape = {.grid = {gx, gy, gz},
                  .block = {bx, by, bz},
                  .shared = shared,
                  .cooperative = cooperative},
        .flags = cooperative ? LAUNCH_COOPERATIVE : 0,
    };

    return launch(f, &plain, stream, how, params, extra);
}

/* The event of an attribute has to be one without a time. */
static CUresult
event_read(CUevent handle, struct launch *launch)
{
    struct fdc_event *event = fdc_object_find(FDC_KIND_EVENT, handle);

    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if ((event->flags & CU_EVENT_DISABLE_TIMING) == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (launch->event != NULL && launch->event != event)
        return CUDA_ERROR_NOT_SUPPORTED; /* one is all that is kept account of */
    launch->event = event;
    return CUDA_SUCCESS;
}

/* What is not told in the message's own fields goes along as it is. */
static CUresult
attribute_keep(const CUlaunchAttribute *attribute, struct launch *launch,
               CUlaunchAttribute kept[MOST_ATTRIBUTES])
{
    if (launch->attribute_count == MOST_ATTRIBUTES)
        return CUDA_ERROR_INVALID_VALUE;
    kept[launch->attribute_count] = *attribute;
    memset(kept[launch->attribute_count].pad, 0, sizeof(attribute->pad));
    launch->attribute_count++;
    launch->attributes = kept;
    return CUDA_SUCCESS;
}

static CUresult
attribute_read(const CUlaunchAttribute *attribute, struct launch *launch,
               CUlaunchAttribute kept[MOST_ATTRIBUTES])
{
    CUresult result;

    static uint32_t said;

    switch ((int)attribute->id) {
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        if (attribute->value.cooperative != 0) {
            launch->shape.cooperative = true;
            launch->flags |= LAUNCH_COOPERATIVE;
        }
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        launch->shape.cluster[0] = attribute->value.clusterDim.x;
        launch->shape.cluster[1] = attribute->value.clusterDim.y;
        launch->shape.cluster[2] = attribute->value.clusterDim.z;
        if (launch->shape.cluster[0] == 0 || launch->shape.cluster[1] == 0 ||
            launch->shape.cluster[2] == 0)
            return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
        if (attribute->value.programmaticStreamSerializationAllowed != 0)
            launch->flags |= LAUNCH_PROGRAMMATIC;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        launch->flags |= LAUNCH_PRIORITY;
        launch->priority = attribute->value.priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        if (attribute->value.deviceUpdatableKernelNode.deviceUpdatable == 0)
            return CUDA_SUCCESS;
        return fdc_refuse("a kernel node that the device updates", &said);
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
        result = event_read(attribute->value.programmaticEvent.event, launch);
        return result != CUDA_SUCCESS ? result : attribute_keep(attribute, launch, kept);
    case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
        result = event_read(attribute->value.launchCompletionEvent.event, launch);
        return result != CUDA_SUCCESS ? result : attribute_keep(attribute, launch, kept);
    case CU_LAUNCH_ATTRIBUTE_IGNORE:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY: /* of streams */
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
    case CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE:
    case CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE:
        return attribute_keep(attribute, launch, kept);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult
launch_config(const CUlaunchConfig *config, CUfunction f, void **params, void **extra,
              unsigned how)
{
    CUlaunchAttribute kept[MOST_ATTRIBUTES];
    struct launch asked = {.flags = 0};
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (config == NULL || (config->numAttrs != 0 && config->attrs == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    asked.shape = (struct fdc_shape){
        .grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
        .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
        .shared = config->sharedMemBytes,
    };
    for (unsigned int i = 0; i < config->numAttrs; i++) {
        result = attribute_read(&config->attrs[i], &asked, kept);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return launch(f, &asked, config->hStream, how, params, extra);
}

FDC_TWINS(cuLaunchKernel, _ptsz,
          (CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
           unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
           unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
           void **kernelParams, void **extra),
          launch_plain(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                       sharedMemBytes, hStream, kernelParams, extra, false, how))
FDC_TWINS(cuLaunchCooperativeKernel, _ptsz,
          (CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
           unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
           unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
           void **kernelParams),
          launch_plain(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                       sharedMemBytes, hStream, kernelParams, NULL, true, how))
FDC_TWINS(cuLaunchKernelEx, _ptsz,
          (const CUlaunchConfig *config, CUfunction f, void **kernelParams,
           void **extra),
          launch_config(config, f, kernelParams, extra, how))
