/*
 * The shim against a worker that lies. At the start a script of calls runs once with a
 * real worker, and what that answers is kept; for each input a child runs the script again
 * and gets the same answers, changed as the input says: words, sizes, messages that nobody
 * asked for, bytes of the region that copies come by. At most the calls fail.
 *
 * Linked with --wrap=fdc_link_peek,--wrap=fdc_link_release: where answers are kept.
 */
#include "fuzz.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_calls.h"
#include "fdc/transport.h"
#include "fdc/wire.h"
#include "proto.h"
#include "server/server.h"

enum {
    ANSWERS = 512, ANSWER_MAX = 8192, DOWN = 16384, EDITS = 64, SECONDS = 10,
    QUIET_US = 5000,           /* without a message: the shim waits for what never comes */
};

struct answer {
    uint32_t size, used;
    uint8_t bytes[ANSWER_MAX] __attribute__((aligned(8)));
    uint8_t down[DOWN];
};

/* Shared with the children. */
struct shared {
    uint32_t answers;
    struct answer answer[ANSWERS];
    size_t counters;
    uint8_t counter[1 << 20];
};

static struct shared *shared;
static bool keeping;

/*
 * libFuzzer's counters, where the program has some: a child hands its own back. By name
 * in C they would take the place of the instrumentation's own declaration of them.
 */
#define COUNTERS(end)                                                                  \
    ({                                                                                 \
        uint8_t *at_;                                                                  \
        __asm__(".weak __" #end "___sancov_cntrs\n\t"                                  \
                "mov __" #end "___sancov_cntrs@GOTPCREL(%%rip), %0" : "=r"(at_));      \
        at_;                                                                           \
    })

static size_t
counters(uint8_t **first)
{
    size_t count;

    *first = COUNTERS(start);
    count = (size_t)(COUNTERS(stop) - *first);
    return count < sizeof(shared->counter) ? count : sizeof(shared->counter);
}

/* ---- what the real worker answers ---- */

const void *__real_fdc_link_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size,
                                 int *err);
void __real_fdc_link_release(struct fdc_link *link, enum fdc_lane lane);
const void *__wrap_fdc_link_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size,
                                 int *err);
void __wrap_fdc_link_release(struct fdc_link *link, enum fdc_lane lane);

static const void *last;
static uint32_t last_size;

const void *
__wrap_fdc_link_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size, int *err)
{
    const void *message = __real_fdc_link_peek(link, lane, size, err);

    if (keeping && lane == FDC_LANE_REPLY) {
        last = message;
        last_size = *size;
    }
    return message;
}

void
__wrap_fdc_link_release(struct fdc_link *link, enum fdc_lane lane)
{
    const struct fdc_reply *reply = last;

    if (keeping && lane == FDC_LANE_REPLY && reply != NULL && reply->id >= 0x0100 &&
        last_size <= ANSWER_MAX && shared->answers < ANSWERS) {
        struct answer *answer = &shared->answer[shared->answers++];
        uint64_t room;

        answer->size = last_size;
        memcpy(answer->bytes, reply, last_size);
        memcpy(answer->down, fdc_link_region(link, FDC_REGION_DOWN, &room), DOWN);
    }
    __real_fdc_link_release(link, lane);
}

