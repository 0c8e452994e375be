/*
 * Who waits for whom: one stream stands at a gate (or in a long kernel), another gets work.
 * Whether that work is done while the gate is closed is what the rules of legacy, blocking,
 * non-blocking and per-thread streams say.
 */
#include "app.h"

enum { N = 256 };

/* Streams; a name that ends in 2 is another of the same kind. */
enum kind { LEGACY, BLOCKING, BLOCKING2, FREE, FREE2, PER_THREAD, OTHERS_PER_THREAD, KINDS };

static const char *const names[KINDS] = {
    "the legacy stream",
    "a blocking stream",
    "another blocking stream",
    "a non-blocking stream",
    "another non-blocking stream",
    "the thread's own stream",
    "another thread's own stream",
};

static CUcontext context;
static CUmodule module;
static CUfunction fill;
static CUdeviceptr p;
static CUstream streams[KINDS];

/* Work on a stream, done by whom it belongs to. */
struct job {
    enum kind on;
    struct app_gate *gate;              /* NULL: work that is soon done */
    CUevent after;
    unsigned value;
};

static void
do_job(const struct job *job)
{
    CUstream stream = streams[job->on];

    if (job->gate != NULL)
        CHECK(cuLaunchHostFunc(stream, app_wait, job->gate));
    CHECK(app_fill(fill, p, job->value, N, stream));
    if (job->after != NULL)
        CHECK(cuEventRecord(job->after, stream));
}

/* A thread that does what it is told, so that it has a stream of its own for long. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const struct job *job;
    int end;
} helper = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void *
help(void *user)
{
    (void)user;
    CHECK(cuCtxSetCurrent(context));
    pthread_mutex_lock(&helper.lock);
    while (!helper.end) {
        if (helper.job != NULL) {
            do_job(helper.job);
            helper.job = NULL;
            pthread_cond_broadcast(&helper.changed);
        }
        pthread_cond_wait(&helper.changed, &helper.lock);
    }
    pthread_mutex_unlock(&helper.lock);
    return NULL;
}

static void
give(const struct job *job)
{
    if (job->on != OTHERS_PER_THREAD) {
        do_job(job);
        return;
    }
    pthread_mutex_lock(&helper.lock);
    helper.job = job;
    pthread_cond_broadcast(&helper.changed);
    while (helper.job != NULL)
        pthread_cond_wait(&helper.changed, &helper.lock);
    pthread_mutex_unlock(&helper.lock);
}

/* Does work on `second` wait for what `first` stands at? What should pass has long, on a busy
 * machine: it is not tried twice, so that what is given to the device is always the same. */
static int
waits(enum kind first, enum kind second, int want)
{
    struct app_gate gate = APP_GATE;
    struct job blocked = { first, &gate, NULL, 1 }, quick = { second, NULL, NULL, 2 };
    CUresult result = CUDA_ERROR_NOT_READY;
    CUevent event;

    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    quick.after = event;
    give(&blocked);
    app_arrived(&gate);
    give(&quick);
    for (int i = 0; i < (want ? 40 : 10000) && result == CUDA_ERROR_NOT_READY; i++) {
        result = cuEventQuery(event);
        app_sleep_ms(1);
    }
    app_open(&gate);
    CHECK(cuEventSynchronize(event));
    CHECK(cuCtxSynchronize());
    CHECK(cuEventDestroy_v2(event));
    return result == CUDA_ERROR_NOT_READY;
}

/* The rules: blocking streams and the legacy one wait for each other, and all that has an
 * order of its own does so with itself. */
static int
should_wait(enum kind first, enum kind second)
{
    int one = first == FREE || first == FREE2, other = second == FREE || second == FREE2;

    if (first == second)
        return 1;
    if (one || other)
        return 0;
    return first == LEGACY || second == LEGACY;
}

static void
table(void)
{
    for (int first = 0; first < KINDS; first++) {
        for (int second = 0; second < KINDS; second++) {
            int want = should_wait(first, second), got = waits(first, second, want);

            printf("%s %s %s\n", names[second], got ? "waits for" : "passes",
                   first == second ? "itself" : names[first]);
            REQUIRE(got == want);
        }
    }
}

