/*
 * What may be called while a stream captures: each call in each mode, by the capturing
 * thread and by another, on a non-blocking and on a blocking stream. A line says what the
 * call gave, whether the capture goes on, and what its end gave.
 */
#include "app.h"

enum { N = 64 };

static CUcontext context;
static CUmodule module;
static CUfunction fill;
static CUdeviceptr p;
static CUstream origin, other;
static CUevent captured, outside, fresh;
static CUgraphExec small;
static void *pinned;
static unsigned words[N];

/* ---- the calls ---- */

static CUresult
allocate(void)
{
    CUdeviceptr q;
    CUresult result = cuMemAlloc(&q, 64);

    return result == CUDA_SUCCESS ? cuMemFree(q) : result;
}

static CUresult
allocate_host(void)
{
    void *q;
    CUresult result = cuMemHostAlloc(&q, 64, 0);

    return result == CUDA_SUCCESS ? cuMemFreeHost(q) : result;
}

static CUresult
load(void)
{
    CUmodule loaded;
    CUresult result = cuModuleLoadData(&loaded, app_ptx);

    return result == CUDA_SUCCESS ? cuModuleUnload(loaded) : result;
}

static CUresult
streams(void)
{
    CUstream made;
    CUresult result = cuStreamCreate(&made, CU_STREAM_NON_BLOCKING);

    return result == CUDA_SUCCESS ? cuStreamDestroy_v2(made) : result;
}

static CUresult
events(void)
{
    CUevent made;
    CUresult result = cuEventCreate(&made, 0);

    return result == CUDA_SUCCESS ? cuEventDestroy_v2(made) : result;
}

static CUresult
is_capturing(void)
{
    CUstreamCaptureStatus status;

    return cuStreamIsCapturing(origin, &status);
}

static CUresult
is_legacy_capturing(void)
{
    CUstreamCaptureStatus status;

    return cuStreamIsCapturing(NULL, &status);
}

static CUresult
begin_again(void)
{
    return cuStreamBeginCapture(origin, CU_STREAM_CAPTURE_MODE_RELAXED);
}

static CUresult
begin_legacy(void)
{
    return cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_RELAXED);
}

static CUresult
end_other(void)
{
    CUgraph graph;

    return cuStreamEndCapture(other, &graph);
}

static CUresult
memory_info(void)
{
    size_t free_bytes, total;

    return cuMemGetInfo(&free_bytes, &total);
}

static CUresult
elapsed(void)
{
    float ms;

    return cuEventElapsedTime(&ms, captured, captured);
}

static CUresult
callback(void)
{
    return cuStreamAddCallback(origin, NULL, NULL, 0);
}

static CUresult
function_attribute(void)
{
    return cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1024);
}

static CUresult
context_made(void)
{
    CUcontext made;
    CUdevice device;
    CUresult result;

    CHECK(cuCtxGetDevice(&device));
    result = cuCtxCreate_v2(&made, 0, device);
    return result == CUDA_SUCCESS ? cuCtxDestroy_v2(made) : result;
}

static CUresult
pooled(void)
{
    CUdeviceptr q;
    CUresult result = cuMemAllocAsync(&q, 64, origin);

    return result == CUDA_SUCCESS ? cuMemFreeAsync(q, origin) : result;
}

static CUresult
joined(void)
{
    CUresult result = cuStreamWaitEvent(other, captured, 0);

    if (result == CUDA_SUCCESS)
        result = app_fill(fill, p, 2, N, other);
    if (result == CUDA_SUCCESS)
        result = cuEventRecord(fresh, other);
    return result == CUDA_SUCCESS ? cuStreamWaitEvent(origin, fresh, 0) : result;
}

static CUresult
not_joined(void)
{
    CUresult result = cuStreamWaitEvent(other, captured, 0);

    return result == CUDA_SUCCESS ? app_fill(fill, p, 2, N, other) : result;
}

