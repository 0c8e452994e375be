// Clocks, waiting and special registers; launches with attributes, clusters where there are.
#include "tour.h"

__global__ void clocks(long long *o)
{
    long long from = clock64(), to;
    unsigned short_from = clock(), globals[2];
    unsigned long long begin, end;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(globals[0]));
    for (int i = 0; i < 20; i++)
        __nanosleep(100000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(end));
    to = clock64();
    if (threadIdx.x == 0) {
        o[0] = to - from;
        o[1] = end - begin;
        o[2] = clock() != short_from;
        o[3] = globals[0] >= (unsigned)begin || (unsigned)begin > 0xf0000000u;
    }
}

__global__ void registers(unsigned *o)
{
    unsigned lane, warp, warps, sm, sms, grid, size, eq, lt, le, gt, ge;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm("mov.u32 %0, %%warpid;" : "=r"(warp));
    asm("mov.u32 %0, %%nwarpid;" : "=r"(warps));
    asm("mov.u32 %0, %%smid;" : "=r"(sm));
    asm("mov.u32 %0, %%nsmid;" : "=r"(sms));
    asm("mov.u32 %0, %%nctaid.y;" : "=r"(grid));
    asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(size));
    asm("mov.u32 %0, %%lanemask_eq;" : "=r"(eq));
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(lt));
    asm("mov.u32 %0, %%lanemask_le;" : "=r"(le));
    asm("mov.u32 %0, %%lanemask_gt;" : "=r"(gt));
    asm("mov.u32 %0, %%lanemask_ge;" : "=r"(ge));
    unsigned good = lane == threadIdx.x % 32 && warp < warps && sm < sms && grid == 2 &&
                    size == 40 && eq == 1u << lane && lt == eq - 1 && le == (lt | eq) &&
                    gt == ~le && ge == ~lt;
    atomicAdd(o, good);
}

// Waiting for another block that was started before or after this one.
__global__ void __launch_bounds__(32) meet(volatile int *flag, int *o)
{
    int other = 1 - blockIdx.x;
    if (threadIdx.x == 0) {
        flag[blockIdx.x] = 1;
        __threadfence();
        while (flag[other] == 0)
            __nanosleep(200);
        o[blockIdx.x] = 1;
    }
}

__global__ void name(int *o) { o[blockIdx.x] = blockIdx.x * 10; }

int main()
{
    Array<long long> times(4);
    clocks<<<1, 32>>>(times.device);
    times.down();
    MUST(times[0] > 0 && times[1] > 0 && times[2] == 1 && times[3] == 1);
    int rate = 0, value = 0;
    CK(cudaDeviceGetAttribute(&rate, cudaDevAttrClockRate, 0));
    MUST(rate > 0);

    Array<unsigned> good(1);
    registers<<<dim3(3, 2), 96, 40>>>(good.device);
    good.down();
    MUST(good[0] == 3 * 2 * 96);

    Array<int> flags(2), met(2);
    int *f = flags.device, *m = met.device;
    void *args[] = { &f, &m };
    CK(cudaLaunchCooperativeKernel((void *)meet, 2, 32, args, 0, 0));   // both at once
    met.down();
    MUST(met[0] == 1 && met[1] == 1);

    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute[2] = {};
    Array<int> rank(4);
    config.gridDim = 4, config.blockDim = 32;
    config.attrs = attribute;
    attribute[0].id = cudaLaunchAttributePriority;
    attribute[0].val.priority = 0;
    config.numAttrs = 1;
    CK(cudaLaunchKernelEx(&config, name, rank.device));
    CK(cudaMemset(rank.device, 0, rank.bytes()));
    CK(cudaDeviceGetAttribute(&value, cudaDevAttrClusterLaunch, 0));
    if (value) {
        attribute[1].id = cudaLaunchAttributeClusterDimension;
        attribute[1].val.clusterDim.x = 2;
        attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
        config.numAttrs = 2;
    }
    CK(cudaLaunchKernelEx(&config, name, rank.device));
    rank.down();
    for (int i = 0; i < 4; i++)
        MUST(rank[i] == i * 10);
    return tour_end();
}
