// Memory in the order of streams: made on one, used and freed on others, in graphs too;
// host functions and events that order them; threads that wait for each other's streams.
#include <atomic>
#include <thread>
#include "tour.h"

__global__ void fill(int *x, int n, int value)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = value + i;
}

__global__ void add(int *x, const int *y, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] += y[i];
}

static void CUDART_CB append(void *user)
{
    std::vector<int> *list = (std::vector<int> *)user;
    list->push_back((int)list->size());
}

// A diamond: made on s, used on t and u, joined and freed on v.
static void diamond()
{
    const int n = 5000;
    cudaStream_t s[4];
    cudaEvent_t e[4];
    Array<int> total(n);
    for (int i = 0; i < 4; i++) {
        CK(cudaStreamCreateWithFlags(&s[i], cudaStreamNonBlocking));
        CK(cudaEventCreateWithFlags(&e[i], cudaEventDisableTiming));
    }
    for (int round = 0; round < 20; round++) {
        int *a, *b, *c;
        CK(cudaMallocAsync((void **)&a, n * sizeof(int), s[0]));
        fill<<<(n + 255) / 256, 256, 0, s[0]>>>(a, n, round);
        CK(cudaEventRecord(e[0], s[0]));
        for (int i = 1; i < 3; i++) {
            int **mine = i == 1 ? &b : &c;
            CK(cudaStreamWaitEvent(s[i], e[0], 0));
            CK(cudaMallocAsync((void **)mine, n * sizeof(int), s[i]));
            CK(cudaMemcpyAsync(*mine, a, n * sizeof(int), cudaMemcpyDeviceToDevice, s[i]));
            CK(cudaEventRecord(e[i], s[i]));
            CK(cudaStreamWaitEvent(s[3], e[i], 0));
        }
        add<<<(n + 255) / 256, 256, 0, s[3]>>>(total.device, b, n);
        add<<<(n + 255) / 256, 256, 0, s[3]>>>(total.device, c, n);
        CK(cudaFreeAsync(a, s[3]));
        CK(cudaFreeAsync(b, s[3]));
        CK(cudaFreeAsync(c, s[3]));
    }
    CK(cudaStreamSynchronize(s[3]));
    total.down();
    for (int i = 0; i < n; i++)
        MUST(total[i] == 2 * (20 * i + 190));
    for (int i = 0; i < 4; i++) {
        CK(cudaStreamDestroy(s[i]));
        CK(cudaEventDestroy(e[i]));
    }
}

// Host functions between kernels of a captured graph run once each launch and in order.
static void hosts_in_graphs()
{
    const int n = 1000;
    std::vector<int> list;
    Array<int> x(n), y(n, 1);
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;

    CK(cudaStreamCreate(&s));
    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    add<<<4, 256, 0, s>>>(x.device, y.device, n);
    CK(cudaLaunchHostFunc(s, append, &list));
    add<<<4, 256, 0, s>>>(y.device, x.device, n);
    CK(cudaLaunchHostFunc(s, append, &list));
    CK(cudaStreamEndCapture(s, &graph));
    CK(cudaGraphGetNodes(graph, nullptr, &nodes));
    MUST(nodes == 4);
    cudaGraphNode_t node[4], by_hand;
    CK(cudaGraphGetNodes(graph, node, &nodes));
    int hosts = 0;
    for (int i = 0; i < 4; i++) {
        cudaGraphNodeType type;
        CK(cudaGraphNodeGetType(node[i], &type));
        hosts += type == cudaGraphNodeTypeHost;
    }
    MUST(hosts == 2);
    cudaHostNodeParams params = { append, &list };
    CK(cudaGraphAddHostNode(&by_hand, graph, node, 4, &params));       // after all of them
    CK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 5; i++)
        CK(cudaGraphLaunch(exec, s));
    CK(cudaStreamSynchronize(s));
    MUST(list.size() == 15);
    for (size_t i = 0; i < list.size(); i++)
        MUST(list[i] == (int)i);
    x.down(), y.down();
    int a = 0, b = 1;
    for (int i = 0; i < 5; i++)
        a += b, b += a;
    MUST(x[7] == a && y[7] == b && x[n - 1] == a);
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    CK(cudaStreamDestroy(s));
}

// One thread records, another waits for the event and goes on.
static void two_threads()
{
    const int n = 4000;
    Array<int> x(n), y(n);
    cudaEvent_t ready;
    std::atomic<bool> recorded(false);

    CK(cudaEventCreateWithFlags(&ready, cudaEventBlockingSync | cudaEventDisableTiming));
    std::thread first([&] {
        cudaStream_t s;
        CK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        for (int i = 0; i < 50; i++)
            fill<<<(n + 127) / 128, 128, 0, s>>>(x.device, n, i);
        CK(cudaEventRecord(ready, s));
        recorded = true;
        CK(cudaStreamSynchronize(s));
        CK(cudaStreamDestroy(s));
    });
    std::thread second([&] {
        cudaStream_t s;
        CK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        while (!recorded)
            std::this_thread::yield();
        CK(cudaStreamWaitEvent(s, ready, 0));
        add<<<(n + 127) / 128, 128, 0, s>>>(y.device, x.device, n);
        CK(cudaStreamSynchronize(s));
        CK(cudaStreamDestroy(s));
    });
    first.join(), second.join();
    y.down();
    for (int i = 0; i < n; i++)
        MUST(y[i] == 49 + i);
    CK(cudaEventDestroy(ready));
}

static void priorities()
{
    int least, greatest, got;
    cudaStream_t s;

    CK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    MUST(least == 0 && greatest <= least);
    for (int want = greatest - 1; want <= least + 1; want++) {
        CK(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, want));
        CK(cudaStreamGetPriority(s, &got));
        MUST(got == std::max(greatest, std::min(least, want)));
        CK(cudaStreamDestroy(s));
    }
}

int main()
{
    diamond();
    hosts_in_graphs();
    two_threads();
    priorities();
    return tour_end();
}
