// Conjugate gradients in one cooperative kernel, a 3D stencil, a Walsh transform, a filter.
#include <cooperative_groups.h>
#include "tour.h"
namespace cg = cooperative_groups;

__device__ double dot_result;
__device__ void dot(const double *a, const double *b, int n, cg::grid_group &grid)
{
    __shared__ double part[128];
    double sum = 0;
    if (grid.thread_rank() == 0)
        dot_result = 0;
    grid.sync();
    for (int i = grid.thread_rank(); i < n; i += grid.size())
        sum += a[i] * b[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 64; half; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        atomicAdd(&dot_result, part[0]);
    grid.sync();
}
__global__ void conjugate(double *x, double *r, double *p, double *q, int n, int *rounds)
{
    cg::grid_group grid = cg::this_grid();
    dot(r, r, n, grid);
    double rr = dot_result;
    grid.sync();
    int k = 0;
    while (rr > 1e-18 && k < 1000) {
        for (int i = grid.thread_rank(); i < n; i += grid.size())
            q[i] = 2.5 * p[i] - (i ? p[i - 1] : 0) - (i < n - 1 ? p[i + 1] : 0);
        dot(p, q, n, grid);
        double alpha = rr / dot_result;
        grid.sync();
        for (int i = grid.thread_rank(); i < n; i += grid.size()) {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        dot(r, r, n, grid);
        double beta = dot_result / rr;
        rr = dot_result;
        grid.sync();
        for (int i = grid.thread_rank(); i < n; i += grid.size())
            p[i] = r[i] + beta * p[i];
        grid.sync();
        k++;
    }
    if (grid.thread_rank() == 0)
        *rounds = k;
}

__constant__ float weights[4];
__global__ void stencil(const float *in, float *out, int n)
{
    __shared__ float tile[10][10];
    int x = blockIdx.x * 8 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y;
    int tx = threadIdx.x + 1, ty = threadIdx.y + 1;
    for (int z = 1; z < n - 1; z++) {
        __syncthreads();
        bool inside = x < n && y < n;
        tile[ty][tx] = inside ? in[(z * n + y) * n + x] : 0;
        if (inside && threadIdx.x == 0 && x > 0)
            tile[ty][0] = in[(z * n + y) * n + x - 1];
        if (inside && threadIdx.x == 7 && x < n - 1)
            tile[ty][9] = in[(z * n + y) * n + x + 1];
        if (inside && threadIdx.y == 0 && y > 0)
            tile[0][tx] = in[(z * n + y - 1) * n + x];
        if (inside && threadIdx.y == 7 && y < n - 1)
            tile[9][tx] = in[(z * n + y + 1) * n + x];
        __syncthreads();
        if (x > 0 && y > 0 && x < n - 1 && y < n - 1)
            out[(z * n + y) * n + x] = weights[0] * tile[ty][tx] +
                weights[1] * (tile[ty][tx - 1] + tile[ty][tx + 1]) +
                weights[2] * (tile[ty - 1][tx] + tile[ty + 1][tx]) +
                weights[3] * (in[((z - 1) * n + y) * n + x] + in[((z + 1) * n + y) * n + x]);
    }
}
__global__ void walsh(int *data, int n)
{
    extern __shared__ int s[];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        s[i] = data[blockIdx.x * n + i];
    for (int stride = 1; stride < n; stride *= 2) {
        __syncthreads();
        for (int t = threadIdx.x; t < n / 2; t += blockDim.x) {
            int i = 2 * t - (t & (stride - 1)), a = s[i], b = s[i + stride];
            s[i] = a + b;
            s[i + stride] = a - b;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        data[blockIdx.x * n + i] = s[i];
}

int main()
{
    const int n = 500;
    Array<double> x(n), r(n), p(n), q(n);
    Array<int> rounds(1);
    for (int i = 0; i < n; i++)
        r[i] = p[i] = 1 + i % 5;
    r.up(), p.up();
    int count = n;
    void *args[] = { &x.device, &r.device, &p.device, &q.device, &count, &rounds.device };
    CK(cudaLaunchCooperativeKernel((void *)conjugate, dim3(2), dim3(128), args, 0, 0));
    x.down(), rounds.down();
    double worst = 0;
    for (int i = 0; i < n; i++)
        worst = fmax(worst, fabs(2.5 * x[i] - (i ? x[i - 1] : 0) - (i < n - 1 ? x[i + 1] : 0) - (1 + i % 5)));
    MUST(worst < 1e-7 && rounds[0] > 3 && rounds[0] < 500);
    const int m = 20;
    const float w[4] = { 0.5f, 0.125f, 0.0625f, 0.03125f };
    Array<float> in(m * m * m), out(m * m * m);
    for (int i = 0; i < m * m * m; i++)
        in[i] = i * 37 % 64;
    in.up();
    CK(cudaMemcpyToSymbol(weights, w, sizeof(w)));
    stencil<<<dim3(3, 3), dim3(8, 8)>>>(in.device, out.device, m);
    out.down();
    for (int z = 1; z < m - 1; z++)
        for (int y = 1; y < m - 1; y++)
            for (int i = 1; i < m - 1; i++) {
                auto at = [&](int a, int b, int c) { return in[(a * m + b) * m + c]; };
                float want = w[0] * at(z, y, i) + w[1] * (at(z, y, i - 1) + at(z, y, i + 1)) +
                             w[2] * (at(z, y - 1, i) + at(z, y + 1, i)) +
                             w[3] * (at(z - 1, y, i) + at(z + 1, y, i));
                MUST(out[(z * m + y) * m + i] == want);
            }
    Array<int> data(2048);
    uint32_t seed = 77;
    for (int i = 0; i < 2048; i++)
        data[i] = tour_random(&seed) % 100;
    std::vector<int> original = data.host;
    data.up();
    walsh<<<2, 128, 4096>>>(data.device, 1024);
    walsh<<<2, 128, 4096>>>(data.device, 1024);
    data.down();
    for (int i = 0; i < 2048; i++)
        MUST(data[i] == original[i] * 1024);
    return tour_end();
}
