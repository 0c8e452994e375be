/*
 * A session that does nothing between a first piece of work and a last one: it says "up",
 * waits for a line, computes again and says "done". A wrong result is status 3, a call
 * that fails status 4. bench/many.py has many of them at once.
 */
#include <stdio.h>
#include <stdlib.h>

#include "cuda_calls.h"

enum { SIZE = 1 << 20 };

static unsigned char back[SIZE];

static void
check(CUresult result, const char *what)
{
    if (result == CUDA_SUCCESS)
        return;
    fprintf(stderr, "%s: error %d\n", what, (int)result);
    exit(4);
}

static void
work(CUdeviceptr memory, unsigned char value)
{
    check(cuMemsetD8_v2(memory, value, SIZE), "cuMemsetD8");
    check(cuMemcpyDtoH_v2(back, memory, SIZE), "cuMemcpyDtoH");
    for (int i = 0; i < SIZE; i++)
        if (back[i] != value) {
            fprintf(stderr, "byte %d is %d and not %d\n", i, back[i], value);
            exit(3);
        }
}

int
main(void)
{
    CUcontext context;
    CUdeviceptr memory;
    char line[16];

    check(cuInit(0), "cuInit");
    check(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuMemAlloc_v2(&memory, SIZE), "cuMemAlloc");
    work(memory, 7);
    puts("up");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL)
        return 0;
    work(memory, 9);
    puts("done");
    return 0;
}
