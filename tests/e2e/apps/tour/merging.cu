// Merge sort along merge paths, odd-even transposition, breadth-first search, sample ranks.
#include <algorithm>
#include "tour.h"

// How many of a come before diagonal d of the path through a and b.
__device__ int split(const int *a, int na, const int *b, int nb, int d)
{
    int low = max(0, d - nb), high = min(d, na);
    while (low < high) {
        int middle = (low + high) / 2;
        if (a[middle] <= b[d - 1 - middle])
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

__global__ void order_pairs(int *x, int n)
{
    int i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 1 < n && x[i] > x[i + 1]) {
        int swap = x[i];
        x[i] = x[i + 1];
        x[i + 1] = swap;
    }
}

// Each thread merges four elements of two neighbouring runs.
__global__ void merge(const int *in, int *out, int n, int run)
{
    const int each = 4;
    int at = (blockIdx.x * blockDim.x + threadIdx.x) * each;
    if (at >= n)
        return;
    int from = at / (2 * run) * (2 * run), middle = min(from + run, n), end = min(from + 2 * run, n);
    const int *a = in + from, *b = in + middle;
    int na = middle - from, nb = end - middle, d = at - from;
    int i = split(a, na, b, nb, d), j = d - i;
    for (int k = 0; k < each && at + k < end; k++)
        out[at + k] = j >= nb || (i < na && a[i] <= b[j]) ? a[i++] : b[j++];
}

__global__ void odd_even(int *x, int n)
{
    extern __shared__ int s[];
    int *row = x + blockIdx.x * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        s[i] = row[i];
    __syncthreads();
    for (int round = 0; round < n; round++) {
        for (int i = 2 * threadIdx.x + round % 2; i + 1 < n; i += 2 * blockDim.x)
            if (s[i] > s[i + 1]) {
                int swap = s[i];
                s[i] = s[i + 1];
                s[i + 1] = swap;
            }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        row[i] = s[i];
}

// One level of a breadth-first search; the next frontier is counted with one atomic a block.
__global__ void level(const int *first, const int *edge, const int *frontier, int count,
                      int *distance, int now, int *next, int *found)
{
    __shared__ int used, base, space[512];
    if (threadIdx.x == 0)
        used = 0;
    __syncthreads();
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < count)
        for (int e = first[frontier[k]]; e < first[frontier[k] + 1]; e++)
            if (atomicCAS(&distance[edge[e]], -1, now + 1) == -1) {
                int at = atomicAdd(&used, 1);
                if (at < 512)
                    space[at] = edge[e];
                else
                    next[atomicAdd(found, 1)] = edge[e];
            }
    __syncthreads();
    int mine = min(used, 512);
    if (threadIdx.x == 0)
        base = atomicAdd(found, mine);
    __syncthreads();
    for (int i = threadIdx.x; i < mine; i += blockDim.x)
        next[base + i] = space[i];
}

static void sort_by_merging()
{
    const int n = 10007;
    Array<int> a(n), b(n);
    uint32_t state = 1;
    for (int i = 0; i < n; i++)
        a[i] = (int)(tour_random(&state) % 20000) - 10000;
    std::vector<int> want = a.host;
    std::sort(want.begin(), want.end());
    a.up();
    int *from = a.device, *to = b.device, rounds = 0;
    // A thread's four lie in one pair of runs from runs of two on, so pairs come first.
    order_pairs<<<(n / 2 + 127) / 128, 128>>>(from, n);
    for (int run = 2; run < n; run *= 2, rounds++) {
        merge<<<(n + 511) / 512, 128>>>(from, to, n, run);
        std::swap(from, to);
    }
    CK(cudaMemcpy(b.host.data(), from, b.bytes(), cudaMemcpyDeviceToHost));
    MUST(b.host == want && rounds == 13);
}

static void sort_by_swapping()
{
    const int n = 131, rows = 6;
    Array<int> x(n * rows);
    for (int i = 0; i < n * rows; i++)
        x[i] = i * 7919 % 263;
    std::vector<int> want = x.host;
    for (int r = 0; r < rows; r++)
        std::sort(want.begin() + r * n, want.begin() + (r + 1) * n);
    x.up();
    odd_even<<<rows, 32, n * sizeof(int)>>>(x.device, n);
    x.down();
    MUST(x.host == want);
}

static void search()
{
    const int n = 3000;
    std::vector<int> first(1), edge, want(n, -1), queue(1, 0);
    uint32_t state = 9;
    for (int i = 0; i < n; i++) {
        int degree = i % 100 == 0 ? 60 : tour_random(&state) % 3;
        for (int k = 0; k < degree; k++)
            edge.push_back(tour_random(&state) % n);
        first.push_back(edge.size());
    }
    want[0] = 0;
    for (size_t at = 0; at < queue.size(); at++)
        for (int e = first[queue[at]]; e < first[queue[at] + 1]; e++)
            if (want[edge[e]] < 0) {
                want[edge[e]] = want[queue[at]] + 1;
                queue.push_back(edge[e]);
            }
    Array<int> f(first.size()), e(edge.size()), distance(n, -1), found(1);
    Array<int> one(n), two(n);
    f.host = first, e.host = edge;
    distance[0] = 0;
    f.up(), e.up(), distance.up();
    int *now = one.device, *next = two.device, count = 1;
    for (int depth = 0; count > 0; depth++) {
        CK(cudaMemset(found.device, 0, sizeof(int)));
        level<<<(count + 63) / 64, 64>>>(f.device, e.device, now, count, distance.device, depth,
                                         next, found.device);
        found.down();
        count = found[0];
        std::swap(now, next);
    }
    distance.down();
    MUST(distance.host == want && queue.size() > 1000);
}

int main()
{
    sort_by_merging();
    sort_by_swapping();
    search();
    return tour_end();
}
