// Many host threads on one device: own streams, per-thread streams, shared modules.
#include <thread>
#include "tour.h"

__global__ void work(int *x, int by, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = x[i] * 3 + by;
}

static int wrong[16];

static void run(int id)
{
    const int n = 3000;
    std::vector<int> host(n), want(n);
    int *device;
    cudaStream_t s;
    cudaEvent_t e;
    CK(cudaSetDevice(0));
    CK(cudaMalloc(&device, n * sizeof(int)));
    if (id % 3)
        CK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    else
        s = cudaStreamPerThread;
    CK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < n; i++)
            want[i] = host[i] = i + id + round;
        CK(cudaMemcpyAsync(device, host.data(), n * sizeof(int), cudaMemcpyHostToDevice, s));
        for (int k = 0; k < 5; k++) {
            work<<<(n + 255) / 256, 256, 0, s>>>(device, id + k, n);
            for (int i = 0; i < n; i++)
                want[i] = want[i] * 3 + id + k;
        }
        CK(cudaMemcpyAsync(host.data(), device, n * sizeof(int), cudaMemcpyDeviceToHost, s));
        CK(cudaEventRecord(e, s));
        CK(round % 2 ? cudaEventSynchronize(e) : cudaStreamSynchronize(s));
        wrong[id] += host != want;
    }
    CK(cudaEventDestroy(e));
    if (id % 3)
        CK(cudaStreamDestroy(s));
    CK(cudaFree(device));
}

int main()
{
    std::vector<std::thread> threads;
    int sum = 0;
    for (int id = 0; id < 16; id++)
        threads.emplace_back(run, id);
    for (auto &thread : threads)
        thread.join();
    for (int id = 0; id < 16; id++)
        sum += wrong[id];
    printf("%d of 320 rounds wrong\n", sum);
    MUST(sum == 0);
    return tour_end();
}
