/*
 * Memory that graphs allocate: by nodes and by stream-ordered allocation in a capture,
 * freed in the graph, by the program, or by the next launch.
 */
#include "app.h"

enum { N = 4096 };

static CUmodule module;
static CUfunction fill, copy;
static CUdeviceptr out;
static CUstream stream;

static void
freed_in_the_graph(void)
{
    CUdeviceptr first, second, got;
    CUDA_MEM_ALLOC_NODE_PARAMS alloc;
    CUgraphNode nodes[8];
    CUgraphNodeType type;
    CUgraph graph, clone;
    CUgraphExec exec;
    size_t count = 8;

    puts("captured and freed");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemAllocAsync(&first, N * 4, stream));
    CHECK(cuMemAllocAsync(&second, N * 4, stream));
    REQUIRE(first != second && first != 0);
    CHECK(app_fill(fill, first, 31, N, stream));
    CHECK(app_copy(copy, second, first, N, stream));
    CHECK(cuMemcpyDtoDAsync_v2(out, second, N * 4, stream));
    CHECK(cuMemFreeAsync(first, stream));
    CHECK(cuMemFreeAsync(second, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphGetNodes(graph, nodes, &count));
    printf("%zu nodes:", count);
    for (size_t i = 0; i < count; i++) {
        CHECK(cuGraphNodeGetType(nodes[i], &type));
        printf(" %d", (int)type);
        if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
            CHECK(cuGraphMemAllocNodeGetParams(nodes[i], &alloc));
            REQUIRE(alloc.bytesize == N * 4 &&
                    (alloc.dptr == first || alloc.dptr == second));
        } else if (type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
            CHECK(cuGraphMemFreeNodeGetParams(nodes[i], &got));
            REQUIRE(got == first || got == second);
            EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuGraphDestroyNode(nodes[i]));
        }
    }
    puts("");
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuGraphClone(&clone, graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 3; i++)
        CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u wrong\n", app_count_wrong(out, 31, N));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(first, stream));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

static CUDA_MEM_ALLOC_NODE_PARAMS
allocation(size_t size)
{
    CUDA_MEM_ALLOC_NODE_PARAMS params = {.bytesize = size};

    params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    return params;
}

static void
outlives_the_launch(void)
{
    CUDA_MEM_ALLOC_NODE_PARAMS params = allocation(N * 4);
    CUgraph graph, freer;
    CUgraphExec exec, free_exec;
    CUgraphNode node, set;
    CUDA_MEMSET_NODE_PARAMS setting = {.value = 17, .elementSize = 4, .width = N,
                                       .height = 1};
    uint64_t used = 1, reserved = 1, high = 0;
    CUcontext context;

    puts("outlives the launch");
    CHECK(cuCtxGetCurrent(&context));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params));
    setting.dst = params.dptr;
    CHECK(cuGraphAddMemsetNode(&set, graph, &node, 1, &setting, context));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(app_copy(copy, out, params.dptr, N, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u wrong\n", app_count_wrong(out, 17, N));
    CHECK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used));
    CHECK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT,
                                       &reserved));
    REQUIRE(used >= N * 4 && reserved >= used);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(exec, stream)); /* not freed */
    CHECK(cuMemFreeAsync(params.dptr, stream));
    CHECK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, &high));
    REQUIRE(high >= N * 4);
    used = 0;
    CHECK(cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, &used));
    used = 1;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, &used));
    CHECK(cuGraphLaunch(exec, stream));

    puts("freed by another graph");
    CHECK(cuGraphCreate(&freer, 0));
    CHECK(cuGraphAddMemFreeNode(&node, freer, NULL, 0, params.dptr));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuGraphAddMemFreeNode(&node, freer, NULL, 0, params.dptr + 512));
    CHECK(cuGraphInstantiateWithFlags(&free_exec, freer, 0));
    CHECK(cuGraphLaunch(free_exec, stream));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(free_exec, stream));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    /* The memory outlives its graphs until somebody frees it. */
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphExecDestroy(free_exec));
    CHECK(cuGraphDestroy(freer));
    CHECK(cuGraphDestroy(graph));
    CHECK(app_copy(copy, out, params.dptr, N, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u wrong\n", app_count_wrong(out, 17, N));
    CHECK(cuMemFree(params.dptr));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(params.dptr));
    CHECK(cuDeviceGraphMemTrim(0));
    CHECK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT,
                                       &reserved));
    printf("reserved %llu\n", (unsigned long long)reserved);
}

static void
freed_at_the_next_launch(void)
{
    CUDA_MEM_ALLOC_NODE_PARAMS params = allocation(N * 4);
    CUgraphExec exec;
    CUgraphNode node;
    cuuint64_t flags;
    CUgraph graph;

    puts("freed at the next launch");
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph,
                                      CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
    CHECK(cuGraphExecGetFlags(exec, &flags));
    printf("flags %llu\n", (unsigned long long)flags);
    for (int i = 0; i < 3; i++)
        CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemFreeAsync(params.dptr, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

int
main(void)
{
    app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    CHECK(cuMemAlloc(&out, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    freed_in_the_graph();
    outlives_the_launch();
    freed_at_the_next_launch();
    return app_end();
}
