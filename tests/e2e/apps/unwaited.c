/*
 * What a program finds that does not wait: bytes of synchronous copies are there for work
 * on every stream, also on those that nothing orders with the copy's; queries tell of what
 * has finished, and of nothing else.
 */
#include "app.h"

enum { WORDS = 256 << 10 };

static CUfunction fill, copy;
static CUdeviceptr from, to;
static unsigned words[WORDS];

/* The default stream is kept busy, a copy is made, and then another stream reads. */
static void
copy_then_read(CUstream reads, unsigned value, int twice)
{
    for (unsigned i = 0; i < WORDS; i++)
        words[i] = value;
    CHECK(cuLaunchHostFunc(NULL, app_nap, (void *)20));
    if (twice) /* rows of a box */
        CHECK(cuMemcpyHtoD(from, words, WORDS));
    CHECK(cuMemcpyHtoD(from, words, sizeof(words)));
    memset(words, 0, sizeof(words)); /* the program's again */
    CHECK(app_copy(copy, to, from, WORDS, reads));
    CHECK(cuStreamSynchronize(reads));
    REQUIRE(app_count_wrong(to, value, WORDS) == 0);
}

static void
copies(void)
{
    CUstream apart, late, blocking;

    CHECK(cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&blocking, 0));
    for (unsigned round = 0; round < 4; round++) {
        copy_then_read(apart, 100 + round, round & 1);
        copy_then_read(blocking, 200 + round, round & 1);
        copy_then_read(CU_STREAM_PER_THREAD, 300 + round, 0);
        copy_then_read(NULL, 400 + round, 0);
        CHECK(cuStreamCreate(&late, CU_STREAM_NON_BLOCKING));
        copy_then_read(late, 500 + round, 0);
        CHECK(cuStreamDestroy_v2(late));
    }
    CHECK(cuStreamDestroy_v2(apart));
    CHECK(cuStreamDestroy_v2(blocking));
}

/* Until it says that all is over; a program that asks does other things meanwhile. */
static CUresult
ask(CUevent event, CUstream stream)
{
    CUresult result;

    for (int i = 0; i < 20000; i++) {
        result = event != NULL ? cuEventQuery(event) : cuStreamQuery(stream);
        if (result != CUDA_ERROR_NOT_READY)
            return result;
        if (i % 8 == 0)
            usleep(100);
    }
    return CUDA_ERROR_TIMEOUT;
}

static void
queries(void)
{
    struct app_gate gates[6] = { APP_GATE, APP_GATE, APP_GATE, APP_GATE, APP_GATE, APP_GATE };
    CUstream stream, other;
    CUevent event;

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventQuery(event)); /* never recorded */
    for (int round = 0; round < 6; round++) {
        CHECK(cuLaunchHostFunc(stream, app_wait, &gates[round]));
        CHECK(app_fill(fill, to, (unsigned)round, WORDS, stream));
        CHECK(cuEventRecord(event, stream));
        for (int i = 0; i < 200; i++) {
            EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(event));
            EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        }
        if (round % 2 == 1)
            CHECK(cuStreamWaitEvent(other, event, 0));
        app_open(&gates[round]);
        if (round % 2 == 1) { /* what implies it has been waited for */
            CHECK(cuStreamSynchronize(other));
            CHECK(cuEventQuery(event));
        }
        CHECK(ask(round % 3 == 0 ? event : NULL, stream));
        CHECK(ask(event, stream));
        CHECK(cuEventQuery(event));
        CHECK(cuStreamQuery(stream));
        /* Nothing else has been waited for. */
        CHECK(app_copy(copy, from, to, WORDS, stream));
        CHECK(cuStreamSynchronize(stream));
        REQUIRE(app_count_wrong(from, (unsigned)round, WORDS) == 0);
    }
    /* Recorded anew, it tells of that alone. */
    gates[0].open = 0;
    CHECK(cuEventRecord(event, stream));
    CHECK(ask(event, NULL));
    CHECK(cuLaunchHostFunc(stream, app_wait, &gates[0]));
    CHECK(cuEventRecord(event, stream));
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    CHECK(cuEventRecord(event, other));
    CHECK(ask(event, NULL));
    app_open(&gates[0]);
    CHECK(cuEventDestroy_v2(event));
    CHECK(cuStreamDestroy_v2(stream)); /* while it is told of */
    CHECK(cuStreamDestroy_v2(other));
    CHECK(cuCtxSynchronize());
}

int
main(void)
{
    CUmodule module = NULL;

    app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    CHECK(cuMemAlloc(&from, sizeof(words)));
    CHECK(cuMemAlloc(&to, sizeof(words)));
    copies();
    queries();
    return app_end();
}
