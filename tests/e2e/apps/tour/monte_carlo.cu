// Random numbers of our own (counters, and a quasi-random sequence), and what they estimate.
#include "tour.h"

const int DIMENSIONS = 3, BITS = 31;
__constant__ unsigned directions[DIMENSIONS][BITS];

// Philox 4x32, ten rounds: a number is a function of counter and key.
__host__ __device__ static inline uint4 philox(uint4 c, uint2 key)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53u * c.x, b = (uint64_t)0xcd9e8d57u * c.z;
        c = { (unsigned)(b >> 32) ^ c.y ^ key.x, (unsigned)b, (unsigned)(a >> 32) ^ c.w ^ key.y,
              (unsigned)a };
        key.x += 0x9e3779b9u;
        key.y += 0xbb67ae85u;
    }
    return c;
}

__global__ void raw(uint4 *out, uint2 key)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = philox({ i, 0, 7, 0 }, key);
}

__device__ float uniform(unsigned x) { return (x >> 8) * (1.0f / (1 << 24)); }

__global__ void hits(unsigned long long *inside, int points, uint2 key)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned count = 0;
    for (int k = 0; k < points; k += 2) {
        uint4 r = philox({ i, (unsigned)k, 0, 0 }, key);
        float x = uniform(r.x), y = uniform(r.y), u = uniform(r.z), v = uniform(r.w);
        count += (x * x + y * y < 1) + (u * u + v * v < 1);
    }
    for (int offset = 16; offset > 0; offset /= 2)
        count += __shfl_down_sync(~0u, count, offset);
    if (threadIdx.x % 32 == 0)
        atomicAdd(inside, (unsigned long long)count);
}

// The price of a European call, with normal numbers by Box and Muller.
__global__ void paths(double *sums, int n, float s, float k, float r, float v, float t, uint2 key)
{
    __shared__ double part[2][128];
    double sum = 0, square = 0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned)n;
         i += gridDim.x * blockDim.x) {
        uint4 x = philox({ i, 1, 2, 3 }, key);
        float radius = sqrtf(-2 * logf(1 - uniform(x.x))), z = radius * cospif(2 * uniform(x.y));
        float end = s * expf((r - v * v / 2) * t + v * sqrtf(t) * z);
        float pay = end > k ? (end - k) * expf(-r * t) : 0;
        sum += pay, square += pay * pay;
    }
    part[0][threadIdx.x] = sum, part[1][threadIdx.x] = square;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            for (int j = 0; j < 2; j++)
                part[j][threadIdx.x] += part[j][threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        atomicAdd(&sums[0], part[0][0]);
        atomicAdd(&sums[1], part[1][0]);
    }
}

// Sobol's sequence by Gray code; y: the dimension.
__global__ void sobol(float *out, int n)
{
    int dimension = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned gray = i ^ (i >> 1), x = 0;
        for (int bit = 0; gray != 0; bit++, gray >>= 1)
            if (gray & 1)
                x ^= directions[dimension][bit];
        out[dimension * n + i] = x * (1.0f / (1u << 31));
    }
}

static double normal(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

int main()
{
    uint2 key = { 0xa4093822u, 0x299f31d0u };
    Array<uint4> numbers(1000 / 8 * 8);
    raw<<<125, 8>>>(numbers.device, key);
    numbers.down();
    for (unsigned i = 0; i < numbers.size(); i++) {
        uint4 want = philox({ i, 0, 7, 0 }, key);
        MUST(memcmp(&numbers[i], &want, sizeof(want)) == 0);
    }
    // The first of the known answers of the generator's paper.
    uint4 zero = philox({ 0, 0, 0, 0 }, { 0, 0 });
    MUST(zero.x == 0x6627e8d5u && zero.y == 0xe169c58du && zero.z == 0xbc57ac4cu &&
         zero.w == 0x9b00dbd8u);

    Array<unsigned long long> inside(1);
    const int threads = 64 * 32, points = 256;
    hits<<<32, 64>>>(inside.device, points, key);
    inside.down();
    double pi = 4.0 * inside[0] / ((double)threads * points);
    MUST(std::fabs(pi - M_PI) < 0.01);

    const int n = 200000;
    const double s = 100, k = 105, r = 0.03, v = 0.25, t = 1.5;
    Array<double> sums(2);
    paths<<<24, 128>>>(sums.device, n, s, k, r, v, t, key);
    sums.down();
    double mean = sums[0] / n, deviation = std::sqrt((sums[1] / n - mean * mean) / n);
    double d1 = (std::log(s / k) + (r + v * v / 2) * t) / (v * std::sqrt(t));
    double price = s * normal(d1) - k * std::exp(-r * t) * normal(d1 - v * std::sqrt(t));
    MUST(std::fabs(mean - price) < 4 * deviation && deviation < 0.1);

    // Dimension 0 is van der Corput's; the others from primitive polynomials.
    unsigned v_[DIMENSIONS][BITS];
    for (int i = 0; i < BITS; i++)
        v_[0][i] = 1u << (BITS - 1 - i);
    v_[1][0] = 1u << 30;
    for (int i = 1; i < BITS; i++)              // x + 1
        v_[1][i] = v_[1][i - 1] ^ (v_[1][i - 1] >> 1);
    v_[2][0] = 1u << 30, v_[2][1] = 3u << 29;
    for (int i = 2; i < BITS; i++)              // x^2 + x + 1
        v_[2][i] = v_[2][i - 1] ^ v_[2][i - 2] ^ (v_[2][i - 2] >> 2);
    CK(cudaMemcpyToSymbol(directions, v_, sizeof(v_)));
    const int m = 1 << 12;
    Array<float> points_(DIMENSIONS * m);
    sobol<<<dim3(4, DIMENSIONS), 128>>>(points_.device, m);
    points_.down();
    for (int d = 0; d < DIMENSIONS; d++) {
        std::vector<int> bins(m);               // one point in each of 4096 intervals
        for (int i = 0; i < m; i++)
            bins[(int)(points_[d * m + i] * m)]++;
        for (int i = 0; i < m; i++)
            MUST(bins[i] == 1);
    }
    double sum = 0;
    for (int i = 0; i < m; i++)
        sum += points_[i] * points_[m + i] * points_[2 * m + i];
    MUST(std::fabs(sum / m - 0.125) < 2e-3);
    return tour_end();
}
