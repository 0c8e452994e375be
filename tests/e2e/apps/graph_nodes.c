/*
 * Nodes of every kind: what a capture made can be read back, changed, switched off and
 * updated; graphs inside graphs, clones, edges, ids, a drawing. Names that have ended are
 * refused.
 */
#include "app.h"

enum { N = 512 };

static CUmodule module;
static CUfunction fill, copy, add;
static CUdeviceptr a, b, c;
static CUstream stream;

static void
count_up(void *user)
{
    __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static void
run(CUgraphExec exec)
{
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
}

/* The one node of this type. */
static CUgraphNode
node_of(CUgraph graph, CUgraphNodeType wanted)
{
    CUgraphNode nodes[16], found = NULL;
    CUgraphNodeType type;
    size_t count = 16;

    CHECK(cuGraphGetNodes(graph, nodes, &count));
    for (size_t i = 0; i < count; i++) {
        CHECK(cuGraphNodeGetType(nodes[i], &type));
        if (type == wanted)
            found = nodes[i];
    }
    REQUIRE(found != NULL);
    return found;
}

static void
captured_nodes(void)
{
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMSET_NODE_PARAMS set;
    CUDA_MEMCPY3D copied;
    CUDA_HOST_NODE_PARAMS host;
    CUgraphNode nodes[8], kernel_node, set_node, copy_node, host_node;
    CUgraphExecUpdateResultInfo info;
    CUgraph graph, other;
    CUgraphExec exec;
    unsigned enabled = 7, value = 40;
    size_t count = 8;
    int called = 0;

    puts("captured nodes");
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemsetD32Async(a, 3, N, stream));
    CHECK(app_fill(fill, b, 4, N, stream));
    CHECK(cuMemcpyDtoDAsync_v2(c, b, N * 4, stream));
    CHECK(cuLaunchHostFunc(stream, count_up, &called));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphGetNodes(graph, nodes, &count));
    printf("%zu nodes\n", count);
    kernel_node = node_of(graph, CU_GRAPH_NODE_TYPE_KERNEL);
    set_node = node_of(graph, CU_GRAPH_NODE_TYPE_MEMSET);
    copy_node = node_of(graph, CU_GRAPH_NODE_TYPE_MEMCPY);
    host_node = node_of(graph, CU_GRAPH_NODE_TYPE_HOST);

    memset(&kernel, 0xee, sizeof(kernel));
    CHECK(cuGraphKernelNodeGetParams_v2(kernel_node, &kernel));
    printf("kernel: grid %u block %u value %u\n", kernel.gridDimX, kernel.blockDimX,
           *(unsigned *)kernel.kernelParams[1]);
    REQUIRE(kernel.func == fill);
    REQUIRE(*(CUdeviceptr *)kernel.kernelParams[0] == b);
    CHECK(cuGraphMemsetNodeGetParams(set_node, &set));
    printf("set: value %u, %zu x %u\n", set.value, set.width, set.elementSize);
    REQUIRE(set.dst == a);
    CHECK(cuGraphMemcpyNodeGetParams(copy_node, &copied));
    printf("copy: %zu bytes\n", copied.WidthInBytes);
    REQUIRE(copied.srcDevice == b && copied.dstDevice == c);
    CHECK(cuGraphHostNodeGetParams(host_node, &host));
    REQUIRE(host.fn == count_up && host.userData == &called);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphMemsetNodeGetParams(kernel_node, &set));

    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec);
    printf("ran: %u %u %u wrong, called %d\n", app_count_wrong(a, 3, N),
           app_count_wrong(b, 4, N), app_count_wrong(c, 4, N), called);

    /* What was read can be given back, changed. */
    kernel.kernelParams[1] = &value;
    CHECK(cuGraphExecKernelNodeSetParams_v2(exec, kernel_node, &kernel));
    CHECK(cuGraphNodeGetEnabled(exec, copy_node, &enabled));
    CHECK(cuGraphNodeSetEnabled(exec, copy_node, 0));
    run(exec);
    printf("changed: %u wrong; enabled was %u, not copied: %u wrong\n",
           app_count_wrong(b, 40, N), enabled, app_count_wrong(c, 4, N));
    CHECK(cuGraphNodeSetEnabled(exec, copy_node, 1));
    run(exec);
    printf("copied again: %u wrong\n", app_count_wrong(c, 40, N));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphNodeSetEnabled(exec, host_node, 0));

    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemsetD32Async(a, 30, N, stream));
    CHECK(app_fill(fill, b, 50, N, stream));
    CHECK(cuMemcpyDtoDAsync_v2(c, b, N * 4, stream));
    CHECK(cuLaunchHostFunc(stream, count_up, &called));
    CHECK(cuStreamEndCapture(stream, &other));
    CHECK(cuGraphExecUpdate_v2(exec, other, &info));
    printf("update: %d\n", (int)info.result);
    run(exec);
    printf("updated: %u %u wrong\n", app_count_wrong(a, 30, N),
           app_count_wrong(c, 50, N));
    CHECK(cuGraphDestroy(other));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemsetD32Async(a, 30, N, stream));
    CHECK(cuStreamEndCapture(stream, &other));
    EXPECT(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(exec, other, &info));
    printf("update: %d\n", (int)info.result);
    CHECK(cuGraphDestroy(other));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphExecDestroy(exec));
}

