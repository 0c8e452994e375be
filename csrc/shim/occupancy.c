/*
 * Occupancy: arithmetic over what is known of the device and the function. The
 * allocation units are those of every device since compute capability 7.0.
 */
#include <string.h>

#include "code.h"
#include "cuda_calls.h"

#define REGISTER_UNIT 256u /* registers are given to a warp in these */
#define SHARED_UNIT 128u   /* ... and shared memory to a block */
#define PARTITIONS 4u      /* of a multiprocessor's registers */

static uint32_t
limit_of(const struct fdc_device *device, CUdevice_attribute which)
{
    int32_t value = device->snapshot->attribute[which];

    return value > 0 ? (uint32_t)value : 0;
}

static uint32_t
attribute_of(const struct fdc_func *func, CUfunction_attribute which)
{
    int32_t value = fdc_load_relaxed(&func->attribute[which]);

    return value > 0 ? (uint32_t)value : 0;
}

static uint32_t
smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int
fdc_occupancy_blocks(const struct fdc_device *device, const struct fdc_func *func,
                     uint32_t threads, uint64_t shared)
{
    uint32_t warp = limit_of(device, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    uint32_t warps_most, warps, blocks, registers;
    uint64_t memory, most;

    if (warp == 0)
        warp = 32;
    most = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (attribute_of(func, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) != 0)
        most = smaller((uint32_t)most,
                       attribute_of(func, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
    if (threads == 0 || threads > most)
        return 0;
    warps = (threads + warp - 1) / warp;
    warps_most =
        limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR) / warp;
    blocks = warps_most / warps;
    if (limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR) != 0)
        blocks = smaller(
            blocks,
            limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR));

    registers = attribute_of(func, CU_FUNC_ATTRIBUTE_NUM_REGS);
    if (registers != 0) {
        uint32_t each = FDC_ALIGN_UP(registers * warp, REGISTER_UNIT);
        uint32_t part =
            limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR) /
            PARTITIONS;

        blocks = smaller(blocks, part / each * PARTITIONS / warps);
    }

    memory = shared + attribute_of(func, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    most = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    if (most < limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK))
        most = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    if (memory > most)
        return 0;
    memory += limit_of(device, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    if (memory != 0) {
        memory = FDC_ALIGN_UP(memory, (uint64_t)SHARED_UNIT);
        most =
            limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) /
            memory;
        if (most < blocks)
            blocks = (uint32_t)most;
    }
    return (int)blocks;
}

