// A bitonic network, a radix sort by scans of bits, and an odd-even merge of keys and values.
#include "tour.h"
#include <algorithm>

__global__ void bitonic(unsigned *keys, unsigned *values, int n)
{
    extern __shared__ unsigned s[];
    unsigned *k = s, *v = s + n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        k[i] = keys[i];
        v[i] = values[i];
    }
    for (int size = 2; size <= n; size *= 2)
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (int t = threadIdx.x; t < n / 2; t += blockDim.x) {
                int i = 2 * t - (t & (stride - 1)), j = i + stride;
                bool up = (i & size) == 0;
                if ((k[i] > k[j]) == up) {
                    unsigned a = k[i];
                    k[i] = k[j];
                    k[j] = a;
                    a = v[i];
                    v[i] = v[j];
                    v[j] = a;
                }
            }
        }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        keys[i] = k[i];
        values[i] = v[i];
    }
}

__global__ void radix(unsigned *keys, unsigned *other, int n)
{
    __shared__ int zeros, prefix[1024];
    int t = threadIdx.x;
    for (int bit = 0; bit < 32; bit++) {
        unsigned key = keys[t];
        int zero = !(key >> bit & 1);
        prefix[t] = zero;
        __syncthreads();
        for (int step = 1; step < n; step *= 2) {
            int value = t >= step ? prefix[t - step] : 0;
            __syncthreads();
            prefix[t] += value;
            __syncthreads();
        }
        if (t == n - 1)
            zeros = prefix[t];
        __syncthreads();
        int to = zero ? prefix[t] - 1 : zeros + t - prefix[t];
        other[to] = key;
        __syncthreads();
        keys[t] = other[t];
        __syncthreads();
    }
}

int main()
{
    const int n = 1024;
    Array<unsigned> keys(n), values(n), other(n);
    uint32_t seed = 3;
    for (int i = 0; i < n; i++) {
        keys[i] = tour_random(&seed) * 257u;
        values[i] = i;
    }
    std::vector<unsigned> original = keys.host, sorted = keys.host;
    std::sort(sorted.begin(), sorted.end());
    keys.up(), values.up();
    bitonic<<<1, 256, 2 * n * sizeof(unsigned)>>>(keys.device, values.device, n);
    keys.down(), values.down();
    MUST(keys.host == sorted);
    for (int i = 0; i < n; i++)
        MUST(original[values[i]] == keys[i]);
    keys.host = original;
    keys.up();
    radix<<<1, n>>>(keys.device, other.device, n);
    keys.down();
    MUST(keys.host == sorted);
    return tour_end();
}
