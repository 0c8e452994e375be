/*
 * What this project assumes of a CUDA driver, asked of the one at hand: run it first
 * wherever a GPU is. One line an assumption: PASS, FAIL (the design leans on it), or
 * INFO (good to know). Exits 1 if anything failed.
 *
 *   cc -I csrc/include -I build/gen tests/gpu/assumptions.c -o assumptions -ldl
 * -lpthread   ./assumptions [driver library, default libcuda.so.1]
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cuda_calls.h"

/* ---- the driver ---- */

#define CALLS(X)                                                                       \
    X(cuInit)                                                                          \
    X(cuDriverGetVersion) X(cuDeviceGetName) X(cuDeviceGetAttribute) X(                \
        cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize)               \
        X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemCreate) X(cuMemRelease) X(   \
            cuMemMap) X(cuMemUnmap) X(cuMemSetAccess) X(cuMemGetAllocationGranularity) \
            X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemHostAlloc) X(cuMemFreeHost) X(     \
                cuMemHostRegister_v2) X(cuMemHostUnregister)                           \
                X(cuMemHostGetDevicePointer_v2) X(cuMemcpyHtoD_v2) X(                  \
                    cuMemcpyDtoH_v2) X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2)   \
                    X(cuLibraryLoadData) X(cuLibraryGetKernel) X(cuKernelGetFunction) X(cuMemAllocAsync) X(cuMemFreeAsync) X(cuMemsetD8Async) X(cuMemsetD32Async) X(cuModuleLoadData) X(      \
                        cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchHostFunc)     \
                        X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamSynchronize) \
                            X(cuStreamQuery) X(cuStreamWaitEvent) X(cuEventCreate)     \
                                X(cuEventRecord) X(cuEventQuery) X(cuEventSynchronize) \
                                    X(cuEventDestroy_v2) X(cuStreamBeginCapture_v2)    \
                                        X(cuStreamEndCapture) X(cuStreamIsCapturing)   \
                                            X(cuThreadExchangeStreamCaptureMode)       \
                                                X(cuGraphInstantiateWithFlags)         \
                                                    X(cuGraphLaunch)                   \
                                                        X(cuGraphGetNodes)

#define DECLARE(name) static __typeof__(&name) p_##name;
CALLS(DECLARE)

static int
open_driver(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW);

    if (lib == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 0;
    }
