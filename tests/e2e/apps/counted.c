/*
 * A number of one kind of call, for whoever counts what travels: counted WHAT N. What comes
 * before and after is the same for every N, so the difference of two runs is the calls'.
 * "rest" waits for a line on standard input, with the session open.
 */
#include "app.h"

enum { PARAMS_MAX = 20, LARGE = 1 << 20 };

static CUfunction
empty(CUmodule *module, int params)
{
    CUfunction function = NULL;
    char text[4096];
    int used;

    used = snprintf(text, sizeof(text), ".version 7.0\n.target sm_52\n.address_size 64\n"
                                        ".visible .entry empty(");
    for (int i = 0; i < params; i++)
        used += snprintf(text + used, sizeof(text) - (size_t)used, "%s.param .u64 p%d",
                         i ? ", " : "", i);
    snprintf(text + used, sizeof(text) - (size_t)used, ")\n{\n ret;\n}\n");
    CHECK(cuModuleLoadData(module, text));
    CHECK(cuModuleGetFunction(&function, *module, "empty"));
    return function;
}

struct world {
    CUstream stream;
    CUevent event;
    CUdeviceptr p;
    CUfunction kernel;
    CUgraphExec graph;
    char *host, *pinned;
    void *params[PARAMS_MAX];
};

static void
record(struct world *w)
{
    CHECK(cuEventRecord(w->event, w->stream));
    (void)cuEventQuery(w->event);
}

static void
once(struct world *w, const char *what)
{
    CUdeviceptr made;
    CUmodule module;
    CUstream stream;
    CUevent event;
    int value;

    if (strncmp(what, "launch", 6) == 0) {
        CHECK(cuLaunchKernel(w->kernel, 1, 1, 1, 1, 1, 1, 0, w->stream, w->params, NULL));
    } else if (strcmp(what, "sync") == 0) {
        CHECK(cuCtxSynchronize());
    } else if (strcmp(what, "wait") == 0) {
        CHECK(cuLaunchKernel(w->kernel, 1, 1, 1, 1, 1, 1, 0, w->stream, w->params, NULL));
        CHECK(cuStreamSynchronize(w->stream));
    } else if (strcmp(what, "event") == 0) {
        record(w);
        CHECK(cuEventSynchronize(w->event));
    } else if (strcmp(what, "order") == 0) {
        CHECK(cuEventRecord(w->event, w->stream));
        CHECK(cuStreamWaitEvent(w->stream, w->event, 0));
    } else if (strcmp(what, "make") == 0) {
        CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
        CHECK(cuEventDestroy_v2(event));
        CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        CHECK(cuStreamDestroy_v2(stream));
    } else if (strcmp(what, "alloc") == 0) {
        CHECK(cuMemAlloc(&made, 4096));
        CHECK(cuMemFree(made));
    } else if (strcmp(what, "write") == 0) {
        CHECK(cuMemcpyHtoD(w->p, w->host, 4));
    } else if (strcmp(what, "read") == 0) {
        CHECK(cuMemcpyDtoH(w->host, w->p, 4));
    } else if (strcmp(what, "up") == 0) {
        CHECK(cuMemcpyHtoD(w->p, w->host, LARGE));
    } else if (strcmp(what, "down") == 0) {
        CHECK(cuMemcpyDtoH(w->host, w->p, LARGE));
    } else if (strcmp(what, "pinup") == 0) {
        CHECK(cuMemcpyHtoDAsync(w->p, w->pinned, LARGE, w->stream));
    } else if (strcmp(what, "set") == 0) {
        CHECK(cuMemsetD8Async(w->p, 1, LARGE, w->stream));
    } else if (strcmp(what, "ask") == 0) {
        CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
        CHECK(cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, w->p));
    } else if (strcmp(what, "load") == 0) {
        CHECK(cuModuleLoadData(&module, app_ptx));
        CHECK(cuModuleUnload(module));
    } else if (strcmp(what, "graph") == 0) {
        CHECK(cuGraphLaunch(w->graph, w->stream));
    } else if (strcmp(what, "rest") == 0) {
        CHECK(cuCtxSynchronize());
        puts("rests");
        getchar();
    } else {
        app_failures++;
        printf("nobody knows %s\n", what);
    }
}

int
main(int argc, char **argv)
{
    static uint64_t values[PARAMS_MAX];
    struct world w;
    CUmodule module = NULL;
    CUgraph graph;
    const char *what = argc > 1 ? argv[1] : "sync";
    int count = argc > 2 ? atoi(argv[2]) : 1;

    app_begin();
    for (int i = 0; i < PARAMS_MAX; i++)
        w.params[i] = &values[i];
    CHECK(cuStreamCreate(&w.stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&w.event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc(&w.p, LARGE));
    CHECK(cuMemHostAlloc((void **)&w.pinned, LARGE, 0));
    w.host = calloc(1, LARGE);
    w.kernel = empty(&module, strncmp(what, "launch", 6) == 0 ? atoi(what + 6) : 6);
    CHECK(cuStreamBeginCapture(w.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (int i = 0; i < 10; i++)
        CHECK(cuLaunchKernel(w.kernel, 1, 1, 1, 1, 1, 1, 0, w.stream, w.params, NULL));
    CHECK(cuStreamEndCapture(w.stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&w.graph, graph, 0));
    CHECK(cuCtxSynchronize());
    for (int i = 0; i < count; i++)
        once(&w, what);
    /* Behind everything: what is on its way when a program ends may not be sent any more. */
    CHECK(cuEventRecord(w.event, w.stream));
    CHECK(cuEventSynchronize(w.event));
    free(w.host);
    return app_end();
}
