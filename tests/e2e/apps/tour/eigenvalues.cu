// Dense and tridiagonal matrices: eigenvalues by bisection, LU with pivots, Cholesky, SpMV.
#include <cooperative_groups.h>
#include "tour.h"
namespace cg = cooperative_groups;

// How many eigenvalues of a symmetric tridiagonal matrix lie below x (Sturm's sequence).
__device__ int below(const float *d, const float *e, int n, float x)
{
    int count = 0;
    float q = 1;
    for (int i = 0; i < n; i++) {
        q = d[i] - x - (i > 0 ? e[i - 1] * e[i - 1] / q : 0);
        if (fabsf(q) < 1e-20f)
            q = -1e-20f;
        count += q < 0;
    }
    return count;
}

// Thread k narrows the interval of eigenvalue k.
__global__ void bisect(const float *d, const float *e, int n, float low, float high, float *out)
{
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n)
        return;
    while (high - low > 1e-6f * fmaxf(1, fmaxf(fabsf(low), fabsf(high)))) {
        float middle = low + (high - low) / 2;
        if (middle <= low || middle >= high)
            break;
        if (below(d, e, n, middle) > k)
            high = middle;
        else
            low = middle;
    }
    out[k] = (low + high) / 2;
}

// LU with partial pivoting by a whole grid; the pivot is looked for by its first thread.
__global__ void factor(double *a, int *pivot, int n)
{
    cg::grid_group grid = cg::this_grid();
    for (int k = 0; k < n; k++) {
        if (grid.thread_rank() == 0) {
            int best = k;
            for (int i = k + 1; i < n; i++)
                if (fabs(a[i * n + k]) > fabs(a[best * n + k]))
                    best = i;
            pivot[k] = best;
        }
        grid.sync();
        int p = pivot[k];
        for (int j = grid.thread_rank(); j < n && p != k; j += grid.size()) {
            double swap = a[k * n + j];
            a[k * n + j] = a[p * n + j];
            a[p * n + j] = swap;
        }
        grid.sync();
        for (int i = k + 1 + grid.thread_rank(); i < n; i += grid.size())
            a[i * n + k] /= a[k * n + k];
        grid.sync();
        int left = n - 1 - k;
        for (int at = grid.thread_rank(); at < left * left; at += grid.size()) {
            int i = k + 1 + at / left, j = k + 1 + at % left;
            a[i * n + j] -= a[i * n + k] * a[k * n + j];
        }
        grid.sync();
    }
}

// A small matrix a warp, each in registers through shuffles; lane j holds column j.
__global__ void cholesky(const float *in, float *out, int *bad)
{
    const int n = 8;
    int lane = threadIdx.x % 32, warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    float column[n];
    for (int i = 0; i < n; i++)
        column[i] = lane < n ? in[(warp * n + i) * n + lane] : 0;
    for (int k = 0; k < n; k++) {
        float diagonal = __shfl_sync(~0u, column[k], k);
        if (diagonal <= 0 && lane == 0)
            atomicAdd(bad, 1);
        float root = sqrtf(diagonal);
        if (lane == k)
            for (int i = 0; i < n; i++)
                column[i] = i < k ? 0 : column[i] / root;
        for (int j = k + 1; j < n; j++) {
            float l_jk = __shfl_sync(~0u, column[j], k);
            for (int i = j; i < n; i++) {
                float l_ik = __shfl_sync(~0u, column[i], k);
                if (lane == j)
                    column[i] -= l_ik * l_jk;
            }
        }
    }
    for (int i = 0; i < n && lane < n; i++)
        out[(warp * n + i) * n + lane] = i >= lane ? column[i] : 0;
}

// Sparse rows: one warp a row.
__global__ void sparse(const int *row, const int *column, const float *value, const float *x,
                       float *y, int n)
{
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (warp >= n)
        return;
    float sum = 0;
    for (int k = row[warp] + lane; k < row[warp + 1]; k += 32)
        sum += value[k] * __ldg(&x[column[k]]);
    for (int offset = 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0)
        y[warp] = sum;
}

