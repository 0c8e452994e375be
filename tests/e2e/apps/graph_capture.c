/*
 * Captures under way: asked for their graph and dependencies, led by hand, begun into a
 * graph that there is, joined by other streams.
 */
#include "app.h"

enum { N = 512 };

static CUmodule module;
static CUfunction fill, add;
static CUdeviceptr a, b, c;
static CUstream stream, other;

static CUresult
sum(CUdeviceptr d, CUdeviceptr x, CUdeviceptr y, CUstream on)
{
    unsigned n = N;
    void *params[] = {&d, &x, &y, &n};

    return cuLaunchKernel(add, (N + 127) / 128, 1, 1, 128, 1, 1, 0, on, params, NULL);
}

static void
replay(CUgraph graph)
{
    CUgraphExec exec;

    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(exec));
}

static void
asked(void)
{
    CUstreamCaptureStatus status;
    const CUgraphEdgeData *edges;
    const CUgraphNode *deps;
    CUgraph graph = NULL, made;
    CUgraphNode nodes[4], added;
    CUgraphNodeType type;
    cuuint64_t id = 0, again = 0;
    size_t count = 9, all = 4;

    puts("asked");
    CHECK(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &deps, &count));
    REQUIRE(status == CU_STREAM_CAPTURE_STATUS_NONE && graph == NULL && id == 0);
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &deps, &count));
    printf("status %d, %zu dependencies\n", (int)status, count);
    REQUIRE(graph != NULL && id != 0);
    CHECK(app_fill(fill, a, 1, N, stream));
    CHECK(cuMemsetD32Async(b, 2, N, stream));
    CHECK(cuStreamGetCaptureInfo_v3(stream, &status, &again, &made, &deps, &edges, &count));
    REQUIRE(again == id && made == graph);
    printf("%zu dependencies, edge of type %d\n", count, edges[0].type);
    CHECK(cuGraphNodeGetType(deps[0], &type));
    printf("of type %d\n", (int)type);
    CHECK(cuGraphGetNodes(graph, nodes, &all));
    printf("%zu nodes so far\n", all);

    /* A node of the program's own, between those of the capture. */
    CHECK(cuGraphAddEmptyNode(&added, graph, deps, count));
    CHECK(cuStreamUpdateCaptureDependencies(stream, &added, 1,
                                            CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    CHECK(sum(c, a, b, stream));
    CHECK(cuStreamEndCapture(stream, &made));
    REQUIRE(made == graph);
    all = 4;
    CHECK(cuGraphGetNodes(graph, nodes, &all));
    printf("%zu nodes\n", all);
    count = 4;
    CHECK(cuGraphNodeGetDependentNodes(added, nodes, &count));
    printf("%zu behind the one that was added\n", count);
    replay(graph);
    printf("%u wrong\n", app_count_wrong(c, 3, N));
    CHECK(cuGraphDestroy(graph));

    puts("broken");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(app_fill(fill, a, 1, N, stream));
    CHECK(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &deps, &count));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &made));
    REQUIRE(made == NULL);
}

static void
into_a_graph(void)
{
    CUDA_MEMSET_NODE_PARAMS set = {.dst = a, .value = 10, .elementSize = 4, .width = N,
                                   .height = 1};
    CUgraph graph, made;
    CUgraphNode first, second, list[4];
    CUcontext context;
    size_t count = 4;

    puts("into a graph");
    CHECK(cuCtxGetCurrent(&context));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddMemsetNode(&first, graph, NULL, 0, &set, context));
    set.dst = b;
    set.value = 20;
    CHECK(cuGraphAddMemsetNode(&second, graph, NULL, 0, &set, context));
    CHECK(cuStreamBeginCaptureToGraph(stream, graph, &first, NULL, 1,
                                      CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuStreamUpdateCaptureDependencies(stream, &second, 1,
                                            CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
    CHECK(sum(c, a, b, stream));
    CHECK(cuStreamEndCapture(stream, &made));
    REQUIRE(made == graph);
    CHECK(cuGraphNodeGetDependentNodes(first, list, &count));
    printf("%zu behind the first\n", count);
    count = 4;
    CHECK(cuGraphNodeGetDependencies(list[0], list + 1, &count));
    printf("%zu before that\n", count);
    replay(graph);
    printf("%u wrong\n", app_count_wrong(c, 30, N));
    CHECK(cuStreamBeginCaptureToGraph(stream, graph, NULL, NULL, 0,
                                      CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuMemsetD32Async(c, 1, 4, stream));
    CHECK(cuStreamEndCapture(stream, &made));
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    printf("%zu nodes\n", count);
    CHECK(cuGraphDestroy(graph));
}

/* A blocking stream in another's capture: the legacy stream is out of bounds meanwhile. */
static void
joined_by_a_blocking_stream(void)
{
    CUstreamCaptureStatus status;
    CUstream blocking;
    CUevent fork, join;
    CUgraph graph;

    puts("joined by a blocking stream");
    CHECK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CHECK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    CHECK(app_fill(fill, b, 5, N, NULL));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(app_fill(fill, a, 4, N, stream));
    CHECK(cuEventRecord(fork, stream));
    CHECK(cuStreamWaitEvent(blocking, fork, 0));
    CHECK(app_fill(fill, c, 6, N, blocking));
    CHECK(cuStreamIsCapturing(blocking, &status));
    printf("status %d\n", (int)status);
    /* Waiting for what the program did before is no part of the capture. */
    CHECK(cuStreamSynchronize(other));
    CHECK(cuEventRecord(join, blocking));
    CHECK(cuStreamWaitEvent(stream, join, 0));
    CHECK(cuStreamEndCapture(stream, &graph));
    replay(graph);
    printf("%u %u %u wrong\n", app_count_wrong(a, 4, N), app_count_wrong(b, 5, N),
           app_count_wrong(c, 6, N));
    CHECK(cuGraphDestroy(graph));

    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuEventRecord(fork, stream));
    CHECK(cuStreamWaitEvent(blocking, fork, 0));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, app_fill(fill, a, 1, N, NULL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    CHECK(app_fill(fill, a, 1, N, NULL));
    CHECK(cuStreamSynchronize(NULL));
    printf("%u wrong\n", app_count_wrong(a, 1, N));
    CHECK(cuStreamDestroy_v2(blocking));
    CHECK(cuEventDestroy_v2(fork));
    CHECK(cuEventDestroy_v2(join));
}

/* An executable graph cannot be launched into a capture. */
static void
launched_into_a_capture(void)
{
    CUgraph inner, outer;
    CUgraphExec exec;

    puts("launched into a capture");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(app_fill(fill, a, 8, N, stream));
    CHECK(cuStreamEndCapture(stream, &inner));
    CHECK(cuGraphInstantiateWithFlags(&exec, inner, 0));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuGraphLaunch(exec, stream));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &outer));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(inner));
}

int
main(void)
{
    app_begin();
    fill = app_function(&module, "fill");
    add = app_function(&module, "add");
    CHECK(cuMemAlloc(&a, N * 4));
    CHECK(cuMemAlloc(&b, N * 4));
    CHECK(cuMemAlloc(&c, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    asked();
    into_a_graph();
    joined_by_a_blocking_stream();
    launched_into_a_capture();
    return app_end();
}
