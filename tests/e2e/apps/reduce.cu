// Sums: a shared-memory tree, warp shuffles, and atomics must agree to the last unit.
#include <cstdio>
#include <vector>
#include <cuda_runtime.h>

__global__ void tree(const int *in, long long *out, int n)
{
    extern __shared__ long long part[];
    long long sum = 0;

    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += in[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        out[blockIdx.x] = part[0];
}

__global__ void shuffle(const int *in, unsigned long long *out, int n)
{
    long long sum = 0;

    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += in[i];
    for (int half = 16; half > 0; half /= 2)
        sum += __shfl_down_sync(~0u, sum, half);
    if (threadIdx.x % 32 == 0)
        atomicAdd(out, (unsigned long long)sum);
}

__global__ void extremes(const int *in, int *low, int *high, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n) {
        atomicMin(low, in[i]);
        atomicMax(high, in[i]);
    }
}

int main()
{
    const int n = 1 << 18, blocks = 24, threads = 256;
    std::vector<int> in(n);
    long long want = 0, got = 0, parts[blocks];
    unsigned long long shuffled = 0;
    int low = 1 << 30, high = -(1 << 30), want_low = low, want_high = high;
    int *din, *dlow, *dhigh;
    long long *dparts;
    unsigned long long *dsum;

    for (int i = 0; i < n; i++) {
        in[i] = (int)((i * 2654435761u) >> 8) - (1 << 23);
        want += in[i];
        want_low = in[i] < want_low ? in[i] : want_low;
        want_high = in[i] > want_high ? in[i] : want_high;
    }
    cudaMalloc(&din, n * sizeof(int));
    cudaMalloc(&dparts, sizeof(parts));
    cudaMalloc(&dsum, sizeof(*dsum));
    cudaMalloc(&dlow, sizeof(int));
    cudaMalloc(&dhigh, sizeof(int));
    cudaMemcpy(din, in.data(), n * sizeof(int), cudaMemcpyHostToDevice);
    cudaMemcpy(dlow, &low, sizeof(int), cudaMemcpyHostToDevice);
    cudaMemcpy(dhigh, &high, sizeof(int), cudaMemcpyHostToDevice);
    cudaMemset(dsum, 0, sizeof(*dsum));
    tree<<<blocks, threads, threads * sizeof(long long)>>>(din, dparts, n);
    shuffle<<<blocks, threads>>>(din, dsum, n);
    extremes<<<n / threads, threads>>>(din, dlow, dhigh, n);
    cudaMemcpy(parts, dparts, sizeof(parts), cudaMemcpyDeviceToHost);
    cudaMemcpy(&shuffled, dsum, sizeof(shuffled), cudaMemcpyDeviceToHost);
    cudaMemcpy(&low, dlow, sizeof(int), cudaMemcpyDeviceToHost);
    cudaMemcpy(&high, dhigh, sizeof(int), cudaMemcpyDeviceToHost);
    cudaError_t error = cudaDeviceSynchronize();
    for (int i = 0; i < blocks; i++)
        got += parts[i];
    bool good = error == cudaSuccess && got == want && (long long)shuffled == want &&
                low == want_low && high == want_high;
    printf("sum %lld, tree %lld, shuffle %lld, %d .. %d, %s\n%s\n", want, got,
           (long long)shuffled, low, high, cudaGetErrorName(error), good ? "PASS" : "FAIL");
    return !good;
}