static void tridiagonal()
{
    const int n = 100;                  // 2, -1: the eigenvalues are known
    Array<float> d(n, 2.0f), e(n, -1.0f), out(n);
    bisect<<<2, 64>>>(d.device, e.device, n, -0.5f, 4.5f, out.device);
    out.down();
    for (int k = 0; k < n; k++)
        MUST(tour_close(out[k], 2 - 2 * std::cos((k + 1) * M_PI / (n + 1)), 2e-5));
}

static void lu()
{
    int n = 48, blocks = 0, cooperative = 0;
    Array<double> a(n * n);
    Array<int> pivot(n);
    uint32_t state = 3;
    for (int i = 0; i < n * n; i++)
        a[i] = tour_random(&state) % 2001 / 1000.0 - 1;
    for (int i = 0; i < n; i += 7)
        a[i * n + i] = 0;               // no way without pivots
    std::vector<double> before = a.host;
    a.up();
    CK(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, 0));
    CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, factor, 64, 0));
    MUST(cooperative && blocks >= 1);
    void *args[] = { &a.device, &pivot.device, &n };
    CK(cudaLaunchCooperativeKernel((void *)factor, 4, 64, args, 0, 0));
    a.down(), pivot.down();
    for (int k = 0; k < n; k++)
        if (pivot[k] != k)
            for (int j = 0; j < n; j++)
                std::swap(before[k * n + j], before[pivot[k] * n + j]);
    int wrong = 0, moved = 0;
    for (int i = 0; i < n; i++) {
        moved += pivot[i] != i;
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k <= i && k <= j; k++)
                sum += (k == i ? 1 : a[i * n + k]) * a[k * n + j];
            wrong += !tour_close(sum, before[i * n + j], 1e-12);
        }
    }
    MUST(wrong == 0 && moved > 0);
}

static void small_ones()
{
    const int n = 8, count = 24;
    Array<float> in(count * n * n), out(count * n * n);
    Array<int> bad(1);
    std::vector<float> lower(count * n * n);
    for (int m = 0; m < count; m++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j <= i; j++)
                lower[(m * n + i) * n + j] = i == j ? 1 + (m + i) % 3 : (m + 2 * i + 3 * j) % 5 - 2;
    for (int m = 0; m < count; m++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                for (int k = 0; k < n; k++)
                    in[(m * n + i) * n + j] +=
                        lower[(m * n + i) * n + k] * lower[(m * n + j) * n + k];
    in.up();
    cholesky<<<count / 4, 128>>>(in.device, out.device, bad.device);
    out.down(), bad.down();
    MUST(bad[0] == 0);
    int wrong = 0;
    for (int i = 0; i < count * n * n; i++)
        wrong += !tour_close(out[i], lower[i], 1e-3);
    MUST(wrong == 0);
}

static void rows_of_a_sparse_matrix()
{
    const int n = 200;
    std::vector<int> row(1), column;
    std::vector<float> value;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i * 37 % 90; k++) {
            column.push_back((i * 13 + k * 7) % n);
            value.push_back((float)((i + k) % 9 - 4));
        }
        row.push_back(column.size());
    }
    Array<int> r(row.size()), c(column.size());
    Array<float> v(value.size()), x(n), y(n);
    r.host = row, c.host = column, v.host = value;
    for (int i = 0; i < n; i++)
        x[i] = i % 11;
    r.up(), c.up(), v.up(), x.up();
    sparse<<<(n * 32 + 127) / 128, 128>>>(r.device, c.device, v.device, x.device, y.device, n);
    y.down();
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = row[i]; k < row[i + 1]; k++)
            sum += value[k] * x[column[k]];
        MUST(y[i] == sum);
    }
}

int main()
{
    tridiagonal();
    lu();
    small_ones();
    rows_of_a_sparse_matrix();
    return tour_end();
}