static void
generic_forms(void)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL}, got;
    CUgraphNode one, two, three, child_node, list[4], before[4];
    CUgraphEdgeData edges[4], edge = {0, 0, 0, {0}};
    CUgraph graph, child, inner;
    unsigned value = 9, n = N;
    CUgraphExec exec;
    size_t count;
    void *fill_params[] = {&a, &value, &n};

    puts("generic forms");
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphCreate(&child, 0));
    params.kernel.func = fill;
    params.kernel.gridDimX = (N + 127) / 128;
    params.kernel.gridDimY = params.kernel.gridDimZ = 1;
    params.kernel.blockDimX = 128;
    params.kernel.blockDimY = params.kernel.blockDimZ = 1;
    params.kernel.kernelParams = fill_params;
    CHECK(cuGraphAddNode_v2(&one, child, NULL, NULL, 0, &params));
    params = (CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMSET};
    params.memset.dst = b;
    params.memset.value = 5;
    params.memset.elementSize = 4;
    params.memset.width = N;
    params.memset.height = 1;
    CHECK(cuGraphAddNode_v2(&two, graph, NULL, NULL, 0, &params));
    params = (CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_GRAPH};
    params.graph.graph = child;
    CHECK(cuGraphAddNode_v2(&child_node, graph, &two, &edge, 1, &params));
    params = (CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    params.memcpy.copyParams.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    params.memcpy.copyParams.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    params.memcpy.copyParams.srcDevice = a;
    params.memcpy.copyParams.dstDevice = c;
    params.memcpy.copyParams.WidthInBytes = N * 4;
    params.memcpy.copyParams.Height = params.memcpy.copyParams.Depth = 1;
    CHECK(cuGraphAddNode_v2(&three, graph, &child_node, NULL, 1, &params));
    count = 4;
    CHECK(cuGraphNodeGetDependencies_v2(three, list, edges, &count));
    printf("the last has %zu before it\n", count);
    REQUIRE(list[0] == child_node && edges[0].type == 0);
    count = 4;
    CHECK(cuGraphGetEdges_v2(graph, list, before, edges, &count));
    printf("%zu edges\n", count);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec);
    printf("ran: %u %u %u wrong\n", app_count_wrong(a, 9, N), app_count_wrong(b, 5, N),
           app_count_wrong(c, 9, N));

    CHECK(cuGraphNodeGetParams(two, &got));
    printf("type %d value %u\n", (int)got.type, got.memset.value);
    got.memset.value = 6;
    CHECK(cuGraphExecNodeSetParams(exec, two, &got));
    run(exec);
    printf("set in the executable graph: %u wrong\n", app_count_wrong(b, 6, N));
    got.memset.value = 7;
    CHECK(cuGraphNodeSetParams(two, &got));
    CHECK(cuGraphNodeGetParams(two, &got));
    printf("set in the node: %u\n", got.memset.value);

    /* The executable graph's child from another graph of the same shape. */
    CHECK(cuGraphChildGraphNodeGetGraph(child_node, &inner));
    REQUIRE(inner != child);
    CHECK(cuGraphNodeFindInClone(&list[0], one, inner));
    value = 21;
    CHECK(cuGraphKernelNodeSetParams_v2(
        one, &(CUDA_KERNEL_NODE_PARAMS){fill, (N + 127) / 128, 1, 1, 128, 1, 1, 0,
                                        fill_params, NULL, NULL, NULL}));
    CHECK(cuGraphExecChildGraphNodeSetParams(exec, child_node, child));
    run(exec);
    printf("another child: %u wrong\n", app_count_wrong(c, 21, N));

    CHECK(cuGraphDestroyNode(child_node));
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    printf("%zu nodes are left\n", count);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphDestroy(child));
}

