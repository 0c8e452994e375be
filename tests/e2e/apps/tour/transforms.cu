// A Fourier transform by hand, a separable convolution, a cosine transform, a Haar wavelet.
#include <complex>
#include "tour.h"

const int RADIUS = 4, LENGTH = 2 * RADIUS + 1;
__constant__ float weights[LENGTH];
__constant__ float cosines[8][8];

// One block a row: bits reversed, then log2(n) rounds of butterflies in shared memory.
template <int N> __global__ void fft(float2 *x, float sign)
{
    __shared__ float2 s[N];
    float2 *row = x + blockIdx.x * N;
    for (int i = threadIdx.x; i < N; i += blockDim.x) {
        int log = __ffs(N) - 1;
        s[__brev(i) >> (32 - log)] = row[i];
    }
    __syncthreads();
    for (int half = 1; half < N; half *= 2) {
        for (int k = threadIdx.x; k < N / 2; k += blockDim.x) {
            int at = k / half * half * 2 + k % half;
            float re, im;
            sincospif(sign * (k % half) / half, &im, &re);
            float2 a = s[at], b = s[at + half];
            float2 t = { b.x * re - b.y * im, b.x * im + b.y * re };
            s[at] = { a.x + t.x, a.y + t.y };
            s[at + half] = { a.x - t.x, a.y - t.y };
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < N; i += blockDim.x)
        row[i] = s[i];
}

__global__ void multiply(float2 *x, const float2 *y, int n, float scale)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = { (x[i].x * y[i].x - x[i].y * y[i].y) * scale,
                 (x[i].x * y[i].y + x[i].y * y[i].x) * scale };
}

// Tiles with an apron; zeroes beyond the image.
__global__ void rows(const float *in, float *out, int w)
{
    __shared__ float s[64 + 2 * RADIUS];
    int y = blockIdx.y, from = blockIdx.x * 64;
    for (int k = threadIdx.x; k < 64 + 2 * RADIUS; k += blockDim.x) {
        int x = from + k - RADIUS;
        s[k] = x >= 0 && x < w ? in[y * w + x] : 0;
    }
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int k = 0; k < LENGTH; k++)
        sum += weights[k] * s[threadIdx.x + k];
    if (from + threadIdx.x < w)
        out[y * w + from + threadIdx.x] = sum;
}

__global__ void columns(const float *in, float *out, int w, int h)
{
    __shared__ float s[32 + 2 * RADIUS][17];
    int x = blockIdx.x * 16 + threadIdx.x, from = blockIdx.y * 32;
    for (int k = threadIdx.y; k < 32 + 2 * RADIUS; k += blockDim.y) {
        int y = from + k - RADIUS;
        s[k][threadIdx.x] = x < w && y >= 0 && y < h ? in[y * w + x] : 0;
    }
    __syncthreads();
    for (int k = threadIdx.y; k < 32 && from + k < h; k += blockDim.y) {
        float sum = 0;
        for (int j = 0; j < LENGTH; j++)
            sum += weights[j] * s[k + j][threadIdx.x];
        if (x < w)
            out[(from + k) * w + x] = sum;
    }
}

// 8 x 8 blocks: C x C', or C' x C back.
__global__ void dct(float *image, int w, bool back)
{
    __shared__ float a[8][8], b[8][8];
    int x = threadIdx.x, y = threadIdx.y;
    float *at = &image[(blockIdx.y * 8 + y) * w + blockIdx.x * 8 + x], sum = 0;
    a[y][x] = *at;
    __syncthreads();
    for (int k = 0; k < 8; k++)
        sum += (back ? cosines[k][y] : cosines[y][k]) * a[k][x];
    b[y][x] = sum;
    __syncthreads();
    sum = 0;
    for (int k = 0; k < 8; k++)
        sum += b[y][k] * (back ? cosines[k][x] : cosines[x][k]);
    *at = sum;
}

// Integers by lifting, so that the way back is exact.
__global__ void haar(const int *in, int *out, int n)
{
    extern __shared__ int s[];
    int *now = s, *then = s + n;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        now[i] = in[i];
    __syncthreads();
    for (int half = n / 2; half > 0; half /= 2) {
        for (int i = threadIdx.x; i < half; i += blockDim.x) {
            int d = now[2 * i + 1] - now[2 * i];
            then[i] = now[2 * i] + (d >> 1);
            out[half + i] = d;
        }
        __syncthreads();
        int *swap = now;
        now = then, then = swap;
    }
    if (threadIdx.x == 0)
        out[0] = now[0];
}

