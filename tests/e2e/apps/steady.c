/*
 * Many rounds of all that has no answer of its own: memory, streams, events, copies to the
 * device, launches, attributes, replays of a graph, queries. Each round waits twice, which
 * is all that a session may wait for it (test_waits.py counts).
 *
 *   steady [ROUNDS]
 */
#include "app.h"

enum { WORDS = 1024, LARGE = 100 << 10 };

static CUfunction fill, copy;
static CUgraphExec replay;
static CUstream main_stream;
static CUdeviceptr kept;
static char bytes[LARGE];

static void
graph_make(void)
{
    CUgraph graph;

    CHECK(cuStreamBeginCapture(main_stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (unsigned i = 0; i < 20; i++)
        CHECK(app_fill(fill, kept, i, WORDS, main_stream));
    CHECK(cuStreamEndCapture(main_stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&replay, graph, 0));
    CHECK(cuGraphDestroy(graph));
}

static void
memory(unsigned number, CUstream stream)
{
    CUdeviceptr small, middle, pooled;
    size_t free, total;

    CHECK(cuMemAlloc(&small, 1000));
    CHECK(cuMemAlloc(&middle, 300000));
    CHECK(cuMemAllocAsync(&pooled, 5000, stream));
    CHECK(cuMemcpyHtoD(small, bytes, 1000));
    CHECK(cuMemcpyHtoD(middle, bytes, LARGE));
    CHECK(cuMemcpyHtoDAsync(pooled, bytes, 5000, stream));
    CHECK(cuMemsetD32(small, number, 250));
    CHECK(app_copy(copy, pooled, small, 250, stream));
    CHECK(cuMemGetInfo(&free, &total));
    CHECK(cuMemFreeAsync(pooled, stream));
    CHECK(cuMemFree(small));
    CHECK(cuMemFree(middle));
}

static void
round_of(unsigned number)
{
    CUstream stream;
    CUevent start, end;
    unsigned got[4];

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&start, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&end, 0));
    CHECK(cuEventRecord(start, main_stream));
    CHECK(cuStreamWaitEvent(stream, start, 0));
    memory(number, stream);
    CHECK(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                             (int)(number % 2 + 1) * 1024));
    CHECK(cuGraphLaunch(replay, main_stream));
    CHECK(app_fill(fill, kept, number, WORDS, main_stream));
    CHECK(cuEventRecord(end, main_stream));
    for (int i = 0; i < 8 && cuEventQuery(start) != 0; i++)
        app_sleep_ms(1);
    CHECK(cuStreamSynchronize(main_stream)); /* once */
    CHECK(cuEventQuery(end));
    CHECK(cuStreamQuery(main_stream));
    CHECK(cuMemcpyDtoH(got, kept, sizeof(got))); /* twice */
    REQUIRE(got[0] == number && got[3] == number);
    CHECK(cuEventDestroy_v2(start));
    CHECK(cuEventDestroy_v2(end));
    CHECK(cuStreamDestroy_v2(stream));
}

int
main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 20;
    CUmodule module = NULL;

    app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    CHECK(cuMemAlloc(&kept, WORDS * 4));
    CHECK(cuStreamCreate(&main_stream, 0));
    graph_make();
    for (unsigned i = 0; i < rounds; i++)
        round_of(i);
    CHECK(cuCtxSynchronize());
    return app_end();
}
