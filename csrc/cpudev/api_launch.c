/* Launches: arguments checked as a driver checks them, parameters packed. */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

static CUresult
check_shape(const struct fdcpu_function *f, const struct fdcpu_func_info *info,
            const uint32_t grid[3], const uint32_t block[3], const uint32_t cluster[3],
            uint32_t shared, bool cooperative)
{
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    uint64_t size = (uint64_t)cluster[0] * cluster[1] * cluster[2];
    int i, per_sm;

    if (blocks == 0 || threads == 0 || grid[0] > 0x7FFFFFFF || grid[1] > 65535 ||
        grid[2] > 65535 || block[0] > 1024 || block[1] > 1024 || block[2] > 64 ||
        threads > FDCPU_MAX_THREADS)
        return CUDA_ERROR_INVALID_VALUE;
    if (threads > info->max_threads)
        return CUDA_ERROR_INVALID_VALUE; /* beyond .maxntid: as drivers say it */
    for (i = 0; i < 3; i++)
        if (info->reqntid[0] != 0 && info->reqntid[i] != 0 &&
            block[i] != info->reqntid[i])
            return CUDA_ERROR_INVALID_VALUE;
    if (shared > (uint32_t)fdcpu_function_dynamic(f, info))
        return CUDA_ERROR_INVALID_VALUE;
    if (size > 1) {
        if (fdcpu.opt.cc < 90 || size > (f->nonportable ? 16 : 8))
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        for (i = 0; i < 3; i++)
            if (grid[i] % cluster[i] != 0)
                return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    }
    if (cooperative) {
        CUresult result = cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &per_sm, (CUfunction)(uintptr_t)f->handle, (int)threads, shared);

        if (result != CUDA_SUCCESS)
            return result;
        if (blocks > (uint64_t)per_sm * FDCPU_SMS ||
            blocks > fdcpu_max_cooperative_blocks(f->func, (uint32_t)threads, shared))
            return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    return CUDA_SUCCESS;
}

