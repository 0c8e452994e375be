// Groups of every size: block, tiles, coalesced threads, labelled partitions, the grid.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include "tour.h"
namespace cg = cooperative_groups;

__device__ int sum_group(cg::thread_group g, int *x, int value)
{
    int lane = g.thread_rank();
    for (int i = g.size() / 2; i > 0; i /= 2) {
        x[lane] = value;
        g.sync();
        if (lane < i)
            value += x[lane + i];
        g.sync();
    }
    return g.thread_rank() == 0 ? value : -1;
}

__global__ void groups(int *o)
{
    extern __shared__ int space[];
    cg::thread_block block = cg::this_thread_block();
    int sum = sum_group(block, space, block.thread_rank());
    if (block.thread_rank() == 0)
        o[0] = sum;
    block.sync();
    auto tile = cg::tiled_partition<16>(block);
    int tiled = cg::reduce(tile, (int)tile.thread_rank() + 1, cg::plus<int>());
    if (tile.thread_rank() == 0)
        atomicAdd(&o[1], tiled);
    auto tile4 = cg::tiled_partition<4>(tile);
    int up = tile4.shfl_up(tile4.thread_rank(), 1);
    atomicAdd(&o[2], up);
    if (block.thread_rank() % 3 == 0) {
        cg::coalesced_group active = cg::coalesced_threads();
        int first = active.shfl(1, 0);
        if (active.thread_rank() == 0)
            atomicAdd(&o[3], (int)active.size() * first);
    }
    auto labelled = cg::labeled_partition(cg::tiled_partition<32>(block), block.thread_rank() % 5);
    if (labelled.thread_rank() == 0)
        atomicAdd(&o[4], (int)labelled.size());
}

__global__ void whole_grid(double *part, double *out, int n)
{
    cg::grid_group grid = cg::this_grid();
    double sum = 0;
    for (int i = grid.thread_rank(); i < n; i += grid.size())
        sum += i * 0.5;
    part[grid.thread_rank()] = sum;
    grid.sync();
    for (int half = grid.size() / 2; half > 0; half /= 2) {
        if (grid.thread_rank() < half)
            part[grid.thread_rank()] += part[grid.thread_rank() + half];
        grid.sync();
    }
    if (grid.thread_rank() == 0)
        *out = part[0];
}

int main()
{
    Array<int> o(5);
    groups<<<1, 64, 64 * sizeof(int)>>>(o.device);
    o.down();
    MUST(o[0] == 63 * 64 / 2 && o[1] == 4 * 136 && o[2] == 16 * (0 + 0 + 1 + 2));
    MUST(o[3] == 22 && o[4] == 64);
    Array<double> part(256), out(1);
    int n = 10000;
    void *args[] = { &part.device, &out.device, &n };
    CK(cudaLaunchCooperativeKernel((void *)whole_grid, dim3(2), dim3(128), args, 0, 0));
    out.down();
    MUST(out[0] == 0.5 * (n - 1.0) * n / 2);
    return tour_end();
}
