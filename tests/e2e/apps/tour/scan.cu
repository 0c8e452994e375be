// Prefix sums: in a block, over warps by shuffles, and over blocks with look-back.
#include "tour.h"

__global__ void block_scan(const int *in, int *out, int n)
{
    __shared__ int a[512];
    int t = threadIdx.x;
    a[t] = t < n ? in[t] : 0;
    __syncthreads();
    for (int step = 1; step < 512; step *= 2) {
        int value = t >= step ? a[t - step] : 0;
        __syncthreads();
        a[t] += value;
        __syncthreads();
    }
    if (t < n)
        out[t] = a[t];
}

__global__ void chained_scan(const int *in, int *out, volatile int *sums, volatile int *flags,
                             int *ticket, int n)
{
    __shared__ int mine, base, warp_sums[8];
    if (threadIdx.x == 0)
        mine = atomicAdd(ticket, 1);
    __syncthreads();
    int i = mine * blockDim.x + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int value = i < n ? in[i] : 0;
    for (int step = 1; step < 32; step *= 2) {
        int other = __shfl_up_sync(~0u, value, step);
        if (lane >= step)
            value += other;
    }
    if (lane == 31)
        warp_sums[warp] = value;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        value += warp_sums[w];
    if (threadIdx.x == blockDim.x - 1) {
        int before = 0;
        if (mine > 0) {
            while (flags[mine - 1] == 0)
                ;
            __threadfence();
            before = sums[mine - 1];
        }
        base = before;
        sums[mine] = before + value;
        __threadfence();
        flags[mine] = 1;
    }
    __syncthreads();
    if (i < n)
        out[i] = value + base;
}

int main()
{
    const int n = 10000;
    Array<int> in(n), out(n), sums(64), flags(64), ticket(1);
    uint32_t seed = 1;
    for (int i = 0; i < n; i++)
        in[i] = tour_random(&seed) % 100 - 50;
    in.up();
    block_scan<<<1, 512>>>(in.device, out.device, 500);
    out.down();
    for (int i = 0, sum = 0; i < 500; i++) {
        sum += in[i];
        MUST(out[i] == sum);
    }
    chained_scan<<<(n + 255) / 256, 256>>>(in.device, out.device, sums.device, flags.device,
                                           ticket.device, n);
    out.down();
    int wrong = 0;
    for (int i = 0, sum = 0; i < n; i++) {
        sum += in[i];
        wrong += out[i] != sum;
    }
    printf("%d of %d wrong\n", wrong, n);
    MUST(wrong == 0);
    return tour_end();
}
