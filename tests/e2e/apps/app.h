/*
 * What the driver-API test programs share: checking, a gate that a host function waits
 * at, and PTX of a few kernels. A program prints what it found and ends with PASS or
 * FAIL; nothing it prints depends on time or addresses, so that a direct run and a
 * remoted run can be compared word for word.
 */
#ifndef APP_H
#define APP_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef APP_VENDOR_HEADER
#include <cuda.h>
#else
#include "cuda_calls.h"
/* What the plain names mean, which cuda.h says in the same way. */
#define cuDevicePrimaryCtxReset cuDevicePrimaryCtxReset_v2
#define cuEventElapsedTime cuEventElapsedTime_v2
#define cuMemAlloc cuMemAlloc_v2
#define cuMemFree cuMemFree_v2
#define cuMemGetInfo cuMemGetInfo_v2
#define cuMemcpyDtoH cuMemcpyDtoH_v2
#define cuMemcpyHtoD cuMemcpyHtoD_v2
#define cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2
#define cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2
#define cuMemsetD32 cuMemsetD32_v2
#define cuStreamBeginCapture cuStreamBeginCapture_v2
#endif

static int app_failures;

static inline const char *
app_error(CUresult result)
{
    const char *name = NULL;

    if (cuGetErrorName(result, &name) != 0 || name == NULL)
        return "an unknown error";
    return name;
}

/* The call has to give this result. */
static inline void
app_expect(CUresult got, CUresult want, const char *what, int line)
{
    if (got == want)
        return;
    app_failures++;
    printf("line %d: %s gave %s, expected %s\n", line, what, app_error(got),
           app_error(want));
}

#define CHECK(call) app_expect((call), CUDA_SUCCESS, #call, __LINE__)
#define EXPECT(want, call) app_expect((call), (want), #call, __LINE__)
#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            app_failures++; \
            printf("line %d: not so: %s\n", __LINE__, #condition); \
        } \
    } while (0)

static inline int
app_end(void)
{
    puts(app_failures ? "FAIL" : "PASS");
    return app_failures != 0;
}

/* Calls that need a context work from here on. Stops the program where there is no device. */
static inline CUcontext
app_begin(void)
{
    CUcontext context = NULL;
    CUdevice device;
    CUresult result;

    setvbuf(stdout, NULL, _IOLBF, 0);
    result = cuInit(0);
    if (result != CUDA_SUCCESS) {
        printf("cuInit: %s\n", app_error(result));
        exit(3);
    }
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    return context;
}

/* A gate: closed until app_open(); app_wait() is a host function. */
struct app_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int open, arrived;
};
#define APP_GATE { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 }

