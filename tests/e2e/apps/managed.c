/*
 * Managed memory: one pointer for host and device. Small and large allocations, linked
 * structures, threads, copies and sets with managed addresses on either side, host
 * functions, graphs, system calls on small buffers and after a prefetch, handlers with a
 * small stack, advice, and what the program is told of it all.
 */
#include "app.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#define WORDS (3u << 18) /* 3 MiB: of its own */
#define FEW 1000u

static CUmodule module;

static void *
managed(size_t size)
{
    CUdeviceptr at = 0;

    CHECK(cuMemAllocManaged(&at, size, CU_MEM_ATTACH_GLOBAL));
    return (void *)(size_t)at;
}

#define AT(pointer) ((CUdeviceptr)(size_t)(pointer))

static void
both_sides_see_it(unsigned n)
{
    CUfunction fill = app_function(&module, "fill"), add = app_function(&module, "add");
    unsigned *a = managed(n * 4), *b = managed(n * 4), *sum = managed(n * 4);
    CUdeviceptr d = AT(sum), x = AT(a), y = AT(b);
    void *params[] = { &d, &x, &y, &n };

    for (unsigned i = 0; i < n; i++)
        a[i] = i;
    CHECK(app_fill(fill, y, 5, n, NULL));
    CHECK(cuCtxSynchronize());
    for (unsigned i = 0; i < n; i += 2)
        b[i] = 7;
    for (int round = 0; round < 3; round++) {
        unsigned bad = 0;

        CHECK(cuLaunchKernel(add, (n + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
        CHECK(cuCtxSynchronize());
        for (unsigned i = 0; i < n; i++)
            bad += sum[i] != (i ^ (unsigned)round * (i == 3)) + (i % 2 ? 5 : 7);
        a[3] = 3 ^ (unsigned)(round + 1);
        printf("%u words, round %d: %u wrong\n", n, round, bad);
    }
    CHECK(cuMemFree(x));
    CHECK(cuMemFree(y));
    CHECK(cuMemFree(d));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(d));
}

/* What the program has never written reads as what the device wrote, and else as it was. */
static void
parts_stay(void)
{
    CUfunction fill = app_function(&module, "fill");
    unsigned *words = managed(WORDS * 4);

    words[0] = 1;
    words[WORDS - 1] = 2;
    CHECK(app_fill(fill, AT(words + WORDS / 2), 3, 100, NULL));
    CHECK(cuStreamSynchronize(NULL));
    printf("parts: %u %u %u\n", words[0], words[WORDS - 1],
           app_wrong(words + WORDS / 2, 3, 100));
    words[WORDS / 2 + 1] = 4;
    CHECK(app_fill(fill, AT(words + WORDS / 2), 9, 1, NULL));
    CHECK(cuStreamSynchronize(NULL));
    printf("after: %u %u %u\n", words[WORDS / 2], words[WORDS / 2 + 1],
           words[WORDS / 2 + 2]);
    CHECK(cuMemFree(AT(words)));
}

static void
copies_and_sets(void)
{
    unsigned *big = managed(WORDS * 4), *small = managed(FEW * 4);
    unsigned *plain = malloc(WORDS * 4);
    CUdeviceptr device;
    CUstream stream;

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&device, WORDS * 4));
    for (unsigned i = 0; i < WORDS; i++)
        big[i] = 11, plain[i] = 12;
    CHECK(cuMemcpyHtoD(device, big, WORDS * 4));
    printf("from it: %u wrong\n", app_count_wrong(device, 11, WORDS));
    CHECK(cuMemcpyHtoD(AT(big), plain, WORDS * 4));
    printf("to it: %u wrong\n", app_wrong(big, 12, WORDS));
    CHECK(cuMemsetD32(device, 13, WORDS));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoHAsync(small, device, FEW * 4, stream));
    CHECK(cuMemcpyAsync(AT(big), device, WORDS * 2, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("down into it: %u, %u, %u wrong\n", app_wrong(small, 13, FEW),
           app_wrong(big, 13, WORDS / 2), app_wrong(big + WORDS / 2, 12, WORDS / 2));
    CHECK(cuMemsetD32(AT(small + 10), 14, 10));
    CHECK(cuCtxSynchronize());
    printf("set: %u %u %u\n", small[9], app_wrong(small + 10, 14, 10), small[20]);
    CHECK(cuMemcpy(AT(plain), AT(small), FEW * 4));
    printf("to pageable memory: %u %u\n", plain[10], plain[20]);
    CHECK(cuMemFree(device));
    CHECK(cuMemFree(AT(big)));
    CHECK(cuMemFree(AT(small)));
    CHECK(cuStreamDestroy_v2(stream));
    free(plain);
}

static void
doubled(void *user)
{
    unsigned *words = user;

    for (unsigned i = 0; i < FEW; i++)
        words[i] *= 2;
}

/* Kernel, host function, kernel, all given before any has run. */
static void
host_functions(void)
{
    CUfunction fill = app_function(&module, "fill"), copy = app_function(&module, "copy");
    unsigned *a = managed(FEW * 4), *b = managed(FEW * 4);
    CUstream stream;

    CHECK(cuStreamCreate(&stream, 0));
    CHECK(app_fill(fill, AT(a), 21, FEW, stream));
    CHECK(cuLaunchHostFunc(stream, doubled, a));
    CHECK(app_copy(copy, AT(b), AT(a), FEW, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("host function between: %u, %u wrong\n", app_wrong(a, 42, FEW), app_wrong(b, 42, FEW));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree(AT(a)));
    CHECK(cuMemFree(AT(b)));
}

static void
graphs(void)
{
    CUfunction copy = app_function(&module, "copy");
    unsigned *a = managed(FEW * 4), *b = managed(WORDS * 4);
    CUgraphExec exec;
    CUstream stream;
    CUgraph graph;

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK(app_copy(copy, AT(b), AT(a), FEW, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < FEW; i++)
            a[i] = 31 + round;
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuStreamSynchronize(stream));
        printf("replayed: %u wrong\n", app_wrong(b, 31 + round, FEW));
    }
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree(AT(a)));
    CHECK(cuMemFree(AT(b)));
}

