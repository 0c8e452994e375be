// The last block to finish sums what the others left: fences, volatile, an atomic ticket.
#include "tour.h"

__device__ unsigned finished;
__global__ void reduce(const double *in, double *part, double *out, int n)
{
    __shared__ double s[256];
    __shared__ bool last;
    double sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += in[i];
    s[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
        if (threadIdx.x < half)
            s[threadIdx.x] += s[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        part[blockIdx.x] = s[0];
        __threadfence();
        last = atomicInc(&finished, gridDim.x) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        sum = 0;
        for (int i = 0; i < gridDim.x; i++)
            sum += ((volatile double *)part)[i];
        *out = sum;
        finished = 0;
    }
}

// A lock taken by every thread of a warp, in the form that needs independent progress.
__global__ void locked(int *lock, int *value)
{
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            *(volatile int *)value = *(volatile int *)value + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

int main()
{
    const int n = 100000;
    Array<double> in(n), part(32), out(1);
    for (int i = 0; i < n; i++)
        in[i] = i * 0.5;
    in.up();
    for (int round = 0; round < 3; round++) {
        reduce<<<32, 256>>>(in.device, part.device, out.device, n);
        out.down();
        MUST(out[0] == 0.25 * n * (n - 1.0));
    }
    Array<int> lock(2);
    locked<<<8, 96>>>(lock.device, lock.device + 1);
    lock.down();
    printf("counted %d\n", lock[1]);
    MUST(lock[1] == 8 * 96);
    return tour_end();
}
