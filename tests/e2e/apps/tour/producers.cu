// cuda::pipeline and cuda::barrier: staged copies, warps that produce for others, phases.
#include <cooperative_groups.h>
#include <cuda/barrier>
#include <cuda/pipeline>
#include "tour.h"
#pragma nv_diag_suppress static_var_with_dynamic_init
namespace cg = cooperative_groups;

const int TILE = 128, STAGES = 3;

// All threads copy and compute, three tiles in flight.
__global__ void staged(const float *in, float *out, int tiles)
{
    __shared__ float space[STAGES][TILE];
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
    auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline(block, &state);
    float sum = 0;

    for (int fetch = 0, tile = 0; tile < tiles; tile++) {
        for (; fetch < tiles && fetch < tile + STAGES; fetch++) {
            pipe.producer_acquire();
            cuda::memcpy_async(block, space[fetch % STAGES], in + fetch * TILE,
                               sizeof(space[0]), pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        sum = sum * 0.5f + space[tile % STAGES][TILE - 1 - threadIdx.x];
        pipe.consumer_release();
    }
    out[threadIdx.x] = sum;
}

// The first warp only copies, the others only compute.
__global__ void divided(const int *in, int *out, int tiles)
{
    __shared__ int space[2][96];
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    auto block = cg::this_thread_block();
    bool copies = threadIdx.x < 32;
    auto pipe = cuda::make_pipeline(block, &state,
                                    copies ? cuda::pipeline_role::producer
                                           : cuda::pipeline_role::consumer);

    if (copies) {
        for (int tile = 0; tile < tiles; tile++) {
            pipe.producer_acquire();
            for (int k = threadIdx.x; k < 96; k += 32)
                cuda::memcpy_async(&space[tile % 2][k], &in[tile * 96 + k], sizeof(int), pipe);
            pipe.producer_commit();
        }
    } else {
        int t = threadIdx.x - 32;
        for (int tile = 0; tile < tiles; tile++) {
            pipe.consumer_wait();
            out[tile * 96 + t] = 3 * space[tile % 2][95 - t];
            pipe.consumer_release();
        }
    }
}

// Arrive early, work, wait late; and a completion that runs once a phase.
__global__ void split_barrier(int *out, int rounds)
{
    __shared__ cuda::barrier<cuda::thread_scope_block> barrier;
    __shared__ int parts[64];
    if (threadIdx.x == 0)
        init(&barrier, blockDim.x);
    __syncthreads();
    int mine = threadIdx.x, idle = 0;
    for (int round = 0; round < rounds; round++) {
        parts[threadIdx.x] = mine;
        auto token = barrier.arrive();
        idle += round;
        barrier.wait(std::move(token));
        mine += parts[(threadIdx.x + 1) % blockDim.x];
        barrier.arrive_and_wait();
    }
    out[threadIdx.x] = mine + idle;
}

// Warps leave one after another; the barrier goes on with those that stay.
__global__ void leaving(int *out)
{
    __shared__ cuda::barrier<cuda::thread_scope_block> barrier;
    __shared__ int count;
    if (threadIdx.x == 0) {
        init(&barrier, blockDim.x);
        count = 0;
    }
    __syncthreads();
    int stays = threadIdx.x / 32;
    for (int round = 0; round < 4; round++) {
        if (round > stays) {
            barrier.arrive_and_drop();
            return;
        }
        atomicAdd(&count, 1);
        barrier.arrive_and_wait();
        if (threadIdx.x == blockDim.x - 1)
            out[round] = count;
        barrier.arrive_and_wait();
    }
}

int main()
{
    const int tiles = 11;
    Array<float> in(tiles * TILE), out(TILE);
    for (int i = 0; i < tiles * TILE; i++)
        in[i] = i % 37;
    in.up();
    staged<<<1, TILE>>>(in.device, out.device, tiles);
    out.down();
    for (int t = 0; t < TILE; t++) {
        float sum = 0;
        for (int i = 0; i < tiles; i++)
            sum = sum * 0.5f + in[i * TILE + TILE - 1 - t];
        MUST(out[t] == sum);
    }
    Array<int> from(tiles * 96), to(tiles * 96);
    for (int i = 0; i < tiles * 96; i++)
        from[i] = i * i;
    from.up();
    divided<<<1, 128>>>(from.device, to.device, tiles);
    to.down();
    for (int i = 0; i < tiles * 96; i++)
        MUST(to[i] == 3 * from[i / 96 * 96 + 95 - i % 96]);

    Array<int> mine(64), counts(4);
    split_barrier<<<1, 64>>>(mine.device, 6);
    mine.down();
    std::vector<int> now(64), then(64);
    for (int t = 0; t < 64; t++)
        now[t] = t;
    for (int round = 0; round < 6; round++) {
        then = now;
        for (int t = 0; t < 64; t++)
            now[t] = then[t] + then[(t + 1) % 64];
    }
    for (int t = 0; t < 64; t++)
        MUST(mine[t] == now[t] + 15);
    leaving<<<1, 128>>>(counts.device);
    counts.down();
    MUST(counts[0] == 128 && counts[1] == 128 + 96 && counts[2] == 128 + 96 + 64 &&
         counts[3] == 128 + 96 + 64 + 32);
    return tour_end();
}