static void
edges_and_attributes(void)
{
    CUDA_KERNEL_NODE_PARAMS kernel = {.func = fill, .gridDimX = 4, .gridDimY = 1,
                                      .gridDimZ = 1, .blockDimX = 128, .blockDimY = 1,
                                      .blockDimZ = 1};
    CUgraphEdgeData edge = {.type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC,
                            .from_port = 1}, got;
    CUkernelNodeAttrValue value = {.priority = -1}, read;
    CUgraphNode one, two, from, to;
    unsigned word = 1, n = N;
    void *params[] = {&a, &word, &n};
    char line[256], path[] = "/tmp/graph_nodes_XXXXXX";
    int fd = mkstemp(path), arrows = 0, kernels = 0;
    CUgraph graph;
    size_t count = 1;
    FILE *dot;

    puts("edges and attributes");
    kernel.kernelParams = params;
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddKernelNode_v2(&one, graph, NULL, 0, &kernel));
    CHECK(cuGraphAddKernelNode_v2(&two, graph, NULL, 0, &kernel));
    CHECK(cuGraphAddDependencies_v2(graph, &one, &two, &edge, 1));
    CHECK(cuGraphGetEdges_v2(graph, &from, &to, &got, &count));
    printf("edge: port %d type %d\n", got.from_port, got.type);
    REQUIRE(from == one && to == two);
    count = 1;
    EXPECT(CUDA_ERROR_LOSSY_QUERY, cuGraphGetEdges(graph, &from, &to, &count));
    CHECK(cuGraphRemoveDependencies_v2(graph, &one, &two, &edge, 1));
    CHECK(cuGraphGetEdges(graph, NULL, NULL, &count));
    printf("%zu edges\n", count);
    CHECK(cuGraphAddDependencies(graph, &one, &two, 1));
    CHECK(cuGraphKernelNodeSetAttribute(one, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    CHECK(cuGraphKernelNodeCopyAttributes(two, one));
    CHECK(cuGraphKernelNodeGetAttribute(two, CU_LAUNCH_ATTRIBUTE_PRIORITY, &read));
    printf("priority %d\n", read.priority);
    CHECK(cuGraphKernelNodeGetAttribute(two, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &read));
    printf("cooperative %d\n", read.cooperative);
    CHECK(cuGraphDebugDotPrint(graph, path, CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE));
    dot = fdopen(fd, "r");
    while (fgets(line, sizeof(line), dot) != NULL) {
        arrows += strstr(line, "->") != NULL;
        kernels += strstr(line, "fill") != NULL;
    }
    fclose(dot);
    unlink(path);
    printf("drawn: %d kernels, %d arrows\n", kernels, arrows);
    CHECK(cuGraphDestroy(graph));
}

static void
events(void)
{
    CUgraphNode record, wait, list[2];
    CUevent first, second, got;
    struct app_gate gate = APP_GATE;
    CUgraph graph;
    CUgraphExec exec;
    CUstream other;
    size_t count = 2;

    puts("events");
    CHECK(cuEventCreate(&first, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&second, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddEventWaitNode(&wait, graph, NULL, 0, first));
    CHECK(cuGraphAddEventRecordNode(&record, graph, &wait, 1, first));
    CHECK(cuGraphEventRecordNodeSetEvent(record, second));
    CHECK(cuGraphEventRecordNodeGetEvent(record, &got));
    REQUIRE(got == second);
    CHECK(cuGraphEventWaitNodeGetEvent(wait, &got));
    REQUIRE(got == first);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuLaunchHostFunc(other, app_wait, &gate));
    CHECK(cuEventRecord(first, other));
    CHECK(cuGraphLaunch(exec, stream));
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(second));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    app_open(&gate);
    CHECK(cuEventSynchronize(second));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuEventQuery(second));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));

    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(app_fill(fill, a, 77, N, stream));
    CHECK(cuEventRecordWithFlags(second, stream, CU_EVENT_RECORD_EXTERNAL));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphGetNodes(graph, list, &count));
    CHECK(cuGraphEventRecordNodeGetEvent(node_of(graph, CU_GRAPH_NODE_TYPE_EVENT_RECORD),
                                         &got));
    REQUIRE(got == second);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamWaitEvent(other, second, 0));
    CHECK(app_copy(copy, b, a, N, other));
    CHECK(cuStreamSynchronize(other));
    printf("recorded by the graph: %u wrong\n", app_count_wrong(b, 77, N));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(other));
    CHECK(cuEventDestroy_v2(first));
    CHECK(cuEventDestroy_v2(second));
}

