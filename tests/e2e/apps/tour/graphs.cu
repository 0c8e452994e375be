// Graphs: built by hand and by capture with fork and join, updated, cloned, replayed.
#include "tour.h"

__global__ void add(int *x, int by) { x[threadIdx.x] += by; }
__global__ void multiply(int *x, const int *y) { x[threadIdx.x] *= y[threadIdx.x]; }

int main()
{
    const int n = 64;
    Array<int> a(n, 1), b(n, 2);
    cudaGraph_t graph, clone;
    cudaGraphExec_t exec;
    cudaGraphNode_t set, one, two, join, copy;
    cudaStream_t s, t;
    cudaEvent_t fork_event, join_event;
    size_t nodes = 0, edges = 0;
    CK(cudaStreamCreate(&s));
    CK(cudaStreamCreate(&t));
    CK(cudaEventCreate(&fork_event));
    CK(cudaEventCreate(&join_event));

    CK(cudaGraphCreate(&graph, 0));
    cudaMemsetParams memset_params = {};
    memset_params.dst = a.device;
    memset_params.elementSize = 4;
    memset_params.width = n;
    memset_params.height = 1;
    memset_params.value = 3;
    CK(cudaGraphAddMemsetNode(&set, graph, 0, 0, &memset_params));
    int by = 4;
    void *add_a[] = { &a.device, &by }, *add_b[] = { &b.device, &by };
    void *mul[] = { &a.device, &b.device };
    cudaKernelNodeParams k = {};
    k.func = (void *)add;
    k.gridDim = 1;
    k.blockDim = n;
    k.kernelParams = add_a;
    CK(cudaGraphAddKernelNode(&one, graph, &set, 1, &k));
    k.kernelParams = add_b;
    CK(cudaGraphAddKernelNode(&two, graph, 0, 0, &k));
    k.func = (void *)multiply;
    k.kernelParams = mul;
    cudaGraphNode_t both[] = { one, two };
    CK(cudaGraphAddKernelNode(&join, graph, both, 2, &k));
    Array<int> c(n);
    CK(cudaGraphAddMemcpyNode1D(&copy, graph, &join, 1, c.device, a.device, a.bytes(),
                                cudaMemcpyDeviceToDevice));
    CK(cudaGraphGetNodes(graph, 0, &nodes));
    MUST(nodes == 5);
    CK(cudaGraphInstantiate(&exec, graph, 0));
    CK(cudaGraphLaunch(exec, s));
    CK(cudaGraphLaunch(exec, s));
    CK(cudaStreamSynchronize(s));
    c.down(), b.down();
    MUST(b[5] == 10 && c[5] == 7 * 10);

    int other = 100;
    void *changed[] = { &a.device, &other };
    k.func = (void *)add;
    k.kernelParams = changed;
    CK(cudaGraphExecKernelNodeSetParams(exec, one, &k));
    CK(cudaGraphLaunch(exec, s));
    CK(cudaStreamSynchronize(s));
    c.down();
    MUST(c[5] == 103 * 14);
    CK(cudaGraphClone(&clone, graph));
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    CK(cudaGraphInstantiate(&exec, clone, 0));
    CK(cudaGraphLaunch(exec, s));
    CK(cudaStreamSynchronize(s));
    c.down();
    MUST(c[5] == 7 * 18);
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(clone));

    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CK(cudaMemsetAsync(a.device, 0, a.bytes(), s));
    CK(cudaEventRecord(fork_event, s));
    CK(cudaStreamWaitEvent(t, fork_event, 0));
    add<<<1, n, 0, s>>>(a.device, 2);
    CK(cudaMemsetAsync(b.device, 0, b.bytes(), t));
    add<<<1, n, 0, t>>>(b.device, 5);
    CK(cudaEventRecord(join_event, t));
    CK(cudaStreamWaitEvent(s, join_event, 0));
    multiply<<<1, n, 0, s>>>(a.device, b.device);
    cudaStreamCaptureStatus status;
    CK(cudaStreamIsCapturing(t, &status));
    MUST(status == cudaStreamCaptureStatusActive);
    CK(cudaStreamEndCapture(s, &graph));
    CK(cudaStreamIsCapturing(t, &status));
    MUST(status == cudaStreamCaptureStatusNone);
    CK(cudaGraphGetNodes(graph, 0, &nodes));
    (void)edges;
    printf("captured %zu nodes\n", nodes);
    CK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 20; i++)
        CK(cudaGraphLaunch(exec, s));
    CK(cudaStreamSynchronize(s));
    a.down();
    MUST(a[63] == 10);
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    CK(cudaStreamDestroy(s));
    CK(cudaStreamDestroy(t));
    return tour_end();
}