static void
worker(int sock)
{
    struct fdc_serve_limits limits = { .devices = 1 };
    struct fdc_link_size size = FDC_LINK_SIZE_DEFAULT;
    struct fdc_driver driver;
    struct fdc_serve *serve;
    struct fdc_link *link;
    void *lib = dlopen(LIBS "/libfdc.so", RTLD_NOW | RTLD_LOCAL);
    int (*load)(const char *, struct fdc_driver *);
    int (*link_worker)(enum fdc_road, const int *, int, const struct fdc_link_size *,
                       struct fdc_link **);
    int (*serve_new)(const struct fdc_driver *, struct fdc_link *,
                     const struct fdc_serve_limits *, struct fdc_serve **);
    int (*serve_run)(struct fdc_serve *);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    FUZZ_CHECK(lib != NULL);
    *(void **)&load = dlsym(lib, "fdc_driver_load");
    *(void **)&link_worker = dlsym(lib, "fdc_link_worker");
    *(void **)&serve_new = dlsym(lib, "fdc_serve_new");
    *(void **)&serve_run = dlsym(lib, "fdc_serve_run");
    FUZZ_CHECK(load(LIBS "/libfdcpu.so", &driver) == 0 && driver.cuInit(0) == CUDA_SUCCESS);
    FUZZ_CHECK(link_worker(FDC_ROAD_SHM, &sock, 1, &size, &link) == 0);
    FUZZ_CHECK(serve_new(&driver, link, &limits, &serve) == 0);
    _exit(serve_run(serve) != 0);
}

/* ---- the one that lies ---- */

struct edit {
    uint8_t when, what;
    uint16_t where;
    uint64_t value;
};

struct liar {
    int sock;
    struct edit edit[EDITS];
    int edits;
    uint32_t told;              /* answers so far */
};

static struct answer *
answer_of(uint16_t id, uint32_t *seen)
{
    struct answer *same = NULL;

    for (uint32_t i = 0; i < shared->answers; i++) {
        struct answer *answer = &shared->answer[i];

        if (((struct fdc_reply *)(void *)answer->bytes)->id != id)
            continue;
        same = answer;
        if (!seen[i]) {
            seen[i] = 1;
            return same;
        }
    }
    return same;
}

static void
tell(struct fdc_link *link, const void *bytes, uint32_t size)
{
    uint32_t most = fdc_link_max_message(link, FDC_LANE_REPLY);
    void *room;
    int err;

    if (size > most)
        size = most;
    room = size != 0 ? fdc_link_claim(link, FDC_LANE_REPLY, size, &err) : NULL;
    if (room == NULL)
        return;
    memcpy(room, bytes, size);
    fdc_link_commit(link, FDC_LANE_REPLY);
    fdc_link_flush(link, FDC_LANE_REPLY);
}

/* Changes the answer as the input says and sends it, or something else before it. */
static void
tell_changed(struct liar *liar, struct fdc_link *link, uint8_t *bytes, uint32_t size,
             uint8_t *down)
{
    uint8_t now = (uint8_t)liar->told++;

    for (int i = 0; i < liar->edits; i++) {
        const struct edit *edit = &liar->edit[i];
        struct fdc_reply more = {
            .size = sizeof(more), .id = (uint16_t)(edit->where & 7),
            .flags = (uint16_t)(edit->where >> 3), .ticket = edit->value,
        };

        if (edit->when != now)
            continue;
        switch (edit->what % 8) {
        case 0:
        case 1:
        case 2:
        case 3:                 /* one, two, four or eight bytes */
            memcpy(bytes + edit->where % size, &edit->value, 1u << edit->what % 8);
            break;
        case 4:
            memcpy(down + edit->where % (DOWN - 8), &edit->value, 8);
            break;
        case 5:
            if (edit->where & 0x8000)
                more.ticket = ((struct fdc_reply *)(void *)bytes)->ticket;
            tell(link, &more, sizeof(more));
            break;
        case 6:
            size = edit->where % ANSWER_MAX + 1;
            break;
        default:
            ((struct fdc_reply *)(void *)bytes)->result = (int32_t)edit->value;
        }
    }
    tell(link, bytes, size);
}

