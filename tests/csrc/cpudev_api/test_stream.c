/* Streams and events of the CPU device: order, the legacy stream, recordings. */
#include <unistd.h>

#include "driver.h"

static void
test_streams_run_in_order_and_apart(void)
{
    struct gate gate = GATE_INIT;
    CUstream a, b;
    int n = 0;

    start();
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuLaunchHostFunc(a, gate_wait, &gate));
    OK(cuLaunchHostFunc(a, count, &n));
    OK(cuLaunchHostFunc(b, count, &n));
    OK(cuStreamSynchronize(b));
    CHECK_EQ(n, 1);
    FAILS(NOT_READY, cuStreamQuery(a));
    OK(cuStreamQuery(b));
    gate_open(&gate);
    OK(cuStreamSynchronize(a));
    CHECK_EQ(n, 2);
    OK(cuStreamQuery(a));
    OK(cuStreamDestroy_v2(a));
    FAILS(INVALID_HANDLE, cuStreamSynchronize(a));
}

static void
test_legacy_stream_waits_and_is_waited_for(void)
{
    struct gate gate = GATE_INIT;
    CUstream blocking, apart;
    int n = 0, m = 0;

    start();
    OK(cuStreamCreate(&blocking, 0));
    OK(cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
    OK(cuLaunchHostFunc(blocking, gate_wait, &gate));
    OK(cuLaunchHostFunc(NULL, count, &n));                 /* after the gate */
    OK(cuLaunchHostFunc(CU_STREAM_PER_THREAD, count, &n)); /* after that */
    OK(cuLaunchHostFunc(apart, count, &m));
    OK(cuStreamSynchronize(apart));
    CHECK_EQ(m, 1);
    CHECK_EQ(__atomic_load_n(&n, __ATOMIC_SEQ_CST), 0);
    FAILS(NOT_READY, cuStreamQuery(NULL));
    gate_open(&gate);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK_EQ(n, 2);
    OK(cuCtxSynchronize());
}

static void
test_wait_applies_to_the_record_at_the_time_of_the_call(void)
{
    struct gate first = GATE_INIT, second = GATE_INIT;
    CUstream a, b;
    CUevent e;
    int n = 0;

    start();
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    OK(cuEventQuery(e)); /* never recorded */
    OK(cuLaunchHostFunc(a, gate_wait, &first));
    OK(cuEventRecord(e, a));
    OK(cuStreamWaitEvent(b, e, 0));
    OK(cuLaunchHostFunc(a, gate_wait, &second));
    OK(cuEventRecord(e, a));
    OK(cuLaunchHostFunc(b, count, &n));
    FAILS(NOT_READY, cuStreamQuery(b));
    gate_open(&first);
    OK(cuStreamSynchronize(b));
    CHECK_EQ(n, 1);
    FAILS(NOT_READY, cuEventQuery(e));
    gate_open(&second);
    OK(cuEventSynchronize(e));
    OK(cuEventQuery(e));
}

static void
test_wait_alone_keeps_a_stream_busy(void)
{
    struct gate gate = GATE_INIT;
    CUstream a, b;
    CUevent e;

    start();
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&e, 0));
    OK(cuLaunchHostFunc(a, gate_wait, &gate));
    OK(cuEventRecord(e, a));
    OK(cuEventDestroy_v2(e)); /* what was asked for still holds */
    OK(cuEventCreate(&e, 0));
    OK(cuEventRecord(e, a));
    OK(cuStreamWaitEvent(b, e, 0));
    OK(cuEventDestroy_v2(e));
    FAILS(NOT_READY, cuStreamQuery(b));
    gate_open(&gate);
    OK(cuStreamSynchronize(b));
}

static void
test_elapsed_time(void)
{
    CUevent a, b, untimed;
    float ms = -1;

    start();
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    OK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
    FAILS(INVALID_HANDLE, cuEventElapsedTime_v2(&ms, a, b));
    OK(cuEventRecord(a, NULL));
    usleep(2000);
    OK(cuEventRecord(b, NULL));
    OK(cuEventRecord(untimed, NULL));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime_v2(&ms, a, b));
    CHECK(ms >= 2.0f);
    FAILS(INVALID_HANDLE, cuEventElapsedTime_v2(&ms, a, untimed));
}

static CUresult called_from_host;

static void
calls_cuda(void *arg)
{
    (void)arg;
    called_from_host = cuStreamSynchronize(NULL);
}

static void
takes_status(CUstream stream, CUresult status, void *user)
{
    (void)stream;
    *(int *)user = 100 + (int)status;
}

static void
test_host_functions_must_not_call(void)
{
    int status = 0;

    start();
    OK(cuLaunchHostFunc(NULL, calls_cuda, NULL));
    OK(cuStreamAddCallback(NULL, takes_status, &status, 0));
    OK(cuStreamSynchronize(NULL));
    CHECK_EQ(called_from_host, CUDA_ERROR_NOT_PERMITTED);
    CHECK_EQ(status, 100);
}

