/* Streams, events, flow control, host functions and late failures against a real worker. */
#include <pthread.h>
#include <semaphore.h>

#include "shim/process.h"
#include "worker.h"

static uint32_t gate; /* host functions wait until it is 1 */

static void
wait_for_gate(void *user)
{
    uint32_t *entered = user;

    if (entered != NULL)
        __atomic_store_n(entered, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE))
        usleep(200);
}

static void
open_gate(void)
{
    __atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
}

static uint64_t
waits(void)
{
    return __atomic_load_n(&fdc_session_at(0)->waits, __ATOMIC_RELAXED);
}

static void
test_streams_are_made_asked_and_destroyed(void)
{
    CUcontext context = worker_context(), found;
    int priority, low, high;
    CUstream stream;
    CUdevice device;
    unsigned flags;
    uint64_t before;

    before = waits();
    CHECK_EQ(cuStreamCreate(&stream, 7), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuCtxGetStreamPriorityRange(&low, &high), 0);
    CHECK_EQ(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, high - 5), 0);
    CHECK_EQ((uint64_t)(uintptr_t)stream >> 48, 0xFD);
    CHECK_EQ(cuStreamGetFlags(stream, &flags), 0);
    CHECK_EQ(flags, CU_STREAM_NON_BLOCKING);
    CHECK_EQ(cuStreamGetPriority(stream, &priority), 0);
    CHECK_EQ(priority, high);
    CHECK_EQ(cuStreamGetCtx(stream, &found), 0);
    CHECK(found == context);
    CHECK_EQ(cuStreamGetDevice(stream, &device), 0);
    CHECK_EQ(device, 0);
    CHECK_EQ(cuStreamQuery(stream), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(waits(), before); /* nothing was on it */
    CHECK_EQ(cuStreamDestroy_v2(stream), 0);
    CHECK_EQ(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuStreamDestroy_v2((CUstream)1), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuStreamGetFlags(NULL, &flags), 0);
    CHECK_EQ(cuStreamGetFlags(CU_STREAM_PER_THREAD, &flags), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_a_stale_handle_is_not_a_new_object_of_the_same_place(void)
{
    CUstream first, stream;

    worker_context();
    CHECK_EQ(cuStreamCreate(&first, 0), 0);
    CHECK_EQ(cuStreamDestroy_v2(first), 0);
    for (int i = 0; i < 500; i++) {
        CHECK_EQ(cuStreamCreate(&stream, 0), 0);
        CHECK(stream != first);
        CHECK_EQ(cuStreamQuery(first), CUDA_ERROR_INVALID_HANDLE);
        CHECK_EQ(cuStreamDestroy_v2(stream), 0);
    }
    CHECK_EQ(cuEventQuery((CUevent)first), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_events_follow_their_stream(void)
{
    uint32_t entered = 0;
    CUevent start, end, plain;
    CUstream stream, other;
    float time = -1;
    uint64_t before;

    worker_context();
    CHECK_EQ(cuEventCreate(&start, 0x40), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuEventCreate(&start, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuEventCreate(&start, 0), 0);
    CHECK_EQ(cuEventCreate(&end, CU_EVENT_BLOCKING_SYNC), 0);
    CHECK_EQ(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING), 0);
    CHECK_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuEventQuery(start), 0); /* never recorded */
    CHECK_EQ(cuEventElapsedTime_v2(&time, start, end), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuEventRecord(start, stream), 0);
    CHECK_EQ(cuLaunchHostFunc(stream, wait_for_gate, &entered), 0);
    CHECK_EQ(cuEventRecord(end, stream), 0);
    CHECK_EQ(cuStreamWaitEvent(other, end, 0), 0);
    CHECK_EQ(cuEventRecord(plain, other), 0);
    while (!__atomic_load_n(&entered, __ATOMIC_ACQUIRE))
        usleep(200);
    CHECK_EQ(cuEventSynchronize(start), 0);
    CHECK_EQ(cuEventQuery(end), CUDA_ERROR_NOT_READY);
    CHECK_EQ(cuEventQuery(plain), CUDA_ERROR_NOT_READY);
    CHECK_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    CHECK_EQ(cuEventElapsedTime_v2(&time, start, end), CUDA_ERROR_NOT_READY);
    open_gate();
    CHECK_EQ(cuEventSynchronize(plain), 0);
    CHECK_EQ(cuEventQuery(end), 0);
    CHECK_EQ(cuEventElapsedTime_v2(&time, start, end), 0);
    CHECK(time >= 0);
    CHECK_EQ(cuEventElapsedTime_v2(&time, start, plain), CUDA_ERROR_INVALID_HANDLE);
    before = waits();
    CHECK_EQ(cuEventQuery(plain), 0);
    CHECK_EQ(cuEventSynchronize(end), 0);
    CHECK_EQ(cuStreamSynchronize(other), 0);
    CHECK_EQ(waits(), before); /* all of it is known */
    CHECK_EQ(cuEventDestroy_v2(plain), 0);
    CHECK_EQ(cuEventRecord(plain, stream), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuEventRecordWithFlags(end, stream, 2), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_a_stream_whose_mark_failed_is_asked_about_again(void)
{
    struct fdc_stream *stream;
    struct fdc_call call;
    uint64_t handle, before;
    CUstream value;

    worker_context();
    CHECK_EQ(cuStreamCreate(&value, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuLaunchHostFunc(value, wait_for_gate, NULL), 0);
    stream = fdc_object_find(FDC_KIND_STREAM, value);
    CHECK(stream != NULL);
    CHECK_EQ(fdc_call_open(&call, FDC_ID_cuStreamQuery, FDC_NEEDS_CONTEXT), 0);
    handle = stream->object.handle;
    stream->object.handle = handle ^ 1ull << 24; /* no stream of the worker's */
    fdc_watch_stream(&call, stream);
    stream->object.handle = handle;
    for (int i = 0; i < 60000 && __atomic_load_n(&stream->watched, __ATOMIC_RELAXED); i++) {
        fdc_intake_poll(call.session);
        usleep(500);
    }
    CHECK_EQ(__atomic_load_n(&stream->watched, __ATOMIC_RELAXED), 0);
    before = waits();
    CHECK_EQ(cuStreamQuery(value), CUDA_ERROR_INVALID_HANDLE); /* why, once */
    CHECK_EQ(waits(), before + 1);
    CHECK_EQ(cuStreamQuery(value), CUDA_ERROR_NOT_READY);
    open_gate();
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(cuStreamQuery(value), 0);
    worker_exit();
}

/* ---- flow control ---- */

static uint32_t issued;

static void *
issue_many(void *arg)
{
    CUstream stream;
    CUevent event;

    CHECK_EQ(cuCtxSetCurrent(((void **)arg)[0]), 0);
    stream = ((void **)arg)[1];
    CHECK_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), 0);
    for (int i = 0; i < 5000; i++) {
        CHECK_EQ(cuEventRecord(event, stream), 0);
        __atomic_add_fetch(&issued, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void
test_a_blocked_stream_holds_its_thread_back_and_nobody_else(void)
{
    uint32_t entered = 0, seen;
    CUcontext context = worker_context();
    CUstream blocked, other;
    pthread_t thread;
    void *arg[2];

    CHECK_EQ(cuStreamCreate(&blocked, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuLaunchHostFunc(blocked, wait_for_gate, &entered), 0);
    while (!__atomic_load_n(&entered, __ATOMIC_ACQUIRE))
        usleep(200);
    arg[0] = context;
    arg[1] = blocked;
    CHECK_EQ(pthread_create(&thread, NULL, issue_many, arg), 0);
    while (__atomic_load_n(&issued, __ATOMIC_RELAXED) < 512)
        usleep(200);
    usleep(100000);
    seen = __atomic_load_n(&issued, __ATOMIC_RELAXED);
    CHECK(seen >= 512 && seen <= 800);
    for (int i = 0; i < 2000; i++) {
        CUevent event;

        CHECK_EQ(cuEventCreate(&event, 0), 0);
        CHECK_EQ(cuEventRecord(event, other), 0);
        CHECK_EQ(cuEventDestroy_v2(event), 0);
    }
    CHECK_EQ(cuStreamSynchronize(other), 0);
    CHECK_EQ(__atomic_load_n(&issued, __ATOMIC_RELAXED), seen);
    open_gate();
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(issued, 5000);
    CHECK_EQ(cuStreamSynchronize(blocked), 0);
    worker_exit();
}

/* ---- host functions ---- */

static int order[64], ordered;
static CUresult inside = CUDA_SUCCESS;

static void
note_order(void *user)
{
    order[ordered++] = (int)(intptr_t)user;
}

static void
call_inside(void *user)
{
    (void)user;
    inside = cuCtxSynchronize();
}

static void
note_callback(CUstream stream, CUresult status, void *user)
{
    CHECK_EQ(status, 0);
    CHECK(stream == ((void **)user)[0]);
    order[ordered++] = 1000;
}

static void
test_host_functions_run_in_order_and_may_not_call(void)
{
    CUstream stream;
    void *user[1];

    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(cuLaunchHostFunc(stream, note_order, (void *)(intptr_t)i), 0);
    user[0] = stream;
    CHECK_EQ(cuStreamAddCallback(stream, note_callback, user, 0), 0);
    CHECK_EQ(cuStreamAddCallback(stream, note_callback, user, 1),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchHostFunc(stream, call_inside, NULL), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(ordered, 51);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(order[i], i);
    CHECK_EQ(order[50], 1000);
    CHECK_EQ(inside, CUDA_ERROR_NOT_PERMITTED);
    CHECK_EQ(cuLaunchHostFunc(stream, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

/* ---- late failures ---- */

static void
test_a_late_failure_is_told_once_by_the_next_call_with_an_answer(void)
{
    struct fdc_req_fdcCopyUpInline *req;
    char log[] = "/tmp/fdc-log-XXXXXX", level[64], text[4096] = "";
    struct fdc_call call;
    CUstream stream;
    ssize_t size;
    int fd;

    fd = mkstemp(log);
    snprintf(level, sizeof(level), "warn:%s", log);
    setenv("FD_LOG", level, 1);
    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(fdc_call_open(&call, FDC_ID_fdcCopyUpInline, FDC_NEEDS_CONTEXT), 0);
    req = fdc_call_begin(&call, sizeof(*req) + 16);
    CHECK(req != NULL);
    req->dst = 0x12345000; /* no device memory */
    req->stream = 1;
    req->size = 16;
    req->bytes = (struct fdc_span){.offset = sizeof(*req), .size = 16};
    CHECK_EQ(fdc_call_send(&call), 0);
    CHECK(cuCtxSynchronize() != 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    size = read(fd, text, sizeof(text) - 1);
    CHECK(size > 0);
    CHECK(strstr(text, "fdcCopyUpInline failed earlier: CUDA_ERROR_") != NULL);
    unlink(log);
    worker_exit();
}

static void
test_with_FD_SYNC_the_call_itself_fails(void)
{
    struct fdc_req_fdcCopyUpInline *req;
    struct fdc_call call;
    CUstream stream;
    CUevent event;

    setenv("FD_SYNC", "1", 1);
    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuEventCreate(&event, 0), 0);
    CHECK_EQ(cuEventRecord(event, stream), 0);
    CHECK_EQ(fdc_call_open(&call, FDC_ID_fdcCopyUpInline, FDC_NEEDS_CONTEXT), 0);
    req = fdc_call_begin(&call, sizeof(*req) + 16);
    CHECK(req != NULL);
    req->dst = 0x12345000;
    req->stream = 1;
    req->size = 16;
    req->bytes = (struct fdc_span){.offset = sizeof(*req), .size = 16};
    CHECK(fdc_call_send(&call) != 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

/* ---- threads ---- */

static void *
busy_thread(void *context)
{
    CUstream stream;
    CUevent event;

    CHECK_EQ(cuCtxSetCurrent(context), 0);
    CHECK_EQ(cuEventCreate(&event, 0), 0);
    for (int i = 0; i < 60; i++) {
        CHECK_EQ(cuStreamCreate(&stream, i % 2), 0);
        CHECK_EQ(cuEventRecord(event, stream), 0);
        CHECK_EQ(cuStreamWaitEvent(CU_STREAM_PER_THREAD, event, 0), 0);
        CHECK_EQ(cuEventRecord_ptsz(event, NULL), 0);
        CHECK_EQ(cuEventSynchronize(event), 0);
        CHECK_EQ(cuStreamSynchronize(stream), 0);
        CHECK_EQ(cuStreamSynchronize_ptsz(NULL), 0);
        CHECK_EQ(cuStreamDestroy_v2(stream), 0);
        if (i % 16 == 0)
            CHECK_EQ(cuCtxSynchronize(), 0);
    }
    CHECK_EQ(cuEventDestroy_v2(event), 0);
    return NULL;
}

static void
test_many_threads_at_once(void)
{
    CUcontext context = worker_context();
    pthread_t threads[32];

    for (int i = 0; i < 32; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, busy_thread, context), 0);
    for (int i = 0; i < 32; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_streams_are_made_asked_and_destroyed);
    RUN(test_a_stale_handle_is_not_a_new_object_of_the_same_place);
    RUN(test_events_follow_their_stream);
    RUN(test_a_stream_whose_mark_failed_is_asked_about_again);
    RUN(test_a_blocked_stream_holds_its_thread_back_and_nobody_else);
    RUN(test_host_functions_run_in_order_and_may_not_call);
    RUN(test_a_late_failure_is_told_once_by_the_next_call_with_an_answer);
    RUN(test_with_FD_SYNC_the_call_itself_fails);
    RUN(test_many_threads_at_once);
    return failed;
}
