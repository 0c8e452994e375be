// Vector addition with the runtime API: the program everybody writes first.
#include <cstdio>
#include <vector>
#include <cuda_runtime.h>

#define CK(call) \
    do { \
        cudaError_t error = (call); \
        if (error != cudaSuccess) { \
            printf("%s: %s\n", #call, cudaGetErrorName(error)); \
            return 1; \
        } \
    } while (0)

__global__ void add(const float *a, const float *b, float *c, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        c[i] = a[i] + b[i];
}

int main()
{
    const int n = 100003;
    std::vector<float> a(n), b(n), c(n, -1.0f);
    float *da, *db, *dc;
    int wrong = 0;

    for (int i = 0; i < n; i++) {
        a[i] = 0.5f * i;
        b[i] = 3.0f - i;
    }
    CK(cudaMalloc(&da, n * sizeof(float)));
    CK(cudaMalloc(&db, n * sizeof(float)));
    CK(cudaMalloc(&dc, n * sizeof(float)));
    CK(cudaMemcpy(da, a.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    CK(cudaMemcpy(db, b.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    add<<<(n + 255) / 256, 256>>>(da, db, dc, n);
    CK(cudaGetLastError());
    CK(cudaMemcpy(c.data(), dc, n * sizeof(float), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; i++)
        wrong += c[i] != a[i] + b[i];
    CK(cudaFree(da));
    CK(cudaFree(db));
    CK(cudaFree(dc));
    printf("%d elements, %d wrong\n%s\n", n, wrong, wrong ? "FAIL" : "PASS");
    return wrong != 0;
}
