/*
 * The measured side of the benchmarks: a driver-API program that reads commands from
 * its standard input and answers each with nanoseconds, so that one process a road can
 * be asked in turn.
 *
 *   sync N         N synchronises of a stream with nothing on it
 *   read N         N synchronous copies of 4 bytes to the host
 *   launch N P     N launches of an empty kernel with P parameters: issued, completed
 *   wait N         N times a launch and a synchronise
 *   info N         N times the free memory
 *   up BYTES N     N synchronous copies to the device, pageable      down BYTES N
 *   pinup BYTES N  N asynchronous ones from pinned memory            pindown BYTES N
 *
 * Answer: "ns_total ns_issue" a line.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_calls.h"

#define CHECK(call) \
    do { \
        CUresult result_ = (call); \
        if (result_ != CUDA_SUCCESS) { \
            fprintf(stderr, "%s: error %d\n", #call, (int)result_); \
            exit(1); \
        } \
    } while (0)

enum { PARAMS_MAX = 20 };

static uint64_t
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* An empty kernel for each number of parameters. */
static CUfunction
empty(int params)
{
    static CUfunction made[PARAMS_MAX + 1];
    char text[4096];
    int used;
    CUmodule module;

    if (made[params] != NULL)
        return made[params];
    used = snprintf(text, sizeof(text), ".version 7.0\n.target sm_52\n.address_size 64\n"
                    ".visible .entry empty(");
    for (int i = 0; i < params; i++)
        used += snprintf(text + used, sizeof(text) - used, "%s.param .u64 p%d",
                         i ? ", " : "", i);
    snprintf(text + used, sizeof(text) - used, ")\n{\n ret;\n}\n");
    CHECK(cuModuleLoadData(&module, text));
    CHECK(cuModuleGetFunction(&made[params], module, "empty"));
    return made[params];
}

int
main(void)
{
    static uint64_t values[PARAMS_MAX];
    void *params[PARAMS_MAX];
    char line[128], word[16];
    CUcontext context;
    CUdevice device;
    CUstream stream;
    CUdeviceptr p;
    void *host, *pinned;

    for (int i = 0; i < PARAMS_MAX; i++)
        params[i] = &values[i];
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc_v2(&p, 64 << 20));
    host = malloc(64 << 20);
    memset(host, 1, 64 << 20);
    CHECK(cuMemHostAlloc(&pinned, 64 << 20, 0));
    memset(pinned, 1, 64 << 20);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof(line), stdin) != NULL) {
        long a = 0, b = 0;
        uint64_t start, issued = 0, ended;
        CUfunction function;

        if (sscanf(line, "%15s %ld %ld", word, &a, &b) < 2)
            continue;
        CHECK(cuCtxSynchronize());
        if (strcmp(word, "sync") == 0) {
            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuStreamSynchronize(stream));
        } else if (strcmp(word, "read") == 0) {
            uint32_t value;

            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuMemcpyDtoH_v2(&value, p, 4));
        } else if (strcmp(word, "launch") == 0 && b >= 0 && b <= PARAMS_MAX) {
            function = empty((int)b);
            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
            issued = now() - start;
            CHECK(cuStreamSynchronize(stream));
        } else if (strcmp(word, "wait") == 0) {
            function = empty(1);
            start = now();
            for (long i = 0; i < a; i++) {
                CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
                CHECK(cuStreamSynchronize(stream));
            }
        } else if (strcmp(word, "up") == 0 && a <= 64 << 20) {
            start = now();
            for (long i = 0; i < b; i++)
                CHECK(cuMemcpyHtoD_v2(p, host, (size_t)a));
            CHECK(cuCtxSynchronize());
        } else if (strcmp(word, "down") == 0 && a <= 64 << 20) {
            start = now();
            for (long i = 0; i < b; i++)
                CHECK(cuMemcpyDtoH_v2(host, p, (size_t)a));
        } else if (strcmp(word, "pinup") == 0 && a <= 64 << 20) {
            start = now();
            for (long i = 0; i < b; i++)
                CHECK(cuMemcpyHtoDAsync_v2(p, pinned, (size_t)a, stream));
            CHECK(cuStreamSynchronize(stream));
        } else if (strcmp(word, "pindown") == 0 && a <= 64 << 20) {
            start = now();
            for (long i = 0; i < b; i++)
                CHECK(cuMemcpyDtoHAsync_v2(pinned, p, (size_t)a, stream));
            CHECK(cuStreamSynchronize(stream));
        } else if (strcmp(word, "info") == 0) {
            size_t free, total;

            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuMemGetInfo_v2(&free, &total));
        } else {
            continue;
        }
        ended = now() - start;
        printf("%llu %llu\n", (unsigned long long)ended, (unsigned long long)issued);
    }
    return 0;
}
