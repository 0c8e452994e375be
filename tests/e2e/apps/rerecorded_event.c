/* Recording an event again does not lengthen a wait for the earlier record. */
#include "app.h"

static CUcontext context;
static CUevent event;
static struct app_gate first = APP_GATE, second = APP_GATE;
static struct app_gate waiting = APP_GATE, returned = APP_GATE;

static void *
waiter(void *user)
{
    (void)user;
    CHECK(cuCtxSetCurrent(context));
    app_open(&waiting);
    CHECK(cuEventSynchronize(event));
    app_open(&returned);
    return NULL;
}

int
main(void)
{
    CUstream stream, other;
    CUmodule module = NULL;
    CUfunction fill;
    CUdeviceptr p;
    pthread_t thread;

    context = app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventQuery(event));                     /* never recorded: complete */

    CHECK(cuLaunchHostFunc(stream, app_wait, &first));
    CHECK(cuEventRecord(event, stream));
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    CHECK(cuStreamWaitEvent(other, event, 0));      /* for the first record too */
    CHECK(app_fill(fill, p, 3, 1024, other));
    pthread_create(&thread, NULL, waiter, NULL);
    app_wait(&waiting);
    app_sleep_ms(100);                              /* it waits by now */
    CHECK(cuLaunchHostFunc(stream, app_wait, &second));
    CHECK(cuEventRecord(event, stream));
    app_open(&first);
    app_wait(&returned);                            /* hangs if the wait grew longer */
    puts("the first wait returned while the second record is pending");
    CHECK(cuStreamSynchronize(other));
    puts("so did the stream that waits for the first record");
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    app_open(&second);
    CHECK(cuEventSynchronize(event));
    CHECK(cuEventQuery(event));
    pthread_join(thread, NULL);
    REQUIRE(app_count_wrong(p, 3, 1024) == 0);
    return app_end();
}