static void *
lie(void *arg)
{
    static uint8_t bytes[ANSWER_MAX + 8] __attribute__((aligned(8)));
    static uint32_t seen[ANSWERS];
    struct fdc_link_size sizes = FDC_LINK_SIZE_DEFAULT;
    struct liar *liar = arg;
    struct fdc_link *link;
    uint8_t *down;
    uint64_t room;

    if (fdc_link_worker(FDC_ROAD_SHM, &liar->sock, 1, &sizes, &link) != 0)
        return NULL;
    down = fdc_link_region(link, FDC_REGION_DOWN, &room);
    for (;;) {
        uint32_t size;
        int err;
        const struct fdc_msg *message = __real_fdc_link_peek(link, FDC_LANE_COMMAND, &size, &err);
        struct fdc_reply *reply = (void *)bytes;
        struct fdc_msg head;

        if (message == NULL) {
            if (err != 0 || fdc_link_wait(link, FDC_LANE_COMMAND, QUIET_US) <= 0)
                break;
            continue;
        }
        head = *message;
        __real_fdc_link_release(link, FDC_LANE_COMMAND);
        if (head.flags & FDC_MSG_REPLY) {
            struct answer *answer = answer_of(head.id, seen);

            memset(bytes, 0, sizeof(bytes));
            if (answer != NULL) {
                memcpy(bytes, answer->bytes, answer->size);
                memcpy(down, answer->down, DOWN);
            } else {
                *reply = (struct fdc_reply){ .size = sizeof(*reply), .id = head.id,
                                             .result = CUDA_ERROR_NOT_SUPPORTED };
            }
            reply->ticket = head.ticket;
            tell_changed(liar, link, bytes, reply->size, down);
        } else if (head.flags & FDC_MSG_DONE) {
            memset(bytes, 0, sizeof(bytes));
            *reply = (struct fdc_reply){ .size = sizeof(*reply), .id = FDC_REPLY_DONE,
                                         .ticket = head.ticket };
            tell_changed(liar, link, bytes, sizeof(*reply), down);
        }
    }
    fdc_link_free(link);
    return NULL;
}

/* ---- the script ---- */

static const char ptx[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".global .align 4 .u32 counter = 7;\n.const .align 8 .b64 table[4];\n"
    ".visible .entry add(.param .u64 to, .param .u32 n)\n{\n"
    "  .reg .b32 %r<3>; .reg .b64 %d<2>;\n"
    "  ld.param.u64 %d1, [to]; ld.param.u32 %r1, [n]; st.global.u32 [%d1], %r1; ret;\n}\n"
    ".visible .entry none()\n.maxntid 64, 1, 1\n{ ret; }\n";

static void
code(void)
{
    CUlibrary library;
    CUlinkState link;
    CUmodule module;
    CUfunction function;
    CUkernel kernels[4];
    CUdeviceptr at;
    size_t size;
    int value;
    unsigned int count;
    const char *name;
    void *cubin, *arguments[2];
    uint32_t n = 5;

    if (cuModuleLoadData(&module, ptx) == CUDA_SUCCESS) {
        if (cuModuleGetGlobal_v2(&at, &size, module, "counter") == CUDA_SUCCESS)
            cuMemcpyDtoH_v2(&n, at, 4);
        cuModuleGetFunctionCount(&count, module);
        if (cuModuleGetFunction(&function, module, "add") == CUDA_SUCCESS) {
            for (int i = 0; i < 10; i++)
                cuFuncGetAttribute(&value, (CUfunction_attribute)i, function);
            cuFuncGetName(&name, function);
            for (size_t k = 0; cuFuncGetParamInfo(function, k, &size, &size) == CUDA_SUCCESS; k++)
                continue;
            cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, function, 64, 0);
            if (cuMemAlloc_v2(&at, 4096) == CUDA_SUCCESS) {
                arguments[0] = &at, arguments[1] = &n;
                cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
                cuMemcpyDtoH_v2(&n, at, 4);
                cuMemFree_v2(at);
            }
        }
        cuModuleUnload(module);
    }
    if (cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0) == CUDA_SUCCESS) {
        cuLibraryGetKernelCount(&count, library);
        if (cuLibraryEnumerateKernels(kernels, 4, library) == CUDA_SUCCESS)
            cuKernelGetName(&name, kernels[1]);
        cuLibraryGetGlobal(&at, &size, library, "table");
        cuLibraryUnload(library);
    }
    if (cuLinkCreate_v2(0, NULL, NULL, &link) == CUDA_SUCCESS) {
        cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx, sizeof(ptx), "a", 0,
                         NULL, NULL);
        if (cuLinkComplete(link, &cubin, &size) == CUDA_SUCCESS && size > 0)
            n ^= ((uint8_t *)cubin)[size - 1];
        cuLinkDestroy(link);
    }
}

