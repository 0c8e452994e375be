// Every atomic operation, on global and on shared memory.
#include "tour.h"

__global__ void global_atomics(int *v, unsigned *u, unsigned long long *w, float *f, double *d)
{
    unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&v[0], 10);
    atomicSub(&v[1], 10);
    atomicExch(&v[2], t);
    atomicMax(&v[3], (int)t);
    atomicMin(&v[4], -(int)t);
    atomicInc(&u[0], 17);
    atomicDec(&u[1], 137);
    atomicCAS(&v[5], t - 1, t);
    atomicAnd(&v[6], 2 * t + 7);
    atomicOr(&v[7], 1 << (t & 31));
    atomicXor(&v[8], t);
    atomicAdd(&w[0], 1ull << 33);
    atomicMax(&w[1], (unsigned long long)t << 40);
    atomicAdd(f, 0.5f);
    atomicAdd(d, 0.25);
}

__global__ void shared_atomics(int *out)
{
    __shared__ int bins[32];
    __shared__ unsigned long long sum;
    if (threadIdx.x < 32)
        bins[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        sum = 0;
    __syncthreads();
    atomicAdd(&bins[threadIdx.x % 7], 1);
    atomicAdd(&sum, (unsigned long long)threadIdx.x);
    int old = atomicAdd_block(&bins[31], 2);
    __syncthreads();
    (void)old;
    if (threadIdx.x < 32)
        atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
    if (threadIdx.x == 0)
        atomicAdd(&out[32], (int)sum);
}

int main()
{
    const int blocks = 16, threads = 256, n = blocks * threads;
    Array<int> v(9), out(33);
    Array<unsigned> u(2);
    Array<unsigned long long> w(2);
    Array<float> f(1);
    Array<double> d(1);
    v[6] = -1;
    v.up();
    global_atomics<<<blocks, threads>>>(v.device, u.device, w.device, f.device, d.device);
    shared_atomics<<<blocks, threads>>>(out.device);
    v.down(), u.down(), w.down(), f.down(), d.down(), out.down();
    unsigned inc = 0, dec = 0;
    int all_and = -1, all_xor = 0;
    for (int t = 0; t < n; t++) {
        inc = inc >= 17 ? 0 : inc + 1;
        dec = dec == 0 || dec > 137 ? 137 : dec - 1;
        all_and &= 2 * t + 7;
        all_xor ^= t;
    }
    MUST(v[0] == 10 * n && v[1] == -10 * n && v[2] >= 0 && v[2] < n);
    MUST(v[3] == n - 1 && v[4] == -(n - 1) && u[0] == inc && u[1] == dec);
    MUST(v[5] >= 0 && v[6] == all_and && v[7] == -1 && v[8] == all_xor);
    MUST(w[0] == (unsigned long long)n << 33 && w[1] == (unsigned long long)(n - 1) << 40);
    MUST(f[0] == 0.5f * n && d[0] == 0.25 * n);
    int bins[32] = {};
    for (int t = 0; t < threads; t++)
        bins[t % 7]++;
    for (int i = 0; i < 7; i++)
        MUST(out[i] == bins[i] * blocks);
    MUST(out[31] == 2 * threads * blocks && out[32] == threads * (threads - 1) / 2 * blocks);
    return tour_end();
}
