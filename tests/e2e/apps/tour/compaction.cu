// Atomics of whole warps: aggregated counters, stream compaction, a hash table, matching.
#include <cooperative_groups.h>
#include "tour.h"
namespace cg = cooperative_groups;

// One atomic for all threads that get here together.
__device__ int next(int *counter)
{
    cg::coalesced_group active = cg::coalesced_threads();
    int first = 0;
    if (active.thread_rank() == 0)
        first = atomicAdd(counter, (int)active.size());
    return active.shfl(first, 0) + (int)active.thread_rank();
}

__global__ void keep_multiples(const int *in, int n, int of, int *out, int *count)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        if (in[i] % of == 0)
            out[next(count)] = in[i];
}

// Keeps the order: ballots inside warps, sums over the warps of a block.
__global__ void keep_in_order(const int *in, int n, int of, int *out, int *count)
{
    __shared__ int of_warp[32], base;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x == 0)
        base = 0;
    __syncthreads();
    for (int from = 0; from < n; from += blockDim.x) {
        int i = from + threadIdx.x;
        bool mine = i < n && in[i] % of == 0;
        unsigned votes = __ballot_sync(~0u, mine);
        if (lane == 0)
            of_warp[warp] = __popc(votes);
        __syncthreads();
        int before = base;
        for (int w = 0; w < warp; w++)
            before += of_warp[w];
        if (mine)
            out[before + __popc(votes & ((1u << lane) - 1))] = in[i];
        __syncthreads();
        if (threadIdx.x == 0)
            for (int w = 0; w < warps; w++)
                base += of_warp[w];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *count = base;
}

struct Slot {
    unsigned key, count;
};

// Counts keys: open addressing, one compare-and-swap to take a slot.
__global__ void count_keys(const unsigned *keys, int n, Slot *table, unsigned size)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned key = keys[i];
        for (unsigned at = key * 2654435761u % size;; at = (at + 1) % size) {
            unsigned was = atomicCAS(&table[at].key, 0, key);
            if (was == 0 || was == key) {
                atomicAdd(&table[at].count, 1);
                break;
            }
        }
    }
}

// The same with equal keys of a warp counted together.
__global__ void count_matched(const unsigned *keys, unsigned *count)
{
    unsigned key = keys[blockIdx.x * blockDim.x + threadIdx.x];
    unsigned same = __match_any_sync(~0u, key);
    int all;
    __match_all_sync(~0u, key, &all);
    if ((int)(threadIdx.x % 32) == __ffs(same) - 1)
        atomicAdd(&count[key], __popc(same));
    if (all && threadIdx.x % 32 == 0)
        atomicAdd(&count[16], 1);
    unsigned sum = __reduce_add_sync(~0u, key), most = __reduce_max_sync(~0u, key);
    if (threadIdx.x % 32 == 0) {
        atomicAdd(&count[17], sum);
        atomicMax(&count[18], most);
    }
}

int main()
{
    const int n = 10000;
    Array<int> in(n), out(n), ordered(n), count(2);
    uint32_t state = 5;
    std::vector<int> want;
    for (int i = 0; i < n; i++) {
        in[i] = tour_random(&state) % 1000;
        if (in[i] % 7 == 0)
            want.push_back(in[i]);
    }
    in.up();
    keep_multiples<<<9, 96>>>(in.device, n, 7, out.device, count.device);
    keep_in_order<<<1, 256>>>(in.device, n, 7, ordered.device, count.device + 1);
    count.down(), out.down(), ordered.down();
    MUST(count[0] == (int)want.size() && count[1] == (int)want.size());
    MUST(std::equal(want.begin(), want.end(), ordered.host.begin()));
    long sum = 0, wanted = 0;
    for (size_t i = 0; i < want.size(); i++)
        sum += out[i], wanted += want[i];
    MUST(sum == wanted);

    const unsigned size = 509, kinds = 300;
    Array<unsigned> keys(n);
    Array<Slot> table(size, Slot{ 0, 0 });
    std::vector<unsigned> counted(kinds + 1), seen(kinds + 1);
    for (int i = 0; i < n; i++) {
        keys[i] = 1 + tour_random(&state) % kinds;
        counted[keys[i]]++;
    }
    keys.up();
    count_keys<<<8, 128>>>(keys.device, n, table.device, size);
    table.down();
    for (unsigned i = 0; i < size; i++)
        if (table[i].key != 0) {
            MUST(table[i].key <= kinds && seen[table[i].key] == 0);
            seen[table[i].key] = table[i].count;
        }
    MUST(seen == counted);

    const int m = 4096;
    Array<unsigned> few(m), matched(19);
    std::vector<unsigned> plain(19);
    for (int i = 0; i < m; i++) {
        few[i] = i / 32 % 4 == 0 ? i / 32 % 16 : tour_random(&state) % 16;
        plain[few[i]]++;
        plain[17] += few[i];
        plain[18] = few[i] > plain[18] ? few[i] : plain[18];
    }
    for (int w = 0; w < m; w += 32) {
        bool all = true;
        for (int i = 1; i < 32; i++)
            all = all && few[w + i] == few[w];
        plain[16] += all;
    }
    few.up();
    count_matched<<<m / 128, 128>>>(few.device, matched.device);
    matched.down();
    for (int k = 0; k < 19; k++)
        MUST(matched[k] == plain[k]);
    return tour_end();
}
