// More than 48 KiB of shared memory: refused until asked for, then a large tile reversed.
#include "tour.h"

extern __shared__ int space[];

__global__ void reverse(const int *in, int *out, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        space[i] = in[blockIdx.x * n + i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[blockIdx.x * n + i] = space[n - 1 - i];
}

// Three arrays of different types in one dynamic piece.
__global__ void parts(int *out, int n)
{
    double *d = (double *)space;
    float *f = (float *)&d[n];
    short *h = (short *)&f[n];
    int t = threadIdx.x;

    d[t] = t + 0.5, f[t] = t * 2, h[t] = -t;
    __syncthreads();
    int other = n - 1 - t;
    out[t] = (int)(d[other] * 2) + (int)f[other] + h[other];
}

template <typename T, int N> __global__ void __launch_bounds__(256) staged(T *x)
{
    __shared__ T fixed[N];
    T *moving = (T *)space;

    fixed[threadIdx.x % N] = x[threadIdx.x % N];
    __syncthreads();
    if (threadIdx.x < N)
        moving[threadIdx.x] = fixed[N - 1 - threadIdx.x] * 2;
    __syncthreads();
    if (threadIdx.x < N)
        x[threadIdx.x] = moving[threadIdx.x];
}

int main()
{
    int most = 0, usual = 0, blocks = 0;

    CK(cudaDeviceGetAttribute(&usual, cudaDevAttrMaxSharedMemoryPerBlock, 0));
    CK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    MUST(usual == 48 << 10 && most > usual);

    const int grid = 3, n = 16 << 10, bytes = n * sizeof(int);
    Array<int> in(grid * n), out(grid * n);
    for (int i = 0; i < grid * n; i++)
        in[i] = i * 7;
    in.up();
    reverse<<<grid, 128, bytes>>>(in.device, out.device, n);
    printf("not asked for: %s\n", cudaGetErrorName(cudaGetLastError()));
    CK(cudaFuncSetAttribute(reverse, cudaFuncAttributePreferredSharedMemoryCarveout,
                            cudaSharedmemCarveoutMaxShared));
    CK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    cudaFuncAttributes attributes;
    CK(cudaFuncGetAttributes(&attributes, reverse));
    MUST(attributes.maxDynamicSharedSizeBytes == bytes && attributes.sharedSizeBytes == 0);
    CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, 128, bytes));
    MUST(blocks >= 1);
    reverse<<<grid, 128, bytes>>>(in.device, out.device, n);
    CK(cudaGetLastError());
    out.down();
    int wrong = 0;
    for (int b = 0; b < grid; b++)
        for (int i = 0; i < n; i++)
            wrong += out[b * n + i] != in[b * n + n - 1 - i];
    MUST(wrong == 0);
    cudaError_t error =
        cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, most + 1024);
    printf("more than there is: %s\n", cudaGetErrorName(error));
    cudaGetLastError();

    Array<int> mixed(96);
    parts<<<1, 96, 96 * (sizeof(double) + sizeof(float) + sizeof(short))>>>(mixed.device, 96);
    mixed.down();
    for (int t = 0; t < 96; t++) {
        int other = 95 - t;
        MUST(mixed[t] == 2 * other + 1 + 2 * other - other);
    }
    Array<double> x(100);
    for (int i = 0; i < 100; i++)
        x[i] = i;
    x.up();
    staged<double, 100><<<1, 256, 100 * sizeof(double)>>>(x.device);
    x.down();
    for (int i = 0; i < 100; i++)
        MUST(x[i] == 2 * (99 - i));
    return tour_end();
}
