/*
 * Exclusive-process mode, where FD_CPU_EXCLUSIVE names a file: a process with contexts on a
 * device holds the lock of that device's byte there, and no other process gets contexts.
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
fdcpu_exclusive_enter(struct fdcpu_device *device)
{
    CUresult result = CUDA_SUCCESS;

    if (!fdcpu.opt.exclusive)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (contexts[device->ordinal] == 0 && !set(device, F_WRLCK))
        result = CUDA_ERROR_DEVICE_UNAVAILABLE;
    else
        contexts[device->ordinal]++;
    pthread_mutex_unlock(&lock);
    return result;
}

void
fdcpu_exclusive_leave(struct fdcpu_device *device)
{
    if (!fdcpu.opt.exclusive)
        return;
    pthread_mutex_lock(&lock);
    if (--contexts[device->ordinal] == 0)
        set(device, F_UNLCK);
    pthread_mutex_unlock(&lock);
}
