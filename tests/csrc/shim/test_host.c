/* Pinned memory that the worker shares, against a real worker. */
#include <sys/wait.h>

#include "shim/shim.h"
#include "worker.h"

#define MIB (1ull << 20)

static uint64_t
count(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Where the link shares no memory there is nothing to see here. */
static void
shared_context(void)
{
    const char *road = getenv("FD_TEST_ROAD");

    worker_context();
    if (road != NULL && strcmp(road, "tcp") == 0)
        CHECK_SKIP("the road shares no memory");
#ifdef __SANITIZE_THREAD__
    CHECK_SKIP("the sanitizer has no room at the addresses");
#endif
}

static void
test_copies_of_pinned_memory_pass_through_nobody(void)
{
    uint64_t moved, in_place;
    uint8_t *pinned;
    CUdeviceptr device;

    shared_context();
    CHECK_EQ(cuMemHostAlloc((void **)&pinned, 5 * MIB, 0), 0);
    CHECK_EQ(cuMemAlloc_v2(&device, 5 * MIB), 0);
    memset(pinned, 0x5a, 5 * MIB);
    moved = count(&fdc_session_at(0)->moved);
    in_place = count(&fdc_session_at(0)->in_place);
    CHECK_EQ(cuMemcpyHtoD_v2(device, pinned, 5 * MIB), 0);
    memset(pinned, 0, 5 * MIB);
    CHECK_EQ(cuMemcpyDtoH_v2(pinned, device, 5 * MIB), 0);
    for (size_t i = 0; i < 5 * MIB; i++)
        CHECK_EQ(pinned[i], 0x5a);
    CHECK_EQ(count(&fdc_session_at(0)->moved), moved);
    CHECK_EQ(count(&fdc_session_at(0)->in_place), in_place + 10 * MIB);
    worker_exit();
}

static void
test_small_allocations_ask_the_worker_once(void)
{
    void *block[1000];
    uint64_t waits;

    shared_context();
    CHECK_EQ(cuMemHostAlloc(&block[0], 1000, 0), 0);
    waits = count(&fdc_session_at(0)->waits);
    for (int i = 1; i < 1000; i++)
        CHECK_EQ(cuMemHostAlloc(&block[i], 1000, 0), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(cuMemFreeHost(block[i]), 0);
    CHECK_EQ(count(&fdc_session_at(0)->waits), waits);
    worker_exit();
}

static void
test_limit_is_kept_and_freed_memory_comes_back(void)
{
    void *first, *second;

    setenv("FD_TEST_HOST_MB", "16", 1);
    shared_context();
    CHECK_EQ(cuMemHostAlloc(&first, 20 * MIB, 0), CUDA_ERROR_OUT_OF_MEMORY);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(cuMemHostAlloc(&first, 10 * MIB, 0), 0);
        memset(first, i, 10 * MIB);
        CHECK_EQ(cuMemHostAlloc(&second, 10 * MIB, 0), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemFreeHost(first), 0);
    }
    worker_exit();
}

static void
test_memory_ends_with_its_context(void)
{
    CUcontext context;
    uint8_t *pinned;
    CUdeviceptr device;

    shared_context();
    CHECK_EQ(cuMemHostAlloc((void **)&pinned, 4096, 0), 0);
    CHECK_EQ(cuDevicePrimaryCtxReset_v2(0), 0);
    CHECK_EQ(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
    /* The memory is registered anew with the next context. */
    CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), 0);
    CHECK_EQ(cuCtxSetCurrent(context), 0);
    CHECK_EQ(cuMemHostAlloc((void **)&pinned, 4096, 0), 0);
    CHECK_EQ(cuMemAlloc_v2(&device, 4096), 0);
    memset(pinned, 7, 4096);
    CHECK_EQ(cuMemcpyHtoD_v2(device, pinned, 4096), 0);
    memset(pinned, 0, 4096);
    CHECK_EQ(cuMemcpyDtoH_v2(pinned, device, 4096), 0);
    CHECK_EQ(pinned[4095], 7);
    CHECK_EQ(cuMemsetD8_v2((CUdeviceptr)(uintptr_t)pinned, 9, 4096), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(pinned[4095], 9);
    worker_exit();
}

static void
test_forked_child_does_not_have_it(void)
{
    uint8_t *pinned;
    int status;
    pid_t child;

    shared_context();
    CHECK_EQ(cuMemHostAlloc((void **)&pinned, 4096, 0), 0);
    pinned[0] = 1;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile uint8_t *)pinned = 2;
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK_EQ(pinned[0], 1);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_copies_of_pinned_memory_pass_through_nobody);
    RUN(test_small_allocations_ask_the_worker_once);
    RUN(test_limit_is_kept_and_freed_memory_comes_back);
    RUN(test_memory_ends_with_its_context);
    RUN(test_forked_child_does_not_have_it);
    return failed;
}
