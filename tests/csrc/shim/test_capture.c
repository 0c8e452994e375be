/* The rules of stream capture, which the shim applies for each thread of the program. */
#include <pthread.h>

#include "shim/shim.h"
#include "worker.h"

static CUstream
new_stream(unsigned flags)
{
    CUstream stream;

    CHECK_EQ(cuStreamCreate(&stream, flags), 0);
    return stream;
}

static CUevent
new_event(void)
{
    CUevent event;

    CHECK_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), 0);
    return event;
}

static CUstreamCaptureStatus
status_of(CUstream stream)
{
    CUstreamCaptureStatus status;

    CHECK_EQ(cuStreamIsCapturing(stream, &status), 0);
    return status;
}

static void
test_status_is_answered_without_asking(void)
{
    CUstreamCaptureStatus status;
    CUstream stream, other;
    cuuint64_t id = 0, again = 0;
    uint64_t before;
    CUgraph graph;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    other = new_stream(CU_STREAM_NON_BLOCKING);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_EQ(cuStreamBeginCapture_v2(NULL, 0), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, 3), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL),
             CUDA_ERROR_ILLEGAL_STATE);
    before = fdc_session_at(0)->waits;
    CHECK_EQ(status_of(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_EQ(status_of(other), CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(status_of(NULL), CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(cuStreamGetCaptureInfo_v3(stream, &status, &id, NULL, NULL, NULL, NULL),
             0);
    CHECK_EQ(cuStreamGetCaptureInfo(stream, &status, &again), 0);
    CHECK_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(id != 0 && id == again);
    CHECK_EQ(fdc_session_at(0)->waits, before);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), 0);
    CHECK(graph != NULL);
    CHECK_EQ(status_of(stream), CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(cuGraphDestroy(graph), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_other_streams_join_by_events(void)
{
    CUstream stream, other;
    CUevent fork_event, join_event;
    CUgraph graph;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    other = new_stream(CU_STREAM_NON_BLOCKING);
    fork_event = new_event();
    join_event = new_event();
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuEventRecord(fork_event, stream), 0);
    CHECK_EQ(cuStreamWaitEvent(other, fork_event, 0), 0);
    CHECK_EQ(status_of(other), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_EQ(cuStreamEndCapture(other, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(graph == NULL);
    CHECK_EQ(status_of(other), CU_STREAM_CAPTURE_STATUS_NONE);

    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuEventRecord(fork_event, stream), 0);
    CHECK_EQ(cuStreamWaitEvent(other, fork_event, 0), 0);
    CHECK_EQ(cuEventRecord(join_event, other), 0);
    CHECK_EQ(cuStreamWaitEvent(stream, join_event, 0), 0);
    CHECK_EQ(cuEventQuery(join_event), CUDA_ERROR_CAPTURED_EVENT);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuEventRecord(fork_event, stream), 0);
    CHECK_EQ(cuStreamWaitEvent(other, fork_event, 0), 0);
    CHECK_EQ(cuEventRecord(join_event, other), 0);
    CHECK_EQ(cuStreamWaitEvent(stream, join_event, 0), 0);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), 0);
    CHECK_EQ(cuStreamWaitEvent(other, join_event, 0), CUDA_ERROR_CAPTURED_EVENT);
    CHECK_EQ(cuEventRecord(join_event, other), 0); /* free again */
    CHECK_EQ(cuEventSynchronize(join_event), 0);
    worker_exit();
}

static void
nothing(void *user)
{
    (void)user;
}

static void
test_an_unjoined_stream_fails_at_the_end(void)
{
    CUstream stream, other;
    CUevent event;
    CUgraph graph;
    CUstreamCaptureStatus status;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    other = new_stream(CU_STREAM_NON_BLOCKING);
    event = new_event();
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuEventRecord(event, stream), 0);
    CHECK_EQ(cuStreamWaitEvent(other, event, 0), 0);
    CHECK_EQ(cuLaunchHostFunc(other, nothing, NULL), 0);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    CHECK_EQ(cuStreamIsCapturing(stream, &status), 0);
    CHECK_EQ(status, CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    worker_exit();
}

static void
test_waiting_breaks_the_capture(void)
{
    CUstream stream, other;
    CUevent outside;
    CUgraph graph;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    other = new_stream(CU_STREAM_NON_BLOCKING);
    outside = new_event();
    CHECK_EQ(cuEventRecord(outside, other), 0);

    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(status_of(stream), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CHECK_EQ(cuEventRecord(outside, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuStreamSynchronize(other), 0); /* another stream is free */
    CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    /* Asking for an event is unsafe, whichever event it is. */
    CHECK_EQ(cuEventQuery(outside), 0);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuEventQuery(outside), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuStreamWaitEvent(stream, outside, 0),
             CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_two_captures_do_not_merge(void)
{
    CUstream one, two;
    CUevent event;
    CUgraph graph;

    worker_context();
    one = new_stream(CU_STREAM_NON_BLOCKING);
    two = new_stream(CU_STREAM_NON_BLOCKING);
    event = new_event();
    CHECK_EQ(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuStreamBeginCapture_v2(two, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuEventRecord(event, one), 0);
    CHECK_EQ(cuStreamWaitEvent(two, event, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    CHECK_EQ(cuStreamEndCapture(one, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuStreamEndCapture(two, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_the_legacy_stream_may_not_be_used_beside_a_blocking_capture(void)
{
    CUstreamCaptureStatus status;
    CUstream blocking, free_stream;
    CUevent event;
    CUgraph graph;

    worker_context();
    blocking = new_stream(CU_STREAM_DEFAULT);
    free_stream = new_stream(CU_STREAM_NON_BLOCKING);
    event = new_event();
    CHECK_EQ(cuStreamBeginCapture_v2(free_stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuEventRecord(event, NULL), 0);
    CHECK_EQ(cuStreamEndCapture(free_stream, &graph), 0);

    CHECK_EQ(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuStreamIsCapturing(NULL, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CHECK_EQ(status_of(blocking), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_EQ(cuEventRecord(event, NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CHECK_EQ(status_of(blocking), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CHECK_EQ(cuStreamEndCapture(blocking, &graph),
             CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuEventRecord(event, NULL), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

/* ---- modes: what one thread may do while another captures ---- */

struct other {
    CUcontext context;
    CUstreamCaptureMode mode;
    CUstream stream;
    CUresult guard, end;
};

static void *
other_thread(void *arg)
{
    struct other *other = arg;
    CUgraph graph;

    cuCtxSetCurrent(other->context);
    cuThreadExchangeStreamCaptureMode(&other->mode);
    other->guard = fdc_capture_guard();
    other->end = cuStreamEndCapture(other->stream, &graph);
    return NULL;
}

static struct other
in_another_thread(CUcontext context, CUstreamCaptureMode mode, CUstream stream)
{
    struct other other = {.context = context, .mode = mode, .stream = stream};
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, other_thread, &other), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    return other;
}

static void
test_modes_say_who_may_call_what_is_unsafe(void)
{
    enum {
        GLOBAL = CU_STREAM_CAPTURE_MODE_GLOBAL,
        LOCAL = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        RELAXED = CU_STREAM_CAPTURE_MODE_RELAXED
    };
    /* capture's mode, mode of this and of the other thread, is this / the other refused */
    static const struct {
        int capture, own, other;
        bool own_refused, other_refused;
    } cases[] = {
        {GLOBAL, GLOBAL, GLOBAL, true, true},   {GLOBAL, GLOBAL, LOCAL, true, false},
        {GLOBAL, GLOBAL, RELAXED, true, false}, {GLOBAL, LOCAL, GLOBAL, true, true},
        {GLOBAL, RELAXED, GLOBAL, false, true}, {LOCAL, GLOBAL, GLOBAL, true, false},
        {LOCAL, RELAXED, GLOBAL, false, false}, {RELAXED, GLOBAL, GLOBAL, false, false},
    };
    CUcontext context = worker_context();
    CUstreamCaptureMode mode;
    struct other other;
    CUstream stream;
    CUgraph graph;

    stream = new_stream(CU_STREAM_NON_BLOCKING);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool refused;

        CHECK_EQ(cuStreamBeginCapture_v2(stream, (CUstreamCaptureMode)cases[i].capture),
                 0);
        other = in_another_thread(context, (CUstreamCaptureMode)cases[i].other, stream);
        CHECK_EQ(other.guard, cases[i].other_refused
                                  ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                                  : CUDA_SUCCESS);
        if (cases[i].capture == RELAXED) { /* any thread may end it */
            CHECK_EQ(other.end, 0);
            continue;
        }
        CHECK_EQ(other.end, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        mode = (CUstreamCaptureMode)cases[i].own;
        CHECK_EQ(cuThreadExchangeStreamCaptureMode(&mode), 0);
        CHECK_EQ(mode, GLOBAL);
        refused = fdc_capture_guard() != CUDA_SUCCESS;
        CHECK_EQ(refused, cases[i].own_refused);
        CHECK_EQ(cuThreadExchangeStreamCaptureMode(&mode), 0);
        CHECK_EQ(cuStreamEndCapture(stream, &graph),
                 cases[i].own_refused || cases[i].other_refused
                     ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                     : CUDA_SUCCESS);
    }
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_allocating_while_capturing_is_unsafe(void)
{
    CUdeviceptr address;
    CUstream stream;
    CUgraph graph;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuMemAlloc_v2(&address, 4096), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuMemAlloc_v2(&address, 4096), 0);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), 0);
    CHECK_EQ(cuMemFree_v2(address), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_a_destroyed_stream_leaves_no_capture_behind(void)
{
    CUdeviceptr address;
    CUstream stream;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuStreamDestroy_v2(stream), 0);
    CHECK_EQ(cuMemAlloc_v2(&address, 4096), 0);
    CHECK_EQ(fdc_session_at(0)->capturing, 0);
    worker_exit();
}

/* ---- replays ---- */

static int runs;

static void
count_run(void *user)
{
    runs += (int)(intptr_t)user;
}

static void
test_a_captured_host_function_runs_at_each_replay(void)
{
    CUgraphExec exec;
    CUstream stream;
    CUgraph graph;
    CUresult result;

    worker_context();
    stream = new_stream(CU_STREAM_NON_BLOCKING);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    CHECK_EQ(cuLaunchHostFunc(stream, count_run, (void *)3), 0);
    CHECK_EQ(cuStreamAddCallback(stream, NULL, NULL, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), 0);
    result = cuGraphInstantiateWithFlags(&exec, graph, 0);
    CHECK_EQ(result, 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(cuGraphLaunch(exec, stream), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(runs, 15);
    CHECK_EQ(cuGraphExecDestroy(exec), 0);
    CHECK_EQ(cuGraphDestroy(graph), 0);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_status_is_answered_without_asking);
    RUN(test_other_streams_join_by_events);
    RUN(test_an_unjoined_stream_fails_at_the_end);
    RUN(test_waiting_breaks_the_capture);
    RUN(test_two_captures_do_not_merge);
    RUN(test_the_legacy_stream_may_not_be_used_beside_a_blocking_capture);
    RUN(test_modes_say_who_may_call_what_is_unsafe);
    RUN(test_allocating_while_capturing_is_unsafe);
    RUN(test_a_destroyed_stream_leaves_no_capture_behind);
    RUN(test_a_captured_host_function_runs_at_each_replay);
    return failed;
}