static void
test_pageable_source_may_change_after_the_call(void)
{
    struct gate gate = GATE_INIT;
    char host[100], back[100];
    CUdeviceptr d;
    CUstream s;

    start();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc_v2(&d, sizeof(host)));
    memset(host, 1, sizeof(host));
    OK(cuLaunchHostFunc(s, gate_wait, &gate));
    OK(cuMemcpyHtoDAsync_v2(d, host, sizeof(host), s));
    memset(host, 2, sizeof(host));
    gate_open(&gate);
    OK(cuMemcpyDtoHAsync_v2(back, d, sizeof(back), s));
    CHECK_EQ(back[0], 1); /* there on return */
    CHECK_EQ(back[99], 1);
}

static void
test_values_in_memory(void)
{
    CUstream a, b;
    void *word;
    CUdeviceptr d;
    int n = 0;

    start();
    OK(cuMemHostAlloc(&word, 8, CU_MEMHOSTALLOC_DEVICEMAP));
    *(volatile uint64_t *)word = 0;
    OK(cuMemHostGetDevicePointer_v2(&d, word, 0));
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuStreamWaitValue32_v2(a, d, 3, CU_STREAM_WAIT_VALUE_GEQ));
    OK(cuLaunchHostFunc(a, count, &n));
    FAILS(NOT_READY, cuStreamQuery(a));
    OK(cuStreamWriteValue32_v2(b, d, 5, 0));
    OK(cuStreamSynchronize(a));
    CHECK_EQ(n, 1);
    OK(cuStreamWriteValue64_v2(b, d, 0x100000000, 0));
    OK(cuStreamWaitValue64_v2(a, d, 0x100000000, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuStreamSynchronize(a));
    FAILS(INVALID_VALUE, cuStreamWriteValue32_v2(b, d + 2, 5, 0));
}

static void *
other_thread(void *arg)
{
    unsigned long long *id = arg;

    FAILS(INVALID_CONTEXT, cuStreamGetId(CU_STREAM_PER_THREAD, id));
    start();
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, id));
    return NULL;
}

static void
test_each_thread_has_a_stream(void)
{
    unsigned long long mine, again, other, legacy;
    pthread_t thread;

    start();
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, &mine));
    OK(cuStreamGetId_ptsz(NULL, &again));
    OK(cuStreamGetId(NULL, &legacy));
    CHECK_EQ(mine, again);
    CHECK(mine != legacy);
    pthread_create(&thread, NULL, other_thread, &other);
    pthread_join(thread, NULL);
    CHECK(mine != other);
}

static void *
fill(void *arg)
{
    struct {
        CUstream s;
        int n, done;
    } *job = arg;
    int i;

    OK(cuDevicePrimaryCtxRetain(&(CUcontext){0}, 0));
    start();
    for (i = 0; i < 1100; i++)
        OK(cuLaunchHostFunc(job->s, count, &job->n));
    __atomic_store_n(&job->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void
test_strict_queue_blocks_its_caller(void)
{
    struct gate gate = GATE_INIT;
    struct {
        CUstream s;
        int n, done;
    } job = {0};
    pthread_t thread;

    setenv("FD_CPU_STRICT", "queue", 1);
    start();
    OK(cuStreamCreate(&job.s, CU_STREAM_NON_BLOCKING));
    OK(cuLaunchHostFunc(job.s, gate_wait, &gate));
    pthread_create(&thread, NULL, fill, &job);
    usleep(200000);
    CHECK_EQ(__atomic_load_n(&job.done, __ATOMIC_SEQ_CST), 0);
    gate_open(&gate);
    pthread_join(thread, NULL);
    OK(cuStreamSynchronize(job.s));
    CHECK_EQ(job.n, 1100);
}

static void
test_forked_child_is_told_so(void)
{
    int status;
    pid_t child;

    start();
    child = fork();
    if (child == 0) {
        CUdeviceptr d;

        FAILS(NOT_INITIALIZED, cuMemAlloc_v2(&d, 10));
        FAILS(NOT_INITIALIZED, cuInit(0));
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_streams_run_in_order_and_apart);
    RUN(test_legacy_stream_waits_and_is_waited_for);
    RUN(test_wait_applies_to_the_record_at_the_time_of_the_call);
    RUN(test_wait_alone_keeps_a_stream_busy);
    RUN(test_elapsed_time);
    RUN(test_host_functions_must_not_call);
    RUN(test_pageable_source_may_change_after_the_call);
    RUN(test_values_in_memory);
    RUN(test_each_thread_has_a_stream);
    RUN(test_strict_queue_blocks_its_caller);
    RUN(test_forked_child_is_told_so);
    return failed;
}