/* The kernel does not look inside a program's buffer as an access of its own does. */
static void
system_calls(void)
{
    CUfunction fill = app_function(&module, "fill");
    unsigned *small = managed(FEW * 4), *big, word = 0;
    int ends[2];

    if (pipe(ends) != 0)
        exit(4);
    CHECK(app_fill(fill, AT(small), 51, FEW, NULL));
    CHECK(cuCtxSynchronize());
    big = managed(WORDS * 4);
    REQUIRE(write(ends[1], small, FEW * 4) == FEW * 4);
    REQUIRE(read(ends[0], small + 10, 4) == 4);
    REQUIRE(read(ends[0], big, 8) == 8);
    printf("read: %u %u\n", small[10], big[0]);
    CHECK(app_fill(fill, AT(big), 52, WORDS, NULL));
    CHECK(cuMemPrefetchAsync(AT(big), WORDS * 4, CU_DEVICE_CPU, NULL));
    CHECK(cuStreamSynchronize(NULL));
    REQUIRE(write(ends[1], big + WORDS - 1, 4) == 4);
    REQUIRE(read(ends[0], big + 5, 4) == 4);
    CHECK(cuMemPrefetchAsync(AT(big), WORDS * 4, 0, NULL));
    CHECK(cuMemcpyDtoH(&word, AT(big + 5), 4));
    printf("after a prefetch: %u %u %u\n", word, big[4], big[5]);
    close(ends[0]);
    close(ends[1]);
    CHECK(cuMemFree(AT(small)));
    CHECK(cuMemFree(AT(big)));
}

static void *
reader(void *user)
{
    return (void *)(size_t)app_wrong(user, 61, WORDS);
}

