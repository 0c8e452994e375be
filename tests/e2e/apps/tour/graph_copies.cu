// Graphs with copies from and to host memory, host functions and memory of their own, and what
// the runtime reads back of captured nodes.
#include "tour.h"

#include <cstring>

__global__ void scale(float *x, float by, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] *= by;
}

struct Seen {
    float *host;
    int calls, wrong;
};

static void CUDART_CB look(void *user)
{
    Seen *seen = (Seen *)user;
    for (int i = 0; i < 1000; i++)
        seen->wrong += seen->host[i] != (seen->calls + 1) * 3.0f * i;
    seen->calls++;
}

int main()
{
    const int n = 1000;
    float *host, *device;
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t count = 8;
    cudaGraphNode_t nodes[8];
    CK(cudaMallocHost(&host, n * sizeof(float)));
    CK(cudaMalloc(&device, n * sizeof(float)));
    CK(cudaStreamCreate(&s));
    Seen seen = {host, 0, 0};

    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    CK(cudaMemcpyAsync(device, host, n * sizeof(float), cudaMemcpyHostToDevice, s));
    scale<<<(n + 127) / 128, 128, 0, s>>>(device, 3.0f, n);
    CK(cudaMemcpyAsync(host, device, n * sizeof(float), cudaMemcpyDeviceToHost, s));
    CK(cudaLaunchHostFunc(s, look, &seen));
    CK(cudaStreamEndCapture(s, &graph));
    CK(cudaGraphGetNodes(graph, nodes, &count));
    MUST(count == 4);
    for (size_t i = 0; i < count; i++) {
        cudaGraphNodeType type;
        CK(cudaGraphNodeGetType(nodes[i], &type));
        if (type == cudaGraphNodeTypeKernel) {
            cudaKernelNodeParams k;
            CK(cudaGraphKernelNodeGetParams(nodes[i], &k));
            MUST(k.func == (void *)scale && k.gridDim.x == 8 && k.blockDim.x == 128);
            MUST(*(float *)k.kernelParams[1] == 3.0f && *(float **)k.kernelParams[0] == device);
        } else if (type == cudaGraphNodeTypeMemcpy) {
            cudaMemcpy3DParms m;
            CK(cudaGraphMemcpyNodeGetParams(nodes[i], &m));
            MUST(m.srcPtr.ptr == host || m.dstPtr.ptr == host);
        } else {
            cudaHostNodeParams h;
            CK(cudaGraphHostNodeGetParams(nodes[i], &h));
            MUST(h.fn == look && h.userData == &seen);
        }
    }
    CK(cudaGraphInstantiate(&exec, graph, 0));
    for (int turn = 1; turn <= 3; turn++) {
        for (int i = 0; i < n; i++)
            host[i] = (float)(turn * i);
        CK(cudaGraphLaunch(exec, s));
        CK(cudaStreamSynchronize(s));
        MUST(host[7] == turn * 21.0f);
    }
    MUST(seen.calls == 3 && seen.wrong == 0);
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));

    // Memory that only the graph has.
    float *inner = nullptr;
    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    CK(cudaMallocAsync(&inner, n * sizeof(float), s));
    CK(cudaMemcpyAsync(inner, host, n * sizeof(float), cudaMemcpyHostToDevice, s));
    scale<<<(n + 127) / 128, 128, 0, s>>>(inner, 2.0f, n);
    CK(cudaMemcpyAsync(device, inner, n * sizeof(float), cudaMemcpyDeviceToDevice, s));
    CK(cudaFreeAsync(inner, s));
    CK(cudaStreamEndCapture(s, &graph));
    CK(cudaGraphInstantiate(&exec, graph, 0));
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < n; i++)
            host[i] = (float)(i + turn);
        CK(cudaGraphLaunch(exec, s));
        CK(cudaStreamSynchronize(s));
        CK(cudaMemcpy(host, device, n * sizeof(float), cudaMemcpyDeviceToHost));
        MUST(host[10] == 2.0f * (10 + turn));
    }
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    CK(cudaStreamDestroy(s));
    return tour_end();
}
