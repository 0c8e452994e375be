// A tiled matrix product in shared memory, compared with the same sum on the host.
#include <cmath>
#include <cstdio>
#include <vector>
#include <cuda_runtime.h>

enum { TILE = 16 };

__global__ void matmul(const float *a, const float *b, float *c, int n)
{
    __shared__ float ta[TILE][TILE], tb[TILE][TILE + 1];
    int row = blockIdx.y * TILE + threadIdx.y, col = blockIdx.x * TILE + threadIdx.x;
    float sum = 0;

    for (int t = 0; t < (n + TILE - 1) / TILE; t++) {
        int k = t * TILE;
        ta[threadIdx.y][threadIdx.x] =
            row < n && k + threadIdx.x < n ? a[row * n + k + threadIdx.x] : 0;
        tb[threadIdx.y][threadIdx.x] =
            col < n && k + threadIdx.y < n ? b[(k + threadIdx.y) * n + col] : 0;
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            sum += ta[threadIdx.y][i] * tb[i][threadIdx.x];
        __syncthreads();
    }
    if (row < n && col < n)
        c[row * n + col] = sum;
}

int main()
{
    const int n = 150;
    size_t bytes = n * n * sizeof(float);
    std::vector<float> a(n * n), b(n * n), c(n * n);
    float *da, *db, *dc;
    double worst = 0;

    for (int i = 0; i < n * n; i++) {
        a[i] = (i * 7 % 13) - 6;
        b[i] = (i * 5 % 11) * 0.25f;
    }
    cudaMalloc(&da, bytes);
    cudaMalloc(&db, bytes);
    cudaMalloc(&dc, bytes);
    cudaMemcpy(da, a.data(), bytes, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b.data(), bytes, cudaMemcpyHostToDevice);
    dim3 block(TILE, TILE), grid((n + TILE - 1) / TILE, (n + TILE - 1) / TILE);
    matmul<<<grid, block>>>(da, db, dc, n);
    cudaMemcpy(c.data(), dc, bytes, cudaMemcpyDeviceToHost);
    cudaError_t error = cudaDeviceSynchronize();
    for (int row = 0; row < n; row++)
        for (int col = 0; col < n; col++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += (double)a[row * n + k] * b[k * n + col];
            worst = fmax(worst, fabs(sum - c[row * n + col]));
        }
    bool good = error == cudaSuccess && worst < 1e-3;
    printf("%dx%d, %s, %s\n%s\n", n, n, cudaGetErrorName(error),
           worst < 1e-3 ? "close" : "far off", good ? "PASS" : "FAIL");
    return !good;
}
