/*
 * Ways to end, each in a process of its own: calls in exit handlers, destructors and
 * thread-local destructors, an end while other threads call or work is queued. None may
 * crash, hang or change the exit status. Without an argument it runs all of them.
 */
#include <signal.h>
#include <sys/wait.h>

#include "app.h"

static CUcontext context;
static CUmodule module;
static CUfunction fill;
static CUdeviceptr p;
static CUstream stream;
static CUevent event;
static const char *mode = "";

/* Whatever these answer by now: they return. */
static void
calls(void)
{
    CUdeviceptr q = 0;
    CUstream made;
    CUgraph graph;
    size_t free_bytes, total;
    unsigned word;

    (void)cuCtxSetCurrent(context);
    (void)app_fill(fill, p, 3, 64, stream);
    (void)cuMemcpyDtoH(&word, p, 4);
    (void)cuMemGetInfo(&free_bytes, &total);
    if (cuMemAlloc(&q, 1 << 16) == CUDA_SUCCESS)
        (void)cuMemFree(q);
    if (cuStreamCreate(&made, 0) == CUDA_SUCCESS) {
        (void)cuLaunchHostFunc(made, app_nap, (void *)1);
        (void)cuStreamSynchronize(made);
        (void)cuStreamDestroy_v2(made);
    }
    if (cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED) == CUDA_SUCCESS &&
        cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS && graph != NULL)
        (void)cuGraphDestroy(graph);
    (void)cuEventRecord(event, stream);
    (void)cuEventSynchronize(event);
    (void)cuCtxSynchronize();
}

/* What a program's libraries do at their end. */
static void
teardown(void)
{
    (void)cuEventDestroy_v2(event);
    (void)cuStreamDestroy_v2(stream);
    (void)cuMemFree(p);
    (void)cuModuleUnload(module);
    (void)cuDevicePrimaryCtxRelease_v2(0);
}

static void
early_handler(void)                     /* registered before the first call: runs last */
{
    calls();
    teardown();
    puts("the first handler, last");
}

static void
late_handler(void)
{
    calls();
    puts("the last handler, first");
}

static void __attribute__((destructor(65535)))
destructor(void)
{
    if (strcmp(mode, "destructor") != 0 && strcmp(mode, "handlers") != 0)
        return;
    calls();
    teardown();
    calls();
    printf("a destructor\n");
    fflush(stdout);
}

static void
begin(void)
{
    context = app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(app_fill(fill, p, 1, 64, stream));
    CHECK(cuStreamSynchronize(stream));
}

/* ---- threads ---- */

static pthread_key_t key;
static pthread_barrier_t barrier;

static void
at_thread_end(void *user)
{
    (void)user;
    calls();
    (void)app_fill(fill, p, 4, 64, CU_STREAM_PER_THREAD);
    (void)cuStreamSynchronize(CU_STREAM_PER_THREAD);
    calls();
}

static void *
short_thread(void *user)
{
    pthread_setspecific(key, user);
    CHECK(cuCtxSetCurrent(context));
    CHECK(app_fill(fill, p, 4, 64, CU_STREAM_PER_THREAD));
    return NULL;
}

static void *
calls_for_ever(void *user)
{
    (void)user;
    CHECK(cuCtxSetCurrent(context));
    pthread_barrier_wait(&barrier);
    for (;;)
        calls();
    return NULL;
}

static void
start_calling(void)
{
    pthread_t thread;

    pthread_barrier_init(&barrier, NULL, 7);
    for (int i = 0; i < 6; i++)
        pthread_create(&thread, NULL, calls_for_ever, NULL);
    pthread_barrier_wait(&barrier);
    app_sleep_ms(10);
}

static void *
ends_process(void *user)
{
    (void)user;
    CHECK(cuCtxSetCurrent(context));
    exit(7);
}

