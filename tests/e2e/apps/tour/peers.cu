// Several devices: copies between them, events across them, a kernel on each.
#include "tour.h"

__global__ void stamp(int *x, int v) { x[threadIdx.x] += v; }

int main()
{
    int count = 0;
    CK(cudaGetDeviceCount(&count));
    printf("%d devices\n", count);
    const int n = 256;
    std::vector<int *> memory(count);
    std::vector<cudaStream_t> streams(count);
    std::vector<int> host(n, 5);
    for (int d = 0; d < count; d++) {
        CK(cudaSetDevice(d));
        CK(cudaMalloc(&memory[d], n * sizeof(int)));
        CK(cudaStreamCreate(&streams[d]));
        CK(cudaMemset(memory[d], 0, n * sizeof(int)));
        CK(cudaDeviceSynchronize()); // another device's stream does not wait for it
    }
    CK(cudaSetDevice(0));
    CK(cudaMemcpy(memory[0], host.data(), n * sizeof(int), cudaMemcpyHostToDevice));
    stamp<<<1, n, 0, streams[0]>>>(memory[0], 1);
    CK(cudaStreamSynchronize(streams[0]));
    for (int d = 1; d < count; d++) {
        cudaEvent_t e;
        int can = -1;
        CK(cudaDeviceCanAccessPeer(&can, d, d - 1));
        MUST(can == 0 || can == 1);
        CK(cudaMemcpyPeerAsync(memory[d], d, memory[d - 1], d - 1, n * sizeof(int), streams[d - 1]));
        CK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
        CK(cudaEventRecord(e, streams[d - 1]));
        CK(cudaSetDevice(d));
        CK(cudaStreamWaitEvent(streams[d], e, 0));
        stamp<<<1, n, 0, streams[d]>>>(memory[d], 10);
        CK(cudaStreamSynchronize(streams[d]));
        CK(cudaEventDestroy(e));
    }
    CK(cudaMemcpy(host.data(), memory[count - 1], n * sizeof(int), cudaMemcpyDefault));
    MUST(host[100] == 6 + 10 * (count - 1));
    for (int d = 0; d < count; d++) {
        cudaPointerAttributes a;
        CK(cudaPointerGetAttributes(&a, memory[d]));
        MUST(a.device == d && a.type == cudaMemoryTypeDevice);
        CK(cudaSetDevice(d));
        CK(cudaStreamDestroy(streams[d]));
        CK(cudaFree(memory[d]));
    }
    CK(cudaSetDevice(0));
    return tour_end();
}