/* What `extra` says: a packed buffer and its size. */
static CUresult
read_extra(void **extra, const void **buffer, size_t *size)
{
    size_t i;

    *buffer = NULL;
    *size = 0;
    for (i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            *buffer = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            *size = *(size_t *)extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    return *buffer == NULL && *size != 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* Packs the parameters into the work. */
static CUresult
pack(struct fdcpu_work *work, const struct fdcpu_func_info *info, void **params,
     void **extra)
{
    char *bytes = work->u.kernel.params;
    void **pointers = work->u.kernel.pointers;
    uint32_t i, n = info->nparams;
    const void *buffer = NULL;
    size_t size = 0;
    CUresult result;

    for (i = 0; i < n; i++)
        pointers[i] = bytes + info->params[i].offset;
    if (params != NULL) {
        if (extra != NULL && extra[0] != CU_LAUNCH_PARAM_END)
            return CUDA_ERROR_INVALID_VALUE;
        for (i = 0; i < info->nparams; i++) {
            if (params[i] == NULL)
                return CUDA_ERROR_INVALID_VALUE;
            memcpy(work->u.kernel.pointers[i], params[i], info->params[i].size);
        }
        return CUDA_SUCCESS;
    }
    if (extra != NULL) {
        result = read_extra(extra, &buffer, &size);
        if (result != CUDA_SUCCESS)
            return result;
        /* A buffer may end before the padding of the last parameter. */
        if (info->nparams > 0 && size < (size_t)info->params[info->nparams - 1].offset +
                                            info->params[info->nparams - 1].size)
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(bytes, buffer, size < info->param_size ? size : info->param_size);
        return CUDA_SUCCESS;
    }
    return info->nparams == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult
fdcpu_launch_prepare(struct fdcpu_ctx *ctx, void *handle, const uint32_t grid[3],
                     const uint32_t block[3], const uint32_t cluster[3],
                     uint32_t shared, bool cooperative, void **params, void **extra,
                     struct fdcpu_work **out)
{
    const struct fdcpu_func_info *info;
    struct fdcpu_function *f;
    struct fdcpu_work *work;
    uint32_t use[3];
    CUresult result = fdcpu_function_get(handle, ctx, &f);
    int i;

    if (result != CUDA_SUCCESS)
        return result;
    if (f->module->ctx != ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    info = fdcpu_func_info(f->func);
    for (i = 0; i < 3; i++) {
        use[i] = cluster != NULL && cluster[i] != 0 ? cluster[i]
                 : f->cluster[i] != 0               ? (uint32_t)f->cluster[i]
                                                    : info->reqnctapercluster[i];
        if (use[i] == 0)
            use[i] = 1;
    }
    result = check_shape(f, info, grid, block, use, shared, cooperative);
    if (result != CUDA_SUCCESS)
        return result;
    work = fdcpu_work_kernel(ctx, info->param_size, info->nparams);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.kernel.function = f;
    atomic_fetch_add(&f->refs, 1);
    work->u.kernel.asked = handle;
    memcpy(work->u.kernel.grid, grid, sizeof(work->u.kernel.grid));
    memcpy(work->u.kernel.block, block, sizeof(work->u.kernel.block));
    memcpy(work->u.kernel.cluster, use, sizeof(use));
    work->u.kernel.shared = shared;
    work->u.kernel.cooperative = cooperative;
    result = pack(work, info, params, extra);
    if (result != CUDA_SUCCESS) {
        fdcpu_work_free(work);
        return result;
    }
    *out = work;
    return CUDA_SUCCESS;
}

static CUresult
launch(CUfunction function, const uint32_t grid[3], const uint32_t block[3],
       const uint32_t cluster[3], uint32_t shared, CUstream hStream, bool cooperative,
       void **params, void **extra)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    if (function == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdcpu_launch_prepare(stream->ctx, function, grid, block, cluster, shared,
                                  cooperative, params, extra, &work);
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    return fdcpu_stream_do(stream, work, fdcpu.opt.blocking ? FDCPU_DO_WAIT : 0);
}

#define GRID                                                                           \
    (const uint32_t[3])                                                                \
    {                                                                                  \
        gridDimX, gridDimY, gridDimZ                                                   \
    }
#define BLOCK                                                                          \
    (const uint32_t[3])                                                                \
    {                                                                                  \
        blockDimX, blockDimY, blockDimZ                                                \
    }

FDCPU_TWIN(cuLaunchKernel, _ptsz,
           (CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
            unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
            unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
            void **kernelParams, void **extra),
           launch(f, GRID, BLOCK, NULL, sharedMemBytes, S(hStream), false, kernelParams,
                  extra))
FDCPU_TWIN(cuLaunchCooperativeKernel, _ptsz,
           (CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
            unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
            unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
            void **kernelParams),
           launch(f, GRID, BLOCK, NULL, sharedMemBytes, S(hStream), true, kernelParams,
                  NULL))

static CUresult
launch_ex(const CUlaunchConfig *config, CUfunction f, void **params, void **extra,
          bool twin)
{
    uint32_t cluster[3] = {0, 0, 0};
    struct fdcpu_event *event;
    CUevent after = NULL;
    bool cooperative = false;
    CUresult result;
    unsigned int i;

    if (config == NULL || (config->numAttrs > 0 && config->attrs == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttribute *a = &config->attrs[i];

        switch ((int)a->id) {
        case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
            cooperative = a->value.cooperative != 0;
            break;
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            cluster[0] = a->value.clusterDim.x;
            cluster[1] = a->value.clusterDim.y;
            cluster[2] = a->value.clusterDim.z;
            if (cluster[0] == 0 || cluster[1] == 0 || cluster[2] == 0)
                return CUDA_ERROR_INVALID_VALUE;
            break;
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
        case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
            if (after != NULL && after != a->value.launchCompletionEvent.event)
                return CUDA_ERROR_NOT_SUPPORTED;
            after = a->value.launchCompletionEvent.event; /* both begin with it */
            event = FDCPU_GET(FDCPU_H_EVENT, after);
            if (event == NULL)
                return CUDA_ERROR_INVALID_HANDLE;
            if ((event->flags & CU_EVENT_DISABLE_TIMING) == 0)
                return CUDA_ERROR_NOT_SUPPORTED;
            break;
        default:
            break; /* advice to a scheduler */
        }
    }
    result = launch(
        f, (const uint32_t[3]){config->gridDimX, config->gridDimY, config->gridDimZ},
        (const uint32_t[3]){config->blockDimX, config->blockDimY, config->blockDimZ},
        cluster, config->sharedMemBytes, S(config->hStream), cooperative, params,
        extra);
    if (result == CUDA_SUCCESS && after != NULL)
        result = cuEventRecord(after, S(config->hStream));
    return result;
}

FDC_EXPORT CUresult
cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                 void **extra)
{
    return launch_ex(config, f, kernelParams, extra, false);
}

FDC_EXPORT CUresult
cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                      void **extra)
{
    return launch_ex(config, f, kernelParams, extra, true);
}