static CUresult
merged(void)
{
    CUresult result = cuStreamBeginCapture(other, CU_STREAM_CAPTURE_MODE_RELAXED), ended;
    CUgraph graph = NULL;

    if (result != CUDA_SUCCESS)
        return result;
    result = cuStreamWaitEvent(other, captured, 0);
    ended = cuStreamEndCapture(other, &graph);
    app_expect(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the other's end", __LINE__);
    return result;
}

static CUresult
invalid_launch(void)
{
    return app_fill(fill, p, 1, 0, origin);     /* no blocks */
}

static CUresult
exchanged(void)
{
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUresult result;

    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    result = allocate();
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    return result;
}

static void
nothing(void *user)
{
    (void)user;
}

#define CALL(name, expression) \
    static CUresult \
    name(void) \
    { \
        return expression; \
    }
CALL(sync_origin, cuStreamSynchronize(origin))
CALL(sync_other, cuStreamSynchronize(other))
CALL(sync_legacy, cuStreamSynchronize(NULL))
CALL(sync_context, cuCtxSynchronize())
CALL(query_origin, cuStreamQuery(origin))
CALL(query_other, cuStreamQuery(other))
CALL(query_legacy, cuStreamQuery(NULL))
CALL(query_captured, cuEventQuery(captured))
CALL(query_outside, cuEventQuery(outside))
CALL(sync_captured, cuEventSynchronize(captured))
CALL(sync_outside, cuEventSynchronize(outside))
CALL(record_legacy, cuEventRecord(outside, NULL))
CALL(record_other, cuEventRecord(outside, other))
CALL(launch_origin, app_fill(fill, p, 3, N, origin))
CALL(launch_other, app_fill(fill, p, 3, N, other))
CALL(launch_legacy, app_fill(fill, p, 3, N, NULL))
CALL(copy_up, cuMemcpyHtoD(p, words, sizeof(words)))
CALL(copy_down, cuMemcpyDtoH(words, p, sizeof(words)))
CALL(copy_across, cuMemcpyDtoD_v2(p + N, p, N))
CALL(set, cuMemsetD32(p, 1, N))
CALL(set_origin, cuMemsetD32Async(p, 1, N, origin))
CALL(copy_up_async, cuMemcpyHtoDAsync(p, words, sizeof(words), origin))
CALL(copy_down_async, cuMemcpyDtoHAsync(words, p, sizeof(words), origin))
CALL(copy_pinned, cuMemcpyHtoDAsync(p, pinned, sizeof(words), origin))
CALL(copy_other, cuMemcpyHtoDAsync(p, pinned, sizeof(words), other))
CALL(wait_outside, cuStreamWaitEvent(origin, outside, 0))
CALL(wait_fresh, cuStreamWaitEvent(origin, fresh, 0))
CALL(wait_own, cuStreamWaitEvent(origin, captured, 0))
CALL(wait_legacy, cuStreamWaitEvent(NULL, captured, 0))
CALL(function_origin, cuLaunchHostFunc(origin, nothing, NULL))
CALL(graph_origin, cuGraphLaunch(small, origin))
CALL(graph_other, cuGraphLaunch(small, other))
CALL(no_handle, cuStreamIsCapturing((CUstream)(void *)captured, NULL))

#define ROW(call) { #call, call }
static const struct {
    const char *name;
    CUresult (*call)(void);
} calls[] = {
    ROW(allocate), ROW(allocate_host), ROW(load), ROW(streams), ROW(events),
    ROW(is_capturing), ROW(is_legacy_capturing), ROW(begin_again), ROW(begin_legacy),
    ROW(end_other), ROW(memory_info), ROW(elapsed), ROW(callback),
    ROW(function_attribute), ROW(context_made), ROW(pooled), ROW(joined),
    ROW(not_joined), ROW(merged), ROW(invalid_launch), ROW(exchanged), ROW(sync_origin),
    ROW(sync_other), ROW(sync_legacy), ROW(sync_context), ROW(query_origin),
    ROW(query_other), ROW(query_legacy), ROW(query_captured), ROW(query_outside),
    ROW(sync_captured), ROW(sync_outside), ROW(record_legacy), ROW(record_other),
    ROW(launch_origin), ROW(launch_other), ROW(launch_legacy), ROW(copy_up),
    ROW(copy_down), ROW(copy_across), ROW(set), ROW(set_origin), ROW(copy_up_async),
    ROW(copy_down_async), ROW(copy_pinned), ROW(copy_other), ROW(wait_outside),
    ROW(wait_fresh), ROW(wait_own), ROW(wait_legacy), ROW(function_origin),
    ROW(graph_origin), ROW(graph_other), ROW(no_handle),
};

/* ---- captures around them ---- */

static const char *const modes[] = { "global", "thread-local", "relaxed" };

struct probe {
    size_t row;
    CUstreamCaptureMode mode;           /* of the thread */
    CUresult result, end;
};

static void *
in_thread(void *user)
{
    struct probe *probe = user;
    CUstreamCaptureMode mode = probe->mode;
    CUgraph graph = NULL;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    REQUIRE(mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
    if (probe->row < sizeof(calls) / sizeof(calls[0]))
        probe->result = calls[probe->row].call();
    else
        probe->result = cuStreamEndCapture(origin, &graph);
    return NULL;
}

static CUresult
from_another_thread(size_t row, CUstreamCaptureMode mode)
{
    struct probe probe = { .row = row, .mode = mode };
    pthread_t thread;

    pthread_create(&thread, NULL, in_thread, &probe);
    pthread_join(thread, NULL);
    return probe.result;
}

static const char *
status_name(void)
{
    CUstreamCaptureStatus status = (CUstreamCaptureStatus)9;

    CHECK(cuStreamIsCapturing(origin, &status));
    return status == CU_STREAM_CAPTURE_STATUS_ACTIVE        ? "goes on"
           : status == CU_STREAM_CAPTURE_STATUS_INVALIDATED ? "is broken"
           : status == CU_STREAM_CAPTURE_STATUS_NONE        ? "is over"
                                                            : "has no status";
}

/* who: -1 this thread, else another thread of that mode. */
static void
probe(size_t row, int mode, int who)
{
    CUgraph graph = NULL;
    CUresult result, end;
    const char *status;
    size_t nodes = 0;

    CHECK(cuEventCreate(&fresh, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&captured, 0));
    CHECK(cuStreamBeginCapture(origin, (CUstreamCaptureMode)mode));
    CHECK(app_fill(fill, p, 1, N, origin));
    CHECK(cuEventRecord(captured, origin));
    result = who < 0 ? calls[row].call() : from_another_thread(row, (CUstreamCaptureMode)who);
    status = status_name();
    end = cuStreamEndCapture(origin, &graph);
    if (end == CUDA_SUCCESS && graph != NULL)
        CHECK(cuGraphGetNodes(graph, NULL, &nodes));
    printf("%s, %s%s: %s; it %s; %s, %zu nodes\n", calls[row].name,
           who < 0 ? "itself" : "a thread ", who < 0 ? "" : modes[who], app_error(result),
           status, app_error(end), nodes);
    REQUIRE(strcmp(status_name(), "is over") == 0);
    if (graph != NULL)
        CHECK(cuGraphDestroy(graph));
    /* Whatever broke it, all is well afterwards. */
    CHECK(cuCtxSynchronize());
    CHECK(app_fill(fill, p, 9, N, origin));
    CHECK(cuStreamSynchronize(origin));
    CHECK(cuStreamSynchronize(other));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(p, 9, N) == 0);
    CHECK(cuEventDestroy_v2(captured));
    CHECK(cuEventDestroy_v2(fresh));
}

/* The end of a capture: who may give it, and when. */
static void
ends(void)
{
    enum { END = sizeof(calls) / sizeof(calls[0]) };
    CUgraph graph = NULL;
    CUresult result;

    puts("ends");
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(origin, &graph));
    for (int mode = 0; mode < 3; mode++) {
        CHECK(cuStreamBeginCapture(origin, (CUstreamCaptureMode)mode));
        CHECK(app_fill(fill, p, 1, N, origin));
        printf("%s, by another thread: %s\n", modes[mode],
               app_error(from_another_thread(END, CU_STREAM_CAPTURE_MODE_GLOBAL)));
        graph = NULL;
        result = cuStreamEndCapture(origin, &graph);
        printf("%s, and by its own: %s\n", modes[mode], app_error(result));
        if (graph != NULL)
            CHECK(cuGraphDestroy(graph));
    }
    CHECK(cuStreamBeginCapture(origin, CU_STREAM_CAPTURE_MODE_GLOBAL));
    graph = NULL;
    result = cuStreamEndCapture(origin, &graph);
    printf("with nothing in it: %s, a graph: %s\n", app_error(result),
           graph != NULL ? "yes" : "no");
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture(origin, (CUstreamCaptureMode)7));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuThreadExchangeStreamCaptureMode(NULL));
}

