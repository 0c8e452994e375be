/* Kernels that exist as machine code only: what a cubin says of each. See machine_code.c. */
struct three { double a[3]; char b; };
struct big { char bytes[20000]; };

__device__ int plain;
__device__ int initialised[3] = { 1, 2, 3 };
__constant__ float table[16] = { 1.5f, 2.5f };

extern "C" __global__ void
several(int *out, float x, struct three s)
{
    extern __shared__ int dynamic[];
    __shared__ int fixed[100];

    fixed[threadIdx.x] = dynamic[0];
    __syncthreads();
    out[0] = fixed[1] + (int)x + initialised[1] + (int)table[2] + s.b;
}

extern "C" __global__ void __launch_bounds__(128)
bounded(struct three s, int n)
{
    int local[64];

    for (int i = 0; i < n; i++)
        local[i * 7 & 63] = i + (int)s.a[0];
    plain = local[n & 63];
}

extern "C" __global__ void
large(struct big b, int at)
{
    plain = b.bytes[at];
}

extern "C" __global__ void __cluster_dims__(2, 1, 1)
clustered(int n)
{
    plain = n;
}
