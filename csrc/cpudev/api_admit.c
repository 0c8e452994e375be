/*
 * What a device asks of a context. Memory, where FD_CPU_CONTEXT_MB says so: GPUs keep
 * some for each, and for the heap of its kernels. And that no other process has one, where
 * FD_CPU_EXCLUSIVE names a file: a process with contexts on a device holds the lock of that
 * device's byte there.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpudev.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int contexts[FDCPU_MAX_DEVICES]; /* under the lock */
static int file = -1;

static bool
set(const struct fdcpu_device *device, short type)
{
    struct flock flock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = device->physical, .l_len = 1};

    if (file < 0)
        file = open(getenv("FD_CPU_EXCLUSIVE"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return file >= 0 && fcntl(file, F_OFD_SETLK, &flock) == 0;
}

CUresult
fdcpu_admit(struct fdcpu_device *device)
{
    CUresult result = CUDA_SUCCESS;

    if (!fdcpu_charge(device, fdcpu.opt.context))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!fdcpu.opt.exclusive)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (contexts[device->ordinal] == 0 && !set(device, F_WRLCK))
        result = CUDA_ERROR_DEVICE_UNAVAILABLE;
    else
        contexts[device->ordinal]++;
    pthread_mutex_unlock(&lock);
    if (result != CUDA_SUCCESS)
        fdcpu_uncharge(device, fdcpu.opt.context);
    return result;
}

void
fdcpu_admit_end(struct fdcpu_device *device)
{
    fdcpu_uncharge(device, fdcpu.opt.context);
    if (!fdcpu.opt.exclusive)
        return;
    pthread_mutex_lock(&lock);
    if (--contexts[device->ordinal] == 0)
        set(device, F_UNLCK);
    pthread_mutex_unlock(&lock);
}

CUresult
fdcpu_admit_heap(struct fdcpu_ctx *ctx, size_t value)
{
    size_t had = ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE];

    if (fdcpu.opt.context == 0)
        return CUDA_SUCCESS;
    if (value > had && !fdcpu_charge(ctx->device, value - had))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (value < had)
        fdcpu_uncharge(ctx->device, had - value);
    return CUDA_SUCCESS;
}