static void
of_kind(unsigned flags)
{
    CHECK(cuStreamCreate(&origin, flags));
    CHECK(cuStreamCreate(&other, flags));
    for (size_t row = 0; row < sizeof(calls) / sizeof(calls[0]); row++)
        for (int mode = 0; mode < 3; mode++) {
            printf("%s: ", modes[mode]);
            probe(row, mode, -1);
            for (int who = 0; who < 3; who += 2) {
                printf("%s: ", modes[mode]);
                probe(row, mode, who);
            }
        }
    ends();
    CHECK(cuStreamDestroy_v2(origin));
    CHECK(cuStreamDestroy_v2(other));
}

int
main(void)
{
    CUgraph graph;

    context = app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(cuMemHostAlloc(&pinned, sizeof(words), 0));
    CHECK(cuEventCreate(&outside, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamCreate(&origin, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventRecord(outside, origin));
    CHECK(cuStreamBeginCapture(origin, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(app_fill(fill, p, 4, N, origin));
    CHECK(cuStreamEndCapture(origin, &graph));
    CHECK(cuGraphInstantiateWithFlags(&small, graph, 0));
    CHECK(cuStreamSynchronize(origin));
    CHECK(cuStreamDestroy_v2(origin));
    puts("non-blocking streams");
    of_kind(CU_STREAM_NON_BLOCKING);
    puts("blocking streams");
    of_kind(CU_STREAM_DEFAULT);
    return app_end();
}