static void transform()
{
    const int n = 256, rows_ = 5;
    Array<float2> x(n * rows_), y(n * rows_);
    std::vector<std::complex<double>> want(n);
    for (int i = 0; i < n * rows_; i++) {
        x[i] = { (float)((i * 37) % 19 - 9), (float)((i * 11) % 7 - 3) };
        y[i] = { (i % n) < 3 ? 1.0f : 0.0f, 0 };
    }
    std::vector<float2> before = x.host;
    x.up(), y.up();
    fft<n><<<rows_, 64>>>(x.device, -1);
    x.down();
    for (int k = 0; k < n; k++) {
        std::complex<double> sum = 0;
        for (int i = 0; i < n; i++)
            sum += std::complex<double>(before[n + i].x, before[n + i].y) *
                   std::polar(1.0, -2 * M_PI * i * k / n);
        MUST(tour_close(x[n + k].x, sum.real(), 1e-3) && tour_close(x[n + k].y, sum.imag(), 1e-3));
    }
    // A product of transforms is a convolution, here a sum over three neighbours.
    fft<n><<<rows_, 128>>>(y.device, -1);
    multiply<<<(n * rows_ + 127) / 128, 128>>>(x.device, y.device, n * rows_, 1.0f / n);
    fft<n><<<rows_, 32>>>(x.device, 1);
    x.down();
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 3; k++)
            sum += before[2 * n + (i + n - k) % n].x;
        MUST(tour_close(x[2 * n + i].x, sum, 1e-4));
    }
}

static void convolution()
{
    const int w = 150, h = 75;
    float host[LENGTH];
    Array<float> in(w * h), half(w * h), out(w * h);
    for (int k = 0; k < LENGTH; k++)
        host[k] = (float)(1 + k % 5) / 16;
    for (int i = 0; i < w * h; i++)
        in[i] = (i * 31) % 23;
    in.up();
    CK(cudaMemcpyToSymbol(weights, host, sizeof(host)));
    rows<<<dim3((w + 63) / 64, h), 64>>>(in.device, half.device, w);
    columns<<<dim3((w + 15) / 16, (h + 31) / 32), dim3(16, 8)>>>(half.device, out.device, w, h);
    out.down();
    int wrong = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float sum = 0;
            for (int j = 0; j < LENGTH; j++)
                for (int k = 0; k < LENGTH; k++) {
                    int yy = y + j - RADIUS, xx = x + k - RADIUS;
                    if (yy >= 0 && yy < h && xx >= 0 && xx < w)
                        sum += host[j] * host[k] * in[yy * w + xx];
                }
            wrong += !tour_close(out[y * w + x], sum, 1e-5);
        }
    MUST(wrong == 0);
}

static void cosine()
{
    const int w = 40, h = 24;
    float c[8][8];
    Array<float> image(w * h);
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < 8; i++)
            c[k][i] = (k == 0 ? std::sqrt(0.125) : 0.5) * std::cos((2 * i + 1) * k * M_PI / 16);
    CK(cudaMemcpyToSymbol(cosines, c, sizeof(c)));
    for (int i = 0; i < w * h; i++)
        image[i] = (i * 13) % 256;
    std::vector<float> before = image.host;
    image.up();
    dct<<<dim3(w / 8, h / 8), dim3(8, 8)>>>(image.device, w, false);
    image.down();
    float sum = 0;
    for (int i = 0; i < 64; i++)
        sum += before[(8 + i / 8) * w + 16 + i % 8];
    MUST(tour_close(image[8 * w + 16], sum / 8, 1e-5));
    dct<<<dim3(w / 8, h / 8), dim3(8, 8)>>>(image.device, w, true);
    image.down();
    for (int i = 0; i < w * h; i++)
        MUST(tour_close(image[i], before[i], 1e-4));
}

static void wavelet()
{
    const int n = 1024;
    Array<int> in(n), out(n);
    for (int i = 0; i < n; i++)
        in[i] = (i * 7919) % 503 - 250;
    in.up();
    haar<<<1, 256, 2 * n * sizeof(int)>>>(in.device, out.device, n);
    out.down();
    std::vector<int> x(1, out[0]), next;
    for (int half = 1; half < n; half *= 2) {
        next.assign(2 * half, 0);
        for (int i = 0; i < half; i++) {
            next[2 * i] = x[i] - (out[half + i] >> 1);
            next[2 * i + 1] = next[2 * i] + out[half + i];
        }
        x = next;
    }
    MUST(x == in.host);
}

int main()
{
    transform();
    convolution();
    cosine();
    wavelet();
    return tour_end();
}
