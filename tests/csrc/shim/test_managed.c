/* Managed memory against a real worker: what travels, who handles faults, what it costs. */
#include <setjmp.h>
#include <sys/wait.h>

#include "shim/managed.h"
#include "worker.h"

#define MIB (1ull << 20)

#ifdef __SANITIZE_THREAD__
/* The handler allocates, in a thread that stopped in code of the test's own. */
const char *__tsan_default_options(void);
const char *
__tsan_default_options(void)
{
    return "report_signal_unsafe=0";
}
#endif

static const char bump_ptx[] =
    ".version 7.0\n.target sm_52\n.address_size 64\n"
    ".visible .entry bump(.param .u64 p)\n{\n"
    " .reg .b32 %r<2>; .reg .b64 %d<2>;\n"
    " ld.param.u64 %d1, [p]; cvta.to.global.u64 %d1, %d1;\n"
    " ld.global.u32 %r1, [%d1]; add.u32 %r1, %r1, 1; st.global.u32 [%d1], %r1; ret;\n}\n";

static uint64_t
messages(void)
{
    return __atomic_load_n(&fdc_session_at(0)->messages, __ATOMIC_RELAXED);
}

/* Sanitizers of threads leave no room at the addresses it has to have. */
static void *
managed(size_t size)
{
    CUdeviceptr at = 0;
    CUresult result = cuMemAllocManaged(&at, size, CU_MEM_ATTACH_GLOBAL);

#ifdef __SANITIZE_THREAD__
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        CHECK_SKIP("no room at these addresses");
#endif
    if (result == CUDA_ERROR_NOT_SUPPORTED)
        CHECK_SKIP("the device has no virtual memory management");
    CHECK_EQ(result, 0);
    return (void *)(uintptr_t)at;
}

static CUfunction
bump(void)
{
    CUfunction function;
    CUmodule module;

    CHECK_EQ(cuModuleLoadData(&module, bump_ptx), 0);
    CHECK_EQ(cuModuleGetFunction(&function, module, "bump"), 0);
    return function;
}

static void
launch(CUfunction function, void *pointer)
{
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)pointer;
    void *params[] = {&at};

    CHECK_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), 0);
}

static void
test_untouched_memory_costs_nothing(void)
{
    CUfunction function;
    uint64_t before;
    uint32_t *words;

    worker_context();
    function = bump();
    words = managed(8 * MIB);
    words[0] = 1;
    launch(function, words);
    CHECK_EQ(cuCtxSynchronize(), 0);
    before = messages();
    for (int i = 0; i < 100; i++)
        launch(function, words);
    CHECK_EQ(messages(), before + 100);
    CHECK_EQ(words[0], 102);
    CHECK_EQ(words[1], 0);
    /* Both have it now: a launch takes it away, and nothing has to be sent. */
    before = messages();
    launch(function, words);
    CHECK_EQ(messages(), before + 1);
    CHECK_EQ(words[0], 103);
    worker_exit();
}

static void
test_only_what_was_written_travels(void)
{
    CUfunction function;
    uint64_t bytes;
    uint32_t *words;

    worker_context();
    function = bump();
    words = managed(32 * MIB);
    words[0] = 7;
    words[MIB] = 8;
    bytes = __atomic_load_n(&fdc_session_at(0)->moved, __ATOMIC_RELAXED);
    launch(function, words + MIB);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK(__atomic_load_n(&fdc_session_at(0)->moved, __ATOMIC_RELAXED) - bytes <
          256 << 10);
    CHECK_EQ(words[0], 7);
    CHECK_EQ(words[MIB], 9);
    CHECK(__atomic_load_n(&fdc_session_at(0)->moved, __ATOMIC_RELAXED) - bytes <
          512 << 10);
    worker_exit();
}

static void
test_parameters_may_lie_in_it(void)
{
    CUfunction function;
    struct {
        CUdeviceptr at;
        uint32_t word;
    } *both;
    void *params[1];

    worker_context();
    function = bump();
    both = managed(4 * MIB);
    both->at = (CUdeviceptr)(uintptr_t)&both->word;
    params[0] = &both->at;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), 0);
    CHECK_EQ(both->word, 3);
    worker_exit();
}