/* The main thread goes first. (Drivers have threads of their own: somebody has to exit.) */
static void *
stays(void *user)
{
    (void)user;
    app_sleep_ms(30);
    CHECK(cuCtxSetCurrent(context));
    CHECK(app_fill(fill, p, 6, 64, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(p, 6, 64) == 0);
    puts("a thread that outlives the main one");
    exit(7);
}

static struct app_gate gate = APP_GATE;

static int
run(void)
{
    pthread_t thread;

    if (strcmp(mode, "handlers") == 0) {
        atexit(early_handler);
        begin();
        atexit(late_handler);
    } else if (strcmp(mode, "destructor") == 0) {
        begin();
    } else if (strcmp(mode, "thread-local") == 0) {
        begin();
        pthread_key_create(&key, at_thread_end);
        for (int i = 0; i < 8; i++) {
            pthread_create(&thread, NULL, short_thread, &key);
            pthread_join(thread, NULL);
        }
        pthread_setspecific(key, &key);
        at_thread_end(NULL);
    } else if (strcmp(mode, "calling") == 0) {
        begin();
        start_calling();
    } else if (strcmp(mode, "calling, quickly") == 0) {
        begin();
        start_calling();
        quick_exit(7);
    } else if (strcmp(mode, "calling, at once") == 0) {
        begin();
        start_calling();
        _exit(7);
    } else if (strcmp(mode, "handlers, calling") == 0) {
        atexit(early_handler);
        begin();
        start_calling();
    } else if (strcmp(mode, "another thread") == 0) {
        atexit(early_handler);
        begin();
        pthread_create(&thread, NULL, ends_process, NULL);
        pthread_join(thread, NULL);
    } else if (strcmp(mode, "main first") == 0) {
        begin();
        pthread_create(&thread, NULL, stays, NULL);
        pthread_exit(NULL);
    } else if (strcmp(mode, "blocked") == 0) {
        begin();
        CHECK(cuLaunchHostFunc(stream, app_wait, &gate));
        for (int i = 0; i < 100; i++)
            CHECK(app_fill(fill, p, 5, 64, stream));
        app_arrived(&gate);
    } else if (strcmp(mode, "capturing") == 0) {
        begin();
        CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        CHECK(app_fill(fill, p, 5, 64, stream));
    } else if (strcmp(mode, "released") == 0) {
        atexit(teardown);
        begin();
        CHECK(cuDevicePrimaryCtxRelease_v2(0));
    } else if (strcmp(mode, "reset") == 0) {
        atexit(late_handler);
        begin();
        CHECK(cuDevicePrimaryCtxReset(0));
    } else if (strcmp(mode, "killed") == 0) {
        begin();
        start_calling();
        raise(SIGTERM);
    } else {
        return 99;
    }
    return app_failures != 0 ? 98 : 7;
}

static const char *const modes[] = {
    "handlers",   "destructor",     "thread-local", "calling", "calling, quickly",
    "calling, at once", "handlers, calling", "another thread", "main first",
    "blocked",    "capturing",      "released",     "reset",   "killed",
};

int
main(int argc, char **argv)
{
    int status;
    pid_t child;

    if (argc > 1) {
        mode = argv[1];
        return run();
    }
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        int times = strstr(modes[i], "calling") != NULL ? 3 : 1;

        for (int turn = 0; turn < times; turn++) {
            printf("%s\n", modes[i]);
            fflush(stdout);
            child = fork();
            if (child == 0) {
                alarm(60);              /* an end that hangs is seen as a signal */
                execl("/proc/self/exe", argv[0], modes[i], (char *)NULL);
                _exit(97);
            }
            waitpid(child, &status, 0);
            if (WIFSIGNALED(status))
                printf("  signal %d\n", WTERMSIG(status));
            else
                printf("  status %d\n", WEXITSTATUS(status));
            REQUIRE(strcmp(modes[i], "killed") == 0
                        ? WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM
                        : WIFEXITED(status) && WEXITSTATUS(status) == 7);
        }
    }
    return app_end();
}