static void
app_wait(void *user)
{
    struct app_gate *gate = user;

    pthread_mutex_lock(&gate->lock);
    gate->arrived = 1;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static inline void
app_open(struct app_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = 1;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

/* Returns when somebody stands at the gate. */
static inline void
app_arrived(struct app_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (!gate->arrived)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static inline void
app_sleep_ms(int ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

    nanosleep(&time, NULL);
}

/* A host function that sleeps for some milliseconds. */
static inline void
app_nap(void *user)
{
    app_sleep_ms((int)(size_t)user);
}

/*
 * fill(p, value, n): p[i] = value.  copy(d, s, n): d[i] = s[i].
 * add(d, a, b, n): d[i] = a[i] + b[i].  wild(p): writes where nothing is.
 * spin(p, turns): p[0] = turns, after that many turns of a loop.
 */
static const char app_ptx[] =
    ".version 7.0\n.target sm_52\n.address_size 64\n"
    ".visible .entry fill(.param .u64 p, .param .u32 value, .param .u32 n)\n{\n"
    " .reg .pred %q; .reg .b32 %r<6>; .reg .b64 %d<4>;\n"
    " ld.param.u64 %d1, [p]; ld.param.u32 %r1, [value]; ld.param.u32 %r2, [n];\n"
    " mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;\n"
    " mad.lo.s32 %r3, %r3, %r4, %r5; setp.ge.u32 %q, %r3, %r2; @%q bra out;\n"
    " cvta.to.global.u64 %d1, %d1; mul.wide.u32 %d2, %r3, 4; add.s64 %d1, %d1, %d2;\n"
    " st.global.u32 [%d1], %r1;\nout: ret;\n}\n"
    ".visible .entry copy(.param .u64 d, .param .u64 s, .param .u32 n)\n{\n"
    " .reg .pred %q; .reg .b32 %r<6>; .reg .b64 %d<5>;\n"
    " ld.param.u64 %d1, [d]; ld.param.u64 %d2, [s]; ld.param.u32 %r2, [n];\n"
    " mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;\n"
    " mad.lo.s32 %r3, %r3, %r4, %r5; setp.ge.u32 %q, %r3, %r2; @%q bra out;\n"
    " cvta.to.global.u64 %d1, %d1; cvta.to.global.u64 %d2, %d2;\n"
    " mul.wide.u32 %d3, %r3, 4; add.s64 %d1, %d1, %d3; add.s64 %d2, %d2, %d3;\n"
    " ld.global.u32 %r1, [%d2]; st.global.u32 [%d1], %r1;\nout: ret;\n}\n"
    ".visible .entry add(.param .u64 d, .param .u64 a, .param .u64 b, .param .u32 n)\n{\n"
    " .reg .pred %q; .reg .b32 %r<8>; .reg .b64 %d<6>;\n"
    " ld.param.u64 %d1, [d]; ld.param.u64 %d2, [a]; ld.param.u64 %d4, [b];\n"
    " ld.param.u32 %r2, [n];\n"
    " mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;\n"
    " mad.lo.s32 %r3, %r3, %r4, %r5; setp.ge.u32 %q, %r3, %r2; @%q bra out;\n"
    " cvta.to.global.u64 %d1, %d1; cvta.to.global.u64 %d2, %d2;\n"
    " cvta.to.global.u64 %d4, %d4; mul.wide.u32 %d3, %r3, 4;\n"
    " add.s64 %d1, %d1, %d3; add.s64 %d2, %d2, %d3; add.s64 %d4, %d4, %d3;\n"
    " ld.global.u32 %r1, [%d2]; ld.global.u32 %r6, [%d4]; add.u32 %r1, %r1, %r6;\n"
    " st.global.u32 [%d1], %r1;\nout: ret;\n}\n"
    ".visible .entry spin(.param .u64 p, .param .u32 turns)\n{\n"
    " .reg .pred %q; .reg .b32 %r<4>; .reg .b64 %d<2>;\n"
    " ld.param.u64 %d1, [p]; ld.param.u32 %r1, [turns]; mov.u32 %r2, 0;\n"
    "again: add.u32 %r2, %r2, 1; setp.lt.u32 %q, %r2, %r1; @%q bra again;\n"
    " cvta.to.global.u64 %d1, %d1; st.global.u32 [%d1], %r2; ret;\n}\n"
    ".visible .entry wild()\n{\n"
    " .reg .b32 %r<2>; .reg .b64 %d<2>;\n"
    " mov.u64 %d1, 0x123456780; mov.u32 %r1, 1; st.global.u32 [%d1], %r1; ret;\n}\n";

static inline CUfunction
app_function(CUmodule *module, const char *name)
{
    CUfunction function = NULL;

    if (*module == NULL)
        CHECK(cuModuleLoadData(module, app_ptx));
    CHECK(cuModuleGetFunction(&function, *module, name));
    return function;
}

static inline CUresult
app_fill(CUfunction fill, CUdeviceptr p, unsigned value, unsigned n, CUstream stream)
{
    void *params[] = { &p, &value, &n };

    return cuLaunchKernel(fill, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, params, NULL);
}

static inline CUresult
app_copy(CUfunction copy, CUdeviceptr d, CUdeviceptr s, unsigned n, CUstream stream)
{
    void *params[] = { &d, &s, &n };

    return cuLaunchKernel(copy, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, params, NULL);
}

/* The number of these words, which the host has, that are not `value`. */
static inline unsigned
app_wrong(const unsigned *words, unsigned value, unsigned n)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < n; i++)
        wrong += words[i] != value;
    return wrong;
}

/* The same of words that the device has. */
static inline unsigned
app_count_wrong(CUdeviceptr p, unsigned value, unsigned n)
{
    unsigned *words = malloc(n * sizeof(*words)), wrong;

    memset(words, 0x5a, n * sizeof(*words));
    CHECK(cuMemcpyDtoH(words, p, n * sizeof(*words)));
    wrong = app_wrong(words, value, n);
    free(words);
    return wrong;
}

#endif
