/*
 * Contexts: primary ones that are retained, released and reset while streams live; the
 * stack of each thread; contexts that another thread destroys while they are current here.
 */
#include "app.h"

#define SAY(call) printf("  %s: %s\n", #call, app_error(call))

static CUdevice device;
static CUmodule module;

static const char *
yes(int it)
{
    return it ? "yes" : "no";
}

static void
state(const char *when)
{
    unsigned flags = 99;
    int active = -1;

    CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    printf("%s: flags %u, active %s\n", when, flags, yes(active));
}

/* Everything that a program may do with what a context had. */
static void
use(CUstream stream, CUevent event, CUdeviceptr p, CUfunction fill)
{
    CUdeviceptr q = 0;
    CUevent made = NULL;
    unsigned word = 0;

    unsigned flags, version;
    CUdevice found;

    SAY(cuCtxGetDevice(&found));
    SAY(cuCtxGetFlags(&flags));
    SAY(cuCtxGetApiVersion(NULL, &version));
    SAY(cuCtxSynchronize());
    SAY(cuStreamQuery(stream));
    SAY(cuStreamSynchronize(stream));
    SAY(cuEventQuery(event));
    SAY(cuEventRecord(event, stream));
    SAY(cuEventCreate(&made, 0));
    SAY(cuMemcpyDtoH(&word, p, 4));
    SAY(cuMemcpyHtoD(p, &word, 4));
    SAY(cuMemAlloc(&q, 64));
    if (q != 0)                         /* it may be where p was */
        CHECK(cuMemFree(q));
    SAY(app_fill(fill, p, 1, 1, stream));
    SAY(app_fill(fill, p, 1, 1, NULL));
    SAY(cuStreamDestroy_v2(stream));
    SAY(cuEventDestroy_v2(event));
    SAY(cuMemFree(p));
    SAY(cuModuleUnload(module));
    if (made != NULL)
        SAY(cuEventDestroy_v2(made));
}

static void
fill_up(CUstream *stream, CUevent *event, CUdeviceptr *p, CUfunction *fill)
{
    module = NULL;
    *fill = app_function(&module, "fill");
    CHECK(cuStreamCreate(stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc(p, 4096));
    CHECK(app_fill(*fill, *p, 5, 1024, *stream));
    CHECK(cuEventRecord(*event, *stream));
}

static void
primary(void)
{
    CUcontext one, two, current;
    CUstream stream;
    CUevent event;
    CUfunction fill;
    CUdeviceptr p;
    unsigned flags;

    puts("a primary context");
    state("before");
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(device));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDevicePrimaryCtxRetain(NULL, device));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxRetain(&one, 99));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDevicePrimaryCtxSetFlags_v2(device, 0x400));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDevicePrimaryCtxSetFlags_v2(device, 3));
    CHECK(cuDevicePrimaryCtxSetFlags_v2(device, CU_CTX_SCHED_BLOCKING_SYNC));
    state("flags set");
    CHECK(cuDevicePrimaryCtxRetain(&one, device));
    CHECK(cuDevicePrimaryCtxRetain(&two, device));
    REQUIRE(one == two);
    state("retained twice");
    CHECK(cuCtxSetCurrent(one));
    CHECK(cuCtxGetFlags(&flags));
    printf("its flags: %u\n", flags);
    CHECK(cuDevicePrimaryCtxSetFlags_v2(device, CU_CTX_SCHED_SPIN));
    state("flags set while it is active");
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(one));
    fill_up(&stream, &event, &p, &fill);
    CHECK(cuDevicePrimaryCtxRelease_v2(device));
    state("released once");
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(p, 5, 1024) == 0);
    puts("released, with work that nobody waited for:");
    CHECK(app_fill(fill, p, 6, 1024, stream));
    CHECK(cuDevicePrimaryCtxRelease_v2(device));
    state("released");
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == one);            /* it may be current and no more */
    use(stream, event, p, fill);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(device));

    puts("retained again:");
    CHECK(cuDevicePrimaryCtxRetain(&two, device));
    REQUIRE(two == one);
    state("retained");
    use(stream, event, p, fill);

    puts("reset with a count of 2:");
    CHECK(cuDevicePrimaryCtxRetain(&two, device));
    fill_up(&stream, &event, &p, &fill);
    CHECK(cuDevicePrimaryCtxReset(device));
    state("reset");
    use(stream, event, p, fill);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(device));
    CHECK(cuDevicePrimaryCtxReset(device));     /* there is nothing to reset */
    CHECK(cuDevicePrimaryCtxRetain(&one, device));
    REQUIRE(one == two);
    fill_up(&stream, &event, &p, &fill);
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(p, 5, 1024) == 0);
    state("in use again");
}

/* ---- threads ---- */

