/*
 * What the programs of bench/ that stay for a while share: a result that is not success is
 * status 4.
 */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

#include <stdio.h>
#include <stdlib.h>

#include "cuda_calls.h"

static void
check(CUresult result, const char *what)
{
    if (result == CUDA_SUCCESS)
        return;
    fprintf(stderr, "%s: error %d\n", what, (int)result);
    exit(4);
}

/* A context on the first device, and memory on it. */
static CUdeviceptr
begin(size_t size)
{
    CUcontext context;
    CUdeviceptr memory;

    check(cuInit(0), "cuInit");
    check(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuMemAlloc_v2(&memory, size), "cuMemAlloc");
    return memory;
}

/* Whoever started the program hears that it is there. */
static void
say_up(void)
{
    puts("up");
    fflush(stdout);
}

#endif