static void
memory_operations(void)
{
    CUstreamBatchMemOpParams ops[2] = {{.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32},
                                       {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64}};
    CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {.count = 2, .paramArray = ops}, got;
    unsigned words[4] = {0};
    CUgraphExec exec;
    CUgraphNode node;
    CUgraph graph;

    puts("memory operations");
    CHECK(cuMemsetD32Async(a, 0, 4, stream));
    ops[0].writeValue.address = a;
    ops[0].writeValue.value = 11;
    ops[1].writeValue.address = a + 8;
    ops[1].writeValue.value64 = 0x1200000013;
    CHECK(cuCtxGetCurrent(&batch.ctx));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddBatchMemOpNode(&node, graph, NULL, 0, &batch));
    CHECK(cuGraphBatchMemOpNodeGetParams(node, &got));
    printf("%u operations, the second %d\n", got.count,
           (int)got.paramArray[1].operation);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec);
    CHECK(cuMemcpyDtoH(words, a, sizeof(words)));
    printf("%u %u %u %u\n", words[0], words[1], words[2], words[3]);
    ops[0].writeValue.value = 99;
    batch.count = 1;
    CHECK(cuGraphExecBatchMemOpNodeSetParams(exec, node, &batch));
    run(exec);
    CHECK(cuMemcpyDtoH(words, a, sizeof(words)));
    printf("%u %u %u %u\n", words[0], words[1], words[2], words[3]);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

static void
user_objects(void)
{
    int destroyed = 0;
    CUuserObject object;
    CUgraph graph, clone;
    CUgraphExec exec;
    CUgraphNode node;

    puts("user objects");
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddEmptyNode(&node, graph, NULL, 0));
    CHECK(cuUserObjectCreate(&object, &destroyed, count_up, 1,
                             CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CHECK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
    CHECK(cuGraphClone(&clone, graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphDestroy(clone));
    printf("graphs gone: %d\n", __atomic_load_n(&destroyed, __ATOMIC_RELAXED));
    run(exec);
    CHECK(cuGraphExecDestroy(exec));
    printf("executable graph gone: %d\n", __atomic_load_n(&destroyed, __ATOMIC_RELAXED));
    CHECK(cuUserObjectCreate(&object, &destroyed, count_up, 2,
                             CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CHECK(cuUserObjectRetain(object, 1));
    CHECK(cuUserObjectRelease(object, 2));
    printf("released twice of three: %d\n", destroyed);
    CHECK(cuUserObjectRelease(object, 1));
    printf("released: %d\n", destroyed);
}

int
main(void)
{
    app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    add = app_function(&module, "add");
    CHECK(cuMemAlloc(&a, N * 4));
    CHECK(cuMemAlloc(&b, N * 4));
    CHECK(cuMemAlloc(&c, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    captured_nodes();
    generic_forms();
    edges_and_attributes();
    events();
    memory_operations();
    user_objects();
    return app_end();
}