static void
test_counts_as_device_memory(void)
{
    size_t before, with, after, total;
    CUdeviceptr device, at;

    worker_context();
    CHECK_EQ(cuMemGetInfo_v2(&before, &total), 0);
    at = (CUdeviceptr)(uintptr_t)managed(100 * MIB);
    CHECK_EQ(cuMemGetInfo_v2(&with, &total), 0);
    CHECK_EQ(before - with, 100 * MIB);
    CHECK_EQ(cuMemAlloc_v2(&device, total - 50 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(cuMemFree_v2(at), 0);
    CHECK_EQ(cuMemGetInfo_v2(&after, &total), 0);
    CHECK_EQ(after, before);
    /* Each gives back what it keeps for later where the other has none. */
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cuMemAlloc_v2(&device, total - 50 * MIB), 0);
        CHECK_EQ(cuMemFree_v2(device), 0);
        CHECK_EQ(cuMemAllocManaged(&at, total - 50 * MIB, CU_MEM_ATTACH_GLOBAL), 0);
        CHECK_EQ(cuMemFree_v2(at), 0);
    }
    worker_exit();
}

static sigjmp_buf away;

static void
jump(int number)
{
    (void)number;
    siglongjmp(away, 1);
}

/* Meant, though UBSan minds. */
__attribute__((noinline, no_sanitize("undefined"))) static void
store_nowhere(void)
{
    *(volatile int *)(uintptr_t)(messages() & 1) = 1;
}

static void
test_other_faults_go_where_they_went(void)
{
    struct sigaction action = {.sa_handler = jump}, now;
    volatile uint32_t *words;
    volatile int caught = 0;

    worker_context();
    CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
    words = managed(4 * MIB);
    words[5] = 1;
    if (sigsetjmp(away, 1) == 0)
        store_nowhere();
    else
        caught = 1;
    CHECK_EQ(caught, 1);
    launch(bump(), (void *)(uintptr_t)&words[5]);
    CHECK_EQ(words[5], 2);
    CHECK_EQ(sigaction(SIGSEGV, NULL, &now), 0);
    CHECK(now.sa_handler != jump);
    worker_exit();
}

/* One that is sent is not made again by the access that there is none of. */
static void
test_signal_that_is_sent_ends_the_process(void)
{
    int status;
    pid_t child;

    worker_context();
    signal(SIGSEGV, SIG_DFL);
    (void)managed(4 * MIB);
    fflush(NULL);
    child = fork();
    if (child == 0) {
        raise(SIGSEGV);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    worker_exit();
}

static uint32_t stage; /* 1: handed over, 2: go on; atomic */

/* What a launch does, with all the time in the world in between. */
static void *
launch_slowly(void *words)
{
    CUfunction function;
    CUcontext context;

    CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), 0);
    CHECK_EQ(cuCtxSetCurrent(context), 0);
    function = bump();
    CHECK_EQ(fdc_managed_use(fdc_session_at(0), false), 0);
    __atomic_store_n(&stage, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&stage, __ATOMIC_ACQUIRE) != 2)
        usleep(1000);
    launch(function, words);
    return NULL;
}

/* Small allocations are fetched when all is over; what is about to be sent is not. */
static void
test_nothing_is_fetched_before_a_launch_that_is_to_come(void)
{
    CUfunction function;
    uint32_t *words;
    pthread_t thread;
    uint64_t before;

    worker_context();
    function = bump();
    words = managed(4096);
    words[0] = 7;
    launch(function, words);
    before = messages();
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK(messages() > before + 1);
    CHECK_EQ(pthread_create(&thread, NULL, launch_slowly, words), 0);
    while (__atomic_load_n(&stage, __ATOMIC_ACQUIRE) != 1)
        usleep(1000);
    before = messages();
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(messages(), before + 1);
    __atomic_store_n(&stage, 2, __ATOMIC_RELEASE);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    before = messages();
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK(messages() > before + 1);
    CHECK_EQ(words[0], 9);
    worker_exit();
}

/* Copies that wait for a host function may have all of both regions, while the function
 * waits for somebody who is about to push, or has to fetch itself. */