static void
memory(void)
{
    enum { BIG = 1 << 20 };
    static uint8_t bytes[BIG];
    CUDA_MEMCPY2D rows = { .srcMemoryType = CU_MEMORYTYPE_DEVICE,
                           .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = bytes,
                           .dstPitch = 100, .srcPitch = 512, .WidthInBytes = 90, .Height = 7 };
    CUDA_ARRAY_DESCRIPTOR describe = { .Width = 16, .Height = 8, .NumChannels = 1,
                                       .Format = CU_AD_FORMAT_FLOAT };
    CUmemoryPool pool;
    CUstream stream;
    CUarray array;
    CUdeviceptr a, b;
    size_t available, total;
    void *pinned;
    int value;

    cuMemGetInfo_v2(&available, &total);
    if (cuMemAlloc_v2(&a, BIG) != CUDA_SUCCESS)
        return;
    cuMemsetD8_v2(a, 3, BIG);
    cuMemcpyHtoD_v2(a, bytes, 64);
    cuMemcpyHtoD_v2(a, bytes, BIG);
    cuMemcpyDtoH_v2(bytes, a, 64);
    cuMemcpyDtoH_v2(bytes, a, BIG);
    rows.srcDevice = a;
    cuMemcpy2D_v2(&rows);
    cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, a);
    if (cuMemHostAlloc(&pinned, 65536, 0) == CUDA_SUCCESS) {
        if (cuStreamCreate(&stream, 0) == CUDA_SUCCESS) {
            cuMemcpyDtoHAsync_v2(pinned, a, 65536, stream);
            cuMemcpyHtoDAsync_v2(a, pinned, 65536, stream);
            cuStreamSynchronize(stream);
            if (cuMemAllocAsync(&b, 1000, stream) == CUDA_SUCCESS)
                cuMemFreeAsync(b, stream);
            cuStreamDestroy_v2(stream);
        }
        cuMemFreeHost(pinned);
    }
    if (cuDeviceGetDefaultMemPool(&pool, 0) == CUDA_SUCCESS)
        cuMemPoolTrimTo(pool, 0);
    if (cuArrayCreate_v2(&array, &describe) == CUDA_SUCCESS) {
        cuMemcpyHtoA_v2(array, 0, bytes, 64);
        cuMemcpyAtoH_v2(bytes, array, 0, 64);
        cuArrayDestroy(array);
    }
    cuMemFree_v2(a);
}

static void
order(void)
{
    CUgraphExec exec;
    CUgraphNode nodes[4];
    CUstream stream;
    CUgraph graph;
    CUevent event;
    CUdeviceptr at;
    size_t count = 4;
    float ms;

    if (cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS)
        return;
    if (cuEventCreate(&event, 0) == CUDA_SUCCESS) {
        cuEventRecord(event, stream);
        cuStreamWaitEvent(stream, event, 0);
        cuEventQuery(event);
        cuEventSynchronize(event);
        cuEventElapsedTime(&ms, event, event);
        cuEventDestroy_v2(event);
    }
    if (cuMemAlloc_v2(&at, 512) == CUDA_SUCCESS) {
        cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        cuMemsetD32Async(at, 1, 100, stream);
        if (cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS) {
            cuGraphGetNodes(graph, nodes, &count);
            if (cuGraphInstantiateWithFlags(&exec, graph, 0) == CUDA_SUCCESS) {
                cuGraphLaunch(exec, stream);
                cuStreamQuery(stream);
                cuStreamSynchronize(stream);
                cuGraphExecDestroy(exec);
            }
            cuGraphDestroy(graph);
        }
        cuMemFree_v2(at);
    }
    cuStreamDestroy_v2(stream);
}

