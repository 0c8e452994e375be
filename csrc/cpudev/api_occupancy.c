/* Occupancy: what fits on a multiprocessor of this device, by the usual arithmetic. */
#include <string.h>

#include "cpudev.h"

/* Blocks of f that fit on one multiprocessor; 0: not even one. */
static int
blocks_per_sm(const struct fdcpu_function *f, int threads, size_t dynamic)
{
    const struct fdcpu_func_info *info = fdcpu_func_info(f->func);
    uint64_t shared = FDC_ALIGN_UP(
        (uint64_t)info->static_shared + dynamic + FDCPU_SHARED_RESERVED, 128);
    uint32_t warps = ((uint32_t)threads + FDCPU_WARP - 1) / FDCPU_WARP;
    uint32_t regs =
        FDC_ALIGN_UP((info->num_regs == 0 ? 1 : info->num_regs) * FDCPU_WARP, 256u);
    uint32_t n = FDCPU_SM_BLOCKS, by;

    if (threads > (int)info->max_threads ||
        dynamic > (size_t)fdcpu_function_dynamic(f, info))
        return 0;
    by = FDCPU_SM_THREADS / (warps * FDCPU_WARP);
    n = by < n ? by : n;
    by = FDCPU_SM_REGISTERS / regs / warps;
    n = by < n ? by : n;
    by = (uint32_t)(fdcpu_sm_shared() / shared);
    n = by < n ? by : n;
    return (int)n;
}

static CUresult
enter(CUfunction func, struct fdcpu_function **f)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    return result == CUDA_SUCCESS ? fdcpu_function_get(func, ctx, f) : result;
}

FDC_EXPORT CUresult
cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func,
                                                     int blockSize,
                                                     size_t dynamicSMemSize,
                                                     unsigned int flags)
{
    struct fdcpu_function *f;
    CUresult result = enter(func, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if (numBlocks == NULL || blockSize <= 0 || flags > 1)
        return CUDA_ERROR_INVALID_VALUE;
    *numBlocks = blockSize > FDCPU_MAX_THREADS
                     ? 0
                     : blocks_per_sm(f, blockSize, dynamicSMemSize);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize,
                                          CUfunction func,
                                          CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                          size_t dynamicSMemSize, int blockSizeLimit,
                                          unsigned int flags)
{
    struct fdcpu_function *f;
    CUresult result = enter(func, &f);
    int limit, size, n, best = 0;

    if (result != CUDA_SUCCESS)
        return result;
    if (minGridSize == NULL || blockSize == NULL || blockSizeLimit < 0 || flags > 1)
        return CUDA_ERROR_INVALID_VALUE;
    limit = (int)fdcpu_func_index(f->func)->max_threads;
    if (blockSizeLimit > 0 && blockSizeLimit < limit)
        limit = blockSizeLimit;
    *blockSize = *minGridSize = 0;
    /* The largest block among those that keep most threads busy. */
    for (size = limit; size > 0; size = size % FDCPU_WARP == 0
                                            ? size - FDCPU_WARP
                                            : size / FDCPU_WARP * FDCPU_WARP) {
        if (blockSizeToDynamicSMemSize != NULL)
            dynamicSMemSize = blockSizeToDynamicSMemSize(size);
        n = blocks_per_sm(f, size, dynamicSMemSize);
        if (n * size > best) {
            best = n * size;
            *blockSize = size;
            *minGridSize = n * FDCPU_SMS;
        }
        if (best == FDCPU_SM_THREADS)
            break;
    }
    return best == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func,
                                        int numBlocks, int blockSize)
{
    struct fdcpu_function *f;
    CUresult result = enter(func, &f);
    int64_t room, fixed;

    if (result != CUDA_SUCCESS)
        return result;
    if (dynamicSmemSize == NULL || numBlocks <= 0 || blockSize <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    fixed = fdcpu_func_info(f->func)->static_shared;
    room = fdcpu_sm_shared() / numBlocks / 128 * 128 - FDCPU_SHARED_RESERVED - fixed;
    if (room > fdcpu_shared_optin() - fixed)
        room = fdcpu_shared_optin() - fixed;
    if (room < 0 || blocks_per_sm(f, blockSize, 0) < numBlocks)
        return CUDA_ERROR_INVALID_VALUE;
    *dynamicSmemSize = (size_t)room;
    return CUDA_SUCCESS;
}

/* This device has no clusters unless it poses as one that does. */
FDC_EXPORT CUresult
cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
                                   const CUlaunchConfig *config)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    (void)func;
    if (result != CUDA_SUCCESS)
        return result;
    if (clusterSize == NULL || config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *clusterSize = fdcpu.opt.cc >= 90 ? 8 : 1;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
                             const CUlaunchConfig *config)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    (void)func;
    if (result != CUDA_SUCCESS)
        return result;
    if (numClusters == NULL || config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdcpu.opt.cc < 90)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    *numClusters = FDCPU_SMS;
    return CUDA_SUCCESS;
}
