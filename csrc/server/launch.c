/*
 * Launches. The parameters arrive packed in the kernel's own layout and go to the driver
 * as they are, in the `extra` form; the message is the worker's copy, and a driver takes
 * parameters before it returns.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <string.h>

enum { OWN = 4, MORE = 16 }; /* attributes: of the message's fields, besides */

/* One that came as it is: what it names is looked up. */
static CUresult
attribute_take(struct fdc_serve *serve, CUlaunchAttribute *attribute)
{
    CUlaunchAttributeValue *value = &attribute->value;

    switch ((int)attribute->id) {
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
        return fdc_event_for_record(serve, (uintptr_t)value->programmaticEvent.event,
                                    &value->programmaticEvent.event);
    case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
        return fdc_event_for_record(serve, (uintptr_t)value->launchCompletionEvent.event,
                                    &value->launchCompletionEvent.event);
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        return value->accessPolicyWindow.num_bytes == 0
                   ? CUDA_SUCCESS
                   : fdc_memory_reach(serve, (uintptr_t)value->accessPolicyWindow.base_ptr,
                                      value->accessPolicyWindow.num_bytes);
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
    case CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE:
    case CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

int
fdc_server_call_fdcLaunch(struct fdc_request *request, const struct fdc_req_fdcLaunch *req)
{
    const struct fdc_driver *driver = request->driver;
    const void *params = fdc_request_span(request, req->params);
    size_t size = req->params_size;
    void *extra[] = {
        CU_LAUNCH_PARAM_BUFFER_POINTER, (void *)(uintptr_t)params,
        CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END,
    };
    CUlaunchAttribute attribute[OWN + MORE];
    const void *more;
    CUlaunchConfig config;
    CUfunction function;
    uint32_t needed = 0;
    unsigned n = 0;
    CUresult result;

    if (req->params.size != req->params_size || (size != 0 && params == NULL))
        return -EPROTO;
    if (req->attribute_count > MORE ||
        req->attributes.size != req->attribute_count * sizeof(attribute[0]))
        return -EPROTO;
    memset(&config, 0, sizeof(config));
    result = fdc_handle_stream(request->serve, req->stream, &config.hStream);
    if (result == CUDA_SUCCESS)
        result = fdc_code_kernel(request->serve, req->func, &function, &needed);
    if (result == CUDA_SUCCESS && size < needed)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        goto answer;
    fdc_count_own(request->serve, launches);

    if (req->flags == 0 && req->cluster.x == 0 && req->attribute_count == 0) {
        result = driver->cuLaunchKernel(
            function, req->grid.x, req->grid.y, req->grid.z, req->block.x, req->block.y,
            req->block.z, req->shared, config.hStream, NULL, size != 0 ? extra : NULL);
        goto answer;
    }
    memset(attribute, 0, sizeof(attribute));
    if (req->flags & FDC_LAUNCH_COOPERATIVE) {
        attribute[n].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attribute[n++].value.cooperative = 1;
    }
    if (req->flags & FDC_LAUNCH_PROGRAMMATIC) {
        attribute[n].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute[n++].value.programmaticStreamSerializationAllowed = 1;
    }
    if (req->cluster.x != 0) {
        attribute[n].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute[n].value.clusterDim.x = req->cluster.x;
        attribute[n].value.clusterDim.y = req->cluster.y;
        attribute[n++].value.clusterDim.z = req->cluster.z;
    }
    if (FDC_LAUNCH_HAS_PRIORITY(req)) {
        attribute[n].id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
        attribute[n++].value.priority = req->priority;
    }
    if (req->attribute_count != 0) {
        more = fdc_request_span(request, req->attributes);
        if (more == NULL)
            return -EPROTO;
        memcpy(&attribute[n], more, req->attributes.size);
        for (uint32_t i = 0; i < req->attribute_count && result == CUDA_SUCCESS; i++)
            result = attribute_take(request->serve, &attribute[n++]);
        if (result != CUDA_SUCCESS)
            goto answer;
    }
    config.gridDimX = req->grid.x;
    config.gridDimY = req->grid.y;
    config.gridDimZ = req->grid.z;
    config.blockDimX = req->block.x;
    config.blockDimY = req->block.y;
    config.blockDimZ = req->block.z;
    config.sharedMemBytes = req->shared;
    config.attrs = attribute;
    config.numAttrs = n;
    if (FDC_HAS(driver, cuLaunchKernelEx))
        result = driver->cuLaunchKernelEx(&config, function, NULL, size != 0 ? extra : NULL);
    else
        result = CUDA_ERROR_NOT_SUPPORTED;
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- occupancy: what the shim cannot compute ---- */

int
fdc_server_call_fdcOccupancyBlocks(struct fdc_request *request,
                                   const struct fdc_req_fdcOccupancyBlocks *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcOccupancyBlocks reply = { 0 };
    CUfunction function;
    CUresult result;

    result = fdc_code_function(request->serve, req->func, &function);
    if (result == CUDA_SUCCESS)
        result = driver->cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            &reply.blocks, function, req->block, req->shared, req->flags);
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcOccupancyShared(struct fdc_request *request,
                                   const struct fdc_req_fdcOccupancyShared *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcOccupancyShared reply = { 0 };
    CUfunction function;
    size_t shared = 0;
    CUresult result;

    result = fdc_code_function(request->serve, req->func, &function);
    if (result == CUDA_SUCCESS)
        result = FDC_HAS(driver, cuOccupancyAvailableDynamicSMemPerBlock)
                     ? driver->cuOccupancyAvailableDynamicSMemPerBlock(
                           &shared, function, req->blocks, req->block)
                     : CUDA_ERROR_NOT_SUPPORTED;
    reply.shared = shared;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcOccupancyClusters(struct fdc_request *request,
                                     const struct fdc_req_fdcOccupancyClusters *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcOccupancyClusters reply = { 0 };
    CUlaunchAttribute attribute;
    CUlaunchConfig config;
    CUfunction function = NULL;
    CUresult result = CUDA_SUCCESS;

    memset(&config, 0, sizeof(config));
    memset(&attribute, 0, sizeof(attribute));
    if (req->func.code != 0)            /* cuBLAS asks without a function */
        result = fdc_code_function(request->serve, req->func, &function);
    if (result == CUDA_SUCCESS && (!FDC_HAS(driver, cuOccupancyMaxActiveClusters) ||
                                   !FDC_HAS(driver, cuOccupancyMaxPotentialClusterSize)))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    config.gridDimX = req->grid.x;
    config.gridDimY = req->grid.y;
    config.gridDimZ = req->grid.z;
    config.blockDimX = req->block.x;
    config.blockDimY = req->block.y;
    config.blockDimZ = req->block.z;
    config.sharedMemBytes = req->shared;
    if (req->cluster.x != 0) {
        attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute.value.clusterDim.x = req->cluster.x;
        attribute.value.clusterDim.y = req->cluster.y;
        attribute.value.clusterDim.z = req->cluster.z;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    if (req->question == 0)
        result = driver->cuOccupancyMaxActiveClusters(&reply.clusters, function, &config);
    else
        result = driver->cuOccupancyMaxPotentialClusterSize(&reply.clusters, function,
                                                            &config);
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