/* Before there are threads. */
static void
session(int sock)
{
    char name[] = "/tmp/fdc-fuzz-XXXXXX", text[64];
    int file = mkstemp(name);

    snprintf(text, sizeof(text), "fd %d\nroad shm\n", sock);
    FUZZ_CHECK(file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text));
    close(file);
    setenv("FD_SESSION", name, 1);
}

static void
script(void)
{
    CUcontext context;
    int value, devices;
    char label[64];
    size_t bytes;

    value = (int)cuInit(0);
    unlink(getenv("FD_SESSION"));
    if (value != CUDA_SUCCESS)
        return;
    cuDeviceGetCount(&devices);
    cuDeviceGetName(label, sizeof(label), 0);
    cuDeviceTotalMem_v2(&bytes, 0);
    cuDeviceGetPCIBusId(label, sizeof(label), 0);
    cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0);
    if (cuDevicePrimaryCtxRetain(&context, 0) != CUDA_SUCCESS ||
        cuCtxSetCurrent(context) != CUDA_SUCCESS)
        return;
    code();
    memory();
    order();
    cuCtxSynchronize();
    cuDevicePrimaryCtxRelease_v2(0);
}

/* ---- an input ---- */

static void
record(void)
{
    int pair[2], status = 0;
    pid_t child;

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    FUZZ_CHECK(shared != MAP_FAILED);
    setenv("FD_LOG", "off", 1);
    setenv("FD_CPU_MEMORY_MB", "64", 1);
    setenv("FD_CPU_THREADS", "1", 1);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    child = fork();
    FUZZ_CHECK(child >= 0);
    if (child == 0) {
        if (fork() == 0) {
            close(pair[0]);
            worker(pair[1]);
        }
        close(pair[1]);
        keeping = true;
        session(pair[0]);
        script();
        _exit(0);
    }
    close(pair[0]), close(pair[1]);
    FUZZ_CHECK(waitpid(child, &status, 0) == child && status == 0);
    FUZZ_CHECK(shared->answers > 15);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_bytes bytes = { data, size };
    int status = 0;
    uint8_t *counter;
    size_t count = counters(&counter);
    pid_t child;

    if (shared == NULL)
        record();
    fflush(NULL);
    child = fork();
    FUZZ_CHECK(child >= 0);
    if (child == 0) {
        struct liar liar = { 0 };
        pthread_t thread;
        int pair[2];

        alarm(SECONDS);
        if (count != 0)
            memset(counter, 0, count);
        while (bytes.left > 0 && liar.edits < EDITS) {
            struct edit *edit = &liar.edit[liar.edits++];

            edit->when = (uint8_t)fuzz_take(&bytes, 1);
            edit->what = (uint8_t)fuzz_take(&bytes, 1);
            edit->where = (uint16_t)fuzz_take(&bytes, 2);
            edit->value = fuzz_take(&bytes, 8);
        }
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        liar.sock = pair[1];
        session(pair[0]);
        FUZZ_CHECK(pthread_create(&thread, NULL, lie, &liar) == 0);
        script();
        if (count != 0)
            memcpy(shared->counter, counter, count);
        _exit(0);
    }
    while (waitpid(child, &status, 0) != child)
        FUZZ_CHECK(errno == EINTR);     /* libFuzzer's clock */
    if (status != 0)
        fprintf(stderr, "the child ended with 0x%x\n", (unsigned int)status);
    FUZZ_CHECK(status == 0);
    for (size_t i = 0; i < count; i++)
        counter[i] |= shared->counter[i];
    return 0;
}
