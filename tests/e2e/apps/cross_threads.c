/*
 * 32 threads on two devices, of one machine or of two servers: launches, memory that comes
 * and goes, host functions, events waited for and bytes copied across, all at once.
 */
#include "app.h"

enum { THREADS = 32, ROUNDS = 20, N = 3000 };

static CUcontext context[2];
static CUmodule module[2];
static CUfunction fill[2], add[2];
static CUevent latest[THREADS]; /* each thread records its own, another waits for it */
static unsigned ran, wrong;

static void
count(void *user)
{
    __atomic_add_fetch((unsigned *)user, 1, __ATOMIC_RELAXED);
}

static CUresult
launch_add(int d, CUdeviceptr to, CUdeviceptr a, CUdeviceptr b, CUstream stream)
{
    unsigned n = N;
    void *params[] = {&to, &a, &b, &n};

    return cuLaunchKernel(add[d], (N + 127) / 128, 1, 1, 128, 1, 1, 0, stream, params, NULL);
}

/* near: made here; far: on the other device, where it is added to itself, and comes back. */
static void
round_trip(int d, unsigned value, CUstream here, CUstream there, CUevent known)
{
    CUdeviceptr near, far;
    CUevent sent, done;

    CHECK(cuMemAlloc(&near, N * 4));
    CHECK(cuEventCreate(&sent, CU_EVENT_DISABLE_TIMING));
    CHECK(app_fill(fill[d], near, value, N, here));
    if (value % 3 == 0)
        CHECK(cuLaunchHostFunc(here, count, &ran));
    CHECK(cuStreamWaitEvent(here, known, 0));
    CHECK(cuEventRecord(sent, here));

    CHECK(cuCtxPushCurrent_v2(context[1 - d]));
    CHECK(cuMemAlloc(&far, N * 4));
    CHECK(cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamWaitEvent(there, sent, 0));
    CHECK(cuMemcpyPeerAsync(far, context[1 - d], near, context[d], N * 4, there));
    CHECK(launch_add(1 - d, far, far, far, there));
    if (value % 5 == 0)
        CHECK(cuLaunchHostFunc(there, count, &ran));
    CHECK(cuMemcpyPeerAsync(near, context[d], far, context[1 - d], N * 4, there));
    CHECK(cuEventRecord(done, there));
    CHECK(cuCtxPopCurrent_v2(NULL));

    CHECK(cuStreamWaitEvent(here, done, 0));
    CHECK(launch_add(d, near, near, near, here));
    CHECK(cuStreamSynchronize(here));
    __atomic_add_fetch(&wrong, app_count_wrong(near, 4 * value, N), __ATOMIC_RELAXED);
    CHECK(cuMemFree(near));
    CHECK(cuMemFree(far));
    CHECK(cuEventDestroy(sent));
    CHECK(cuEventDestroy(done));
}

static void *
work(void *user)
{
    int number = (int)(size_t)user, d = number % 2;
    CUstream here, there;

    CHECK(cuCtxSetCurrent(context[1 - d]));
    CHECK(cuStreamCreate(&there, CU_STREAM_NON_BLOCKING));
    CHECK(cuCtxSetCurrent(context[d]));
    CHECK(cuStreamCreate(&here, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < ROUNDS; i++) {
        round_trip(d, (unsigned)(number * ROUNDS + i), here, there,
                   latest[(number + 7) % THREADS]);
        CHECK(cuEventRecord(latest[number], here));
    }
    CHECK(cuStreamDestroy_v2(here));
    CHECK(cuStreamDestroy_v2(there));
    return NULL;
}

int
main(void)
{
    pthread_t thread[THREADS];
    int devices = 0, i;

    alarm(100);
    context[0] = app_begin();
    CHECK(cuDeviceGetCount(&devices));
    CHECK(cuDevicePrimaryCtxRetain(&context[1], devices - 1));
    for (i = 0; i < 2; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        fill[i] = app_function(&module[i], "fill");
        add[i] = app_function(&module[i], "add");
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(cuCtxSetCurrent(context[i % 2]));
        CHECK(cuEventCreate(&latest[i], CU_EVENT_DISABLE_TIMING));
    }
    for (i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, (void *)(size_t)i);
    for (i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (i = 0; i < 2; i++) {
        CHECK(cuCtxSetCurrent(context[i]));
        CHECK(cuCtxSynchronize());
    }
    REQUIRE(wrong == 0);
    printf("%u host functions ran\n", ran);
    return app_end();
}