static void
test_needs_no_room_in_the_regions(void)
{
    struct fdc_session *session;
    struct fdc_chunk chunk;
    CUfunction function;
    uint32_t *words;

    worker_context();
    session = fdc_session_at(0);
    function = bump();
    words = managed(8 * MIB);
    alarm(60);
    for (int region = 0; region < FDC_REGIONS; region++)
        while (fdc_stage_try(session, region, 4096, &chunk))
            continue;
    for (size_t i = 0; i < 8 * MIB / 4; i++)
        words[i] = (uint32_t)i;
    launch(function, words + 5);
    CHECK_EQ(cuCtxSynchronize(), 0);
    for (size_t i = 0; i < 8 * MIB / 4; i++)
        CHECK_EQ(words[i], i == 5 ? 6 : i);
    worker_exit();
}

static void
test_no_handler_before_the_first(void)
{
    struct sigaction before, after;

    CHECK_EQ(sigaction(SIGSEGV, NULL, &before), 0);
    worker_context();
    (void)bump();
    CHECK_EQ(sigaction(SIGSEGV, NULL, &after), 0);
    CHECK(before.sa_handler == after.sa_handler);
    worker_exit();
}

static void
test_switched_off(void)
{
    CUdeviceptr at;
    int offered;

    setenv("FD_MANAGED", "0", 1);
    worker_context();
    CHECK_EQ(cuDeviceGetAttribute(&offered, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0), 0);
    CHECK_EQ(offered, 0);
    CHECK_EQ(cuDeviceGetAttribute(&offered,
                                  CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0),
             0);
    CHECK_EQ(offered, 0);
    CHECK_EQ(cuMemAllocManaged(&at, 100, CU_MEM_ATTACH_GLOBAL),
             CUDA_ERROR_NOT_SUPPORTED);
    worker_exit();
}

static void
test_forked_child_does_not_have_it(void)
{
    volatile uint32_t *words;
    int status;
    pid_t child;

    worker_context();
    words = managed(4 * MIB);
    words[0] = 1;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        words[0] = 2;
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK_EQ(words[0], 1);
    worker_exit();
}

static void *
sum(void *user)
{
    uint32_t *words = user, total = 0;

    for (size_t i = 0; i < MIB; i += 100)
        total += words[i];
    return (void *)(uintptr_t)total;
}

static void
test_threads_fault_at_once(void)
{
    pthread_t thread[8];
    CUfunction function;
    uint32_t *words;
    void *total;

    worker_context();
    function = bump();
    words = managed(4 * MIB);
    for (uint32_t round = 1; round < 10; round++) {
        launch(function, words);
        for (int i = 0; i < 8; i++)
            CHECK_EQ(pthread_create(&thread[i], NULL, sum, words), 0);
        for (int i = 0; i < 8; i++) {
            CHECK_EQ(pthread_join(thread[i], &total), 0);
            CHECK_EQ((uintptr_t)total, round);
        }
    }
    worker_exit();
}

static void
test_ends_with_its_context(void)
{
    CUcontext context;
    CUdeviceptr at;
    uint32_t *words;

    worker_context();
    at = (CUdeviceptr)(uintptr_t)managed(4 * MIB);
    CHECK_EQ(cuDevicePrimaryCtxReset_v2(0), 0);
    CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), 0);
    CHECK_EQ(cuCtxSetCurrent(context), 0);
    CHECK_EQ(cuMemFree_v2(at), CUDA_ERROR_INVALID_VALUE);
    words = managed(4 * MIB);
    words[0] = 4;
    launch(bump(), words);
    CHECK_EQ(words[0], 5);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_untouched_memory_costs_nothing);
    RUN(test_only_what_was_written_travels);
    RUN(test_parameters_may_lie_in_it);
    RUN(test_counts_as_device_memory);
    RUN(test_other_faults_go_where_they_went);
    RUN(test_signal_that_is_sent_ends_the_process);
    RUN(test_nothing_is_fetched_before_a_launch_that_is_to_come);
    RUN(test_needs_no_room_in_the_regions);
    RUN(test_no_handler_before_the_first);
    RUN(test_switched_off);
    RUN(test_forked_child_does_not_have_it);
    RUN(test_threads_fault_at_once);
    RUN(test_ends_with_its_context);
    return failed;
}
