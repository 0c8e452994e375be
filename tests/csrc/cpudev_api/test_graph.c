/* Capture and graphs of the CPU device: what is caught, what is refused, what runs. */
#include "driver.h"

static CUstream
stream(void)
{
    CUstream s;

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    return s;
}

static void
test_captured_work_runs_at_each_launch(void)
{
    CUstream s, t;
    CUevent fork, join;
    CUgraph graph;
    CUgraphExec exec;
    CUdeviceptr d;
    size_t nodes = 0, edges = 0, roots = 0;
    unsigned int word;
    int n = 0;

    start();
    s = stream();
    t = stream();
    OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    OK(cuMemAlloc_v2(&d, 16));
    OK(cuMemsetD32_v2(d, 1, 4));
    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemsetD32Async(d, 7, 2, s));
    OK(cuEventRecord(fork, s));
    OK(cuStreamWaitEvent(t, fork, 0));
    OK(cuLaunchHostFunc(t, count, &n));
    OK(cuMemcpyDtoDAsync_v2(d + 8, d, 4, s));
    OK(cuEventRecord(join, t));
    OK(cuStreamWaitEvent(s, join, 0));
    OK(cuLaunchHostFunc(s, count, &n));
    OK(cuStreamEndCapture(s, &graph));
    OK(cuGraphGetNodes(graph, NULL, &nodes));
    CHECK_EQ(nodes, 4);
    OK(cuGraphGetRootNodes(graph, NULL, &roots));
    CHECK_EQ(roots, 1);
    OK(cuGraphGetEdges_v2(graph, NULL, NULL, NULL, &edges));
    CHECK_EQ(edges, 4);
    OK(cuMemcpyDtoH_v2(&word, d, 4));
    CHECK_EQ(word, 1); /* nothing has run */
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    OK(cuGraphLaunch(exec, s));
    OK(cuGraphLaunch(exec, s));
    OK(cuGraphExecDestroy(exec));
    OK(cuStreamSynchronize(s));
    CHECK_EQ(n, 4);
    OK(cuMemcpyDtoH_v2(&word, d + 8, 4));
    CHECK_EQ(word, 7);
}

static void
test_what_capture_refuses(void)
{
    CUstream s, t, blocking;
    CUstreamCaptureStatus status;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUgraph graph;
    CUdeviceptr d;
    CUevent e, before;

    start();
    s = stream();
    t = stream();
    OK(cuStreamCreate(&blocking, 0));
    OK(cuEventCreate(&e, 0));
    OK(cuEventCreate(&before, 0));
    OK(cuEventRecord(before, t));
    FAILS(STREAM_CAPTURE_UNSUPPORTED,
          cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(ILLEGAL_STATE, cuStreamEndCapture(s, &graph));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc_v2(&d, 16));
    OK(cuStreamIsCapturing(s, &status));
    CHECK_EQ(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    FAILS(STREAM_CAPTURE_INVALIDATED, cuLaunchHostFunc(s, count, &d));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));
    CHECK(graph == NULL);
    OK(cuMemAlloc_v2(&d, 16));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK_EQ(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    OK(cuMemAlloc_v2(&d, 16)); /* allowed now */
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    OK(cuMemsetD8_v2(d, 0, 16)); /* the legacy stream: s is no part */
    OK(cuStreamEndCapture(s, &graph));

    OK(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuMemAlloc_v2(&d, 16));
    FAILS(STREAM_CAPTURE_IMPLICIT, cuMemsetD8_v2(d, 0, 16));
    FAILS(STREAM_CAPTURE_IMPLICIT, cuStreamIsCapturing(NULL, &status));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(blocking, &graph));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    FAILS(STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(s));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    FAILS(STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(s, before, 0));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(e, s));
    FAILS(CAPTURED_EVENT, cuEventQuery(e));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(e, s));
    OK(cuStreamWaitEvent(t, e, 0));
    OK(cuMemsetD8Async(d, 0, 16, t));
    FAILS(STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(s, &graph));
    OK(cuStreamIsCapturing(t, &status));
    CHECK_EQ(status, CU_STREAM_CAPTURE_STATUS_NONE);

    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuStreamBeginCapture_v2(t, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(e, s));
    FAILS(STREAM_CAPTURE_MERGE, cuStreamWaitEvent(t, e, 0));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(t, &graph));
}

static void *
other_thread(void *arg)
{
    CUstream s = arg;
    CUgraph graph;
    CUdeviceptr d;

    start();
    FAILS(STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc_v2(&d, 16));
    FAILS(STREAM_CAPTURE_WRONG_THREAD, cuStreamEndCapture(s, &graph));
    return NULL;
}

static void *
relaxed_thread(void *arg)
{
    CUgraph graph;
    CUdeviceptr d;

    start();
    OK(cuMemAlloc_v2(&d, 16));
    OK(cuStreamEndCapture(arg, &graph));
    return NULL;
}

static void
test_capture_belongs_to_a_thread(void)
{
    pthread_t thread;
    CUgraph graph;
    CUstream s;

    start();
    s = stream();
    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    pthread_create(&thread, NULL, other_thread, s);
    pthread_join(thread, NULL);
    FAILS(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &graph));
    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    pthread_create(&thread, NULL, relaxed_thread, s);
    pthread_join(thread, NULL);
}