/* A function and the device that is current. */
static CUresult
open(CUfunction handle, struct fdc_func **func, struct fdc_device **device)
{
    struct fdc_context *context;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    context = fdc_context_current();
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *device = context->device;
    *func = fdc_func_find(handle);
    return *func != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FDC_EXPORT CUresult
cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func,
                                                     int blockSize,
                                                     size_t dynamicSMemSize,
                                                     unsigned int flags)
{
    struct fdc_device *device;
    struct fdc_func *found;
    CUresult result;

    result = open(func, &found, &device);
    if (result != CUDA_SUCCESS)
        return result;
    if (numBlocks == NULL || blockSize <= 0 ||
        flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    *numBlocks =
        fdc_occupancy_blocks(device, found, (uint32_t)blockSize, dynamicSMemSize);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize,
                                          CUfunction func,
                                          CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                          size_t dynamicSMemSize, int blockSizeLimit,
                                          unsigned int flags)
{
    uint32_t warp, most, best = 0, best_size = 0, best_blocks = 0;
    struct fdc_device *device;
    struct fdc_func *found;
    CUresult result;

    result = open(func, &found, &device);
    if (result != CUDA_SUCCESS)
        return result;
    if (minGridSize == NULL || blockSize == NULL || blockSizeLimit < 0 ||
        flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)
        return CUDA_ERROR_INVALID_VALUE;
    warp = limit_of(device, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    if (warp == 0)
        warp = 32;
    most = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (attribute_of(found, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) != 0)
        most =
            smaller(most, attribute_of(found, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
    if (blockSizeLimit != 0)
        most = smaller(most, (uint32_t)blockSizeLimit);

    /* From the largest down: of sizes that fill as much, the largest is taken. */
    for (uint32_t size = FDC_ALIGN_UP(most, warp); size >= warp; size -= warp) {
        uint32_t threads = smaller(size, most), blocks;
        size_t shared = blockSizeToDynamicSMemSize != NULL
                            ? blockSizeToDynamicSMemSize((int)threads)
                            : dynamicSMemSize;

        blocks = (uint32_t)fdc_occupancy_blocks(device, found, threads, shared);
        if (blocks * threads > best) {
            best = blocks * threads;
            best_size = threads;
            best_blocks = blocks;
        }
        if (best ==
            limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR))
            break;
    }
    *blockSize = (int)best_size;
    *minGridSize =
        (int)(best_blocks * limit_of(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func,
                                        int numBlocks, int blockSize)
{
    uint64_t each, taken, most;
    struct fdc_device *device;
    struct fdc_func *found;
    CUresult result;

    result = open(func, &found, &device);
    if (result != CUDA_SUCCESS)
        return result;
    if (dynamicSmemSize == NULL || numBlocks <= 0 || blockSize <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_occupancy_blocks(device, found, (uint32_t)blockSize, 0) < numBlocks)
        return CUDA_ERROR_INVALID_VALUE;
    each = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) /
           (uint32_t)numBlocks / SHARED_UNIT * SHARED_UNIT;
    taken = attribute_of(found, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    most = limit_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    if (attribute_of(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) + taken >
        most)
        most = attribute_of(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) +
               taken;
    each -=
        smaller((uint32_t)each,
                limit_of(device, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK));
    if (each > most)
        each = most;
    *dynamicSmemSize = each > taken ? each - taken : 0;
    return CUDA_SUCCESS;
}

/* ---- clusters ---- */

static uint32_t
cluster_of(const CUlaunchConfig *config, const struct fdc_func *func)
{
    uint64_t size = 0;

    for (unsigned int i = 0; i < config->numAttrs && config->attrs != NULL; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            size = (uint64_t)config->attrs[i].value.clusterDim.x *
                   config->attrs[i].value.clusterDim.y *
                   config->attrs[i].value.clusterDim.z;
    if (size == 0 && func != NULL &&
        attribute_of(func, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH) != 0)
        size = (uint64_t)attribute_of(func, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH) *
               attribute_of(func, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT) *
               attribute_of(func, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH);
    return size == 0 ? 1 : size > 1024 ? 1024 : (uint32_t)size;
}

/* How many blocks of the configuration the device holds; function may be NULL. */
static CUresult
cluster_open(CUfunction handle, const CUlaunchConfig *config, struct fdc_func **func,
             struct fdc_device **device, uint64_t *blocks)
{
    struct fdc_context *context;
    uint64_t threads;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    context = fdc_context_current();
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (config == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = context->device;
    *func = NULL;
    threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    if (threads == 0 ||
        threads > limit_of(*device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK))
        return CUDA_ERROR_INVALID_VALUE;
    if (handle != NULL) {
        *func = fdc_func_find(handle);
        if (*func == NULL)
            return CUDA_ERROR_INVALID_HANDLE;
        *blocks = (uint64_t)fdc_occupancy_blocks(*device, *func, (uint32_t)threads,
                                                 config->sharedMemBytes);
    } else {
        *blocks =
            limit_of(*device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR) /
            threads;
    }
    *blocks *= limit_of(*device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
                             const CUlaunchConfig *config)
{
    struct fdc_device *device;
    struct fdc_func *found;
    CUresult result;
    uint64_t blocks;
    uint32_t size;

    result = cluster_open(func, config, &found, &device, &blocks);
    if (result != CUDA_SUCCESS)
        return result;
    if (numClusters == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    size = cluster_of(config, found);
    if (size > 1 && limit_of(device, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH) == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    *numClusters = (int)(blocks / size);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
                                   const CUlaunchConfig *config)
{
    struct fdc_device *device;
    struct fdc_func *found;
    uint32_t size = 8;
    CUresult result;
    uint64_t blocks;

    result = cluster_open(func, config, &found, &device, &blocks);
    if (result != CUDA_SUCCESS)
        return result;
    if (clusterSize == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (found == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (limit_of(device, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH) == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (attribute_of(found, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED))
        size = 16;
    while (size > 1 && size > blocks)
        size /= 2;
    *clusterSize = (int)size;
    return CUDA_SUCCESS;
}
