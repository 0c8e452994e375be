// Copies and kernels overlapped on streams; events, callbacks, priorities, default streams.
#include "tour.h"

__global__ void increment(int *x, int by, int n)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        x[i] += by;
}

struct Step {
    int *data, n, seen;
};
static void CUDART_CB look(void *user)
{
    Step *step = (Step *)user;
    step->seen = step->data[step->n - 1];
}
static void CUDART_CB status(cudaStream_t, cudaError_t error, void *user)
{
    *(int *)user = error == cudaSuccess ? 1 : 2;
}

int main()
{
    const int n = 1 << 16, streams = 4;
    cudaStream_t s[streams];
    cudaEvent_t done[streams], all;
    int *host[streams], *device[streams], called[streams] = {};
    Step step[streams];
    int low, high;
    CK(cudaDeviceGetStreamPriorityRange(&low, &high));
    CK(cudaEventCreateWithFlags(&all, cudaEventDisableTiming));
    for (int i = 0; i < streams; i++) {
        if (i % 2)
            CK(cudaStreamCreateWithFlags(&s[i], cudaStreamNonBlocking));
        else
            CK(cudaStreamCreateWithPriority(&s[i], cudaStreamDefault, high));
        CK(cudaEventCreate(&done[i]));
        CK(cudaMallocHost(&host[i], n * sizeof(int)));
        CK(cudaMalloc(&device[i], n * sizeof(int)));
        for (int k = 0; k < n; k++)
            host[i][k] = k + i;
        step[i] = { host[i], n, -1 };
    }
    for (int i = 0; i < streams; i++) {
        CK(cudaMemcpyAsync(device[i], host[i], n * sizeof(int), cudaMemcpyHostToDevice, s[i]));
        increment<<<8, 128, 0, s[i]>>>(device[i], 100, n);
        increment<<<8, 128, 0, s[i]>>>(device[i], 11, n);
        CK(cudaMemcpyAsync(host[i], device[i], n * sizeof(int), cudaMemcpyDeviceToHost, s[i]));
        CK(cudaLaunchHostFunc(s[i], look, &step[i]));
        CK(cudaStreamAddCallback(s[i], status, &called[i], 0));
        CK(cudaEventRecord(done[i], s[i]));
    }
    for (int i = 0; i < streams; i++)
        CK(cudaStreamWaitEvent(s[0], done[i], 0));
    CK(cudaEventRecord(all, s[0]));
    CK(cudaEventSynchronize(all));
    for (int i = 0; i < streams; i++) {
        float ms = -1;
        CK(cudaEventQuery(done[i]));
        CK(cudaEventElapsedTime(&ms, done[i], done[i]));
        MUST(ms == 0);
        MUST(step[i].seen == n - 1 + i + 111 && called[i] == 1);
        for (int k = 0; k < n; k++)
            if (host[i][k] != k + i + 111) {
                MUST(host[i][k] == k + i + 111);
                break;
            }
    }
    // The legacy stream waits for blocking streams and they for it.
    CK(cudaMemsetAsync(device[0], 0, n * sizeof(int), s[0]));
    increment<<<8, 128>>>(device[0], 1, n);
    increment<<<8, 128, 0, s[0]>>>(device[0], 2, n);
    increment<<<8, 128, 0, s[2]>>>(device[2], 2, n);
    CK(cudaMemcpy(host[0], device[0], n * sizeof(int), cudaMemcpyDeviceToHost));
    MUST(host[0][0] == 3 && host[0][n - 1] == 3);
    increment<<<8, 128, 0, cudaStreamPerThread>>>(device[1], 5, n);
    CK(cudaStreamSynchronize(cudaStreamPerThread));
    CK(cudaMemcpy(host[1], device[1], n * sizeof(int), cudaMemcpyDeviceToHost));
    MUST(host[1][9] == 9 + 1 + 111 + 5);
    for (int i = 0; i < streams; i++) {
        unsigned flags;
        CK(cudaStreamGetFlags(s[i], &flags));
        MUST(flags == (i % 2 ? cudaStreamNonBlocking : cudaStreamDefault));
        CK(cudaStreamDestroy(s[i]));
        CK(cudaEventDestroy(done[i]));
        CK(cudaFreeHost(host[i]));
        CK(cudaFree(device[i]));
    }
    return tour_end();
}
