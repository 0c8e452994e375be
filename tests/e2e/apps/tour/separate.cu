// Relocatable device code (-rdc=true): a kernel that calls a function of another unit.
#include "tour.h"

extern __device__ int other_unit(int x);
extern __device__ int other_table[4];
extern __constant__ int other_constant;

__global__ void kernel(int *o)
{
    o[threadIdx.x] = other_unit(threadIdx.x) + other_table[threadIdx.x % 4] + other_constant;
}

int main()
{
    Array<int> o(32);
    kernel<<<1, 32>>>(o.device);
    CK(cudaGetLastError());
    o.down();
    for (int t = 0; t < 32; t++)
        MUST(o[t] == t * t + 1 + (t % 4 + 1) * 11 + 9000);
    return tour_end();
}
