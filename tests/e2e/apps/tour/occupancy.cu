// Occupancy and attributes of kernels, and launches that use what they advise.
#include "tour.h"

__global__ void square(int *x, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] *= x[i];
}
__global__ void __launch_bounds__(128, 2) bounded(int *x) { x[threadIdx.x] = blockDim.x; }
__global__ void with_shared(int *x)
{
    __shared__ int s[1000];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    x[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
static size_t shared_of(int block) { return block * sizeof(int); }

int main()
{
    const int n = 5000;
    Array<int> x(n);
    int grid = 0, block = 0, blocks = 0;
    for (int i = 0; i < n; i++)
        x[i] = i;
    x.up();
    CK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, square, 0, n));
    MUST(block >= 32 && block <= 1024 && block % 32 == 0 && grid > 0);
    square<<<(n + block - 1) / block, block>>>(x.device, n);
    x.down();
    for (int i = 0; i < n; i++)
        MUST(x[i] == i * i);
    CK(cudaOccupancyMaxPotentialBlockSizeVariableSMem(&grid, &block, square, shared_of, 512));
    MUST(block >= 32 && block <= 512);
    CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, square, 1024, 0));
    MUST(blocks >= 1);
    cudaFuncAttributes a;
    CK(cudaFuncGetAttributes(&a, bounded));
    MUST(a.maxThreadsPerBlock == 128);
    CK(cudaFuncGetAttributes(&a, with_shared));
    MUST(a.sharedSizeBytes == 4000 && a.localSizeBytes == 0);
    bounded<<<1, 256>>>(x.device);
    printf("more threads than the bounds say: %s\n", cudaGetErrorName(cudaGetLastError()));
    bounded<<<1, 128>>>(x.device);
    CK(cudaGetLastError());
    with_shared<<<1, 200>>>(x.device);
    x.down();
    MUST(x[0] == 199 && x[199] == 0);
    square<<<1, 32, 200 << 10>>>(x.device, 1);
    printf("too much shared memory: %s\n", cudaGetErrorName(cudaGetLastError()));
    return tour_end();
}
