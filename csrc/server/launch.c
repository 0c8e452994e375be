/*
 * Launches. The parameters arrive packed in the kernel's own layout and go to the driver
 * as they are, in the `extra` form; the message is the worker's copy, and a driver takes
 * parameters before it returns.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <string.h>

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
    CUlaunchAttribute attribute[4];
    CUlaunchConfig config;
    CUfunction function;
    uint32_t needed = 0;
    unsigned n = 0;
    CUresult result;

    if (req->params.size != req->params_size || (size != 0 && params == NULL))
        return -EPROTO;
    memset(&config, 0, sizeof(config));
    result = fdc_handle_stream(request->serve, req->stream, &config.hStream);
    if (result == CUDA_SUCCESS)
        result = fdc_code_kernel(request->serve, req->func, &function, &needed);
    if (result == CUDA_SUCCESS && size < needed)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        goto answer;
    fdc_count(request->serve, launches, 1);

    if (req->flags == 0 && req->cluster.x == 0 && !FDC_LAUNCH_HAS_PRIORITY(req)) {
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
