/* 32 threads, everything at once, on four devices, of one worker or of two: mostly for
 * TSan. */
#include <pthread.h>

#include "worker.h"

enum { THREADS = 32, ROUNDS = 12, WORDS = 3000 };

static const char ptx[] =
    ".version 7.0\n.target sm_52\n.address_size 64\n"
    ".visible .entry bump(.param .u64 p, .param .u32 by, .param .u32 n)\n{\n"
    " .reg .pred %q; .reg .b32 %r<7>; .reg .b64 %d<4>;\n"
    " ld.param.u64 %d1, [p]; ld.param.u32 %r1, [by]; ld.param.u32 %r2, [n];\n"
    " mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;\n"
    " mad.lo.s32 %r3, %r3, %r4, %r5; setp.ge.u32 %q, %r3, %r2; @%q bra out;\n"
    " cvta.to.global.u64 %d1, %d1; mul.wide.u32 %d2, %r3, 4; add.s64 %d1, %d1, %d2;\n"
    " ld.global.u32 %r6, [%d1]; add.u32 %r6, %r6, %r1; st.global.u32 [%d1], %r6;\n"
    "out: ret;\n}\n";

static CUcontext context[4];
static CUlibrary library;
static CUkernel bump;
static CUevent shared[THREADS]; /* each thread records its own, the others wait for it */
static CUdeviceptr parcel[THREADS];
static uint32_t called;

static void
count(void *user)
{
    __atomic_add_fetch((uint32_t *)user, 1, __ATOMIC_RELAXED);
}

static void
launch(CUdeviceptr p, uint32_t by, CUstream stream)
{
    uint32_t n = WORDS;
    void *params[] = {&p, &by, &n};

    CHECK_EQ(cuLaunchKernel((CUfunction)bump, (WORDS + 63) / 64, 1, 1, 64, 1, 1, 0, stream,
                            params, NULL),
             0);
}

static void
questions(int number, CUdeviceptr p)
{
    CUcontext now;
    CUdevice device;
    int ordinal = -1, value = 0;
    size_t size;

    CHECK_EQ(cuCtxGetCurrent(&now), 0);
    CHECK_EQ(cuCtxGetDevice(&device), 0);
    CHECK_EQ(device, number % 4);
    CHECK_EQ(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p), 0);
    CHECK_EQ(ordinal, number % 4);
    CHECK_EQ(cuMemGetAddressRange_v2(NULL, &size, p), 0);
    CHECK_EQ(size, WORDS * 4);
    CHECK_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device), 0);
    CHECK_EQ(value, 32);
    CHECK_EQ(cuCtxPushCurrent_v2(context[(number + 1) % 4]), 0);
    CHECK_EQ(cuCtxGetDevice(&device), 0);
    CHECK_EQ(device, (number + 1) % 4);
    CHECK_EQ(cuCtxPopCurrent_v2(NULL), 0);
}

static void *
work(void *user)
{
    int number = (int)(intptr_t)user, other = (number + 5) % THREADS;
    uint32_t words[WORDS];
    CUdeviceptr p, far;
    CUstream stream;
    CUevent event;

    CHECK_EQ(cuCtxSetCurrent(context[number % 4]), 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        CHECK_EQ(cuStreamCreate(&stream, round % 2), 0);
        CHECK_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), 0);
        CHECK_EQ(cuMemAlloc_v2(&p, WORDS * 4), 0);
        questions(number, p);
        CHECK_EQ(cuMemsetD32Async(p, 100 * round, WORDS, stream), 0);
        launch(p, (uint32_t)number, stream);
        CHECK_EQ(cuLaunchHostFunc(stream, count, &called), 0);
        CHECK_EQ(cuEventRecord(shared[number], stream), 0);
        CHECK_EQ(cuEventRecord(event, stream), 0);
        /* Whoever's it is: maybe another device's, maybe being recorded. */
        CHECK_EQ(cuStreamWaitEvent(CU_STREAM_PER_THREAD, event, 0), 0);
        CHECK_EQ(cuStreamWaitEvent(CU_STREAM_PER_THREAD, shared[other], 0), 0);
        launch(p, 1, CU_STREAM_PER_THREAD);
        if (round % 4 == 1)
            CHECK_EQ(cuLaunchHostFunc(CU_STREAM_PER_THREAD, count, &called), 0);
        CHECK_EQ(cuMemcpyPeerAsync(parcel[number], context[other % 4], p,
                                   context[number % 4], WORDS * 4, CU_STREAM_PER_THREAD),
                 0);
        CHECK_EQ(cuStreamSynchronize(CU_STREAM_PER_THREAD), 0);
        CHECK_EQ(cuEventQuery(event), 0);
        far = round % 3 == 0 ? p : parcel[number];
        memset(words, 0, sizeof(words));
        CHECK_EQ(cuMemcpyDtoH_v2(words, far, WORDS * 4), 0);
        for (int i = 0; i < WORDS; i++)
            CHECK_EQ(words[i], 100 * round + (uint32_t)number + 1);
        CHECK_EQ(cuMemFree_v2(p), 0);
        CHECK_EQ(cuEventDestroy_v2(event), 0);
        CHECK_EQ(cuStreamDestroy_v2(stream), 0);
    }
    return NULL;
}

static void
many_threads(int workers)
{
    pthread_t thread[THREADS];
    int devices;

    workers_start(workers, 4 / workers);
    CHECK_EQ(cuInit(0), 0);
    unlink(getenv("FD_SESSION"));
    CHECK_EQ(cuDeviceGetCount(&devices), 0);
    CHECK_EQ(devices, 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cuDevicePrimaryCtxRetain(&context[i], i), 0);
    CHECK_EQ(cuCtxSetCurrent(context[0]), 0);
    CHECK_EQ(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0), 0);
    CHECK_EQ(cuLibraryGetKernel(&bump, library, "bump"), 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(cuCtxSetCurrent(context[i % 4]), 0);
        CHECK_EQ(cuEventCreate(&shared[i], CU_EVENT_DISABLE_TIMING), 0);
        CHECK_EQ(cuCtxSetCurrent(context[(i + 5) % THREADS % 4]), 0);
        CHECK_EQ(cuMemAlloc_v2(&parcel[i], WORDS * 4), 0);
    }
    for (intptr_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(cuCtxSetCurrent(context[i]), 0);
        CHECK_EQ(cuCtxSynchronize(), 0);
    }
    CHECK_EQ(__atomic_load_n(&called, __ATOMIC_RELAXED), THREADS * (ROUNDS + ROUNDS / 4));
    CHECK_EQ(cuLibraryUnload(library), 0);
    worker_exit();
}

static void
test_many_threads_on_four_devices(void)
{
    many_threads(1);
}

/* Events are waited for, and bytes copied, from worker to worker. */
static void
test_many_threads_on_two_workers(void)
{
    many_threads(2);
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_many_threads_on_four_devices);
    RUN(test_many_threads_on_two_workers);
    return failed;
}
