/*
 * A stream that is blocked, with more calls queued than a driver takes, stops nobody
 * else: the host function it stands at waits for another thread's work.
 */
#include "app.h"

enum { N = 1024, QUEUED = 1500 };

static CUcontext context;
static CUmodule module;
static CUfunction fill, copy;
static struct app_gate gate = APP_GATE;

static void *
queuer(void *user)
{
    CUdeviceptr p;
    CUstream stream;

    (void)user;
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc(&p, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuLaunchHostFunc(stream, app_wait, &gate));
    for (unsigned i = 0; i < QUEUED; i++)
        CHECK(app_fill(fill, p, i, N, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("blocked stream: %u wrong words\n", app_count_wrong(p, QUEUED - 1, N));
    return NULL;
}

int
main(void)
{
    CUdeviceptr a, b;
    CUstream stream;
    CUevent event;
    pthread_t thread;

    context = app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    pthread_create(&thread, NULL, queuer, NULL);
    app_arrived(&gate);
    app_sleep_ms(100);                  /* the queue fills up */

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, 0));
    CHECK(cuMemAlloc(&a, N * 4));
    CHECK(cuMemAlloc(&b, N * 4));
    for (unsigned i = 0; i < 300; i++) {
        CHECK(app_fill(fill, a, i + 7, N, stream));
        CHECK(app_copy(copy, b, a, N, stream));
    }
    CHECK(cuEventRecord(event, stream));
    CHECK(cuEventSynchronize(event));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuEventQuery(event));
    printf("other stream: work done while the first one is blocked\n");
    app_open(&gate);
    pthread_join(thread, NULL);
    printf("other stream: %u wrong words\n", app_count_wrong(b, 306, N));
    return app_end();
}
