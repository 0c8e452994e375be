// A tour of the runtime API, a section a feature, each of which verifies what it did.
// Sections can be left out by name: features -managed -textures
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cooperative_groups.h>
#include <cuda_runtime.h>

namespace cg = cooperative_groups;

static int failures;
static const char *section_name = "";

static void check(cudaError_t error, const char *what, int line)
{
    if (error != cudaSuccess) {
        failures++;
        printf("  %s, line %d: %s: %s\n", section_name, line, what, cudaGetErrorName(error));
        cudaGetLastError();
    }
}
#define CK(call) check((call), #call, __LINE__)
#define MUST(condition) \
    do { \
        if (!(condition)) { \
            failures++; \
            printf("  %s, line %d: not so: %s\n", section_name, __LINE__, #condition); \
        } \
    } while (0)

__constant__ float constants[16];
__device__ int counter;
__device__ float table[64];

__global__ void add(const float *a, const float *b, float *c, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        c[i] = a[i] + b[i];
}
__global__ void scale(float *a, float s, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        a[i] *= s;
}
__global__ void use_symbols(float *o)
{
    o[threadIdx.x] = constants[threadIdx.x & 15] + table[threadIdx.x & 63] + counter;
    __syncthreads();
    if (threadIdx.x == 0)
        counter = 1234;
}
__global__ void cooperative(int *o, int *partial)
{
    cg::grid_group grid = cg::this_grid();
    partial[grid.thread_rank()] = grid.thread_rank();
    grid.sync();
    if (grid.thread_rank() == 0) {
        int sum = 0;
        for (int i = 0; i < grid.size(); i++)
            sum += partial[i];
        o[0] = sum;
    }
}
__global__ void dynamic_shared(float *o, int n)
{
    extern __shared__ float s[];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        s[i] = i;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += s[(i + threadIdx.x) % n];
    o[threadIdx.x] = sum;
}
__global__ void say() { printf("  device says %d\n", threadIdx.x); }
template <typename T> __global__ void generic(T *o, T v) { o[threadIdx.x] = v + threadIdx.x; }
struct Big {
    char c;
    double d;
    short s[3];
    char pad[200];
};
__global__ void big_argument(Big b, float *o, char tail)
{
    o[0] = b.d + tail + b.s[2] + b.pad[199];
}
static void CUDART_CB count_up(void *user) { ++*(int *)user; }

#define SECTION(name) if (section(name, argc, argv))
static bool section(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-' && !strcmp(argv[i] + 1, name))
            return false;
    section_name = name;
    puts(name);
    return true;
}

static const int n = 256;
static float h[n], o[n];

static void fetch(const float *d) { CK(cudaMemcpy(o, d, n * 4, cudaMemcpyDeviceToHost)); }

#ifdef WITH_MANAGED
__managed__ int managed_counter;
#endif

int main(int argc, char **argv)
{
    float *d = 0, *e = 0, *f = 0;

    setvbuf(stdout, 0, _IONBF, 0);
    for (int i = 0; i < n; i++)
        h[i] = i;
    SECTION("properties") {
        int value, count, low, high;
        size_t free_bytes, total, limit;
        char id[32];
        cudaDeviceProp p;
        CK(cudaRuntimeGetVersion(&value));
        CK(cudaDriverGetVersion(&value));
        CK(cudaGetDeviceCount(&count));
        CK(cudaGetDeviceProperties(&p, 0));
        printf("  %d devices, %s, sm_%d%d, warp %d\n", count, p.name, p.major, p.minor, p.warpSize);
        CK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, count - 1));
        CK(cudaMemGetInfo(&free_bytes, &total));
        MUST(total == p.totalGlobalMem && free_bytes <= total && free_bytes > 0);
        CK(cudaGetDevice(&value));
        MUST(value == 0);
        CK(cudaDeviceGetPCIBusId(id, 32, 0));
        CK(cudaDeviceGetByPCIBusId(&value, id));
        MUST(value == 0);
        if (count > 1)
            CK(cudaDeviceCanAccessPeer(&value, 0, 1));
        CK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
        CK(cudaDeviceSetLimit(cudaLimitStackSize, 2048));
        CK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
        MUST(limit >= 2048);
        CK(cudaDeviceGetStreamPriorityRange(&low, &high));
        MUST(low >= high);
    }
    CK(cudaMalloc(&d, n * 4));
    CK(cudaMalloc(&e, n * 4));
    CK(cudaMalloc(&f, n * 4));
    SECTION("launch") {
        CK(cudaMemcpy(d, h, n * 4, cudaMemcpyHostToDevice));
        CK(cudaMemcpy(e, h, n * 4, cudaMemcpyDefault));
        for (int i = 0; i < 3; i++)
            add<<<1, 256>>>(d, e, f, n);
        CK(cudaGetLastError());
        CK(cudaPeekAtLastError());
        CK(cudaDeviceSynchronize());
        fetch(f);
        MUST(o[5] == 10 && o[255] == 510);
        CK(cudaMemcpy(f, d, n * 4, cudaMemcpyDeviceToDevice));
        fetch(f);
        MUST(o[77] == 77);
        CK(cudaMemset(f, 0, n * 4));
        fetch(f);
        MUST(o[77] == 0);
        Big b = {};
        b.d = 2.5;
        b.s[2] = 7;
        b.pad[199] = 9;
        big_argument<<<1, 1>>>(b, f, 1);
        fetch(f);
        MUST(o[0] == 19.5f);
        generic<double><<<1, 8>>>((double *)f, 1.0);
        fetch(f);
        MUST(((double *)o)[7] == 8.0);
        int count = n;
        void *args[] = { &d, &e, &f, &count };
        CK(cudaLaunchKernel((const void *)add, dim3(1), dim3(256), args, 0, 0));
        cudaLaunchConfig_t config = {};
        config.gridDim = 2;
        config.blockDim = 128;
        CK(cudaLaunchKernelEx(&config, add, (const float *)d, (const float *)e, f, n));
        fetch(f);
        MUST(o[200] == 400);
    }
    SECTION("printf") {
        say<<<1, 3>>>();
        CK(cudaDeviceSynchronize());
    }
    SECTION("cooperative") {
        int *out, *partial, sum = 0;
        CK(cudaMalloc(&out, 4));
        CK(cudaMalloc(&partial, 128 * 4));
        void *args[] = { &out, &partial };
        CK(cudaLaunchCooperativeKernel((const void *)cooperative, dim3(2), dim3(64), args, 0, 0));
        CK(cudaMemcpy(&sum, out, 4, cudaMemcpyDeviceToHost));
        MUST(sum == 127 * 64);
        CK(cudaFree(out));
        CK(cudaFree(partial));
    }
    SECTION("streams") {
        cudaStream_t s, s2;
        cudaEvent_t a, b;
        float ms = -1;
        int count = 0;
        float *pinned;
        CK(cudaStreamCreate(&s));
        CK(cudaStreamCreateWithFlags(&s2, cudaStreamNonBlocking));
        CK(cudaEventCreate(&a));
        CK(cudaEventCreateWithFlags(&b, cudaEventDefault));
        CK(cudaMallocHost(&pinned, n * 4));
        for (int i = 0; i < n; i++)
            pinned[i] = 1 + i;
        CK(cudaEventRecord(a, s));
        CK(cudaMemcpyAsync(d, pinned, n * 4, cudaMemcpyHostToDevice, s));
        CK(cudaMemcpyAsync(e, h, n * 4, cudaMemcpyHostToDevice, s));
        scale<<<1, 256, 0, s>>>(d, 2.f, n);
        scale<<<1, 256, 0, s>>>(d, 2.f, n);
        CK(cudaMemcpyAsync(pinned, d, n * 4, cudaMemcpyDeviceToHost, s));
        CK(cudaMemsetAsync(d, 0, n * 4, s));
        CK(cudaEventRecord(b, s));
        CK(cudaStreamWaitEvent(s2, b, 0));
        CK(cudaMemcpyAsync(f, d, n * 4, cudaMemcpyDeviceToDevice, s2));
        CK(cudaLaunchHostFunc(s, count_up, &count));
        CK(cudaStreamSynchronize(s));
        MUST(count == 1 && pinned[10] == 44);
        CK(cudaStreamQuery(s));
        CK(cudaEventSynchronize(b));
        CK(cudaEventQuery(b));
        CK(cudaEventElapsedTime(&ms, a, b));
        MUST(ms >= 0);
        CK(cudaStreamSynchronize(s2));
        fetch(f);
        MUST(o[10] == 0);
        CK(cudaEventDestroy(a));
        CK(cudaEventDestroy(b));
        CK(cudaStreamDestroy(s));
        CK(cudaStreamDestroy(s2));
        CK(cudaFreeHost(pinned));
        void *registered = aligned_alloc(4096, 1 << 16), *mapped;
        CK(cudaHostRegister(registered, 1 << 16, 0));
        CK(cudaHostUnregister(registered));
        free(registered);
        CK(cudaHostAlloc((void **)&pinned, 64, cudaHostAllocMapped));
        CK(cudaHostGetDevicePointer(&mapped, pinned, 0));
        CK(cudaFreeHost(pinned));
        CK(cudaMemcpy(e, h, n * 4, cudaMemcpyHostToDevice));
        CK(cudaMemset(d, 0, n * 4));
        CK(cudaMemcpy2D(d, 64, h, 128, 32, 4, cudaMemcpyHostToDevice));
        fetch(d);
        MUST(o[16] == 32 && o[7] == 7 && o[8] == 0 && o[16 * 3 + 7] == 103);
        char back[4 * 32];
        CK(cudaMemcpy2D(back, 32, d, 64, 32, 4, cudaMemcpyDeviceToHost));
        MUST(((float *)back)[3 * 8 + 7] == 103);
        size_t pitch;
        float *pitched;
        CK(cudaMallocPitch((void **)&pitched, &pitch, 100, 10));
        MUST(pitch >= 100);
        CK(cudaFree(pitched));
        cudaPointerAttributes pointer;
        CK(cudaPointerGetAttributes(&pointer, d));
        printf("  device pointer: type %d, device %d\n", pointer.type, pointer.device);
        CK(cudaPointerGetAttributes(&pointer, h));
        printf("  host pointer: type %d\n", pointer.type);
    }