/* The thread's own stream by the name of the calls' other spelling. */
static void
per_thread_names(void)
{
    struct app_gate gate = APP_GATE;

    puts("spelled otherwise");
    CHECK(cuLaunchHostFunc_ptsz(NULL, app_wait, &gate));
    app_arrived(&gate);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(CU_STREAM_PER_THREAD));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery_ptsz(NULL));
    CHECK(cuStreamQuery(streams[FREE]));
    CHECK(cuStreamQuery(streams[BLOCKING]));
    CHECK(app_fill(fill, p, 3, N, CU_STREAM_LEGACY));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    app_open(&gate);
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK(cuStreamSynchronize(NULL));
    REQUIRE(app_count_wrong(p, 3, N) == 0);
}

/* What waits in the calling thread. */
struct wait {
    struct app_gate gate;
    int passed;
};

static void *
synchronous_copy(void *user)
{
    struct wait *wait = user;
    unsigned word = 9;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemcpyDtoH(&word, p, 4));
    __atomic_store_n(&wait->passed, 1, __ATOMIC_RELEASE);
    return (void *)(size_t)word;
}

static void
synchronous(enum kind blocked, int want)
{
    struct wait wait = { APP_GATE, 0 };
    struct job job = { blocked, &wait.gate, NULL, 77 };
    pthread_t thread;
    void *word;
    int passed;

    CHECK(cuMemsetD32(p, 5, N));
    CHECK(cuCtxSynchronize());
    give(&job);
    app_arrived(&wait.gate);
    pthread_create(&thread, NULL, synchronous_copy, &wait);
    for (int i = 0; i < (want ? 40 : 10000); i++) {
        if (__atomic_load_n(&wait.passed, __ATOMIC_ACQUIRE))
            break;
        app_sleep_ms(1);
    }
    passed = __atomic_load_n(&wait.passed, __ATOMIC_ACQUIRE);
    printf("a copy that waits %s %s\n", passed ? "passes" : "waits for", names[blocked]);
    REQUIRE(passed == !want);
    app_open(&wait.gate);
    pthread_join(thread, &word);
    REQUIRE((size_t)word == (want ? 77u : 5u));
    CHECK(cuCtxSynchronize());
}

/* A long kernel instead of a host function, and events between. */
static void
long_kernels(void)
{
    CUfunction spin = app_function(&module, "spin"), copy = app_function(&module, "copy");
    unsigned turns = 200000;
    CUdeviceptr q;
    CUevent event;
    void *params[] = { &q, &turns };

    CHECK(cuMemAlloc(&q, N * 4));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    for (int first = 0; first < KINDS - 1; first++) {
        for (int second = 0; second < KINDS - 1; second++) {
            CHECK(cuMemsetD32(q, 0, N));
            CHECK(cuMemsetD32(p, 0, N));
            CHECK(cuCtxSynchronize());
            CHECK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, streams[first], params, NULL));
            if (!should_wait(first, second)) {
                CHECK(cuEventRecord(event, streams[first]));
                CHECK(cuStreamWaitEvent(streams[second], event, 0));
            }
            CHECK(app_copy(copy, p, q, 1, streams[second]));
            CHECK(cuStreamSynchronize(streams[second]));
            REQUIRE(app_count_wrong(p, turns, 1) == 0);
        }
    }
    puts("long kernels have ended before what waits for them");
}

int
main(void)
{
    pthread_t thread;

    context = app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, N * 4));
    streams[LEGACY] = NULL;
    CHECK(cuStreamCreate(&streams[BLOCKING], CU_STREAM_DEFAULT));
    CHECK(cuStreamCreate(&streams[BLOCKING2], CU_STREAM_DEFAULT));
    CHECK(cuStreamCreate(&streams[FREE], CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&streams[FREE2], CU_STREAM_NON_BLOCKING));
    streams[PER_THREAD] = streams[OTHERS_PER_THREAD] = CU_STREAM_PER_THREAD;
    pthread_create(&thread, NULL, help, NULL);
    table();
    per_thread_names();
    synchronous(LEGACY, 1);
    synchronous(BLOCKING, 1);
    synchronous(FREE, 0);
    synchronous(OTHERS_PER_THREAD, 1);
    long_kernels();
    pthread_mutex_lock(&helper.lock);
    helper.end = 1;
    pthread_cond_broadcast(&helper.changed);
    pthread_mutex_unlock(&helper.lock);
    pthread_join(thread, NULL);
    return app_end();
}
