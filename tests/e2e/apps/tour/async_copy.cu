// Copies from global to shared memory with cp.async pipelines and barriers.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/barrier>
#include <cuda_pipeline.h>
#include "tour.h"
namespace cg = cooperative_groups;

__global__ void pipelined(const float *in, float *out, int n)
{
    __shared__ float stage[2][128];
    int tiles = n / 128, t = threadIdx.x;
    float sum = 0;
    __pipeline_memcpy_async(&stage[0][t], &in[t], sizeof(float));
    __pipeline_commit();
    for (int i = 0; i < tiles; i++) {
        if (i + 1 < tiles) {
            __pipeline_memcpy_async(&stage[(i + 1) % 2][t], &in[(i + 1) * 128 + t], sizeof(float));
            __pipeline_commit();
            __pipeline_wait_prior(1);
        } else {
            __pipeline_wait_prior(0);
        }
        __syncthreads();
        sum += stage[i % 2][127 - t];
        __syncthreads();
    }
    out[t] = sum;
}
__global__ void grouped(const int4 *in, int *out)
{
    __shared__ int4 space[64];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, space, in, sizeof(space));
    cg::wait(block);
    int4 v = space[63 - threadIdx.x];
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
__global__ void with_barrier(const int *in, int *out)
{
    __shared__ cuda::barrier<cuda::thread_scope_block> barrier;
    __shared__ int space[64];
    auto block = cg::this_thread_block();
    if (block.thread_rank() == 0)
        init(&barrier, block.size());
    block.sync();
    for (int round = 0; round < 3; round++) {
        cuda::memcpy_async(block, space, in + round * 64, sizeof(space), barrier);
        barrier.arrive_and_wait();
        out[round * 64 + threadIdx.x] = space[63 - threadIdx.x];
        barrier.arrive_and_wait();
    }
}

int main()
{
    const int n = 128 * 10;
    Array<float> in(n), out(128);
    for (int i = 0; i < n; i++)
        in[i] = i % 31;
    in.up();
    pipelined<<<1, 128>>>(in.device, out.device, n);
    out.down();
    for (int t = 0; t < 128; t++) {
        float sum = 0;
        for (int i = 0; i < n / 128; i++)
            sum += in[i * 128 + 127 - t];
        MUST(out[t] == sum);
    }
    Array<int4> quads(64);
    Array<int> sums(64), values(192), turned(192);
    for (int i = 0; i < 64; i++)
        quads[i] = { i, 2 * i, 3, -i };
    for (int i = 0; i < 192; i++)
        values[i] = i * i;
    quads.up(), values.up();
    grouped<<<1, 64>>>(quads.device, sums.device);
    with_barrier<<<1, 64>>>(values.device, turned.device);
    sums.down(), turned.down();
    for (int t = 0; t < 64; t++)
        MUST(sums[t] == 2 * (63 - t) + 3);
    for (int i = 0; i < 192; i++)
        MUST(turned[i] == values[i / 64 * 64 + 63 - i % 64]);
    return tour_end();
}
