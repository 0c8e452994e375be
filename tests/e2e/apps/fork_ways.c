/*
 * Processes of one program: children from before the first call work by themselves, at the
 * same time as their parent; those from after it are told that they are not initialised and
 * may start another program, which works. No child's end disturbs its parent.
 */
#include <spawn.h>
#include <sys/wait.h>

#include "app.h"

extern char **environ;

enum { N = 1024 };

static CUmodule module;
static CUfunction fill;
static CUdeviceptr p;
static CUstream stream;

/* A whole small program's work; 0: all is right. */
static int
work(unsigned value)
{
    module = NULL;
    app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < 20; i++) {
        CHECK(app_fill(fill, p, value + i, N, stream));
        CHECK(cuStreamSynchronize(stream));
        REQUIRE(app_count_wrong(p, value + i, N) == 0);
    }
    return app_failures;
}

/* A child that ends with what `body` gives; the parent gets that. */
static int
in_child(int (*body)(void), int by_exit)
{
    int status = -1;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        int end = body();

        fflush(stdout);
        if (by_exit)
            exit(end);                  /* with handlers and destructors */
        _exit(end);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int
works_alone(void)
{
    return work(100) != 0;
}

/* The mistakes of a child that goes on where its parent was. */
static int
goes_on(void)
{
    CUcontext context;
    CUdeviceptr q;
    CUstream made;
    unsigned word;
    int count;

    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuInit(0));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuCtxGetCurrent(&context));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc(&q, 64));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuMemFree(p));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuMemcpyDtoH(&word, p, 4));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, app_fill(fill, p, 1, N, stream));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuStreamCreate(&made, 0));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuStreamSynchronize(stream));
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuStreamDestroy_v2(stream));
    return app_failures != 0;
}

static int
grandchild(void)
{
    return in_child(goes_on, 1);
}

static int
starts_another(void)
{
    execl("/proc/self/exe", "fork_ways", "alone", (char *)NULL);
    return 1;
}

/* posix_spawn, which shares the parent's memory until the other program runs. */
static int
spawned(void)
{
    char *arguments[] = { (char *)"fork_ways", (char *)"alone", NULL };
    int status = -1;
    pid_t child;

    REQUIRE(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ) == 0);
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

static int stop;

static void *
busy(void *user)
{
    CUdeviceptr q;
    CUcontext context = user;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc(&q, N * 4));
    for (unsigned i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++) {
        CHECK(app_fill(fill, q, i, N, CU_STREAM_PER_THREAD));
        CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
        REQUIRE(app_count_wrong(q, i, N) == 0);
        CHECK(cuLaunchHostFunc(CU_STREAM_PER_THREAD, app_nap, (void *)0));
    }
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(cuMemFree(q));
    return NULL;
}

/* The parent goes before its child has made a call: the lease is the child's as well. */
static int
orphan(void)
{
    pid_t parent = getpid();

    if (fork() != 0)
        return 0;
    while (getppid() == parent)
        app_sleep_ms(1);
    (void)work(11);
    return app_end();
}

int
main(int argc, char **argv)
{
    pthread_t threads[4];
    CUcontext context;
    int status = -1;
    pid_t children[3];

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1)
        return strcmp(argv[1], "orphan") == 0 ? orphan() : work(500) != 0;

    /* Before the first call: three children and the parent at once. */
    for (int i = 0; i < 3; i++) {
        children[i] = fork();
        if (children[i] == 0)
            exit(work(1000u * (unsigned)i) != 0);
    }
    printf("a child that ends first: %d\n", in_child(works_alone, 1));
    CHECK(cuInit(0));
    printf("the parent: %d\n", work(7) != 0);
    for (int i = 0; i < 3; i++) {
        REQUIRE(waitpid(children[i], &status, 0) == children[i]);
        printf("child %d: %d\n", i, status);
    }

    printf("a child that goes on: %d\n", in_child(goes_on, 0));
    printf("one that exits: %d\n", in_child(goes_on, 1));
    printf("its child: %d\n", in_child(grandchild, 1));
    printf("another program: %d\n", in_child(starts_another, 0));
    printf("one that is spawned: %d\n", spawned());

    /* While other threads are in the middle of calls. */
    CHECK(cuCtxGetCurrent(&context));
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, busy, context);
    for (int i = 0; i < 10; i++) {
        int got = in_child(i % 2 ? goes_on : starts_another, i % 3 == 0);

        REQUIRE(got == 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    puts("threads went on through ten forks");
    printf("the parent: %d\n", work(9) != 0);
    return app_end();
}