#ifdef WITH_MANAGED
    SECTION("managed") {
        int *m;
        CK(cudaMallocManaged(&m, 4096));
        m[0] = 3;
        CK(cudaFree(m));
        managed_counter = 7;
        MUST(managed_counter == 7);
    }
#endif
    SECTION("async") {
        float *q;
        cudaMemPool_t pool;
        uint64_t threshold = 1 << 20;
        CK(cudaMallocAsync(&q, 1024, 0));
        CK(cudaMemsetAsync(q, 0, 1024, 0));
        CK(cudaFreeAsync(q, 0));
        CK(cudaDeviceGetDefaultMemPool(&pool, 0));
        CK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
        threshold = 0;
        CK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
        MUST(threshold == 1 << 20);
    }
    SECTION("graph") {
        cudaStream_t s;
        cudaGraph_t g;
        cudaGraphExec_t x;
        size_t nodes = 0;
        CK(cudaStreamCreate(&s));
        CK(cudaMemcpy(d, h, n * 4, cudaMemcpyHostToDevice));
        CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
        scale<<<1, 256, 0, s>>>(d, 2.f, n);
        scale<<<1, 256, 0, s>>>(d, 3.f, n);
        CK(cudaMemcpyAsync(e, d, n * 4, cudaMemcpyDeviceToDevice, s));
        CK(cudaMemsetAsync(d, 0, 64, s));
        CK(cudaStreamEndCapture(s, &g));
        CK(cudaGraphGetNodes(g, 0, &nodes));
        printf("  %zu nodes\n", nodes);
        CK(cudaGraphInstantiate(&x, g, 0));
        CK(cudaGraphLaunch(x, s));
        CK(cudaGraphLaunch(x, s));
        CK(cudaStreamSynchronize(s));
        fetch(e);
        MUST(o[100] == 3600 && o[3] == 0);
        cudaGraphNode_t node;
        cudaKernelNodeParams params = {};
        float factor = 2;
        int count = n;
        void *args[] = { &d, &factor, &count };
        params.func = (void *)scale;
        params.gridDim = 1;
        params.blockDim = 256;
        params.kernelParams = args;
        CK(cudaGraphAddKernelNode(&node, g, 0, 0, &params));
        CK(cudaGraphGetNodes(g, 0, &nodes));
        MUST(nodes == 5);
        CK(cudaGraphExecDestroy(x));
        CK(cudaGraphDestroy(g));
        CK(cudaStreamDestroy(s));
    }
    SECTION("attributes") {
        cudaFuncAttributes attributes;
        int blocks, grid, block;
        const char *name;
        cudaFunction_t function;
        cudaKernel_t kernel;
        CK(cudaFuncGetAttributes(&attributes, add));
        MUST(attributes.maxThreadsPerBlock == 1024);
        CK(cudaFuncSetAttribute(dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536));
        dynamic_shared<<<1, 32, 65536>>>(f, 65536 / 4);
        CK(cudaGetLastError());
        fetch(f);
        MUST(o[31] > 1.3e8f);
        CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add, 256, 0));
        MUST(blocks > 0);
        CK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, add, 0, 0));
        MUST(block > 0 && grid > 0);
        CK(cudaFuncSetCacheConfig(add, cudaFuncCachePreferL1));
        CK(cudaFuncGetName(&name, (const void *)add));
        printf("  %s\n", name);
        CK(cudaGetFuncBySymbol(&function, (const void *)add));
        CK(cudaGetKernel(&kernel, (const void *)add));
    }
    SECTION("symbols") {
        float t[16];
        int k = 5;
        void *address;
        size_t size;
        for (int i = 0; i < 16; i++)
            t[i] = i * 0.5f;
        CK(cudaMemcpyToSymbol(constants, t, sizeof t));
        CK(cudaMemcpyToSymbol(counter, &k, 4));
        CK(cudaMemcpyToSymbol(table, h, 64 * 4));
        CK(cudaMemcpyFromSymbol(&k, counter, 4));
        MUST(k == 5);
        CK(cudaGetSymbolAddress(&address, table));
        CK(cudaGetSymbolSize(&size, table));
        MUST(size == 256 && address);
        use_symbols<<<1, 32>>>(f);
        fetch(f);
        MUST(o[20] == 4 * 0.5f + 20 + 5);
        CK(cudaMemcpyFromSymbol(&k, counter, 4));
        MUST(k == 1234);
    }
    SECTION("devices") {
        int count = 0;
        float *q;
        CK(cudaGetDeviceCount(&count));
        if (count > 1) {
            CK(cudaSetDevice(1));
            CK(cudaMalloc(&q, n * 4));
            CK(cudaMemcpy(q, h, n * 4, cudaMemcpyHostToDevice));
            scale<<<1, 256>>>(q, 2.f, n);
            scale<<<1, 256>>>(q, 2.f, n);
            fetch(q);
            MUST(o[9] == 36);
            CK(cudaSetDevice(0));
            CK(cudaMemcpyPeer(d, 0, q, 1, n * 4));
            scale<<<1, 256>>>(d, 2.f, n);
            fetch(d);
            MUST(o[9] == 72);
            CK(cudaSetDevice(1));
            CK(cudaFree(q));
            CK(cudaSetDevice(0));
        } else {
            puts("  one device");
        }
    }
    SECTION("errors") {
        cudaError_t error = cudaMalloc((void **)&e, (size_t)1 << 50);
        printf("  too much memory: %s\n", cudaGetErrorName(error));
        cudaGetLastError();
        add<<<1, 4096>>>(d, d, d, 1);
        printf("  too many threads: %s\n", cudaGetErrorName(cudaGetLastError()));
        printf("  device 99: %s\n", cudaGetErrorName(cudaSetDevice(99)));
        cudaGetLastError();
    }
    SECTION("entry") {
        void *entry = 0;
        cudaDriverEntryPointQueryResult result;
        CK(cudaGetDriverEntryPointByVersion("cuMemAlloc", &entry, 12000, cudaEnableDefault, &result));
        MUST(entry && result == cudaDriverEntryPointSuccess);
    }
    SECTION("reset") {
        CK(cudaDeviceSynchronize());
        CK(cudaDeviceReset());
        CK(cudaMalloc(&d, n * 4));
        CK(cudaMemcpy(d, h, n * 4, cudaMemcpyHostToDevice));
        scale<<<1, 256>>>(d, 2.f, n);
        CK(cudaDeviceSynchronize());
        fetch(d);
        MUST(o[50] == 100);
        float first = -1;
        CK(cudaMemcpyFromSymbol(&first, table, 4, 4));
        MUST(first == 0);
    }
    printf("%d failures\n%s\n", failures, failures ? "FAIL" : "PASS");
    return failures != 0;
}
