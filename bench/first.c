/* Nanoseconds from before cuInit to the end of the first call that needs the device. */
#include <stdio.h>
#include <time.h>

#include "cuda_calls.h"

static unsigned long long
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (unsigned long long)time.tv_sec * 1000000000u + (unsigned long long)time.tv_nsec;
}

int
main(void)
{
    unsigned long long start = now();
    CUcontext context;
    CUdevice device;

    if (cuInit(0) || cuDeviceGet(&device, 0) || cuDevicePrimaryCtxRetain(&context, device) ||
        cuCtxSetCurrent(context) || cuCtxSynchronize())
        return 1;
    printf("%llu\n", now() - start);
    return 0;
}
