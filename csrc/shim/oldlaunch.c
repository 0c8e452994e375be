/*
 * Launches as CUDA 2 knew them: a function keeps its block's shape and its parameters, and
 * cuLaunch takes them from there. Put together out of today's calls; the CPU device has this
 * file too.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "fdc/base.h"

#define PARAMS 32764u /* bytes, as many as a kernel may have */

struct shape {
    int block[3];
    unsigned int shared, size;
};

/* What a function was told. It stays when the function goes: handles are not used again
 * soon, and programs of that age have few. */
struct told {
    struct told *next;
    CUfunction function;
    struct shape shape;
    unsigned char params[PARAMS];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct told *all;

/* Under the lock. The function has to be one. */
static CUresult
told_of(CUfunction function, struct told **told)
{
    int value;
    CUresult result =
        cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function);

    if (result != CUDA_SUCCESS)
        return result;
    for (*told = all; *told != NULL; *told = (*told)->next)
        if ((*told)->function == function)
            return CUDA_SUCCESS;
    *told = calloc(1, sizeof(**told));
    if (*told == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (*told)->function = function;
    (*told)->shape.block[0] = (*told)->shape.block[1] = (*told)->shape.block[2] = 1;
    (*told)->next = all;
    all = *told;
    return CUDA_SUCCESS;
}

static int
limit(CUdevice_attribute which)
{
    CUdevice device;
    int value = 0;

    if (cuCtxGetDevice(&device) != CUDA_SUCCESS ||
        cuDeviceGetAttribute(&value, which, device) != CUDA_SUCCESS)
        return 0;
    return value;
}

static CUresult
set_block(struct told *told, int x, int y, int z)
{
    const int block[3] = {x, y, z};
    long threads = 1;

    for (int i = 0; i < 3; i++) {
        if (block[i] < 1 || block[i] > limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i))
            return CUDA_ERROR_INVALID_VALUE;
        threads *= block[i];
    }
    if (threads > limit(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(told->shape.block, block, sizeof(block));
    return CUDA_SUCCESS;
}

static CUresult
set_shared(struct told *told, unsigned int bytes)
{
    if (bytes > (unsigned)limit(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK))
        return CUDA_ERROR_INVALID_VALUE;
    told->shape.shared = bytes;
    return CUDA_SUCCESS;
}

static CUresult
set_size(struct told *told, unsigned int size)
{
    if (size > PARAMS)
        return CUDA_ERROR_INVALID_VALUE;
    told->shape.size = size;
    return CUDA_SUCCESS;
}

static CUresult
set_bytes(struct told *told, int offset, const void *bytes, unsigned int size)
{
    if (offset < 0 || (unsigned)offset > PARAMS || size > PARAMS - (unsigned)offset ||
        (bytes == NULL && size != 0))
        return CUDA_ERROR_INVALID_VALUE;
    if (size != 0)
        memcpy(told->params + offset, bytes, size);
    return CUDA_SUCCESS;
}

#define TELL(name, params, what)                                                       \
    FDC_EXPORT CUresult name params                                                    \
    {                                                                                  \
        struct told *told;                                                             \
        CUresult result;                                                               \
                                                                                       \
        pthread_mutex_lock(&lock);                                                     \
        result = told_of(hfunc, &told);                                                \
        if (result == CUDA_SUCCESS)                                                    \
            result = what;                                                             \
        pthread_mutex_unlock(&lock);                                                   \
        return result;                                                                 \
    }

TELL(cuFuncSetBlockShape, (CUfunction hfunc, int x, int y, int z),
     set_block(told, x, y, z))
TELL(cuFuncSetSharedSize, (CUfunction hfunc, unsigned int bytes),
     set_shared(told, bytes))
TELL(cuParamSetSize, (CUfunction hfunc, unsigned int numbytes),
     set_size(told, numbytes))
TELL(cuParamSeti, (CUfunction hfunc, int offset, unsigned int value),
     set_bytes(told, offset, &value, sizeof(value)))
TELL(cuParamSetf, (CUfunction hfunc, int offset, float value),
     set_bytes(told, offset, &value, sizeof(value)))
TELL(cuParamSetv, (CUfunction hfunc, int offset, void *ptr, unsigned int numbytes),
     set_bytes(told, offset, ptr, numbytes))

/* A module's references are its kernels' anyway. */
FDC_EXPORT CUresult
cuParamSetTexRef(CUfunction hfunc, int texunit, CUtexref hTexRef)
{
    unsigned int flags;
    struct told *told;
    CUresult result = cuTexRefGetFlags(&flags, hTexRef);

    if (result != CUDA_SUCCESS)
        return result;
    if (texunit != CU_PARAM_TR_DEFAULT)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    result = told_of(hfunc, &told);
    pthread_mutex_unlock(&lock);
    return result;
}

/* The buffer has at least all of the kernel's parameters: what was not set is 0. */
static size_t
size_of(CUfunction function, size_t size)
{
    size_t offset, bytes;

    for (size_t i = 0; cuFuncGetParamInfo(function, i, &offset, &bytes) == CUDA_SUCCESS;
         i++)
        if (offset + bytes > size)
            size = offset + bytes;
    return size;
}

static CUresult
launch(CUfunction function, int width, int height, CUstream stream)
{
    unsigned char params[PARAMS];
    struct told *told;
    struct shape as;
    size_t size = 0;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, params, CU_LAUNCH_PARAM_BUFFER_SIZE,
                     &size, CU_LAUNCH_PARAM_END};
    CUresult result;

    if (width < 1 || height < 1)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    result = told_of(function, &told);
    if (result == CUDA_SUCCESS) {
        as = told->shape;
        memcpy(params, told->params, sizeof(params));
    }
    pthread_mutex_unlock(&lock);
    if (result != CUDA_SUCCESS)
        return result;
    size = size_of(function, as.size);
    if (size > PARAMS)
        return CUDA_ERROR_INVALID_VALUE;
    return cuLaunchKernel(function, (unsigned)width, (unsigned)height, 1,
                          (unsigned)as.block[0], (unsigned)as.block[1],
                          (unsigned)as.block[2], as.shared, stream, NULL,
                          size != 0 ? extra : NULL);
}

FDC_EXPORT CUresult
cuLaunch(CUfunction f)
{
    return launch(f, 1, 1, NULL);
}

FDC_EXPORT CUresult
cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
    return launch(f, grid_width, grid_height, NULL);
}

FDC_EXPORT CUresult
cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream)
{
    return launch(f, grid_width, grid_height, hStream);
}
