// Stream-ordered allocation, pools and their attributes, and reuse across streams.
#include "tour.h"

__global__ void fill(int *x, int v, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = v;
}
__global__ void count(const int *x, int v, int n, int *wrong)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] != v)
        atomicAdd(wrong, 1);
}

int main()
{
    const int n = 1 << 16;
    cudaStream_t s, t;
    cudaEvent_t e;
    cudaMemPool_t pool, own;
    Array<int> wrong(1);
    int supported = 0;
    CK(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0));
    printf("pools: %s\n", supported ? "yes" : "no");
    CK(cudaStreamCreate(&s));
    CK(cudaStreamCreateWithFlags(&t, cudaStreamNonBlocking));
    CK(cudaEventCreate(&e));
    CK(cudaDeviceGetDefaultMemPool(&pool, 0));
    uint64_t keep = UINT64_MAX;
    CK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    for (int round = 0; round < 50; round++) {
        int *a, *b;
        CK(cudaMallocAsync((void **)&a, n * sizeof(int), s));
        CK(cudaMallocAsync((void **)&b, n * sizeof(int), t));
        fill<<<n / 256, 256, 0, s>>>(a, round, n);
        fill<<<n / 256, 256, 0, t>>>(b, -round, n);
        CK(cudaEventRecord(e, s));
        CK(cudaStreamWaitEvent(t, e, 0));
        count<<<n / 256, 256, 0, t>>>(a, round, n, wrong.device);
        count<<<n / 256, 256, 0, t>>>(b, -round, n, wrong.device);
        CK(cudaFreeAsync(a, t));
        CK(cudaFreeAsync(b, t));
    }
    CK(cudaStreamSynchronize(t));
    wrong.down();
    MUST(wrong[0] == 0);
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = 0;
    CK(cudaMemPoolCreate(&own, &props));
    int *p;
    CK(cudaMallocFromPoolAsync((void **)&p, 1 << 20, own, s));
    CK(cudaMemsetAsync(p, 0, 1 << 20, s));
    CK(cudaFreeAsync(p, s));
    CK(cudaStreamSynchronize(s));
    CK(cudaMemPoolTrimTo(own, 0));
    CK(cudaMemPoolDestroy(own));
    CK(cudaStreamDestroy(s));
    CK(cudaStreamDestroy(t));
    return tour_end();
}
