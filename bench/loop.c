/*
 * The measured side of the benchmarks: a driver-API program that reads commands from
 * its standard input and answers each with nanoseconds, so that one process a road can
 * be asked in turn.
 *
 *   context N      N synchronises of the context
 *   sync N         N synchronises of a stream with nothing on it
 *   read N         N synchronous copies of 4 bytes to the host
 *   launch N P     N launches of an empty kernel with P parameters: issued, completed
 *   wait N         N times a launch and a synchronise
 *   info N         N times the free memory
 *   up BYTES N     N synchronous copies to the device, pageable      down BYTES N
 *   pinup BYTES N  N asynchronous ones from pinned memory            pindown BYTES N
 *   event N        N times an event recorded, queried and waited for
 *   app N US       a program: N kernels of so many microseconds and one wait. They are the
 *                  CPU device's stand-ins (FD_CPU_KERNELS=skip)
 *   load N KB      N modules of so much text that nobody has seen before
 *   again N KB     N times one module of so much text
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

enum { PARAMS_MAX = 20, BUSY_MAX = 1000 };

static uint64_t
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

#define PTX_HEAD ".version 7.0\n.target sm_52\n.address_size 64\n"

static CUfunction
loaded(const char *text, const char *name)
{
    CUfunction function;
    CUmodule module;

    CHECK(cuModuleLoadData(&module, text));
    CHECK(cuModuleGetFunction(&function, module, name));
    return function;
}

/* An empty kernel for each number of parameters. */
static CUfunction
empty(int params)
{
    static CUfunction made[PARAMS_MAX + 1];
    char text[4096];
    int used;

    if (made[params] != NULL)
        return made[params];
    used = snprintf(text, sizeof(text), PTX_HEAD ".visible .entry empty(");
    for (int i = 0; i < params; i++)
        used += snprintf(text + used, sizeof(text) - (size_t)used, "%s.param .u64 p%d",
                         i ? ", " : "", i);
    snprintf(text + used, sizeof(text) - (size_t)used, ")\n{\n ret;\n}\n");
    made[params] = loaded(text, "empty");
    return made[params];
}

/* One that takes so many microseconds, with six parameters. */
static CUfunction
busy(int us)
{
    static CUfunction made[BUSY_MAX + 1];
    char text[512], name[32];

    if (made[us] != NULL)
        return made[us];
    snprintf(name, sizeof(name), "busy_%dus", us);
    snprintf(text, sizeof(text), PTX_HEAD ".visible .entry %s(.param .u64 a, .param .u64 b,"
             " .param .u64 c, .param .u64 d, .param .u64 e, .param .u64 f)\n{\n ret;\n}\n",
             name);
    made[us] = loaded(text, name);
    return made[us];
}

/* Text of so many KiB, most of it a comment; the number makes it another one. */
static char *
long_text(long kb, unsigned long long number)
{
    size_t size = (size_t)kb << 10;
    char *text = malloc(size + 256);
    int used = sprintf(text, PTX_HEAD "// %llu ", number);

    memset(text + used, 'x', size);
    strcpy(text + used + size, "\n.visible .entry empty()\n{\n ret;\n}\n");
    return text;
}

static uint64_t
load_all(long count, long kb, int fresh)
{
    char **text = calloc((size_t)count, sizeof(*text));
    CUmodule module;
    uint64_t start;

    for (long i = 0; i < count; i++)
        text[i] = long_text(kb, fresh ? now() + (uint64_t)i : 0);
    if (!fresh) { /* it has been seen */
        CHECK(cuModuleLoadData(&module, text[0]));
        CHECK(cuModuleUnload(module));
    }
    start = now();
    for (long i = 0; i < count; i++) {
        CHECK(cuModuleLoadData(&module, text[i]));
        CHECK(cuModuleUnload(module));
    }
    start = now() - start;
    for (long i = 0; i < count; i++)
        free(text[i]);
    free(text);
    return start;
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
    CUevent event;
    CUdeviceptr p;
    void *host, *pinned;

    for (int i = 0; i < PARAMS_MAX; i++)
        params[i] = &values[i];
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc_v2(&p, 64 << 20));
    host = malloc(64 << 20);
    memset(host, 1, 64 << 20);
    CHECK(cuMemHostAlloc(&pinned, 64 << 20, 0));
    memset(pinned, 1, 64 << 20);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof(line), stdin) != NULL) {
        long a = 0, b = 0;
        uint64_t start = 0, issued = 0, ended = 0;
        CUfunction function;

        if (sscanf(line, "%15s %ld %ld", word, &a, &b) < 2)
            continue;
        CHECK(cuCtxSynchronize());
        if (strcmp(word, "context") == 0) {
            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuCtxSynchronize());
        } else if (strcmp(word, "sync") == 0) {
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
        } else if (strcmp(word, "event") == 0) {
            start = now();
            for (long i = 0; i < a; i++) {
                CHECK(cuEventRecord(event, stream));
                (void)cuEventQuery(event);
                CHECK(cuEventSynchronize(event));
            }
        } else if (strcmp(word, "app") == 0 && b >= 0 && b <= BUSY_MAX) {
            function = busy((int)b);
            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
            issued = now() - start;
            CHECK(cuStreamSynchronize(stream));
        } else if (strcmp(word, "load") == 0 || strcmp(word, "again") == 0) {
            ended = load_all(a, b, word[0] == 'l');
        } else if (strcmp(word, "info") == 0) {
            size_t free, total;

            start = now();
            for (long i = 0; i < a; i++)
                CHECK(cuMemGetInfo_v2(&free, &total));
        } else {
            continue;
        }
        if (ended == 0)
            ended = now() - start;
        printf("%llu %llu\n", (unsigned long long)ended, (unsigned long long)issued);
    }
    return 0;
}