#define FIND(name)                                                                     \
    *(void **)&p_##name = dlsym(lib, #name);                                           \
    if (p_##name == NULL)                                                              \
        printf("INFO  the driver has no %s\n", #name);
    CALLS(FIND)
    return 1;
}

/* ---- reporting ---- */

static int failures;

static void
say(int good, const char *what)
{
    printf("%s  %s\n", good ? "PASS" : "FAIL", what);
    failures += !good;
}

/* Leaves the current question with FAIL when a call does not succeed. */
#define NEED(call)                                                                     \
    do {                                                                               \
        CUresult result_ = p_##call;                                                   \
        if (result_ != CUDA_SUCCESS) {                                                 \
            printf("FAIL  %s: %s is %d\n", __func__, #call, (int)result_);             \
            failures++;                                                                \
            return;                                                                    \
        }                                                                              \
    } while (0)

static CUcontext context;

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- a stream that waits until it is let go ---- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t change;
    int open;
};
#define GATE {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static void
gate_wait(void *arg)
{
    struct gate *gate = arg;

    pthread_mutex_lock(&gate->lock);
    while (!gate->open)
        pthread_cond_wait(&gate->change, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void
gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = 1;
    pthread_cond_broadcast(&gate->change);
    pthread_mutex_unlock(&gate->lock);
}

/* Calls function(arg) in a thread; whether it came back within so many milliseconds. */
struct job {
    void (*function)(void *);
    void *arg;
    int done;
    pthread_t thread;
};

static void *
job_run(void *arg)
{
    struct job *job = arg;

    p_cuCtxSetCurrent(context);
    job->function(job->arg);
    __atomic_store_n(&job->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static int
job_within(struct job *job, int ms)
{
    double end = now() + ms / 1e3;

    pthread_create(&job->thread, NULL, job_run, job);
    while (!__atomic_load_n(&job->done, __ATOMIC_SEQ_CST) && now() < end)
        usleep(1000);
    return __atomic_load_n(&job->done, __ATOMIC_SEQ_CST);
}

/* ---- addresses ---- */

static const CUmemAllocationProp on_device = {
    .type = CU_MEM_ALLOCATION_TYPE_PINNED,
    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
};
static const CUmemAccessDesc both_ways = {
    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
};

static void
ask_addresses(void)
{
    static const CUdeviceptr hints[] = {0x400000000000, 0x441234000000, 0x4ff000000000};
    size_t granule, i, taken = 0;
    CUdeviceptr va;
    int vmm = 0;

    p_cuDeviceGetAttribute(&vmm,
                           CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0);
    say(vmm, "the device has virtual memory management");
    if (!vmm)
        return;
    NEED(cuMemGetAllocationGranularity(&granule, &on_device,
                                       CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    say(granule <= 2u << 20 && (2u << 20) % granule == 0, "granules of 2 MiB will do");
    for (i = 0; i < 3; i++) {
        NEED(cuMemAddressReserve(&va, 64ull << 30, 0, hints[i], 0));
        taken += va == hints[i];
        if (va != hints[i])
            printf("INFO  hint 0x%llx gave 0x%llx\n", hints[i], va);
        NEED(cuMemAddressFree(va, 64ull << 30));
    }
    say(taken == 3, "cuMemAddressReserve follows hints in 0x40 - 0x4f");
    va = 0;
    if (p_cuMemAddressReserve(&va, 1ull << 40, 0, 0x450000000000, 0) == CUDA_SUCCESS) {
        printf("INFO  a terabyte can be reserved at a time\n");
        p_cuMemAddressFree(va, 1ull << 40);
    } else {
        printf("INFO  a terabyte cannot be reserved at a time\n");
    }
}

static void
ask_mappings(void)
{
    const size_t size = 2u << 20;
    CUmemGenericAllocationHandle handle;
    CUdeviceptr va;
    unsigned char bytes[64] = {0};
    size_t i, zero = 0;

    NEED(cuMemAddressReserve(&va, 2 * size, 0, 0x460000000000, 0));
    NEED(cuMemCreate(&handle, size, &on_device, 0));
    NEED(cuMemMap(va, size, 0, handle, 0));
    NEED(cuMemMap(va + size, size, 0, handle, 0));
    NEED(cuMemSetAccess(va, 2 * size, &both_ways, 1));
    NEED(cuMemcpyDtoH_v2(bytes, va, sizeof(bytes)));
    for (i = 0; i < sizeof(bytes); i++)
        zero += bytes[i] == 0;
    printf("INFO  new memory reads as %s\n",
           zero == sizeof(bytes) ? "zero" : "anything");
    memset(bytes, 7, sizeof(bytes));
    NEED(cuMemcpyHtoD_v2(va + 128, bytes, sizeof(bytes)));
    memset(bytes, 0, sizeof(bytes));
    NEED(cuMemcpyDtoH_v2(bytes, va + size + 128, sizeof(bytes)));
    say(bytes[0] == 7, "memory can be mapped twice");
    NEED(cuMemRelease(handle));
    NEED(cuMemcpyDtoH_v2(bytes, va + 128, sizeof(bytes)));
    say(bytes[63] == 7, "released memory lives on while it is mapped");
    NEED(cuMemUnmap(va, 2 * size));
    NEED(cuMemAddressFree(va, 2 * size));
    say(p_cuMemcpyDtoH_v2(bytes, va, 1) == CUDA_ERROR_INVALID_VALUE,
        "a copy from unmapped addresses is INVALID_VALUE");
}

/* ---- host memory ---- */

static void
ask_shared_memory(void)
{
    const size_t size = 1u << 20;
    int fd = memfd_create("assumptions", MFD_CLOEXEC);
    unsigned char *mine, *other;
    CUdeviceptr d, seen = 0;

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0) {
        say(0, "memfd_create");
        return;
    }
    mine = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    other = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    NEED(cuMemHostRegister_v2(
        mine, size, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE));
    say(1, "memory shared between processes can be registered");
    NEED(cuMemHostGetDevicePointer_v2(&seen, mine, 0));
    say(seen == (CUdeviceptr)mine,
        "registered memory has the same address for kernels");
    NEED(cuMemAlloc_v2(&d, size));
    memset(other, 9, size);
    NEED(cuMemcpyHtoD_v2(d, mine, size));
    memset(other, 0, size);
    NEED(cuMemcpyDtoH_v2(mine, d, size));
    say(other[0] == 9 && other[size - 1] == 9, "copies show in the other mapping");
    NEED(cuMemHostUnregister(mine));
    NEED(cuMemFree_v2(d));
    munmap(mine, size);
    munmap(other, size);
}

static const char store_ptx[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry store(.param .u64 p)\n{\n.reg .b64 %a;\n.reg .b32 %x;\n"
    "ld.param.u64 %a, [p];\nld.global.u32 %x, [%a];\nadd.u32 %x, %x, 5;\n"
    "st.global.u32 [%a], %x;\nret;\n}\n";

/* Pinned memory of a session: shared, at an address that both sides can have. */
static void
ask_kernels_on_shared_memory(void)
{
    const size_t size = 2u << 20;
    int fd = memfd_create("assumptions", MFD_CLOEXEC);
    volatile unsigned *mine, *other;
    CUdeviceptr seen = 0;
    CUmodule module;
    CUfunction store;
    void *params[] = {&seen};

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0) {
        say(0, "memfd_create");
        return;
    }
    mine = mmap((void *)0x4e0000000000, size, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    other = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    say(mine == (void *)0x4e0000000000, "host memory can be mapped at 0x4e0000000000");
    NEED(cuModuleLoadData(&module, store_ptx));
    NEED(cuModuleGetFunction(&store, module, "store"));
    NEED(cuMemHostRegister_v2(
        (void *)mine, size, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE));
    NEED(cuMemHostGetDevicePointer_v2(&seen, (void *)mine, 0));
    say(seen == (CUdeviceptr)mine, "and has that address for kernels");
    *other = 37;
    NEED(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    NEED(cuCtxSynchronize());
    say(*other == 42, "a kernel's store to it shows in the other mapping");
    NEED(cuMemHostUnregister((void *)mine));
    munmap((void *)mine, size);
    munmap((void *)other, size);
}

struct copy {
    void *dst;
    CUdeviceptr device;
    size_t size;
    CUstream stream;
    CUresult result;
};

static void
copy_in(void *arg)
{
    struct copy *c = arg;

    c->result = p_cuMemcpyHtoDAsync_v2(c->device, c->dst, c->size, c->stream);
}

/* Whether an asynchronous copy returns although its stream cannot go on. */
static int
copy_returns(void *host, size_t size, int *changed_matters)
{
    struct gate gate = GATE;
    struct copy copy = {.dst = host, .size = size};
    struct job job = {copy_in, &copy, 0, 0};
    unsigned char byte = 0;
    int returned;

    if (p_cuStreamCreate(&copy.stream, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS ||
        p_cuMemAlloc_v2(&copy.device, size) != CUDA_SUCCESS)
        return -1;
    memset(host, 1, size);
    p_cuLaunchHostFunc(copy.stream, gate_wait, &gate);
    returned = job_within(&job, 300);
    if (returned)
        memset(host, 2, size);
    gate_open(&gate);
    pthread_join(job.thread, NULL);
    p_cuStreamSynchronize(copy.stream);
    p_cuMemcpyDtoH_v2(&byte, copy.device + size - 1, 1);
    *changed_matters = byte == 2;
    p_cuStreamDestroy_v2(copy.stream);
    p_cuMemFree_v2(copy.device);
    return copy.result == CUDA_SUCCESS ? returned : -1;
}

static void
ask_copies(void)
{
    static unsigned char pageable[4u << 20];
    void *pinned;
    int returned, late;

    NEED(cuMemHostAlloc(&pinned, sizeof(pageable), 0));
    returned = copy_returns(pinned, sizeof(pageable), &late);
    say(returned == 1, "a copy from pinned memory does not wait for its stream");
    say(returned == 1 && late, "it reads its source when the stream gets there");
    NEED(cuMemFreeHost(pinned));
    returned = copy_returns(pageable, 1024, &late);
    say(returned >= 0 && !late, "a small pageable source may change after the call");
    printf("INFO  a copy of 1 KiB from pageable memory %s its stream\n",
           returned == 1 ? "does not wait for" : "waits for");
    returned = copy_returns(pageable, sizeof(pageable), &late);
    say(returned >= 0 && !late, "a big pageable source may change after the call");
    printf("INFO  a copy of 4 MiB from pageable memory %s its stream\n",
           returned == 1 ? "does not wait for" : "waits for");
}

static void
ask_copies_back(void)
{
    unsigned char host[4096] = {0};
    CUdeviceptr d;
    CUstream s;

    NEED(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&d, sizeof(host)));
    NEED(cuMemsetD8Async(d, 5, sizeof(host), s));
    NEED(cuMemcpyDtoHAsync_v2(host, d, sizeof(host), s));
    say(host[0] == 5 && host[4095] == 5,
        "a copy to pageable memory has finished when the call returns");
    NEED(cuStreamDestroy_v2(s));
    NEED(cuMemFree_v2(d));
}

/* ---- streams ---- */

static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                          ".visible .entry nothing()\n{\nret;\n}\n";
static CUfunction nothing;

struct flood {
    CUstream stream;
    int count, most;
};

static void
flood(void *arg)
{
    struct flood *f = arg;

    while (f->count < f->most &&
           p_cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, f->stream, NULL, NULL) ==
               CUDA_SUCCESS)
        __atomic_add_fetch(&f->count, 1, __ATOMIC_SEQ_CST);
}

static void
ask_queue(void)
{
    struct gate gate = GATE;
    struct flood f = {.most = 20000};
    struct job job = {flood, &f, 0, 0};
    CUmodule module;
    int count;

    NEED(cuModuleLoadData(&module, ptx));
    NEED(cuModuleGetFunction(&nothing, module, "nothing"));
    NEED(cuStreamCreate(&f.stream, CU_STREAM_NON_BLOCKING));
    NEED(cuLaunchHostFunc(f.stream, gate_wait, &gate));
    job_within(&job, 2000);
    count = __atomic_load_n(&f.count, __ATOMIC_SEQ_CST);
    say(count >= 512, "512 launches queue up behind a busy stream without blocking");
    printf("INFO  launches before the caller is held up: %s%d\n",
           count == f.most ? "more than " : "", count);
    gate_open(&gate);
    pthread_join(job.thread, NULL);
    NEED(cuStreamSynchronize(f.stream));
    say(f.count == f.most, "all of them went in once the stream went on");
    NEED(cuStreamDestroy_v2(f.stream));
}

static void
ask_events(void)
{
    struct gate first = GATE, second = GATE;
    CUstream a, b;
    CUevent e;

    NEED(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    NEED(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    NEED(cuLaunchHostFunc(a, gate_wait, &first));
    NEED(cuEventRecord(e, a));
    NEED(cuStreamWaitEvent(b, e, 0));
    NEED(cuLaunchHostFunc(a, gate_wait, &second));
    NEED(cuEventRecord(e, a));
    usleep(100000);
    say(p_cuStreamQuery(b) == CUDA_ERROR_NOT_READY, "a stream waits for an event");
    gate_open(&first);
    usleep(200000);
    say(p_cuStreamQuery(b) == CUDA_SUCCESS,
        "a wait holds for the recording at the time of the call");
    say(p_cuEventQuery(e) == CUDA_ERROR_NOT_READY,
        "the later recording is not done yet");
    NEED(cuEventDestroy_v2(e));
    say(1, "an event may be destroyed while work is to record it");
    gate_open(&second);
    NEED(cuStreamSynchronize(a));
    NEED(cuStreamSynchronize(b));
    NEED(cuStreamDestroy_v2(a));
    NEED(cuStreamDestroy_v2(b));
}

static void
bump(void *arg)
{
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
}

static void
ask_host_functions(void)
{
    struct gate gate = GATE;
    CUstream a, b;
    int n = 0;

    NEED(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    NEED(cuLaunchHostFunc(a, gate_wait, &gate));
    NEED(cuLaunchHostFunc(b, bump, &n));
    usleep(200000);
    printf("INFO  a host function %s behind one of another stream\n",
           __atomic_load_n(&n, __ATOMIC_SEQ_CST) ? "does not wait" : "waits");
    gate_open(&gate);
    NEED(cuStreamSynchronize(a));
    NEED(cuStreamSynchronize(b));
    NEED(cuStreamDestroy_v2(a));
    NEED(cuStreamDestroy_v2(b));
}

static void
free_it(void *arg)
{
    p_cuMemFree_v2(*(CUdeviceptr *)arg);
}

static void
ask_free(void)
{
    struct gate gate = GATE;
    CUdeviceptr d;
    struct job job = {free_it, &d, 0, 0};
    CUstream s;
    int returned;

    NEED(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&d, 64u << 20));
    NEED(cuLaunchHostFunc(s, gate_wait, &gate));
    NEED(cuMemsetD8Async(d, 1, 64u << 20, s));
    returned = job_within(&job, 300);
    printf("INFO  cuMemFree %s work that is queued\n",
           returned ? "does not wait for" : "waits for");
    gate_open(&gate);
    pthread_join(job.thread, NULL);
    NEED(cuStreamSynchronize(s));
    NEED(cuStreamDestroy_v2(s));
}

/* ---- capture ---- */

struct capture {
    CUstream stream;
    CUdeviceptr d;
    CUgraph graph;
    CUresult result;
};

static void
capture_into(void *arg)
{
    struct capture *c = arg;

    c->result = p_cuMemsetD32Async(c->d, 7, 4, c->stream);
}

static void
capture_end(void *arg)
{
    struct capture *c = arg;

    c->result = p_cuStreamEndCapture(c->stream, &c->graph);
}

static void
ask_capture(void)
{
    struct capture c = {0};
    struct job into = {capture_into, &c, 0, 0}, end = {capture_end, &c, 0, 0};
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUstreamCaptureStatus status;
    CUgraphExec exec;
    CUstream apart;
    CUdeviceptr other;
    unsigned int word = 0;

    NEED(cuThreadExchangeStreamCaptureMode(&mode));
    NEED(cuStreamCreate(&c.stream, CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&c.d, 16));
    NEED(cuStreamBeginCapture_v2(c.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    job_within(&into, 5000);
    pthread_join(into.thread, NULL);
    say(c.result == CUDA_SUCCESS, "another thread may add to a relaxed capture");
    /* What the worker does meanwhile, on streams and memory of its own. */
    NEED(cuMemAlloc_v2(&other, 1u << 20));
    NEED(cuMemsetD8Async(other, 0, 1u << 20, apart));
    NEED(cuStreamSynchronize(apart));
    NEED(cuMemFree_v2(other));
    NEED(cuStreamIsCapturing(c.stream, &status));
    say(status == CU_STREAM_CAPTURE_STATUS_ACTIVE,
        "allocating, freeing and a private stream's work leave it alone");
    job_within(&end, 5000);
    pthread_join(end.thread, NULL);
    say(c.result == CUDA_SUCCESS, "another thread may end a relaxed capture");
    NEED(cuGraphInstantiateWithFlags(&exec, c.graph, 0));
    NEED(cuGraphLaunch(exec, c.stream));
    NEED(cuStreamSynchronize(c.stream));
    NEED(cuMemcpyDtoH_v2(&word, c.d, 4));
    say(word == 7, "the captured work runs");
    NEED(cuThreadExchangeStreamCaptureMode(&mode));
    say(mode == CU_STREAM_CAPTURE_MODE_RELAXED, "the mode belongs to the thread");
    NEED(cuMemFree_v2(c.d));
    NEED(cuStreamDestroy_v2(c.stream));
    NEED(cuStreamDestroy_v2(apart));
}

/* What graphs do with host memory and with allocations. */
static void
ask_graphs(void)
{
    static unsigned pageable[4096];
    CUdeviceptr d, made = 0;
    CUstream stream;
    CUgraph graph;
    CUgraphExec exec;
    CUresult result;
    unsigned word = 0;

    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&d, sizeof(pageable)));
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    result = p_cuMemcpyHtoDAsync_v2(d, pageable, sizeof(pageable), stream);
    NEED(cuStreamEndCapture(stream, &graph));
    say(result == CUDA_SUCCESS, "a copy from pageable memory can be captured");
    if (result == CUDA_SUCCESS) {
        NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
        pageable[4095] = 77;
        NEED(cuGraphLaunch(exec, stream));
        NEED(cuStreamSynchronize(stream));
        NEED(cuMemcpyDtoH_v2(&word, d + sizeof(pageable) - 4, 4));
        say(word == 77, "it reads its source when the graph runs");
    }
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    result = p_cuMemAllocAsync(&made, 1u << 20, stream);
    printf("INFO  a captured cuMemAllocAsync is %d and gives 0x%llx\n", (int)result, made);
    if (result == CUDA_SUCCESS)
        p_cuMemFreeAsync(made, stream);
    NEED(cuStreamEndCapture(stream, &graph));
    NEED(cuMemFree_v2(d));
    NEED(cuStreamDestroy_v2(stream));
}

/* A kernel of a library in a capture, named as a function or as the kernel itself, its
 * parameters one by one or packed. */
static void
ask_library_capture(void)
{
    static const char *const how[] = {"function, packed", "kernel, packed",
                                      "function, one by one", "kernel, one by one"};
    CUlibrary library;
    CUkernel kernel;
    CUfunction function;
    CUstream stream;
    CUdeviceptr d;
    size_t size = 8;
    int i;

    NEED(cuLibraryLoadData(&library, store_ptx, NULL, NULL, 0, NULL, NULL, 0));
    NEED(cuLibraryGetKernel(&kernel, library, "store"));
    NEED(cuKernelGetFunction(&function, kernel));
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&d, 4));
    for (i = 0; i < 4; i++) {
        void *params[] = {&d};
        void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &d, CU_LAUNCH_PARAM_BUFFER_SIZE,
                         &size, CU_LAUNCH_PARAM_END};
        CUfunction f = i & 1 ? (CUfunction)kernel : function;
        CUresult launched, ended;
        CUgraph graph = NULL;

        NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        launched = p_cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream, i < 2 ? NULL : params,
                                    i < 2 ? extra : NULL);
        ended = p_cuStreamEndCapture(stream, &graph);
        printf("INFO  library capture, %s: launch %d, end %d\n", how[i], (int)launched,
               (int)ended);
    }
    NEED(cuMemFree_v2(d));
    NEED(cuStreamDestroy_v2(stream));
}

/* A capture right after work of other streams that was joined, as the worker does. */
static void
ask_capture_after_join(void)
{
    CUstream own, streams[2];
    CUevent mark;
    CUdeviceptr d;
    int i;

    NEED(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&streams[0], CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&streams[1], CU_STREAM_DEFAULT));
    NEED(cuEventCreate(&mark, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC));
    NEED(cuMemAlloc_v2(&d, 4096));
    for (i = 0; i < 4; i++) {
        CUstream stream = streams[i & 1];
        CUresult worked, ended;
        CUgraph graph = NULL;

        NEED(cuMemsetD8Async(d, 1, 4096, CU_STREAM_LEGACY));
        NEED(cuMemsetD8Async(d, 1, 4096, stream));
        NEED(cuEventRecord(mark, stream));
        NEED(cuStreamWaitEvent(own, mark, 0));
        if (i & 2) {
            NEED(cuEventRecord(mark, CU_STREAM_LEGACY));
            NEED(cuStreamWaitEvent(own, mark, 0));
        }
        NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        worked = p_cuMemsetD8Async(d, 2, 4096, stream);
        ended = p_cuStreamEndCapture(stream, &graph);
        printf("INFO  capture of a %sblocking stream after %s: work %d, end %d\n",
               i & 1 ? "" : "non-", i & 2 ? "joining both" : "joining it", (int)worked,
               (int)ended);
    }
    NEED(cuMemFree_v2(d));
}

int
main(int argc, char **argv)
{
    char name[100] = "";
    int version = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!open_driver(argc > 1 ? argv[1] : "libcuda.so.1"))
        return 77;
    if (p_cuInit(0) != CUDA_SUCCESS ||
        p_cuDevicePrimaryCtxRetain(&context, 0) != CUDA_SUCCESS ||
        p_cuCtxSetCurrent(context) != CUDA_SUCCESS) {
        fprintf(stderr, "no device\n");
        return 77;
    }
    p_cuDriverGetVersion(&version);
    p_cuDeviceGetName(name, sizeof(name), 0);
    printf("INFO  %s, driver %d\n", name, version);
    ask_addresses();
    ask_mappings();
    ask_shared_memory();
    ask_kernels_on_shared_memory();
    ask_copies();
    ask_copies_back();
    ask_queue();
    ask_events();
    ask_host_functions();
    ask_free();
    ask_capture();
    ask_graphs();
    ask_library_capture();
    ask_capture_after_join();
    printf("%d failed\n", failures);
    return failures != 0;
}
