/*
 * A context that is reset while a stream of it stands still for another server: the reset
 * does not wait for that, and the context's next streams wait as ever. Direct, a device
 * would wait for its work first, so this one is for servers alone.
 */
#include "app.h"

static CUcontext context[2];
static CUstream stream;
static CUevent event;
static int last;

/* A new stream of the other context, at the event behind the gate. */
static CUstream
stand_still(struct app_gate *gate)
{
    CUstream waits;

    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuLaunchHostFunc(stream, app_wait, gate));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuDevicePrimaryCtxRetain(&context[1], last));
    CHECK(cuCtxSetCurrent(context[1]));
    CHECK(cuStreamCreate(&waits, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamWaitEvent(waits, event, 0));
    return waits;
}

static void
once(void)
{
    struct app_gate first = APP_GATE, second = APP_GATE;
    CUstream waits;
    CUdeviceptr p;

    waits = stand_still(&first);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits));
    CHECK(cuDevicePrimaryCtxReset(last));
    app_open(&first);

    waits = stand_still(&second);
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(cuMemsetD32Async(p, 3, 1024, waits));
    app_sleep_ms(20); /* the first one's opening is there by now */
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits));
    app_open(&second);
    CHECK(cuStreamSynchronize(waits));
    REQUIRE(app_count_wrong(p, 3, 1024) == 0);
    CHECK(cuDevicePrimaryCtxReset(last));
    CHECK(cuCtxSetCurrent(context[0]));
    CHECK(cuStreamSynchronize(stream));
}

int
main(void)
{
    int devices = 0;

    alarm(60);
    context[0] = app_begin();
    CHECK(cuDeviceGetCount(&devices));
    last = devices - 1;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    for (int i = 0; i < 3; i++)
        once();
    return app_end();
}
