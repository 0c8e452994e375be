// wmma: half with float sums, int8, double; tiles compared with a plain product.
#include <mma.h>
#include "tour.h"
using namespace nvcuda;

__global__ void half_product(const half *a, const half *b, float *c, int n)
{
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    int row = blockIdx.y * 16, col = blockIdx.x * 16;
    wmma::fill_fragment(fc, 0.0f);
    for (int k = 0; k < n; k += 16) {
        wmma::load_matrix_sync(fa, a + row * n + k, n);
        wmma::load_matrix_sync(fb, b + col * n + k, n);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    for (int i = 0; i < fc.num_elements; i++)
        fc.x[i] *= 2;
    wmma::store_matrix_sync(c + row * n + col, fc, n, wmma::mem_row_major);
}
__global__ void byte_product(const signed char *a, const signed char *b, int *c)
{
    wmma::fragment<wmma::matrix_a, 16, 16, 16, signed char, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, signed char, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, int> fc;
    wmma::fill_fragment(fc, 1);
    wmma::load_matrix_sync(fa, a, 16);
    wmma::load_matrix_sync(fb, b, 16);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
}
__global__ void double_product(const double *a, const double *b, double *c)
{
    wmma::fragment<wmma::matrix_a, 8, 8, 4, double, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 8, 8, 4, double, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 8, 8, 4, double> fc;
    wmma::fill_fragment(fc, 0.5);
    wmma::load_matrix_sync(fa, a, 4);
    wmma::load_matrix_sync(fb, b, 4);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major);
}

int main()
{
    const int n = 48;
    Array<half> a(n * n), b(n * n);
    Array<float> c(n * n);
    for (int i = 0; i < n * n; i++) {
        a[i] = __float2half((i % 7) - 3);
        b[i] = __float2half((i % 5) * 0.5f);
    }
    a.up(), b.up();
    half_product<<<dim3(n / 16, n / 16), 32>>>(a.device, b.device, c.device, n);
    c.down();
    for (int y = 0; y < n; y++)
        for (int x = 0; x < n; x++) {
            float sum = 0;
            for (int k = 0; k < n; k++)
                sum += __half2float(a[y * n + k]) * __half2float(b[x * n + k]);
            MUST(c[y * n + x] == 2 * sum);
        }
    Array<signed char> p(256), q(256);
    Array<int> r(256);
    for (int i = 0; i < 256; i++) {
        p[i] = i * 37;
        q[i] = i * 91 + 5;
    }
    p.up(), q.up();
    byte_product<<<1, 32>>>(p.device, q.device, r.device);
    r.down();
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 16; x++) {
            int sum = 1;
            for (int k = 0; k < 16; k++)
                sum += p[y * 16 + k] * q[x * 16 + k];
            MUST(r[y * 16 + x] == sum);
        }
    Array<double> u(32), v(32), w(64);
    for (int i = 0; i < 32; i++) {
        u[i] = i * 0.25;
        v[i] = 3 - i;
    }
    u.up(), v.up();
    double_product<<<1, 32>>>(u.device, v.device, w.device);
    w.down();
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            double sum = 0.5;
            for (int k = 0; k < 4; k++)
                sum += u[y * 4 + k] * v[x * 4 + k];
            MUST(w[y * 8 + x] == sum);
        }
    return tour_end();
}