static void
threads(void)
{
    CUfunction fill = app_function(&module, "fill");
    unsigned *words = managed(WORDS * 4);
    pthread_t thread[4];
    void *bad[4];

    CHECK(app_fill(fill, AT(words), 61, WORDS, NULL));
    CHECK(cuCtxSynchronize());
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, reader, words);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], &bad[i]);
        printf("thread: %zu wrong\n", (size_t)bad[i]);
    }
    CHECK(cuMemFree(AT(words)));
}

static void
what_it_is(void)
{
    CUpointer_attribute which[] = {
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_HOST_POINTER,
    };
    unsigned int type, is;
    int ordinal, has = 0, said[2] = { 0, 0 };
    void *host, *answers[] = { &type, &is, &ordinal, &host };
    char *bytes = managed(5000);
    CUdeviceptr base = 0;
    size_t size = 0;

    CHECK(cuDeviceGetAttribute(&has, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0));
    CHECK(cuPointerGetAttributes(4, which, answers, AT(bytes + 77)));
    CHECK(cuMemGetAddressRange_v2(&base, &size, AT(bytes + 77)));
    printf("offered %d, type %u, managed %u, device %d, host pointer %d, range %d %zu\n", has,
           type, is, ordinal, host == (void *)(bytes + 77), base == AT(bytes), size);
    CHECK(cuMemAdvise(AT(bytes), 5000, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK(cuMemAdvise(AT(bytes), 5000, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 0));
    CHECK(cuMemAdvise(AT(bytes), 5000, CU_MEM_ADVISE_SET_ACCESSED_BY, CU_DEVICE_CPU));
    CHECK(cuMemPrefetchAsync(AT(bytes), 5000, CU_DEVICE_CPU, NULL));
    CHECK(cuMemRangeGetAttribute(said, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, AT(bytes), 10));
    printf("read mostly %d\n", said[0]);
    CHECK(cuMemRangeGetAttribute(said, 4, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION,
                                 AT(bytes), 5000));
    printf("preferred %d\n", said[0]);
    CHECK(cuMemRangeGetAttribute(said, 8, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, AT(bytes), 5000));
    printf("accessed by %d %d\n", said[0], said[1]);
    CHECK(cuMemRangeGetAttribute(said, 4, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION,
                                 AT(bytes), 5000));
    printf("last prefetch %d\n", said[0]);
    CHECK(cuStreamAttachMemAsync(NULL, AT(bytes), 0, CU_MEM_ATTACH_HOST));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(NULL, AT(bytes), 0, 8));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(AT(bytes), 5000, 99, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(AT(bytes), 100 << 20, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&base, 10, 3));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&base, 0, 1));
    CHECK(cuMemFree(AT(bytes)));
}

/* A handler's frame and 8 KiB, with nothing below: what languages with small stacks give
 * their handlers at least. */
static void
little_stack(void)
{
    CUfunction fill = app_function(&module, "fill");
    size_t frame = getauxval(AT_MINSIGSTKSZ), size;
    unsigned *words = managed(WORDS * 4);
    stack_t stack = { 0 }, before;
    char *area;

    size = ((frame != 0 ? frame : 2048) + 8192 + 4095) / 4096 * 4096;
    area = mmap(NULL, size + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(area != MAP_FAILED && mprotect(area + 4096, size, PROT_READ | PROT_WRITE) == 0);
    stack.ss_sp = area + 4096;
    stack.ss_size = size;
    REQUIRE(sigaltstack(&stack, &before) == 0);
    CHECK(app_fill(fill, AT(words), 21, WORDS, NULL));
    CHECK(cuCtxSynchronize());
    printf("with a little stack: %u wrong\n", app_wrong(words, 21, WORDS));
    REQUIRE(sigaltstack(&before, NULL) == 0);
    munmap(area, size + 4096);
    CHECK(cuMemFree(AT(words)));
}

int
main(void)
{
    app_begin();
    both_sides_see_it(FEW);
    both_sides_see_it(WORDS);
    parts_stay();
    copies_and_sets();
    host_functions();
    graphs();
    system_calls();
    threads();
    little_stack();
    what_it_is();
    return app_end();
}
