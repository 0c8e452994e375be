// A matrix transpose through padded shared memory, and histograms of 64 and 256 bins.
#include "tour.h"

template <int TILE> __global__ void transpose(const float *in, float *out, int w, int h)
{
    __shared__ float tile[TILE][TILE + 1];
    int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
    for (int j = 0; j < TILE; j += blockDim.y)
        if (x < w && y + j < h)
            tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * w + x];
    __syncthreads();
    x = blockIdx.y * TILE + threadIdx.x;
    y = blockIdx.x * TILE + threadIdx.y;
    for (int j = 0; j < TILE; j += blockDim.y)
        if (x < h && y + j < w)
            out[(y + j) * h + x] = tile[threadIdx.x][threadIdx.y + j];
}

__global__ void histogram(const uchar4 *in, unsigned *bins, int n, int shift)
{
    __shared__ unsigned mine[256];
    mine[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uchar4 v = in[i];
        atomicAdd(&mine[v.x >> shift], 1);
        atomicAdd(&mine[v.y >> shift], 1);
        atomicAdd(&mine[v.z >> shift], 1);
        atomicAdd(&mine[v.w >> shift], 1);
    }
    __syncthreads();
    atomicAdd(&bins[threadIdx.x], mine[threadIdx.x]);
}

int main()
{
    const int w = 100, h = 75;
    Array<float> in(w * h), out(w * h);
    for (int i = 0; i < w * h; i++)
        in[i] = i;
    in.up();
    transpose<32><<<dim3(4, 3), dim3(32, 8)>>>(in.device, out.device, w, h);
    out.down();
    int wrong = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            wrong += out[x * h + y] != in[y * w + x];
    MUST(wrong == 0);
    const int n = 1 << 15;
    Array<unsigned> bytes(n), bins(256);
    uint32_t seed = 9;
    for (int i = 0; i < n; i++)
        bytes[i] = tour_random(&seed) * 0x01010101u ^ tour_random(&seed);
    bytes.up();
    for (int shift = 0; shift <= 2; shift += 2) {
        unsigned want[256] = {};
        for (int i = 0; i < n; i++)
            for (int b = 0; b < 32; b += 8)
                want[(bytes[i] >> b & 255) >> shift]++;
        CK(cudaMemset(bins.device, 0, bins.bytes()));
        histogram<<<8, 256>>>((uchar4 *)bytes.device, bins.device, n, shift);
        bins.down();
        MUST(!memcmp(bins.host.data(), want, sizeof(want)));
    }
    return tour_end();
}
