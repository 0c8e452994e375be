// Every device of several, whoever's they are: kernels, variables, copies between any two in
// every form, events that pass a token round, and all of it from several threads.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include <cuda_runtime.h>

#define CK(call)                                                                       \
    do {                                                                               \
        cudaError_t e_ = (call);                                                       \
        if (e_ != cudaSuccess) {                                                       \
            printf("line %d: %s: %s\n", __LINE__, #call, cudaGetErrorName(e_));        \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)
#define MUST(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            printf("line %d: not so: %s\n", __LINE__, #condition);                     \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

__device__ int mark = 1;
__constant__ int factor = 3;

__global__ void fill(int *x, int n, int value)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = value + i;
}
__global__ void step(int *x, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = x[i] * factor + mark;
}

static int count;
enum { N = 300001 }; // more than one piece of a copy, and no round number

static void launch_fill(int *x, int value, cudaStream_t s) { fill<<<(N + 255) / 256, 256, 0, s>>>(x, N, value); }
static void launch_step(int *x, cudaStream_t s) { step<<<(N + 255) / 256, 256, 0, s>>>(x, N); }


static std::vector<int> expected(int value, int steps, const std::vector<int> &marks)
{
    std::vector<int> x(N);
    for (int i = 0; i < N; i++) {
        int v = value + i;
        for (int s = 0; s < steps; s++)
            v = v * 3 + marks[s];
        x[i] = v;
    }
    return x;
}

// A __device__ variable is each device's own.
static void variables()
{
    for (int d = 0; d < count; d++) {
        int value = 10 + d;
        CK(cudaSetDevice(d));
        CK(cudaMemcpyToSymbol(mark, &value, sizeof(value)));
    }
    for (int d = count - 1; d >= 0; d--) {
        int value = 0;
        CK(cudaSetDevice(d));
        CK(cudaMemcpyFromSymbol(&value, mark, sizeof(value)));
        MUST(value == 10 + d);
    }
    printf("variables: one a device\n");
}

// From every device to every other, by peer and by address, sync and async.
static void copies()
{
    std::vector<int *> x(count), y(count);
    std::vector<cudaStream_t> s(count);
    std::vector<int> host(N);
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaMalloc(&x[d], N * sizeof(int)));
        CK(cudaMalloc(&y[d], N * sizeof(int)));
        CK(cudaStreamCreateWithFlags(&s[d], d % 2 ? cudaStreamNonBlocking : cudaStreamDefault));
    }
    for (int from = 0; from < count; from++)
        for (int to = 0; to < count; to++)
            for (int how = 0; how < 5; how++) {
                int value = 1000 * from + 100 * to + how;
                int on = how == 1 ? to : from; // whose stream it is
                CK(cudaSetDevice(from));
                launch_fill(x[from], value, s[from]);
                if (how == 0) { // in order on the source's stream
                    CK(cudaMemcpyPeerAsync(y[to], to, x[from], from, N * sizeof(int), s[from]));
                    launch_fill(x[from], -7, s[from]); // what follows comes after the copy
                } else if (how == 1) { // on the target's, after an event
                    cudaEvent_t e;
                    CK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
                    CK(cudaEventRecord(e, s[from]));
                    CK(cudaSetDevice(to));
                    CK(cudaStreamWaitEvent(s[to], e, 0));
                    CK(cudaMemcpyPeerAsync(y[to], to, x[from], from, N * sizeof(int), s[to]));
                    CK(cudaEventDestroy(e));
                } else if (how == 2) {
                    CK(cudaMemcpyAsync(y[to], x[from], N * sizeof(int), cudaMemcpyDefault, s[from]));
                } else {
                    CK(cudaStreamSynchronize(s[from]));
                    if (how == 3)
                        CK(cudaMemcpyPeer(y[to], to, x[from], from, N * sizeof(int)));
                    else
                        CK(cudaMemcpy(y[to], x[from], N * sizeof(int), cudaMemcpyDefault));
                    CK(cudaSetDevice(from));
                    CK(cudaDeviceSynchronize());
                    on = from;
                }
                CK(cudaSetDevice(on));
                CK(cudaStreamSynchronize(s[on]));
                // The device that is current need not be the memory's.
                CK(cudaMemcpy(host.data(), y[to], N * sizeof(int), cudaMemcpyDeviceToHost));
                MUST(host == expected(value, 0, {}));
            }
    // Rows of a pitched block.
    for (int to = 0; to < count; to++) {
        int from = (to + 1) % count;
        cudaMemcpy3DPeerParms p = {};
        CK(cudaSetDevice(from));
        launch_fill(x[from], 5, s[from]);
        CK(cudaStreamSynchronize(s[from]));
        p.srcDevice = from;
        p.dstDevice = to;
        p.srcPtr = make_cudaPitchedPtr(x[from], 4000, 1000, 70);
        p.dstPtr = make_cudaPitchedPtr(y[to], 2000, 500, 70);
        p.srcPos = make_cudaPos(40, 3, 0);
        p.extent = make_cudaExtent(1600, 60, 1);
        CK(cudaMemset(y[to], 0, N * sizeof(int)));
        CK(cudaDeviceSynchronize());
        CK(cudaSetDevice(to));
        CK(cudaDeviceSynchronize());
        CK(cudaMemcpy3DPeerAsync(&p, s[to]));
        CK(cudaStreamSynchronize(s[to]));
        CK(cudaMemcpy(host.data(), y[to], N * sizeof(int), cudaMemcpyDefault));
        for (int row = 0; row < 60; row++)
            for (int column = 0; column < 500; column++)
                MUST(host[row * 500 + column] == (column < 400 ? 5 + (row + 3) * 1000 + column + 10 : 0));
    }
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaFree(x[d]));
        CK(cudaFree(y[d]));
        CK(cudaStreamDestroy(s[d]));
    }
    printf("copies: from each of %d to each, five ways\n", count);
}

