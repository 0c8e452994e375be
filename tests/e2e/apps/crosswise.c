/*
 * Streams of two devices that wait crosswise, with the program's own host functions in
 * between. A driver runs those of all streams on one thread, so nothing that only stands
 * still may have that thread.
 */
#include "app.h"

enum { N = 1 << 16, DEEP = 40 };

static CUcontext context[2];
static CUdeviceptr p[2], q[2], word[2];
static CUstream first[2], second[2], third[2], side[2];
static CUfunction fill[2];
static CUmodule module[2];
static unsigned ran;

static void
count(void *user)
{
    __atomic_add_fetch((unsigned *)user, 1, __ATOMIC_RELAXED);
}

static void
use(int d)
{
    CHECK(cuCtxSetCurrent(context[d]));
}

/* second[d] stands at its gate first; then first[d] gets to a host function, which second[d]
 * waits for by way of the other device. */
static void
round_trip(unsigned number)
{
    CUevent start[2], over[2];
    int d;

    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(cuEventCreate(&start[d], CU_EVENT_DISABLE_TIMING));
        CHECK(cuEventCreate(&over[d], CU_EVENT_DISABLE_TIMING));
        CHECK(cuStreamWaitValue32_v2(first[d], word[d], number, CU_STREAM_WAIT_VALUE_GEQ));
        CHECK(cuLaunchHostFunc(first[d], count, &ran));
        CHECK(app_fill(fill[d], p[d], 5 + (unsigned)d, N, first[d]));
        CHECK(cuEventRecord(start[d], first[d]));
    }
    for (d = 0; d < 2; d++) {
        use(1 - d);
        CHECK(cuStreamWaitEvent(third[1 - d], start[d], 0));
        CHECK(cuMemcpyPeerAsync(q[1 - d], context[1 - d], p[d], context[d], N * 4,
                                third[1 - d]));
        CHECK(cuEventRecord(over[1 - d], third[1 - d]));
    }
    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(cuStreamWaitEvent(second[d], over[1 - d], 0));
        CHECK(cuLaunchHostFunc(second[d], count, &ran));
    }
    app_sleep_ms(50);
    for (d = 0; d < 2; d++)
        EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(second[d]));
    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(cuStreamWriteValue32_v2(side[d], word[d], number, 0));
    }
    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(cuStreamSynchronize(second[d]));
        REQUIRE(app_count_wrong(q[1 - d], 5 + (unsigned)d, N) == 0);
        CHECK(cuEventDestroy(start[d]));
        CHECK(cuEventDestroy(over[d]));
    }
    printf("%u host functions ran\n", ran);
}

/* Copies between the two while a host function stands still. */
static void
copies_pass(void)
{
    struct app_gate gate = APP_GATE;
    int d;

    use(0);
    CHECK(cuLaunchHostFunc(first[0], app_wait, &gate));
    app_arrived(&gate);
    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(app_fill(fill[d], p[d], 30 + (unsigned)d, N, side[d]));
        CHECK(cuStreamSynchronize(side[d]));
    }
    for (d = 0; d < 2; d++) {
        use(d);
        CHECK(cuMemcpyPeerAsync(q[d], context[d], p[1 - d], context[1 - d], N * 4,
                                second[d]));
        CHECK(cuStreamSynchronize(second[d]));
        REQUIRE(app_count_wrong(q[d], 31 - (unsigned)d, N) == 0);
    }
    app_open(&gate);
    CHECK(cuStreamSynchronize(first[0]));
    puts("copies pass by a host function");
}

/* A chain that goes to and fro over as many streams as there are links: all stand still at
 * once, and one host function at its start lets them go. */
static void
chain(void)
{
    struct app_gate gate = APP_GATE;
    CUstream link[DEEP];
    CUevent event[DEEP];
    int i;

    for (i = 0; i < DEEP; i++) {
        use(i % 2);
        CHECK(cuStreamCreate(&link[i], CU_STREAM_NON_BLOCKING));
        CHECK(cuEventCreate(&event[i], CU_EVENT_DISABLE_TIMING));
        if (i == 0)
            CHECK(cuLaunchHostFunc(link[0], app_wait, &gate));
        else
            CHECK(cuStreamWaitEvent(link[i], event[i - 1], 0));
        CHECK(app_fill(fill[i % 2], p[i % 2], 100 + (unsigned)i, 16, link[i]));
        CHECK(cuEventRecord(event[i], link[i]));
        if (i > 0)
            CHECK(cuEventDestroy(event[i - 1]));
    }
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(link[DEEP - 1]));
    app_open(&gate);
    CHECK(cuStreamSynchronize(link[DEEP - 1]));
    for (i = 0; i < 2; i++) {
        use(i);
        REQUIRE(app_count_wrong(p[i], 98 + DEEP + (unsigned)i, 16) == 0);
    }
    CHECK(cuEventDestroy(event[DEEP - 1]));
    for (i = 0; i < DEEP; i++) {
        use(i % 2);
        CHECK(cuStreamDestroy_v2(link[i]));
    }
    puts("a chain of streams");
}

/* Streams, and a whole context, that go while they stand still. */
static void
endings(void)
{
    struct app_gate gate = APP_GATE;
    CUcontext made;
    CUstream stream;
    CUevent event;

    use(0);
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuLaunchHostFunc(first[0], app_wait, &gate));
    CHECK(cuEventRecord(event, first[0]));
    use(1);
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamWaitEvent(stream, event, 0));
    CHECK(app_fill(fill[1], p[1], 7, N, stream));
    CHECK(cuStreamDestroy_v2(stream));
    app_open(&gate);
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(p[1], 7, N) == 0);
    use(0);
    CHECK(cuStreamSynchronize(first[0]));
    /* A context of the program's own. */
    CHECK(cuCtxCreate_v2(&made, 0, 1));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventRecord(event, first[0]));
    CHECK(cuStreamWaitEvent(stream, event, 0));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuCtxDestroy_v2(made));
    use(0);
    CHECK(cuEventDestroy(event));
    puts("endings");
}

int
main(void)
{
    int devices = 0, d;

    alarm(100);
    context[0] = app_begin();
    CHECK(cuDeviceGetCount(&devices));
    CHECK(cuDevicePrimaryCtxRetain(&context[1], devices - 1));
    for (d = 0; d < 2; d++) {
        use(d);
        fill[d] = app_function(&module[d], "fill");
        CHECK(cuMemAlloc(&p[d], N * 4));
        CHECK(cuMemAlloc(&q[d], N * 4));
        CHECK(cuMemAlloc(&word[d], 4));
        CHECK(cuMemsetD32(word[d], 0, 1));
        CHECK(cuCtxSynchronize());
        CHECK(cuStreamCreate(&first[d], CU_STREAM_NON_BLOCKING));
        CHECK(cuStreamCreate(&second[d], CU_STREAM_NON_BLOCKING));
        CHECK(cuStreamCreate(&third[d], CU_STREAM_NON_BLOCKING));
        CHECK(cuStreamCreate(&side[d], CU_STREAM_NON_BLOCKING));
    }
    for (unsigned i = 1; i <= 3; i++)
        round_trip(i);
    copies_pass();
    chain();
    endings();
    return app_end();
}