static CUcontext shared;
static pthread_barrier_t barrier;
static CUstream shared_stream;
static CUevent shared_event;
static CUdeviceptr shared_p;
static CUfunction shared_fill;

static void *
has_it_current(void *user)
{
    CUcontext current;

    (void)user;
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);           /* a new thread has none */
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent_v2(&current));
    CHECK(cuCtxPushCurrent_v2(shared));
    fill_up(&shared_stream, &shared_event, &shared_p, &shared_fill);
    CHECK(cuStreamSynchronize(shared_stream));
    pthread_barrier_wait(&barrier);     /* destroy it now */
    pthread_barrier_wait(&barrier);
    puts("destroyed while it is current in another thread:");
    CHECK(cuCtxGetCurrent(&current));
    printf("  still current: %s\n", yes(current == shared));
    use(shared_stream, shared_event, shared_p, shared_fill);
    SAY(cuCtxPushCurrent_v2(shared));
    SAY(cuCtxSetCurrent(shared));
    current = NULL;
    SAY(cuCtxPopCurrent_v2(&current));
    printf("  popped: %s\n", yes(current == shared));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    return NULL;
}

static void
destroyed_elsewhere(CUcontext primary)
{
    CUcontext current;
    pthread_t thread;

    CHECK(cuCtxCreate_v2(&shared, 0, device));
    CHECK(cuCtxPopCurrent_v2(&current));
    REQUIRE(current == shared);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, has_it_current, NULL);
    pthread_barrier_wait(&barrier);
    CHECK(cuCtxDestroy_v2(shared));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(shared));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
}

/* One context in several threads at a time, another in each. */
static void *
floats(void *user)
{
    CUcontext own, current;
    CUdeviceptr p, q;
    CUmodule here = NULL;
    CUfunction fill;
    unsigned number = (unsigned)(size_t)user;

    CHECK(cuCtxCreate_v2(&own, 0, device));
    CHECK(cuMemAlloc(&q, 4096));
    for (unsigned i = 0; i < 20; i++) {
        CHECK(cuCtxPushCurrent_v2(shared));
        CHECK(cuMemAlloc(&p, 4096));
        CHECK(app_fill(shared_fill, p, number + i, 1024, CU_STREAM_PER_THREAD));
        CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
        REQUIRE(app_count_wrong(p, number + i, 1024) == 0);
        CHECK(cuMemFree(p));
        CHECK(cuCtxPopCurrent_v2(&current));
        REQUIRE(current == shared);
        CHECK(cuCtxGetCurrent(&current));
        REQUIRE(current == own);
        fill = app_function(&here, "fill");
        CHECK(app_fill(fill, q, number, 1024, NULL));
        REQUIRE(app_count_wrong(q, number, 1024) == 0);
    }
    CHECK(cuCtxDestroy_v2(own));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);
    return NULL;
}

static void
floating(void)
{
    CUmodule theirs = NULL;
    pthread_t threads[6];
    CUcontext current;

    CHECK(cuCtxCreate_v2(&shared, 0, device));
    shared_fill = app_function(&theirs, "fill");
    CHECK(cuCtxPopCurrent_v2(&current));        /* current nowhere: it floats */
    for (size_t i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, floats, (void *)(100 * i));
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    CHECK(cuCtxDestroy_v2(shared));
    puts("six threads have moved it about");
}

/* ---- the stack ---- */

static void
stack(CUcontext primary)
{
    CUcontext one, two, current;
    CUdevice found;

    puts("the stack");
    CHECK(cuCtxCreate_v2(&one, 0, device));
    CHECK(cuCtxCreate_v2(&two, 0, device));
    CHECK(cuCtxPushCurrent_v2(one));            /* primary, one, two, one */
    CHECK(cuCtxSetCurrent(two));                /* primary, one, two, two */
    CHECK(cuCtxDestroy_v2(two));                /* the top goes, the other stays */
    CHECK(cuCtxGetCurrent(&current));
    printf("  below it is the same one: %s\n", yes(current == two));
    SAY(cuCtxGetDevice(&found));
    SAY(cuCtxSynchronize());
    CHECK(cuCtxPopCurrent_v2(&current));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == one);
    CHECK(cuCtxSetCurrent(NULL));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
    CHECK(cuCtxDestroy_v2(one));
    CHECK(cuCtxGetCurrent(&current));
    REQUIRE(current == primary);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent_v2(NULL));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy_v2(NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCtxCreate_v2(NULL, 0, device));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCtxCreate_v2(&one, 0x1000, device));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate_v2(&one, 0, 99));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCtxGetCurrent(NULL));
}

int
main(void)
{
    CUcontext context;

    setvbuf(stdout, NULL, _IOLBF, 0);
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    primary();
    CHECK(cuCtxGetCurrent(&context));
    stack(context);
    destroyed_elsewhere(context);
    floating();
    CHECK(cuCtxSynchronize());
    return app_end();
}