static void
test_nodes_are_read_and_changed(void)
{
    CUDA_HOST_NODE_PARAMS host = {0}, got;
    CUDA_MEMSET_NODE_PARAMS set = {0}, got_set;
    CUgraphNode nodes[3], found, deps[3];
    CUgraphExecUpdateResultInfo info;
    CUgraphNodeType type;
    CUgraph graph, clone, child;
    CUgraphExec exec;
    CUdeviceptr d;
    CUstream s;
    size_t n;
    int a = 0, b = 0;
    unsigned char byte;

    CUcontext ctx = start();
    s = stream();
    OK(cuMemAlloc_v2(&d, 16));
    OK(cuGraphCreate(&graph, 0));
    host.fn = count;
    host.userData = &a;
    OK(cuGraphAddHostNode(&nodes[0], graph, NULL, 0, &host));
    set.dst = d;
    set.elementSize = 1;
    set.width = 16;
    set.height = 1;
    set.value = 3;
    OK(cuGraphAddMemsetNode(&nodes[1], graph, &nodes[0], 1, &set, ctx));
    OK(cuGraphAddEmptyNode(&nodes[2], graph, nodes, 2));
    n = 3;
    OK(cuGraphNodeGetDependencies(nodes[2], deps, &n));
    CHECK_EQ(n, 2);
    OK(cuGraphNodeGetType(nodes[1], &type));
    CHECK_EQ(type, CU_GRAPH_NODE_TYPE_MEMSET);
    OK(cuGraphMemsetNodeGetParams(nodes[1], &got_set));
    CHECK_EQ(got_set.value, 3);
    OK(cuGraphHostNodeGetParams(nodes[0], &got));
    CHECK(got.userData == &a);
    FAILS(INVALID_VALUE, cuGraphHostNodeGetParams(nodes[1], &got));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    host.userData = &b;
    OK(cuGraphExecHostNodeSetParams(exec, nodes[0], &host));
    OK(cuGraphLaunch(exec, s));
    OK(cuStreamSynchronize(s));
    CHECK(a == 0 && b == 1);
    OK(cuGraphNodeSetEnabled(exec, nodes[1], 0));
    OK(cuMemsetD8_v2(d, 9, 16));
    OK(cuStreamSynchronize(NULL));
    OK(cuGraphLaunch(exec, s));
    OK(cuMemcpyDtoHAsync_v2(&byte, d, 1, s));
    CHECK_EQ(byte, 9);
    OK(cuGraphExecUpdate_v2(exec, graph, &info)); /* back to &a */
    OK(cuGraphLaunch(exec, s));
    OK(cuStreamSynchronize(s));
    CHECK_EQ(a, 1);

    OK(cuGraphClone(&clone, graph));
    OK(cuGraphNodeFindInClone(&found, nodes[1], clone));
    OK(cuGraphDestroyNode(found));
    n = 0;
    OK(cuGraphGetNodes(clone, NULL, &n));
    CHECK_EQ(n, 2);
    FAILS(GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(exec, clone, &info));
    CHECK_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);

    OK(cuGraphAddChildGraphNode(&found, clone, NULL, 0, graph));
    OK(cuGraphChildGraphNodeGetGraph(found, &child));
    CHECK(child != graph);
    FAILS(INVALID_VALUE, cuGraphDestroy(child));
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphInstantiateWithFlags(&exec, clone, 0));
    OK(cuGraphLaunch(exec, s));
    OK(cuStreamSynchronize(s));
    CHECK_EQ(a, 3);
    OK(cuGraphAddDependencies_v2(graph, &nodes[1], &nodes[0], NULL, 1));
    FAILS(INVALID_VALUE, cuGraphInstantiateWithFlags(&exec, graph, 0)); /* a cycle */
}

static void
test_memory_of_a_graph(void)
{
    size_t before, after, total;
    CUdeviceptr d;
    CUgraphExec exec;
    CUgraph graph;
    CUstream s;

    start();
    s = stream();
    OK(cuMemGetInfo_v2(&before, &total));
    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemAllocAsync(&d, 1 << 20, s));
    OK(cuMemsetD8Async(d, 1, 1 << 20, s));
    OK(cuMemFreeAsync(d, s));
    OK(cuStreamEndCapture(s, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    OK(cuGraphLaunch(exec, s));
    OK(cuGraphLaunch(exec, s));
    OK(cuStreamSynchronize(s));
    OK(cuGraphExecDestroy(exec));
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK_EQ(before, after);
}

static void
test_event_nodes(void)
{
    struct gate gate = GATE_INIT;
    CUgraphNode wait, host, record;
    CUDA_HOST_NODE_PARAMS params = {0};
    CUgraphExec exec;
    CUgraph graph;
    CUevent in, out;
    CUstream s, t;
    int n = 0;

    start();
    s = stream();
    t = stream();
    OK(cuEventCreate(&in, 0));
    OK(cuEventCreate(&out, 0));
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddEventWaitNode(&wait, graph, NULL, 0, in));
    params.fn = count;
    params.userData = &n;
    OK(cuGraphAddHostNode(&host, graph, &wait, 1, &params));
    OK(cuGraphAddEventRecordNode(&record, graph, &host, 1, out));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuLaunchHostFunc(s, gate_wait, &gate));
    OK(cuEventRecord(in, s));
    OK(cuGraphLaunch(exec, t));
    FAILS(NOT_READY, cuEventQuery(out));
    CHECK_EQ(__atomic_load_n(&n, __ATOMIC_SEQ_CST), 0);
    gate_open(&gate);
    OK(cuEventSynchronize(out));
    CHECK_EQ(n, 1);
}

int
main(void)
{
    int failed = 0;

    RUN(test_captured_work_runs_at_each_launch);
    RUN(test_what_capture_refuses);
    RUN(test_capture_belongs_to_a_thread);
    RUN(test_nodes_are_read_and_changed);
    RUN(test_memory_of_a_graph);
    RUN(test_event_nodes);
    return failed;
}