// A token goes round all devices, several times, with no wait of the host's in between.
static void ring(int rounds)
{
    std::vector<int *> x(count);
    std::vector<cudaStream_t> s(count);
    std::vector<cudaEvent_t> e(count);
    std::vector<int> host(N), marks;
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaMalloc(&x[d], N * sizeof(int)));
        CK(cudaStreamCreateWithFlags(&s[d], cudaStreamNonBlocking));
        CK(cudaEventCreateWithFlags(&e[d], cudaEventDisableTiming));
    }
    CK(cudaSetDevice(0));
    launch_fill(x[0], 42, s[0]);
    CK(cudaEventRecord(e[0], s[0]));
    for (int hop = 0; hop < rounds * count; hop++) {
        int from = hop % count, to = (hop + 1) % count;
        CK(cudaSetDevice(to));
        CK(cudaStreamWaitEvent(s[to], e[from], 0));
        if (to != from)
            CK(cudaMemcpyPeerAsync(x[to], to, x[from], from, N * sizeof(int), s[to]));
        launch_step(x[to], s[to]);
        marks.push_back(10 + to);
        CK(cudaEventRecord(e[to], s[to]));
    }
    int last = rounds * count % count;
    CK(cudaSetDevice(last));
    CK(cudaMemcpyAsync(host.data(), x[last], N * sizeof(int), cudaMemcpyDeviceToHost, s[last]));
    CK(cudaStreamSynchronize(s[last]));
    MUST(host == expected(42, rounds * count, marks));
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaStreamSynchronize(s[d]));
        CK(cudaEventDestroy(e[d]));
        CK(cudaStreamDestroy(s[d]));
        CK(cudaFree(x[d]));
    }
    printf("ring: %d hops\n", rounds * count);
}

// A thread a device, each copying to its neighbour at the same time.
static void threads()
{
    std::vector<int *> x(count), y(count);
    std::vector<std::thread> all;
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaMalloc(&x[d], N * sizeof(int)));
        CK(cudaMalloc(&y[d], N * sizeof(int)));
    }
    for (int d = 0; d < count; d++)
        all.emplace_back([&, d] {
            int next = (d + 1) % count;
            std::vector<int> host(N);
            cudaStream_t s;
            CK(cudaSetDevice(d));
            CK(cudaStreamCreate(&s));
            for (int round = 0; round < 8; round++) {
                launch_fill(x[d], 100 * d + round, s);
                CK(cudaMemcpyPeerAsync(y[next], next, x[d], d, N * sizeof(int), s));
                CK(cudaStreamSynchronize(s));
                CK(cudaMemcpy(host.data(), y[next], N * sizeof(int), cudaMemcpyDefault));
                MUST(host == expected(100 * d + round, 0, {}));
            }
            CK(cudaStreamDestroy(s));
        });
    for (auto &one : all)
        one.join();
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaFree(x[d]));
        CK(cudaFree(y[d]));
    }
    printf("threads: %d\n", count);
}

int main()
{
    CK(cudaGetDeviceCount(&count));
    printf("%d devices\n", count);
    variables();
    copies();
    ring(3);
    threads();
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaDeviceReset());
    }
    variables();
    copies();
    puts("PASS");
    return 0;
}
